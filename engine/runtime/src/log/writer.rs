//! The group-commit writer of one shard's log, without I/O: bytes in, writes to carry out, and
//! positions that became durable.
//!
//! The intuition: records gather in the caller's buffer while writes are under way. [`seal`] puts a
//! header before them and queues the batch; [`next_write`] hands out up to four writes at a time;
//! [`completed`] takes outcomes in any order and reports durability strictly in log order. The place
//! of the open batch is fixed when the batch before it is sealed, so the caller knows every record's
//! position while appending: a batch is opened only where a largest batch fits, else at the start of
//! the next segment.
//!
//! ```text
//!   segment n                                        segment n + 1
//!   | batch | batch | batch | batch | batch | (room for less than a largest batch) | batch | …
//!     durable         in flight ≤ 4   queued                                         open
//! ```
//! - **S3**: [`completed`] reports a position only when every batch before it has completed.
//! - **S5**: places depend on the sizes of sealed batches alone, never on timing.
//! - **S8**: a batch is bounded; the caller bounds how many it queues by [`queued_bytes`].
//!
//! It neither opens nor writes files (a [`SegmentFile`] is only passed along) and decides no moment
//! to seal. After a fault it hands out nothing more.
//!
//! [`seal`]: LogWriter::seal
//! [`next_write`]: LogWriter::next_write
//! [`completed`]: LogWriter::completed
//! [`queued_bytes`]: LogWriter::queued_bytes

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use tenure_core::{Position, Time};

use super::aligned::{AlignedBuffer, BufferPool};
use super::batch::{BatchHeader, PREVIOUS_NONE};
use super::error::LogFault;
use super::limits::{BATCH_BYTES_MAX, BLOCK_BYTES, HEADER_BYTES, WRITES_IN_FLIGHT_MAX};
use super::segment::{SegmentFile, SyncMode};

/// What a writer is told once.
#[derive(Clone, Copy, Debug)]
pub struct WriterConfig {
    /// Random identity of the log.
    pub log_id: u64,
    /// The shard.
    pub shard: u16,
    /// This run's epoch, durable in the manifest before the first write.
    pub epoch: u32,
    /// Size of the segments that will be offered, bytes.
    pub segment_bytes: u64,
    /// Largest batch, header included, bytes. [`BATCH_BYTES_MAX`] outside of tests.
    pub batch_bytes_max: usize,
    /// Writes handed out at a time, at most [`WRITES_IN_FLIGHT_MAX`].
    pub in_flight_max: usize,
    /// Whether a completed write is durable.
    pub sync: SyncMode,
}

/// Where the log goes on: the padded end of the last batch, and that batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tail {
    /// First place no valid batch covers; a multiple of 4096.
    pub place: u64,
    /// Header place of the last batch; `u64::MAX` when there is none.
    pub previous: u64,
}

impl Tail {
    /// The tail of a log that has no batch yet and starts at `start`.
    #[must_use]
    pub fn empty(start: u64) -> Tail {
        Tail { place: start, previous: PREVIOUS_NONE }
    }
}

/// A write to carry out. The bytes belong to the writer and stay put until `completed`.
#[derive(Debug)]
pub struct LogWrite {
    /// Names the write in [`LogWriter::completed`].
    pub id: u64,
    /// File to write to, opened as the durability asks.
    pub file: Arc<SegmentFile>,
    /// Byte offset in the file, a multiple of 4096.
    pub offset: u64,
    /// First byte, 4096-aligned. [`LogWriter::write_bytes`] is the safe way to the same bytes.
    pub address: *const u8,
    /// Bytes, a multiple of 4096.
    pub length: usize,
}

/// Files to sync and what is durable once they are: for logs that are not synced on each write.
#[derive(Clone, Debug)]
pub struct SyncRequest {
    /// Every segment written to since the last request.
    pub files: Vec<Arc<SegmentFile>>,
    /// Every record below this position is on disk once the sync is done: to be handed to
    /// [`LogWriter::synced`] then.
    pub through: u64,
}

