//! A run of the real cores on a recording disk: mixed work, writes that complete in any order, snapshots,
//! clean stops, kills, power losses and re-sharding, and after each step the audit of all images taken.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tenure::log::{LogWrite, Manifest};
use tenure::request::{Reply, Request, ServiceTicket};
use tenure::simulation::{Cores, forward};
use tenure::{Durability, GrantKey, LeaseId, ManualClock, Refusal, Renewals, ShardIndex};
use tenure_core::{Grant, ShardConfig, shard_of};

use super::audit::{Auditor, DATA_DIR, LONG_MS, Setup, Tally, dumps, manifest};
use super::disk::MediumDisk;
use super::medium::{Choice, FileIndex, Lie, Medium};
use super::truth::{Batch, Facts, HEADER_BYTES, Name, Promises, ShardTruth, Truth, snapshot_chunks};
use crate::random::Random;

/// What a run does.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Decides everything.
    pub seed: u64,
    /// Images taken at random after each operation of the disk, besides the two extremes.
    pub shots_each: u64,
    /// Lives of the engine.
    pub lives: u64,
    /// Turns of each core in a life.
    pub turns: u64,
    /// What the disk gets wrong, to see that it is noticed.
    pub lie: Option<Lie>,
}

/// Record bytes that may gather while the disk is busy: far below the largest batch of the small disk.
const GATHERED_BYTES_MAX: usize = 40_000;
/// Leases that may hold items, so that an end never writes more of them than a batch takes.
const ITEM_BYTES_MAX: usize = 4_000;

/// Writes one core has under way.
struct Flight {
    write: LogWrite,
    file: FileIndex,
    id: u64,
}

/// What was asked and not yet answered.
enum Asked {
    Grant { long: bool },
    Revoke(Name),
    Attach(Name, String),
    Other,
}

/// A lease that the load knows.
#[derive(Clone)]
struct Known {
    id: LeaseId,
    name: Name,
    items: u32,
}

struct Load {
    plan: Plan,
    random: Random,
    disk: MediumDisk,
    auditor: Auditor,
    truth: Truth,
    log_id: u64,
    facts: Facts,
    clock: ManualClock,
    elapsed: Duration,
    asked: BTreeMap<u64, Asked>,
    known: Vec<Known>,
    next: u64,
}

/// One life of the engine.
struct Life {
    cores: Cores,
    flights: Vec<Vec<Flight>>,
    /// Record bytes that may have gathered since the last seal, per core.
    gathered: Vec<usize>,
}

/// Runs a plan. The tally says what the images had in them.
///
/// # Errors
/// What is wrong with which image.
pub fn run(plan: Plan) -> Result<Tally, String> {
    let mut random = Random::new(plan.seed);
    let setup = Setup {
        durability: match plan.seed % 4 {
            0 => Durability::Interval(Duration::from_millis(20)),
            _ => Durability::Always,
        },
        renewals: *random.pick(&[Renewals::Unlogged, Renewals::Logged]),
        retain_bytes: *random.pick(&[0, 0, 300_000]),
        snapshot_log_bytes: random.between(40_000, 200_000),
    };
    let medium = plan.lie.map_or_else(Medium::default, Medium::lying);
    let disk = MediumDisk::recording(medium, random.next(), plan.shots_each);
    let auditor = Auditor { setup, tally: Tally::default(), random: random.fork() };
    let mut load = Load {
        plan,
        disk,
        auditor,
        truth: Truth::new(),
        log_id: 0,
        facts: Facts::default(),
        clock: ManualClock::new(),
        elapsed: Duration::ZERO,
        asked: BTreeMap::new(),
        known: Vec::new(),
        next: 1,
        random,
    };
    let mut shard_count = load.random.between(1, 4) as u16;
    for life in 0..plan.lives {
        if life > 0 && load.random.one_in(3) {
            shard_count = load.random.between(1, 4) as u16;
        }
        load.live(shard_count).map_err(|reason| format!("seed {}, life {life}: {reason}", plan.seed))?;
    }
    Ok(load.auditor.tally)
}

