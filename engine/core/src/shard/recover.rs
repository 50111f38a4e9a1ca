//! Recovery: an image, then the log behind it, then time goes on.
//!
//! The image is fuzzy and the log overlaps it, so that applying a record is idempotent: every record names (id, token),
//! and what the image has seen already, or what has ended since, is passed over. Tokens only grow, which tells the two
//! apart. Leases have no deadline until recovery ends, but for those that the log makes exact.
//!
//! Bytes from outside never panic here: an error names an offset and a reason, and the shard is then to be dropped.
//! Invariants: **S4** replay-equal, **S2** never-early across a restart, **S6** time-forward, no id issued twice.

use tenure_planted::Bug;

use super::coming::Coming;
use super::{Phase, Shard};
use crate::entry::{HAS_ITEMS, PINNED, Slot};
use crate::id::{GrantKey, LeaseId};
use crate::id_rule::shard_of;
use crate::image::{ImageEntry, ImageError, ImageIter, Start};
use crate::items::Holder;
use crate::limits::{ITEM_COUNT_MAX, POSITION_MAX, TIME_MS_MAX, TOKEN_MAX};
use crate::record::{DeadlineEntries, Record, RecordError, RecordIter};
use crate::time::{Position, Time, Token};
use std::fmt;

/// Records that cannot be applied: where, counted from the first byte of the batch's records, and why.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReplayError {
    /// Offset of the record.
    pub offset: usize,
    /// What is wrong with it.
    pub reason: &'static str,
}

impl fmt::Display for ReplayError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "record at offset {}: {}", self.offset, self.reason)
    }
}

impl std::error::Error for ReplayError {}

impl From<RecordError> for ReplayError {
    fn from(error: RecordError) -> ReplayError {
        ReplayError { offset: error.offset, reason: error.reason }
    }
}

type Applied = Result<(), &'static str>;

const FOREIGN: &str = "lease of another shard";
const TOO_MANY: &str = "more leases than this shard has slots for";
const AT_ODDS: &str = "grant of a lease that lives";

/// The leases that these records grant, in their order.
fn grants_of(records: RecordIter<'_>) -> impl Iterator<Item = Option<LeaseId>> {
    records.map(|next| match next {
        Ok((_, Record::Grant { id, .. })) => Some(id),
        _ => None,
    })
}

/// The leases of a chunk, in its order.
fn leases_of(chunk: &[u8]) -> impl Iterator<Item = Option<LeaseId>> {
    ImageIter::new(chunk).map(|next| match next {
        Ok((_, ImageEntry::Lease { id, .. })) => Some(id),
        _ => None,
    })
}

impl Shard {
    /// Loads the next chunk of this shard's image.
    ///
    /// # Errors
    /// A chunk that is damaged or of another shard; drop the shard then.
    ///
    /// # Panics
    /// When the shard is serving already.
    pub fn load_image(&mut self, chunk: &[u8]) -> Result<(), ImageError> {
        self.begin_recovery();
        let mut coming = Coming::of_new(leases_of(chunk), self);
        for entry in ImageIter::new(chunk) {
            coming.step(self);
            let (offset, entry) = entry?;
            self.load(&entry).map_err(|reason| ImageError { offset, reason })?;
        }
        Ok(())
    }

    /// Loads what belongs to this shard from a chunk of any shard's image: for an engine that is opened with another
    /// number of shards. All such ids become hashed ones. The generation base must be above all that was issued
    /// ([`crate::generation_base_after`]), and the new log must begin above all positions of the old ones.
    ///
    /// # Errors
    /// A damaged chunk.
    ///
    /// # Panics
    /// When the shard is serving already.
    pub fn load_foreign(&mut self, chunk: &[u8]) -> Result<(), ImageError> {
        self.begin_recovery();
        for entry in ImageIter::new(chunk) {
            let (offset, entry) = entry?;
            self.load_moved(&entry).map_err(|reason| ImageError { offset, reason })?;
        }
        Ok(())
    }

