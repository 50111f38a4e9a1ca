//! The keeper thread with a source of segments that the test controls.

use super::*;
use crate::log::disk::DiskPort;
use crate::log::segment::segment_path;
use crate::log::snapshot::list_snapshots;
use std::sync::Mutex;

const MIB: u64 = 1 << 20;
const CONFIG: KeeperConfig = KeeperConfig { segment_bytes: MIB, retain_bytes: 0, sync: SyncMode::EachWrite };

fn log(dir: &tempfile::TempDir) -> ShardLog {
    ShardLog {
        disk: DiskPort::System,
        dir: dir.path().to_owned(),
        log_id: 5,
        shard: 0,
        start: 0,
        floor: 0,
        epoch: 0,
    }
}

fn started(
    log: &ShardLog,
    epoch: u32,
    config: KeeperConfig,
    segments: Box<dyn SegmentSource>,
    notify: Arc<dyn Fn() + Send + Sync>,
) -> ShardKeeper {
    let (mut keeper, worker) = ShardKeeper::new(log, epoch, config, segments, notify);
    keeper.start(worker).unwrap();
    keeper
}

/// Waits for the next event; the test hangs rather than guessing how long the thread may take.
fn next(keeper: &mut ShardKeeper) -> KeeperEvent {
    loop {
        match keeper.poll() {
            Some(event) => return event,
            None => std::thread::yield_now(),
        }
    }
}

/// A disk that is full until told otherwise.
struct FullDisk {
    depot: Depot,
    full: Arc<Mutex<bool>>,
}

impl SegmentSource for FullDisk {
    fn prepare(&mut self, base: u64) -> io::Result<SegmentFile> {
        if *self.full.lock().unwrap() {
            Err(io::ErrorKind::StorageFull.into())
        } else {
            self.depot.prepare(base)
        }
    }

    fn reclaim(&mut self, below: u64) -> io::Result<u64> {
        self.depot.reclaim(below)
    }
}

#[test]
fn a_full_disk_refuses_and_recovers_by_itself() {
    let dir = tempfile::tempdir().unwrap();
    let full = Arc::new(Mutex::new(true));
    let depot = Depot::open(dir.path(), MIB, SyncMode::EachWrite).unwrap();
    let source = Box::new(FullDisk { depot, full: Arc::clone(&full) });
    let notified = Arc::new(AtomicUsize::new(0));
    let notify = {
        let notified = Arc::clone(&notified);
        Arc::new(move || {
            notified.fetch_add(1, Ordering::AcqRel);
        })
    };
    let mut keeper = started(&log(&dir), 1, CONFIG, source, notify);
    keeper.want_segment(0);
    keeper.want_segment(0);
    let KeeperEvent::SegmentRefused { error, .. } = next(&mut keeper) else { panic!("expected a refusal") };
    assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    *full.lock().unwrap() = false;
    let KeeperEvent::SegmentReady(segment) = next(&mut keeper) else { panic!("expected a segment") };
    assert_eq!(segment.base(), 0);
    assert!(keeper.poll().is_none(), "asking twice makes one segment");
    drop(keeper);
    assert!(notified.load(Ordering::Acquire) >= 2);
}

#[test]
fn snapshots_get_their_name_last_and_recycle_what_is_behind() {
    let dir = tempfile::tempdir().unwrap();
    let mut depot = Depot::open(dir.path(), MIB, SyncMode::EachWrite).unwrap();
    for index in 0..4 {
        depot.prepare(index * MIB).unwrap();
    }
    let mut keeper = started(&log(&dir), 1, CONFIG, Box::new(depot), Arc::new(|| ()));
    keeper.begin_snapshot(Position(2 * MIB + 4096 + 64), Time(9));
    let mut chunk = vec![7; 1000];
    while let Err(back) = keeper.snapshot_chunk(chunk) {
        chunk = back;
        std::thread::yield_now();
    }
    keeper.finish_snapshot(Position(2 * MIB + 8192 + 64));
    let KeeperEvent::SnapshotWritten { end } = next(&mut keeper) else { panic!("expected the file") };
    assert_eq!(end, Position(2 * MIB + 8192 + 64));
    assert!(list_snapshots(&DiskPort::System, dir.path()).unwrap().is_empty());
    assert!(segment_path(dir.path(), 0).exists());
    keeper.publish_snapshot();
    let KeeperEvent::SnapshotPublished { start, oldest } = next(&mut keeper) else {
        panic!("expected the name")
    };
    assert_eq!((start, oldest), (Position(2 * MIB + 4096 + 64), Position(2 * MIB + 64)));
    assert_eq!(list_snapshots(&DiskPort::System, dir.path()).unwrap().len(), 1);
    assert!(!segment_path(dir.path(), MIB).exists() && segment_path(dir.path(), 2 * MIB).exists());
}

