//! A data directory as a whole: lock, manifest, one folder per shard.
//!
//! ```text
//! DIR/LOCK  DIR/MANIFEST
//! DIR/shard-0000/00000000000000000000.log …  snapshot-<position>.img  <position>.spare
//! ```
//! The order of a start: [`open`](DataDir::open) (lock, manifest) → recover each shard →
//! [`begin_epoch`](DataDir::begin_epoch) (next epoch and recovered tails made durable) → first write.
//! Re-sharding builds new folders beside the old ones ([`plan_shards`](DataDir::plan_shards)), gives each
//! a snapshot, and switches with one manifest write ([`adopt`](DataDir::adopt)); a crash before that leaves
//! the old layout in force and the new folders to be removed on the next open.

use std::path::{Path, PathBuf};

use super::disk::DiskPort;
use super::error::LogError;
use super::limits::SEGMENT_BYTES_UNIT;
use super::lock::DirLock;
use super::manifest::{Manifest, ShardManifest};

/// A locked data directory.
#[derive(Debug)]
pub struct DataDir {
    disk: DiskPort,
    path: PathBuf,
    manifest: Option<Manifest>,
    _lock: DirLock,
}

/// One shard's log on disk: where it is and whose batches belong to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardLog {
    /// The disk that it is on.
    pub(crate) disk: DiskPort,
    /// Folder of segments and snapshots.
    pub dir: PathBuf,
    /// Random identity of the log.
    pub log_id: u64,
    /// Which shard.
    pub shard: u16,
    /// Position of the log's first byte.
    pub start: u64,
    /// The log is known complete up to here.
    pub floor: u64,
    /// Batches at or behind `floor` are of this epoch or a later one.
    pub epoch: u32,
}

/// Empty file that is there while a run may have told what is not on disk.
pub(super) const UNSYNCED_FILE: &str = "UNSYNCED";

/// More than any run can have written and not synced: the log goes past the system's cache, and no device holds 64 GiB in its own.
/// Tokens (`tenure_core::limits::TOKEN_MAX`) last for a million such ends.
const UNSYNCED_BYTES_MAX: u64 = 1 << 36;

const _: () = assert!(tenure_core::limits::TOKEN_MAX / UNSYNCED_BYTES_MAX > 1_000_000);

impl DataDir {
    /// Locks `path`, creating the directory when it is missing, and reads its manifest.
    ///
    /// # Errors
    /// In use by another process, not writable, or a manifest that is damaged or of another version.
    pub fn open(path: &Path) -> Result<DataDir, LogError> {
        DataDir::open_on(DiskPort::System, path)
    }

    /// As [`open`](DataDir::open), on any disk.
    pub(crate) fn open_on(disk: DiskPort, path: &Path) -> Result<DataDir, LogError> {
        disk.create_dir(path).map_err(LogError::io("create", path))?;
        let lock = disk.lock(path)?;
        let manifest = Manifest::read_on(&disk, path)?;
        let dir = DataDir { disk, path: path.to_owned(), manifest, _lock: lock };
        match &dir.manifest {
            Some(manifest) => dir.remove_unlisted(manifest)?,
            None => dir.refuse_orphans()?,
        }
        Ok(dir)
    }

    /// The disk that it is on.
    pub(crate) fn disk(&self) -> &DiskPort {
        &self.disk
    }

    /// The directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The manifest; `None` in a new directory.
    #[must_use]
    pub fn manifest(&self) -> Option<&Manifest> {
        self.manifest.as_ref()
    }

    /// Makes a new directory a log with a shard per entry of `generation_bases`.
    ///
    /// # Errors
    /// Files could not be written.
    pub fn create(&mut self, generation_bases: &[u64]) -> Result<&Manifest, LogError> {
        assert!(self.manifest.is_none(), "a directory is created once");
        self.sync_way_here()?;
        let shards = self.new_shards(generation_bases, 0, "")?;
        self.replace(Manifest::new(self.disk.random(), shards))
    }

    /// The log of one shard, as the manifest has it.
    #[must_use]
    pub fn shard_log(&self, shard: u16) -> ShardLog {
        self.listed().shard_log_on(&self.disk, &self.path, shard)
    }

