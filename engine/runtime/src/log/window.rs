//! Sequential reading of one file at a time, in large O_DIRECT pieces.
//!
//! A reader asks for ranges in ascending order; the window holds the last piece read and refills
//! where the asked range leaves it. Ranges start at block boundaries, as batches do.
//!
//! Does not read ahead and does not interpret.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::aligned::AlignedBuffer;
use super::error::LogError;
use super::limits::{BLOCK_BYTES, READ_BYTES};
use super::segment::open_direct;

/// A piece of a file in memory.
pub(super) struct Window {
    file: Option<File>,
    path: PathBuf,
    buffer: AlignedBuffer,
    start: u64,
    filled: usize,
}

impl Window {
    pub(super) fn new() -> Window {
        Window {
            file: None,
            path: PathBuf::new(),
            buffer: AlignedBuffer::zeroed(READ_BYTES),
            start: 0,
            filled: 0,
        }
    }

    /// Turns to another file.
    pub(super) fn open(&mut self, path: &Path) -> Result<(), LogError> {
        if self.file.is_some() && self.path == path {
            return Ok(());
        }
        let file = open_direct(OpenOptions::new().read(true), path, 0).map_err(LogError::io("open", path))?;
        self.file = Some(file);
        path.clone_into(&mut self.path);
        self.filled = 0;
        Ok(())
    }

    /// The file in hand.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Forgets the file: it is opened and read again when asked for.
    pub(super) fn forget(&mut self) {
        self.file = None;
        self.filled = 0;
    }

    /// `length` bytes from `offset` on, reading nothing at or beyond `limit`. `None`: the file or
    /// the limit ends before.
    pub(super) fn view(&mut self, offset: u64, length: usize, limit: u64) -> Result<Option<&[u8]>, LogError> {
        assert!(offset.is_multiple_of(BLOCK_BYTES as u64) && length <= READ_BYTES, "ranges start at a block");
        if offset + length as u64 > limit {
            return Ok(None);
        }
        let held = self.start..self.start + self.filled as u64;
        if !held.contains(&offset) || offset + length as u64 > held.end {
            let wanted = READ_BYTES.min(usize::try_from(limit - offset).unwrap_or(READ_BYTES));
            self.fill(offset, wanted.next_multiple_of(BLOCK_BYTES))?;
        }
        let from = usize::try_from(offset - self.start).expect("within the window");
        Ok((from + length <= self.filled).then(|| &self.buffer.bytes()[from..from + length]))
    }

    /// What `view` last made sure of, again.
    pub(super) fn held(&self, offset: u64, length: usize) -> &[u8] {
        let from = usize::try_from(offset - self.start).expect("within the window");
        &self.buffer.bytes()[from..from + length]
    }

    fn fill(&mut self, offset: u64, wanted: usize) -> Result<(), LogError> {
        let file = self.file.as_ref().expect("a file is open");
        self.start = offset;
        self.filled = 0;
        while self.filled < wanted {
            let into = &mut self.buffer.bytes_mut()[self.filled..wanted];
            match file.read_at(into, offset + self.filled as u64) {
                Ok(0) => break,
                Ok(count) => {
                    self.filled += count;
                    // O_DIRECT goes on only at a block boundary; anything else was the end of the file.
                    if !self.filled.is_multiple_of(BLOCK_BYTES) {
                        break;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(LogError::io("read", &self.path)(error)),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_any_range_of_blocks_and_nothing_behind_the_limit() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let bytes: Vec<u8> =
            (0..READ_BYTES + 3 * BLOCK_BYTES + 17).map(|index| (index / 511) as u8).collect();
        std::fs::write(&path, &bytes).unwrap();
        let mut window = Window::new();
        window.open(&path).unwrap();
        let all = u64::MAX;
        for (offset, length) in
            [(0, 64), (0, READ_BYTES), (4096, 10_000), (READ_BYTES - 4096, 16_384), (8192, 1)]
        {
            let seen = window.view(offset as u64, length, all).unwrap().expect("inside the file");
            assert_eq!(seen, &bytes[offset..offset + length]);
        }
        let last = bytes.len() / BLOCK_BYTES * BLOCK_BYTES;
        assert_eq!(window.view(last as u64, 17, all).unwrap().unwrap(), &bytes[last..]);
        assert!(window.view(last as u64, 18, all).unwrap().is_none());
        assert!(window.view(4096, 4096, 8191).unwrap().is_none());
        assert!(window.view(4096, 4096, 8192).unwrap().is_some());
    }
}
