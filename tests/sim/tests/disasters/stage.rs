//! A whole server with its clients on stage: real cores, log, sessions and client machines; simulated clock, disk and
//! network, all healthy unless the scenario says otherwise.
//!
//! ```text
//! server shards=1 checkpoint=60000        the first start, also renewals=logged, durability=none; later: server killed | stops | starts, power fails
//! connect A B                             in this order they are served in a turn
//! at 0 A grant 7 ttl=5000                 one lease; also renew, revoke, ttl, attach, detach
//! at 0 A grant fleet count=900000 ttl=20000       many under one name; also renew, revoke, ttl; attach 7 x count=
//! at 9 A renew 7 8 & B revoke 7           both are sent before the server moves
//! A keeps fleet | A drops | B watches     keep-alive by the client's machine; end-of-lease events
//! disk stalls | disk goes on              log writes do not complete
//! … within=3                              the world lives 3 ms after this command, not until it rests
//! busiest                                 what the busiest turn since this was asked wrote to the log
//! ```
//! Under each command stands what everybody was told meanwhile, with the milliseconds that it took. A round of
//! turns, one of each core, takes 1 ms: so many milliseconds are so many rounds, and a server that did unbounded work
//! in one would show it in `busiest` only. `at MS` lets the world live until then: keep-alives are sent, leases end.

use std::sync::Arc;
use std::time::Duration;

use tenure::{Clock, Config, Durability, ManualClock, Renewals};
use tenure_protocol::LeaseId;
use tenure_server::ServeConfig;
use tenure_sim::disk::{Failure, SimDisk};
use tenure_sim::host::{Host, Outcome};
use tenure_sim::link::Link;
use tenure_tests::scenario::Performer;
use tenure_tests::scenario::command::Command;

use super::actor::{Actor, Now};
use super::book::Book;
use super::bulk::{Bulk, Verb};

/// Rounds within which everything that was asked is over.
const ROUNDS_MAX: u64 = 200_000;
/// The largest batch of a log that is not made for a simulator.
const BATCH_BYTES_MAX: usize = tenure::log::limits::BATCH_BYTES_MAX;

/// The world of a scenario.
pub(crate) struct Stage {
    config: Config,
    disk: Arc<SimDisk>,
    clock: ManualClock,
    host: Option<Host>,
    links: Vec<Link>,
    actors: Vec<Actor>,
    book: Book,
    is_stalled: bool,
    /// Bytes that the busiest round wrote to the log.
    busiest_bytes: usize,
}

impl Default for Stage {
    fn default() -> Stage {
        let clock = ManualClock::new();
        let config = Config {
            data_dir: Some("/d".into()),
            shard_count: Some(1),
            clock: Clock::Simulated(clock.clone()),
            lease_count_max: 1 << 20,
            segment_bytes: 16 << 20,
            ..Config::default()
        };
        Stage {
            config,
            disk: SimDisk::new(1, BATCH_BYTES_MAX),
            clock,
            host: None,
            links: Vec::new(),
            actors: Vec::new(),
            book: Book::default(),
            is_stalled: false,
            busiest_bytes: 0,
        }
    }
}

impl Performer for Stage {
    fn perform(&mut self, line: &str) -> Vec<String> {
        let (time, command) = Command::parse(line);
        if let Some(at_ms) = time {
            assert!(at_ms >= self.now().ms, "`{line}`: it is {} ms already", self.now().ms);
            self.live(Some(at_ms));
        }
        let mut happened = self.said();
        if !command.words.is_empty() {
            happened.extend(self.carry_out(line, &command));
            let now_ms = self.now().ms;
            self.live(command.number("within").map(|ms| now_ms + ms));
        }
        happened.extend(self.said());
        happened
    }

    fn finish(&mut self) {
        let Some(host) = &self.host else { return };
        for core in 0..host.shard_count() {
            host.cores.look(core).shard().check_invariants();
        }
    }
}

impl Stage {
    fn now(&self) -> Now {
        let ms = u64::try_from(self.clock.elapsed().as_millis()).unwrap_or(u64::MAX);
        Now { ms, engine_ms: self.host.as_ref().map_or(0, Host::engine_ms) }
    }

    fn said(&mut self) -> Vec<String> {
        self.actors.iter_mut().flat_map(Actor::says).collect()
    }

