//! Hierarchical timing wheel (Varghese & Lauck 1987) over lines of leases.
//!
//! ```text
//! level 4 | 256 slots of 2^32 ms, cyclic: 34 years     a line is filed on the level of the highest bit in which the
//!   ...                                                 earliest of its deadlines differs from the wheel's clock;
//! level 1 | 256 slots of 256 ms                         when its slot begins, it is filed again one level or more
//! level 0 | 256 slots of 1 ms                           below, or something in it is due
//! ```
//!
//! 256 slots rather than 64: a lease of a minute is looked at up to 256 ms before its time instead of 4 s, by when few are
//! renewed once more, and filed one level less on the way down.
//!
//! A wheel slot holds 4-byte references to lines of four leases (entry.rs) in chunks of 62, not linked leases: draining runs
//! through memory in order (10 ns a lease against 98 and more for links), and the next chunk's lines are prefetched
//! meanwhile. One reference for four leases is a byte a lease, and a fired line is looked at once for all four: they share
//! a cache line, so looking costs no more than looking at one. Empty slots cost nothing: a bitmap a level finds the
//! next event in O(levels), however far away.
//!
//! **Lazy renewal:** a renewal only writes the lease's deadline. When the old place fires, the line is filed again at
//! its true earliest deadline: once per TTL instead of once per keepalive. A lease that ends leaves its line where it is, and
//! one that begins finds it there; only a deadline before the line's place files it anew, and the reference it
//! leaves behind is stale: dropped when met, because the line no longer names this place. Compaction
//! (wheel/compact.rs) keeps references within about twice the lines.
//!
//! Invariants: **S7** wheel-agrees: each line with a live lease has, in exactly the place its filing names, a reference that
//! fires after the wheel's clock and no later than its earliest deadline, or waits in the slot being drained. The wheel's clock
//! never passes a live deadline: that is what deadlines modulo 2^32 are read against. Does not decide what is overdue
//! and never touches a lease: the shard does.

mod compact;
mod places;

use crate::entry::{Filing, Line};
use crate::region::{MemoryAhead, Plain, Region};
use crate::time::Time;
use compact::Compaction;
use places::Places;

/// Levels of the wheel.
pub(crate) const LEVELS: u32 = 5;
const SLOT_BITS: u32 = 8;
const SLOTS: u32 = 1 << SLOT_BITS;
const TOP: u32 = LEVELS - 1;
/// Places of the wheel; place = level × 256 + slot.
pub(crate) const PLACES: usize = (LEVELS * SLOTS) as usize;
/// References in a chunk: 256 bytes with its header.
pub(crate) const CHUNK_REFERENCES: usize = 62;

const NONE: u32 = u32::MAX;

const _: () = assert!(PLACES < (1 << 15) - 1, "a place fits a filing");

/// A place: its list of chunks, and how lines are filed in it.
#[derive(Clone, Copy)]
struct Head {
    /// The first chunk, the only one that may have room.
    chunk: u32,
    /// References in it, which the chunk itself is told when another one comes before it: filing a line reads nothing of
    /// the chunk. Full where there is none.
    len: u16,
    /// What a line filed here now carries.
    filing: Filing,
}

impl Head {
    fn new(place: u32) -> Head {
        Head { chunk: NONE, len: CHUNK_REFERENCES as u16, filing: Filing::new(place) }
    }

    fn clear(&mut self) {
        (self.chunk, self.len) = (NONE, CHUNK_REFERENCES as u16);
    }
}

/// References of one wheel slot, and the chunk after it.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Chunk {
    next: u32,
    len: u32,
    lines: [u32; CHUNK_REFERENCES],
}

const _: () = assert!(size_of::<Chunk>() == 256);

// SAFETY: words only; zero is valid.
unsafe impl Plain for Chunk {
    const ZERO: Chunk = Chunk { next: 0, len: 0, lines: [0; CHUNK_REFERENCES] };
}

/// References handed out for the shard to look at.
#[derive(Clone, Copy)]
pub(crate) struct Batch {
    /// The place that the lines of valid references name.
    pub(crate) place: u32,
    pub(crate) len: usize,
    pub(crate) lines: [u32; CHUNK_REFERENCES],
    /// Of the lowest level: most of what is in it is due.
    pub(crate) is_final: bool,
    /// What comes after, to be prefetched.
    pub(crate) next_len: usize,
    pub(crate) next_lines: [u32; CHUNK_REFERENCES],
}