impl Load {
    fn live(&mut self, shard_count: u16) -> Result<(), String> {
        let mut life = self.open(shard_count)?;
        for _ in 0..self.plan.turns {
            for core in 0..life.cores.shard_count() {
                self.turn(&mut life, core)?;
            }
            let step = *self.random.pick(&[0, 1, 7, 40]);
            forward(&self.clock, Duration::from_millis(step));
            self.elapsed += Duration::from_millis(step);
        }
        match self.random.below(4) {
            0 => self.stop(life),
            1 => self.cut_off(life, Medium::kill),
            _ => self.cut_off(life, |medium, random| *medium = medium.image(Choice::Any, random)),
        }
    }

    /// Ends a life without notice: the process is killed, or the power goes.
    fn cut_off(&mut self, life: Life, end: impl FnOnce(&mut Medium, &mut Random)) -> Result<(), String> {
        life.cores.crash();
        self.promise();
        for shard in self.truth.get_mut(&self.log_id).into_iter().flatten() {
            shard.interrupted();
        }
        let mut random = self.random.fork();
        self.disk.with(|medium| end(medium, &mut random));
        self.asked.clear();
        self.judge()
    }

    /// Opens the engine; what recovery found replaces what might have been there.
    fn open(&mut self, shard_count: u16) -> Result<Life, String> {
        self.promise();
        self.clock = ManualClock::new();
        let config = self.auditor.setup.config(Some(shard_count), &self.clock);
        let cores = Cores::open(&config, Arc::new(self.disk.clone()));
        let cores = cores.map_err(|error| format!("refused to start: {error}"))?;
        // Images of the opening are judged by what was promised before it.
        self.judge()?;
        let found = self.disk.with(|medium| manifest(medium));
        if let Some(shards) = self.truth.get_mut(&found.log_id) {
            for (index, (shard, listed)) in shards.iter_mut().zip(&found.shards).enumerate() {
                let count = shard.batches_at(listed.tail)?;
                let now = cores.look(index as u16).now();
                if *shard.dump(count, now) != dumps(&cores)[index] {
                    return Err(format!("S4: shard {index} opened with another state than its log's"));
                }
                shard.cut(count);
            }
        } else {
            let shards = self.register(&found);
            self.truth.insert(found.log_id, shards);
        }
        self.log_id = found.log_id;
        self.promise();
        let count = usize::from(cores.shard_count());
        Ok(Life { cores, flights: (0..count).map(|_| Vec::new()).collect(), gathered: vec![0; count] })
    }

    /// A layout seen for the first time: empty, or with the snapshots of a re-sharding.
    fn register(&self, found: &Manifest) -> Vec<ShardTruth> {
        let shard_count = found.shards.len() as u16;
        let setup = self.auditor.setup.config(None, &self.clock);
        let register = |(index, listed): (u16, &tenure::log::ShardManifest)| {
            let config = ShardConfig {
                seed: listed.seed,
                generation_base: listed.generation_base,
                checkpoint_interval_ms: setup.checkpoint_interval.map(|every| every.as_millis() as u64),
                renewals: setup.renewals,
                lease_count_max: setup.lease_count_max,
                ..ShardConfig::new(ShardIndex(index), shard_count)
            };
            let name = format!("snapshot-{:020}.img", listed.start + HEADER_BYTES);
            let path = Path::new(DATA_DIR).join(&listed.directory).join(name);
            let image = self.disk.with(|medium| medium.read_whole(&path)).ok();
            ShardTruth::new(config, image.map_or(Vec::new(), |file| snapshot_chunks(&file)), listed.start)
        };
        (0..shard_count).zip(&found.shards).map(register).collect()
    }

    /// Tells the disk what a power loss from now on must leave.
    fn promise(&mut self) {
        let disk = self.disk.clone();
        let durable = match self.truth.get_mut(&self.log_id) {
            Some(shards) => {
                shards.iter_mut().map(|shard| disk.with(|medium| shard.note_durable(medium))).collect()
            }
            None => Vec::new(),
        };
        let log_id = (self.log_id != 0).then_some(self.log_id);
        let facts = Arc::new(self.facts.clone());
        self.disk.promise(Arc::new(Promises { log_id, durable, facts }));
    }

