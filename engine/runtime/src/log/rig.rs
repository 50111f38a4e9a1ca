//! A log in a temporary directory for tests: small batches, small segments, writes that a test
//! carries out, tears or forgets.

use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

use tenure_core::{Position, Time};

use super::depot::{Depot, SegmentSource};
use super::directory::ShardLog;
use super::disk::DiskPort;
use super::error::LogError;
use super::recover::{Recovered, Replay, recover};
use super::segment::{SyncMode, segment_path};
use super::snapshot::{SnapshotHead, SnapshotWriter};
use super::writer::{LogWrite, LogWriter, WriterConfig};

pub(super) const SEGMENT: u64 = 1 << 20;
pub(super) const BATCH_MAX: usize = 64 * 1024;

/// A directory in memory where there is such a place: for tests about bytes, thousands of times.
pub(super) fn memory_dir() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

/// What a replay was shown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) image: Vec<u8>,
    pub(super) batches: Vec<(u64, u64, Vec<u8>)>,
    pub(super) restarts: u32,
}

impl Replay for Seen {
    fn restart(&mut self) {
        *self = Seen { restarts: self.restarts + 1, ..Seen::default() };
    }

    fn image(&mut self, chunk: &[u8]) -> Result<(), String> {
        assert!(self.batches.is_empty(), "the image comes first");
        self.image.extend_from_slice(chunk);
        Ok(())
    }

    fn batch(&mut self, first: Position, time: Time, records: &[u8]) -> Result<(), String> {
        self.batches.push((first.0, time.0, records.to_vec()));
        Ok(())
    }
}

/// A shard directory and what a manifest would say about it.
pub(super) struct Rig {
    pub(super) dir: tempfile::TempDir,
    pub(super) log: ShardLog,
    pub(super) epoch: u32,
}

/// A log open for writing.
pub(super) struct Session {
    pub(super) writer: LogWriter,
    pub(super) seen: Seen,
    pub(super) recovered: Recovered,
    depot: Depot,
    time: u64,
}

impl Rig {
    pub(super) fn new() -> Rig {
        let dir = memory_dir();
        let log = ShardLog {
            disk: DiskPort::System,
            dir: dir.path().to_owned(),
            log_id: 0xabcd,
            shard: 3,
            start: 0,
            floor: 0,
            epoch: 0,
        };
        Rig { dir, log, epoch: 0 }
    }

    pub(super) fn recover(&self) -> Result<(Seen, Recovered), LogError> {
        let mut seen = Seen::default();
        let recovered = recover(&self.log, &mut seen)?;
        Ok((seen, recovered))
    }

    /// The text of a refusal to start.
    pub(super) fn refusal(&self) -> String {
        self.recover().expect_err("a refusal").to_string()
    }

    /// Recovers and goes on writing, as a start of the engine does.
    pub(super) fn open(&mut self) -> Session {
        let (seen, recovered) = self.recover().expect("a sound log");
        self.epoch += 1;
        self.log.floor = recovered.tail.place;
        self.log.epoch = self.epoch;
        let depot = Depot::open(&self.log.dir, SEGMENT, SyncMode::EachWrite).unwrap();
        let place = recovered.tail.place;
        let current =
            recovered.segments.iter().rfind(|segment| segment.base <= place && place <= segment.end());
        let current = current.map(|entry| Arc::new(depot.open_segment(entry).unwrap()));
        let config = WriterConfig {
            log_id: self.log.log_id,
            shard: self.log.shard,
            epoch: self.epoch,
            segment_bytes: SEGMENT,
            batch_bytes_max: BATCH_MAX,
            in_flight_max: 4,
            sync: SyncMode::EachWrite,
        };
        let mut writer = LogWriter::new(config, recovered.tail, current);
        for entry in recovered.segments.iter().filter(|entry| entry.base > place) {
            writer.offer_segment(Arc::new(depot.open_segment(entry).unwrap()));
        }
        let time = recovered.time.0;
        Session { writer, seen, recovered, depot, time }
    }

    pub(super) fn segment(&self, base: u64) -> PathBuf {
        segment_path(&self.log.dir, base)
    }

    /// Changes bytes of the log at a position.
    pub(super) fn poke(&self, position: u64, change: impl FnOnce(&mut [u8]), length: usize) {
        let base = position / SEGMENT * SEGMENT;
        let file = std::fs::OpenOptions::new().read(true).write(true).open(self.segment(base)).unwrap();
        let mut bytes = vec![0; length];
        file.read_exact_at(&mut bytes, position - base).unwrap();
        change(&mut bytes);
        file.write_all_at(&bytes, position - base).unwrap();
        file.sync_data().unwrap();
    }

    pub(super) fn flip(&self, position: u64, bit: usize) {
        self.poke(position, |bytes| bytes[0] ^= 1 << bit, 1);
    }

    /// Writes a snapshot without a keeper.
    pub(super) fn snapshot(&self, start: u64, end: u64, image: &[u8]) {
        let head = SnapshotHead {
            log_id: self.log.log_id,
            shard: self.log.shard,
            epoch: self.epoch,
            start,
            time_ms: 700,
        };
        let mut writer = SnapshotWriter::create(&self.log.dir, head).unwrap();
        for chunk in image.chunks(1000) {
            writer.chunk(chunk).unwrap();
        }
        writer.finish(end).unwrap().publish().unwrap();
    }
}

impl Session {
    /// Seals a batch and makes sure there is a segment for it. Returns its first record's position.
    pub(super) fn seal(&mut self, records: &[u8]) -> u64 {
        let first = self.writer.position().0;
        self.time += 10;
        self.writer.seal(records, 1, Time(self.time));
        self.provide();
        first
    }

    fn provide(&mut self) {
        while let Some(base) = self.writer.needs_segment() {
            self.writer.offer_segment(Arc::new(self.depot.prepare(base).unwrap()));
        }
    }

    pub(super) fn writes(&mut self) -> Vec<LogWrite> {
        std::iter::from_fn(|| self.writer.next_write()).collect()
    }

    /// Puts the first `length` bytes of a write on disk.
    pub(super) fn put(&self, write: &LogWrite, length: usize) {
        let file = std::fs::OpenOptions::new().write(true).open(write.file.path()).unwrap();
        file.write_all_at(&self.writer.write_bytes(write)[..length], write.offset).unwrap();
    }

    pub(super) fn complete(&mut self, write: &LogWrite) {
        self.writer.completed(write.id, Ok(write.length)).unwrap();
    }

    /// Seals, writes and completes one batch. Returns its first record's position.
    pub(super) fn commit(&mut self, records: &[u8]) -> u64 {
        let first = self.seal(records);
        for write in self.writes() {
            self.put(&write, write.length);
            self.complete(&write);
        }
        assert!(self.writer.is_idle());
        first
    }

    pub(super) fn recycle(&mut self, below: u64) -> u64 {
        self.depot.reclaim(below).unwrap()
    }
}

/// Deterministic noise (SplitMix64, Steele et al. 2014), so that tests need no seed from outside.
#[derive(Default)]
pub(super) struct Noise(pub(super) u64);

impl Noise {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    pub(super) fn bytes(&mut self, length: usize) -> Vec<u8> {
        (0..length).map(|_| self.next() as u8).collect()
    }
}
