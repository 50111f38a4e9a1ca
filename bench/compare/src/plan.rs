//! How much of everything: counts, times and CPUs of a run, the same for all peers where they can take it.
//!
//! A full run takes about fifteen minutes on two cores, a quick one about two. etcd gets fewer leases, because
//! it takes milliseconds where others take microseconds; figures are per lease.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::peer::Family;

/// Connections of every row but the one-at-a-time ones.
pub(crate) const CONNECTIONS: usize = 64;
/// Requests in flight per connection where pipelined.
pub(crate) const DEPTH: u32 = 32;
/// Leases of a unit of the batch row, and units in flight per connection.
pub(crate) const BATCH: u32 = 256;
pub(crate) const BATCH_DEPTH: u32 = 2;
/// Unary calls of etcd in flight, over how many connections.
pub(crate) const CALLS_IN_FLIGHT: usize = 256;
pub(crate) const ETCD_CONNECTIONS: usize = 4;
/// etcd's keepalive streams and their windows: the first is held against `64 × 1`, the second against
/// `64 × 32`, the others are its best.
pub(crate) const ETCD_STREAMS: [(usize, usize); 5] = [(64, 1), (64, 32), (1, 1_024), (8, 1_024), (1_000, 1)];
/// Leases that the foreground of a storm renews.
pub(crate) const FOREGROUND: u64 = 10_000;
/// Leases granted per second to end one by one: half of what etcd ends at most (`leaseRevokeRate`), so that lateness
/// is not a queue's.
pub(crate) const TRICKLE_PER_SECOND: f64 = 500.0;
/// Their TTL: the shortest that etcd grants.
pub(crate) const TRICKLE_TTL_MS: u64 = 2_000;
/// How long after the last deadline of leases that end one by one nobody waits any more.
pub(crate) const TRICKLE_GRACE: Duration = Duration::from_secs(10);
/// TTL of leases that are to stay.
pub(crate) const TTL_MS: u64 = 3_600_000;
/// Leases that are looked at after a restart.
pub(crate) const SAMPLE: u64 = 2_000;

/// Counts and times.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Plan {
    pub(crate) quick: bool,
    pub(crate) rounds: u32,
    /// Measured time of each row.
    pub(crate) span_s: f64,
    pub(crate) leases: u64,
    pub(crate) storm_leases: u64,
    /// The same for etcd.
    pub(crate) etcd_leases: u64,
    pub(crate) etcd_storm_leases: u64,
    /// Leases are granted to end one by one for so long.
    pub(crate) trickle_s: f64,
    /// Renewals per second beside a storm, or beside leases that end one by one.
    pub(crate) foreground_per_second: f64,
    /// Renewals run alone at least this long before the deadline of a storm.
    pub(crate) calm_s: f64,
    pub(crate) server_cpu: Option<usize>,
    pub(crate) load_cpu: Option<usize>,
    /// Where the servers' directories are made.
    pub(crate) place: PathBuf,
}

impl Plan {
    pub(crate) fn new(quick: bool, place: PathBuf, cpus: usize) -> Plan {
        let pin = |cpu| (cpus >= 2).then_some(cpu);
        let pick = |full, small| if quick { small } else { full };
        Plan {
            quick,
            rounds: if quick { 1 } else { 3 },
            span_s: if quick { 0.3 } else { 1.5 },
            leases: pick(1_000_000, 20_000),
            storm_leases: pick(1_000_000, 20_000),
            etcd_leases: pick(50_000, 1_000),
            etcd_storm_leases: pick(10_000, 500),
            trickle_s: if quick { 0.5 } else { 3.0 },
            foreground_per_second: 10_000.0,
            calm_s: if quick { 0.5 } else { 1.5 },
            server_cpu: pin(0),
            load_cpu: pin(cpus - 1),
            place,
        }
    }

    pub(crate) fn span(&self) -> Duration {
        Duration::from_secs_f64(self.span_s)
    }

    pub(crate) fn calm(&self) -> Duration {
        Duration::from_secs_f64(self.calm_s)
    }

    pub(crate) fn leases_of(&self, family: Family) -> u64 {
        if family == Family::Etcd { self.etcd_leases } else { self.leases }
    }

    pub(crate) fn storm_of(&self, family: Family) -> u64 {
        if family == Family::Etcd { self.etcd_storm_leases } else { self.storm_leases }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn server_and_load_never_share_a_cpu_that_could_be_their_own() {
        let pins = |cpus| {
            let plan = Plan::new(false, PathBuf::new(), cpus);
            (plan.server_cpu, plan.load_cpu)
        };
        assert_eq!((pins(1), pins(2), pins(8)), ((None, None), (Some(0), Some(1)), (Some(0), Some(7))));
    }
}
