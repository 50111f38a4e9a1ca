//! The batch: 64 bytes of header, then records, padded with zeros to the next 4096-byte block.
//!
//! ```text
//!  0        4        8                16               24               32
//!  | crc32c | length | position       | previous       | durable        |
//!  32               40               48      52      56    58 59 60      64
//!  | time           | log id         | epoch | count | shard| v| f|   0  | records …
//! ```
//! Little-endian. The checksum covers bytes 4..length, so header and records stand or fall together;
//! the padding is not covered. `position` makes a batch valid only where it was written, which is
//! what lets segments be recycled without clearing them; `previous` and `epoch` chain batches, so
//! that leftovers of an earlier run are never taken up; `durable` says what had been acknowledged
//! when the batch was written, which is how a reader tells damage from an interrupted write (S3).
//!
//! This file checks one batch by itself. How batches follow one another is the business of `chain`.

use std::fmt;

use super::limits::{BATCH_BYTES_MAX, BLOCK_BYTES, FORMAT_VERSION, HEADER_BYTES};

/// `previous` of the first batch of a log.
pub(super) const PREVIOUS_NONE: u64 = u64::MAX;

/// The header of one batch. Places are byte positions in the shard's log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchHeader {
    /// Bytes of header and records, without the padding.
    pub length: u32,
    /// Where this header stands.
    pub position: u64,
    /// Where the header of the batch before stands; `u64::MAX` for the first of a log.
    pub previous: u64,
    /// Padded end of the last batch known durable when this one was handed to the disk.
    pub durable: u64,
    /// Engine time before the first record, ms.
    pub time_ms: u64,
    /// Random identity of the log.
    pub log_id: u64,
    /// Which run of the engine wrote it.
    pub epoch: u32,
    /// Records in the batch, for people and tools.
    pub record_count: u32,
    /// Which shard it belongs to.
    pub shard: u16,
}

/// Why the bytes at a place are not a batch of this log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BatchFlaw {
    /// Zeros: nothing was ever written here.
    Blank,
    /// The length is impossible.
    Length(u32),
    /// It says that it stands elsewhere: left behind in a recycled segment, or no batch at all.
    OtherPlace(u64),
    /// The checksum does not match: torn or damaged.
    Checksum,
    /// Sound, but written by a later version of the format.
    Version(u8),
    /// Sound, but of another log (its id).
    OtherLog(u64),
    /// Sound, but of another shard.
    OtherShard(u16),
    /// Sound, but with flags or reserved bytes this version must not have.
    Reserved,
    /// Sound, but of an older run than the batch before it: left over from before a crash.
    OldEpoch(u32),
    /// Sound, but not the successor of the batch before it (its `previous`).
    OtherPrevious(u64),
}

/// Whose batches are accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BatchOwner {
    pub(super) log_id: u64,
    pub(super) shard: u16,
}

impl BatchHeader {
    /// Bytes the batch takes in its segment.
    #[must_use]
    pub fn padded_bytes(&self) -> u64 {
        u64::from(self.length).next_multiple_of(BLOCK_BYTES as u64)
    }

    /// Where the next batch may start.
    #[must_use]
    pub fn padded_end(&self) -> u64 {
        self.position + self.padded_bytes()
    }

    /// Position of the first record.
    #[must_use]
    pub fn first_record(&self) -> u64 {
        self.position + HEADER_BYTES as u64
    }

    /// Position after the last record.
    #[must_use]
    pub fn records_end(&self) -> u64 {
        self.position + u64::from(self.length)
    }

