//! What one seed draws before anything happens: the setting, which operations and faults are on, how often.
//!
//! A *swarm* (Groce et al. 2012): most seeds have only some of the faults and operations, at rates of their
//! own, so that rare combinations are common somewhere. Everything here can be overridden from the command
//! line, which is how a failing seed is made smaller.

use std::time::Duration;

use tenure::{Clock, Config, Durability, ManualClock, Renewals};

use crate::random::Random;

/// What the scheduler may choose between, with the names that `--without` takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs, reason = "the names say it, and the table below lists them")]
pub enum Action {
    Turn,
    Deliver,
    Write,
    Keeper,
    History,
    Client,
    Clock,
    Due,
    Pause,
    Crash,
    Kill,
    FailIo,
    Cut,
    Full,
    Slow,
    WriteError,
    Stall,
    CleanStop,
    Reshard,
    Flip,
    Leap,
}

/// Every action with its name and whether it is a fault.
pub const ACTIONS: [(Action, &str, bool); 21] = [
    (Action::Turn, "turn", false),
    (Action::Deliver, "deliver", false),
    (Action::Write, "write", false),
    (Action::Keeper, "keeper", false),
    (Action::History, "history", false),
    (Action::Client, "client", false),
    (Action::Clock, "clock", false),
    (Action::Due, "due", true),
    (Action::Pause, "pause", true),
    (Action::Crash, "crash", true),
    (Action::Kill, "kill", true),
    (Action::FailIo, "fail-io", true),
    (Action::Cut, "cut", true),
    (Action::Full, "full", true),
    (Action::Slow, "slow", true),
    (Action::WriteError, "write-error", true),
    (Action::Stall, "stall", true),
    (Action::CleanStop, "clean-stop", true),
    (Action::Reshard, "reshard", true),
    (Action::Flip, "flip", true),
    (Action::Leap, "leap", true),
];

/// What a client may do, with the names that `--without` takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs, reason = "the names say it, and the table below lists them")]
pub enum Deed {
    Grant,
    GrantChosen,
    GrantBatch,
    Renew,
    RenewBatch,
    Revoke,
    RevokeBatch,
    Look,
    List,
    Attach,
    Detach,
    LeaseOf,
    Subscribe,
    Promote,
    Demote,
    Info,
}

/// Every deed with its name.
pub const DEEDS: [(Deed, &str); 16] = [
    (Deed::Grant, "grant"),
    (Deed::GrantChosen, "grant-chosen"),
    (Deed::GrantBatch, "grant-batch"),
    (Deed::Renew, "renew"),
    (Deed::RenewBatch, "renew-batch"),
    (Deed::Revoke, "revoke"),
    (Deed::RevokeBatch, "revoke-batch"),
    (Deed::Look, "look"),
    (Deed::List, "list"),
    (Deed::Attach, "attach"),
    (Deed::Detach, "detach"),
    (Deed::LeaseOf, "lease-of"),
    (Deed::Subscribe, "subscribe"),
    (Deed::Promote, "promote"),
    (Deed::Demote, "demote"),
    (Deed::Info, "info"),
];

/// What kind of history a seed is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Profile {
    /// Everything, then healing and liveness.
    Swarm,
    /// Short: one crash after another, no liveness at the end.
    Crashes,
}

/// A seed's draw.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The seed.
    pub seed: u64,
    /// What kind of history.
    pub profile: Profile,
    /// Shards at the first start.
    pub shards: u16,
    /// Clients.
    pub clients: usize,
    /// Steps of the safety phase.
    pub steps: u64,
    /// Whether the log is synced.
    pub durability: Durability,
    /// Whether renewals are logged.
    pub renewals: Renewals,
    /// Bytes of a segment.
    pub segment_bytes: u64,
    /// Largest batch.
    pub batch_bytes_max: usize,
    /// Log that triggers a snapshot.
    pub snapshot_log_bytes: u64,
    /// Log kept behind one.
    pub retain_bytes: u64,
    /// Events kept in memory.
    pub event_buffer_bytes: usize,
    /// Checkpoint interval, ms.
    pub checkpoint_interval_ms: Option<u64>,
    /// Live leases at most, per shard.
    pub lease_count_max: u32,
    /// TTLs are drawn from these ranges, ms.
    pub ttls: Vec<(u64, u64)>,
    /// How likely each action is, by its place in [`ACTIONS`].
    pub actions: [u64; ACTIONS.len()],
    /// How likely each deed is, by its place in [`DEEDS`].
    pub deeds: [u64; DEEDS.len()],
    /// A bug that is planted for it.
    pub bug: Option<tenure_planted::Bug>,
}

