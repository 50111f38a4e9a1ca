//! Snapshot files: a shard's image in checked blocks, and the stretch of log it needs.
//!
//! The image is *fuzzy*: chunks were taken while the log went on, from position `start` to position
//! `end`. Loading it and replaying the log from `start` on gives the shard's state at every position
//! from `end` on, and at none before; so a snapshot gets its name only when `end` is durable.
//!
//! ```text
//!  header, 64 bytes   magic 8 · version u16 · shard u16 · epoch u32 · log id u64 · start u64 · time u64 · 0 ×20 · crc32c u32
//!  block              length u32 · crc32c u32 · index u64 · bytes            (crc over index and bytes)
//!  footer             FF FF FF FF · crc32c u32 · blocks u64 · bytes u64 · end u64   (crc over the last three)
//!  zeros to the next 4096-byte boundary
//! ```
//! A missing footer, a wrong index or any flipped bit makes the whole file invalid: a reader then
//! falls back to the snapshot before. Chunk bytes mean nothing here.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tenure_core::limits::TIME_MS_MAX;

use super::aligned::AlignedBuffer;
use super::batch::BatchOwner;
use super::disk::{Access, DiskFile, DiskPort};
use super::error::LogError;
use super::limits::{BLOCK_BYTES, FORMAT_VERSION, SNAPSHOT_CHUNK_BYTES_MAX};
use super::segment::list_numbered;
use super::window::Window;

const MAGIC: [u8; 8] = *b"TENURESN";
const HEAD_BYTES: usize = 64;
const BLOCK_HEAD_BYTES: usize = 16;
const FOOTER_BYTES: usize = 32;
const FOOTER_MARK: u32 = u32::MAX;
/// Bytes gathered before they are written: a commit of the running log waits for at most one such
/// write.
const WRITE_BYTES: usize = 128 * 1024;
/// Bytes taken over from the read window at a time.
const TAKE_BYTES: usize = 1 << 20;

/// What the header of a snapshot says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SnapshotHead {
    /// Random identity of the log.
    pub log_id: u64,
    /// Which shard.
    pub shard: u16,
    /// Epoch in which it was taken: records from `start` on are of this epoch or later.
    pub epoch: u32,
    /// Replay begins with the record at this position.
    pub start: u64,
    /// Engine time at `start`, ms.
    pub time_ms: u64,
}

/// What the footer of a snapshot says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SnapshotFoot {
    /// Blocks.
    pub block_count: u64,
    /// Chunk bytes in all of them.
    pub bytes: u64,
    /// The state is whole only once the log has been replayed up to here.
    pub end: u64,
}

impl SnapshotHead {
    fn encode(&self) -> [u8; HEAD_BYTES] {
        let mut bytes = [0; HEAD_BYTES];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..10].copy_from_slice(&u16::from(FORMAT_VERSION).to_le_bytes());
        bytes[10..12].copy_from_slice(&self.shard.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.epoch.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.log_id.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.start.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.time_ms.to_le_bytes());
        let crc = crc_fast::crc32_iscsi(&bytes[..HEAD_BYTES - 4]);
        bytes[HEAD_BYTES - 4..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// `Err(Some(version))`: sound, but of a later version.
    fn decode(bytes: &[u8; HEAD_BYTES]) -> Result<SnapshotHead, Option<u16>> {
        let u16_at = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        let u64_at = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
        let crc = crc_fast::crc32_iscsi(&bytes[..HEAD_BYTES - 4]);
        if bytes[..8] != MAGIC || bytes[HEAD_BYTES - 4..] != crc.to_le_bytes() {
            return Err(None);
        }
        if u16_at(8) != u16::from(FORMAT_VERSION) {
            return Err(Some(u16_at(8)));
        }
        if bytes[40..HEAD_BYTES - 4].iter().any(|&byte| byte != 0) {
            return Err(None);
        }
        Ok(SnapshotHead {
            log_id: u64_at(16),
            shard: u16_at(10),
            epoch: u32::from_le_bytes(bytes[12..16].try_into().expect("four bytes")),
            start: u64_at(24),
            time_ms: u64_at(32),
        })
    }
}

/// Path of the snapshot that starts at `start`.
pub(super) fn snapshot_path(dir: &Path, start: u64) -> PathBuf {
    dir.join(format!("snapshot-{start:020}.img"))
}

/// Snapshots of a shard directory with their starts, newest first.
pub(super) fn list_snapshots(disk: &DiskPort, dir: &Path) -> Result<Vec<(u64, PathBuf)>, LogError> {
    let mut found = list_numbered(disk, dir, "snapshot-", ".img")?;
    found.reverse();
    Ok(found)
}

/// Writes one snapshot under a temporary name.
pub struct SnapshotWriter {
    disk: DiskPort,
    file: Arc<dyn DiskFile>,
    dir: PathBuf,
    path: PathBuf,
    head: SnapshotHead,
    buffer: AlignedBuffer,
    filled: usize,
    written: u64,
    block_count: u64,
    bytes: u64,
}

impl SnapshotWriter {
    /// Begins a snapshot file in `dir` on the system's disk.
    ///
    /// # Errors
    /// The file could not be made.
    pub fn create(dir: &Path, head: SnapshotHead) -> io::Result<SnapshotWriter> {
        SnapshotWriter::create_on(&DiskPort::System, dir, head)
    }

