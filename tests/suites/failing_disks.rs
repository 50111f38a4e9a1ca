//! Disks that fail, stall or are slow beneath the real process: both drivers, real io_uring, real O_DIRECT and O_DSYNC
//! on a file system of the test's own ([`FaultyDisk`]).
//!
//! - A log write or sync that fails ends the process: exit code 74, and it says what it was. Nothing acknowledged is
//!   lost, nothing told dead lives (S3), whether the disk then has half of the write or none of it.
//! - What fails beside the log (a snapshot, the next segment) is said and survived.
//! - A sector that cannot be read refuses the start, naming file and byte; nothing is changed.
//! - A disk that stands still or is slow delays answers that must be durable, and nothing else: renewals go on,
//!   expiries come late, never early (S2, L2, L3).
//!
//! Where FUSE cannot be mounted, each test says so and passes over.

use std::collections::HashSet;
use std::path::Path;
use std::time::{Duration, Instant};

use tenure_protocol::{Event, Grant, LeaseId, Position, Refusal, Request, RequestId, Response};
use tenure_tests::faulty_disk::{Deed, Fault, FaultyDisk};
use tenure_tests::patience::eventually;
use tenure_tests::server::{ServerOptions, run_tool};
use tenure_tests::wire::{Wire, is_end};

const BINARY: &str = env!("CARGO_BIN_EXE_tenure-under-test");
const DRIVERS: [&str; 2] = ["ring", "glommio"];
const LONG_MS: u64 = 3_600_000;
const SHORT_MS: u64 = 40;
const BLOCK: u64 = 4_096;

/// Exit codes of `server/src/exit.rs`.
const SYSTEM: i32 = 71;
const LOG_FAULT: i32 = 74;

/// A faulty disk, or a clear word that this system does not let the test have one.
fn faulty_disk(place: &Path) -> Option<FaultyDisk> {
    match FaultyDisk::mount(place) {
        Ok(disk) => Some(disk),
        Err(reason) => {
            println!("passed over: mounting a FUSE file system is not possible here ({reason})");
            None
        }
    }
}

fn options(dir: &Path, driver: &str) -> ServerOptions {
    ServerOptions::new(BINARY).driver(driver).shards(1).data_dir(&dir.join("data")).small_log()
}

/// What clients were told until the server was gone.
#[derive(Debug, Default)]
struct Told {
    granted: HashSet<LeaseId>,
    /// Asked to be revoked, answered or not.
    doomed: HashSet<LeaseId>,
    /// Told dead, by an answer or an event.
    dead: HashSet<LeaseId>,
}

/// Grants, revokes and lets expire, in bursts, until the server ends or `enough` says so.
fn load(wire: &mut Wire, told: &mut Told, mut enough: impl FnMut() -> bool) {
    wire.queue(&Request::Subscribe { shard: 0, from: Position::OLDEST });
    let mut number = told.granted.len() as u64 * 1_000;
    let mut asked: Vec<(RequestId, Request<'static>)> = Vec::new();
    while !enough() {
        for _ in 0..32 {
            number += 1;
            let ttl_ms = if number.is_multiple_of(4) { SHORT_MS } else { LONG_MS };
            let grant = Request::Grant(Grant { ttl_ms, id: LeaseId(number), sequence: 0 });
            asked.push((wire.queue(&grant), grant));
            let victim = LeaseId(number.saturating_sub(32));
            if number.is_multiple_of(5) && told.granted.contains(&victim) {
                let revoke = Request::Revoke { id: victim };
                told.doomed.insert(victim);
                asked.push((wire.queue(&revoke), revoke));
            }
            if ttl_ms == SHORT_MS {
                told.doomed.insert(LeaseId(number));
            }
        }
        if wire.flush().is_err() {
            return;
        }
        while !asked.is_empty() {
            match wire.receive() {
                Ok(frame) => hear(&frame.response(), frame.request_id(), &mut asked, told),
                Err(error) => {
                    assert!(is_end(&error), "L2 one-reply: {error}, {} answers are missing", asked.len());
                    return;
                }
            }
        }
    }
}

fn hear(said: &Response<'_>, id: RequestId, asked: &mut Vec<(RequestId, Request<'static>)>, told: &mut Told) {
    if let Response::Event(Event::Ended(ended)) = said {
        told.dead.extend(ended.iter().map(|lease| lease.id));
        return;
    }
    let Some(index) = asked.iter().position(|(known, _)| *known == id) else { return };
    match (asked.swap_remove(index).1, said) {
        (Request::Grant(grant), Response::Granted(_)) => {
            told.granted.insert(grant.id);
        }
        (Request::Revoke { id }, Response::Revoked { .. }) => {
            told.dead.insert(id);
        }
        (Request::Revoke { .. }, Response::Refused(refused)) if refused.refusal == Refusal::NotFound => {}
        // The next segment could not be made in time.
        (_, Response::Refused(refused)) if refused.refusal == Refusal::StorageFull => {}
        (_, Response::Refused(refused)) if refused.refusal == Refusal::Busy => {}
        (request, other) => panic!("{request:?} was answered by {other:?}"),
    }
}

