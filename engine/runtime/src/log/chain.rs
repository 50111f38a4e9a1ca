//! Follows a shard's batches from one to the next: the reading rules, in one place, for recovery,
//! event history and tools.
//!
//! A batch follows the one before when it is sound by itself (`batch`), says that it stands where
//! it stands, names the one before as its `previous`, and is of the same epoch or a later one. It
//! stands either right behind it or, when its segment was left early, at the start of the next
//! segment; `previous` proves that nothing stood between.
//!
//! ```text
//!   place                 next segment
//!   v                     v
//!   | sound? follows? ──no──> | sound? follows? ──no──> the chain ends at `place`
//! ```
//! What lies behind the end decides what the end *is* ([`Chain::scan_beyond`]): a batch there that was
//! written after `place` had been acknowledged (`durable` > place) makes it damage (S3); otherwise it is
//! the torn tail, and sound batches behind it are writes that nobody was told about.

use super::batch::{BatchFlaw, BatchHeader, BatchOwner, PREVIOUS_NONE};
use super::directory::ShardLog;
use super::error::{Damage, LogError};
use super::limits::{BLOCK_BYTES, HEADER_BYTES};
use super::segment::{SegmentEntry, list_segments, segment_path};
use super::window::Window;

/// A walk along the batches of one shard.
pub(super) struct Chain {
    log: ShardLog,
    segments: Vec<SegmentEntry>,
    /// Segment the chain is in; may be `segments.len()` when the next place has no file yet.
    index: usize,
    place: u64,
    /// `None`: begun in mid-log, where the batch before is not known.
    previous: Option<u64>,
    epoch: u32,
    /// Batches that reach beyond this position are of this epoch or a later one.
    fresh: (u64, u32),
    /// Nothing at or behind this place is read.
    limit: u64,
    window: Window,
}

/// Where a chain ends, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ChainEnd {
    pub(super) place: u64,
    pub(super) flaw: BatchFlaw,
}

/// What lies behind the end of a chain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Beyond {
    /// Sound batches of the last epoch behind the end: written, never acknowledged.
    pub(super) batches: u64,
    /// Their records.
    pub(super) records: u64,
    /// A batch that was written after the end had been acknowledged.
    pub(super) witness: Option<BatchHeader>,
}

impl Chain {
    /// A chain from the first batch of the log.
    pub(super) fn from_start(log: &ShardLog) -> Result<Chain, LogError> {
        Chain::begin(log, list_segments(&log.disk, &log.dir)?, None)
    }

    /// A chain from the start of the segment that `position` stands in. Batches reaching beyond
    /// `position` must be of `epoch` or later.
    pub(super) fn from_position(log: &ShardLog, position: u64, epoch: u32) -> Result<Chain, LogError> {
        Chain::begin(log, list_segments(&log.disk, &log.dir)?, Some((position, epoch)))
    }

    /// A chain as a start would follow it (from a snapshot's position and epoch, or from the first
    /// batch) if there were nothing at or behind `limit`.
    pub(super) fn up_to(log: &ShardLog, from: Option<(u64, u32)>, limit: u64) -> Result<Chain, LogError> {
        let mut segments = list_segments(&log.disk, &log.dir)?;
        segments.retain(|segment| segment.base < limit);
        let mut chain = Chain::begin(log, segments, from)?;
        chain.limit = limit;
        Ok(chain)
    }

    /// A chain from the start of the oldest segment there is, wherever that begins.
    pub(super) fn from_oldest(log: &ShardLog) -> Result<Chain, LogError> {
        let segments = list_segments(&log.disk, &log.dir)?;
        let place = segments.first().map_or(log.start, |segment| segment.base);
        let previous = (place == log.start).then_some(PREVIOUS_NONE);
        Ok(Chain::new(log, segments, 0, place, previous))
    }

    fn begin(
        log: &ShardLog,
        segments: Vec<SegmentEntry>,
        from: Option<(u64, u32)>,
    ) -> Result<Chain, LogError> {
        let Some((position, epoch)) = from else {
            let chain = Chain::new(log, segments, 0, log.start, Some(PREVIOUS_NONE));
            if chain.segments.first().is_some_and(|first| first.base != log.start) {
                return Err(chain.missing(log.start).into());
            }
            chain.check_contiguous()?;
            return Ok(chain);
        };
        // The first record of a segment stands 64 bytes into it, and the last one before its end.
        let index = segments.partition_point(|segment| segment.end() < position);
        let header = position.saturating_sub(HEADER_BYTES as u64);
        let place = segments.get(index).map_or(header, |segment| segment.base);
        let mut chain = Chain::new(log, segments, index, place, None);
        chain.fresh = (position, epoch);
        let last_end = index.checked_sub(1).map(|last| chain.segments[last].end());
        let found = match chain.segments.get(index) {
            Some(segment) => segment.base < position,
            // The segment of the very next batch may not have been made yet.
            None if chain.segments.is_empty() => header.is_multiple_of(BLOCK_BYTES as u64),
            None => last_end == Some(header),
        };
        if !found {
            return Err(chain.missing(last_end.unwrap_or(header).min(header)).into());
        }
        chain.check_contiguous()?;
        Ok(chain)
    }

