//! What the keeper does, one request at a time, on whatever thread it is called.
//!
//! Around it either a thread that waits for requests ([`Worker::run`]) or a simulator that steps it at
//! moments of its choosing. A segment that could not be made stays `wanted` and is tried again; a snapshot
//! that fails is given up as a whole, and the log is whole without it.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use tenure_core::Position;

use super::{KeeperConfig, KeeperEvent, Request};
use crate::log::depot::{SegmentSource, drop_old_snapshots};
use crate::log::directory::ShardLog;
use crate::log::error::LogFault;
use crate::log::limits::{HEADER_BYTES, PREPARE_RETRY_MS};
use crate::log::snapshot::{FinishedSnapshot, SnapshotHead, SnapshotWriter};
use crate::log::writer::SyncRequest;

/// The snapshot at hand.
pub(super) enum Snapshot {
    None,
    Writing(Box<SnapshotWriter>),
    Written(FinishedSnapshot),
    /// Failed: the rest of its chunks is thrown away.
    Failed,
}

/// See the module's header.
pub struct Worker {
    pub(super) log: ShardLog,
    pub(super) epoch: u32,
    pub(super) config: KeeperConfig,
    pub(super) segments: Box<dyn SegmentSource>,
    pub(super) inbox: Receiver<Request>,
    pub(super) outbox: Sender<KeeperEvent>,
    pub(super) notify: Arc<dyn Fn() + Send + Sync>,
    pub(super) chunks_waiting: Arc<AtomicUsize>,
    /// The segment still to be made, and when to try.
    pub(super) wanted: Option<(u64, Duration)>,
    /// The last attempt failed.
    pub(super) refused: bool,
    pub(super) snapshot: Snapshot,
}