    /// Writes the header over the first 64 bytes of `batch`, whose records are in place, and the
    /// checksum over all of it. `batch` is header and records without padding.
    pub(super) fn encode(&self, batch: &mut [u8]) {
        assert!(batch.len() == self.length as usize && batch.len() <= BATCH_BYTES_MAX, "S8: batch length");
        assert!(self.position.is_multiple_of(BLOCK_BYTES as u64), "a batch starts at a block");
        batch[4..8].copy_from_slice(&self.length.to_le_bytes());
        batch[8..16].copy_from_slice(&self.position.to_le_bytes());
        batch[16..24].copy_from_slice(&self.previous.to_le_bytes());
        batch[24..32].copy_from_slice(&self.durable.to_le_bytes());
        batch[32..40].copy_from_slice(&self.time_ms.to_le_bytes());
        batch[40..48].copy_from_slice(&self.log_id.to_le_bytes());
        batch[48..52].copy_from_slice(&self.epoch.to_le_bytes());
        batch[52..56].copy_from_slice(&self.record_count.to_le_bytes());
        batch[56..58].copy_from_slice(&self.shard.to_le_bytes());
        batch[58] = FORMAT_VERSION;
        batch[59..64].fill(0);
        let crc = crc_fast::crc32_iscsi(&batch[4..]);
        batch[..4].copy_from_slice(&crc.to_le_bytes());
    }

    fn decode(bytes: &[u8]) -> BatchHeader {
        BatchHeader {
            length: u32_at(bytes, 4),
            position: u64_at(bytes, 8),
            previous: u64_at(bytes, 16),
            durable: u64_at(bytes, 24),
            time_ms: u64_at(bytes, 32),
            log_id: u64_at(bytes, 40),
            epoch: u32_at(bytes, 48),
            record_count: u32_at(bytes, 52),
            shard: u16::from_le_bytes([bytes[56], bytes[57]]),
        }
    }

    /// The cheap first look, at a header alone: could a batch stand at `place` with `room` bytes
    /// left in its segment? Says how many bytes [`check`](Self::check) needs to see.
    pub(super) fn glance(bytes: &[u8], place: u64, room: u64) -> Result<usize, BatchFlaw> {
        let header = Self::decode(&bytes[..HEADER_BYTES]);
        if bytes[..HEADER_BYTES].iter().all(|&byte| byte == 0) {
            return Err(BatchFlaw::Blank);
        }
        let length = header.length as usize;
        if !(HEADER_BYTES..=BATCH_BYTES_MAX).contains(&length) || header.padded_bytes() > room {
            return Err(BatchFlaw::Length(header.length));
        }
        if header.position != place {
            return Err(BatchFlaw::OtherPlace(header.position));
        }
        Ok(length)
    }

    /// Checks a whole batch (`bytes` from its header on, as long as `glance` asked for).
    pub(super) fn check(bytes: &[u8], owner: BatchOwner) -> Result<BatchHeader, BatchFlaw> {
        let header = Self::decode(&bytes[..HEADER_BYTES]);
        let covered = &bytes[4..header.length as usize];
        if crc_fast::crc32_iscsi(covered) != u32_at(bytes, 0) {
            return Err(BatchFlaw::Checksum);
        }
        // From here on the bytes are what somebody meant to write.
        if bytes[58] != FORMAT_VERSION {
            return Err(BatchFlaw::Version(bytes[58]));
        }
        if bytes[59..HEADER_BYTES].iter().any(|&byte| byte != 0) {
            return Err(BatchFlaw::Reserved);
        }
        if header.log_id != owner.log_id {
            return Err(BatchFlaw::OtherLog(header.log_id));
        }
        if header.shard != owner.shard {
            return Err(BatchFlaw::OtherShard(header.shard));
        }
        Ok(header)
    }
}

impl BatchFlaw {
    /// Sound bytes that this build or this log must not touch: no crash leaves such behind, so a
    /// reader refuses rather than cutting the log here.
    pub(super) fn is_foreign(self) -> bool {
        matches!(
            self,
            BatchFlaw::Version(_) | BatchFlaw::OtherLog(_) | BatchFlaw::OtherShard(_) | BatchFlaw::Reserved
        )
    }
}

