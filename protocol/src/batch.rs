//! Borrowed views of the batch bodies: IDs, grants, and what became of each.
//!
//! A view is a checked slice of the frame; iterating decodes with `from_le_bytes`, which compiles to
//! plain loads. Nothing is copied, nothing allocated, and the checks have all been made when a view
//! exists, so that iterating cannot fail.

use crate::error::ProtocolError;
use crate::id::{LeaseId, Token};
use crate::reader::{Reader, u16_at, u32_at, u64_at};
use crate::refusal::Refusal;

/// The IDs of a RenewBatch or RevokeBatch, 8 bytes each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ids<'a> {
    pub(crate) bytes: &'a [u8],
}

impl<'a> Ids<'a> {
    /// ```text
    /// | count u32 | reserved u32 = 0 | count × id u64 |
    /// ```
    pub(crate) fn decode(reader: &mut Reader<'a>, count_max: u32) -> Result<Ids<'a>, ProtocolError> {
        let count = reader.u32()?;
        reader.zero::<4>()?;
        let bytes = reader.entries::<8>(count)?;
        if count > count_max {
            return Err(ProtocolError::BatchTooLarge { count, count_max });
        }
        Ok(Ids { bytes })
    }

    /// How many IDs.
    #[inline]
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes.len() / 8
    }

    /// Whether there are none; an empty batch is allowed and changes nothing.
    #[inline]
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The IDs in order.
    #[inline]
    pub fn iter(&self) -> impl ExactSizeIterator<Item = LeaseId> + DoubleEndedIterator + Clone + use<'a> {
        self.bytes.as_chunks::<8>().0.iter().map(|raw| LeaseId(u64::from_le_bytes(*raw)))
    }

    /// The IDs as raw little-endian words, for a caller that converts them in bulk.
    #[inline]
    #[must_use]
    pub fn as_words(&self) -> &'a [[u8; 8]] {
        self.bytes.as_chunks::<8>().0
    }
}

/// One entry of a GrantBatch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GrantEntry {
    /// Time to live in ms.
    pub ttl_ms: u64,
    /// The chosen ID, or [`LeaseId::NONE`] for the server to choose.
    pub id: LeaseId,
}

/// The body of a GrantBatch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GrantBatch<'a> {
    pub(crate) first_sequence: u64,
    pub(crate) bytes: &'a [u8],
}

impl<'a> GrantBatch<'a> {
    /// ```text
    /// | count u32 | reserved u32 = 0 | first sequence u64 | count × (ttl ms u64, id u64) |
    /// ```
    pub(crate) fn decode(reader: &mut Reader<'a>, count_max: u32) -> Result<GrantBatch<'a>, ProtocolError> {
        let count = reader.u32()?;
        reader.zero::<4>()?;
        let first_sequence = reader.u64()?;
        let bytes = reader.entries::<16>(count)?;
        if count > count_max {
            return Err(ProtocolError::BatchTooLarge { count, count_max });
        }
        if first_sequence.checked_add(u64::from(count)).is_none() {
            return Err(reader.bad_value("first sequence"));
        }
        Ok(GrantBatch { first_sequence, bytes })
    }

    /// How many leases are asked for.
    #[inline]
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes.len() / 16
    }

    /// Whether there are none.
    #[inline]
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The sequence of the first entry; entry `i` has `first + i`. 0: the grants are not identified.
    #[inline]
    #[must_use]
    pub fn first_sequence(&self) -> u64 {
        self.first_sequence
    }

    /// The sequence of entry `index`, 0 when the grants are not identified.
    #[inline]
    #[must_use]
    pub fn sequence(&self, index: usize) -> u64 {
        if self.first_sequence == 0 { 0 } else { self.first_sequence + index as u64 }
    }

    /// The entries in order.
    #[inline]
    pub fn iter(&self) -> impl ExactSizeIterator<Item = GrantEntry> + Clone + use<'a> {
        self.bytes
            .as_chunks::<16>()
            .0
            .iter()
            .map(|raw| GrantEntry { ttl_ms: u64_at(raw, 0), id: LeaseId(u64_at(raw, 8)) })
    }
}

/// A lease as the server granted it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Granted {
    /// The lease's ID.
    pub id: LeaseId,
    /// Its fencing token.
    pub token: Token,
    /// Its TTL in ms, after raising to the server's minimum.
    pub ttl_ms: u64,
    /// What is left of it in ms. Less than the TTL only when `repeated`.
    pub remaining_ms: u64,
    /// The TTL asked for was below the server's minimum and was raised.
    pub raised: bool,
    /// This request was a repeat; the lease had been made before, and its clock was not restarted.
    pub repeated: bool,
}

/// The reply to a GrantBatch: for each entry the lease or the refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GrantResults<'a> {
    pub(crate) bytes: &'a [u8],
}

