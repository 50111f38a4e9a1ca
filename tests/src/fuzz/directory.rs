//! A whole data directory, damaged in any way, with checksums that match where the script says so.
//!
//! A script edits the files of a small real directory (two shards, a snapshot each, three epochs) and opens it,
//! with the same or another number of shards. It opens or refuses with a reason; never does it panic, and what opens
//! keeps its invariants.

use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use bytes::Bytes;
use tenure::request::{Reply, Request, ServiceTicket};
use tenure::simulation::{Cores, Sizes, forward};
use tenure::{Clock, Config, LeaseId, ManualClock, ShardIndex};
use tenure_core::Grant;

use super::script::Script;
use crate::power::disk::MediumDisk;
use crate::power::medium::{Medium, Node};

const DATA_DIR: &str = "/data";
const SEGMENT_BYTES: u64 = 32 << 10;
const BLOCK: usize = 4_096;
const SIZES: Sizes =
    Sizes { segment_bytes_unit: SEGMENT_BYTES, batch_bytes_max: 16 << 10, reads_ahead: false };

static SOUND: LazyLock<Medium> = LazyLock::new(sound);

fn config(shard_count: Option<u16>, clock: &ManualClock) -> Config {
    Config {
        data_dir: Some(PathBuf::from(DATA_DIR)),
        shard_count,
        clock: Clock::Simulated(clock.clone()),
        segment_bytes: SEGMENT_BYTES,
        snapshot_log_bytes: 20_000,
        retain_bytes: 0,
        event_buffer_bytes: 1 << 12,
        lease_count_max: 10_000,
        checkpoint_interval: Some(Duration::from_millis(500)),
        ..Config::default()
    }
}

/// The directory that scripts begin with: always the same.
#[must_use]
pub fn sound() -> Medium {
    let disk = MediumDisk::sized(Medium::default(), 5, SIZES);
    for life in 0..3 {
        let clock = ManualClock::new();
        let mut cores = Cores::open(&config(Some(2), &clock), Arc::new(disk.clone())).expect("it opens");
        let mut ids: Vec<Vec<LeaseId>> = vec![Vec::new(); 2];
        for turn in 0..12u64 {
            for core in 0..2u16 {
                let ids = &mut ids[usize::from(core)];
                let mut requests: Vec<Request> = (0..3)
                    .map(|n| if n == 0 { 1 << 30 } else { 50 + 20 * n })
                    .map(|ttl_ms| Request::Grant(Grant { id: None, ttl_ms, key: None }))
                    .collect();
                let item = Bytes::from(vec![b'a' + (turn + life) as u8; 300 + 97 * turn as usize]);
                requests.extend(ids.first().map(|&id| Request::Attach { id, item }));
                requests.extend(ids.get(1).map(|&id| Request::Revoke(id)));
                *ids = take_turn(&disk, &mut cores, core, requests);
            }
            forward(&clock, Duration::from_millis(40));
        }
        cores.crash();
    }
    disk.with(|medium| medium.clone())
}

/// A turn with writes that complete at once. Returns the leases that were granted.
fn take_turn(disk: &MediumDisk, cores: &mut Cores, core: u16, requests: Vec<Request>) -> Vec<LeaseId> {
    let station = cores.station(core);
    station.begin_turn();
    for request in requests {
        station.submit(ShardIndex(core), request, ServiceTicket { session: 0, request: 0 });
    }
    station.end_turn();
    station.mind_log().expect("nothing fails here");
    while let Some(write) = station.next_write() {
        disk.with(|medium| {
            let file = medium.file(write.file.path()).expect("a segment");
            medium.write(file, station.write_bytes(&write), write.offset as usize);
            medium.sync(file);
        });
        station.write_completed(write.id, Ok(write.length)).expect("a whole write");
    }
    station.turn_done();
    while cores.keeper_step(core, Duration::ZERO) {}
    let mut ready = Vec::new();
    cores.station(core).take_ready(&mut ready);
    let granted = |(_, reply)| if let Reply::Granted(granted) = reply { Some(granted.id) } else { None };
    ready.into_iter().filter_map(granted).collect()
}

/// Plays a script.
///
/// # Panics
/// When opening panics, or an opened engine breaks an invariant.
pub fn directory(data: &[u8]) {
    let mut script = Script::new(data);
    let mut medium = SOUND.clone();
    let shard_count = [None, None, Some(1), Some(3)][usize::from(script.below(4))];
    for _ in 0..32 {
        if script.is_over() {
            break;
        }
        edit(&mut medium, &mut script);
    }
    let disk = MediumDisk::sized(medium, 9, SIZES);
    let clock = ManualClock::new();
    let Ok(mut cores) = Cores::open(&config(shard_count, &clock), Arc::new(disk.clone())) else { return };
    for core in 0..cores.shard_count() {
        cores.look(core).shard().check_invariants();
    }
    forward(&clock, Duration::from_millis(700));
    for core in 0..cores.shard_count() {
        let grant = Request::Grant(Grant { id: None, ttl_ms: 5, key: None });
        take_turn(&disk, &mut cores, core, vec![grant]);
        cores.look(core).shard().check_invariants();
    }
    cores.crash();
}

