//! Data directories on a bad day: torn, flipped, missing, foreign, read-only, full, taken.
//!
//! What was acknowledged comes back or the server refuses to start, naming file and place; `tenure verify`
//! agrees with the refusal, and `tenure repair` does what the refusal proposes. All of it through the
//! command line, as an operator meets it.

use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tenure_protocol::{Event, Grant, GrantEntry, LeaseId, Position, Refusal, Request, Response, encode, tag};
use tenure_tests::patience::eventually;
use tenure_tests::sandbox::{Sandbox, SmallDisk};
use tenure_tests::server::{Ended, ServerOptions, ServerProcess, run_tool};
use tenure_tests::wire::Wire;

const BINARY: &str = env!("CARGO_BIN_EXE_tenure-under-test");
const DRIVERS: [&str; 2] = ["ring", "glommio"];
const LONG_MS: u64 = 3_600_000;
const BLOCK: usize = 4_096;

/// Exit codes of `server/src/exit.rs`.
const DAMAGED: i32 = 65;
const SYSTEM: i32 = 71;
const LOG_FAULT: i32 = 74;
const IN_USE: i32 = 75;

fn options(dir: &Path) -> ServerOptions {
    ServerOptions::new(BINARY).shards(1).data_dir(dir).flag("--segment-size", 4 << 20)
}

/// A directory with the leases 1 to `count`, each in a batch of its own, as a killed server leaves it.
fn killed(dir: &Path, count: u64) {
    let mut server = options(dir).start();
    let mut wire = Wire::connect(server.address()).unwrap();
    for id in 1..=count {
        wire.grant_with_id(LeaseId(id), LONG_MS);
    }
    server.kill();
}

/// The files of shard 0 with this extension, sorted.
fn files(dir: &Path, extension: &str) -> Vec<PathBuf> {
    let shard = std::fs::read_dir(dir)
        .unwrap()
        .flatten()
        .find(|entry| entry.file_name().to_string_lossy().starts_with("shard-0000"));
    let entries = std::fs::read_dir(shard.expect("shard 0 has a folder").path()).unwrap().flatten();
    let mut found: Vec<PathBuf> = entries
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|it| it == extension))
        .collect();
    found.sort();
    found
}

fn segment(dir: &Path) -> PathBuf {
    files(dir, "log").first().expect("a shard has a segment").clone()
}

/// Blocks of a segment in which a batch begins.
fn batches(segment: &Path) -> Vec<usize> {
    let bytes = std::fs::read(segment).unwrap();
    let starts =
        bytes.chunks(BLOCK).enumerate().filter(|(_, block)| block[..64].iter().any(|&byte| byte != 0));
    starts.map(|(index, _)| index * BLOCK).collect()
}

fn change(file: &Path, offset: usize, change: impl FnOnce(&mut [u8])) {
    let open = std::fs::OpenOptions::new().read(true).write(true).open(file).unwrap();
    let mut block = vec![0; BLOCK];
    open.read_exact_at(&mut block, offset as u64).unwrap();
    change(&mut block);
    open.write_all_at(&block, offset as u64).unwrap();
}

fn live(dir: &Path) -> Vec<u64> {
    let server = options(dir).start();
    let mut wire = Wire::connect(server.address()).unwrap();
    (1..=500).filter(|&id| wire.remaining_ms(LeaseId(id)).is_some()).collect()
}

/// Starting refuses and verifying reports, both naming the file.
fn refused(dir: &Path, file: &Path) -> Ended {
    let name = file.file_name().unwrap().to_string_lossy().into_owned();
    let ended = options(dir).start_refused();
    assert_eq!(ended.code, Some(DAMAGED), "{}", ended.said);
    assert!(ended.said.contains(&name), "the refusal names {name}: {}", ended.said);
    let report = run_tool(BINARY, &["verify", dir.to_str().unwrap()]);
    assert_eq!(report.code, Some(DAMAGED), "{}", report.said);
    assert!(report.said.contains(&name), "verify names {name}: {}", report.said);
    ended
}

