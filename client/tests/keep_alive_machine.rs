//! The keep-alive machine in virtual time: against a small model of a server, hours in milliseconds.

use std::collections::BTreeMap;

use tenure_client::LossReason;
use tenure_client::machine::{Change, KeepAlive, KeepBatch, trusted_ms};
use tenure_client::protocol::{Failed, LeaseId, Refusal, shard_of};

/// What a server would know: the deadline of each lease.
#[derive(Default)]
struct Server {
    deadlines: BTreeMap<u64, (u64, u64)>,
    batches: u64,
    renewals: u64,
}

impl Server {
    /// Receives a batch at `now_ms`; promises at least receive time + TTL, as the contract says.
    fn renew(&mut self, now_ms: u64, batch: &KeepBatch) -> Vec<Failed> {
        self.batches += 1;
        let mut failed = Vec::new();
        for (index, id) in batch.ids.iter().enumerate() {
            match self.deadlines.get_mut(&id.0).filter(|(deadline, _)| *deadline > now_ms) {
                Some((deadline, ttl_ms)) => {
                    *deadline = now_ms + *ttl_ms + 1;
                    self.renewals += 1;
                }
                None => failed.push(Failed { index: index as u32, refusal: Refusal::NotFound }),
            }
        }
        failed
    }
}

/// A client and a server whose answers take `delay_ms` each way.
struct World {
    now_ms: u64,
    delay_ms: u64,
    client: KeepAlive<u64>,
    server: Server,
    valid_until: BTreeMap<u64, u64>,
    lost: Vec<(u64, LossReason, u64)>,
    /// Batches are thrown away while the network is down.
    is_cut: bool,
}

impl World {
    fn new(seed: u64, delay_ms: u64) -> World {
        World {
            now_ms: 1_000_000,
            delay_ms,
            client: KeepAlive::new(seed, 16_384),
            server: Server::default(),
            valid_until: BTreeMap::new(),
            lost: Vec::new(),
            is_cut: false,
        }
    }

    fn grant(&mut self, id: u64, ttl_ms: u64) {
        self.server.deadlines.insert(id, (self.now_ms + ttl_ms + 1, ttl_ms));
        let valid_until_ms = self.now_ms + trusted_ms(ttl_ms);
        self.valid_until.insert(id, valid_until_ms);
        self.client.add(self.now_ms, LeaseId(id), ttl_ms, valid_until_ms, id);
    }

    /// S2 seen from the client: what it trusts, the server still holds.
    fn check(&self, id: u64) {
        let valid_until_ms = self.valid_until[&id];
        if let Some((deadline_ms, _)) = self.server.deadlines.get(&id) {
            assert!(
                *deadline_ms >= valid_until_ms,
                "S2: lease {id} is trusted until {valid_until_ms}, promised until {deadline_ms}"
            );
        }
    }

    fn run_until(&mut self, end_ms: u64) {
        while let Some(wake_ms) = self.client.next_wake_ms().filter(|wake_ms| *wake_ms <= end_ms) {
            self.now_ms = self.now_ms.max(wake_ms);
            let (now_ms, lost) = (self.now_ms, &mut self.lost);
            let batches = self.client.poll(now_ms, &mut |id, reason| lost.push((id, reason, now_ms)));
            for batch in batches {
                if self.is_cut {
                    self.client.unanswered(now_ms, &batch);
                    continue;
                }
                let failed = self.server.renew(now_ms + self.delay_ms, &batch);
                let (valid_until, lost) = (&mut self.valid_until, &mut self.lost);
                let answered_ms = now_ms + 2 * self.delay_ms;
                self.client.answered(answered_ms, now_ms, &batch, &failed, &mut |id, change| match change {
                    Change::Renewed { valid_until_ms } => {
                        valid_until.insert(*id, valid_until_ms);
                    }
                    Change::Lost(reason) => lost.push((*id, reason, answered_ms)),
                });
                for id in &batch.ids {
                    self.check(id.0);
                }
            }
        }
        self.now_ms = self.now_ms.max(end_ms);
    }
}

#[test]
fn s2_kept_leases_live_on_whatever_their_ttl() {
    // Short TTLs for minutes, long ones for days.
    for (ttls_ms, time_ms) in [
        ([40, 100, 333, 1_000, 1_500, 10_000], 180_000),
        ([10_000, 60_000, 600_000, 3_600_000, 86_400_000, 9_000_000_000], 3 * 86_400_000),
    ] {
        let mut world = World::new(7, 3);
        for (index, ttl_ms) in ttls_ms.into_iter().cycle().take(30).enumerate() {
            world.now_ms += 13;
            world.grant(index as u64 + 1, ttl_ms);
            let now_ms = world.now_ms;
            world.run_until(now_ms);
        }
        let end_ms = world.now_ms + time_ms;
        world.run_until(end_ms);
        assert_eq!(world.lost, []);
        assert_eq!(world.client.len(), 30);
        for (id, valid_until_ms) in &world.valid_until {
            assert!(*valid_until_ms > end_ms, "lease {id}");
        }
    }
}

