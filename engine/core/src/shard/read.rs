//! Reads: what a lease is worth, which leases there are, which items they have.
//!
//! Reads keep S3 as well: what is not durable yet is told only once it is, and an overdue lease that a primary meets
//! is ended first, so that what was told dead stays dead. A standby answers from what it has, without ending
//! anything: an overdue lease has 0 ms left there.

use super::Shard;
use crate::config::Role;
use crate::entry::Slot;
use crate::id::LeaseId;
use crate::limits::LIST_SLOTS_PER_CALL;
use crate::outcome::{Listed, TimeToLive};
use crate::record::RecordBuffer;
use crate::refusal::{Answer, Refusal};
use crate::time::{Time, Token};

impl Shard {
    /// What a lease is worth now.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn time_to_live(&mut self, now: Time, id: LeaseId, log: &mut RecordBuffer) -> Answer<TimeToLive> {
        self.enter(now);
        let slot = match self.find_alive(now, id, log) {
            Ok(slot) => slot,
            Err(after) => return Answer::refused(Refusal::NotFound, after),
        };
        let time_to_live = TimeToLive {
            token: self.table.token(slot),
            ttl_ms: self.table.ttl_ms(slot),
            remaining_ms: self.remaining_ms(slot, now),
            item_count: self.item_count(slot),
        };
        Answer::after(time_to_live, self.ledger.after_lease(self.table.entry(slot)))
    }

    /// Appends the items of a lease that sort after `after`, until they hold `bytes_max` bytes (at least one item).
    /// Says whether there are more.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn items(
        &mut self,
        now: Time,
        id: LeaseId,
        after: Option<&[u8]>,
        bytes_max: usize,
        out: &mut Vec<Box<[u8]>>,
        log: &mut RecordBuffer,
    ) -> Answer<bool> {
        self.enter(now);
        let slot = match self.find_alive(now, id, log) {
            Ok(slot) => slot,
            Err(after) => return Answer::refused(Refusal::NotFound, after),
        };
        let (mut bytes, mut more) = (0, false);
        for item in self.items.items_after(self.holder(slot), after) {
            if bytes > 0 && bytes + item.len() > bytes_max {
                more = true;
                break;
            }
            // An empty item still takes part in the page.
            bytes += item.len().max(1);
            out.push(Box::from(&item[..]));
        }
        Answer::after(more, self.ledger.after_any())
    }

    /// Appends up to `limit` live leases, in no order that means anything; `cursor` is 0 at first and then what the
    /// last call returned; 0 is returned at the end. A lease that lives all the while is listed exactly once. A
    /// page may be short, even empty, before the end.
    ///
    /// # Errors
    /// None.
    pub fn list(
        &mut self,
        now: Time,
        cursor: u64,
        limit: usize,
        out: &mut Vec<Listed>,
        log: &mut RecordBuffer,
    ) -> Answer<u64> {
        self.enter(now);
        let count = self.table.slab.len() as u64;
        let mut next = cursor;
        let mut listed = 0;
        while next < count && listed < limit && next - cursor < LIST_SLOTS_PER_CALL as u64 {
            let slot = Slot(next as u32);
            next += 1;
            if !self.table.entry(slot).is_live() {
                continue;
            }
            if self.role == Role::Primary && self.is_overdue(slot, now) {
                self.expire_one(slot, now, log);
                continue;
            }
            listed += 1;
            out.push(Listed {
                id: self.table.id(slot),
                token: self.table.token(slot),
                ttl_ms: self.table.ttl_ms(slot),
                remaining_ms: self.remaining_ms(slot, now),
                item_count: self.item_count(slot),
            });
        }
        Answer::after(if next < count { next } else { 0 }, self.ledger.after_any())
    }

    /// The live lease of this shard that has an item.
    ///
    /// # Errors
    /// None.
    pub fn lease_of(
        &mut self,
        now: Time,
        item: &[u8],
        log: &mut RecordBuffer,
    ) -> Answer<Option<(LeaseId, Token)>> {
        self.enter(now);
        let owner = self
            .items
            .owner(item, self.table.hash())
            .filter(|holder| self.find_alive(now, holder.id, log).is_ok())
            .map(|holder| (holder.id, holder.token));
        Answer::after(owner, self.ledger.after_any())
    }
}
