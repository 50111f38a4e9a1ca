//! Drops stale references place by place, a few at a time.
//!
//! A line that is filed earlier leaves a reference behind where it was. When references exceed twice the lines and some
//! slack, a pass begins: it takes the chunks of one place after another in hand and files the valid references again in
//! the same place. Each grant pays for 4 references, so that a pass over R of them ends within R/4 grants
//! and references stay below 2.5 × (lines + slack); `maintain` does more when there is time.
//!
//! A line that left a place and came back to it has two references there that look alike. Each place has a parity
//! bit, flipped when its compaction begins, and a line carries the parity of the place as it was filed: the
//! first reference kept flips the line's, and the second is recognised.
//!
//! Invariant: **S7** wheel-agrees: no valid reference is ever dropped, but those of lines without a live lease, which
//! are then filed nowhere; **S8** bounded.

use super::{CHUNK_REFERENCES, NONE, PLACES, Wheel};
use crate::entry::{Entry, Filing, Line};
use crate::slab::Slab;

/// Where a pass stands.
#[derive(Clone, Copy)]
pub(super) struct Compaction {
    active: bool,
    /// The place in hand while `chunk` is one, else the next place to take.
    place: u32,
    chunk: u32,
    /// References of `chunk` already kept or dropped.
    done: u32,
}

impl Default for Compaction {
    fn default() -> Compaction {
        Compaction { active: false, place: 0, chunk: NONE, done: 0 }
    }
}

impl Compaction {
    /// The chunks in hand if they belong to `place`, which begins now, and how many references of the first are
    /// done; the pass goes on elsewhere.
    pub(super) fn surrender(&mut self, place: u32) -> Option<(u32, usize)> {
        if self.chunk == NONE || self.place != place {
            return None;
        }
        self.place += 1;
        let done = std::mem::take(&mut self.done) as usize;
        Some((std::mem::replace(&mut self.chunk, NONE), done))
    }

    pub(super) fn in_hand(&self) -> Option<(u32, u32, usize)> {
        (self.chunk != NONE).then_some((self.place, self.chunk, self.done as usize))
    }
}

impl Wheel {
    /// Whether there are too many references for this many lines, or a pass is under way.
    #[inline]
    pub(crate) fn wants_compaction(&self, line_count: usize) -> bool {
        self.compaction.active || self.reference_count > 2 * line_count as u64 + self.reference_slack
    }

    /// Visits about `budget` references of the pass under way, beginning one if needed; returns the visits made.
    pub(crate) fn compact(&mut self, slab: &mut Slab, budget: usize) -> usize {
        self.compaction.active = true;
        let mut visits = 0;
        while visits < budget {
            if self.compaction.chunk == NONE && !self.take_next_place() {
                self.compaction = Compaction::default();
                break;
            }
            visits += self.compact_some(slab, budget - visits);
        }
        visits
    }

    /// Takes the chunks of the next occupied place in hand and flips its parity; false at the end of the pass.
    fn take_next_place(&mut self) -> bool {
        while (self.compaction.place as usize) < PLACES {
            let place = self.compaction.place;
            let chunk = self.take_list(place);
            if chunk != NONE {
                let head = &mut self.heads[place as usize];
                head.filing = head.filing.flipped();
                self.compaction.chunk = chunk;
                self.compaction.done = 0;
                self.keep_visible(place);
                return true;
            }
            self.compaction.place += 1;
        }
        false
    }

    /// References in hand are not in the place's list; an empty list would hide them from the clock. So the place keeps
    /// a chunk, if only an empty one, while it is in hand.
    fn keep_visible(&mut self, place: u32) {
        let chunk = self.take_chunk(NONE);
        let head = &mut self.heads[place as usize];
        (head.chunk, head.len) = (chunk, 0);
        self.occupied.insert(place);
    }

    /// Keeps or drops up to `budget` references of the chunk in hand; returns how many.
    fn compact_some(&mut self, slab: &mut Slab, budget: usize) -> usize {
        let (place, index) = (self.compaction.place, self.compaction.chunk);
        let chunk = self.chunks[index as usize];
        let kept = self.heads[place as usize].filing;
        let first = self.compaction.done as usize;
        let last = (chunk.len as usize).min(first + budget);
        debug_assert!(last <= CHUNK_REFERENCES);
        for &line in &chunk.lines[first..last] {
            self.reference_count -= 1;
            let filing = slab.filing(Line(line));
            if !filing.is_in(place) || filing == kept {
                continue;
            }
            if slab.line(Line(line)).iter().any(Entry::is_live) {
                slab.set_filing(Line(line), kept);
                self.push(place, line);
            } else {
                slab.set_filing(Line(line), Filing::NONE);
            }
        }
        // A grant pays for a few references at a time: the next few find their lines here.
        for &line in &chunk.lines[last..(chunk.len as usize).min(last + budget)] {
            slab.prefetch_line(line, false, false);
        }
        self.compaction.done = last as u32;
        if last == chunk.len as usize {
            self.compaction.chunk = chunk.next;
            self.compaction.done = 0;
            self.release_chunk(index);
            if chunk.next == NONE {
                self.leave_place(place);
            }
        }
        last - first
    }

    /// The place in hand is through: forget the chunk that kept it visible if nothing came into it.
    fn leave_place(&mut self, place: u32) {
        let head = self.heads[place as usize];
        if head.chunk != NONE && head.len == 0 {
            debug_assert_eq!(self.chunks[head.chunk as usize].next, NONE);
            self.release_chunk(head.chunk);
            self.heads[place as usize].clear();
            self.occupied.remove(place);
        }
        self.compaction.place += 1;
    }
}
