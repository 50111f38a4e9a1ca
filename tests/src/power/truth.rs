//! What was really written, and what was promised of it.
//!
//! The truth of a log is the list of batches that its writer handed out, in order: a recovery may keep any
//! whole-batch prefix of it that has at least what was promised. What state a prefix means is found by feeding
//! a fresh shard these batches, from the first one, without the log's files, snapshots or recovery.
//!
//! Batches are read at the offsets that `docs/log-format.md` gives, not by the engine's decoder.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use tenure_core::{Position, Shard, ShardConfig, Time};

use super::medium::{FileIndex, Medium};

/// Bytes of a batch header.
pub const HEADER_BYTES: u64 = 64;

/// A batch that was handed to the disk.
#[derive(Debug)]
pub struct Batch {
    /// Place of its header in the log.
    pub position: u64,
    /// Its end, padded.
    pub end: u64,
    time: Time,
    records: Vec<u8>,
    file: FileIndex,
    offset: usize,
    padded_bytes: usize,
    landed: bool,
}

impl Batch {
    /// Reads the bytes of a log write.
    #[must_use]
    pub fn read(bytes: &[u8], file: FileIndex, offset: u64) -> Batch {
        let u64_at = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
        let length = u32::from_le_bytes(bytes[4..8].try_into().expect("four bytes")) as usize;
        let position = u64_at(8);
        Batch {
            position,
            end: position + bytes.len() as u64,
            time: Time(u64_at(32)),
            records: bytes[HEADER_BYTES as usize..length].to_vec(),
            file,
            offset: usize::try_from(offset).expect("within a small file"),
            padded_bytes: bytes.len(),
            landed: false,
        }
    }

    fn first(&self) -> Position {
        Position(self.position + HEADER_BYTES)
    }
}

/// The truth about one shard's log.
#[derive(Debug)]
pub struct ShardTruth {
    config: ShardConfig,
    /// The image that it began with: none, but after a re-sharding.
    base: Vec<Vec<u8>>,
    start: u64,
    batches: Vec<Batch>,
    /// So many of them are durable, with all before them.
    durable: usize,
    /// Dumps by batches and by the time at which recovery ended.
    dumps: RefCell<HashMap<(usize, u64), Arc<String>>>,
}

impl ShardTruth {
    /// A log without a batch.
    #[must_use]
    pub fn new(config: ShardConfig, base: Vec<Vec<u8>>, start: u64) -> ShardTruth {
        ShardTruth { config, base, start, batches: Vec::new(), durable: 0, dumps: RefCell::default() }
    }

    /// A batch is on its way to the disk.
    pub fn launched(&mut self, batch: Batch) {
        let end = self.batches.last().map_or(self.start, |last| last.end);
        assert!(batch.position >= end, "S5: batches are handed out in order");
        self.batches.push(batch);
    }

    /// The batch at this position has completed.
    pub fn landed(&mut self, position: u64) {
        let batch = self.batches.iter_mut().rfind(|batch| batch.position == position);
        batch.expect("it was launched").landed = true;
    }

    /// The process or the power is gone: what is not durable by now is promised by nobody any more.
    pub fn interrupted(&mut self) {
        self.batches[self.durable..].iter_mut().for_each(|batch| batch.landed = false);
    }

    /// Finds out how far the log is durable.
    pub fn note_durable(&mut self, medium: &Medium) -> usize {
        while let Some(batch) = self.batches.get(self.durable)
            && batch.landed
            && medium.is_durable(batch.file, batch.offset, batch.padded_bytes)
        {
            self.durable += 1;
        }
        self.durable
    }

    /// Batches written so far.
    #[must_use]
    pub fn batch_count(&self) -> usize {
        self.batches.len()
    }

    /// Whether the engine's claim that everything below `position` is on disk is true.
    #[must_use]
    pub fn vouches_for(&self, position: Position) -> bool {
        self.batches[self.durable..].iter().all(|batch| batch.first() >= position)
    }

    /// How many batches a log holds that recovery found to end at `tail`.
    ///
    /// # Errors
    /// It ends where no batch ends.
    pub fn batches_at(&self, tail: u64) -> Result<usize, String> {
        let count = self.batches.iter().take_while(|batch| batch.end <= tail).count();
        match self.batches.get(count) {
            Some(next) if next.position < tail => {
                Err(format!("the log ends at {tail}, within the batch at {}", next.position))
            }
            _ if tail < self.start => Err(format!("the log ends at {tail}, before its start")),
            _ => Ok(count),
        }
    }