/// See the module's header.
pub struct LogWriter {
    config: WriterConfig,
    /// Held segments, oldest first, contiguous, ending at `next_base`.
    segments: VecDeque<Arc<SegmentFile>>,
    next_base: u64,
    /// Where the open batch's header will stand, and where the segment it stands in ends.
    open: u64,
    open_segment_end: u64,
    previous: u64,
    queue: VecDeque<Sealed>,
    in_flight: VecDeque<InFlight>,
    queued_bytes: usize,
    write_id_next: u64,
    /// Records below this are written, in order, without a gap.
    acknowledged: u64,
    /// Padded end of the last batch completed in order, and of the last known durable.
    written_end: u64,
    durable_end: u64,
    unsynced: Vec<Arc<SegmentFile>>,
    /// Records below this were reached by a sync, or recovered.
    synced: u64,
    /// Syncs under way: the position each will reach, and the padded end of the batch before it.
    syncing: VecDeque<(u64, u64)>,
    segment_refused: bool,
    faulted: bool,
    pool: BufferPool,
}

struct Sealed {
    header: BatchHeader,
    buffer: AlignedBuffer,
    /// First record position of the batch after.
    next_first: u64,
}

struct InFlight {
    id: u64,
    sealed: Sealed,
    file: Arc<SegmentFile>,
    done: bool,
}

impl LogWriter {
    /// A writer that goes on at `tail`. `current` is the segment the tail stands in, when there is
    /// one; without, the first segment must be offered with base `tail.place`.
    #[must_use]
    pub fn new(config: WriterConfig, tail: Tail, current: Option<Arc<SegmentFile>>) -> LogWriter {
        assert!((HEADER_BYTES + 1..=BATCH_BYTES_MAX).contains(&config.batch_bytes_max), "S8: batch size");
        assert!(config.batch_bytes_max.is_multiple_of(BLOCK_BYTES), "batches fill blocks");
        assert!((1..=WRITES_IN_FLIGHT_MAX).contains(&config.in_flight_max), "S8: writes in flight");
        assert!(config.segment_bytes >= config.batch_bytes_max as u64, "a segment holds a largest batch");
        assert!(tail.place.is_multiple_of(BLOCK_BYTES as u64), "a batch starts at a block");
        let segment_end = current.as_ref().map_or(tail.place + config.segment_bytes, |segment| segment.end());
        let next_base = current.as_ref().map_or(tail.place, |segment| segment.end());
        if let Some(segment) = &current {
            assert!((segment.base()..=segment.end()).contains(&tail.place), "the tail stands in its segment");
        }
        let mut writer = LogWriter {
            config,
            segments: current.into_iter().collect(),
            next_base,
            open: tail.place,
            open_segment_end: segment_end,
            previous: tail.previous,
            queue: VecDeque::new(),
            in_flight: VecDeque::new(),
            queued_bytes: 0,
            write_id_next: 0,
            acknowledged: 0,
            written_end: tail.place,
            durable_end: tail.place,
            unsynced: Vec::new(),
            synced: 0,
            syncing: VecDeque::new(),
            segment_refused: false,
            faulted: false,
            pool: BufferPool::default(),
        };
        writer.open_at(tail.place);
        writer.acknowledged = writer.open + HEADER_BYTES as u64;
        writer.synced = writer.acknowledged;
        writer
    }

    /// Where the first record of the open batch stands.
    #[must_use]
    pub fn position(&self) -> Position {
        Position(self.open + HEADER_BYTES as u64)
    }

    /// Every record below this is written (and durable, when each write is): what may be told.
    #[must_use]
    pub fn acknowledged(&self) -> Position {
        Position(self.acknowledged)
    }

    /// Every record below this is on disk: as [`acknowledged`](Self::acknowledged) when each write is
    /// synced, else as far as syncs have reached. What recovery found is on disk from the start.
    #[must_use]
    pub fn durable(&self) -> Position {
        match self.config.sync {
            SyncMode::EachWrite => Position(self.acknowledged),
            SyncMode::Later => Position(self.synced),
        }
    }

    /// Record bytes the open batch may hold.
    #[must_use]
    pub fn record_bytes_max(&self) -> usize {
        self.config.batch_bytes_max - HEADER_BYTES
    }

