//! Carries out what the goals need: floors first, then the engine, each part alone on the machine.
//!
//! A part that fails leaves its rows without a value and its reason in the report; the others go on.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tenure_protocol::{LeaseId, RequestId, encode, renew_frame};

use super::{Floors, Goals, GoalsArgs, peers, rows};
use crate::SCHEMA;
use crate::args::{BenchArgs, CpuChoice, Ids, Phase};
use crate::floor::echo::Echo;
use crate::floor::{disk, echo, memory, on_cpu, wake};
use crate::host::{self, Host};
use crate::in_process;
use crate::interrupt;
use crate::neighbours::Neighbours;
use crate::progress::Progress;
use crate::report::Report;
use crate::run;

/// Counts and times of a run.
struct Sizes {
    span: Duration,
    floor_span: Duration,
    leases: u64,
    large: u64,
    live: u64,
    wakes: usize,
}

/// Leases per batch in the process, and per frame over the network.
const BATCH: usize = 64;
const FRAME_BATCH: usize = 256;
const CONNECTIONS: usize = 64;
/// Bytes that a lease may need on the machine in all, server and load together.
const LIVE_LEASE_BYTES: u64 = 64;

struct Measuring<'a> {
    args: &'a GoalsArgs,
    exe: PathBuf,
    sizes: Sizes,
    server_cpu: Option<usize>,
    load_cpu: Option<usize>,
    place: PathBuf,
    progress: Progress,
    goals: Goals,
}

/// Measures everything and judges it.
pub(super) fn measure(args: &GoalsArgs, exe: PathBuf) -> anyhow::Result<Goals> {
    let (began, neighbours) = (Instant::now(), Neighbours::watch());
    let mut measuring = Measuring::new(args, exe)?;
    {
        let _watch = interrupt::Watch::start();
        measuring.floors();
        measuring.in_process();
    }
    measuring.servers();
    if args.peers && !measuring.is_interrupted() {
        let _watch = interrupt::Watch::start();
        measuring.peers();
    }
    measuring.is_interrupted();
    let mut goals = measuring.goals;
    goals.elapsed_s = began.elapsed().as_secs_f64();
    goals.others_share = neighbours.share();
    goals.rows = rows::judge(&goals);
    Ok(goals)
}

