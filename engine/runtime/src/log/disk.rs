//! What the log asks of a disk: the one door to the file system.
//!
//! Everything the log does with files goes through a [`DiskPort`]: the system's file system, or a
//! simulator's, which can crash between any two calls, tear what was not synced, fill up and fail. A
//! port costs one indirection per call that would block anyway; the ring's log writes go by file
//! descriptor and do not pass here at all.
//!
//! - **S3**: a call that says "durably" has reached the medium when it returns, and nothing else has: names
//!   last only after [`Disk::sync_dir`], contents after a sync of their file (or with each write, where the
//!   file was opened so).
//!
//! It interprets nothing and retries nothing.
#![cfg_attr(not(feature = "simulation"), allow(unreachable_pub, reason = "public for simulators only"))]

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::ops::Deref;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::error::LogError;
use super::limits::{BATCH_BYTES_MAX, SEGMENT_BYTES_UNIT};
use super::lock::DirLock;

/// How a file is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// To read.
    Read,
    /// To write in place; nothing is durable before a sync.
    Write,
    /// To write in place; each write is durable when it returns.
    WriteDurably,
    /// To write, made or emptied first.
    Create,
}

/// An entry of a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its name.
    pub name: String,
    /// Whether it is a directory.
    pub is_dir: bool,
}

/// Sizes that go with a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Segment sizes are multiples of this, bytes.
    pub segment_bytes_unit: u64,
    /// Largest batch written, header included, bytes; a multiple of 4096.
    pub batch_bytes_max: usize,
    /// Whether reading ahead on a thread is worth it.
    pub reads_ahead: bool,
}

impl Sizes {
    /// What the format allows, for real disks.
    pub const FULL: Sizes =
        Sizes { segment_bytes_unit: SEGMENT_BYTES_UNIT, batch_bytes_max: BATCH_BYTES_MAX, reads_ahead: true };
}

/// A file system, as much of it as the log uses. Paths are as the log forms them: the data directory's
/// own path with names appended.
pub trait Disk: Send + Sync + fmt::Debug {
    /// Opens a file.
    ///
    /// # Errors
    /// Whatever the system answers; so for all that follow.
    fn open(&self, path: &Path, access: Access) -> io::Result<Arc<dyn DiskFile>>;
    /// Reads a small file whole.
    ///
    /// # Errors
    /// As `open`.
    fn read_whole(&self, path: &Path) -> io::Result<Vec<u8>>;
    /// Makes a small file with these contents and syncs it; its name is durable only after `sync_dir`.
    ///
    /// # Errors
    /// As `open`.
    fn write_whole(&self, path: &Path, bytes: &[u8]) -> io::Result<()>;
    /// The entries of a directory whose names are text, in no particular order.
    ///
    /// # Errors
    /// As `open`.
    fn list(&self, dir: &Path) -> io::Result<Vec<Entry>>;
    /// The length of a file, bytes.
    ///
    /// # Errors
    /// As `open`.
    fn length(&self, path: &Path) -> io::Result<u64>;
    /// Gives a file another name, in place of whatever has it.
    ///
    /// # Errors
    /// As `open`.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file.
    ///
    /// # Errors
    /// As `open`.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Makes a directory and those above it; one that is there already is no error.
    ///
    /// # Errors
    /// As `open`.
    fn create_dir(&self, dir: &Path) -> io::Result<()>;
    /// Removes a directory with all that is in it.
    ///
    /// # Errors
    /// As `open`.
    fn remove_dir(&self, dir: &Path) -> io::Result<()>;
    /// Makes creations, renames and removals in `dir` durable.
    ///
    /// # Errors
    /// As `open`.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
    /// Locks a data directory for writing.
    ///
    /// # Errors
    /// Another process has it, or the lock file cannot be written.
    fn lock(&self, dir: &Path) -> Result<DirLock, LogError>;
    /// A random number, for identities and seeds.
    fn random(&self) -> u64;
    /// Sizes that go with it.
    fn sizes(&self) -> Sizes;
}