/// S3: what was acknowledged is there, what was told dead is not.
fn assert_kept(wire: &mut Wire, told: &Told, case: &str) {
    for &id in &told.granted {
        let alive = wire.remaining_ms(id).is_some();
        assert!(!alive || !told.dead.contains(&id), "{case}: S3: {id:?} was told dead and lives");
        assert!(alive || told.doomed.contains(&id), "{case}: S3: {id:?} was acknowledged and is gone");
    }
}

#[test]
fn a_log_write_that_fails_ends_the_process_and_loses_nothing() {
    let cases = [
        (Deed::Write, libc::EIO, "Input/output error"),
        (Deed::Sync, libc::EIO, "Input/output error"),
        (Deed::Write, libc::ENOSPC, "No space left on device"),
    ];
    for driver in DRIVERS {
        let place = tempfile::tempdir().unwrap();
        let Some(disk) = faulty_disk(place.path()) else { return };
        let mut told = Told::default();
        // The same directory again and again: what one failure left is what the next one meets.
        for (round, (deed, errno, text)) in (0..).zip(cases) {
            let case = format!("{driver}, {deed:?} fails with {errno}");
            let mut server = options(place.path(), driver).start();
            let mut wire = Wire::connect(server.address()).unwrap();
            let before = told.granted.len();
            disk.fail(Fault { deed, suffix: ".log", after: 40 + 7 * round, errno, sectors: None });
            load(&mut wire, &mut told, || false);
            assert!(told.granted.len() > before + 100, "{case}: hardly any load");
            let code = server.wait().code();
            let said = server.said();
            assert_eq!(disk.struck(), 1, "{case}: {said}");
            assert_eq!(code, Some(LOG_FAULT), "{case}: {said}");
            for word in ["log write of", ".log", text, "ending the process"] {
                assert!(said.contains(word), "{case}: it says {word:?}: {said}");
            }
            disk.heal();
            let server = options(place.path(), driver).start();
            assert_kept(&mut Wire::connect(server.address()).unwrap(), &told, &case);
        }
    }
}

#[test]
fn what_fails_beside_the_log_is_said_and_survived() {
    for driver in DRIVERS {
        let place = tempfile::tempdir().unwrap();
        let Some(disk) = faulty_disk(place.path()) else { return };
        let mut server = options(place.path(), driver).start();
        let mut wire = Wire::connect(server.address()).unwrap();
        let mut told = Told::default();
        for deed in [Deed::Write, Deed::Sync] {
            // Segments and snapshots are written under this name first.
            disk.fail(Fault { deed, suffix: ".tmp", after: 0, errno: libc::EIO, sectors: None });
            let started = Instant::now();
            load(&mut wire, &mut told, || disk.struck() > 0 || started.elapsed() > Duration::from_secs(50));
            assert!(disk.struck() > 0, "{driver}: no snapshot and no new segment under load");
            eventually("it says what failed", || {
                let said = server.said();
                (said.contains("snapshot given up") || said.contains("cannot prepare the next log segment"))
                    .then_some(())
            });
        }
        disk.heal();
        // The load's own connection goes on hearing of ends.
        assert_kept(&mut Wire::connect(server.address()).unwrap(), &told, driver);
        server.kill();
        let server = options(place.path(), driver).start();
        assert_kept(&mut Wire::connect(server.address()).unwrap(), &told, driver);
    }
}

