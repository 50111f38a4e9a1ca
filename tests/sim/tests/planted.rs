//! Every planted bug is caught by the checker of its own invariant, within a bounded number of seeds.
//!
//! Needs `--features planted`: `cargo test -p tenure-sim --features planted --test planted`.
#![cfg(feature = "planted")]

use tenure_planted::{BUGS, Bug};
use tenure_sim::checkers::{named, s5_deterministic};
use tenure_sim::plan::{Plan, Profile};
use tenure_sim::sweep::run;

/// Seeds within which a bug must be caught.
const SEEDS_MAX: u64 = 1_500;

/// The first seed whose run names the invariant, and what it says; else what was named instead.
fn caught(bug: Bug, checker: &str) -> Result<(u64, String), Vec<String>> {
    let mut others = Vec::new();
    for seed in 1_000..1_000 + SEEDS_MAX {
        let profile = if seed % 2 == 0 { Profile::Swarm } else { Profile::Crashes };
        let plan = || Plan { bug: Some(bug), ..Plan::draw(seed, profile) };
        let report = run(plan(), false);
        let mut failure = report.failure;
        if checker == "S5" && failure.is_none() {
            failure = s5_deterministic::same_twice(seed, report.digests, run(plan(), false).digests).err();
        }
        match failure {
            Some(text) if named(&text) == checker => return Ok((seed, text)),
            Some(text) => others.push(text),
            None => {}
        }
    }
    others.truncate(3);
    Err(others)
}

#[test]
fn each_planted_bug_is_caught_by_its_own_checker() {
    let mut missed = Vec::new();
    for &(bug, name, checker, text) in BUGS {
        match caught(bug, checker) {
            Ok((seed, said)) => println!("{checker} {name}: seed {seed}: {said}"),
            Err(others) => missed.push(format!("{name} ({checker}: {text}): {others:#?}")),
        }
    }
    // The panic hook listens for violations: say it here.
    println!("not caught within {SEEDS_MAX} seeds:\n{}", missed.join("\n"));
    assert!(missed.is_empty(), "planted bugs that nobody caught");
}

#[test]
fn each_invariant_that_is_checked_has_a_planted_bug() {
    for checker in ["S1", "S2", "S3", "S4", "S5", "S6", "S7", "S8", "S9", "L1", "L2", "L3"] {
        assert!(BUGS.iter().any(|(_, _, of, _)| *of == checker), "no planted bug for {checker}");
    }
    assert!(BUGS.len() >= 25);
}
