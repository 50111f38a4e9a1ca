//! The file system of [`FaultyDisk`](super::FaultyDisk): a folder, mirrored call by call.
//!
//! Numbers of files are given out by path and follow renames. The kernel caches nothing of names and attributes
//! (their time to live is zero), so that every question arrives. Calls come one at a time, on one thread: a deed that
//! takes long holds up all others, as on a disk with one arm.
//!
//! It has what the log needs, and `ENOSYS` for the rest; `flock` is the kernel's own business.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{
    FileAttr, FileType, Filesystem, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyEmpty,
    ReplyEntry, ReplyOpen, ReplyWrite, Request, TimeOrNow,
};

use super::{Deed, Moods};

/// Names and attributes are asked for each time.
const NOT_CACHED: Duration = Duration::ZERO;
const ROOT: u64 = 1;

pub(super) struct Mirror {
    moods: Arc<Moods>,
    paths: HashMap<u64, PathBuf>,
    number_next: u64,
    open: HashMap<u64, Open>,
    handle_next: u64,
}

struct Open {
    file: File,
    name: String,
    /// What stood where it was written since the last sync.
    unsynced: Vec<(u64, Vec<u8>)>,
    /// Syncs still to fail: those of writes that a failed sync of another one has thrown away.
    doomed_count: usize,
}

impl Mirror {
    pub(super) fn new(folder: PathBuf, moods: Arc<Moods>) -> Mirror {
        let paths = HashMap::from([(ROOT, folder)]);
        Mirror { moods, paths, number_next: ROOT + 1, open: HashMap::new(), handle_next: 1 }
    }

    fn path(&self, number: u64) -> io::Result<&Path> {
        self.paths
            .get(&number)
            .map(PathBuf::as_path)
            .ok_or_else(|| io::Error::from_raw_os_error(libc::ENOENT))
    }

    fn child(&self, parent: u64, name: &OsStr) -> io::Result<PathBuf> {
        Ok(self.path(parent)?.join(name))
    }

    /// The number of a path, the same as long as it is called so.
    fn number(&mut self, path: &Path) -> u64 {
        if let Some((number, _)) = self.paths.iter().find(|(_, known)| *known == path) {
            return *number;
        }
        let number = self.number_next;
        self.number_next += 1;
        self.paths.insert(number, path.to_owned());
        number
    }

    fn attributes(&mut self, path: &Path) -> io::Result<FileAttr> {
        let metadata = path.symlink_metadata()?;
        Ok(attributes(self.number(path), &metadata))
    }

    fn forget_path(&mut self, path: &Path) {
        self.paths.retain(|_, known| known != path);
    }

    fn moved(&mut self, from: &Path, to: &Path) {
        self.forget_path(to);
        for path in self.paths.values_mut() {
            if let Ok(rest) = path.strip_prefix(from) {
                *path = if rest.as_os_str().is_empty() { to.to_owned() } else { to.join(rest) };
            }
        }
    }

    fn opened(&mut self, path: &Path, file: File) -> u64 {
        let handle = self.handle_next;
        self.handle_next += 1;
        self.open.insert(handle, Open { file, name: name_of(path), unsynced: Vec::new(), doomed_count: 0 });
        handle
    }

    fn handle(&mut self, handle: u64) -> io::Result<&mut Open> {
        self.open.get_mut(&handle).ok_or_else(|| io::Error::from_raw_os_error(libc::EBADF))
    }

    fn write_at(&mut self, handle: u64, offset: u64, bytes: &[u8]) -> io::Result<u32> {
        let moods = Arc::clone(&self.moods);
        let open = self.handle(handle)?;
        let mut before = vec![0; bytes.len()];
        let known = read_up_to(&open.file, &mut before, offset)?;
        before.truncate(known);
        open.unsynced.push((offset, before));
        let outcome = moods.meet(Deed::Write, &open.name, offset..offset + bytes.len() as u64);
        let written = if outcome.is_ok() { bytes } else { &bytes[..bytes.len() / 2] };
        open.file.write_all_at(written, offset)?;
        outcome.map(|()| u32::try_from(bytes.len()).expect("the kernel asks for less than 4 GiB"))
    }

