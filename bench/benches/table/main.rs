//! From an ID to its lease and no further: time stands still, nothing is due. One thread, CPU time.
//!
//! - renew 256: a batch, in which a table may look ahead.
//! - renew one: one call per lease. The CPU overlaps calls as far as their length lets it, which favours short ones.
//! - read one: the remaining time of a lease, as one call.
//!
//! *tenure* has server-assigned IDs, which name their slot; *tenure, chosen IDs* those that clients chose, which go
//! through its index. Beside them maps from ID to deadline and TTL, as one would write it; and the floor, a random
//! cache line.

use std::collections::{BTreeMap, HashMap};
use std::hash::BuildHasher;
use std::hint::black_box;
use std::time::SystemTime;

use criterion::measurement::Measurement;
use criterion::{BenchmarkGroup, BenchmarkId, Criterion, Throughput};
use rand::SeedableRng;
use rand::rngs::SmallRng;
use rand::seq::SliceRandom;
use tenure_core::{Grant, LeaseId, Position, RecordBuffer, Shard, ShardConfig, ShardIndex, Time};

#[path = "../support/cpu_time.rs"]
mod cpu_time;
#[path = "../support/floor.rs"]
mod floor;
#[path = "../support/setting.rs"]
mod setting;
#[path = "../support/summary.rs"]
mod summary;

use cpu_time::CpuTime;

const TTL_MS: u64 = 60_000;
const NOW: Time = Time(1);
const BATCH: usize = 256;
/// IDs of a round: consecutive rounds go through all of them.
const ROUND: usize = 16 * BATCH;

/// A table that is only looked up.
trait Lookup {
    const NAME: &'static str;
    fn new(leases: usize) -> Self;
    fn grant(&mut self, index: u64) -> u64;
    fn renew(&mut self, id: u64) -> bool;
    fn read(&mut self, id: u64) -> u64;
    /// How many of them live.
    fn renew_batch(&mut self, ids: &[u64]) -> usize {
        ids.iter().filter(|&&id| self.renew(id)).count()
    }
}

fn chosen(index: u64) -> u64 {
    (index + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15)
}

struct Tenure<const CHOSEN: bool> {
    shard: Shard,
    log: RecordBuffer,
    ids: Vec<LeaseId>,
    failed: Vec<u32>,
}

impl<const CHOSEN: bool> Lookup for Tenure<CHOSEN> {
    const NAME: &'static str = if CHOSEN { "tenure, chosen IDs" } else { "tenure" };

    fn new(leases: usize) -> Self {
        let lease_count_max = u32::try_from(leases).expect("a size that a shard can hold");
        let shard = Shard::new(ShardConfig { lease_count_max, ..ShardConfig::new(ShardIndex(0), 1) });
        let log = RecordBuffer::new(Position(64), Time(0));
        Tenure { shard, log, ids: Vec::new(), failed: Vec::new() }
    }

    fn grant(&mut self, index: u64) -> u64 {
        let grant = Grant { id: CHOSEN.then(|| LeaseId(chosen(index))), ttl_ms: TTL_MS, key: None };
        let granted = self.shard.grant(Time(0), &grant, &mut self.log).result.expect("there is room");
        let tail = self.log.tail();
        self.shard.durable(tail);
        self.log.begin(tail, Time(0));
        while index.is_multiple_of(4_096)
            && let Some(ahead) = self.shard.memory_wanted()
        {
            ahead.populate();
        }
        granted.id.0
    }

    fn renew(&mut self, id: u64) -> bool {
        self.shard.renew(NOW, LeaseId(id), &mut self.log).result.is_ok()
    }

    fn read(&mut self, id: u64) -> u64 {
        let answer = self.shard.time_to_live(NOW, LeaseId(id), &mut self.log);
        answer.result.map_or(0, |lease| lease.remaining_ms)
    }

    fn renew_batch(&mut self, ids: &[u64]) -> usize {
        self.ids.clear();
        self.ids.extend(ids.iter().map(|&id| LeaseId(id)));
        self.failed.clear();
        let after = self.shard.renew_batch(NOW, &self.ids, &mut self.failed, &mut self.log);
        assert!(after.is_ok(), "the shard is primary");
        ids.len() - self.failed.len()
    }
}

struct Lease {
    deadline_ms: u64,
    ttl_ms: u64,
}

impl Lease {
    const NEW: Lease = Lease { deadline_ms: TTL_MS, ttl_ms: TTL_MS };

