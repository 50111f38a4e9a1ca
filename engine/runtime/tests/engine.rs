//! The engine as an embedder meets it, on both drivers, in memory and on a real disk. Time is the
//! manual clock's, so that hours pass in milliseconds and nothing depends on how busy the machine is.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use tenure::{
    Cause, Clock, Config, Driver, Durability, Engine, Error, Event, From, Grant, GrantKey, GrantOptions,
    Handle, LeaseId, ManualClock, Refusal, Renewals,
};

const DRIVERS: [Driver; 2] = [Driver::Ring, Driver::Glommio];

fn manual(driver: Driver, shard_count: u16) -> Config {
    Config {
        shard_count: Some(shard_count),
        driver,
        clock: Clock::Manual(ManualClock::new()),
        pin: false,
        ..Config::in_memory()
    }
}

fn durable(dir: &Path, driver: Driver, shard_count: u16) -> Config {
    Config { data_dir: Some(dir.to_owned()), segment_bytes: 4 << 20, ..manual(driver, shard_count) }
}

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn refused<T>(result: &Result<T, Error>) -> Option<Refusal> {
    match result {
        Err(Error::Refused(refusal)) => Some(*refusal),
        _ => None,
    }
}

/// Everything the event streams hold, by shard.
fn all_events(handle: &Handle) -> Vec<Event> {
    let mut all = Vec::new();
    for shard in 0..handle.shard_count() {
        let mut stream = handle.events(shard, From::Oldest).unwrap();
        while let Some(event) = stream.try_next().unwrap() {
            all.push(event);
        }
    }
    all
}

fn ended(events: &[Event]) -> BTreeSet<(LeaseId, Cause)> {
    let ends = events.iter().filter_map(|event| match event {
        Event::Ended { id, cause, .. } => Some((*id, *cause)),
        Event::Items { .. } => None,
    });
    let list: Vec<_> = ends.collect();
    let set: BTreeSet<_> = list.iter().copied().collect();
    assert_eq!(list.len(), set.len(), "S9 once");
    set
}

fn list_all(handle: &Handle) -> BTreeSet<LeaseId> {
    let mut ids = BTreeSet::new();
    let mut from = None;
    loop {
        let page = handle.list(from, 100).wait().unwrap();
        for listed in page.leases {
            assert!(ids.insert(listed.id), "a lease listed twice");
        }
        match page.next {
            Some(next) => from = Some(next),
            None => return ids,
        }
    }
}

#[test]
fn a_lease_lives_while_renewed_and_ends_once() {
    for driver in DRIVERS {
        let engine = Engine::open(&manual(driver, 2)).unwrap();
        let handle = engine.handle();
        let kept = handle.grant(secs(10)).wait().unwrap();
        let left = handle.grant(secs(10)).wait().unwrap();
        let revoked = handle.grant(secs(10)).wait().unwrap();
        assert_eq!(
            (kept.ttl_ms, kept.remaining_ms, kept.raised, kept.repeated),
            (10_000, 10_000, false, false)
        );
        handle.revoke(revoked.id).wait().unwrap();
        for _ in 0..5 {
            engine.advance(secs(3));
            handle.renew(kept.id).wait().unwrap();
        }
        assert_eq!(refused(&handle.renew(left.id).wait()), Some(Refusal::NotFound));
        assert_eq!(refused(&handle.time_to_live(left.id).wait()), Some(Refusal::NotFound));
        assert_eq!(handle.time_to_live(kept.id).wait().unwrap().remaining_ms, 10_000);
        let expected = BTreeSet::from([(left.id, Cause::Expired), (revoked.id, Cause::Revoked)]);
        assert_eq!(ended(&all_events(&handle)), expected, "{driver:?}");
        engine.advance(Duration::from_millis(10_000));
        assert!(handle.time_to_live(kept.id).wait().is_ok(), "S2 never-early");
        engine.advance(Duration::from_millis(1));
        assert_eq!(refused(&handle.time_to_live(kept.id).wait()), Some(Refusal::NotFound));
    }
}