    fn sync(&mut self, handle: u64) -> io::Result<()> {
        let moods = Arc::clone(&self.moods);
        let open = self.handle(handle)?;
        let unsynced = std::mem::take(&mut open.unsynced);
        let outcome = moods.meet(Deed::Sync, &open.name, 0..u64::MAX);
        if open.doomed_count > 0 {
            open.doomed_count -= 1;
            return outcome.and(Err(io::Error::from_raw_os_error(libc::EIO)));
        }
        if outcome.is_err() {
            open.doomed_count = unsynced.len().saturating_sub(1);
            for (offset, before) in unsynced.iter().rev() {
                open.file.write_all_at(before, *offset)?;
            }
        }
        outcome
    }

    fn read_at(&mut self, handle: u64, offset: u64, length: u32) -> io::Result<Vec<u8>> {
        let moods = Arc::clone(&self.moods);
        let open = self.handle(handle)?;
        let wanted = offset..offset + u64::from(length);
        let good = moods.lock().readable(&open.name, &wanted);
        if good == 0 {
            moods.meet(Deed::Read, &open.name, wanted)?;
        }
        let mut bytes = vec![0; if good == 0 { length as usize } else { good as usize }];
        let count = read_up_to(&open.file, &mut bytes, offset)?;
        bytes.truncate(count);
        Ok(bytes)
    }
}

