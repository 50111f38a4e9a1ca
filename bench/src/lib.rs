//! Load generator and benchmarks for Tenure.
//!
//! [`run`] is `tenure bench`: it starts a durable server as a child process (or takes one that runs
//! already), loads it over sockets through the client crate's own connection machine, and reports what
//! it saw. The criterion suites in `benches/` measure the parts in isolation.
//!
//! ```text
//!  args ─▶ plan ─▶ run ─┬─▶ child    the server, measured from outside (usage)
//!                       ├─▶ lanes    one load thread each: links, leases, ring
//!                       │     ├─▶ closed_loop   what the server can do at most
//!                       │     └─▶ open_loop     at a fixed rate; ends: how late leases expire
//!                       ├─▶ progress what is going on, on standard error
//!                       └─▶ report   what was found: a table, a line of JSON
//! ```
//! Rules that every figure keeps: latency in an open loop starts at the intended send time; CPU per
//! operation is the server's, from the kernel; what failed is shown and spoils the exit code.

mod args;
mod bulk;
mod child;
mod chooser;
mod clock;
mod closed_loop;
mod control;
mod ends;
mod floor;
mod goals;
mod host;
mod human;
mod in_process;
mod interrupt;
mod lane;
mod latency;
pub mod limits;
mod link;
mod neighbours;
mod open_loop;
mod order;
mod plan;
mod progress;
mod report;
mod ring;
mod run;
mod scale;
mod tally;
mod timeline;
mod usage;

use std::path::PathBuf;
use std::process::ExitCode;

pub use args::{BenchArgs, CpuChoice, Ids, Order, Output, Phase};
pub use control::ServerInfo;
pub use floor::disk::Commits;
pub use floor::echo::Echoed;
pub use goals::{Bound, Figure, Floors, GoalRow, Goals, GoalsArgs, PeerRow, Unit};
pub use host::Host;
pub use in_process::InProcess;
pub use latency::Quantiles;
pub use plan::{Plan, ServerPlan};
pub use report::{
    ConnectionsRow, LatenessRow, Line, MemoryRow, Report, ReportArgs, RestartRow, Row, SCHEMA, StallRow,
    StormSeries,
};
pub use scale::{Scale, ScaleArgs};
pub use timeline::Series;

/// What every comparison measures with, so that all figures of the project come from the same instruments:
/// the load's ring, its histogram, CPU time and memory of a process. For `bench/compare`; no stable face.
#[doc(hidden)]
pub mod instruments {
    pub use crate::host::{disk_directory, in_memory, pin_to};
    pub use crate::human::{bytes, count, nanoseconds};
    pub use crate::latency::{Latency, Quantiles};
    pub use crate::neighbours::{Neighbours, note as neighbours_note};
    pub use crate::ring::{Arrival, Ring, thread_cpu_ns};
    pub use crate::usage::{Memory, Watched};
}

/// Exit code of a run in which something failed.
pub const EXIT_FAILED: u8 = 1;

/// Runs `tenure bench`: progress on standard error, the report on standard output.
///
/// `server_exe` is the binary to start with `serve …` when no endpoint is given, usually
/// [`std::env::current_exe`]. The exit code is 0 for a clean run, [`EXIT_FAILED`] when anything failed
/// or was refused, 130 after SIGINT and 143 after SIGTERM.
///
/// # Errors
/// When nothing could be measured: arguments out of range, no server, or the report not written.
#[expect(clippy::needless_pass_by_value, reason = "a caller has no use for them afterwards")]
pub fn run(args: BenchArgs, server_exe: PathBuf) -> anyhow::Result<ExitCode> {
    let report = match measure(&args, server_exe) {
        Err(_) if interrupt::is_interrupted() => return Ok(interrupt::exit_code()),
        found => found?,
    };
    let code = match (report.interrupted, report.is_clean()) {
        (true, _) => interrupt::exit_code(),
        (false, true) => ExitCode::SUCCESS,
        (false, false) => ExitCode::from(EXIT_FAILED),
    };
    let text = report.to_text();
    let line = Line::Run(Box::new(report));
    match args.output {
        Output::Text => print!("{text}"),
        Output::Json => println!("{}", line.to_json()?),
    }
    if let Some(path) = &args.json_out {
        line.append_to(path)?;
    }
    if let Some(path) = &args.html {
        report::write_html(path, &[line])?;
    }
    Ok(code)
}

/// Whether a run failed because no server was to be reached at the endpoint it was given.
#[must_use]
pub fn is_unreachable(error: &anyhow::Error) -> bool {
    use std::io::ErrorKind::{ConnectionRefused, ConnectionReset, TimedOut};
    let mut kinds =
        error.chain().filter_map(|cause| cause.downcast_ref::<std::io::Error>()).map(std::io::Error::kind);
    kinds.any(|kind| matches!(kind, ConnectionRefused | ConnectionReset | TimedOut))
}

/// What else `tenure bench` does.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum Command {
    /// Measure every goal of the design that needs no peer, beside what this machine can do at all
    #[command(after_help = "Examples:
  tenure bench goals
  tenure bench goals --quick --json
  tenure bench goals --peers --json-out runs.jsonl

Exit code 0 when everything could be measured, whether or not the goals are met.")]
    Goals(GoalsArgs),
    /// The same work with ten times as many leases each time: what each costs, and what memory it takes
    #[command(after_help = "Examples:
  tenure bench scale --to 1M
  tenure bench scale --to 100M --json-out runs.jsonl")]
    Scale(ScaleArgs),
    /// Compare runs: a table, a page with charts, or Markdown
    #[command(after_help = "Examples:
  tenure bench --json-out runs.jsonl
  tenure bench report runs.jsonl --html runs.html
  tenure bench report --markdown runs.jsonl > docs/benchmarks.md")]
    Report(ReportArgs),
}

impl Command {
    /// Does it.
    ///
    /// # Errors
    /// When nothing could be measured, or the result not written.
    pub fn run(self, server_exe: PathBuf) -> anyhow::Result<ExitCode> {
        match self {
            Command::Goals(args) => goals::run(&args, server_exe),
            Command::Scale(args) => scale::run(&args, &server_exe),
            Command::Report(args) => report::run(&args).map(|()| ExitCode::SUCCESS),
        }
    }
}

/// Runs the phases and gives the report, also of a run that failed on its way; prints nothing on standard
/// output.
///
/// # Errors
/// When nothing could be measured: arguments out of range, no server.
pub fn measure(args: &BenchArgs, server_exe: PathBuf) -> anyhow::Result<Report> {
    run::run(args, server_exe)
}