    /// Starts a run: makes the next epoch and the recovered tails durable. Must precede the first
    /// write. Returns the epoch.
    ///
    /// # Errors
    /// The manifest could not be written.
    pub fn begin_epoch(&mut self, tails: &[u64]) -> Result<u32, LogError> {
        let epoch = self.next_epoch()?;
        self.replace(Manifest { epoch, ..self.listed().with_tails(tails) })?;
        Ok(epoch)
    }

    /// Whether the last run may have told what its log does not hold: it replied before writing, and did not
    /// end in order.
    ///
    /// # Errors
    /// The directory cannot be listed.
    pub fn may_have_told_more(&self) -> Result<bool, LogError> {
        let entries = self.disk.list(&self.path).map_err(LogError::io("list", &self.path))?;
        let planted = tenure_planted::is(tenure_planted::Bug::TokensAgain);
        Ok(entries.iter().any(|entry| entry.name == UNSYNCED_FILE) && !planted)
    }

    /// Notes durably that from now on replies may leave before they are on disk, or that none did.
    ///
    /// # Errors
    /// The note could not be written or removed.
    pub fn note_unsynced(&self, unsynced: bool) -> Result<(), LogError> {
        if self.may_have_told_more()? == unsynced {
            return Ok(());
        }
        let path = self.path.join(UNSYNCED_FILE);
        let done = if unsynced { self.disk.write_whole(&path, b"") } else { self.disk.remove(&path) };
        done.and_then(|()| self.disk.sync_dir(&self.path)).map_err(LogError::io("write", &path))
    }

    /// Records where each shard's log ended at a clean stop, everything durable.
    ///
    /// # Errors
    /// The manifest could not be written.
    pub fn record_tails(&mut self, tails: &[u64]) -> Result<(), LogError> {
        let manifest = self.listed().with_tails(tails);
        self.replace(manifest).map(drop)
    }

    /// Makes empty folders for another set of shards, whose positions start above every recovered
    /// tail, and above all that may have been told and lost. Nothing of the present log changes until [`adopt`](Self::adopt). The plan is of the
    /// next epoch, so that its folders can never be those of a log in force.
    ///
    /// # Errors
    /// Folders could not be made.
    pub fn plan_shards(&self, generation_bases: &[u64], tails: &[u64]) -> Result<Manifest, LogError> {
        let manifest = self.listed();
        let mut start = tails.iter().max().map_or(0, |tail| (tail + 1).next_multiple_of(SEGMENT_BYTES_UNIT));
        if self.may_have_told_more()? {
            start += UNSYNCED_BYTES_MAX;
        }
        let epoch = self.next_epoch()?;
        self.remove_unlisted(manifest)?;
        let shards = self.new_shards(generation_bases, start, &format!("-e{epoch}"))?;
        Ok(Manifest { log_id: self.disk.random(), epoch, shards, ..manifest.clone() })
    }

    /// Switches to a planned set of shards, each of which has its snapshot, and removes the old one.
    ///
    /// # Errors
    /// The manifest could not be written; the old shards are then still in force.
    pub fn adopt(&mut self, planned: Manifest) -> Result<(), LogError> {
        let manifest = self.replace(planned)?.clone();
        self.remove_unlisted(&manifest)
    }

    fn listed(&self) -> &Manifest {
        self.manifest.as_ref().expect("the directory has been created")
    }

    fn next_epoch(&self) -> Result<u32, LogError> {
        self.listed().epoch.checked_add(1).ok_or_else(|| LogError::Manifest {
            path: self.path.join(super::manifest::MANIFEST_FILE),
            reason: "started 2^32 times".to_owned(),
        })
    }

    fn replace(&mut self, manifest: Manifest) -> Result<&Manifest, LogError> {
        manifest.write_on(&self.disk, &self.path)?;
        Ok(self.manifest.insert(manifest))
    }

