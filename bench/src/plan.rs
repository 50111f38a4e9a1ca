//! From the command line to what is done: every choice made, every number within its wall.
//!
//! A plan depends on the arguments and on the number of CPUs, on nothing else, so that the same command
//! on the same machine does the same (S5 in spirit: the order of renewals is seeded, too).

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::args::{BenchArgs, CpuChoice, Ids, Phase};
use crate::host;
use crate::limits::{CONNECTIONS_MAX, DEPTH_MAX, DURATION_MAX, GRANTS_MAX, LEASES_MAX};
use crate::order::Access;

mod command;

/// What a run does. Goes into the report as it is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// Phases in order, by name.
    #[serde(serialize_with = "names", deserialize_with = "from_names")]
    pub phases: Vec<Phase>,
    /// A short run: its figures are not for comparison.
    pub quick: bool,
    /// Who chooses IDs.
    pub ids: Ids,
    /// Leases held while renewing.
    pub leases: u64,
    /// Their TTL, ms.
    pub ttl_ms: u64,
    /// Connections over all load threads.
    pub connections: usize,
    /// Requests in flight on each where pipelined.
    pub depth: u32,
    /// Leases per frame in renew-batch.
    pub batch: usize,
    /// Batches in flight per connection there.
    pub batch_depth: u32,
    /// Measured time of a phase.
    pub duration: Duration,
    /// Most leases that the grant phase grants.
    pub grants_max: u64,
    /// Operations per second of open loops; `None`: half of what renew or grant reached.
    pub rate: Option<f64>,
    /// Renewals per second beside storm and lateness.
    pub foreground_rate: f64,
    /// Which leases are renewed.
    pub(crate) access: Access,
    /// Clients of the fleet.
    pub clients: u64,
    /// Its connections, where it has many.
    pub fleet_connections: usize,
    /// How often each of its leases is renewed.
    pub fleet_period: Duration,
    /// Leases of the storm.
    pub expire_leases: u64,
    /// Threads of the load side.
    pub load_threads: usize,
    /// CPU of the first load thread, the others below it.
    pub pin_load: Option<usize>,
    /// Load threads may poll without sleeping, where the log does not matter.
    pub spins: bool,
    /// Seed of the order of renewals.
    pub seed: u64,
    /// The server: `None` when another one is loaded.
    pub server: Option<ServerPlan>,
}

/// The server that is started.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ServerPlan {
    /// Shards.
    pub shards: u16,
    /// CPU of the first.
    pub pin: Option<usize>,
    /// Arguments after `serve --listen … --data-dir …`.
    pub arguments: Vec<String>,
    /// Where its temporary directory is made.
    pub place: PathBuf,
    /// That place is in memory: the log survives the process, but not the machine.
    pub place_in_memory: bool,
}

fn names<S: serde::Serializer>(phases: &[Phase], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(phases.iter().map(|phase| phase.name()))
}

fn from_names<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<Phase>, D::Error> {
    let names = Vec::<String>::deserialize(deserializer)?;
    let phases = names.iter().map(|name| Phase::from_str(name, false).map_err(serde::de::Error::custom));
    phases.collect()
}

impl Plan {
    /// Decides what the arguments left open.
    ///
    /// # Errors
    /// When a number is out of its range, naming the argument.
    pub fn new(args: &BenchArgs) -> anyhow::Result<Plan> {
        Plan::for_cpus(args, host::cpu_count())
    }

