//! A hash map and an ordered set of (deadline, ID), which every renewal moves.

use std::collections::{BTreeSet, HashMap};

use foldhash::fast::RandomState;

use crate::shape::Shape;

pub(crate) struct Tree {
    deadlines: HashMap<u64, u64, RandomState>,
    order: BTreeSet<(u64, u64)>,
    ttl_ms: u64,
    next: u64,
}

impl Shape for Tree {
    const NAME: &'static str = "BTreeSet + map";

    fn new(leases: usize, ttl_ms: u64) -> Tree {
        let deadlines = HashMap::with_capacity_and_hasher(leases, RandomState::default());
        Tree { deadlines, order: BTreeSet::new(), ttl_ms, next: 0 }
    }

    fn grant(&mut self, now_ms: u64) -> u64 {
        self.next += 1;
        self.deadlines.insert(self.next, now_ms + self.ttl_ms);
        self.order.insert((now_ms + self.ttl_ms, self.next));
        self.next
    }

    fn renew(&mut self, now_ms: u64, ids: &[u64], lapsed: &mut Vec<u32>) {
        for (index, &id) in ids.iter().enumerate() {
            let Some(deadline) = self.deadlines.get_mut(&id) else {
                lapsed.push(index as u32);
                continue;
            };
            self.order.remove(&(*deadline, id));
            *deadline = now_ms + self.ttl_ms;
            self.order.insert((*deadline, id));
        }
    }

    fn expire(&mut self, now_ms: u64) -> usize {
        let mut ended = 0;
        while let Some(&(deadline, id)) = self.order.first()
            && deadline <= now_ms
        {
            self.order.pop_first();
            self.deadlines.remove(&id);
            ended += 1;
        }
        ended
    }
}
