//! The slab: leases by slot, without a table in between.
//!
//! A renewal reads and writes one entry (entry.rs) and nothing else, so that its floor is one random cache line. What
//! renewals do not need lies in parallel arrays: the lower halves of fencing tokens, and the ids that clients chose.
//!
//! Free slots wait in a first-in-first-out list through their deadline fields, in eight lanes. A server-assigned id names slot and
//! generation, and the generation moves on with each use: an old id can never hit a new lease. A slot whose
//! generations are used up is retired, never wrapped. Invariants: **S8** bounded (slots), no id issued twice.

use crate::entry::{Entry, Filing, LINE_SLOTS, Line, NOT_DIRECT, Slot, filing, set_filing};
use crate::limits::GENERATION_COUNT_MAX;
use crate::region::{MemoryAhead, Region, prefetch_line};
use crate::time::Token;

const NONE: u32 = u32::MAX;

/// Lanes of the free list: at some 25 ns a grant, eight cover the latency of memory.
const LANES: usize = 8;

/// Entries, tokens, chosen ids, and the list of free slots.
pub(crate) struct Slab {
    /// Whole lines: up to three more than there are slots.
    entries: Region<Entry>,
    len: usize,
    /// Lower halves.
    tokens: Region<u32>,
    chosen_ids: Region<u64>,
    /// One queue in several lanes, filled and emptied in turns: when a slot is taken from a lane, the next one there is
    /// fetched, and needed only after all other lanes. A single list would wait for memory at each grant.
    free_heads: [u32; LANES],
    free_tails: [u32; LANES],
    free_count: u32,
    take_lane: usize,
    give_lane: usize,
    retired_count: u32,
    /// First generation of a slot never used since the shard was made or recovered.
    fresh_generation: u32,
    /// Generations are below this.
    generation_limit: u32,
    slots_before_reuse: u32,
}

impl Slab {
    /// A slab of at most `slot_count_max` slots, whose generations run from 1 to below `generation_limit`.
    pub(crate) fn new(slot_count_max: u32, generation_limit: u32, slots_before_reuse: u32) -> Slab {
        assert!(generation_limit <= GENERATION_COUNT_MAX);
        let capacity = slot_count_max as usize;
        Slab {
            entries: Region::reserve(capacity.next_multiple_of(LINE_SLOTS)),
            len: 0,
            tokens: Region::reserve(capacity),
            chosen_ids: Region::reserve(capacity),
            free_heads: [NONE; LANES],
            free_tails: [NONE; LANES],
            free_count: 0,
            take_lane: 0,
            give_lane: 0,
            retired_count: 0,
            fresh_generation: 1,
            generation_limit,
            slots_before_reuse,
        }
    }

    /// Slots in use or free.
    #[inline(always)]
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn slot_count_max(&self) -> usize {
        self.tokens.capacity()
    }

    /// Lines in use.
    #[inline(always)]
    pub(crate) fn line_count(&self) -> usize {
        self.entries.len() / LINE_SLOTS
    }

    /// Lines of a slab of this many slots.
    pub(crate) fn lines_of(slot_count: u32) -> u32 {
        slot_count.div_ceil(LINE_SLOTS as u32)
    }

    #[inline(always)]
    pub(crate) fn line(&self, line: Line) -> &[Entry; LINE_SLOTS] {
        &self.entries.as_chunks().0[line.index()]
    }

    #[inline(always)]
    pub(crate) fn line_mut(&mut self, line: Line) -> &mut [Entry; LINE_SLOTS] {
        &mut self.entries.as_chunks_mut().0[line.index()]
    }

    /// Where the wheel has a line.
    #[inline(always)]
    pub(crate) fn filing(&self, line: Line) -> Filing {
        filing(self.line(line))
    }

    /// Notes where the wheel has a line.
    #[inline(always)]
    pub(crate) fn set_filing(&mut self, line: Line, to: Filing) {
        set_filing(self.line_mut(line), to);
    }

    pub(crate) fn generation_limit(&self) -> u32 {
        self.generation_limit
    }

    #[cfg(test)]
    pub(crate) fn free_count(&self) -> u32 {
        self.free_count
    }

    pub(crate) fn retired_count(&self) -> u32 {
        self.retired_count
    }

    #[inline(always)]
    pub(crate) fn entries_mut(&mut self) -> &mut [Entry] {
        &mut self.entries
    }

    /// The entry of a lease whose id a client chose, if this slot has it.
    #[inline(always)]
    pub(crate) fn chosen_entry_mut(&mut self, slot: u32, id: u64) -> Option<&mut Entry> {
        let entry = self.entries.get_mut(slot as usize)?;
        let is_it = self.chosen_ids.get(slot as usize) == Some(&id) && entry.is_live() && !entry.is_direct();
        is_it.then_some(entry)
    }

