//! What the people of a scenario know together: names of leases, and what each lease was promised.

use std::collections::{BTreeMap, HashMap};

use tenure_protocol::{LeaseId, Token};

/// Leases granted together, under one name.
#[derive(Clone, Debug, Default)]
pub(crate) struct Group {
    /// The leases, in the order of their answers.
    pub(crate) ids: Vec<LeaseId>,
    /// Their TTL, ms.
    pub(crate) ttl_ms: u64,
}

/// Names and promises.
#[derive(Debug, Default)]
pub(crate) struct Book {
    /// Groups by name.
    pub(crate) groups: BTreeMap<String, Group>,
    tokens: HashMap<Token, usize>,
    /// Until when each lease was promised to live, in engine time, ms.
    promised: HashMap<LeaseId, u64>,
}

impl Book {
    /// The leases behind a name: a group's, or the one with this ID in hex, `-` for the top bit.
    pub(crate) fn leases(&self, name: &str) -> Vec<LeaseId> {
        if let Some(group) = self.groups.get(name) {
            return group.ids.clone();
        }
        let (digits, top) = name.strip_prefix('-').map_or((name, 0), |digits| (digits, 1 << 63));
        let id = u64::from_str_radix(digits, 16).unwrap_or_else(|_| panic!("`{name}` is not a lease"));
        vec![LeaseId(id | top)]
    }

    /// The name of a lease.
    pub(crate) fn name(&self, id: LeaseId) -> String {
        if id.0 >> 63 == 0 { format!("{:x}", id.0) } else { format!("-{:x}", id.0 & !(1 << 63)) }
    }

    /// The name of a token: t1, t2 … in the order in which they appear.
    pub(crate) fn token(&mut self, token: Token) -> String {
        let next = self.tokens.len() + 1;
        format!("t{}", self.tokens.entry(token).or_insert(next))
    }

    /// A grant or renewal that was asked for at `asked_ms` was acknowledged.
    pub(crate) fn promised(&mut self, id: LeaseId, asked_ms: u64, ttl_ms: u64) {
        let until_ms = self.promised.entry(id).or_insert(0);
        *until_ms = (*until_ms).max(asked_ms + ttl_ms);
    }

    /// A lease expired at `at_ms`. How late that was, ms.
    ///
    /// # Panics
    /// It had been promised for longer (S2).
    pub(crate) fn expired(&mut self, id: LeaseId, at_ms: u64) -> u64 {
        let promised_ms = self.promised.remove(&id).unwrap_or(0);
        assert!(
            at_ms >= promised_ms,
            "S2 never-early: {id:?} expired at {at_ms}, promised until {promised_ms}"
        );
        at_ms - promised_ms
    }
}