    /// False when it has ended.
    fn renew(&mut self) -> bool {
        let lives = self.deadline_ms > NOW.0;
        if lives {
            self.deadline_ms = NOW.0 + self.ttl_ms;
        }
        lives
    }
}

/// Implements `Lookup` for a map type.
macro_rules! lookup_by_map {
    ($type:ty, $name:literal, $new:expr) => {
        impl Lookup for $type {
            const NAME: &'static str = $name;

            fn new(leases: usize) -> Self {
                ($new)(leases)
            }

            fn grant(&mut self, index: u64) -> u64 {
                self.insert(chosen(index), Lease::NEW);
                chosen(index)
            }

            fn renew(&mut self, id: u64) -> bool {
                self.get_mut(&id).is_some_and(Lease::renew)
            }

            fn read(&mut self, id: u64) -> u64 {
                self.get(&id).map_or(0, |lease| lease.deadline_ms - NOW.0)
            }
        }
    };
}

type FoldMap = hashbrown::HashMap<u64, Lease, foldhash::fast::RandomState>;
type SipMap = HashMap<u64, Lease>;

fn with_room<S: BuildHasher + Default>(leases: usize) -> hashbrown::HashMap<u64, Lease, S> {
    hashbrown::HashMap::with_capacity_and_hasher(leases, S::default())
}

lookup_by_map!(FoldMap, "hashbrown, foldhash", with_room);
lookup_by_map!(SipMap, "std HashMap, SipHash", HashMap::with_capacity);
lookup_by_map!(BTreeMap<u64, Lease>, "BTreeMap", |_| BTreeMap::new());

/// A table and its IDs in random order.
struct Filled<L> {
    lookup: L,
    ids: Vec<u64>,
    at: usize,
}

impl<L: Lookup> Filled<L> {
    fn new(leases: usize) -> Filled<L> {
        let mut lookup = L::new(leases);
        let mut ids: Vec<u64> = (0..leases as u64).map(|index| lookup.grant(index)).collect();
        ids.shuffle(&mut SmallRng::seed_from_u64(1));
        Filled { lookup, ids, at: 0 }
    }

    /// The IDs of the next round, and the table.
    fn round(&mut self) -> (&mut L, &[u64]) {
        if self.at + ROUND > self.ids.len() {
            self.at = 0;
        }
        self.at += ROUND;
        (&mut self.lookup, &self.ids[self.at - ROUND..self.at])
    }
}

fn rows<L: Lookup>(criterion: &mut Criterion<CpuTime>, leases: usize) {
    type Way<L> = (&'static str, fn(&mut L, &[u64]) -> usize);
    let ways: [Way<L>; 3] = [
        ("renew 256", |lookup, ids| ids.chunks_exact(BATCH).map(|ids| lookup.renew_batch(ids)).sum()),
        ("renew one", |lookup, ids| ids.iter().filter(|&&id| lookup.renew(black_box(id))).count()),
        ("read one", |lookup, ids| ids.iter().filter(|&&id| lookup.read(black_box(id)) > 0).count()),
    ];
    let mut made: Option<Filled<L>> = None;
    for (name, way) in ways {
        let mut group = criterion.benchmark_group(name);
        group.throughput(Throughput::Elements(ROUND as u64));
        group.bench_function(BenchmarkId::new(L::NAME, leases), |bencher| {
            let filled = made.get_or_insert_with(|| Filled::<L>::new(leases));
            bencher.iter(|| {
                let (lookup, ids) = filled.round();
                assert_eq!(way(lookup, ids), ids.len(), "{}: all of them live", L::NAME);
            });
        });
        group.finish();
    }
}

fn floor_rows<M: Measurement>(mut group: BenchmarkGroup<'_, M>, leases: usize) {
    floor::rows(&mut group, leases);
    group.finish();
}

fn main() {
    setting::huge_pages_for_all();
    let (began, mut criterion) = (SystemTime::now(), setting::criterion(CpuTime));
    for leases in setting::sizes() {
        floor_rows(criterion.benchmark_group("renew 256"), leases);
        rows::<Tenure<false>>(&mut criterion, leases);
        rows::<Tenure<true>>(&mut criterion, leases);
        rows::<FoldMap>(&mut criterion, leases);
        rows::<SipMap>(&mut criterion, leases);
        rows::<BTreeMap<u64, Lease>>(&mut criterion, leases);
    }
    criterion.final_summary();
    summary::print(began);
}