    /// As [`create`](SnapshotWriter::create), on any disk.
    pub(crate) fn create_on(disk: &DiskPort, dir: &Path, head: SnapshotHead) -> io::Result<SnapshotWriter> {
        let path = dir.join(format!("snapshot-{:020}.tmp", head.start));
        let file = disk.open(&path, Access::Create)?;
        let mut writer = SnapshotWriter {
            disk: disk.clone(),
            file,
            dir: dir.to_owned(),
            path,
            head,
            buffer: AlignedBuffer::zeroed(WRITE_BYTES),
            filled: 0,
            written: 0,
            block_count: 0,
            bytes: 0,
        };
        writer.put(&head.encode())?;
        Ok(writer)
    }

    /// Appends one chunk as a block.
    ///
    /// # Errors
    /// The file could not be written.
    pub fn chunk(&mut self, chunk: &[u8]) -> io::Result<()> {
        assert!(
            (1..=SNAPSHOT_CHUNK_BYTES_MAX).contains(&chunk.len()),
            "S8: snapshot chunk of {}",
            chunk.len()
        );
        let length = u32::try_from(chunk.len()).expect("S8: a chunk is at most 4 MiB");
        self.put(&length.to_le_bytes())?;
        self.put(&block_crc(self.block_count, chunk).to_le_bytes())?;
        self.put(&self.block_count.to_le_bytes())?;
        self.put(chunk)?;
        self.block_count += 1;
        self.bytes += chunk.len() as u64;
        Ok(())
    }

    /// Writes the footer and makes the contents durable. `end`: the state is whole once the log
    /// has been replayed to there. Gives the snapshot no name yet.
    ///
    /// # Errors
    /// The file could not be written or synced.
    pub fn finish(mut self, end: u64) -> io::Result<FinishedSnapshot> {
        let mut footer = [0; FOOTER_BYTES];
        footer[..4].copy_from_slice(&FOOTER_MARK.to_le_bytes());
        footer[8..16].copy_from_slice(&self.block_count.to_le_bytes());
        footer[16..24].copy_from_slice(&self.bytes.to_le_bytes());
        footer[24..].copy_from_slice(&end.to_le_bytes());
        let crc = crc_fast::crc32_iscsi(&footer[8..]);
        footer[4..8].copy_from_slice(&crc.to_le_bytes());
        self.put(&footer)?;
        let padded = self.filled.next_multiple_of(BLOCK_BYTES);
        self.buffer.bytes_mut()[self.filled..padded].fill(0);
        self.filled = padded;
        self.write_out()?;
        if !tenure_planted::is(tenure_planted::Bug::SnapshotUnsynced) {
            self.file.sync_all()?;
        }
        let named = snapshot_path(&self.dir, self.head.start);
        Ok(FinishedSnapshot {
            disk: self.disk,
            dir: self.dir,
            path: self.path,
            named,
            start: self.head.start,
            end,
        })
    }

    /// The temporary file.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    fn put(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let count = bytes.len().min(WRITE_BYTES - self.filled);
            self.buffer.bytes_mut()[self.filled..self.filled + count].copy_from_slice(&bytes[..count]);
            self.filled += count;
            bytes = &bytes[count..];
            if self.filled == WRITE_BYTES {
                self.write_out()?;
            }
        }
        Ok(())
    }

    fn write_out(&mut self) -> io::Result<()> {
        self.file.write_all_at(&self.buffer.bytes()[..self.filled], self.written)?;
        self.written += self.filled as u64;
        self.filled = 0;
        Ok(())
    }
}

/// A snapshot whose contents are durable and which waits for its name.
#[derive(Debug)]
pub struct FinishedSnapshot {
    disk: DiskPort,
    dir: PathBuf,
    path: PathBuf,
    named: PathBuf,
    start: u64,
    end: u64,
}

impl FinishedSnapshot {
    /// The log must be durable up to here before [`publish`](Self::publish).
    #[must_use]
    pub fn end(&self) -> u64 {
        self.end
    }