/// Bytes of one entry of the reply to a GrantBatch.
pub(crate) const GRANT_RESULT_BYTES: usize = 40;

impl<'a> GrantResults<'a> {
    /// ```text
    /// | count u32 | reserved u32 = 0 | count × entry |
    /// entry: | refusal u16, 0 = granted | flags u8 | reserved 5 B = 0 | id | token | ttl ms | remaining ms |
    /// ```
    pub(crate) fn decode(reader: &mut Reader<'a>) -> Result<GrantResults<'a>, ProtocolError> {
        let count = reader.u32()?;
        reader.zero::<4>()?;
        let bytes = reader.entries::<GRANT_RESULT_BYTES>(count)?;
        for raw in bytes.as_chunks::<GRANT_RESULT_BYTES>().0 {
            let code = u16_at(raw, 0);
            let reserved = raw[3..8].iter().any(|&byte| byte != 0);
            if reserved || raw[2] & !3 != 0 {
                return Err(reader.bad_value("grant result flags"));
            }
            if code != 0 {
                let zeros = raw[2] == 0 && raw[8..].iter().all(|&byte| byte == 0);
                if !zeros || Refusal::from_code(code).is_none() {
                    return Err(reader.bad_value("grant result"));
                }
            }
        }
        Ok(GrantResults { bytes })
    }

    /// How many results; equal to the entries of the request.
    #[inline]
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes.len() / GRANT_RESULT_BYTES
    }

    /// Whether there are none.
    #[inline]
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The results in the order of the request's entries.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Result<Granted, Refusal>> + Clone + use<'a> {
        self.bytes.as_chunks::<GRANT_RESULT_BYTES>().0.iter().map(|raw| {
            match Refusal::from_code(u16_at(raw, 0)) {
                Some(refusal) => Err(refusal),
                None => Ok(Granted {
                    id: LeaseId(u64_at(raw, 8)),
                    token: Token(u64_at(raw, 16)),
                    ttl_ms: u64_at(raw, 24),
                    remaining_ms: u64_at(raw, 32),
                    raised: raw[2] & crate::opcode::flag::RAISED != 0,
                    repeated: raw[2] & crate::opcode::flag::REPEATED != 0,
                }),
            }
        })
    }
}

/// One entry of a batch that was not carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failed {
    /// Index of the entry in the request.
    pub index: u32,
    /// Why.
    pub refusal: Refusal,
}

/// The reply to a RenewBatch or RevokeBatch: how many entries there were and which of them failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchOutcome<'a> {
    pub(crate) count: u32,
    pub(crate) failed: &'a [u8],
}

impl<'a> BatchOutcome<'a> {
    /// ```text
    /// flag ALL:  | count u32 |                                                    (16 bytes with header)
    /// otherwise: | count u32 | failed count u32 ≥ 1 | failed × (index u32, refusal u16, reserved u16) |
    /// ```
    /// Indexes rise strictly, so that there is one way to write an outcome.
    pub(crate) fn decode(reader: &mut Reader<'a>) -> Result<BatchOutcome<'a>, ProtocolError> {
        let all = reader.flags(crate::opcode::flag::ALL)? != 0;
        let count = reader.u32()?;
        if all {
            reader.end()?;
            return Ok(BatchOutcome { count, failed: &[] });
        }
        let failed_count = reader.u32()?;
        let failed = reader.entries::<8>(failed_count)?;
        let mut above = 0u64;
        for raw in failed.as_chunks::<8>().0 {
            let index = u32_at(raw, 0);
            let known = Refusal::from_code(u16_at(raw, 4)).is_some() && u16_at(raw, 6) == 0;
            if !known || u64::from(index) < above || index >= count {
                return Err(reader.bad_value("failed entry"));
            }
            above = u64::from(index) + 1;
        }
        if failed_count == 0 {
            return Err(reader.bad_value("failed count"));
        }
        Ok(BatchOutcome { count, failed })
    }

    /// Entries in the request.
    #[inline]
    #[must_use]
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Whether every entry was carried out.
    #[inline]
    #[must_use]
    pub fn is_all(&self) -> bool {
        self.failed.is_empty()
    }

    /// How many entries were not carried out.
    #[inline]
    #[must_use]
    pub fn failed_count(&self) -> usize {
        self.failed.len() / 8
    }

    /// The entries that were not carried out, by rising index.
    pub fn failed(&self) -> impl ExactSizeIterator<Item = Failed> + Clone + use<'a> {
        self.failed.as_chunks::<8>().0.iter().map(|raw| Failed {
            index: u32_at(raw, 0),
            // Checked by `decode`; a view cannot hold an unknown number.
            refusal: Refusal::from_code(u16_at(raw, 4)).unwrap_or(Refusal::Internal),
        })
    }
}