    fn judge(&mut self) -> Result<(), String> {
        for shot in self.disk.take_shots() {
            self.auditor.judge(&shot, &self.truth)?;
        }
        Ok(())
    }

    fn turn(&mut self, life: &mut Life, core: u16) -> Result<(), String> {
        let index = usize::from(core);
        let requests = self.requests(life, core);
        self.promise();
        let station = life.cores.station(core);
        station.begin_turn();
        for (ticket, request) in requests {
            station.submit(ShardIndex(core), request, ServiceTicket { session: 0, request: ticket });
        }
        station.end_turn();
        self.mind(life, core)?;
        if life.flights[index].len() < 4 {
            life.gathered[index] = life.gathered[index].min(16_000);
        }
        self.complete(life, core, false)?;
        self.judge()?;
        self.hear(life, core);
        Ok(())
    }

    /// Starts the writes that the journal wants, and lets the keeper work now and then.
    fn mind(&mut self, life: &mut Life, core: u16) -> Result<(), String> {
        let index = usize::from(core);
        let station = life.cores.station(core);
        station.mind_log().map_err(|fault| format!("a sync failed: {fault:?}"))?;
        while let Some(write) = station.next_write() {
            let file =
                self.disk.with(|medium| medium.file(write.file.path())).map_err(|error| error.to_string())?;
            let bytes = station.write_bytes(&write).to_vec();
            let batch = Batch::read(&bytes, file, write.offset);
            self.truth.get_mut(&self.log_id).expect("registered")[index].launched(batch);
            self.next += 1;
            self.disk.launch(file, self.next, &bytes, write.offset);
            life.flights[index].push(Flight { write, file, id: self.next });
        }
        station.turn_done();
        for _ in 0..self.random.below(4) {
            if !life.cores.keeper_step(core, self.elapsed) {
                break;
            }
        }
        Ok(())
    }

    /// Completes some of the writes under way, in any order: all of them when `all`.
    fn complete(&mut self, life: &mut Life, core: u16, all: bool) -> Result<(), String> {
        let index = usize::from(core);
        let durably = self.auditor.setup.durability == Durability::Always;
        let flights = life.flights[index].len() as u64;
        let count = if all { flights } else { self.random.below(flights + 1) };
        for _ in 0..count {
            let at = self.random.below(life.flights[index].len() as u64) as usize;
            let Flight { write, file, id } = life.flights[index].remove(at);
            self.disk.land(file, id, durably);
            let shard = &mut self.truth.get_mut(&self.log_id).expect("registered")[index];
            shard.landed(write.file.base() + write.offset);
            let station = life.cores.station(core);
            station.write_completed(write.id, Ok(write.length)).map_err(|fault| format!("{fault:?}"))?;
            let claimed = station.durable();
            self.promise();
            if durably && !self.truth[&self.log_id][index].vouches_for(claimed) {
                return Err(format!(
                    "S3: shard {core} tells what is below {claimed}, and not all of it is on disk"
                ));
            }
        }
        Ok(())
    }

    /// Takes the replies: what they say is certain from now on, if replies wait for the disk.
    fn hear(&mut self, life: &mut Life, core: u16) {
        let mut ready = Vec::new();
        life.cores.station(core).take_ready(&mut ready);
        let certain = self.auditor.setup.durability == Durability::Always;
        for (ticket, reply) in ready {
            let asked = self.asked.remove(&ticket.request).expect("L2 one-reply: answered once");
            match (asked, reply) {
                (Asked::Grant { long }, Reply::Granted(granted)) => {
                    let name = (granted.id.to_string(), granted.token.to_string());
                    if long && certain && !granted.repeated {
                        self.facts.alive.insert(name.clone());
                    }
                    self.known.push(Known { id: granted.id, name, items: 0 });
                }
                (Asked::Revoke(name), Reply::Revoked(_) | Reply::Refused(Refusal::NotFound)) if certain => {
                    self.facts.dead.insert(name);
                }
                // A lease that was asked to end meanwhile may have lost its items.
                (Asked::Attach(name, item), Reply::Attached(_))
                    if certain && self.facts.alive.contains(&name) =>
                {
                    self.facts.attached.insert((name, item));
                }
                _ => {}
            }
        }
    }