impl<'a> Measuring<'a> {
    fn new(args: &'a GoalsArgs, exe: PathBuf) -> anyhow::Result<Measuring<'a>> {
        let host = Host::observe();
        let live_default = (host.memory_bytes / 2 / LIVE_LEASE_BYTES).min(100_000_000);
        let sizes = if args.quick {
            Sizes {
                span: Duration::from_millis(500),
                floor_span: Duration::from_millis(200),
                leases: 100_000,
                large: 200_000,
                live: args.live_leases.unwrap_or(400_000),
                wakes: 100,
            }
        } else {
            Sizes {
                span: Duration::from_secs(5),
                floor_span: Duration::from_secs(2),
                leases: 1_000_000,
                large: 10_000_000,
                live: args.live_leases.unwrap_or(live_default),
                wakes: 5_000,
            }
        };
        let cpus = host.cpus;
        let pick = |choice: Option<CpuChoice>, default: usize| match choice {
            Some(CpuChoice::Cpu(cpu)) => Some(cpu),
            Some(CpuChoice::None) => None,
            None => (cpus >= 2).then_some(default),
        };
        let goals = Goals {
            schema: SCHEMA,
            host,
            quick: args.quick,
            floors: Floors::default(),
            assigned: None,
            chosen: None,
            million: None,
            ten_million: None,
            ten_million_chosen: None,
            live: None,
            rows: Vec::new(),
            peers: Vec::new(),
            elapsed_s: 0.0,
            others_share: None,
            failures: Vec::new(),
            interrupted: false,
        };
        Ok(Measuring {
            args,
            exe,
            sizes,
            server_cpu: pick(args.pin_server, 0),
            load_cpu: pick(args.pin_load, cpus - 1),
            place: args.data_dir.clone().unwrap_or_else(host::disk_directory),
            progress: Progress::new(args.no_progress),
            goals,
        })
    }

    /// Whether a signal has come. A new watch would forget it.
    fn is_interrupted(&mut self) -> bool {
        self.goals.interrupted |= interrupt::is_interrupted();
        self.goals.interrupted
    }

    /// One part; `None` when it failed, or a signal has come.
    fn part<T>(&mut self, label: &str, work: impl FnOnce(&Self) -> anyhow::Result<T>) -> Option<T> {
        if self.is_interrupted() {
            return None;
        }
        self.progress.begin(label);
        match work(self) {
            Ok(found) => {
                self.progress.end(label);
                Some(found)
            }
            Err(error) => {
                self.progress.end(&format!("FAILED: {label}: {error:#}"));
                self.goals.failures.push(format!("{label}: {error:#}"));
                None
            }
        }
    }

    /// Frames as long as those of the protocol.
    fn echo(&self, depth: usize, request: &[u8], reply: &[u8]) -> Echo {
        Echo {
            connections: CONNECTIONS,
            depth,
            request_bytes: request.len(),
            reply_bytes: reply.len(),
            span: self.sizes.floor_span,
            server_cpu: self.server_cpu,
            load_cpu: self.load_cpu,
        }
    }

    fn floors(&mut self) {
        let (name, id) = (RequestId(1), LeaseId(1));
        let (mut renewed, mut batch, mut batch_renewed) = (Vec::new(), Vec::new(), Vec::new());
        let renew = renew_frame(name, id);
        encode::reply::renewed(&mut renewed, name, 1);
        encode::renew_batch(&mut batch, name, [id; FRAME_BATCH].into_iter());
        encode::reply::renew_batch(&mut batch_renewed, name, FRAME_BATCH as u32, std::iter::empty());
        let deep = self.part("floor: echo 64 x 32", |m| echo::run(m.echo(32, &renew, &renewed)));
        let one = self.part("floor: echo 64 x 1", |m| echo::run(m.echo(1, &renew, &renewed)));
        let batch = self.part("floor: echo of batches", |m| echo::run(m.echo(4, &batch, &batch_renewed)));
        let commit = |m: &Self, bytes, depth| {
            on_cpu(m.server_cpu, || disk::commit(&m.place, bytes, depth, m.sizes.floor_span))
        };
        let small = self.part("floor: commit 4 KiB", |m| commit(m, 4 << 10, 1));
        let large = self.part("floor: commit 64 KiB", |m| commit(m, 64 << 10, 1));
        let queued = self.part("floor: commit 64 KiB x 4", |m| commit(m, 64 << 10, 4));
        let touch = |m: &Self, count: u64| {
            on_cpu(m.server_cpu, || memory::touch(count as usize, m.sizes.floor_span / 2))
        };
        let touch_1m_ns = self.part("floor: memory, 1 M", |m| touch(m, m.sizes.leases));
        let touch_10m_ns = self.part("floor: memory, 10 M", |m| touch(m, m.sizes.large));
        let touch_live_ns = match self.sizes.live {
            0 => None,
            live => self.part("floor: memory, live leases", |m| touch(m, live)),
        };
        let wake = self.part("floor: wake", |m| on_cpu(m.server_cpu, || wake::wake(m.sizes.wakes)));
        let replay = |m: &Self| on_cpu(m.server_cpu, || in_process::replay(m.sizes.large as usize));
        self.goals.floors = Floors {
            echo_deep: deep,
            echo_one: one,
            echo_batch: batch,
            commit_small: small,
            commit_large: large,
            commit_deep: queued,
            touch_1m_ns,
            touch_10m_ns,
            touch_live_ns,
            wake: wake.flatten(),
            replay_ns: self.part("floor: replay", replay),
        };
    }

    fn in_process(&mut self) {
        let measure =
            |m: &Self, ids| on_cpu(m.server_cpu, || in_process::measure(m.sizes.large as usize, BATCH, ids));
        self.goals.assigned = self.part("in process, assigned IDs", |m| measure(m, Ids::Assigned));
        self.goals.chosen = self.part("in process, chosen IDs", |m| measure(m, Ids::Chosen));
    }

    fn servers(&mut self) {
        use Phase::{Fill, Grant, Grant1, Lateness, Renew, Renew1, RenewBatch, Restart, Revoke, Storm};
        let (leases, large, live) = (self.sizes.leases, self.sizes.large, self.sizes.live);
        let phases = [Fill, Renew, Renew1, RenewBatch, Grant, Grant1, Lateness, Storm];
        self.goals.million = self.server("a million leases", &phases, leases, Ids::Assigned);
        self.goals.ten_million =
            self.server("ten million, assigned IDs", &[Fill, Restart], large, Ids::Assigned);
        self.goals.ten_million_chosen =
            self.server("ten million, chosen IDs", &[Fill, Restart], large, Ids::Chosen);
        if live > 0 {
            // Revoked before the storm, which takes as many anew: a shard holds no more than 134 M.
            let phases = [Fill, RenewBatch, Restart, Revoke, Storm];
            self.goals.live = self.server("live leases", &phases, live, Ids::Assigned);
        }
    }

    fn peers(&mut self) {
        let found = self.part("peers", |m| peers::measure(&m.exe, &m.place, m.args));
        self.goals.peers = found.unwrap_or_default();
        let problems = peers::problems(&self.goals.peers);
        self.goals.failures.extend(problems.into_iter().map(|problem| format!("peers: {problem}")));
    }

    fn server(&mut self, label: &str, phases: &[Phase], leases: u64, ids: Ids) -> Option<Report> {
        self.part(label, |m| {
            let args = BenchArgs {
                phases: phases.to_vec(),
                ids,
                leases: Some(leases),
                expire_leases: Some(leases),
                duration: Some(m.sizes.span),
                shards: Some(1),
                load_threads: Some(1),
                connections: Some(CONNECTIONS),
                batch: Some(FRAME_BATCH),
                pin_server: m.args.pin_server,
                pin_load: m.args.pin_load,
                data_dir: Some(Path::to_owned(&m.place)),
                no_progress: m.args.no_progress,
                seed: 1,
                ..BenchArgs::default()
            };
            run::run(&args, m.exe.clone())
        })
        .inspect(|report| self.goals.interrupted |= report.interrupted)
    }
}
