//! Where an engine's shards come from: a data directory, or nothing.
//!
//! On disk an opening has two halves. Each shard is recovered on the thread that will own it; only
//! when all have succeeded does [`Store::begin`] make the next epoch durable, and only then may a
//! core write. A failure anywhere before leaves the directory as it was.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tenure_core::{Position, Shard, ShardConfig, ShardIndex, Time, generation_range};

use crate::clock::Stopwatch;
use crate::config::{Config, Durability};
use crate::error::OpenError;
use crate::events::{EventHub, HistorySource};
use crate::journal::Journal;
use crate::limits::SHARD_COUNT_MAX;
use crate::log::disk::DiskPort;
use crate::log::{
    DataDir, KeeperConfig, LogError, MANIFEST_FILE, Manifest, Recovered, Replay, ShardLog, SyncMode, Worker,
    open_for_writing, recover,
};
use crate::memory::Memory;
use crate::snapshotting::Snapshotting;

mod reshard;

/// What the engine's shards are recovered from.
#[derive(Clone)]
pub(crate) struct Store {
    inner: Arc<Inner>,
}

struct Inner {
    shards: Vec<ShardConfig>,
    disk: Option<Disk>,
    resharded_from: Option<u16>,
}

struct Disk {
    dir: Mutex<DataDir>,
    logs: Vec<ShardLog>,
    /// Where each log ended when its core stopped.
    ends: Vec<Arc<AtomicU64>>,
    /// Replies leave before what they tell is on disk.
    tells_early: bool,
}

/// One shard, recovered but not yet given a clock.
pub(crate) struct RecoveredShard {
    pub(crate) shard: Shard,
    pub(crate) time: Time,
    /// What its log holds; `None` in memory.
    pub(crate) found: Option<Recovered>,
}

impl RecoveredShard {
    /// Where the log goes on.
    pub(crate) fn tail(&self) -> u64 {
        self.found.as_ref().map_or(0, |found| found.tail.place)
    }

    /// What was cut off the end of the log, in words.
    pub(crate) fn torn(&self) -> Option<String> {
        let torn = self.found.as_ref()?.torn.as_ref()?;
        Some(format!(
            "{} at byte {}: {} ({} later unacknowledged batches dropped)",
            torn.path.display(),
            torn.offset,
            torn.reason,
            torn.batches_dropped
        ))
    }
}

impl Store {
    /// Opens what `config` names: locks the directory, creates or re-shards it as needed.
    pub(crate) fn open(config: &Config, cpu_count: u16) -> Result<Store, OpenError> {
        Store::open_on(DiskPort::System, config, cpu_count)
    }

    /// As [`open`](Store::open), on any disk.
    pub(crate) fn open_on(disk: DiskPort, config: &Config, cpu_count: u16) -> Result<Store, OpenError> {
        let Some(path) = &config.data_dir else {
            let shard_count = config.shard_count.unwrap_or(cpu_count.max(1));
            let fresh = |index| ShardConfig {
                seed: disk.random(),
                generation_base: random_generation_base(disk.random(), index, shard_count),
                ..shard_config(index, shard_count, config)
            };
            let shards = (0..shard_count).map(ShardIndex).map(fresh).collect();
            return Ok(Store { inner: Arc::new(Inner { shards, disk: None, resharded_from: None }) });
        };
        let mut dir = DataDir::open_on(disk, path)?;
        if let Some(manifest) = dir.manifest() {
            check_shards(path, manifest)?;
        }
        let found = dir.manifest().map(|manifest| manifest.shards.len());
        let found = found.map(|count| u16::try_from(count).expect("a manifest lists at most 65,535 shards"));
        let shard_count = config.shard_count.or(found).unwrap_or(cpu_count.max(1));
        let mut resharded_from = None;
        match found {
            None => {
                let bases: Vec<u64> = (0..shard_count)
                    .map(|index| generation_range(ShardIndex(index), shard_count).start)
                    .collect();
                dir.create(&bases)?;
            }
            Some(before) if before != shard_count => {
                reshard::reshard(&mut dir, shard_count, config)?;
                resharded_from = Some(before);
            }
            // IDs and tokens that were told and lost must not be given out again.
            Some(_) if dir.may_have_told_more()? => reshard::reshard(&mut dir, shard_count, config)?,
            Some(_) => {}
        }
        let manifest = dir.manifest().expect("created above").clone();
        let shards = (0..).map(ShardIndex).zip(&manifest.shards).map(|(index, listed)| ShardConfig {
            seed: listed.seed,
            generation_base: listed.generation_base,
            ..shard_config(index, shard_count, config)
        });
        let shards = shards.collect();
        let logs = (0..shard_count).map(|index| dir.shard_log(index)).collect();
        let ends = (0..shard_count).map(|_| Arc::default()).collect();
        let tells_early = config.durability != Durability::Always;
        let disk = Disk { dir: Mutex::new(dir), logs, ends, tells_early };
        Ok(Store { inner: Arc::new(Inner { shards, disk: Some(disk), resharded_from }) })
    }

