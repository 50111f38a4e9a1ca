//! Files and directories, live and durable.
//!
//! A file's durable contents are kept as the difference to the live ones: for each sector that was written
//! since the last sync, what it held before; behind the durable length nothing was there before.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use tenure::simulation::Entry;

use crate::random::Random;

/// What a disk writes at once or not at all.
pub const SECTOR_BYTES: usize = 512;

/// Names a file, whatever it is called.
pub(super) type InodeId = usize;

/// All files and directories.
#[derive(Clone, Debug)]
pub(super) struct Image {
    inodes: Vec<Option<Inode>>,
    dirs: BTreeMap<String, Directory>,
}

#[derive(Clone, Debug, Default)]
struct Inode {
    live: Vec<u8>,
    durable_len: usize,
    /// Sectors below the durable length that differ from what is durable, with that.
    before: BTreeMap<usize, Vec<u8>>,
}

#[derive(Clone, Debug, Default)]
struct Directory {
    live: BTreeMap<String, Node>,
    durable: BTreeMap<String, Node>,
    unsynced: Vec<Change>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Node {
    File(InodeId),
    Dir,
}

#[derive(Clone, Debug)]
enum Change {
    Link(String, Node),
    Unlink(String),
    Rename(String, String),
}

/// How much of something survives: drawn once for each thing, so that all-or-nothing is as likely as a mix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Survival {
    /// Everything: as if it had been synced.
    All,
    /// Nothing.
    None,
    /// Each piece or not.
    Half,
    /// Most pieces.
    Most,
}

impl Survival {
    pub(super) fn draw(random: &mut Random) -> Survival {
        random.pick(&[Survival::All, Survival::None, Survival::Half, Survival::Most])
    }

    pub(super) fn keeps(self, random: &mut Random) -> bool {
        match self {
            Survival::All => true,
            Survival::None => false,
            Survival::Half => random.permille(500),
            Survival::Most => random.permille(900),
        }
    }
}

/// The root has no name.
fn dir_of(path: &Path) -> &str {
    let text = path.to_str().expect("simulated paths are text");
    text.strip_suffix('/').unwrap_or(text)
}

fn split(path: &Path) -> (&str, &str) {
    let text = path.to_str().expect("simulated paths are text");
    text.rsplit_once('/').unwrap_or(("", text))
}

fn missing() -> io::Error {
    io::ErrorKind::NotFound.into()
}

impl Directory {
    fn apply(names: &mut BTreeMap<String, Node>, change: &Change) {
        match change {
            Change::Link(name, node) => {
                names.insert(name.clone(), *node);
            }
            Change::Unlink(name) => {
                names.remove(name);
            }
            Change::Rename(from, to) => {
                if let Some(node) = names.remove(from) {
                    names.insert(to.clone(), node);
                }
            }
        }
    }

    fn change(&mut self, change: Change) {
        Directory::apply(&mut self.live, &change);
        self.unsynced.push(change);
    }
}

impl Image {
    pub(super) fn new() -> Image {
        Image { inodes: Vec::new(), dirs: BTreeMap::from([(String::new(), Directory::default())]) }
    }

    pub(super) fn find(&self, path: &Path) -> Option<InodeId> {
        let (dir, name) = split(path);
        match self.dirs.get(dir)?.live.get(name)? {
            Node::File(inode) => Some(*inode),
            Node::Dir => None,
        }
    }

    pub(super) fn contents(&self, inode: InodeId) -> &[u8] {
        &self.inode(inode).live
    }

    fn inode(&self, inode: InodeId) -> &Inode {
        self.inodes[inode].as_ref().expect("a file that is in use is not forgotten")
    }

    /// Bytes of all files.
    pub(super) fn bytes(&self) -> u64 {
        self.inodes.iter().flatten().map(|inode| inode.live.len() as u64).sum()
    }

    pub(super) fn create(&mut self, path: &Path) -> io::Result<InodeId> {
        let (dir, name) = split(path);
        let directory = self.dirs.get_mut(dir).ok_or_else(missing)?;
        // Truncation of what is there already: a new file under the name, as far as crashes can tell.
        let inode = self.inodes.len();
        self.inodes.push(Some(Inode::default()));
        directory.change(Change::Link(name.to_owned(), Node::File(inode)));
        Ok(inode)
    }

