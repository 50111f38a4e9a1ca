//! The three tools on one damaged directory after another.

use super::*;
use crate::log::directory::DataDir;
use crate::log::inspect::{InspectOptions, inspect};
use crate::log::keeper::{KeeperConfig, open_for_writing};
use crate::log::recover::recover;
use crate::log::segment::{SyncMode, segment_path};
use crate::log::verify::{Nothing, verify};
use std::sync::Arc;
use tenure_core::Time;

const MIB: u64 = 1 << 20;

/// A grant record: kind, flags, TTL of 48 bits, id.
fn grant(id: u64) -> Vec<u8> {
    [(2u64 | 5000 << 16).to_le_bytes(), id.to_le_bytes()].concat()
}

/// A data directory with one shard, two grants a batch, through the real opening sequence.
struct Home {
    home: tempfile::TempDir,
}

impl Home {
    fn new() -> Home {
        let home = tempfile::tempdir().unwrap();
        DataDir::open(home.path()).unwrap().create(&[0]).unwrap();
        Home { home }
    }

    fn path(&self) -> &Path {
        self.home.path()
    }

    fn log(&self) -> ShardLog {
        read_manifest(self.path()).unwrap().shard_log(self.path(), 0)
    }

    /// One run: `count` batches. Returns their header places.
    fn run(&self, count: u64, padding: usize) -> Vec<u64> {
        let mut dir = DataDir::open(self.path()).unwrap();
        let log = dir.shard_log(0);
        let recovered = recover(&log, &mut Nothing).unwrap();
        let epoch = dir.begin_epoch(&[recovered.tail.place]).unwrap();
        let config = KeeperConfig { segment_bytes: 2 * MIB, retain_bytes: 0, sync: SyncMode::EachWrite };
        let (mut writer, mut keeper, work) =
            open_for_writing(&log, &recovered, epoch, config, Arc::new(|| ())).unwrap();
        keeper.start(work).unwrap();
        let mut places = Vec::new();
        for index in 0..count {
            places.push(writer.position().0 - 64);
            let mut records = [grant(2 * index + 1), grant(2 * index + 2)].concat();
            for _ in 0..padding {
                records.extend(grant(7));
            }
            writer.seal(&records, 2, Time(100 + index));
            while !writer.is_idle() {
                if let Some(base) = writer.needs_segment() {
                    keeper.want_segment(base);
                }
                while let Some(event) = keeper.poll() {
                    match event {
                        super::super::KeeperEvent::SegmentReady(segment) => writer.offer_segment(segment),
                        other => panic!("unexpected {other:?}"),
                    }
                }
                while let Some(write) = writer.next_write() {
                    write.file.write_all_at(writer.write_bytes(&write), write.offset).unwrap();
                    writer.completed(write.id, Ok(write.length)).unwrap();
                }
            }
        }
        places
    }

    fn flip(&self, base: u64, offset: u64) {
        let file =
            OpenOptions::new().read(true).write(true).open(segment_path(&self.log().dir, base)).unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, offset).unwrap();
        file.write_all_at(&[byte[0] ^ 8], offset).unwrap();
    }

    fn inspected(&self, options: InspectOptions) -> String {
        let mut text = Vec::new();
        inspect(self.path(), options, &mut text).unwrap();
        String::from_utf8(text).unwrap()
    }

    /// Every file with its bytes, to see that nothing changed.
    fn contents(&self) -> Vec<(PathBuf, Vec<u8>)> {
        let mut found = Vec::new();
        for dir in [self.path().to_owned(), self.log().dir] {
            for entry in std::fs::read_dir(dir).unwrap() {
                let path = entry.unwrap().path();
                if path.is_file() {
                    let bytes = std::fs::read(&path).unwrap();
                    found.push((path, bytes));
                }
            }
        }
        found.sort();
        found
    }
}

#[test]
fn a_clean_directory_is_shown_and_clean() {
    let home = Home::new();
    home.run(3, 0);
    let before = home.contents();
    let report = verify(home.path()).unwrap();
    assert!(report.is_clean(), "{report}");
    let text = report.to_string();
    assert!(
        text.contains("shard 0: 3 batches, 288 bytes, to position 12288; 6 grant; 0 snapshots"),
        "{text}"
    );
    assert!(text.ends_with(": clean"), "{text}");
    let text = home.inspected(InspectOptions { records: true, ..InspectOptions::default() });
    for expected in [
        "epoch 1  shards 1",
        "batch 4096  96 bytes  2 records  time 101 ms  epoch 1  durable 4096",
        "      4160 grant 0000000000000003 ttl 5000ms",
        "00000000000000000000.log  2097152 bytes  3 batches  6 records",
        "00000000000002097152.log  prepared",
        "log ends at 12288: nothing written here",
    ] {
        assert!(text.contains(expected), "{expected:?} is not in\n{text}");
    }
    let text =
        home.inspected(InspectOptions { batches: true, from: Some(8192), ..InspectOptions::default() });
    assert!(!text.contains("batch 4096") && text.contains("batch 8192") && !text.contains("grant"), "{text}");
    assert_eq!(home.contents(), before, "looking changes nothing");
}

