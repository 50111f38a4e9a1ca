//! Finds the slots of leases whose id a client chose.
//!
//! ```text
//! cell | taken: 1 | fingerprint: 35 | slot: 28 |     one 8-byte word, linear probing, at most 3/4 full
//! ```
//!
//! 256 small tables instead of one: when a table of 10 M entries doubles it stalls its core for 100–250 ms, a 256th of
//! it for well under 1 ms. A cell holds 35 bits of the id's keyed hash (seeded_hash.rs); their low bits are also its
//! home, so that growing and removing never touch the ids, and a lookup almost never meets a wrong id.
//!
//! Not hashbrown, although it is smaller (5.7–11.4 bytes an entry against 10.7–21.3): a batch of renewals must be
//! able to fetch its cells ahead of time, and hashbrown's control bytes cannot be reached. See examples/measure.rs.
//!
//! Invariant: an id is in at most one cell, and the slot found there has that id (checked with S1).

use crate::entry::Slot;
use crate::region::prefetch_line;
use crate::seeded_hash::SeededHash;

const TABLES: usize = 256;
const SLOT_BITS: u32 = crate::id_rule::SLOT_BITS;
const SLOT_MASK: u64 = (1 << SLOT_BITS) - 1;
const TAKEN: u64 = 1 << 63;
const EMPTY: u64 = 0;
/// Cells of a table at first.
const CELLS_MIN: usize = 8;

/// Client-chosen id → slot.
pub(crate) struct Index {
    tables: Vec<Table>,
    len: usize,
    cell_count: usize,
}

/// Where an id is in the index if it is there: its table, and what its cell has above the slot.
#[derive(Clone, Copy)]
pub(crate) struct Key {
    table: u8,
    mark: u64,
}

impl Key {
    #[inline(always)]
    pub(crate) fn new(id: u64, hash: &SeededHash) -> Key {
        let hashed = hash.word(id);
        Key { table: (hashed >> 56) as u8, mark: TAKEN | hashed << SLOT_BITS & !SLOT_MASK }
    }

    #[inline(always)]
    fn home(self) -> usize {
        home_of(self.mark)
    }
}

/// Home of a cell, before the table's mask.
#[inline(always)]
fn home_of(cell: u64) -> usize {
    (cell >> SLOT_BITS) as usize
}

/// One open-addressing table; its length is a power of two, or 0.
#[derive(Default)]
struct Table {
    cells: Vec<u64>,
    len: usize,
}

impl Table {
    /// The first slot with this mark that `is_it` accepts, and the place of its cell.
    #[inline(always)]
    fn find(&self, key: Key, mut is_it: impl FnMut(Slot) -> bool) -> Option<(usize, Slot)> {
        let mask = self.cells.len().wrapping_sub(1);
        let mut at = key.home();
        loop {
            let &cell = self.cells.get(at & mask)?;
            if cell == EMPTY {
                return None;
            }
            let slot = Slot((cell & SLOT_MASK) as u32);
            if cell & !SLOT_MASK == key.mark && is_it(slot) {
                return Some((at & mask, slot));
            }
            at = at.wrapping_add(1);
        }
    }

    fn insert(&mut self, cell: u64) {
        if (self.len + 1) * 4 > self.cells.len() * 3 {
            self.grow();
        }
        self.place(cell);
        self.len += 1;
    }

    fn place(&mut self, cell: u64) {
        let mask = self.cells.len() - 1;
        let mut at = home_of(cell) & mask;
        while self.cells[at] != EMPTY {
            at = (at + 1) & mask;
        }
        self.cells[at] = cell;
    }

    #[cold]
    fn grow(&mut self) {
        let doubled = vec![EMPTY; (self.cells.len() * 2).max(CELLS_MIN)];
        for cell in std::mem::replace(&mut self.cells, doubled) {
            if cell != EMPTY {
                self.place(cell);
            }
        }
    }

    /// Empties a cell and closes the gap: later cells of the same run move back unless that is before their home.
    fn remove(&mut self, mut gap: usize) {
        let mask = self.cells.len() - 1;
        let mut at = gap;
        self.len -= 1;
        loop {
            at = (at + 1) & mask;
            let cell = self.cells[at];
            if cell == EMPTY {
                break;
            }
            let from_home = at.wrapping_sub(home_of(cell)) & mask;
            if from_home >= at.wrapping_sub(gap) & mask {
                self.cells[gap] = cell;
                gap = at;
            }
        }
        self.cells[gap] = EMPTY;
    }
}

impl Index {
    pub(crate) fn new() -> Index {
        Index { tables: (0..TABLES).map(|_| Table::default()).collect(), len: 0, cell_count: 0 }
    }

    #[inline(always)]
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    #[inline(always)]
    fn table(&self, key: Key) -> &Table {
        &self.tables[usize::from(key.table)]
    }