#[test]
fn batches_cross_shards_and_answer_each_entry() {
    let engine = Engine::open(&manual(Driver::Ring, 3)).unwrap();
    let handle = engine.handle();
    let chosen = |n: u64| Grant { id: Some(LeaseId(n)), ttl_ms: 5_000, key: None };
    let mut grants: Vec<Grant> = (1..=500).map(chosen).collect();
    grants.push(chosen(7));
    grants.push(Grant { id: Some(LeaseId(u64::MAX)), ttl_ms: 0, key: None });
    let results = handle.grant_batch(&grants).wait().unwrap();
    assert_eq!(results.len(), 502);
    assert!((0..500).all(|index| results[index].unwrap().id == LeaseId(index as u64 + 1)));
    assert_eq!(results[500], Err(Refusal::AlreadyExists));
    assert_eq!(results[501], Err(Refusal::TtlZero));
    let ids: Vec<LeaseId> = [1, 9_999, 2, 2, 8_888].map(LeaseId).to_vec();
    assert_eq!(handle.renew_batch(&ids).wait().unwrap(), [1, 4], "repeated IDs are each renewed");
    assert_eq!(handle.revoke_batch(&ids).wait().unwrap(), [1, 3, 4], "a repeated ID ends once");
    assert!(handle.renew_batch(&[]).wait().unwrap().is_empty());
    let over = vec![LeaseId(3); tenure::BATCH_IDS_MAX + 1];
    assert!(matches!(handle.revoke_batch(&over).wait(), Err(Error::BatchTooLarge { .. })));
    assert!(handle.time_to_live(LeaseId(3)).wait().is_ok(), "refused before any effect");
    assert_eq!(list_all(&handle).len(), 498);
}

#[test]
fn what_was_acknowledged_survives_a_stop() {
    for driver in DRIVERS {
        let home = tempfile::tempdir().unwrap();
        let config = durable(home.path(), driver, 2);
        let engine = Engine::open(&config).unwrap();
        let handle = engine.handle();
        let ids: Vec<LeaseId> = (0..300).map(|_| handle.grant(secs(60)).wait().unwrap().id).collect();
        let negative = GrantOptions { id: Some(LeaseId(u64::MAX - 5)), key: None };
        handle.grant_with(secs(60), negative).wait().unwrap();
        for (index, id) in ids.iter().enumerate() {
            handle.attach(*id, format!("item/{index}")).wait().unwrap();
        }
        handle.detach(ids[0], "item/0").wait().unwrap();
        handle.revoke_batch(&ids[100..200]).wait().unwrap();
        engine.advance(secs(1));
        let before = (list_all(&handle), ended(&all_events(&handle)));
        engine.stop();

        let engine = Engine::open(&config).unwrap();
        let handle = engine.handle();
        assert_eq!(engine.opened().lease_count, 201, "{driver:?}");
        assert_eq!(engine.opened().torn, Vec::<String>::new(), "a stop leaves a clean log");
        assert_eq!((list_all(&handle), ended(&all_events(&handle))), before, "{driver:?}");
        assert_eq!(handle.lease_of("item/1").wait().unwrap()[0].0, ids[1]);
        assert!(handle.lease_of("item/0").wait().unwrap().is_empty());
        assert!(handle.lease_of("item/150").wait().unwrap().is_empty());
        // Full TTL from the recovered clock: never early, and not for ever.
        engine.advance(secs(59));
        assert_eq!(list_all(&handle).len(), 201, "S2 never-early");
        engine.advance(secs(2));
        assert_eq!(list_all(&handle).len(), 0);
        engine.stop();
    }
}

#[test]
fn logged_renewals_keep_deadlines_exact_across_a_restart() {
    let home = tempfile::tempdir().unwrap();
    let config = Config { renewals: Renewals::Logged, ..durable(home.path(), Driver::Ring, 1) };
    let engine = Engine::open(&config).unwrap();
    let handle = engine.handle();
    let lease = handle.grant(secs(100)).wait().unwrap();
    engine.advance(secs(30));
    handle.renew(lease.id).wait().unwrap();
    engine.advance(secs(20));
    engine.stop();
    let engine = Engine::open(&config).unwrap();
    let remaining = engine.handle().time_to_live(lease.id).wait().unwrap().remaining_ms;
    assert!(
        (80_000..=80_300).contains(&remaining),
        "80 s and at most the clock's logging interval: {remaining}"
    );
}

