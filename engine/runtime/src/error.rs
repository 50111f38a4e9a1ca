//! Faults (the world's doing) and the errors a caller of the engine can meet.
//!
//! Refusals are answers, not errors of the engine: they pass through as [`Error::Refused`].
//! A failed log write is neither: it ends the process, because nothing truthful can be said after.

use std::path::PathBuf;

use tenure_core::Refusal;

/// Why an engine did not open. Each text says what to do.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A setting cannot work.
    #[error("invalid setting: {0}")]
    Config(String),
    /// Log, snapshot, manifest or lock refused.
    #[error(transparent)]
    Log(#[from] crate::log::LogError),
    /// The records of a shard do not replay.
    #[error(
        "shard {shard}: {reason} (position {position}); `tenure verify` shows the damage, `tenure repair` is explicit about what it drops"
    )]
    Replay {
        /// Which shard.
        shard: u16,
        /// Where its log stopped making sense.
        position: u64,
        /// What is wrong there.
        reason: String,
    },
    /// The kernel lacks what a driver needs.
    #[error("the {driver} driver cannot start: {reason}")]
    Driver {
        /// `ring` or `glommio`.
        driver: &'static str,
        /// What is missing and what to do.
        reason: String,
    },
    /// A thread or file of the engine could not be created.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// What the system answered.
        source: std::io::Error,
    },
}

/// Why a call on a [`Handle`](crate::Handle) gave no result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The lease's shard refused; the refusal says why.
    #[error("refused: {0}")]
    Refused(Refusal),
    /// The disk is full. Reads, renewals and expiry events already durable go on.
    #[error("the disk of the log is full; free space and the engine resumes by itself")]
    StorageFull,
    /// The engine is stopping or has stopped. The outcome of a write is unknown only when it was
    /// already in flight.
    #[error("the engine has stopped")]
    Stopped,
    /// A batch or page above its limit; nothing was done.
    #[error("batch of {count} is over the limit of {count_max}; nothing was applied")]
    BatchTooLarge {
        /// Entries asked for.
        count: usize,
        /// Entries allowed.
        count_max: usize,
    },
}

/// What a shard cannot do right now, for a reason outside the lease contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unavailable {
    /// No space for the log.
    StorageFull,
    /// The engine is stopping.
    Stopping,
}

impl From<Unavailable> for Error {
    fn from(reason: Unavailable) -> Self {
        match reason {
            Unavailable::StorageFull => Error::StorageFull,
            Unavailable::Stopping => Error::Stopped,
        }
    }
}

/// Why reading events failed.
#[derive(Debug, thiserror::Error)]
pub enum EventsError {
    /// The log no longer reaches back that far. List the leases and go on from `oldest`.
    #[error(
        "position {asked} is older than the kept log, which begins at {oldest}: list the leases and resume from there"
    )]
    TooOld {
        /// Position asked for.
        asked: u64,
        /// First position still kept.
        oldest: u64,
    },
    /// No such shard.
    #[error("shard {shard} does not exist: the engine has {shard_count}")]
    NoSuchShard {
        /// Shard asked for.
        shard: u16,
        /// Shards there are.
        shard_count: u16,
    },
    /// Past events are damaged on disk. List the leases and go on from `oldest`.
    #[error("reading the log of shard {shard} in {dir}: {reason}: list the leases and resume from {oldest}")]
    Damaged {
        /// Which shard.
        shard: u16,
        /// Data directory.
        dir: PathBuf,
        /// What the reader met.
        reason: String,
        /// First position that is still in memory.
        oldest: u64,
    },
    /// The log could not be read.
    #[error("reading the log of shard {shard} in {dir}: {reason}")]
    Read {
        /// Which shard.
        shard: u16,
        /// Data directory.
        dir: PathBuf,
        /// What the reader met.
        reason: String,
    },
    /// The engine has stopped and nothing more will come.
    #[error("the engine has stopped")]
    Stopped,
}
