//! `tenure bench goals`: every row of the design's goals that needs no peer, in one run.
//!
//! ```text
//!  floors       echo, disk, memory, wake        what this machine can do at all
//!  in process   one shard, no server            renewals all in, replay
//!  one million  a server on one core            renew, grant, lateness, storm
//!  ten million  a server, twice                 memory and recovery, either kind of ID
//!  live leases  a server                        as many as there shall be: granted, renewed, recovered, expired
//!  peers        tenure-compare, when asked for  etcd, Redis, Valkey, memcached beside Tenure
//! ```
//! Each row has its goal, what was measured, and the floor measured minutes before on the same CPUs. Rows
//! that miss are shown as missed: a run fails only when something could not be measured or broke the
//! contract. Beside the ratio to the floor stands the one that the goal had to the floor of the machine that it was
//! set on: what a slower machine misses, and by how much, shows without making a pass of it. The goals themselves are data, in `goals/rows.rs`; judging is a pure function of what was
//! measured, so that a report can be judged again.

mod measure;
mod peers;
mod rows;
mod table;

use std::path::PathBuf;
use std::process::ExitCode;

use serde::{Deserialize, Serialize};

use crate::args::CpuChoice;
use crate::floor::disk::Commits;
use crate::floor::echo::Echoed;
use crate::host::Host;
use crate::in_process::InProcess;
use crate::latency::Quantiles;
use crate::report::{Line, Report};
use crate::{EXIT_FAILED, interrupt};

pub(crate) use table::{
    bound as goal_bound, near_floor as goals_near_floor, text as goal_text, times as goal_times,
    verdict as goal_verdict,
};

pub(crate) use peers::{absent as absent_peers, cells as peer_cells};

pub use peers::PeerRow;
pub use rows::{Bound, Figure, GoalRow, Unit};

/// Arguments of `tenure bench goals`.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct GoalsArgs {
    /// Print one JSON object instead of a table
    #[arg(long)]
    pub json: bool,
    /// Append the result to this file, as one line of JSON
    #[arg(long, value_name = "FILE")]
    pub json_out: Option<PathBuf>,
    /// Write a page with tables and charts to this file
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// Small counts, to see that everything works: about a minute. Its figures say nothing
    #[arg(long)]
    pub quick: bool,
    /// Measure etcd, Redis, Valkey and memcached beside Tenure, too: fifteen minutes more. Needs tenure-compare beside
    /// this program, and the peers installed (bench/compare/install-peers.sh)
    #[arg(long)]
    pub peers: bool,
    /// Append the lines of tenure-compare to this file, as its own --json-out does: docs/benchmarks-peers.md is made from them
    #[arg(long, value_name = "FILE", requires = "peers")]
    pub peers_json_out: Option<PathBuf>,
    /// Leases of the row "live leases"; 0 to leave it out [default: 100000000, or what half of the memory holds]
    #[arg(long, value_name = "N")]
    pub live_leases: Option<u64>,
    /// Where to make the server's temporary directory [default: the first disk among TMPDIR, /var/tmp, here]
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// CPU of the server; none to leave it to the scheduler [default: 0]
    #[arg(long, value_name = "CPU")]
    pub pin_server: Option<CpuChoice>,
    /// CPU of the load; none to leave it to the scheduler [default: the last]
    #[arg(long, value_name = "CPU")]
    pub pin_load: Option<CpuChoice>,
    /// No progress on standard error
    #[arg(long)]
    pub no_progress: bool,
}

/// What this machine can do at all.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Floors {
    /// Frames of a renewal echoed, 64 connections, 32 in flight on each.
    pub echo_deep: Option<Echoed>,
    /// The same, one in flight on each.
    pub echo_one: Option<Echoed>,
    /// Frames of a batch of renewals, 64 connections, 4 in flight on each.
    pub echo_batch: Option<Echoed>,
    /// Durable writes of 4 KiB, one at a time.
    pub commit_small: Option<Commits>,
    /// Durable writes of 64 KiB, one at a time.
    pub commit_large: Option<Commits>,
    /// Durable writes of 64 KiB, four at a time.
    pub commit_deep: Option<Commits>,
    /// A random record of 16 bytes among a million, ns.
    pub touch_1m_ns: Option<f64>,
    /// Among ten million, ns.
    pub touch_10m_ns: Option<f64>,
    /// Among as many as shall be live, ns.
    pub touch_live_ns: Option<f64>,
    /// A sleeping thread after its timer.
    pub wake: Option<Quantiles>,
    /// Replay of a log of grants, CPU time per lease, ns.
    pub replay_ns: Option<f64>,
}

/// Everything that was measured.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Goals {
    /// [`crate::SCHEMA`].
    pub schema: u32,
    /// Where.
    pub host: Host,
    /// Small counts: figures for nothing but a look.
    pub quick: bool,
    /// Floors.
    pub floors: Floors,
    /// One shard in this process, server-assigned IDs.
    pub assigned: Option<InProcess>,
    /// The same, client-chosen IDs.
    pub chosen: Option<InProcess>,
    /// A server with a million leases.
    pub million: Option<Report>,
    /// With ten million, server-assigned IDs.
    pub ten_million: Option<Report>,
    /// With ten million, client-chosen IDs.
    pub ten_million_chosen: Option<Report>,
    /// With as many as there shall be.
    pub live: Option<Report>,
    /// The verdicts.
    pub rows: Vec<GoalRow>,
    /// Tenure and its peers, when they were asked for.
    #[serde(default)]
    pub peers: Vec<PeerRow>,
    /// Whole run, seconds.
    pub elapsed_s: f64,
    /// Share of the machine's CPUs that other processes took meanwhile, 0 to 1.
    #[serde(default)]
    pub others_share: Option<f64>,
    /// What could not be measured, and why.
    pub failures: Vec<String>,
    /// A signal ended the run.
    pub interrupted: bool,
}

impl Goals {
    /// Nothing failed and nothing broke the contract; goals may be missed.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.failures.is_empty() && !self.interrupted && self.reports().all(Report::is_clean)
    }

    /// The runs of servers.
    pub(crate) fn reports(&self) -> impl Iterator<Item = &Report> {
        let runs = [&self.million, &self.ten_million, &self.ten_million_chosen, &self.live];
        runs.into_iter().flatten()
    }

    /// The table for people.
    #[must_use]
    pub fn to_text(&self) -> String {
        table::render(self)
    }
}

/// Measures, judges and prints.
///
/// # Errors
/// When arguments are out of range, or the result cannot be written.
pub(crate) fn run(args: &GoalsArgs, server_exe: PathBuf) -> anyhow::Result<ExitCode> {
    let goals = measure::measure(args, server_exe)?;
    let code = match (goals.interrupted, goals.is_clean()) {
        (true, _) => interrupt::exit_code(),
        (false, true) => ExitCode::SUCCESS,
        (false, false) => ExitCode::from(EXIT_FAILED),
    };
    let text = goals.to_text();
    let line = Line::Goals(Box::new(goals));
    if args.json {
        println!("{}", line.to_json()?);
    } else {
        print!("{text}");
    }
    if let Some(path) = &args.json_out {
        line.append_to(path)?;
    }
    if let Some(path) = &args.html {
        crate::report::write_html(path, &[line])?;
    }
    Ok(code)
}