impl Worker {
    /// Works until the core's end is gone.
    pub(super) fn run(mut self) {
        let started = Instant::now();
        loop {
            let request = match self.wanted {
                Some((_, at)) => self.inbox.recv_timeout(at.saturating_sub(started.elapsed())),
                None => self.inbox.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            match request {
                Ok(Request::Stop) | Err(RecvTimeoutError::Disconnected) => break,
                Ok(request) => self.serve(request, started.elapsed()),
                Err(RecvTimeoutError::Timeout) => {}
            }
            self.make_wanted(started.elapsed());
        }
        self.abandon();
    }

    /// One request's worth of work, if there is any: what the thread does between two waits. `elapsed`
    /// counts from any moment and never goes back.
    #[cfg(feature = "simulation")]
    pub fn step(&mut self, elapsed: Duration) -> bool {
        let request = match self.inbox.try_recv() {
            Ok(Request::Stop) => {
                self.abandon();
                return true;
            }
            Ok(request) => Some(request),
            Err(_) => None,
        };
        let worked = request.is_some() || self.wanted.is_some_and(|(_, at)| at <= elapsed);
        if let Some(request) = request {
            self.serve(request, elapsed);
        }
        self.make_wanted(elapsed);
        worked
    }

    /// When there is work although nobody asks.
    #[cfg(feature = "simulation")]
    #[must_use]
    pub fn next_wake(&self) -> Option<Duration> {
        self.wanted.map(|(_, at)| at)
    }

    fn tell(&self, event: KeeperEvent) {
        // The other end may be gone already: then nobody needs to know.
        let _ = self.outbox.send(event);
        (self.notify)();
    }

    fn serve(&mut self, request: Request, elapsed: Duration) {
        match request {
            Request::Segment(base) => self.wanted = Some((base, elapsed)),
            Request::Sync(request) => self.sync(&request),
            Request::Begin { start, time_ms } => self.begin(start, time_ms),
            Request::Chunk(chunk) => self.chunk(&chunk),
            Request::Finish { end } => self.finish(end),
            Request::Publish => self.publish(),
            Request::Abandon => self.abandon(),
            Request::Stop => unreachable!("handled by the loop"),
        }
    }

    fn make_wanted(&mut self, elapsed: Duration) {
        let Some((base, at)) = self.wanted else { return };
        if at > elapsed {
            return;
        }
        match self.segments.prepare(base) {
            Ok(segment) => {
                self.wanted = None;
                if std::mem::take(&mut self.refused) {
                    tracing::info!(shard = self.log.shard, path = %self.log.dir.display(), "there is room for the log again");
                }
                self.tell(KeeperEvent::SegmentReady(Arc::new(segment)));
            }
            Err(error) => {
                tracing::warn!(
                    shard = self.log.shard, path = %self.log.dir.display(), %error,
                    "cannot prepare the next log segment; trying again each second"
                );
                self.wanted = Some((base, elapsed + Duration::from_millis(PREPARE_RETRY_MS)));
                self.refused = true;
                self.tell(KeeperEvent::SegmentRefused { dir: self.log.dir.clone(), error });
            }
        }
    }

    fn sync(&mut self, request: &SyncRequest) {
        for segment in &request.files {
            if let Err(error) = segment.sync_data() {
                let path: PathBuf = segment.path().to_owned();
                let reason = format!("sync failed: {error}");
                return self.tell(KeeperEvent::SyncFailed(LogFault { path, offset: 0, length: 0, reason }));
            }
        }
        self.tell(KeeperEvent::Synced(request.through));
    }

    fn begin(&mut self, start: u64, time_ms: u64) {
        self.abandon();
        let head = SnapshotHead {
            log_id: self.log.log_id,
            shard: self.log.shard,
            epoch: self.epoch,
            start,
            time_ms,
        };
        match SnapshotWriter::create_on(&self.log.disk, &self.log.dir, head) {
            Ok(writer) => self.snapshot = Snapshot::Writing(Box::new(writer)),
            Err(error) => self.fail(error),
        }
    }

    fn chunk(&mut self, chunk: &[u8]) {
        self.chunks_waiting.fetch_sub(1, Ordering::AcqRel);
        if let Snapshot::Writing(writer) = &mut self.snapshot
            && let Err(error) = writer.chunk(chunk)
        {
            self.fail(error);
        }
        (self.notify)(); // there is room for the next one
    }

    fn finish(&mut self, end: u64) {
        let Snapshot::Writing(writer) = std::mem::replace(&mut self.snapshot, Snapshot::Failed) else {
            return;
        };
        match writer.finish(end) {
            Ok(finished) => {
                self.snapshot = Snapshot::Written(finished);
                self.tell(KeeperEvent::SnapshotWritten { end: Position(end) });
            }
            Err(error) => self.fail(error),
        }
    }

    fn publish(&mut self) {
        let Snapshot::Written(finished) = std::mem::replace(&mut self.snapshot, Snapshot::None) else {
            return;
        };
        let published = finished.publish().and_then(|start| {
            // Everything from the header before `start` on is needed; the rest serves resumption.
            let below = (start - HEADER_BYTES as u64).saturating_sub(self.config.retain_bytes);
            let oldest = self.segments.reclaim(below)?;
            drop_old_snapshots(&self.log.disk, &self.log.dir, oldest)?;
            Ok((start, oldest))
        });
        match published {
            Ok((start, oldest)) => self.tell(KeeperEvent::SnapshotPublished {
                start: Position(start),
                oldest: Position(oldest + HEADER_BYTES as u64),
            }),
            Err(error) => self.fail(error),
        }
    }

    fn fail(&mut self, error: io::Error) {
        tracing::warn!(shard = self.log.shard, path = %self.log.dir.display(), %error, "snapshot given up");
        self.abandon();
        self.snapshot = Snapshot::Failed;
        self.tell(KeeperEvent::SnapshotFailed(error));
    }

    fn abandon(&mut self) {
        let path = match std::mem::replace(&mut self.snapshot, Snapshot::None) {
            Snapshot::Writing(writer) => writer.path().to_owned(),
            Snapshot::Written(finished) => finished.path().to_owned(),
            Snapshot::None | Snapshot::Failed => return,
        };
        // Left-over temporary files are removed on the next start in any case.
        let _ = self.log.disk.remove(&path);
    }
}
