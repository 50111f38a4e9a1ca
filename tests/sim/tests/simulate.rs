//! The simulator in the default test run: few seeds, each the same on every machine.
//!
//! `cargo sim` runs many; see `docs/testing.md`.

use tenure_sim::checkers::s5_deterministic;
use tenure_sim::plan::{Plan, Profile};
use tenure_sim::sweep::{Amount, run, sweep};

#[test]
fn the_same_seed_twice_is_the_same_to_the_byte() {
    for (seed, profile) in [(1, Profile::Swarm), (1_003, Profile::Swarm), (7, Profile::Crashes)] {
        let (one, other) = (run(Plan::draw(seed, profile), true), run(Plan::draw(seed, profile), true));
        assert_eq!(one.failure, None, "seed {seed}");
        assert!(one.trace == other.trace, "seed {seed}: the traces differ");
        assert!(one.trace.lines().count() > 100, "seed {seed}: hardly anything happened");
        s5_deterministic::same_twice(seed, one.digests, other.digests).unwrap();
    }
}

#[test]
fn crashes_lose_nothing_that_was_acknowledged() {
    let sum = sweep(1, Amount::Crashes(3_000), 2, Profile::Crashes, &|_| {}, &|_| {});
    assert_eq!(sum.failure, None, "repeat: cargo sim SEED --profile crashes --trace");
    assert!(sum.crashes >= 3_000);
}

#[test]
fn swarms_of_faults_break_no_invariant_and_heal() {
    let sum = sweep(1_000, Amount::Seeds(60), 2, Profile::Swarm, &|_| {}, &|_| {});
    assert_eq!(sum.failure, None, "repeat: cargo sim SEED --trace");
}

/// The seed as it was when it found something: before clients' clocks leapt.
fn as_it_was(seed: u64) -> Plan {
    let mut plan = Plan::draw(seed, Profile::Swarm);
    assert!(plan.without("leap"));
    plan
}

/// Two log writes are in flight; the power fails when the second is on disk and the first is not. What is
/// recovered must end before the first: it once went on with the second, because recovery began at a snapshot
/// at the start of the first one's segment, and did not ask what the second names as its predecessor.
#[test]
fn recovery_from_a_snapshot_stops_at_a_lost_write() {
    let report = run(as_it_was(1_062), false);
    assert_eq!(report.failure, None);
}

/// A grant is repeated while another lease of its ID still lived when it was asked: what that one had been
/// promised is not the answered one's. The simulator once held it against the engine.
#[test]
fn a_repeated_grant_is_judged_by_its_own_promise() {
    let report = run(as_it_was(100_936), false);
    assert_eq!(report.failure, None);
}

/// Two promotions race, and the shorter one comes first: the longer one finds a primary and extends nothing.
/// The simulator once took it for a promise.
#[test]
fn a_promotion_that_came_second_promises_nothing() {
    let report = run(as_it_was(306_937), false);
    assert_eq!(report.failure, None);
}

/// A renewal is sent in time and arrives after the lease has ended and its chosen ID has been granted to somebody
/// else: what it renews is that one's. The first holder once took the answer for its own lease.
#[test]
fn a_late_answer_brings_no_lease_back() {
    let report = run(Plan::draw(223_330, Profile::Swarm), false);
    assert_eq!(report.failure, None);
}

/// A subscriber asks for what memory has forgotten and a full disk does not have: it waits for the disk. The
/// simulator once called that starvation.
#[test]
fn a_subscribe_may_wait_for_a_full_disk() {
    let report = run(Plan::draw(3_524, Profile::Swarm), false);
    assert_eq!(report.failure, None);
}

/// A snapshot recycles every segment, the disk is full, and a subscriber asks for what was in them: it is too
/// old, not damaged.
#[test]
fn a_log_without_a_segment_is_not_damaged() {
    let report = run(as_it_was(988), false);
    assert_eq!(report.failure, None);
}

/// The log needs a segment amid the storm, and a disk that had been full is tried again a second later only. The
/// simulator once took that for starvation.
#[test]
fn a_storm_on_a_disk_that_was_full_comes_again() {
    for seed in [403_569, 6_448] {
        let report = run(as_it_was(seed), false);
        assert_eq!(report.failure, None, "seed {seed}");
    }
}
