//! Attach and detach: items come to leases and go.
//!
//! Both are logged with (id, token), so that neither can hit a lease granted again under the same id. An item is on one
//! lease of a shard at most: attaching it elsewhere moves it, in one record.

use super::Shard;
use crate::entry::Slot;
use crate::id::LeaseId;
use crate::items::Holder;
use crate::limits::{ITEM_BYTES_MAX, ITEM_COUNT_MAX};
use crate::outcome::Attached;
use crate::record::RecordBuffer;
use crate::refusal::{Answer, Refusal};
use crate::time::{Position, Time};

impl Shard {
    /// Attaches an item to a lease, taking it from the live lease of this shard that has it. Attaching what is there
    /// already changes nothing and succeeds.
    ///
    /// # Errors
    /// `NotFound`, `ItemTooLarge`, `LimitExceeded`, `NotPrimary`.
    pub fn attach(
        &mut self,
        now: Time,
        id: LeaseId,
        item: &[u8],
        log: &mut RecordBuffer,
    ) -> Answer<Attached> {
        self.enter(now);
        if let Err(refusal) = self.require_primary() {
            return Answer::refused(refusal, Position::ZERO);
        }
        if item.len() > ITEM_BYTES_MAX {
            return Answer::refused(Refusal::ItemTooLarge, Position::ZERO);
        }
        let slot = match self.find_alive(now, id, log) {
            Ok(slot) => slot,
            Err(after) => return Answer::refused(Refusal::NotFound, after),
        };
        let holder = self.holder(slot);
        let former = self.alive_owner(now, item, log);
        if former == Some(holder) {
            let attached = Attached { token: holder.token, moved_from: None };
            return Answer::after(attached, self.ledger.after_lease(self.table.entry(slot)));
        }
        if former.is_none() && self.items.live_count() + self.items.leaving_count() >= ITEM_COUNT_MAX {
            return Answer::refused(Refusal::LimitExceeded, self.ledger.after_any());
        }
        log.stamp(now);
        log.attach(id, holder.token, item);
        self.ledger.wrote(log.tail(), log.time());
        let former_slot = self.apply_attach(slot, holder, item);
        for changed in [Some(slot), former_slot].into_iter().flatten() {
            self.ledger.mark(&mut self.table.slab, changed);
        }
        let attached = Attached { token: holder.token, moved_from: former.map(|former| former.id) };
        Answer::after(attached, self.ledger.after_any())
    }

    /// Takes an item from a lease.
    ///
    /// # Errors
    /// `NotFound` for the lease, `ItemNotFound` for the item, `NotPrimary`.
    pub fn detach(&mut self, now: Time, id: LeaseId, item: &[u8], log: &mut RecordBuffer) -> Answer<()> {
        self.enter(now);
        if let Err(refusal) = self.require_primary() {
            return Answer::refused(refusal, Position::ZERO);
        }
        let slot = match self.find_alive(now, id, log) {
            Ok(slot) => slot,
            Err(after) => return Answer::refused(Refusal::NotFound, after),
        };
        let holder = self.holder(slot);
        if !self.apply_detach(slot, holder, item) {
            return Answer::refused(Refusal::ItemNotFound, self.ledger.after_any());
        }
        log.stamp(now);
        log.detach(id, holder.token, item);
        self.ledger.wrote(log.tail(), log.time());
        self.ledger.mark(&mut self.table.slab, slot);
        Answer::after((), self.ledger.after_any())
    }

    /// The lease that has an item, once an overdue one has been ended.
    fn alive_owner(&mut self, now: Time, item: &[u8], log: &mut RecordBuffer) -> Option<Holder> {
        let owner = self.items.owner(item, self.table.hash())?;
        self.find_alive(now, owner.id, log).ok().map(|_| owner)
    }

    /// Puts an item on the lease in this slot; returns the slot of the live lease that had it. Live and replayed.
    pub(super) fn apply_attach(&mut self, slot: Slot, holder: Holder, item: &[u8]) -> Option<Slot> {
        let former = self.items.owner(item, self.table.hash()).filter(|&former| former != holder);
        self.items.attach(holder, item, self.table.hash());
        self.table.set_has_items(slot, true);
        let former = former?;
        let former_slot = self.table.find_exact(former.id, former.token)?;
        self.table.set_has_items(former_slot, self.items.count_of(former) > 0);
        Some(former_slot)
    }

    /// Takes an item from the lease in this slot; false when it is not on it. Live and replayed.
    pub(super) fn apply_detach(&mut self, slot: Slot, holder: Holder, item: &[u8]) -> bool {
        let detached = self.items.detach(holder, item, self.table.hash());
        self.table.set_has_items(slot, self.items.count_of(holder) > 0);
        detached
    }
}
