//! What the shard's verbs take and give: plain values, no behaviour.
//!
//! Durations are in milliseconds, item counts count items. A reported remaining time is never more than the TTL,
//! although the deadline itself is rounded up by one millisecond (S2 never-early).

use crate::id::{GrantKey, LeaseId};
use crate::time::{Time, Token};

/// A request for a lease.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Grant {
    /// The id to use; `None` lets the server choose. `Some(0)` is refused.
    pub id: Option<LeaseId>,
    /// TTL wanted.
    pub ttl_ms: u64,
    /// Identifies the request, so that a repeat of it finds the lease it made.
    pub key: Option<GrantKey>,
}

/// A lease was granted, now or by an earlier sending of the same request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Granted {
    /// Its id.
    pub id: LeaseId,
    /// Its fencing token.
    pub token: Token,
    /// Its TTL.
    pub ttl_ms: u64,
    /// Time left; less than the TTL only when `repeated`.
    pub remaining_ms: u64,
    /// The TTL asked for was below the minimum.
    pub raised: bool,
    /// The same request had made this lease before; its clock was not restarted.
    pub repeated: bool,
}

/// A lease was renewed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Renewed {
    /// Its TTL.
    pub ttl_ms: u64,
}

/// A lease was revoked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Revoked {
    /// The token it had.
    pub token: Token,
    /// Items it had; they follow in the event stream.
    pub item_count: u64,
}

/// What a lease is worth now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TimeToLive {
    /// Its fencing token.
    pub token: Token,
    /// Its TTL.
    pub ttl_ms: u64,
    /// Time left; 0 only on a standby.
    pub remaining_ms: u64,
    /// Items on it.
    pub item_count: u64,
}

/// One lease of a list.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Listed {
    /// Its id.
    pub id: LeaseId,
    /// Its fencing token.
    pub token: Token,
    /// Its TTL.
    pub ttl_ms: u64,
    /// Time left; 0 only on a standby.
    pub remaining_ms: u64,
    /// Items on it.
    pub item_count: u64,
}

/// An item was attached.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Attached {
    /// Token of the lease that has it now.
    pub token: Token,
    /// The other live lease of this shard that had it until now.
    pub moved_from: Option<LeaseId>,
}

/// What one call of `expire` got done.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Progress {
    /// Leases ended.
    pub ended: usize,
    /// The budget ran out before the work did: call again soon.
    pub more: bool,
}

/// Buckets of expiry lateness: bucket 0 is 0 ms, bucket i holds `2^(i-1) .. 2^i` ms, the last one all the rest.
pub const LATENESS_BUCKETS: usize = 32;

/// Counters and sizes of one shard. Totals count since the shard was made, not since the data was.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ShardStats {
    /// Live leases, overdue ones that nobody has met yet included.
    pub lease_count: u64,
    /// Of these, leases with a client-chosen (hashed) id.
    pub hashed_count: u64,
    /// Items on live leases.
    pub item_count: u64,
    /// Items of ended leases that have not left yet.
    pub leaving_item_count: u64,
    /// Leases granted.
    pub granted_total: u64,
    /// Renewals.
    pub renewed_total: u64,
    /// Leases revoked.
    pub revoked_total: u64,
    /// Leases expired.
    pub expired_total: u64,
    /// References in the timing wheel, stale ones included.
    pub wheel_reference_count: u64,
    /// Bytes of the tables in use (not of items).
    pub table_bytes: u64,
    /// Expiries by lateness, behind the deadline the engine had promised.
    pub lateness_ms_log2: [u64; LATENESS_BUCKETS],
    /// Worst lateness so far.
    pub lateness_ms_max: u64,
    /// The shard's clock.
    pub clock: Time,
    /// Slots whose generations are used up.
    pub retired_slot_count: u64,
}