fn files(medium: &Medium, dir: &Path, into: &mut Vec<PathBuf>) {
    for (name, node) in medium.list(dir).unwrap_or_default() {
        let path = dir.join(name);
        match node {
            Node::File(_) => into.push(path),
            Node::Directory(_) => files(medium, &path, into),
        }
    }
}

fn edit(medium: &mut Medium, script: &mut Script<'_>) {
    let mut all = Vec::new();
    files(medium, Path::new(DATA_DIR), &mut all);
    if all.is_empty() {
        return;
    }
    let path = &all[usize::from(script.byte()) % all.len()];
    let how = script.byte();
    let mut bytes = medium.read_whole(path).expect("it was listed");
    let offset = usize::from(script.short()) % bytes.len().max(1);
    match how % 8 {
        0 => {
            let count = usize::from(script.below(32));
            let piece = script.bytes(count);
            let end = (offset + piece.len()).min(bytes.len());
            bytes[offset..end].copy_from_slice(&piece[..end - offset]);
        }
        1 => bytes.iter_mut().skip(offset).take(1).for_each(|byte| *byte ^= 1 << (how / 8 % 8)),
        2 => bytes.truncate(offset),
        3 => {
            let count = usize::from(script.short());
            bytes.iter_mut().skip(offset).take(count).for_each(|byte| *byte = 0);
        }
        4 => {
            let from = &all[usize::from(script.byte()) % all.len()];
            let other = medium.read_whole(from).expect("it was listed");
            let at = usize::from(script.byte()) * BLOCK;
            let block = other.get(at..other.len().min(at + BLOCK)).unwrap_or_default();
            let to = offset / BLOCK * BLOCK;
            let end = (to + block.len()).min(bytes.len());
            bytes[to..end].copy_from_slice(&block[..end - to]);
        }
        5 => return medium.remove(path).expect("it was listed"),
        6 => {
            let from = &all[usize::from(script.byte()) % all.len()];
            bytes = medium.read_whole(from).expect("it was listed");
        }
        _ => {
            let count = usize::from(script.below(32));
            bytes.splice(offset..offset, script.bytes(count).iter().copied());
        }
    }
    if how >= 64 {
        sign(path, &mut bytes);
    }
    let file = medium.create(path).expect("its directory is there");
    medium.write(file, &bytes, 0);
}

fn put_u32(bytes: &mut [u8], at: usize, number: u32) {
    bytes[at..at + 4].copy_from_slice(&number.to_le_bytes());
}

fn u32_at(bytes: &[u8], at: usize) -> usize {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes")) as usize
}

/// Gives a file the checksums that its contents ask for (docs/log-format.md).
fn sign(path: &Path, bytes: &mut Vec<u8>) {
    let crc = crc_fast::crc32_iscsi;
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    if name == "MANIFEST" {
        let end = bytes.windows(9).rposition(|window| window == b"# crc32c ").unwrap_or(bytes.len());
        bytes.truncate(end);
        let line = format!("# crc32c {:08x}\n", crc(bytes));
        bytes.extend_from_slice(line.as_bytes());
    } else if name.ends_with(".log") {
        for at in (0..bytes.len().saturating_sub(BLOCK - 1)).step_by(BLOCK) {
            let length = u32_at(bytes, at + 4);
            if (64..=bytes.len() - at).contains(&length) {
                let sum = crc(&bytes[at + 4..at + length]);
                put_u32(bytes, at, sum);
            }
        }
    } else if bytes.len() >= 64 {
        let sum = crc(&bytes[..60]);
        put_u32(bytes, 60, sum);
        let mut at = 64;
        while at + 32 <= bytes.len() && u32_at(bytes, at) != u32::MAX as usize {
            let length = u32_at(bytes, at);
            if length > bytes.len() - at - 16 {
                return;
            }
            let sum = crc(&bytes[at + 8..at + 16 + length]);
            put_u32(bytes, at + 4, sum);
            at += 16 + length;
        }
        if at + 32 <= bytes.len() {
            let sum = crc(&bytes[at + 8..at + 32]);
            put_u32(bytes, at + 4, sum);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scripts_begin_with_a_directory_that_has_everything_and_opens() {
        let mut all = Vec::new();
        files(&SOUND, Path::new(DATA_DIR), &mut all);
        let named = |end: &str| all.iter().filter(|path| path.to_string_lossy().ends_with(end)).count();
        assert!(named(".img") >= 2 && named(".log") >= 4 && named("MANIFEST") == 1, "{all:?}");
        for path in &all {
            let bytes = SOUND.read_whole(path).unwrap();
            let mut signed = bytes.clone();
            sign(path, &mut signed);
            // What was left of recycled segments may not have been sound.
            assert!(
                signed == bytes || path.extension().is_some_and(|end| end == "log" || end == "spare"),
                "{path:?}"
            );
        }
        for (shard_count, lives) in [(None, true), (Some(3), true)] {
            let disk = MediumDisk::sized(SOUND.clone(), 1, SIZES);
            let cores = Cores::open(&config(shard_count, &ManualClock::new()), Arc::new(disk)).unwrap();
            assert_eq!(cores.look(0).shard().lease_count() > 0, lives);
            cores.crash();
        }
    }
}
