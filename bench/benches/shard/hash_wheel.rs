//! The wheel of the crate `hierarchical_hash_wheel_timer` with a map of deadlines: lazily renewed, which is the strongest
//! form it can be given (its cancellable form drops and allocates an entry per renewal).

use std::collections::HashMap;
use std::time::Duration;

use foldhash::fast::RandomState;
use hierarchical_hash_wheel_timer::wheels::Skip;
use hierarchical_hash_wheel_timer::wheels::quad_wheel::{QuadWheelWithOverflow, no_prune};

use crate::shape::Shape;

pub(crate) struct HashWheel {
    deadlines: HashMap<u64, u64, RandomState>,
    wheel: QuadWheelWithOverflow<u64>,
    ttl_ms: u64,
    next: u64,
    now_ms: u64,
}

impl HashWheel {
    fn file(&mut self, id: u64, deadline_ms: u64) {
        let delay = Duration::from_millis(deadline_ms - self.now_ms);
        self.wheel.insert_with_delay(id, delay).expect("a deadline to come");
    }
}

impl Shape for HashWheel {
    const NAME: &'static str = "hash wheel + map, lazy";

    fn new(leases: usize, ttl_ms: u64) -> HashWheel {
        let deadlines = HashMap::with_capacity_and_hasher(leases, RandomState::default());
        HashWheel { deadlines, wheel: QuadWheelWithOverflow::new(no_prune), ttl_ms, next: 0, now_ms: 0 }
    }

    fn grant(&mut self, now_ms: u64) -> u64 {
        self.next += 1;
        self.deadlines.insert(self.next, now_ms + self.ttl_ms);
        self.file(self.next, now_ms + self.ttl_ms);
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
        while self.now_ms < now_ms {
            let left = u32::try_from(now_ms - self.now_ms).expect("steps of less than a month");
            let skipped = match self.wheel.can_skip() {
                Skip::Empty => left,
                Skip::Millis(skip) => skip.min(left),
                Skip::None => 0,
            };
            if skipped > 0 {
                self.wheel.skip(skipped);
                self.now_ms += u64::from(skipped);
                continue;
            }
            self.now_ms += 1;
            for id in self.wheel.tick() {
                let deadline = self.deadlines[&id];
                if deadline <= self.now_ms {
                    self.deadlines.remove(&id);
                    ended += 1;
                } else {
                    self.file(id, deadline);
                }
            }
        }
        ended
    }
}
