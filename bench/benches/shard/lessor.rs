//! The shape of etcd's lessor: a map of boxed leases, and an indexed binary heap that every renewal fixes
//! (`LeaseExpiredNotifier`, container/heap). In Rust, so that the shape is compared and not the language; without its
//! locks, and with the map's own hash (SipHash), as Go's maps are keyed too.

use std::collections::HashMap;

use crate::shape::Shape;

struct Lease {
    deadline_ms: u64,
    /// Where it stands in the heap.
    place: usize,
}

pub(crate) struct Lessor {
    /// Boxed as etcd's are: `map[LeaseID]*Lease`.
    leases: HashMap<u64, Box<Lease>>,
    heap: Vec<(u64, u64)>,
    ttl_ms: u64,
    next: u64,
}

impl Lessor {
    fn put(&mut self, place: usize, entry: (u64, u64)) {
        self.heap[place] = entry;
        self.leases.get_mut(&entry.1).expect("what is in the heap lives").place = place;
    }

    /// Moves the entry at `place` to where it belongs.
    fn fix(&mut self, place: usize) {
        let (mut place, entry) = (place, self.heap[place]);
        while place > 0 && entry < self.heap[(place - 1) / 2] {
            let parent = (place - 1) / 2;
            self.put(place, self.heap[parent]);
            place = parent;
        }
        loop {
            let mut child = 2 * place + 1;
            if child + 1 < self.heap.len() && self.heap[child + 1] < self.heap[child] {
                child += 1;
            }
            if child >= self.heap.len() || entry <= self.heap[child] {
                break;
            }
            self.put(place, self.heap[child]);
            place = child;
        }
        self.put(place, entry);
    }
}

impl Shape for Lessor {
    const NAME: &'static str = "etcd's lessor";

    fn new(leases: usize, ttl_ms: u64) -> Lessor {
        let (leases, heap) = (HashMap::with_capacity(leases), Vec::with_capacity(leases));
        Lessor { leases, heap, ttl_ms, next: 0 }
    }

    fn grant(&mut self, now_ms: u64) -> u64 {
        self.next += 1;
        let (deadline_ms, place) = (now_ms + self.ttl_ms, self.heap.len());
        self.leases.insert(self.next, Box::new(Lease { deadline_ms, place }));
        self.heap.push((deadline_ms, self.next));
        self.fix(place);
        self.next
    }

    fn renew(&mut self, now_ms: u64, ids: &[u64], lapsed: &mut Vec<u32>) {
        for (index, id) in ids.iter().enumerate() {
            let Some(lease) = self.leases.get_mut(id) else {
                lapsed.push(index as u32);
                continue;
            };
            lease.deadline_ms = now_ms + self.ttl_ms;
            let place = lease.place;
            self.heap[place].0 = lease.deadline_ms;
            self.fix(place);
        }
    }

    fn expire(&mut self, now_ms: u64) -> usize {
        let mut ended = 0;
        while let Some(&(deadline_ms, id)) = self.heap.first()
            && deadline_ms <= now_ms
        {
            let lease = self.leases.remove(&id).expect("what is in the heap lives");
            assert_eq!(lease.deadline_ms, deadline_ms);
            let last = self.heap.pop().expect("it has a first");
            if !self.heap.is_empty() {
                self.heap[0] = last;
                self.fix(0);
            }
            ended += 1;
        }
        ended
    }
}
