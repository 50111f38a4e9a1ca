//! Reads the durable log of a running shard from any position, for consumers that resume their event
//! stream further back than memory reaches.
//!
//! Plain blocking reads on a helper thread, one window of memory, beside the writer and the keeper:
//! only bytes below the durable position are looked at, which never change until their segment is
//! recycled. That can happen under the reader's hands; what it then finds says that it stands
//! elsewhere, and the reader answers [`HistoryError::TooOld`].

use tenure_core::{Position, Time};

use super::batch::BatchHeader;
use super::chain::{Chain, ChainEnd};
use super::directory::ShardLog;
use super::error::LogError;
use super::limits::{BLOCK_BYTES, HEADER_BYTES};
use super::segment::list_segments;

/// Why history could not be read.
#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    /// The log no longer reaches back that far.
    #[error("the log is kept from position {} on", oldest.0)]
    TooOld {
        /// First position still kept.
        oldest: Position,
    },
    /// A file could not be read, or is damaged.
    #[error(transparent)]
    Log(#[from] LogError),
}

/// One durable batch.
#[derive(Clone, Copy, Debug)]
pub struct HistoryBatch<'a> {
    /// Position of its first record. May lie before the position asked for, when that is inside.
    pub first: Position,
    /// Engine time before the first record.
    pub time: Time,
    /// Its records.
    pub records: &'a [u8],
}

/// Follows the durable log of one shard.
pub struct EventReader {
    log: ShardLog,
    chain: Chain,
    from: u64,
}

impl EventReader {
    /// A reader of everything from `from` on, which may lie inside a batch. `durable` is the shard's durable
    /// position now.
    ///
    /// # Errors
    /// `from` is older than the oldest segment, or the files could not be read.
    pub fn open(log: &ShardLog, from: Position, durable: Position) -> Result<EventReader, HistoryError> {
        let oldest = list_segments(&log.disk, &log.dir)?.first().map_or(log.start, |segment| segment.base);
        // Nothing was ever written before the log's first batch.
        if from.0 < oldest && oldest != 0 {
            return Err(HistoryError::TooOld { oldest: first_record(oldest) });
        }
        match Chain::from_position(log, from.0.max(first_record(oldest).0), 0) {
            Ok(chain) => Ok(EventReader { log: log.clone(), chain, from: from.0 }),
            Err(error) => Err(too_old(log, from.0)
                .or_else(|| all_recycled(log, from.0, durable))
                .unwrap_or(HistoryError::Log(error))),
        }
    }

    /// First position of the log that is still kept.
    ///
    /// # Errors
    /// The directory could not be listed.
    pub fn oldest(log: &ShardLog) -> Result<Position, LogError> {
        let segments = list_segments(&log.disk, &log.dir)?;
        Ok(first_record(segments.first().map_or(log.start, |segment| segment.base)))
    }

    /// The next batch, if one is durable. `durable` is the shard's durable position now; it never
    /// goes back from call to call.
    ///
    /// # Errors
    /// The segment was recycled meanwhile, or could not be read.
    pub fn next(&mut self, durable: Position) -> Result<Option<HistoryBatch<'_>>, HistoryError> {
        match self.find(durable) {
            Ok(Some(header)) => {
                let (first, time) = (Position(header.first_record()), Time(header.time_ms));
                Ok(Some(HistoryBatch { first, time, records: self.chain.records(&header) }))
            }
            Ok(None) => Ok(None),
            // A file that went away or changed under the reader was recycled.
            Err(error) => {
                let place = self.chain.place();
                Err(too_old(&self.log, place)
                    .or_else(|| all_recycled(&self.log, place, durable))
                    .unwrap_or(HistoryError::Log(error)))
            }
        }
    }

    fn find(&mut self, durable: Position) -> Result<Option<BatchHeader>, LogError> {
        // The durable position is the first record of the batch after: its header is not durable.
        let limit = durable.0 / BLOCK_BYTES as u64 * BLOCK_BYTES as u64;
        self.chain.set_limit(limit);
        let mut refreshed = false;
        loop {
            if self.chain.place() >= limit {
                return Ok(None);
            }
            match self.chain.advance()? {
                Ok(header) if header.records_end() <= self.from => {}
                Ok(header) => return Ok(Some(header)),
                // The rest of this segment was left; the next batch is not durable yet.
                Err(_) if self.chain.segment().is_some_and(|segment| segment.end() == limit) => {
                    return Ok(None);
                }
                Err(_) if !refreshed => {
                    refreshed = true;
                    self.chain.refresh()?;
                }
                Err(ChainEnd { place, flaw }) => {
                    return Err(self.chain.damage(place, format!("{flaw}, although durable"), false).into());
                }
            }
        }
    }
}

fn first_record(base: u64) -> Position {
    Position(base + HEADER_BYTES as u64)
}

/// Whether the log now begins behind `place`.
fn too_old(log: &ShardLog, place: u64) -> Option<HistoryError> {
    let oldest = list_segments(&log.disk, &log.dir).ok()?.first()?.base;
    (oldest > place).then(|| HistoryError::TooOld { oldest: first_record(oldest) })
}

