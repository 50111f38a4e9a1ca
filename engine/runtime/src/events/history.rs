//! The older part of an event stream, read from the log files.
//!
//! The same blocks as the hub's: end records with the engine time at which they were made. A read
//! gives a bounded part; the consumer goes on at `next` until the hub's memory takes over.

use tenure_core::{Position, Record, RecordIter, Time};

use super::{EventBlock, EventHub};
use crate::error::EventsError;
use crate::log::{EventReader, HistoryBatch, HistoryError, LogError, ShardLog};

/// What a read of the log files gave.
#[derive(Debug)]
pub struct History {
    /// Blocks, oldest first; the first may begin before the position asked for.
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

/// Reads from `from` on until about `bytes_max` bytes of end records, or all that is on file, are read.
pub(super) fn read(
    hub: &EventHub,
    source: Option<&HistorySource>,
    from: Position,
    bytes_max: usize,
) -> Result<History, EventsError> {
    let Some(source) = source else {
        return Err(EventsError::TooOld { asked: from.0, oldest: hub.oldest().0 });
    };
    let on_file = hub.on_file();
    let failed = |error: HistoryError| match error {
        // Where little of the log is kept, memory may reach back further than the files.
        HistoryError::TooOld { oldest } => {
            EventsError::TooOld { asked: from.0, oldest: oldest.min(hub.oldest()).0 }
        }
        HistoryError::Log(LogError::Damaged(damage)) => EventsError::Damaged {
            shard: hub.shard().0,
            dir: source.log.dir.clone(),
            reason: damage.to_string(),
            oldest: hub.oldest().0,
        },
        HistoryError::Log(error) => {
            EventsError::Read { shard: hub.shard().0, dir: source.log.dir.clone(), reason: error.to_string() }
        }
    };
    if from >= on_file {
        // Told before it was written (weaker durabilities): it will be on file soon.
        return Ok(History { blocks: Vec::new(), next: from });
    }
    let mut reader = EventReader::open(&source.log, from, on_file).map_err(failed)?;
    let mut history = History { blocks: Vec::new(), next: on_file.max(from) };
    let mut bytes = 0;
    while let Some(batch) = reader.next(on_file).map_err(failed)? {
        bytes += take_ends(&batch, &mut history.blocks).map_err(|reason| EventsError::Read {
            shard: hub.shard().0,
            dir: source.log.dir.clone(),
            reason,
        })?;
        if bytes >= bytes_max {
            history.next = Position(batch.first.0 + batch.records.len() as u64);
            break;
        }
    }
    Ok(history)
}

/// Copies the end records out of a batch. Returns their size.
fn take_ends(batch: &HistoryBatch<'_>, blocks: &mut Vec<EventBlock>) -> Result<usize, String> {
    let mut records = RecordIter::new(batch.first, batch.records);
    let mut time: Time = batch.time;
    let mut taken = 0;
    loop {
        let start = records.offset();
        let Some(decoded) = records.next() else { return Ok(taken) };
        match decoded.map_err(|error| error.to_string())? {
            (_, Record::Clock { time: now }) => time = now,
            (first, Record::Ended { .. } | Record::EndedItems { .. }) => {
                let bytes = &batch.records[start..records.offset()];
                taken += bytes.len();
                let end = Position(first.0 + bytes.len() as u64);
                blocks.push(EventBlock { first, end, time, bytes: bytes.into() });
            }
            _ => {}
        }
    }
}