#[test]
fn an_identified_grant_is_made_once_even_across_a_restart() {
    let home = tempfile::tempdir().unwrap();
    let config = durable(home.path(), Driver::Ring, 2);
    let options = GrantOptions { id: None, key: Some(GrantKey { client: 77, request: 5 }) };
    let engine = Engine::open(&config).unwrap();
    let first = engine.handle().grant_with(secs(60), options).wait().unwrap();
    let again = engine.handle().grant_with(secs(60), options).wait().unwrap();
    assert_eq!((again.id, again.token, first.repeated, again.repeated), (first.id, first.token, false, true));
    engine.stop();
    let engine = Engine::open(&config).unwrap();
    let again = engine.handle().grant_with(secs(60), options).wait().unwrap();
    assert_eq!((again.id, again.token, again.repeated), (first.id, first.token, true));
    assert_eq!(list_all(&engine.handle()).len(), 1);
}

#[test]
fn a_repeated_grant_finds_its_lease_across_any_change_of_the_shard_count() {
    let home = tempfile::tempdir().unwrap();
    let mut known: Vec<(GrantOptions, LeaseId)> = Vec::new();
    for (round, shard_count) in [2, 3, 1, 5, 5, 2].into_iter().enumerate() {
        let engine = Engine::open(&durable(home.path(), Driver::Ring, shard_count)).unwrap();
        let handle = engine.handle();
        for request in 1..=20 {
            let key = GrantKey { client: round as u64 + 1, request };
            let options = GrantOptions { id: None, key: Some(key) };
            known.push((options, handle.grant_with(secs(600), options).wait().unwrap().id));
        }
        for (options, id) in &known {
            let again = handle.grant_with(secs(600), *options).wait().unwrap();
            assert_eq!((again.id, again.repeated), (*id, true), "{options:?} with {shard_count} shards");
        }
        assert_eq!(list_all(&handle).len(), known.len(), "no orphans");
        engine.stop();
    }
}

#[test]
fn snapshots_shorten_the_log_and_events_resume_across_them() {
    for driver in DRIVERS {
        let home = tempfile::tempdir().unwrap();
        let config =
            Config { snapshot_log_bytes: 1 << 20, retain_bytes: 64 << 20, ..durable(home.path(), driver, 1) };
        let engine = Engine::open(&config).unwrap();
        let handle = engine.handle();
        let mut live = Vec::new();
        for _ in 0..40 {
            let grants = vec![Grant { id: None, ttl_ms: 3_600_000, key: None }; 2_000];
            let granted = handle.grant_batch(&grants).wait().unwrap();
            let ids: Vec<LeaseId> = granted.into_iter().map(|result| result.unwrap().id).collect();
            handle.revoke_batch(&ids[..1_000]).wait().unwrap();
            live.extend_from_slice(&ids[1_000..]);
        }
        while handle.stats().wait().unwrap()[0].snapshots == 0 {
            std::thread::yield_now();
        }
        let events = all_events(&handle);
        assert_eq!(ended(&events).len(), 40_000);
        let dump = handle.dump().wait().unwrap();
        engine.stop();

        let engine = Engine::open(&config).unwrap();
        let handle = engine.handle();
        assert_eq!(handle.dump().wait().unwrap(), dump, "S4 replay-equal, {driver:?}");
        assert_eq!(list_all(&handle), live.into_iter().collect::<BTreeSet<_>>());
        // Resuming behind any event gives exactly the events after it.
        for index in [0, 1, 999, 1_000, 20_000, 39_999] {
            let mut stream = handle.events(0, From::At(events[index].resume())).unwrap();
            let mut rest = Vec::new();
            while let Some(event) = stream.try_next().unwrap() {
                rest.push(event);
            }
            assert!(rest == events[index + 1..], "resumed at event {index}");
        }
    }
}