    fn new_shards(
        &self,
        generation_bases: &[u64],
        start: u64,
        suffix: &str,
    ) -> Result<Vec<ShardManifest>, LogError> {
        let mut shards = Vec::with_capacity(generation_bases.len());
        for (index, &generation_base) in generation_bases.iter().enumerate() {
            let directory = format!("shard-{index:04}{suffix}");
            let path = self.path.join(&directory);
            self.disk.create_dir(&path).map_err(LogError::io("create", &path))?;
            shards.push(ShardManifest {
                directory,
                generation_base,
                seed: self.disk.random(),
                start,
                tail: start,
            });
        }
        self.disk.sync_dir(&self.path).map_err(LogError::io("sync", &self.path))?;
        Ok(shards)
    }

    /// The directory may have been made a moment ago, and those above it: what is acknowledged in it must not go
    /// with their names (S3). Directories that this user may not open were made by somebody else.
    fn sync_way_here(&self) -> Result<(), LogError> {
        let above = self
            .path
            .ancestors()
            .skip(1)
            .map(|dir| if dir.as_os_str().is_empty() { Path::new(".") } else { dir });
        for dir in above.take(self.path.components().count()) {
            match self.disk.sync_dir(dir) {
                Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => break,
                outcome => outcome.map_err(LogError::io("sync", dir))?,
            }
        }
        Ok(())
    }

    /// Removes shard folders of a re-sharding that did not finish, or of the layout before it.
    fn remove_unlisted(&self, manifest: &Manifest) -> Result<(), LogError> {
        for (name, path) in shard_dirs(&self.disk, &self.path)? {
            if !manifest.shards.iter().any(|shard| shard.directory == name) {
                tracing::info!(path = %path.display(), "removing a shard folder that the manifest does not list");
                self.disk.remove_dir(&path).map_err(LogError::io("remove", &path))?;
            }
        }
        Ok(())
    }

    /// Without a manifest, shard folders with files in them mean that the manifest was lost.
    fn refuse_orphans(&self) -> Result<(), LogError> {
        for (_, path) in shard_dirs(&self.disk, &self.path)? {
            if !self.disk.list(&path).map_err(LogError::io("list", &path))?.is_empty() {
                return Err(LogError::Manifest {
                    path: self.path.join(super::manifest::MANIFEST_FILE),
                    reason: format!("missing, although {} holds a log", path.display()),
                });
            }
        }
        Ok(())
    }
}

impl Manifest {
    /// The log of one shard of the data directory `dir`.
    #[must_use]
    pub fn shard_log(&self, dir: &Path, shard: u16) -> ShardLog {
        self.shard_log_on(&DiskPort::System, dir, shard)
    }

    fn shard_log_on(&self, disk: &DiskPort, dir: &Path, shard: u16) -> ShardLog {
        let listed = &self.shards[usize::from(shard)];
        ShardLog {
            disk: disk.clone(),
            dir: dir.join(&listed.directory),
            log_id: self.log_id,
            shard,
            start: listed.start,
            floor: listed.tail,
            epoch: self.epoch,
        }
    }

    fn with_tails(&self, tails: &[u64]) -> Manifest {
        assert_eq!(tails.len(), self.shards.len(), "a tail per shard");
        let mut manifest = self.clone();
        for (shard, &tail) in manifest.shards.iter_mut().zip(tails) {
            shard.tail = shard.tail.max(tail);
        }
        manifest
    }
}

