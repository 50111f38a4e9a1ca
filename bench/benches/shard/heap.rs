//! A hash map of deadlines and a binary heap: the strongest form of what most lease tables are.
//!
//! A renewal writes the map only; the heap finds out when the old deadline comes up.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

use foldhash::fast::RandomState;

use crate::shape::Shape;

pub(crate) struct Heap {
    deadlines: HashMap<u64, u64, RandomState>,
    heap: BinaryHeap<Reverse<(u64, u64)>>,
    ttl_ms: u64,
    next: u64,
}

impl Shape for Heap {
    const NAME: &'static str = "heap + map, lazy";

    fn new(leases: usize, ttl_ms: u64) -> Heap {
        let deadlines = HashMap::with_capacity_and_hasher(leases, RandomState::default());
        Heap { deadlines, heap: BinaryHeap::with_capacity(leases), ttl_ms, next: 0 }
    }

    fn grant(&mut self, now_ms: u64) -> u64 {
        self.next += 1;
        self.deadlines.insert(self.next, now_ms + self.ttl_ms);
        self.heap.push(Reverse((now_ms + self.ttl_ms, self.next)));
        self.next
    }

    fn renew(&mut self, now_ms: u64, ids: &[u64], lapsed: &mut Vec<u32>) {
        for (index, id) in ids.iter().enumerate() {
            match self.deadlines.get_mut(id) {
                Some(deadline) => *deadline = now_ms + self.ttl_ms,
                None => lapsed.push(index as u32),
            }
        }
    }

    fn expire(&mut self, now_ms: u64) -> usize {
        let mut ended = 0;
        while let Some(mut top) = self.heap.peek_mut()
            && top.0.0 <= now_ms
        {
            let id = top.0.1;
            let deadline = self.deadlines[&id];
            if deadline <= now_ms {
                std::collections::binary_heap::PeekMut::pop(top);
                self.deadlines.remove(&id);
                ended += 1;
            } else {
                // In place: one sift instead of two.
                top.0.0 = deadline;
            }
        }
        ended
    }
}
