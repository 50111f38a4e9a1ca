//! Recovery of one shard: the newest whole snapshot, then the log behind it, streamed into whoever
//! rebuilds the state.
//!
//! What was acknowledged is replayed in full or recovery refuses, naming file and offset (S3, S4). What
//! was in flight when the process died may or may not be there; a whole-batch prefix of it is kept, the
//! rest cut off and reported. Nothing on disk is changed.
//!
//! Memory stays bounded: one read window, one batch. It does not know what records mean.

use std::fmt;
use std::path::PathBuf;

use tenure_core::{Position, Time};

use super::batch::{BatchFlaw, BatchHeader, BatchOwner, PREVIOUS_NONE};
use super::chain::{Beyond, Chain, ChainEnd};
use super::directory::ShardLog;
use super::disk::{Access, DiskPort};
use super::error::{Damage, LogError};
use super::limits::HEADER_BYTES;
use super::segment::SegmentEntry;
use super::snapshot::{SnapshotFlaw, SnapshotReader, list_snapshots, snapshot_path};
use super::writer::Tail;

/// Who rebuilds the state. Errors are texts that say what is wrong, with the position.
pub trait Replay {
    /// A snapshot turned out to be damaged after part of it was loaded: forget everything.
    fn restart(&mut self);

    /// The next chunk of the snapshot's image.
    ///
    /// # Errors
    /// The chunk makes no sense; the snapshot counts as damaged.
    fn image(&mut self, chunk: &[u8]) -> Result<(), String>;

    /// The next records of the log. `time` is the engine time before the first of them.
    ///
    /// # Errors
    /// The records make no sense; recovery stops.
    fn batch(&mut self, first: Position, time: Time, records: &[u8]) -> Result<(), String>;
}

/// What recovery found.
#[derive(Clone, Debug)]
pub struct Recovered {
    /// Where the log goes on.
    pub tail: Tail,
    /// Engine time of the last batch header (or of the snapshot); records may carry it further.
    pub time: Time,
    /// Start position of the snapshot that was loaded.
    pub snapshot: Option<u64>,
    /// Bytes of image chunks and of batches read.
    pub bytes: u64,
    /// Batches replayed.
    pub batches: u64,
    /// What was cut off, if anything.
    pub torn: Option<Torn>,
    /// Segments on disk, oldest first.
    pub(super) segments: Vec<SegmentEntry>,
}

/// Writes that were in flight when the process died. Nobody was told that they had happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Torn {
    /// The segment.
    pub path: PathBuf,
    /// Byte offset of the first batch cut off.
    pub offset: u64,
    /// What is there.
    pub reason: String,
    /// Whole batches behind it that were dropped with it.
    pub batches_dropped: u64,
}

impl fmt::Display for Torn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at byte {}: {}", self.path.display(), self.offset, self.reason)?;
        match self.batches_dropped {
            0 => Ok(()),
            dropped => write!(f, ", {dropped} whole batches behind it"),
        }
    }
}

impl Recovered {
    /// First position of the oldest segment still there: how far back events can be resumed.
    #[must_use]
    pub fn oldest(&self) -> Position {
        let base = self.segments.first().map_or(self.tail.place, |segment| segment.base);
        Position(base + HEADER_BYTES as u64)
    }
}

/// Recovers one shard.
///
/// # Errors
/// Damage before the tail, a missing file, another format version, an unreadable file, or records
/// that `replay` refuses. Everything on disk is as it was.
pub fn recover(log: &ShardLog, replay: &mut impl Replay) -> Result<Recovered, LogError> {
    let loaded = load_snapshot(log, replay)?;
    let mut chain = match &loaded {
        Some(loaded) => Chain::from_position(log, loaded.start, loaded.epoch)?,
        None => Chain::from_start(log)?,
    }
    .read_ahead();
    let start = loaded.as_ref().map_or(0, |loaded| loaded.start);
    let mut progress = Progress {
        time_ms: loaded.as_ref().map_or(0, |loaded| loaded.time_ms),
        bytes: loaded.as_ref().map_or(0, |loaded| loaded.bytes),
        batches: 0,
    };
    let end = loop {
        match chain.advance()? {
            Ok(header)
                if tenure_planted::is(tenure_planted::Bug::TailNotReplayed) && progress.batches % 4 == 3 =>
            {
                progress.batches += 1;
                let _ = header;
            }
            Ok(header) => progress.feed(&chain, &header, start, replay)?,
            Err(end) => break end,
        }
    };
    let beyond = chain.scan_beyond(&end)?;
    check_end(log, &chain, &end, &beyond, loaded.as_ref())?;
    // A process that dies leaves writes in the disk's cache: what was read must be on disk before
    // anything is built on it.
    sync_segments(&log.disk, &chain)?;
    let (place, previous) = chain.tail()?;
    Ok(Recovered {
        tail: Tail { place, previous: previous.unwrap_or(PREVIOUS_NONE) },
        time: Time(progress.time_ms),
        snapshot: loaded.map(|loaded| loaded.start),
        bytes: progress.bytes,
        batches: progress.batches,
        torn: torn(&chain, &end, &beyond),
        segments: chain.segments().to_vec(),
    })
}

struct Progress {
    time_ms: u64,
    bytes: u64,
    batches: u64,
}

