//! Appends one frame to a caller's buffer: header first, its length patched when the body is done.

use crate::id::RequestId;
use crate::limits::{HEADER_BYTES, TEXT_BYTES_MAX};

/// An open frame at the end of `out`. [`FrameWriter::finish`] closes it.
pub(crate) struct FrameWriter<'o> {
    out: &'o mut Vec<u8>,
    start: usize,
}

impl<'o> FrameWriter<'o> {
    #[inline]
    pub(crate) fn begin(
        out: &'o mut Vec<u8>,
        opcode: u8,
        flags: u8,
        request_id: RequestId,
    ) -> FrameWriter<'o> {
        let start = out.len();
        let mut header = [0; HEADER_BYTES];
        header[4] = opcode;
        header[5] = flags;
        header[8..].copy_from_slice(&request_id.0.to_le_bytes());
        out.extend_from_slice(&header);
        FrameWriter { out, start }
    }

    #[inline]
    pub(crate) fn reserve(&mut self, bytes: usize) {
        self.out.reserve(bytes);
    }

    #[inline]
    pub(crate) fn u8(&mut self, value: u8) {
        self.out.push(value);
    }

    #[inline]
    pub(crate) fn u16(&mut self, value: u16) {
        self.bytes(&value.to_le_bytes());
    }

    #[inline]
    pub(crate) fn u32(&mut self, value: u32) {
        self.bytes(&value.to_le_bytes());
    }

    #[inline]
    pub(crate) fn u64(&mut self, value: u64) {
        self.bytes(&value.to_le_bytes());
    }

    #[inline]
    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        self.out.extend_from_slice(bytes);
    }

    /// Appends `count` zero bytes and returns them, for a caller that fills them in place.
    #[inline]
    pub(crate) fn grow(&mut self, count: usize) -> &mut [u8] {
        let start = self.out.len();
        self.out.resize(start + count, 0);
        &mut self.out[start..]
    }

    /// Overwrites the u32 at `offset` bytes from the start of the body.
    pub(crate) fn patch_u32(&mut self, offset: usize, value: u32) {
        let at = self.start + HEADER_BYTES + offset;
        self.out[at..at + 4].copy_from_slice(&value.to_le_bytes());
    }

    /// Closes the frame.
    ///
    /// # Panics
    /// S8: when the caller built a frame above 4 GiB, which no limit allows.
    #[inline]
    pub(crate) fn finish(self) {
        let length = u32::try_from(self.out.len() - self.start).expect("S8: a frame is bounded");
        self.out[self.start..self.start + 4].copy_from_slice(&length.to_le_bytes());
    }
}

/// Appends a frame whose body is `N` numbers of 64 bits: the shape of most requests and replies.
#[inline]
pub(crate) fn words<const N: usize>(
    out: &mut Vec<u8>,
    opcode: u8,
    flags: u8,
    request_id: RequestId,
    words: [u64; N],
) {
    let length = (HEADER_BYTES + 8 * N) as u32;
    out.reserve(length as usize);
    let mut header = [0; HEADER_BYTES];
    header[..4].copy_from_slice(&length.to_le_bytes());
    header[4] = opcode;
    header[5] = flags;
    header[8..].copy_from_slice(&request_id.0.to_le_bytes());
    out.extend_from_slice(&header);
    for word in words {
        out.extend_from_slice(&word.to_le_bytes());
    }
}

/// The longest start of `text` that the limit allows and that is still UTF-8.
pub(crate) fn bounded_text(text: &str) -> &str {
    let mut end = text.len().min(TEXT_BYTES_MAX as usize);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// A length for a u16 field.
///
/// # Panics
/// S8: when a caller passes more bytes than any limit allows; decoders never do.
#[inline]
pub(crate) fn length_u16(bytes: usize) -> u16 {
    u16::try_from(bytes).expect("S8: an item or a credential is at most 65,535 bytes")
}
