//! The keeper: one thread per shard that does whatever may block, so that the core never does.
//!
//! It prepares the next segment ahead of need, writes snapshot files from chunks that the core hands
//! over, recycles the log behind them, and syncs where writes are not durable by themselves. Requests
//! go in without waiting, outcomes come back through [`poll`](ShardKeeper::poll) after `notify` was
//! called.
//!
//! ```text
//!   core turn ── want_segment · snapshot_chunk · request_sync ──> keeper thread ── files
//!        ^─────────────── notify, poll: KeeperEvent ──────────────────┘
//! ```
//! - **S3**: a snapshot gets its name only when the caller says that the log is durable to its end;
//!   segments are reclaimed only behind a named snapshot.
//! - **S8**: chunks waiting are bounded; one segment and one snapshot are asked for at a time.
//!
//! A full disk is not a fault: preparing is repeated each second until there is space, and
//! [`KeeperEvent::SegmentRefused`] says so once per attempt.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::JoinHandle;

use tenure_core::{Position, Time};

use super::depot::{Depot, SegmentSource};
use super::directory::ShardLog;
use super::error::{LogError, LogFault};
use super::limits::{HEADER_BYTES, SNAPSHOT_CHUNKS_WAITING_MAX, WRITES_IN_FLIGHT_MAX};
use super::recover::Recovered;
use super::segment::{SegmentFile, SyncMode};
use super::writer::{LogWriter, SyncRequest, WriterConfig};

mod worker;

use worker::Snapshot;
pub use worker::Worker;

/// How a shard's log is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeeperConfig {
    /// Size of new segments, bytes; a multiple of 1 MiB.
    pub segment_bytes: u64,
    /// Log kept behind a snapshot for consumers that resume, bytes.
    pub retain_bytes: u64,
    /// Whether a completed write is durable.
    pub sync: SyncMode,
}

/// What the keeper thread has to say.
#[derive(Debug)]
pub enum KeeperEvent {
    /// The segment asked for: to [`LogWriter::offer_segment`].
    SegmentReady(Arc<SegmentFile>),
    /// The segment cannot be made for now: to [`LogWriter::segment_refused`]. It is tried again.
    SegmentRefused {
        /// Where it is to be.
        dir: PathBuf,
        /// Why it cannot be.
        error: io::Error,
    },
    /// The sync through this place is done: to [`LogWriter::synced`].
    Synced(u64),
    /// A sync failed: the process must end.
    SyncFailed(LogFault),
    /// Contents and footer are durable; [`publish_snapshot`](ShardKeeper::publish_snapshot) may
    /// follow once the log is durable to the end given.
    SnapshotWritten {
        /// Where replay of the log completes the image.
        end: Position,
    },
    /// The snapshot has its name and the log behind it was recycled.
    SnapshotPublished {
        /// Where replay would begin.
        start: Position,
        /// First position still kept: events can be resumed from here on.
        oldest: Position,
    },
    /// The snapshot was given up; the log is whole without it.
    SnapshotFailed(io::Error),
}

/// The core's end of its keeper thread. Dropping it ends the thread after the request at hand.
pub struct ShardKeeper {
    requests: Sender<Request>,
    events: Receiver<KeeperEvent>,
    chunks_waiting: Arc<AtomicUsize>,
    wanted: Option<u64>,
    thread: Option<JoinHandle<()>>,
}

enum Request {
    Segment(u64),
    Sync(SyncRequest),
    Begin { start: u64, time_ms: u64 },
    Chunk(Vec<u8>),
    Finish { end: u64 },
    Publish,
    Abandon,
    Stop,
}

/// Opens a recovered shard for writing: its writer, with the segments at hand, the core's end of its
/// keeper, and the keeper's work, to be run on a thread or by hand. `epoch` is this run's, durable in the
/// manifest. `notify` is called by the work after each event.
///
/// # Errors
/// Files could not be opened, or there is no space for a first segment.
pub fn open_for_writing(
    log: &ShardLog,
    recovered: &Recovered,
    epoch: u32,
    config: KeeperConfig,
    notify: Arc<dyn Fn() + Send + Sync>,
) -> Result<(LogWriter, ShardKeeper, Worker), LogError> {
    let mut depot = Depot::open_on(&log.disk, &log.dir, config.segment_bytes, config.sync)?;
    let place = recovered.tail.place;
    let current = recovered.segments.iter().rfind(|segment| segment.base <= place && place <= segment.end());
    let mut ahead: Vec<_> = recovered.segments.iter().filter(|segment| segment.base > place).collect();
    let usable = ahead.iter().take_while(|segment| segment.length == config.segment_bytes).count();
    for unfit in ahead.drain(usable..).rev() {
        log.disk.remove(&unfit.path).map_err(LogError::io("remove", &unfit.path))?;
    }
    let current = current.map(|segment| depot.open_segment(segment)).transpose()?.map(Arc::new);
    let writer_config = WriterConfig {
        log_id: log.log_id,
        shard: log.shard,
        epoch,
        segment_bytes: config.segment_bytes,
        batch_bytes_max: log.disk.sizes().batch_bytes_max,
        in_flight_max: WRITES_IN_FLIGHT_MAX,
        sync: config.sync,
    };
    let mut writer = LogWriter::new(writer_config, recovered.tail, current);
    for segment in ahead {
        writer.offer_segment(Arc::new(depot.open_segment(segment)?));
    }
    // A shard never starts without a place for its first batch.
    while let Some(base) = writer.needs_segment().filter(|&base| writer.position().0 >= base) {
        let segment = depot.prepare(base).map_err(LogError::io("prepare a segment in", &log.dir))?;
        writer.offer_segment(Arc::new(segment));
    }
    let (keeper, worker) = ShardKeeper::new(log, epoch, config, Box::new(depot), notify);
    Ok((writer, keeper, worker))
}

