//! The server's sessions under any sequence of frames, pieces of frames and noise, on two cores in memory.
//!
//! A script enters connections, sends valid requests whole or in pieces, sends noise, lets time pass, withholds what
//! the server sends, closes and breaks. Nothing panics; every frame that comes back decodes; on a connection that sent
//! valid frames only, each request is answered once (L2), and none that was not asked.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tenure::simulation::{Cores, forward};
use tenure::{Clock, Config, ManualClock};
use tenure_protocol::{
    Frames, Grant, GrantEntry, Hello, LeaseId, Position, Request, RequestId, Response, encode,
};
use tenure_server::ServeConfig;
use tenure_server::serve::simulation::{CoreFront, House, Wish};

use super::script::Script;
use crate::power::disk::MediumDisk;
use crate::power::medium::Medium;

const LINKS: usize = 3;
const FRAME_BYTES_MAX: u32 = 128 << 10;

/// One connection.
#[derive(Default)]
struct Link {
    core: u16,
    key: Option<u64>,
    to_server: Vec<u8>,
    from_server: Vec<u8>,
    /// Bytes on their way, not yet taken.
    sending: usize,
    asked: BTreeSet<u32>,
    introduced: bool,
    /// Sent anything that is not a valid request.
    noisy: bool,
    ended: bool,
    over: bool,
}

struct Stage {
    cores: Cores,
    fronts: Vec<CoreFront>,
    clock: ManualClock,
    links: Vec<Link>,
    /// IDs that were granted.
    ids: Vec<LeaseId>,
    next: u32,
    house: House,
}

/// Plays a script.
///
/// # Panics
/// On a broken promise.
pub fn session(data: &[u8]) {
    let mut script = Script::new(data);
    let mut stage = Stage::new(1 + u16::from(script.below(2)));
    for _ in 0..400 {
        if script.is_over() {
            break;
        }
        stage.step(&mut script);
    }
    stage.finish();
}

impl Stage {
    fn new(shard_count: u16) -> Stage {
        let clock = ManualClock::new();
        let engine = Config {
            shard_count: Some(shard_count),
            clock: Clock::Simulated(clock.clone()),
            lease_count_max: 1_000,
            event_buffer_bytes: 1 << 12,
            ..Config::in_memory()
        };
        let disk = MediumDisk::plain(Medium::default(), 7);
        let cores = Cores::open(&engine, Arc::new(disk)).expect("an engine in memory opens");
        let mut config = ServeConfig { engine, ..ServeConfig::default() };
        config.limits.frame_bytes_max = FRAME_BYTES_MAX;
        config.limits.window = 16;
        config.limits.batch_ids_max = 64;
        config.limits.grant_batch_max = 64;
        config.limits.list_page_max = 5;
        config.send_bytes_max = FRAME_BYTES_MAX as usize;
        config.connection_count_max = 2;
        let house = House::new(config, &clock);
        house.opened(cores.handle().clone(), 0);
        let fronts = (0..shard_count).map(|core| house.front(cores.look(core))).collect();
        let link = |core| Link { core, ..Link::default() };
        let links = (0..LINKS as u16).map(|link_index| link(link_index % shard_count)).collect();
        Stage { cores, fronts, clock, links, ids: Vec::new(), next: 1, house }
    }

    fn step(&mut self, script: &mut Script<'_>) {
        let at = usize::from(script.below(LINKS as u8));
        match script.below(16) {
            0 => {
                let count = usize::from(script.below(64));
                let noise = script.bytes(count);
                let link = &mut self.links[at];
                link.noisy |= !noise.is_empty();
                link.to_server.extend_from_slice(noise);
            }
            1 => {
                let ms = u64::from(script.short());
                forward(&self.clock, Duration::from_millis(ms));
            }
            2 => {
                let link = &mut self.links[at];
                if script.below(4) == 0 {
                    link.noisy = true;
                    if let Some(key) = link.key {
                        self.fronts[usize::from(link.core)].broken(key);
                    }
                } else {
                    link.ended = true;
                }
            }
            3 => {
                let count = usize::from(script.short());
                self.take(at, count);
            }
            4 if self.links[at].over => {
                let core = self.links[at].core;
                self.links[at] = Link { core, ..Link::default() };
            }
            5..=8 => {
                for core in 0..self.cores.shard_count() {
                    self.turn(core, usize::from(script.byte()));
                }
            }
            _ => {
                // Most scripts are about what comes after the introduction.
                if !self.links[at].introduced && script.below(8) != 0 {
                    self.introduce(at, script);
                }
                self.ask(at, script);
            }
        }
    }