impl Default for Batch {
    fn default() -> Batch {
        Batch {
            place: 0,
            len: 0,
            is_final: false,
            lines: [0; CHUNK_REFERENCES],
            next_len: 0,
            next_lines: [0; CHUNK_REFERENCES],
        }
    }
}

/// The slot being drained.
#[derive(Clone, Copy)]
struct Draining {
    place: u32,
    chunk: u32,
    /// References of `chunk` already dealt with.
    done: u32,
}

/// The wheel.
pub(crate) struct Wheel {
    now: u64,
    occupied: Places,
    heads: [Head; PLACES],
    draining: Option<Draining>,
    compaction: Compaction,
    chunks: Region<Chunk>,
    free_chunk: u32,
    reference_count: u64,
    reference_slack: u64,
    /// The place that `about_to_fire` told last.
    announced: u64,
}

/// Level and slot of a deadline, as seen from `now`, which is before it.
///
/// The top level is cyclic: a deadline beyond its reach is filed as far ahead as it goes, and again from there.
fn place_of(deadline: u64, now: u64) -> u32 {
    debug_assert!(deadline > now, "S7 wheel-agrees: {deadline} is not after {now}");
    let differing = deadline ^ now;
    let level = ((63 - (differing | 1).leading_zeros()) / SLOT_BITS).min(TOP);
    let shift = level * SLOT_BITS;
    let mut turn = deadline >> shift;
    if level == TOP {
        turn = turn.min((now >> shift) + u64::from(SLOTS) - 1);
    }
    level * SLOTS + (turn as u32 & (SLOTS - 1))
}

impl Wheel {
    /// A wheel for at most `line_count_max` lines.
    pub(crate) fn new(line_count_max: u32, reference_slack: u64) -> Wheel {
        // References stay below 2.5 × (lines + slack) (wheel/compact.rs), plus open chunks in each place; address
        // space is all that the rest costs.
        let reference_count_max = 4 * (line_count_max as usize + reference_slack as usize);
        let chunk_count = reference_count_max / CHUNK_REFERENCES + 8 * PLACES;
        Wheel {
            now: 0,
            occupied: Places::default(),
            heads: std::array::from_fn(|place| Head::new(place as u32)),
            draining: None,
            compaction: Compaction::default(),
            chunks: Region::reserve(chunk_count),
            free_chunk: NONE,
            reference_count: 0,
            reference_slack,
            announced: 0,
        }
    }

    /// Forgets all references and stands at `now`.
    pub(crate) fn reset(&mut self, now: Time) {
        self.now = now.0;
        self.occupied = Places::default();
        self.heads.iter_mut().for_each(Head::clear);
        self.draining = None;
        self.compaction = Compaction::default();
        self.chunks.clear();
        self.free_chunk = NONE;
        self.reference_count = 0;
        self.announced = 0;
    }

    /// The wheel's clock: no live deadline is before it.
    #[inline(always)]
    pub(crate) fn now(&self) -> u64 {
        self.now
    }

    pub(crate) fn reference_count(&self) -> u64 {
        self.reference_count
    }

    pub(crate) fn used_bytes(&self) -> usize {
        self.chunks.used_bytes()
    }

    pub(crate) fn memory_wanted(&mut self) -> Option<MemoryAhead> {
        self.chunks.wanted()
    }

    /// Files a line at its earliest deadline; returns where, for the line to keep.
    #[inline]
    pub(crate) fn file(&mut self, line: Line, deadline: u64) -> Filing {
        let planted = if tenure_planted::is(tenure_planted::Bug::WheelFilesLate) { 70 } else { 0 };
        let place = place_of(deadline + planted, self.now);
        self.push(place, line.0)
    }

    /// Whether a line that is filed so comes up by `deadline`.
    #[inline]
    pub(crate) fn comes_up_by(&self, filing: Filing, deadline: u64) -> bool {
        filing.place().is_some_and(|place| self.begin_of(place) <= deadline)
    }

