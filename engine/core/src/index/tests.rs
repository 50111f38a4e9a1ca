//! The index against an ordered map, and its blocks at their edges.

use super::*;
use std::collections::BTreeMap;

/// An index, the ids by slot that it is told of, and the map that says what is right.
struct Bench {
    index: Index,
    hash: SeededHash,
    ids: Vec<u64>,
    free: Vec<u32>,
    map: BTreeMap<u64, u32>,
}

impl Bench {
    fn new(slots: u32, seed: u64) -> Bench {
        Bench {
            index: Index::new(slots),
            hash: SeededHash::new(seed),
            ids: vec![0; slots as usize],
            free: (0..slots).collect(),
            map: BTreeMap::new(),
        }
    }

    fn insert(&mut self, id: u64) {
        let slot = self.free.pop().expect("a free slot");
        self.ids[slot as usize] = id;
        self.index.insert(Slot(slot), &self.ids, &self.hash);
        self.map.insert(id, slot);
    }

    fn remove(&mut self, id: u64) {
        let slot = self.map.remove(&id).expect("an id that is there");
        self.index.remove(Slot(slot), &self.ids, &self.hash);
        self.free.push(slot);
    }

    fn check_one(&self, id: u64) {
        let found = self.index.find(id, &self.ids, &self.hash);
        assert_eq!(found, self.map.get(&id).map(|&slot| Slot(slot)), "id {id}");
        if found.is_some() {
            let key = Key::new(id, &self.hash);
            self.index.prefetch(key);
            assert!(self.index.guess(key).is_some(), "a guess misses nothing");
        }
    }

    /// Counts of the blocks, and the directory, against the cells.
    fn check_blocks(&self) {
        let mut live = 0;
        for (number, block) in self.index.blocks.iter().enumerate() {
            let cells = self.index.cells_of(number as u32);
            let count = |wanted: &dyn Fn(u32) -> bool| cells.iter().filter(|&&cell| wanted(cell)).count();
            assert_eq!(count(&|cell| cell != NEVER_USED), usize::from(block.used), "block {number}: used");
            assert_eq!(count(&|cell| cell > GONE), usize::from(block.live), "block {number}: live");
            assert!(block.used <= USED_MAX, "S8 bounded: a search ends");
            live += usize::from(block.live);
            let entries = self.index.directory.iter().filter(|&&entry| entry == number as u32).count();
            assert_eq!(
                entries,
                1 << (self.index.depth - u32::from(block.depth)),
                "block {number}: directory"
            );
        }
        assert_eq!((live, self.index.len()), (self.map.len(), self.map.len()));
    }
}

/// Inserts, removals and lookups at random: growing, churning, shrinking, with many more ids than a block holds.
#[test]
fn agrees_with_a_map() {
    for seed in 0..8 {
        let mut bench = Bench::new(9_000, seed);
        let mut x = seed + 1;
        for step in 0..60_000u64 {
            x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let id = (x >> 33) % 12_000;
            let insert = (x >> 8) % 10 < if step < 25_000 { 8 } else { 3 };
            match (insert, bench.map.contains_key(&id)) {
                (true, false) if !bench.free.is_empty() => bench.insert(id),
                (false, true) => bench.remove(id),
                _ => {}
            }
            bench.check_one(id);
            if step % 5_000 == 0 {
                bench.check_blocks();
            }
        }
        (0..12_000).for_each(|id| bench.check_one(id));
        bench.check_blocks();
    }
}

/// Few tag bits, many slots: wrong guesses happen, wrong answers do not.
#[test]
fn the_widest_slots_leave_four_bits_of_tag() {
    let mut bench = Bench::new(2_000, 5);
    bench.index = Index::new(1 << crate::id_rule::SLOT_BITS);
    assert_eq!(bench.index.slot_bits, 28);
    (0..2_000).for_each(|id| bench.insert(id));
    (0..4_000).for_each(|id| bench.check_one(id));
    bench.check_blocks();
}

/// A stable number of ids that come and go: blocks are cleared up, not split, and the index stays as large as it was.
#[test]
fn churn_does_not_make_it_grow() {
    let mut bench = Bench::new(3_000, 11);
    (0..2_000).for_each(|id| bench.insert(id));
    let before = bench.index.used_bytes();
    for id in 0..100_000 {
        bench.remove(id);
        bench.insert(id + 2_000);
    }
    bench.check_blocks();
    (99_000..103_000).for_each(|id| bench.check_one(id));
    // Each block may be split once: live ids are not evenly spread.
    assert!(bench.index.used_bytes() <= 2 * before, "{} bytes, before {before}", bench.index.used_bytes());
}

/// The last ones out leave no trace that a search would have to walk past.
#[test]
fn cells_of_the_gone_are_given_back_at_the_end_of_a_run() {
    let mut bench = Bench::new(500, 2);
    for _ in 0..10 {
        (0..500).for_each(|id| bench.insert(id));
        (0..500).for_each(|id| bench.remove(id));
        bench.check_blocks();
        assert!(bench.index.blocks.iter().all(|block| block.used == 0), "{}", bench.index.blocks[0].used);
    }
}

#[test]
fn it_can_be_cleared_and_used_again() {
    let mut bench = Bench::new(5_000, 3);
    (0..5_000).for_each(|id| bench.insert(id));
    bench.index.clear();
    bench.map.clear();
    bench.free = (0..5_000).collect();
    (0..5_000).for_each(|id| bench.check_one(id));
    (2_000..7_000).for_each(|id| bench.insert(id));
    (0..7_000).for_each(|id| bench.check_one(id));
    bench.check_blocks();
}

#[test]
#[should_panic(expected = "S1 one-shard")]
fn removing_what_is_not_there_is_a_bug() {
    let mut bench = Bench::new(10, 1);
    bench.insert(1);
    bench.ids[7] = 2;
    bench.index.remove(Slot(7), &bench.ids, &bench.hash);
}
