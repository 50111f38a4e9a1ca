//! End-of-lease events: what ended, why, where in the log; in order, durable before they are told (S3),
//! resumable from any position that the log still holds.
//!
//! The stream of a shard *is* its log, reduced to the records that end leases. The newest part is
//! kept in memory by an [`EventHub`]; a consumer that asks for older positions is served from the
//! log files until it has caught up (`history`). Nothing is queued per consumer, so a slow one
//! costs nothing and only falls behind.
//!
//! - **S9 once**: each end has one position. Delivery is at least once; a consumer that stores the
//!   position of the last event it has dealt with and resumes at [`Event::resume`] sees each once.
//! - **S8 bounded**: the hub keeps a stated number of bytes, what it takes to keep them included, and forgets the
//!   oldest.

mod history;
mod subscription;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tenure_core::{Cause, LeaseId, Position, Record, RecordBuffer, RecordIter, ShardIndex, Time, Token};

pub use self::history::{History, HistorySource};
pub use self::subscription::ShardEvents;
use crate::inbox::Inbox;

/// Where to start reading events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum From {
    /// What ends from now on.
    Now,
    /// Everything that is still kept.
    Oldest,
    /// At this position: what [`Event::resume`] of the last event dealt with says.
    At(Position),
}

/// One event of a shard's stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A lease ended.
    Ended {
        /// Its one place in the stream.
        position: Position,
        /// Engine time of the end.
        time: Time,
        /// Which lease.
        id: LeaseId,
        /// Which grant of that ID.
        token: Token,
        /// Why.
        cause: Cause,
        /// Whether the lease had items: they follow as [`Event::Items`].
        items_follow: bool,
    },
    /// Items that an ended lease had, in order; a big lease's leave in several of these.
    Items {
        /// Its one place in the stream.
        position: Position,
        /// Engine time at which they left.
        time: Time,
        /// The lease that ended.
        id: LeaseId,
        /// Which grant of that ID.
        token: Token,
        /// The items, sorted.
        items: Vec<Bytes>,
        /// Whether these are the last of the lease.
        last: bool,
    },
}

impl Event {
    /// Its place in the stream.
    #[must_use]
    pub fn position(&self) -> Position {
        match self {
            Event::Ended { position, .. } | Event::Items { position, .. } => *position,
        }
    }

    /// Where to go on reading once this event has been dealt with.
    #[must_use]
    pub fn resume(&self) -> Position {
        Position(self.position().0 + 1)
    }
}

/// One end record as it stands in the log.
#[derive(Clone, Debug)]
pub struct EventBlock {
    /// Position of the record.
    pub first: Position,
    /// Position after it.
    pub end: Position,
    /// Engine time of the record.
    pub time: Time,
    /// The record's bytes.
    pub bytes: Box<[u8]>,
}

impl EventBlock {
    /// The events at or after `from`, decoded.
    pub fn events(&self, from: Position) -> Vec<Event> {
        let mut events = Vec::new();
        for decoded in RecordIter::new(self.first, &self.bytes) {
            let (at, record) = decoded.expect("S4 replay-equal: a record that was just written decodes");
            self.push_events(at, &record, from, &mut events);
        }
        events
    }

    fn push_events(&self, at: Position, record: &Record<'_>, from: Position, events: &mut Vec<Event>) {
        let time = self.time;
        match record {
            Record::Ended { cause, items_follow, entries } => {
                for (index, (id, token)) in entries.clone().enumerate() {
                    let position = tenure_core::end_position(at, index);
                    if position >= from {
                        let (cause, items_follow) = (*cause, *items_follow);
                        events.push(Event::Ended { position, time, id, token, cause, items_follow });
                    }
                }
            }
            Record::EndedItems { id, token, last, items } if at >= from => {
                let items = items.clone().map(Bytes::copy_from_slice).collect();
                events.push(Event::Items { position: at, time, id: *id, token: *token, items, last: *last });
            }
            _ => {}
        }
    }
}

/// What a read from a hub gave.
#[derive(Debug)]
pub enum HubRead {
    /// Blocks, oldest first, perhaps none; go on reading at `next`.
    Blocks {
        /// The blocks; the first may begin before the position asked for.
        blocks: Vec<Arc<EventBlock>>,
        /// Where to go on.
        next: Position,
    },
    /// The hub no longer holds that position: read [`EventHub::history`] up to `oldest`.
    Behind {
        /// First position the hub holds.
        oldest: Position,
    },
    /// The hub no longer holds that position, and the log files do not hold it yet, which happens where events may be
    /// told before they are written: there is news when they do.
    Unwritten,
    /// The engine has stopped and everything has been read.
    Closed,
}

/// The newest part of one shard's event stream, shared with consumers on any thread.
pub struct EventHub {
    shard: ShardIndex,
    source: Option<HistorySource>,
    bytes_max: usize,
    durable: AtomicU64,
    /// Everything below stands in the log files.
    on_file: AtomicU64,
    recent: Mutex<Recent>,
    changed: event_listener::Event,
}