    #[inline(always)]
    pub(crate) fn entry(&self, slot: Slot) -> &Entry {
        &self.entries[slot.index()]
    }

    #[inline(always)]
    pub(crate) fn entry_mut(&mut self, slot: Slot) -> &mut Entry {
        &mut self.entries[slot.index()]
    }

    #[inline(always)]
    pub(crate) fn token(&self, slot: Slot) -> Token {
        let high = self.entry(slot).token_high();
        Token(u64::from(high) << 32 | u64::from(self.tokens[slot.index()]))
    }

    /// A lease begins in a free slot; its TTL and deadline are set next.
    #[inline(always)]
    pub(crate) fn occupy(&mut self, slot: Slot, generation: u32, token: Token) {
        self.tokens[slot.index()] = token.0 as u32;
        self.entry_mut(slot).occupy(generation, (token.0 >> 32) as u32);
    }

    /// What stands in one slot comes to another one, which is free.
    pub(crate) fn copy(&mut self, from: Slot, to: Slot) {
        let moved = *self.entry(from);
        self.entry_mut(to).take_over(&moved);
        self.tokens[to.index()] = self.tokens[from.index()];
        self.chosen_ids[to.index()] = self.chosen_ids[from.index()];
    }

    /// The id a client chose for the lease in this slot.
    #[inline(always)]
    pub(crate) fn chosen_id(&self, slot: Slot) -> u64 {
        self.chosen_ids[slot.index()]
    }

    #[inline(always)]
    pub(crate) fn chosen_ids(&self) -> &[u64] {
        &self.chosen_ids
    }

    pub(crate) fn set_chosen_id(&mut self, slot: Slot, id: u64) {
        self.chosen_ids[slot.index()] = id;
    }

    #[inline(always)]
    pub(crate) fn prefetch(&self, slot: u32) {
        prefetch_line(&self.entries, slot as usize);
    }

    /// The entries of a line, and if leases in it are likely to end, what else is needed then: its tokens, and the ids that
    /// clients chose if there are any; each in one cache line as well.
    #[inline(always)]
    pub(crate) fn prefetch_line(&self, line: u32, ending: bool, with_chosen_ids: bool) {
        let first = line * LINE_SLOTS as u32;
        self.prefetch(first);
        if ending {
            self.prefetch_token(first);
            if with_chosen_ids {
                self.prefetch_chosen_id(first);
            }
        }
    }

    #[inline(always)]
    pub(crate) fn prefetch_token(&self, slot: u32) {
        prefetch_line(&self.tokens, slot as usize);
    }

    #[inline(always)]
    pub(crate) fn prefetch_chosen_id(&self, slot: u32) {
        prefetch_line(&self.chosen_ids, slot as usize);
    }

    /// A free slot, still marked free, and the generation to use; `None` when all are taken or retired.
    pub(crate) fn take(&mut self) -> Option<Slot> {
        let may_grow = self.len() < self.slot_count_max() && self.fresh_generation < self.generation_limit;
        if (self.len() < self.slots_before_reuse as usize || self.free_count == 0) && may_grow {
            return Some(self.push_free());
        }
        if self.free_count == 0 {
            return None;
        }
        let lane = self.take_lane;
        let slot = Slot(self.free_heads[lane]);
        let next = self.entries[slot.index()].deadline;
        self.free_heads[lane] = next;
        if next == NONE {
            self.free_tails[lane] = NONE;
        } else {
            self.prefetch(next);
            self.prefetch_token(next);
        }
        self.take_lane = (lane + 1) % LANES;
        self.free_count -= 1;
        Some(slot)
    }

    fn push_free(&mut self) -> Slot {
        let slot = Slot(self.len as u32);
        if self.len == self.entries.len() {
            (0..LINE_SLOTS).for_each(|_| self.entries.push(Entry::fresh(self.fresh_generation)));
        }
        self.entries[slot.index()].free(self.fresh_generation);
        self.len += 1;
        self.tokens.grow_untouched(self.len);
        self.chosen_ids.grow_untouched(self.len);
        slot
    }

    /// Gives a slot back, to be used with `generation` next; retires it when there is none left.
    pub(crate) fn give_back(&mut self, slot: Slot, generation: u32) {
        self.entries[slot.index()].free(generation);
        if generation >= self.generation_limit {
            self.retired_count += 1;
            return;
        }
        let lane = self.give_lane;
        if self.free_tails[lane] == NONE {
            self.free_heads[lane] = slot.0;
        } else {
            self.entries[self.free_tails[lane] as usize].deadline = slot.0;
        }
        self.free_tails[lane] = slot.0;
        self.give_lane = (lane + 1) % LANES;
        self.free_count += 1;
    }

