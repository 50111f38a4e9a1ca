//! Finds the slots of leases whose id a client chose.
//!
//! ```text
//! keyed hash | directory: the top bits | … | tag | cell of the block: 10 |
//! directory  | block | block | …                     2^depth words; a block may stand in several
//! block      | cell | cell | … 1,024 cells of 4 bytes, linear probing
//! cell       | tag: what the slot leaves of 32 bits, never 0 | slot |   0: never used   1: left by one that is gone
//! ```
//!
//! Extendible hashing (Fagin et al. 1979): a block that is three quarters full is split in two by one more bit of the hash,
//! and only then does anything move. So the longest an insert takes is the time of one block, some 20 µs, however many
//! ids there are; a table of 10 M that doubles at once stalls its core for 100–250 ms. Cells hold no ids: those are in
//! the slab's own array, and a lookup almost never meets a wrong one, because of the tags.
//!
//! Not hashbrown: a batch of renewals must be able to fetch its cells ahead of time, and hashbrown's control bytes cannot be
//! reached (docs/decisions/0006). Invariant: an id is in at most one cell, and the slot found there has that id
//! (checked with S1); **S8** bounded.

use crate::entry::Slot;
use crate::region::{MemoryAhead, Region, prefetch_line};
use crate::seeded_hash::SeededHash;

const CELL_BITS: u32 = 10;
const CELLS: usize = 1 << CELL_BITS;
/// Cells in use, those of the gone included, at which a block is cleared up or split.
const USED_MAX: u16 = (CELLS / 4 * 3) as u16;
/// With more than this many ids a block is split, because clearing up would not last.
const LIVE_MAX: u16 = (CELLS / 8 * 5) as u16;
/// The directory may not look at the bits of cell and tag.
const DEPTH_MAX: u32 = 32;

const NEVER_USED: u32 = 0;
const GONE: u32 = 1;

/// What is known of a block beside its cells.
#[derive(Clone, Copy, Default)]
struct Block {
    /// Bits of the hash that its ids share.
    depth: u8,
    live: u16,
    /// Cells that are not `NEVER_USED`.
    used: u16,
}

/// Client-chosen id → slot.
pub(crate) struct Index {
    cells: Region<u32>,
    blocks: Vec<Block>,
    directory: Vec<u32>,
    depth: u32,
    len: usize,
    slot_bits: u32,
}

/// Where an id is in the index if it is there.
#[derive(Clone, Copy)]
pub(crate) struct Key {
    hashed: u64,
}

impl Key {
    #[inline(always)]
    pub(crate) fn new(id: u64, hash: &SeededHash) -> Key {
        Key { hashed: hash.word(id) }
    }
}

impl Index {
    /// For slots below `slot_count_max`.
    pub(crate) fn new(slot_count_max: u32) -> Index {
        let slot_bits = u32::BITS - slot_count_max.saturating_sub(1).leading_zeros();
        assert!(slot_bits <= crate::id_rule::SLOT_BITS, "S8 bounded: four bits of tag at least");
        // Address space: a block is split at five eighths, so that there are never four cells a slot.
        let cell_count_max = (4 * slot_count_max as usize).next_multiple_of(CELLS) + 64 * CELLS;
        let cells = Region::reserve(cell_count_max);
        Index { cells, blocks: Vec::new(), directory: Vec::new(), depth: 0, len: 0, slot_bits }
    }

    #[inline(always)]
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// The block of a key. The directory has entries.
    #[inline(always)]
    fn block_of(&self, key: Key) -> u32 {
        self.directory[self.entry_of(key)]
    }

    #[inline(always)]
    fn entry_of(&self, key: Key) -> usize {
        // Two steps, because a depth of 0 would shift by 64.
        (key.hashed >> 1 >> (63 - self.depth)) as usize
    }

    /// Tag of a key, where it stands in a cell.
    #[inline(always)]
    fn tag_of(&self, key: Key) -> u32 {
        let tag_max = u32::MAX >> self.slot_bits;
        ((key.hashed >> CELL_BITS) as u32 & tag_max).max(1) << self.slot_bits
    }

    #[inline(always)]
    fn cells_of(&self, block: u32) -> &[u32; CELLS] {
        &self.cells.as_chunks().0[block as usize]
    }

    #[inline(always)]
    fn cells_of_mut(&mut self, block: u32) -> &mut [u32; CELLS] {
        &mut self.cells.as_chunks_mut().0[block as usize]
    }

    /// The first slot with this key's tag that `is_it` accepts, and its cell. Ends: a quarter of the cells was never used.
    #[inline(always)]
    fn find_cell(&self, key: Key, mut is_it: impl FnMut(Slot) -> bool) -> Option<(u32, usize, Slot)> {
        let (block, tag) = (self.block_of(key), self.tag_of(key));
        let (cells, slot_mask) = (self.cells_of(block), (1 << self.slot_bits) - 1);
        let mut at = key.hashed as usize % CELLS;
        loop {
            let cell = cells[at];
            if cell == NEVER_USED {
                return None;
            }
            let slot = Slot(cell & slot_mask);
            if cell & !slot_mask == tag && is_it(slot) {
                return Some((block, at, slot));
            }
            at = (at + 1) % CELLS;
        }
    }

    /// The slot of `id`; `ids` are the ids by slot.
    #[inline]
    pub(crate) fn find(&self, id: u64, ids: &[u64], hash: &SeededHash) -> Option<Slot> {
        if self.len == 0 {
            return None;
        }
        self.find_cell(Key::new(id, hash), |slot| ids[slot.index()] == id).map(|(_, _, slot)| slot)
    }

