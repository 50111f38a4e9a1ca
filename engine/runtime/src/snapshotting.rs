//! Snapshots of a core's shard, written in slices beside its work, so that the log stays short.
//!
//! ```text
//!   idle ──(enough log)──> imaging ──> finishing ──(file whole)──> written ──(log on disk to its end)──> publishing ──> idle
//! ```
//! The image is fuzzy: it is taken while the shard goes on changing, and is whole only together with
//! the log from its start on (S4). It gets its name only once the log is on disk up to its end.
//! Each turn contributes one slice (L3); a slow disk pauses the image, never the shard.

use std::time::Duration;

use tenure_core::{ImageCursor, Position, Shard, Time};

use crate::journal::Journal;
use crate::limits::IMAGE_STEP_BYTES;
use crate::log::{KeeperEvent, Recovered};

/// Log bytes that a live lease justifies before the next snapshot: about its size in an image, so
/// that snapshots never write much more than the log itself.
const LOG_BYTES_PER_LEASE: u64 = 32;

/// The snapshots of one shard, one at a time.
pub(crate) struct Snapshotting {
    state: State,
    log_bytes_min: u64,
    /// Where the last snapshot started.
    last: Position,
    completed: u64,
    /// The keeper has no room for another chunk; it calls when it has.
    blocked: bool,
}

enum State {
    Idle,
    Imaging(ImageCursor),
    /// All chunks are with the keeper, which makes the file whole.
    Finishing,
    /// The file is whole; the log must be on disk up to here before it gets its name.
    Written(Position),
    Publishing,
}

impl Snapshotting {
    /// For a journal in memory: never due.
    pub(crate) fn none() -> Self {
        Snapshotting {
            state: State::Idle,
            log_bytes_min: u64::MAX,
            last: Position(0),
            completed: 0,
            blocked: false,
        }
    }

    /// For a recovered log: the next snapshot is due `log_bytes_min` bytes behind the last.
    pub(crate) fn new(log_bytes_min: u64, recovered: &Recovered) -> Self {
        let last = recovered.snapshot.unwrap_or_else(|| recovered.oldest().0);
        Snapshotting { log_bytes_min, last: Position(last), ..Snapshotting::none() }
    }

    /// Snapshots completed since the start.
    pub(crate) fn completed(&self) -> u64 {
        self.completed
    }

    /// Whether enough log has gathered since the last snapshot.
    pub(crate) fn is_due(&self, tail: Position, lease_count: impl FnOnce() -> u64) -> bool {
        let gathered = tail.0.saturating_sub(self.last.0);
        matches!(self.state, State::Idle)
            && gathered >= self.log_bytes_min
            && gathered >= lease_count() * LOG_BYTES_PER_LEASE
    }

    /// Starts a snapshot. The open batch is empty: replay will begin with a whole batch.
    pub(crate) fn start(&mut self, shard: &mut Shard, journal: &mut Journal, now: Time) {
        let start = journal.open_position();
        let Some(keeper) = journal.keeper() else { return };
        keeper.begin_snapshot(start, now);
        self.last = start;
        self.state = State::Imaging(shard.image_start());
    }

    /// Moves the snapshot along by one slice. `tail`: where the next record will stand.
    pub(crate) fn step(&mut self, shard: &mut Shard, journal: &mut Journal, tail: Position) {
        match &mut self.state {
            State::Idle | State::Finishing | State::Publishing => {}
            State::Imaging(cursor) => {
                let Some(keeper) = journal.keeper() else { return };
                self.blocked = !keeper.has_room_for_chunk();
                if self.blocked {
                    return;
                }
                let mut chunk = Vec::with_capacity(IMAGE_STEP_BYTES + 4_096);
                let done = shard.image_step(cursor, IMAGE_STEP_BYTES, &mut chunk);
                if !chunk.is_empty() {
                    keeper.snapshot_chunk(chunk).expect("S8: there was room, and only this core adds chunks");
                }
                if done {
                    keeper.finish_snapshot(tail);
                    self.state = State::Finishing;
                }
            }
            State::Written(end) => {
                let end = *end;
                if journal.is_on_disk(end)
                    && let Some(keeper) = journal.keeper()
                {
                    keeper.publish_snapshot();
                    self.state = State::Publishing;
                }
            }
        }
    }

    /// Takes the keeper's word on the snapshot.
    pub(crate) fn hear(&mut self, event: &KeeperEvent) {
        match event {
            KeeperEvent::SnapshotWritten { end } => self.state = State::Written(*end),
            KeeperEvent::SnapshotPublished { .. } => {
                self.completed += 1;
                self.state = State::Idle;
            }
            // The keeper has said why. The next one is due after as much log again, not at once.
            KeeperEvent::SnapshotFailed(_) => self.state = State::Idle,
            other => unreachable!("not about a snapshot: {other:?}"),
        }
    }

    /// Whether slices of an image are being taken.
    pub(crate) fn is_imaging(&self) -> bool {
        matches!(self.state, State::Imaging(_))
    }

    /// How soon the snapshot wants another turn.
    pub(crate) fn next_turn(&self) -> Option<Duration> {
        (matches!(self.state, State::Imaging(_)) && !self.blocked).then_some(Duration::ZERO)
    }
}
