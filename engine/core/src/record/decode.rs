//! Reads records back: replay, inspection and event decoding all go through here.
//!
//! Strict: every length is checked before it is used, every pad and unknown flag must be zero, so that bytes from
//! a disk either decode to exactly what an encoder wrote or are refused by offset and reason. Never panics and never
//! allocates. Invariants: none of its own; order and meaning are the reader's.

use super::*;
use crate::limits::{EXTEND_MS_MAX, ITEM_BYTES_MAX, RECORD_ENTRY_COUNT_MAX, TIME_MS_MAX, TTL_MS_MAX};

/// A record that cannot be read: where, counted in bytes from the start given to the iterator, and why.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RecordError {
    /// Offset of the record's first byte.
    pub offset: usize,
    /// What is wrong with it.
    pub reason: &'static str,
}

impl fmt::Display for RecordError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "record at offset {}: {}", self.offset, self.reason)
    }
}

impl std::error::Error for RecordError {}

/// The records of one batch with their positions; ends after the first error.
#[derive(Clone, Debug)]
pub struct RecordIter<'a> {
    first: Position,
    bytes: &'a [u8],
    offset: usize,
}

impl<'a> RecordIter<'a> {
    /// Iterates over the record bytes of a batch whose first record stands at `first`.
    pub fn new(first: Position, bytes: &'a [u8]) -> RecordIter<'a> {
        RecordIter { first, bytes, offset: 0 }
    }

    /// Offset of the next record in the bytes given.
    pub fn offset(&self) -> usize {
        self.offset
    }
}

impl<'a> Iterator for RecordIter<'a> {
    type Item = Result<(Position, Record<'a>), RecordError>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        let rest = &self.bytes[self.offset..];
        if rest.is_empty() {
            return None;
        }
        let offset = self.offset;
        match decode(rest) {
            Ok((record, length)) => {
                self.offset += length;
                Some(Ok((Position(self.first.0.saturating_add(offset as u64)), record)))
            }
            Err(reason) => {
                self.offset = self.bytes.len();
                Some(Err(RecordError { offset, reason }))
            }
        }
    }
}

impl std::iter::FusedIterator for RecordIter<'_> {}

const TRUNCATED: &str = "truncated";
const RESERVED: &str = "reserved bytes are not zero";

fn word(bytes: &[u8], offset: usize) -> Result<u64, &'static str> {
    let Some(bytes) = bytes.get(offset..offset + 8) else {
        return Err(TRUNCATED);
    };
    Ok(u64::from_le_bytes(bytes.try_into().map_err(|_| TRUNCATED)?))
}

fn lease(bytes: &[u8], offset: usize) -> Result<(LeaseId, Token), &'static str> {
    let (id, token) = (word(bytes, offset)?, word(bytes, offset + 8)?);
    if id == 0 {
        return Err("lease id 0");
    }
    if token == 0 {
        return Err("token 0");
    }
    Ok((LeaseId(id), Token(token)))
}

