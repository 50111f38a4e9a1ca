//! Segment files: their names, how they are opened, which ones a shard has.
//!
//! A segment is a fixed-size file named after the position of its first byte, twenty digits, so that
//! a directory listing sorted by name is the log in order. Each is as long as it will ever be from
//! the moment it bears its name: created whole under another name and renamed, or recycled. Writing
//! therefore never changes file metadata, which is what makes an O_DSYNC commit one device write.
//!
//! Does not read or interpret contents.

use std::io;
use std::os::fd::RawFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::disk::{Access, DiskFile, DiskPort};
use super::error::LogError;

/// Whether writes to a segment are on disk when they complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SyncMode {
    /// Opened with O_DSYNC: a completed write is durable.
    EachWrite,
    /// A completed write has left the process; durable after the next sync, if any.
    Later,
}

/// One open segment.
#[derive(Debug)]
pub struct SegmentFile {
    file: Arc<dyn DiskFile>,
    fd: Option<RawFd>,
    holds_up_submitters: bool,
    path: PathBuf,
    base: u64,
    length: u64,
}

/// A segment by its directory entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SegmentEntry {
    pub(super) path: PathBuf,
    pub(super) base: u64,
    pub(super) length: u64,
}

impl SegmentEntry {
    pub(super) fn end(&self) -> u64 {
        self.base + self.length
    }
}

impl SegmentFile {
    /// Opens a whole segment of the system's disk for writing.
    ///
    /// # Errors
    /// Whatever the system answers; a length that no segment has is `InvalidData`.
    pub fn open(path: &Path, base: u64, sync: SyncMode) -> io::Result<SegmentFile> {
        SegmentFile::open_on(&DiskPort::System, path, base, sync)
    }

    /// Opens a whole segment for writing.
    pub(super) fn open_on(
        disk: &DiskPort,
        path: &Path,
        base: u64,
        sync: SyncMode,
    ) -> io::Result<SegmentFile> {
        let access = if sync == SyncMode::EachWrite { Access::WriteDurably } else { Access::Write };
        let file = disk.open(path, access)?;
        let length = file.length()?;
        let unit = disk.sizes().segment_bytes_unit;
        if length == 0 || !length.is_multiple_of(unit) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("segment length {length} is not a multiple of {unit} bytes"),
            ));
        }
        let (fd, holds_up_submitters) = (file.raw_fd(), file.holds_up_submitters());
        Ok(SegmentFile { file, fd, holds_up_submitters, path: path.to_owned(), base, length })
    }

    /// Where the file lies.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Position of the first byte.
    #[must_use]
    pub fn base(&self) -> u64 {
        self.base
    }

    /// Size in bytes.
    #[must_use]
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Position after the last byte: the base of the next segment.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.base + self.length
    }

    /// Descriptor for a driver that writes by number.
    ///
    /// # Panics
    /// The file is a simulated one, which no such driver is given.
    #[must_use]
    pub fn raw_fd(&self) -> RawFd {
        self.fd.expect("a ring writes to files of the system's disk")
    }

    /// Whether a ring must leave the handing over of a write to a worker of the kernel, because it may take as long
    /// as the write itself.
    #[must_use]
    pub fn holds_up_submitters(&self) -> bool {
        self.holds_up_submitters
    }

    /// Writes all of `bytes`, for drivers without a ring.
    ///
    /// # Errors
    /// Whatever the system answers.
    pub fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.file.write_all_at(bytes, offset)
    }

    /// Makes everything written durable.
    ///
    /// # Errors
    /// Whatever the system answers.
    pub fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }
}

/// Path of the segment that starts at `base`.
pub(super) fn segment_path(dir: &Path, base: u64) -> PathBuf {
    dir.join(format!("{base:020}.log"))
}

/// The segments of a shard directory, oldest first. Other files are not looked at.
pub(super) fn list_segments(disk: &DiskPort, dir: &Path) -> Result<Vec<SegmentEntry>, LogError> {
    let mut segments = Vec::new();
    for (base, path) in list_numbered(disk, dir, "", ".log")? {
        let length = match disk.length(&path) {
            Ok(length) => length,
            // Recycled since it was listed: a reader beside a running engine.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(LogError::io("read", &path)(error)),
        };
        segments.push(SegmentEntry { path, base, length });
    }
    Ok(segments)
}

/// Files named `<prefix><20 digits><suffix>` with their numbers, ascending.
pub(super) fn list_numbered(
    disk: &DiskPort,
    dir: &Path,
    prefix: &str,
    suffix: &str,
) -> Result<Vec<(u64, PathBuf)>, LogError> {
    let number = |name: &str| {
        let digits = name.strip_prefix(prefix)?.strip_suffix(suffix)?;
        let whole = digits.len() == 20 && digits.bytes().all(|byte| byte.is_ascii_digit());
        whole.then(|| digits.parse().ok()).flatten()
    };
    let entries = disk.list(dir).map_err(LogError::io("list", dir))?;
    let mut found: Vec<(u64, PathBuf)> =
        entries.iter().filter_map(|entry| Some((number(&entry.name)?, dir.join(&entry.name)))).collect();
    found.sort_unstable();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_only_segments_in_order() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["00000000000001048576.log", "00000000000000000000.log", "x.log", "7.log", "a.spare"] {
            std::fs::write(dir.path().join(name), b"12").unwrap();
        }
        let bases: Vec<u64> =
            list_segments(&DiskPort::System, dir.path()).unwrap().iter().map(|entry| entry.base).collect();
        assert_eq!(bases, [0, 1 << 20]);
        assert_eq!(segment_path(dir.path(), 1 << 20), dir.path().join("00000000000001048576.log"));
    }

    #[test]
    fn a_cut_short_segment_is_not_opened() {
        let dir = tempfile::tempdir().unwrap();
        let path = segment_path(dir.path(), 0);
        std::fs::write(&path, vec![0; 4096]).unwrap();
        let error = SegmentFile::open(&path, 0, SyncMode::Later).unwrap_err();
        assert!(error.to_string().contains("multiple of 1048576"), "{error}");
    }
}