    /// Earliest time at which there is something to do: an expiry, or filing again. O(levels).
    pub(crate) fn next_event(&self) -> Option<Time> {
        if self.draining.is_some() {
            return Some(Time(self.now));
        }
        self.next_place().map(|(_, at)| Time(at))
    }

    /// The first occupied place and the time at which it begins.
    fn next_place(&self) -> Option<(u32, u64)> {
        for level in 0..TOP {
            let shift = level * SLOT_BITS;
            let at = (self.now >> shift) as u32 & (SLOTS - 1);
            // Slots at or before the clock's own are empty on every level but the top (S7).
            if let Some(slot) = self.occupied.first_at(level, at) {
                let begin = (self.now >> (shift + SLOT_BITS) << SLOT_BITS | u64::from(slot)) << shift;
                return Some((level * SLOTS + slot, begin));
            }
        }
        let shift = TOP * SLOT_BITS;
        let turn = self.now >> shift;
        let at = turn as u32 & (SLOTS - 1);
        let slot = self.occupied.first_at(TOP, at).or_else(|| self.occupied.first_at(TOP, 0))?;
        let steps = slot.wrapping_sub(at) & (SLOTS - 1);
        Some((TOP * SLOTS + slot, (turn + u64::from(steps)) << shift))
    }

    /// Hands out the next references that fire by `target`; false when there are none left, and then the wheel stands
    /// at `target`. The caller deals with some of them and says how many ([`Wheel::done`]).
    pub(crate) fn due(&mut self, target: u64, batch: &mut Batch) -> bool {
        loop {
            if let Some(draining) = &mut self.draining {
                if draining.chunk != NONE {
                    let (place, done) = (draining.place, draining.done as usize);
                    let chunk = &self.chunks[draining.chunk as usize];
                    if chunk.len == 0 {
                        self.done(0);
                        continue;
                    }
                    batch.place = place;
                    batch.is_final = place < SLOTS;
                    batch.len = chunk.len as usize - done;
                    batch.lines[..batch.len].copy_from_slice(&chunk.lines[done..chunk.len as usize]);
                    match chunk.next {
                        NONE => match self.next_place() {
                            Some((place, at)) if at <= target => self.fill_next_place(place, batch),
                            _ => batch.next_len = 0,
                        },
                        next => self.fill_next(next, self.chunks[next as usize].len as usize, batch),
                    }
                    return true;
                }
                self.draining = None;
            }
            match self.next_place() {
                Some((place, at)) if at <= target => {
                    self.now = self.now.max(at);
                    let chunk = self.detach(place);
                    self.draining = Some(Draining { place, chunk, done: 0 });
                }
                _ => {
                    self.now = self.now.max(target);
                    return false;
                }
            }
        }
    }

    /// Fills in what comes next, the first references of the next place, when that is about to begin; once for each: to be
    /// prefetched now, because a few leases a millisecond are over before prefetching among them would help.
    pub(crate) fn about_to_fire(&mut self, batch: &mut Batch) -> bool {
        match self.next_place() {
            Some((place, at)) if place < SLOTS && at != self.announced => {
                self.announced = at;
                self.fill_next_place(place, batch);
                true
            }
            _ => false,
        }
    }

    fn fill_next_place(&self, place: u32, batch: &mut Batch) {
        let head = self.heads[place as usize];
        self.fill_next(head.chunk, head.len.into(), batch);
    }

    fn fill_next(&self, chunk: u32, len: usize, batch: &mut Batch) {
        batch.next_len = len;
        batch.next_lines = self.chunks[chunk as usize].lines;
    }

    /// The first `count` references of the batch handed out last are dealt with.
    pub(crate) fn done(&mut self, count: usize) {
        let Some(draining) = &mut self.draining else { return };
        let (chunk, next, len) = {
            let chunk = &self.chunks[draining.chunk as usize];
            (draining.chunk, chunk.next, chunk.len)
        };
        draining.done += count as u32;
        assert!(draining.done <= len, "S7 wheel-agrees: more references done than there were");
        if draining.done == len {
            draining.chunk = next;
            draining.done = 0;
            self.release_chunk(chunk);
        }
        self.reference_count -= count as u64;
    }

