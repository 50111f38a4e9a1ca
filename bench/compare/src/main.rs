//! `tenure-compare`: Tenure beside etcd, Redis, Valkey and memcached, in one run.
//!
//! ```text
//!  peer ─▶ server      a child process on its own port, directory and CPU
//!  plan ─▶ scene ─┬─▶ ring_load ─▶ talk   Tenure, RESP, memcached: one ring, three languages
//!                 └─▶ etcd                gRPC
//!  measure ─▶ line (JSON) ─▶ summary (medians, ratios) ─▶ report (Markdown)
//! ```
//! What it deliberately does not do: install anything (`install-peers.sh` does), judge goals (`tenure
//! bench goals` does), or belong to the default build: it is a comparison for whoever doubts the figures.

mod cpu_clock;
mod dues;
mod etcd;
mod line;
mod measure;
mod peer;
mod plan;
mod report;
mod ring_load;
mod run;
mod scene;
mod server;
mod summary;
mod talk;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, ensure};
use clap::{Args, Parser, Subcommand};
use tenure_bench::Host;
use tenure_bench::instruments::{disk_directory, in_memory};

use crate::line::{Line, Origin, PeersLine, SCHEMA};
use crate::measure::Job;
use crate::peer::Peer;
use crate::plan::Plan;

/// Tenure beside etcd, Redis, Valkey and memcached, in one run.
#[derive(Parser)]
#[command(version)]
struct Command {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Measure; progress on standard error, the report on standard output
    #[command(after_help = "Exit code 0 when every row was measured or its peer is not there, else 1.")]
    Run(RunArgs),
    /// Make the report of earlier runs' lines, as Markdown
    Report {
        /// Files of `run --json-out`; their rounds are taken together
        #[arg(required = true)]
        files: Vec<PathBuf>,
    },
    /// Say which peers are found, and where
    Peers {
        /// Look here first
        #[arg(long, value_name = "DIR")]
        bin_dir: Option<PathBuf>,
    },
}

#[derive(Args)]
struct RunArgs {
    /// Small counts and one round, to see that everything works: its figures say nothing
    #[arg(long)]
    quick: bool,
    /// Peers [default: all but etcd351]
    #[arg(long, value_enum, value_delimiter = ',', value_name = "PEER,..")]
    peers: Vec<Peer>,
    /// Rows [default: all]
    #[arg(long, value_enum, value_delimiter = ',', value_name = "JOB,..")]
    jobs: Vec<Job>,
    /// Rounds [default: 3, quick 1]
    #[arg(long, value_name = "N")]
    rounds: Option<u32>,
    /// Leases of the steady and restart scenes [default: 1000000; etcd always has fewer]
    #[arg(long, value_name = "N")]
    leases: Option<u64>,
    /// Leases of the storm [default: 1000000; etcd always has fewer]
    #[arg(long, value_name = "N")]
    storm_leases: Option<u64>,
    /// Folder with the programs; looked into before target/peers/bin and PATH
    #[arg(long, value_name = "DIR")]
    bin_dir: Option<PathBuf>,
    /// Where to make the servers' directories [default: the first disk among TMPDIR, /var/tmp, here]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Append a line of JSON per measurement to this file
    #[arg(long, value_name = "FILE")]
    json_out: Option<PathBuf>,
    /// Print one line of JSON with the medians instead of the report
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    match act(Command::parse().action) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("tenure-compare: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn act(action: Action) -> anyhow::Result<ExitCode> {
    match action {
        Action::Run(args) => run_all(args),
        Action::Report { files } => {
            let mut lines = Vec::new();
            for file in &files {
                lines.extend(line::read_from(file)?);
            }
            print!("{}", report::document(&lines));
            Ok(ExitCode::SUCCESS)
        }
        Action::Peers { bin_dir } => {
            let places = peer::places(bin_dir.as_deref());
            for peer in Peer::ALL {
                match peer::find(peer, &places) {
                    Ok(found) => println!("{} {}: {}", peer.name(), found.version, found.exe.display()),
                    Err(why) => println!("{}: {why}", peer.name()),
                }
            }
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn run_all(args: RunArgs) -> anyhow::Result<ExitCode> {
    let place = args.data_dir.unwrap_or_else(disk_directory);
    ensure!(
        !in_memory(&place),
        "{} is in memory, so nothing there is durable: say --data-dir with a place on a disk",
        place.display()
    );
    let host = Host::observe();
    let mut plan = Plan::new(args.quick, place, host.cpus);
    plan.rounds = args.rounds.unwrap_or(plan.rounds);
    plan.leases = args.leases.unwrap_or(plan.leases);
    plan.storm_leases = args.storm_leases.unwrap_or(plan.storm_leases);
    ensure!(
        plan.rounds > 0 && plan.leases > 1 && plan.storm_leases > 0,
        "nothing can be measured on nothing"
    );
    let or = |given: Vec<Peer>| {
        let usual = Peer::ALL.into_iter().filter(|peer| *peer != Peer::Etcd351);
        if given.is_empty() { usual.collect() } else { given }
    };
    let run = run::Run {
        origin: Origin { host, plan },
        peers: or(args.peers),
        jobs: if args.jobs.is_empty() { Job::ALL.to_vec() } else { args.jobs },
        places: peer::places(args.bin_dir.as_deref()),
        json_out: args.json_out,
    };
    let lines = run::run(&run)?;
    let failed = lines.iter().any(|line| {
        let failed = line.missing.as_ref().is_some_and(|why| why.starts_with("failed"));
        failed || !line.measure.errors.is_empty()
    });
    let Origin { host, plan } = run.origin;
    let peers = PeersLine { schema: SCHEMA, host, plan, rows: summary::rows(&lines) };
    let peers = Line::Peers(Box::new(peers));
    if let Some(path) = &run.json_out {
        peers.append_to(path).context("the lines of the rows are written, the medians are not")?;
    }
    if args.json {
        println!("{}", peers.to_json()?);
    } else {
        print!("{}", report::document(&lines));
    }
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
