//! What one load thread counted in one phase.

use std::collections::BTreeMap;

use tenure_protocol::Refusal;

use crate::latency::Latency;
use crate::timeline::Timeline;

pub(crate) struct Tally {
    /// Leases granted, renewed or revoked, as the server answered.
    pub(crate) operations: u64,
    /// Requests answered.
    pub(crate) frames: u64,
    /// Of each request, from its (intended) sending to its reply.
    pub(crate) latency: Latency,
    /// Leases or requests that the server refused, by reason.
    pub(crate) refusals: BTreeMap<&'static str, u64>,
    /// Leases asked for again, because the server was too busy.
    pub(crate) retries: u64,
    /// Operations over time.
    pub(crate) timeline: Timeline,
    /// From the first sending to the last reply.
    pub(crate) elapsed_ns: u64,
    /// CPU time that the load thread used while it had something to do.
    pub(crate) busy_ns: u64,
}

impl Tally {
    pub(crate) fn new() -> Tally {
        Tally {
            operations: 0,
            frames: 0,
            latency: Latency::new(),
            refusals: BTreeMap::new(),
            retries: 0,
            timeline: Timeline::default(),
            elapsed_ns: 0,
            busy_ns: 0,
        }
    }

    #[cold]
    pub(crate) fn refused(&mut self, refusal: Refusal) {
        *self.refusals.entry(refusal.name()).or_default() += 1;
    }

    /// Something went wrong that no refusal names.
    #[cold]
    pub(crate) fn failed(&mut self, what: &'static str, count: u64) {
        if count > 0 {
            *self.refusals.entry(what).or_default() += count;
        }
    }

    /// Adds what another thread counted at the same time.
    pub(crate) fn merge(&mut self, other: Tally) {
        self.operations += other.operations;
        self.frames += other.frames;
        self.latency.merge(other.latency);
        for (what, count) in other.refusals {
            *self.refusals.entry(what).or_default() += count;
        }
        self.timeline.merge(&other.timeline);
        self.retries += other.retries;
        self.elapsed_ns = self.elapsed_ns.max(other.elapsed_ns);
        self.busy_ns += other.busy_ns;
    }

    pub(crate) fn merged(tallies: impl IntoIterator<Item = Tally>) -> Tally {
        tallies.into_iter().fold(Tally::new(), |mut sum, tally| {
            sum.merge(tally);
            sum
        })
    }
}