#[test]
fn a_hundred_thousand_leases_renew_in_few_frames() {
    let mut world = World::new(3, 1);
    for id in 1..=100_000 {
        world.grant(id, 60_000);
    }
    let start_ms = world.now_ms;
    world.run_until(start_ms + 60_000);
    assert_eq!(world.lost, []);
    let per_lease = world.server.renewals as f64 / 100_000.0;
    assert!((2.0..5.0).contains(&per_lease), "{per_lease} renewals a lease and TTL");
    assert!(world.server.batches < 80, "{} frames", world.server.batches);
}

#[test]
fn batches_keep_to_their_shard_and_size() {
    let mut keep: KeepAlive<()> = KeepAlive::new(1, 100);
    keep.set_shard_count(4);
    for id in 1..=5_000 {
        keep.add(0, LeaseId(id), 900, 900, ());
    }
    let mut seen = std::collections::BTreeSet::new();
    while let Some(now_ms) = keep.next_wake_ms().filter(|now_ms| *now_ms < 300) {
        for batch in keep.poll(now_ms, &mut |(), _| panic!("nothing is lost yet")) {
            assert!(batch.ids.len() <= 100);
            assert!(batch.ids.iter().all(|id| shard_of(*id, 4) == batch.shard));
            seen.extend(batch.ids.iter().copied());
            keep.answered(now_ms, now_ms, &batch, &[], &mut |(), _| {});
        }
    }
    assert_eq!(seen.len(), 5_000);
}

#[test]
fn an_ended_lease_is_lost_with_the_reason_that_the_clock_gives() {
    let mut world = World::new(5, 1);
    world.grant(1, 3_000);
    world.grant(2, 3_000);
    world.server.deadlines.remove(&1);
    let start_ms = world.now_ms;
    world.run_until(start_ms + 2_000);
    assert_eq!(world.lost.len(), 1);
    assert_eq!((world.lost[0].0, world.lost[0].1), (1, LossReason::Ended));
    assert_eq!(world.client.len(), 1, "the other is still kept");

    // The answer comes after the trusted time is over: the lease has simply expired.
    let mut keep: KeepAlive<()> = KeepAlive::new(1, 10);
    keep.add(0, LeaseId(9), 3_000, 2_900, ());
    let due_ms = keep.next_wake_ms().unwrap();
    let batch = keep.poll(due_ms, &mut |(), _| {}).remove(0);
    let failed = [Failed { index: 0, refusal: Refusal::NotFound }];
    let mut changes = Vec::new();
    keep.answered(5_000, due_ms, &batch, &failed, &mut |(), change| changes.push(change));
    assert_eq!(changes, [Change::Lost(LossReason::Expired)]);
}

#[test]
fn a_cut_network_loses_leases_at_their_time_and_a_short_one_does_not() {
    for (cut_ms, is_lost) in [(500, false), (1_500, false), (3_500, true)] {
        let mut world = World::new(11, 2);
        world.grant(1, 3_000);
        let start_ms = world.now_ms;
        world.run_until(start_ms + 10_000);
        let trusted_until_ms = world.valid_until[&1];
        world.is_cut = true;
        world.run_until(start_ms + 10_000 + cut_ms);
        world.is_cut = false;
        world.run_until(start_ms + 20_000);
        if is_lost {
            let [(1, LossReason::Unreachable, at_ms)] = world.lost[..] else { panic!("{:?}", world.lost) };
            assert!(at_ms >= trusted_until_ms, "not before its time");
            assert!(at_ms <= trusted_until_ms + 100, "soon after: {at_ms} for {trusted_until_ms}");
            assert!(world.client.is_empty() && world.client.next_wake_ms().is_none());
        } else {
            assert_eq!(world.lost, [], "cut for {cut_ms} ms");
        }
    }
}

#[test]
fn a_busy_server_does_not_lose_leases() {
    let mut keep: KeepAlive<()> = KeepAlive::new(1, 10);
    keep.add(0, LeaseId(9), 3_000, 2_900, ());
    let first_ms = keep.next_wake_ms().unwrap();
    let batch = keep.poll(first_ms, &mut |(), _| {}).remove(0);
    let failed = [Failed { index: 0, refusal: Refusal::Busy }];
    keep.answered(first_ms, first_ms, &batch, &failed, &mut |(), change| panic!("{change:?}"));
    let second_ms = keep.next_wake_ms().unwrap();
    assert!(second_ms > first_ms && second_ms <= first_ms + 500);
    assert_eq!(keep.poll(second_ms, &mut |(), _| {})[0].ids, [LeaseId(9)]);
}

