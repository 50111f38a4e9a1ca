//! What a shard answers: a value or a refusal, and the position it has to wait for.
//!
//! A refusal is the client's doing: a closed enum with stable numbers that go over the wire unchanged. Bugs are
//! assertions, and the world's faults belong to the shell; neither appears here.

use crate::time::Position;
use std::fmt;

/// Why a request was refused. Numbers are stable and part of the wire protocol.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u16)]
pub enum Refusal {
    /// No such lease, or it ended, or its deadline has passed.
    NotFound = 1,
    /// The chosen id names a live lease.
    AlreadyExists = 2,
    /// A TTL of 0 ms.
    TtlZero = 3,
    /// A TTL above the configured maximum.
    TtlTooLarge = 4,
    /// The shard holds as many leases or items as it may.
    LimitExceeded = 5,
    /// Not now; nothing was done, try again.
    Busy = 6,
    /// This engine is a standby.
    NotPrimary = 7,
    /// The lease lives, but the item is not on it.
    ItemNotFound = 8,
    /// The item is longer than [`crate::limits::ITEM_BYTES_MAX`].
    ItemTooLarge = 9,
    /// Id 0 where a lease's id is needed.
    IdReserved = 10,
    /// The id belongs to another shard (S1).
    NotThisShard = 11,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Refusal::NotFound => "lease not found",
            Refusal::AlreadyExists => "a live lease has this id",
            Refusal::TtlZero => "TTL of zero",
            Refusal::TtlTooLarge => "TTL above the maximum",
            Refusal::LimitExceeded => "the shard is full",
            Refusal::Busy => "busy, try again",
            Refusal::NotPrimary => "not the primary",
            Refusal::ItemNotFound => "item not on this lease",
            Refusal::ItemTooLarge => "item too large",
            Refusal::IdReserved => "id 0 is reserved",
            Refusal::NotThisShard => "id belongs to another shard",
        })
    }
}

impl std::error::Error for Refusal {}

/// A result that may be told once everything below `after` is durable (S3 ack-after-durable).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub struct Answer<T> {
    /// What the verb found or did.
    pub result: Result<T, Refusal>,
    /// The log position to wait for; [`Position::ZERO`] = at once.
    pub after: Position,
}

impl<T> Answer<T> {
    pub(crate) fn now(value: T) -> Answer<T> {
        Answer { result: Ok(value), after: Position::ZERO }
    }

    pub(crate) fn after(value: T, after: Position) -> Answer<T> {
        Answer { result: Ok(value), after }
    }

    pub(crate) fn refused(refusal: Refusal, after: Position) -> Answer<T> {
        Answer { result: Err(refusal), after }
    }
}
