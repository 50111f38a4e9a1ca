//! The snapshot image: how a shard's state looks as bytes, apart from how it is walked.
//!
//! An image is a sequence of entries, cut into chunks between entries. It is *fuzzy*: its entries were taken at different
//! moments while the shard went on; the log from the start entry's position completes it, because every record
//! names (id, token) and is harmless when the image has seen it already (S4).
//!
//! ```text
//! 1 start    kind u8 · version u8 · role u8 · 0 u8 · shard u16 · shards u16 · position u64 · time u64 · floor u64 · generation u64
//! 2 lease    kind u8 · flags u8 · ttl u48             · id u64 · token u64 · (deadline u64 when flags bit 0)
//! 3 item     kind u8 · 0 u8 · item_len u16 · 0 u32    · id u64 · token u64 · item, zero-padded to 8
//! 4 leaving  as 3: an item of an ended lease that has not been reported yet
//! 5 key      kind u8 · 0 ×7 · client u64 · request u64 · id u64 · token u64
//! 6 end      kind u8 · 0 ×7 · position u64
//! ```
//!
//! Lease flags: bit 0 the deadline is exact, bit 1 found through the index (the client chose the id, or it was made
//! under another generation base). A start entry inside an image makes everything before it void. Strict like the
//! record decoder: bytes from outside are refused, never trusted, never a panic.

use crate::config::Role;
use crate::id::{GrantKey, LeaseId, ShardIndex};
use crate::limits::{EXTEND_MS_MAX, ITEM_BYTES_MAX, POSITION_MAX, TIME_MS_MAX, TOKEN_MAX, TTL_MS_MAX};
use crate::record::padded;
use crate::time::{Position, Time, Token};
use std::fmt;

/// Version of the image format.
pub(crate) const IMAGE_VERSION: u8 = 1;

const KIND_START: u8 = 1;
const KIND_LEASE: u8 = 2;
const KIND_ITEM: u8 = 3;
const KIND_LEAVING: u8 = 4;
const KIND_KEY: u8 = 5;
const KIND_END: u8 = 6;

const LEASE_EXACT: u8 = 1;
const LEASE_CHOSEN: u8 = 2;
const ITEM_OFFSET: usize = 24;

/// A chunk of an image that cannot be read or does not belong here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ImageError {
    /// Offset of the entry in the chunk.
    pub offset: usize,
    /// What is wrong with it.
    pub reason: &'static str,
}

impl fmt::Display for ImageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "image entry at offset {}: {}", self.offset, self.reason)
    }
}

impl std::error::Error for ImageError {}

/// What begins an image.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Start {
    pub(crate) role: Role,
    pub(crate) shard: ShardIndex,
    pub(crate) shard_count: u16,
    /// The log from here on completes the image.
    pub(crate) position: Position,
    /// Engine time of the last record before.
    pub(crate) time: Time,
    /// Promotions have promised time until here plus a full TTL.
    pub(crate) floor: Time,
    /// Absolute generation at which new ids go on.
    pub(crate) generation_next: u64,
}

/// One entry of an image.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum ImageEntry<'a> {
    Start(Start),
    Lease { id: LeaseId, token: Token, ttl_ms: u64, deadline: Option<Time>, chosen: bool },
    Item { id: LeaseId, token: Token, item: &'a [u8] },
    Leaving { id: LeaseId, token: Token, item: &'a [u8] },
    Key { key: GrantKey, id: LeaseId, token: Token },
    End { position: Position },
}

fn put(out: &mut Vec<u8>, words: &[u64]) {
    for word in words {
        out.extend_from_slice(&word.to_le_bytes());
    }
}

impl ImageEntry<'_> {
    /// Appends the entry's bytes.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        match *self {
            ImageEntry::Start(start) => {
                let role = u64::from(start.role == Role::Standby);
                let head = u64::from(KIND_START)
                    | u64::from(IMAGE_VERSION) << 8
                    | role << 16
                    | u64::from(start.shard.0) << 32
                    | u64::from(start.shard_count) << 48;
                put(out, &[head, start.position.0, start.time.0, start.floor.0, start.generation_next]);
            }
            ImageEntry::Lease { id, token, ttl_ms, deadline, chosen } => {
                let exact = if deadline.is_some() { LEASE_EXACT } else { 0 };
                let flags = exact | if chosen { LEASE_CHOSEN } else { 0 };
                let head = u64::from(KIND_LEASE) | u64::from(flags) << 8 | ttl_ms << 16;
                put(out, &[head, id.0, token.0]);
                if let Some(deadline) = deadline {
                    put(out, &[deadline.0]);
                }
            }
            ImageEntry::Item { id, token, item } => put_item(out, KIND_ITEM, id, token, item),
            ImageEntry::Leaving { id, token, item } => put_item(out, KIND_LEAVING, id, token, item),
            ImageEntry::Key { key, id, token } => {
                put(out, &[u64::from(KIND_KEY), key.client, key.request, id.0, token.0]);
            }
            ImageEntry::End { position } => put(out, &[u64::from(KIND_END), position.0]),
        }
    }
}

fn put_item(out: &mut Vec<u8>, kind: u8, id: LeaseId, token: Token, item: &[u8]) {
    put(out, &[u64::from(kind) | (item.len() as u64) << 16, id.0, token.0]);
    out.extend_from_slice(item);
    out.resize(out.len() + padded(item.len()) - item.len(), 0);
}

