//! Scenes: what is done to one freshly started server, and what is measured of it.
//!
//! | scene | server | rows |
//! | --- | --- | --- |
//! | steady | as it is usually run | memory per lease, then the renewals |
//! | durable | acknowledged means on disk | grants, then revokes of what was granted |
//! | memory | nothing waits for a disk | the same |
//! | storm | as it is usually run | many leases with one deadline, beside renewals |
//! | trickle | as it is usually run | leases that end one by one |
//! | trickle, loaded | the same | the same beside other leases and their renewals |
//! | restart | durable, where it can be | kill -9, then the first answer |
//!
//! The scenes of the peers behind [`crate::talk::Talk`] are in `ring`, those of etcd in `grpc`; both
//! make their rows with the functions here.

mod grpc;
mod ring;

use std::time::{Duration, Instant};

use anyhow::Context;

use crate::dues::{Dues, UNEXPECTED};
use crate::measure::{Job, Measure, Scene};
use crate::peer::{Family, Installed};
use crate::plan::{Plan, TRICKLE_GRACE, TRICKLE_PER_SECOND, TRICKLE_TTL_MS};
use crate::ring_load::{Clock, Found, Ridden, Trickle};
use crate::server::{Durability, Launch, Server};
use crate::talk::Heard;
use crate::talk::memcached::Memcached;
use crate::talk::resp::Resp;
use crate::talk::tenure::Tenure;

/// The memory of a server is read this long after it was changed.
const SETTLE: Duration = Duration::from_millis(300);
/// Between the grant of the lease whose TTL is looked at after a restart, and the restart.
const AGE: Duration = Duration::from_millis(2_100);
/// How long a server may take from kill -9 to its first answer.
const RESTART_MAX: Duration = Duration::from_secs(120);
/// Above this share of its CPU the load is at its limit.
const BUSY: f64 = 0.9;

/// What a scene gave: rows, and the settings that they were measured with.
pub(crate) struct Played {
    pub(crate) settings: String,
    pub(crate) measures: Vec<Measure>,
}

/// One variant of a scene.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Variant {
    pub(crate) scene: Scene,
    /// With events for ends; only a storm differs.
    pub(crate) events: bool,
}

/// The variants of a scene that a family can play; empty: none, for this reason.
pub(crate) fn variants(family: Family, scene: Scene) -> Result<Vec<Variant>, &'static str> {
    match (family, scene) {
        (Family::Memcached, Scene::Durable) => Err("it keeps nothing on a disk"),
        (Family::Memcached, Scene::Trickle | Scene::TrickleLoaded) => {
            Err("it tells nobody of an end, and its clock has a grain of 1 s")
        }
        (Family::Resp, Scene::Storm) => Ok([true, false].map(|events| Variant { scene, events }).to_vec()),
        (Family::Memcached, _) => Ok(vec![Variant { scene, events: false }]),
        _ => Ok(vec![Variant { scene, events: true }]),
    }
}

/// Plays a scene on a fresh server; rows of other jobs than `wanted` are left out.
///
/// # Errors
/// When the server or the load fails; the text says at what.
pub(crate) fn play(
    variant: Variant,
    installed: &Installed,
    plan: &Plan,
    wanted: &dyn Fn(Job) -> bool,
) -> anyhow::Result<Played> {
    let durability = match variant.scene {
        Scene::Durable | Scene::Restart => Durability::Durable,
        Scene::Memory => Durability::Memory,
        Scene::Steady | Scene::Storm | Scene::Trickle | Scene::TrickleLoaded => Durability::Usual,
    };
    let launch = Launch {
        installed: installed.clone(),
        durability,
        events: variant.events && variant.scene.tells_ends(),
        cpu: plan.server_cpu,
        place: plan.place.clone(),
    };
    let mut server = Server::start(&launch)?;
    let settings = server.settings();
    let family = installed.peer.family();
    let mut stage = Stage { server: &mut server, plan, family, events: variant.events, wanted };
    let played = match (family, variant.scene) {
        (Family::Etcd, Scene::Steady) => stage.etcd_steady(),
        (Family::Etcd, Scene::Durable | Scene::Memory) => stage.etcd_grants(variant.scene),
        (Family::Etcd, Scene::Storm) => stage.etcd_storm(),
        (Family::Etcd, Scene::Trickle) => stage.etcd_trickle(Job::Lateness),
        (Family::Etcd, Scene::TrickleLoaded) => stage.etcd_trickle(Job::LatenessLoaded),
        (Family::Etcd, Scene::Restart) => stage.etcd_restart(),
        (Family::Tenure, scene) => stage.on_ring::<Tenure>(scene),
        (Family::Resp, scene) => stage.on_ring::<Resp>(scene),
        (Family::Memcached, scene) => stage.on_ring::<Memcached>(scene),
    };
    // A server that died explains more than a load that lost its connections.
    server.check_alive()?;
    Ok(Played { settings, measures: played? })
}

/// A running server and what is to be done to it.
struct Stage<'a> {
    server: &'a mut Server,
    plan: &'a Plan,
    family: Family,
    events: bool,
    wanted: &'a dyn Fn(Job) -> bool,
}