/// Folders named like ours: `shard-` and four digits, optionally `-e` and a number.
fn shard_dirs(disk: &DiskPort, dir: &Path) -> Result<Vec<(String, PathBuf)>, LogError> {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let ours = |name: &str| {
        let Some(rest) = name.strip_prefix("shard-") else { return false };
        match rest.split_once("-e") {
            Some((index, epoch)) => index.len() == 4 && digits(index) && digits(epoch),
            None => rest.len() == 4 && digits(rest),
        }
    };
    let entries = disk.list(dir).map_err(LogError::io("list", dir))?;
    let folders = entries.into_iter().filter(|entry| entry.is_dir && ours(&entry.name));
    let mut found: Vec<_> = folders.map(|entry| (entry.name.clone(), dir.join(entry.name))).collect();
    found.sort_unstable();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn epochs_and_tails_are_durable_before_use() {
        let home = tempfile::tempdir().unwrap();
        let mut dir = DataDir::open(home.path()).unwrap();
        assert!(dir.manifest().is_none());
        dir.create(&[0, 1 << 34]).unwrap();
        assert_eq!(dir.begin_epoch(&[0, 4096]).unwrap(), 1);
        let log = dir.shard_log(1);
        assert_eq!((log.shard, log.start, log.floor), (1, 0, 4096));
        assert!(log.dir.is_dir());
        drop(dir);
        let mut dir = DataDir::open(home.path()).unwrap();
        assert_eq!(dir.shard_log(1), log);
        assert_eq!(dir.begin_epoch(&[8192, 4096]).unwrap(), 2);
    }

    #[test]
    fn one_process_at_a_time() {
        let home = tempfile::tempdir().unwrap();
        let _dir = DataDir::open(home.path()).unwrap();
        assert!(matches!(DataDir::open(home.path()), Err(LogError::Locked { .. })));
    }

    #[test]
    fn a_lost_manifest_is_not_a_new_directory() {
        let home = tempfile::tempdir().unwrap();
        let mut dir = DataDir::open(home.path()).unwrap();
        dir.create(&[0]).unwrap();
        let segment = dir.shard_log(0).dir.join("00000000000000000000.log");
        drop(dir);
        std::fs::remove_file(home.path().join("MANIFEST")).unwrap();
        drop(DataDir::open(home.path()).expect("empty folders are an unfinished creation"));
        std::fs::write(segment, [0]).unwrap();
        let error = DataDir::open(home.path()).unwrap_err().to_string();
        assert!(error.contains("MANIFEST: missing, although"), "{error}");
    }

    #[test]
    fn resharding_switches_at_once_and_cleans_up() {
        let home = tempfile::tempdir().unwrap();
        let mut dir = DataDir::open(home.path()).unwrap();
        dir.create(&[0, 1]).unwrap();
        dir.begin_epoch(&[0, 0]).unwrap();
        let before = dir.manifest().unwrap().clone();
        std::fs::create_dir(home.path().join("shard-backup")).unwrap();
        dir.plan_shards(&[0, 1, 2], &[4096, 12_288]).unwrap();
        drop(dir);
        // The first plan was never adopted: as if the process had died.
        let mut dir = DataDir::open(home.path()).unwrap();
        assert_eq!(dir.manifest(), Some(&before));
        assert!(!home.path().join("shard-0002-e2").exists());
        let planned = dir.plan_shards(&[0, 1, 2], &[4096, 12_288]).unwrap();
        dir.adopt(planned).unwrap();
        let names: Vec<String> =
            shard_dirs(&DiskPort::System, home.path()).unwrap().into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["shard-0000-e2", "shard-0001-e2", "shard-0002-e2"]);
        let log = dir.shard_log(2);
        assert_eq!((log.start, log.floor), (1 << 20, 1 << 20), "above every old position");
        assert_ne!(log.log_id, before.log_id);
        assert!(home.path().join("shard-backup").exists(), "what is not ours stays");
        // Re-sharded again before the first write: other folders, the present ones untouched.
        std::fs::write(log.dir.join("a snapshot"), b"image").unwrap();
        let again = dir.plan_shards(&[0], &[1 << 20; 3]).unwrap();
        assert_eq!((again.shards[0].directory.as_str(), again.shards[0].start), ("shard-0000-e3", 2 << 20));
        assert!(log.dir.join("a snapshot").exists());
    }

    /// File-system identity is per thread on Linux: this thread becomes nobody, whoever runs the test.
    #[test]
    fn a_directory_that_cannot_be_written_is_a_clear_error() {
        let home = tempfile::tempdir().unwrap();
        std::fs::set_permissions(home.path(), std::os::unix::fs::PermissionsExt::from_mode(0o555)).unwrap();
        let path = home.path().to_owned();
        let attempt = std::thread::spawn(move || {
            // SAFETY: changes only the calling thread's file-system user id.
            unsafe { libc::syscall(libc::SYS_setfsuid, 65_534) };
            DataDir::open(&path).map(drop)
        });
        let error = attempt.join().unwrap().unwrap_err().to_string();
        assert!(error.contains("LOCK") && error.contains("must be writable by this user"), "{error}");
    }
}