    fn carry_out(&mut self, line: &str, command: &Command<'_>) -> Vec<String> {
        match (command.word(0), command.words.get(1).copied()) {
            ("server", Some("killed")) => self.end(Failure::Kill),
            ("power", Some("fails")) => self.end(Failure::Power),
            ("server", Some("stops")) => self.stop(),
            ("server", _) => return vec![self.start(command)],
            ("connect", _) => self.connect(&command.words[1..]),
            ("disk", Some("stalls")) => self.is_stalled = true,
            ("disk", _) => self.is_stalled = false,
            ("busiest", _) => {
                let kib = std::mem::take(&mut self.busiest_bytes).div_ceil(1 << 10);
                return vec![format!("at most {kib} KiB logged in a turn")];
            }
            _ => {
                for part in line.split(" & ") {
                    self.somebody_acts(&Command::parse(part).1);
                }
            }
        }
        Vec::new()
    }

    fn start(&mut self, command: &Command<'_>) -> String {
        let shards = command.number("shards").map(|count| u16::try_from(count).expect("a few shards"));
        self.config.shard_count = shards.or(self.config.shard_count);
        if command.words.get(1).is_none() {
            self.config.checkpoint_interval = command.number("checkpoint").map(Duration::from_millis);
            let tells_early = command.options.get("durability") == Some(&"none");
            self.config.durability = if tells_early { Durability::None } else { Durability::Always };
            if command.options.get("renewals") == Some(&"logged") {
                self.config.renewals = Renewals::Logged;
            }
        }
        let serving = ServeConfig { engine: self.config.clone(), ..ServeConfig::default() };
        let host = Host::start_serving(serving, &self.disk, &self.clock);
        let host = host.unwrap_or_else(|error| panic!("`{}`: {error}", command.line));
        let leases: u64 =
            (0..host.shard_count()).map(|core| host.cores.look(core).shard().lease_count()).sum();
        let base_ms = host.base_ms;
        self.host = Some(host);
        let names: Vec<String> = self.actors.iter().map(|actor| actor.name.clone()).collect();
        self.connect(&names.iter().map(String::as_str).collect::<Vec<_>>());
        format!("{leases} leases, at {base_ms} ms of its time")
    }

    /// The process is gone without a word.
    fn end(&mut self, failure: Failure) {
        if let Some(host) = self.host.take() {
            host.crash();
        }
        self.disk.crash(failure);
        self.break_links();
    }

    fn stop(&mut self) {
        self.host.as_ref().expect("it serves").begin_stop();
        for _ in 0..ROUNDS_MAX {
            if self.round() == Outcome::Ended {
                let host = self.host.take().expect("it serves");
                host.close();
                self.disk.crash(Failure::Power);
                return self.break_links();
            }
        }
        panic!("L2 one-reply: the server does not end");
    }

    fn break_links(&mut self) {
        for link in &mut self.links {
            link.break_off();
            link.key = None;
        }
    }

    fn connect(&mut self, names: &[&str]) {
        let now = self.now();
        for name in names {
            let link = self.links.len();
            let shards = self.config.shard_count.unwrap_or(1);
            self.links.push(Link::new(link, (link % usize::from(shards)) as u16));
            match self.actors.iter_mut().find(|actor| actor.name == *name) {
                Some(actor) => actor.reconnect(link, now),
                None => self.actors.push(Actor::new(name, link)),
            }
        }
    }

    fn somebody_acts(&mut self, command: &Command<'_>) {
        let (now, book) = (self.now(), &mut self.book);
        let name = command.word(0);
        let actor = self.actors.iter_mut().find(|actor| actor.name == name);
        let actor = actor.unwrap_or_else(|| panic!("`{}`: nobody is called {name}", command.line));
        let count = command.number("count").map(|count| usize::try_from(count).expect("it fits"));
        match (command.word(1), count) {
            ("drops", _) => actor.drops(),
            ("watches", _) => actor.watch(self.config.shard_count.unwrap_or(1), now),
            ("keeps", _) => {
                let group = book.groups.get(command.word(2));
                let ttl_ms = group.map_or_else(|| command.needs("ttl"), |group| group.ttl_ms);
                actor.keeps(&book.leases(command.word(2)), ttl_ms, now);
            }
            ("grant", Some(count)) => {
                let (group, first) = (command.word(2).to_owned(), command.options.get("first"));
                let first = first.map(|first| book.leases(first)[0].0);
                let verb = Verb::Grant { ttl_ms: command.needs("ttl"), first, group };
                actor.begin(Bulk::new(verb, Vec::new(), count, now.ms));
            }
            ("grant", None) => {
                let id: LeaseId = book.leases(command.word(2))[0];
                actor.grant(id, command.needs("ttl"), book, now);
            }
            ("attach", Some(count)) => {
                let bytes = command.number("bytes").unwrap_or(0) as usize;
                let verb = Verb::Attach { prefix: command.word(3).to_owned(), bytes };
                actor.begin(Bulk::new(verb, book.leases(command.word(2)), count, now.ms));
            }
            (verb, _) if book.groups.contains_key(command.word(2)) => {
                let group = &book.groups[command.word(2)];
                let verb = match verb {
                    "renew" => Verb::Renew { ttl_ms: group.ttl_ms },
                    "revoke" => Verb::Revoke,
                    "ttl" => Verb::Look,
                    _ => panic!("`{}`: not for many", command.line),
                };
                let leases = group.ids.clone();
                let count = leases.len();
                actor.begin(Bulk::new(verb, leases, count, now.ms));
            }
            (verb @ ("attach" | "detach"), None) => {
                let (id, item) = (book.leases(command.word(2))[0], command.word(3));
                actor.ask(verb, id, item, book, now);
            }
            (verb, _) => {
                for name in &command.words[2..] {
                    actor.ask(verb, book.leases(name)[0], "", book, now);
                }
            }
        }
    }

