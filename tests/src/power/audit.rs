//! Opens an image as a start after the power loss would, and compares what is there with the truth.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tenure::log::{MANIFEST_FILE, Manifest, ShardManifest};
use tenure::request::{Reply, Request, ServiceTicket};
use tenure::simulation::Cores;
use tenure::{Clock, Config, Durability, ManualClock, Renewals, ShardIndex};
use tenure_core::Grant;

use super::disk::{MediumDisk, SEGMENT_BYTES, Shot};
use super::medium::{Choice, Medium};
use super::truth::{Facts, Name, ShardTruth, Truth, movable};
use crate::random::Random;

/// The data directory on every medium, one level down: its own name can be lost, too.
pub const DATA_DIR: &str = "/var/data";

/// A TTL that outlives every run, ms.
pub const LONG_MS: u64 = 1 << 40;

/// How the engine under test is set up, in all its lives.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    /// Whether each write is synced.
    pub durability: Durability,
    /// Whether renewals are logged.
    pub renewals: Renewals,
    /// Log kept behind a snapshot.
    pub retain_bytes: u64,
    /// Log between two snapshots.
    pub snapshot_log_bytes: u64,
}

impl Setup {
    /// The engine's settings.
    #[must_use]
    pub fn config(&self, shard_count: Option<u16>, clock: &ManualClock) -> Config {
        Config {
            data_dir: Some(PathBuf::from(DATA_DIR)),
            shard_count,
            durability: self.durability,
            renewals: self.renewals,
            clock: Clock::Simulated(clock.clone()),
            checkpoint_interval: Some(std::time::Duration::from_millis(500)),
            segment_bytes: SEGMENT_BYTES,
            retain_bytes: self.retain_bytes,
            snapshot_log_bytes: self.snapshot_log_bytes,
            event_buffer_bytes: 1 << 16,
            lease_count_max: 100_000,
            ..Config::default()
        }
    }
}

/// What the audited images had in them: a run that never met the hard cases proves little.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    /// Images recovered.
    pub images: u64,
    /// With a torn batch, or with whole ones behind a hole.
    pub torn: u64,
    /// With batches that nobody had promised.
    pub with_unpromised: u64,
    /// Recovered from a snapshot whose log before is gone.
    pub recycled: u64,
    /// In which a re-sharding was under way and had happened.
    pub resharded: u64,
    /// In which a re-sharding was under way and had not happened.
    pub not_resharded: u64,
    /// Re-sharded by the recovery itself.
    pub resharded_after: u64,
    /// That went on and were cut off a second time.
    pub second_lives: u64,
}

impl Tally {
    /// Adds another run's.
    pub fn add(&mut self, other: &Tally) {
        self.images += other.images;
        self.torn += other.torn;
        self.with_unpromised += other.with_unpromised;
        self.recycled += other.recycled;
        self.resharded += other.resharded;
        self.not_resharded += other.not_resharded;
        self.resharded_after += other.resharded_after;
        self.second_lives += other.second_lives;
    }
}

/// Opens images and compares.
#[derive(Debug)]
pub struct Auditor {
    /// How the engine is set up.
    pub setup: Setup,
    /// What was found so far.
    pub tally: Tally,
    /// Decides which images live on.
    pub random: Random,
}

/// The manifest of a medium.
///
/// # Panics
/// There is none that can be read: the engine has just written it.
#[must_use]
pub fn manifest(medium: &Medium) -> Manifest {
    let path = Path::new(DATA_DIR).join(MANIFEST_FILE);
    let bytes = medium.read_whole(&path).expect("a manifest");
    let text = String::from_utf8(bytes).expect("text");
    Manifest::decode(&path, &text).expect("a sound manifest")
}

/// The canonical dumps of all shards.
#[must_use]
pub fn dumps(cores: &Cores) -> Vec<String> {
    let dump = |index| {
        let mut text = String::new();
        cores.look(index).shard().dump(&mut text);
        text
    };
    (0..cores.shard_count()).map(dump).collect()
}

impl Auditor {
    /// Recovers one image and judges it.
    ///
    /// # Errors
    /// What is wrong with what was recovered.
    pub fn judge(&mut self, shot: &Shot, truth: &Truth) -> Result<(), String> {
        let judged = catch_unwind(AssertUnwindSafe(|| self.recover(shot, truth)));
        let judged = judged.unwrap_or_else(|_| Err("recovery panicked".to_owned()));
        judged.map_err(|reason| {
            let kept = std::env::var("TENURE_POWER_KEEP").map(|dir| {
                let written = shot.image.export(Path::new(DATA_DIR), Path::new(&dir));
                format!(" (image in {dir}: {written:?})")
            });
            format!("{}: {reason}{}", shot.label, kept.unwrap_or_default())
        })
    }