    /// The temporary file.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Gives the snapshot its name, durably. Returns its start.
    ///
    /// # Errors
    /// The file could not be renamed or the directory synced.
    pub fn publish(self) -> io::Result<u64> {
        self.disk.rename(&self.path, &self.named)?;
        self.disk.sync_dir(&self.dir)?;
        Ok(self.start)
    }
}

/// Reads one snapshot, block by block.
pub(super) struct SnapshotReader {
    window: Window,
    /// Size of the file.
    length: u64,
    pub(super) head: SnapshotHead,
    buffer: Vec<u8>,
    /// Unread bytes are `buffer[at..]`; they go on at `offset` in the file.
    at: usize,
    offset: u64,
    block_count: u64,
    bytes: u64,
    foot: Option<SnapshotFoot>,
}

/// Why a snapshot cannot be used.
#[derive(Debug)]
pub(super) enum SnapshotFlaw {
    /// Its bytes are not a whole snapshot of this log: the one before may do.
    Invalid(String),
    /// Nothing to fall back for: the version is another, or reading failed.
    Fatal(LogError),
}

impl SnapshotReader {
    /// Opens a snapshot and checks its header.
    pub(super) fn open(
        disk: &DiskPort,
        path: &Path,
        owner: BatchOwner,
        start: u64,
    ) -> Result<SnapshotReader, SnapshotFlaw> {
        let mut window = Window::ahead(disk);
        window.open(path).map_err(SnapshotFlaw::Fatal)?;
        let length = window.length();
        let head = SnapshotHead { log_id: 0, shard: 0, epoch: 0, start: 0, time_ms: 0 };
        let mut reader = SnapshotReader {
            window,
            length,
            head,
            buffer: Vec::with_capacity(usize::try_from(length).unwrap_or(usize::MAX).min(2 * TAKE_BYTES)),
            at: 0,
            offset: 0,
            block_count: 0,
            bytes: 0,
            foot: None,
        };
        reader.need(HEAD_BYTES)?;
        let head = reader.buffer[..HEAD_BYTES].try_into().expect("as many bytes as a header");
        reader.head = SnapshotHead::decode(head).map_err(|version| match version {
            Some(found) => {
                SnapshotFlaw::Fatal(LogError::Version { path: path.to_owned(), found: u64::from(found) })
            }
            None => SnapshotFlaw::Invalid("its header does not check out".to_owned()),
        })?;
        let head = &reader.head;
        if (head.log_id, head.shard, head.start) != (owner.log_id, owner.shard, start) {
            return Err(SnapshotFlaw::Invalid("it belongs to another log, shard or place".to_owned()));
        }
        if head.time_ms > TIME_MS_MAX {
            return Err(SnapshotFlaw::Invalid(format!("its time, {} ms, is out of range", head.time_ms)));
        }
        reader.at = HEAD_BYTES;
        Ok(reader)
    }

    /// The next chunk; `None` after the last, when [`foot`](Self::foot) is known.
    pub(super) fn next_chunk(&mut self) -> Result<Option<&[u8]>, SnapshotFlaw> {
        self.need(BLOCK_HEAD_BYTES)?;
        let length = self.u32_at(0);
        if length == FOOTER_MARK {
            return self.read_footer().map(|()| None);
        }
        let length = length as usize;
        if !(1..=SNAPSHOT_CHUNK_BYTES_MAX).contains(&length) {
            return Err(self.invalid("impossible block length"));
        }
        self.need(BLOCK_HEAD_BYTES + length)?;
        let index = self.u64_at(8);
        let start = self.at + BLOCK_HEAD_BYTES;
        let sound = block_crc(index, &self.buffer[start..start + length]) == self.u32_at(4);
        if !sound || index != self.block_count {
            return Err(self.invalid("block checksum does not match"));
        }
        self.block_count += 1;
        self.bytes += length as u64;
        self.at = start + length;
        Ok(Some(&self.buffer[start..start + length]))
    }

    /// The footer, once every chunk has been read.
    pub(super) fn foot(&self) -> Option<SnapshotFoot> {
        self.foot
    }

    fn read_footer(&mut self) -> Result<(), SnapshotFlaw> {
        self.need(FOOTER_BYTES)?;
        let body = &self.buffer[self.at + 8..self.at + FOOTER_BYTES];
        let foot = SnapshotFoot { block_count: self.u64_at(8), bytes: self.u64_at(16), end: self.u64_at(24) };
        let counted = (foot.block_count, foot.bytes) == (self.block_count, self.bytes);
        if crc_fast::crc32_iscsi(body) != self.u32_at(4) || !counted || foot.end < self.head.start {
            return Err(self.invalid("footer does not check out"));
        }
        self.at += FOOTER_BYTES;
        self.foot = Some(foot);
        Ok(())
    }

