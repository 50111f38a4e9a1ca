//! Whole runs against a server that keeps the contract, and against servers that break it: the first
//! must come out clean, each of the others must not.
//!
//! Nothing here depends on how fast the machine is; every phase is kept as short as it may be.

#[path = "support/fake_server.rs"]
mod fake_server;

use std::path::PathBuf;
use std::time::Duration;

use fake_server::{Fault, SHARDS};
use tenure_bench::{BenchArgs, CpuChoice, Ids, Order, Phase, Report};

fn bench(fault: Fault, phases: &[Phase]) -> Report {
    bench_with(fault, phases, |_| ())
}

fn bench_with(fault: Fault, phases: &[Phase], change: impl FnOnce(&mut BenchArgs)) -> Report {
    let mut args = BenchArgs {
        endpoint: Some(fake_server::start(fault).to_string()),
        phases: phases.to_vec(),
        quick: true,
        leases: Some(3_000),
        connections: Some(4 * SHARDS as usize),
        load_threads: Some(2),
        depth: Some(8),
        duration: Some(Duration::from_millis(200)),
        rate: Some(2_000.0),
        foreground_rate: Some(1_000.0),
        expire_leases: Some(5_000),
        clients: Some(100),
        fleet_connections: Some(12),
        fleet_period: Some(Duration::from_millis(500)),
        pin_load: Some(CpuChoice::None),
        no_progress: true,
        ..BenchArgs::default()
    };
    change(&mut args);
    tenure_bench::measure(&args, PathBuf::new()).unwrap()
}

/// Every error of the rows, as text.
fn errors(report: &Report) -> String {
    let rows = report.rows.iter().map(|row| &row.errors).chain(report.lateness.iter().map(|row| &row.errors));
    let mut text: Vec<String> = rows.flat_map(|errors| errors.keys().cloned()).collect();
    text.extend(report.failures.iter().cloned());
    text.join("; ")
}

#[test]
fn a_server_that_keeps_the_contract_comes_out_clean() {
    let report = bench(Fault::None, &[]);
    assert!(report.is_clean(), "{}", report.to_text());
    let phases: Vec<&str> = report.rows.iter().map(|row| row.phase.as_str()).collect();
    assert_eq!(
        phases,
        [
            "connect",
            "fill",
            "renew",
            "renew1",
            "renew-batch",
            "grant",
            "grant1",
            "open",
            "lateness: loaded",
            "storm: fill",
            "storm: before",
            "storm: during",
            "revoke"
        ]
    );
    let row = |phase: &str| report.rows.iter().find(|row| row.phase == phase).unwrap();
    assert_eq!(row("fill").operations, 3_000);
    assert_eq!(row("storm: fill").operations, 5_000);
    assert_eq!(row("revoke").operations, 3_000 + row("grant").operations + row("grant1").operations);
    assert!(
        row("renew-batch").operations > row("renew-batch").latency.unwrap().count,
        "batches are counted by lease"
    );
    // An open loop sends what it promised, whatever the server does: 2,000/s for 0.2 s.
    assert_eq!(row("open").operations, 400);
    let storm = report.lateness.iter().find(|row| row.phase == "storm").unwrap();
    assert_eq!((storm.ended, storm.lateness.unwrap().count), (5_000, 5_000));
    let idle = report.lateness.iter().find(|row| row.phase == "lateness: idle").unwrap();
    assert!(idle.ended > 100 && idle.errors.is_empty(), "{idle:?}");
}

#[test]
fn workloads_come_out_clean_and_leave_no_lease_behind() {
    use Phase::{Churn, Cross, Fill, Fleet, GrantOpen, Mixed, Revoke};
    let phases = [Fill, Mixed, Fleet, Churn, Cross, GrantOpen, Revoke];
    let report = bench(Fault::ServesEveryShard, &phases);
    assert!(report.is_clean(), "{}", report.to_text());
    let row = |phase: &str| report.rows.iter().find(|row| row.phase == phase).unwrap();
    // 2,000 operations a second for 0.2 s: of them 5 % each are granted to expire, and to be revoked.
    // Renewals go on until the last of them has expired.
    assert!(row("mixed: renew").operations >= 320);
    assert_eq!(row("mixed: grant").operations, 40);
    assert!(row("mixed: attach").operations > 0);
    // And the leases with all their items: 6 each, 100 items a second.
    let mixed = report.lateness.iter().find(|row| row.phase == "mixed").unwrap();
    assert!((20..=23).contains(&mixed.ended), "{}", mixed.ended);
    // 3,000 leases in 0.5 s.
    assert_eq!((row("fleet: few").operations, row("fleet: many").operations), (1_200, 1_200));
    assert!(row("fleet: many").load.contains("20 conns"), "{}", row("fleet: many").load);
    assert!(row("churn").operations > 0);
    // An open loop sends what it promised: 2,000/s for 0.2 s.
    let granted = row("grant-open");
    assert!((granted.operations, granted.open_loop) == (400, true) && granted.send_lag.is_some());
    let cross: Vec<&str> =
        report.rows.iter().filter(|row| row.phase == "cross").map(|row| &*row.load).collect();
    assert_eq!(cross.len(), 3);
    assert!(cross[1].starts_with("50 % remote"), "{cross:?}");
    // What churned was revoked, but for what the mixed load still held.
    let still_held = 20 - row("mixed: revoke").operations;
    assert!((1..20).contains(&still_held), "{still_held}");
    assert_eq!(row("revoke").operations, 3_000 + 400 + still_held);
}

