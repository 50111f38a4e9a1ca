//! Leases end: by request, or because their time is up.
//!
//! Either way it is one entry in one record (S9) and the slot is free again; items leave later, in slices. `expire`
//! drains the wheel within a budget of references, so that a storm of expiries never keeps renewals waiting
//! (L3), and picks up where it stopped.

use tenure_planted::Bug;

use super::Shard;
use crate::config::Role;
use crate::entry::{Filing, LINE_SLOTS, Line, NOBODY, earliest_left, filing, set_filing};
use crate::id::LeaseId;
use crate::index::Key;
use crate::outcome::{Progress, Revoked};
use crate::record::{Cause, RecordBuffer};
use crate::refusal::{Answer, Refusal};
use crate::time::{Position, Time};

/// How many ids ahead a batch of revocations prefetches.
const AHEAD: usize = 32;

/// How many lines ahead the cells of their client-chosen ids are fetched: four ids a line.
const CELLS_AHEAD: usize = 6;

impl Shard {
    /// Ends a lease by request. Its items follow in the event stream.
    ///
    /// # Errors
    /// `NotFound`, `NotPrimary`.
    pub fn revoke(&mut self, now: Time, id: LeaseId, log: &mut RecordBuffer) -> Answer<Revoked> {
        self.enter(now);
        match self.revoke_one(now, id, log) {
            Ok(revoked) => Answer::after(revoked, self.ledger.after_any()),
            Err((refusal, after)) => Answer::refused(refusal, after),
        }
    }

    fn revoke_one(
        &mut self,
        now: Time,
        id: LeaseId,
        log: &mut RecordBuffer,
    ) -> Result<Revoked, (Refusal, Position)> {
        self.require_primary().map_err(|refusal| (refusal, Position::ZERO))?;
        let slot = self.find_alive(now, id, log).map_err(|after| (Refusal::NotFound, after))?;
        let token = self.table.token(slot);
        log.stamp(now);
        let item_count = self.end(slot, Cause::Revoked, log);
        self.ledger.wrote_end(log.tail(), log.time());
        self.totals.revoked += 1;
        Ok(Revoked { token, item_count })
    }

    /// Ends many leases by request, in one record but for those with items. The indexes of those not found, repeated
    /// ids included, are appended to `failed`. Returns the position that the whole answer waits for.
    ///
    /// Writes up to [`crate::limits::RECORD_BYTES_PER_ID_MAX`] bytes of records an id: a caller with a batch limit cuts
    /// its slices to fit.
    ///
    /// # Errors
    /// `NotPrimary`, for the batch as a whole.
    pub fn revoke_batch(
        &mut self,
        now: Time,
        ids: &[LeaseId],
        failed: &mut Vec<u32>,
        log: &mut RecordBuffer,
    ) -> Result<Position, Refusal> {
        self.enter(now);
        self.require_primary()?;
        let mut after = Position::ZERO;
        let hashed = self.table.hashed_count() > 0;
        let mut keys = [None; AHEAD];
        // Step k fetches the cell of id k, the entry of id k - AHEAD, and revokes id k - 2 AHEAD.
        for step in 0..ids.len() + 2 * AHEAD {
            if let Some(&id) = step.checked_sub(AHEAD).and_then(|index| ids.get(index)) {
                self.prefetch_end(id, keys[step % AHEAD]);
            }
            if hashed {
                keys[step % AHEAD] = ids.get(step).and_then(|&id| self.key_ahead(id));
            }
            let Some(index) = step.checked_sub(2 * AHEAD) else { continue };
            let id = ids[index];
            match self.revoke_one(now, id, log) {
                Ok(_) => after = self.ledger.after_any(),
                Err((_, not_found_after)) => {
                    after = after.max(not_found_after);
                    failed.push(index as u32);
                }
            }
        }
        Ok(after)
    }

    /// Fetches what the end of the lease with this id will touch; `key` is that of an id only the index knows.
    #[inline(always)]
    fn prefetch_end(&self, id: LeaseId, key: Option<Key>) {
        let slot = match key {
            Some(key) => self.table.guess_chosen(key).map(|slot| slot.0),
            None => Some(self.table.decode(id).0),
        };
        if let Some(slot) = slot {
            self.table.slab.prefetch(slot);
            self.table.slab.prefetch_token(slot);
        }
    }

