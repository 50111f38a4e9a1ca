//! Remembers identified grants, so that a repeated request finds the lease it already made.
//!
//! A client that lost its connection does not know whether its grant happened; it sends the same request again and
//! must not leave an orphan behind. The last 65,536 identified grants of a shard are kept, by token: tokens only
//! grow, so that "the last" means the same in a live shard, after a replay, and from a fuzzy image (S4).
//!
//! Invariants: **S8** bounded; one entry per key, its newest. Does not know whether the lease still lives.

use crate::id::{GrantKey, LeaseId};
use crate::seeded_hash::SeededHash;
use crate::time::Token;
use hashbrown::HashTable;
use std::collections::VecDeque;

#[derive(Clone, Copy)]
struct Remembered {
    key: GrantKey,
    id: LeaseId,
    token: Token,
}

/// Key → lease, for the last grants.
pub(crate) struct GrantMemory {
    by_key: HashTable<Remembered>,
    /// In order of tokens once settled; entries whose key has a newer grant since are passed over.
    by_token: VecDeque<(Token, GrantKey)>,
    settled: bool,
    count_max: usize,
}

fn hash_of(key: &GrantKey, hash: &SeededHash) -> u64 {
    hash.pair(key.client, key.request)
}

impl GrantMemory {
    pub(crate) fn new(count_max: usize) -> GrantMemory {
        GrantMemory { by_key: HashTable::new(), by_token: VecDeque::new(), settled: true, count_max }
    }

    /// The lease that this request made.
    pub(crate) fn find(&self, key: &GrantKey, hash: &SeededHash) -> Option<(LeaseId, Token)> {
        let found = self.by_key.find(hash_of(key, hash), |entry| entry.key == *key)?;
        Some((found.id, found.token))
    }

    /// Remembers a grant unless a newer one of the same key is known, and forgets the oldest when full.
    pub(crate) fn insert(&mut self, key: GrantKey, id: LeaseId, token: Token, hash: &SeededHash) {
        self.load(key, id, token, hash);
        self.settle(hash);
    }

    /// As `insert`, in any order of tokens; `settle` follows.
    pub(crate) fn load(&mut self, key: GrantKey, id: LeaseId, token: Token, hash: &SeededHash) {
        let hashed = hash_of(&key, hash);
        match self.by_key.find_mut(hashed, |entry| entry.key == key) {
            Some(entry) if entry.token >= token => return,
            Some(entry) => *entry = Remembered { key, id, token },
            None => {
                let entry = Remembered { key, id, token };
                self.by_key.insert_unique(hashed, entry, |entry| hash_of(&entry.key, hash));
            }
        }
        self.settled &= self.by_token.back().is_none_or(|&(last, _)| last < token);
        self.by_token.push_back((token, key));
    }

    /// Brings the order of tokens about and forgets what is too much.
    pub(crate) fn settle(&mut self, hash: &SeededHash) {
        if !self.settled {
            self.by_token.make_contiguous().sort_unstable();
            self.settled = true;
        }
        while self.by_key.len() > self.count_max
            && let Some((token, key)) = self.by_token.pop_front()
        {
            if let Ok(entry) =
                self.by_key.find_entry(hash_of(&key, hash), |entry| entry.key == key && entry.token == token)
            {
                entry.remove();
            }
        }
        if self.by_token.len() > 2 * self.count_max {
            let by_key = &self.by_key;
            self.by_token.retain(|&(token, key)| is_newest(by_key, token, &key, hash));
        }
    }

    /// Remembered grants after `after`, in order of tokens.
    pub(crate) fn entries_after<'a>(
        &'a self,
        after: Option<(Token, GrantKey)>,
        hash: &'a SeededHash,
    ) -> impl Iterator<Item = (GrantKey, LeaseId, Token)> + 'a {
        debug_assert!(self.settled);
        let start = after.map_or(0, |after| self.by_token.partition_point(|&at| at <= after));
        self.by_token.range(start..).filter_map(move |&(token, key)| {
            let entry = self.by_key.find(hash_of(&key, hash), |entry| entry.key == key)?;
            (entry.token == token).then_some((key, entry.id, token))
        })
    }

    /// Every remembered grant, in no order.
    pub(crate) fn keys(&self) -> impl Iterator<Item = (GrantKey, Token)> + '_ {
        self.by_key.iter().map(|entry| (entry.key, entry.token))
    }

    pub(crate) fn clear(&mut self) {
        self.by_key.clear();
        self.by_token.clear();
        self.settled = true;
    }

    /// Panics when the two views disagree.
    pub(crate) fn check(&self, hash: &SeededHash) {
        assert!(self.by_key.len() <= self.count_max, "S8 bounded: remembered grants");
        assert!(self.by_token.len() <= 2 * self.count_max, "S8 bounded: remembered grants by token");
        if self.settled {
            let count = self.entries_after(None, hash).count();
            assert_eq!(count, self.by_key.len(), "S4 replay-equal: remembered grants by token and by key");
        }
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.by_key.len()
    }
}

fn is_newest(by_key: &HashTable<Remembered>, token: Token, key: &GrantKey, hash: &SeededHash) -> bool {
    by_key.find(hash_of(key, hash), |entry| entry.key == *key).is_some_and(|entry| entry.token == token)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(request: u64) -> GrantKey {
        GrantKey { client: 1, request }
    }

    #[test]
    fn the_newest_are_kept_whatever_the_order_of_loading() {
        let hash = SeededHash::new(3);
        let mut memory = GrantMemory::new(10);
        for token in [5u64, 3, 30, 29, 28, 1, 2, 4, 6, 7, 8, 27, 26, 25, 24] {
            memory.load(key(token), LeaseId(token), Token(token), &hash);
        }
        memory.settle(&hash);
        let kept: Vec<u64> = memory.entries_after(None, &hash).map(|(_, _, token)| token.0).collect();
        assert_eq!(kept, [6, 7, 8, 24, 25, 26, 27, 28, 29, 30]);
        memory.check(&hash);
    }

    #[test]
    fn a_key_granted_again_and_again_stays_one_entry() {
        let hash = SeededHash::new(3);
        let mut memory = GrantMemory::new(4);
        for token in 1..100u64 {
            memory.insert(key(7), LeaseId(token), Token(token), &hash);
            memory.check(&hash);
        }
        memory.insert(key(7), LeaseId(1), Token(50), &hash);
        assert_eq!(memory.find(&key(7), &hash), Some((LeaseId(99), Token(99))));
        assert_eq!(memory.len(), 1);
    }
}
