//! The receive buffer of a connection: what has arrived and is not yet polled.
//!
//! Frames are read where they lie. Whole frames leave from the front by moving an index; the rest is
//! moved down only when the room behind it runs short, so that a busy connection copies next to nothing.
//!
//! S8 bounded: it grows to hold one whole frame, whose length has been checked against the limit.

use std::ops::Range;

use tenure_protocol::peek;

/// Size to start with. Large enough that a busy connection reads thousands of replies at once.
const INCOMING_BYTES: usize = 64 * 1024;

#[derive(Debug)]
pub(crate) struct Incoming {
    bytes: Vec<u8>,
    /// The unread bytes are `bytes[start..end]`.
    start: usize,
    end: usize,
}

impl Incoming {
    pub(crate) fn new() -> Incoming {
        Incoming { bytes: vec![0; INCOMING_BYTES], start: 0, end: 0 }
    }

    /// What has arrived and is not yet taken.
    #[inline]
    pub(crate) fn unread(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }

    /// Takes `count` unread bytes; they stay where they are until the next [`Incoming::spare`].
    #[inline]
    pub(crate) fn take(&mut self, count: usize) -> Range<usize> {
        debug_assert!(count <= self.end - self.start);
        let range = self.start..self.start + count;
        self.start = range.end;
        range
    }

    /// The bytes that [`Incoming::take`] gave.
    #[inline]
    pub(crate) fn taken(&self, range: Range<usize>) -> &[u8] {
        &self.bytes[range]
    }

    /// Room to read into. Empty only when a buffer full of frames waits to be taken.
    pub(crate) fn spare(&mut self, frame_bytes_max: u32) -> &mut [u8] {
        if self.start == self.end {
            self.clear();
        } else if self.start > 0 && self.bytes.len() - self.end < INCOMING_BYTES / 4 {
            self.bytes.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        // A frame longer than the buffer. What cannot be a frame is left for the reader to refuse.
        if let Ok(Some(header)) = peek(self.unread(), frame_bytes_max) {
            let needed = self.start + header.length as usize;
            if needed > self.bytes.len() {
                self.bytes.resize(needed, 0);
            }
        }
        &mut self.bytes[self.end..]
    }

    /// Says that `count` bytes were read into [`Incoming::spare`].
    pub(crate) fn received(&mut self, count: usize) {
        assert!(count <= self.bytes.len() - self.end, "S8: more bytes received than there was room for");
        self.end += count;
    }

    /// Copies bytes in, whatever the room.
    pub(crate) fn append(&mut self, bytes: &[u8], frame_bytes_max: u32) {
        let spare = self.spare(frame_bytes_max);
        if spare.len() < bytes.len() {
            let grown = self.end + bytes.len();
            self.bytes.resize(grown, 0);
        }
        self.bytes[self.end..self.end + bytes.len()].copy_from_slice(bytes);
        self.end += bytes.len();
    }

    /// Forgets what is unread.
    pub(crate) fn clear(&mut self) {
        (self.start, self.end) = (0, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tenure_protocol::limits::FRAME_BYTES_MAX;

    #[test]
    fn bytes_come_out_in_order_whatever_the_pieces() {
        let mut incoming = Incoming::new();
        let (mut sent, mut seen) = (0u32, 0u32);
        for round in 0..20_000usize {
            // Words of twenty, the header of a frame of twenty bytes: nothing makes the buffer grow.
            for _ in 0..round % 7 {
                let mut frame = [0u8; 20];
                frame[0] = 20;
                frame[12..16].copy_from_slice(&sent.to_le_bytes());
                incoming.append(&frame, FRAME_BYTES_MAX);
                sent += 1;
            }
            for _ in 0..(round * 5) % 9 {
                if incoming.unread().len() >= 20 {
                    let range = incoming.take(20);
                    assert_eq!(incoming.taken(range)[12..16], seen.to_le_bytes());
                    seen += 1;
                }
            }
        }
        assert!(seen > 40_000);
        assert_eq!(incoming.unread().len(), (sent - seen) as usize * 20);
        assert_eq!(incoming.bytes.len(), INCOMING_BYTES, "moving down makes room enough");
    }

    #[test]
    fn s8_room_is_made_for_a_frame_within_the_limit_only() {
        for (length, makes_room) in [(200_000u32, true), (300_000, false)] {
            let mut incoming = Incoming::new();
            let mut header = [0u8; 12];
            header[..4].copy_from_slice(&length.to_le_bytes());
            incoming.append(&header, 250_000);
            let room = incoming.spare(250_000).len();
            assert_eq!(room >= length as usize - 12, makes_room);
        }
    }
}
