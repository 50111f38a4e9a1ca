//! The shard against the two shapes that a lease table usually has, in the same run.
//!
//! *heap*: a hash map of leases and a binary heap of deadlines; a renewal writes the map, and the heap
//! finds out when the old deadline comes up (the strongest form of etcd's lessor). *tree*: a hash map
//! and an ordered set of (deadline, ID) that every renewal moves. Neither logs, checks tokens or keeps
//! promises across a crash; the shard does all of that in the same measurement.
//!
//! - renew: the steady state. Leases are renewed in random order at a third of their TTL, in batches of
//!   256, and time moves along, so that re-filing and the search for overdue leases are in the figure.
//! - grant: an empty table grows to its size.
//! - expire: all leases end at one moment.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap, HashMap};
use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{
    BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main, measurement::WallTime,
};
use foldhash::fast::RandomState;
use rand::SeedableRng;
use rand::rngs::SmallRng;
use rand::seq::SliceRandom;
use tenure_core::{Grant, LeaseId, Position, RecordBuffer, Shard, ShardConfig, ShardIndex, Time};

const TTL_MS: u64 = 10_000;
const BATCH: usize = 256;
/// Record bytes after which a runtime would have sealed the batch.
const SEAL_BYTES: usize = 64 << 10;
const SIZES: [usize; 2] = [100_000, 1_000_000];

/// A table of leases.
trait Shape {
    fn new(leases: usize) -> Self;
    fn grant(&mut self, now_ms: u64) -> u64;
    /// All of them live.
    fn renew(&mut self, now_ms: u64, ids: &[u64]);
    /// How many ended.
    fn expire(&mut self, now_ms: u64) -> usize;
}

struct Tenure {
    shard: Shard,
    log: RecordBuffer,
    ids: Vec<LeaseId>,
    failed: Vec<u32>,
}

impl Tenure {
    /// What a runtime does when a batch is full: the log is on disk, and a new one begins.
    fn seal(&mut self) {
        if self.log.bytes().len() >= SEAL_BYTES {
            let tail = self.log.tail();
            self.shard.durable(tail);
            self.log.begin(tail, self.log.time());
        }
    }
}

impl Shape for Tenure {
    fn new(leases: usize) -> Tenure {
        let config = ShardConfig { lease_count_max: 2 * leases as u32, ..ShardConfig::new(ShardIndex(0), 1) };
        let log = RecordBuffer::new(Position(64), Time(0));
        Tenure { shard: Shard::new(config), log, ids: Vec::new(), failed: Vec::new() }
    }

    fn grant(&mut self, now_ms: u64) -> u64 {
        let grant = Grant { id: None, ttl_ms: TTL_MS, key: None };
        let granted = self.shard.grant(Time(now_ms), &grant, &mut self.log).result.expect("there is room");
        self.seal();
        granted.id.0
    }

    fn renew(&mut self, now_ms: u64, ids: &[u64]) {
        self.ids.clear();
        self.ids.extend(ids.iter().map(|&id| LeaseId(id)));
        self.failed.clear();
        let after = self.shard.renew_batch(Time(now_ms), &self.ids, &mut self.failed, &mut self.log);
        assert!(after.is_ok() && self.failed.is_empty(), "every lease is live");
        self.seal();
    }

    fn expire(&mut self, now_ms: u64) -> usize {
        let mut ended = 0;
        loop {
            let progress = self.shard.expire(Time(now_ms), 4_096, &mut self.log);
            ended += progress.ended;
            self.seal();
            if !progress.more {
                return ended;
            }
        }
    }
}

struct Heap {
    deadlines: HashMap<u64, u64, RandomState>,
    heap: BinaryHeap<Reverse<(u64, u64)>>,
    next: u64,
}

impl Shape for Heap {
    fn new(_: usize) -> Heap {
        Heap { deadlines: HashMap::default(), heap: BinaryHeap::new(), next: 0 }
    }

    fn grant(&mut self, now_ms: u64) -> u64 {
        self.next += 1;
        self.deadlines.insert(self.next, now_ms + TTL_MS);
        self.heap.push(Reverse((now_ms + TTL_MS, self.next)));
        self.next
    }

    fn renew(&mut self, now_ms: u64, ids: &[u64]) {
        for id in ids {
            *self.deadlines.get_mut(id).expect("every lease is live") = now_ms + TTL_MS;
        }
    }

    fn expire(&mut self, now_ms: u64) -> usize {
        let mut ended = 0;
        while let Some(&Reverse((deadline, id))) = self.heap.peek()
            && deadline <= now_ms
        {
            self.heap.pop();
            let deadline = self.deadlines[&id];
            if deadline <= now_ms {
                self.deadlines.remove(&id);
                ended += 1;
            } else {
                self.heap.push(Reverse((deadline, id)));
            }
        }
        ended
    }
}