    /// Closes the open batch over `records`, which begin at [`position`](Self::position), and
    /// queues it. `time` is the engine time before the first record. Returns the position of the
    /// next batch's first record.
    pub fn seal(&mut self, records: &[u8], record_count: u32, time: Time) -> Position {
        assert!(!records.is_empty(), "an empty batch says nothing");
        assert!(records.len() <= self.record_bytes_max(), "S8: {} record bytes in a batch", records.len());
        let length = HEADER_BYTES + records.len();
        let padded = length.next_multiple_of(BLOCK_BYTES);
        let mut buffer = self.pool.take(padded);
        let bytes = &mut buffer.bytes_mut()[..padded];
        bytes[HEADER_BYTES..length].copy_from_slice(records);
        bytes[length..].fill(0);
        let header = BatchHeader {
            length: u32::try_from(length).expect("S8: a batch is at most 1 MiB"),
            position: self.open,
            previous: self.previous,
            durable: 0, // known when the batch is handed out
            time_ms: time.0,
            log_id: self.config.log_id,
            epoch: self.config.epoch,
            record_count,
            shard: self.config.shard,
        };
        self.previous = self.open;
        self.open_at(header.padded_end());
        self.queued_bytes += padded;
        self.queue.push_back(Sealed { header, buffer, next_first: self.open + HEADER_BYTES as u64 });
        self.position()
    }

    /// Opens the next batch at `place`, or in the next segment when a largest batch would not fit.
    fn open_at(&mut self, place: u64) {
        if place + self.config.batch_bytes_max as u64 <= self.open_segment_end {
            self.open = place;
        } else {
            self.open = self.open_segment_end;
            self.open_segment_end += self.config.segment_bytes;
        }
    }

    /// The next write, if there is a sealed batch, a segment to put it in, and fewer than the
    /// allowed number in flight.
    pub fn next_write(&mut self) -> Option<LogWrite> {
        if self.faulted || self.in_flight.len() >= self.config.in_flight_max {
            return None;
        }
        let place = self.queue.front()?.header.position;
        while self.segments.front().is_some_and(|segment| segment.end() <= place) {
            self.segments.pop_front();
        }
        let file = Arc::clone(self.segments.front()?);
        assert!(file.base() <= place, "segments are held in order");
        let mut sealed = self.queue.pop_front()?;
        sealed.header.durable = self.durable_end;
        let length = usize::try_from(sealed.header.padded_bytes()).expect("S8: a batch is at most 1 MiB");
        sealed.header.encode(&mut sealed.buffer.bytes_mut()[..sealed.header.length as usize]);
        let id = self.write_id_next;
        self.write_id_next += 1;
        let offset = place - file.base();
        let write =
            LogWrite { id, file: Arc::clone(&file), offset, address: sealed.buffer.bytes().as_ptr(), length };
        self.in_flight.push_back(InFlight { id, sealed, file, done: false });
        Some(write)
    }

    /// The bytes of a write in flight, for drivers that take slices.
    #[must_use]
    pub fn write_bytes(&self, write: &LogWrite) -> &[u8] {
        let flight =
            self.in_flight.iter().find(|flight| flight.id == write.id).expect("the write is in flight");
        &flight.sealed.buffer.bytes()[..write.length]
    }

    /// Takes the outcome of a write. `Some`: every record below the position is now written.
    ///
    /// # Errors
    /// The write failed or was short. The caller ends the process; the writer hands out no more.
    pub fn completed(&mut self, id: u64, result: io::Result<usize>) -> Result<Option<Position>, LogFault> {
        let Some(flight) = self.in_flight.iter_mut().find(|flight| flight.id == id) else {
            assert!(tenure_planted::is(tenure_planted::Bug::AckOutOfOrder), "the write is in flight");
            return Ok(None);
        };
        let length =
            usize::try_from(flight.sealed.header.padded_bytes()).expect("S8: a batch is at most 1 MiB");
        let reason = match result {
            Ok(written) if written == length => None,
            Ok(written) => Some(format!("only {written} bytes were written")),
            Err(error) => Some(error.to_string()),
        };
        if let Some(reason) = reason {
            self.faulted = true;
            let path = flight.file.path().to_owned();
            return Err(LogFault {
                path,
                offset: flight.sealed.header.position - flight.file.base(),
                length,
                reason,
            });
        }
        assert!(
            !flight.done || tenure_planted::is(tenure_planted::Bug::AckOutOfOrder),
            "a write completes once"
        );
        flight.done = true;
        Ok(self.advance().then_some(Position(self.acknowledged)))
    }