    pub(super) fn write(&mut self, inode: InodeId, offset: u64, bytes: &[u8], durably: bool) {
        let Some(inode) = self.inodes[inode].as_mut() else { return };
        let start = usize::try_from(offset).expect("simulated files are small");
        let end = start + bytes.len();
        if !durably {
            let mut sector = start / SECTOR_BYTES;
            while sector * SECTOR_BYTES < end.min(inode.durable_len) {
                let from = sector * SECTOR_BYTES;
                let to = (from + SECTOR_BYTES).min(inode.durable_len);
                inode.before.entry(sector).or_insert_with(|| inode.live[from..to].to_vec());
                sector += 1;
            }
        }
        if inode.live.len() < end {
            inode.live.resize(end, 0);
        }
        inode.live[start..end].copy_from_slice(bytes);
        if durably {
            for sector in start / SECTOR_BYTES..end.div_ceil(SECTOR_BYTES) {
                inode.before.remove(&sector);
            }
            inode.durable_len = inode.durable_len.max(end);
        }
    }

    pub(super) fn sync(&mut self, inode: InodeId) {
        if let Some(inode) = self.inodes[inode].as_mut() {
            inode.before.clear();
            inode.durable_len = inode.live.len();
        }
    }

    pub(super) fn flip(&mut self, inode: InodeId, offset: u64, bit: u8) {
        let live = &mut self.inodes[inode].as_mut().expect("a named file is there").live;
        live[usize::try_from(offset).expect("simulated files are small")] ^= 1 << bit;
    }