    fn for_cpus(args: &BenchArgs, cpus: usize) -> anyhow::Result<Plan> {
        let quick = args.quick;
        let pick = |full: u64, short: u64| if quick { short } else { full };
        let load_threads = args.load_threads.unwrap_or((cpus / 2).max(1));
        let plan = Plan {
            phases: phases(args),
            quick,
            ids: args.ids,
            leases: args.leases.unwrap_or(pick(1_000_000, 100_000)),
            ttl_ms: args.ttl.map_or(3_600_000, |ttl| u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX)),
            connections: args.connections.unwrap_or(64),
            depth: u32::try_from(args.depth.unwrap_or(32)).context("--depth is too large")?,
            batch: args.batch.unwrap_or(256),
            batch_depth: u32::try_from(args.batch_depth.unwrap_or(4))
                .context("--batch-depth is too large")?,
            duration: args.duration.unwrap_or(Duration::from_secs(pick(5, 1))),
            grants_max: pick(GRANTS_MAX, 500_000),
            rate: args.rate,
            foreground_rate: args.foreground_rate.unwrap_or(100_000.0),
            access: Access {
                order: args.order,
                exponent: args.zipf.unwrap_or(0.99),
                remote: 0.0,
                seed: args.seed,
            },
            clients: args.clients.unwrap_or(100_000),
            fleet_connections: args.fleet_connections.unwrap_or(pick(10_000, 500) as usize),
            fleet_period: args.fleet_period.unwrap_or(Duration::from_secs(10)),
            expire_leases: args.expire_leases.unwrap_or(pick(1_000_000, 100_000)),
            load_threads,
            pin_load: pin(args.pin_load, cpus, cpus - 1),
            spins: cpus >= 2,
            seed: args.seed,
            server: if args.endpoint.is_some() { None } else { Some(server(args, cpus, load_threads)?) },
        };
        plan.check(cpus)?;
        Ok(plan)
    }

    fn check(&self, cpus: usize) -> anyhow::Result<()> {
        within("--leases", self.leases, 1, LEASES_MAX)?;
        within("--expire-leases", self.expire_leases, 1, LEASES_MAX)?;
        within("--connections", self.connections as u64, 1, CONNECTIONS_MAX as u64)?;
        within("--fleet-connections", self.fleet_connections as u64, 1, CONNECTIONS_MAX as u64)?;
        within("--clients", self.clients, 1, LEASES_MAX)?;
        within("--fleet-period in ms", self.fleet_period.as_millis() as u64, 100, 3_600_000)?;
        let zipf = self.access.exponent;
        ensure!((0.0..=10.0).contains(&zipf), "--zipf must be from 0 to 10, not {zipf}");
        within("--depth", self.depth.into(), 1, DEPTH_MAX as u64)?;
        within("--batch-depth", self.batch_depth.into(), 1, DEPTH_MAX as u64)?;
        within("--batch", self.batch as u64, 1, tenure_protocol::limits::BATCH_IDS_MAX.into())?;
        within("--load-threads", self.load_threads as u64, 1, 1_024)?;
        within("--ttl in ms", self.ttl_ms, 1_000, 9_000_000_000_000)?;
        let duration_max = DURATION_MAX.as_millis() as u64;
        within("--duration in ms", self.duration.as_millis() as u64, 100, duration_max)?;
        for (name, rate) in
            [("--rate", self.rate.unwrap_or(1.0)), ("--foreground-rate", self.foreground_rate)]
        {
            ensure!((1.0..=1e9).contains(&rate), "{name} must be from 1 to 1000000000 per second");
        }
        ensure!(
            self.connections >= self.load_threads,
            "--connections must be at least --load-threads ({}), so that each thread has one",
            self.load_threads
        );
        ensure!(
            self.server.is_some() || !self.phases.contains(&Phase::Restart),
            "the phase restart kills the server, and so needs one of its own: leave out --endpoint"
        );
        if let Some(cpu) = self.pin_load {
            ensure!(cpu < cpus.max(1_024), "--pin-load {cpu}: there is no such CPU");
        }
        Ok(())
    }

    /// The CPU of a load thread.
    pub(crate) fn load_cpu(&self, thread: usize) -> Option<usize> {
        self.pin_load.and_then(|cpu| cpu.checked_sub(thread))
    }

    /// How many of `total` things a load thread takes; the first ones take the rest.
    pub(crate) fn share(&self, total: u64, thread: usize) -> u64 {
        let threads = self.load_threads as u64;
        total / threads + u64::from((thread as u64) < total % threads)
    }
}

fn within(name: &str, value: u64, min: u64, max: u64) -> anyhow::Result<()> {
    if !(min..=max).contains(&value) {
        bail!("{name} must be from {min} to {max}, not {value}");
    }
    Ok(())
}

/// The phases asked for; a phase that renews leases brings the fill along, first.
fn phases(args: &BenchArgs) -> Vec<Phase> {
    let mut phases = if args.phases.is_empty() { Phase::ALL.to_vec() } else { args.phases.clone() };
    let first_need = phases.iter().position(|phase| phase.needs_leases());
    let fill = phases.iter().position(|&phase| phase == Phase::Fill);
    if let Some(need) = first_need
        && fill.is_none_or(|fill| fill > need)
    {
        phases.retain(|&phase| phase != Phase::Fill);
        phases.insert(0, Phase::Fill);
    }
    phases
}

fn pin(choice: Option<CpuChoice>, cpus: usize, default: usize) -> Option<usize> {
    match choice {
        Some(CpuChoice::Cpu(cpu)) => Some(cpu),
        Some(CpuChoice::None) => None,
        None => (cpus >= 2).then_some(default),
    }
}

