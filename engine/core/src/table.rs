//! The lease table: from an id to a slot, and what the slot says.
//!
//! Ids that the server assigned decode to their slot; ids that clients chose go through the index. The two cannot be
//! confused: an entry of a chosen id has bit 31 set in its generation, which no decoded generation has, and a new
//! server-assigned id skips one that a client has taken.
//!
//! Deadlines are stored modulo 2^32 ms and read against the wheel's clock, which no live deadline is behind;
//! what does not fit (TTLs of 24.8 days and more) is in a side table, marked as long.
//!
//! Invariants: **S1** one-shard; at most one live lease per id. Does not know time, wheel places or items.

use crate::config::ShardConfig;
use crate::entry::{Entry, HAS_ITEMS, Line, NOBODY, NOT_DIRECT, Slot};
use crate::id::LeaseId;
use crate::id_rule::{MIXED_BITS, decode_direct, direct_id, generation_range};
use crate::index::{Index, Key};
use crate::limits::Bounds;
use crate::region::MemoryAhead;
use crate::seeded_hash::SeededHash;
use crate::slab::Slab;
use crate::time::Token;
use foldhash::quality::FixedState;
use hashbrown::HashMap;

/// TTLs below this and deadlines less than so far ahead of the wheel fit an entry. Their sum with an elapsed time
/// below 2^31 - 1 does as well, which is what a fast renewal relies on.
pub(crate) const ENTRY_TTL_MS_END: u64 = 1 << 31;
const ENTRY_DEADLINE_SPAN: u64 = NOBODY as u64;

/// TTL and deadline of a lease that its entry cannot hold.
#[derive(Clone, Copy)]
struct Long {
    ttl_ms: u64,
    deadline: u64,
}

/// How the ids that a shard's server assigns lead to slots.
#[derive(Clone, Copy)]
pub(crate) struct DirectIds {
    generation_base: u64,
}

impl DirectIds {
    /// Slot and relative generation of an id; beyond [`NOT_DIRECT`] when the server cannot have assigned it.
    #[inline(always)]
    pub(crate) fn place(self, id: LeaseId) -> (u32, u64) {
        let (generation, slot) = decode_direct(id);
        (slot, generation.wrapping_sub(self.generation_base) | (id.0 >> MIXED_BITS << MIXED_BITS))
    }
}

/// Leases by id and slot.
pub(crate) struct Table {
    pub(crate) slab: Slab,
    index: Index,
    hash: SeededHash,
    long: HashMap<u32, Long, FixedState>,
    generation_base: u64,
    /// Highest generation issued, relative to the base; 0 before the first.
    generation_max: u32,
    live_count: u32,
    live_count_max: u32,
    /// Recovery: where to look for the next free slot when the slab is as long as it may be.
    gap_cursor: u32,
}

impl Table {
    pub(crate) fn new(config: &ShardConfig, slots: u32, bounds: &Bounds) -> Table {
        let generations = generation_range(config.shard, config.shard_count);
        let limit = (generations.end - config.generation_base).min(u64::from(bounds.generations)) as u32;
        Table {
            slab: Slab::new(slots, limit, bounds.slots_before_reuse),
            index: Index::new(slots),
            hash: SeededHash::new(config.seed),
            long: HashMap::default(),
            generation_base: config.generation_base,
            generation_max: 0,
            live_count: 0,
            live_count_max: config.lease_count_max,
            gap_cursor: 0,
        }
    }

    pub(crate) fn live_count(&self) -> u32 {
        self.live_count
    }

    pub(crate) fn hashed_count(&self) -> usize {
        self.index.len()
    }

    pub(crate) fn hash(&self) -> &SeededHash {
        &self.hash
    }

    pub(crate) fn is_full(&self) -> bool {
        self.live_count >= self.live_count_max
    }

    /// One past the highest absolute generation issued.
    pub(crate) fn generation_next(&self) -> u64 {
        self.generation_base + u64::from(self.generation_max) + 1
    }

    /// Slot and relative generation of an id, if it could be server-assigned in this shard; generation
    /// `u32::MAX`, which no entry has, if not.
    #[inline(always)]
    pub(crate) fn decode(&self, id: LeaseId) -> (u32, u32) {
        let (slot, relative) = self.direct_ids().place(id);
        let generation = if relative < u64::from(NOT_DIRECT) { relative as u32 } else { u32::MAX };
        (slot, generation)
    }