    fn new(
        log: &ShardLog,
        segments: Vec<SegmentEntry>,
        index: usize,
        place: u64,
        previous: Option<u64>,
    ) -> Chain {
        Chain {
            log: log.clone(),
            segments,
            index,
            place,
            previous,
            epoch: 0,
            fresh: (u64::MAX, 0),
            limit: u64::MAX,
            window: Window::new(&log.disk),
        }
    }

    /// From the current segment on, each begins where the one before ends. Older ones are history
    /// only: a gap among them shortens what can be resumed and harms no state.
    fn check_contiguous(&self) -> Result<(), Damage> {
        for (one, next) in self.segments.iter().zip(self.segments.iter().skip(1)).skip(self.index) {
            if one.end() != next.base {
                return Err(self.missing(one.end()));
            }
        }
        Ok(())
    }

    fn missing(&self, base: u64) -> Damage {
        Damage {
            path: segment_path(&self.log.dir, base),
            offset: 0,
            position: base,
            reason: "the segment is missing".to_owned(),
            shard: self.log.shard,
            can_truncate: self.segments.first().is_some_and(|first| first.base < base),
        }
    }

    /// The next batch, whose records [`records`](Self::records) then shows, or the end of the chain.
    pub(super) fn advance(&mut self) -> Result<Result<BatchHeader, ChainEnd>, LogError> {
        let here = self.try_at(self.index, self.place)?;
        let (index, header) = match here {
            Ok(header) => (self.index, header),
            Err(flaw) => {
                let next = self.index + 1;
                let beyond = match self.segments.get(next).map(|segment| segment.base) {
                    Some(base) if base >= self.place => self.try_at(next, base)?,
                    _ => Err(BatchFlaw::Blank),
                };
                match beyond {
                    Ok(header) => (next, header),
                    Err(_) => return Ok(Err(ChainEnd { place: self.place, flaw })),
                }
            }
        };
        self.index = index;
        self.place = header.padded_end();
        self.previous = Some(header.position);
        self.epoch = header.epoch;
        Ok(Ok(header))
    }

    /// The record bytes of the batch that `advance` just returned.
    pub(super) fn records(&self, header: &BatchHeader) -> &[u8] {
        let offset = header.position - self.segments[self.index].base;
        &self.window.held(offset, header.length as usize)[HEADER_BYTES..]
    }

    /// File of the batch that `advance` just returned.
    pub(super) fn path(&self) -> &std::path::Path {
        self.window.path()
    }

    /// Whether the batch at `place` is sound and follows.
    fn try_at(&mut self, index: usize, place: u64) -> Result<Result<BatchHeader, BatchFlaw>, LogError> {
        let header = match self.sound_at(index, place)? {
            Ok(header) => header,
            Err(flaw) if flaw.is_foreign() => return Err(self.foreign(place, flaw)),
            Err(flaw) => return Ok(Err(flaw)),
        };
        // What a start found torn at its tail stays cut off, even if a write since has made it whole again by
        // putting the same bytes where they were missing.
        let cut_off = header.position >= self.log.floor && header.epoch < self.log.epoch;
        let stale = header.records_end() > self.fresh.0 && header.epoch < self.fresh.1;
        if header.epoch < self.epoch || stale || cut_off {
            return Ok(Err(BatchFlaw::OldEpoch(header.epoch)));
        }
        let follows = match self.previous {
            Some(previous) => previous == header.previous,
            // Begun at the start of a segment: a batch that names one from here on proves that it is missing.
            None => header.previous < self.place || header.previous == PREVIOUS_NONE,
        };
        if !follows {
            return Ok(Err(BatchFlaw::OtherPrevious(header.previous)));
        }
        Ok(Ok(header))
    }

    fn sound_at(&mut self, index: usize, place: u64) -> Result<Result<BatchHeader, BatchFlaw>, LogError> {
        let Some(segment) = self.segments.get(index) else { return Ok(Err(BatchFlaw::Blank)) };
        let end = segment.end().min(self.limit);
        let (offset, limit) = (place - segment.base, end.saturating_sub(segment.base));
        if place >= end {
            return Ok(Err(BatchFlaw::Blank));
        }
        self.window.open(&segment.path)?;
        let Some(head) = self.window.view(offset, HEADER_BYTES, limit)? else {
            return Ok(Err(BatchFlaw::Blank));
        };
        let length = match BatchHeader::glance(head, place, end - place) {
            Ok(length) => length,
            Err(flaw) => return Ok(Err(flaw)),
        };
        let owner = BatchOwner { log_id: self.log.log_id, shard: self.log.shard };
        match self.window.view(offset, length, limit)? {
            Some(bytes) => Ok(BatchHeader::check(bytes, owner)),
            None => Ok(Err(BatchFlaw::Length(u32::try_from(length).unwrap_or(u32::MAX)))),
        }
    }

