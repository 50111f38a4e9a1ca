//! Names of leases, shards and grants.
//!
//! Newtypes only, so that a slot, a position and an id can never be mixed up. How an id names its shard and
//! its slot is the id rule's business (`id_rule.rs`).

use std::fmt;

/// A lease's 64-bit id. Printed as 16 lower-case hex digits everywhere, as etcd's tools do.
///
/// Id 0 is reserved: in a grant it means "the server chooses".
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[repr(transparent)]
pub struct LeaseId(pub u64);

impl fmt::Display for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::LowerHex for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LeaseId({:016x})", self.0)
    }
}

/// Index of a shard within its engine, counted from 0.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
#[repr(transparent)]
pub struct ShardIndex(pub u16);

impl fmt::Display for ShardIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// Names one grant request of one client, so that a repeat of it finds the lease it already made.
///
/// `client` 0 means "not identified": such a key is ignored.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct GrantKey {
    /// The client's random identity, chosen once per client process.
    pub client: u64,
    /// The request's number, unique within the client.
    pub request: u64,
}
