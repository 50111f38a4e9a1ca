//! Checks a data directory and changes nothing: what a start would say, and more.
//!
//! A start reads the newest snapshot and the log behind it. This reads every snapshot and the log
//! from its oldest segment on, and decodes every record. It does not rebuild the state, so records
//! that decode but contradict one another are found only by a start.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use tenure_core::{Position, Record, RecordIter, Time};

use super::batch::BatchOwner;
use super::chain::Chain;
use super::directory::ShardLog;
use super::error::LogError;
use super::lock::DirLock;
use super::manifest::{MANIFEST_FILE, Manifest};
use super::recover::{Replay, Torn, recover};
use super::snapshot::{SnapshotFlaw, SnapshotFoot, SnapshotHead, SnapshotReader, list_snapshots};

/// What [`verify`] found.
#[derive(Debug)]
pub struct VerifyReport {
    /// The data directory.
    pub dir: PathBuf,
    /// One entry per shard.
    pub shards: Vec<ShardReport>,
}

/// What [`verify`] found in one shard.
#[derive(Debug)]
pub struct ShardReport {
    /// Which shard.
    pub shard: u16,
    /// Place where the log goes on, as far as it is sound.
    pub tail: u64,
    /// Batches from the oldest segment to the tail.
    pub batches: u64,
    /// Their bytes, headers included.
    pub bytes: u64,
    /// Records by kind.
    pub records: RecordCounts,
    /// Whole snapshots.
    pub snapshots: u64,
    /// Writes that were in flight when the engine died; a start drops them and loses nothing.
    pub torn: Option<Torn>,
    /// Why the engine would not start.
    pub damage: Vec<String>,
    /// What is wrong without keeping the engine from starting.
    pub warnings: Vec<String>,
}

/// How many records there are of each kind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecordCounts(BTreeMap<&'static str, u64>);

impl VerifyReport {
    /// Whether the engine would start on it with nothing lost.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.shards.iter().all(|shard| shard.damage.is_empty() && shard.warnings.is_empty())
    }
}

impl RecordCounts {
    pub(super) fn add(&mut self, record: &Record<'_>) {
        *self.0.entry(kind_name(record)).or_default() += 1;
    }
}