#[test]
fn a_torn_tail_is_cut_off_and_nothing_acknowledged_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    killed(dir.path(), 50);
    let segment = segment(dir.path());
    let last = *batches(&segment).last().unwrap();
    let bytes = std::fs::read(&segment).unwrap();
    // A write that began and did not end: the head of a batch, and nothing behind it.
    change(&segment, last + BLOCK, |block| block[..512].copy_from_slice(&bytes[last..last + 512]));
    let report = run_tool(BINARY, &["verify", dir.path().to_str().unwrap()]);
    assert_eq!(report.code, Some(0), "a torn tail is no damage: {}", report.said);
    assert_eq!(live(dir.path()), (1..=50).collect::<Vec<u64>>());
    // And once more: what was cut off stays so.
    assert_eq!(live(dir.path()), (1..=50).collect::<Vec<u64>>());
}

#[test]
fn a_flipped_bit_in_the_middle_is_damage_with_a_way_out() {
    let dir = tempfile::tempdir().unwrap();
    killed(dir.path(), 50);
    let segment = segment(dir.path());
    let starts = batches(&segment);
    let middle = starts[starts.len() / 2];
    change(&segment, middle, |block| block[70] ^= 4);
    let before = std::fs::read(&segment).unwrap();
    let ended = refused(dir.path(), &segment);
    assert!(ended.said.contains(&format!("byte {middle}")), "it names byte {middle}: {}", ended.said);
    assert_eq!(std::fs::read(&segment).unwrap(), before, "nothing was changed");

    // The refusal proposes a command; without --yes and a terminal nothing happens.
    let (_, proposal) = ended.said.split_once("`tenure repair ").expect("it proposes a repair");
    let proposal = format!("repair {}", proposal.split('`').next().unwrap());
    let mut arguments: Vec<&str> = proposal.split_whitespace().collect();
    assert_eq!(arguments[1], dir.path().to_str().unwrap());
    let asked = run_tool(BINARY, &arguments);
    assert_ne!(asked.code, Some(0), "{}", asked.said);
    assert_eq!(std::fs::read(&segment).unwrap(), before, "nothing was changed");

    arguments.push("--yes");
    let repaired = run_tool(BINARY, &arguments);
    assert_eq!(repaired.code, Some(0), "{}", repaired.said);
    assert!(repaired.said.contains("grant"), "it says what it drops: {}", repaired.said);
    assert!(!files(dir.path(), "dropped").is_empty(), "what is dropped is kept beside");
    let kept = live(dir.path());
    assert_eq!(kept, (1..=kept.len() as u64).collect::<Vec<u64>>(), "a prefix is left");
    assert!(kept.len() > 10 && kept.len() < 50, "{} leases", kept.len());
}

/// Subscribes from there on: where it begins, or the refusal with its number and its text.
fn subscribe(server: &ServerProcess, from: Position) -> (Wire, Result<Position, (Refusal, u64, String)>) {
    let mut events = Wire::connect(server.address()).unwrap();
    let answer = events.call(&Request::Subscribe { shard: 0, from }).unwrap();
    let begins = match answer.response() {
        Response::Subscribed { start, .. } => Ok(start),
        Response::Refused(refused) => Err((refused.refusal, refused.detail, refused.text.to_owned())),
        other => panic!("a subscription was answered by {other:?}"),
    };
    (events, begins)
}

/// Hears ends until this lease's, and nothing else on the way.
fn ends_until(events: &mut Wire, last: u64) -> Vec<(u64, Position)> {
    let mut ends: Vec<(u64, Position)> = Vec::new();
    while ends.last().is_none_or(|(id, _)| *id != last) {
        match events.receive().unwrap().response() {
            Response::Event(Event::Ended(ended)) => {
                ends.extend(ended.iter().map(|lease| (lease.id.0, lease.position)));
            }
            Response::Event(Event::Progress { .. }) => {}
            other => panic!("no end of a lease: {other:?}"),
        }
    }
    ends
}

