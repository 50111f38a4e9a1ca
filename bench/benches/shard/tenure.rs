//! The shard, with what a runtime does around it: records are written, sealed and thrown away.

use tenure_core::{
    Grant, LeaseId, MemoryAhead, Position, RecordBuffer, Shard, ShardConfig, ShardIndex, Time,
};

use crate::shape::Shape;

/// Record bytes after which a runtime would have sealed the batch.
const SEAL_BYTES: usize = 64 << 10;
/// As the runtime's turns.
const EXPIRE_BUDGET: usize = 1_024;
const MAINTAIN_BUDGET: usize = 4_096;

/// `CHOSEN`: clients choose the IDs, which are found through an index. Else the server does, and an ID names its place.
pub(crate) struct Tenure<const CHOSEN: bool> {
    shard: Shard,
    log: RecordBuffer,
    ttl_ms: u64,
    granted: u64,
    ids: Vec<LeaseId>,
}

impl<const CHOSEN: bool> Tenure<CHOSEN> {
    fn seal(&mut self, now: Time) {
        if self.log.bytes().len() >= SEAL_BYTES {
            let tail = self.log.tail();
            self.shard.durable(tail);
            self.log.begin(tail, now);
            self.shard.maintain(now, MAINTAIN_BUDGET, &mut self.log);
            self.shard.memory_wanted().into_iter().for_each(MemoryAhead::populate);
        }
    }
}

impl<const CHOSEN: bool> Shape for Tenure<CHOSEN> {
    const NAME: &'static str = if CHOSEN { "tenure, chosen IDs" } else { "tenure" };

    fn new(leases: usize, ttl_ms: u64) -> Self {
        let lease_count_max = u32::try_from(2 * leases).expect("a size that a shard can hold");
        let config = ShardConfig { lease_count_max, ..ShardConfig::new(ShardIndex(0), 1) };
        let log = RecordBuffer::new(Position(64), Time(0));
        Tenure { shard: Shard::new(config), log, ttl_ms, granted: 0, ids: Vec::new() }
    }

    fn grant(&mut self, now_ms: u64) -> u64 {
        self.granted += 1;
        let id = CHOSEN.then(|| LeaseId(self.granted.wrapping_mul(0x9E37_79B9_7F4A_7C15)));
        let grant = Grant { id, ttl_ms: self.ttl_ms, key: None };
        let granted = self.shard.grant(Time(now_ms), &grant, &mut self.log).result.expect("there is room");
        self.seal(Time(now_ms));
        granted.id.0
    }

    fn renew(&mut self, now_ms: u64, ids: &[u64], lapsed: &mut Vec<u32>) {
        self.ids.clear();
        self.ids.extend(ids.iter().map(|&id| LeaseId(id)));
        let after = self.shard.renew_batch(Time(now_ms), &self.ids, lapsed, &mut self.log);
        assert!(after.is_ok(), "the shard is primary");
        self.seal(Time(now_ms));
    }

    fn expire(&mut self, now_ms: u64) -> usize {
        let mut ended = 0;
        loop {
            let progress = self.shard.expire(Time(now_ms), EXPIRE_BUDGET, &mut self.log);
            ended += progress.ended;
            self.seal(Time(now_ms));
            if !progress.more {
                return ended;
            }
        }
    }
}
