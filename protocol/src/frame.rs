//! Frames: the 12-byte header and how a stream of bytes is cut.
//!
//! ```text
//!  0       4        5       6          8             12
//!  +-------+--------+-------+----------+-------------+------ … ------+
//!  | length| opcode | flags | reserved | request id  | body          |
//!  | u32   | u8     | u8    | u16 = 0  | u32         | length-12 B   |
//!  +-------+--------+-------+----------+-------------+------ … ------+
//! ```
//! Little-endian throughout. `length` counts the whole frame, header included, so that a reader needs
//! one addition to find the next frame.
//!
//! Two ways to read: [`Frames`] walks the complete frames of a receive buffer, and [`renew_at`] is the
//! short cut for the one frame that matters most: the first eight bytes of every Renew are the same,
//! so one 64-bit compare replaces all header checks. Both borrow; nothing is copied or allocated.
//!
//! What this file does not do: look into bodies, or buffer anything.

use crate::error::ProtocolError;
use crate::id::{LeaseId, RequestId};
use crate::limits::HEADER_BYTES;
use crate::opcode;

/// The header of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Bytes of the whole frame, this header included.
    pub length: u32,
    /// What the frame is: see [`crate::opcode`].
    pub opcode: u8,
    /// Bits whose meaning depends on the opcode: see [`crate::opcode::flag`].
    pub flags: u8,
    /// Ties a reply to its request.
    pub request_id: RequestId,
}

/// One complete frame, borrowed from a receive buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// The header, already checked for length and reserved bits.
    pub header: Header,
    /// The bytes after the header: exactly `header.length - 12` of them.
    pub body: &'a [u8],
}

/// Reads the header at the start of `bytes`, or `None` when fewer than 12 bytes are there.
///
/// # Errors
/// When the length is below 12 or above `frame_bytes_max`, or the reserved field is not zero. The
/// stream has then lost its framing: the connection must close.
#[inline]
pub fn peek(bytes: &[u8], frame_bytes_max: u32) -> Result<Option<Header>, ProtocolError> {
    let Some(raw) = bytes.first_chunk::<HEADER_BYTES>() else {
        return Ok(None);
    };
    let length = u32::from_le_bytes([raw[0], raw[1], raw[2], raw[3]]);
    let (opcode, flags) = (raw[4], raw[5]);
    if length < HEADER_BYTES as u32 {
        return Err(ProtocolError::FrameTooShort { length });
    }
    if length > frame_bytes_max {
        return Err(ProtocolError::FrameTooLarge { length, frame_bytes_max });
    }
    if raw[6] != 0 || raw[7] != 0 {
        return Err(ProtocolError::ReservedNotZero { opcode });
    }
    let request_id = RequestId(u32::from_le_bytes([raw[8], raw[9], raw[10], raw[11]]));
    Ok(Some(Header { length, opcode, flags, request_id }))
}

/// The first complete frame of `bytes`, or `None` when more bytes are needed.
///
/// # Errors
/// As [`peek`].
#[inline]
pub fn first_frame(bytes: &[u8], frame_bytes_max: u32) -> Result<Option<Frame<'_>>, ProtocolError> {
    let Some(header) = peek(bytes, frame_bytes_max)? else {
        return Ok(None);
    };
    Ok(bytes.get(HEADER_BYTES..header.length as usize).map(|body| Frame { header, body }))
}

/// Walks the complete frames at the start of a receive buffer.
///
/// ```
/// use tenure_protocol::{Frames, LeaseId, RequestId, encode};
///
/// let mut bytes = Vec::new();
/// encode::renew(&mut bytes, RequestId(1), LeaseId(7));
/// encode::ping(&mut bytes, RequestId(2), 99);
/// bytes.truncate(bytes.len() - 1); // The second frame has not arrived whole.
///
/// let mut frames = Frames::new(&bytes, 4096);
/// assert_eq!(frames.next_frame().unwrap().unwrap().header.request_id, RequestId(1));
/// assert_eq!(frames.next_frame(), Ok(None));
/// assert_eq!(frames.consumed(), 20);
/// ```
#[derive(Clone, Debug)]
pub struct Frames<'a> {
    bytes: &'a [u8],
    consumed: usize,
    frame_bytes_max: u32,
}

