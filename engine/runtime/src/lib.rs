//! The embeddable Tenure lease engine.
//!
//! A lease is a promise with a deadline: *for the next TTL this is yours; renew it or lose it.* An
//! [`Engine`] holds leases in shards, one per core, each a single-threaded state machine
//! ([`tenure_core::Shard`]) with its own append-only log. A [`Handle`] asks it from any thread and
//! under any async runtime:
//!
//! ```
//! use std::time::Duration;
//! use tenure::{Config, Engine};
//!
//! let engine = Engine::open(&Config { shard_count: Some(1), ..Config::in_memory() })?;
//! let handle = engine.handle();
//! let lease = handle.grant(Duration::from_secs(10)).wait()?;
//! handle.attach(lease.id, "instance/7").wait()?;
//! assert_eq!(handle.renew(lease.id).wait()?.ttl_ms, 10_000);
//! handle.revoke(lease.id).wait()?;
//! engine.stop();
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Feature `simulation` makes public what simulators need (another disk, another clock, cores without
//! threads): for simulators, no stability promised.
//!
//! `docs/embedding.md` goes on from here; `docs/architecture.md` has the life of a renewal and of an
//! expiry, and names the invariants (S1–S9, L1–L3) that the code refers to.

pub mod config;
pub mod error;
pub mod events;
pub mod limits;
pub mod log;
pub mod request;
pub mod shell;
#[cfg(feature = "simulation")]
pub mod simulation;
pub mod station;

mod assembly;
mod clock;
mod ending;
mod engine;
mod gate;
mod grant_routes;
mod handle;
mod inbox;
mod journal;
mod memory;
mod peers;
mod recovery;
mod snapshotting;

pub use crate::clock::ManualClock;
pub use crate::config::{Clock, Config, Driver, Durability, Renewals, Role};
pub use crate::engine::{Engine, Opened, Services};
pub use crate::error::{Error, EventsError, OpenError};
pub use crate::events::{Event, From, ShardEvents};
pub use crate::handle::{GrantOptions, Handle, ListCursor, Page, Pending};
pub use crate::request::{BATCH_IDS_MAX, StationStats};
pub use tenure_core::{
    Attached, Cause, Grant, GrantKey, Granted, LeaseId, Listed, Position, Refusal, Renewed, Revoked,
    ShardIndex, ShardStats, Time, TimeToLive, Token,
};

/// Exit code of a process whose log could not be written: nothing truthful could be said after.
pub const EXIT_LOG_FAULT: i32 = 74;