    /// Fetches the cell that `guess` will look at. The index is not empty.
    #[inline(always)]
    pub(crate) fn prefetch(&self, key: Key) {
        prefetch_line(self.cells_of(self.block_of(key)), key.hashed as usize % CELLS);
    }

    /// The slot that most likely has this id if any has, without touching the ids.
    #[inline(always)]
    pub(crate) fn guess(&self, key: Key) -> Option<Slot> {
        self.find_cell(key, |_| true).map(|(_, _, slot)| slot)
    }

    /// Adds an id that is not in the index and stands at `slot` in `ids`.
    pub(crate) fn insert(&mut self, slot: Slot, ids: &[u64], hash: &SeededHash) {
        if self.directory.is_empty() {
            let block = self.push_block(0);
            self.directory.push(block);
        }
        let key = Key::new(ids[slot.index()], hash);
        let mut block = self.block_of(key);
        while self.blocks[block as usize].used >= USED_MAX {
            self.make_room(block, self.entry_of(key), ids, hash);
            block = self.block_of(key);
        }
        self.place(block, key, slot);
        self.len += 1;
    }

    /// Removes the id at `slot` in `ids`.
    ///
    /// # Panics
    /// When it is not there.
    pub(crate) fn remove(&mut self, slot: Slot, ids: &[u64], hash: &SeededHash) {
        let key = Key::new(ids[slot.index()], hash);
        let found = if self.len > 0 { self.find_cell(key, |other| other == slot) } else { None };
        let Some((block, at, _)) = found else {
            panic!("S1 one-shard: slot {} has an id that the index does not know", slot.0);
        };
        let cells = self.cells_of_mut(block);
        let mut freed = 0;
        if cells[(at + 1) % CELLS] == NEVER_USED {
            // Nobody searches past here: what was left behind before it is not needed either.
            let mut last = at;
            cells[last] = GONE;
            while cells[last] == GONE {
                cells[last] = NEVER_USED;
                freed += 1;
                last = (last + CELLS - 1) % CELLS;
            }
        } else {
            cells[at] = GONE;
        }
        let block = &mut self.blocks[block as usize];
        block.used -= freed;
        block.live -= 1;
        self.len -= 1;
    }

    fn push_block(&mut self, depth: u8) -> u32 {
        let block = self.blocks.len();
        assert!(
            self.cells.len() + CELLS <= self.cells.capacity(),
            "S8 bounded: the index has {block} blocks"
        );
        self.cells.grow_untouched((block + 1) * CELLS);
        // The memory may have been in use before `clear`.
        self.cells_of_mut(block as u32).fill(NEVER_USED);
        self.blocks.push(Block { depth, live: 0, used: 0 });
        block as u32
    }

    /// Puts a slot into the first cell that is free for it.
    fn place(&mut self, block: u32, key: Key, slot: Slot) {
        let cell = self.tag_of(key) | slot.0;
        let cells = self.cells_of_mut(block);
        let mut at = key.hashed as usize % CELLS;
        while cells[at] > GONE {
            at = (at + 1) % CELLS;
        }
        let fresh = cells[at] == NEVER_USED;
        cells[at] = cell;
        let block = &mut self.blocks[block as usize];
        block.used += u16::from(fresh);
        block.live += 1;
    }

    /// Clears a block, which stands in this entry of the directory, of what is gone, or splits it when that would not last.
    #[cold]
    fn make_room(&mut self, block: u32, entry: usize, ids: &[u64], hash: &SeededHash) {
        let before = *self.cells_of(block);
        if self.blocks[block as usize].live > LIVE_MAX {
            self.split(block, entry);
        }
        self.cells_of_mut(block).fill(NEVER_USED);
        let depth = self.blocks[block as usize].depth;
        self.blocks[block as usize] = Block { depth, live: 0, used: 0 };
        let slot_mask = (1 << self.slot_bits) - 1;
        for (index, &cell) in before.iter().enumerate() {
            if let Some(&coming) = before.get(index + 32)
                && coming > GONE
            {
                prefetch_line(ids, (coming & slot_mask) as usize);
            }
            if cell > GONE {
                let slot = Slot(cell & slot_mask);
                let key = Key::new(ids[slot.index()], hash);
                self.place(self.block_of(key), key, slot);
            }
        }
    }

    /// Makes a sibling for a block and divides its part of the directory between the two.
    fn split(&mut self, block: u32, mut entry: usize) {
        let depth = self.blocks[block as usize].depth;
        assert!(u32::from(depth) < DEPTH_MAX, "S8 bounded: ids that agree in {depth} bits of a keyed hash");
        if u32::from(depth) == self.depth {
            self.directory = self.directory.iter().flat_map(|&block| [block, block]).collect();
            self.depth += 1;
            entry *= 2;
        }
        let sibling = self.push_block(depth + 1);
        self.blocks[block as usize].depth = depth + 1;
        // The entries of a block stand side by side, beginning at a multiple of their number.
        let span = 1usize << (self.depth - u32::from(depth));
        let first = entry / span * span;
        self.directory[first + span / 2..first + span].fill(sibling);
    }

    /// Memory to be touched ahead of use.
    pub(crate) fn wanted(&mut self) -> Option<MemoryAhead> {
        self.cells.wanted()
    }

    pub(crate) fn clear(&mut self) {
        self.cells.clear();
        self.blocks.clear();
        self.directory.clear();
        (self.depth, self.len) = (0, 0);
    }

    pub(crate) fn used_bytes(&self) -> usize {
        self.cells.used_bytes() + self.directory.len() * 4 + self.blocks.len() * size_of::<Block>()
    }
}

#[cfg(test)]
mod tests;
