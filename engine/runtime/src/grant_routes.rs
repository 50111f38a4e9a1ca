//! Which shard an identified grant goes to, so that its repeat finds the lease that it made.
//!
//! The rule is a remainder, so that every core and every handle agrees without asking. Where the rule does not lead
//! to the shard that remembers a grant (its lease moved when the directory was re-sharded, or its connection had
//! wished for a shard), opening the engine notes the exception: no orphan, whatever happened before.
//!
//! - **S8 bounded**: a shard remembers a bounded number of grants, and these are exceptions among them.
//!
//! Fixed for a run of the engine; does not know whether a lease still lives.

use std::collections::HashMap;

use tenure_core::{GrantKey, Shard, ShardIndex, Token};

/// The rule and its exceptions.
#[derive(Default)]
pub(crate) struct GrantRoutes {
    elsewhere: HashMap<GrantKey, (Token, ShardIndex)>,
}

/// One shard's exceptions.
pub(crate) type Elsewhere = Vec<(GrantKey, Token)>;

/// Where a grant goes that nobody remembers.
pub(crate) fn rule(key: GrantKey, shard_count: u16) -> ShardIndex {
    let shard = key.request % u64::from(shard_count);
    ShardIndex(u16::try_from(shard).expect("below the shard count"))
}

/// The grants that a recovered shard remembers and that the rule would send elsewhere.
pub(crate) fn exceptions(shard: &Shard, index: ShardIndex, shard_count: u16) -> Elsewhere {
    let remembered = shard.remembered_grants();
    remembered.filter(|(key, _)| rule(*key, shard_count) != index).collect()
}

impl GrantRoutes {
    /// Adds a shard's exceptions. Of two shards that remember a key, the newer grant is meant.
    pub(crate) fn add(&mut self, index: ShardIndex, exceptions: Elsewhere) {
        for (key, token) in exceptions {
            let newest = self.elsewhere.entry(key).or_insert((token, index));
            *newest = (*newest).max((token, index));
        }
    }

    /// The shard that remembers a grant although the rule would send it elsewhere.
    pub(crate) fn exception(&self, key: GrantKey) -> Option<ShardIndex> {
        self.elsewhere.get(&key).map(|(_, index)| *index)
    }

    /// Where an identified grant without a chosen ID goes.
    pub(crate) fn shard_of(&self, key: GrantKey, shard_count: u16) -> ShardIndex {
        self.exception(key).unwrap_or_else(|| rule(key, shard_count))
    }
}