#[test]
fn a_sector_that_cannot_be_read_refuses_the_start_and_names_the_place() {
    let place = tempfile::tempdir().unwrap();
    let Some(disk) = faulty_disk(place.path()) else { return };
    let mut server = options(place.path(), "ring").start();
    let mut wire = Wire::connect(server.address()).unwrap();
    for number in 1..=50 {
        wire.grant_with_id(LeaseId(number), LONG_MS);
    }
    server.kill();
    let segment = disk.beneath().join("data/shard-0000").join(format!("{:020}.log", 0));
    let before = std::fs::read(&segment).unwrap();
    for (suffix, at) in [(".log", 20 * BLOCK), (".log", 0), ("MANIFEST", 0)] {
        let sectors = Some(at..at + 512);
        disk.fail(Fault { deed: Deed::Read, suffix, after: 0, errno: libc::EIO, sectors });
        let ended = options(place.path(), "ring").start_refused();
        let dir = place.path().join("data");
        let report = run_tool(BINARY, &["verify", dir.to_str().unwrap()]);
        for ended in [&ended, &report] {
            assert_eq!(ended.code, Some(SYSTEM), "{suffix}: {}", ended.said);
            assert!(ended.said.contains(suffix), "it names {suffix}: {}", ended.said);
            assert!(ended.said.contains("Input/output error"), "{suffix}: {}", ended.said);
            let named = suffix != ".log" || ended.said.contains(&format!("byte {at}"));
            assert!(named, "it names byte {at}: {}", ended.said);
        }
        assert!(disk.struck() > 0);
        assert_eq!(std::fs::read(&segment).unwrap(), before, "nothing was changed");
    }
    disk.heal();
    let server = options(place.path(), "ring").start();
    let mut wire = Wire::connect(server.address()).unwrap();
    assert!((1..=50).all(|number| wire.remaining_ms(LeaseId(number)).is_some()), "S3 ack-after-durable");
}

#[test]
fn a_disk_that_stands_still_holds_back_what_must_be_durable_and_nothing_else() {
    const TTL: Duration = Duration::from_millis(600);
    const TTL_MS: u64 = TTL.as_millis() as u64;
    for driver in DRIVERS {
        let place = tempfile::tempdir().unwrap();
        let Some(disk) = faulty_disk(place.path()) else { return };
        let mut server = options(place.path(), driver).start();
        let mut wire = Wire::connect(server.address()).unwrap();
        let mut events = Wire::connect(server.address()).unwrap();
        events.send(&Request::Subscribe { shard: 0, from: Position::NOW }).unwrap();
        assert!(matches!(events.receive().unwrap().response(), Response::Subscribed { .. }));
        let kept = wire.grant(LONG_MS).id;
        let granted_at = Instant::now();
        let mortal = wire.grant(TTL_MS).id;

        let stall = disk.stall();
        let grant =
            wire.send(&Request::Grant(Grant { ttl_ms: LONG_MS, id: LeaseId(7), sequence: 0 })).unwrap();
        eventually("the disk is felt", || stall.is_felt().then_some(()));
        // An answer to anything else than the renewal would fail the call.
        while granted_at.elapsed() < 2 * TTL {
            let reply = renew_before(&mut wire, kept, &[grant]);
            assert_eq!(reply, Ok(()), "{driver}: L3: renewals go on");
        }
        // It is overdue; that it is dead must be durable before it is told (S3).
        let asked = wire.send(&Request::TimeToLive { id: mortal, items: false, after: None }).unwrap();
        for _ in 0..50 {
            assert_eq!(renew_before(&mut wire, kept, &[grant, asked]), Ok(()), "{driver}");
        }
        assert!(events.received().unwrap().is_none(), "{driver}: S3: an end that is not durable was told");
        drop(stall);

        let mut answers = HashSet::new();
        for _ in 0..2 {
            let frame = wire.receive().unwrap();
            match frame.response() {
                Response::Granted(granted) => assert_eq!(granted.id, LeaseId(7), "{driver}"),
                Response::Refused(refused) => assert_eq!(refused.refusal, Refusal::NotFound, "{driver}"),
                other => panic!("{driver}: {other:?}"),
            }
            answers.insert(frame.request_id());
        }
        assert_eq!(answers, HashSet::from([grant, asked]), "{driver}: L2 one-reply");
        assert_eq!(next_ends(&mut events), [mortal], "{driver}");
        assert!(granted_at.elapsed() >= TTL, "{driver}: S2 never-early");
        server.kill();
        let server = options(place.path(), driver).start();
        let mut wire = Wire::connect(server.address()).unwrap();
        assert!(wire.remaining_ms(LeaseId(7)).is_some(), "{driver}: S3 ack-after-durable");
        assert!(wire.remaining_ms(mortal).is_none(), "{driver}: S3: what was told dead lives");
    }
}

