//! TTL buckets as Segcache has them (Yang, Yue & Rashmi, NSDI 2021): what ends in the same second is in one append-only
//! segment, and a segment ends as a whole. A renewal moves the lease: its map entry names the new segment, and the
//! old reference is stale. Deadlines are rounded up to whole seconds, so leases end up to a second late.

use std::collections::{HashMap, VecDeque};

use foldhash::fast::RandomState;

use crate::shape::Shape;

/// A second, as the workloads count them.
const BUCKET_MS: u64 = 1_024;

pub(crate) struct TtlBuckets {
    /// The bucket in which a lease ends.
    ends: HashMap<u64, u64, RandomState>,
    buckets: VecDeque<Vec<u64>>,
    /// Number of the first bucket.
    first: u64,
    ttl_ms: u64,
    next: u64,
}

impl TtlBuckets {
    fn bucket(&mut self, end: u64) -> &mut Vec<u64> {
        let place = usize::try_from(end - self.first).expect("a bucket to come");
        if place >= self.buckets.len() {
            self.buckets.resize_with(place + 1, Vec::new);
        }
        &mut self.buckets[place]
    }

    fn end(&self, now_ms: u64) -> u64 {
        (now_ms + self.ttl_ms).div_ceil(BUCKET_MS)
    }
}

impl Shape for TtlBuckets {
    const NAME: &'static str = "TTL buckets + map";

    fn new(leases: usize, ttl_ms: u64) -> TtlBuckets {
        let ends = HashMap::with_capacity_and_hasher(leases, RandomState::default());
        TtlBuckets { ends, buckets: VecDeque::new(), first: 0, ttl_ms, next: 0 }
    }

    fn grant(&mut self, now_ms: u64) -> u64 {
        self.next += 1;
        let (id, end) = (self.next, self.end(now_ms));
        self.ends.insert(id, end);
        self.bucket(end).push(id);
        id
    }

    fn renew(&mut self, now_ms: u64, ids: &[u64], lapsed: &mut Vec<u32>) {
        let end = self.end(now_ms);
        for (index, &id) in ids.iter().enumerate() {
            match self.ends.get_mut(&id) {
                Some(at) if *at == end => {}
                Some(at) => {
                    *at = end;
                    self.bucket(end).push(id);
                }
                None => lapsed.push(index as u32),
            }
        }
    }

    fn expire(&mut self, now_ms: u64) -> usize {
        let mut ended = 0;
        while self.first <= now_ms / BUCKET_MS {
            for id in self.buckets.pop_front().unwrap_or_default() {
                if self.ends.get(&id) == Some(&self.first) {
                    self.ends.remove(&id);
                    ended += 1;
                }
            }
            self.first += 1;
        }
        ended
    }
}