struct Recent {
    blocks: VecDeque<Arc<EventBlock>>,
    bytes: usize,
    oldest: Position,
    closed: bool,
    /// Cores whose services read this hub: woken when there is news.
    watchers: Vec<Arc<Inbox>>,
}

impl EventHub {
    pub(crate) fn new(shard: ShardIndex, source: Option<HistorySource>, bytes_max: usize) -> Self {
        let recent = Recent {
            blocks: VecDeque::new(),
            bytes: 0,
            oldest: Position(0),
            closed: false,
            watchers: Vec::new(),
        };
        EventHub {
            shard,
            source,
            bytes_max,
            durable: AtomicU64::new(0),
            on_file: AtomicU64::new(0),
            recent: Mutex::new(recent),
            changed: event_listener::Event::new(),
        }
    }

    /// The shard whose stream this is.
    #[must_use]
    pub fn shard(&self) -> ShardIndex {
        self.shard
    }

    /// Everything below has been published.
    #[must_use]
    pub fn durable(&self) -> Position {
        Position(self.durable.load(Ordering::Acquire))
    }

    /// First position the hub holds in memory.
    #[must_use]
    pub fn oldest(&self) -> Position {
        self.lock().oldest
    }

    /// Starts the stream at a recovered tail: older positions are in the log files only.
    pub(crate) fn start_at(&self, tail: Position) {
        self.lock().oldest = tail;
        self.durable.store(tail.0, Ordering::Release);
        self.on_file.store(tail.0, Ordering::Release);
    }

    /// Everything below stands in the log files. Behind [`durable`](EventHub::durable) only where
    /// events may be told before they are written.
    pub(crate) fn on_file(&self) -> Position {
        Position(self.on_file.load(Ordering::Acquire))
    }

    /// Notes how far the log files reach.
    pub(crate) fn written(&self, position: Position) {
        let before = Position(self.on_file.swap(position.0, Ordering::AcqRel));
        // Nobody waits for the files where nothing is told before it is in them.
        if before < position && before < self.durable() {
            let recent = self.lock();
            if before < recent.oldest {
                let watchers = recent.watchers.clone();
                drop(recent);
                self.tell(&watchers);
            }
        }
    }

    /// Appends what became durable.
    pub(crate) fn publish(&self, durable: Position, blocks: impl Iterator<Item = EventBlock>) {
        let watchers = {
            let mut recent = self.lock();
            for block in blocks {
                recent.push(block, self.bytes_max);
            }
            self.durable.store(durable.0, Ordering::Release);
            recent.watchers.clone()
        };
        self.tell(&watchers);
    }

    /// Wakes everybody who may wait for news.
    fn tell(&self, watchers: &[Arc<Inbox>]) {
        self.changed.notify(usize::MAX);
        for watcher in watchers {
            watcher.call();
        }
    }

    /// Notes durability without news.
    pub(crate) fn advance(&self, durable: Position) {
        self.durable.store(durable.0, Ordering::Release);
    }

    /// No more will come.
    pub(crate) fn close(&self) {
        self.lock().closed = true;
        self.changed.notify(usize::MAX);
    }

    /// Wakes this core from now on when there is news.
    pub(crate) fn watch(&self, inbox: &Arc<Inbox>) {
        let mut recent = self.lock();
        if !recent.watchers.iter().any(|known| Arc::ptr_eq(known, inbox)) {
            recent.watchers.push(Arc::clone(inbox));
        }
    }

    /// Blocks with events at or after `from`, about `bytes_max` bytes of them.
    #[must_use]
    pub fn read(&self, from: Position, bytes_max: usize) -> HubRead {
        let recent = self.lock();
        if from < recent.oldest {
            return match self.source {
                Some(_) if from >= self.on_file() && recent.closed => HubRead::Closed,
                Some(_) if from >= self.on_file() => HubRead::Unwritten,
                _ => HubRead::Behind { oldest: recent.oldest },
            };
        }
        let start = recent.blocks.partition_point(|block| block.end <= from);
        let mut blocks = Vec::new();
        let mut bytes = 0;
        for block in recent.blocks.range(start..) {
            if bytes >= bytes_max {
                break;
            }
            bytes += block.bytes.len();
            blocks.push(Arc::clone(block));
        }
        if blocks.is_empty() && recent.closed {
            return HubRead::Closed;
        }
        let next = blocks.last().map_or(from, |block| block.end);
        HubRead::Blocks { blocks, next }
    }

    /// Reads a stream's older part from the log files. Blocks: call it on a thread that may.
    ///
    /// # Errors
    /// The position is older than the kept log, or the files cannot be read.
    pub fn history(&self, from: Position, bytes_max: usize) -> Result<History, crate::error::EventsError> {
        history::read(self, self.source.as_ref(), from, bytes_max)
    }

    /// Resolves with the next news. Listen first, then read, then wait.
    #[must_use]
    pub fn listen(&self) -> event_listener::EventListener {
        self.changed.listen()
    }