/// Renews; nothing that waits for the disk may be answered before.
fn renew_before(wire: &mut Wire, id: LeaseId, waiting: &[RequestId]) -> Result<(), Refusal> {
    wire.send(&Request::Renew { id }).unwrap();
    let frame = wire.receive().unwrap();
    assert!(
        !waiting.contains(&frame.request_id()),
        "S3: answered before it is durable: {:?}",
        frame.response()
    );
    match frame.response() {
        Response::Renewed { .. } => Ok(()),
        Response::Refused(refused) => Err(refused.refusal),
        other => panic!("not a reply to a renewal: {other:?}"),
    }
}

fn next_ends(events: &mut Wire) -> Vec<LeaseId> {
    loop {
        let frame = events.receive().unwrap();
        if let Response::Event(Event::Ended(ended)) = frame.response() {
            return ended.iter().map(|lease| lease.id).collect();
        }
    }
}

#[test]
fn on_a_slow_disk_everything_comes_late_and_nothing_early() {
    const TTL: Duration = Duration::from_secs(1);
    const TTL_MS: u64 = TTL.as_millis() as u64;
    const LEASES: u64 = 100;
    for driver in DRIVERS {
        let place = tempfile::tempdir().unwrap();
        let Some(disk) = faulty_disk(place.path()) else { return };
        let server = options(place.path(), driver).start();
        let mut events = Wire::connect(server.address()).unwrap();
        events.send(&Request::Subscribe { shard: 0, from: Position::NOW }).unwrap();
        let mut wire = Wire::connect(server.address()).unwrap();
        let held = wire.grant(LONG_MS).id;
        disk.slow_down(Duration::from_millis(30));
        let sent = Instant::now();
        for number in 1..=LEASES {
            wire.queue(&Request::Grant(Grant { ttl_ms: TTL_MS, id: LeaseId(number), sequence: 0 }));
        }
        wire.flush().unwrap();
        for _ in 0..LEASES {
            let frame = wire.receive().unwrap();
            assert!(matches!(frame.response(), Response::Granted(_)), "{driver}: {:?}", frame.response());
        }
        let mut ended = HashSet::new();
        while ended.len() < LEASES as usize {
            assert_eq!(wire.renew(held), Ok(LONG_MS), "{driver}: L3: renewals go on");
            let more = next_ends(&mut events);
            assert!(sent.elapsed() >= TTL, "{driver}: S2 never-early: {more:?}");
            ended.extend(more);
        }
        assert!(ended.iter().all(|id| (1..=LEASES).contains(&id.0)), "{driver}: {ended:?}");
    }
}
