//! The open batch: record bytes that a shard has written and the shell has not yet sealed.
//!
//! The shell owns it, says where in the log the next record will stand (`begin`) and takes the bytes when it
//! seals a batch. The shard appends. Neighbouring ends, checkpoints and renewals of one time share a record of up
//! to 4,096 entries, so that a mass expiry costs 16 bytes a lease.
//!
//! Invariants: **S6** time-forward (the clock records in it never step back), **S9** once (each end has a position of
//! its own, listed in [`RecordBuffer::ends`]). Does not know checksums, batch headers or files.

use super::*;
use crate::limits::{ENDED_ITEM_COUNT_MAX, ITEM_BYTES_MAX, RECORD_ENTRY_COUNT_MAX, TIME_MS_MAX};
use std::ops::Range;

/// Record bytes of one batch in the making, and what the shell needs to know about them.
#[derive(Debug, Default)]
pub struct RecordBuffer {
    start: Position,
    bytes: Vec<u8>,
    time: Time,
    ends: Vec<EndRange>,
    record_count: u32,
    open: Option<OpenRecord>,
}

/// Where a revoked, expired or ended-items record stands in the open batch.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EndRange {
    /// Its bytes, counted from the batch's first record.
    pub bytes: Range<usize>,
    /// Its engine time.
    pub time: Time,
}

/// The last record, while more entries may join it.
#[derive(Clone, Copy, Debug)]
struct OpenRecord {
    offset: usize,
    kind: u8,
    flags: u8,
    count: u32,
}

impl RecordBuffer {
    /// An empty buffer whose first record will stand at `start`, with the shard's clock at `time`.
    pub fn new(start: Position, time: Time) -> RecordBuffer {
        let mut buffer = RecordBuffer::default();
        buffer.begin(start, time);
        buffer
    }

    /// Forgets everything (keeping the allocation): the next record will stand at `start`, and `time` is what the
    /// batch header will say.
    ///
    /// # Panics
    /// When `start` is 0 (a token is never 0) or not a multiple of 8, or steps back behind the records written.
    pub fn begin(&mut self, start: Position, time: Time) {
        assert!(start.0 > 0 && start.0.is_multiple_of(8), "records are 8-byte aligned and never stand at 0");
        assert!(start >= self.tail() || self.start == Position::ZERO, "S9 once: the log never steps back");
        self.start = start;
        self.time = time;
        self.bytes.clear();
        self.ends.clear();
        self.record_count = 0;
        self.open = None;
    }

    /// Where the first record of this batch stands.
    pub fn start(&self) -> Position {
        self.start
    }

    /// Where the next record will stand.
    #[inline]
    pub fn tail(&self) -> Position {
        Position(self.start.0 + self.bytes.len() as u64)
    }

    /// The record bytes so far; a multiple of 8.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Time of the last record; of the batch header while there is none.
    pub fn time(&self) -> Time {
        self.time
    }

    /// Nothing written since `begin`.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Records written since `begin`, clock records included.
    pub fn record_count(&self) -> u32 {
        self.record_count
    }

    /// Byte ranges of the revoked, expired and ended-items records: what the event stream is made of.
    pub fn ends(&self) -> &[EndRange] {
        &self.ends
    }

    /// Brings the clock to `now`, by a record if it differs. The shard calls it before each other record; the shell, to
    /// carry the clock into an idle log.
    ///
    /// S6: a step back is a bug of the caller.
    #[inline]
    pub fn stamp(&mut self, now: Time) {
        if now != self.time {
            self.stamp_slow(now);
        }
    }

    #[cold]
    fn stamp_slow(&mut self, now: Time) {
        assert!(now > self.time, "S6 time-forward: log at {}, record at {now}", self.time);
        assert!(now.0 <= TIME_MS_MAX, "S6 time-forward: {now} is beyond the clock's range");
        self.time = now;
        self.header(KIND_CLOCK, 0, [0; 6]);
        self.word(now.0);
    }

    /// Appends a grant; the caller has stamped the time. Its position is the tail before the call.
    pub(crate) fn grant(&mut self, id: LeaseId, ttl_ms: u64, flags: u8, key: Option<GrantKey>) {
        debug_assert!(ttl_ms < 1 << 48);
        let ttl = ttl_ms.to_le_bytes();
        let kind = if key.is_some() { KIND_GRANT_NAMED } else { KIND_GRANT };
        self.header(kind, flags, [ttl[0], ttl[1], ttl[2], ttl[3], ttl[4], ttl[5]]);
        self.word(id.0);
        if let Some(key) = key {
            self.word(key.client);
            self.word(key.request);
        }
    }

    /// Appends the end of one lease, joining the record before it when cause and flag agree.
    #[inline]
    pub(crate) fn end(&mut self, cause: Cause, items_follow: bool, id: LeaseId, token: Token) {
        let kind = match cause {
            Cause::Revoked => KIND_REVOKED,
            Cause::Expired => KIND_EXPIRED,
        };
        let flags = if items_follow { END_ITEMS_FOLLOW } else { 0 };
        if self.entry(kind, flags) {
            let offset = self.bytes.len() - ENTRIES_OFFSET;
            self.ends.push(EndRange { bytes: offset..offset, time: self.time });
        }
        self.word(id.0);
        self.word(token.0);
        let end = self.bytes.len();
        if let Some(range) = self.ends.last_mut() {
            range.bytes.end = end;
        }
    }

    /// Appends one checkpointed deadline.
    pub(crate) fn checkpoint(&mut self, id: LeaseId, token: Token, deadline: Time) {
        self.entry(KIND_CHECKPOINT, 0);
        self.word(id.0);
        self.word(token.0);
        self.word(deadline.0);
    }

