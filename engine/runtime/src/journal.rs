//! Where a core's records go: an append-only log on disk, or nowhere.
//!
//! In memory everything is acknowledged as soon as it is sealed; positions advance all the same, so
//! that tokens and event positions mean the same in both. On disk, what may be told follows the
//! [`Durability`]: at the default it is what completed in order with O_DSYNC (S3).

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tenure_core::{Position, RecordBuffer, Time};

use crate::clock::Stopwatch;
use crate::config::Durability;
use crate::limits;
use crate::log::{KeeperEvent, LogWriter, ShardKeeper, Worker};
pub(crate) use crate::log::{LogFault, LogWrite};
use crate::snapshotting::Snapshotting;

/// First record position of an in-memory journal: never 0, because a token is never 0.
const MEMORY_START: Position = Position(64);

/// A core's log.
pub(crate) enum Journal {
    Memory { open: Position },
    Disk(Box<DiskJournal>),
}

/// A log on disk: the sans-I/O writer and the keeper thread's end that feeds it with segments.
pub(crate) struct DiskJournal {
    writer: LogWriter,
    keeper: ShardKeeper,
    durability: Durability,
    /// Where the log is told to end, for a clean stop.
    end: Arc<AtomicU64>,
    watch: Stopwatch,
    /// On `watch`.
    synced_at: Duration,
    syncing: bool,
    sync_wanted: bool,
    /// The engine is stopping since then, on `watch`: nothing may stay unsynced.
    flushing_since: Option<Duration>,
    commits: u64,
    commit_bytes: u64,
}

impl Journal {
    pub(crate) fn in_memory() -> Self {
        Journal::Memory { open: MEMORY_START }
    }

    pub(crate) fn on_disk(
        writer: LogWriter,
        keeper: ShardKeeper,
        durability: Durability,
        end: Arc<AtomicU64>,
        watch: Stopwatch,
    ) -> Self {
        Journal::Disk(Box::new(DiskJournal {
            writer,
            keeper,
            durability,
            end,
            synced_at: watch.elapsed(),
            watch,
            syncing: false,
            sync_wanted: false,
            flushing_since: None,
            commits: 0,
            commit_bytes: 0,
        }))
    }

    /// Where the open batch's first record stands.
    pub(crate) fn open_position(&self) -> Position {
        match self {
            Journal::Memory { open } => *open,
            Journal::Disk(disk) => disk.writer.position(),
        }
    }

    /// Everything below may be told (S3).
    #[inline]
    pub(crate) fn acknowledged(&self) -> Position {
        match self {
            Journal::Memory { open } => *open,
            Journal::Disk(disk) => disk.acknowledged(),
        }
    }

    /// Everything below stands in the log files.
    pub(crate) fn written(&self) -> Position {
        match self {
            Journal::Memory { open } => *open,
            Journal::Disk(disk) => disk.writer.acknowledged(),
        }
    }

    /// Closes the open batch over the records and returns where the next one's first record stands.
    pub(crate) fn seal(&mut self, records: &RecordBuffer, time: Time) -> Position {
        match self {
            Journal::Memory { open } => {
                *open = records.tail();
                *open
            }
            Journal::Disk(disk) => disk.writer.seal(records.bytes(), records.record_count(), time),
        }
    }

    /// The next write for the shell, if one may be in flight.
    pub(crate) fn next_write(&mut self) -> Option<LogWrite> {
        match self {
            Journal::Memory { .. } => None,
            Journal::Disk(disk) => disk.writer.next_write(),
        }
    }

    /// The bytes of a write in flight.
    pub(crate) fn write_bytes(&self, write: &LogWrite) -> &[u8] {
        match self {
            Journal::Memory { .. } => unreachable!("an in-memory journal hands out no writes"),
            Journal::Disk(disk) => disk.writer.write_bytes(write),
        }
    }

    /// Takes the outcome of a write.
    pub(crate) fn completed(&mut self, id: u64, result: io::Result<usize>) -> Result<(), LogFault> {
        match self {
            Journal::Memory { .. } => unreachable!("an in-memory journal hands out no writes"),
            Journal::Disk(disk) => {
                disk.commits += 1;
                disk.commit_bytes += *result.as_ref().unwrap_or(&0) as u64;
                disk.writer.completed(id, result).map(drop)
            }
        }
    }

    /// Hears the keeper, keeps segments coming and syncs going. Once a turn. Whether the keeper had anything to say.
    pub(crate) fn mind(&mut self, snapshotting: &mut Snapshotting) -> Result<bool, LogFault> {
        match self {
            Journal::Memory { .. } => Ok(false),
            Journal::Disk(disk) => {
                let heard = disk.hear(snapshotting)?;
                if let Some(base) = disk.writer.needs_segment() {
                    disk.keeper.want_segment(base);
                }
                disk.mind_syncs();
                Ok(heard)
            }
        }
    }

    /// Whether everything below survives a crash of the machine; asks for a sync where writes do not.
    pub(crate) fn is_on_disk(&mut self, position: Position) -> bool {
        match self {
            Journal::Memory { .. } => true,
            Journal::Disk(disk) => disk.is_on_disk(position),
        }
    }

    /// Brings everything to disk before the engine stops.
    pub(crate) fn flush(&mut self) {
        if let Journal::Disk(disk) = self {
            disk.flushing_since = Some(disk.watch.elapsed());
        }
    }

    pub(crate) fn in_flight(&self) -> usize {
        match self {
            Journal::Memory { .. } => 0,
            Journal::Disk(disk) => disk.writer.in_flight(),
        }
    }

