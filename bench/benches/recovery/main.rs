//! A restart without the disk: a shard rebuilt from its log or from its image, beside what else one could rebuild from the
//! same records, and beside the floor: the bytes copied once. One thread, CPU time; fresh memory is in it.
//!
//! - replay: the records of so many grants. The others read them with the same decoder.
//! - load image: a snapshot. The others load 24 bytes a lease (ID, TTL, deadline), the heap in one heapify.
//! - write image: what a snapshot costs the running shard.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap, HashMap};
use std::hint::black_box;
use std::time::SystemTime;

use criterion::{BatchSize, BenchmarkGroup, BenchmarkId, Criterion, SamplingMode, Throughput};
use foldhash::fast::RandomState;
use tenure_core::{
    Grant, LeaseId, Position, Record, RecordBuffer, RecordIter, Shard, ShardConfig, ShardIndex, Time,
};

#[path = "../support/cpu_time.rs"]
mod cpu_time;
#[path = "../support/setting.rs"]
mod setting;
#[path = "../support/summary.rs"]
mod summary;

use cpu_time::CpuTime;

const TTL_MS: u64 = 60_000;
/// Record bytes of a batch of the log.
const BATCH_BYTES: usize = 64 << 10;
/// Image bytes of one step.
const CHUNK_BYTES: usize = 64 << 10;

type Deadlines = HashMap<u64, u64, RandomState>;

/// A shard's past: the records of its grants in batches, and its image.
struct Past {
    leases: usize,
    shard: Shard,
    batches: Vec<(Position, Vec<u8>)>,
    image: Vec<Vec<u8>>,
    /// The same leases as fixed entries.
    entries: Vec<u8>,
}

fn empty_shard(leases: usize) -> Shard {
    let lease_count_max = u32::try_from(leases).expect("a size that a shard can hold");
    Shard::new(ShardConfig { lease_count_max, ..ShardConfig::new(ShardIndex(0), 1) })
}

impl Past {
    fn new(leases: usize, chosen: bool) -> Past {
        let mut past = Past {
            leases,
            shard: empty_shard(leases),
            batches: Vec::new(),
            image: Vec::new(),
            entries: Vec::new(),
        };
        let mut log = RecordBuffer::new(Position(64), Time(0));
        for index in 0..leases as u64 {
            let id = chosen.then(|| LeaseId((index + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15)));
            let grant = Grant { id, ttl_ms: TTL_MS, key: None };
            let granted = past.shard.grant(Time(0), &grant, &mut log).result.expect("there is room");
            for word in [granted.id.0, TTL_MS, TTL_MS] {
                past.entries.extend_from_slice(&word.to_le_bytes());
            }
            if log.bytes().len() >= BATCH_BYTES || index + 1 == leases as u64 {
                past.batches.push((log.start(), log.bytes().to_vec()));
                let tail = log.tail();
                past.shard.durable(tail);
                log.begin(tail, Time(0));
            }
        }
        past.take_image();
        past
    }

    fn take_image(&mut self) {
        let (mut cursor, mut last) = (self.shard.image_start(), false);
        while !last {
            let mut chunk = Vec::new();
            last = self.shard.image_step(&mut cursor, CHUNK_BYTES, &mut chunk);
            self.image.push(chunk);
        }
    }

    /// Every grant in the log.
    fn grants(&self) -> impl Iterator<Item = (u64, u64)> {
        self.batches.iter().flat_map(|(start, bytes)| RecordIter::new(*start, bytes)).filter_map(|record| {
            match record.expect("records of a shard").1 {
                Record::Grant { id, ttl_ms, .. } => Some((id.0, ttl_ms)),
                _ => None,
            }
        })
    }

    fn entries(&self) -> impl Iterator<Item = (u64, u64)> {
        self.entries.as_chunks::<24>().0.iter().map(|entry| {
            let word = |at: usize| u64::from_le_bytes(*entry[at..].first_chunk().expect("24 bytes"));
            (word(0), word(16))
        })
    }
}

fn map(leases: usize) -> Deadlines {
    HashMap::with_capacity_and_hasher(leases, RandomState::default())
}

fn heap_and_map(leases: usize, of: impl Iterator<Item = (u64, u64)>) -> usize {
    let (mut deadlines, mut order) = (map(leases), Vec::with_capacity(leases));
    for (id, deadline) in of {
        deadlines.insert(id, deadline);
        order.push(Reverse((deadline, id)));
    }
    black_box(BinaryHeap::from(order));
    black_box(deadlines).len()
}