    fn recover(&mut self, shot: &Shot, truth: &Truth) -> Result<(), String> {
        let disk = MediumDisk::plain(shot.image.clone(), self.random.next());
        let cores = self.open(&disk, None)?;
        self.tally.images += 1;
        self.tally.torn += u64::from(!cores.torn().is_empty());
        let dumps = dumps(&cores);
        check_facts(&dumps, &shot.promises.facts)?;
        let found = disk.with(|medium| manifest(medium));
        match shot.promises.log_id {
            None => {}
            Some(promised) if promised == found.log_id => {
                let shards = &truth[&found.log_id];
                self.compare(&shot.image, &found, &cores, &dumps, shards, &shot.promises.durable)?;
                self.tally.not_resharded += u64::from(has_plan(&shot.image, &found));
            }
            Some(promised) if truth.contains_key(&found.log_id) => {
                return Err(format!("the layout {promised:016x} had replaced {:016x}", found.log_id));
            }
            Some(promised) => {
                is_moved(&dumps, &truth[&promised], &shot.promises.durable)?;
                self.tally.resharded += 1;
            }
        }
        if self.random.one_in(8) {
            self.live_on(&disk, cores, &dumps)?;
        } else {
            cores.crash();
        }
        if self.random.one_in(16) && shot.promises.log_id.is_some() {
            self.reshard(shot, &dumps)?;
        }
        Ok(())
    }

    fn open(&self, disk: &MediumDisk, shard_count: Option<u16>) -> Result<Cores, String> {
        let config = self.setup.config(shard_count, &ManualClock::new());
        Cores::open(&config, Arc::new(disk.clone())).map_err(|error| format!("refused to start: {error}"))
    }

    fn compare(
        &mut self,
        image: &Medium,
        found: &Manifest,
        cores: &Cores,
        dumps: &[String],
        shards: &[ShardTruth],
        promised: &[usize],
    ) -> Result<(), String> {
        for (index, (shard, listed)) in shards.iter().zip(&found.shards).enumerate() {
            let count = shard.batches_at(listed.tail).map_err(|reason| format!("shard {index}: {reason}"))?;
            if count < promised[index] {
                let lost = promised[index] - count;
                return Err(format!(
                    "S3: shard {index} lost {lost} durable batches, it ends at {}",
                    listed.tail
                ));
            }
            self.tally.with_unpromised += u64::from(count > promised[index]);
            let now = cores.look(index as u16).now();
            if now < shard.time(count) {
                return Err(format!("S6: shard {index} resumed at {now}, before {}", shard.time(count)));
            }
            let expected = shard.dump(count, now);
            if *expected != dumps[index] {
                let difference = first_difference(&expected, &dumps[index]);
                return Err(format!("S4: shard {index} after {count} batches: {difference}"));
            }
            self.tally.recycled += u64::from(has_lost_its_start(image, listed));
        }
        Ok(())
    }

    /// Grants a lease on each shard, cuts the power again, and looks whether all is there.
    fn live_on(&mut self, disk: &MediumDisk, mut cores: Cores, before: &[String]) -> Result<(), String> {
        let mut told = Vec::new();
        for index in 0..cores.shard_count() {
            let station = cores.station(index);
            station.begin_turn();
            let grant = Grant { id: None, ttl_ms: LONG_MS, key: None };
            let ticket = ServiceTicket { session: 0, request: u64::from(index) };
            station.submit(ShardIndex(index), Request::Grant(grant), ticket);
            station.end_turn();
            let fault = |fault| format!("a write failed: {fault:?}");
            station.mind_log().map_err(fault)?;
            while let Some(write) = station.next_write() {
                let file =
                    disk.with(|medium| medium.file(write.file.path())).map_err(|error| error.to_string())?;
                let bytes = station.write_bytes(&write).to_vec();
                disk.with(|medium| {
                    medium.write(file, &bytes, write.offset as usize);
                    medium.sync(file);
                });
                station.write_completed(write.id, Ok(write.length)).map_err(fault)?;
            }
            let mut ready = Vec::new();
            station.take_ready(&mut ready);
            match ready.pop() {
                Some((_, Reply::Granted(granted))) => {
                    told.push(format!("lease {} token {} ", granted.id, granted.token));
                }
                other => return Err(format!("a grant after the recovery was answered {other:?}")),
            }
        }
        cores.crash();
        let image = disk.with(|medium| medium.image(Choice::Nothing, &mut Random::new(0)));
        let again = self.open(&MediumDisk::plain(image, 1), None)?;
        let (after, mut all) = (self::dumps(&again), BTreeSet::new());
        after.iter().for_each(|dump| all.extend(movable(dump)));
        for lease in told {
            if !all.iter().any(|line| line.starts_with(&lease)) {
                return Err(format!("S3: a grant after the recovery was told and lost: {lease}"));
            }
        }
        for line in before.iter().flat_map(|dump| movable(dump)) {
            if line.contains(&format!(" ttl {LONG_MS}ms")) && !all.contains(&line) {
                return Err(format!("S3: recovered once and lost by the next power loss: {line}"));
            }
        }
        again.crash();
        self.tally.second_lives += 1;
        Ok(())
    }