    pub(crate) fn shard_count(&self) -> u16 {
        u16::try_from(self.inner.shards.len()).expect("S8: shard count is at most SHARD_COUNT_MAX")
    }

    pub(crate) fn resharded_from(&self) -> Option<u16> {
        self.inner.resharded_from
    }

    /// The event streams, one per shard.
    pub(crate) fn hubs(&self, bytes_max: usize) -> Arc<[Arc<EventHub>]> {
        let hub = |index: u16| {
            let log = self.inner.disk.as_ref().map(|disk| disk.logs[usize::from(index)].clone());
            Arc::new(EventHub::new(ShardIndex(index), log.map(HistorySource::new), bytes_max))
        };
        (0..self.shard_count()).map(hub).collect()
    }

    /// Recovers one shard on this thread, its memory being touched ahead by `memory`. Changes nothing on disk.
    pub(crate) fn recover(&self, index: ShardIndex, memory: &Memory) -> Result<RecoveredShard, OpenError> {
        let config = self.inner.shards[usize::from(index.0)].clone();
        match &self.inner.disk {
            None => Ok(RecoveredShard { shard: Shard::new(config), time: Time(0), found: None }),
            Some(disk) => recover_shard(&disk.logs[usize::from(index.0)], config, memory),
        }
    }

    /// Makes the next epoch durable, given where each shard's log goes on. Must precede any write.
    pub(crate) fn begin(&self, tails: &[u64]) -> Result<u32, OpenError> {
        let Some(disk) = &self.inner.disk else { return Ok(0) };
        let mut dir = disk.dir.lock().unwrap_or_else(PoisonError::into_inner);
        let epoch = dir.begin_epoch(tails)?;
        dir.note_unsynced(disk.tells_early)?;
        Ok(epoch)
    }

    /// The journal of a recovered shard, ready to write, the state of its snapshots, and the work of its
    /// keeper, to be given a thread. `notify` asks the shard's core for a turn.
    pub(crate) fn journal(
        &self,
        index: ShardIndex,
        recovered: Option<&Recovered>,
        epoch: u32,
        config: &Config,
        notify: Arc<dyn Fn() + Send + Sync>,
    ) -> Result<(Journal, Snapshotting, Option<Worker>), OpenError> {
        let (Some(disk), Some(recovered)) = (&self.inner.disk, recovered) else {
            return Ok((Journal::in_memory(), Snapshotting::none(), None));
        };
        let shard = usize::from(index.0);
        let keeping = KeeperConfig {
            segment_bytes: config.segment_bytes,
            retain_bytes: config.retain_bytes,
            sync: match config.durability {
                Durability::Always => SyncMode::EachWrite,
                Durability::Interval(_) | Durability::None => SyncMode::Later,
            },
        };
        let (writer, keeper, work) = open_for_writing(&disk.logs[shard], recovered, epoch, keeping, notify)?;
        let (end, watch) = (Arc::clone(&disk.ends[shard]), Stopwatch::start(&config.clock));
        let journal = Journal::on_disk(writer, keeper, config.durability, end, watch);
        Ok((journal, Snapshotting::new(config.snapshot_log_bytes, recovered), Some(work)))
    }

