//! Segment files: their names, how they are opened, which ones a shard has.
//!
//! A segment is a fixed-size file named after the position of its first byte, twenty digits, so that
//! a directory listing sorted by name is the log in order. Each is as long as it will ever be from
//! the moment it bears its name: created whole under another name and renamed, or recycled. Writing
//! therefore never changes file metadata, which is what makes an O_DSYNC commit one device write.
//!
//! Does not read or interpret contents.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use super::error::LogError;
use super::limits::SEGMENT_BYTES_UNIT;

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
    file: File,
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
    /// Opens a whole segment for writing.
    ///
    /// # Errors
    /// Whatever the system answers; a length that no segment has is `InvalidData`.
    pub fn open(path: &Path, base: u64, sync: SyncMode) -> io::Result<SegmentFile> {
        let dsync = if sync == SyncMode::EachWrite { libc::O_DSYNC } else { 0 };
        let file = open_direct(OpenOptions::new().write(true), path, dsync)?;
        let length = file.metadata()?.len();
        if length == 0 || !length.is_multiple_of(SEGMENT_BYTES_UNIT) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("segment length {length} is not a multiple of 1 MiB"),
            ));
        }
        Ok(SegmentFile { file, path: path.to_owned(), base, length })
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
    #[must_use]
    pub fn raw_fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }

    /// The file, for drivers without a ring and for syncs.
    #[must_use]
    pub fn file(&self) -> &File {
        &self.file
    }
}

impl AsFd for SegmentFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Opens with O_DIRECT, or without where the file system refuses it (tmpfs, some overlays).
pub(super) fn open_direct(options: &mut OpenOptions, path: &Path, flags: i32) -> io::Result<File> {
    static TOLD: AtomicBool = AtomicBool::new(false);
    match options.custom_flags(flags | libc::O_DIRECT).open(path) {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
            if !TOLD.swap(true, Ordering::Relaxed) {
                tracing::warn!(path = %path.display(), "file system refuses O_DIRECT; the log goes through the page cache");
            }
            options.custom_flags(flags).open(path)
        }
        other => other,
    }
}

/// Path of the segment that starts at `base`.
pub(super) fn segment_path(dir: &Path, base: u64) -> PathBuf {
    dir.join(format!("{base:020}.log"))
}

/// The segments of a shard directory, oldest first. Other files are not looked at.
pub(super) fn list_segments(dir: &Path) -> Result<Vec<SegmentEntry>, LogError> {
    let mut segments = Vec::new();
    for (base, path) in list_numbered(dir, "", ".log")? {
        let length = match path.metadata() {
            Ok(metadata) => metadata.len(),
            // Recycled since it was listed: a reader beside a running engine.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(LogError::io("read", &path)(error)),
        };
        segments.push(SegmentEntry { path, base, length });
    }
    Ok(segments)
}

/// Files named `<prefix><20 digits><suffix>` with their numbers, ascending.
pub(super) fn list_numbered(dir: &Path, prefix: &str, suffix: &str) -> Result<Vec<(u64, PathBuf)>, LogError> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(LogError::io("list", dir))? {
        let entry = entry.map_err(LogError::io("list", dir))?;
        let name = entry.file_name();
        let number = name
            .to_str()
            .and_then(|name| name.strip_prefix(prefix))
            .and_then(|name| name.strip_suffix(suffix))
            .filter(|digits| digits.len() == 20 && digits.bytes().all(|byte| byte.is_ascii_digit()))
            .and_then(|digits| digits.parse().ok());
        if let Some(number) = number {
            found.push((number, entry.path()));
        }
    }
    found.sort_unstable();
    Ok(found)
}

/// Makes creations, renames and removals in `dir` durable.
pub(super) fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
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
        let bases: Vec<u64> = list_segments(dir.path()).unwrap().iter().map(|entry| entry.base).collect();
        assert_eq!(bases, [0, 1 << 20]);
        assert_eq!(segment_path(dir.path(), 1 << 20), dir.path().join("00000000000001048576.log"));
    }

    #[test]
    fn a_cut_short_segment_is_not_opened() {
        let dir = tempfile::tempdir().unwrap();
        let path = segment_path(dir.path(), 0);
        std::fs::write(&path, vec![0; 4096]).unwrap();
        let error = SegmentFile::open(&path, 0, SyncMode::Later).unwrap_err();
        assert!(error.to_string().contains("multiple of 1 MiB"), "{error}");
    }
}