/// An open file.
pub trait DiskFile: Send + Sync + fmt::Debug {
    /// Its length, bytes.
    ///
    /// # Errors
    /// Whatever the system answers; so for all that follow.
    fn length(&self) -> io::Result<u64>;
    /// Sets space aside, so that a full disk is noticed early. Where that cannot be done, nothing happens.
    ///
    /// # Errors
    /// As `length`.
    fn reserve(&self, bytes: u64) -> io::Result<()>;
    /// Reads what is there, at most as much as fits. 0: the end.
    ///
    /// # Errors
    /// As `length`.
    fn read_at(&self, into: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Writes all of it.
    ///
    /// # Errors
    /// As `length`.
    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;
    /// Makes the contents durable.
    ///
    /// # Errors
    /// As `length`.
    fn sync_data(&self) -> io::Result<()>;
    /// Makes contents and length durable.
    ///
    /// # Errors
    /// As `length`.
    fn sync_all(&self) -> io::Result<()>;
    /// Descriptor for a driver that writes by number; a simulated file has none.
    fn raw_fd(&self) -> Option<RawFd>;
    /// Whether handing over a write may take as long as the write: such file systems answer to somebody else, and
    /// do not queue.
    fn holds_up_submitters(&self) -> bool {
        false
    }
}

/// The disk in use.
#[derive(Clone, Debug, Default)]
pub enum DiskPort {
    /// The system's file system.
    #[default]
    System,
    /// A simulator's.
    #[cfg(feature = "simulation")]
    Other(Arc<dyn Disk>),
}

impl Deref for DiskPort {
    type Target = dyn Disk;

    fn deref(&self) -> &Self::Target {
        match self {
            DiskPort::System => &SystemDisk,
            #[cfg(feature = "simulation")]
            DiskPort::Other(disk) => &**disk,
        }
    }
}

impl PartialEq for DiskPort {
    fn eq(&self, other: &DiskPort) -> bool {
        match (self, other) {
            (DiskPort::System, DiskPort::System) => true,
            #[cfg(feature = "simulation")]
            (DiskPort::Other(one), DiskPort::Other(other)) => Arc::ptr_eq(one, other),
            #[cfg(feature = "simulation")]
            _ => false,
        }
    }
}

impl Eq for DiskPort {}

/// The system's file system.
#[derive(Clone, Copy, Debug)]
pub(super) struct SystemDisk;

#[derive(Debug)]
struct SystemFile(File);

impl Disk for SystemDisk {
    fn open(&self, path: &Path, access: Access) -> io::Result<Arc<dyn DiskFile>> {
        let mut options = OpenOptions::new();
        let flags = match access {
            Access::Read => options.read(true),
            Access::Write | Access::WriteDurably => options.write(true),
            Access::Create => options.write(true).create(true).truncate(true),
        };
        let dsync = if access == Access::WriteDurably { libc::O_DSYNC } else { 0 };
        Ok(Arc::new(SystemFile(open_direct(flags, path, dsync)?)))
    }

    fn read_whole(&self, path: &Path) -> io::Result<Vec<u8>> {
        std::fs::read(path)
    }

    fn write_whole(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let mut file = File::create(path)?;
        file.write_all(bytes)?;
        file.sync_all()
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<Entry>> {
        let mut entries = Vec::new();
        for entry in std::fs::read_dir(dir)? {
            let entry = entry?;
            // Ours are all text; a link to a directory counts as one.
            let Ok(name) = entry.file_name().into_string() else { continue };
            let kind = entry.file_type()?;
            let is_dir = kind.is_dir() || (kind.is_symlink() && entry.path().is_dir());
            entries.push(Entry { name, is_dir });
        }
        Ok(entries)
    }

    fn length(&self, path: &Path) -> io::Result<u64> {
        Ok(path.metadata()?.len())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_file(path)
    }

    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        std::fs::create_dir_all(dir)
    }

    fn remove_dir(&self, dir: &Path) -> io::Result<()> {
        std::fs::remove_dir_all(dir)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        File::open(dir)?.sync_all()
    }

    fn lock(&self, dir: &Path) -> Result<DirLock, LogError> {
        DirLock::exclusive(dir)
    }

    fn random(&self) -> u64 {
        rand::random()
    }

    fn sizes(&self) -> Sizes {
        Sizes::FULL
    }
}

impl DiskFile for SystemFile {
    fn length(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn reserve(&self, bytes: u64) -> io::Result<()> {
        match rustix::fs::fallocate(&self.0, rustix::fs::FallocateFlags::empty(), 0, bytes) {
            Ok(()) | Err(rustix::io::Errno::OPNOTSUPP) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn read_at(&self, into: &mut [u8], offset: u64) -> io::Result<usize> {
        self.0.read_at(into, offset)
    }

    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_all_at(bytes, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn sync_all(&self) -> io::Result<()> {
        self.0.sync_all()
    }

    fn raw_fd(&self) -> Option<RawFd> {
        Some(self.0.as_raw_fd())
    }

    fn holds_up_submitters(&self) -> bool {
        /// FUSE, NFS, SMB, 9P, Ceph: see `statfs(2)`.
        const ANSWERS_ELSEWHERE: [u32; 6] =
            [0x6573_5546, 0x6969, 0xFF53_4D42, 0xFE53_4D42, 0x0102_1997, 0x00C3_6400];
        // Their magic numbers are 32 bits, sign-extended or not.
        rustix::fs::fstatfs(&self.0).is_ok_and(|told| ANSWERS_ELSEWHERE.contains(&(told.f_type as u32)))
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
