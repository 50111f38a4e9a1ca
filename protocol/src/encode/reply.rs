//! Encoders for what a server sends: replies, refusals, events.

use crate::batch::{Failed, Granted};
use crate::event::{EndedHead, EndedItemsHead, Event};
use crate::frame::renewed_frame;
use crate::id::{LeaseId, Position, RequestId, Token};
use crate::info::{InfoNumber, InfoText};
use crate::opcode::{REPLY, flag, push, request};
use crate::refusal::Refusal;
use crate::response::{Listed, TimeToLive};
use crate::writer::{FrameWriter, bounded_text, length_u16, words};

/// Appends a Pong.
pub fn pong(out: &mut Vec<u8>, request_id: RequestId, echo: u64) {
    words(out, request::PING | REPLY, 0, request_id, [echo]);
}

/// Appends the reply to an Info.
///
/// # Panics
/// S8: with 65,536 numbers or texts or more.
pub fn info<'t>(
    out: &mut Vec<u8>,
    request_id: RequestId,
    numbers: impl Iterator<Item = InfoNumber>,
    texts: impl Iterator<Item = InfoText<'t>>,
) {
    let mut frame = FrameWriter::begin(out, request::INFO | REPLY, 0, request_id);
    frame.u64(0);
    let (mut number_count, mut text_count) = (0usize, 0usize);
    for number in numbers {
        frame.u16(number.tag);
        frame.u16(number.index);
        frame.u32(0);
        frame.u64(number.value);
        number_count += 1;
    }
    for text in texts {
        let bytes = bounded_text(text.text).as_bytes();
        frame.u16(text.tag);
        frame.u16(length_u16(bytes.len()));
        frame.bytes(bytes);
        text_count += 1;
    }
    frame.patch_u32(0, u32::from(length_u16(number_count)) | u32::from(length_u16(text_count)) << 16);
    frame.finish();
}

#[inline]
fn flag_if(set: bool, flag: u8) -> u8 {
    if set { flag } else { 0 }
}

#[inline]
fn granted_flags(granted: &Granted) -> u8 {
    flag_if(granted.raised, flag::RAISED) | flag_if(granted.repeated, flag::REPEATED)
}

/// Appends a Granted.
#[inline]
pub fn granted(out: &mut Vec<u8>, request_id: RequestId, granted: &Granted) {
    let body = [granted.id.0, granted.token.0, granted.ttl_ms, granted.remaining_ms];
    words(out, request::GRANT | REPLY, granted_flags(granted), request_id, body);
}

/// Appends the reply to a GrantBatch: one result for each entry of the request, in its order.
///
/// # Panics
/// S8: with 2^32 results or more.
pub fn grant_batch(
    out: &mut Vec<u8>,
    request_id: RequestId,
    results: impl ExactSizeIterator<Item = Result<Granted, Refusal>>,
) {
    let mut frame = FrameWriter::begin(out, request::GRANT_BATCH | REPLY, 0, request_id);
    frame.reserve(8 + crate::batch::GRANT_RESULT_BYTES * results.len());
    frame.u32(u32::try_from(results.len()).expect("S8: a batch is bounded"));
    frame.u32(0);
    for result in results {
        let body = match result {
            Ok(granted) => [
                u64::from(granted_flags(&granted)) << 16,
                granted.id.0,
                granted.token.0,
                granted.ttl_ms,
                granted.remaining_ms,
            ],
            Err(refusal) => [u64::from(refusal.code()), 0, 0, 0, 0],
        };
        for word in body {
            frame.u64(word);
        }
    }
    frame.finish();
}

/// Appends a Renewed.
#[inline]
pub fn renewed(out: &mut Vec<u8>, request_id: RequestId, ttl_ms: u64) {
    out.extend_from_slice(&renewed_frame(request_id, ttl_ms));
}

/// Appends the reply to a RenewBatch of `count` IDs; `failed` by rising index. None failed: 16 bytes.
///
/// # Panics
/// L2: when the indexes do not rise or are not below `count`: the client could not tell which failed.
pub fn renew_batch(
    out: &mut Vec<u8>,
    request_id: RequestId,
    count: u32,
    failed: impl Iterator<Item = Failed>,
) {
    outcome(out, request::RENEW_BATCH | REPLY, request_id, count, failed);
}

/// Appends a Revoked.
#[inline]
pub fn revoked(out: &mut Vec<u8>, request_id: RequestId, token: Token, item_count: u64) {
    words(out, request::REVOKE | REPLY, 0, request_id, [token.0, item_count]);
}