fn tree_and_map(leases: usize, of: impl Iterator<Item = (u64, u64)>) -> usize {
    let (mut deadlines, mut order) = (map(leases), BTreeSet::new());
    for (id, deadline) in of {
        deadlines.insert(id, deadline);
        order.insert((deadline, id));
    }
    black_box(order);
    black_box(deadlines).len()
}

type Group<'a> = BenchmarkGroup<'a, CpuTime>;

/// One row: `rebuild` answers how many leases it has.
fn row(group: &mut Group<'_>, name: &str, past: &Past, rebuild: impl Fn(&Past) -> usize) {
    group.sampling_mode(SamplingMode::Flat).throughput(Throughput::Elements(past.leases as u64));
    group.bench_function(BenchmarkId::new(name, past.leases), |bencher| {
        bencher.iter(|| assert_eq!(rebuild(black_box(past)), past.leases));
    });
}

/// A row of Tenure: the shard is made and dropped outside of the measurement, as a process does it once.
fn shard_row(group: &mut Group<'_>, name: &str, past: &Past, rebuild: impl Fn(&Past, &mut Shard)) {
    group.sampling_mode(SamplingMode::Flat).throughput(Throughput::Elements(past.leases as u64));
    group.bench_function(BenchmarkId::new(name, past.leases), |bencher| {
        let work = |shard: &mut Shard| {
            rebuild(past, shard);
            shard.recovered(Time(0));
            assert_eq!(shard.lease_count(), past.leases as u64);
        };
        bencher.iter_batched_ref(|| empty_shard(past.leases), work, BatchSize::PerIteration);
    });
}

fn replay(past: &Past, shard: &mut Shard) {
    for (start, records) in &past.batches {
        shard.replay(*start, Time(0), records).expect("records of a shard");
    }
}

fn load(past: &Past, shard: &mut Shard) {
    past.image.iter().for_each(|chunk| shard.load_image(chunk).expect("the image of a shard"));
}

fn copied<'a>(leases: usize, of: impl Iterator<Item = &'a Vec<u8>>) -> usize {
    let mut copy = Vec::new();
    for bytes in of {
        copy.clear();
        copy.extend_from_slice(bytes);
        black_box(&copy);
    }
    leases
}

fn rows(criterion: &mut Criterion<CpuTime>, leases: usize) {
    let (assigned, chosen) = (Past::new(leases, false), Past::new(leases, true));
    let mut group = criterion.benchmark_group("replay");
    row(&mut group, "floor: the records copied", &assigned, |past| {
        copied(past.leases, past.batches.iter().map(|(_, bytes)| bytes))
    });
    row(&mut group, "decoder alone", &assigned, |past| past.grants().map(black_box).count());
    shard_row(&mut group, "tenure", &assigned, replay);
    shard_row(&mut group, "tenure, chosen IDs", &chosen, replay);
    row(&mut group, "heap + map", &assigned, |past| heap_and_map(past.leases, past.grants()));
    row(&mut group, "BTreeSet + map", &assigned, |past| tree_and_map(past.leases, past.grants()));
    group.finish();

    let mut group = criterion.benchmark_group("load image");
    row(&mut group, "floor: the image copied", &assigned, |past| copied(past.leases, past.image.iter()));
    shard_row(&mut group, "tenure", &assigned, load);
    shard_row(&mut group, "tenure, chosen IDs", &chosen, load);
    row(&mut group, "heap + map", &assigned, |past| heap_and_map(past.leases, past.entries()));
    row(&mut group, "BTreeSet + map", &assigned, |past| tree_and_map(past.leases, past.entries()));
    group.finish();

    let mut group = criterion.benchmark_group("write image");
    let (shard, mut chunk) = (assigned.shard, Vec::with_capacity(2 * CHUNK_BYTES));
    group.sampling_mode(SamplingMode::Flat).throughput(Throughput::Elements(leases as u64));
    group.bench_function(BenchmarkId::new("tenure", leases), |bencher| {
        bencher.iter(|| {
            let (mut cursor, mut last) = (shard.image_start(), false);
            while !last {
                chunk.clear();
                last = shard.image_step(&mut cursor, CHUNK_BYTES, &mut chunk);
                black_box(&chunk);
            }
        });
    });
    group.finish();
}

fn main() {
    setting::huge_pages_for_all();
    let (began, mut criterion) = (SystemTime::now(), setting::criterion(CpuTime));
    for leases in setting::sizes() {
        rows(&mut criterion, leases);
    }
    criterion.final_summary();
    summary::print(began);
}
