//! The simulated disk: files in memory, of which a crash keeps what a real disk may keep.
//!
//! ```text
//!   write ──> live contents ──sync──> durable contents        names: live ──sync_dir──> durable
//!                    └── crash: any subset of the unsynced 512-byte sectors, any prefix of the
//!                        unsynced changes of each directory, any length between the two
//! ```
//! Each operation that changes something is counted and can be the one in whose middle the power fails:
//! from then on the disk is *dead* and answers errors without effect, until [`SimDisk::crash`] makes it the
//! disk that the next process finds. Log writes are in flight until the simulator completes them.
//!
//! It can also be full, fail a write, and hand out randomness (S5: from the seed).

mod image;

use std::io;
use std::os::fd::RawFd;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tenure::log::{DirLock, LogError};
use tenure::simulation::{Access, Disk, DiskFile, Entry, Sizes};

use crate::random::Random;
pub use image::SECTOR_BYTES;
pub use image::Survival;
use image::{Image, InodeId};

/// What ends the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The power: unsynced sectors survive or not.
    Power,
    /// A kill: everything that was written survives, what was in flight may.
    Kill,
}

/// A disk. Shared by the process that runs on it and the simulator.
#[derive(Debug)]
pub struct SimDisk {
    state: Mutex<State>,
    sizes: Sizes,
}

#[derive(Debug)]
struct State {
    image: Image,
    random: Random,
    /// Operations so far that changed something.
    changes: u64,
    /// The power fails in the middle of the change with this number.
    fails_at: Option<u64>,
    dead: bool,
    /// Bytes that files may have in all.
    capacity: u64,
    in_flight: Vec<InFlight>,
    /// How much of everything survives a crash; drawn for each thing when nobody says.
    survival: Option<Survival>,
    write_next: u64,
    /// What was done, for people.
    story: Option<Vec<String>>,
}

#[derive(Debug)]
struct InFlight {
    id: u64,
    inode: InodeId,
    offset: u64,
    bytes: Vec<u8>,
}

#[derive(Debug)]
struct SimFile {
    disk: Arc<SimDisk>,
    inode: InodeId,
    durably: bool,
}

impl SimDisk {
    /// An empty disk.
    #[must_use]
    pub fn new(seed: u64, batch_bytes_max: usize) -> Arc<SimDisk> {
        let state = State {
            image: Image::new(),
            random: Random::new(seed, 2),
            changes: 0,
            fails_at: None,
            dead: false,
            capacity: u64::MAX,
            in_flight: Vec::new(),
            survival: None,
            write_next: 0,
            story: None,
        };
        let sizes = Sizes { segment_bytes_unit: 4_096, batch_bytes_max, reads_ahead: false };
        Arc::new(SimDisk { state: Mutex::new(state), sizes })
    }

    fn lock_state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes down what is done from now on.
    pub fn keep_story(&self) {
        self.lock_state().story = Some(Vec::new());
    }