    /// Recovery: makes sure that `slot` exists. The free list is made at the end, by `rebuild_free_list`.
    pub(crate) fn extend_to(&mut self, slot: Slot) {
        while self.len() <= slot.index() {
            self.push_free();
        }
    }

    /// Recovery: marks a slot free without listing it.
    pub(crate) fn vacate(&mut self, slot: Slot) {
        self.entries[slot.index()].free(self.fresh_generation);
    }

    /// Recovery: all free slots go on at `fresh_generation`, above any that was ever issued, and are listed in order.
    pub(crate) fn rebuild_free_list(&mut self, fresh_generation: u32) {
        self.fresh_generation = fresh_generation.min(self.generation_limit);
        self.free_heads = [NONE; LANES];
        self.free_tails = [NONE; LANES];
        (self.take_lane, self.give_lane) = (0, 0);
        self.free_count = 0;
        self.retired_count = 0;
        for index in 0..self.len() {
            let entry = self.entries[index];
            if !entry.is_live() {
                self.give_back(Slot(index as u32), self.fresh_generation);
            } else if !entry.is_direct() {
                self.entries[index].generation = NOT_DIRECT | self.fresh_generation;
            }
        }
    }

    /// Forgets everything, generations included.
    pub(crate) fn clear(&mut self) {
        self.entries.clear();
        self.len = 0;
        self.tokens.clear();
        self.chosen_ids.clear();
        self.rebuild_free_list(1);
    }

    /// Touches memory ahead of use, one step; true when there may be more.
    pub(crate) fn memory_wanted(&mut self, with_chosen_ids: bool) -> Option<MemoryAhead> {
        let chosen_ids = if with_chosen_ids { self.chosen_ids.wanted() } else { None };
        chosen_ids.or_else(|| self.entries.wanted()).or_else(|| self.tokens.wanted())
    }

    pub(crate) fn used_bytes(&self) -> usize {
        self.entries.used_bytes() + self.tokens.used_bytes()
    }

    /// Walks the free list. Panics when it and the entries disagree.
    pub(crate) fn check_free_list(&self) {
        let mut count = 0;
        for (&head, &tail) in self.free_heads.iter().zip(&self.free_tails) {
            let (mut at, mut last) = (head, NONE);
            while at != NONE {
                let entry = &self.entries[at as usize];
                assert!(
                    !entry.is_live() && !entry.is_direct(),
                    "S7 wheel-agrees: slot {at} is listed free but live"
                );
                assert!(
                    entry.generation_number() < self.generation_limit,
                    "slot {at} is free beyond its generations"
                );
                count += 1;
                assert!(count <= self.free_count, "S8 bounded: the free list is longer than its count");
                (last, at) = (at, entry.deadline);
            }
            assert_eq!(last, tail, "S8 bounded: the free list's tail");
        }
        assert_eq!(count, self.free_count, "S8 bounded: the free list's count");
        let waiting = (self.give_lane + LANES - self.take_lane) % LANES;
        assert_eq!(waiting, count as usize % LANES, "S8 bounded: the free list's lanes are out of step");
        let free = self.entries[..self.len].iter().filter(|entry| !entry.is_live()).count();
        assert_eq!(
            free as u32,
            self.free_count + self.retired_count,
            "S8 bounded: free slots are listed or retired"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::SLOT_COUNT_BEFORE_REUSE;

    #[test]
    fn slots_are_not_reused_before_the_slab_has_its_minimum() {
        let mut slab = Slab::new(SLOT_COUNT_BEFORE_REUSE + 10, GENERATION_COUNT_MAX, SLOT_COUNT_BEFORE_REUSE);
        for expected in 0..SLOT_COUNT_BEFORE_REUSE {
            let slot = slab.take().unwrap();
            assert_eq!(slot.0, expected);
            slab.give_back(slot, 2);
        }
        assert_eq!(slab.take(), Some(Slot(0)), "first in, first out");
        assert_eq!(slab.take(), Some(Slot(1)));
        assert_eq!(slab.len(), SLOT_COUNT_BEFORE_REUSE as usize);
    }

    #[test]
    fn a_slot_out_of_generations_is_retired() {
        let mut slab = Slab::new(3, 5, 3);
        for _ in 0..3 {
            let slot = slab.take().unwrap();
            slab.give_back(slot, 4);
        }
        let slot = slab.take().unwrap();
        slab.give_back(slot, 5);
        assert_eq!((slab.retired_count(), slab.free_count()), (1, 2));
        slab.check_free_list();
        assert_eq!([slab.take(), slab.take(), slab.take()], [Some(Slot(1)), Some(Slot(2)), None]);
    }
}
