//! The simulated world: one thread that chooses, step by step, who moves next.
//!
//! A core takes a turn, bytes arrive, a write completes, a keeper works, a client acts, time passes, or
//! something breaks. Every choice comes from the seed. After the safety phase everything heals and the world
//! must come to rest (`heal`). After each step the oracle has seen what the event streams say.

mod faults;
mod heal;
mod script;

use std::sync::Arc;
use std::time::Duration;

use tenure::{ManualClock, Role};

use crate::checkers::{Verdict, s2_never_early, s8_bounded};
use crate::client::{Client, Scene};
use crate::disk::{Failure, SimDisk};
use crate::host::{Host, Outcome};
use crate::link::Link;
use crate::oracle::Oracle;
use crate::plan::{ACTIONS, Action, Plan, Profile};
use crate::random::Random;
use crate::streams::Streams;
use crate::trace::Trace;
pub use script::{Cut, Script};

/// A seed under way.
pub struct World {
    plan: Plan,
    random: Random,
    disk: Arc<SimDisk>,
    clock: ManualClock,
    host: Option<Host>,
    links: Vec<Link>,
    clients: Vec<Client>,
    oracle: Oracle,
    streams: Streams,
    trace: Trace,
    shard_count: u16,
    /// Served time when the process was started, ms.
    served_before_ms: u64,
    /// Turns of each core since the start.
    turns: Vec<u64>,
    /// Turns that all cores have taken, over all starts.
    rounds: u64,
    rounds_before: u64,
    slow_until_ms: u64,
    /// Until then the disk is full.
    full_until_ms: u64,
    /// The server was asked to stop.
    stopping: bool,
    /// Nothing goes wrong any more.
    is_healed: bool,
    /// When that began, on the host's clock.
    healed_at_ms: u64,
    /// What was under way then has come to rest.
    has_rested: bool,
    /// The number of shards was changed.
    was_resharded: bool,
    /// Leases have expired while requests came in every turn.
    has_stormed: bool,
    /// Shards of the last process that served.
    shards_before: Option<u16>,
    /// Rounds when the world first came to rest after healing.
    calm_round: u64,
    /// The last round with a full disk since then.
    full_round: u64,
    /// Served time from which on every deadline counts.
    calm_since_ms: u64,
    /// Number of shards of the next start, when it is another.
    reshard_to: Option<u16>,
    /// Where the script is cut off, if this is one.
    cut: Option<Cut>,
    /// Dumps when the last process ended in order.
    dumps_at_end: Option<String>,
    /// Starts of the engine on what a crash left.
    pub crashes: u64,
    /// Steps taken.
    pub steps: u64,
}

/// How a run ended.
#[derive(Clone, Debug)]
pub struct Report {
    /// What was broken, if anything: the text begins with the invariant's name.
    pub failure: Option<String>,
    /// Digests of what happened and of the disk at the end (S5).
    pub digests: (u64, u64),
    /// Crashes and recoveries.
    pub crashes: u64,
    /// Steps taken.
    pub steps: u64,
    /// The trace, if it was kept.
    pub trace: String,
    /// The files on the disk at the end, if the trace was kept.
    pub files: Vec<(String, Vec<u8>)>,
}

impl World {
    /// The world of a plan, with nothing started.
    #[must_use]
    pub fn new(plan: Plan, keeps_trace: bool) -> World {
        let mut random = Random::new(plan.seed, 3);
        let clients = (0..plan.clients).map(|index| Client::new(index, &mut random)).collect();
        World {
            disk: SimDisk::new(plan.seed, plan.batch_bytes_max),
            clock: ManualClock::new(),
            host: None,
            links: Vec::new(),
            clients,
            oracle: Oracle::of(&plan),
            streams: Streams::default(),
            trace: Trace::new(keeps_trace),
            shard_count: plan.shards,
            served_before_ms: 0,
            turns: Vec::new(),
            rounds: 0,
            rounds_before: 0,
            slow_until_ms: 0,
            full_until_ms: 0,
            stopping: false,
            is_healed: false,
            healed_at_ms: 0,
            has_rested: false,
            was_resharded: false,
            has_stormed: false,
            shards_before: None,
            calm_round: u64::MAX,
            full_round: 0,
            calm_since_ms: 0,
            reshard_to: None,
            cut: None,
            dumps_at_end: None,
            crashes: 0,
            steps: 0,
            random,
            plan,
        }
    }

    /// Runs the plan to its end or to the first thing that is wrong.
    pub fn run(&mut self) -> Verdict {
        self.trace.note(0, "plan", &[self.plan.seed]);
        if self.trace.keeps_text() {
            let text = format!("{:?}", self.plan);
            self.trace.remark(format_args!("{text}"));
            self.disk.keep_story();
        }
        self.restart()?;
        for _ in 0..self.plan.steps {
            self.step()?;
        }
        if self.plan.profile == Profile::Swarm { self.heal() } else { Ok(()) }
    }