    /// How ids lead to slots here.
    #[inline(always)]
    pub(crate) fn direct_ids(&self) -> DirectIds {
        DirectIds { generation_base: self.generation_base }
    }

    /// The live lease of this id, overdue or not.
    #[inline(always)]
    pub(crate) fn find(&self, id: LeaseId) -> Option<Slot> {
        let (slot, generation) = self.decode(id);
        let slot = Slot(slot);
        if slot.index() < self.slab.len() && self.slab.entry(slot).generation == generation {
            return Some(slot);
        }
        self.find_chosen(id)
    }

    /// The live lease of this client-chosen id.
    #[inline(always)]
    pub(crate) fn find_chosen(&self, id: LeaseId) -> Option<Slot> {
        if self.index.len() == 0 { None } else { self.index.find(id.0, self.slab.chosen_ids(), &self.hash) }
    }

    /// What the index needs to know of an id, its cell being fetched; `None` when there are no client-chosen ids.
    #[inline(always)]
    pub(crate) fn key_of_chosen(&self, id: LeaseId) -> Option<Key> {
        if self.index.len() == 0 {
            return None;
        }
        let key = Key::new(id.0, &self.hash);
        self.index.prefetch(key);
        Some(key)
    }

    /// The slot that almost certainly has the lease of this client-chosen id; its lines are being fetched.
    #[inline(always)]
    pub(crate) fn guess_chosen(&self, key: Key) -> Option<Slot> {
        let slot = self.index.guess(key)?;
        self.slab.prefetch(slot.0);
        self.slab.prefetch_chosen_id(slot.0);
        Some(slot)
    }

    /// Fetches the cells of the index that are looked at when the client-chosen leases of this line end. The line and its
    /// ids were fetched before.
    #[inline]
    pub(crate) fn prefetch_cells(&self, line: Line) {
        for slot in line.slots() {
            let entry = self.slab.entry(slot);
            if entry.is_live() && !entry.is_direct() {
                self.index.prefetch(Key::new(self.slab.chosen_id(slot), &self.hash));
            }
        }
    }

    /// The live lease with this id and token.
    pub(crate) fn find_exact(&self, id: LeaseId, token: Token) -> Option<Slot> {
        self.find(id).filter(|&slot| self.slab.token(slot) == token)
    }

    #[inline(always)]
    pub(crate) fn entry(&self, slot: Slot) -> &Entry {
        self.slab.entry(slot)
    }

    #[inline(always)]
    pub(crate) fn entry_mut(&mut self, slot: Slot) -> &mut Entry {
        self.slab.entry_mut(slot)
    }

    #[inline(always)]
    pub(crate) fn token(&self, slot: Slot) -> Token {
        self.slab.token(slot)
    }

    #[inline(always)]
    pub(crate) fn id(&self, slot: Slot) -> LeaseId {
        let entry = self.slab.entry(slot);
        if entry.is_direct() {
            direct_id(self.generation_base + u64::from(entry.generation), slot.0)
        } else {
            LeaseId(self.slab.chosen_id(slot))
        }
    }

    #[inline(always)]
    pub(crate) fn ttl_ms(&self, slot: Slot) -> u64 {
        let entry = self.slab.entry(slot);
        if entry.is_long() { self.long(slot).ttl_ms } else { u64::from(entry.ttl()) }
    }

    /// The deadline, read against the wheel's clock `base`.
    #[inline(always)]
    pub(crate) fn deadline(&self, slot: Slot, base: u64) -> u64 {
        let entry = self.slab.entry(slot);
        if entry.is_long() {
            return self.long(slot).deadline;
        }
        base + u64::from(entry.deadline.wrapping_sub(base as u32))
    }

    fn long(&self, slot: Slot) -> Long {
        *self.long.get(&slot.0).expect("S7 wheel-agrees: a long entry without its side record")
    }

    /// Sets TTL and deadline, to be read against `base`.
    #[inline]
    pub(crate) fn set_deadline(&mut self, slot: Slot, ttl_ms: u64, deadline: u64, base: u64) {
        let entry = self.slab.entry_mut(slot);
        if ttl_ms < ENTRY_TTL_MS_END && deadline.wrapping_sub(base) < ENTRY_DEADLINE_SPAN {
            if entry.is_long() {
                self.long.remove(&slot.0);
            }
            entry.set_ttl(ttl_ms as u32, deadline as u32);
        } else {
            entry.set_long();
            self.long.insert(slot.0, Long { ttl_ms, deadline });
        }
    }