impl Plan {
    /// What the seed draws.
    #[must_use]
    pub fn draw(seed: u64, profile: Profile) -> Plan {
        let mut random = Random::new(seed, 1);
        let random = &mut random;
        let crashes = profile == Profile::Crashes;
        let durability = match random.below(if crashes { 1 } else { 10 }) {
            8 => Durability::Interval(Duration::from_millis(random.between(1, 50))),
            9 => Durability::None,
            _ => Durability::Always,
        };
        let batch_bytes_max = 16 << 10;
        let mut plan = Plan {
            seed,
            profile,
            shards: if crashes { random.pick(&[1, 1, 1, 2]) } else { random.pick(&[1, 1, 2, 3, 4]) },
            clients: random.between(1, if crashes { 2 } else { 8 }) as usize,
            steps: if crashes { random.between(600, 1_500) } else { random.between(300, 3_000) },
            durability,
            renewals: if random.permille(250) { Renewals::Logged } else { Renewals::Unlogged },
            segment_bytes: random.pick(&[16 << 10, 20 << 10, 32 << 10, 64 << 10]),
            batch_bytes_max,
            snapshot_log_bytes: random.pick(&[4 << 10, 12 << 10, 40 << 10, u64::MAX]),
            retain_bytes: random.pick(&[0, 0, 32 << 10, 1 << 20]),
            event_buffer_bytes: random.pick(&[64, 512, 1 << 20]),
            checkpoint_interval_ms: random.pick(&[None, Some(200), Some(1_000), Some(60_000)]),
            lease_count_max: random.pick(&[5, 40, 1_000]),
            ttls: draw_ttls(random),
            actions: [0; ACTIONS.len()],
            deeds: [0; DEEDS.len()],
            bug: None,
        };
        plan.draw_rates(random);
        plan
    }

    fn draw_rates(&mut self, random: &mut Random) {
        for (rate, (action, _, is_fault)) in self.actions.iter_mut().zip(ACTIONS) {
            *rate = match action {
                Action::Turn => random.between(2_000, 6_000),
                Action::Deliver | Action::Client => random.between(2_000, 5_000),
                Action::Write => random.between(500, 5_000),
                Action::Keeper => random.between(300, 3_000),
                Action::History => random.between(100, 1_000),
                Action::Clock => random.between(200, 3_000),
                Action::Due => random.pick(&[0, 20, 300]),
                Action::Pause => random.pick(&[0, 0, 5, 30]),
                Action::Crash | Action::Kill | Action::FailIo => random.pick(&[0, 10, 40]),
                Action::Cut => random.pick(&[0, 0, 30, 150]),
                Action::Slow | Action::Stall => random.pick(&[0, 0, 20]),
                Action::Full | Action::WriteError | Action::Flip => random.pick(&[0, 0, 0, 8]),
                Action::CleanStop => random.pick(&[0, 0, 10]),
                Action::Reshard => random.pick(&[0, 0, 0, 8]),
                // From a stream of its own: without it a seed is what it was before clocks leapt.
                Action::Leap => Random::new(self.seed, 4).pick(&[0, 0, 30, 150]),
            };
            if self.profile == Profile::Crashes && is_fault {
                *rate = match action {
                    Action::Crash | Action::Kill => random.pick(&[100, 400]),
                    Action::FailIo => random.pick(&[100, 900]),
                    Action::Due => random.pick(&[0, 100]),
                    Action::CleanStop => random.pick(&[0, 0, 50]),
                    Action::Reshard => random.pick(&[0, 0, 0, 20]),
                    Action::WriteError | Action::Flip | Action::Full | Action::Pause => {
                        random.pick(&[0, 0, 0, 10])
                    }
                    _ => 0,
                };
            }
        }
        for (rate, (deed, _)) in self.deeds.iter_mut().zip(DEEDS) {
            let on = random.permille(750);
            *rate = match deed {
                Deed::Grant => random.between(20, 100),
                Deed::Renew | Deed::Attach if on => random.between(5, 100),
                Deed::Promote => random.pick(&[2, 10]),
                Deed::Demote => random.pick(&[0, 0, 0, 2]),
                Deed::Info => 1,
                _ if on => random.between(2, 50),
                _ => 0,
            };
        }
    }

    /// How likely an action is.
    #[must_use]
    pub fn rate(&self, action: Action) -> u64 {
        ACTIONS.iter().zip(self.actions).find(|((known, ..), _)| *known == action).map_or(0, |(_, rate)| rate)
    }

    /// Switches an action or deed off by name. False: there is none of that name.
    pub fn without(&mut self, name: &str) -> bool {
        let action = ACTIONS.iter().position(|(_, known, _)| *known == name);
        let deed = DEEDS.iter().position(|(_, known)| *known == name);
        if let Some(place) = action {
            self.actions[place] = 0;
        }
        if let Some(place) = deed {
            self.deeds[place] = 0;
        }
        action.is_some() || deed.is_some()
    }

    /// Whether what was acknowledged survives the power.
    #[must_use]
    pub fn is_durable(&self) -> bool {
        self.durability == Durability::Always
    }

    /// The engine's settings.
    #[must_use]
    pub fn config(&self, clock: &ManualClock, shard_count: u16) -> Config {
        Config {
            data_dir: Some("/d".into()),
            shard_count: Some(shard_count),
            durability: self.durability,
            renewals: self.renewals,
            clock: Clock::Simulated(clock.clone()),
            lease_count_max: self.lease_count_max,
            checkpoint_interval: self.checkpoint_interval_ms.map(Duration::from_millis),
            segment_bytes: self.segment_bytes,
            retain_bytes: self.retain_bytes,
            snapshot_log_bytes: self.snapshot_log_bytes,
            event_buffer_bytes: self.event_buffer_bytes,
            ttl_min: Duration::from_millis(2),
            ..Config::default()
        }
    }
}

fn draw_ttls(random: &mut Random) -> Vec<(u64, u64)> {
    let all = [(1, 20), (20, 300), (300, 5_000), (5_000, 60_000), (60_000, 86_400_000)];
    let first = random.index(all.len());
    let mut ttls = vec![all[first]];
    ttls.extend(all.into_iter().filter(|_| random.permille(300)));
    ttls
}
