//! A small set of scripts, each crashed in the middle of every single one of its disk operations.
//!
//! For each operation four runs: the power fails and of what was not durable nothing, everything, or any part
//! survives; the process is killed. Each run recovers under the eyes of every checker, plays the rest of its script,
//! loses its power once more, and must come to rest with everything answered and ended.

use tenure::{Durability, Renewals};
use tenure_sim::disk::{Failure, Survival};
use tenure_sim::plan::{ACTIONS, Plan, Profile};
use tenure_sim::sweep::play;
use tenure_sim::world::{Cut, Script};

/// A script and its setting.
struct Case {
    name: &'static str,
    script: &'static str,
    shards: u16,
    renewals: Renewals,
    /// Log that triggers a snapshot, bytes: with segments of four blocks, also how soon they are recycled.
    snapshot_log_bytes: u64,
    checkpoint_interval_ms: Option<u64>,
    /// TTLs are drawn from this range, ms.
    ttls: (u64, u64),
}

const PLAIN: Case = Case {
    name: "",
    script: "",
    shards: 1,
    renewals: Renewals::Unlogged,
    snapshot_log_bytes: u64::MAX,
    checkpoint_interval_ms: None,
    ttls: (5_000, 60_000),
};

const CASES: [Case; 11] = [
    Case {
        name: "grants",
        script: "rest, grant 2, round 1, grant-chosen 2, rest, grant-batch 2, rest",
        ..PLAIN
    },
    Case {
        name: "renewals",
        script: "rest, grant 3, rest, renew 3, pass 40, renew-batch 1, rest, pass 300, renew 2, rest",
        ..PLAIN
    },
    Case {
        name: "logged renewals",
        script: "rest, grant 3, rest, renew 3, round 1, renew-batch 2, rest, pass 300, renew 2, rest",
        renewals: Renewals::Logged,
        ..PLAIN
    },
    Case {
        name: "checkpoints",
        script: "rest, grant 4, rest, pass 250, rest, renew 2, pass 250, rest, renew 1, pass 250, rest",
        checkpoint_interval_ms: Some(200),
        ..PLAIN
    },
    Case {
        name: "items",
        script: "rest, grant 2, rest, attach 2, rest, detach 2, rest, attach 3, rest, revoke 1, rest",
        ..PLAIN
    },
    Case {
        name: "ends",
        script: "rest, subscribe 1, grant 4, grant-chosen 1, rest, revoke 1, round 1, revoke-batch 1, rest, \
                 grant-chosen 1, rest, pass 400, rest",
        ttls: (50, 300),
        ..PLAIN
    },
    Case {
        name: "snapshots and recycled segments",
        script: "rest, subscribe 1, grant 2, rest, grant 1, rest, attach 1, rest, revoke 1, rest, grant-batch 1, rest, \
                 grant 1, rest, grant 1, rest, revoke 1, rest, grant 1, rest, grant 1, rest, revoke 1, rest",
        snapshot_log_bytes: 12 << 10,
        ..PLAIN
    },
    Case {
        name: "stops and starts",
        script: "rest, grant 2, rest, stop, rest, attach 1, rest, stop, rest, grant 1, rest, kill, rest, renew 1, rest",
        snapshot_log_bytes: 12 << 10,
        ..PLAIN
    },
    Case {
        name: "recovery",
        script: "rest, grant 3, rest, attach 1, rest, grant 2, round 1, crash, rest, revoke 1, rest, grant 1, round 1, \
                 crash, rest, pass 400, rest, kill, rest",
        snapshot_log_bytes: 12 << 10,
        checkpoint_interval_ms: Some(200),
        ..PLAIN
    },
    Case {
        name: "re-sharding",
        script: "rest, grant 3, grant-chosen 2, rest, attach 2, rest, reshard 3, rest, grant 1, revoke 1, rest, reshard 2, \
                 rest, renew 2, rest",
        shards: 2,
        ..PLAIN
    },
    Case {
        name: "roles",
        script: "rest, grant 2, rest, demote 1, rest, stop, rest, pass 300, rest, promote 1, rest, grant 1, rest",
        ttls: (100, 5_000),
        ..PLAIN
    },
];

const CUTS: [(Failure, Option<Survival>); 4] = [
    (Failure::Power, Some(Survival::None)),
    (Failure::Power, Some(Survival::All)),
    (Failure::Power, None),
    (Failure::Kill, None),
];

fn plan(case: &Case, bug: Option<tenure_planted::Bug>) -> Plan {
    Plan {
        shards: case.shards,
        clients: 1,
        durability: Durability::Always,
        renewals: case.renewals,
        segment_bytes: 16 << 10,
        snapshot_log_bytes: case.snapshot_log_bytes,
        retain_bytes: 0,
        event_buffer_bytes: 1 << 20,
        checkpoint_interval_ms: case.checkpoint_interval_ms,
        lease_count_max: 1_000,
        ttls: vec![case.ttls],
        actions: [0; ACTIONS.len()],
        bug,
        ..Plan::draw(7, Profile::Swarm)
    }
}

/// Crashes one script everywhere. Returns its operations, and the crashes of all runs.
fn crash_everywhere(case: &Case, bug: Option<tenure_planted::Bug>) -> Result<(u64, u64), String> {
    let whole = Script { text: case.script, cut: None };
    let (operations, mut crashes) = play(plan(case, bug), whole)?;
    for at in 1..=operations {
        for (failure, survival) in CUTS {
            let cut = Some(Cut { at, failure, survival });
            let outcome = play(plan(case, bug), Script { cut, ..whole });
            let (_, more) = outcome
                .map_err(|text| format!("{text}\n  in `{}`, {failure:?} at {at}, {survival:?}", case.name))?;
            crashes += more;
        }
    }
    Ok((operations, crashes))
}

#[test]
fn each_script_survives_a_crash_in_each_disk_operation() {
    let (mut operations, mut crashes) = (0, 0);
    for case in &CASES {
        let (some, more) = crash_everywhere(case, None).unwrap_or_else(|text| panic!("{text}"));
        println!("{:<32} {some:>5} operations, {more:>5} crashes", case.name);
        assert!(some > 10, "{}: hardly anything happened", case.name);
        (operations, crashes) = (operations + some, crashes + more);
    }
    println!("{operations} operations, {crashes} crashes and recoveries");
}

/// The enumeration is worth something: mistakes that only a crash at the right operation shows are found.
#[cfg(feature = "planted")]
#[test]
fn a_mistake_at_a_single_operation_is_found() {
    use tenure_planted::Bug;
    let mut missed = Vec::new();
    for bug in [
        Bug::AckAtOnce,
        Bug::SegmentNameUnsynced,
        Bug::ManifestUnsynced,
        Bug::SnapshotUnsynced,
        Bug::ReclaimsTooMuch,
        Bug::ForgetsDetach,
        Bug::StaleCheckpoint,
        Bug::ForgetsRole,
        Bug::EndsTwice,
    ] {
        match CASES.iter().find_map(|case| crash_everywhere(case, Some(bug)).err()) {
            Some(text) => println!("{bug:?}: {text}"),
            None => missed.push(bug),
        }
    }
    // The panic hook listens for violations: say it here.
    println!("not found: {missed:?}");
    assert!(missed.is_empty());
}