    /// The world lives until a time, or until nothing is under way any more.
    fn live(&mut self, until_ms: Option<u64>) {
        for _ in 0..ROUNDS_MAX {
            let now = self.now();
            if until_ms.is_some_and(|until_ms| now.ms >= until_ms) {
                return;
            }
            if self.host.is_none() {
                let ms = until_ms.map_or(0, |until_ms| until_ms - now.ms);
                return self.pass(ms);
            }
            self.round();
            if self.is_busy() {
                self.pass(1);
                continue;
            }
            let Some(until_ms) = until_ms else { return };
            let cores = 0..self.host.as_ref().map_or(0, Host::shard_count);
            let wait = cores.filter_map(|core| self.host.as_mut()?.sleep(core)).min();
            let wait_ms = wait.map_or(u64::MAX, |wait| u64::try_from(wait.as_millis()).unwrap_or(u64::MAX));
            let wait_ms = self.actors.iter().map(|actor| actor.wakes_in_ms(now)).fold(wait_ms, u64::min);
            self.pass(wait_ms.clamp(1, until_ms - now.ms));
        }
        let cores: Vec<String> = self
            .host
            .iter()
            .flat_map(|host| (0..host.shard_count()).map(|core| host.describe(core)))
            .collect();
        panic!(
            "L2 one-reply: the world does not come to rest at {:?}: {cores:?} {:?}",
            self.now(),
            self.links
        );
    }

    fn pass(&mut self, ms: u64) {
        tenure::simulation::forward(&self.clock, Duration::from_millis(ms));
    }

    fn is_busy(&mut self) -> bool {
        let Some(host) = &mut self.host else { return false };
        let has_bytes = |link: &Link| !link.to_server.is_empty() || !link.to_client.is_empty();
        let waits = |link: &Link| !link.cut && has_bytes(link);
        let is_writing = !self.is_stalled && !host.writes.is_empty();
        let mut cores = 0..host.shard_count();
        let is_awake = cores.any(|core| host.sleep(core).is_some_and(|wait| wait.is_zero()));
        let is_asking = !self.is_stalled && self.actors.iter().any(Actor::is_busy);
        is_writing || is_awake || is_asking || self.links.iter().any(waits)
    }

    /// Everybody moves once.
    fn round(&mut self) -> Outcome {
        let now = self.now();
        let Some(host) = &mut self.host else { return Outcome::Ended };
        for actor in &mut self.actors {
            actor.act(now, &mut self.links);
        }
        let mut outcome = Outcome::Goes;
        for core in 0..host.shard_count() {
            let before = host.writes.len();
            let turn = host.turn(core, &mut self.links, None);
            let turn = turn.unwrap_or_else(|text| panic!("{text}"));
            assert!(turn != Outcome::Fault, "S3 ack-after-durable: the log failed on a healthy disk");
            if turn == Outcome::Ended {
                outcome = Outcome::Ended;
            }
            let bytes = host.writes[before..].iter().map(|write| write.length).sum();
            self.busiest_bytes = self.busiest_bytes.max(bytes);
        }
        while !self.is_stalled && !host.writes.is_empty() {
            host.complete(0, false);
        }
        for core in 0..host.shard_count() {
            while host.keeper(core) {}
        }
        while host.history() {}
        for actor in &mut self.actors {
            let link = &mut self.links[actor.link];
            let bytes: Vec<u8> = link.to_client.drain(..).collect();
            if !bytes.is_empty() {
                host.delivered(link, bytes.len()).unwrap_or_else(|text| panic!("{text}"));
                actor.receive(&bytes, &mut self.book, now);
            }
        }
        outcome
    }
}