#[test]
fn damage_is_reported_and_a_named_cut_repairs_it() {
    let home = Home::new();
    let places = home.run(5, 0);
    home.flip(0, places[2] + 70);
    let before = home.contents();
    let report = verify(home.path()).unwrap();
    let text = report.to_string();
    assert!(!report.is_clean());
    assert!(
        text.contains("00000000000000000000.log at byte 8192") && text.contains("will not start"),
        "{text}"
    );
    assert_eq!(
        plan_repair(home.path(), 0, places[2]).unwrap().batches,
        2,
        "two whole ones behind the damaged one"
    );
    assert_eq!(home.contents(), before, "neither verify nor a plan changes anything");

    let report = repair(home.path(), 0, places[2]).unwrap();
    let text = report.to_string();
    assert!(
        text.contains("shard 0 dropped everything from position 8192 on: 2 whole batches with 4 grant"),
        "{text}"
    );
    let kept: Vec<&Path> = report.kept.iter().map(PathBuf::as_path).collect();
    assert!(kept.iter().all(|path| path.exists()) && kept.len() == 2, "{text}");
    assert!(verify(home.path()).unwrap().is_clean());
    assert_eq!(home.run(1, 0), [places[2]], "the log goes on at the cut");
    assert_eq!(verify(home.path()).unwrap().shards[0].batches, 3);
}

#[test]
fn only_a_place_where_a_batch_begins_can_be_cut_at() {
    let home = Home::new();
    let places = home.run(3, 300);
    home.flip(0, places[1] + 3000);
    let before = home.contents();
    for (place, expected) in [
        (places[1] + 1, "not a place where a batch can begin"),
        (places[1] + 4096, "whole up to position 8192"),
        (places[2], "whole up to position 8192"),
        (2 * MIB, "whole up to position 8192"),
    ] {
        let text = repair(home.path(), 0, place).unwrap_err().to_string();
        assert!(text.contains(expected), "{place}: {text}");
    }
    assert!(repair(home.path(), 1, 0).unwrap_err().to_string().contains("there is no shard 1"));
    let unsigned = |contents: Vec<(PathBuf, Vec<u8>)>| -> Vec<_> {
        contents.into_iter().filter(|(path, _)| !path.ends_with("LOCK")).collect()
    };
    assert_eq!(unsigned(home.contents()), unsigned(before));
    assert_eq!(repair(home.path(), 0, places[1]).unwrap().batches, 1);
}

#[test]
fn a_missing_segment_can_be_cut_at() {
    let home = Home::new();
    let places = home.run(25, 16_000); // 256 KiB each: four segments of eight
    let missing = places.iter().copied().find(|&place| place >= 2 * MIB).unwrap();
    assert_eq!(missing, 2 * MIB);
    std::fs::remove_file(segment_path(&home.log().dir, missing)).unwrap();
    let text = recover(&home.log(), &mut Nothing).unwrap_err().to_string();
    assert!(text.contains("--truncate-at 2097152") && text.contains("is missing"), "{text}");
    assert!(!verify(home.path()).unwrap().is_clean());
    let report = repair(home.path(), 0, missing).unwrap();
    assert!(report.batches > 5, "{report}");
    assert!(report.truncate_at < missing, "the segment before had been left early");
    assert!(verify(home.path()).unwrap().is_clean());
    let places = home.run(10, 16_000);
    assert!(verify(home.path()).unwrap().is_clean());
    assert_eq!(places[0], missing);
}

#[test]
fn a_cut_lowers_what_the_manifest_promises_and_drops_snapshots_behind_it() {
    let home = Home::new();
    let places = home.run(6, 0);
    home.run(1, 0); // the manifest now knows of the first six
    let log = home.log();
    assert_eq!(log.floor, places[5] + 4096);
    let snapshot = |start: u64, end: u64| {
        let head = super::super::SnapshotHead { log_id: log.log_id, shard: 0, epoch: 1, start, time_ms: 5 };
        let writer = super::super::SnapshotWriter::create(&log.dir, head).unwrap();
        writer.finish(end).unwrap().publish().unwrap();
    };
    snapshot(64, places[1] + 64);
    snapshot(places[2] + 64, places[5] + 64);
    home.flip(0, places[3] + 8);
    assert!(recover(&log, &mut Nothing).is_err());
    let report = repair(home.path(), 0, places[3]).unwrap();
    assert_eq!(report.snapshots.len(), 1, "{report}");
    let recovered = recover(&home.log(), &mut Nothing).unwrap();
    assert_eq!((recovered.snapshot, recovered.tail.place), (Some(64), places[3]));
}

#[test]
fn tools_keep_out_of_a_running_engines_way() {
    let home = Home::new();
    home.run(2, 0);
    let _engine = DataDir::open(home.path()).unwrap();
    assert!(matches!(verify(home.path()), Err(LogError::Locked { .. })));
    assert!(matches!(repair(home.path(), 0, 4096), Err(LogError::Locked { .. })));
    let text = home.inspected(InspectOptions::default());
    assert!(text.contains(&format!("in use by process {}", std::process::id())), "{text}");
}

#[test]
fn records_that_do_not_decode_are_damage() {
    let home = Home::new();
    let places = home.run(2, 0);
    let path = segment_path(&home.log().dir, 0);
    let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut batch = [0; 96];
    file.read_exact_at(&mut batch, places[1]).unwrap();
    batch[80] = 99; // a record kind that does not exist
    let crc = crc_fast::crc32_iscsi(&batch[4..]);
    batch[..4].copy_from_slice(&crc.to_le_bytes());
    file.write_all_at(&batch, places[1]).unwrap();
    let text = verify(home.path()).unwrap().to_string();
    assert!(text.contains("DAMAGE") && text.contains(&format!("at position {}", places[1] + 80)), "{text}");
    let text = home.inspected(InspectOptions { records: true, ..InspectOptions::default() });
    assert!(text.contains(&format!("{} NOT A RECORD", places[1] + 80)), "{text}");
}