    /// Makes `length` unread bytes available.
    fn need(&mut self, length: usize) -> Result<(), SnapshotFlaw> {
        while self.buffer.len() - self.at < length {
            self.buffer.drain(..self.at);
            self.at = 0;
            let left = usize::try_from(self.length - self.offset).unwrap_or(TAKE_BYTES);
            if left == 0 {
                return Err(self.invalid("cut short"));
            }
            let taken = self.window.view(self.offset, left.min(TAKE_BYTES), self.length);
            let Some(taken) = taken.map_err(SnapshotFlaw::Fatal)? else {
                return Err(self.invalid("cut short while it was read"));
            };
            self.buffer.extend_from_slice(taken);
            self.offset += taken.len() as u64;
        }
        Ok(())
    }

    fn invalid(&self, reason: &str) -> SnapshotFlaw {
        let byte = self.offset - (self.buffer.len() - self.at) as u64;
        SnapshotFlaw::Invalid(format!("{reason} at byte {byte}"))
    }

    fn u32_at(&self, at: usize) -> u32 {
        let at = self.at + at;
        u32::from_le_bytes(self.buffer[at..at + 4].try_into().expect("four bytes"))
    }

    fn u64_at(&self, at: usize) -> u64 {
        let at = self.at + at;
        u64::from_le_bytes(self.buffer[at..at + 8].try_into().expect("eight bytes"))
    }
}

fn block_crc(index: u64, chunk: &[u8]) -> u32 {
    let mut digest = crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc32Iscsi);
    digest.update(&index.to_le_bytes());
    digest.update(chunk);
    u32::try_from(digest.finalize()).expect("a 32-bit checksum")
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: SnapshotHead = SnapshotHead { log_id: 9, shard: 2, epoch: 5, start: 64, time_ms: 1234 };
    const OWNER: BatchOwner = BatchOwner { log_id: 9, shard: 2 };

    fn written(dir: &Path, chunks: &[&[u8]]) -> PathBuf {
        let mut writer = SnapshotWriter::create(dir, HEAD).unwrap();
        for chunk in chunks {
            writer.chunk(chunk).unwrap();
        }
        let finished = writer.finish(8192).unwrap();
        assert!(
            list_snapshots(&DiskPort::System, dir).unwrap().is_empty(),
            "no name before the log is durable"
        );
        assert_eq!((finished.end(), finished.publish().unwrap()), (8192, 64));
        list_snapshots(&DiskPort::System, dir).unwrap()[0].1.clone()
    }

    fn read(path: &Path) -> Result<(Vec<Vec<u8>>, SnapshotFoot), String> {
        let text = |flaw| match flaw {
            SnapshotFlaw::Invalid(reason) => reason,
            SnapshotFlaw::Fatal(error) => error.to_string(),
        };
        let mut reader = SnapshotReader::open(&DiskPort::System, path, OWNER, 64).map_err(text)?;
        let mut chunks = Vec::new();
        while let Some(chunk) = reader.next_chunk().map_err(text)? {
            chunks.push(chunk.to_vec());
        }
        Ok((chunks, reader.foot().expect("a footer ends the chunks")))
    }

    #[test]
    fn reads_what_it_wrote_across_buffer_ends() {
        let dir = tempfile::tempdir().unwrap();
        let large: Vec<u8> = (0..3_000_001).map(|index| (index % 251) as u8).collect();
        let chunks: [&[u8]; 4] = [b"a", &large, &[0; 500_000], b"end"];
        let (read, foot) = read(&written(dir.path(), &chunks)).unwrap();
        assert_eq!(read, chunks);
        assert_eq!(foot, SnapshotFoot { block_count: 4, bytes: 3_500_005, end: 8192 });
    }

    #[test]
    fn every_flip_and_every_cut_is_refused() {
        let dir = crate::log::rig::memory_dir();
        let path = written(dir.path(), &[b"first chunk", b"second"]);
        let good = std::fs::read(&path).unwrap();
        let content = HEAD_BYTES + 2 * BLOCK_HEAD_BYTES + 11 + 6 + FOOTER_BYTES;
        for bit in 0..content * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            std::fs::write(&path, bad).unwrap();
            assert!(read(&path).is_err(), "bit {bit} flipped unnoticed");
        }
        for length in 0..content {
            std::fs::write(&path, &good[..length]).unwrap();
            assert!(read(&path).is_err(), "cut at {length} unnoticed");
        }
    }

    #[test]
    fn a_later_version_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = written(dir.path(), &[b"x"]);
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[8] = 2;
        let crc = crc_fast::crc32_iscsi(&bytes[..60]);
        bytes[60..64].copy_from_slice(&crc.to_le_bytes());
        std::fs::write(&path, bytes).unwrap();
        assert!(read(&path).unwrap_err().ends_with("format version 2, this build reads 1"));
    }
}