/// Appends the reply to a RevokeBatch, as [`renew_batch`].
///
/// # Panics
/// As [`renew_batch`].
pub fn revoke_batch(
    out: &mut Vec<u8>,
    request_id: RequestId,
    count: u32,
    failed: impl Iterator<Item = Failed>,
) {
    outcome(out, request::REVOKE_BATCH | REPLY, request_id, count, failed);
}

fn outcome(
    out: &mut Vec<u8>,
    opcode: u8,
    request_id: RequestId,
    count: u32,
    failed: impl Iterator<Item = Failed>,
) {
    let mut failed = failed.peekable();
    if failed.peek().is_none() {
        let mut frame = FrameWriter::begin(out, opcode, flag::ALL, request_id);
        frame.u32(count);
        return frame.finish();
    }
    let mut frame = FrameWriter::begin(out, opcode, 0, request_id);
    frame.u32(count);
    frame.u32(0);
    let mut failed_count = 0;
    let mut above = 0u64;
    for entry in failed {
        let index = u64::from(entry.index);
        assert!(above <= index && entry.index < count, "L2: failed indexes rise and stay below the count");
        above = index + 1;
        frame.u32(entry.index);
        frame.u32(u32::from(entry.refusal.code()));
        failed_count += 1;
    }
    frame.patch_u32(4, failed_count);
    frame.finish();
}

/// Appends the reply to a TimeToLive, with the page of items that `reply` has, if any.
pub fn time_to_live(out: &mut Vec<u8>, request_id: RequestId, reply: &TimeToLive<'_>) {
    match &reply.items {
        Some(page) => time_to_live_with_items(out, request_id, reply, page.items.iter(), page.more),
        None => {
            let body = [reply.token.0, reply.ttl_ms, reply.remaining_ms, reply.item_count];
            words(out, request::TIME_TO_LIVE | REPLY, 0, request_id, body);
        }
    }
}

/// Appends the reply to a TimeToLive with a page made of `items` (`reply.items` is not looked at).
///
/// # Panics
/// S8: when an item is above 65,535 bytes.
pub fn time_to_live_with_items(
    out: &mut Vec<u8>,
    request_id: RequestId,
    reply: &TimeToLive<'_>,
    items: impl Iterator<Item: AsRef<[u8]>>,
    more: bool,
) {
    let flags = flag::ITEMS | flag_if(more, flag::MORE);
    let mut frame = FrameWriter::begin(out, request::TIME_TO_LIVE | REPLY, flags, request_id);
    for word in [reply.token.0, reply.ttl_ms, reply.remaining_ms, reply.item_count, 0] {
        frame.u64(word);
    }
    let count = put_items(&mut frame, items);
    frame.patch_u32(32, count);
    frame.finish();
}

fn put_items(frame: &mut FrameWriter<'_>, items: impl Iterator<Item: AsRef<[u8]>>) -> u32 {
    let mut count = 0;
    for item in items {
        let item = item.as_ref();
        frame.u16(length_u16(item.len()));
        frame.bytes(item);
        count += 1;
    }
    count
}

/// Appends a page of List. `next_cursor` 0: the last page.
///
/// # Panics
/// S8: with 2^32 entries or more.
pub fn list(
    out: &mut Vec<u8>,
    request_id: RequestId,
    next_cursor: u64,
    entries: impl ExactSizeIterator<Item = Listed>,
) {
    let mut frame = FrameWriter::begin(out, request::LIST | REPLY, 0, request_id);
    frame.reserve(16 + crate::response::LISTED_BYTES * entries.len());
    frame.u64(next_cursor);
    frame.u32(u32::try_from(entries.len()).expect("S8: a page is bounded"));
    frame.u32(0);
    for listed in entries {
        let item_count = u64::from(listed.item_count);
        for word in [listed.id.0, listed.token.0, listed.ttl_ms, listed.remaining_ms, item_count] {
            frame.u64(word);
        }
    }
    frame.finish();
}

/// Appends the reply to an Attach.
pub fn attached(out: &mut Vec<u8>, request_id: RequestId, token: Token, moved_from: Option<LeaseId>) {
    words(out, request::ATTACH | REPLY, 0, request_id, [token.0, moved_from.unwrap_or(LeaseId::NONE).0]);
}

/// Appends the reply to a Detach.
pub fn detached(out: &mut Vec<u8>, request_id: RequestId) {
    words(out, request::DETACH | REPLY, 0, request_id, []);
}

/// Appends the reply to a LeaseOf.
pub fn lease_of(out: &mut Vec<u8>, request_id: RequestId, found: Option<(LeaseId, Token)>) {
    let (id, token) = found.unwrap_or((LeaseId::NONE, Token(0)));
    words(out, request::LEASE_OF | REPLY, 0, request_id, [id.0, token.0]);
}