impl<'a> Frames<'a> {
    /// Starts at the beginning of `bytes`. Frames above `frame_bytes_max` are an error.
    #[inline]
    #[must_use]
    pub fn new(bytes: &'a [u8], frame_bytes_max: u32) -> Frames<'a> {
        Frames { bytes, consumed: 0, frame_bytes_max }
    }

    /// The next frame, or `None` when the rest is not a whole one.
    ///
    /// # Errors
    /// As [`peek`]; the walk does not move past the bad frame.
    #[inline]
    pub fn next_frame(&mut self) -> Result<Option<Frame<'a>>, ProtocolError> {
        let frame = first_frame(&self.bytes[self.consumed..], self.frame_bytes_max)?;
        if let Some(frame) = &frame {
            self.consumed += frame.header.length as usize;
        }
        Ok(frame)
    }

    /// The next frame if it is a whole, well-formed Renew; otherwise nothing moves. A server runs this
    /// in a loop before it falls back to [`Frames::next_frame`].
    #[inline]
    pub fn next_renew(&mut self) -> Option<(RequestId, LeaseId)> {
        let renew = renew_at(&self.bytes[self.consumed..])?;
        self.consumed += RENEW_BYTES;
        Some(renew)
    }

    /// Bytes of the frames handed out so far.
    #[inline]
    #[must_use]
    pub fn consumed(&self) -> usize {
        self.consumed
    }

    /// Changes the largest frame accepted: it grows once the handshake is done.
    pub fn set_frame_bytes_max(&mut self, frame_bytes_max: u32) {
        self.frame_bytes_max = frame_bytes_max;
    }
}

/// Bytes of a Renew frame.
pub const RENEW_BYTES: usize = 20;
/// Bytes of a Renewed frame.
pub const RENEWED_BYTES: usize = 20;

/// Length, opcode, flags and reserved of a 20-byte frame, as one little-endian number.
const fn first_word(opcode: u8) -> u64 {
    RENEW_BYTES as u64 | (opcode as u64) << 32
}

const RENEW_WORD: u64 = first_word(opcode::request::RENEW);
const RENEWED_WORD: u64 = first_word(opcode::request::RENEW | opcode::REPLY);

#[inline]
fn short_frame_at(bytes: &[u8], word: u64) -> Option<(RequestId, u64)> {
    let raw = bytes.first_chunk::<RENEW_BYTES>()?;
    let first = u64::from_le_bytes([raw[0], raw[1], raw[2], raw[3], raw[4], raw[5], raw[6], raw[7]]);
    if first != word {
        return None;
    }
    let request_id = u32::from_le_bytes([raw[8], raw[9], raw[10], raw[11]]);
    let value = u64::from_le_bytes([raw[12], raw[13], raw[14], raw[15], raw[16], raw[17], raw[18], raw[19]]);
    Some((RequestId(request_id), value))
}

/// The Renew frame at the start of `bytes`, if there is a whole one. `None` says nothing about what is
/// there instead.
#[inline]
#[must_use]
pub fn renew_at(bytes: &[u8]) -> Option<(RequestId, LeaseId)> {
    short_frame_at(bytes, RENEW_WORD).map(|(request_id, id)| (request_id, LeaseId(id)))
}

/// The Renewed frame at the start of `bytes`, if there is a whole one: its request id and TTL in ms.
#[inline]
#[must_use]
pub fn renewed_at(bytes: &[u8]) -> Option<(RequestId, u64)> {
    short_frame_at(bytes, RENEWED_WORD)
}

#[inline]
fn short_frame(word: u64, request_id: RequestId, value: u64) -> [u8; RENEW_BYTES] {
    let mut raw = [0; RENEW_BYTES];
    raw[..8].copy_from_slice(&word.to_le_bytes());
    raw[8..12].copy_from_slice(&request_id.0.to_le_bytes());
    raw[12..].copy_from_slice(&value.to_le_bytes());
    raw
}

/// A Renew frame as bytes, for a caller that owns its send buffer.
#[inline]
#[must_use]
pub fn renew_frame(request_id: RequestId, id: LeaseId) -> [u8; RENEW_BYTES] {
    short_frame(RENEW_WORD, request_id, id.0)
}

/// A Renewed frame as bytes, for a caller that owns its send buffer.
#[inline]
#[must_use]
pub fn renewed_frame(request_id: RequestId, ttl_ms: u64) -> [u8; RENEWED_BYTES] {
    short_frame(RENEWED_WORD, request_id, ttl_ms)
}
