//! Renew: the deadline becomes now + TTL + 1, and nothing else happens.
//!
//! The usual renewal reads and writes one 16-byte entry: no log, no wheel, no hash. What leaves that path is
//! marked on the entry itself: a lease that is not durable yet, that has a logged deadline to withdraw, or whose TTL
//! does not fit. A batch decodes ids 32 ahead and prefetches their entries, so that cache misses overlap.
//!
//! A renewal never shortens: a deadline that a promotion extended stays (S2), and so the wheel's place, which fires no
//! later than the old deadline, stays right without being touched (S7).

use tenure_planted::Bug;

use super::Shard;
use crate::config::Role;
use crate::entry::{Entry, PINNED, Slot};
use crate::id::LeaseId;
use crate::index::Key;
use crate::outcome::Renewed;
use crate::record::RecordBuffer;
use crate::refusal::{Answer, Refusal};
use crate::region::prefetch_line;
use crate::time::{Position, Time};

/// How far ahead a batch prefetches: about twice the line-fill buffers of a core. 16 and 64 measured slower.
const AHEAD: usize = 32;

/// Where the leases of up to [`AHEAD`] ids should be: slot, and generation as [`DirectIds::place`] has it.
type Places = [(u32, u64); AHEAD];

/// In place of a generation: the slot is the index's guess, to be confirmed by the id that stands there.
const CHOSEN: u32 = u32::MAX - 1;

/// What a fast renewal compares and adds, relative to the wheel's clock.
#[derive(Clone, Copy)]
struct Pace {
    base: u32,
    /// Deadlines up to here are overdue.
    horizon: u32,
    now: u32,
}

impl Pace {
    /// Renews the entry of a server-assigned id, if it is that and needs nothing else; else false, and no change.
    #[inline(always)]
    fn renew_direct(&self, entry: &mut Entry, generation: u64) -> bool {
        u64::from(entry.generation) == generation && entry.is_fast_direct() && self.extend(entry)
    }

    /// Renews an entry that needs nothing else; false, and no change, when it is overdue or needs more.
    #[inline(always)]
    fn renew(&self, entry: &mut Entry) -> bool {
        !entry.is_slow() && self.extend(entry)
    }

    /// False when it is overdue.
    #[inline(always)]
    fn extend(&self, entry: &mut Entry) -> bool {
        let left = entry.deadline.wrapping_sub(self.base);
        if left <= self.horizon {
            return false;
        }
        // Below 2^32: entries hold TTLs below 2^31, and a pace exists only while now is less than that ahead.
        let fresh = self.now + entry.ttl() + 1;
        if tenure_planted::is(Bug::RenewChangesNothing) {
            return true;
        }
        entry.deadline = self.base.wrapping_add(left.max(fresh));
        true
    }
}

impl Shard {
    /// Renews a lease.
    ///
    /// # Errors
    /// `NotFound`, `NotPrimary`.
    #[inline]
    pub fn renew(&mut self, now: Time, id: LeaseId, log: &mut RecordBuffer) -> Answer<Renewed> {
        self.enter(now);
        if let Some(pace) = self.pace(now) {
            let (slot, generation) = self.table.direct_ids().place(id);
            if let Some(entry) = self.table.slab.entries_mut().get_mut(slot as usize)
                && pace.renew_direct(entry, generation)
            {
                let ttl_ms = u64::from(entry.ttl());
                self.totals.renewed += 1;
                return Answer::now(Renewed { ttl_ms });
            }
        }
        self.renew_slow(now, id, log)
    }

    /// Fetches what `renew` of this id will touch into the cache: for a caller that renews one by one but knows
    /// what comes next.
    #[inline]
    pub fn prefetch(&self, id: LeaseId) {
        if self.key_ahead(id).is_none() {
            let (slot, _) = self.table.decode(id);
            self.table.slab.prefetch(slot);
        }
    }

    /// The second step of [`Shard::prefetch`], some time after it: an id that a client chose leads to its lease over a cell
    /// of the index, which must be there before the lease can be fetched.
    #[inline]
    pub fn prefetch_found(&self, id: LeaseId) {
        if let Some(key) = self.key_ahead(id) {
            self.table.guess_chosen(key);
        }
    }

