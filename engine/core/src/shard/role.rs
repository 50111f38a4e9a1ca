//! Promote and demote: who expires leases.
//!
//! A standby keeps what it has and expires nothing; nobody can renew there, so a promotion gives every lease at
//! least the extension and what it had left. Deadlines that are exact in the log are extended in the log's state by
//! the same rule; for all others the floor says until when a restart may count from (S2).

use super::Shard;
use crate::config::Role;
use crate::limits::{EXTEND_MS_MAX, TIME_MS_MAX, TTL_MS_MAX};
use crate::record::RecordBuffer;
use crate::refusal::{Answer, Refusal};
use crate::time::{Position, Time};

/// A deadline after a promotion at `now`: what was left, at least 1 ms of it, and the extension.
fn extended(deadline: u64, now: Time, extend_ms: u64) -> u64 {
    (deadline.max(now.0 + 1) + extend_ms).min(TIME_MS_MAX + TTL_MS_MAX)
}

impl Shard {
    /// Makes a standby the primary: each lease gets `extend_ms` and what it had left. No effect on a primary.
    /// One pass over all leases.
    ///
    /// # Errors
    /// `TtlTooLarge` when the extension is above [`EXTEND_MS_MAX`].
    pub fn promote(&mut self, now: Time, extend_ms: u64, log: &mut RecordBuffer) -> Answer<()> {
        self.enter(now);
        if extend_ms > EXTEND_MS_MAX {
            return Answer::refused(Refusal::TtlTooLarge, Position::ZERO);
        }
        if self.role == Role::Standby {
            log.stamp(now);
            log.promote(extend_ms);
            self.ledger.wrote_role(log.tail(), log.time());
            self.refile_all(now, |shard, slot| extended(shard.deadline(slot), now, extend_ms));
            self.expired_to = now;
            self.become_primary(now, extend_ms);
            self.sweep.restart(now, self.config.checkpoint_interval_ms);
        }
        Answer::after((), self.ledger.after_any())
    }

    /// Makes a primary a standby: it goes on answering reads and expires nothing. No effect on a standby.
    ///
    /// # Errors
    /// None.
    pub fn demote(&mut self, now: Time, log: &mut RecordBuffer) -> Answer<()> {
        self.enter(now);
        if self.role == Role::Primary {
            log.stamp(now);
            log.demote();
            self.ledger.wrote_role(log.tail(), log.time());
            self.role = Role::Standby;
        }
        Answer::after((), self.ledger.after_any())
    }

    fn become_primary(&mut self, now: Time, extend_ms: u64) {
        self.role = Role::Primary;
        self.promotions += 1;
        // No deadline is later than this plus a full TTL: extensions of repeated promotions add up.
        self.floor = Time((self.floor.max(now).0 + extend_ms).min(TIME_MS_MAX));
    }

    /// Replay of a promotion: exact deadlines are extended now, all others when recovery ends.
    pub(super) fn replay_promote(&mut self, now: Time, extend_ms: u64) {
        let base = self.wheel.now();
        for index in 0..self.table.slab.len() as u32 {
            let slot = crate::entry::Slot(index);
            let entry = self.table.entry(slot);
            if entry.is_live() && entry.has(crate::entry::PINNED) {
                let deadline = extended(self.table.deadline(slot, base), now, extend_ms);
                let ttl_ms = self.table.ttl_ms(slot);
                self.table.set_deadline(slot, ttl_ms, deadline, base);
            }
        }
        self.become_primary(now, extend_ms);
    }
}