    /// What was done since this was asked last.
    pub fn take_story(&self) -> Vec<String> {
        self.lock_state().story.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// Operations so far that changed something.
    pub fn changes(&self) -> u64 {
        self.lock_state().changes
    }

    /// Lets the power fail in the middle of the `nth` change from now; 1 is the next.
    pub fn fail_in(&self, nth: u64) {
        let mut state = self.lock_state();
        state.fails_at = Some(state.changes + nth);
    }

    /// Lets the power fail in the middle of the change with this number, and this much of everything that is
    /// not durable then survive; `None`: as it is drawn.
    pub fn fail_at(&self, change: u64, survival: Option<Survival>) {
        let mut state = self.lock_state();
        (state.fails_at, state.survival) = (Some(change), survival);
    }

    /// Nothing goes wrong any more.
    pub fn heal(&self) {
        let mut state = self.lock_state();
        (state.fails_at, state.capacity) = (None, u64::MAX);
    }

    /// Whether the power has failed.
    pub fn is_dead(&self) -> bool {
        self.lock_state().dead
    }

    /// Limits the bytes of all files, `None`: no limit.
    pub fn limit(&self, bytes_more: Option<u64>) {
        let mut state = self.lock_state();
        state.capacity = bytes_more.map_or(u64::MAX, |more| state.image.bytes() + more);
    }

    /// Begins a log write. Returns its number.
    ///
    /// # Errors
    /// The power failed; the write is in flight all the same.
    pub fn begin_write(&self, path: &Path, offset: u64, bytes: &[u8]) -> u64 {
        let mut state = self.lock_state();
        let id = state.write_next;
        state.write_next += 1;
        state.tell(format_args!("log write {id} of {} bytes at {offset} of {}", bytes.len(), path.display()));
        if let Some(inode) = state.image.find(path) {
            state.in_flight.push(InFlight { id, inode, offset, bytes: bytes.to_vec() });
        }
        state.count();
        id
    }

    /// Completes a log write; durably when its file was opened so.
    pub fn complete_write(&self, id: u64, durably: bool) {
        let mut state = self.lock_state();
        let Some(index) = state.in_flight.iter().position(|write| write.id == id) else { return };
        let write = state.in_flight.swap_remove(index);
        state.tell(format_args!("log write {id} is done"));
        state.image.write(write.inode, write.offset, &write.bytes, durably);
    }

    /// The process is gone: leaves what the next one will find.
    pub fn crash(&self, failure: Failure) {
        let mut guard = self.lock_state();
        let state = &mut *guard;
        let random = &mut state.random;
        state.in_flight.sort_unstable_by_key(|write| write.id);
        for write in std::mem::take(&mut state.in_flight) {
            // The subset that a write in flight leaves: all, none, or any of its sectors.
            let survival = state.survival.unwrap_or_else(|| Survival::draw(random));
            for (index, sector) in write.bytes.chunks(SECTOR_BYTES).enumerate() {
                if survival.keeps(random) {
                    let offset = write.offset + (index * SECTOR_BYTES) as u64;
                    state.image.write(write.inode, offset, sector, true);
                }
            }
        }
        match failure {
            Failure::Power => state.image.lose_unsynced(random, state.survival),
            Failure::Kill => state.image.sync_everything(),
        }
        state.image.forget_unnamed();
        state.fails_at = None;
        state.survival = None;
        state.dead = false;
        state.capacity = u64::MAX;
    }

    /// Flips one bit of a file at rest.
    pub fn flip(&self, path: &Path, offset: u64, bit: u8) {
        let mut state = self.lock_state();
        if let Some(inode) = state.image.find(path) {
            state.image.flip(inode, offset, bit);
        }
    }

    /// Every file with its length, in order of their paths.
    pub fn files(&self) -> Vec<(String, u64)> {
        self.lock_state().image.files()
    }

    /// A file's contents.
    pub fn contents(&self, path: &str) -> Vec<u8> {
        let state = self.lock_state();
        state.image.find(path.as_ref()).map(|inode| state.image.contents(inode).to_vec()).unwrap_or_default()
    }

    /// A digest of all files: their names and contents.
    pub fn digest(&self) -> u64 {
        self.lock_state().image.digest()
    }

    /// A disk with the same contents, for a look at what would be recovered.
    #[must_use]
    pub fn copy(&self) -> Arc<SimDisk> {
        let state = self.lock_state();
        let copy = State {
            image: state.image.clone(),
            random: state.random.clone(),
            changes: 0,
            fails_at: None,
            dead: false,
            capacity: u64::MAX,
            in_flight: Vec::new(),
            survival: None,
            write_next: 0,
            story: None,
        };
        Arc::new(SimDisk { state: Mutex::new(copy), sizes: self.sizes })
    }
}

impl State {
    fn tell(&mut self, what: std::fmt::Arguments<'_>) {
        if let Some(story) = &mut self.story {
            story.push(what.to_string());
        }
    }

    /// Counts a change. False: the power fails in the middle of it.
    fn count(&mut self) -> bool {
        self.changes += 1;
        if self.fails_at.is_some_and(|at| self.changes >= at) {
            self.dead = true;
        }
        !self.dead
    }

    fn check_alive(&self) -> io::Result<()> {
        if self.dead { Err(io::Error::other("the power failed")) } else { Ok(()) }
    }

    /// A change that needs room.
    fn check_room(&self, bytes: u64) -> io::Result<()> {
        if self.image.bytes().saturating_add(bytes) > self.capacity {
            return Err(io::ErrorKind::StorageFull.into());
        }
        Ok(())
    }
}

fn missing() -> io::Error {
    io::ErrorKind::NotFound.into()
}

/// The simulator holds the disk by `Arc`, files need one of their own.
#[derive(Clone, Debug)]
pub struct Mounted(pub Arc<SimDisk>);

impl Disk for Mounted {
    fn open(&self, path: &Path, access: Access) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = self.0.lock_state();
        state.check_alive()?;
        let inode = if access == Access::Create {
            state.check_room(0)?;
            if !state.count() {
                return Err(io::Error::other("the power failed"));
            }
            state.tell(format_args!("create {}", path.display()));
            state.image.create(path)?
        } else {
            state.image.find(path).ok_or_else(missing)?
        };
        let durably = access == Access::WriteDurably;
        Ok(Arc::new(SimFile { disk: Arc::clone(&self.0), inode, durably }))
    }

