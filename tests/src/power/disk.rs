//! The engine's disk over a [`Medium`], which takes images as it is used.
//!
//! Every operation that changes something is followed by a few *shots*: images of what a power loss right
//! after it could leave, put aside together with what was promised by then, to be audited when the load
//! pauses. Log writes come through [`MediumDisk::launch`] and [`MediumDisk::land`], because a real driver
//! has several of them under way at a time and they complete in any order.

use std::io;
use std::os::fd::RawFd;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};

use tenure::log::{DirLock, LogError};
use tenure::simulation::{Access, Disk, DiskFile, Entry, Sizes, lock};

use super::medium::{Choice, FileIndex, Medium, Node};
use super::truth::Promises;
use crate::random::Random;

/// Segment sizes are multiples of this: small, so that a short run fills and recycles many.
pub const SEGMENT_BYTES: u64 = 256 << 10;
/// Largest batch; a segment is left when no such batch fits any more.
const BATCH_BYTES_MAX: usize = 128 << 10;
const SIZES: Sizes =
    Sizes { segment_bytes_unit: SEGMENT_BYTES, batch_bytes_max: BATCH_BYTES_MAX, reads_ahead: false };

/// An image and what had been promised when the power went.
#[derive(Debug)]
pub struct Shot {
    /// What the disk holds.
    pub image: Medium,
    /// What must be there.
    pub promises: Arc<Promises>,
    /// Which image it is, for the report.
    pub label: String,
}

#[derive(Debug)]
struct State {
    medium: Medium,
    random: Random,
    /// Images taken at random after each operation, besides the two extremes. 0: none at all.
    shots_each: u64,
    shots: Vec<Shot>,
    operations: u64,
    /// When the image of the durable part was last taken.
    settled_count: u64,
    promises: Arc<Promises>,
    sizes: Sizes,
}

/// See the module's header.
#[derive(Clone, Debug)]
pub struct MediumDisk {
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct OpenFile {
    disk: MediumDisk,
    file: FileIndex,
    durably: bool,
}

impl MediumDisk {
    /// A disk that takes so many random images after each operation.
    #[must_use]
    pub fn recording(medium: Medium, seed: u64, shots_each: u64) -> MediumDisk {
        let state = State {
            medium,
            random: Random::new(seed),
            shots_each,
            shots: Vec::new(),
            operations: 0,
            settled_count: 0,
            promises: Arc::default(),
            sizes: SIZES,
        };
        MediumDisk { state: Arc::new(Mutex::new(state)) }
    }

    /// A disk that takes no images.
    #[must_use]
    pub fn plain(medium: Medium, seed: u64) -> MediumDisk {
        MediumDisk::recording(medium, seed, 0)
    }

    /// A disk of other sizes that takes no images.
    #[must_use]
    pub fn sized(medium: Medium, seed: u64, sizes: Sizes) -> MediumDisk {
        let disk = MediumDisk::plain(medium, seed);
        disk.state().sizes = sizes;
        disk
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no operation panics")
    }

    /// Looks at or changes the medium without taking images.
    pub fn with<T>(&self, look: impl FnOnce(&mut Medium) -> T) -> T {
        look(&mut self.state().medium)
    }

    /// What a power loss from now on must leave.
    pub fn promise(&self, promises: Arc<Promises>) {
        self.state().promises = promises;
    }

    /// The images taken since the last call.
    #[must_use]
    pub fn take_shots(&self) -> Vec<Shot> {
        std::mem::take(&mut self.state().shots)
    }

    /// Begins a log write.
    pub fn launch(&self, file: FileIndex, id: u64, bytes: &[u8], offset: u64) {
        self.after("launch", |medium| medium.launch(file, id, bytes, at(offset)));
    }

    /// Completes a log write.
    pub fn land(&self, file: FileIndex, id: u64, durably: bool) {
        self.after("land", |medium| medium.land(file, id, durably));
    }

