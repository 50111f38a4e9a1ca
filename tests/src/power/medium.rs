//! A disk that knows what it may forget: bytes and names, each durable or not yet.
//!
//! The intuition: every file is its synced contents plus the writes since, every directory its synced
//! entries plus the changes since. What programs see is all of it; what a power loss leaves
//! ([`Medium::image`]) is the synced part plus any selection of the rest, chosen write by write and sector by
//! sector. A write that is being carried out with O_DSYNC counts as not synced until it completes.
//!
//! Contents are pages behind `Arc`, so that an image of megabytes costs as much as what differs in it.
//! It knows no engine: only names, bytes and syncs.

use std::collections::BTreeMap;
use std::io;
use std::path::{Component, Path};
use std::sync::{Arc, LazyLock};

use super::survival::Survival;
use crate::random::Random;

const PAGE_BYTES: usize = 4_096;

type Page = [u8; PAGE_BYTES];

static ZEROS: LazyLock<Arc<Page>> = LazyLock::new(|| Arc::new([0; PAGE_BYTES]));

/// Number of a file, whatever it is called.
pub type FileIndex = usize;

/// The contents of a file.
#[derive(Clone, Debug, Default)]
struct Contents {
    length: usize,
    pages: Vec<Arc<Page>>,
}

impl Contents {
    fn read(&self, into: &mut [u8], offset: usize) -> usize {
        let count = into.len().min(self.length.saturating_sub(offset));
        let mut done = 0;
        while done < count {
            let (page, at) = ((offset + done) / PAGE_BYTES, (offset + done) % PAGE_BYTES);
            let piece = (PAGE_BYTES - at).min(count - done);
            into[done..done + piece].copy_from_slice(&self.pages[page][at..at + piece]);
            done += piece;
        }
        count
    }

    fn write(&mut self, bytes: &[u8], offset: usize) {
        let end = offset + bytes.len();
        self.length = self.length.max(end);
        if self.pages.len() * PAGE_BYTES < self.length {
            self.pages.resize(self.length.div_ceil(PAGE_BYTES), Arc::clone(&ZEROS));
        }
        let mut done = 0;
        while done < bytes.len() {
            let (page, at) = ((offset + done) / PAGE_BYTES, (offset + done) % PAGE_BYTES);
            let piece = (PAGE_BYTES - at).min(bytes.len() - done);
            let from = &bytes[done..done + piece];
            if piece == PAGE_BYTES && from.iter().all(|&byte| byte == 0) {
                self.pages[page] = Arc::clone(&ZEROS);
            } else {
                Arc::make_mut(&mut self.pages[page])[at..at + piece].copy_from_slice(from);
            }
            done += piece;
        }
    }
}

/// A change of a file that no sync has reached.
#[derive(Clone, Debug)]
enum Change {
    Emptied,
    Written { offset: usize, bytes: Arc<[u8]> },
}

/// A write under way, durable once it completes.
#[derive(Clone, Debug)]
struct Flight {
    id: u64,
    offset: usize,
    bytes: Arc<[u8]>,
}

#[derive(Clone, Debug, Default)]
struct File {
    durable: Contents,
    current: Contents,
    unsynced: Vec<Change>,
    flights: Vec<Flight>,
}

/// What a name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Node {
    /// A file.
    File(FileIndex),
    /// A directory.
    Directory(usize),
}

/// A change of a directory that no sync has reached.
#[derive(Clone, Debug)]
enum NameChange {
    Made(String, Node),
    Removed(String),
    Renamed(String, String),
}

#[derive(Clone, Debug, Default)]
struct Directory {
    durable: BTreeMap<String, Node>,
    current: BTreeMap<String, Node>,
    unsynced: Vec<NameChange>,
}

impl NameChange {
    fn apply(&self, entries: &mut BTreeMap<String, Node>) {
        match self {
            NameChange::Made(name, node) => {
                entries.insert(name.clone(), *node);
            }
            NameChange::Removed(name) => {
                entries.remove(name);
            }
            NameChange::Renamed(from, to) => {
                // The change that made `from` may not have reached the disk.
                if let Some(node) = entries.remove(from) {
                    entries.insert(to.clone(), node);
                }
            }
        }
    }
}

