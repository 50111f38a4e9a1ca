//! Small spaces, enumerated: where deadlines, levels, clocks, budgets and ids have their edges.

use tenure_core::*;

/// One shard and its open batch, with the calls a test makes most.
struct Bench {
    shard: Shard,
    log: RecordBuffer,
}

impl Bench {
    fn at(now: u64) -> Bench {
        Bench::with(now, ShardConfig { checkpoint_interval_ms: None, ..ShardConfig::new(ShardIndex(0), 1) })
    }

    fn with(now: u64, mut config: ShardConfig) -> Bench {
        config.lease_count_max = config.lease_count_max.min(1_100_000);
        Bench { shard: Shard::new(config), log: RecordBuffer::new(Position(64), Time(now)) }
    }

    fn grant(&mut self, now: u64, ttl_ms: u64) -> LeaseId {
        self.try_grant(now, None, ttl_ms).result.expect("granted").id
    }

    fn try_grant(&mut self, now: u64, id: Option<u64>, ttl_ms: u64) -> Answer<Granted> {
        let grant = Grant { id: id.map(LeaseId), ttl_ms, key: None };
        self.shard.grant(Time(now), &grant, &mut self.log)
    }

    fn renew(&mut self, now: u64, id: LeaseId) -> Answer<Renewed> {
        self.shard.renew(Time(now), id, &mut self.log)
    }

    fn expire(&mut self, now: u64) -> usize {
        let progress = self.shard.expire(Time(now), usize::MAX, &mut self.log);
        assert!(!progress.more);
        progress.ended
    }

    fn settle(&mut self) {
        self.shard.durable(self.log.tail());
    }
}

const TTL_MS_MAX: u64 = 9_000_000_000_000;

fn ttls() -> Vec<u64> {
    // Levels of the wheel begin at multiples of 8 bits; 6 bits would be another wheel's.
    let around = [6, 8, 12, 16, 18, 24, 30, 32, 36, 40].into_iter().flat_map(|bits| {
        let span = 1u64 << bits;
        [span - 2, span - 1, span, span + 1, span + 2]
    });
    let wide = [(1 << 31) - 2, (1 << 31) - 1, 1 << 31, (1 << 31) + 1, (1 << 32) - 1, 1 << 32, (1 << 32) + 1];
    around.chain([1, 2, 3, 999, 60_000]).chain(wide).chain([1 << 37, 1 << 42, TTL_MS_MAX]).collect()
}

fn clocks() -> [u64; 12] {
    [
        0,
        1,
        63,
        255,
        4_095,
        65_535,
        (1 << 24) - 1,
        (1 << 31) - 7,
        (1 << 32) - 40,
        1 << 32,
        (1 << 36) - 3,
        987_654_321_012,
    ]
}

/// S2 and L1 for every TTL around every boundary, from every awkward clock: alive at now + TTL, dead a millisecond
/// later, whether a verb or the wheel comes by first.
#[test]
fn leases_live_exactly_as_long_as_promised() {
    for now in clocks() {
        for ttl_ms in ttls() {
            let (mut met, mut drained) = (Bench::at(now), Bench::at(now));
            let (a, b) = (met.grant(now, ttl_ms), drained.grant(now, ttl_ms));
            let case = format!("TTL {ttl_ms} granted at {now}");
            let alive = met.shard.time_to_live(Time(now + ttl_ms), a, &mut met.log).result.expect(&case);
            assert_eq!((alive.ttl_ms, alive.remaining_ms), (ttl_ms, 1), "{case}");
            assert_eq!(drained.expire(now + ttl_ms), 0, "{case}");
            drained.shard.check_invariants();
            assert_eq!(met.renew(now + ttl_ms + 1, a).result, Err(Refusal::NotFound), "{case}");
            assert_eq!(drained.expire(now + ttl_ms + 1), 1, "{case}");
            assert_eq!(drained.renew(now + ttl_ms + 1, b).result, Err(Refusal::NotFound), "{case}");
            assert_eq!(met.expire(now + ttl_ms + 1), 0, "S9 once: {case}");
            for bench in [&met, &drained] {
                bench.shard.check_invariants();
                assert_eq!(bench.shard.stats().lease_count, 0);
                assert_eq!(bench.log.ends().len(), 1, "S9 once: {case}");
            }
        }
    }
}