    /// Makes a lease under an id of the server's choice: still unfiled, without deadline. `None` when out of slots.
    pub(crate) fn insert_direct(&mut self, token: Token) -> Option<Slot> {
        loop {
            let slot = self.slab.take()?;
            let mut generation = self.slab.entry(slot).generation_number();
            while self.index.len() > 0
                && generation < self.slab.generation_limit()
                && self.find_chosen(direct_id(self.generation_base + u64::from(generation), slot.0)).is_some()
            {
                generation += 1;
            }
            if generation >= self.slab.generation_limit() {
                self.slab.give_back(slot, generation);
                continue;
            }
            self.generation_max = self.generation_max.max(generation);
            self.occupy(slot, generation, token);
            return Some(slot);
        }
    }

    /// Makes a lease under an id of the client's choice, which no live lease has. `None` when out of slots.
    pub(crate) fn insert_chosen(&mut self, id: LeaseId, token: Token) -> Option<Slot> {
        let slot = self.slab.take()?;
        self.occupy_chosen(slot, id, token);
        Some(slot)
    }

    fn occupy(&mut self, slot: Slot, generation: u32, token: Token) {
        self.slab.occupy(slot, generation, token);
        self.live_count += 1;
    }

    fn occupy_chosen(&mut self, slot: Slot, id: LeaseId, token: Token) {
        let generation = self.slab.entry(slot).generation_number() | NOT_DIRECT;
        self.occupy(slot, generation, token);
        self.slab.set_chosen_id(slot, id.0);
        self.index.insert(slot, self.slab.chosen_ids(), &self.hash);
    }

    /// Takes a lease out and its slot back. References in the wheel go stale by themselves.
    #[inline]
    pub(crate) fn remove(&mut self, slot: Slot) {
        let next = self.detach(slot);
        self.slab.give_back(slot, next);
    }

    /// Takes a lease out; returns its slot's next generation.
    #[inline]
    fn detach(&mut self, slot: Slot) -> u32 {
        let entry = *self.slab.entry(slot);
        debug_assert!(entry.is_live(), "S9 once: slot {} is not live", slot.0);
        if entry.is_long() {
            self.long.remove(&slot.0);
        }
        self.live_count -= 1;
        if entry.is_direct() {
            return entry.generation + 1;
        }
        self.index.remove(slot, self.slab.chosen_ids(), &self.hash);
        entry.generation_number()
    }

    /// Recovery: makes a lease with a known id. One that this shard's server could have assigned goes to its own
    /// slot, and a chosen one that stands there moves; all others go through the index. `holes` are slots vacated
    /// in this recovery. Returns `None` when out of slots, or when another server-assigned lease stands in the slot.
    /// Not bounded by the lease limit: a fuzzy image and the log behind it may hold a lease's end and its successor.
    pub(crate) fn place_recovered(
        &mut self,
        id: LeaseId,
        token: Token,
        chosen: bool,
        holes: &mut Vec<Slot>,
    ) -> Option<Slot> {
        let own = self.own_slot(id).filter(|_| !chosen);
        let Some((slot, generation)) = own else {
            let slot = self.spare_slot(holes)?;
            self.occupy_chosen(slot, id, token);
            return Some(slot);
        };
        self.slab.extend_to(slot);
        let occupant = *self.slab.entry(slot);
        if occupant.is_live() {
            if occupant.is_direct() {
                return None;
            }
            let refuge = self.spare_slot(holes)?;
            self.relocate_chosen(slot, refuge);
        }
        self.generation_max = self.generation_max.max(generation);
        self.occupy(slot, generation, token);
        Some(slot)
    }

    /// Slot and generation of an id that this shard's server could have assigned under the present base.
    pub(crate) fn own_slot(&self, id: LeaseId) -> Option<(Slot, u32)> {
        let (slot, generation) = self.decode(id);
        let possible =
            generation < self.slab.generation_limit() && (slot as usize) < self.slab.slot_count_max();
        (possible && generation > 0).then_some((Slot(slot), generation))
    }

    /// Recovery: notes that a server-assigned id was issued, whether its lease still lives or not.
    pub(crate) fn note_issued(&mut self, id: LeaseId) {
        if let Some((_, generation)) = self.own_slot(id) {
            self.generation_max = self.generation_max.max(generation);
        }
    }