/// See the module's header.
#[derive(Clone, Debug)]
pub struct Medium {
    files: Vec<File>,
    directories: Vec<Directory>,
    /// Times that something became durable.
    settled_count: u64,
    /// What this disk gets wrong: the audit must notice.
    lie: Option<Lie>,
}

/// A disk that reports as done what it has not done. Only to show that an audit can fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lie {
    /// Completed O_DSYNC writes are still in the cache.
    Writes,
    /// Syncs of files do nothing.
    Syncs,
    /// Syncs of directories do nothing.
    Names,
}

impl Default for Medium {
    fn default() -> Medium {
        Medium { files: Vec::new(), directories: vec![Directory::default()], settled_count: 0, lie: None }
    }
}

fn missing() -> io::Error {
    io::ErrorKind::NotFound.into()
}

fn names(path: &Path) -> Vec<&str> {
    let normal = path.components().filter_map(|component| match component {
        Component::Normal(name) => name.to_str(),
        _ => None,
    });
    normal.collect()
}

impl Medium {
    /// An empty disk that lies.
    #[must_use]
    pub fn lying(lie: Lie) -> Medium {
        Medium { lie: Some(lie), ..Medium::default() }
    }

    /// Grows with each thing that becomes durable.
    #[must_use]
    pub fn settled_count(&self) -> u64 {
        self.settled_count
    }

    fn find(&self, path: &Path) -> Option<Node> {
        names(path).into_iter().try_fold(Node::Directory(0), |node, name| match node {
            Node::Directory(index) => self.directories[index].current.get(name).copied(),
            Node::File(_) => None,
        })
    }

    fn directory(&self, path: &Path) -> io::Result<usize> {
        match self.find(path) {
            Some(Node::Directory(index)) => Ok(index),
            _ => Err(missing()),
        }
    }

    /// The file of this name.
    ///
    /// # Errors
    /// There is none.
    pub fn file(&self, path: &Path) -> io::Result<FileIndex> {
        match self.find(path) {
            Some(Node::File(index)) => Ok(index),
            _ => Err(missing()),
        }
    }