    /// Applies the records of one batch: `first` is the position of its first record, `time` what its header says.
    /// Records before the image's position are passed over.
    ///
    /// # Errors
    /// Records that are damaged, or that cannot follow what was read before; drop the shard then.
    ///
    /// # Panics
    /// When the shard is serving already.
    pub fn replay(&mut self, first: Position, time: Time, records: &[u8]) -> Result<(), ReplayError> {
        self.begin_recovery();
        if self.phase != (Phase::Recovering { image_open: false }) {
            return Err(ReplayError { offset: 0, reason: "the image before it is incomplete" });
        }
        if time.0 > TIME_MS_MAX {
            return Err(ReplayError { offset: 0, reason: "time out of range" });
        }
        if first.0 > POSITION_MAX {
            return Err(ReplayError { offset: 0, reason: "position out of range" });
        }
        if first < self.replayed_to {
            return Err(ReplayError { offset: 0, reason: "position steps back" });
        }
        self.grants.settle(self.table.hash());
        let mut time = time;
        self.clock = self.clock.max(time);
        let mut records = RecordIter::new(first, records);
        let mut coming = Coming::of_new(grants_of(records.clone()), self);
        let mut offset = 0;
        while let Some(next) = records.next() {
            coming.step(self);
            let (position, record) = next?;
            let tail = Position(first.0.saturating_add(records.offset() as u64));
            if let Record::Clock { time: later } = record {
                if later < time {
                    return Err(ReplayError { offset, reason: "time steps back" });
                }
                time = later;
                self.clock = self.clock.max(time);
            } else if position >= self.replay_from {
                self.replay_one(position, time, &record).map_err(|reason| ReplayError { offset, reason })?;
                self.ledger.recovered_to(tail, time);
            }
            offset = records.offset();
            self.replayed_to = tail;
        }
        Ok(())
    }

    /// Ends recovery: time goes on at `now`, which is not before [`Shard::clock`]. Each lease gets its full TTL, or the
    /// deadline that the log made exact; the shard serves.
    ///
    /// # Panics
    /// When an image was begun and not read to its end, or time steps back (S6).
    pub fn recovered(&mut self, now: Time) {
        self.begin_recovery();
        assert!(
            self.phase == (Phase::Recovering { image_open: false }),
            "S4 replay-equal: recovery ends within an image"
        );
        assert!(now >= self.clock, "S6 time-forward: recovered up to {}, resumed at {now}", self.clock);
        self.grants.settle(self.table.hash());
        self.ledger.recovered_to(self.ledger.tail(), self.ledger.time());
        let unpinned = now.max(self.floor).0 + 1;
        let earliest = self.table.live_slots().filter(|&slot| self.table.entry(slot).has(PINNED));
        let earliest = earliest.map(|slot| self.deadline(slot)).min().unwrap_or(u64::MAX);
        let wheel_now = now.0.min(earliest.saturating_sub(1));
        self.refile_all(Time(wheel_now), |shard, slot| {
            if shard.table.entry(slot).has(PINNED) {
                // A deadline of 0 cannot be after any clock; nothing writes one.
                shard.deadline(slot).max(1)
            } else {
                let planted = tenure_planted::is(Bug::ShortAfterRestart);
                unpinned + if planted { shard.table.ttl_ms(slot) / 2 } else { shard.table.ttl_ms(slot) }
            }
        });
        self.table.finish_recovery();
        self.holes = Vec::new();
        self.clock = now;
        self.expired_to = now;
        self.sweep.restart(now, self.config.checkpoint_interval_ms);
        self.phase = Phase::Serving;
    }

    fn begin_recovery(&mut self) {
        if self.phase == Phase::Fresh {
            self.phase = Phase::Recovering { image_open: false };
        }
        assert!(self.phase != Phase::Serving, "S4 replay-equal: recovery of a shard that serves");
    }

    fn is_own(&self, id: LeaseId) -> bool {
        shard_of(id, self.config.shard_count) == self.config.shard
    }

    /// The first time that is read: near it, deadlines fit into entries.
    fn anchor(&mut self, time: Time) {
        if self.table.live_count() == 0 && self.wheel.now() == 0 {
            self.wheel.reset(time);
        }
    }

    fn load(&mut self, entry: &ImageEntry<'_>) -> Applied {
        let open = Phase::Recovering { image_open: true };
        match *entry {
            ImageEntry::Start(start) => return self.load_start(&start),
            _ if self.phase != open => return Err("entry outside of an image"),
            ImageEntry::Lease { id, token, ttl_ms, deadline, chosen } => {
                if !self.is_own(id) {
                    return Err(FOREIGN);
                }
                self.load_lease(Holder { token, id }, ttl_ms, deadline, chosen)?;
            }
            ImageEntry::Item { id, token, item } => self.load_item(Holder { token, id }, item)?,
            ImageEntry::Leaving { id, token, item } => {
                self.check_counted()?;
                self.items.load_leaving(Holder { token, id }, item);
            }
            ImageEntry::Key { key, id, token } => self.grants.load(key, id, token, self.table.hash()),
            ImageEntry::End { position } if position < self.replay_from => {
                return Err("image ends before it begins");
            }
            ImageEntry::End { .. } => self.phase = Phase::Recovering { image_open: false },
        }
        Ok(())
    }

