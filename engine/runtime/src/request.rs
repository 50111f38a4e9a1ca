//! What can be asked of a shard and what it answers, as plain values that can cross cores.
//!
//! The hot path (renewals that arrive on the owning core) never builds these; see
//! [`Station::renew`](crate::station::Station::renew).

use bytes::Bytes;
use tenure_core::{
    Attached, Grant, Granted, LeaseId, Listed, Refusal, Renewed, Revoked, ShardStats, TimeToLive, Token,
};

use crate::error::{Error, Unavailable};

/// One request to one shard. A batch is refused as a whole or answered entry by entry.
#[derive(Clone, Debug)]
pub enum Request {
    /// Create a lease.
    Grant(Grant),
    /// Create many; answered in order.
    GrantBatch(Vec<Grant>),
    /// Set one deadline to now + TTL.
    Renew(LeaseId),
    /// Renew many; the answer names those that failed.
    RenewBatch(Vec<LeaseId>),
    /// End a lease.
    Revoke(LeaseId),
    /// End many; the answer names those that failed.
    RevokeBatch(Vec<LeaseId>),
    /// Remaining time of a lease.
    TimeToLive(LeaseId),
    /// A page of a lease's items, sorted, strictly after `after`.
    Items {
        /// Which lease.
        id: LeaseId,
        /// Where the previous page ended.
        after: Option<Bytes>,
        /// Bytes of items a page may hold; at least one item is returned.
        bytes_max: usize,
    },
    /// A page of the shard's live leases.
    List {
        /// 0 to start, else what the previous page returned.
        cursor: u64,
        /// Leases a page may hold.
        limit: usize,
    },
    /// Tie an item to a lease.
    Attach {
        /// Which lease.
        id: LeaseId,
        /// Opaque bytes.
        item: Bytes,
    },
    /// Untie an item.
    Detach {
        /// Which lease.
        id: LeaseId,
        /// Opaque bytes.
        item: Bytes,
    },
    /// Which lease of this shard an item is tied to.
    LeaseOf(Bytes),
    /// Become primary; every lease keeps at least `extend_ms` more than its remaining time.
    Promote {
        /// Extension in ms.
        extend_ms: u64,
    },
    /// Become standby: stop expiring, refuse writes.
    Demote,
    /// Counters of the shard.
    Stats,
    /// The canonical dump (S4), for tests and debugging: its cost grows with the shard.
    Dump,
}

impl Request {
    /// Whether it may append to the log, and so must wait its turn when the log is backed up.
    pub(crate) fn writes(&self) -> bool {
        match self {
            Request::Grant(_)
            | Request::GrantBatch(_)
            | Request::Revoke(_)
            | Request::RevokeBatch(_)
            | Request::Attach { .. }
            | Request::Detach { .. }
            | Request::Promote { .. }
            | Request::Demote => true,
            Request::Renew(_)
            | Request::RenewBatch(_)
            | Request::TimeToLive(_)
            | Request::Items { .. }
            | Request::List { .. }
            | Request::LeaseOf(_)
            | Request::Stats
            | Request::Dump => false,
        }
    }
}

/// A shard's answer.
#[derive(Clone, Debug)]
pub enum Reply {
    /// To `Grant`.
    Granted(Granted),
    /// To `GrantBatch`, in order.
    Grants(Vec<Result<Granted, Refusal>>),
    /// To `Renew`.
    Renewed(Renewed),
    /// To `RenewBatch` and `RevokeBatch`: indexes of the entries whose lease was not found.
    Missing(Vec<u32>),
    /// To `Revoke`.
    Revoked(Revoked),
    /// To `TimeToLive`.
    TimeToLive(TimeToLive),
    /// To `Items`.
    Items {
        /// The page, sorted.
        items: Vec<Box<[u8]>>,
        /// Whether more follow.
        more: bool,
    },
    /// To `List`.
    Listed {
        /// The page.
        leases: Vec<Listed>,
        /// Cursor of the next page; 0: this was the last.
        next: u64,
    },
    /// To `Attach`.
    Attached(Attached),
    /// To `LeaseOf`.
    LeaseOf(Option<(LeaseId, Token)>),
    /// To `Detach`, `Promote`, `Demote`.
    Done,
    /// To `Stats`.
    Stats(Box<StationStats>),
    /// To `Dump`.
    Dump(String),
    /// The shard refused.
    Refused(Refusal),
    /// The shard cannot do this right now.
    Unavailable(Unavailable),
}

