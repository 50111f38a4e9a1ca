//! Where segments come from and where they go: created whole, recycled, deleted.
//!
//! A segment bears its name only when it is fully allocated and zero-filled (merely allocated extents
//! double the cost of every commit), and a recycled one needs no clearing: batches in it say that
//! they stand elsewhere. Renames are made durable before a file is used, so that a crash finds
//! either name with whole contents.
//!
//! Blocks: only the keeper thread and the opening of an engine call it.

use std::io;
use std::path::{Path, PathBuf};

use tenure_planted::Bug;

use super::aligned::AlignedBuffer;
use super::disk::{Access, DiskPort};
use super::error::LogError;
use super::limits::{SNAPSHOTS_KEPT, SPARE_SEGMENTS_MAX};
use super::segment::{SegmentEntry, SegmentFile, SyncMode, list_numbered, list_segments, segment_path};
use super::snapshot::list_snapshots;

/// Zeros written at a time: a commit of the running log waits for at most one such write.
const FILL_BYTES: u64 = 128 << 10;
/// Zeros written between syncs: a commit's own flush finds little of them in the disk's cache. Both
/// sizes took a 64 KiB commit beside a fill from 518 µs (p99 2.2 ms) to 180 µs (0.35 ms).
const FILL_SYNC_BYTES: u64 = 4 << 20;

/// Who makes and takes back segments. The one in use is [`Depot`]; tests have others.
pub trait SegmentSource: Send + 'static {
    /// Makes the segment that starts at `base`, ready for writing.
    ///
    /// # Errors
    /// No space, or any other failure of the file system; the attempt can be repeated.
    fn prepare(&mut self, base: u64) -> io::Result<SegmentFile>;

    /// Takes back segments wholly below `below`. Returns the base of the oldest segment left.
    ///
    /// # Errors
    /// A file could not be renamed or removed.
    fn reclaim(&mut self, below: u64) -> io::Result<u64>;
}

/// Segments of one shard directory.
pub struct Depot {
    disk: DiskPort,
    dir: PathBuf,
    segment_bytes: u64,
    sync: SyncMode,
    spares: Vec<PathBuf>,
}

impl Depot {
    /// Takes up a shard directory on the system's disk: see `open_on`.
    ///
    /// # Errors
    /// The directory could not be listed or changed.
    pub fn open(dir: &Path, segment_bytes: u64, sync: SyncMode) -> Result<Depot, LogError> {
        Depot::open_on(&DiskPort::System, dir, segment_bytes, sync)
    }

    /// Takes up a shard directory: removes half-made files, keeps spares of the right size.
    pub(super) fn open_on(
        disk: &DiskPort,
        dir: &Path,
        segment_bytes: u64,
        sync: SyncMode,
    ) -> Result<Depot, LogError> {
        for entry in disk.list(dir).map_err(LogError::io("list", dir))? {
            let path = dir.join(entry.name);
            if path.extension().is_some_and(|extension| extension == "tmp") {
                disk.remove(&path).map_err(LogError::io("remove", &path))?;
            }
        }
        let mut spares = Vec::new();
        for (_, path) in list_numbered(disk, dir, "", ".spare")? {
            let length = disk.length(&path).map_err(LogError::io("read", &path))?;
            if length == segment_bytes && spares.len() < SPARE_SEGMENTS_MAX {
                spares.push(path);
            } else {
                disk.remove(&path).map_err(LogError::io("remove", &path))?;
            }
        }
        Ok(Depot { disk: disk.clone(), dir: dir.to_owned(), segment_bytes, sync, spares })
    }

    /// Opens an existing segment for writing.
    pub(super) fn open_segment(&self, entry: &SegmentEntry) -> Result<SegmentFile, LogError> {
        SegmentFile::open_on(&self.disk, &entry.path, entry.base, self.sync)
            .map_err(LogError::io("open", &entry.path))
    }

    fn create(&self, base: u64) -> io::Result<()> {
        let aside = self.dir.join(format!("{base:020}.tmp"));
        let made = self.fill(&aside).and_then(|()| self.disk.rename(&aside, &segment_path(&self.dir, base)));
        if made.is_err() {
            // Give the space back; the file is not worth a second error.
            let _ = self.disk.remove(&aside);
        }
        made
    }

    fn fill(&self, path: &Path) -> io::Result<()> {
        let file = self.disk.open(path, Access::Create)?;
        // Reserve first: a full disk is noticed before anything is written.
        file.reserve(self.segment_bytes)?;
        let piece = self.segment_bytes.min(FILL_BYTES);
        let zeros = AlignedBuffer::zeroed(usize::try_from(piece).expect("at most 128 KiB"));
        let mut offset = 0;
        while offset < self.segment_bytes {
            file.write_all_at(zeros.bytes(), offset)?;
            offset += piece;
            if offset.is_multiple_of(FILL_SYNC_BYTES) {
                file.sync_data()?;
            }
        }
        file.sync_all()
    }
}