    /// A reader of this stream.
    pub(crate) fn subscribe(self: &Arc<Self>, from: From) -> ShardEvents {
        ShardEvents::new(Arc::clone(self), from)
    }

    fn lock(&self) -> MutexGuard<'_, Recent> {
        // Nothing panics while holding it; a poisoned lock still holds a whole state.
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl EventBlock {
    /// Memory that it takes: most records are of one lease and smaller than what goes around them.
    fn footprint_bytes(&self) -> usize {
        /// Counters of the `Arc`, the place in the queue, and twice an allocator's own.
        const AROUND_BYTES: usize = 16 + 8 + 2 * 16;
        size_of::<EventBlock>() + AROUND_BYTES + self.bytes.len()
    }
}

impl Recent {
    fn push(&mut self, block: EventBlock, bytes_max: usize) {
        assert!(
            self.blocks.back().is_none_or(|last| last.end <= block.first),
            "S9 once: events out of order"
        );
        self.bytes += block.footprint_bytes();
        self.blocks.push_back(Arc::new(block));
        while self.bytes > bytes_max && self.blocks.len() > 1 {
            if let Some(gone) = self.blocks.pop_front() {
                self.bytes -= gone.footprint_bytes();
                self.oldest = gone.end;
            }
        }
    }
}

/// End records of sealed batches that are not yet durable.
#[derive(Default)]
pub(crate) struct PendingEvents {
    blocks: VecDeque<EventBlock>,
    published: Position,
}

impl PendingEvents {
    /// Copies the end records out of a batch that is being sealed.
    pub(crate) fn take(&mut self, records: &RecordBuffer) {
        for end in records.ends() {
            let bytes = &records.bytes()[end.bytes.clone()];
            let first = Position(records.start().0 + end.bytes.start as u64);
            let block = EventBlock {
                first,
                end: Position(first.0 + bytes.len() as u64),
                time: end.time,
                bytes: bytes.into(),
            };
            self.blocks.push_back(block);
        }
    }

    /// Publishes what has become durable.
    pub(crate) fn publish(&mut self, durable: Position, hub: &EventHub) {
        if durable <= self.published {
            return;
        }
        self.published = durable;
        let ready = self.blocks.partition_point(|block| block.end <= durable);
        if ready == 0 {
            hub.advance(durable);
        } else {
            if tenure_planted::is(tenure_planted::Bug::SkipsEvents) && ready > 1 {
                self.blocks.pop_front();
                return hub.publish(durable, self.blocks.drain(..ready - 1));
            }
            hub.publish(durable, self.blocks.drain(..ready));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(first: u64, len: usize) -> EventBlock {
        EventBlock {
            first: Position(first),
            end: Position(first + len as u64),
            time: Time(1),
            bytes: vec![0; len].into(),
        }
    }

    fn firsts(read: HubRead) -> (Vec<u64>, u64) {
        match read {
            HubRead::Blocks { blocks, next } => (blocks.iter().map(|block| block.first.0).collect(), next.0),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_memory_has_forgotten_and_no_file_has_is_waited_for() {
        let (disk, dir) = (crate::log::disk::DiskPort::default(), "nowhere".into());
        let log = crate::log::ShardLog { disk, dir, log_id: 1, shard: 0, start: 64, floor: 64, epoch: 1 };
        let hub = EventHub::new(ShardIndex(0), Some(HistorySource::new(log)), 0);
        hub.start_at(Position(64));
        hub.publish(Position(400), [block(64, 24), block(100, 40)].into_iter());
        assert!(matches!(hub.read(Position(64), 1), HubRead::Unwritten));
        let news = hub.listen();
        hub.written(Position(200));
        let woken = event_listener::Listener::wait_timeout(news, std::time::Duration::ZERO);
        assert!(woken.is_some(), "who waits for the files is told when they have grown");
        assert!(matches!(hub.read(Position(64), 1), HubRead::Behind { oldest: Position(88) }));
    }

    #[test]
    fn reads_resume_anywhere_and_the_oldest_is_forgotten() {
        let hub = EventHub::new(ShardIndex(0), None, 100 + 3 * block(0, 0).footprint_bytes());
        hub.start_at(Position(64));
        hub.publish(Position(400), [block(64, 24), block(100, 40), block(200, 24)].into_iter());
        assert_eq!(firsts(hub.read(Position(64), 1_000)), (vec![64, 100, 200], 224));
        assert_eq!(firsts(hub.read(Position(88), 1_000)), (vec![100, 200], 224));
        assert_eq!(firsts(hub.read(Position(110), 1)), (vec![100], 140), "inside a block; bounded");
        assert_eq!(firsts(hub.read(Position(224), 1_000)), (vec![], 224));
        hub.publish(Position(500), [block(400, 60)].into_iter());
        assert!(matches!(hub.read(Position(64), 1), HubRead::Behind { oldest: Position(140) }), "S8 bounded");
        assert_eq!(firsts(hub.read(Position(140), 1_000)), (vec![200, 400], 460));
        hub.close();
        assert!(matches!(hub.read(Position(460), 1), HubRead::Closed));
    }
}
