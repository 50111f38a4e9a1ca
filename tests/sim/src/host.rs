//! The server process: real cores and real sessions, taking turns as the ring shell and its driver do.
//!
//! A turn: what arrived on the links of the core, the front's turn, the station's end of turn, log writes
//! handed to the disk, what is to be sent put on the links. A failed log write ends the process, as it does
//! outside.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tenure::simulation::Cores;
use tenure::{Config, ManualClock, OpenError};
use tenure_server::ServeConfig;
use tenure_server::serve::simulation::{CoreFront, House, Wish};

use crate::checkers::{Verdict, s8_bounded};
use crate::disk::{Mounted, SimDisk};
use crate::link::Link;
use crate::oracle::Found;
use crate::random::Random;

/// Unsent bytes of one connection: small, so that back-pressure happens.
pub const SEND_BYTES_MAX: usize = 256 << 10;
const FRAME_BYTES_MAX: u32 = tenure_protocol::limits::FRAME_BYTES_MAX_FLOOR;

/// A running server.
pub struct Host {
    /// Its cores.
    pub cores: Cores,
    house: House,
    fronts: Vec<CoreFront>,
    /// Log writes in flight.
    pub writes: Vec<Write>,
    /// Cores that have ended, when it is stopping.
    ended: Vec<bool>,
    disk: Arc<SimDisk>,
    clock: ManualClock,
    /// On the host's clock.
    pub opened_at: Duration,
    /// Engine time at the start, ms.
    pub base_ms: u64,
    touched: Vec<u64>,
    buffer: Vec<u8>,
    durably: bool,
    /// What a connection may hold unsent, and what one turn may add to it.
    unsent_bytes_max: (usize, usize),
}

/// A log write in flight.
#[derive(Clone, Copy, Debug)]
pub struct Write {
    core: u16,
    id: u64,
    disk_id: u64,
    /// Bytes.
    pub length: usize,
}

/// What a turn came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It goes on.
    Goes,
    /// A log write failed: the process ends.
    Fault,
    /// Every core has ended.
    Ended,
}

impl Host {
    /// Starts a server on a disk.
    ///
    /// # Errors
    /// As of the engine.
    pub fn start(config: &Config, disk: &Arc<SimDisk>, clock: &ManualClock) -> Result<Host, OpenError> {
        Host::start_serving(ServeConfig { engine: config.clone(), ..serving() }, disk, clock)
    }

    /// Starts a server with settings of its own.
    ///
    /// # Errors
    /// As of the engine.
    pub fn start_serving(
        serving: ServeConfig,
        disk: &Arc<SimDisk>,
        clock: &ManualClock,
    ) -> Result<Host, OpenError> {
        let config = &serving.engine;
        let (durability, frame_bytes_max) = (config.durability, serving.limits.frame_bytes_max);
        let send_bytes_max = serving.send_bytes_max;
        let cores = Cores::open(config, Arc::new(Mounted(Arc::clone(disk))))?;
        let house = House::new(serving, clock);
        house.opened(cores.handle().clone(), 0);
        let fronts = (0..cores.shard_count()).map(|core| house.front(cores.look(core))).collect();
        let ended = vec![false; usize::from(cores.shard_count())];
        let base_ms = cores.look(0).now().0;
        Ok(Host {
            cores,
            house,
            fronts,
            writes: Vec::new(),
            ended,
            disk: Arc::clone(disk),
            clock: clock.clone(),
            opened_at: clock.elapsed(),
            base_ms,
            touched: Vec::new(),
            buffer: Vec::new(),
            durably: durability == tenure::Durability::Always,
            unsent_bytes_max: (send_bytes_max, 4 * frame_bytes_max as usize),
        })
    }

    /// Shards, and cores.
    #[must_use]
    pub fn shard_count(&self) -> u16 {
        self.cores.shard_count()
    }

