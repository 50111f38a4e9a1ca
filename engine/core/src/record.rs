//! The records of a shard's log: what they say, and how they print.
//!
//! A record is a little-endian, 8-byte aligned run of bytes whose first byte is its kind. Batches of them travel
//! in the log's own framing, which carries length, checksum and time; a record repeats none of that.
//!
//! ```text
//!  1 clock         kind u8 · 0 ×7                              · time u64
//!  2 grant         kind u8 · flags u8 · ttl u48                · id u64
//!  3 grant, named  as 2                                        · client u64 · request u64
//!  4 revoked       kind u8 · flags u8 · 0 u16 · count u32      · (id u64 · token u64) × count
//!  5 expired       as 4
//!  6 checkpoint    kind u8 · flags u8 · 0 u16 · count u32      · (id u64 · token u64 · deadline u64) × count
//!  7 renewal       as 6
//!  8 attach        kind u8 · flags u8 · item_len u16 · 0 u32   · id u64 · token u64 · item, zero-padded to 8
//!  9 detach        as 8
//! 10 ended items   kind u8 · flags u8 · count u16 · bytes u32  · id u64 · token u64 · (len u16 · item) × count, padded
//! 11 promote       kind u8 · 0 ×7                              · extend_ms u64
//! 12 demote        kind u8 · 0 ×7
//! ```
//!
//! Flags: grant bit 0 = the deadline is exactly time + TTL + 1 also after a restart, bit 1 = the client chose the id;
//! revoked and expired bit 0 = ended-items records follow for each entry; renewal bit 0 = the deadline is exact,
//! else the renewal withdraws an earlier exact one; ended items bit 0 = the last of this lease. All else is 0.
//!
//! A position names a record by its first byte, and the i-th end in a revoked or expired record by
//! `record + 8 + 16 × i` (S9 once: one position per end).

mod buffer;
mod decode;

pub use buffer::{EndRange, RecordBuffer};
pub use decode::{DeadlineEntries, EndEntries, ItemEntries, RecordError, RecordIter};

use crate::id::{GrantKey, LeaseId};
use crate::time::{Position, Time, Token};
use std::fmt;

pub(crate) const KIND_CLOCK: u8 = 1;
pub(crate) const KIND_GRANT: u8 = 2;
pub(crate) const KIND_GRANT_NAMED: u8 = 3;
pub(crate) const KIND_REVOKED: u8 = 4;
pub(crate) const KIND_EXPIRED: u8 = 5;
pub(crate) const KIND_CHECKPOINT: u8 = 6;
pub(crate) const KIND_RENEWAL: u8 = 7;
pub(crate) const KIND_ATTACH: u8 = 8;
pub(crate) const KIND_DETACH: u8 = 9;
pub(crate) const KIND_ENDED_ITEMS: u8 = 10;
pub(crate) const KIND_PROMOTE: u8 = 11;
pub(crate) const KIND_DEMOTE: u8 = 12;

/// Grant: the deadline is exact, also after a restart.
pub(crate) const GRANT_EXACT: u8 = 1;
/// Grant: the client chose the id.
pub(crate) const GRANT_CHOSEN: u8 = 2;
/// Revoked, expired: ended-items records follow for each entry.
pub(crate) const END_ITEMS_FOLLOW: u8 = 1;
/// Renewal: the deadline is exact; otherwise an earlier exact one is withdrawn.
pub(crate) const RENEWAL_EXACT: u8 = 1;
/// Ended items: the last ones of this lease.
pub(crate) const ITEMS_LAST: u8 = 1;

/// Bytes before the entries of a revoked, expired, checkpoint or renewal record.
pub const ENTRIES_OFFSET: usize = 8;
/// Bytes of one entry of a revoked or expired record: the distance between the positions of two ends.
pub const END_ENTRY_BYTES: usize = 16;
/// Bytes of one entry of a checkpoint or renewal record.
pub(crate) const DEADLINE_ENTRY_BYTES: usize = 24;
/// Bytes before the item bytes of an attach, detach or ended-items record.
pub(crate) const ITEM_OFFSET: usize = 24;

/// Why a lease ended (S9: exactly one cause).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Cause {
    /// A request ended it.
    Revoked,
    /// Its deadline passed.
    Expired,
}