/// The same after renewals, one by one and in batches; the wheel wakes in time every time.
#[test]
fn renewals_extend_from_their_own_moment() {
    for start in clocks() {
        for ttl_ms in ttls() {
            let mut bench = Bench::at(start);
            let id = bench.grant(start, ttl_ms);
            let mut now = start;
            for round in 0..4 {
                now += ttl_ms / 2 + 1;
                bench.settle();
                if round % 2 == 0 {
                    assert!(bench.renew(now, id).result.is_ok());
                } else {
                    let mut failed = Vec::new();
                    bench.shard.renew_batch(Time(now), &[id; 3], &mut failed, &mut bench.log).unwrap();
                    assert_eq!(failed, []);
                }
                assert_eq!(bench.expire(now), 0);
            }
            while let Some(Time(wake)) = bench.shard.next_wake() {
                assert!(wake <= now + ttl_ms + 1, "L1 bounded-lateness: wakes at {wake}");
                let ended = bench.expire(wake.max(now));
                assert_eq!(
                    ended == 1,
                    wake == now + ttl_ms + 1,
                    "TTL {ttl_ms} renewed at {now}, woken at {wake}"
                );
            }
            assert_eq!(bench.shard.stats().lease_count, 0);
        }
    }
}

/// The u32 deadlines wrap every 49.7 days; a lease kept alive across several wraps notices nothing.
#[test]
fn deadlines_wrap_unnoticed() {
    let mut bench = Bench::at(0);
    let (kept, long) = (bench.grant(0, 3_600_000), bench.grant(0, 1 << 33));
    bench.settle();
    let mut now = 0;
    while now < 3 << 32 {
        now += 3_500_000;
        assert!(bench.renew(now, kept).result.is_ok(), "at {now}");
        if now % (1 << 32) < 3_500_000 {
            assert!(bench.renew(now, long).result.is_ok());
            bench.shard.check_invariants();
        }
        assert_eq!(bench.expire(now), 0, "at {now}");
    }
    assert_eq!(bench.expire(now + (1 << 33) + 1), 2);
}

/// A verb first, the wheel not for a long time: deadlines are still read right.
#[test]
fn a_wheel_far_behind_the_clock_misreads_nothing() {
    for pause in [1 << 30, (1 << 31) - 5, 1 << 31, (1 << 32) - 1, 1 << 32, (1 << 33) + 5] {
        let mut bench = Bench::at(0);
        let dead = bench.grant(0, 1_000);
        bench.settle();
        bench.shard.hold_horizon(Time(500));
        assert!(bench.renew(pause, dead).result.is_ok(), "held: it may still be renewed");
        let fresh = bench.grant(pause, (1 << 31) - 1);
        bench.shard.check_invariants();
        bench.shard.release_horizon();
        assert!(bench.renew(pause + 1_000, dead).result.is_ok(), "renewed at {pause} for 1000 ms and a bit");
        assert!(bench.renew(pause + 2_002, dead).result.is_err());
        assert!(bench.renew(pause + (1 << 31) - 1, fresh).result.is_ok());
        assert_eq!(bench.expire(pause + (1 << 31)), 0);
        bench.shard.check_invariants();
    }
}

/// Hours in one step, with a budget of one and without: the same leases end, in the same number of entries.
#[test]
fn a_jump_of_hours_in_one_step() {
    let mut ends = Vec::new();
    for budget in [1, 2, 61, 1_000, usize::MAX] {
        let mut bench = Bench::at(5);
        for i in 0..3_000u64 {
            bench.grant(5 + i / 10, 1 + i * i % 9_000_000);
        }
        // The wheel refers to lines of four leases: a budget is rounded up to whole lines.
        let leases_max = budget.div_ceil(4).saturating_mul(4);
        let mut calls = 0;
        loop {
            calls += 1;
            let progress = bench.shard.expire(Time(8_000_000), budget, &mut bench.log);
            assert!(progress.ended <= leases_max);
            bench.shard.check_invariants();
            if !progress.more {
                break;
            }
        }
        assert!(
            calls >= bench.shard.stats().expired_total as usize / leases_max,
            "L3 fair: a budget of {budget} bounds each call"
        );
        ends.push(bench.shard.stats().expired_total);
    }
    assert!(ends.iter().all(|&ended| ended == ends[0] && ended > 2_000), "{ends:?}");
}