/// The log is damaged under a running server, in what only a subscriber who resumes far back asks for.
#[test]
fn damaged_history_is_refused_by_name_and_harms_no_lease() {
    const LEASES: u64 = 120;
    const REVOKED: u64 = 100;
    for driver in DRIVERS {
        let dir = tempfile::tempdir().unwrap();
        let mut server = options(dir.path()).driver(driver).flag("--event-buffer", 4_096).start();
        let mut wire = Wire::connect(server.address()).unwrap();
        let revoke = |wire: &mut Wire, id| {
            let answer = wire.call(&Request::Revoke { id: LeaseId(id) }).unwrap();
            assert!(matches!(answer.response(), Response::Revoked { .. }), "{driver}: {id}");
        };
        for id in 1..=LEASES {
            wire.grant_with_id(LeaseId(id), LONG_MS);
        }
        (1..=REVOKED).for_each(|id| revoke(&mut wire, id));
        let (mut follower, begins) = subscribe(&server, Position::OLDEST);
        begins.unwrap();
        let told = ends_until(&mut follower, REVOKED);
        assert_eq!(told.len() as u64, REVOKED, "{driver}: whole, while the log is");

        let segment = segment(dir.path());
        let (_, damaged) = told[REVOKED as usize / 2];
        // Each of these batches is a block, and positions are bytes of the log.
        let damaged = damaged.0 as usize / BLOCK * BLOCK;
        change(&segment, damaged, |block| block[70] ^= 4);

        let (_, begins) = subscribe(&server, told[10].1);
        let (refusal, oldest, text) = begins.unwrap_err();
        assert_eq!(refusal, Refusal::PositionTooOld, "{driver}: {text}");
        assert!(text.contains("damaged"), "{driver}: it says why: {text}");
        assert!(oldest as usize > damaged, "{driver}: it says where to go on: {oldest}");
        let name = segment.file_name().unwrap().to_string_lossy().into_owned();
        for place in [name, format!("at byte {damaged}")] {
            // What the server says and what it answers come by different ways.
            let what = format!("{driver}: the operator reads {place}");
            eventually(&what, || server.said().contains(&place).then_some(()));
        }

        // From there on, and from the oldest that can be had, all is told that came after.
        let after: Vec<(u64, Position)> =
            told.iter().copied().filter(|(_, position)| position.0 >= oldest).collect();
        assert!(!after.is_empty(), "{driver}: memory has nothing from {oldest} on");
        for from in [Position(oldest), Position::OLDEST] {
            let (mut events, begins) = subscribe(&server, from);
            assert_eq!(begins, Ok(Position(oldest)), "{driver}");
            assert_eq!(ends_until(&mut events, REVOKED), after, "{driver}");
        }

        // Nobody else notices anything.
        for id in REVOKED + 1..=LEASES {
            assert_eq!(wire.renew(LeaseId(id)), Ok(LONG_MS), "{driver}: {id}");
        }
        wire.grant_with_id(LeaseId(1), LONG_MS);
        revoke(&mut wire, LEASES);
        assert_eq!(
            ends_until(&mut follower, LEASES).len(),
            1,
            "{driver}: a stream that was up to date goes on"
        );
        let ended = server.terminate();
        assert_eq!(ended.code, Some(0), "{driver}: {}", ended.said);
    }
}

#[test]
fn a_batch_of_another_version_is_named() {
    let dir = tempfile::tempdir().unwrap();
    killed(dir.path(), 20);
    let segment = segment(dir.path());
    let second = batches(&segment)[1];
    change(&segment, second, |block| {
        block[58] = 9;
        let length = u32::from_le_bytes(block[4..8].try_into().unwrap()) as usize;
        let crc = crc32c(&block[4..length]);
        block[..4].copy_from_slice(&crc.to_le_bytes());
    });
    let ended = options(dir.path()).start_refused();
    assert_eq!(ended.code, Some(DAMAGED), "{}", ended.said);
    assert!(ended.said.contains("format version 9"), "{}", ended.said);
    let report = run_tool(BINARY, &["verify", dir.path().to_str().unwrap()]);
    assert!(report.said.contains("version 9"), "{}", report.said);
}

/// CRC-32C, bit by bit: the definition, so that the test does not take the product's word for it.
fn crc32c(bytes: &[u8]) -> u32 {
    let mut crc = !0u32;
    for &byte in bytes {
        crc ^= u32::from(byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ 0x82F6_3B78 } else { crc >> 1 };
        }
    }
    !crc
}

/// A directory with at least `count` segments in use.
fn with_segments(dir: &Path, count: usize) {
    let mut server = options(dir).start();
    let mut wire = Wire::connect(server.address()).unwrap();
    // 16,384 grants are 256 KiB of log.
    for _ in 0..16 * count {
        let entries = (0..16_384).map(|_| GrantEntry { ttl_ms: LONG_MS, id: LeaseId::NONE });
        wire.queue_with(|out, id| encode::grant_batch(out, id, 0, entries));
        wire.flush().unwrap();
        assert!(matches!(wire.receive().unwrap().response(), Response::GrantBatch(_)));
    }
    server.kill();
}