impl Reply {
    /// Splits refusals from answers.
    pub(crate) fn into_result(self) -> Result<Reply, Error> {
        match self {
            Reply::Refused(refusal) => Err(Error::Refused(refusal)),
            Reply::Unavailable(reason) => Err(reason.into()),
            answer => Ok(answer),
        }
    }
}

/// A shard's counters with those of the core around it.
#[derive(Clone, Debug, Default)]
pub struct StationStats {
    /// The shard's own.
    pub shard: ShardStats,
    /// Whether the shard is primary.
    pub primary: bool,
    /// The shard's clock, ms.
    pub time_ms: u64,
    /// Everything below this position survives a crash.
    pub durable: u64,
    /// Where the next record will stand.
    pub tail: u64,
    /// Log writes completed since the start.
    pub commits: u64,
    /// Record bytes those held.
    pub commit_bytes: u64,
    /// Snapshots completed since the start.
    pub snapshots: u64,
    /// Replies waiting for the disk.
    pub replies_held: u64,
    /// How long the core's turns took.
    pub turns: TurnStats,
    /// Whether the log's disk is full.
    pub storage_full: bool,
}

/// How long a core's turns took since the start, and what they were busy with. While one runs, the core answers nobody.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TurnStats {
    /// Turns.
    pub turns: u64,
    /// A whole one.
    pub turn: Longest,
    /// Taking and applying what arrived.
    pub requests: Longest,
    /// The same, of turns in which the tables reached for new memory.
    pub growth: Longest,
    /// A slice of expiry.
    pub expiry: Longest,
    /// A step of the timing wheel's compaction.
    pub compaction: Longest,
    /// A step of upkeep that writes records: items of ended leases, checkpoints.
    pub items: Longest,
    /// A step of a snapshot.
    pub snapshot: Longest,
    /// Sealing a batch, changing segments.
    pub log: Longest,
    /// Releasing replies and events.
    pub replies: Longest,
    /// The kernel's part, sending and receiving; only of the ring driver, and only where the core does not sleep after
    /// it: how long it slept is nobody's stall.
    pub kernel: Longest,
}

/// The longest that something took. The two maxima need not be of the same turn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Longest {
    /// By the wall, µs: includes that the system gave the CPU to somebody else.
    pub wall_us: u64,
    /// CPU time that the core's thread had meanwhile, µs, to about a millisecond.
    pub cpu_us: u64,
}

/// Where a reply goes.
#[derive(Debug)]
pub(crate) enum Ticket {
    /// To the service on this core, which gave the number.
    Service(ServiceTicket),
    /// To the service on another core, on whose behalf it was forwarded.
    Forwarded {
        /// That core.
        core: u16,
        /// Its number.
        ticket: ServiceTicket,
    },
    /// To a caller outside the cores.
    Caller(oneshot::Sender<Reply>),
}

/// A number by which a service knows whom a reply is for: the session and the request in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceTicket {
    /// The service's session, with whatever generation it needs to recognise a closed one.
    pub session: u64,
    /// The session's request.
    pub request: u64,
}

pub use crate::limits::BATCH_IDS_MAX;

pub(crate) fn check_batch(count: usize) -> Result<(), Error> {
    if count > BATCH_IDS_MAX {
        return Err(Error::BatchTooLarge { count, count_max: BATCH_IDS_MAX });
    }
    Ok(())
}
