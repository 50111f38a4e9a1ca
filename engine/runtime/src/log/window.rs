//! Sequential reading of one file at a time, in large O_DIRECT pieces, the next one on its way while
//! the present one is looked at.
//!
//! ```text
//!   buffer   | …… carry | piece just read         |      the batch that straddles two pieces is
//!                  ^ the range asked for begins         carried in front of the second
//! ```
//! A reader asks for ranges in ascending order, each at most a largest batch, starting at a block as
//! batches do. With a [read-ahead](Window::ahead) thread the disk works while the reader replays; two
//! buffers go back and forth. Does not interpret.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use super::aligned::AlignedBuffer;
use super::disk::{Access, DiskFile, DiskPort};
use super::error::LogError;
use super::limits::{BATCH_BYTES_MAX, BLOCK_BYTES, READ_BYTES};

/// Room in front of a piece for the start of a batch that straddles two. A file shorter than a piece is
/// read into a buffer of its own size, with as much room in front.
const CARRY_BYTES: usize = BATCH_BYTES_MAX;

/// A piece of a file in memory.
pub(super) struct Window {
    disk: DiskPort,
    file: Option<Arc<dyn DiskFile>>,
    path: PathBuf,
    length: u64,
    /// File bytes from `start` on are `buffer[from..from + filled]`.
    buffer: AlignedBuffer,
    /// Pieces are read to here in the buffer.
    carry_bytes: usize,
    from: usize,
    start: u64,
    filled: usize,
    reads_ahead: bool,
    /// Started when the first file turns out to be longer than a piece.
    ahead: Option<Ahead>,
}

/// The read-ahead thread's end: at most one request is on its way.
struct Ahead {
    requests: SyncSender<Request>,
    pieces: Receiver<(AlignedBuffer, Result<usize, Unread>)>,
    pending: Option<u64>,
    spare: Option<AlignedBuffer>,
}

/// Where a file could not be read, and why.
type Unread = (u64, io::Error);

struct Request {
    file: Arc<dyn DiskFile>,
    offset: u64,
    wanted: usize,
    buffer: AlignedBuffer,
}

impl Window {
    /// A window that reads when asked.
    pub(super) fn new(disk: &DiskPort) -> Window {
        Window {
            disk: disk.clone(),
            file: None,
            path: PathBuf::new(),
            length: 0,
            buffer: AlignedBuffer::zeroed(0),
            carry_bytes: 0,
            from: 0,
            start: 0,
            filled: 0,
            reads_ahead: false,
            ahead: None,
        }
    }

    /// A window whose next piece is read meanwhile, on a thread that ends with it. Only for files
    /// that nobody writes.
    pub(super) fn ahead(disk: &DiskPort) -> Window {
        Window { reads_ahead: disk.sizes().reads_ahead, ..Window::new(disk) }
    }

    /// Turns to another file.
    pub(super) fn open(&mut self, path: &Path) -> Result<(), LogError> {
        if self.file.is_some() && self.path == path {
            return Ok(());
        }
        self.forget();
        let file = self.disk.open(path, Access::Read).map_err(LogError::io("open", path))?;
        self.length = file.length().map_err(LogError::io("read", path))?;
        self.make_room(usize::try_from(self.length).unwrap_or(READ_BYTES));
        self.file = Some(file);
        path.clone_into(&mut self.path);
        Ok(())
    }

    /// Length of the file in hand when it was opened, bytes.
    pub(super) fn length(&self) -> u64 {
        self.length
    }

    /// A buffer for a file of this length: a whole piece at most, which then stays.
    fn make_room(&mut self, length: usize) {
        let piece = length.min(READ_BYTES).next_multiple_of(BLOCK_BYTES);
        if piece > self.buffer.capacity() - self.carry_bytes {
            self.carry_bytes = piece.min(CARRY_BYTES);
            self.buffer = AlignedBuffer::zeroed(self.carry_bytes + piece);
            self.from = self.carry_bytes;
        }
    }