/// Entries of one chunk; ends after the first error.
pub(crate) struct ImageIter<'a> {
    bytes: &'a [u8],
    offset: usize,
}

impl<'a> ImageIter<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> ImageIter<'a> {
        ImageIter { bytes, offset: 0 }
    }
}

impl<'a> Iterator for ImageIter<'a> {
    type Item = Result<(usize, ImageEntry<'a>), ImageError>;

    fn next(&mut self) -> Option<Self::Item> {
        let rest = &self.bytes[self.offset..];
        if rest.is_empty() {
            return None;
        }
        let offset = self.offset;
        match decode(rest) {
            Ok((entry, length)) => {
                self.offset += length;
                Some(Ok((offset, entry)))
            }
            Err(reason) => {
                self.offset = self.bytes.len();
                Some(Err(ImageError { offset, reason }))
            }
        }
    }
}

const RESERVED: &str = "reserved bytes are not zero";

fn word(bytes: &[u8], index: usize) -> Result<u64, &'static str> {
    let bytes = bytes.get(index * 8..index * 8 + 8).ok_or("truncated")?;
    Ok(u64::from_le_bytes(bytes.try_into().map_err(|_| "truncated")?))
}

fn lease(bytes: &[u8], index: usize) -> Result<(LeaseId, Token), &'static str> {
    let (id, token) = (word(bytes, index)?, word(bytes, index + 1)?);
    require(id != 0 && token != 0, "lease id or token 0")?;
    require(token <= TOKEN_MAX, "token out of range")?;
    Ok((LeaseId(id), Token(token)))
}

fn require(condition: bool, reason: &'static str) -> Result<(), &'static str> {
    if condition { Ok(()) } else { Err(reason) }
}

fn decode(bytes: &[u8]) -> Result<(ImageEntry<'_>, usize), &'static str> {
    let head = word(bytes, 0)?;
    let flags = (head >> 8) as u8;
    match head as u8 {
        KIND_START => decode_start(bytes, head),
        KIND_LEASE => {
            let ttl_ms = head >> 16;
            require(flags & !(LEASE_EXACT | LEASE_CHOSEN) == 0, "unknown flags")?;
            require(ttl_ms > 0 && ttl_ms <= TTL_MS_MAX, "TTL out of range")?;
            let (id, token) = lease(bytes, 1)?;
            let exact = flags & LEASE_EXACT != 0;
            let deadline = if exact { Some(Time(word(bytes, 3)?)) } else { None };
            let deadline_max = TIME_MS_MAX + TTL_MS_MAX + EXTEND_MS_MAX;
            require(deadline.is_none_or(|deadline| deadline.0 <= deadline_max), "deadline out of range")?;
            let entry = ImageEntry::Lease { id, token, ttl_ms, deadline, chosen: flags & LEASE_CHOSEN != 0 };
            Ok((entry, if exact { 32 } else { 24 }))
        }
        kind @ (KIND_ITEM | KIND_LEAVING) => {
            let length = (head >> 16) as u16 as usize;
            require(flags == 0 && head >> 32 == 0, RESERVED)?;
            require(length <= ITEM_BYTES_MAX, "item too long")?;
            let (id, token) = lease(bytes, 1)?;
            let padded_bytes = bytes.get(ITEM_OFFSET..ITEM_OFFSET + padded(length)).ok_or("truncated")?;
            let (item, pad) = padded_bytes.split_at(length);
            require(pad.iter().all(|&byte| byte == 0), RESERVED)?;
            let entry = if kind == KIND_ITEM {
                ImageEntry::Item { id, token, item }
            } else {
                ImageEntry::Leaving { id, token, item }
            };
            Ok((entry, ITEM_OFFSET + padded(length)))
        }
        KIND_KEY => {
            require(head >> 8 == 0, RESERVED)?;
            let key = GrantKey { client: word(bytes, 1)?, request: word(bytes, 2)? };
            require(key.client != 0, "client 0")?;
            let (id, token) = lease(bytes, 3)?;
            Ok((ImageEntry::Key { key, id, token }, 40))
        }
        KIND_END => {
            require(head >> 8 == 0, RESERVED)?;
            Ok((ImageEntry::End { position: Position(word(bytes, 1)?) }, 16))
        }
        _ => Err("unknown kind of entry"),
    }
}

fn decode_start(bytes: &[u8], head: u64) -> Result<(ImageEntry<'_>, usize), &'static str> {
    require((head >> 8) as u8 == IMAGE_VERSION, "unknown image version")?;
    let role = match (head >> 16) as u8 {
        0 => Role::Primary,
        1 => Role::Standby,
        _ => return Err("unknown role"),
    };
    require((head >> 24) as u8 == 0, RESERVED)?;
    let (time, floor) = (word(bytes, 2)?, word(bytes, 3)?);
    require(time <= TIME_MS_MAX && floor <= TIME_MS_MAX + EXTEND_MS_MAX, "time out of range")?;
    let position = word(bytes, 1)?;
    require(position <= POSITION_MAX, "position out of range")?;
    let start = Start {
        role,
        shard: ShardIndex((head >> 32) as u16),
        shard_count: (head >> 48) as u16,
        position: Position(position),
        time: Time(time),
        floor: Time(floor),
        generation_next: word(bytes, 4)?,
    };
    Ok((ImageEntry::Start(start), 40))
}