/// A snapshot may leave no segment at all until the next one can be made: the log begins at its end.
fn all_recycled(log: &ShardLog, place: u64, durable: Position) -> Option<HistoryError> {
    let empty = list_segments(&log.disk, &log.dir).ok()?.is_empty();
    (empty && place < durable.0).then_some(HistoryError::TooOld { oldest: durable })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::rig::{Rig, SEGMENT, Session};

    /// A reader that takes everything for durable.
    fn open(log: &ShardLog, from: Position) -> Result<EventReader, HistoryError> {
        EventReader::open(log, from, Position(u64::MAX))
    }

    fn read_all(reader: &mut EventReader, durable: Position) -> Vec<(u64, Vec<u8>)> {
        let mut seen = Vec::new();
        while let Some(batch) = reader.next(durable).unwrap() {
            seen.push((batch.first.0, batch.records.to_vec()));
        }
        seen
    }

    fn fill(session: &mut Session, until: u64) -> Vec<(u64, Vec<u8>)> {
        let mut written = Vec::new();
        while session.writer.position().0 < until {
            let records = vec![written.len() as u8; 50_000];
            written.push((session.commit(&records), records));
        }
        written
    }

    /// A snapshot may have recycled every segment while a full disk lets no new one be made.
    #[test]
    fn without_a_segment_everything_is_too_old() {
        let mut rig = Rig::new();
        let mut session = rig.open();
        fill(&mut session, 2 * SEGMENT);
        let durable = session.writer.acknowledged();
        for segment in list_segments(&rig.log.disk, &rig.log.dir).unwrap() {
            std::fs::remove_file(&segment.path).unwrap();
        }
        for from in [64, SEGMENT + 64, durable.0 - 1] {
            let opened = EventReader::open(&rig.log, Position(from), durable);
            let read = opened.and_then(|mut reader| reader.next(durable).map(|batch| batch.is_some()));
            assert!(
                matches!(read, Err(HistoryError::TooOld { oldest }) if oldest == durable),
                "from {from}: {read:?}"
            );
        }
    }

    #[test]
    fn follows_the_writer_from_any_position() {
        let mut rig = Rig::new();
        let mut session = rig.open();
        let mut written = fill(&mut session, 2 * SEGMENT + 100_000);
        let middle = written.len() / 2;
        for from in [0, 64, written[middle].0, written[middle].0 + 77, written[middle].0 + 49_999] {
            let mut reader = open(&rig.log, Position(from)).unwrap();
            let skip = if from <= 64 { 0 } else { middle };
            assert_eq!(read_all(&mut reader, session.writer.acknowledged()), written[skip..], "from {from}");
        }
        let mut reader = open(&rig.log, session.writer.position()).unwrap();
        assert_eq!(read_all(&mut reader, session.writer.acknowledged()), []);
        // Batch by batch across a segment end, as the durable position moves.
        while session.writer.position().0 < 4 * SEGMENT {
            let records = vec![9; 33_000];
            written.push((session.commit(&records), records));
            let seen = read_all(&mut reader, session.writer.acknowledged());
            assert_eq!(seen, written[written.len() - 1..]);
            assert_eq!(read_all(&mut reader, session.writer.acknowledged()), []);
        }
    }

    #[test]
    fn shows_nothing_that_is_not_durable() {
        let mut rig = Rig::new();
        let mut session = rig.open();
        session.commit(b"durable");
        let durable = session.writer.acknowledged();
        session.seal(b"on disk, not acknowledged");
        for write in session.writes() {
            session.put(&write, write.length);
        }
        let mut reader = open(&rig.log, Position(0)).unwrap();
        assert_eq!(read_all(&mut reader, durable).len(), 1);
        assert_eq!(read_all(&mut reader, session.writer.position()).len(), 1);
    }

    #[test]
    fn says_when_the_log_no_longer_reaches_back() {
        let mut rig = Rig::new();
        let mut session = rig.open();
        fill(&mut session, 3 * SEGMENT + 100_000);
        let durable = session.writer.acknowledged();
        let mut early = open(&rig.log, Position(64)).unwrap();
        assert!(early.next(durable).unwrap().is_some());
        session.recycle(2 * SEGMENT);
        fill(&mut session, 6 * SEGMENT); // the recycled files have other contents now
        let durable = session.writer.acknowledged();
        let outcome = loop {
            match early.next(durable) {
                Ok(batch) => assert!(batch.expect("more is durable").first.0 < SEGMENT + 64, "skipped a gap"),
                Err(error) => break error,
            }
        };
        let expected = Position(2 * SEGMENT + 64);
        assert!(matches!(outcome, HistoryError::TooOld { oldest } if oldest == expected), "{outcome}");
        let late = open(&rig.log, Position(SEGMENT + 64));
        assert!(matches!(late, Err(HistoryError::TooOld { oldest }) if oldest == expected));
        assert_eq!(EventReader::oldest(&rig.log).unwrap(), expected);
        let mut kept = open(&rig.log, expected).unwrap();
        assert_eq!(kept.next(durable).unwrap().unwrap().first, expected);
    }

    #[test]
    fn damage_in_durable_history_is_an_error() {
        let mut rig = Rig::new();
        let mut session = rig.open();
        session.commit(b"one");
        session.commit(b"two");
        rig.flip(4096 + 65, 3);
        let mut reader = open(&rig.log, Position(64)).unwrap();
        let durable = session.writer.acknowledged();
        assert!(reader.next(durable).unwrap().is_some());
        let error = reader.next(durable).unwrap_err().to_string();
        assert!(error.contains("at byte 4096") && error.contains("although durable"), "{error}");
    }
}