    /// Takes all chunks of a place, those that a compaction has in hand included.
    fn detach(&mut self, place: u32) -> u32 {
        let chunk = self.take_list(place);
        let Some((in_hand, done)) = self.compaction.surrender(place) else {
            return chunk;
        };
        // References that the compaction has dealt with are no longer counted: close the gap they left.
        let first = &mut self.chunks[in_hand as usize];
        first.lines.copy_within(done..first.len as usize, 0);
        first.len -= done as u32;
        let mut last = in_hand;
        while self.chunks[last as usize].next != NONE {
            last = self.chunks[last as usize].next;
        }
        self.chunks[last as usize].next = chunk;
        in_hand
    }

    /// Takes the chunks of a place's own list.
    fn take_list(&mut self, place: u32) -> u32 {
        self.occupied.remove(place);
        let head = &mut self.heads[place as usize];
        let (chunk, len) = (head.chunk, head.len);
        head.clear();
        if chunk != NONE {
            self.chunks[chunk as usize].len = len.into();
        }
        chunk
    }

    #[inline]
    fn push(&mut self, place: u32, line: u32) -> Filing {
        self.reference_count += 1;
        let head = &mut self.heads[place as usize];
        if usize::from(head.len) == CHUNK_REFERENCES {
            return self.push_to_fresh(place, line);
        }
        self.chunks[head.chunk as usize].lines[usize::from(head.len)] = line;
        head.len += 1;
        head.filing
    }

    fn push_to_fresh(&mut self, place: u32, line: u32) -> Filing {
        let full = self.heads[place as usize].chunk;
        if full != NONE {
            self.chunks[full as usize].len = CHUNK_REFERENCES as u32;
        }
        let fresh = self.take_chunk(full);
        self.chunks[fresh as usize].lines[0] = line;
        self.occupied.insert(place);
        let head = &mut self.heads[place as usize];
        (head.chunk, head.len) = (fresh, 1);
        head.filing
    }

    fn take_chunk(&mut self, next: u32) -> u32 {
        let index = self.free_chunk;
        if index == NONE {
            self.chunks.push(Chunk { next, ..Chunk::ZERO });
            return self.chunks.len() as u32 - 1;
        }
        let chunk = &mut self.chunks[index as usize];
        self.free_chunk = chunk.next;
        chunk.next = next;
        chunk.len = 0;
        index
    }

    fn release_chunk(&mut self, index: u32) {
        self.chunks[index as usize].next = self.free_chunk;
        self.free_chunk = index;
    }

    /// Walks every reference: `visit(place, fires_at, line)`. For invariant checks and tests.
    pub(crate) fn for_each_reference(&self, mut visit: impl FnMut(u32, u64, Line)) {
        let mut walk = |place: u32, fires: u64, mut chunk: u32, mut done: usize| {
            while chunk != NONE {
                let this = &self.chunks[chunk as usize];
                let head = self.heads[place as usize];
                let len = if chunk == head.chunk { head.len.into() } else { this.len as usize };
                for &line in &this.lines[done..len] {
                    visit(place, fires, Line(line));
                }
                (chunk, done) = (this.next, 0);
            }
        };
        for place in 0..PLACES as u32 {
            let (fires, head) = (self.begin_of(place), self.heads[place as usize]);
            assert_eq!(
                head.chunk != NONE,
                self.occupied.contains(place),
                "S7 wheel-agrees: occupancy of place {place}"
            );
            walk(place, fires, head.chunk, 0);
        }
        if let Some(draining) = self.draining {
            walk(draining.place, self.now, draining.chunk, draining.done as usize);
        }
        if let Some((place, chunk, done)) = self.compaction.in_hand() {
            walk(place, self.begin_of(place), chunk, done);
        }
    }

    /// Next time at which a place begins; of the one that has begun: when that was.
    #[inline]
    fn begin_of(&self, place: u32) -> u64 {
        let (level, slot) = (place / SLOTS, u64::from(place % SLOTS));
        let shift = level * SLOT_BITS;
        let turn = self.now >> shift;
        let ahead = slot.wrapping_sub(turn) & u64::from(SLOTS - 1);
        (turn + ahead) << shift
    }
}

#[cfg(test)]
mod tests;