    /// The file in hand.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Forgets the file: it is opened and read again when asked for.
    pub(super) fn forget(&mut self) {
        self.file = None;
        self.filled = 0;
        if let Some(ahead) = &mut self.ahead {
            ahead.settle();
        }
    }

    /// `length` bytes from `offset` on, reading nothing at or beyond `limit`. `None`: the file or
    /// the limit ends before.
    pub(super) fn view(&mut self, offset: u64, length: usize, limit: u64) -> Result<Option<&[u8]>, LogError> {
        assert!(
            offset.is_multiple_of(BLOCK_BYTES as u64) && length <= BATCH_BYTES_MAX,
            "S8: ranges are batches"
        );
        if offset + length as u64 > limit {
            return Ok(None);
        }
        let held = self.start..self.start + self.filled as u64;
        if offset < held.start || offset + length as u64 > held.end {
            self.fill(offset, limit)?;
        }
        let skip = usize::try_from(offset - self.start).expect("within the window");
        Ok((skip + length <= self.filled).then(|| &self.buffer.bytes()[self.from + skip..][..length]))
    }

    /// What `view` last made sure of, again.
    pub(super) fn held(&self, offset: u64, length: usize) -> &[u8] {
        let skip = usize::try_from(offset - self.start).expect("within the window");
        &self.buffer.bytes()[self.from + skip..][..length]
    }

    /// Makes the window begin at `offset`, with a whole piece behind what it already held from there.
    fn fill(&mut self, offset: u64, limit: u64) -> Result<(), LogError> {
        let held_end = self.start + self.filled as u64;
        let carried = (self.start..=held_end).contains(&offset).then(|| held_end - offset);
        let carried = usize::try_from(carried.unwrap_or(0)).expect("within the window");
        assert!(carried <= self.carry_bytes, "S8: what straddles is at most a batch");
        let front = self.carry_bytes;
        let at = offset + carried as u64;
        let keep = self.from + self.filled - carried..self.from + self.filled;
        let wanted = piece_bytes(at, limit).min(self.buffer.capacity() - front);
        self.filled = 0; // until the piece is there
        let file = Arc::clone(self.file.as_ref().expect("a file is open"));
        let count = match self.ahead.as_mut().and_then(|ahead| ahead.take(at)) {
            Some((mut piece, count)) => {
                assert_eq!(front, CARRY_BYTES, "only long files are read ahead");
                piece.bytes_mut()[CARRY_BYTES - carried..CARRY_BYTES]
                    .copy_from_slice(&self.buffer.bytes()[keep]);
                let spare = std::mem::replace(&mut self.buffer, piece);
                self.ahead.as_mut().expect("it gave the piece").spare = Some(spare);
                count
            }
            None => {
                self.buffer.bytes_mut().copy_within(keep, front - carried);
                read_piece(&*file, at, &mut self.buffer.bytes_mut()[front..][..wanted])
            }
        };
        let count = count.map_err(|(offset, source)| LogError::Unreadable {
            path: self.path.clone(),
            offset,
            source,
        })?;
        (self.start, self.from, self.filled) = (offset, front - carried, carried + count);
        let next = at + count as u64;
        if self.reads_ahead && count == READ_BYTES && next < limit {
            self.read_ahead(file, next, piece_bytes(next, limit));
        }
        Ok(())
    }

    fn read_ahead(&mut self, file: Arc<dyn DiskFile>, offset: u64, wanted: usize) {
        if self.ahead.is_none() {
            // Without a thread to spare, reading in line does too.
            self.ahead = Ahead::start().ok();
            self.reads_ahead = self.ahead.is_some();
        }
        if let Some(ahead) = &mut self.ahead {
            ahead.request(file, offset, wanted);
        }
    }
}

impl Ahead {
    fn start() -> io::Result<Ahead> {
        let (requests, inbox) = sync_channel::<Request>(1);
        let (outbox, pieces) = sync_channel(1);
        let read = move || {
            for Request { file, offset, wanted, mut buffer } in inbox {
                let result = read_piece(&*file, offset, &mut buffer.bytes_mut()[CARRY_BYTES..][..wanted]);
                if outbox.send((buffer, result)).is_err() {
                    break;
                }
            }
        };
        std::thread::Builder::new().name("log-read-ahead".to_owned()).spawn(read)?;
        let spare = Some(AlignedBuffer::zeroed(CARRY_BYTES + READ_BYTES));
        Ok(Ahead { requests, pieces, pending: None, spare })
    }