    /// The slot of `id`; `ids` are the ids by slot.
    #[inline]
    pub(crate) fn find(&self, id: u64, ids: &[u64], hash: &SeededHash) -> Option<Slot> {
        if self.len == 0 {
            return None;
        }
        let key = Key::new(id, hash);
        self.table(key).find(key, |slot| ids[slot.index()] == id).map(|(_, slot)| slot)
    }

    /// Fetches the cell that `guess` will look at.
    #[inline(always)]
    pub(crate) fn prefetch(&self, key: Key) {
        let table = self.table(key);
        if let Some(cell) = table.cells.get(key.home() & table.cells.len().wrapping_sub(1)) {
            prefetch_line(cell);
        }
    }

    /// The slot that almost certainly has this id if any has, without touching the ids.
    #[inline(always)]
    pub(crate) fn guess(&self, key: Key) -> Option<Slot> {
        self.table(key).find(key, |_| true).map(|(_, slot)| slot)
    }

    /// Adds an id that is not in the index and stands at `slot` in `ids`.
    pub(crate) fn insert(&mut self, slot: Slot, ids: &[u64], hash: &SeededHash) {
        let key = Key::new(ids[slot.index()], hash);
        let table = &mut self.tables[usize::from(key.table)];
        let before = table.cells.len();
        table.insert(key.mark | u64::from(slot.0));
        self.cell_count += table.cells.len() - before;
        self.len += 1;
    }

    /// Removes the id at `slot` in `ids`.
    ///
    /// # Panics
    /// When it is not there.
    pub(crate) fn remove(&mut self, slot: Slot, ids: &[u64], hash: &SeededHash) {
        let key = Key::new(ids[slot.index()], hash);
        let Some((at, _)) = self.table(key).find(key, |other| other == slot) else {
            panic!("S1 one-shard: slot {} has an id that the index does not know", slot.0);
        };
        self.tables[usize::from(key.table)].remove(at);
        self.len -= 1;
    }

    pub(crate) fn clear(&mut self) {
        *self = Index::new();
    }

    pub(crate) fn used_bytes(&self) -> usize {
        self.cell_count * 8
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    /// Against an ordered map: inserts, removals and lookups at random, with runs that wrap and tables that grow.
    #[test]
    fn agrees_with_a_map() {
        for seed in 0..20 {
            let hash = SeededHash::new(seed);
            let (mut index, mut map) = (Index::new(), BTreeMap::new());
            let mut ids = vec![0u64; 4_000];
            let mut free: Vec<u32> = (0..4_000).collect();
            let mut x = seed + 1;
            for step in 0..20_000u64 {
                x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let id = (x >> 33) % 6_000;
                // Grow first, then churn, then shrink.
                let insert = (x >> 8) % 10 < if step < 8_000 { 8 } else { 3 };
                match (insert, map.contains_key(&id)) {
                    (true, false) if !free.is_empty() => {
                        let slot = free.pop().unwrap();
                        ids[slot as usize] = id;
                        index.insert(Slot(slot), &ids, &hash);
                        map.insert(id, slot);
                    }
                    (false, true) => {
                        let slot = map.remove(&id).unwrap();
                        index.remove(Slot(slot), &ids, &hash);
                        free.push(slot);
                    }
                    _ => {}
                }
                assert_eq!(index.find(id, &ids, &hash), map.get(&id).map(|&slot| Slot(slot)));
                assert_eq!(index.len(), map.len());
            }
            for id in 0..6_000 {
                let found = index.find(id, &ids, &hash);
                assert_eq!(found, map.get(&id).map(|&slot| Slot(slot)));
                let guess = index.guess(Key::new(id, &hash));
                assert!(found.is_none() || guess.is_some(), "a guess misses nothing");
            }
        }
    }

    /// One table with a crowded home: all marks equal but for the slot.
    #[test]
    fn a_run_of_equal_marks_survives_removals_in_any_order() {
        for order in [[0, 1, 2, 3], [3, 2, 1, 0], [1, 3, 0, 2], [2, 0, 3, 1]] {
            let key = Key { table: 0, mark: TAKEN | 7 << SLOT_BITS };
            let mut table = Table::default();
            (0..4u64).for_each(|slot| table.insert(key.mark | slot));
            table.insert(TAKEN | 6 << SLOT_BITS | 9);
            for (gone, &slot) in order.iter().enumerate() {
                let (at, _) = table.find(key, |found| found == Slot(slot)).expect("still there");
                table.remove(at);
                for &left in &order[gone + 1..] {
                    assert!(table.find(key, |found| found == Slot(left)).is_some(), "{order:?}: {left} lost");
                }
                assert!(table.find(key, |found| found == Slot(slot)).is_none());
            }
            let other = Key { table: 0, mark: TAKEN | 6 << SLOT_BITS };
            assert!(table.find(other, |_| true).is_some());
        }
    }
}