pub(super) fn kind_name(record: &Record<'_>) -> &'static str {
    match record {
        Record::Clock { .. } => "clock",
        Record::Grant { .. } => "grant",
        Record::Ended { cause: tenure_core::Cause::Revoked, .. } => "revoked",
        Record::Ended { cause: tenure_core::Cause::Expired, .. } => "expired",
        Record::Checkpoint { .. } => "checkpoint",
        Record::Renewal { .. } => "renewal",
        Record::Attach { .. } => "attach",
        Record::Detach { .. } => "detach",
        Record::EndedItems { .. } => "ended-items",
        Record::Promote { .. } => "promote",
        Record::Demote => "demote",
    }
}

/// Reads a manifest that must be there.
pub(super) fn read_manifest(dir: &Path) -> Result<Manifest, LogError> {
    Manifest::read(dir)?.ok_or_else(|| LogError::Manifest {
        path: dir.join(MANIFEST_FILE),
        reason: "missing: this is not a data directory, or it has lost its manifest".to_owned(),
    })
}

/// Checks everything in a data directory that no engine has open.
///
/// # Errors
/// In use, no readable manifest, or files that cannot be read. Damage is in the report.
pub fn verify(dir: &Path) -> Result<VerifyReport, LogError> {
    let _lock = DirLock::shared(dir)?;
    let manifest = read_manifest(dir)?;
    let count = u16::try_from(manifest.shards.len()).expect("checked by the manifest");
    let shards = (0..count).map(|shard| verify_shard(&manifest.shard_log(dir, shard)));
    Ok(VerifyReport { dir: dir.to_owned(), shards: shards.collect::<Result<_, _>>()? })
}

fn verify_shard(log: &ShardLog) -> Result<ShardReport, LogError> {
    let mut report = ShardReport {
        shard: log.shard,
        tail: log.start,
        batches: 0,
        bytes: 0,
        records: RecordCounts::default(),
        snapshots: 0,
        torn: None,
        damage: Vec::new(),
        warnings: Vec::new(),
    };
    if !log.dir.is_dir() {
        // A start before the first write leaves no more than the manifest; after it, this is loss.
        if log.floor > log.start {
            report.damage.push(format!("{} is missing", log.dir.display()));
        }
        return Ok(report);
    }
    match recover(log, &mut Nothing) {
        Ok(recovered) => report.torn = recovered.torn,
        Err(error @ (LogError::Io { .. } | LogError::Unreadable { .. })) => return Err(error),
        Err(error) => report.damage.push(error.to_string()),
    }
    for (start, path) in list_snapshots(&log.disk, &log.dir)? {
        match read_snapshot(log, start, &path) {
            Ok(_) => report.snapshots += 1,
            Err(SnapshotFlaw::Invalid(reason)) => {
                report.warnings.push(format!("{}: {reason}", path.display()));
            }
            Err(SnapshotFlaw::Fatal(error)) => report.warnings.push(error.to_string()),
        }
    }
    walk(log, &mut report)?;
    Ok(report)
}

/// From the oldest segment to the end, decoding every record.
fn walk(log: &ShardLog, report: &mut ShardReport) -> Result<(), LogError> {
    let mut chain = Chain::from_oldest(log)?;
    for gap in chain.segments().windows(2).filter(|pair| pair[0].end() != pair[1].base) {
        report.warnings.push(format!("segments between {} and {} are missing", gap[0].end(), gap[1].base));
    }
    loop {
        let header = match chain.advance() {
            Ok(Ok(header)) => header,
            Ok(Err(end)) => {
                report.tail = end.place;
                let beyond = chain.scan_beyond(&end)?;
                // Whatever keeps the engine from starting has been said; this is older history.
                if let Some(witness) = beyond.witness.filter(|_| report.damage.is_empty()) {
                    report.warnings.push(format!(
                        "history is damaged at position {}: {}; a batch at {} shows that there was more. \
                         Events before it cannot be resumed",
                        end.place, end.flaw, witness.position
                    ));
                }
                return Ok(());
            }
            Err(error @ (LogError::Io { .. } | LogError::Unreadable { .. })) => return Err(error),
            Err(error) => {
                report.warnings.extend(report.damage.is_empty().then(|| error.to_string()));
                return Ok(());
            }
        };
        report.batches += 1;
        report.bytes += u64::from(header.length);
        for record in RecordIter::new(Position(header.first_record()), chain.records(&header)) {
            match record {
                Ok((_, record)) => report.records.add(&record),
                Err(error) => report.damage.push(format!(
                    "{}: {} at position {}",
                    chain.path().display(),
                    error.reason,
                    header.first_record() + error.offset as u64
                )),
            }
        }
    }
}

/// Reads a snapshot to its end.
pub(super) fn read_snapshot(
    log: &ShardLog,
    start: u64,
    path: &Path,
) -> Result<(SnapshotHead, SnapshotFoot), SnapshotFlaw> {
    let owner = BatchOwner { log_id: log.log_id, shard: log.shard };
    let mut reader = SnapshotReader::open(&log.disk, path, owner, start)?;
    while reader.next_chunk()?.is_some() {}
    Ok((reader.head, reader.foot().expect("a footer ends the chunks")))
}

/// Recovery for its refusals alone.
pub(super) struct Nothing;

impl Replay for Nothing {
    fn restart(&mut self) {}

    fn image(&mut self, _chunk: &[u8]) -> Result<(), String> {
        Ok(())
    }

    fn batch(&mut self, _first: Position, _time: Time, _records: &[u8]) -> Result<(), String> {
        Ok(())
    }
}

impl fmt::Display for RecordCounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("no records");
        }
        for (index, (kind, count)) in self.0.iter().enumerate() {
            write!(f, "{}{count} {kind}", if index == 0 { "" } else { ", " })?;
        }
        Ok(())
    }
}

impl fmt::Display for VerifyReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for report in &self.shards {
            writeln!(
                f,
                "shard {}: {} batches, {} bytes, to position {}; {}; {} snapshots",
                report.shard, report.batches, report.bytes, report.tail, report.records, report.snapshots
            )?;
            if let Some(torn) = &report.torn {
                writeln!(f, "  tail: {torn}; a start drops it, nobody was told of it")?;
            }
            for warning in &report.warnings {
                writeln!(f, "  warning: {warning}")?;
            }
            for damage in &report.damage {
                writeln!(f, "  DAMAGE: {damage}")?;
            }
        }
        let verdict = match (self.is_clean(), self.shards.iter().any(|shard| !shard.damage.is_empty())) {
            (true, _) => "clean",
            (false, false) => "damaged in parts that a start does not need",
            (false, true) => "damaged: the engine will not start",
        };
        write!(f, "{}: {verdict}", self.dir.display())
    }
}
