//! A whole run: server, lanes, phases, report.
//!
//! The main thread starts what is needed and then, in each phase, only watches: it draws the progress,
//! looks for signals and for the death of the child, and reads the server's CPU time at both ends. The
//! load is on the lanes' threads.

mod measure;
mod phases;
mod restart;
mod storm;
mod workloads;

use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, bail};
use rand::Rng;

use crate::args::BenchArgs;
use crate::child::{ServerChild, ServerSettings};
use crate::clock::Clock;
use crate::control::Control;
use crate::host::{self, Host};
use crate::interrupt;
use crate::lane::{Lane, LaneSettings};
use crate::latency::Latency;
use crate::link::Introduction;
use crate::neighbours::Neighbours;
use crate::plan::Plan;
use crate::progress::Progress;
use crate::report::{MemoryRow, Report, Row};
use crate::usage::Watched;

/// A run in progress.
pub(crate) struct Run {
    pub(super) plan: Plan,
    pub(super) report: Report,
    pub(super) clock: Clock,
    pub(super) progress: Progress,
    pub(super) lane_settings: LaneSettings,
    pub(super) lanes: Vec<Lane>,
    pub(super) control: Control,
    pub(super) watched: Option<Watched>,
    /// Last, so that the connections are closed before the child is.
    pub(super) server: Option<ServerChild>,
}

/// Runs the phases and gives the report, also of a run that failed on its way.
///
/// # Errors
/// When nothing could be measured at all: bad arguments, no server.
pub(crate) fn run(args: &BenchArgs, server_exe: PathBuf) -> anyhow::Result<Report> {
    let plan = Plan::new(args)?;
    let _watch = interrupt::Watch::start();
    let (began, neighbours) = (Instant::now(), Neighbours::watch());
    let mut run = Run::start(args, plan, server_exe)?;
    for phase in run.plan.phases.clone() {
        if let Err(error) = run.phase(phase) {
            run.fail(format!("{}: {error:#}", phase.name()));
            break;
        }
        if interrupt::is_interrupted() {
            break;
        }
    }
    let mut report = run.finish();
    report.interrupted = interrupt::is_interrupted();
    report.elapsed_s = began.elapsed().as_secs_f64();
    // A server that was there before is neither a child nor a stranger.
    report.others_share = report.plan.server.as_ref().and_then(|_| neighbours.share());
    Ok(report)
}

impl Run {
    fn start(args: &BenchArgs, plan: Plan, server_exe: PathBuf) -> anyhow::Result<Run> {
        // Before the server starts, which inherits it: a fleet has many connections.
        host::raise_open_files();
        let mut progress = Progress::new(args.no_progress);
        let mut report = Report::new(Host::observe(), plan.clone());
        progress.begin("start");
        let server = match &plan.server {
            None => None,
            Some(server) => Some(ServerChild::start(&ServerSettings {
                exe: server_exe,
                place: server.place.clone(),
                arguments: server.arguments.clone(),
            })?),
        };
        let address = match (&server, &args.endpoint) {
            (Some(server), _) => server.address(),
            (None, Some(endpoint)) => resolve(endpoint)?,
            (None, None) => bail!("there is neither a server to start nor one to load"),
        };
        let introduction =
            Introduction { client_id: rand::rng().random(), wish_shard: None, auth: auth(args)? };
        let mut control = Control::connect(address, &introduction)?;
        let shard_count = control.shard_count()?;
        report.server = control.info()?;
        let watched = server.as_ref().map(ServerChild::pid).or(args.server_pid).map(Watched::new);
        let lane_settings = LaneSettings {
            address,
            introduction,
            shard_count,
            connections: 0,
            cpu: None,
            spins: plan.spins,
            ids: plan.ids,
            seed: plan.seed,
            lanes: plan.load_threads,
        };
        let clock = Clock::start();
        let mut run =
            Run { plan, report, clock, progress, lane_settings, lanes: Vec::new(), control, watched, server };
        run.connect()?;
        Ok(run)
    }

    /// Opens the lanes' connections: the first row of the report.
    fn connect(&mut self) -> anyhow::Result<()> {
        let shard_count = self.lane_settings.shard_count;
        let connections_min = usize::from(shard_count) * self.plan.load_threads;
        if self.plan.connections < connections_min {
            bail!(
                "--connections must be at least {connections_min}: one for each of {shard_count} shards in each of {} threads",
                self.plan.load_threads
            );
        }
        self.progress.begin("connect");
        let cpu_before = self.server_cpu();
        let began = Instant::now();
        let mut handshakes = Vec::new();
        for index in 0..self.plan.load_threads {
            let settings = self.lane_settings_of(index);
            self.lanes.push(Lane::connect(index, self.clock, &settings, &mut handshakes)?);
        }
        let elapsed = began.elapsed();
        let mut latency = Latency::new();
        handshakes.iter().for_each(|&ns| latency.record(ns));
        let mut row = Row {
            phase: "connect".to_owned(),
            load: "one at a time".to_owned(),
            operations: handshakes.len() as u64,
            elapsed_s: elapsed.as_secs_f64(),
            per_second: handshakes.len() as f64 / elapsed.as_secs_f64(),
            latency: latency.quantiles(),
            open_loop: false,
            server_cpu_ns: None,
            server_cpus: None,
            load_ns: None,
            load_busy: None,
            send_lag: None,
            retries: 0,
            errors: Default::default(),
            curve: latency.curve(),
            series: None,
        };
        // Fewer than some hundred connections take less than a tick of the kernel's accounting.
        if row.operations >= 1_000 {
            self.charge(&mut row, cpu_before);
        }
        self.show(row);
        Ok(())
    }

    fn lane_settings_of(&self, lane: usize) -> LaneSettings {
        LaneSettings {
            connections: self.plan.share(self.plan.connections as u64, lane) as usize,
            cpu: self.plan.load_cpu(lane),
            ..self.lane_settings.clone()
        }
    }

    /// Puts a finished row into the report and onto the screen.
    pub(super) fn show(&mut self, row: Row) {
        self.progress.end(&row.summary());
        self.report.rows.push(row);
    }

    pub(super) fn fail(&mut self, what: String) {
        self.progress.end(&format!("FAILED: {what}"));
        self.report.failures.push(what);
    }

    /// Stops everything that was started.
    fn finish(mut self) -> Report {
        self.lanes.clear();
        // A server that has died has said so elsewhere.
        let stalls = self.control.info().map(|info| info.stalls).unwrap_or_default();
        self.report.stalls.splice(..0, stalls);
        if let Some(peak) = self.watched.and_then(|watched| watched.memory()) {
            self.report.memory =
                self.report.memory.map(|memory| MemoryRow { peak_bytes: Some(peak.peak_bytes), ..memory });
        }
        if let Some(server) = self.server.take() {
            self.progress.begin("stop");
            match server.stop() {
                Ok(took) => self.report.stop_s = Some(took.as_secs_f64()),
                Err(error) => self.fail(format!("stop: {error:#}")),
            }
            self.progress.end("stop");
        }
        self.report
    }
}

fn resolve(endpoint: &str) -> anyhow::Result<SocketAddr> {
    let addresses = endpoint.to_socket_addrs();
    let mut addresses = addresses
        .with_context(|| format!("{endpoint} is not an address: write HOST:PORT, such as 127.0.0.1:7070"))?;
    addresses.next().with_context(|| format!("{endpoint} has no address"))
}

fn auth(args: &BenchArgs) -> anyhow::Result<Vec<u8>> {
    let Some(path) = &args.auth_token_file else { return Ok(Vec::new()) };
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(text.trim_end().as_bytes().to_vec())
}