impl Stage<'_> {
    fn wants(&self, job: Job) -> bool {
        (self.wanted)(job)
    }

    /// Runs a load and makes a row of it: rate, latency, CPU on both sides.
    fn rate(
        &self,
        job: Job,
        how: impl Into<String>,
        load: impl FnOnce() -> anyhow::Result<Found>,
    ) -> anyhow::Result<Measure> {
        let mut measure = Measure::new(job, how);
        let before = self.server.cpu()?;
        let mut found = load().with_context(|| format!("{}, {}", job.name(), measure.how))?;
        let cpu = self.server.cpu()?.saturating_sub(before);
        let (operations, elapsed_s) = (found.heard.operations as f64, found.elapsed_ns as f64 / 1e9);
        let server_cpus = cpu.as_secs_f64() / elapsed_s;
        let load_busy = found.busy_ns as f64 / found.elapsed_ns as f64;
        measure.set("operations", operations);
        measure.set("per_second", operations / elapsed_s);
        if operations > 0.0 {
            measure.set("server_cpu_ns", cpu.as_nanos() as f64 / operations);
        }
        measure.set("server_cpus", server_cpus);
        if operations > 0.0 {
            measure.set("load_cpu_ns", found.busy_ns as f64 / operations);
        }
        measure.set("load_busy", load_busy);
        if let Some(latency) = found.heard.before.quantiles() {
            measure.set("p50_ns", latency.p50_ns as f64);
            measure.set("p99_ns", latency.p99_ns as f64);
            measure.set("max_ns", latency.max_ns as f64);
        }
        measure.load_limited = load_busy > BUSY && server_cpus < BUSY;
        measure.errors = found.heard.errors;
        if found.heard.busy > 0 {
            measure.errors.insert("Busy".to_owned(), found.heard.busy);
        }
        Ok(measure)
    }

    /// Fills, and makes the row of memory per lease; `connected` is when all connections are made.
    fn memory(&self, fill: impl FnOnce() -> anyhow::Result<u64>) -> anyhow::Result<Measure> {
        std::thread::sleep(SETTLE);
        let empty = self.server.resident_bytes()?;
        let leases = fill().context("filling")? as f64;
        std::thread::sleep(SETTLE);
        let full = self.server.resident_bytes()?;
        let mut measure = Measure::new(Job::Memory, "growth of the resident set");
        measure.set("leases", leases);
        measure.set("empty_bytes", empty as f64);
        measure.set("full_bytes", full as f64);
        measure.set("bytes_per_lease", full.saturating_sub(empty) as f64 / leases.max(1.0));
        Ok(measure)
    }

    /// Makes the row of a storm.
    fn storm(how: &str, expected: u64, deadline_ns: u64, ridden: Ridden) -> Measure {
        let mut measure = Measure::new(Job::Storm, how);
        let Ridden { mut lateness, last_ns, early, mut heard, costs } = ridden;
        measure.set("leases", expected as f64);
        measure.set("ended", heard.ended as f64);
        if let Some(late) = lateness.quantiles() {
            measure.set("late_p50_ns", late.p50_ns as f64);
            measure.set("late_p99_ns", late.p99_ns as f64);
            measure.set("late_max_ns", late.max_ns as f64);
            let took_s = last_ns.saturating_sub(deadline_ns) as f64 / 1e9;
            measure.set("per_second", heard.ended as f64 / took_s.max(1e-9));
        }
        if let (Some(before), Some(during)) = (heard.before.quantiles(), heard.after.quantiles()) {
            for (name, found) in [("before", before), ("during", during)] {
                measure.set(&format!("{name}_p50_ns"), found.p50_ns as f64);
                measure.set(&format!("{name}_p99_ns"), found.p99_ns as f64);
                measure.set(&format!("{name}_max_ns"), found.max_ns as f64);
            }
            measure.set("disturbance", during.p99_ns as f64 / before.p99_ns.max(1) as f64);
        }
        if let Some(cpu) = costs.of_the_storm() {
            measure.set("cpu_per_expiry_ns", cpu.as_nanos() as f64 / heard.ended.max(1) as f64);
        }
        measure.errors = heard.errors;
        for (what, count) in [
            ("ended early", early),
            ("never ended", expected.saturating_sub(heard.ended)),
            (UNEXPECTED, heard.ended.saturating_sub(expected)),
        ] {
            if count > 0 {
                measure.errors.insert(what.to_owned(), count);
            }
        }
        measure
    }
}

/// Leases that end one by one, and so many renewals beside them.
fn trickle(plan: &Plan, renewals_per_second: f64) -> Trickle {
    Trickle {
        grants_per_second: TRICKLE_PER_SECOND,
        ttl_ms: TRICKLE_TTL_MS,
        span: Duration::from_secs_f64(plan.trickle_s),
        renewals_per_second,
        grace: TRICKLE_GRACE,
    }
}

