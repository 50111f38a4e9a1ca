//! Holds the code to the published bytes: `tests/vectors/log-*.txt`, made by another program.

use std::collections::HashMap;

use super::batch::{BatchFlaw, BatchHeader, BatchOwner, PREVIOUS_NONE};
use super::disk::DiskPort;
use super::rig::{Rig, SEGMENT};
use super::snapshot::{SnapshotHead, SnapshotReader, SnapshotWriter, snapshot_path};

const LOG_ID: u64 = 0x0011_2233_4455_66ff;

/// The entries of a vector file: name, then key and value per line.
fn entries(file: &str) -> Vec<(String, HashMap<String, String>)> {
    let path = format!("{}/../../tests/vectors/{file}", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    let mut found: Vec<(String, HashMap<String, String>)> = Vec::new();
    for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        match line.strip_prefix("  ") {
            None => found.push((line.to_owned(), HashMap::new())),
            Some(pair) => {
                let (key, value) = pair.split_once(' ').expect("key and value");
                let entry = found.last_mut().expect("a name comes first");
                entry.1.insert(key.to_owned(), value.trim().to_owned());
            }
        }
    }
    assert!(!found.is_empty(), "{file} has entries");
    found
}

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> = hex.bytes().filter(|byte| *byte != b' ').collect();
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    digits.chunks(2).map(byte).collect()
}

struct Fields(HashMap<String, String>);

impl Fields {
    fn of(entry: &HashMap<String, String>) -> Fields {
        let pair = |pair: &str| pair.split_once('=').map(|(key, value)| (key.to_owned(), value.to_owned()));
        Fields(entry["fields"].split(' ').filter_map(pair).collect())
    }

    fn number(&self, key: &str) -> u64 {
        match (key, self.0[key].as_str()) {
            (_, "none") => PREVIOUS_NONE,
            ("log_id", hex) => u64::from_str_radix(hex, 16).unwrap(),
            (_, decimal) => decimal.parse().unwrap(),
        }
    }
}

#[test]
fn batches_are_written_and_read_as_published() {
    for (name, entry) in entries("log-batches.txt") {
        let (expected, fields) = (bytes(&entry["hex"]), Fields::of(&entry));
        let header = BatchHeader {
            length: expected.len() as u32,
            position: fields.number("position"),
            previous: fields.number("previous"),
            durable: fields.number("durable"),
            time_ms: fields.number("time_ms"),
            log_id: fields.number("log_id"),
            epoch: fields.number("epoch") as u32,
            record_count: fields.number("record_count") as u32,
            shard: fields.number("shard") as u16,
        };
        let mut written = vec![0xEE; 64];
        written.extend_from_slice(&expected[64..]);
        header.encode(&mut written);
        assert_eq!(written, expected, "{name}");
        assert_eq!(BatchHeader::glance(&expected, header.position, 1 << 20), Ok(expected.len()), "{name}");
        let owner = BatchOwner { log_id: header.log_id, shard: header.shard };
        assert_eq!(BatchHeader::check(&expected, owner), Ok(header), "{name}");
        let records =
            tenure_core::RecordIter::new(tenure_core::Position(header.first_record()), &expected[64..]);
        let records: Vec<_> = records.collect::<Result<_, _>>().expect("records as the core writes them");
        assert_eq!(records.len() as u32, header.record_count, "{name}");
    }
}

/// What one batch says about itself, and what recovery makes of it at that place.
#[test]
fn a_log_is_not_continued_at_what_must_be_refused() {
    for (name, entry) in entries("log-refused.txt") {
        let found = bytes(&entry["hex"]);
        let owner = BatchOwner { log_id: LOG_ID, shard: 0 };
        let flaw =
            BatchHeader::glance(&found, 4096, SEGMENT - 4096).and_then(|_| BatchHeader::check(&found, owner));
        let kind = match flaw {
            Ok(header) if header.epoch < 1 => "epoch",
            Ok(header) if header.previous != 0 => "previous",
            Ok(_) => "none",
            Err(BatchFlaw::Blank) => "blank",
            Err(BatchFlaw::Length(_)) => "length",
            Err(BatchFlaw::OtherPlace(_)) => "place",
            Err(BatchFlaw::Checksum) => "checksum",
            Err(BatchFlaw::Version(_)) => "version",
            Err(BatchFlaw::Reserved) => "reserved",
            Err(BatchFlaw::OtherLog(_)) => "log",
            Err(BatchFlaw::OtherShard(_)) => "shard",
            Err(other) => panic!("{name}: {other}"),
        };
        assert_eq!(kind, entry["refusal"], "{name}");

        let mut rig = Rig::new();
        rig.log.log_id = LOG_ID;
        rig.log.shard = 0;
        rig.open().commit(b"the batch before");
        rig.log.floor = 0;
        rig.poke(4096, |bytes| bytes.copy_from_slice(&found), found.len());
        match rig.recover() {
            Ok((seen, recovered)) => {
                assert_eq!((seen.batches.len(), recovered.tail.place), (1, 4096), "{name}");
                assert!(
                    !["version", "reserved", "log", "shard"].contains(&kind),
                    "{name} must stop the reader"
                );
            }
            Err(error) => {
                assert!(["version", "reserved", "log", "shard"].contains(&kind), "{name}: {error}");
            }
        }
    }
}

#[test]
fn snapshots_are_written_and_read_as_published() {
    for (name, entry) in entries("log-snapshots.txt") {
        let (expected, fields) = (bytes(&entry["hex"]), Fields::of(&entry));
        let chunks: Vec<Vec<u8>> = match entry["chunks"].as_str() {
            "-" => Vec::new(),
            chunks => chunks.split(' ').map(bytes).collect(),
        };
        let head = SnapshotHead {
            log_id: fields.number("log_id"),
            shard: fields.number("shard") as u16,
            epoch: fields.number("epoch") as u32,
            start: fields.number("start"),
            time_ms: fields.number("time_ms"),
        };
        let dir = tempfile::tempdir().unwrap();
        let mut writer = SnapshotWriter::create(dir.path(), head).unwrap();
        for chunk in &chunks {
            writer.chunk(chunk).unwrap();
        }
        writer.finish(fields.number("end")).unwrap().publish().unwrap();
        let path = snapshot_path(dir.path(), head.start);
        let written = std::fs::read(&path).unwrap();
        assert_eq!(&written[..expected.len()], expected, "{name}");
        assert!(
            written[expected.len()..].iter().all(|&byte| byte == 0) && written.len().is_multiple_of(4096)
        );
        // Padding is not part of what must be there.
        std::fs::write(&path, &expected).unwrap();
        let owner = BatchOwner { log_id: head.log_id, shard: head.shard };
        let mut reader = SnapshotReader::open(&DiskPort::System, &path, owner, head.start).unwrap();
        let mut read = Vec::new();
        while let Some(chunk) = reader.next_chunk().unwrap() {
            read.push(chunk.to_vec());
        }
        assert_eq!((read, reader.head), (chunks, head), "{name}");
        assert_eq!(reader.foot().unwrap().end, fields.number("end"), "{name}");
    }
}
