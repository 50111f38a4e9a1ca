//! Cuts a damaged log off at a place that a person has chosen, and says what is given up.
//!
//! The one tool that loses data, so it does nothing by itself: the place must be named (the refusal
//! to start names it), everything before it must be whole, and what is cut off is counted, kept
//! beside as `*.dropped`, and only then removed. Interrupted anywhere it can be run again.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use tenure_core::{Position, RecordIter};

use super::aligned::AlignedBuffer;
use super::chain::Chain;
use super::directory::ShardLog;
use super::disk::open_direct;
use super::error::LogError;
use super::limits::{BLOCK_BYTES, HEADER_BYTES};
use super::lock::DirLock;
use super::segment::SegmentEntry;
use super::snapshot::{SnapshotFlaw, list_snapshots};
use super::verify::{RecordCounts, read_manifest, read_snapshot};

const ZERO_BYTES: usize = 1 << 20;

/// What [`repair`] cut off, or would.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RepairReport {
    /// Which shard.
    pub shard: u16,
    /// Where the log now ends.
    pub truncate_at: u64,
    /// Whole batches given up.
    pub batches: u64,
    /// Their records.
    pub records: RecordCounts,
    /// Snapshots given up, because they need the log that was cut off.
    pub snapshots: Vec<PathBuf>,
    /// Copies of everything that was changed.
    pub kept: Vec<PathBuf>,
}

/// What would be cut off: [`repair`] without the cutting.
///
/// # Errors
/// As [`repair`].
pub fn plan_repair(dir: &Path, shard: u16, truncate_at: u64) -> Result<RepairReport, LogError> {
    let _lock = DirLock::shared(dir)?;
    plan(&shard_log(dir, shard)?, truncate_at).map(|plan| plan.report)
}

/// Cuts the log of `shard` off at `truncate_at`.
///
/// # Errors
/// The directory is in use, `truncate_at` is not where a batch may begin, the log before it is not
/// whole, nothing would be left to start from, or a file could not be changed.
pub fn repair(dir: &Path, shard: u16, truncate_at: u64) -> Result<RepairReport, LogError> {
    let _lock = DirLock::exclusive(dir)?;
    let log = shard_log(dir, shard)?;
    let Plan { mut report, segments } = plan(&log, truncate_at)?;
    let truncate_at = report.truncate_at;
    for path in &report.snapshots {
        report.kept.push(set_aside(path)?);
    }
    // From the end backwards: interrupted, what is left is still refused at the same place.
    for segment in segments.iter().rev() {
        if segment.base >= truncate_at {
            report.kept.push(set_aside(&segment.path)?);
        } else {
            report.kept.push(copy_aside(&segment.path)?);
            log.disk.sync_dir(&log.dir).map_err(LogError::io("sync", &log.dir))?;
            zero_from(segment, truncate_at)?;
        }
    }
    log.disk.sync_dir(&log.dir).map_err(LogError::io("sync", &log.dir))?;
    let mut manifest = read_manifest(dir)?;
    let listed = &mut manifest.shards[usize::from(shard)];
    listed.tail = listed.tail.min(truncate_at);
    manifest.write(dir)?;
    Ok(report)
}

/// Start and epoch of a snapshot; none means the first batch of the log.
type Base = Option<(u64, u32)>;

struct Plan {
    report: RepairReport,
    /// Segments with anything at or behind the cut, oldest first.
    segments: Vec<SegmentEntry>,
}

fn shard_log(dir: &Path, shard: u16) -> Result<ShardLog, LogError> {
    let manifest = read_manifest(dir)?;
    let count = manifest.shards.len();
    if usize::from(shard) >= count {
        return Err(LogError::Request(format!("there is no shard {shard}: the directory has {count}")));
    }
    Ok(manifest.shard_log(dir, shard))
}