impl Progress {
    fn feed(
        &mut self,
        chain: &Chain,
        header: &BatchHeader,
        start: u64,
        replay: &mut impl Replay,
    ) -> Result<(), LogError> {
        self.bytes += u64::from(header.length);
        if header.records_end() <= start {
            return Ok(()); // in the snapshot already
        }
        // A snapshot may start in the middle of a batch: between two of its records.
        let skipped = usize::try_from(start.saturating_sub(header.first_record())).expect("within a batch");
        let time_ms = if skipped == 0 { header.time_ms } else { self.time_ms };
        let first = Position(header.first_record() + skipped as u64);
        let records = &chain.records(header)[skipped..];
        replay
            .batch(first, Time(time_ms), records)
            .map_err(|reason| LogError::Replay { path: chain.path().to_owned(), reason })?;
        self.time_ms = self.time_ms.max(header.time_ms);
        self.batches += 1;
        Ok(())
    }
}

struct Loaded {
    start: u64,
    end: u64,
    epoch: u32,
    time_ms: u64,
    bytes: u64,
    path: PathBuf,
}

/// Loads the newest whole snapshot. `None`: there is none, the log tells it all.
fn load_snapshot(log: &ShardLog, replay: &mut impl Replay) -> Result<Option<Loaded>, LogError> {
    let owner = BatchOwner { log_id: log.log_id, shard: log.shard };
    let mut damaged: Option<(PathBuf, u64, String)> = None;
    for (start, path) in list_snapshots(&log.disk, &log.dir)? {
        match load_one(&log.disk, &path, owner, start, replay) {
            Ok(loaded) => {
                let usable = damaged.is_none() || Chain::from_position(log, start, loaded.epoch).is_ok();
                if usable {
                    return Ok(Some(loaded));
                }
            }
            Err(SnapshotFlaw::Fatal(error)) => return Err(error),
            Err(SnapshotFlaw::Invalid(reason)) => {
                tracing::warn!(path = %path.display(), reason, "snapshot is damaged; falling back to the one before");
                damaged.get_or_insert((path, start, reason));
            }
        }
        replay.restart();
    }
    // A log that does not start at 0 was made by re-sharding: what its shard had then is in a snapshot alone.
    let is_whole = log.start == 0;
    let missing =
        || (snapshot_path(&log.dir, log.start + HEADER_BYTES as u64), log.start, "it is missing".to_owned());
    let Some((path, position, reason)) = damaged.or_else(|| (!is_whole).then(missing)) else {
        return Ok(None);
    };
    // Without any snapshot the whole log must be there.
    match Chain::from_start(log) {
        Ok(chain) if is_whole && !chain.segments().is_empty() => Ok(None),
        _ => Err(Damage {
            path,
            offset: 0,
            position,
            reason: format!("snapshot: {reason}, and the log that it replaced is gone"),
            shard: log.shard,
            can_truncate: false,
        }
        .into()),
    }
}

fn load_one(
    disk: &DiskPort,
    path: &std::path::Path,
    owner: BatchOwner,
    start: u64,
    replay: &mut impl Replay,
) -> Result<Loaded, SnapshotFlaw> {
    let mut reader = SnapshotReader::open(disk, path, owner, start)?;
    while let Some(chunk) = reader.next_chunk()? {
        replay.image(chunk).map_err(SnapshotFlaw::Invalid)?;
    }
    let foot = reader.foot().expect("a footer ends the chunks");
    let (epoch, time_ms) = (reader.head.epoch, reader.head.time_ms);
    Ok(Loaded { start, end: foot.end, epoch, time_ms, bytes: foot.bytes, path: path.to_owned() })
}

/// Tells a torn tail from damage (S3).
fn check_end(
    log: &ShardLog,
    chain: &Chain,
    end: &ChainEnd,
    beyond: &Beyond,
    loaded: Option<&Loaded>,
) -> Result<(), LogError> {
    if let Some(witness) = beyond.witness {
        let reason = format!(
            "{}, although it had been acknowledged before the batch at position {} was written",
            end.flaw, witness.position
        );
        return Err(chain.damage(end.place, reason, true).into());
    }
    if end.place < log.floor {
        let reason =
            format!("{}, although the manifest knows the log to reach position {}", end.flaw, log.floor);
        return Err(chain.damage(end.place, reason, true).into());
    }
    // Positions below the open batch's first record are covered; it may be the next segment's.
    let segment_end = chain.segments().iter().map(SegmentEntry::end).find(|&at| at >= end.place);
    let reaches = |position: u64| {
        position <= end.place + HEADER_BYTES as u64
            || segment_end.is_some_and(|at| position == at + HEADER_BYTES as u64)
    };
    if let Some(loaded) = loaded.filter(|loaded| !reaches(loaded.end)) {
        let reason = format!(
            "{}, although {} needs the log up to position {}",
            end.flaw,
            loaded.path.display(),
            loaded.end
        );
        return Err(chain.damage(end.place, reason, true).into());
    }
    Ok(())
}

fn torn(chain: &Chain, end: &ChainEnd, beyond: &Beyond) -> Option<Torn> {
    // In a recycled segment the log ends in front of an older log's bytes, whatever they look like.
    let broken = matches!(end.flaw, BatchFlaw::Checksum | BatchFlaw::OtherPrevious(_));
    if !broken && beyond.batches == 0 {
        return None;
    }
    let at = chain.damage(end.place, String::new(), false);
    Some(Torn {
        path: at.path,
        offset: at.offset,
        reason: end.flaw.to_string(),
        batches_dropped: beyond.batches,
    })
}

fn sync_segments(disk: &DiskPort, chain: &Chain) -> Result<(), LogError> {
    for segment in chain.segments() {
        let file = disk.open(&segment.path, Access::Read).map_err(LogError::io("open", &segment.path))?;
        file.sync_data().map_err(LogError::io("sync", &segment.path))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