impl SegmentSource for Depot {
    fn prepare(&mut self, base: u64) -> io::Result<SegmentFile> {
        let path = segment_path(&self.dir, base);
        if let Some(spare) = self.spares.pop() {
            self.disk.rename(&spare, &path)?;
        } else {
            self.create(base)?;
        }
        if !tenure_planted::is(Bug::SegmentNameUnsynced) {
            self.disk.sync_dir(&self.dir)?;
        }
        SegmentFile::open_on(&self.disk, &path, base, self.sync)
    }

    fn reclaim(&mut self, below: u64) -> io::Result<u64> {
        let segments = list_segments(&self.disk, &self.dir).map_err(io::Error::other)?;
        let below =
            if tenure_planted::is(Bug::ReclaimsTooMuch) { below + 2 * self.segment_bytes } else { below };
        let mut oldest = segments.first().map_or(0, |segment| segment.base);
        // Oldest first, each durably: a crash in between leaves no gap.
        for segment in segments.iter().filter(|segment| segment.end() <= below) {
            if segment.length == self.segment_bytes && self.spares.len() < SPARE_SEGMENTS_MAX {
                let spare = segment.path.with_extension("spare");
                self.disk.rename(&segment.path, &spare)?;
                self.spares.push(spare);
            } else {
                self.disk.remove(&segment.path)?;
            }
            self.disk.sync_dir(&self.dir)?;
            oldest = segment.end();
        }
        Ok(oldest)
    }
}

/// Removes snapshots that are of no more use: all but the newest two, and of these the older one
/// when the log it needs is gone.
pub(super) fn drop_old_snapshots(disk: &DiskPort, dir: &Path, oldest_segment: u64) -> io::Result<()> {
    let snapshots = list_snapshots(disk, dir).map_err(io::Error::other)?;
    for (index, (start, path)) in snapshots.iter().enumerate() {
        if index >= SNAPSHOTS_KEPT || (index > 0 && *start < oldest_segment) {
            disk.remove(path)?;
        }
    }
    disk.sync_dir(dir)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<String> = std::fs::read_dir(dir)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn segments_are_made_whole_recycled_and_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let mut depot = Depot::open(dir.path(), MIB, SyncMode::EachWrite).unwrap();
        for index in 0..5 {
            let segment = depot.prepare(index * MIB).unwrap();
            assert_eq!((segment.base(), segment.length()), (index * MIB, MIB));
            segment.write_all_at(AlignedBuffer::zeroed(4096).bytes(), MIB - 4096).unwrap();
        }
        assert_eq!(depot.reclaim(3 * MIB + 5).unwrap(), 3 * MIB);
        let left = names(dir.path());
        assert_eq!(left.iter().filter(|name| name.ends_with(".spare")).count(), SPARE_SEGMENTS_MAX);
        assert_eq!(left.iter().filter(|name| name.ends_with(".log")).count(), 2);
        let segment = depot.prepare(5 * MIB).unwrap();
        assert_eq!(segment.path(), segment_path(dir.path(), 5 * MIB));
        assert_eq!(names(dir.path()).iter().filter(|name| name.ends_with(".spare")).count(), 1);
    }

    #[test]
    fn half_made_files_and_spares_of_another_size_go() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["00000000000000000000.tmp", "snapshot-00000000000000000064.tmp"] {
            std::fs::write(dir.path().join(name), b"x").unwrap();
        }
        std::fs::write(dir.path().join("00000000000000000000.spare"), vec![0; 2 << 20]).unwrap();
        std::fs::write(dir.path().join("00000000000004194304.spare"), vec![0; 1 << 20]).unwrap();
        Depot::open(dir.path(), MIB, SyncMode::EachWrite).unwrap();
        assert_eq!(names(dir.path()), ["00000000000004194304.spare"]);
    }

    #[test]
    fn a_snapshot_without_its_log_is_of_no_use() {
        let dir = tempfile::tempdir().unwrap();
        let write =
            |start: u64| std::fs::write(dir.path().join(format!("snapshot-{start:020}.img")), b"").unwrap();
        for start in [64, MIB, 3 * MIB, 4 * MIB] {
            write(start);
        }
        drop_old_snapshots(&DiskPort::System, dir.path(), 2 * MIB).unwrap();
        assert_eq!(names(dir.path()).len(), 2);
        drop_old_snapshots(&DiskPort::System, dir.path(), 4 * MIB).unwrap();
        assert_eq!(names(dir.path()), ["snapshot-00000000000004194304.img"]);
    }
}
