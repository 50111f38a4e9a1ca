//! A station driven by hand: the disk is as slow as the test says.

use std::os::unix::fs::FileExt;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tenure_core::{Grant, Refusal, ShardIndex};

use super::{Parts, Sleep, Station};
use crate::clock::{EngineClock, ManualClock};
use crate::config::{Clock, Config};
use crate::ending::Ending;
use crate::grant_routes::GrantRoutes;
use crate::handle::Shared;
use crate::inbox::{Inbox, Message};
use crate::limits;
use crate::memory::Memory;
use crate::recovery::Store;
use crate::request::{Reply, Request, ServiceTicket, Ticket};

/// A station with one shard on a disk whose writes complete when [`Rig::write_one`] is called.
struct Rig {
    station: Station,
    clock: ManualClock,
    _store: Store,
    _home: tempfile::TempDir,
}

impl Rig {
    fn new() -> Rig {
        let clock = ManualClock::new();
        Rig::with(Clock::Manual(clock.clone()), clock)
    }

    fn with(engine_clock: Clock, clock: ManualClock) -> Rig {
        let home = tempfile::tempdir().unwrap();
        let config = Config {
            shard_count: Some(1),
            clock: engine_clock,
            segment_bytes: 64 << 20,
            checkpoint_interval: None,
            ..Config::durable(home.path())
        };
        let store = Store::open(&config, 1).unwrap();
        let mut recovered = store.recover(ShardIndex(0), &Memory::default()).unwrap();
        let epoch = store.begin(&[recovered.tail()]).unwrap();
        let engine_clock = EngineClock::starting_at(recovered.time, &config.clock);
        recovered.shard.recovered(engine_clock.now());
        let found = recovered.found.as_ref();
        let (mut journal, snapshotting, work) =
            store.journal(ShardIndex(0), found, epoch, &config, Arc::new(|| {})).unwrap();
        journal.start_keeper(work.expect("a log on disk")).unwrap();
        let inboxes: Arc<[Arc<Inbox>]> = [Arc::new(Inbox::new().unwrap())].into();
        let grant_routes = OnceLock::new();
        grant_routes.get_or_init(GrantRoutes::default);
        let shared = Shared {
            inboxes: Arc::clone(&inboxes),
            hubs: store.hubs(1 << 20),
            grant_routes,
            next_shard: AtomicUsize::new(0),
        };
        let station = Station::new(Parts {
            shard: recovered.shard,
            index: ShardIndex(0),
            journal,
            shared: Arc::new(shared),
            ending: Arc::new(Ending::new(inboxes)),
            memory: Memory::default(),
            clock: engine_clock,
            snapshotting,
        });
        Rig { station, clock, _store: store, _home: home }
    }

    /// A turn in which clients ask for grants until they are refused, at most `most` times. Returns how many were
    /// taken.
    fn turn(&mut self, ttl_ms: u64, most: usize) -> usize {
        let ticket = ServiceTicket { session: 0, request: 0 };
        let grants = vec![Grant { id: None, ttl_ms, key: None }; 1_000];
        self.station.begin_turn();
        let mut taken = 0;
        let mut ready = Vec::new();
        while taken < most {
            self.station.submit(ShardIndex(0), Request::GrantBatch(grants.clone()), ticket);
            self.station.take_ready(&mut ready);
            if matches!(ready.last(), Some((_, Reply::Refused(Refusal::Busy)))) {
                break;
            }
            taken += grants.len();
        }
        self.station.end_turn();
        self.station.mind_log().unwrap();
        self.station.take_ready(&mut ready);
        taken
    }

    /// Lets the disk write one batch.
    fn write_one(&mut self) -> bool {
        let Some(write) = self.station.next_write() else { return false };
        let bytes = self.station.write_bytes(&write).to_vec();
        // Through the page cache of a descriptor without O_DIRECT: the bytes here are not aligned.
        let file = std::fs::OpenOptions::new().write(true).open(write.file.path()).unwrap();
        file.write_all_at(&bytes, write.offset).unwrap();
        self.station.write_completed(write.id, Ok(write.length)).unwrap();
        true
    }

    fn counts(&self) -> (u64, u64) {
        let stats = self.station.shard.stats();
        (stats.granted_total, stats.expired_total)
    }
}

#[test]
fn on_a_disk_that_cannot_keep_up_neither_grants_nor_expiry_starve() {
    let mut rig = Rig::new();
    // A storm to come: more leases than a few batches of the log have room for.
    while rig.turn(1_000, 20_000) > 0 && rig.counts().0 < 200_000 {
        while rig.write_one() {}
    }
    // Writers fill the log up to its limit, and then the storm begins.
    while rig.turn(3_600_000, usize::MAX) > 0 {}
    rig.clock.forward(Duration::from_secs(2));
    rig.turn(3_600_000, usize::MAX);
    let (mut granted, mut expired) = rig.counts();
    let mut rounds_without = 0;
    for round in 0..60 {
        assert!(rig.write_one(), "the log has a backlog");
        rig.turn(3_600_000, usize::MAX);
        let now = rig.counts();
        let expiry_due = now.1 < 200_000;
        rounds_without =
            if now.0 > granted && (now.1 > expired || !expiry_due) { 0 } else { rounds_without + 1 };
        assert!(rounds_without < 8, "L3 fair: round {round}, {:?} after {:?}", now, (granted, expired));
        (granted, expired) = if rounds_without == 0 { now } else { (granted, expired) };
    }
    assert_eq!(rig.counts().1, 200_000, "the storm is over before the writers are");
}

/// A gap means that the process stood still (L3), so there must be none for another reason.
#[test]
fn a_core_whose_expiry_waits_for_the_disk_looks_up_often_enough_to_tell_a_pause() {
    let mut rig = Rig::with(Clock::System, ManualClock::new());
    rig.turn(1, 1_000);
    while rig.turn(3_600_000, usize::MAX) > 0 {}
    std::thread::sleep(Duration::from_millis(20));
    rig.turn(3_600_000, usize::MAX);
    assert_eq!(rig.counts().1, 0, "what is due waits for the disk");
    let Sleep::For(most) = rig.station.sleep() else { panic!("{:?}", rig.station.sleep()) };
    assert!(most < Duration::from_millis(limits::PAUSE_MS_MIN), "{most:?}");
}

#[test]
fn messages_that_a_turn_has_no_time_for_come_in_the_next_ones_in_order() {
    let mut rig = Rig::new();
    let per_turn = limits::TURN_INBOX_STEPS as usize;
    let count = 2 * per_turn + 1;
    for number in 0..count as u64 {
        let ticket = ServiceTicket { session: number, request: 0 };
        let message = Message::Requests(vec![(Ticket::Service(ticket), Request::Stats)]);
        assert!(rig.station.inbox().push(message).is_ok());
    }
    let mut ready = Vec::new();
    for expected in [per_turn, 2 * per_turn, count] {
        rig.station.begin_turn();
        rig.station.end_turn();
        rig.station.take_ready(&mut ready);
        assert_eq!(ready.len(), expected);
        assert_eq!(rig.station.sleep() == Sleep::No, expected < count, "awake while messages are left");
    }
    let order = ready.iter().map(|(ticket, _)| ticket.session);
    assert!(order.eq(0..count as u64));
}