    /// Recovery: continues above a generation that the image names.
    pub(crate) fn note_generation_next(&mut self, next: u64) {
        let relative = next.saturating_sub(self.generation_base + 1);
        if relative < u64::from(self.slab.generation_limit()) {
            self.generation_max = self.generation_max.max(relative as u32);
        }
    }

    fn spare_slot(&mut self, holes: &mut Vec<Slot>) -> Option<Slot> {
        while let Some(hole) = holes.pop() {
            if !self.slab.entry(hole).is_live() {
                return Some(hole);
            }
        }
        let slot = Slot(self.slab.len() as u32);
        if slot.index() < self.slab.slot_count_max() {
            self.slab.extend_to(slot);
            return Some(slot);
        }
        // Server-assigned ids may have left gaps below: walk on from where the last gap was.
        let count = self.slab.len() as u32;
        let gap = (0..count)
            .map(|step| Slot((self.gap_cursor + step) % count))
            .find(|&slot| !self.slab.entry(slot).is_live())?;
        self.gap_cursor = gap.0;
        Some(gap)
    }

    /// Recovery: moves the lease of a chosen id to an empty slot.
    fn relocate_chosen(&mut self, from: Slot, to: Slot) {
        self.index.remove(from, self.slab.chosen_ids(), &self.hash);
        self.slab.copy(from, to);
        self.index.insert(to, self.slab.chosen_ids(), &self.hash);
        if let Some(long) = self.long.remove(&from.0) {
            self.long.insert(to.0, long);
        }
        self.slab.vacate(from);
    }

    /// Recovery: takes a lease out; its slot joins the holes.
    pub(crate) fn remove_recovered(&mut self, slot: Slot, holes: &mut Vec<Slot>) {
        self.detach(slot);
        self.slab.vacate(slot);
        holes.push(slot);
    }

    /// Recovery is over: free slots go on above any generation that was ever issued.
    pub(crate) fn finish_recovery(&mut self) {
        self.slab.rebuild_free_list(self.generation_max + 1);
    }

    /// Forgets everything.
    pub(crate) fn clear(&mut self) {
        self.slab.clear();
        self.index.clear();
        self.long.clear();
        self.generation_max = 0;
        self.live_count = 0;
    }

    /// Memory to be touched ahead of use.
    pub(crate) fn memory_wanted(&mut self) -> Option<MemoryAhead> {
        self.slab.memory_wanted(self.index.len() > 0).or_else(|| self.index.wanted())
    }

    pub(crate) fn used_bytes(&self) -> usize {
        self.slab.used_bytes() + self.index.used_bytes() + self.index.len() * 8 + self.long.capacity() * 32
    }

    /// All live slots, in order.
    pub(crate) fn live_slots(&self) -> impl Iterator<Item = Slot> + '_ {
        (0..self.slab.len() as u32).map(Slot).filter(|&slot| self.slab.entry(slot).is_live())
    }

    /// Panics naming the invariant when table, index and side records disagree.
    pub(crate) fn check(&self, shard_of: impl Fn(LeaseId) -> bool) {
        let (mut live, mut hashed, mut long) = (0, 0, 0);
        for slot in self.live_slots() {
            let (id, entry) = (self.id(slot), self.entry(slot));
            assert!(shard_of(id), "S1 one-shard: lease {id} belongs to another shard");
            assert_eq!(self.find(id), Some(slot), "S1 one-shard: lease {id} is not found where it stands");
            assert!(self.token(slot).0 != 0, "S9 once: lease {id} has no token");
            live += 1;
            hashed += usize::from(!entry.is_direct());
            long += usize::from(entry.is_long());
            assert!(
                !entry.is_direct() || entry.generation <= self.generation_max,
                "S9 once: lease {id} has a generation beyond the highest issued"
            );
        }
        assert_eq!(live, self.live_count, "S8 bounded: live leases");
        assert_eq!(hashed, self.index.len(), "S1 one-shard: hashed leases");
        assert_eq!(long, self.long.len(), "S7 wheel-agrees: side records of long leases");
        self.slab.check_free_list();
    }

    /// Sets the flag that says whether a lease has items.
    pub(crate) fn set_has_items(&mut self, slot: Slot, has_items: bool) {
        self.slab.entry_mut(slot).set(HAS_ITEMS, has_items);
    }
}
