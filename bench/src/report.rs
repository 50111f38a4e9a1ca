//! What a run found, as data: one row per phase, printed by `report/table.rs` or written as JSON.
//!
//! Honest first: what failed is in the rows, by reason and count, and [`Report::is_clean`] decides the
//! exit code. A figure that could not be had is absent, never zero.

mod chart;
mod compare;
mod html;
mod line;
mod markdown;
mod table;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;

use serde::{Deserialize, Serialize};

use crate::control::ServerInfo;
use crate::host::Host;
use crate::latency::Quantiles;
use crate::plan::Plan;
use crate::timeline::Series;

pub use line::Line;
pub(crate) use table::aligned;

/// Version of the JSON form. Rises when a field changes its meaning or goes away.
pub const SCHEMA: u32 = 2;

/// A whole run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    /// [`SCHEMA`].
    pub schema: u32,
    /// Where.
    pub host: Host,
    /// What was done.
    pub plan: Plan,
    /// The server.
    pub server: ServerInfo,
    /// Phases in the order in which they ran.
    pub rows: Vec<Row>,
    /// Expiries, from the event stream.
    pub lateness: Vec<LatenessRow>,
    /// The storm over time.
    #[serde(default)]
    pub storm: Option<StormSeries>,
    /// Restarts of the server.
    pub restarts: Vec<RestartRow>,
    /// What many connections cost.
    pub connections: Option<ConnectionsRow>,
    /// Memory of the server.
    pub memory: Option<MemoryRow>,
    /// The longest that a core of the server answered nobody, by cause, since its (last) start.
    #[serde(default)]
    pub stalls: Vec<StallRow>,
    /// From SIGTERM to the exit of the server that was started, seconds.
    pub stop_s: Option<f64>,
    /// Whole run, seconds.
    pub elapsed_s: f64,
    /// Share of the machine's CPUs that other processes took meanwhile, 0 to 1.
    #[serde(default)]
    pub others_share: Option<f64>,
    /// What ended the run before its time, or went wrong beside the rows.
    pub failures: Vec<String>,
    /// A signal ended the run.
    pub interrupted: bool,
}

/// One phase.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Row {
    /// Its name, with what it was beside (`storm: before`).
    pub phase: String,
    /// The load, in words.
    pub load: String,
    /// Leases granted, renewed or revoked.
    pub operations: u64,
    /// From the first request to the last reply.
    pub elapsed_s: f64,
    /// Operations per second.
    pub per_second: f64,
    /// Of each request: from its (intended) sending to its reply.
    pub latency: Option<Quantiles>,
    /// The latencies start at the intended send time (open loop).
    pub open_loop: bool,
    /// CPU time of the server per operation, user and system, ns.
    pub server_cpu_ns: Option<f64>,
    /// CPUs that the server kept busy.
    pub server_cpus: Option<f64>,
    /// CPU time of the load side per operation, without waiting, ns.
    pub load_ns: Option<f64>,
    /// Share of its CPUs that the load side needed, 0 to 1.
    pub load_busy: Option<f64>,
    /// How late the load side itself sent (open loop).
    pub send_lag: Option<Quantiles>,
    /// Leases of a batch that were asked for again, because the server was too busy.
    pub retries: u64,
    /// What the server refused, or what went wrong, and how often.
    pub errors: BTreeMap<String, u64>,
    /// Latency by quantile: quantile and ns.
    #[serde(default)]
    pub curve: Vec<(f64, u64)>,
    /// Operations over time.
    #[serde(default)]
    pub series: Option<Series>,
}

/// How late leases ended.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LatenessRow {
    /// The phase.
    pub phase: String,
    /// What ended, in words.
    pub what: String,
    /// Leases that ended.
    pub ended: u64,
    /// From the moment each might have ended to the arrival of its event.
    pub lateness: Option<Quantiles>,
    /// From the first event to the last, seconds.
    pub span_s: f64,
    /// Ended per second, from the deadline to the last event.
    pub per_second: f64,
    /// The largest lateness on the server's own clock, ms, since it started.
    pub server_ms_max: Option<u64>,
    /// What went wrong, and how often.
    pub errors: BTreeMap<String, u64>,
    /// How many were late by up to so many ns, and no less than the bound before.
    #[serde(default)]
    pub histogram: Vec<(u64, u64)>,
}

