//! Finds the slots of leases whose id a client chose.
//!
//! 256 small hash tables instead of one: when a table of 10 M entries doubles it stalls its core for 100–250 ms, a
//! 256th of it for less than 1 ms. A table holds bare slots; the ids stand beside the slab and are compared
//! there. The hash is keyed (seeded_hash.rs). Leases with server-assigned ids never come here.
//!
//! Invariant: an id is in at most one place of the index, and the slot found there has that id (checked with S1).

use crate::seeded_hash::SeededHash;
use crate::slab::Slot;
use hashbrown::HashTable;

const TABLES: usize = 256;

/// Client-chosen id → slot.
pub(crate) struct Index {
    tables: Vec<HashTable<u32>>,
    len: usize,
}

/// hashbrown takes its bucket from the low bits of a hash and its tag from the top seven: the table comes from
/// bits between.
#[inline(always)]
fn table_of(hash: u64) -> usize {
    (hash >> 48) as usize % TABLES
}

impl Index {
    pub(crate) fn new() -> Index {
        Index { tables: (0..TABLES).map(|_| HashTable::new()).collect(), len: 0 }
    }

    #[inline(always)]
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// The slot of `id`; `ids` are the ids by slot.
    #[inline]
    pub(crate) fn find(&self, id: u64, ids: &[u64], hash: &SeededHash) -> Option<Slot> {
        if self.len == 0 {
            return None;
        }
        let hashed = hash.word(id);
        self.tables[table_of(hashed)].find(hashed, |&slot| ids[slot as usize] == id).map(|&slot| Slot(slot))
    }

    /// A slot that probably has this id (its seven-bit tag agrees; wrong for about one in twelve), without touching
    /// the ids: so that a batch can fetch what confirms it ahead of time.
    #[inline]
    pub(crate) fn guess(&self, id: u64, hash: &SeededHash) -> Option<Slot> {
        if self.len == 0 {
            return None;
        }
        let hashed = hash.word(id);
        self.tables[table_of(hashed)].find(hashed, |_| true).map(|&slot| Slot(slot))
    }

    /// Adds an id that is not in the index and stands at `slot` in `ids`.
    pub(crate) fn insert(&mut self, slot: Slot, ids: &[u64], hash: &SeededHash) {
        let hashed = hash.word(ids[slot.index()]);
        self.tables[table_of(hashed)].insert_unique(hashed, slot.0, |&other| hash.word(ids[other as usize]));
        self.len += 1;
    }

    /// Removes the id at `slot` in `ids`.
    ///
    /// # Panics
    /// When it is not there.
    pub(crate) fn remove(&mut self, slot: Slot, ids: &[u64], hash: &SeededHash) {
        let hashed = hash.word(ids[slot.index()]);
        let found = self.tables[table_of(hashed)].find_entry(hashed, |&other| other == slot.0);
        let Ok(entry) = found else {
            panic!("S1 one-shard: slot {} has an id that the index does not know", slot.0);
        };
        entry.remove();
        self.len -= 1;
    }

    pub(crate) fn clear(&mut self) {
        self.tables.iter_mut().for_each(HashTable::clear);
        self.len = 0;
    }

    pub(crate) fn used_bytes(&self) -> usize {
        // Four bytes of slot and one of tag a bucket.
        self.tables.iter().map(|table| table.capacity() * 8 / 7 * 5).sum()
    }
}