    /// What came out.
    #[must_use]
    pub fn report(mut self, verdict: Verdict) -> Report {
        let digests = (self.trace.digest(), self.disk.digest());
        if let (Err(_), true, Some(host)) = (&verdict, self.trace.keeps_text(), &self.host) {
            self.trace.remark(format_args!("\n{}", host.dumps()));
            for hub in (0..host.shard_count()).filter_map(|shard| host.cores.handle().event_hub(shard)) {
                let history = hub.history(tenure::Position(0), usize::MAX);
                let history = history.map(|history| history.next.0).map_err(|error| error.to_string());
                self.trace.remark(format_args!("history to {history:?}, durable {}", hub.durable()));
            }
        }
        let paths = if self.trace.keeps_text() { self.disk.files() } else { Vec::new() };
        let files = paths.into_iter().map(|(path, _)| (path.clone(), self.disk.contents(&path))).collect();
        Report {
            failure: verdict.err(),
            digests,
            crashes: self.crashes,
            steps: self.steps,
            trace: self.trace.text().to_owned(),
            files,
        }
    }

    /// The host's clock, ms.
    fn host_ms(&self) -> u64 {
        u64::try_from(self.clock.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Served time now, ms.
    fn served_ms(&self) -> u64 {
        let running = self.host.as_ref().map_or(0, |host| host.engine_ms() - host.base_ms);
        self.served_before_ms + running
    }

    fn pass(&mut self, ms: u64) {
        tenure::simulation::forward(&self.clock, Duration::from_millis(ms));
    }

    fn step(&mut self) -> Verdict {
        self.steps += 1;
        let total: u64 = self.plan.actions.iter().sum();
        let mut left = self.random.below(total);
        let drawn = ACTIONS.iter().zip(self.plan.actions).find(|(_, rate)| {
            let hit = left < *rate;
            left = left.saturating_sub(*rate);
            hit
        });
        let Some(((action, ..), _)) = drawn else { return Ok(()) };
        if self.host.is_none() {
            self.pass(self.plan_downtime());
            return self.restart();
        }
        self.perform(*action)?;
        if self.disk.is_dead() {
            self.crash(Failure::Power)?;
        }
        self.observe()
    }

    fn plan_downtime(&self) -> u64 {
        self.steps % 7
    }

    fn perform(&mut self, action: Action) -> Verdict {
        match action {
            Action::Turn => {
                let core = self.some_core();
                self.turn(core, true)
            }
            Action::Deliver => self.deliver(true),
            Action::Write => self.complete_write(),
            Action::Keeper => {
                let core = self.some_core();
                if let Some(host) = &mut self.host {
                    host.keeper(core);
                }
                Ok(())
            }
            Action::History => {
                if let Some(host) = &mut self.host {
                    host.history();
                }
                Ok(())
            }
            Action::Client => {
                let index = self.random.index(self.clients.len());
                self.client_acts(index)
            }
            Action::Clock => {
                let ms = self.random.pick(&[0, 1, 1, 2, 7, 30]);
                self.pass(ms);
                Ok(())
            }
            Action::Due => {
                self.pass_until_due();
                Ok(())
            }
            fault => self.fault(fault),
        }
    }

    fn some_core(&mut self) -> u16 {
        let count = self.host.as_ref().map_or(1, Host::shard_count);
        self.random.below(u64::from(count)) as u16
    }

    /// To the next moment at which a core wants to wake.
    fn pass_until_due(&mut self) {
        let wait = (0..self.shard_count).filter_map(|core| self.host.as_mut()?.sleep(core)).min();
        let ms = wait.map_or(0, |wait| u64::try_from(wait.as_millis()).unwrap_or(0));
        self.pass(ms.min(86_400_000));
    }

    fn turn(&mut self, core: u16, in_pieces: bool) -> Verdict {
        let Some(host) = &mut self.host else { return Ok(()) };
        let random = in_pieces.then_some(&mut self.random);
        let outcome = host.turn(core, &mut self.links, random)?;
        self.turns[usize::from(core)] += 1;
        self.rounds = self.rounds_before + self.turns.iter().copied().min().unwrap_or(0);
        let shard = host.cores.look(core).shard();
        s8_bounded::leases(shard.lease_count(), self.plan.lease_count_max.max(self.most_recovered()))?;
        self.trace.note(self.host_ms(), "turn", &[u64::from(core)]);
        match outcome {
            Outcome::Goes => Ok(()),
            Outcome::Fault => self.crash(Failure::Power),
            Outcome::Ended => self.ended(),
        }
    }

    /// Re-sharding may put more leases on a shard than it would grant.
    fn most_recovered(&self) -> u32 {
        if self.was_resharded { u32::MAX } else { 0 }
    }

    fn complete_write(&mut self) -> Verdict {
        let slow = self.host_ms() < self.slow_until_ms;
        let Some(host) = &mut self.host else { return Ok(()) };
        if host.writes.is_empty() || slow {
            return Ok(());
        }
        let index = self.random.index(host.writes.len());
        host.complete(index, false);
        self.trace.note(self.host_ms(), "written", &[index as u64]);
        Ok(())
    }

    /// What the cores have begun comes to its end: log writes, the keepers' work, reads of past events, replies.
    /// False: there was nothing. The process may be gone afterwards, where a script is cut off.
    fn finish_work(&mut self) -> Result<bool, String> {
        let mut busy = false;
        while let Some(host) = self.host.as_mut().filter(|host| !host.writes.is_empty()) {
            host.complete(0, false);
            busy = true;
            self.observe()?;
        }
        for core in 0..self.shard_count {
            while self.host.as_mut().is_some_and(|host| host.keeper(core)) {
                busy = true;
                if self.is_cut()? {
                    return Ok(true);
                }
            }
        }
        while self.host.as_mut().is_some_and(Host::history) {
            busy = true;
        }
        Ok(self.deliver_all()? || busy)
    }

    /// Everything that is on its way to a client arrives. False: there was nothing.
    fn deliver_all(&mut self) -> Result<bool, String> {
        let mut busy = false;
        while self.links.iter().any(|link| !link.to_client.is_empty()) {
            self.deliver(false)?;
            busy = true;
        }
        Ok(busy)
    }

    fn client_acts(&mut self, index: usize) -> Verdict {
        self.with_client(index, Client::act)
    }

    /// Some bytes reach a client, all that there are when not `in_pieces`.
    fn deliver(&mut self, in_pieces: bool) -> Verdict {
        let ready: Vec<usize> =
            (0..self.links.len()).filter(|index| !self.links[*index].to_client.is_empty()).collect();
        if ready.is_empty() {
            return Ok(());
        }
        let index = ready[self.random.index(ready.len())];
        let all = self.links[index].to_client.len();
        let whole = !in_pieces || self.random.permille(700);
        let count = if whole { all } else { self.random.index(all + 1) };
        let bytes: Vec<u8> = self.links[index].to_client.drain(..count).collect();
        if let Some(host) = &mut self.host {
            host.delivered(&mut self.links[index], count)?;
        }
        let owner = self.links[index].client;
        if self.clients[owner].link != Some(index) {
            return Ok(());
        }
        self.with_client(owner, |client, links, scene| client.receive(&bytes, links, scene))
    }

    /// Lets a client act on the links and on everything else that it sees.
    fn with_client<T>(
        &mut self,
        index: usize,
        act: impl FnOnce(&mut Client, &mut Vec<Link>, &mut Scene<'_>) -> T,
    ) -> T {
        let (mut clients, mut links) = (std::mem::take(&mut self.clients), std::mem::take(&mut self.links));
        let outcome = act(&mut clients[index], &mut links, &mut self.scene());
        (self.clients, self.links) = (clients, links);
        outcome
    }

    fn scene(&mut self) -> Scene<'_> {
        let all_standby = self.oracle.roles_under_way == 0
            && self.host.as_ref().is_some_and(|host| {
                (0..host.shard_count()).all(|core| host.cores.look(core).shard().role() == Role::Standby)
            });
        Scene {
            now_ms: self.served_ms(),
            host_ms: self.host_ms(),
            plan: &self.plan,
            oracle: &mut self.oracle,
            streams: &self.streams,
            trace: &mut self.trace,
            random: &mut self.random,
            shard_count: self.shard_count,
            all_standby,
            rounds: self.rounds,
        }
    }

    /// The oracle learns what was published, and holders are asked whether they trusted what expired.
    fn observe(&mut self) -> Verdict {
        for told in self.disk.take_story() {
            self.trace.remark(format_args!("\n            disk: {told}"));
        }
        let Some(host) = &self.host else { return Ok(()) };
        let (base_ms, before_ms) = (host.base_ms, self.served_before_ms);
        // An end of an earlier run happened when that run had come to an end, or before.
        let served = |engine_ms: u64| before_ms + engine_ms.saturating_sub(base_ms);
        let mut happened = Vec::new();
        self.streams.read(host, &mut self.oracle, &served, &mut happened)?;
        for end in &happened {
            let numbers = [end.key.0, end.key.1, u64::from(end.expired), end.engine_ms];
            self.trace.note(u64::try_from(self.clock.elapsed().as_millis()).unwrap_or(0), "end", &numbers);
        }
        let opened_ms = u64::try_from(host.opened_at.as_millis()).unwrap_or(0);
        for end in happened.iter().filter(|end| end.expired && end.engine_ms >= base_ms) {
            let host_ms = opened_ms + (end.engine_ms - base_ms);
            for client in &self.clients {
                if let Some(valid_until_ms) = client.trusts_until(end.key) {
                    s2_never_early::trusted(end.key, valid_until_ms, client.clock.then_ms(host_ms))?;
                }
            }
        }
        Ok(())
    }
}
