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
//! let _ = (&mut shard, &mut log);
//! ```

pub mod limits;

mod config;
mod id;
mod id_rule;
mod outcome;
mod record;
mod refusal;
mod shard;
mod time;

pub use config::{Renewals, Role, ShardConfig};
pub use id::{GrantKey, LeaseId, ShardIndex};
pub use id_rule::{generation_range, mix, shard_of, unmix};
pub use outcome::*;
pub use record::{
    Cause, DeadlineEntries, END_ENTRY_BYTES, ENTRIES_OFFSET, EndEntries, EndRange, ItemEntries, Record,
    RecordBuffer, RecordError, RecordIter, end_position,
};
pub use refusal::{Answer, Refusal};
pub use shard::{ImageCursor, ImageError, ReplayError, Shard};
pub use time::{Position, Time, Token};