#[test]
fn every_order_and_either_kind_of_ids_is_renewed() {
    for (order, ids) in [(Order::Uniform, Ids::Chosen), (Order::Zipf, Ids::Assigned)] {
        let phases = [Phase::Renew, Phase::RenewBatch, Phase::Revoke];
        let report = bench_with(Fault::None, &phases, |args| (args.order, args.ids) = (order, ids));
        assert!(report.is_clean(), "{order:?}: {}", report.to_text());
    }
}

#[test]
fn a_refused_renewal_spoils_the_run() {
    for phase in [Phase::Renew, Phase::RenewBatch, Phase::Open] {
        let report = bench(Fault::ForgetsLeases, &[phase]);
        assert!(
            !report.is_clean() && errors(&report).contains("NotFound"),
            "{phase:?}: {}",
            report.to_text()
        );
    }
}

#[test]
fn s8_a_busy_server_is_asked_again_until_the_job_is_done() {
    let report = bench(Fault::IsBusy, &[Phase::Fill, Phase::Revoke]);
    assert!(report.is_clean(), "{}", report.to_text());
    for row in &report.rows[1..] {
        assert_eq!(row.operations, 3_000, "{}", row.phase);
        assert!(row.retries > 0, "{}", row.phase);
    }
    assert!(report.to_text().contains("the server was Busy"));
}

#[test]
fn a_storm_whose_grants_take_longer_than_foreseen_begins_again() {
    let report = bench(Fault::HesitatesOnce, &[Phase::Fill, Phase::Storm]);
    assert!(report.is_clean(), "{}", report.to_text());
    let fills = report.rows.iter().filter(|row| row.phase == "storm: fill");
    assert_eq!(
        fills.map(|row| row.operations).collect::<Vec<_>>(),
        [5_000],
        "only the fill that was in time"
    );
    let storm = report.lateness.iter().find(|row| row.phase == "storm").unwrap();
    assert_eq!(storm.ended, 5_000);
}

#[test]
fn a_phase_may_last_longer_than_a_server_bears_silence() {
    let report = bench(Fault::ClosesTheSilent, &[Phase::Fill, Phase::Lateness]);
    assert!(report.is_clean() && report.lateness.len() == 2, "{}", report.to_text());
}

#[test]
fn s2_an_early_end_spoils_the_run() {
    for phase in [Phase::Storm, Phase::Lateness] {
        let report = bench(Fault::EndsEarly, &[phase]);
        assert!(!report.is_clean() && errors(&report).contains("early (S2)"), "{}", report.to_text());
    }
}

#[test]
fn s9_a_lease_that_ends_twice_or_is_not_the_one_granted_spoils_the_run() {
    for (fault, error) in [(Fault::EndsTwice, "more than once"), (Fault::EndsAnother, "not the ones granted")]
    {
        let report = bench(fault, &[Phase::Storm]);
        assert!(!report.is_clean() && errors(&report).contains(error), "{fault:?}: {}", report.to_text());
    }
}

#[test]
fn s9_a_lease_that_never_ends_spoils_the_run() {
    let report = bench(Fault::LosesEnds, &[Phase::Lateness]);
    assert!(!report.is_clean() && errors(&report).contains("never ended"), "{}", report.to_text());
}

#[test]
fn a_connection_that_closes_fails_the_phase_and_leaves_a_report() {
    let report = bench(Fault::HangsUp, &[Phase::Fill, Phase::Renew, Phase::Revoke]);
    assert!(!report.is_clean());
    assert!(errors(&report).contains("renew: the server closed a connection"), "{}", report.to_text());
    let phases: Vec<&str> = report.rows.iter().map(|row| row.phase.as_str()).collect();
    assert_eq!(phases, ["connect", "fill"], "what was measured before is still there");
}