/// A storm over time, in ms after its deadline.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StormSeries {
    /// Leases that ended.
    pub ended: Series,
    /// Renewals beside them.
    pub renewals: Series,
}

/// The server was killed and started again.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RestartRow {
    /// Leases that were live.
    pub leases: u64,
    /// Bytes of its data directory when it was killed.
    pub directory_bytes: u64,
    /// From the start of the process to `listening on`, seconds.
    pub listens_s: f64,
    /// From the start of the process to the first renewal that was answered, seconds.
    pub renews_s: f64,
    /// Recovery in the server's own words, ms.
    pub recovery_ms: Option<u64>,
    /// Resident memory of the new process, bytes.
    pub resident_bytes: Option<u64>,
    /// What went wrong, and how often.
    pub errors: BTreeMap<String, u64>,
}

/// The longest that a core of the server was busy with one thing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StallRow {
    /// `turn` for a whole turn, in which it answers nobody; else what it was busy with.
    pub cause: String,
    /// By the wall, µs: the system may have given the CPU to somebody else meanwhile.
    pub wall_us: u64,
    /// CPU time, µs.
    pub cpu_us: u64,
}

/// Memory of the server for connections.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct ConnectionsRow {
    /// How many were opened.
    pub connections: u64,
    /// Growth of its resident memory divided by them, after each had said something.
    pub per_connection_bytes: f64,
}

/// Memory of the server.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct MemoryRow {
    /// Resident before the leases that are counted, but after a few first ones, bytes.
    pub empty_bytes: u64,
    /// Resident with `leases` more.
    pub filled_bytes: u64,
    /// The leases that are counted.
    pub leases: u64,
    /// The growth divided by them.
    pub per_lease_bytes: f64,
    /// The most it ever was, at the end of the run.
    pub peak_bytes: Option<u64>,
}

/// Arguments of `tenure bench report`.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct ReportArgs {
    /// Files that --json-out has written
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// Write a page with tables and charts to this file
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// Print Markdown in place of the comparison: this is how docs/benchmarks.md is made
    #[arg(long)]
    pub markdown: bool,
}

/// Reads runs, compares them, draws them.
///
/// # Errors
/// When a file cannot be read or written, or has nothing in it.
pub(crate) fn run(args: &ReportArgs) -> anyhow::Result<()> {
    let lines: Vec<Vec<Line>> =
        args.files.iter().map(|path| Line::read_from(path)).collect::<anyhow::Result<_>>()?;
    let lines: Vec<Line> = lines.into_iter().flatten().collect();
    anyhow::ensure!(lines.iter().any(|line| line.host().is_some()), "there is no run in these files");
    match (&args.html, args.markdown) {
        (_, true) => print!("{}", markdown::render(&lines)),
        (None, false) => print!("{}", compare::render(&lines)),
        (Some(_), false) => {}
    }
    args.html.as_ref().map_or(Ok(()), |path| write_html(path, &lines))
}

/// Writes the page of these lines.
pub(crate) fn write_html(path: &Path, lines: &[Line]) -> anyhow::Result<()> {
    std::fs::write(path, html::render(lines)).with_context(|| format!("cannot write {}", path.display()))
}

impl Report {
    pub(crate) fn new(host: Host, plan: Plan) -> Report {
        Report {
            schema: SCHEMA,
            host,
            plan,
            server: ServerInfo::default(),
            rows: Vec::new(),
            lateness: Vec::new(),
            storm: None,
            restarts: Vec::new(),
            connections: None,
            memory: None,
            stalls: Vec::new(),
            stop_s: None,
            elapsed_s: 0.0,
            others_share: None,
            failures: Vec::new(),
            interrupted: false,
        }
    }