    /// The directory of a path and the last name of it.
    fn place<'a>(&self, path: &'a Path) -> io::Result<(usize, &'a str)> {
        let name = path.file_name().and_then(|name| name.to_str()).ok_or_else(missing)?;
        Ok((self.directory(path.parent().ok_or_else(missing)?)?, name))
    }

    fn change(&mut self, directory: usize, change: NameChange) {
        let directory = &mut self.directories[directory];
        change.apply(&mut directory.current);
        directory.unsynced.push(change);
    }

    /// Makes a file, or empties the one of this name.
    ///
    /// # Errors
    /// Its directory is missing.
    pub fn create(&mut self, path: &Path) -> io::Result<FileIndex> {
        if let Ok(index) = self.file(path) {
            self.files[index].current = Contents::default();
            self.files[index].unsynced.push(Change::Emptied);
            return Ok(index);
        }
        let (directory, name) = self.place(path)?;
        self.files.push(File::default());
        let index = self.files.len() - 1;
        self.change(directory, NameChange::Made(name.to_owned(), Node::File(index)));
        Ok(index)
    }

    /// Makes a directory and those above it.
    pub fn create_dir(&mut self, path: &Path) {
        let mut above = 0;
        for name in names(path) {
            above = match self.directories[above].current.get(name) {
                Some(Node::Directory(index)) => *index,
                _ => {
                    self.directories.push(Directory::default());
                    let made = self.directories.len() - 1;
                    self.change(above, NameChange::Made(name.to_owned(), Node::Directory(made)));
                    made
                }
            };
        }
    }

    /// Gives a file another name in the same directory.
    ///
    /// # Errors
    /// It is not there.
    ///
    /// # Panics
    /// The other name is in another directory, which no log needs.
    pub fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        self.file(from)?;
        let (directory, old) = self.place(from)?;
        let (other, new) = self.place(to)?;
        assert_eq!(directory, other, "renames stay in their directory");
        self.change(directory, NameChange::Renamed(old.to_owned(), new.to_owned()));
        Ok(())
    }

    /// Removes a file.
    ///
    /// # Errors
    /// It is not there.
    pub fn remove(&mut self, path: &Path) -> io::Result<()> {
        self.file(path)?;
        let (directory, name) = self.place(path)?;
        self.change(directory, NameChange::Removed(name.to_owned()));
        Ok(())
    }

    /// Removes a directory and what is in it, entry by entry.
    ///
    /// # Errors
    /// It is not there.
    pub fn remove_dir(&mut self, path: &Path) -> io::Result<()> {
        let index = self.directory(path)?;
        let inside: Vec<String> = self.directories[index].current.keys().cloned().collect();
        for name in inside {
            self.change(index, NameChange::Removed(name));
        }
        let (above, name) = self.place(path)?;
        self.change(above, NameChange::Removed(name.to_owned()));
        Ok(())
    }

    /// Makes the names in a directory durable.
    ///
    /// # Errors
    /// It is not there.
    pub fn sync_dir(&mut self, path: &Path) -> io::Result<()> {
        let index = self.directory(path)?;
        let directory = &mut self.directories[index];
        if !directory.unsynced.is_empty() {
            directory.unsynced.clear();
            self.settled_count += 1;
            if self.lie != Some(Lie::Names) {
                directory.durable.clone_from(&directory.current);
            }
        }
        Ok(())
    }

    /// The entries of a directory.
    ///
    /// # Errors
    /// It is not there.
    pub fn list(&self, path: &Path) -> io::Result<Vec<(String, Node)>> {
        let index = self.directory(path)?;
        Ok(self.directories[index].current.iter().map(|(name, node)| (name.clone(), *node)).collect())
    }

    /// Writes everything into a directory of the real file system, to be looked at with `tenure inspect`.
    ///
    /// # Errors
    /// Whatever the system answers.
    pub fn export(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::create_dir_all(to)?;
        for (name, node) in self.list(from)? {
            match node {
                Node::File(_) => std::fs::write(to.join(&name), self.read_whole(&from.join(&name))?)?,
                Node::Directory(_) => self.export(&from.join(&name), &to.join(&name))?,
            }
        }
        Ok(())
    }

    /// Length of a file.
    #[must_use]
    pub fn length(&self, file: FileIndex) -> usize {
        self.files[file].current.length
    }

    /// Reads what is there.
    #[must_use]
    pub fn read(&self, file: FileIndex, into: &mut [u8], offset: usize) -> usize {
        self.files[file].current.read(into, offset)
    }

    /// The whole of a file.
    ///
    /// # Errors
    /// It is not there.
    pub fn read_whole(&self, path: &Path) -> io::Result<Vec<u8>> {
        let file = self.file(path)?;
        let mut bytes = vec![0; self.length(file)];
        let count = self.read(file, &mut bytes, 0);
        assert_eq!(count, bytes.len(), "a file is as long as it says");
        Ok(bytes)
    }

    /// Writes without a sync.
    pub fn write(&mut self, file: FileIndex, bytes: &[u8], offset: usize) {
        let file = &mut self.files[file];
        file.current.write(bytes, offset);
        file.unsynced.push(Change::Written { offset, bytes: bytes.into() });
    }

    /// Begins a write that [`land`](Self::land) completes; until then any part of it may be on the disk.
    pub fn launch(&mut self, file: FileIndex, id: u64, bytes: &[u8], offset: usize) {
        self.files[file].flights.push(Flight { id, offset, bytes: bytes.into() });
    }

    /// Completes a write: durably, or only handed to the system.
    ///
    /// # Panics
    /// It was never begun.
    pub fn land(&mut self, file: FileIndex, id: u64, durably: bool) {
        let file = &mut self.files[file];
        let at = file.flights.iter().position(|flight| flight.id == id).expect("the write is under way");
        let Flight { offset, bytes, .. } = file.flights.remove(at);
        file.current.write(&bytes, offset);
        if durably {
            self.settled_count += 1;
            if self.lie != Some(Lie::Writes) {
                file.durable.write(&bytes, offset);
            }
        } else {
            file.unsynced.push(Change::Written { offset, bytes });
        }
    }

    /// Makes a file's contents and length durable; writes under way are none of its business.
    pub fn sync(&mut self, file: FileIndex) {
        let file = &mut self.files[file];
        if !file.unsynced.is_empty() {
            file.unsynced.clear();
            self.settled_count += 1;
            if self.lie != Some(Lie::Syncs) {
                file.durable = file.current.clone();
            }
        }
    }

    /// Whether a stretch of a file would survive.
    #[must_use]
    pub fn is_durable(&self, file: FileIndex, offset: usize, length: usize) -> bool {
        let overlaps = |at: usize, count: usize| at < offset + length && offset < at + count;
        let file = &self.files[file];
        let unsynced = file.unsynced.iter().any(|change| match change {
            Change::Emptied => true,
            Change::Written { offset, bytes } => overlaps(*offset, bytes.len()),
        });
        !unsynced && !file.flights.iter().any(|flight| overlaps(flight.offset, flight.bytes.len()))
    }

    /// Whether a power loss now can leave more than one thing behind.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.directories.iter().all(|directory| directory.unsynced.is_empty())
            && self.files.iter().all(|file| file.unsynced.is_empty() && file.flights.is_empty())
    }

    /// The process is gone, the system is not: writes under way end whole, in part or not at all, and are
    /// synced by nobody.
    pub fn kill(&mut self, random: &mut Random) {
        for file in &mut self.files {
            for flight in std::mem::take(&mut file.flights) {
                let landed = Survival::draw(random, flight.bytes.len()).pieces(&flight.bytes, random);
                for (at, bytes) in landed {
                    file.current.write(&bytes, flight.offset + at);
                    file.unsynced.push(Change::Written { offset: flight.offset + at, bytes: bytes.into() });
                }
            }
        }
    }

    /// What a power loss now may leave behind: everything durable, and of the rest what `choice` says.
    #[must_use]
    pub fn image(&self, choice: Choice, random: &mut Random) -> Medium {
        let mut image = Medium { lie: self.lie, ..Medium::default() };
        self.image_directory(0, 0, &mut image, choice, random);
        image
    }

    fn image_directory(
        &self,
        index: usize,
        as_index: usize,
        image: &mut Medium,
        choice: Choice,
        random: &mut Random,
    ) {
        let directory = &self.directories[index];
        let mut entries = directory.durable.clone();
        let in_order = random.one_in(2);
        let first = random.below(directory.unsynced.len() as u64 + 1) as usize;
        for (at, change) in directory.unsynced.iter().enumerate() {
            let kept = match choice {
                Choice::Nothing => false,
                Choice::Everything => true,
                Choice::Any if in_order => at < first,
                Choice::Any => random.one_in(2),
            };
            if kept {
                change.apply(&mut entries);
            }
        }
        for (name, node) in entries {
            let copy = match node {
                Node::File(file) => {
                    let contents = self.files[file].survivor(choice, random);
                    let file = File { current: contents.clone(), durable: contents, ..File::default() };
                    image.files.push(file);
                    Node::File(image.files.len() - 1)
                }
                Node::Directory(inner) => {
                    image.directories.push(Directory::default());
                    let copy = image.directories.len() - 1;
                    self.image_directory(inner, copy, image, choice, random);
                    Node::Directory(copy)
                }
            };
            let directory = &mut image.directories[as_index];
            directory.current.insert(name.clone(), copy);
            directory.durable.insert(name, copy);
        }
    }
}

