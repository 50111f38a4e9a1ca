//! The log without the disk: batches sealed, records and images read back. An operation is a record or a lease.

use std::hint::black_box;
use std::sync::Arc;

use gungraun::{library_benchmark, library_benchmark_group};
use tempfile::TempDir;
use tenure::log::limits::BATCH_BYTES_MAX;
use tenure::log::{LogWriter, SegmentFile, SyncMode, Tail, WriterConfig};
use tenure_core::{Position, RecordIter, Shard, Time};

use crate::shard::{Ids, Subject, empty_shard, filled};
use crate::{BATCH, OPERATIONS};

/// Bytes of the sparse segment: never used up, never written.
const SEGMENT_BYTES: u64 = 1 << 40;
const GRANT_BYTES: usize = 16;
/// Where the first record of `filled` stands.
const LOG_START: Position = Position(64);
/// What a turn of the runtime adds to a snapshot.
const IMAGE_CHUNK_BYTES: usize = 64 << 10;

/// The records of `OPERATIONS` grants.
fn grants() -> Vec<u8> {
    filled(Ids::Assigned).log.bytes().to_vec()
}

struct Writer {
    _directory: TempDir,
    writer: LogWriter,
    records: Vec<u8>,
}

fn writer() -> Writer {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("00000000000000000000.log");
    std::fs::File::create(&path).and_then(|file| file.set_len(SEGMENT_BYTES)).expect("a sparse file");
    let segment = Arc::new(SegmentFile::open(&path, 0, SyncMode::Later).expect("a segment"));
    let config = WriterConfig {
        log_id: 1,
        shard: 0,
        epoch: 1,
        segment_bytes: SEGMENT_BYTES,
        batch_bytes_max: BATCH_BYTES_MAX,
        in_flight_max: 1,
        sync: SyncMode::EachWrite,
    };
    let writer = LogWriter::new(config, Tail::empty(0), Some(segment));
    Writer { _directory: directory, writer, records: grants() }
}

// Batches of 256 records behind header and checksum, as a completed write leaves them.
#[library_benchmark]
#[bench::of_256(writer())]
fn seal(mut subject: Writer) -> Writer {
    for records in subject.records.chunks(BATCH * GRANT_BYTES) {
        subject.writer.seal(black_box(records), BATCH as u32, Time(0));
        let write = subject.writer.next_write().expect("nothing is in flight");
        black_box(subject.writer.write_bytes(&write));
        subject.writer.completed(write.id, Ok(write.length)).expect("a whole write");
    }
    subject
}

#[library_benchmark]
#[bench::grants(grants())]
fn decode(records: Vec<u8>) -> Vec<u8> {
    for record in RecordIter::new(LOG_START, black_box(&records)) {
        assert!(black_box(record).is_ok());
    }
    records
}

// A restart from the log alone.
#[library_benchmark]
#[bench::assigned(empty_shard(), grants())]
fn replay(mut shard: Shard, records: Vec<u8>) -> (Shard, Vec<u8>) {
    shard.replay(LOG_START, Time(0), black_box(&records)).expect("records of a shard");
    shard.recovered(Time(0));
    assert_eq!(shard.lease_count(), OPERATIONS as u64);
    (shard, records)
}

fn image() -> Vec<u8> {
    let subject = filled(Ids::Assigned);
    let mut cursor = subject.shard.image_start();
    let mut image = Vec::new();
    while !subject.shard.image_step(&mut cursor, IMAGE_CHUNK_BYTES, &mut image) {}
    image
}

#[library_benchmark]
#[bench::assigned(filled(Ids::Assigned), Vec::with_capacity(1 << 20))]
fn write_image(subject: Subject, mut image: Vec<u8>) -> (Subject, Vec<u8>) {
    let mut cursor = subject.shard.image_start();
    while !subject.shard.image_step(&mut cursor, IMAGE_CHUNK_BYTES, &mut image) {}
    (subject, image)
}

// A restart from a snapshot.
#[library_benchmark]
#[bench::assigned(empty_shard(), image())]
fn load_image(mut shard: Shard, image: Vec<u8>) -> (Shard, Vec<u8>) {
    shard.load_image(black_box(&image)).expect("the image of a shard");
    shard.recovered(Time(0));
    assert_eq!(shard.lease_count(), OPERATIONS as u64);
    (shard, image)
}

library_benchmark_group!(name = records; benchmarks = seal, decode, replay, write_image, load_image);