    fn request(&mut self, file: Arc<dyn DiskFile>, offset: u64, wanted: usize) {
        self.settle();
        let Some(buffer) = self.spare.take() else { return };
        if self.requests.send(Request { file, offset, wanted, buffer }).is_ok() {
            self.pending = Some(offset);
        }
    }

    /// The piece at `offset`, if that is what was asked for.
    fn take(&mut self, offset: u64) -> Option<(AlignedBuffer, Result<usize, Unread>)> {
        if self.pending != Some(offset) {
            self.settle();
            return None;
        }
        self.pending = None;
        self.pieces.recv().ok()
    }

    /// Waits out a request whose piece nobody wants any more.
    fn settle(&mut self) {
        if self.pending.take().is_some()
            && let Ok((buffer, _)) = self.pieces.recv()
        {
            self.spare = Some(buffer);
        }
    }
}

fn piece_bytes(offset: u64, limit: u64) -> usize {
    let left = usize::try_from(limit.saturating_sub(offset)).unwrap_or(READ_BYTES);
    READ_BYTES.min(left).next_multiple_of(BLOCK_BYTES)
}

/// Reads until `into` is full or the file ends.
fn read_piece(file: &dyn DiskFile, offset: u64, into: &mut [u8]) -> Result<usize, Unread> {
    let mut filled = 0;
    while filled < into.len() {
        let at = offset + filled as u64;
        match file.read_at(&mut into[filled..], at) {
            Ok(0) => break,
            Ok(count) => {
                filled += count;
                // O_DIRECT goes on only at a block boundary; anything else was the end of the file.
                if !filled.is_multiple_of(BLOCK_BYTES) {
                    break;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err((at, error)),
        }
    }
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_any_range_of_blocks_and_nothing_behind_the_limit() {
        let dir = tempfile::tempdir().unwrap();
        let (path, other) = (dir.path().join("file"), dir.path().join("other"));
        let bytes: Vec<u8> =
            (0..3 * READ_BYTES + 3 * BLOCK_BYTES + 17).map(|index| (index / 511) as u8).collect();
        std::fs::write(&path, &bytes).unwrap();
        std::fs::write(&other, vec![0xEE; 2 * READ_BYTES]).unwrap();
        for mut window in [Window::new(&DiskPort::System), Window::ahead(&DiskPort::System)] {
            window.open(&path).unwrap();
            let all = u64::MAX;
            // Batches of awkward sizes, one after the other: pieces are straddled in every way.
            let mut offset = 0;
            let mut length = 1;
            while offset + length <= bytes.len() {
                let seen = window.view(offset as u64, length, all).unwrap().expect("inside the file");
                assert_eq!(seen, &bytes[offset..offset + length]);
                offset += length.next_multiple_of(BLOCK_BYTES);
                length = length * 5 % (BATCH_BYTES_MAX - 3) + 1;
            }
            for (offset, length) in [(0, 64), (READ_BYTES - 4096, 16_384), (8192, 1), (0, BATCH_BYTES_MAX)] {
                let seen = window.view(offset as u64, length, all).unwrap().expect("inside the file");
                assert_eq!(seen, &bytes[offset..offset + length]);
            }
            window.open(&other).unwrap();
            assert_eq!(window.view(4096, 2, all).unwrap().unwrap(), [0xEE; 2], "another file, another piece");
            window.open(&path).unwrap();
            let last = bytes.len() / BLOCK_BYTES * BLOCK_BYTES;
            assert_eq!(window.view(last as u64, 17, all).unwrap().unwrap(), &bytes[last..]);
            assert!(window.view(last as u64, 18, all).unwrap().is_none());
            assert!(window.view(4096, 4096, 8191).unwrap().is_none());
            assert!(window.view(4096, 4096, 8192).unwrap().is_some());
        }
    }
}