    fn load_moved(&mut self, entry: &ImageEntry<'_>) -> Applied {
        match *entry {
            ImageEntry::Start(start) => {
                self.anchor(start.time);
                self.clock = self.clock.max(start.time);
                self.ledger.recovered_at(start.time);
                self.floor = self.floor.max(start.floor);
                self.role = start.role;
            }
            ImageEntry::Lease { id, token, ttl_ms, deadline, .. } if self.is_own(id) => {
                self.load_lease(Holder { token, id }, ttl_ms, deadline, true)?;
            }
            ImageEntry::Item { id, token, item } if self.is_own(id) => {
                self.load_item(Holder { token, id }, item)?;
            }
            ImageEntry::Leaving { id, token, item } if self.is_own(id) => {
                self.items.load_leaving(Holder { token, id }, item);
            }
            ImageEntry::Key { key, id, token } if self.is_own(id) => {
                self.grants.load(key, id, token, self.table.hash());
            }
            _ => {}
        }
        Ok(())
    }

    fn load_start(&mut self, start: &Start) -> Applied {
        if (start.shard, start.shard_count) != (self.config.shard, self.config.shard_count) {
            return Err("image of another shard, or of another number of shards");
        }
        if self.replayed_to != Position::ZERO {
            return Err("image after records");
        }
        self.table.clear();
        self.items.clear();
        self.grants.clear();
        self.holes.clear();
        self.wheel.reset(start.time);
        self.table.note_generation_next(start.generation_next);
        (self.role, self.floor, self.clock) = (start.role, start.floor, start.time);
        self.replay_from = start.position;
        self.ledger = Default::default();
        self.ledger.recovered_to(start.position, start.time);
        self.ledger.recovered_at(start.time);
        self.phase = Phase::Recovering { image_open: true };
        Ok(())
    }

    fn load_lease(&mut self, holder: Holder, ttl_ms: u64, deadline: Option<Time>, chosen: bool) -> Applied {
        // The walk may meet a lease, then what was granted after it under the same id or in the same slot.
        let same_slot = if chosen { None } else { self.occupant(holder.id) };
        for former in [self.table.find(holder.id), same_slot].into_iter().flatten() {
            if !self.table.entry(former).is_live() {
                continue;
            }
            if self.table.token(former) >= holder.token {
                return Err("lease twice in an image");
            }
            self.discard(former);
        }
        let slot =
            self.table.place_recovered(holder.id, holder.token, chosen, &mut self.holes).ok_or(TOO_MANY)?;
        self.pin(slot, ttl_ms, deadline);
        Ok(())
    }

    fn load_item(&mut self, holder: Holder, item: &[u8]) -> Applied {
        self.check_counted()?;
        let slot =
            self.table.find_exact(holder.id, holder.token).ok_or("item of a lease that is not there")?;
        self.apply_attach(slot, holder, item);
        Ok(())
    }

    fn check_counted(&self) -> Applied {
        let count = self.items.live_count() + self.items.leaving_count();
        // Twice: a fuzzy image may hold an item both on its lease and leaving.
        if count > 2 * ITEM_COUNT_MAX { Err("more items than a shard may have") } else { Ok(()) }
    }

    /// The live server-assigned lease in the slot that this id names.
    fn occupant(&self, id: LeaseId) -> Option<Slot> {
        let (slot, _) = self.table.own_slot(id)?;
        let present = slot.index() < self.table.slab.len();
        (present && self.table.entry(slot).is_live() && self.table.entry(slot).is_direct()).then_some(slot)
    }

    /// Sets the TTL, and the deadline if it is exact.
    fn pin(&mut self, slot: Slot, ttl_ms: u64, deadline: Option<Time>) {
        let base = self.wheel.now();
        self.table.set_deadline(slot, ttl_ms, deadline.map_or(base, |deadline| deadline.0), base);
        self.table.entry_mut(slot).set(PINNED, deadline.is_some());
    }

    /// Takes out a lease that ended before the walk was over. Its items are not told here: the image has those that
    /// were still leaving at its end.
    fn discard(&mut self, slot: Slot) {
        let holder = self.holder(slot);
        self.items.discard(holder, self.table.hash());
        self.table.remove_recovered(slot, &mut self.holes);
    }