    fn ask(&mut self, asked: Asked) -> u64 {
        self.next += 1;
        self.asked.insert(self.next, asked);
        self.next
    }

    fn requests(&mut self, life: &mut Life, core: u16) -> Vec<(u64, Request)> {
        let mut requests = Vec::new();
        for _ in 0..self.random.below(7) {
            if life.gathered[usize::from(core)] > GATHERED_BYTES_MAX {
                break;
            }
            let (request, bytes) = self.request(core, life.cores.shard_count());
            life.gathered[usize::from(core)] += bytes;
            requests.push(request);
        }
        requests
    }

    /// One request for a core's shard, and about as many record bytes as it makes.
    fn request(&mut self, core: u16, shard_count: u16) -> ((u64, Request), usize) {
        let mine: Vec<usize> = (0..self.known.len())
            .filter(|&at| shard_of(self.known[at].id, shard_count) == ShardIndex(core))
            .collect();
        let kind = if mine.is_empty() { 0 } else { self.random.below(12) };
        if kind < 4 {
            return (self.grant(core, shard_count, kind), 40);
        }
        let at = *self.random.pick(&mine);
        let Known { id, name, items } = self.known[at].clone();
        match kind {
            4 | 5 => {
                self.facts.alive.remove(&name);
                self.facts.attached.retain(|(of, _)| *of != name);
                self.known.swap_remove(at);
                ((self.ask(Asked::Revoke(name)), Request::Revoke(id)), 32 + 2 * ITEM_BYTES_MAX)
            }
            6..=8 if items < 2 => {
                self.known[at].items += 1;
                let count = self.random.between(1, ITEM_BYTES_MAX as u64) as usize;
                let mut item = format!("{:08x}", self.random.next() as u32);
                item.extend(std::iter::repeat_n('x', count));
                let request = Request::Attach { id, item: Bytes::from(item.clone()) };
                ((self.ask(Asked::Attach(name, item)), request), count + 40)
            }
            9 => {
                let count = self.random.between(1, 60);
                let grant = |ttl_ms| Grant { id: None, ttl_ms, key: None };
                let grants = (0..count).map(|_| grant(self.random.between(5, 100))).collect();
                ((self.ask(Asked::Other), Request::GrantBatch(grants)), count as usize * 40)
            }
            _ => ((self.ask(Asked::Other), Request::Renew(id)), 32),
        }
    }

    fn grant(&mut self, core: u16, shard_count: u16, kind: u64) -> (u64, Request) {
        let long = self.random.one_in(2);
        let ttl_ms = if long { LONG_MS } else { self.random.between(5, 2_000) };
        let id = (kind == 1).then(|| {
            let mut ids = std::iter::repeat_with(|| LeaseId(self.random.next()));
            ids.find(|id| shard_of(*id, shard_count) == ShardIndex(core)).expect("every shard has IDs")
        });
        let key = (kind == 2).then(|| GrantKey { client: 7, request: self.random.next() });
        let grant = Grant { id, ttl_ms, key };
        (self.ask(Asked::Grant { long }), Request::Grant(grant))
    }

    /// A clean stop: everything is flushed, and the manifest says where the logs end.
    fn stop(&mut self, mut life: Life) -> Result<(), String> {
        life.cores.begin_stop();
        let count = life.cores.shard_count();
        let mut ended = vec![false; usize::from(count)];
        for _ in 0..1_000 {
            for core in (0..count).filter(|&core| !ended[usize::from(core)]).collect::<Vec<_>>() {
                let station = life.cores.station(core);
                station.begin_turn();
                station.end_turn();
                self.mind(&mut life, core)?;
                life.cores.keeper_step(core, self.elapsed);
                self.complete(&mut life, core, true)?;
                self.judge()?;
                self.hear(&mut life, core);
                ended[usize::from(core)] = life.cores.station(core).may_end(true);
            }
            if ended.iter().all(|&ended| ended) {
                self.promise();
                life.cores.close();
                self.promise();
                self.asked.clear();
                return self.judge();
            }
        }
        Err("a clean stop did not end".to_owned())
    }
}
