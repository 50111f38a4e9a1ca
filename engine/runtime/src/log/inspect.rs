//! Prints what a data directory holds, for people: manifest, segments, snapshots, batches, records.
//!
//! Works on a damaged directory as far as it can and beside a running engine (whose tail moves
//! meanwhile). Changes nothing and judges nothing: that is `verify`'s business.

use std::io::{self, Write};
use std::path::Path;

use tenure_core::{Position, RecordIter};

use super::batch::BatchHeader;
use super::chain::Chain;
use super::directory::ShardLog;
use super::error::LogError;
use super::lock::DirLock;
use super::segment::SegmentEntry;
use super::snapshot::{SnapshotFlaw, list_snapshots};
use super::verify::{read_manifest, read_snapshot};

/// How much [`inspect`] prints.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InspectOptions {
    /// Every batch, not only segments.
    pub batches: bool,
    /// Every record too.
    pub records: bool,
    /// This shard only.
    pub shard: Option<u16>,
    /// Nothing before this position.
    pub from: Option<u64>,
}

/// Prints a data directory to `out`.
///
/// # Errors
/// No readable manifest, files that cannot be read, or `out` failed (a closed pipe).
pub fn inspect(dir: &Path, options: InspectOptions, out: &mut dyn Write) -> Result<(), LogError> {
    let manifest = read_manifest(dir)?;
    let holder = match DirLock::shared(dir) {
        Err(LogError::Locked { holder, .. }) => Some(holder),
        _ => None,
    };
    let mut text = Text { out };
    text.line(format_args!("data directory {}", dir.display()))?;
    let (log_id, epoch, count) = (manifest.log_id, manifest.epoch, manifest.shards.len());
    text.line(format_args!(
        "  format {}  log id {log_id:016x}  epoch {epoch}  shards {count}",
        manifest.format
    ))?;
    if let Some(holder) = holder {
        text.line(format_args!("  in use by {holder}"))?;
    }
    for (index, listed) in (0u16..).zip(&manifest.shards) {
        if options.shard.is_some_and(|shard| shard != index) {
            continue;
        }
        text.line(format_args!(
            "shard {index}  {}  log from {}  known complete to {}  generation base {}",
            listed.directory, listed.start, listed.tail, listed.generation_base
        ))?;
        inspect_shard(&manifest.shard_log(dir, index), options, &mut text)?;
    }
    if let Some(shard) = options.shard.filter(|&shard| usize::from(shard) >= count) {
        return Err(LogError::Request(format!("there is no shard {shard}: the directory has {count}")));
    }
    Ok(())
}

fn inspect_shard(log: &ShardLog, options: InspectOptions, text: &mut Text<'_>) -> Result<(), LogError> {
    if !log.dir.is_dir() {
        return text.line(format_args!("  {} does not exist", log.dir.display()));
    }
    for (start, path) in list_snapshots(&log.disk, &log.dir)? {
        let name = path.file_name().unwrap_or_default().display();
        match read_snapshot(log, start, &path) {
            Ok((head, foot)) => text.line(format_args!(
                "  {name}  start {}  end {}  time {} ms  epoch {}  {} blocks  {} bytes",
                head.start, foot.end, head.time_ms, head.epoch, foot.block_count, foot.bytes
            ))?,
            Err(SnapshotFlaw::Invalid(reason)) => text.line(format_args!("  {name}  INVALID: {reason}"))?,
            Err(SnapshotFlaw::Fatal(error)) => text.line(format_args!("  {name}  UNREADABLE: {error}"))?,
        }
    }
    let mut chain = match options.from {
        Some(from) => Chain::from_position(log, from, 0)?,
        None => Chain::from_oldest(log)?,
    };
    let mut segments = Segments { open: None, batches: 0, records: 0 };
    let end = loop {
        let header = match chain.advance()? {
            Ok(header) => header,
            Err(end) => break end,
        };
        segments.count(&chain, &header, text)?;
        if header.records_end() > options.from.unwrap_or(0) {
            inspect_batch(&chain, &header, options, text)?;
        }
    };
    segments.close(text)?;
    for unused in chain.segments().iter().filter(|segment| segment.base >= end.place) {
        text.line(format_args!("  {}  prepared", name(unused)))?;
    }
    text.line(format_args!("  log ends at {}: {}", end.place, end.flaw))?;
    let beyond = chain.scan_beyond(&end)?;
    if beyond.batches > 0 {
        text.line(format_args!("  behind it: {} batches, {} records", beyond.batches, beyond.records))?;
    }
    if let Some(witness) = beyond.witness {
        text.line(format_args!(
            "  DAMAGE: the batch at {} was written when the log was durable to {}",
            witness.position, witness.durable
        ))?;
    }
    Ok(())
}

fn inspect_batch(
    chain: &Chain,
    header: &BatchHeader,
    options: InspectOptions,
    text: &mut Text<'_>,
) -> Result<(), LogError> {
    if !options.batches && !options.records {
        return Ok(());
    }
    text.line(format_args!(
        "    batch {}  {} bytes  {} records  time {} ms  epoch {}  durable {}",
        header.position, header.length, header.record_count, header.time_ms, header.epoch, header.durable
    ))?;
    if !options.records {
        return Ok(());
    }
    for record in RecordIter::new(Position(header.first_record()), chain.records(header)) {
        match record {
            Ok((position, record)) => text.line(format_args!("      {} {record}", position.0))?,
            Err(error) => {
                let position = header.first_record() + error.offset as u64;
                text.line(format_args!("      {position} NOT A RECORD: {}", error.reason))?;
            }
        }
    }
    Ok(())
}

/// Counts batches per segment; a segment's line follows its batches.
struct Segments {
    open: Option<SegmentEntry>,
    batches: u64,
    records: u64,
}

impl Segments {
    fn count(&mut self, chain: &Chain, header: &BatchHeader, text: &mut Text<'_>) -> Result<(), LogError> {
        if self.open.as_ref() != chain.segment() {
            self.close(text)?;
            *self = Segments { open: chain.segment().cloned(), batches: 0, records: 0 };
        }
        self.batches += 1;
        self.records += u64::from(header.record_count);
        Ok(())
    }

    fn close(&mut self, text: &mut Text<'_>) -> Result<(), LogError> {
        let Some(segment) = self.open.take() else { return Ok(()) };
        let (batches, records) = (self.batches, self.records);
        text.line(format_args!(
            "  {}  {} bytes  {batches} batches  {records} records",
            name(&segment),
            segment.length
        ))
    }
}

fn name(segment: &SegmentEntry) -> std::path::Display<'_> {
    Path::new(segment.path.file_name().unwrap_or_default()).display()
}

struct Text<'a> {
    out: &'a mut dyn Write,
}

impl Text<'_> {
    fn line(&mut self, line: std::fmt::Arguments<'_>) -> Result<(), LogError> {
        let printed = self.out.write_fmt(line).and_then(|()| self.out.write_all(b"\n"));
        printed.map_err(|source: io::Error| LogError::Io { what: "write to", path: "output".into(), source })
    }
}