    /// Opens the same image with another number of shards: the same leases are there.
    fn reshard(&mut self, shot: &Shot, before: &[String]) -> Result<(), String> {
        let disk = MediumDisk::plain(shot.image.clone(), self.random.next());
        let other = if before.len() == 3 { 2 } else { before.len() as u16 + 1 };
        let cores = self.open(&disk, Some(other))?;
        let union = |dumps: &[String]| dumps.iter().flat_map(|dump| movable(dump)).collect::<BTreeSet<_>>();
        let (was, is) = (union(before), union(&dumps(&cores)));
        cores.crash();
        if was != is {
            let difference = was.symmetric_difference(&is).next().cloned().unwrap_or_default();
            return Err(format!("re-sharded to {other}: {difference}"));
        }
        self.tally.resharded_after += 1;
        Ok(())
    }
}

/// Whether folders of another layout than the manifest's are there.
fn has_plan(image: &Medium, found: &Manifest) -> bool {
    let entries = image.list(Path::new(DATA_DIR)).unwrap_or_default();
    entries.iter().any(|(name, _)| {
        name.starts_with("shard-") && !found.shards.iter().any(|shard| shard.directory == *name)
    })
}

/// Whether the log's first segment has been recycled.
fn has_lost_its_start(image: &Medium, listed: &ShardManifest) -> bool {
    let entries = image.list(&Path::new(DATA_DIR).join(&listed.directory)).unwrap_or_default();
    let first = format!("{:020}.log", listed.start);
    entries.iter().any(|(name, _)| name.ends_with(".log")) && entries.iter().all(|(name, _)| *name != first)
}

/// A re-sharding under way was finished by the power loss: what is there must be what some prefix of the old
/// logs holds that has all that was promised.
fn is_moved(dumps: &[String], old: &[ShardTruth], promised: &[usize]) -> Result<(), String> {
    let found: BTreeSet<String> = dumps.iter().flat_map(|dump| movable(dump)).collect();
    let mut choices: Vec<Vec<BTreeSet<String>>> = Vec::new();
    for (shard, &least) in old.iter().zip(promised) {
        let dump = |count| movable(&shard.dump(count, shard.time(count)));
        choices.push((least..=shard.batch_count()).map(dump).collect());
    }
    if is_made_of(&found, &choices) {
        return Ok(());
    }
    let known: BTreeSet<String> = choices.iter().flatten().flatten().cloned().collect();
    let strange = found.difference(&known).next();
    Err(format!("S3: re-sharded into leases that no prefix of the logs holds; never there: {strange:?}"))
}

/// Whether a set is the union of one choice from each list. Choices from different lists have nothing in common.
fn is_made_of(whole: &BTreeSet<String>, lists: &[Vec<BTreeSet<String>>]) -> bool {
    let Some((first, others)) = lists.split_first() else { return whole.is_empty() };
    let mut fitting = first.iter().filter(|choice| choice.is_subset(whole));
    fitting.any(|choice| is_made_of(&whole.difference(choice).cloned().collect(), others))
}

/// What was told stays true, whatever the log looks like (S3).
fn check_facts(dumps: &[String], facts: &Facts) -> Result<(), String> {
    let mut alive: BTreeSet<Name> = BTreeSet::new();
    let mut items: BTreeSet<(Name, String)> = BTreeSet::new();
    for line in dumps.iter().flat_map(|dump| dump.lines()).filter(|line| line.starts_with("lease ")) {
        let words: Vec<&str> = line.splitn(5, ' ').collect();
        let name: Name = (words[1].to_owned(), words[3].to_owned());
        items.extend(line.split('"').skip(1).step_by(2).map(|item| (name.clone(), item.to_owned())));
        alive.insert(name);
    }
    if let Some((id, token)) = facts.alive.difference(&alive).next() {
        return Err(format!("S3: the grant of lease {id} (token {token}) was told, and it is gone"));
    }
    if let Some((id, token)) = facts.dead.intersection(&alive).next() {
        return Err(format!("S3: the end of lease {id} (token {token}) was told, and it lives"));
    }
    if let Some(((id, _), item)) = facts.attached.difference(&items).next() {
        return Err(format!("S3: item {item:.20} was told to be attached to lease {id} and is gone"));
    }
    Ok(())
}

fn first_difference(expected: &str, found: &str) -> String {
    let mut pairs = expected.lines().zip(found.lines());
    match pairs.find(|(one, other)| one != other) {
        Some((one, other)) => format!("expected {}, found {}", shortened(one), shortened(other)),
        None => format!("expected {} lines, found {}", expected.lines().count(), found.lines().count()),
    }
}

/// A line without the filling of its items.
fn shortened(line: &str) -> String {
    line.split('x').filter(|piece| !piece.is_empty()).collect::<Vec<_>>().join("x…")
}
