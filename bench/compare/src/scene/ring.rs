//! The scenes of the peers that are loaded through the ring: Tenure, Redis, Valkey, memcached.

use std::time::Duration;

use anyhow::{bail, ensure};

use super::{AGE, Restarted, Stage, deadline, first_answer, lateness, trickle};
use crate::measure::{Job, Measure, Scene};
use crate::peer::Family;
use crate::plan::{BATCH, BATCH_DEPTH, CONNECTIONS, DEPTH, FOREGROUND, SAMPLE, TTL_MS};
use crate::ring_load::{Found, Party, Shape, Storm};
use crate::talk::{Ask, Talk, Until, Verb};

/// Longest time that a fill may take.
const FILL_MAX: Duration = Duration::from_secs(120);

fn ask(verb: Verb, leases: u32) -> Ask {
    Ask { verb, leases }
}

impl Stage<'_> {
    pub(super) fn on_ring<T: Talk>(&mut self, scene: Scene) -> anyhow::Result<Vec<Measure>> {
        match scene {
            Scene::Steady => self.steady::<T>(),
            Scene::Durable => {
                self.grants::<T>(Some(Job::GrantDurable1), Job::GrantDurable, Job::RevokeDurable, false)
            }
            Scene::Memory => self.grants::<T>(None, Job::Grant, Job::Revoke, true),
            Scene::Storm => self.ride_storm::<T>(),
            Scene::Trickle => self.trickle::<T>(Job::Lateness),
            Scene::TrickleLoaded => self.trickle::<T>(Job::LatenessLoaded),
            Scene::Restart => self.restart::<T>(),
        }
    }

    fn shape(&self, ask: Ask, depth: u32, spins: bool) -> Shape {
        Shape {
            connections: CONNECTIONS,
            depth,
            ask,
            span: self.plan.span(),
            leases_max: u64::MAX,
            // With one CPU a load that polls would keep the server from it.
            spins: spins && self.plan.load_cpu.is_some(),
        }
    }

    /// Grants until `count` leases more are live: what the server was too busy for is asked for again.
    fn fill<T: Talk>(&self, party: &mut Party<T>, count: u64, until: Until) -> anyhow::Result<()> {
        let goal = party.book.granted + count;
        // The largest batches that a peer takes with ease; RESP and memcached have none, only pipelines.
        let (leases, depth, connections) =
            if self.family == Family::Tenure { (4_096, 2, 4) } else { (BATCH, BATCH_DEPTH, CONNECTIONS) };
        while party.book.granted < goal {
            let left = goal - party.book.granted;
            let leases = leases.min(u32::try_from(left).unwrap_or(u32::MAX));
            let shape = Shape {
                connections,
                leases_max: left,
                span: FILL_MAX,
                ..self.shape(ask(Verb::Grant(until), leases), depth, false)
            };
            let found = party.closed_loop(shape)?;
            if let Some((what, count)) = found.heard.errors.first_key_value() {
                bail!("granting failed {count} times: {what}");
            }
        }
        Ok(())
    }

    fn steady<T: Talk>(&mut self) -> anyhow::Result<Vec<Measure>> {
        let mut party = Party::<T>::connect(self.server.address(), CONNECTIONS, TTL_MS)?;
        let leases = self.plan.leases_of(self.family);
        let memory = self.memory(|| {
            self.fill(&mut party, leases, Until::Ttl)?;
            Ok(party.book.granted)
        })?;
        let mut measures = if self.wants(Job::Memory) { vec![memory] } else { Vec::new() };
        party.book.shuffle();
        let batch = match self.family {
            Family::Tenure => format!("{CONNECTIONS} × {BATCH_DEPTH} frames of {BATCH} IDs"),
            Family::Memcached => format!("{CONNECTIONS} × {BATCH_DEPTH} runs of {BATCH}, quiet but the last"),
            _ => format!("{CONNECTIONS} × {BATCH_DEPTH} runs of {BATCH} commands"),
        };
        for (job, how, leases, depth) in [
            (Job::Renew1, format!("{CONNECTIONS} × 1"), 1, 1),
            (Job::Renew32, format!("{CONNECTIONS} × {DEPTH}"), 1, DEPTH),
            (Job::RenewBatch, batch, BATCH, BATCH_DEPTH),
        ] {
            if !self.wants(job) {
                continue;
            }
            let shape = self.shape(ask(Verb::Renew, leases), depth, true);
            // Caches, buffers and the clock of the CPU settle first.
            party.closed_loop(Shape { span: shape.span / 10, ..shape })?;
            let mut measure = self.rate(job, how, || party.closed_loop(shape))?;
            if self.family == Family::Memcached {
                let misses = party.question(true, Talk::ask_count)?.errors;
                measure.errors.extend(misses);
            }
            measures.push(measure);
        }
        Ok(measures)
    }

    fn grants<T: Talk>(
        &mut self,
        single: Option<Job>,
        grant: Job,
        revoke: Job,
        spins: bool,
    ) -> anyhow::Result<Vec<Measure>> {
        let mut party = Party::<T>::connect(self.server.address(), CONNECTIONS, TTL_MS)?;
        let mut measures = Vec::new();
        let wanted = single.filter(|&job| self.wants(job));
        if let Some(job) = wanted {
            let shape = self.shape(ask(Verb::Grant(Until::Ttl), 1), 1, false);
            let shape = Shape { connections: 1, ..shape };
            measures.push(self.rate(job, "1 in flight", || party.closed_loop(shape))?);
        }
        let how = || format!("{CONNECTIONS} × {DEPTH}");
        if self.wants(grant) || self.wants(revoke) {
            let shape = self.shape(ask(Verb::Grant(Until::Ttl), 1), DEPTH, spins);
            measures.push(self.rate(grant, how(), || party.closed_loop(shape))?);
        }
        if self.wants(revoke) {
            party.book.shuffle();
            let shape = self.shape(ask(Verb::Revoke, 1), DEPTH, spins);
            measures.push(self.rate(revoke, how(), || party.closed_loop(shape))?);
        }
        measures.retain(|measure| self.wants(measure.job));
        Ok(measures)
    }

    fn ride_storm<T: Talk>(&mut self) -> anyhow::Result<Vec<Measure>> {
        let mut party = Party::<T>::connect(self.server.address(), CONNECTIONS, TTL_MS)?;
        let expected = self.plan.storm_of(self.family);
        // The leases that stay show how fast this server grants, too; a cold start is slower than the rest.
        let began_ns = party.clock.now_ns();
        self.fill(&mut party, FOREGROUND, Until::Ttl)?;
        let fill_s = (party.clock.now_ns() - began_ns) as f64 / 1e9;
        party.book.shuffle();
        let deadline_ns =
            deadline(party.clock, expected, FOREGROUND as f64 / fill_s.max(1e-6), self.plan.calm());
        let (granted, sum) = (party.book.granted, party.book.granted_sum);
        party.book.forgets = true;
        self.fill(&mut party, expected, Until::At(deadline_ns))?;
        let expected = party.book.granted - granted;
        let expected_sum = party.book.granted_sum.wrapping_sub(sum);
        ensure!(
            party.clock.now_ns() + self.plan.calm().as_nanos() as u64 / 2 < deadline_ns,
            "granting {expected} leases took until their deadline"
        );
        party.join(self.server.address())?;
        let storm = Storm {
            per_second: self.plan.foreground_per_second,
            deadline_ns,
            expected,
            events: self.events,
            staying: granted,
            grace: Duration::from_secs(60),
            cpu_clock: self.server.cpu_clock()?,
        };
        let ridden = party.ride_out(storm)?;
        let told = ridden.heard.ended_sum;
        let how = match (self.events, self.family) {
            (true, _) => "heard by events",
            (false, Family::Memcached) => "seen by `curr_items` (every 5 ms); a grain of 1 s",
            (false, _) => "without events, seen by `DBSIZE` (every 5 ms)",
        };
        let mut measure = Self::storm(how, expected, deadline_ns, ridden);
        if self.events && measure.errors.is_empty() && told != expected_sum {
            measure.errors.insert("other leases than the ones granted ended".to_owned(), 1);
        }
        Ok(vec![measure])
    }

    fn trickle<T: Talk>(&mut self, job: Job) -> anyhow::Result<Vec<Measure>> {
        let mut party = Party::<T>::connect(self.server.address(), CONNECTIONS, TTL_MS)?;
        let mut renewals = 0.0;
        if job == Job::LatenessLoaded {
            self.fill(&mut party, FOREGROUND, Until::Ttl)?;
            renewals = self.plan.foreground_per_second;
        }
        party.book.shuffle();
        party.book.forgets = true;
        party.join(self.server.address())?;
        let found = party.trickle(trickle(self.plan, renewals))?;
        Ok(vec![lateness(job, "heard by events", found, self.family == Family::Tenure)])
    }

    fn restart<T: Talk>(&mut self) -> anyhow::Result<Vec<Measure>> {
        let leases = self.plan.leases_of(self.family);
        let address = self.server.address();
        let mut party = Party::<T>::connect(address, CONNECTIONS, TTL_MS)?;
        self.fill(&mut party, 1, Until::Ttl)?;
        let probe = party.book.held[0];
        self.fill(&mut party, leases - 1, Until::Ttl)?;
        std::thread::sleep(AGE);
        let left_before = party.question(false, |talk| talk.ask_remaining(probe))?.count;
        party.wires.clear();
        let began = self.server.crash_and_respawn()?;
        let (first_answer, (mut party_after, left_after)) = first_answer(began, || {
            let mut party = Party::<T>::connect(address, 1, TTL_MS)?;
            let heard = party.question(false, |talk| talk.ask_remaining(probe))?;
            // Redis listens long before it has loaded, and says so.
            let loads = heard.errors.keys().any(|what| what.starts_with("LOADING"));
            ensure!(!loads, "it is loading");
            Ok((party, heard.count.unwrap_or(0)))
        })?;
        party_after.book = party.book;
        party_after.book.shuffle();
        let sample = SAMPLE.min(leases);
        let shape = self.shape(ask(Verb::Renew, 1), DEPTH, false);
        let shape = Shape { connections: 1, leases_max: sample, span: FILL_MAX, ..shape };
        let Found { heard, .. } = party_after.closed_loop(shape)?;
        let restarted = Restarted {
            first_answer,
            left_before_s: left_before.unwrap_or(0) as f64 / 1e3,
            left_after_s: left_after as f64 / 1e3,
            kept_share: heard.operations as f64 / sample as f64,
            leases: party_after.book.granted,
        };
        Ok(vec![restarted.measure("kill -9, then the first answer about a lease")])
    }
}