    fn foreign(&self, place: u64, flaw: BatchFlaw) -> LogError {
        let path = self.window.path().to_owned();
        if let BatchFlaw::Version(version) = flaw {
            return LogError::Version { path, found: u64::from(version) };
        }
        self.damage(place, flaw.to_string(), false).into()
    }

    /// Damage at a place of the chain.
    pub(super) fn damage(&self, place: u64, reason: String, can_truncate: bool) -> Damage {
        let containing = self.segments.iter().find(|segment| (segment.base..segment.end()).contains(&place));
        let (path, base) = match containing {
            Some(segment) => (segment.path.clone(), segment.base),
            None => (segment_path(&self.log.dir, place), place),
        };
        Damage { path, offset: place - base, position: place, reason, shard: self.log.shard, can_truncate }
    }

    /// Looks at every block behind the end of the chain.
    pub(super) fn scan_beyond(&mut self, end: &ChainEnd) -> Result<Beyond, LogError> {
        let mut beyond = Beyond::default();
        let epoch = self.epoch;
        self.each_sound_from(end.place, |header, _records| {
            if header.epoch >= epoch {
                beyond.batches += 1;
                beyond.records += u64::from(header.record_count);
            }
            if header.durable > end.place && beyond.witness.is_none() {
                beyond.witness = Some(*header);
            }
            Ok(())
        })?;
        Ok(beyond)
    }

    /// Shows every batch at or behind `place` that is sound by itself, whether or not it follows.
    pub(super) fn each_sound_from(
        &mut self,
        place: u64,
        mut visit: impl FnMut(&BatchHeader, &[u8]) -> Result<(), LogError>,
    ) -> Result<(), LogError> {
        let first = self.segments.partition_point(|segment| segment.end() <= place);
        for index in first..self.segments.len() {
            let (base, segment_end) = (self.segments[index].base, self.segments[index].end());
            let mut place = base.max(place);
            while place < segment_end {
                match self.sound_at(index, place)? {
                    Ok(header) => {
                        let batch = self.window.held(place - base, header.length as usize);
                        visit(&header, &batch[HEADER_BYTES..])?;
                        place = header.padded_end();
                    }
                    Err(_) => place += BLOCK_BYTES as u64,
                }
            }
        }
        Ok(())
    }

    /// Reads the next piece while the present one is looked at. Only when nobody writes the files.
    pub(super) fn read_ahead(mut self) -> Chain {
        self.window = Window::ahead(&self.log.disk);
        self
    }

    /// Reads nothing at or behind `limit`, which only grows; what was read up to it stays valid.
    pub(super) fn set_limit(&mut self, limit: u64) {
        assert!(self.limit == u64::MAX || limit >= self.limit, "S3: the durable position only moves forward");
        self.limit = limit;
    }

    /// Looks for segments that have appeared since, and forgets the open file, whose name may have
    /// gone to a recycled one.
    pub(super) fn refresh(&mut self) -> Result<(), LogError> {
        let base = self.segments.get(self.index).map_or(self.place, |segment| segment.base);
        self.segments = list_segments(&self.log.disk, &self.log.dir)?;
        self.index = self.segments.partition_point(|segment| segment.base < base);
        self.window.forget();
        Ok(())
    }

    pub(super) fn segments(&self) -> &[SegmentEntry] {
        &self.segments
    }

    /// Base and end of the segment the chain is in, if it has a file.
    pub(super) fn segment(&self) -> Option<&SegmentEntry> {
        self.segments.get(self.index)
    }

    /// The place behind the last batch.
    pub(super) fn place(&self) -> u64 {
        self.place
    }

    /// The place after the last batch, and that batch.
    pub(super) fn tail(&mut self) -> Result<(u64, Option<u64>), LogError> {
        if self.previous.is_none() {
            self.previous = self.last_of_segment_before()?;
        }
        Ok((self.place, self.previous))
    }

    /// A chain begun at the start of a segment that turned out empty does not know the batch before,
    /// which the next one must name. It is in the segment before, if that is still kept.
    fn last_of_segment_before(&self) -> Result<Option<u64>, LogError> {
        let before = self.segments.iter().find(|segment| segment.end() == self.place);
        let Some(before) = before.cloned() else { return Ok(None) };
        let mut walk = Chain::new(&self.log, vec![before.clone()], 0, before.base, None);
        while walk.advance()?.is_ok() {}
        Ok(walk.previous)
    }
}