    fn introduce(&mut self, at: usize, script: &mut Script<'_>) {
        self.next += 1;
        let wish_shard = [None, Some(0), Some(1)][usize::from(script.below(3))];
        let hello = Hello { wish_shard, ..Hello::new(u64::from(script.below(4))) };
        let mut out = Vec::new();
        hello.encode(&mut out, RequestId(self.next));
        self.put(at, RequestId(self.next), &out);
    }

    /// Appends a valid request.
    fn ask(&mut self, at: usize, script: &mut Script<'_>) {
        self.next += 1;
        let request_id = RequestId(self.next);
        let known = self.ids.get(usize::from(script.byte())).copied();
        let id = known.unwrap_or_else(|| LeaseId(u64::from(script.byte())));
        let ttl_ms = u64::from(script.short());
        let length = usize::from(script.below(40));
        let item = script.bytes(length);
        let shard = u16::from(script.below(3));
        let mut out = Vec::new();
        let request = match script.below(20) {
            0 | 1 => {
                let wish_shard = (shard > 0).then(|| shard - 1);
                Request::Hello(Hello { wish_shard, ..Hello::new(u64::from(script.byte())) })
            }
            2 => Request::Ping { echo: ttl_ms },
            3 => Request::Info,
            4 | 5 => Request::Grant(Grant { ttl_ms, id: LeaseId::NONE, sequence: u64::from(shard) }),
            6 => Request::Grant(Grant { ttl_ms, id, sequence: 0 }),
            7 => {
                let entry = |n| GrantEntry { ttl_ms: ttl_ms + n, id: LeaseId::NONE };
                let entries: Vec<GrantEntry> = (0..u64::from(script.below(70))).map(entry).collect();
                encode::grant_batch(&mut out, request_id, 0, entries.iter().copied());
                return self.put(at, request_id, &out);
            }
            8 => Request::Renew { id },
            9 | 10 => {
                let all: Vec<LeaseId> = self.ids.iter().copied().chain([id]).take(80).collect();
                encode::renew_batch(&mut out, request_id, all.into_iter());
                return self.put(at, request_id, &out);
            }
            11 => Request::Revoke { id },
            12 => Request::TimeToLive { id, items: shard > 0, after: (shard > 1).then_some(item) },
            13 => {
                Request::List { shard, limit: ttl_ms as u32, cursor: script.long() >> (8 * script.below(8)) }
            }
            14 => Request::Attach { id, item },
            15 => Request::Detach { id, item },
            16 => Request::LeaseOf { item },
            17 => {
                let from = [Position::OLDEST, Position::NOW, Position(ttl_ms)][usize::from(script.below(3))];
                Request::Subscribe { shard, from }
            }
            18 => Request::Unsubscribe { subscription: RequestId(u32::from(script.byte())) },
            _ if shard == 0 => Request::Demote,
            _ => Request::Promote { extend_ms: ttl_ms },
        };
        request.encode(&mut out, request_id);
        self.put(at, request_id, &out);
    }

    fn put(&mut self, at: usize, request_id: RequestId, frame: &[u8]) {
        let link = &mut self.links[at];
        if !link.over && !link.ended {
            link.introduced = true;
            link.asked.insert(request_id.0);
            link.to_server.extend_from_slice(frame);
        }
    }

