//! Which shard an identified grant goes to, so that its repeat finds the lease that it made.
//!
//! The rule is a remainder, so that every core and every handle agrees without asking; a connection that wishes for a
//! shard has its grants made there. Neither leads to a grant whose lease moved when the directory was re-sharded. So
//! opening the engine notes where each grant is remembered, and what is noted goes before rule and wish: no orphan,
//! whatever happened before.
//!
//! - **S8 bounded**: a shard remembers a bounded number of grants, at some 40 bytes each here.
//!
//! Fixed for a run of the engine; does not know whether a lease still lives.

use std::collections::HashMap;

use tenure_core::{GrantKey, Shard, ShardIndex, Token};

/// The rule, and the grants of earlier runs.
#[derive(Default)]
pub(crate) struct GrantRoutes {
    noted: HashMap<GrantKey, (Token, ShardIndex)>,
}

/// The grants that a recovered shard remembers. With a single shard there is nothing to note.
pub(crate) fn remembered(shard: &Shard, shard_count: u16) -> Vec<(GrantKey, Token)> {
    if shard_count == 1 { Vec::new() } else { shard.remembered_grants().collect() }
}

impl GrantRoutes {
    /// Notes what a shard remembers. Of two shards that remember a key, the newer grant is meant.
    pub(crate) fn note(&mut self, index: ShardIndex, remembered: Vec<(GrantKey, Token)>) {
        self.noted.reserve(remembered.len());
        for (key, token) in remembered {
            let newest = self.noted.entry(key).or_insert((token, index));
            *newest = (*newest).max((token, index));
        }
    }

    /// Where an identified grant without a chosen ID goes. `wished`: where its connection would have it made.
    pub(crate) fn shard_of(&self, key: GrantKey, wished: Option<ShardIndex>, shard_count: u16) -> ShardIndex {
        let noted = self.noted.get(&key).map(|(_, index)| *index);
        noted.or(wished).unwrap_or_else(|| {
            let shard = key.request % u64::from(shard_count);
            ShardIndex(u16::try_from(shard).expect("below the shard count"))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_remembered_goes_before_wish_and_rule() {
        let key = |request| GrantKey { client: 7, request };
        let mut routes = GrantRoutes::default();
        routes.note(ShardIndex(2), vec![(key(5), Token(100)), (key(6), Token(300))]);
        routes.note(ShardIndex(1), vec![(key(5), Token(200)), (key(6), Token(200))]);
        let wishes = [None, Some(ShardIndex(0)), Some(ShardIndex(3))];
        for wished in wishes {
            assert_eq!(routes.shard_of(key(5), wished, 4), ShardIndex(1), "the newer of two");
            assert_eq!(routes.shard_of(key(6), wished, 4), ShardIndex(2), "the newer of two");
        }
        assert_eq!(wishes.map(|wished| routes.shard_of(key(7), wished, 4).0), [3, 0, 3]);
    }
}