/// 1 M leases with one deadline: bounded turns, 16 bytes and one position each, every one exactly once.
#[test]
fn a_million_leases_on_one_tick() {
    let count = 1_000_000;
    let mut bench = Bench::at(0);
    for i in 0..count {
        bench.grant(0, 30_000);
        if i % 10_000 == 0 {
            bench.settle();
        }
    }
    let (tail, mut turns) = (bench.log.tail(), 0);
    let mut ended = 0;
    bench.log = RecordBuffer::new(tail, Time(30_001));
    loop {
        let progress = bench.shard.expire(Time(30_001), 1_024, &mut bench.log);
        (ended, turns) = (ended + progress.ended, turns + 1);
        if !progress.more {
            break;
        }
    }
    assert_eq!(ended, count);
    assert!(turns > count / 1_024);
    let bytes = bench.log.bytes().len();
    assert!(bytes <= count * 16 + (turns + count / 4_096) * 8, "{bytes} bytes");
    let mut tokens = Vec::with_capacity(count);
    for record in RecordIter::new(tail, bench.log.bytes()) {
        match record.unwrap().1 {
            Record::Ended { cause: Cause::Expired, items_follow: false, entries } => {
                tokens.extend(entries.map(|(_, token)| token));
            }
            other => panic!("unexpected {other}"),
        }
    }
    tokens.sort_unstable();
    tokens.dedup();
    assert_eq!(tokens.len(), count, "S9 once");
}

/// An overdue lease is dead to whichever verb meets it first: that verb writes the record and waits for it (S3).
#[test]
fn the_first_to_meet_an_overdue_lease_ends_it() {
    type Verb = fn(&mut Bench, LeaseId) -> (Result<(), Refusal>, Position);
    fn of<T>(answer: Answer<T>) -> (Result<(), Refusal>, Position) {
        (answer.result.map(|_| ()), answer.after)
    }
    let verbs: [(&str, Verb); 8] = [
        ("renew", |bench, id| of(bench.shard.renew(Time(1_000), id, &mut bench.log))),
        ("revoke", |bench, id| of(bench.shard.revoke(Time(1_000), id, &mut bench.log))),
        ("ttl", |bench, id| of(bench.shard.time_to_live(Time(1_000), id, &mut bench.log))),
        ("attach", |bench, id| of(bench.shard.attach(Time(1_000), id, b"x", &mut bench.log))),
        ("detach", |bench, id| of(bench.shard.detach(Time(1_000), id, b"here", &mut bench.log))),
        ("items", |bench, id| {
            of(bench.shard.items(Time(1_000), id, None, 100, &mut Vec::new(), &mut bench.log))
        }),
        ("lease_of", |bench, _| {
            let answer = bench.shard.lease_of(Time(1_000), b"here", &mut bench.log);
            (answer.result.map(|owner| assert_eq!(owner, None)).and(Err(Refusal::NotFound)), answer.after)
        }),
        ("list", |bench, _| {
            let mut page = Vec::new();
            let answer = bench.shard.list(Time(1_000), 0, 10, &mut page, &mut bench.log);
            assert_eq!(page, []);
            (answer.result.map(|next| assert_eq!(next, 0)).and(Err(Refusal::NotFound)), answer.after)
        }),
    ];
    for (name, verb) in verbs {
        let mut bench = Bench::at(0);
        let id = bench.grant(0, 999);
        assert!(bench.shard.attach(Time(0), id, b"here", &mut bench.log).result.is_ok());
        bench.settle();
        let before = bench.log.tail();
        let (result, after) = verb(&mut bench, id);
        assert_eq!(result, Err(Refusal::NotFound), "{name}");
        assert!(
            after > before && after == bench.log.tail(),
            "S3 ack-after-durable: {name} waits for {after}"
        );
        bench.settle();
        let (result, after) = verb(&mut bench, id);
        assert_eq!((result, after), (Err(Refusal::NotFound), Position::ZERO), "{name}, once durable");
    }
}

/// What each answer waits for, before and after the log is durable (S3).
#[test]
fn answers_about_settled_leases_wait_for_nothing() {
    let mut bench = Bench::at(0);
    let granted = bench.try_grant(0, None, 5_000);
    let id = granted.result.unwrap().id;
    assert_eq!(granted.after, bench.log.tail());
    assert_eq!(bench.renew(1, id).after, bench.log.tail(), "its grant could still be undone");
    let attached = bench.shard.attach(Time(1), id, b"a", &mut bench.log);
    assert_eq!(attached.after, bench.log.tail());
    bench.shard.durable(granted.after);
    assert_eq!(bench.renew(2, id).after, bench.log.tail(), "its item could still be lost");
    bench.settle();
    assert_eq!(bench.renew(3, id), Answer { result: Ok(Renewed { ttl_ms: 5_000 }), after: Position::ZERO });
    let other = bench.grant(4, 5_000);
    assert_eq!(bench.renew(4, id).after, Position::ZERO, "another lease's grant does not matter");
    let mut failed = Vec::new();
    let after = bench.shard.renew_batch(Time(5), &[id, id], &mut failed, &mut bench.log);
    assert_eq!(after, Ok(Position::ZERO));
    let after = bench.shard.renew_batch(Time(5), &[id, other], &mut failed, &mut bench.log);
    assert_eq!((after, failed.len()), (Ok(bench.log.tail()), 0));
}