    /// Nothing failed and nothing was refused.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        let rows = self.rows.iter().all(|row| row.errors.is_empty() && row.operations > 0);
        let lateness = self.lateness.iter().all(|row| row.errors.is_empty());
        let restarts = self.restarts.iter().all(|row| row.errors.is_empty());
        rows && lateness && restarts && self.failures.is_empty() && !self.interrupted
    }

    /// What went wrong, in words: nothing in a clean run that was not interrupted.
    pub(crate) fn problems(&self) -> Vec<String> {
        let rows = self.rows.iter().map(|row| (row.phase.as_str(), &row.errors));
        let late = self.lateness.iter().map(|row| (row.phase.as_str(), &row.errors));
        let restarts = self.restarts.iter().map(|row| ("restart", &row.errors));
        let errors = rows.chain(late).chain(restarts).flat_map(|(phase, errors)| {
            errors.iter().map(move |(what, count)| format!("{phase}: {what} {count} times"))
        });
        let idle = self.rows.iter().filter(|row| row.operations == 0);
        let idle = idle.map(|row| format!("{}: nothing was done", row.phase));
        errors.chain(idle).chain(self.failures.iter().cloned()).collect()
    }

    /// The table for people.
    #[must_use]
    pub fn to_text(&self) -> String {
        table::render(self)
    }

    /// What renew reached, if it ran.
    pub(crate) fn rate_of(&self, phase: &str) -> Option<f64> {
        self.rows.iter().find(|row| row.phase == phase).map(|row| row.per_second)
    }
}

impl Row {
    /// The line that is shown when a phase has ended.
    pub(crate) fn summary(&self) -> String {
        table::summary(self)
    }
}

/// A count per operation, where both are known.
pub(crate) fn per_operation(total: Option<Duration>, operations: u64) -> Option<f64> {
    let total = total?;
    (operations > 0).then(|| total.as_nanos() as f64 / operations as f64)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::args::BenchArgs;

    pub(crate) fn sample() -> Report {
        let plan = Plan::new(&BenchArgs { seed: 1, ..BenchArgs::default() }).unwrap();
        let mut report = Report::new(Host::observe(), plan);
        report.rows.push(Row {
            phase: "renew".to_owned(),
            load: "64 x 32".to_owned(),
            operations: 30_000_000,
            elapsed_s: 5.0,
            per_second: 6_000_000.0,
            latency: Some(Quantiles {
                count: 30_000_000,
                p50_ns: 330_000,
                p99_ns: 600_000,
                p999_ns: 900_000,
                max_ns: 4_000_000,
            }),
            open_loop: false,
            server_cpu_ns: Some(158.2),
            server_cpus: Some(0.99),
            load_ns: Some(140.0),
            load_busy: Some(0.86),
            send_lag: None,
            retries: 0,
            errors: BTreeMap::new(),
            curve: vec![(0.5, 330_000), (0.99, 600_000), (1.0, 4_000_000)],
            series: Some(Series {
                slice_ms: 1_000.0,
                start_ms: 0.0,
                operations: vec![6_000_000; 5],
                slowest_ns: Vec::new(),
            }),
        });
        report
    }

    #[test]
    fn an_error_an_empty_row_a_failure_or_a_signal_spoil_a_report() {
        assert!(sample().is_clean() && sample().problems().is_empty());
        let spoilt: [fn(&mut Report); 4] = [
            |report| report.rows[0].errors = [("NotFound".to_owned(), 1)].into(),
            |report| report.rows[0].operations = 0,
            |report| report.failures.push("the server died".to_owned()),
            |report| report.interrupted = true,
        ];
        for spoil in spoilt {
            let mut report = sample();
            spoil(&mut report);
            assert!(!report.is_clean(), "{}", report.to_text());
            assert_eq!(report.problems().len(), usize::from(!report.interrupted));
        }
    }

    #[test]
    fn the_table_shows_every_figure_and_every_error() {
        let mut report = sample();
        report.rows[0].errors.insert("NotFound".to_owned(), 17);
        report.failures.push("the server died".to_owned());
        let text = report.to_text();
        for part in
            ["6.00 M", "330 us", "600 us", "900 us", "4.00 ms", "158 ns", "NotFound", "17", "the server died"]
        {
            assert!(text.contains(part), "{part} is missing in\n{text}");
        }
    }
}
