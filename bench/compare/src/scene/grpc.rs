//! The scenes of etcd.

use std::time::Duration;

use anyhow::{bail, ensure};

use super::{AGE, Restarted, Stage, deadline, first_answer, lateness, trickle};
use crate::etcd::load::{Call, Calls, Party, Streams};
use crate::measure::{Job, Measure, Scene};
use crate::plan::{CALLS_IN_FLIGHT, ETCD_CONNECTIONS, ETCD_STREAMS, FOREGROUND, SAMPLE, TTL_MS};
use crate::ring_load::Storm;

const FILL_MAX: Duration = Duration::from_secs(120);
const TTL_S: u64 = TTL_MS / 1_000;

impl Stage<'_> {
    fn etcd_party(&self) -> anyhow::Result<Party> {
        let mut party = Party::connect(self.server.address(), ETCD_CONNECTIONS, TTL_MS)?;
        party.wait_until_ready()?;
        Ok(party)
    }

    fn etcd_fill(party: &mut Party, count: u64) -> anyhow::Result<()> {
        let call = Call::Grant { ttl_s: TTL_S };
        let calls = Calls { call, in_flight: CALLS_IN_FLIGHT, span: FILL_MAX, leases_max: count };
        let found = party.calls(calls)?;
        if let Some((what, count)) = found.heard.errors.first_key_value() {
            bail!("granting failed {count} times: {what}");
        }
        ensure!(found.heard.operations == count, "only {} leases were granted", found.heard.operations);
        Ok(())
    }

    pub(super) fn etcd_steady(&mut self) -> anyhow::Result<Vec<Measure>> {
        let mut party = self.etcd_party()?;
        let leases = self.plan.etcd_leases;
        let memory = self.memory(|| {
            Self::etcd_fill(&mut party, leases)?;
            Ok(leases)
        })?;
        let mut measures = if self.wants(Job::Memory) { vec![memory] } else { Vec::new() };
        party.book.shuffle();
        for (streams, window) in ETCD_STREAMS {
            // A shape is held against the row that it resembles; etcd has no batches.
            let job = match (streams, window) {
                (64 | 1_000, 1) => Job::Renew1,
                (64, 32) => Job::Renew32,
                _ => Job::RenewBatch,
            };
            if !self.wants(job) {
                continue;
            }
            let load = Streams { streams, window, span: self.plan.span() };
            party.keep_alive(Streams { span: load.span / 10, ..load })?;
            let noun = if streams == 1 { "stream" } else { "streams" };
            let how = format!("{streams} {noun} × {window}, {ETCD_CONNECTIONS} connections");
            measures.push(self.rate(job, how, || party.keep_alive(load))?);
        }
        Ok(measures)
    }

    pub(super) fn etcd_grants(&mut self, scene: Scene) -> anyhow::Result<Vec<Measure>> {
        let mut party = self.etcd_party()?;
        let (single, grant, revoke) = match scene {
            Scene::Durable => (Some(Job::GrantDurable1), Job::GrantDurable, Job::RevokeDurable),
            _ => (None, Job::Grant, Job::Revoke),
        };
        let call = Call::Grant { ttl_s: TTL_S };
        let calls = |call, in_flight| Calls { call, in_flight, span: self.plan.span(), leases_max: u64::MAX };
        let mut measures = Vec::new();
        let wanted = single.filter(|&job| self.wants(job));
        if let Some(job) = wanted {
            measures.push(self.rate(job, "1 in flight", || party.calls(calls(call, 1)))?);
        }
        let how = || format!("{CALLS_IN_FLIGHT} in flight, {ETCD_CONNECTIONS} connections");
        if self.wants(grant) || self.wants(revoke) {
            measures.push(self.rate(grant, how(), || party.calls(calls(call, CALLS_IN_FLIGHT)))?);
        }
        if self.wants(revoke) {
            party.book.shuffle();
            let calls = calls(Call::Revoke, CALLS_IN_FLIGHT);
            measures.push(self.rate(revoke, how(), || party.calls(calls))?);
        }
        measures.retain(|measure| self.wants(measure.job));
        Ok(measures)
    }

    pub(super) fn etcd_storm(&mut self) -> anyhow::Result<Vec<Measure>> {
        let mut party = self.etcd_party()?;
        let expected = self.plan.etcd_storm_leases;
        let began_ns = party.clock.now_ns();
        let staying = FOREGROUND.min(self.plan.etcd_leases);
        Self::etcd_fill(&mut party, staying)?;
        let fill_s = (party.clock.now_ns() - began_ns) as f64 / 1e9;
        party.book.shuffle();
        // Each lease of the storm takes two calls, its grant and the put of its key.
        let per_second = staying as f64 / fill_s.max(1e-6) / 2.0;
        let deadline_ns = deadline(party.clock, expected, per_second, self.plan.calm());
        let due = party.fill_storm(expected, CALLS_IN_FLIGHT, deadline_ns)?;
        ensure!(
            party.clock.now_ns() + self.plan.calm().as_nanos() as u64 / 2 < deadline_ns,
            "granting {expected} leases took until their deadline"
        );
        let storm = Storm {
            per_second: self.plan.foreground_per_second,
            deadline_ns,
            expected,
            events: true,
            staying,
            grace: Duration::from_secs(120),
            cpu_clock: self.server.cpu_clock()?,
        };
        let ridden = party.ride_out(storm, due)?;
        let how = "a key each, heard by a watch; deadlines within one second";
        Ok(vec![Self::storm(how, expected, deadline_ns, ridden)])
    }

    pub(super) fn etcd_trickle(&mut self, job: Job) -> anyhow::Result<Vec<Measure>> {
        let mut party = self.etcd_party()?;
        let mut renewals = 0.0;
        if job == Job::LatenessLoaded {
            Self::etcd_fill(&mut party, FOREGROUND.min(self.plan.etcd_leases))?;
            renewals = self.plan.foreground_per_second;
        }
        party.book.shuffle();
        let found = party.trickle(trickle(self.plan, renewals))?;
        Ok(vec![lateness(job, "a key each, heard by a watch", found, true)])
    }

    pub(super) fn etcd_restart(&mut self) -> anyhow::Result<Vec<Measure>> {
        let leases = self.plan.etcd_leases;
        let mut party = self.etcd_party()?;
        Self::etcd_fill(&mut party, 1)?;
        let probe = party.book.held[0];
        Self::etcd_fill(&mut party, leases - 1)?;
        std::thread::sleep(AGE);
        let left_before = party.remaining_s(probe)?;
        let book = party.book;
        drop(party.channels);
        drop(party.runtime);
        let began = self.server.crash_and_respawn()?;
        let address = self.server.address();
        let (first_answer, (mut party, left_after)) = first_answer(began, || {
            let party = Party::connect(address, 1, TTL_MS)?;
            let left = party.remaining_s(probe)?;
            Ok((party, left))
        })?;
        party.book = book;
        party.book.shuffle();
        let sample = SAMPLE.min(leases);
        let mut kept = 0;
        for id in &party.book.held[..sample as usize] {
            kept += u64::from(party.remaining_s(*id)? > 0);
        }
        let restarted = Restarted {
            first_answer,
            left_before_s: left_before as f64,
            left_after_s: left_after as f64,
            kept_share: kept as f64 / sample as f64,
            leases,
        };
        Ok(vec![restarted.measure("kill -9, then the first answer about a lease")])
    }
}