#[test]
fn an_unanswered_batch_is_sent_again_and_the_late_answer_still_counts() {
    let mut keep: KeepAlive<()> = KeepAlive::new(1, 10);
    keep.add(0, LeaseId(9), 3_000, 2_900, ());
    let first_ms = keep.next_wake_ms().unwrap();
    let first = keep.poll(first_ms, &mut |(), _| {}).remove(0);
    let second_ms = keep.next_wake_ms().unwrap();
    let second = keep.poll(second_ms, &mut |(), _| {}).remove(0);
    assert_eq!(second.ids, first.ids);
    let mut valid = Vec::new();
    keep.answered(second_ms + 5, second_ms, &second, &[], &mut |(), change| valid.push(change));
    keep.answered(second_ms + 9, first_ms, &first, &[], &mut |(), change| valid.push(change));
    let valid_until_ms = second_ms + trusted_ms(3_000);
    assert_eq!(valid, [Change::Renewed { valid_until_ms }; 2], "an overtaken answer takes nothing back");
}

/// The ID may be somebody else's by then, and that one's lease what was renewed.
#[test]
fn s2_an_answer_that_comes_when_the_time_is_up_does_not_bring_the_lease_back() {
    for is_late in [false, true] {
        let mut keep = KeepAlive::new(1, 16);
        let valid_until_ms = trusted_ms(3_000);
        keep.add(0, LeaseId(7), 3_000, valid_until_ms, ());
        let sent_ms = keep.next_wake_ms().unwrap();
        let batch = keep.poll(sent_ms, &mut |(), reason| panic!("{reason:?}")).remove(0);
        let mut changes = Vec::new();
        let answered_ms = valid_until_ms - u64::from(!is_late);
        keep.answered(answered_ms, sent_ms, &batch, &[], &mut |(), change| changes.push(change));
        let renewed = Change::Renewed { valid_until_ms: sent_ms + trusted_ms(3_000) };
        assert_eq!(changes, [if is_late { Change::Lost(LossReason::Unreachable) } else { renewed }]);
        assert_eq!(keep.is_empty(), is_late);
    }
}

#[test]
fn a_released_lease_is_not_renewed_and_its_place_is_not_confused() {
    let mut keep: KeepAlive<u8> = KeepAlive::new(1, 10);
    let first = keep.add(0, LeaseId(1), 3_000, 2_900, 1);
    let due_ms = keep.next_wake_ms().unwrap();
    let batch = keep.poll(due_ms, &mut |_, _| {}).remove(0);
    assert_eq!(keep.remove(first), Some(1));
    assert_eq!(keep.remove(first), None);
    let second = keep.add(due_ms, LeaseId(2), 3_000, due_ms + 2_900, 2);
    assert_ne!(first, second);
    let failed = [Failed { index: 0, refusal: Refusal::NotFound }];
    keep.answered(due_ms, due_ms, &batch, &failed, &mut |payload, change| panic!("{payload} {change:?}"));
    // S2: the answer about the old lease must not prolong the trust in the new one.
    keep.answered(due_ms, due_ms, &batch, &[], &mut |payload, change| panic!("{payload} {change:?}"));
    assert_eq!(keep.len(), 1);
    let mut lost = Vec::new();
    keep.close(&mut |payload, reason| lost.push((payload, reason)));
    assert_eq!(lost, [(2, LossReason::Closed)]);
    assert!(keep.is_empty());
}

#[test]
fn s8_one_poll_is_bounded() {
    let mut keep: KeepAlive<()> = KeepAlive::new(1, 16_384);
    for id in 1..=250_000 {
        keep.add(0, LeaseId(id), 3, 3, ());
    }
    let mut polls = 0;
    let mut lost = 0;
    while keep.next_wake_ms().is_some_and(|wake_ms| wake_ms <= 1_000) {
        let before = lost;
        let batches = keep.poll(1_000, &mut |(), _| lost += 1);
        let touched = lost - before + batches.iter().map(|batch| batch.ids.len()).sum::<usize>();
        assert!(touched <= 100_000, "{touched}");
        polls += 1;
    }
    assert_eq!(lost, 250_000);
    assert!(polls >= 3);
}

#[test]
fn the_allowance_is_a_thousandth_and_ten_ms_but_at_most_half() {
    let table = [
        (1, 1),
        (2, 1),
        (10, 5),
        (20, 10),
        (30, 20),
        (1_000, 989),
        (60_000, 59_930),
        (9_000_000_000, 8_990_999_990),
    ];
    for (ttl_ms, expected_ms) in table {
        assert_eq!(trusted_ms(ttl_ms), expected_ms, "TTL {ttl_ms}");
    }
}
