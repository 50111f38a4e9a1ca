//! Keeps S3: what a crash could still undo, and so what each answer has to wait for.
//!
//! A lease is *pending* while a record about it (grant, attach, detach, a renewal that has to be logged) is not yet
//! durable: whatever reveals that lease waits. A `NotFound` reveals an end, so it waits for the last end
//! record. Everything else goes out at once: a renewal of a settled lease never waits.
//!
//! Pending leases stand in a queue by position; a lease pending for several reasons is let go by the last.
//! Invariant: **S3** ack-after-durable. Does not know what the records said.

use crate::entry::{Entry, PENDING, PENDING_MANY, Slot};
use crate::slab::Slab;
use crate::time::{Position, Time, Token};
use foldhash::quality::FixedState;
use hashbrown::HashMap;
use std::collections::VecDeque;

#[derive(Clone, Copy)]
struct Pending {
    position: Position,
    token: Token,
    slot: Slot,
}

/// Positions that answers may have to wait for.
#[derive(Default)]
pub(crate) struct Ledger {
    durable: Position,
    /// After the last record of any kind.
    tail: Position,
    /// Time of that record.
    time: Time,
    /// After the last record by which a lease ended.
    last_end: Position,
    /// After the last promotion or demotion: until it is durable, every answer reveals it.
    last_role: Position,
    pending: VecDeque<Pending>,
    /// Last position of leases that are pending for more than one reason.
    pending_last: HashMap<u32, Position, FixedState>,
}

impl Ledger {
    /// A record was appended; the log now ends at `tail`.
    #[inline]
    pub(crate) fn wrote(&mut self, tail: Position, time: Time) {
        debug_assert!(tail >= self.tail, "S9 once: the log never steps back");
        self.tail = tail;
        self.time = time;
    }

    /// A record that ended a lease was appended.
    #[inline]
    pub(crate) fn wrote_end(&mut self, tail: Position, time: Time) {
        self.wrote(tail, time);
        self.last_end = tail;
    }

    /// A record that changed the role was appended.
    pub(crate) fn wrote_role(&mut self, tail: Position, time: Time) {
        self.wrote(tail, time);
        self.last_role = tail;
    }

    /// No answer waits for a change of role.
    #[inline(always)]
    pub(crate) fn is_role_durable(&self) -> bool {
        self.last_role <= self.durable
    }

    /// After the last record.
    #[inline(always)]
    pub(crate) fn tail(&self) -> Position {
        self.tail
    }

    /// Time of the last record.
    pub(crate) fn time(&self) -> Time {
        self.time
    }

    /// What an answer waits for that reveals the newest record.
    #[inline]
    pub(crate) fn after_any(&self) -> Position {
        self.unless_durable(self.tail)
    }

    /// What an answer waits for that reveals that a lease is not there.
    #[inline]
    pub(crate) fn after_end(&self) -> Position {
        self.unless_durable(self.last_end.max(self.last_role))
    }

    /// What an answer waits for that reveals the lease in this slot.
    #[inline(always)]
    pub(crate) fn after_lease(&self, entry: &Entry) -> Position {
        if !entry.has(PENDING) { self.unless_durable(self.last_role) } else { self.after_any() }
    }

    fn unless_durable(&self, position: Position) -> Position {
        if position > self.durable { position } else { Position::ZERO }
    }

    /// The lease in this slot is pending until the log is durable up to here.
    #[inline]
    pub(crate) fn mark(&mut self, slab: &mut Slab, slot: Slot) {
        let token = slab.token(slot);
        let entry = slab.entry_mut(slot);
        if entry.has(PENDING) {
            entry.set(PENDING_MANY, true);
            self.pending_last.insert(slot.0, self.tail);
        }
        entry.set(PENDING, true);
        self.pending.push_back(Pending { position: self.tail, token, slot });
    }

    /// The lease in this slot ends: forget what it was pending for.
    #[inline(always)]
    pub(crate) fn forget(&mut self, slot: Slot, entry: &Entry) {
        if entry.has(PENDING_MANY) {
            self.pending_last.remove(&slot.0);
        }
    }

    /// Everything below `position` is durable.
    pub(crate) fn durable(&mut self, position: Position, slab: &mut Slab) {
        self.durable = self.durable.max(position);
        while let Some(&Pending { position, token, slot }) = self.pending.front() {
            if position > self.durable {
                break;
            }
            self.pending.pop_front();
            if slab.token(slot) != token {
                continue;
            }
            let entry = slab.entry_mut(slot);
            if !entry.is_live() {
                continue;
            }
            if entry.has(PENDING_MANY) {
                match self.pending_last.get(&slot.0) {
                    Some(&last) if last > position => continue,
                    _ => self.pending_last.remove(&slot.0),
                };
            }
            entry.set(PENDING | PENDING_MANY, false);
        }
    }

    /// Recovery from another log: its last record was at this time.
    pub(crate) fn recovered_at(&mut self, time: Time) {
        self.time = self.time.max(time);
    }

    /// Recovery: everything up to here came from the log and is durable.
    pub(crate) fn recovered_to(&mut self, tail: Position, time: Time) {
        if tail > self.tail {
            self.tail = tail;
            self.time = time;
        }
        self.durable = self.tail;
    }

    /// Panics unless exactly the leases that wait are marked so.
    pub(crate) fn check(&self, slab: &Slab) {
        assert!(self.last_end <= self.tail, "S3 ack-after-durable: an end beyond the log's tail");
        let mut waiting = std::collections::BTreeMap::new();
        for pending in &self.pending {
            assert!(pending.position > self.durable, "S3 ack-after-durable: a durable record still waits");
            if slab.token(pending.slot) == pending.token && slab.entry(pending.slot).is_live() {
                waiting.insert(pending.slot, pending.position);
            }
        }
        for index in 0..slab.len() {
            let slot = Slot(index as u32);
            let marked = slab.entry(slot).has(PENDING);
            assert_eq!(marked, waiting.contains_key(&slot), "S3 ack-after-durable: mark of slot {index}");
        }
        for (&slot, last) in &self.pending_last {
            assert_eq!(
                waiting.get(&Slot(slot)),
                Some(last),
                "S3 ack-after-durable: last reason of slot {slot}"
            );
        }
    }
}