impl ShardKeeper {
    /// The two ends, without a thread. `segments` makes and reclaims segment files.
    #[must_use]
    pub fn new(
        log: &ShardLog,
        epoch: u32,
        config: KeeperConfig,
        segments: Box<dyn SegmentSource>,
        notify: Arc<dyn Fn() + Send + Sync>,
    ) -> (ShardKeeper, Worker) {
        let (requests, inbox) = mpsc::channel();
        let (outbox, events) = mpsc::channel();
        let chunks_waiting = Arc::new(AtomicUsize::new(0));
        let worker = Worker {
            log: log.clone(),
            epoch,
            config,
            segments,
            inbox,
            outbox,
            notify,
            chunks_waiting: Arc::clone(&chunks_waiting),
            wanted: None,
            refused: false,
            snapshot: Snapshot::None,
        };
        (ShardKeeper { requests, events, chunks_waiting, wanted: None, thread: None }, worker)
    }

    /// Starts the thread that does the work.
    ///
    /// # Errors
    /// No thread could be started.
    pub fn start(&mut self, worker: Worker) -> io::Result<()> {
        let name = format!("keeper-{}", worker.log.shard);
        self.thread = Some(std::thread::Builder::new().name(name).spawn(move || worker.run())?);
        Ok(())
    }

    /// Asks for the segment at `base` ([`LogWriter::needs_segment`]). Asking again changes nothing.
    pub fn want_segment(&mut self, base: u64) {
        if self.wanted != Some(base) {
            self.wanted = Some(base);
            self.send(Request::Segment(base));
        }
    }

    /// Asks for a sync ([`LogWriter::take_sync`]).
    pub fn request_sync(&mut self, request: SyncRequest) {
        self.send(Request::Sync(request));
    }

    /// Begins a snapshot whose image is taken from now on: `start` is the position of the next
    /// record, `time` the engine time. One snapshot at a time.
    pub fn begin_snapshot(&mut self, start: Position, time: Time) {
        assert!(start.0 >= HEADER_BYTES as u64, "records stand behind a header");
        self.send(Request::Begin { start: start.0, time_ms: time.0 });
    }

    /// Whether [`snapshot_chunk`](Self::snapshot_chunk) would take a chunk.
    #[must_use]
    pub fn has_room_for_chunk(&self) -> bool {
        self.chunks_waiting.load(Ordering::Acquire) < SNAPSHOT_CHUNKS_WAITING_MAX
    }

    /// Hands over the next chunk of the image, 1 byte to 4 MiB.
    ///
    /// # Errors
    /// Too many are waiting: the chunk comes back, to be offered again in a later turn.
    pub fn snapshot_chunk(&mut self, chunk: Vec<u8>) -> Result<(), Vec<u8>> {
        if !self.has_room_for_chunk() {
            return Err(chunk);
        }
        self.chunks_waiting.fetch_add(1, Ordering::AcqRel);
        self.send(Request::Chunk(chunk));
        Ok(())
    }

    /// Ends the image: it is whole once the log has been replayed to `end`, the position after the
    /// last record so far. [`KeeperEvent::SnapshotWritten`] follows.
    pub fn finish_snapshot(&mut self, end: Position) {
        self.send(Request::Finish { end: end.0 });
    }

    /// Publishes the written snapshot. The log must be durable to its end.
    pub fn publish_snapshot(&mut self) {
        self.send(Request::Publish);
    }

    /// Gives the snapshot up and removes its file.
    pub fn abandon_snapshot(&mut self) {
        self.send(Request::Abandon);
    }

    /// The next thing the keeper has to say, if any.
    pub fn poll(&mut self) -> Option<KeeperEvent> {
        self.events.try_recv().ok()
    }

    fn send(&self, request: Request) {
        // Only a simulated crash drops the work before the core.
        let sent = self.requests.send(request).is_ok();
        assert!(sent || cfg!(feature = "simulation"), "the keeper thread lives as long as its handle");
    }
}

impl Drop for ShardKeeper {
    fn drop(&mut self) {
        // A thread that is gone needs no telling.
        let _ = self.requests.send(Request::Stop);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the keeper thread panicked");
        }
    }
}

#[cfg(test)]
mod tests;
