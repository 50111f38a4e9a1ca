//! One shard of the Tenure lease engine as a pure state machine.
//!
//! A [`Shard`] holds leases, their timing wheel and their items. It is told the time, writes records into a
//! [`RecordBuffer`] that the caller owns, and answers with what happened and the log position that has to be durable
//! before it may be told. It knows no clock, no file, no socket, no thread, no async: the same inputs give the same
//! outputs and the same log bytes (S5), so that a simulator can drive it and a crash can be replayed.
//!
//! ```
//! use tenure_core::*;
//!
//! let mut shard = Shard::new(ShardConfig::new(ShardIndex(0), 1));
//! let mut log = RecordBuffer::new(Position(64), Time(0));
//! let answer = shard.grant(Time(0), &Grant { id: None, ttl_ms: 100, key: None }, &mut log);
//! let granted = answer.result.unwrap();
//! assert_eq!(answer.after, log.tail(), "tell the client once the log is durable up to here");
//!
//! // The shell writes log.bytes() to disk, then says so.
//! shard.durable(log.tail());
//! let renewed = shard.renew(Time(60), granted.id, &mut log);
//! assert_eq!(renewed.after, Position::ZERO, "nothing to wait for");
//!
//! // 60 + 100 rounded up: not a millisecond early.
//! assert_eq!(shard.expire(Time(160), 1000, &mut log).ended, 0);
//! assert_eq!(shard.expire(Time(161), 1000, &mut log).ended, 1);
//! ```

//!
//! # Where things are
//!
//! | file | what | invariants, and what checks them |
//! | --- | --- | --- |
//! | `shard.rs`, `shard/` | the verbs, by what they do | all: tests/model (random histories against an ordered map) |
//! | `table.rs`, `slab.rs`, `index.rs`, `id_rule.rs` | id → slot → 16-byte entry | S1, S8, no id twice: tests/edges, tests/reshard |
//! | `wheel.rs`, `wheel/` | when: hierarchical wheel of chunked references | S7, L1: wheel/tests, tests/edges |
//! | `ledger.rs` | what an answer has to wait for | S3: tests/edges, tests/model |
//! | `items.rs`, `grant_memory.rs` | items; identified grants | S9: tests/edges; S4: tests/model |
//! | `record.rs`, `record/`, `image.rs` | bytes of log records and snapshots | S4: tests/format (vectors, every bit flip), tests/fuzzy |
//! | `region.rs` | memory that never moves | the only unsafe code, with its safe twin |
//! | `limits.rs` | every bound | S8 |

pub mod limits;

mod config;
mod entry;
mod grant_memory;
mod id;
mod id_rule;
mod image;
mod index;
mod items;
mod ledger;
mod outcome;
mod record;
mod refusal;
mod region;
mod seeded_hash;
mod shard;
mod slab;
mod table;
mod time;
mod wheel;

pub use config::{Renewals, Role, ShardConfig};
pub use id::{GrantKey, LeaseId, ShardIndex};
pub use id_rule::{generation_base_after, generation_range, mix, shard_of, unmix};
pub use image::ImageError;
pub use outcome::*;
pub use record::{
    Cause, DeadlineEntries, END_ENTRY_BYTES, ENTRIES_OFFSET, EndEntries, EndRange, ItemEntries, Record,
    RecordBuffer, RecordError, RecordIter, end_position,
};
pub use refusal::{Answer, Refusal};
pub use region::MemoryAhead;
pub use shard::{ImageCursor, ReplayError, Shard};
pub use time::{Position, Time, Token};