#[test]
fn another_shard_count_moves_every_lease() {
    let home = tempfile::tempdir().unwrap();
    let mut known: Vec<(LeaseId, u64)> = Vec::new();
    let mut tokens = BTreeSet::new();
    for shard_count in [1, 3, 2, 2, 1, 5] {
        let engine = Engine::open(&durable(home.path(), Driver::Ring, shard_count)).unwrap();
        let handle = engine.handle();
        assert_eq!(handle.shard_count(), shard_count);
        for (id, token) in &known {
            assert_eq!(
                handle.time_to_live(*id).wait().unwrap().token.0,
                *token,
                "{id} with {shard_count} shards"
            );
            assert_eq!(handle.lease_of(format!("of {id}")).wait().unwrap()[0].0, *id);
        }
        for _ in 0..100 {
            let lease = handle.grant(secs(600)).wait().unwrap();
            assert!(known.iter().all(|(id, _)| *id != lease.id), "an ID was issued twice");
            handle.attach(lease.id, format!("of {}", lease.id)).wait().unwrap();
            known.push((lease.id, lease.token.0));
            tokens.insert(lease.token.0);
        }
        // One lease of each round ends, so that later rounds also see its ID never come back.
        let (gone, _) = known.remove(0);
        handle.revoke(gone).wait().unwrap();
        assert_eq!(list_all(&handle).len(), known.len());
        engine.stop();
    }
    // Without a count the directory's stays.
    let config = Config { shard_count: None, ..durable(home.path(), Driver::Ring, 1) };
    assert_eq!(Engine::open(&config).unwrap().handle().shard_count(), 5);
}

#[test]
fn a_standby_neither_expires_nor_writes_until_promoted() {
    let engine = Engine::open(&manual(Driver::Ring, 2)).unwrap();
    let handle = engine.handle();
    let lease = handle.grant(secs(10)).wait().unwrap();
    handle.demote().wait().unwrap();
    engine.advance(secs(100));
    assert_eq!(refused(&handle.renew(lease.id).wait()), Some(Refusal::NotPrimary));
    assert_eq!(refused(&handle.grant(secs(10)).wait()), Some(Refusal::NotPrimary));
    assert_eq!(handle.time_to_live(lease.id).wait().unwrap().remaining_ms, 0);
    handle.promote(secs(7)).wait().unwrap();
    engine.advance(secs(6));
    assert!(handle.time_to_live(lease.id).wait().is_ok(), "at least the extension");
    engine.advance(secs(11));
    assert_eq!(refused(&handle.time_to_live(lease.id).wait()), Some(Refusal::NotFound));
}

#[test]
fn a_second_engine_on_the_directory_is_refused_naming_the_holder() {
    let home = tempfile::tempdir().unwrap();
    let config = durable(home.path(), Driver::Ring, 1);
    let _engine = Engine::open(&config).unwrap();
    let error = Engine::open(&config).err().expect("in use").to_string();
    assert!(error.contains(&std::process::id().to_string()), "{error}");
}

#[test]
fn handles_outlive_the_engine_and_say_so() {
    for driver in DRIVERS {
        let engine = Engine::open(&manual(driver, 2)).unwrap();
        let handle = engine.handle();
        let mut stream = handle.events(0, From::Now).unwrap();
        engine.stop();
        assert_eq!(handle.grant(secs(1)).wait(), Err(Error::Stopped));
        assert!(matches!(stream.next_blocking(), Err(tenure::EventsError::Stopped)));
    }
}