    /// Records where the logs ended, once every core has stopped, and gives the directory free.
    pub(crate) fn close(&self) {
        let Some(disk) = &self.inner.disk else { return };
        let ends: Vec<u64> = disk.ends.iter().map(|end| end.load(Ordering::Acquire)).collect();
        let mut dir = disk.dir.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = dir.record_tails(&ends).and_then(|()| dir.note_unsynced(false)) {
            // Nothing is lost: the next start finds the ends by reading.
            tracing::warn!(%error, "the clean end of the log could not be noted");
        }
    }
}

/// What the log layer cannot know of a manifest: how many shards there may be, and which generations are whose (S1).
fn check_shards(dir: &Path, manifest: &Manifest) -> Result<(), LogError> {
    let invalid = |reason| LogError::Manifest { path: dir.join(MANIFEST_FILE), reason };
    let count = manifest.shards.len();
    let shard_count = u16::try_from(count).ok().filter(|count| *count <= SHARD_COUNT_MAX);
    let shard_count = shard_count.ok_or_else(|| invalid(format!("{count} shards")))?;
    for (index, shard) in (0..).map(ShardIndex).zip(&manifest.shards) {
        let range = generation_range(index, shard_count);
        if !range.contains(&shard.generation_base) {
            let base = shard.generation_base;
            return Err(invalid(format!("shard {index} has the generation base {base}, outside {range:?}")));
        }
    }
    Ok(())
}

/// Nothing remembers which IDs an engine in memory gave out before it was started again, so each
/// start counts from another place: an old holder's ID must not hit somebody else's lease.
fn random_generation_base(random: u64, index: ShardIndex, shard_count: u16) -> u64 {
    let range = generation_range(index, shard_count);
    // The first half, so that at least as many generations follow.
    range.start + random % ((range.end - range.start) / 2)
}

/// Rebuilds a shard from its log.
fn recover_shard(log: &ShardLog, config: ShardConfig, memory: &Memory) -> Result<RecoveredShard, OpenError> {
    let mut rebuild = Rebuild { shard: Shard::new(config.clone()), config, memory };
    let found = recover(log, &mut rebuild)?;
    let shard = rebuild.shard;
    let time = shard.clock().max(found.time);
    Ok(RecoveredShard { shard, time, found: Some(found) })
}

/// A shard as the log layer feeds it.
struct Rebuild<'a> {
    shard: Shard,
    config: ShardConfig,
    memory: &'a Memory,
}

impl Replay for Rebuild<'_> {
    fn restart(&mut self) {
        self.shard = Shard::new(self.config.clone());
    }

    fn image(&mut self, chunk: &[u8]) -> Result<(), String> {
        self.memory.mind(&mut self.shard);
        self.shard
            .load_image(chunk)
            .map_err(|error| format!("{} at byte {} of a chunk", error.reason, error.offset))
    }

    fn batch(&mut self, first: Position, time: Time, records: &[u8]) -> Result<(), String> {
        self.memory.mind(&mut self.shard);
        self.shard
            .replay(first, time, records)
            .map_err(|error| format!("{} at position {}", error.reason, first.0 + error.offset as u64))
    }
}

/// What a shard is told of the engine's settings; seed and generation base are the store's.
fn shard_config(index: ShardIndex, shard_count: u16, config: &Config) -> ShardConfig {
    let ms = |duration: std::time::Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    ShardConfig {
        ttl_ms_min: ms(config.ttl_min),
        ttl_ms_max: ms(config.ttl_max),
        lease_count_max: config.lease_count_max,
        checkpoint_interval_ms: config.checkpoint_interval.map(ms),
        renewals: config.renewals,
        role: config.role,
        ..ShardConfig::new(index, shard_count)
    }
}
