//! Events: what a subscription delivers.
//!
//! S9 once: a lease ends exactly once, with one cause and one position; delivery is at least once, and
//! a consumer that stores [`Event::resume_at`] with the effects of each event has each end exactly
//! once. Events of one shard come in the order of their positions. All carry the request id of their
//! Subscribe.

use crate::error::ProtocolError;
use crate::id::{LeaseId, Position, Token};
use crate::items::Items;
use crate::opcode::flag;
use crate::reader::{Reader, u64_at};

/// Why a lease ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Cause {
    /// Its deadline passed.
    Expired = 1,
    /// Somebody ended it.
    Revoked = 2,
}

/// How far apart the positions of neighbouring entries of one Ended event are.
pub const ENDED_STRIDE: u64 = 16;

/// What the entries of one Ended event have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EndedHead {
    /// Their shard.
    pub shard: u16,
    /// Why.
    pub cause: Cause,
    /// When, on the shard's uptime clock, ms.
    pub time_ms: u64,
    /// The position of the first entry; entry `i` has `first + 16 × i`.
    pub first: Position,
    /// At least one of them had items: they follow in [`EndedItems`].
    pub items_follow: bool,
}

/// Leases that ended, in one piece of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended<'a> {
    /// What they have in common.
    pub head: EndedHead,
    entries: &'a [u8],
}

/// One lease that ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EndedLease {
    /// The lease.
    pub id: LeaseId,
    /// Its fencing token: tells this lease from a later one under the same ID.
    pub token: Token,
    /// The position of this end: one per end, ever (S9).
    pub position: Position,
}

impl<'a> Ended<'a> {
    /// ```text
    /// | shard u16 | cause u8 | reserved u8 = 0 | count u32 ≥ 1 | time ms u64 | first u64 | count × (id, token) |
    /// ```
    pub(crate) fn decode(reader: &mut Reader<'a>) -> Result<Ended<'a>, ProtocolError> {
        let flags = reader.flags(flag::ITEMS_FOLLOW)?;
        let shard = reader.u16()?;
        let cause = match reader.u8()? {
            1 => Cause::Expired,
            2 => Cause::Revoked,
            _ => return Err(reader.bad_value("cause")),
        };
        reader.zero::<1>()?;
        let count = reader.u32()?;
        let time_ms = reader.u64()?;
        let first = Position(reader.u64()?);
        let entries = reader.entries::<16>(count)?;
        if count == 0 {
            return Err(reader.bad_value("count"));
        }
        if first.0.checked_add(ENDED_STRIDE * u64::from(count)).is_none() {
            return Err(reader.bad_value("first"));
        }
        let head = EndedHead { shard, cause, time_ms, first, items_follow: flags != 0 };
        Ok(Ended { head, entries })
    }

    /// How many leases; at least one.
    #[inline]
    #[must_use]
    #[allow(clippy::len_without_is_empty, reason = "an Ended event is never empty")]
    pub fn len(&self) -> usize {
        self.entries.len() / 16
    }

    /// The leases in the order of their ends.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = EndedLease> + Clone + use<'a> {
        let first = self.head.first.0;
        self.entries.as_chunks::<16>().0.iter().enumerate().map(move |(index, raw)| EndedLease {
            id: LeaseId(u64_at(raw, 0)),
            token: Token(u64_at(raw, 8)),
            position: Position(first + ENDED_STRIDE * index as u64),
        })
    }
}

/// Whose items one EndedItems event carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EndedItemsHead {
    /// The shard.
    pub shard: u16,
    /// This page's own position.
    pub position: Position,
    /// The lease.
    pub id: LeaseId,
    /// Its fencing token.
    pub token: Token,
    /// The last page of this lease.
    pub last: bool,
}

/// Items of a lease that ended, in rising byte order; a big lease sends several pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EndedItems<'a> {
    /// Whose they are.
    pub head: EndedItemsHead,
    /// The items.
    pub items: Items<'a>,
}

impl<'a> EndedItems<'a> {
    /// `| shard u16 | reserved u16 = 0 | count u32 | position u64 | id u64 | token u64 | items |`
    pub(crate) fn decode(reader: &mut Reader<'a>) -> Result<EndedItems<'a>, ProtocolError> {
        let last = reader.flags(flag::LAST)? != 0;
        let shard = reader.u16()?;
        reader.zero::<2>()?;
        let count = reader.u32()?;
        let position = Position(reader.u64()?);
        let id = LeaseId(reader.u64()?);
        let token = Token(reader.u64()?);
        let items = Items::decode(reader, count)?;
        Ok(EndedItems { head: EndedItemsHead { shard, position, id, token, last }, items })
    }
}

/// One event frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// Leases ended.
    Ended(Ended<'a>),
    /// Items of a lease that ended.
    EndedItems(EndedItems<'a>),
    /// Everything below this position has been sent: a consumer can move on when nothing ends.
    Progress {
        /// The shard.
        shard: u16,
        /// Where to resume.
        position: Position,
    },
    /// The events of `from..resumes_at` are lost: the server no longer keeps them.
    Gap {
        /// The shard.
        shard: u16,
        /// The first position that may be missing.
        from: Position,
        /// The first position that comes next.
        resumes_at: Position,
    },
}

impl Event<'_> {
    /// The shard that this is about.
    #[must_use]
    pub fn shard(&self) -> u16 {
        match self {
            Event::Ended(ended) => ended.head.shard,
            Event::EndedItems(items) => items.head.shard,
            Event::Progress { shard, .. } | Event::Gap { shard, .. } => *shard,
        }
    }

    /// Where to subscribe from so that everything after this event comes, and nothing up to it again.
    #[must_use]
    pub fn resume_at(&self) -> Position {
        match self {
            Event::Ended(ended) => Position(ended.head.first.0 + ENDED_STRIDE * (ended.len() as u64 - 1) + 1),
            Event::EndedItems(items) => Position(items.head.position.0.saturating_add(1)),
            Event::Progress { position, .. } => *position,
            Event::Gap { resumes_at, .. } => *resumes_at,
        }
    }
}

/// `| shard u16 | reserved 6 B = 0 | position u64 |`
pub(crate) fn decode_progress<'a>(reader: &mut Reader<'a>) -> Result<Event<'a>, ProtocolError> {
    reader.flags(0)?;
    let shard = reader.u16()?;
    reader.zero::<6>()?;
    let position = Position(reader.u64()?);
    reader.end()?;
    Ok(Event::Progress { shard, position })
}

/// `| shard u16 | reserved 6 B = 0 | from u64 | resumes at u64 |`
pub(crate) fn decode_gap<'a>(reader: &mut Reader<'a>) -> Result<Event<'a>, ProtocolError> {
    reader.flags(0)?;
    let shard = reader.u16()?;
    reader.zero::<6>()?;
    let from = Position(reader.u64()?);
    let resumes_at = Position(reader.u64()?);
    reader.end()?;
    if resumes_at < from {
        return Err(reader.bad_value("resumes at"));
    }
    Ok(Event::Gap { shard, from, resumes_at })
}