#[test]
fn a_big_lease_dies_at_once_and_its_items_leave_in_order() {
    let home = tempfile::tempdir().unwrap();
    let config = durable(home.path(), Driver::Ring, 1);
    let engine = Engine::open(&config).unwrap();
    let handle = engine.handle();
    let lease = handle.grant(secs(60)).wait().unwrap();
    // A thousand at a time: an inbox holds 4,096 messages, and beyond that a call is refused.
    for chunk in 0..20 {
        let attach = |n| handle.attach(lease.id, format!("item/{n:05}"));
        let pending: Vec<_> = (chunk * 1_000..(chunk + 1) * 1_000).map(attach).collect();
        for attached in pending {
            attached.wait().unwrap();
        }
    }
    assert_eq!(handle.revoke(lease.id).wait().unwrap().item_count, 20_000);
    assert!(handle.lease_of("item/19999").wait().unwrap().is_empty(), "dead at once");
    engine.settle();
    let check = |handle: &Handle| {
        let events = all_events(handle);
        let mut items = Vec::new();
        let mut last_seen = 0;
        for event in &events {
            if let Event::Items { items: some, last, .. } = event {
                items.extend(some.iter().map(|item| String::from_utf8(item.to_vec()).unwrap()));
                last_seen += usize::from(*last);
            }
        }
        assert_eq!(last_seen, 1, "S9 once");
        let expected: Vec<String> = (0..20_000).map(|n| format!("item/{n:05}")).collect();
        assert!(items == expected, "sorted and whole: {} items", items.len());
    };
    check(&handle);
    engine.stop();
    check(&Engine::open(&config).unwrap().handle());
}

#[test]
fn events_that_only_memory_still_has_are_told() {
    for driver in DRIVERS {
        let home = tempfile::tempdir().unwrap();
        let config =
            Config { snapshot_log_bytes: 1 << 20, retain_bytes: 0, ..durable(home.path(), driver, 1) };
        let engine = Engine::open(&config).unwrap();
        let handle = engine.handle();
        let lease = handle.grant(secs(60)).wait().unwrap().id;
        handle.revoke(lease).wait().unwrap();
        let segment = home.path().join("shard-0000").join(format!("{:020}.log", 0));
        assert!(segment.exists(), "the end is in the first segment");
        while segment.exists() {
            let grants = vec![Grant { id: None, ttl_ms: 3_600_000, key: None }; 2_000];
            let granted = handle.grant_batch(&grants).wait().unwrap();
            let ids: Vec<LeaseId> = granted.into_iter().map(|result| result.unwrap().id).collect();
            handle.revoke_batch(&ids).wait().unwrap();
        }
        let told = ended(&all_events(&handle));
        assert!(
            told.contains(&(lease, Cause::Revoked)),
            "{driver:?}: S9 once: the end is kept, and not told"
        );
    }
}

#[test]
fn weaker_durabilities_answer_at_once_and_lose_nothing_at_a_stop() {
    for durability in [Durability::Interval(Duration::from_millis(5)), Durability::None] {
        let home = tempfile::tempdir().unwrap();
        let config =
            Config { durability, snapshot_log_bytes: 1 << 20, ..durable(home.path(), Driver::Ring, 1) };
        let engine = Engine::open(&config).unwrap();
        let handle = engine.handle();
        for _ in 0..30 {
            let grants = vec![Grant { id: None, ttl_ms: 3_600_000, key: None }; 2_000];
            handle.grant_batch(&grants).wait().unwrap();
        }
        // A snapshot waits for the log to be on disk, which here takes a sync of its own.
        while handle.stats().wait().unwrap()[0].snapshots == 0 {
            let granted = handle.grant(secs(3_600)).wait();
            // Nobody waits for the disk here, so a slow one falls behind.
            assert!(granted.is_ok() || refused(&granted) == Some(Refusal::Busy), "{granted:?}");
        }
        let dump = handle.dump().wait().unwrap();
        engine.stop();
        let engine = Engine::open(&config).unwrap();
        assert_eq!(engine.handle().dump().wait().unwrap(), dump, "S4 replay-equal, {durability:?}");
    }
}

#[test]
fn an_engine_in_memory_does_not_give_out_the_ids_of_its_predecessor() {
    let first_id = || {
        let engine = Engine::open(&manual(Driver::Ring, 1)).unwrap();
        engine.handle().grant(secs(1)).wait().unwrap().id
    };
    let ids: BTreeSet<LeaseId> = (0..8).map(|_| first_id()).collect();
    assert_eq!(ids.len(), 8, "an old holder's ID must not hit somebody else's lease");
}