/// Appends a Subscribed.
pub fn subscribed(
    out: &mut Vec<u8>,
    request_id: RequestId,
    start: Position,
    oldest: Position,
    durable: Position,
) {
    words(out, request::SUBSCRIBE | REPLY, 0, request_id, [start.0, oldest.0, durable.0]);
}

/// Appends the reply to an Unsubscribe.
pub fn unsubscribed(out: &mut Vec<u8>, request_id: RequestId) {
    words(out, request::UNSUBSCRIBE | REPLY, 0, request_id, []);
}

/// Appends the reply to a Promote.
pub fn promoted(out: &mut Vec<u8>, request_id: RequestId) {
    words(out, request::PROMOTE | REPLY, 0, request_id, []);
}

/// Appends the reply to a Demote.
pub fn demoted(out: &mut Vec<u8>, request_id: RequestId) {
    words(out, request::DEMOTE | REPLY, 0, request_id, []);
}

/// Appends an event of the subscription that was made with `request_id`.
pub fn event(out: &mut Vec<u8>, request_id: RequestId, event: &Event<'_>) {
    match event {
        Event::Ended(e) => ended(out, request_id, &e.head, e.iter().map(|lease| (lease.id, lease.token))),
        Event::EndedItems(e) => ended_items(out, request_id, &e.head, e.items.iter()),
        Event::Progress { shard, position } => progress(out, request_id, *shard, *position),
        Event::Gap { shard, from, resumes_at } => gap(out, request_id, *shard, *from, *resumes_at),
    }
}

/// Appends an Ended event.
///
/// # Panics
/// S8, S9: when there is no entry or 2^32 or more.
pub fn ended(
    out: &mut Vec<u8>,
    request_id: RequestId,
    head: &EndedHead,
    entries: impl ExactSizeIterator<Item = (LeaseId, Token)>,
) {
    assert!(entries.len() > 0, "S9: an Ended event tells of at least one end");
    let flags = flag_if(head.items_follow, flag::ITEMS_FOLLOW);
    let mut frame = FrameWriter::begin(out, push::ENDED, flags, request_id);
    frame.reserve(24 + 16 * entries.len());
    frame.u16(head.shard);
    frame.u8(head.cause as u8);
    frame.u8(0);
    frame.u32(u32::try_from(entries.len()).expect("S8: an event is bounded"));
    frame.u64(head.time_ms);
    frame.u64(head.first.0);
    for (id, token) in entries {
        frame.u64(id.0);
        frame.u64(token.0);
    }
    frame.finish();
}

/// Appends an EndedItems event.
///
/// # Panics
/// S8: when an item is above 65,535 bytes.
pub fn ended_items(
    out: &mut Vec<u8>,
    request_id: RequestId,
    head: &EndedItemsHead,
    items: impl Iterator<Item: AsRef<[u8]>>,
) {
    let flags = flag_if(head.last, flag::LAST);
    let mut frame = FrameWriter::begin(out, push::ENDED_ITEMS, flags, request_id);
    frame.u32(u32::from(head.shard));
    frame.u32(0);
    for word in [head.position.0, head.id.0, head.token.0] {
        frame.u64(word);
    }
    let count = put_items(&mut frame, items);
    frame.patch_u32(4, count);
    frame.finish();
}

/// Appends a Progress event.
pub fn progress(out: &mut Vec<u8>, request_id: RequestId, shard: u16, position: Position) {
    words(out, push::PROGRESS, 0, request_id, [u64::from(shard), position.0]);
}

/// Appends a Gap event.
pub fn gap(out: &mut Vec<u8>, request_id: RequestId, shard: u16, from: Position, resumes_at: Position) {
    words(out, push::GAP, 0, request_id, [u64::from(shard), from.0, resumes_at.0]);
}

/// Appends a Refused. `detail` belongs to the refusal: see [`crate::Refused`].
pub fn refused(out: &mut Vec<u8>, request_id: RequestId, refusal: Refusal, detail: u64, text: &str) {
    refusal_frame(out, push::REFUSED, request_id, refusal, detail, text);
}

/// Appends a GoAway: the server closes the connection after this.
pub fn go_away(out: &mut Vec<u8>, refusal: Refusal, detail: u64, text: &str) {
    refusal_frame(out, push::GO_AWAY, RequestId(0), refusal, detail, text);
}

fn refusal_frame(
    out: &mut Vec<u8>,
    opcode: u8,
    request_id: RequestId,
    refusal: Refusal,
    detail: u64,
    text: &str,
) {
    let text = bounded_text(text);
    let mut frame = FrameWriter::begin(out, opcode, 0, request_id);
    frame.u16(refusal.code());
    frame.u16(length_u16(text.len()));
    frame.u32(0);
    frame.u64(detail);
    frame.bytes(text.as_bytes());
    frame.finish();
}