impl fmt::Display for BatchFlaw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BatchFlaw::Blank => write!(f, "nothing written here"),
            BatchFlaw::Length(length) => write!(f, "impossible batch length {length}"),
            BatchFlaw::OtherPlace(place) => write!(f, "bytes that belong at position {place}"),
            BatchFlaw::Checksum => write!(f, "batch checksum does not match"),
            BatchFlaw::Version(version) => {
                write!(f, "batch format version {version}, this build reads {FORMAT_VERSION}")
            }
            BatchFlaw::OtherLog(id) => write!(f, "batch of another log (id {id:016x})"),
            BatchFlaw::OtherShard(shard) => write!(f, "batch of shard {shard}"),
            BatchFlaw::Reserved => write!(f, "batch with reserved bits set"),
            BatchFlaw::OldEpoch(epoch) => write!(f, "batch left over from epoch {epoch}"),
            BatchFlaw::OtherPrevious(previous) => write!(f, "batch that follows another one (at {previous})"),
        }
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWNER: BatchOwner = BatchOwner { log_id: 0x1122_3344_5566_7788, shard: 3 };

    fn batch(records: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; HEADER_BYTES];
        bytes.extend_from_slice(records);
        let header = BatchHeader {
            length: bytes.len() as u32,
            position: 8192,
            previous: 4096,
            durable: 8192,
            time_ms: 1500,
            log_id: OWNER.log_id,
            epoch: 7,
            record_count: 2,
            shard: OWNER.shard,
        };
        header.encode(&mut bytes);
        bytes
    }

    fn read(bytes: &[u8], place: u64) -> Result<BatchHeader, BatchFlaw> {
        let length = BatchHeader::glance(bytes, place, 1 << 20)?;
        if length > bytes.len() {
            return Err(BatchFlaw::Length(length as u32));
        }
        BatchHeader::check(bytes, OWNER)
    }

    #[test]
    fn reads_what_it_wrote() {
        let header = read(&batch(b"sixteen bytes of"), 8192).unwrap();
        assert_eq!((header.length, header.previous, header.durable), (80, 4096, 8192));
        assert_eq!((header.time_ms, header.epoch, header.record_count, header.shard), (1500, 7, 2, 3));
        assert_eq!((header.first_record(), header.records_end(), header.padded_end()), (8256, 8272, 12288));
    }

    #[test]
    fn every_bit_flip_is_refused() {
        let good = batch(b"sixteen bytes of");
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(read(&bad, 8192).is_err(), "bit {bit} flipped unnoticed");
        }
    }

    #[test]
    fn every_truncation_is_refused() {
        let good = batch(b"sixteen bytes of");
        for length in 0..good.len() {
            let mut torn = good.clone();
            torn[length..].fill(0);
            assert!(read(&torn, 8192).is_err(), "cut at {length} unnoticed");
        }
    }

    #[test]
    fn valid_only_where_it_was_written() {
        let good = batch(b"x");
        assert_eq!(read(&good, 4096), Err(BatchFlaw::OtherPlace(8192)));
        assert_eq!(
            BatchHeader::check(&good, BatchOwner { log_id: 9, ..OWNER }),
            Err(BatchFlaw::OtherLog(OWNER.log_id))
        );
        assert_eq!(
            BatchHeader::check(&good, BatchOwner { shard: 4, ..OWNER }),
            Err(BatchFlaw::OtherShard(3))
        );
        assert_eq!(BatchHeader::glance(&good, 8192, 0), Err(BatchFlaw::Length(65)));
    }

    #[test]
    fn a_later_version_is_told_apart_from_damage() {
        let mut bytes = batch(b"x");
        bytes[58] = 2;
        let crc = crc_fast::crc32_iscsi(&bytes[4..]);
        bytes[..4].copy_from_slice(&crc.to_le_bytes());
        assert_eq!(read(&bytes, 8192), Err(BatchFlaw::Version(2)));
        bytes[58] = 1;
        bytes[60] = 1;
        let crc = crc_fast::crc32_iscsi(&bytes[4..]);
        bytes[..4].copy_from_slice(&crc.to_le_bytes());
        assert_eq!(read(&bytes, 8192), Err(BatchFlaw::Reserved));
    }
}
