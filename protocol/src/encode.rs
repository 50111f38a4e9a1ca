//! Encoders: each appends one frame to the caller's buffer.
//!
//! Requests here, replies and events in [`reply`]. The frames of the hot path are built on the stack
//! and appended with one copy. Encoders do not check limits: what is too large for the peer is the
//! peer's to refuse, and the peer's limits are in its Welcome.

pub mod reply;

use crate::batch::GrantEntry;
use crate::frame::renew_frame;
use crate::id::{LeaseId, Position, RequestId};
use crate::opcode::{flag, request};
use crate::request::Grant;
use crate::writer::{FrameWriter, length_u16, words};

/// Appends a Ping.
pub fn ping(out: &mut Vec<u8>, request_id: RequestId, echo: u64) {
    words(out, request::PING, 0, request_id, [echo]);
}

/// Appends an Info.
pub fn info(out: &mut Vec<u8>, request_id: RequestId) {
    words(out, request::INFO, 0, request_id, []);
}

/// Appends a Grant.
#[inline]
pub fn grant(out: &mut Vec<u8>, request_id: RequestId, grant: Grant) {
    words(out, request::GRANT, 0, request_id, [grant.ttl_ms, grant.id.0, grant.sequence]);
}

/// Appends a GrantBatch. Entry `i` has the sequence `first_sequence + i`; 0: not identified.
///
/// # Panics
/// S8: with 2^32 entries or more.
pub fn grant_batch(
    out: &mut Vec<u8>,
    request_id: RequestId,
    first_sequence: u64,
    entries: impl ExactSizeIterator<Item = GrantEntry>,
) {
    let mut frame = FrameWriter::begin(out, request::GRANT_BATCH, 0, request_id);
    frame.reserve(16 + 16 * entries.len());
    frame.u32(u32::try_from(entries.len()).expect("S8: a batch is bounded"));
    frame.u32(0);
    frame.u64(first_sequence);
    for entry in entries {
        frame.u64(entry.ttl_ms);
        frame.u64(entry.id.0);
    }
    frame.finish();
}

/// Appends a Renew.
#[inline]
pub fn renew(out: &mut Vec<u8>, request_id: RequestId, id: LeaseId) {
    out.extend_from_slice(&renew_frame(request_id, id));
}

/// Appends a RenewBatch.
///
/// # Panics
/// S8: with 2^32 IDs or more.
pub fn renew_batch(out: &mut Vec<u8>, request_id: RequestId, ids: impl ExactSizeIterator<Item = LeaseId>) {
    id_batch(out, request::RENEW_BATCH, request_id, ids);
}

/// Appends a Revoke.
#[inline]
pub fn revoke(out: &mut Vec<u8>, request_id: RequestId, id: LeaseId) {
    words(out, request::REVOKE, 0, request_id, [id.0]);
}

/// Appends a RevokeBatch.
///
/// # Panics
/// S8: with 2^32 IDs or more.
pub fn revoke_batch(out: &mut Vec<u8>, request_id: RequestId, ids: impl ExactSizeIterator<Item = LeaseId>) {
    id_batch(out, request::REVOKE_BATCH, request_id, ids);
}

fn id_batch(
    out: &mut Vec<u8>,
    opcode: u8,
    request_id: RequestId,
    ids: impl ExactSizeIterator<Item = LeaseId>,
) {
    let count = ids.len();
    let mut frame = FrameWriter::begin(out, opcode, 0, request_id);
    frame.u32(u32::try_from(count).expect("S8: a batch is bounded"));
    frame.u32(0);
    // One resize and stores into place: appending word by word costs three times as much.
    for (place, id) in frame.grow(8 * count).as_chunks_mut::<8>().0.iter_mut().zip(ids) {
        *place = id.0.to_le_bytes();
    }
    frame.finish();
}

/// Appends a TimeToLive. With `items`, the reply has a page of items, starting after `after`.
///
/// # Panics
/// S8: when `after` is above 65,535 bytes.
pub fn time_to_live(
    out: &mut Vec<u8>,
    request_id: RequestId,
    id: LeaseId,
    items: bool,
    after: Option<&[u8]>,
) {
    let mut flags = 0;
    if items || after.is_some() {
        flags |= flag::ITEMS;
    }
    if after.is_some() {
        flags |= flag::AFTER;
    }
    let mut frame = FrameWriter::begin(out, request::TIME_TO_LIVE, flags, request_id);
    frame.u64(id.0);
    if let Some(after) = after {
        put_item(&mut frame, after);
    }
    frame.finish();
}

/// Appends a List. `limit` 0 asks for a full page; `cursor` 0 starts.
pub fn list(out: &mut Vec<u8>, request_id: RequestId, shard: u16, limit: u32, cursor: u64) {
    let first = u64::from(shard) | u64::from(limit) << 32;
    words(out, request::LIST, 0, request_id, [first, cursor]);
}

/// Appends an Attach.
///
/// # Panics
/// S8: when the item is above 65,535 bytes.
pub fn attach(out: &mut Vec<u8>, request_id: RequestId, id: LeaseId, item: &[u8]) {
    let mut frame = FrameWriter::begin(out, request::ATTACH, 0, request_id);
    frame.u64(id.0);
    put_item(&mut frame, item);
    frame.finish();
}

/// Appends a Detach.
///
/// # Panics
/// S8: when the item is above 65,535 bytes.
pub fn detach(out: &mut Vec<u8>, request_id: RequestId, id: LeaseId, item: &[u8]) {
    let mut frame = FrameWriter::begin(out, request::DETACH, 0, request_id);
    frame.u64(id.0);
    put_item(&mut frame, item);
    frame.finish();
}

/// Appends a LeaseOf.
///
/// # Panics
/// S8: when the item is above 65,535 bytes.
pub fn lease_of(out: &mut Vec<u8>, request_id: RequestId, item: &[u8]) {
    let mut frame = FrameWriter::begin(out, request::LEASE_OF, 0, request_id);
    put_item(&mut frame, item);
    frame.finish();
}

fn put_item(frame: &mut FrameWriter<'_>, item: &[u8]) {
    frame.u16(length_u16(item.len()));
    frame.u16(0);
    frame.bytes(item);
}

/// Appends a Subscribe.
pub fn subscribe(out: &mut Vec<u8>, request_id: RequestId, shard: u16, from: Position) {
    words(out, request::SUBSCRIBE, 0, request_id, [u64::from(shard), from.0]);
}

/// Appends an Unsubscribe for the subscription that was made with request id `subscription`.
pub fn unsubscribe(out: &mut Vec<u8>, request_id: RequestId, subscription: RequestId) {
    words(out, request::UNSUBSCRIBE, 0, request_id, [u64::from(subscription.0)]);
}

/// Appends a Promote.
pub fn promote(out: &mut Vec<u8>, request_id: RequestId, extend_ms: u64) {
    words(out, request::PROMOTE, 0, request_id, [extend_ms]);
}

/// Appends a Demote.
pub fn demote(out: &mut Vec<u8>, request_id: RequestId) {
    words(out, request::DEMOTE, 0, request_id, []);
}