    /// Expires what is overdue, visiting at most about `budget` leases, in the lines of four that the wheel refers to. A
    /// standby expires nothing.
    ///
    /// Writes 16 bytes of records a lease, and 8 for each 4,096.
    pub fn expire(&mut self, now: Time, budget: usize, log: &mut RecordBuffer) -> Progress {
        self.enter(now);
        let mut progress = Progress::default();
        if self.role == Role::Standby {
            return progress;
        }
        let planted_ms = if tenure_planted::is(Bug::ExpiresLate) { 2_000 } else { 0 };
        let horizon = self.horizon(now).saturating_sub(planted_ms).max(self.expired_to.0);
        self.expired_to = Time(horizon);
        let (mut left, mut prefetched) = (budget.div_ceil(LINE_SLOTS), false);
        while self.wheel.due(horizon, &mut self.batch) {
            if left == 0 {
                progress.more = true;
                break;
            }
            let count = self.batch.len.min(left);
            if !prefetched {
                for &line in &self.batch.lines[..count] {
                    self.prefetch_line(line, self.batch.is_final);
                }
            }
            prefetched = self.batch.next_len > 0;
            progress.ended += self.drain(count, horizon, now, log);
            self.wheel.done(count);
            left -= count;
        }
        if !progress.more && self.wheel.about_to_fire(&mut self.batch) {
            let coming = &self.batch.next_lines[..self.batch.next_len];
            coming.iter().for_each(|&line| self.prefetch_line(line, true));
        }
        if progress.ended > 0 {
            self.ledger.wrote_end(log.tail(), log.time());
        }
        progress
    }

    /// Fetches what the end of the leases in a line will touch, or just the line.
    #[inline(always)]
    fn prefetch_line(&self, line: u32, ending: bool) {
        self.table.slab.prefetch_line(line, ending, self.table.hashed_count() > 0);
    }

    /// Deals with the first `count` references of the batch. Prefetches the lines of the next batch on the way, and
    /// for lines of this one that may end, the cells of client-chosen ids. Returns how many leases ended.
    fn drain(&mut self, count: usize, horizon: u64, now: Time, log: &mut RecordBuffer) -> usize {
        let (place, next_len) = (self.batch.place, self.batch.next_len);
        let (mut ended, mut ending) = (0, self.batch.is_final);
        let hashed = self.table.hashed_count() > 0;
        if hashed && ending {
            for &line in &self.batch.lines[..count.min(CELLS_AHEAD)] {
                self.table.prefetch_cells(Line(line));
            }
        }
        for index in 0..count {
            if index < next_len {
                self.prefetch_line(self.batch.next_lines[index], ending);
            }
            if hashed && ending && index + CELLS_AHEAD < count {
                self.table.prefetch_cells(Line(self.batch.lines[index + CELLS_AHEAD]));
            }
            let line = Line(self.batch.lines[index]);
            if let Some(ended_here) = self.fire(line, place, horizon, now, log) {
                ending = ended_here > 0;
                ended += ended_here;
            }
        }
        for index in count..next_len {
            self.prefetch_line(self.batch.next_lines[index], ending);
        }
        ended
    }

    /// The wheel has come to a line in `place`: what is overdue in it ends, and it is filed again for the rest. Returns
    /// how many leases ended; `None` when the line is filed elsewhere by now.
    #[inline(always)]
    fn fire(
        &mut self,
        at: Line,
        place: u32,
        horizon: u64,
        now: Time,
        log: &mut RecordBuffer,
    ) -> Option<usize> {
        let base = self.wheel.now();
        let line = self.table.slab.line_mut(at);
        if !filing(line).is_in(place) {
            return None;
        }
        match earliest_left(line, base as u32) {
            Some(NOBODY) => set_filing(line, Filing::NONE),
            Some(left) if u64::from(left) > horizon - base => {
                set_filing(line, self.wheel.file(at, base + u64::from(left)));
            }
            _ => return Some(self.end_overdue(at, horizon, now, log)),
        }
        Some(0)
    }

    /// Ends what is overdue in a line and files it for the rest. Returns how many leases ended.
    fn end_overdue(&mut self, line: Line, horizon: u64, now: Time, log: &mut RecordBuffer) -> usize {
        let (mut ended, mut earliest) = (0, None);
        for slot in line.slots() {
            if !self.table.entry(slot).is_live() {
                continue;
            }
            let deadline = self.deadline(slot);
            if deadline > horizon {
                earliest = Some(earliest.map_or(deadline, |earliest: u64| earliest.min(deadline)));
                continue;
            }
            log.stamp(now);
            self.count_expired(now.0 - deadline);
            if tenure_planted::is(Bug::EndsTwice) {
                let holder = self.holder(slot);
                log.end(Cause::Expired, false, holder.id, holder.token);
            }
            let planted = tenure_planted::is(Bug::WrongCause);
            self.end(slot, if planted { Cause::Revoked } else { Cause::Expired }, log);
            ended += 1;
        }
        let filing = earliest.map_or(Filing::NONE, |earliest| self.wheel.file(line, earliest));
        self.table.slab.set_filing(line, filing);
        ended
    }
}