    /// Engine time now, ms.
    #[must_use]
    pub fn engine_ms(&self) -> u64 {
        let elapsed = self.clock.elapsed().saturating_sub(self.opened_at);
        self.base_ms + u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX)
    }

    /// A core's turn. Bytes arrive in pieces that `random` cuts.
    ///
    /// # Errors
    /// An invariant that shows on the way.
    pub fn turn(
        &mut self,
        core: u16,
        links: &mut [Link],
        random: Option<&mut Random>,
    ) -> Result<Outcome, String> {
        let place = usize::from(core);
        if self.ended[place] {
            return Ok(Outcome::Goes);
        }
        self.cores.station(core).begin_turn();
        self.take_in(core, links, random);
        let (station, front) = (self.cores.station(core), &mut self.fronts[place]);
        front.turn(station);
        station.end_turn();
        if station.mind_log().is_err() {
            return Ok(Outcome::Fault);
        }
        while let Some(write) = station.next_write() {
            let bytes = station.write_bytes(&write);
            let disk_id = self.disk.begin_write(write.file.path(), write.offset, bytes);
            self.writes.push(Write { core, id: write.id, disk_id, length: write.length });
        }
        front.finish_turn(station);
        self.send_out(core, links)?;
        let station = self.cores.station(core);
        station.turn_done();
        let mut front_drained = self.fronts[place].is_drained();
        if station.is_stopping() && self.fronts[place].stop_overdue() {
            front_drained = true;
        }
        if station.may_end(front_drained) {
            self.ended[place] = true;
        }
        Ok(if self.ended.iter().all(|ended| *ended) { Outcome::Ended } else { Outcome::Goes })
    }

    fn take_in(&mut self, core: u16, links: &mut [Link], mut random: Option<&mut Random>) {
        let (station, front) = (self.cores.station(core), &mut self.fronts[usize::from(core)]);
        for link in links.iter_mut().filter(|link| link.core == core) {
            let Some(key) = link.key.or_else(|| {
                if link.cut || link.server_closed || station.is_stopping() {
                    return None;
                }
                link.key = front.enter();
                link.key
            }) else {
                continue;
            };
            if link.cut {
                front.broken(key);
            } else if !link.to_server.is_empty() && front.wants_read(key) {
                let all = link.to_server.len();
                let piece =
                    |random: &mut Random| if random.permille(300) { random.index(all + 1) } else { all };
                let count = random.as_deref_mut().map_or(all, piece);
                self.buffer.clear();
                self.buffer.extend(link.to_server.drain(..count));
                front.receive(key, &self.buffer, station);
            } else if link.client_closed && link.to_server.is_empty() {
                front.at_end(key);
            }
        }
    }

    fn send_out(&mut self, core: u16, links: &mut [Link]) -> Verdict {
        let place = usize::from(core);
        let mut touched = std::mem::take(&mut self.touched);
        self.fronts[place].take_touched(&mut touched);
        for key in touched.drain(..) {
            let Some(link) = links.iter_mut().find(|link| link.core == core && link.key == Some(key)) else {
                continue;
            };
            let front = &mut self.fronts[place];
            match front.look_at(key) {
                None => {}
                Some(Wish::Abort) => {
                    link.break_off();
                    link.key = None;
                    front.leave(key);
                }
                Some(Wish::Close) => {
                    link.server_closed = true;
                    link.key = None;
                    front.leave(key);
                }
                Some(Wish::Move(to)) => {
                    let bytes = front.hand_over(key);
                    link.core = to;
                    let (station, front) = (self.cores.station(to), &mut self.fronts[usize::from(to)]);
                    link.key = front.enter_moved(&bytes, station);
                }
                Some(Wish::Keep) => self.pump(core, link)?,
            }
        }
        self.touched = touched;
        Ok(())
    }

    /// Puts what a session wants to send on its link, one send at a time.
    fn pump(&mut self, core: u16, link: &mut Link) -> Verdict {
        let Some(key) = link.key else { return Ok(()) };
        self.buffer.clear();
        if link.sending == 0 && self.fronts[usize::from(core)].take_outgoing(key, &mut self.buffer) {
            link.sending = self.buffer.len();
            s8_bounded::unsent(self.buffer.len(), self.unsent_bytes_max.0, self.unsent_bytes_max.1)?;
            link.to_client.extend(&self.buffer);
        }
        Ok(())
    }

    /// The client took bytes from its link.
    ///
    /// # Errors
    /// An invariant that shows on the way.
    pub fn delivered(&mut self, link: &mut Link, count: usize) -> Verdict {
        let Some(key) = link.key else { return Ok(()) };
        let sent = count.min(link.sending);
        link.sending -= sent;
        self.fronts[usize::from(link.core)].sent(key, sent);
        self.pump(link.core, link)
    }

    /// Completes a log write, or fails it.
    pub fn complete(&mut self, index: usize, fails: bool) -> Outcome {
        let write = self.writes.swap_remove(index);
        let result = if fails {
            Err(std::io::Error::other("simulated"))
        } else {
            self.disk.complete_write(write.disk_id, self.durably);
            Ok(write.length)
        };
        match self.cores.station(write.core).write_completed(write.id, result) {
            Ok(()) => Outcome::Goes,
            Err(_) => Outcome::Fault,
        }
    }

    /// A step of a core's keeper. False: it had nothing to do.
    pub fn keeper(&mut self, core: u16) -> bool {
        self.cores.keeper_step(core, self.clock.elapsed())
    }

    /// Reads log files for a subscription that has fallen behind. False: none has.
    pub fn history(&mut self) -> bool {
        let waits = self.house.has_history_to_read();
        self.house.read_history();
        waits
    }

    /// How long a core would sleep; `None`: until something arrives.
    pub fn sleep(&mut self, core: u16) -> Option<Duration> {
        if self.ended[usize::from(core)] {
            return None;
        }
        let station = self.cores.look(core);
        let own = match station.sleep() {
            tenure::station::Sleep::No => Some(Duration::ZERO),
            tenure::station::Sleep::For(wait) => Some(wait),
            tenure::station::Sleep::Forever => None,
        };
        // A message or the keeper's bell: asked as the shells do before they sleep.
        let woken = !station.prepare_sleep();
        station.woke();
        let front = self.fronts[usize::from(core)].wakes_in_ms().filter(|ms| *ms == 0);
        let keeper = self.cores.keeper_wake(core).map(|at| at.saturating_sub(self.clock.elapsed()));
        [own, woken.then_some(Duration::ZERO), front.map(Duration::from_millis), keeper]
            .into_iter()
            .flatten()
            .min()
    }

    /// Why a core does not sleep, for people.
    #[must_use]
    pub fn describe(&self, core: u16) -> String {
        let station = self.cores.look(core);
        format!(
            "{:?}, shard wakes at {:?} and has the time {:?}; front {:?}, keeper {:?}",
            station.sleep(),
            station.shard().next_wake(),
            station.now(),
            self.fronts[usize::from(core)].wakes_in_ms(),
            self.cores.keeper_wake(core)
        )
    }

    /// Asks all cores to stop.
    pub fn begin_stop(&self) {
        self.cores.begin_stop();
    }

    /// Dumps of all shards.
    #[must_use]
    pub fn dumps(&self) -> String {
        let mut dump = String::new();
        for core in 0..self.shard_count() {
            self.cores.look(core).shard().dump(&mut dump);
        }
        dump
    }

    /// Everything that lives, as the dumps say it.
    #[must_use]
    pub fn found(&self) -> Vec<Found> {
        let mut found = Vec::new();
        for shard in 0..self.shard_count() {
            let mut dump = String::new();
            self.cores.look(shard).shard().dump(&mut dump);
            found.extend(dump.lines().filter_map(|line| read_lease(line, shard)));
        }
        found
    }

    /// The process ends without a word.
    pub fn crash(self) {
        self.cores.crash();
    }

    /// The process ends as asked.
    pub fn close(self) {
        self.cores.close();
    }
}