/// One record from the start of `bytes`, and its length.
fn decode(bytes: &[u8]) -> Result<(Record<'_>, usize), &'static str> {
    let head = word(bytes, 0)?;
    let (kind, flags) = (head as u8, (head >> 8) as u8);
    match kind {
        KIND_CLOCK => {
            no_more(head >> 8)?;
            let time = word(bytes, 8)?;
            if time > TIME_MS_MAX {
                return Err("time out of range");
            }
            Ok((Record::Clock { time: Time(time) }, 16))
        }
        KIND_GRANT | KIND_GRANT_NAMED => grant(bytes, head),
        KIND_REVOKED | KIND_EXPIRED => {
            known_flags(flags, END_ITEMS_FOLLOW)?;
            let entries = entries(bytes, head, END_ENTRY_BYTES)?;
            let length = ENTRIES_OFFSET + entries.len();
            for at in (0..entries.len()).step_by(END_ENTRY_BYTES) {
                lease(entries, at)?;
            }
            let cause = if kind == KIND_REVOKED { Cause::Revoked } else { Cause::Expired };
            let items_follow = flags & END_ITEMS_FOLLOW != 0;
            Ok((Record::Ended { cause, items_follow, entries: EndEntries { bytes: entries } }, length))
        }
        KIND_CHECKPOINT | KIND_RENEWAL => {
            known_flags(flags, if kind == KIND_RENEWAL { RENEWAL_EXACT } else { 0 })?;
            let entries = entries(bytes, head, DEADLINE_ENTRY_BYTES)?;
            let length = ENTRIES_OFFSET + entries.len();
            for at in (0..entries.len()).step_by(DEADLINE_ENTRY_BYTES) {
                lease(entries, at)?;
                deadline_in_range(word(entries, at + 16)?)?;
            }
            let entries = DeadlineEntries { bytes: entries };
            let exact = flags & RENEWAL_EXACT != 0;
            let record = if kind == KIND_RENEWAL {
                Record::Renewal { exact, entries }
            } else {
                Record::Checkpoint { entries }
            };
            Ok((record, length))
        }
        KIND_ATTACH | KIND_DETACH => item(bytes, head),
        KIND_ENDED_ITEMS => ended_items(bytes, head),
        KIND_PROMOTE => {
            no_more(head >> 8)?;
            let extend_ms = word(bytes, 8)?;
            if extend_ms > EXTEND_MS_MAX {
                return Err("extension out of range");
            }
            Ok((Record::Promote { extend_ms }, 16))
        }
        KIND_DEMOTE => {
            no_more(head >> 8)?;
            Ok((Record::Demote, 8))
        }
        _ => Err("unknown kind of record"),
    }
}

fn no_more(rest: u64) -> Result<(), &'static str> {
    if rest == 0 { Ok(()) } else { Err(RESERVED) }
}

fn known_flags(flags: u8, known: u8) -> Result<(), &'static str> {
    if flags & !known == 0 { Ok(()) } else { Err("unknown flags") }
}

/// Deadlines stay far enough from the end of 64 bits that sums with a TTL cannot wrap.
pub(crate) fn deadline_in_range(deadline: u64) -> Result<(), &'static str> {
    if deadline <= TIME_MS_MAX + TTL_MS_MAX + 1 { Ok(()) } else { Err("deadline out of range") }
}

fn grant(bytes: &[u8], head: u64) -> Result<(Record<'_>, usize), &'static str> {
    let (kind, flags) = (head as u8, (head >> 8) as u8);
    known_flags(flags, GRANT_EXACT | GRANT_CHOSEN)?;
    let ttl_ms = head >> 16;
    if ttl_ms == 0 || ttl_ms > TTL_MS_MAX {
        return Err("TTL out of range");
    }
    let id = LeaseId(word(bytes, 8)?);
    if id.0 == 0 {
        return Err("lease id 0");
    }
    let (key, length) = if kind == KIND_GRANT_NAMED {
        let key = GrantKey { client: word(bytes, 16)?, request: word(bytes, 24)? };
        if key.client == 0 {
            return Err("client 0 in an identified grant");
        }
        (Some(key), 32)
    } else {
        (None, 16)
    };
    let (exact, chosen) = (flags & GRANT_EXACT != 0, flags & GRANT_CHOSEN != 0);
    Ok((Record::Grant { id, ttl_ms, exact, chosen, key }, length))
}

/// The entry bytes of a counted record.
fn entries(bytes: &[u8], head: u64, entry_bytes: usize) -> Result<&[u8], &'static str> {
    if (head >> 16) as u16 != 0 {
        return Err(RESERVED);
    }
    let count = (head >> 32) as usize;
    if count == 0 || count > RECORD_ENTRY_COUNT_MAX {
        return Err("entry count out of range");
    }
    bytes.get(ENTRIES_OFFSET..ENTRIES_OFFSET + count * entry_bytes).ok_or(TRUNCATED)
}