#[test]
fn a_missing_segment_is_damage() {
    for which in [0, 1] {
        let dir = tempfile::tempdir().unwrap();
        with_segments(dir.path(), 3);
        let segments = files(dir.path(), "log");
        assert!(segments.len() >= 3, "{segments:?}");
        let away = dir.path().join("away");
        std::fs::rename(&segments[which], &away).unwrap();
        refused(dir.path(), &segments[which]);
        // Put back, it starts again.
        std::fs::rename(&away, &segments[which]).unwrap();
        let _server = options(dir.path()).start();
    }
}

#[test]
fn a_damaged_manifest_is_named() {
    let dir = tempfile::tempdir().unwrap();
    killed(dir.path(), 5);
    let manifest = dir.path().join("MANIFEST");
    let mut bytes = std::fs::read(&manifest).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&manifest, bytes).unwrap();
    refused(dir.path(), &manifest);
    // Without it the log belongs to nobody: that is not an empty directory.
    std::fs::remove_file(&manifest).unwrap();
    let ended = options(dir.path()).start_refused();
    assert_eq!(ended.code, Some(DAMAGED), "{}", ended.said);
}

#[test]
fn a_second_server_is_told_who_has_the_directory() {
    let dir = tempfile::tempdir().unwrap();
    let server = options(dir.path()).start();
    let ended = options(dir.path()).start_refused();
    assert_eq!(ended.code, Some(IN_USE), "{}", ended.said);
    assert!(ended.said.contains(&format!("process {}", server.pid())), "{}", ended.said);
    let report = run_tool(BINARY, &["verify", dir.path().to_str().unwrap()]);
    assert_eq!(report.code, Some(IN_USE), "{}", report.said);
    let mut wire = Wire::connect(server.address()).unwrap();
    wire.grant(LONG_MS);
}

#[test]
fn a_read_only_directory_is_a_clear_error() {
    let dir = tempfile::tempdir().unwrap();
    killed(dir.path(), 3);
    let obedient = Sandbox { obey_permissions: true, ..Sandbox::default() };
    let set = |mode| std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(mode)).unwrap();
    std::fs::remove_file(dir.path().join("LOCK")).unwrap();
    set(0o555);
    let ended = options(dir.path()).sandbox(obedient).start_refused();
    set(0o755);
    assert_eq!(ended.code, Some(SYSTEM), "{}", ended.said);
    assert!(ended.said.contains("must be writable"), "{}", ended.said);
    assert_eq!(live(dir.path()), [1, 2, 3]);
}

/// A small disk, or a clear word that this system does not let the test have one.
fn small_disk(place: &Path, bytes: u64) -> Option<SmallDisk> {
    match SmallDisk::mount(place, bytes) {
        Ok(disk) => Some(disk),
        Err(reason) => {
            println!("passed over: mounting a tmpfs is not allowed here ({reason})");
            None
        }
    }
}

#[test]
fn a_full_disk_at_the_start_is_a_clear_error() {
    let dir = tempfile::tempdir().unwrap();
    let Some(_disk) = small_disk(dir.path(), 2 << 20) else { return };
    let ended = options(dir.path()).start_refused();
    assert_eq!(ended.code, Some(SYSTEM), "{}", ended.said);
    assert!(ended.said.contains("free some space"), "{}", ended.said);
}

/// Fills the disk, and then the segments that are ready, until writes are refused by name. Returns how many leases were
/// granted meanwhile.
fn fill_up(disk: &SmallDisk, wire: &mut Wire) -> u64 {
    disk.fill(0).unwrap();
    let mut granted = 0;
    eventually("StorageFull", || {
        let entries = (0..4_096).map(|_| GrantEntry { ttl_ms: LONG_MS, id: LeaseId::NONE });
        wire.queue_with(|out, id| encode::grant_batch(out, id, 0, entries));
        wire.flush().unwrap();
        let reply = wire.receive().unwrap();
        match reply.response() {
            Response::GrantBatch(results) => {
                let refusals: Vec<Refusal> = results.iter().filter_map(Result::err).collect();
                granted += (results.len() - refusals.len()) as u64;
                refusals.contains(&Refusal::StorageFull).then_some(())
            }
            Response::Refused(refused) if refused.refusal == Refusal::StorageFull => Some(()),
            other => panic!("{other:?}"),
        }
    });
    granted
}

