//! The log without the disk: records into a buffer, a batch sealed behind its header and CRC-32C, and
//! records read back.
//!
//! - seal: copy, pad, header, checksum, and the writer's own bookkeeping, for batches of one record, which
//!   is what a log without group commit pays, up to what a group commit becomes. The segment is a sparse file that nothing is
//!   written to.
//! - records: a shard's grants and mass expiry into the buffer, and the decoder over them.

#[path = "../support/cpu_time.rs"]
mod cpu_time;
#[path = "../support/setting.rs"]
mod setting;
#[path = "../support/summary.rs"]
mod summary;

use std::hint::black_box;
use std::sync::Arc;
use std::time::SystemTime;

use cpu_time::CpuTime;
use criterion::{BatchSize, BenchmarkId, Criterion, Throughput};
use tenure::log::limits::BATCH_BYTES_MAX;
use tenure::log::{LogWriter, SegmentFile, SyncMode, Tail, WriterConfig};
use tenure_core::{Grant, Position, RecordBuffer, RecordIter, Shard, ShardConfig, ShardIndex, Time};

/// Bytes of the sparse segment: never used up.
const SEGMENT_BYTES: u64 = 1 << 40;
const GRANT_BYTES: usize = 16;
const GRANTS: usize = 4_000;

/// A shard that has granted `GRANTS` leases of 10 s, and their records.
fn granted() -> (Shard, RecordBuffer) {
    let mut shard = Shard::new(ShardConfig::new(ShardIndex(0), 1));
    let mut log = RecordBuffer::new(Position(64), Time(0));
    grant_all(&mut shard, &mut log);
    (shard, log)
}

fn grant_all(shard: &mut Shard, log: &mut RecordBuffer) {
    let grant = Grant { id: None, ttl_ms: 10_000, key: None };
    for _ in 0..GRANTS {
        shard.grant(Time(0), &grant, log).result.expect("there is room");
    }
}

fn seal(criterion: &mut Criterion<CpuTime>) {
    let mut group = criterion.benchmark_group("seal");
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("00000000000000000000.log");
    std::fs::File::create(&path).and_then(|file| file.set_len(SEGMENT_BYTES)).expect("a sparse file");
    let segment = Arc::new(SegmentFile::open(&path, 0, SyncMode::Later).expect("a segment"));
    let (_, log) = granted();
    let (all, mut copy) = (log.bytes(), Vec::with_capacity(GRANTS * GRANT_BYTES));
    group.throughput(Throughput::Elements(GRANTS as u64));
    group.bench_function(BenchmarkId::new("floor: copied", GRANTS), |bencher| {
        bencher.iter(|| {
            copy.clear();
            copy.extend_from_slice(black_box(all));
            black_box(&copy);
        });
    });
    for bytes in [GRANT_BYTES, 1_024, 16 << 10, GRANTS * GRANT_BYTES] {
        let config = WriterConfig {
            log_id: 1,
            shard: 0,
            epoch: 1,
            segment_bytes: SEGMENT_BYTES,
            batch_bytes_max: BATCH_BYTES_MAX,
            in_flight_max: 1,
            sync: SyncMode::EachWrite,
        };
        let mut writer = LogWriter::new(config, Tail::empty(0), Some(Arc::clone(&segment)));
        let records = &log.bytes()[..bytes];
        group.throughput(Throughput::Elements((bytes / GRANT_BYTES) as u64));
        group.bench_function(BenchmarkId::new("tenure", bytes / GRANT_BYTES), |bencher| {
            bencher.iter(|| {
                writer.seal(black_box(records), (bytes / GRANT_BYTES) as u32, Time(0));
                let write = writer.next_write().expect("nothing is in flight");
                black_box(writer.write_bytes(&write));
                writer.completed(write.id, Ok(write.length)).expect("a whole write")
            });
        });
    }
    group.finish();
}

fn records(criterion: &mut Criterion<CpuTime>) {
    let mut group = criterion.benchmark_group("records");
    group.throughput(Throughput::Elements(GRANTS as u64));
    let fresh = || {
        let mut log = RecordBuffer::new(Position(64), Time(0));
        let mut shard = Shard::new(ShardConfig::new(ShardIndex(0), 1));
        // The tables have their first pages.
        grant_all(&mut shard, &mut log);
        let tail = log.tail();
        shard.durable(tail);
        log.begin(tail, Time(0));
        (shard, log)
    };
    group.bench_function("grant", |bencher| {
        bencher.iter_batched_ref(fresh, |(shard, log)| grant_all(shard, log), BatchSize::LargeInput);
    });
    group.bench_function("expire", |bencher| {
        let expire = |(shard, log): &mut (Shard, RecordBuffer)| {
            assert_eq!(shard.expire(Time(10_001), usize::MAX, log).ended, GRANTS);
        };
        bencher.iter_batched_ref(fresh, expire, BatchSize::LargeInput);
    });
    let (_, log) = granted();
    group.bench_function("decode", |bencher| {
        bencher.iter(|| {
            let mut count = 0;
            for record in RecordIter::new(Position(64), black_box(log.bytes())) {
                black_box(record.expect("records are valid"));
                count += 1;
            }
            assert_eq!(count, GRANTS);
        });
    });
    group.finish();
}

fn main() {
    let (began, mut criterion) = (SystemTime::now(), setting::criterion(CpuTime));
    seal(&mut criterion);
    records(&mut criterion);
    criterion.final_summary();
    summary::print(began);
}
