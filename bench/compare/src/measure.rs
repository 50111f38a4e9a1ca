//! What is measured: the jobs, and the figures of one measurement.
//!
//! A figure is a number with a name; units are in the names. Every job has *main* figures, by which
//! peers are compared with Tenure, each with a direction.

use std::collections::BTreeMap;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// One row of the comparison, in the order of the report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Job {
    /// Renew, one lease per request, one request in flight on each of 64 connections
    Renew1,
    /// Renew, one lease per request, 32 in flight on each of 64 connections
    Renew32,
    /// Renew, as many leases at once as the peer takes
    RenewBatch,
    /// Memory per live lease
    Memory,
    /// Grant, durable, one in flight
    GrantDurable1,
    /// Grant, durable, pipelined
    GrantDurable,
    /// Revoke, durable, pipelined
    RevokeDurable,
    /// Grant, pipelined, nothing waits for a disk
    Grant,
    /// Revoke, pipelined, nothing waits for a disk
    Revoke,
    /// Many leases with one deadline
    Storm,
    /// 500 leases a second that end one by one, and nothing else
    Lateness,
    /// The same beside 10,000 other leases and as many renewals a second
    LatenessLoaded,
    /// kill -9 and start again
    Restart,
}

/// Rows that are measured on the same server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Scene {
    Steady,
    Durable,
    Memory,
    Storm,
    Trickle,
    TrickleLoaded,
    Restart,
}

impl Scene {
    /// Ends of leases are listened for.
    pub(crate) fn tells_ends(self) -> bool {
        matches!(self, Scene::Storm | Scene::Trickle | Scene::TrickleLoaded)
    }
}

/// A figure by which peers are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Figure {
    /// Its key in [`Measure::figures`].
    pub(crate) key: &'static str,
    /// Heading in the report.
    pub(crate) title: &'static str,
    pub(crate) unit: Unit,
    /// `None`: it is shown, and nobody wins by it.
    pub(crate) better: Option<Better>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Better {
    Lower,
    Higher,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    Ns,
    PerSecond,
    Bytes,
    Seconds,
    Share,
    Times,
    Count,
}

const fn figure(key: &'static str, title: &'static str, unit: Unit, better: Option<Better>) -> Figure {
    Figure { key, title, unit, better }
}

const RATE: &[Figure] = &[
    figure("server_cpu_ns", "server CPU per lease", Unit::Ns, Some(Better::Lower)),
    figure("per_second", "per second", Unit::PerSecond, Some(Better::Higher)),
    figure("p50_ns", "p50", Unit::Ns, None),
    figure("p99_ns", "p99", Unit::Ns, None),
    figure("load_busy", "load CPU", Unit::Share, None),
];
const ONE_AT_A_TIME: &[Figure] = &[
    figure("server_cpu_ns", "server CPU per lease", Unit::Ns, Some(Better::Lower)),
    figure("p50_ns", "p50", Unit::Ns, Some(Better::Lower)),
    figure("p99_ns", "p99", Unit::Ns, None),
    figure("per_second", "per second", Unit::PerSecond, None),
    figure("load_busy", "load CPU", Unit::Share, None),
];
const MEMORY: &[Figure] = &[
    figure("bytes_per_lease", "bytes per lease", Unit::Bytes, Some(Better::Lower)),
    figure("leases", "leases", Unit::Count, None),
];
const STORM: &[Figure] = &[
    figure("late_p50_ns", "late p50", Unit::Ns, Some(Better::Lower)),
    figure("late_p99_ns", "late p99", Unit::Ns, None),
    figure("late_max_ns", "late max", Unit::Ns, Some(Better::Lower)),
    figure("cpu_per_expiry_ns", "CPU per expiry", Unit::Ns, Some(Better::Lower)),
    figure("before_p99_ns", "renewals' p99 before", Unit::Ns, None),
    figure("during_p99_ns", "during", Unit::Ns, Some(Better::Lower)),
    figure("disturbance", "during / before", Unit::Times, None),
    figure("leases", "leases", Unit::Count, None),
];
const LATENESS: &[Figure] = &[
    figure("late_p50_ns", "late p50", Unit::Ns, Some(Better::Lower)),
    figure("late_p99_ns", "late p99", Unit::Ns, Some(Better::Lower)),
    figure("late_max_ns", "late max", Unit::Ns, None),
    figure("untold", "never told", Unit::Count, None),
    figure("leases", "leases", Unit::Count, None),
];
const RESTART: &[Figure] = &[
    figure("first_answer_s", "first answer after", Unit::Seconds, Some(Better::Lower)),
    figure("first_answer_ns_per_lease", "per lease", Unit::Ns, None),
    figure("kept_share", "leases kept", Unit::Share, None),
    figure("ttl_added_s", "TTL left, changed by", Unit::Seconds, None),
    figure("leases", "leases", Unit::Count, None),
];

