//! A strict reader of one frame's body: fields in order, nothing missing, nothing left over.
//!
//! Every count is checked against the bytes that are really there before anyone sees it, so a decoder
//! built on this cannot be made to allocate more than the frame that it was given.

use crate::error::ProtocolError;
use crate::frame::Frame;
use crate::limits::TEXT_BYTES_MAX;

pub(crate) struct Reader<'a> {
    opcode: u8,
    flags: u8,
    body: &'a [u8],
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    #[inline]
    pub(crate) fn new(frame: &Frame<'a>) -> Reader<'a> {
        Reader { opcode: frame.header.opcode, flags: frame.header.flags, body: frame.body, rest: frame.body }
    }

    /// Refuses every flag outside `known`, then returns the flags.
    #[inline]
    pub(crate) fn flags(&self, known: u8) -> Result<u8, ProtocolError> {
        if self.flags & !known != 0 {
            return Err(ProtocolError::UnknownFlags { opcode: self.opcode, flags: self.flags });
        }
        Ok(self.flags)
    }

    /// Fixed body of `N` bytes, with no flags: the shape of most frames.
    #[inline]
    pub(crate) fn exactly<const N: usize>(&self) -> Result<&'a [u8; N], ProtocolError> {
        self.flags(0)?;
        self.body.try_into().map_err(|_| self.length_error())
    }

    #[inline]
    pub(crate) fn chunk<const N: usize>(&mut self) -> Result<&'a [u8; N], ProtocolError> {
        let (chunk, rest) = self.rest.split_first_chunk::<N>().ok_or(self.length_error())?;
        self.rest = rest;
        Ok(chunk)
    }

    #[inline]
    pub(crate) fn u8(&mut self) -> Result<u8, ProtocolError> {
        Ok(self.chunk::<1>()?[0])
    }

    #[inline]
    pub(crate) fn u16(&mut self) -> Result<u16, ProtocolError> {
        Ok(u16::from_le_bytes(*self.chunk()?))
    }

    #[inline]
    pub(crate) fn u32(&mut self) -> Result<u32, ProtocolError> {
        Ok(u32::from_le_bytes(*self.chunk()?))
    }

    #[inline]
    pub(crate) fn u64(&mut self) -> Result<u64, ProtocolError> {
        Ok(u64::from_le_bytes(*self.chunk()?))
    }

    /// Reserved bytes, which must be zero.
    #[inline]
    pub(crate) fn zero<const N: usize>(&mut self) -> Result<(), ProtocolError> {
        if self.chunk::<N>()?.iter().any(|&byte| byte != 0) {
            return Err(ProtocolError::ReservedNotZero { opcode: self.opcode });
        }
        Ok(())
    }

    #[inline]
    pub(crate) fn bytes(&mut self, count: usize) -> Result<&'a [u8], ProtocolError> {
        let (bytes, rest) = self.rest.split_at_checked(count).ok_or(self.length_error())?;
        self.rest = rest;
        Ok(bytes)
    }

    /// `count` entries of `N` bytes each, which must be all that is left.
    #[inline]
    pub(crate) fn entries<const N: usize>(&mut self, count: u32) -> Result<&'a [u8], ProtocolError> {
        if self.rest.len() as u64 != u64::from(count) * N as u64 {
            return Err(self.length_error());
        }
        Ok(std::mem::take(&mut self.rest))
    }

    pub(crate) fn text(&mut self, count: usize) -> Result<&'a str, ProtocolError> {
        if count > TEXT_BYTES_MAX as usize {
            return Err(self.bad_value("text"));
        }
        std::str::from_utf8(self.bytes(count)?).map_err(|_| ProtocolError::NotUtf8 { opcode: self.opcode })
    }

    /// What is left, for a view that checks it itself.
    pub(crate) fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.rest)
    }

    /// Nothing may be left.
    #[inline]
    pub(crate) fn end(&self) -> Result<(), ProtocolError> {
        if self.rest.is_empty() { Ok(()) } else { Err(self.length_error()) }
    }

    pub(crate) fn length_error(&self) -> ProtocolError {
        ProtocolError::BodyLength { opcode: self.opcode, body_bytes: self.body.len() as u32 }
    }

    pub(crate) fn bad_value(&self, field: &'static str) -> ProtocolError {
        ProtocolError::BadValue { opcode: self.opcode, field }
    }
}

/// The `index`-th little-endian u64 of bytes whose length the caller has checked.
#[inline]
pub(crate) fn u64_at(bytes: &[u8], offset: usize) -> u64 {
    let mut raw = [0; 8];
    raw.copy_from_slice(&bytes[offset..offset + 8]);
    u64::from_le_bytes(raw)
}

/// As [`u64_at`], for u32.
#[inline]
pub(crate) fn u32_at(bytes: &[u8], offset: usize) -> u32 {
    let mut raw = [0; 4];
    raw.copy_from_slice(&bytes[offset..offset + 4]);
    u32::from_le_bytes(raw)
}

/// As [`u64_at`], for u16.
#[inline]
pub(crate) fn u16_at(bytes: &[u8], offset: usize) -> u16 {
    u16::from_le_bytes([bytes[offset], bytes[offset + 1]])
}