    /// Takes a lease out because it ended; the records of its items follow.
    fn forget(&mut self, slot: Slot) {
        let holder = self.holder(slot);
        if self.table.entry(slot).has(HAS_ITEMS) {
            self.items.end(holder);
        }
        self.table.remove_recovered(slot, &mut self.holes);
    }

    fn replay_one(&mut self, position: Position, time: Time, record: &Record<'_>) -> Applied {
        if time < self.clock {
            return Err("time steps back");
        }
        self.anchor(time);
        self.clock = time;
        match *record {
            Record::Clock { .. } => {}
            Record::Grant { id, ttl_ms, exact, chosen, key } => {
                let deadline = exact.then_some(Time(time.0 + ttl_ms + 1));
                self.replay_grant(Holder { token: Token(position.0), id }, ttl_ms, deadline, chosen, key)?;
            }
            Record::Ended { ref entries, .. } => {
                let mut coming = Coming::new(entries.clone().map(|(id, _)| Some(id)), self);
                for (id, token) in entries.clone() {
                    coming.step(self);
                    if let Some(slot) = self.table.find_exact(id, token) {
                        self.forget(slot);
                    }
                }
            }
            Record::Checkpoint { ref entries } | Record::Renewal { exact: true, ref entries } => {
                self.pin_each(entries, true);
            }
            Record::Renewal { exact: false, ref entries } => self.pin_each(entries, false),
            Record::Attach { id, token, item } => {
                self.check_counted()?;
                if let Some(slot) = self.table.find_exact(id, token) {
                    self.apply_attach(slot, Holder { token, id }, item);
                } else {
                    // The lease has ended and the image never saw it, but it did take the item.
                    self.take_item(item);
                }
            }
            Record::Detach { id, token, item } => {
                if tenure_planted::is(Bug::ForgetsDetach) {
                    return Ok(());
                }
                if let Some(slot) = self.table.find_exact(id, token) {
                    self.apply_detach(slot, Holder { token, id }, item);
                }
            }
            Record::EndedItems { id, token, last, ref items } => {
                if self.table.find_exact(id, token).is_some() {
                    return Err("items of a live lease leave");
                }
                self.items.left(Holder { token, id }, items.clone(), last, self.table.hash());
            }
            Record::Promote { extend_ms } => self.replay_promote(time, extend_ms),
            Record::Demote if tenure_planted::is(Bug::ForgetsRole) => {}
            Record::Demote => self.role = crate::config::Role::Standby,
        }
        Ok(())
    }

    /// Each lease gets the deadline that stands beside it, or none.
    fn pin_each(&mut self, entries: &DeadlineEntries<'_>, exact: bool) {
        let mut coming = Coming::new(entries.clone().map(|(id, ..)| Some(id)), self);
        for (id, token, deadline) in entries.clone() {
            coming.step(self);
            if let Some(slot) = self.table.find_exact(id, token) {
                self.pin(slot, self.table.ttl_ms(slot), exact.then_some(deadline));
            }
        }
    }

    /// Takes an item from the live lease that has it.
    fn take_item(&mut self, item: &[u8]) {
        if let Some(owner) = self.items.owner(item, self.table.hash())
            && let Some(slot) = self.table.find_exact(owner.id, owner.token)
        {
            self.apply_detach(slot, owner, item);
        }
    }

    fn replay_grant(
        &mut self,
        holder: Holder,
        ttl_ms: u64,
        deadline: Option<Time>,
        chosen: bool,
        key: Option<GrantKey>,
    ) -> Applied {
        if !self.is_own(holder.id) {
            return Err(FOREIGN);
        }
        if holder.token.0 > TOKEN_MAX {
            return Err("token out of range");
        }
        if !chosen {
            self.table.note_issued(holder.id);
        }
        if let Some(key) = key {
            self.grants.insert(key, holder.id, holder.token, self.table.hash());
        }
        let same_slot = if chosen { None } else { self.occupant(holder.id) };
        if let Some(present) = self.table.find(holder.id).or(same_slot) {
            // The image has this lease, or one that came after it; an older one would have ended before.
            return if self.table.token(present) >= holder.token { Ok(()) } else { Err(AT_ODDS) };
        }
        let placed = self.table.place_recovered(holder.id, holder.token, chosen, &mut self.holes);
        self.pin(placed.ok_or(TOO_MANY)?, ttl_ms, deadline);
        Ok(())
    }
}