    /// Does one operation and takes the images of what may be left after it.
    fn after<T>(&self, what: &str, change: impl FnOnce(&mut Medium) -> T) -> T {
        let mut state = self.state();
        let result = change(&mut state.medium);
        state.shoot(what);
        result
    }
}

impl State {
    fn shoot(&mut self, what: &str) {
        self.operations += 1;
        if self.shots_each == 0 {
            return;
        }
        // The durable part is worth another image when there is more of it, the rest when there is a rest.
        let settled_count = std::mem::replace(&mut self.settled_count, self.medium.settled_count());
        let nothing = u64::from(settled_count != self.settled_count);
        let random = if self.medium.is_settled() { 0 } else { self.shots_each };
        let choices = (0..nothing)
            .map(|_| Choice::Nothing)
            .chain((0..u64::from(random > 0)).map(|_| Choice::Everything))
            .chain((0..random).map(|_| Choice::Any));
        for (number, choice) in choices.enumerate() {
            let image = self.medium.image(choice, &mut self.random);
            let label = format!("operation {} ({what}), image {number} ({choice:?})", self.operations);
            self.shots.push(Shot { image, promises: Arc::clone(&self.promises), label });
        }
    }
}

fn at(offset: u64) -> usize {
    usize::try_from(offset).expect("a medium fits into memory")
}

impl Disk for MediumDisk {
    fn open(&self, path: &Path, access: Access) -> io::Result<Arc<dyn DiskFile>> {
        let file = match access {
            Access::Create => self.after("create", |medium| medium.create(path))?,
            Access::Read | Access::Write | Access::WriteDurably => self.state().medium.file(path)?,
        };
        Ok(Arc::new(OpenFile { disk: self.clone(), file, durably: access == Access::WriteDurably }))
    }

    fn read_whole(&self, path: &Path) -> io::Result<Vec<u8>> {
        self.state().medium.read_whole(path)
    }

    fn write_whole(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let file = self.after("create", |medium| medium.create(path))?;
        self.after("write", |medium| medium.write(file, bytes, 0));
        self.after("sync", |medium| medium.sync(file));
        Ok(())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<Entry>> {
        let entries = self.state().medium.list(dir)?;
        let entry = |(name, node)| Entry { name, is_dir: matches!(node, Node::Directory(_)) };
        Ok(entries.into_iter().map(entry).collect())
    }

    fn length(&self, path: &Path) -> io::Result<u64> {
        let state = self.state();
        Ok(state.medium.length(state.medium.file(path)?) as u64)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.after("rename", |medium| medium.rename(from, to))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.after("remove", |medium| medium.remove(path))
    }

    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        self.after("make directory", |medium| medium.create_dir(dir));
        Ok(())
    }

    fn remove_dir(&self, dir: &Path) -> io::Result<()> {
        self.after("remove directory", |medium| medium.remove_dir(dir))
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.after("sync directory", |medium| medium.sync_dir(dir))
    }

    fn lock(&self, _dir: &Path) -> Result<DirLock, LogError> {
        Ok(lock())
    }

    fn random(&self) -> u64 {
        self.state().random.next()
    }

    fn sizes(&self) -> Sizes {
        self.state().sizes
    }
}

impl DiskFile for OpenFile {
    fn length(&self) -> io::Result<u64> {
        Ok(self.disk.state().medium.length(self.file) as u64)
    }

    fn reserve(&self, _bytes: u64) -> io::Result<()> {
        Ok(())
    }

    fn read_at(&self, into: &mut [u8], offset: u64) -> io::Result<usize> {
        Ok(self.disk.state().medium.read(self.file, into, at(offset)))
    }

    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        assert!(!self.durably, "log writes come by launch and land");
        self.disk.after("write", |medium| medium.write(self.file, bytes, at(offset)));
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.disk.after("sync", |medium| medium.sync(self.file));
        Ok(())
    }

    fn sync_all(&self) -> io::Result<()> {
        self.sync_data()
    }

    fn raw_fd(&self) -> Option<RawFd> {
        None
    }
}