/// The end of a lease has no place in the log, and the server is to stop: it waits for room, but not for ever.
#[test]
fn a_stop_on_a_full_disk_ends_and_loses_nothing_acknowledged() {
    for driver in DRIVERS {
        let dir = tempfile::tempdir().unwrap();
        let Some(disk) = small_disk(dir.path(), 48 << 20) else { return };
        let mut server = options(dir.path()).driver(driver).start();
        let mut wire = Wire::connect(server.address()).unwrap();
        let lives = wire.grant_with_id(LeaseId(1), LONG_MS).id;
        // One of these ends soon after the disk is full, however long that takes. When at the earliest, and at the latest.
        let ends: Vec<(LeaseId, Instant, Instant)> = (1..=60)
            .map(|step| {
                let (ttl_ms, asked) = (step * 500, Instant::now());
                let id = wire.grant_with_id(LeaseId(100 + step), ttl_ms).id;
                let ttl = Duration::from_millis(ttl_ms);
                (id, asked + ttl, Instant::now() + ttl)
            })
            .collect();
        let granted = fill_up(&disk, &mut wire);
        let soon = Instant::now() + Duration::from_millis(200);
        let mut asker = Wire::connect(server.address()).unwrap();
        // Whoever asks for a dead one makes its end, which cannot be told before it is in the log. More than one, because a server
        // that was held up for long by a busy machine lets the first to arrive afterwards renew.
        for &(id, _, latest) in ends.iter().filter(|(_, earliest, _)| *earliest > soon).take(4) {
            while Instant::now() < latest + Duration::from_millis(50) {
                assert_eq!(wire.renew(lives), Ok(LONG_MS), "{driver}: the others are not held up");
                std::thread::sleep(Duration::from_millis(10));
            }
            asker.send(&Request::Renew { id }).unwrap();
        }
        std::thread::sleep(Duration::from_millis(100));
        assert_eq!(wire.renew(lives), Ok(LONG_MS), "{driver}: the others are not held up");

        let ended = server.terminate();
        assert_eq!(ended.code, Some(LOG_FAULT), "{driver}: {}", ended.said);
        assert!(ended.said.contains("there is still no room"), "{driver}: {}", ended.said);
        disk.relieve().unwrap();
        let mut server = options(dir.path()).driver(driver).start();
        let mut wire = Wire::connect(server.address()).unwrap();
        assert_eq!(wire.renew(lives), Ok(LONG_MS), "{driver}: S3 ack-after-durable");
        assert!(wire.info(tag::LEASES) > granted, "{driver}: S3 ack-after-durable");
        assert_eq!(server.terminate().code, Some(0), "{driver}");
    }
}

#[test]
fn a_disk_that_fills_up_refuses_writes_and_recovers_by_itself() {
    for driver in DRIVERS {
        let dir = tempfile::tempdir().unwrap();
        let Some(disk) = small_disk(dir.path(), 48 << 20) else { return };
        let mut server = options(dir.path()).driver(driver).start();
        let mut wire = Wire::connect(server.address()).unwrap();
        let first = wire.grant_with_id(LeaseId(1), LONG_MS).id;
        let mut acknowledged = 1u64;
        acknowledged += fill_up(&disk, &mut wire);
        // Reads and renewals go on.
        assert_eq!(wire.renew(first), Ok(LONG_MS), "{driver}");
        assert!(wire.remaining_ms(first).is_some(), "{driver}");
        let refused = wire.call(&Request::Revoke { id: first }).unwrap();
        assert_eq!(refused.refusal(), Some(Refusal::StorageFull), "{driver}");

        // With space again it goes on by itself.
        disk.relieve().unwrap();
        eventually("writes are taken again", || {
            let request = Request::Grant(Grant { ttl_ms: LONG_MS, id: LeaseId::NONE, sequence: 0 });
            let reply = wire.call(&request).unwrap();
            matches!(reply.response(), Response::Granted(_)).then_some(())
        });
        acknowledged += 1;
        server.kill();
        let server = options(dir.path()).driver(driver).start();
        let mut wire = Wire::connect(server.address()).unwrap();
        assert_eq!(wire.info(tag::LEASES), acknowledged, "{driver}: S3 ack-after-durable");
    }
}