    /// Whether there are leases whose ids clients chose: without them [`Shard::prefetch`] is enough.
    #[inline]
    pub fn has_chosen_ids(&self) -> bool {
        self.table.hashed_count() > 0
    }

    /// Renews many leases; an id may occur more than once. The indexes of those not found are appended to `failed`.
    /// Returns the position that the whole answer waits for. Writes up to
    /// [`crate::limits::RECORD_BYTES_PER_ID_MAX`] bytes of records an id when renewals are logged.
    ///
    /// # Errors
    /// `NotPrimary`, for the batch as a whole.
    pub fn renew_batch(
        &mut self,
        now: Time,
        ids: &[LeaseId],
        failed: &mut Vec<u32>,
        log: &mut RecordBuffer,
    ) -> Result<Position, Refusal> {
        self.enter(now);
        self.require_primary()?;
        let Some(pace) = self.pace(now) else {
            return Ok(self.renew_each(now, ids, failed, log));
        };
        if self.table.hashed_count() > 0 {
            return Ok(self.renew_mixed(now, &pace, ids, failed, log));
        }
        let mut after = Position::ZERO;
        let mut coming = ids.chunks(AHEAD);
        let mut places = [(0, 0); AHEAD];
        self.look_ahead_to(coming.next().unwrap_or_default(), &mut places);
        for (block, first) in ids.chunks(AHEAD).zip((0..).step_by(AHEAD)) {
            let mut slow =
                self.renew_block(&pace, block.len(), &mut places, coming.next().unwrap_or_default());
            self.totals.renewed += block.len() as u64;
            while slow != 0 {
                let index = first + slow.trailing_zeros() as usize;
                slow &= slow - 1;
                self.totals.renewed -= 1;
                let answer = self.renew_slow(now, ids[index], log);
                after = after.max(answer.after);
                if answer.result.is_err() {
                    failed.push(index as u32);
                }
            }
        }
        Ok(after)
    }

    /// Renews the leases in the first `count` places and puts the places of `coming` ids there instead. Returns which
    /// need more than their entry, one bit each.
    #[inline(always)]
    fn renew_block(&mut self, pace: &Pace, count: usize, places: &mut Places, coming: &[LeaseId]) -> u32 {
        let ids = self.table.direct_ids();
        let entries = self.table.slab.entries_mut();
        let (mut slow, mut coming) = (0, coming.iter());
        for (index, place) in places[..count].iter_mut().enumerate() {
            let (slot, generation) = *place;
            if let Some(&id) = coming.next() {
                *place = ids.place(id);
                prefetch_line(entries, place.0 as usize);
            }
            let entry = entries.get_mut(slot as usize);
            if !entry.is_some_and(|entry| pace.renew_direct(entry, generation)) {
                slow |= 1 << index;
            }
        }
        slow
    }

    fn look_ahead_to(&self, ids: &[LeaseId], places: &mut Places) {
        for (place, &id) in places.iter_mut().zip(ids) {
            *place = self.table.direct_ids().place(id);
            self.table.slab.prefetch(place.0);
        }
    }

    /// Where the entry of an id is, and the generation to compare.
    #[inline(always)]
    fn look_ahead(&self, id: LeaseId) -> (u32, u32) {
        let (slot, generation) = self.table.decode(id);
        self.table.slab.prefetch(slot);
        (slot, generation)
    }