    /// Takes finished writes off the front: durability is reported in order (S3).
    fn advance(&mut self) -> bool {
        let before = self.acknowledged;
        let planted = tenure_planted::is(tenure_planted::Bug::AckOutOfOrder);
        if planted && let Some(done) = self.in_flight.iter().rposition(|flight| flight.done) {
            self.in_flight.iter_mut().take(done).for_each(|flight| flight.done = true);
        }
        while self.in_flight.front().is_some_and(|flight| flight.done) {
            let Some(InFlight { sealed, file, .. }) = self.in_flight.pop_front() else { break };
            assert!(sealed.next_first > self.acknowledged, "S3: the durable position only moves forward");
            self.acknowledged = sealed.next_first;
            self.written_end = sealed.header.padded_end();
            if self.config.sync == SyncMode::EachWrite {
                self.durable_end = self.written_end;
            } else if !self.unsynced.iter().any(|known| known.base() == file.base()) {
                self.unsynced.push(file);
            }
            self.queued_bytes -=
                usize::try_from(sealed.header.padded_bytes()).expect("S8: a batch is at most 1 MiB");
            self.pool.give(sealed.buffer);
        }
        self.acknowledged > before
    }

    /// Writes handed out and not completed.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// Bytes sealed and not yet completed: the backlog of the disk.
    #[must_use]
    pub fn queued_bytes(&self) -> usize {
        self.queued_bytes
    }

    /// Whether everything sealed has completed.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.queue.is_empty() && self.in_flight.is_empty()
    }

    /// Padded end of the last batch that completed in order: what a clean stop records as the tail.
    #[must_use]
    pub fn written_end(&self) -> u64 {
        self.written_end
    }

    /// Base of the segment that should be prepared now: one is wanted ahead of the open batch's at
    /// all times. The answer stays the same until it is offered.
    #[must_use]
    pub fn needs_segment(&self) -> Option<u64> {
        let held_ahead = self.segments.back().is_some_and(|segment| segment.base() > self.open);
        (!held_ahead).then_some(self.next_base)
    }

    /// Hands over the segment that [`needs_segment`](Self::needs_segment) asked for.
    pub fn offer_segment(&mut self, segment: Arc<SegmentFile>) {
        assert_eq!(segment.base(), self.next_base, "segments are offered in order");
        assert_eq!(
            segment.length(),
            self.config.segment_bytes,
            "places were computed with this segment size"
        );
        self.next_base = segment.end();
        self.segments.push_back(segment);
        self.segment_refused = false;
    }

    /// Notes that the wanted segment cannot be prepared for now: the disk is full.
    pub fn segment_refused(&mut self) {
        self.segment_refused = true;
    }

    /// Whether the log has no room because no segment can be prepared. Writes should be refused
    /// by name; what is durable stays so, and this ends when a segment is offered.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.segment_refused && self.open >= self.next_base
    }

    /// What to sync, when something has been written since the last time. Only for
    /// [`SyncMode::Later`].
    pub fn take_sync(&mut self) -> Option<SyncRequest> {
        if self.unsynced.is_empty() {
            return None;
        }
        self.syncing.push_back((self.acknowledged, self.written_end));
        Some(SyncRequest { files: std::mem::take(&mut self.unsynced), through: self.acknowledged })
    }

    /// Notes that the [`SyncRequest`] through this position was carried out, and those before it.
    /// Later batches will vouch for it.
    pub fn synced(&mut self, through: u64) {
        assert!(through <= self.acknowledged, "S3: only what was written can be synced");
        while let Some((_, end)) = self.syncing.pop_front_if(|(position, _)| *position <= through) {
            self.durable_end = self.durable_end.max(end);
        }
        self.synced = self.synced.max(through);
    }
}

#[cfg(feature = "simulation")]
impl LogWriter {
    /// Takes the buffers of writes in flight back, which no kernel reads: after a simulated crash.
    pub(crate) fn forget_in_flight(&mut self) {
        self.in_flight.clear();
    }
}

impl Drop for LogWriter {
    /// The kernel may still read from buffers in flight; freed memory must not reach the log.
    fn drop(&mut self) {
        for flight in self.in_flight.drain(..) {
            std::mem::forget(flight.sealed.buffer);
        }
    }
}

#[cfg(test)]
mod tests;