fn server(args: &BenchArgs, cpus: usize, load_threads: usize) -> anyhow::Result<ServerPlan> {
    let default = cpus.saturating_sub(load_threads).max(1);
    let shards = args.shards.unwrap_or(u16::try_from(default).unwrap_or(u16::MAX));
    ensure!(shards > 0, "--shards must be at least 1");
    let pin = pin(args.pin_server, cpus, 0);
    let mut arguments = vec![format!("--shards={shards}")];
    arguments.push(pin.map_or("--no-pin".to_owned(), |cpu| format!("--first-cpu={cpu}")));
    let given = [("driver", &args.driver), ("durability", &args.durability)];
    for (name, value) in given {
        arguments.extend(value.iter().map(|value| format!("--{name}={value}")));
    }
    arguments.extend(args.server_arg.iter().cloned());
    let place = args.data_dir.clone().unwrap_or_else(host::disk_directory);
    let place_in_memory = host::in_memory(&place);
    Ok(ServerPlan { shards, pin, arguments, place, place_in_memory })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(change: impl FnOnce(&mut BenchArgs), cpus: usize) -> anyhow::Result<Plan> {
        let mut args = BenchArgs { seed: 1, ..BenchArgs::default() };
        change(&mut args);
        Plan::for_cpus(&args, cpus)
    }

    #[test]
    fn server_and_load_share_the_cpus() {
        for (cpus, shards, threads, pins) in
            [(1, 1, 1, (None, None)), (2, 1, 1, (Some(0), Some(1))), (8, 4, 4, (Some(0), Some(7)))]
        {
            let plan = plan(|_| (), cpus).unwrap();
            let server = plan.server.unwrap();
            assert_eq!((server.shards, plan.load_threads), (shards, threads), "{cpus} CPUs");
            assert_eq!((server.pin, plan.pin_load), pins, "{cpus} CPUs");
            assert_eq!(plan.spins, cpus > 1);
        }
    }

    #[test]
    fn shares_add_up_and_threads_count_cpus_downwards() {
        let plan = plan(|args| args.load_threads = Some(3), 8).unwrap();
        assert_eq!((0..3).map(|thread| plan.share(1_000, thread)).collect::<Vec<_>>(), [334, 333, 333]);
        assert_eq!(
            (0..3).map(|thread| plan.load_cpu(thread)).collect::<Vec<_>>(),
            [Some(7), Some(6), Some(5)]
        );
    }

    #[test]
    fn a_phase_that_renews_brings_the_fill_along() {
        let phases = |given: &[Phase]| plan(|args| args.phases = given.to_vec(), 2).unwrap().phases;
        assert_eq!(phases(&[Phase::Storm]), [Phase::Storm]);
        assert_eq!(phases(&[Phase::Renew, Phase::Storm]), [Phase::Fill, Phase::Renew, Phase::Storm]);
        assert_eq!(phases(&[Phase::Open, Phase::Fill]), [Phase::Fill, Phase::Open]);
        assert_eq!(phases(&[]), Phase::ALL);
    }

    #[test]
    fn the_server_is_told_what_was_asked_for() {
        let plan = plan(
            |args| {
                args.durability = Some("interval:50".to_owned());
                args.pin_server = Some(CpuChoice::None);
                args.server_arg = vec!["--spin-us=0".to_owned()];
            },
            2,
        );
        let arguments = plan.unwrap().server.unwrap().arguments;
        assert_eq!(arguments, ["--shards=1", "--no-pin", "--durability=interval:50", "--spin-us=0"]);
        let elsewhere = Plan::for_cpus(
            &BenchArgs { endpoint: Some("localhost:7070".to_owned()), ..BenchArgs::default() },
            2,
        );
        assert_eq!(elsewhere.unwrap().server, None);
    }

    #[test]
    fn numbers_out_of_range_are_refused_by_name() {
        let refused = |change: fn(&mut BenchArgs)| plan(change, 2).unwrap_err().to_string();
        assert!(refused(|args| args.leases = Some(0)).contains("--leases"));
        assert!(refused(|args| args.expire_leases = Some(1 << 40)).contains("--expire-leases"));
        assert!(refused(|args| args.depth = Some(1 << 20)).contains("--depth"));
        assert!(refused(|args| args.batch = Some(65_537)).contains("--batch"));
        assert!(refused(|args| args.rate = Some(f64::NAN)).contains("--rate"));
        assert!(refused(|args| args.load_threads = Some(65)).contains("--connections"));
        assert!(refused(|args| args.duration = Some(Duration::from_millis(1))).contains("--duration"));
    }
}
