//! What an engine is opened with, its defaults, and the checks that refuse nonsense early.

use std::path::PathBuf;
use std::time::Duration;

use crate::clock::ManualClock;
use crate::error::OpenError;
use crate::limits::SHARD_COUNT_MAX;
pub use tenure_core::{Renewals, Role};

/// When a reply may leave (S3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// After the log is on disk. The default, and the only one under which a crash of the machine loses nothing.
    Always,
    /// At once; the log is synced at this interval. A crash of the *machine* may lose that much; a
    /// crash of the process loses what the kernel had not yet been handed.
    Interval(Duration),
    /// At once; syncing is left to the operating system.
    None,
}

/// Who moves the bytes of a core.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Driver {
    /// `Ring` where the kernel has it (6.1 and newer), else `Glommio`.
    #[default]
    Auto,
    /// One raw io_uring per core, owned by the core's loop.
    Ring,
    /// A glommio executor per core: the fallback for kernels 5.8 to 6.0.
    Glommio,
}

/// Which clock drives the engine.
#[derive(Clone, Debug, Default)]
pub enum Clock {
    /// The host's monotonic clock. Wall clock steps are never noticed (S6).
    #[default]
    System,
    /// A clock that only the caller moves, for tests of code that embeds the engine.
    Manual(ManualClock),
    /// A simulator's clock: it stands for the host's, so that pauses of the process are noticed.
    #[cfg(feature = "simulation")]
    Simulated(ManualClock),
}

/// Settings of an engine. `Config::default()` is an in-memory engine with a shard per CPU.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where log and snapshots live. `None`: in memory, nothing survives the process.
    pub data_dir: Option<PathBuf>,
    /// Shards, each with a core thread of its own. `None`: what the directory has, else one per CPU.
    /// Another count than the directory's re-shards on open.
    pub shard_count: Option<u16>,
    /// When replies may leave.
    pub durability: Durability,
    /// Whether renewals are logged, so that TTLs are exact across a restart.
    pub renewals: Renewals,
    /// Role at the first start of a directory; later starts take up the logged one.
    pub role: Role,
    /// Who moves the bytes.
    pub driver: Driver,
    /// Which clock drives the engine.
    pub clock: Clock,
    /// Shortest TTL granted; shorter requests are raised to it and told so.
    pub ttl_min: Duration,
    /// Longest TTL granted; longer requests are refused. At most 9,000,000,000 s.
    pub ttl_max: Duration,
    /// Live leases one shard may hold; more are refused with `LimitExceeded`.
    pub lease_count_max: u32,
    /// Leases with a longer TTL than this have their remaining time logged at this interval
    /// unless renewed meanwhile. `None` switches checkpoints off (etcd's default).
    pub checkpoint_interval: Option<Duration>,
    /// Size of a log segment, bytes; a multiple of 1 MiB.
    pub segment_bytes: u64,
    /// Log kept behind a snapshot so that consumers can resume their event streams, bytes per shard.
    pub retain_bytes: u64,
    /// Log written since the last snapshot that triggers the next one, bytes per shard.
    pub snapshot_log_bytes: u64,
    /// Recent end-of-lease events kept in memory for subscribers, bytes per shard.
    pub event_buffer_bytes: usize,
    /// Pin each core thread to a CPU.
    pub pin: bool,
    /// First CPU to pin to; shard `i` goes to `(first_cpu + i) % cpus`.
    pub first_cpu: usize,
    /// How long a core polls after traffic before it sleeps. Zero: sleep at once.
    pub spin: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            data_dir: None,
            shard_count: None,
            durability: Durability::Always,
            renewals: Renewals::Unlogged,
            role: Role::Primary,
            driver: Driver::Auto,
            clock: Clock::System,
            ttl_min: Duration::from_millis(1),
            ttl_max: Duration::from_millis(tenure_core::limits::TTL_MS_MAX),
            lease_count_max: 1 << 27,
            checkpoint_interval: Some(Duration::from_secs(60)),
            segment_bytes: 64 << 20,
            retain_bytes: 256 << 20,
            snapshot_log_bytes: 256 << 20,
            event_buffer_bytes: 32 << 20,
            pin: true,
            first_cpu: 0,
            spin: Duration::from_micros(50),
        }
    }
}

impl Config {
    /// An in-memory engine.
    #[must_use]
    pub fn in_memory() -> Self {
        Config::default()
    }

    /// A durable engine in `dir`, which is created when missing.
    #[must_use]
    pub fn durable(dir: impl Into<PathBuf>) -> Self {
        Config { data_dir: Some(dir.into()), ..Config::default() }
    }

    /// Refuses settings that cannot work, in words that fit a field, a flag and a line in a file.
    pub(crate) fn check(&self) -> Result<(), OpenError> {
        let invalid = |text: &str| Err(OpenError::Config(text.to_owned()));
        if let Some(count) = self.shard_count
            && !(1..=SHARD_COUNT_MAX).contains(&count)
        {
            return invalid("the number of shards must be from 1 to 1024");
        }
        if self.ttl_min.is_zero() || self.ttl_min > self.ttl_max {
            return invalid("the least TTL must be at least 1 ms and at most the largest");
        }
        if self.ttl_max.as_millis() > u128::from(tenure_core::limits::TTL_MS_MAX) {
            return invalid("the largest TTL must be at most 9,000,000,000 s");
        }
        if self.segment_bytes < 4 << 20 || !self.segment_bytes.is_multiple_of(1 << 20) {
            return invalid("the segment size must be a multiple of 1 MiB and at least 4 MiB");
        }
        if self.checkpoint_interval.is_some_and(|interval| interval < Duration::from_secs(1)) {
            return invalid("the checkpoint interval must be at least 1 s");
        }
        if matches!(self.durability, Durability::Interval(interval) if interval < Duration::from_millis(1)) {
            return invalid("the sync interval of durability must be at least 1 ms");
        }
        Ok(())
    }
}