fn plan(log: &ShardLog, truncate_at: u64) -> Result<Plan, LogError> {
    let request = |text: String| Err(LogError::Request(text));
    if !truncate_at.is_multiple_of(BLOCK_BYTES as u64) || truncate_at < log.start {
        return request(format!("{truncate_at} is not a place where a batch can begin"));
    }
    let (base, snapshots) = choose_base(log, truncate_at)?;
    let mut chain = Chain::up_to(log, base, truncate_at)?;
    let end = loop {
        if let Err(end) = chain.advance()? {
            break end.place;
        }
    };
    // A segment may be left before its end: then its end is as good a name for the same place.
    let mut between = 0;
    chain.each_sound_from(end, |_, _| {
        between += 1;
        Ok(())
    })?;
    let left_early = between == 0 && chain.segments().last().is_some_and(|last| last.end() == truncate_at);
    if end != truncate_at && !left_early {
        return request(format!(
            "the log is whole up to position {end}, where a batch ends: it can be cut off there or at an \
             earlier batch, not at {truncate_at}"
        ));
    }
    let mut report = RepairReport {
        shard: log.shard,
        truncate_at: end,
        batches: 0,
        records: RecordCounts::default(),
        snapshots,
        kept: Vec::new(),
    };
    let mut all = Chain::from_oldest(log)?;
    all.each_sound_from(end, |header, records| {
        report.batches += 1;
        let records = RecordIter::new(Position(header.first_record()), records);
        records.flatten().for_each(|(_, record)| report.records.add(&record));
        Ok(())
    })?;
    let segments = all.segments().iter().filter(|segment| segment.end() > end).cloned().collect();
    Ok(Plan { report, segments })
}

/// The snapshot that a start would use after the cut (start and epoch), and those that the cut
/// makes useless.
fn choose_base(log: &ShardLog, truncate_at: u64) -> Result<(Base, Vec<PathBuf>), LogError> {
    let (mut base, mut useless) = (None, Vec::new());
    for (start, path) in list_snapshots(&log.disk, &log.dir)? {
        match read_snapshot(log, start, &path) {
            Ok((head, foot)) if foot.end <= truncate_at + HEADER_BYTES as u64 => {
                base = base.or(Some((start, head.epoch)));
            }
            Ok(_) => useless.push(path),
            Err(SnapshotFlaw::Invalid(_)) => {}
            Err(SnapshotFlaw::Fatal(error)) => return Err(error),
        }
    }
    Ok((base, useless))
}

/// Renames a file to `<name>.dropped`, or `.dropped-2` and so on.
fn set_aside(path: &Path) -> Result<PathBuf, LogError> {
    let aside = free_name(path);
    std::fs::rename(path, &aside).map_err(LogError::io("rename", path))?;
    Ok(aside)
}

fn copy_aside(path: &Path) -> Result<PathBuf, LogError> {
    let aside = free_name(path);
    let copy = || -> io::Result<()> {
        std::fs::copy(path, &aside)?;
        File::open(&aside)?.sync_all()
    };
    copy().map_err(LogError::io("copy", path))?;
    Ok(aside)
}

fn free_name(path: &Path) -> PathBuf {
    let name = |suffix: &str| {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        PathBuf::from(name)
    };
    let numbered = (2u32..).map(|number| name(&format!(".dropped-{number}")));
    std::iter::once(name(".dropped"))
        .chain(numbered)
        .find(|path| !path.exists())
        .expect("numbers do not run out")
}

fn zero_from(segment: &SegmentEntry, place: u64) -> Result<(), LogError> {
    let zero = || -> io::Result<()> {
        let file = open_direct(OpenOptions::new().write(true), &segment.path, 0)?;
        let zeros = AlignedBuffer::zeroed(ZERO_BYTES);
        let mut offset = place - segment.base;
        while offset < segment.length {
            let count = (segment.length - offset).min(ZERO_BYTES as u64);
            file.write_all_at(&zeros.bytes()[..usize::try_from(count).expect("at most 1 MiB")], offset)?;
            offset += count;
        }
        file.sync_all()
    };
    zero().map_err(LogError::io("write", &segment.path))
}

impl fmt::Display for RepairReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verb = if self.kept.is_empty() { "would drop" } else { "dropped" };
        writeln!(
            f,
            "shard {} {verb} everything from position {} on: {} whole batches with {}, and whatever is damaged there",
            self.shard, self.truncate_at, self.batches, self.records
        )?;
        for snapshot in &self.snapshots {
            writeln!(f, "  {verb} snapshot {}, which needs that log", snapshot.display())?;
        }
        for kept in &self.kept {
            writeln!(f, "  kept a copy: {}", kept.display())?;
        }
        write!(f, "  leases granted, renewed or ended in what is dropped go back to what they were before")
    }
}

#[cfg(test)]
mod tests;
