//! The shard against an obvious model, through random histories: every verb, every kind of id, pauses, role changes,
//! crashes at any durable position, fuzzy images at any moment.
//!
//! `model.rs` is what a lease engine means, in an ordered map and without any cleverness; `rig.rs` runs shard and
//! model side by side, `verbs.rs` compares them, `crash.rs` crashes the shard; this file makes the histories. Seeds are fixed; `PROPTEST_RNG_SEED` and
//! `PROPTEST_CASES` make longer runs with others.

mod crash;
mod model;
mod rig;
mod verbs;

use proptest::prelude::*;
use proptest::test_runner::{RngSeed, TestCaseError};
use rig::{Op, Rig, RigConfig};
use tenure_core::{Renewals, Role};

fn ops() -> impl Strategy<Value = Op> {
    let lease = 0..40usize;
    let item = 0..12u8;
    let ttl = prop_oneof![
        6 => 1..40u64,
        4 => 40..3_000u64,
        2 => 3_000..200_000u64,
        1 => Just(0),
        1 => Just((1 << 31) - 1),
        1 => Just(1 << 31),
        1 => (1u64 << 32)..(1 << 37),
        1 => 8_999_999_999_999..9_000_000_000_002u64,
    ];
    let step = prop_oneof![
        8 => 0..6u64,
        6 => 6..70u64,
        3 => 70..5_000u64,
        1 => 5_000..10_000_000u64,
        1 => (1u64 << 30)..(1 << 33),
    ];
    prop_oneof![
        14 => step.prop_map(Op::Advance),
        10 => (ttl.clone(), prop::option::weighted(0.3, 0..6u64)).prop_map(|(ttl, key)| Op::Grant { chosen: None, ttl, key }),
        8 => (0..24usize, ttl, prop::option::weighted(0.3, 0..6u64))
            .prop_map(|(chosen, ttl, key)| Op::Grant { chosen: Some(chosen), ttl, key }),
        10 => lease.clone().prop_map(Op::Renew),
        4 => prop::collection::vec(lease.clone(), 0..40).prop_map(Op::RenewBatch),
        4 => lease.clone().prop_map(Op::Revoke),
        1 => prop::collection::vec(lease.clone(), 0..40).prop_map(Op::RevokeBatch),
        5 => lease.clone().prop_map(Op::TimeToLive),
        2 => (lease.clone(), prop::option::of(item.clone()), 0..30usize)
            .prop_map(|(lease, after, bytes)| Op::Items { lease, after, bytes }),
        2 => (1..20usize).prop_map(Op::List),
        8 => (lease.clone(), item.clone()).prop_map(|(lease, item)| Op::Attach { lease, item }),
        3 => (lease, item.clone()).prop_map(|(lease, item)| Op::Detach { lease, item }),
        3 => item.prop_map(Op::LeaseOf),
        8 => prop_oneof![Just(1usize), 2..5usize, Just(1_000_000)].prop_map(Op::Expire),
        8 => prop_oneof![Just(1usize), 2..9usize, Just(1_000_000)].prop_map(Op::Maintain),
        6 => Just(Op::Seal),
        5 => (0..=100u8).prop_map(Op::Durable),
        5 => (1..300usize).prop_map(Op::Image),
        1 => prop_oneof![Just(0u64), 1..100u64, Just(100_000)].prop_map(Op::Promote),
        1 => Just(Op::Demote),
        1 => (0..200u64).prop_map(Op::Hold),
        2 => Just(Op::Release),
        2 => (0..=100u8, 0..1000u64).prop_map(|(part, pause)| Op::Crash { part, pause }),
        3 => Just(Op::Check),
    ]
}

fn configs() -> impl Strategy<Value = RigConfig> {
    let interval = prop_oneof![Just(None), Just(Some(20u64)), Just(Some(500)), Just(Some(60_000))];
    (prop_oneof![Just(1u16), Just(3), Just(256)], any::<bool>(), interval, any::<bool>(), 2..30u32, 1..30u64)
        .prop_map(|(shard_count, logged, checkpoint_interval_ms, tight, lease_count_max, ttl_ms_min)| {
            RigConfig {
                shard_count,
                renewals: if logged { Renewals::Logged } else { Renewals::Unlogged },
                checkpoint_interval_ms,
                role: Role::Primary,
                tight,
                lease_count_max,
                ttl_ms_min,
            }
        })
}

fn runs(cases: u32, seed: u64) -> ProptestConfig {
    ProptestConfig {
        cases: std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(cases),
        rng_seed: std::env::var("PROPTEST_RNG_SEED")
            .ok()
            .and_then(|seed| seed.parse().ok())
            .map_or(RngSeed::Fixed(seed), RngSeed::Fixed),
        failure_persistence: None,
        max_shrink_iters: 1_000,
        ..ProptestConfig::default()
    }
}

fn play(config: &RigConfig, history: &[Op]) -> Result<Rig, TestCaseError> {
    let mut rig = Rig::new(config.clone());
    for op in history {
        rig.step(op);
    }
    rig.check();
    Ok(rig)
}

proptest! {
    #![proptest_config(runs(3_000, 1))]

    /// S1–S9 through every verb: the rig names the one that fails.
    #[test]
    fn shard_and_model_agree(config in configs(), history in prop::collection::vec(ops(), 1..160)) {
        play(&config, &history)?;
    }
}

proptest! {
    #![proptest_config(runs(150, 2))]

    /// S5: the same inputs give the same log bytes, the same dump.
    #[test]
    fn the_same_history_gives_the_same_bytes(config in configs(), history in prop::collection::vec(ops(), 1..160)) {
        let (first, second) = (play(&config, &history)?, play(&config, &history)?);
        prop_assert_eq!(first.log_bytes(), second.log_bytes());
        prop_assert_eq!(first.dump(), second.dump());
    }
}

proptest! {
    #![proptest_config(runs(30, 3))]

    /// Long histories: slots are reused, generations run out, references are compacted.
    #[test]
    fn long_histories(config in configs(), history in prop::collection::vec(ops(), 2_000..3_000)) {
        play(&config, &history)?;
    }
}
