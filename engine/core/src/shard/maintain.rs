//! Work that nobody waits for: items of dead leases leave, stale references go, deadlines are checkpointed, memory is
//! touched ahead of use. Each call does a bounded amount of each, so that a large backlog never stalls the core.
//!
//! The checkpoint sweep walks the slab once an interval and logs the deadlines of leases whose TTL is longer than the
//! interval and that were not renewed within the last one: after a restart those go on where they were, to within the
//! interval, instead of starting over. A logged deadline stays right until a renewal withdraws it (S2).

use super::Shard;
use crate::config::Role;
use crate::entry::{PINNED, Slot};
use crate::limits::{ENDED_ITEMS_BYTES_PER_CALL, ITEM_TOUCHES};
use crate::record::RecordBuffer;
use crate::region::MemoryAhead;
use crate::time::Time;

/// Where the checkpoint sweep stands.
#[derive(Default)]
pub(super) struct Sweep {
    /// Next slot of the sweep under way.
    at: Option<u32>,
    /// When the next sweep begins; `None` until the first call of `maintain`, or without checkpoints.
    next_at: Option<Time>,
}

impl Sweep {
    pub(super) fn is_under_way(&self) -> bool {
        self.at.is_some()
    }

    pub(super) fn next_at(&self) -> Option<Time> {
        self.next_at
    }

    /// The first sweep begins an interval from now.
    pub(super) fn restart(&mut self, now: Time, interval_ms: Option<u64>) {
        self.at = None;
        self.next_at = interval_ms.map(|interval_ms| Time(now.0.saturating_add(interval_ms)));
    }
}

impl Shard {
    /// Memory that this shard will soon need, a huge page at a time, each once: to be
    /// [populated](MemoryAhead::populate) on another thread. Ask until there is none, once a turn.
    #[inline]
    pub fn memory_wanted(&mut self) -> Option<MemoryAhead> {
        self.table.memory_wanted().or_else(|| self.wheel.memory_wanted())
    }

    /// Does bounded background work: about `budget` leases, references and items are touched. True when there is more
    /// to do at once.
    ///
    /// Writes at most 64 KiB of item records (but for the last item) and 24 bytes for each checkpointed lease.
    pub fn maintain(&mut self, now: Time, budget: usize, log: &mut RecordBuffer) -> bool {
        self.enter(now);
        if self.role == Role::Standby {
            return false;
        }
        let mut left = budget.saturating_sub(self.release_items(now, budget, log));
        if left > 0 && self.wheel.wants_compaction(self.table.slab.line_count()) {
            left -= self.wheel.compact(&mut self.table.slab, left).min(left);
        }
        self.sweep_some(now, left, log);
        self.items.has_leaving()
            || self.sweep.is_under_way()
            || self.wheel.wants_compaction(self.table.slab.line_count())
    }

    /// Writes slices of the items of ended leases, at least one item; returns how much of the budget they took.
    fn release_items(&mut self, now: Time, budget: usize, log: &mut RecordBuffer) -> usize {
        let (start, mut left) = (log.tail().0, budget);
        while left > 0 && self.items.has_leaving() {
            let written = (log.tail().0 - start) as usize;
            if written >= ENDED_ITEMS_BYTES_PER_CALL {
                break;
            }
            let bytes_max = ENDED_ITEMS_BYTES_PER_CALL - written;
            let slice = self.items.take_slice(bytes_max, left.div_ceil(ITEM_TOUCHES), self.table.hash());
            let Some(slice) = slice else { break };
            log.stamp(now);
            log.ended_items(slice.holder.id, slice.holder.token, &slice.items, slice.last);
            self.ledger.wrote(log.tail(), log.time());
            left = left.saturating_sub(slice.items.len() * ITEM_TOUCHES);
        }
        budget - left
    }

    /// Goes on with the checkpoint sweep, or begins one when its time has come.
    fn sweep_some(&mut self, now: Time, budget: usize, log: &mut RecordBuffer) {
        let Some(interval_ms) = self.config.checkpoint_interval_ms else {
            return;
        };
        let Some(next_at) = self.sweep.next_at else {
            return self.sweep.restart(now, Some(interval_ms));
        };
        if self.sweep.at.is_none() {
            if now < next_at {
                return;
            }
            self.sweep.restart(now, Some(interval_ms));
            self.sweep.at = Some(0);
        }
        let from = self.sweep.at.unwrap_or(0) as usize;
        let to = self.table.slab.len().min(from + budget);
        for index in from..to {
            self.checkpoint(now, Slot(index as u32), interval_ms, log);
        }
        self.sweep.at = (to < self.table.slab.len()).then_some(to as u32);
    }

    /// Logs a lease's deadline if a restart should keep it.
    fn checkpoint(&mut self, now: Time, slot: Slot, interval_ms: u64, log: &mut RecordBuffer) {
        let entry = self.table.entry(slot);
        if !entry.is_live() || entry.has(PINNED) {
            return;
        }
        let (ttl_ms, deadline) = (self.table.ttl_ms(slot), self.deadline(slot));
        let remaining_ms = deadline.saturating_sub(now.0);
        if ttl_ms <= interval_ms || remaining_ms == 0 || remaining_ms > ttl_ms - interval_ms {
            return;
        }
        let holder = self.holder(slot);
        log.stamp(now);
        log.checkpoint(holder.id, holder.token, Time(deadline));
        self.table.entry_mut(slot).set(PINNED, true);
        self.ledger.wrote(log.tail(), log.time());
    }
}