fn item(bytes: &[u8], head: u64) -> Result<(Record<'_>, usize), &'static str> {
    known_flags((head >> 8) as u8, 0)?;
    no_more(head >> 32)?;
    let length = (head >> 16) as u16 as usize;
    if length > ITEM_BYTES_MAX {
        return Err("item too long");
    }
    let (id, token) = lease(bytes, 8)?;
    let item = padded_bytes(bytes, length)?;
    let record = if head as u8 == KIND_ATTACH {
        Record::Attach { id, token, item }
    } else {
        Record::Detach { id, token, item }
    };
    Ok((record, ITEM_OFFSET + padded(length)))
}

fn padded_bytes(bytes: &[u8], length: usize) -> Result<&[u8], &'static str> {
    let all = bytes.get(ITEM_OFFSET..ITEM_OFFSET + padded(length)).ok_or(TRUNCATED)?;
    let (item, pad) = all.split_at(length);
    if pad.iter().any(|&byte| byte != 0) { Err(RESERVED) } else { Ok(item) }
}

fn ended_items(bytes: &[u8], head: u64) -> Result<(Record<'_>, usize), &'static str> {
    let flags = (head >> 8) as u8;
    known_flags(flags, ITEMS_LAST)?;
    let (count, length) = ((head >> 16) as u16, (head >> 32) as usize);
    if count == 0 || count as usize > RECORD_ENTRY_COUNT_MAX {
        return Err("entry count out of range");
    }
    let (id, token) = lease(bytes, 8)?;
    let mut rest = padded_bytes(bytes, length)?;
    let items = ItemEntries { bytes: rest, count };
    for _ in 0..count {
        rest = split_item(rest).ok_or("items do not fill their record")?.1;
    }
    if !rest.is_empty() {
        return Err("items do not fill their record");
    }
    let last = flags & ITEMS_LAST != 0;
    Ok((Record::EndedItems { id, token, last, items }, ITEM_OFFSET + padded(length)))
}

/// One length-prefixed item and what follows it.
pub(crate) fn split_item(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<2>()?;
    let length = u16::from_le_bytes(*length) as usize;
    if length > ITEM_BYTES_MAX { None } else { rest.split_at_checked(length) }
}

fn word_of(entry: &[u8], index: usize) -> u64 {
    entry.get(index * 8..index * 8 + 8).and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_le_bytes)
}

/// The `(id, token)` entries of a revoked or expired record.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EndEntries<'a> {
    bytes: &'a [u8],
}

impl Iterator for EndEntries<'_> {
    type Item = (LeaseId, Token);

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        let (entry, rest) = self.bytes.split_at_checked(END_ENTRY_BYTES)?;
        self.bytes = rest;
        Some((LeaseId(word_of(entry, 0)), Token(word_of(entry, 1))))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let count = self.bytes.len() / END_ENTRY_BYTES;
        (count, Some(count))
    }
}

impl ExactSizeIterator for EndEntries<'_> {}

/// The `(id, token, deadline)` entries of a checkpoint or renewal record.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DeadlineEntries<'a> {
    bytes: &'a [u8],
}

impl Iterator for DeadlineEntries<'_> {
    type Item = (LeaseId, Token, Time);

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        let (entry, rest) = self.bytes.split_at_checked(DEADLINE_ENTRY_BYTES)?;
        self.bytes = rest;
        Some((LeaseId(word_of(entry, 0)), Token(word_of(entry, 1)), Time(word_of(entry, 2))))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let count = self.bytes.len() / DEADLINE_ENTRY_BYTES;
        (count, Some(count))
    }
}

impl ExactSizeIterator for DeadlineEntries<'_> {}

/// The items of an ended-items record, in order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ItemEntries<'a> {
    bytes: &'a [u8],
    count: u16,
}

impl<'a> Iterator for ItemEntries<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<Self::Item> {
        let (item, rest) = split_item(self.bytes)?;
        self.bytes = rest;
        self.count = self.count.saturating_sub(1);
        Some(item)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.count as usize, Some(self.count as usize))
    }
}

impl ExactSizeIterator for ItemEntries<'_> {}