fn name_of(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// Reads what fits, or all that there is.
fn read_up_to(file: &File, into: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut filled = 0;
    while filled < into.len() {
        match file.read_at(&mut into[filled..], offset + filled as u64)? {
            0 => break,
            count => filled += count,
        }
    }
    Ok(filled)
}

fn attributes(number: u64, metadata: &Metadata) -> FileAttr {
    let kind = if metadata.is_dir() { FileType::Directory } else { FileType::RegularFile };
    let changed = metadata.modified().unwrap_or(UNIX_EPOCH);
    FileAttr {
        ino: number,
        size: metadata.len(),
        blocks: metadata.blocks(),
        atime: changed,
        mtime: changed,
        ctime: changed,
        crtime: changed,
        kind,
        perm: (metadata.mode() & 0o7777) as u16,
        nlink: u32::try_from(metadata.nlink()).unwrap_or(u32::MAX),
        uid: metadata.uid(),
        gid: metadata.gid(),
        rdev: 0,
        blksize: 4_096,
        flags: 0,
    }
}

fn errno(error: &io::Error) -> i32 {
    error.raw_os_error().unwrap_or(libc::EIO)
}

/// Answers with the value, or with the error.
macro_rules! answer {
    ($outcome:expr, $reply:ident, |$value:pat_param| $good:expr) => {
        match $outcome {
            Ok($value) => $good,
            Err(error) => $reply.error(errno(&error)),
        }
    };
}

impl Filesystem for Mirror {
    fn lookup(&mut self, _: &Request<'_>, parent: u64, name: &OsStr, reply: ReplyEntry) {
        let found = self.child(parent, name).and_then(|path| self.attributes(&path));
        answer!(found, reply, |found| reply.entry(&NOT_CACHED, &found, 0));
    }

    fn getattr(&mut self, _: &Request<'_>, number: u64, _: Option<u64>, reply: ReplyAttr) {
        let found = self.path(number).map(Path::to_owned).and_then(|path| self.attributes(&path));
        answer!(found, reply, |found| reply.attr(&NOT_CACHED, &found));
    }

    fn setattr(
        &mut self,
        _: &Request<'_>,
        number: u64,
        _: Option<u32>,
        _: Option<u32>,
        _: Option<u32>,
        size: Option<u64>,
        _: Option<TimeOrNow>,
        _: Option<TimeOrNow>,
        _: Option<SystemTime>,
        _: Option<u64>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<u32>,
        reply: ReplyAttr,
    ) {
        let outcome = self.path(number).map(Path::to_owned).and_then(|path| {
            if let Some(size) = size {
                OpenOptions::new().write(true).open(&path)?.set_len(size)?;
            }
            self.attributes(&path)
        });
        answer!(outcome, reply, |found| reply.attr(&NOT_CACHED, &found));
    }

    fn mkdir(&mut self, _: &Request<'_>, parent: u64, name: &OsStr, _: u32, _: u32, reply: ReplyEntry) {
        let made = self.child(parent, name).and_then(|path| {
            std::fs::create_dir(&path)?;
            self.attributes(&path)
        });
        answer!(made, reply, |made| reply.entry(&NOT_CACHED, &made, 0));
    }

    fn unlink(&mut self, _: &Request<'_>, parent: u64, name: &OsStr, reply: ReplyEmpty) {
        let gone = self.child(parent, name).and_then(|path| {
            std::fs::remove_file(&path)?;
            self.forget_path(&path);
            Ok(())
        });
        answer!(gone, reply, |()| reply.ok());
    }

    fn rmdir(&mut self, _: &Request<'_>, parent: u64, name: &OsStr, reply: ReplyEmpty) {
        let gone = self.child(parent, name).and_then(|path| {
            std::fs::remove_dir(&path)?;
            self.forget_path(&path);
            Ok(())
        });
        answer!(gone, reply, |()| reply.ok());
    }

    fn rename(
        &mut self,
        _: &Request<'_>,
        parent: u64,
        name: &OsStr,
        parent_to: u64,
        name_to: &OsStr,
        _: u32,
        reply: ReplyEmpty,
    ) {
        let outcome = self.child(parent, name).and_then(|from| {
            let to = self.child(parent_to, name_to)?;
            std::fs::rename(&from, &to)?;
            self.moved(&from, &to);
            Ok(())
        });
        answer!(outcome, reply, |()| reply.ok());
    }

    fn open(&mut self, _: &Request<'_>, number: u64, flags: i32, reply: ReplyOpen) {
        let opened = self.path(number).map(Path::to_owned).and_then(|path| {
            // To be undone, what is written must be readable.
            let writes = flags & libc::O_ACCMODE != libc::O_RDONLY;
            let file = OpenOptions::new().read(true).write(writes).open(&path)?;
            Ok(self.opened(&path, file))
        });
        answer!(opened, reply, |handle| reply.opened(handle, 0));
    }

    fn create(
        &mut self,
        _: &Request<'_>,
        parent: u64,
        name: &OsStr,
        _: u32,
        _: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let created = self.child(parent, name).and_then(|path| {
            let truncate = flags & libc::O_TRUNC != 0;
            let file =
                OpenOptions::new().read(true).write(true).create(true).truncate(truncate).open(&path)?;
            let attributes = self.attributes(&path)?;
            Ok((attributes, self.opened(&path, file)))
        });
        answer!(created, reply, |(found, handle)| reply.created(&NOT_CACHED, &found, 0, handle, 0));
    }

    fn read(
        &mut self,
        _: &Request<'_>,
        _: u64,
        handle: u64,
        offset: i64,
        length: u32,
        _: i32,
        _: Option<u64>,
        reply: ReplyData,
    ) {
        answer!(self.read_at(handle, offset.unsigned_abs(), length), reply, |bytes| reply.data(&bytes));
    }

    fn write(
        &mut self,
        _: &Request<'_>,
        _: u64,
        handle: u64,
        offset: i64,
        bytes: &[u8],
        _: u32,
        _: i32,
        _: Option<u64>,
        reply: ReplyWrite,
    ) {
        answer!(self.write_at(handle, offset.unsigned_abs(), bytes), reply, |count| reply.written(count));
    }

    fn release(
        &mut self,
        _: &Request<'_>,
        _: u64,
        handle: u64,
        _: i32,
        _: Option<u64>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        self.open.remove(&handle);
        reply.ok();
    }

    fn fsync(&mut self, _: &Request<'_>, _: u64, handle: u64, _: bool, reply: ReplyEmpty) {
        answer!(self.sync(handle), reply, |()| reply.ok());
    }

    fn fsyncdir(&mut self, _: &Request<'_>, number: u64, _: u64, _: bool, reply: ReplyEmpty) {
        let outcome = self.path(number).map(name_of);
        let outcome = outcome.and_then(|name| self.moods.meet(Deed::Sync, &name, 0..u64::MAX));
        answer!(outcome, reply, |()| reply.ok());
    }

    fn readdir(&mut self, _: &Request<'_>, number: u64, _: u64, offset: i64, mut reply: ReplyDirectory) {
        let listed = self.path(number).map(Path::to_owned).and_then(|path| {
            let mut names: Vec<_> =
                std::fs::read_dir(&path)?.flatten().map(|entry| entry.file_name()).collect();
            names.sort();
            Ok((path, names))
        });
        let (path, names) = match listed {
            Ok(listed) => listed,
            Err(error) => return reply.error(errno(&error)),
        };
        for (index, name) in (1..).zip(&names).skip(offset.unsigned_abs() as usize) {
            let Ok(found) = self.attributes(&path.join(name)) else { continue };
            if reply.add(found.ino, index, found.kind, name) {
                break;
            }
        }
        reply.ok();
    }
}