/// The row of leases that ended one by one. `promised`: this peer promises to tell every end.
fn lateness(job: Job, how: &str, (mut dues, heard): (Dues, Heard), promised: bool) -> Measure {
    let mut measure = Measure::new(job, how);
    measure.set("leases", (dues.ended + dues.untold) as f64);
    measure.set("untold", dues.untold as f64);
    if let Some(late) = dues.lateness.quantiles() {
        measure.set("late_p50_ns", late.p50_ns as f64);
        measure.set("late_p99_ns", late.p99_ns as f64);
        measure.set("late_max_ns", late.max_ns as f64);
    }
    measure.errors = heard.errors;
    let missed = if promised { dues.untold } else { 0 };
    let wrong = [
        ("Busy", heard.busy),
        ("ended early", dues.early),
        ("never told", missed),
        (UNEXPECTED, dues.unexpected),
    ];
    for (what, count) in wrong.into_iter().filter(|(_, count)| *count > 0) {
        measure.errors.insert(what.to_owned(), count);
    }
    measure
}

/// When the leases of a storm are to end: after so many leases at this rate and a calm, at a whole second
/// of the wall clock, which is the grain of memcached.
fn deadline(clock: Clock, leases: u64, per_second: f64, calm: Duration) -> u64 {
    const SECOND_NS: u64 = 1_000_000_000;
    // Half as long again and a second, because a table that grows, or a busy machine, slows the filling.
    let fill_ns = (leases as f64 / per_second.max(1.0) * 1.5e9) as u64 + SECOND_NS;
    let wall_ns = clock.now_ns() + clock.wall_offset_ns() + fill_ns + 2 * calm.as_nanos() as u64;
    wall_ns.div_ceil(SECOND_NS) * SECOND_NS - clock.wall_offset_ns()
}

/// What a restart was like.
struct Restarted {
    first_answer: Duration,
    /// TTL left of one lease, before the kill and with the first answer, seconds.
    left_before_s: f64,
    left_after_s: f64,
    kept_share: f64,
    leases: u64,
}

impl Restarted {
    fn measure(&self, how: &str) -> Measure {
        let mut measure = Measure::new(Job::Restart, how);
        let seconds = self.first_answer.as_secs_f64();
        measure.set("leases", self.leases as f64);
        measure.set("kept_share", self.kept_share);
        if self.kept_share == 0.0 {
            // Whoever forgets everything is quick to answer; that is no recovery to compare with.
            measure.set("empty_answer_s", seconds);
        } else {
            measure.set("first_answer_s", seconds);
            measure.set("first_answer_ns_per_lease", seconds * 1e9 / self.leases.max(1) as f64);
            measure.set("ttl_added_s", self.left_after_s - self.left_before_s);
        }
        measure
    }
}

/// Tries until there is an answer; how long after `began` it came.
///
/// # Errors
/// When there is none in time.
fn first_answer<T>(
    began: Instant,
    mut attempt: impl FnMut() -> anyhow::Result<T>,
) -> anyhow::Result<(Duration, T)> {
    loop {
        match attempt() {
            Ok(answer) => return Ok((began.elapsed(), answer)),
            Err(error) if began.elapsed() > RESTART_MAX => {
                return Err(error.context(format!("no answer within {RESTART_MAX:?} of the start")));
            }
            Err(_) => std::thread::sleep(Duration::from_millis(1)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_is_a_whole_second_of_the_wall_clock_and_leaves_time_to_fill() {
        let clock = Clock::start();
        let deadline_ns = deadline(clock, 1_000, 1_000.0, Duration::from_secs(1));
        // The clocks are read one after the other, and one of them may be slewed.
        let past_second_ns = (deadline_ns + clock.wall_offset_ns()) % 1_000_000_000;
        assert!(past_second_ns.min(1_000_000_000 - past_second_ns) < 5_000_000, "{past_second_ns}");
        assert!(deadline_ns > clock.now_ns() + 4_400_000_000);
    }

    #[test]
    fn what_a_peer_cannot_do_is_said_and_redis_rides_the_storm_twice() {
        assert!(variants(Family::Memcached, Scene::Durable).is_err());
        assert!(variants(Family::Memcached, Scene::Trickle).is_err());
        let events = |family| {
            let variants = variants(family, Scene::Storm).unwrap();
            variants.into_iter().map(|variant| variant.events).collect::<Vec<_>>()
        };
        assert_eq!(events(Family::Resp), [true, false]);
        assert_eq!((events(Family::Memcached), events(Family::Tenure)), (vec![false], vec![true]));
    }

    #[test]
    fn a_restart_that_kept_nothing_has_no_ttl_to_speak_of() {
        let mut restarted = Restarted {
            first_answer: Duration::from_millis(500),
            left_before_s: 598.0,
            left_after_s: 600.0,
            kept_share: 1.0,
            leases: 1_000,
        };
        let figures = restarted.measure("x").figures;
        assert_eq!((figures["ttl_added_s"], figures["first_answer_ns_per_lease"]), (2.0, 500_000.0));
        restarted.kept_share = 0.0;
        let figures = restarted.measure("x").figures;
        assert!(!figures.contains_key("ttl_added_s") && !figures.contains_key("first_answer_s"));
        assert_eq!(figures["empty_answer_s"], 0.5);
    }
}