    /// Appends one renewal; `exact` when its deadline holds across a restart.
    pub(crate) fn renewal(&mut self, exact: bool, id: LeaseId, token: Token, deadline: Time) {
        self.entry(KIND_RENEWAL, if exact { RENEWAL_EXACT } else { 0 });
        self.word(id.0);
        self.word(token.0);
        self.word(deadline.0);
    }

    /// Appends an attach.
    pub(crate) fn attach(&mut self, id: LeaseId, token: Token, item: &[u8]) {
        self.item(KIND_ATTACH, id, token, item);
    }

    /// Appends a detach.
    pub(crate) fn detach(&mut self, id: LeaseId, token: Token, item: &[u8]) {
        self.item(KIND_DETACH, id, token, item);
    }

    /// Appends a slice of the items of an ended lease.
    pub(crate) fn ended_items(
        &mut self,
        id: LeaseId,
        token: Token,
        items: &[std::sync::Arc<[u8]>],
        last: bool,
    ) {
        assert!(!items.is_empty() && items.len() <= ENDED_ITEM_COUNT_MAX, "S8 bounded: items of one record");
        let byte_len: usize = items.iter().map(|item| 2 + item.len()).sum();
        let offset = self.bytes.len();
        let count = (items.len() as u16).to_le_bytes();
        let length = (byte_len as u32).to_le_bytes();
        let flags = if last { ITEMS_LAST } else { 0 };
        self.header(
            KIND_ENDED_ITEMS,
            flags,
            [count[0], count[1], length[0], length[1], length[2], length[3]],
        );
        self.word(id.0);
        self.word(token.0);
        for item in items {
            self.bytes.extend_from_slice(&(item.len() as u16).to_le_bytes());
            self.bytes.extend_from_slice(item);
        }
        self.pad();
        self.ends.push(EndRange { bytes: offset..self.bytes.len(), time: self.time });
    }

    /// Appends a promotion.
    pub(crate) fn promote(&mut self, extend_ms: u64) {
        self.header(KIND_PROMOTE, 0, [0; 6]);
        self.word(extend_ms);
    }

    /// Appends a demotion.
    pub(crate) fn demote(&mut self) {
        self.header(KIND_DEMOTE, 0, [0; 6]);
    }

    /// Makes room for one entry in the open record of this kind and flags, or opens one; true when it opened.
    #[inline]
    fn entry(&mut self, kind: u8, flags: u8) -> bool {
        if let Some(open) = &mut self.open
            && open.kind == kind
            && open.flags == flags
            && (open.count as usize) < RECORD_ENTRY_COUNT_MAX
        {
            open.count += 1;
            let (at, count) = (open.offset + 4, open.count);
            self.bytes[at..at + 4].copy_from_slice(&count.to_le_bytes());
            return false;
        }
        let offset = self.bytes.len();
        self.header(kind, flags, [0, 0, 1, 0, 0, 0]);
        self.open = Some(OpenRecord { offset, kind, flags, count: 1 });
        true
    }

    #[inline]
    fn header(&mut self, kind: u8, flags: u8, rest: [u8; 6]) {
        self.open = None;
        self.record_count += 1;
        let [a, b, c, d, e, f] = rest;
        self.bytes.extend_from_slice(&[kind, flags, a, b, c, d, e, f]);
    }

    #[inline]
    fn word(&mut self, word: u64) {
        self.bytes.extend_from_slice(&word.to_le_bytes());
    }

    fn item(&mut self, kind: u8, id: LeaseId, token: Token, item: &[u8]) {
        assert!(item.len() <= ITEM_BYTES_MAX, "S8 bounded: item of {} bytes", item.len());
        let length = (item.len() as u16).to_le_bytes();
        self.header(kind, 0, [length[0], length[1], 0, 0, 0, 0]);
        self.word(id.0);
        self.word(token.0);
        self.bytes.extend_from_slice(item);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(padded(self.bytes.len()), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn buffer() -> RecordBuffer {
        RecordBuffer::new(Position(64), Time(5))
    }

    #[test]
    fn ends_of_one_call_share_a_record_up_to_the_limit() {
        let mut log = buffer();
        for i in 0..RECORD_ENTRY_COUNT_MAX as u64 + 1 {
            log.end(Cause::Expired, false, LeaseId(i + 1), Token(8));
        }
        assert_eq!(log.record_count(), 2);
        let ranges: Vec<_> = log.ends().iter().map(|end| end.bytes.clone()).collect();
        assert_eq!(ranges, [0..8 + 16 * 4096, 8 + 16 * 4096..8 + 16 * 4096 + 24]);
        assert!(log.ends().iter().all(|end| end.time == Time(5)));
        log.end(Cause::Revoked, false, LeaseId(9), Token(8));
        log.end(Cause::Revoked, true, LeaseId(9), Token(8));
        assert_eq!(log.record_count(), 4, "neither cause nor flag may be mixed");
    }

    #[test]
    fn another_record_or_time_closes_the_open_one() {
        let mut log = buffer();
        log.end(Cause::Expired, false, LeaseId(1), Token(8));
        log.stamp(Time(6));
        log.end(Cause::Expired, false, LeaseId(2), Token(8));
        assert_eq!(log.record_count(), 3);
        assert_eq!(log.time(), Time(6));
        log.begin(log.tail(), Time(6));
        log.end(Cause::Expired, false, LeaseId(3), Token(8));
        assert_eq!((log.record_count(), log.bytes().len()), (1, 24));
    }

    #[test]
    #[should_panic(expected = "S6 time-forward")]
    fn a_step_back_is_a_bug() {
        buffer().stamp(Time(4));
    }
}
