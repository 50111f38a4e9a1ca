//! A disk that fails when it is told to: a file system of our own, mounted, with the real server on it.
//!
//! The log goes through io_uring and O_DIRECT, where nothing in a process can come in between: no preloaded library,
//! no filter of system calls. So the fault is put underneath. A FUSE file system mirrors a temporary folder, and the
//! server writes to it with the same calls, flags and kernel code as anywhere; an O_DSYNC write arrives here as a
//! write and a sync, each of which can be refused on its own.
//!
//! ```text
//!   tenured ── io_uring: write O_DIRECT|O_DSYNC ──> kernel ── FUSE_WRITE, FUSE_FSYNC ──> Mirror ──> temporary folder
//!                                                                            FaultyDisk tells it what goes wrong
//! ```
//! - A failing *write* has written its first half. A failing *sync* throws away what it was to make durable, and the
//!   next one succeeds: what Linux does with dirty pages after an error. A *read* fails in the sectors that are bad.
//! - A *stalled* disk answers nothing at all until it is released; a *slow* one takes its time for each write and sync.
//!
//! It does not model power loss ([`crate::power`] does): after the process has ended, everything written is there.

use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

use fuser::MountOption;

mod mirror;

use mirror::Mirror;

/// What the kernel asks a disk for, as far as it can fail here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deed {
    /// Bytes into a file.
    Write,
    /// A file's bytes onto the medium.
    Sync,
    /// Bytes out of a file.
    Read,
}

/// One thing that will go wrong.
#[derive(Clone, Debug)]
pub struct Fault {
    /// What fails.
    pub deed: Deed,
    /// In files whose names end so.
    pub suffix: &'static str,
    /// How many such deeds go well first.
    pub after: u32,
    /// What the kernel is told.
    pub errno: i32,
    /// Only where these bytes of the file are touched, and then each time: a bad sector. Else it fails once.
    pub sectors: Option<Range<u64>>,
}

/// A mounted disk, gone with the value.
#[derive(Debug)]
pub struct FaultyDisk {
    moods: Arc<Moods>,
    mirrored: tempfile::TempDir,
    // Unmounts; after it nobody asks any more.
    session: Option<fuser::BackgroundSession>,
}

/// What the disk was told to do, and what it has done.
#[derive(Debug, Default)]
struct Moods {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    fault: Option<Fault>,
    struck: u32,
    stalled: bool,
    /// Deeds that wait for the end of the stall.
    waiting: u32,
    pace: Duration,
    writes: u64,
    syncs: u64,
}

impl FaultyDisk {
    /// Mounts it at `place`, an existing directory.
    ///
    /// # Errors
    /// The system does not let this user mount; the test that needs it says so and passes over.
    pub fn mount(place: &Path) -> Result<FaultyDisk, String> {
        let mirrored = tempfile::tempdir().map_err(|error| error.to_string())?;
        let moods = Arc::new(Moods::default());
        let mirror = Mirror::new(mirrored.path().to_owned(), Arc::clone(&moods));
        let options = [MountOption::FSName("tenure-test".to_owned()), MountOption::NoAtime];
        let session = fuser::spawn_mount2(mirror, place, &options).map_err(|error| error.to_string())?;
        Ok(FaultyDisk { moods, mirrored, session: Some(session) })
    }

    /// From now on this goes wrong.
    pub fn fail(&self, fault: Fault) {
        let mut state = self.moods.lock();
        state.struck = 0;
        state.fault = Some(fault);
    }

    /// How often the fault has struck.
    #[must_use]
    pub fn struck(&self) -> u32 {
        self.moods.lock().struck
    }

    /// Nothing goes wrong any more.
    pub fn heal(&self) {
        self.moods.lock().fault = None;
    }

    /// Each write and each sync takes this long from now on, one after the other.
    pub fn slow_down(&self, pace: Duration) {
        self.moods.lock().pace = pace;
    }

    /// Answers no write and no sync until the value returned is dropped.
    #[must_use]
    pub fn stall(&self) -> Stall {
        self.moods.lock().stalled = true;
        Stall { moods: Arc::clone(&self.moods) }
    }

    /// Writes and syncs so far.
    #[must_use]
    pub fn deeds(&self) -> (u64, u64) {
        let state = self.moods.lock();
        (state.writes, state.syncs)
    }

    /// The folder that is mirrored: the same files, without faults.
    #[must_use]
    pub fn beneath(&self) -> PathBuf {
        self.mirrored.path().to_owned()
    }
}

impl Drop for FaultyDisk {
    fn drop(&mut self) {
        {
            let mut state = self.moods.lock();
            state.stalled = false;
            state.fault = None;
            state.pace = Duration::ZERO;
        }
        self.moods.changed.notify_all();
        drop(self.session.take());
    }
}

/// A disk that stands still.
#[derive(Debug)]
pub struct Stall {
    moods: Arc<Moods>,
}

impl Stall {
    /// Whether a write or sync is waiting.
    #[must_use]
    pub fn is_felt(&self) -> bool {
        self.moods.lock().waiting > 0
    }
}

impl Drop for Stall {
    fn drop(&mut self) {
        self.moods.lock().stalled = false;
        self.moods.changed.notify_all();
    }
}

impl Moods {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nobody panics while holding it")
    }

    /// What becomes of a deed: goes well, or this error. Takes as long as the disk takes.
    fn meet(&self, deed: Deed, name: &str, bytes: Range<u64>) -> Result<(), io::Error> {
        let mut state = self.lock();
        match deed {
            Deed::Write => state.writes += 1,
            Deed::Sync => state.syncs += 1,
            Deed::Read => return state.meet_fault(deed, name, &bytes),
        }
        state.waiting += 1;
        while state.stalled {
            state = self.changed.wait(state).expect("nobody panics while holding it");
        }
        state.waiting -= 1;
        let (pace, outcome) = (state.pace, state.meet_fault(deed, name, &bytes));
        drop(state);
        std::thread::sleep(pace);
        outcome
    }
}

impl State {
    fn meet_fault(&mut self, deed: Deed, name: &str, bytes: &Range<u64>) -> Result<(), io::Error> {
        let Some(fault) = &mut self.fault else { return Ok(()) };
        if fault.deed != deed || !name.ends_with(fault.suffix) {
            return Ok(());
        }
        match &fault.sectors {
            Some(bad) if bad.start >= bytes.end || bytes.start >= bad.end => return Ok(()),
            Some(_) => {}
            None if fault.after > 0 => {
                fault.after -= 1;
                return Ok(());
            }
            None if self.struck > 0 => return Ok(()),
            None => {}
        }
        self.struck += 1;
        Err(io::Error::from_raw_os_error(fault.errno))
    }

    /// How many of these bytes can be read before the first bad one.
    fn readable(&self, name: &str, bytes: &Range<u64>) -> u64 {
        let bad =
            self.fault.as_ref().filter(|fault| fault.deed == Deed::Read && name.ends_with(fault.suffix));
        match bad.and_then(|fault| fault.sectors.as_ref()) {
            Some(bad) if bytes.contains(&bad.start) => bad.start - bytes.start,
            _ => bytes.end - bytes.start,
        }
    }
}
