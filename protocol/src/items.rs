//! A page of items: opaque byte strings, each behind a 16-bit length.

use crate::error::ProtocolError;
use crate::reader::{Reader, u16_at};

/// Items of a lease, in rising byte order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Items<'a> {
    pub(crate) count: u32,
    pub(crate) bytes: &'a [u8],
}

impl<'a> Items<'a> {
    /// No items.
    pub const EMPTY: Items<'static> = Items { count: 0, bytes: &[] };

    /// `count × (length u16, bytes)`, tightly packed, to the end of the frame.
    pub(crate) fn decode(reader: &mut Reader<'a>, count: u32) -> Result<Items<'a>, ProtocolError> {
        let bytes = reader.rest();
        let mut rest = bytes;
        for _ in 0..count {
            let (_, after) = split_item(rest).ok_or(reader.length_error())?;
            rest = after;
        }
        if !rest.is_empty() {
            return Err(reader.length_error());
        }
        Ok(Items { count, bytes })
    }

    /// How many items.
    #[inline]
    #[must_use]
    pub fn len(&self) -> usize {
        self.count as usize
    }

    /// Whether there are none.
    #[inline]
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The items in order.
    #[must_use]
    pub fn iter(&self) -> ItemIter<'a> {
        ItemIter { rest: self.bytes }
    }
}

impl<'a> IntoIterator for Items<'a> {
    type Item = &'a [u8];
    type IntoIter = ItemIter<'a>;

    fn into_iter(self) -> ItemIter<'a> {
        self.iter()
    }
}

fn split_item(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (_, rest) = bytes.split_at_checked(2)?;
    rest.split_at_checked(u16_at(bytes, 0) as usize)
}

/// Iterates over [`Items`].
#[derive(Clone, Debug)]
pub struct ItemIter<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for ItemIter<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let (item, rest) = split_item(self.rest)?;
        self.rest = rest;
        Some(item)
    }
}
