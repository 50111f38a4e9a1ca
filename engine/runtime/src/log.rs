//! The log: what makes a lease survive the process.
//!
//! Per shard an append-only sequence of *batches* in fixed-size segment files, snapshots that bound
//! how much of it must be replayed, and one manifest per data directory. `docs/log-format.md` is
//! the normative description of every byte; its tests hold the code to it.
//!
//! The intuition: a [`LogWriter`] turns record bytes into writes but performs none, so that any
//! driver (io_uring, glommio, a test) can carry them out; a [`ShardKeeper`] thread does everything that
//! may block (new segments, snapshot files, syncs); [`recover()`] replays what is there and tells an
//! interrupted write (cut off) from damage (refused). A [`DataDir`] holds lock, manifest and shards
//! together.
//!
//! Invariants: **S3** a position is reported durable only when every byte before it is; **S4** what
//! recovery replays is exactly the acknowledged log, plus possibly a whole-batch prefix of what was
//! in flight; **S8** batches, buffers and queues are bounded by [`limits`].
//!
//! **Boundary:** record bytes are opaque here. Only [`inspect()`], [`verify()`] and [`repair()`] look into them, through the
//! decoder of `tenure_core`.

pub mod limits;

mod aligned;
mod batch;
mod chain;
mod depot;
mod directory;
#[cfg(not(feature = "simulation"))]
pub(crate) mod disk;
#[cfg(feature = "simulation")]
pub mod disk;
mod error;
mod history;
mod inspect;
mod keeper;
mod lock;
mod manifest;
mod recover;
mod repair;
#[cfg(test)]
mod rig;
mod segment;
mod snapshot;
#[cfg(test)]
mod vectors;
mod verify;
mod window;
mod writer;

pub use batch::{BatchFlaw, BatchHeader};
pub use depot::{Depot, SegmentSource};
pub use directory::{DataDir, ShardLog};
pub use error::{Damage, LogError, LogFault};
pub use history::{EventReader, HistoryBatch, HistoryError};
pub use inspect::{InspectOptions, inspect};
pub use keeper::{KeeperConfig, KeeperEvent, ShardKeeper, Worker, open_for_writing};
pub use lock::DirLock;
pub use manifest::{MANIFEST_FILE, Manifest, ShardManifest};
pub use recover::{Recovered, Replay, Torn, recover};
pub use repair::{RepairReport, plan_repair, repair};
pub use segment::{SegmentFile, SyncMode};
pub use snapshot::{FinishedSnapshot, SnapshotFoot, SnapshotHead, SnapshotWriter};
pub use verify::{RecordCounts, ShardReport, VerifyReport, verify};
pub use writer::{LogWrite, LogWriter, SyncRequest, Tail, WriterConfig};