    /// A recovery kept so many batches; the rest is history that never was.
    pub fn cut(&mut self, count: usize) {
        self.batches.truncate(count);
        self.durable = count;
        self.dumps.borrow_mut().retain(|(batches, _), _| *batches <= count);
    }

    /// The largest engine time that so many batches carry in their headers.
    #[must_use]
    pub fn time(&self, count: usize) -> Time {
        self.batches[..count].iter().map(|batch| batch.time).max().unwrap_or(Time(0))
    }

    /// Where the log began.
    #[must_use]
    pub fn start(&self) -> u64 {
        self.start
    }

    /// The canonical dump of a shard that was fed the first `count` batches and resumed at `now`.
    ///
    /// # Panics
    /// The records do not replay, although the engine wrote them.
    #[must_use]
    pub fn dump(&self, count: usize, now: Time) -> Arc<String> {
        let mut dumps = self.dumps.borrow_mut();
        let dump = dumps.entry((count, now.0)).or_insert_with(|| {
            let mut shard = Shard::new(self.config.clone());
            for chunk in &self.base {
                shard.load_image(chunk).expect("S4 replay-equal: the image loads");
            }
            for batch in &self.batches[..count] {
                shard
                    .replay(batch.first(), batch.time, &batch.records)
                    .expect("S4 replay-equal: records replay");
            }
            shard.recovered(now.max(shard.clock()));
            let mut dump = String::new();
            shard.dump(&mut dump);
            Arc::new(dump)
        });
        Arc::clone(dump)
    }
}

/// The chunks of a snapshot file whose contents are known to be sound.
#[must_use]
pub fn snapshot_chunks(file: &[u8]) -> Vec<Vec<u8>> {
    let u32_at = |at: usize| u32::from_le_bytes(file[at..at + 4].try_into().expect("four bytes"));
    let (mut chunks, mut at) = (Vec::new(), HEADER_BYTES as usize);
    while u32_at(at) != u32::MAX {
        let length = u32_at(at) as usize;
        chunks.push(file[at + 16..at + 16 + length].to_vec());
        at += 16 + length;
    }
    chunks
}

/// A lease as a dump names it: ID and token.
pub type Name = (String, String);

/// What clients were told and what is therefore certain.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// Leases that were granted for long, and that nobody has asked to end.
    pub alive: BTreeSet<Name>,
    /// Leases whose end was told.
    pub dead: BTreeSet<Name>,
    /// Items told to be attached, and that nobody has asked to detach.
    pub attached: BTreeSet<(Name, String)>,
}

/// What a power loss must leave.
#[derive(Clone, Debug, Default)]
pub struct Promises {
    /// The layout in force; none before the first opening is done.
    pub log_id: Option<u64>,
    /// Batches of each of its shards.
    pub durable: Vec<usize>,
    /// What was told.
    pub facts: Arc<Facts>,
}

/// All layouts that there were, by log id.
pub type Truth = BTreeMap<u64, Vec<ShardTruth>>;

/// The lines of a dump that move with their leases when shards change: leases, items, identified grants.
/// Without deadlines, which depend on when recovery ended.
#[must_use]
pub fn movable(dump: &str) -> BTreeSet<String> {
    let lines = dump.lines().filter(|line| !line.starts_with("shard "));
    let without_deadline = |line: &str| match line.split_once(" until ") {
        Some((before, after)) => {
            let rest = after.split_once(' ').map(|(_, rest)| format!(" {rest}")).unwrap_or_default();
            format!("{before}{rest}")
        }
        None => line.to_owned(),
    };
    lines.map(without_deadline).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_is_cut_out_of_a_line_and_nothing_else() {
        let dump = "shard 0/1 primary time 9\nlease 0a token 80 ttl 5ms until 77ms \"x until y\"\nlease 0b token 96 ttl 5ms\n";
        let lines: Vec<String> = movable(dump).into_iter().collect();
        assert_eq!(lines, ["lease 0a token 80 ttl 5ms \"x until y\"", "lease 0b token 96 ttl 5ms"]);
    }
}