/// S8: the limit refuses, and room appears when a lease ends.
#[test]
fn a_full_shard_refuses() {
    let mut bench = Bench::with(0, ShardConfig { lease_count_max: 3, ..ShardConfig::new(ShardIndex(0), 1) });
    let id = bench.grant(0, 10);
    bench.grant(0, 100);
    bench.grant(0, 100);
    assert_eq!(bench.try_grant(0, None, 10).result, Err(Refusal::LimitExceeded));
    assert_eq!(bench.try_grant(0, Some(77), 10).result, Err(Refusal::LimitExceeded));
    assert_eq!(bench.renew(11, id).result, Err(Refusal::NotFound));
    assert!(bench.try_grant(11, Some(77), 10).result.is_ok());
}

#[test]
fn refusals_of_a_grant() {
    let config = ShardConfig { ttl_ms_min: 50, ttl_ms_max: 1_000, ..ShardConfig::new(ShardIndex(1), 4) };
    let mut bench = Bench::with(0, config);
    let own = (1..).find(|&id| shard_of(LeaseId(id), 4) == ShardIndex(1)).unwrap();
    let cases = [
        (None, 0, Err(Refusal::TtlZero)),
        (None, 1_001, Err(Refusal::TtlTooLarge)),
        (None, u64::MAX, Err(Refusal::TtlTooLarge)),
        (Some(0), 100, Err(Refusal::IdReserved)),
        (Some(own ^ (1 << 63)), 49, Ok((50, true))),
        (Some(own), 1_000, Ok((1_000, false))),
        (Some(own), 1_000, Err(Refusal::AlreadyExists)),
        (None, 1, Ok((50, true))),
    ];
    for (id, ttl_ms, expected) in cases {
        let answer = bench.try_grant(0, id, ttl_ms);
        assert_eq!(
            answer.result.map(|granted| (granted.ttl_ms, granted.raised)),
            expected,
            "{id:?} {ttl_ms}"
        );
    }
    let foreign = (1..).find(|&id| shard_of(LeaseId(id), 4) != ShardIndex(1)).unwrap();
    assert_eq!(bench.try_grant(0, Some(foreign), 100).result, Err(Refusal::NotThisShard), "S1 one-shard");
    assert_eq!(bench.shard.stats().lease_count, 3);
}

/// A client may choose the very id that the server would choose next; neither hits the other's lease.
#[test]
fn chosen_and_assigned_ids_never_collide() {
    let mut bench = Bench::at(0);
    let first = bench.grant(0, 100);
    assert_eq!(bench.try_grant(0, Some(first.0), 100).result, Err(Refusal::AlreadyExists));
    let base = generation_range(ShardIndex(0), 1).start;
    let in_slot = |generation: u64, slot: u64| unmix((base + generation) << 28 | slot);
    // The chosen leases take slots 1 to 4 themselves; the server's next is in slot 5.
    let chosen = [in_slot(1, 5), in_slot(2, 5), in_slot(1, 1), in_slot(1, 6) | 1 << 63];
    for id in chosen {
        assert!(bench.try_grant(0, Some(id), 100).result.is_ok());
    }
    assert_eq!(bench.grant(0, 100), LeaseId(in_slot(3, 5)), "skips the two that clients have");
    assert_eq!(bench.grant(0, 100), LeaseId(in_slot(1, 6)), "the negative twin is another id");
    bench.shard.check_invariants();
    bench.settle();
    for id in chosen.into_iter().chain([first.0, in_slot(3, 5), in_slot(1, 6)]) {
        assert!(bench.renew(1, LeaseId(id)).result.is_ok(), "{id:016x}");
    }
    assert_eq!(bench.expire(200), 7);
}

/// The step back that S6 forbids is a bug of the caller.
#[test]
#[should_panic(expected = "S6 time-forward: the shard was at 10ms and is told 9ms")]
fn time_never_steps_back() {
    let mut bench = Bench::at(10);
    let id = bench.grant(10, 100);
    let _ = bench.renew(9, id);
}