    /// Whether a batch sealed now could be submitted at once.
    pub(crate) fn may_submit(&self) -> bool {
        self.in_flight() < crate::log::limits::WRITES_IN_FLIGHT_MAX
    }

    /// Whether the disk is so far behind that writes must wait (S8).
    pub(crate) fn is_backed_up(&self) -> bool {
        match self {
            Journal::Memory { .. } => false,
            Journal::Disk(disk) => disk.writer.queued_bytes() > limits::LOG_BACKLOG_BYTES_MAX,
        }
    }

    /// Whether the disk has no room for the next segment.
    pub(crate) fn is_full(&self) -> bool {
        match self {
            Journal::Memory { .. } => false,
            Journal::Disk(disk) => disk.writer.is_full(),
        }
    }

    /// Whether everything sealed has been written.
    pub(crate) fn is_idle(&self) -> bool {
        match self {
            Journal::Memory { .. } => true,
            Journal::Disk(disk) => disk.writer.is_idle() && !(disk.is_flushing() && disk.is_unsynced()),
        }
    }

    pub(crate) fn is_disk(&self) -> bool {
        matches!(self, Journal::Disk(_))
    }

    /// How soon the journal wants a turn of its own accord.
    pub(crate) fn next_turn(&self) -> Option<Duration> {
        match self {
            Journal::Memory { .. } => None,
            Journal::Disk(disk) => disk.next_sync(),
        }
    }

    pub(crate) fn commits(&self) -> (u64, u64) {
        match self {
            Journal::Memory { .. } => (0, 0),
            Journal::Disk(disk) => (disk.commits, disk.commit_bytes),
        }
    }

    /// Gives the keeper's work a thread.
    pub(crate) fn start_keeper(&mut self, work: Worker) -> io::Result<()> {
        match self {
            Journal::Memory { .. } => Ok(()),
            Journal::Disk(disk) => disk.keeper.start(work),
        }
    }

    /// The keeper's end for snapshots; none in memory.
    pub(crate) fn keeper(&mut self) -> Option<&mut ShardKeeper> {
        match self {
            Journal::Memory { .. } => None,
            Journal::Disk(disk) => Some(&mut disk.keeper),
        }
    }
}

#[cfg(feature = "simulation")]
impl Journal {
    /// Takes the buffers of writes in flight back: after a simulated crash.
    pub(crate) fn forget_in_flight(&mut self) {
        if let Journal::Disk(disk) = self {
            disk.writer.forget_in_flight();
        }
    }
}

impl DiskJournal {
    #[inline]
    fn acknowledged(&self) -> Position {
        match self.durability {
            Durability::Always => self.writer.acknowledged(),
            Durability::Interval(_) | Durability::None => self.writer.position(),
        }
    }

    fn hear(&mut self, snapshotting: &mut Snapshotting) -> Result<bool, LogFault> {
        let mut heard = false;
        while let Some(event) = self.keeper.poll() {
            match event {
                KeeperEvent::SegmentReady(segment) => self.writer.offer_segment(segment),
                KeeperEvent::SegmentRefused { dir, error } => {
                    self.writer.segment_refused();
                    if self.gives_up() {
                        return Err(no_room(dir, self.writer.queued_bytes(), &error));
                    }
                }
                KeeperEvent::Synced(through) => {
                    self.writer.synced(through);
                    self.syncing = false;
                    self.synced_at = self.watch.elapsed();
                }
                KeeperEvent::SyncFailed(fault) => return Err(fault),
                event => snapshotting.hear(&event),
            }
            heard = true;
        }
        Ok(heard)
    }

    fn is_flushing(&self) -> bool {
        self.flushing_since.is_some()
    }

    /// Whether the engine has been stopping for so long that what has no room will not get it any more.
    fn gives_up(&self) -> bool {
        let patience = Duration::from_millis(limits::STOP_FULL_MS);
        let waited = self.flushing_since.is_some_and(|since| self.watch.elapsed() - since >= patience);
        waited && !self.writer.is_idle()
    }

    /// Whether something is written that a crash of the machine could undo.
    fn is_unsynced(&self) -> bool {
        self.writer.acknowledged() > self.writer.durable()
    }

    fn mind_syncs(&mut self) {
        let due = self.next_sync() == Some(Duration::ZERO);
        if self.syncing || !self.is_unsynced() || !(due || self.sync_wanted || self.is_flushing()) {
            return;
        }
        self.sync_wanted = false;
        self.synced_at = self.watch.elapsed();
        if let Some(request) = self.writer.take_sync() {
            self.syncing = true;
            self.keeper.request_sync(request);
        }
    }

    fn next_sync(&self) -> Option<Duration> {
        match self.durability {
            Durability::Interval(interval) if !self.syncing && self.is_unsynced() => {
                Some(interval.saturating_sub(self.watch.elapsed() - self.synced_at))
            }
            _ => None,
        }
    }

    fn is_on_disk(&mut self, position: Position) -> bool {
        let on_disk = position <= self.writer.durable();
        self.sync_wanted |= !on_disk && self.durability != Durability::Always;
        on_disk
    }
}

/// Records that are sealed and have no place to be written to when the engine stops.
fn no_room(path: PathBuf, length: usize, error: &io::Error) -> LogFault {
    let reason = format!("there is still no room for the next segment, and the engine is stopping: {error}");
    LogFault { path, offset: 0, length, reason }
}

impl Drop for DiskJournal {
    /// The place where the log ends, for the manifest; what is still in flight does not count.
    fn drop(&mut self) {
        self.end.store(self.writer.written_end(), Ordering::Release);
    }
}