    /// A batch while client-chosen ids exist: twice as far ahead the cell of the index is fetched, then the slot it
    /// names, then both are compared.
    fn renew_mixed(
        &mut self,
        now: Time,
        pace: &Pace,
        ids: &[LeaseId],
        failed: &mut Vec<u32>,
        log: &mut RecordBuffer,
    ) -> Position {
        let (mut after, mut fast) = (Position::ZERO, 0);
        let mut keys = [None; AHEAD];
        let mut slots = [(0u32, 0u32); AHEAD];
        // Step k fetches the cell of id k, guesses the slot of id k - AHEAD, renews id k - 2 AHEAD.
        for step in 0..ids.len() + 2 * AHEAD {
            let place = step % AHEAD;
            if step >= 2 * AHEAD {
                let index = step - 2 * AHEAD;
                let (slot, generation) = slots[place];
                let slab = &mut self.table.slab;
                let entry = if generation == CHOSEN {
                    slab.chosen_entry_mut(slot, ids[index].0)
                } else {
                    slab.entries_mut().get_mut(slot as usize).filter(|entry| entry.generation == generation)
                };
                if entry.is_some_and(|entry| pace.renew(entry)) {
                    fast += 1;
                } else {
                    let answer = self.renew_slow(now, ids[index], log);
                    after = after.max(answer.after);
                    if answer.result.is_err() {
                        failed.push(index as u32);
                    }
                }
            }
            if let Some(&id) = step.checked_sub(AHEAD).and_then(|index| ids.get(index)) {
                let guess = keys[place].and_then(|key| self.table.guess_chosen(key));
                slots[place] = guess.map_or_else(|| self.look_ahead(id), |slot| (slot.0, CHOSEN));
            }
            keys[place] = ids.get(step).and_then(|&id| self.key_ahead(id));
        }
        self.totals.renewed += fast;
        after
    }

    /// The key of an id that can only be found through the index.
    #[inline(always)]
    pub(super) fn key_ahead(&self, id: LeaseId) -> Option<Key> {
        let (slot, generation) = self.table.decode(id);
        let may_be_direct = generation != u32::MAX && (slot as usize) < self.table.slab.len();
        if may_be_direct { None } else { self.table.key_of_chosen(id) }
    }

    fn renew_each(
        &mut self,
        now: Time,
        ids: &[LeaseId],
        failed: &mut Vec<u32>,
        log: &mut RecordBuffer,
    ) -> Position {
        let mut after = Position::ZERO;
        for (index, &id) in ids.iter().enumerate() {
            let answer = self.renew_slow(now, id, log);
            after = after.max(answer.after);
            if answer.result.is_err() {
                failed.push(index as u32);
            }
        }
        after
    }

    /// `None` when each renewal needs more than its entry.
    #[inline(always)]
    fn pace(&self, now: Time) -> Option<Pace> {
        let base = self.wheel.now();
        let ahead = now.0 - base;
        let plain = self.role == Role::Primary && !self.is_exact() && self.ledger.is_role_durable();
        if !plain || ahead >= (1 << 31) - 1 {
            return None;
        }
        Some(Pace { base: base as u32, horizon: (self.horizon(now) - base) as u32, now: ahead as u32 })
    }

    /// Renewal with everything: long TTLs, leases that are not durable yet, logged renewals, overdue leases.
    #[cold]
    fn renew_slow(&mut self, now: Time, id: LeaseId, log: &mut RecordBuffer) -> Answer<Renewed> {
        if let Err(refusal) = self.require_primary() {
            return Answer::refused(refusal, Position::ZERO);
        }
        let slot = match self.find_alive(now, id, log) {
            Ok(slot) => slot,
            Err(after) => return Answer::refused(Refusal::NotFound, after),
        };
        let ttl_ms = self.table.ttl_ms(slot);
        let deadline = self.deadline(slot).max(now.0 + ttl_ms + 1);
        self.table.set_deadline(slot, ttl_ms, deadline, self.wheel.now());
        self.totals.renewed += 1;
        let entry = *self.table.entry(slot);
        let planted = tenure_planted::is(Bug::StaleCheckpoint) && !self.is_exact();
        if (self.is_exact() || entry.has(PINNED)) && !planted {
            self.log_renewal(now, slot, deadline, log);
            return Answer::after(Renewed { ttl_ms }, self.ledger.after_any());
        }
        Answer::after(Renewed { ttl_ms }, self.ledger.after_lease(&entry))
    }

    /// S2: a logged deadline must never outlive a later promise, so a renewal replaces or withdraws it.
    fn log_renewal(&mut self, now: Time, slot: Slot, deadline: u64, log: &mut RecordBuffer) {
        let (holder, exact) = (self.holder(slot), self.is_exact());
        log.stamp(now);
        log.renewal(exact, holder.id, holder.token, Time(deadline));
        self.table.entry_mut(slot).set(PINNED, exact);
        self.ledger.wrote(log.tail(), log.time());
        self.ledger.mark(&mut self.table.slab, slot);
    }
}