#[test]
fn retention_keeps_log_behind_the_snapshot() {
    let dir = tempfile::tempdir().unwrap();
    let mut depot = Depot::open(dir.path(), MIB, SyncMode::EachWrite).unwrap();
    for index in 0..4 {
        depot.prepare(index * MIB).unwrap();
    }
    let config = KeeperConfig { retain_bytes: MIB + 1, ..CONFIG };
    let mut keeper = started(&log(&dir), 1, config, Box::new(depot), Arc::new(|| ()));
    keeper.begin_snapshot(Position(3 * MIB + 64), Time(9));
    keeper.finish_snapshot(Position(3 * MIB + 64));
    let KeeperEvent::SnapshotWritten { .. } = next(&mut keeper) else { panic!("expected the file") };
    keeper.publish_snapshot();
    let KeeperEvent::SnapshotPublished { oldest, .. } = next(&mut keeper) else {
        panic!("expected the name")
    };
    assert_eq!(oldest, Position(MIB + 64), "one byte more than a segment keeps two");
}

#[test]
fn a_failed_snapshot_is_given_up_and_its_chunks_leave() {
    let dir = tempfile::tempdir().unwrap();
    let depot = Depot::open(dir.path(), MIB, SyncMode::EachWrite).unwrap();
    let elsewhere = ShardLog { dir: dir.path().join("missing"), ..log(&dir) };
    let mut keeper = started(&elsewhere, 1, CONFIG, Box::new(depot), Arc::new(|| ()));
    keeper.begin_snapshot(Position(64), Time(0));
    let KeeperEvent::SnapshotFailed(error) = next(&mut keeper) else { panic!("expected a failure") };
    assert_eq!(error.kind(), io::ErrorKind::NotFound);
    for _ in 0..3 * SNAPSHOT_CHUNKS_WAITING_MAX {
        let mut chunk = vec![7; 10];
        while let Err(back) = keeper.snapshot_chunk(chunk) {
            chunk = back;
            std::thread::yield_now();
        }
    }
    keeper.finish_snapshot(Position(64));
    keeper.publish_snapshot();
    keeper.want_segment(0);
    let KeeperEvent::SegmentReady(_) = next(&mut keeper) else { panic!("the thread lives on") };
}

#[test]
fn an_unfinished_snapshot_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let depot = Depot::open(dir.path(), MIB, SyncMode::EachWrite).unwrap();
    let mut keeper = started(&log(&dir), 1, CONFIG, Box::new(depot), Arc::new(|| ()));
    keeper.begin_snapshot(Position(64), Time(0));
    keeper.snapshot_chunk(vec![1; 100]).unwrap();
    drop(keeper);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn syncs_report_how_far_they_reach() {
    let dir = tempfile::tempdir().unwrap();
    let mut depot = Depot::open(dir.path(), MIB, SyncMode::Later).unwrap();
    let file = Arc::new(depot.prepare(0).unwrap());
    let mut keeper = started(&log(&dir), 1, CONFIG, Box::new(depot), Arc::new(|| ()));
    keeper.request_sync(SyncRequest { files: vec![file], through: 8192 });
    let KeeperEvent::Synced(through) = next(&mut keeper) else { panic!("expected a sync") };
    assert_eq!(through, 8192);
}