/// Settings of the server. They come out of their text once: a start of a simulated server is a matter of
/// microseconds, and reading the defaults would be a good part of it.
fn serving() -> ServeConfig {
    static SERVING: OnceLock<ServeConfig> = OnceLock::new();
    let serving = SERVING.get_or_init(|| {
        let mut serving = ServeConfig::default();
        serving.limits.frame_bytes_max = FRAME_BYTES_MAX;
        serving.limits.window = 64;
        serving.limits.batch_ids_max = 4_096;
        serving.limits.grant_batch_max = 1_024;
        serving.limits.list_page_max = 7;
        serving.send_bytes_max = SEND_BYTES_MAX;
        serving
    });
    serving.clone()
}

/// `lease <id> token <n> ttl <n>ms [until <n>ms] "item" …`
fn read_lease(line: &str, shard: u16) -> Option<Found> {
    let mut words = line.strip_prefix("lease ")?.split(' ');
    let id = u64::from_str_radix(words.next()?, 16).ok()?;
    let token = words.nth(1)?.parse().ok()?;
    let ttl_ms = words.nth(1)?.strip_suffix("ms")?.parse().ok()?;
    let items = words.filter_map(|word| Some(word.strip_prefix('"')?.strip_suffix('"')?.to_owned()));
    Some(Found { key: (id, token), shard, ttl_ms, items: items.collect() })
}
