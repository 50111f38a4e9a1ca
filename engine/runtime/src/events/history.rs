//! The older part of an event stream, read from the log files.

use tenure_core::Position;

use super::{EventBlock, EventHub};
use crate::error::EventsError;
use crate::log::ShardLog;

/// What a read of the log files gave.
#[derive(Debug)]
pub struct History {
    /// Blocks, oldest first.
    pub blocks: Vec<EventBlock>,
    /// Where to go on.
    pub next: Position,
}

/// Where a shard's log files are.
#[derive(Clone, Debug)]
pub struct HistorySource {
    log: ShardLog,
}

impl HistorySource {
    pub(crate) fn new(log: ShardLog) -> Self {
        HistorySource { log }
    }
}

pub(super) fn read(
    hub: &EventHub,
    _source: Option<&HistorySource>,
    from: Position,
    _bytes_max: usize,
) -> Result<History, EventsError> {
    Err(EventsError::TooOld { asked: from.0, oldest: hub.oldest().0 })
}
