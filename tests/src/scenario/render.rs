//! Names for what a reader cannot know: tokens are t1, t2 …, server-chosen IDs #1, #2 …, and records are
//! shown one per line, long runs of a kind as one.

use std::collections::HashMap;

use tenure_core::{LeaseId, Position, Record, RecordIter, Token};

/// Records of one kind in a row that are still shown one by one.
const SHOWN_IN_A_ROW: usize = 4;

/// Who is called what.
#[derive(Default)]
pub(super) struct Names {
    tokens: HashMap<Token, String>,
    chosen_by_shard: HashMap<LeaseId, String>,
}

impl Names {
    /// The ID behind a name in a scenario: `#n`, or hex with an optional `-` for the top bit.
    pub(super) fn id(&self, name: &str) -> LeaseId {
        if name.starts_with('#') {
            let known = self.chosen_by_shard.iter().find(|(_, text)| *text == name);
            return *known.unwrap_or_else(|| panic!("no lease is called {name} yet")).0;
        }
        let (digits, top) = name.strip_prefix('-').map_or((name, 0), |digits| (digits, 1 << 63));
        let id = u64::from_str_radix(digits, 16).unwrap_or_else(|_| panic!("`{name}` is not a lease"));
        LeaseId(id | top)
    }

    /// Gives the next name to an ID that the shard chose, unless it has one.
    pub(super) fn name_chosen_by_shard(&mut self, id: LeaseId) {
        let name = format!("#{}", self.chosen_by_shard.len() + 1);
        self.chosen_by_shard.entry(id).or_insert(name);
    }

    /// The name of an ID.
    pub(super) fn lease(&self, id: LeaseId) -> String {
        match self.chosen_by_shard.get(&id) {
            Some(name) => name.clone(),
            None if id.0 >> 63 != 0 => format!("-{:x}", id.0 & !(1 << 63)),
            None => format!("{:x}", id.0),
        }
    }

    /// The name of a token.
    pub(super) fn token(&mut self, token: Token) -> String {
        let next = self.tokens.len() + 1;
        self.tokens.entry(token).or_insert_with(|| format!("t{next}")).clone()
    }

    /// The records of a batch, one line each.
    pub(super) fn records(&mut self, first: Position, bytes: &[u8]) -> Vec<String> {
        let mut runs: Vec<(String, Vec<String>)> = Vec::new();
        for record in RecordIter::new(first, bytes) {
            let (position, record) = record.expect("what a shard writes can be read");
            if let Record::Grant { chosen: false, id, .. } = record {
                self.name_chosen_by_shard(id);
            }
            if let Record::Grant { .. } = record {
                self.token(Token(position.0));
            }
            let text = self.record(&record);
            let kind = text.split(' ').next().unwrap_or("").to_owned();
            match runs.last_mut() {
                Some((last, lines)) if *last == kind => lines.push(text),
                _ => runs.push((kind, vec![text])),
            }
        }
        let mut lines = Vec::new();
        for (kind, run) in runs {
            if run.len() > SHOWN_IN_A_ROW {
                lines.push(format!("+ {} × {kind}", run.len()));
            } else {
                lines.extend(run.into_iter().map(|text| format!("+ {text}")));
            }
        }
        lines
    }

    fn record(&mut self, record: &Record<'_>) -> String {
        if let Record::EndedItems { id, token, last, items } = record {
            let count = items.clone().count();
            let (lease, token) = (self.lease(*id), self.token(*token));
            return format!("ended-items {lease}@{token}: {count}{}", if *last { ", the last" } else { "" });
        }
        let text = record.to_string();
        let words: Vec<String> = text.split(' ').map(|word| self.word(word)).collect();
        words.join(" ")
    }

    /// A word of a record's text with names in place of IDs and tokens.
    fn word(&mut self, word: &str) -> String {
        let (id, token) = word.split_once('@').map_or((word, None), |(id, token)| (id, Some(token)));
        let Some(id) = (id.len() == 16).then(|| u64::from_str_radix(id, 16).ok()).flatten() else {
            return word.to_owned();
        };
        let lease = self.lease(LeaseId(id));
        match token.and_then(|token| token.parse().ok()) {
            Some(token) => format!("{lease}@{}", self.token(Token(token))),
            None => lease,
        }
    }
}