    /// A core's turn, as a driver takes it. `piece`: most bytes that arrive at once, 0 for all.
    fn turn(&mut self, core: u16, piece: usize) {
        self.cores.station(core).begin_turn();
        let (station, front) = (self.cores.station(core), &mut self.fronts[usize::from(core)]);
        for link in self.links.iter_mut().filter(|link| link.core == core && !link.over) {
            let Some(key) = link.key.or_else(|| front.enter()) else { continue };
            link.key = Some(key);
            if !link.to_server.is_empty() && front.wants_read(key) {
                let all = link.to_server.len();
                let count = if piece == 0 { all } else { piece.min(all) };
                let bytes: Vec<u8> = link.to_server.drain(..count).collect();
                front.receive(key, &bytes, station);
            } else if link.ended && link.to_server.is_empty() {
                front.at_end(key);
            }
        }
        front.turn(station);
        station.end_turn();
        station.mind_log().expect("nothing fails in memory");
        front.finish_turn(station);
        let mut touched = Vec::new();
        front.take_touched(&mut touched);
        for key in touched {
            let links = self.links.iter().position(|link| link.core == core && link.key == Some(key));
            if let Some(at) = links {
                self.look_at(at, key);
            }
        }
        self.cores.station(core).turn_done();
        while self.house.has_history_to_read() {
            self.house.read_history();
        }
    }

    fn look_at(&mut self, at: usize, key: u64) {
        let link = &mut self.links[at];
        let front = &mut self.fronts[usize::from(link.core)];
        match front.look_at(key) {
            None => {}
            Some(Wish::Abort | Wish::Close) => {
                link.over = true;
                link.key = None;
                front.leave(key);
                self.read(at);
            }
            Some(Wish::Move(to)) => {
                let bytes = front.hand_over(key);
                link.core = to;
                link.key = self.fronts[usize::from(to)].enter_moved(&bytes, self.cores.station(to));
                link.over = link.key.is_none();
            }
            Some(Wish::Keep) => self.pump(at),
        }
    }

    fn pump(&mut self, at: usize) {
        let link = &mut self.links[at];
        let Some(key) = link.key else { return };
        let before = link.from_server.len();
        if link.sending == 0 && self.fronts[usize::from(link.core)].take_outgoing(key, &mut link.from_server)
        {
            link.sending = link.from_server.len() - before;
            assert!(
                link.sending <= 6 * FRAME_BYTES_MAX as usize,
                "S8 bounded: {} bytes unsent",
                link.sending
            );
        }
    }

    /// The client takes bytes from the wire.
    fn take(&mut self, at: usize, count: usize) {
        let link = &mut self.links[at];
        let taken = count.min(link.sending);
        link.sending -= taken;
        if let Some(key) = link.key.filter(|_| taken > 0) {
            self.fronts[usize::from(link.core)].sent(key, taken);
        }
        self.read(at);
        self.pump(at);
    }

    /// Decodes what came, up to what was taken.
    fn read(&mut self, at: usize) {
        let link = &mut self.links[at];
        let held = if link.over { 0 } else { link.sending };
        let whole = link.from_server.len() - held;
        let mut frames = Frames::new(&link.from_server[..whole], FRAME_BYTES_MAX);
        while let Some(frame) = frames.next_frame().expect("the server sends frames") {
            let response = Response::decode(&frame).expect("the server sends sound frames");
            match response {
                Response::Event(_) => continue,
                // The connection is about to be closed; what it sends from now on is not looked at.
                Response::GoAway(_) => {
                    link.noisy = true;
                    continue;
                }
                Response::Refused(refused) if refused.refusal.is_fatal() => link.noisy = true,
                Response::Granted(granted) => self.ids.push(granted.id),
                Response::GrantBatch(results) => {
                    self.ids.extend(results.iter().flatten().map(|granted| granted.id));
                }
                _ => {}
            }
            let expected = link.asked.remove(&frame.header.request_id.0);
            assert!(expected || link.noisy, "L2 one-reply: {response:?} to no request, or a second one");
        }
        let consumed = frames.consumed();
        link.from_server.drain(..consumed);
        self.ids.truncate(250);
    }

    /// Lets everything come to rest: then every request of a sound connection has its answer.
    fn finish(&mut self) {
        for _ in 0..200 {
            for core in 0..self.cores.shard_count() {
                self.turn(core, 0);
            }
            for at in 0..LINKS {
                self.take(at, usize::MAX);
            }
        }
        for link in self.links.iter().filter(|link| !link.over && !link.noisy && link.key.is_some()) {
            assert!(
                link.to_server.is_empty(),
                "L2 one-reply: {} bytes were never read",
                link.to_server.len()
            );
            assert!(link.asked.is_empty(), "L2 one-reply: {:?} were never answered", link.asked);
        }
        for core in 0..self.cores.shard_count() {
            self.cores.look(core).shard().check_invariants();
        }
    }
}