impl Job {
    pub(crate) const ALL: [Job; 13] = [
        Job::Renew1,
        Job::Renew32,
        Job::RenewBatch,
        Job::Memory,
        Job::GrantDurable1,
        Job::GrantDurable,
        Job::RevokeDurable,
        Job::Grant,
        Job::Revoke,
        Job::Storm,
        Job::Lateness,
        Job::LatenessLoaded,
        Job::Restart,
    ];

    pub(crate) fn scene(self) -> Scene {
        match self {
            Job::Renew1 | Job::Renew32 | Job::RenewBatch | Job::Memory => Scene::Steady,
            Job::GrantDurable1 | Job::GrantDurable | Job::RevokeDurable => Scene::Durable,
            Job::Grant | Job::Revoke => Scene::Memory,
            Job::Storm => Scene::Storm,
            Job::Lateness => Scene::Trickle,
            Job::LatenessLoaded => Scene::TrickleLoaded,
            Job::Restart => Scene::Restart,
        }
    }

    /// What the report shows of it, main figures first.
    pub(crate) fn figures(self) -> &'static [Figure] {
        match self {
            Job::GrantDurable1 => ONE_AT_A_TIME,
            Job::Memory => MEMORY,
            Job::Storm => STORM,
            Job::Lateness | Job::LatenessLoaded => LATENESS,
            Job::Restart => RESTART,
            _ => RATE,
        }
    }

    /// The name on the command line and in JSON.
    pub(crate) fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }

    /// Its heading.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Job::Renew1 => "Renew, one in flight on each of 64 connections",
            Job::Renew32 => "Renew, 32 in flight on each of 64 connections",
            Job::RenewBatch => "Renew, as many at once as the peer takes",
            Job::Memory => "Memory per live lease",
            Job::GrantDurable1 => "Durable grant, one at a time",
            Job::GrantDurable => "Durable grant, pipelined",
            Job::RevokeDurable => "Durable revoke, pipelined",
            Job::Grant => "Grant without waiting for a disk, pipelined",
            Job::Revoke => "Revoke without waiting for a disk, pipelined",
            Job::Storm => "Mass expiry",
            Job::Lateness => "Lateness of leases that end one by one, 500 a second",
            Job::LatenessLoaded => {
                "Lateness of leases that end one by one, 500 a second, beside 10 k others and 10 k renewals/s"
            }
            Job::Restart => "Restart after kill -9",
        }
    }
}

/// One measurement.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Measure {
    pub(crate) job: Job,
    /// In which shape this peer does it, such as `64 × 32`.
    pub(crate) how: String,
    pub(crate) figures: BTreeMap<String, f64>,
    /// The load, not the server, was at its limit: rates say nothing, CPU per lease does.
    pub(crate) load_limited: bool,
    /// What was answered that should not have been.
    pub(crate) errors: BTreeMap<String, u64>,
}

impl Measure {
    pub(crate) fn new(job: Job, how: impl Into<String>) -> Measure {
        let how = how.into();
        Measure { job, how, figures: BTreeMap::new(), load_limited: false, errors: BTreeMap::new() }
    }

    pub(crate) fn set(&mut self, key: &str, value: f64) {
        self.figures.insert(key.to_owned(), value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_job_has_a_main_figure_and_a_name_that_json_uses_too() {
        for job in Job::ALL {
            assert!(job.figures().iter().any(|figure| figure.better.is_some()), "{job:?}");
            assert_eq!(serde_json::to_value(job).unwrap(), job.name());
        }
    }
}
