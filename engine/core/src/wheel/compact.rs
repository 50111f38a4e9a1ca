//! Drops stale references place by place, a few at a time.
//!
//! A lease that ends leaves its reference in the wheel. When references exceed twice the live leases and some slack,
//! a pass begins: it takes the chunks of one place after another in hand and files the valid references again in
//! the same place. Each grant pays for 4 references, so that a pass over R of them ends within R/4 grants
//! and references stay below 2.5 × leases + slack; `maintain` does more when there is time.
//!
//! A slab slot that was ended and granted again into the same place has two references that look alike. Each
//! place has a parity bit, flipped when its compaction begins, and an entry carries the parity of the place as it was
//! filed: the first reference kept flips the entry's, and the second is recognised.
//!
//! Invariant: **S7** wheel-agrees: no valid reference is ever dropped; **S8** bounded.

use super::{CHUNK_REFERENCES, NONE, PLACES, SLOTS, Wheel};
use crate::region::prefetch_line;
use crate::slab::{Entry, PARITY, PLACE_MASK};

/// Where a pass stands.
#[derive(Clone, Copy)]
pub(super) struct Compaction {
    active: bool,
    /// The place in hand while `chunk` is one, else the next place to take.
    place: u32,
    chunk: u32,
    /// References of `chunk` already kept or dropped.
    done: u32,
}

impl Default for Compaction {
    fn default() -> Compaction {
        Compaction { active: false, place: 0, chunk: NONE, done: 0 }
    }
}

impl Compaction {
    /// The chunks in hand if they belong to `place`, which begins now, and how many references of the first are
    /// done; the pass goes on elsewhere.
    pub(super) fn surrender(&mut self, place: u32) -> Option<(u32, usize)> {
        if self.chunk == NONE || self.place != place {
            return None;
        }
        self.place += 1;
        let done = std::mem::take(&mut self.done) as usize;
        Some((std::mem::replace(&mut self.chunk, NONE), done))
    }

    pub(super) fn in_hand(&self) -> Option<(u32, u32, usize)> {
        (self.chunk != NONE).then_some((self.place, self.chunk, self.done as usize))
    }
}

impl Wheel {
    /// Whether there are too many references for this many live leases, or a pass is under way.
    #[inline]
    pub(crate) fn wants_compaction(&self, live_count: u64) -> bool {
        self.compaction.active || self.reference_count > 2 * live_count + self.reference_slack
    }

    /// Visits about `budget` references of the pass under way, beginning one if needed; returns the visits made.
    pub(crate) fn compact(&mut self, entries: &mut [Entry], budget: usize) -> usize {
        self.compaction.active = true;
        let mut visits = 0;
        while visits < budget {
            if self.compaction.chunk == NONE && !self.take_next_place() {
                self.compaction = Compaction::default();
                break;
            }
            visits += self.compact_some(entries, budget - visits);
        }
        visits
    }

    /// Takes the chunks of the next occupied place in hand and flips its parity; false at the end of the pass.
    fn take_next_place(&mut self) -> bool {
        while (self.compaction.place as usize) < PLACES {
            let place = self.compaction.place;
            let (level, bit) = ((place / SLOTS) as usize, 1u64 << (place % SLOTS));
            let chunk = std::mem::replace(&mut self.heads[place as usize], NONE);
            if chunk != NONE {
                self.occupied[level] &= !bit;
                self.parity[level] ^= bit;
                self.compaction.chunk = chunk;
                self.compaction.done = 0;
                self.keep_visible(place);
                return true;
            }
            self.compaction.place += 1;
        }
        false
    }

    /// References in hand are not in the place's list; an empty list would hide them from the clock. So the place keeps
    /// a chunk, if only an empty one, while it is in hand.
    fn keep_visible(&mut self, place: u32) {
        let chunk = self.take_chunk(NONE);
        self.heads[place as usize] = chunk;
        self.occupied[(place / SLOTS) as usize] |= 1 << (place % SLOTS);
    }

    /// Keeps or drops up to `budget` references of the chunk in hand; returns how many.
    fn compact_some(&mut self, entries: &mut [Entry], budget: usize) -> usize {
        let (place, index) = (self.compaction.place, self.compaction.chunk);
        let chunk = self.chunks[index as usize];
        let parity = self.parity_bit(place);
        let first = self.compaction.done as usize;
        let last = (chunk.len as usize).min(first + budget);
        debug_assert!(last <= CHUNK_REFERENCES);
        for &slot in &chunk.slots[first..last] {
            let entry = &mut entries[slot as usize];
            self.reference_count -= 1;
            if entry.loc & PLACE_MASK == place && entry.loc & PARITY != parity {
                entry.loc ^= PARITY;
                self.push(place, slot);
            }
        }
        // A grant pays for a few references at a time: the next few find their lines here.
        for &slot in &chunk.slots[last..(chunk.len as usize).min(last + budget)] {
            prefetch_line(&entries[slot as usize]);
        }
        self.compaction.done = last as u32;
        if last == chunk.len as usize {
            self.compaction.chunk = chunk.next;
            self.compaction.done = 0;
            self.release_chunk(index);
            if chunk.next == NONE {
                self.leave_place(place);
            }
        }
        last - first
    }

    /// The place in hand is through: forget the chunk that kept it visible if nothing came into it.
    fn leave_place(&mut self, place: u32) {
        let head = self.heads[place as usize];
        if head != NONE && self.chunks[head as usize].len == 0 {
            debug_assert_eq!(self.chunks[head as usize].next, NONE);
            self.release_chunk(head);
            self.heads[place as usize] = NONE;
            self.occupied[(place / SLOTS) as usize] &= !(1 << (place % SLOTS));
        }
        self.compaction.place += 1;
    }
}