struct Tree {
    deadlines: HashMap<u64, u64, RandomState>,
    order: BTreeSet<(u64, u64)>,
    next: u64,
}

impl Shape for Tree {
    fn new(_: usize) -> Tree {
        Tree { deadlines: HashMap::default(), order: BTreeSet::new(), next: 0 }
    }

    fn grant(&mut self, now_ms: u64) -> u64 {
        self.next += 1;
        self.deadlines.insert(self.next, now_ms + TTL_MS);
        self.order.insert((now_ms + TTL_MS, self.next));
        self.next
    }

    fn renew(&mut self, now_ms: u64, ids: &[u64]) {
        for &id in ids {
            let deadline = self.deadlines.get_mut(&id).expect("every lease is live");
            self.order.remove(&(*deadline, id));
            *deadline = now_ms + TTL_MS;
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

/// A table with `leases` leases, granted over one TTL, and their IDs in random order.
fn filled<S: Shape>(leases: usize) -> (S, Vec<u64>) {
    let mut shape = S::new(leases);
    let mut ids: Vec<u64> =
        (0..leases).map(|index| shape.grant((index as u64 * TTL_MS) / (2 * leases as u64))).collect();
    ids.shuffle(&mut SmallRng::seed_from_u64(1));
    (shape, ids)
}

fn renew<S: Shape>(group: &mut BenchmarkGroup<'_, WallTime>, name: &str, leases: usize) {
    let (mut shape, mut ids) = filled::<S>(leases);
    ids.truncate(ids.len() / BATCH * BATCH);
    let batches = ids.len() / BATCH;
    let mut turn = 0;
    group.throughput(Throughput::Elements(BATCH as u64));
    group.bench_function(format!("{name}/{leases}"), |bencher| {
        bencher.iter(|| {
            // Each lease comes up three times per TTL.
            let now_ms = TTL_MS / 2 + turn as u64 * TTL_MS / (3 * batches as u64);
            let from = turn % batches * BATCH;
            shape.renew(now_ms, &ids[from..from + BATCH]);
            // The few that the rounding of `batches` left out are never renewed and end once.
            black_box(shape.expire(now_ms));
            turn += 1;
        });
    });
}

/// The time that `work` takes, without making and dropping what it works on.
fn timed<T>(rounds: u64, mut prepare: impl FnMut() -> T, mut work: impl FnMut(&mut T)) -> Duration {
    (0..rounds)
        .map(|_| {
            let mut subject = prepare();
            let began = Instant::now();
            work(&mut subject);
            began.elapsed()
        })
        .sum()
}

fn grant<S: Shape>(group: &mut BenchmarkGroup<'_, WallTime>, name: &str, leases: usize) {
    group.throughput(Throughput::Elements(leases as u64));
    group.bench_function(format!("{name}/{leases}"), |bencher| {
        bencher.iter_custom(|rounds| {
            timed(
                rounds,
                || S::new(leases),
                |shape| {
                    for _ in 0..leases {
                        black_box(shape.grant(0));
                    }
                },
            )
        });
    });
}

fn expire<S: Shape>(group: &mut BenchmarkGroup<'_, WallTime>, name: &str, leases: usize) {
    group.throughput(Throughput::Elements(leases as u64));
    group.bench_function(format!("{name}/{leases}"), |bencher| {
        bencher.iter_custom(|rounds| {
            let prepare = || {
                let mut shape = S::new(leases);
                for _ in 0..leases {
                    shape.grant(0);
                }
                shape
            };
            timed(rounds, prepare, |shape| assert_eq!(shape.expire(TTL_MS + 1), leases))
        });
    });
}

fn shard(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("renew");
    group.warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(2)).sample_size(20);
    for leases in SIZES {
        renew::<Tenure>(&mut group, "tenure", leases);
        renew::<Heap>(&mut group, "heap", leases);
        renew::<Tree>(&mut group, "tree", leases);
    }
    group.finish();

    for (name, of) in [("grant", false), ("expire", true)] {
        let mut group = criterion.benchmark_group(name);
        group
            .warm_up_time(Duration::from_millis(100))
            .measurement_time(Duration::from_millis(500))
            .sample_size(10);
        for leases in SIZES {
            if of {
                expire::<Tenure>(&mut group, "tenure", leases);
                expire::<Heap>(&mut group, "heap", leases);
                expire::<Tree>(&mut group, "tree", leases);
            } else {
                grant::<Tenure>(&mut group, "tenure", leases);
                grant::<Heap>(&mut group, "heap", leases);
                grant::<Tree>(&mut group, "tree", leases);
            }
        }
        group.finish();
    }
}

criterion_group!(benches, shard);
criterion_main!(benches);