/// One decoded record, borrowing from the log's bytes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Record<'a> {
    /// The engine time of the records that follow.
    Clock {
        /// Never before the time of an earlier record.
        time: Time,
    },
    /// A lease began; its token is this record's position.
    Grant {
        /// The new lease.
        id: LeaseId,
        /// Its TTL, after raising.
        ttl_ms: u64,
        /// The deadline, time + TTL + 1 ms, holds across a restart.
        exact: bool,
        /// The client chose the id.
        chosen: bool,
        /// The identified request, if it was.
        key: Option<GrantKey>,
    },
    /// Leases ended.
    Ended {
        /// Why, all of them.
        cause: Cause,
        /// Ended-items records follow for each of them.
        items_follow: bool,
        /// Which.
        entries: EndEntries<'a>,
    },
    /// Deadlines that hold across a restart unless a renewal follows.
    Checkpoint {
        /// Lease, token, deadline.
        entries: DeadlineEntries<'a>,
    },
    /// Leases were renewed.
    Renewal {
        /// The deadlines hold across a restart; otherwise each lease gets its full TTL then.
        exact: bool,
        /// Lease, token, deadline.
        entries: DeadlineEntries<'a>,
    },
    /// An item was put on a lease, and taken from the lease of this shard that had it.
    Attach {
        /// The lease.
        id: LeaseId,
        /// Its token.
        token: Token,
        /// The item.
        item: &'a [u8],
    },
    /// An item was taken from a lease.
    Detach {
        /// The lease.
        id: LeaseId,
        /// Its token.
        token: Token,
        /// The item.
        item: &'a [u8],
    },
    /// A slice of the items that an ended lease had, in order.
    EndedItems {
        /// The lease that ended.
        id: LeaseId,
        /// Its token.
        token: Token,
        /// No more items of this lease follow.
        last: bool,
        /// The items.
        items: ItemEntries<'a>,
    },
    /// The engine became primary; each lease got this much more time.
    Promote {
        /// The extension.
        extend_ms: u64,
    },
    /// The engine became a standby.
    Demote,
}

/// Decodes the item length and the padded length of `len` bytes.
pub(crate) const fn padded(len: usize) -> usize {
    (len + 7) & !7
}

fn item_text(f: &mut fmt::Formatter<'_>, item: &[u8]) -> fmt::Result {
    write!(f, "\"{}\"", item.escape_ascii())
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Cause::Revoked => "revoked",
            Cause::Expired => "expired",
        })
    }
}

/// One line, without the position; entry lists in full.
impl fmt::Display for Record<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Record::Clock { time } => write!(f, "clock {time}"),
            Record::Grant { id, ttl_ms, exact, chosen, key } => {
                write!(f, "grant {id} ttl {ttl_ms}ms")?;
                if *chosen {
                    f.write_str(" chosen")?;
                }
                if *exact {
                    f.write_str(" exact")?;
                }
                match key {
                    Some(key) => write!(f, " client {:016x} request {}", key.client, key.request),
                    None => Ok(()),
                }
            }
            Record::Ended { cause, items_follow, entries } => {
                write!(
                    f,
                    "{cause} {}{}",
                    entries.len(),
                    if *items_follow { ", items follow:" } else { ":" }
                )?;
                entries.clone().try_for_each(|(id, token)| write!(f, " {id}@{token}"))
            }
            Record::Checkpoint { entries } => {
                write!(f, "checkpoint {}:", entries.len())?;
                entries
                    .clone()
                    .try_for_each(|(id, token, deadline)| write!(f, " {id}@{token} until {deadline}"))
            }
            Record::Renewal { exact, entries } => {
                write!(f, "renewal {}{}:", entries.len(), if *exact { " exact" } else { "" })?;
                entries
                    .clone()
                    .try_for_each(|(id, token, deadline)| write!(f, " {id}@{token} until {deadline}"))
            }
            Record::Attach { id, token, item } => {
                write!(f, "attach {id}@{token} ")?;
                item_text(f, item)
            }
            Record::Detach { id, token, item } => {
                write!(f, "detach {id}@{token} ")?;
                item_text(f, item)
            }
            Record::EndedItems { id, token, last, items } => {
                write!(f, "ended-items {id}@{token}{}:", if *last { " last" } else { "" })?;
                items.clone().try_for_each(|item| {
                    f.write_str(" ")?;
                    item_text(f, item)
                })
            }
            Record::Promote { extend_ms } => write!(f, "promote extend {extend_ms}ms"),
            Record::Demote => f.write_str("demote"),
        }
    }
}

/// Position of the `index`-th end in the revoked or expired record at `record` (S9).
pub const fn end_position(record: Position, index: usize) -> Position {
    Position(record.0 + (ENTRIES_OFFSET + END_ENTRY_BYTES * index) as u64)
}