    fn read_whole(&self, path: &Path) -> io::Result<Vec<u8>> {
        let state = self.0.lock_state();
        state.check_alive()?;
        let inode = state.image.find(path).ok_or_else(missing)?;
        Ok(state.image.contents(inode).to_vec())
    }

    fn write_whole(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let file = self.open(path, Access::Create)?;
        file.write_all_at(bytes, 0)?;
        file.sync_all()
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<Entry>> {
        let state = self.0.lock_state();
        state.check_alive()?;
        state.image.list(dir).ok_or_else(missing)
    }

    fn length(&self, path: &Path) -> io::Result<u64> {
        let state = self.0.lock_state();
        state.check_alive()?;
        let inode = state.image.find(path).ok_or_else(missing)?;
        Ok(state.image.contents(inode).len() as u64)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.change(format_args!("rename {} to {}", from.display(), to.display()), |image| {
            image.rename(from, to)
        })
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.change(format_args!("remove {}", path.display()), |image| image.remove(path))
    }

    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        self.change(format_args!("create_dir {}", dir.display()), |image| image.create_dir(dir))
    }

    fn remove_dir(&self, dir: &Path) -> io::Result<()> {
        self.change(format_args!("remove_dir {}", dir.display()), |image| image.remove_dir(dir))
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.change(format_args!("sync_dir {}", dir.display()), |image| image.sync_dir(dir))
    }

    fn lock(&self, _: &Path) -> Result<DirLock, LogError> {
        Ok(tenure::simulation::lock())
    }

    fn random(&self) -> u64 {
        self.0.lock_state().random.next()
    }

    fn sizes(&self) -> Sizes {
        self.0.sizes
    }
}

impl Mounted {
    /// A change of names: it happened, or the power failed before it did.
    fn change(
        &self,
        what: std::fmt::Arguments<'_>,
        change: impl FnOnce(&mut Image) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut state = self.0.lock_state();
        state.check_alive()?;
        if !state.count() {
            return Err(io::Error::other("the power failed"));
        }
        state.tell(what);
        change(&mut state.image)
    }
}

impl DiskFile for SimFile {
    fn length(&self) -> io::Result<u64> {
        let state = self.disk.lock_state();
        state.check_alive()?;
        Ok(state.image.contents(self.inode).len() as u64)
    }

    fn reserve(&self, bytes: u64) -> io::Result<()> {
        let state = self.disk.lock_state();
        state.check_alive()?;
        state.check_room(bytes)
    }

    fn read_at(&self, into: &mut [u8], offset: u64) -> io::Result<usize> {
        let state = self.disk.lock_state();
        state.check_alive()?;
        let contents = state.image.contents(self.inode);
        let from = usize::try_from(offset).unwrap_or(usize::MAX).min(contents.len());
        let count = into.len().min(contents.len() - from);
        into[..count].copy_from_slice(&contents[from..from + count]);
        Ok(count)
    }

    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut guard = self.disk.lock_state();
        let state = &mut *guard;
        state.check_alive()?;
        let longer =
            (offset + bytes.len() as u64).saturating_sub(state.image.contents(self.inode).len() as u64);
        state.check_room(longer)?;
        if !state.count() {
            // In flight when the power failed: any of its sectors.
            let (id, bytes) = (state.write_next, bytes.to_vec());
            state.in_flight.push(InFlight { id, inode: self.inode, offset, bytes });
            return Err(io::Error::other("the power failed"));
        }
        state.image.write(self.inode, offset, bytes, self.durably);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.sync_all()
    }

    fn sync_all(&self) -> io::Result<()> {
        let mut state = self.disk.lock_state();
        state.check_alive()?;
        if !state.count() {
            return Err(io::Error::other("the power failed"));
        }
        state.image.sync(self.inode);
        Ok(())
    }

    fn raw_fd(&self) -> Option<RawFd> {
        None
    }
}
