//! What a core does of itself in each turn: expiry, upkeep, the clock's records, a snapshot's next step.

use tenure_core::Time;
use tenure_planted::Bug;

use super::Station;
use super::turn_clock::Stage;
use crate::limits;

impl Station {
    /// Expires and keeps up, within a slice of the turn (L3).
    pub(super) fn background(&mut self) {
        self.background_more = false;
        let start = self.turn_clock.end_of(Stage::Requests);
        if self.memory.mind(&mut self.shard) {
            self.turn_clock.grew();
        }
        self.background_held = self.journal.is_backed_up();
        let planted = tenure_planted::is(Bug::RequestsFirst) && !self.gate.is_empty();
        if self.background_held || self.journal.is_full() || planted {
            return;
        }
        let slice = self.slice.get();
        for step in 1.. {
            let progress = self.shard.expire(self.now, limits::EXPIRE_BUDGET, &mut self.records);
            if progress.ended > 0 || progress.more {
                self.turn_clock.end_of(Stage::Expiry);
            }
            let before = self.record_bytes();
            let upkeep = self.shard.maintain(self.now, limits::MAINTAIN_BUDGET, &mut self.records);
            self.background_more = progress.more || upkeep;
            let stage = if self.record_bytes() > before { Stage::Items } else { Stage::Compaction };
            if self.record_bytes() >= limits::BATCH_BYTES_SEAL {
                self.seal();
            }
            if progress.ended == 0 && !self.background_more {
                // Not worth a look at the clock.
                return;
            }
            let spent = self.turn_clock.end_of(stage) - start;
            let over =
                if self.clock.is_host() { spent >= slice } else { step >= limits::BACKGROUND_TURN_STEPS };
            self.background_held = self.background_more && self.journal.is_backed_up();
            if !self.background_more || over || self.background_held {
                return;
            }
        }
    }

    /// Carries the clock into the log while leases live, so that a restart loses little of it (S6).
    pub(super) fn log_clock(&mut self) {
        if self.next_clock_record().is_some_and(|at| at <= self.now) {
            self.records.stamp(self.now);
        }
    }

    pub(super) fn next_clock_record(&self) -> Option<Time> {
        let wanted = self.journal.is_disk() && self.shard.lease_count() > 0 && !self.journal.is_full();
        wanted.then(|| Time(self.records.time().0 + limits::CLOCK_RECORD_INTERVAL_MS))
    }

    /// Moves a snapshot along, or starts one when enough log has gathered. It starts at a batch
    /// boundary, so that replay begins with a whole batch.
    pub(super) fn snapshot(&mut self) {
        if self.snapshotting.is_due(self.records.tail(), || self.shard.lease_count()) {
            if self.record_bytes() > 0 {
                self.seal();
            }
            self.snapshotting.start(&mut self.shard, &mut self.journal, self.now);
        }
        let imaging = self.snapshotting.is_imaging();
        self.snapshotting.step(&mut self.shard, &mut self.journal, self.records.tail());
        if imaging {
            self.turn_clock.end_of(Stage::Snapshot);
        }
    }
}