/// A lease with many items dies at once; its items leave in order, in slices of bounded size, and are free meanwhile.
#[test]
fn a_big_lease_dies_at_once_and_leaves_in_slices() {
    let mut bench = Bench::at(0);
    let (big, other) = (bench.grant(0, 1_000), bench.grant(0, 100_000));
    let items: Vec<Vec<u8>> = (0..20_000).map(|i| format!("key/{i:06}").into_bytes()).collect();
    for item in &items {
        assert!(bench.shard.attach(Time(0), big, item, &mut bench.log).result.is_ok());
    }
    bench.log = RecordBuffer::new(bench.log.tail(), Time(0));
    assert_eq!(bench.expire(1_001), 1);
    let entry = bench.log.ends()[0].clone();
    assert_eq!(entry.bytes.len(), 24, "one entry");
    assert_eq!(bench.shard.lease_of(Time(1_001), &items[7], &mut bench.log).result, Ok(None));
    let moved = bench.shard.attach(Time(1_001), other, &items[19_999], &mut bench.log).result.unwrap();
    assert_eq!(moved.moved_from, None, "the item was on no live lease");
    let mut seen = Vec::new();
    loop {
        let before = bench.log.bytes().len();
        let more = bench.shard.maintain(Time(1_001), usize::MAX, &mut bench.log);
        let written = bench.log.bytes().len() - before;
        assert!(written <= limits::ENDED_ITEMS_BYTES_PER_CALL + 64, "S8 bounded: a slice of {written} bytes");
        if !more {
            break;
        }
    }
    let mut last = false;
    for record in RecordIter::new(bench.log.start(), bench.log.bytes()) {
        if let (_, Record::EndedItems { id, items, last: is_last, .. }) = record.unwrap() {
            assert_eq!((id, last), (big, false));
            last = is_last;
            seen.extend(items.map(<[u8]>::to_vec));
        }
    }
    assert!(last);
    assert_eq!(seen, items, "sorted, each once");
    assert_eq!(
        bench.shard.lease_of(Time(1_001), &items[19_999], &mut bench.log).result.unwrap().unwrap().0,
        other
    );
    bench.shard.check_invariants();
}

/// S8 without any help from `maintain`: grants pay for the references that lines leave behind when each new lease in them
/// has an earlier deadline than all before.
#[test]
fn grants_alone_keep_the_wheel_bounded() {
    let (slots, slack) = (1_000, 500);
    let config = ShardConfig { checkpoint_interval_ms: None, ..ShardConfig::new(ShardIndex(0), 1) };
    let bounds =
        limits::Bounds { slots_before_reuse: slots, wheel_reference_slack: slack, ..Default::default() };
    let mut shard = Shard::with_bounds(config, &bounds);
    let mut log = RecordBuffer::new(Position(64), Time(0));
    let mut live = std::collections::VecDeque::new();
    let mut worst = 0;
    for step in 0..60_000u64 {
        if live.len() == slots as usize {
            let oldest = live.pop_front().unwrap();
            assert!(shard.revoke(Time(0), oldest, &mut log).result.is_ok());
        }
        let grant = Grant { id: None, ttl_ms: 20_000_000 - step * 300, key: None };
        live.push_back(shard.grant(Time(0), &grant, &mut log).result.unwrap().id);
        worst = worst.max(shard.stats().wheel_reference_count);
    }
    let lines = u64::from(slots).div_ceil(4) + 1;
    let bound = (2 * lines + slack) * 5 / 4;
    assert!(worst > 2 * lines + slack && worst <= bound, "{worst} references, bound {bound}");
    shard.check_invariants();
}

/// An item costs more than a reference, so a call that may touch few of those takes fewer items (L3), but always one.
#[test]
fn a_small_budget_takes_few_items() {
    let mut bench = Bench::at(0);
    let lease = bench.grant(0, 1_000);
    for item in 0..20u8 {
        assert!(bench.shard.attach(Time(0), lease, &[item], &mut bench.log).result.is_ok());
    }
    assert_eq!(bench.expire(1_001), 1);
    let mut left = 20;
    for (budget, taken) in [(1, 1), (8 * limits::ITEM_TOUCHES, 8), (100 * limits::ITEM_TOUCHES, 11)] {
        bench.log = RecordBuffer::new(bench.log.tail(), Time(1_001));
        left -= taken;
        assert_eq!(bench.shard.maintain(Time(1_001), budget, &mut bench.log), left > 0);
        let written =
            RecordIter::new(bench.log.start(), bench.log.bytes()).map(|record| match record.unwrap().1 {
                Record::EndedItems { items, .. } => items.count(),
                other => panic!("nothing else is to do: {other:?}"),
            });
        assert_eq!(written.sum::<usize>(), taken, "of a budget of {budget}");
    }
}