    pub(super) fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        let ((dir, from), (to_dir, to)) = (split(from), split(to));
        assert_eq!(dir, to_dir, "the log renames within a directory");
        let directory = self.dirs.get_mut(dir).ok_or_else(missing)?;
        if !directory.live.contains_key(from) {
            return Err(missing());
        }
        directory.change(Change::Rename(from.to_owned(), to.to_owned()));
        Ok(())
    }

    pub(super) fn remove(&mut self, path: &Path) -> io::Result<()> {
        let (dir, name) = split(path);
        let directory = self.dirs.get_mut(dir).ok_or_else(missing)?;
        if !directory.live.contains_key(name) {
            return Err(missing());
        }
        directory.change(Change::Unlink(name.to_owned()));
        Ok(())
    }

    pub(super) fn create_dir(&mut self, path: &Path) -> io::Result<()> {
        let (dir, name) = split(path);
        let directory = self.dirs.get_mut(dir).ok_or_else(missing)?;
        if directory.live.contains_key(name) {
            return Ok(());
        }
        directory.change(Change::Link(name.to_owned(), Node::Dir));
        self.dirs.insert(path.to_str().expect("simulated paths are text").to_owned(), Directory::default());
        Ok(())
    }

    pub(super) fn remove_dir(&mut self, path: &Path) -> io::Result<()> {
        let text = path.to_str().expect("simulated paths are text");
        let inner = self.dirs.get_mut(text).ok_or_else(missing)?;
        for name in inner.live.keys().cloned().collect::<Vec<_>>() {
            inner.change(Change::Unlink(name));
        }
        self.remove(path)
    }

    pub(super) fn list(&self, dir: &Path) -> Option<Vec<Entry>> {
        let directory = self.dirs.get(dir_of(dir))?;
        let entries = directory.live.iter();
        Some(
            entries
                .map(|(name, node)| Entry { name: name.clone(), is_dir: matches!(node, Node::Dir) })
                .collect(),
        )
    }

    pub(super) fn sync_dir(&mut self, dir: &Path) -> io::Result<()> {
        let text = dir_of(dir);
        let directory = self.dirs.get_mut(text).ok_or_else(missing)?;
        for change in std::mem::take(&mut directory.unsynced) {
            Directory::apply(&mut directory.durable, &change);
        }
        Ok(())
    }

    /// The power fails.
    pub(super) fn lose_unsynced(&mut self, random: &mut Random, survival: Option<Survival>) {
        for directory in self.dirs.values_mut() {
            let kept = match survival {
                Some(Survival::All) => directory.unsynced.len(),
                Some(Survival::None) => 0,
                _ => random.index(directory.unsynced.len() + 1),
            };
            for change in directory.unsynced.drain(..).take(kept) {
                Directory::apply(&mut directory.durable, &change);
            }
            directory.live.clone_from(&directory.durable);
        }
        for inode in self.inodes.iter_mut().flatten() {
            inode.lose_unsynced(random, survival);
        }
    }

    /// Everything that was written survives, synced or not: only the process is gone.
    pub(super) fn sync_everything(&mut self) {
        for directory in self.dirs.values_mut() {
            directory.unsynced.clear();
            directory.durable.clone_from(&directory.live);
        }
        for inode in self.inodes.iter_mut().flatten() {
            inode.before.clear();
            inode.durable_len = inode.live.len();
        }
    }

    /// Drops files and directories that no name leads to.
    pub(super) fn forget_unnamed(&mut self) {
        let mut named = vec![false; self.inodes.len()];
        let paths: Vec<String> = self.dirs.keys().cloned().collect();
        for path in paths {
            let is_named = match path.rsplit_once('/') {
                _ if path.is_empty() => true,
                Some((dir, name)) => {
                    self.dirs.get(dir).is_some_and(|dir| dir.live.get(name) == Some(&Node::Dir))
                }
                None => self.dirs[""].live.get(&path) == Some(&Node::Dir),
            };
            if !is_named {
                self.dirs.remove(&path);
                continue;
            }
            for node in self.dirs[&path].live.values() {
                if let Node::File(inode) = node {
                    named[*inode] = true;
                }
            }
        }
        for (inode, named) in self.inodes.iter_mut().zip(&named) {
            if !named {
                *inode = None;
            }
        }
        while self.inodes.last().is_some_and(Option::is_none) {
            self.inodes.pop();
        }
    }

    pub(super) fn files(&self) -> Vec<(String, u64)> {
        let mut files = Vec::new();
        for (path, directory) in &self.dirs {
            for (name, node) in &directory.live {
                if let Node::File(inode) = node {
                    files.push((format!("{path}/{name}"), self.contents(*inode).len() as u64));
                }
            }
        }
        files
    }

    pub(super) fn digest(&self) -> u64 {
        let mut digest = 0xcbf2_9ce4_8422_2325u64;
        // By words, with the length: most of what a disk holds are zeros of segments.
        let mut mix = |bytes: &[u8]| {
            let mut word = |word: u64| {
                digest = (digest ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
                digest ^= digest >> 29;
            };
            let (words, rest) = bytes.as_chunks::<8>();
            words.iter().for_each(|bytes| word(u64::from_le_bytes(*bytes)));
            rest.iter().for_each(|byte| word(u64::from(*byte)));
            word(bytes.len() as u64);
        };
        for (path, directory) in &self.dirs {
            for (name, node) in &directory.live {
                mix(path.as_bytes());
                mix(name.as_bytes());
                if let Node::File(inode) = node {
                    mix(self.contents(*inode));
                }
            }
        }
        digest
    }
}

impl Inode {
    fn lose_unsynced(&mut self, random: &mut Random, survival: Option<Survival>) {
        if self.before.is_empty() && self.live.len() == self.durable_len {
            return;
        }
        let survival = survival.unwrap_or_else(|| Survival::draw(random));
        for (sector, bytes) in std::mem::take(&mut self.before) {
            if !survival.keeps(random) {
                let from = sector * SECTOR_BYTES;
                self.live[from..from + bytes.len()].copy_from_slice(&bytes);
            }
        }
        // The length is metadata: any that it had since, and of what lies behind the old one any sectors.
        let longer = self.live.len() - self.durable_len;
        let length = self.durable_len
            + match survival {
                Survival::All => longer,
                Survival::None => 0,
                Survival::Half | Survival::Most => random.index(longer + 1),
            };
        self.live.truncate(length);
        let mut from = self.durable_len;
        while from < length {
            let to = ((from / SECTOR_BYTES + 1) * SECTOR_BYTES).min(length);
            if !survival.keeps(random) {
                self.live[from..to].fill(0);
            }
            from = to;
        }
        self.durable_len = length;
    }
}