/// Which of the legal images.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// Only what is durable.
    Nothing,
    /// All that was done.
    Everything,
    /// Any selection.
    Any,
}

impl File {
    fn survivor(&self, choice: Choice, random: &mut Random) -> Contents {
        let mut contents = self.durable.clone();
        let flights = self.flights.iter().map(|flight| (flight.offset, &flight.bytes));
        for change in &self.unsynced {
            match change {
                Change::Emptied if choice == Choice::Nothing => {}
                Change::Emptied if choice == Choice::Everything || random.one_in(2) => {
                    contents = Contents::default();
                }
                Change::Emptied => {}
                Change::Written { offset, bytes } => {
                    put_some(&mut contents, bytes, *offset, choice, random);
                }
            }
        }
        for (offset, bytes) in flights {
            put_some(&mut contents, bytes, offset, choice, random);
        }
        contents
    }
}

fn put_some(contents: &mut Contents, bytes: &[u8], offset: usize, choice: Choice, random: &mut Random) {
    match choice {
        Choice::Nothing => {}
        Choice::Everything => contents.write(bytes, offset),
        Choice::Any => {
            for (at, piece) in Survival::draw(random, bytes.len()).pieces(bytes, random) {
                contents.write(&piece, offset + at);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::survival::SECTOR_BYTES;
    use super::*;

    fn kept(medium: &Medium, path: &str, choice: Choice, seed: u64) -> Option<Vec<u8>> {
        medium.image(choice, &mut Random::new(seed)).read_whole(Path::new(path)).ok()
    }

    #[test]
    fn a_name_lasts_after_its_directory_is_synced_and_bytes_after_their_file_is() {
        let (mut medium, path) = (Medium::default(), Path::new("/d/f"));
        medium.create_dir(Path::new("/d"));
        let file = medium.create(path).unwrap();
        medium.write(file, b"bytes", 0);
        medium.sync(file);
        medium.sync_dir(Path::new("/d")).unwrap();
        assert_eq!(kept(&medium, "/d/f", Choice::Nothing, 1), None, "the name of /d is not synced");
        medium.sync_dir(Path::new("/")).unwrap();
        assert_eq!(kept(&medium, "/d/f", Choice::Nothing, 1).as_deref(), Some(&b"bytes"[..]));
        medium.write(file, b"other", 0);
        medium.rename(path, Path::new("/d/g")).unwrap();
        assert_eq!(kept(&medium, "/d/f", Choice::Nothing, 1).as_deref(), Some(&b"bytes"[..]));
        assert_eq!(kept(&medium, "/d/g", Choice::Everything, 1).as_deref(), Some(&b"other"[..]));
    }

    #[test]
    fn a_write_under_way_leaves_any_of_its_sectors_and_nothing_else() {
        let (mut medium, path) = (Medium::default(), Path::new("/f"));
        let file = medium.create(path).unwrap();
        medium.write(file, &[1; 8 * SECTOR_BYTES], 0);
        medium.sync(file);
        medium.sync_dir(Path::new("/")).unwrap();
        medium.launch(file, 7, &[2; 4 * SECTOR_BYTES], 2 * SECTOR_BYTES);
        let mut shapes = std::collections::BTreeSet::new();
        for seed in 0..500 {
            let bytes = kept(&medium, "/f", Choice::Any, seed).unwrap();
            let sectors: Vec<&[u8]> = bytes.chunks(SECTOR_BYTES).collect();
            for outside in [0, 1, 6, 7] {
                assert!(sectors[outside].iter().all(|&byte| byte == 1));
            }
            shapes.insert(
                sectors[2..6].iter().map(|sector| (sector[0], sector[SECTOR_BYTES - 1])).collect::<Vec<_>>(),
            );
        }
        assert!(shapes.len() >= 16, "only {} of the subsets of four sectors", shapes.len());
        medium.land(file, 7, true);
        assert!(medium.is_settled() && medium.is_durable(file, 0, 8 * SECTOR_BYTES));
        assert_eq!(kept(&medium, "/f", Choice::Nothing, 1), medium.read_whole(path).ok());
    }
}
