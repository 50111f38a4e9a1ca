//! What happened when: operations, and the slowest of them, in slices of time.
//!
//! A mean hides the second in which nothing was answered. Slices are of the run's clock, so that those of
//! several threads add up; for a report they are joined until there are few enough to draw.

use serde::{Deserialize, Serialize};

/// Length of a slice while counting, ns.
const SLICE_NS: u64 = 5_000_000;
/// Slices that are counted at most: those of an hour (S8); what comes later counts into the last.
const SLICES_MAX: usize = 720_000;
/// Slices of a report at most: of a whole phase, and of a part that is looked at closely.
const WHOLE_MAX: usize = 60;
const PART_MAX: usize = 240;

#[derive(Clone, Copy, Default)]
struct Slice {
    operations: u64,
    slowest_ns: u64,
}

/// Slices of one phase.
#[derive(Clone, Default)]
pub(crate) struct Timeline {
    /// Number of the first slice since the clock began.
    first: u64,
    slices: Vec<Slice>,
}

/// A timeline as it is reported.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Series {
    /// Length of a slice, ms.
    pub slice_ms: f64,
    /// Start of the first slice, ms, after the moment that the series is about.
    pub start_ms: f64,
    /// Operations in each.
    pub operations: Vec<u64>,
    /// The slowest of each, ns; empty where that was not looked at.
    pub slowest_ns: Vec<u64>,
}

impl Timeline {
    /// Counts operations that ended now, of which the slowest took so long.
    #[inline]
    pub(crate) fn add(&mut self, now_ns: u64, operations: u64, slowest_ns: u64) {
        let number = now_ns / SLICE_NS;
        if self.slices.is_empty() {
            self.first = number;
        }
        let index = (number.saturating_sub(self.first) as usize).min(SLICES_MAX - 1);
        if index >= self.slices.len() {
            self.slices.resize(index + 1, Slice::default());
        }
        let slice = &mut self.slices[index];
        slice.operations += operations;
        slice.slowest_ns = slice.slowest_ns.max(slowest_ns);
    }

    /// Adds what another thread saw.
    pub(crate) fn merge(&mut self, other: &Timeline) {
        for (index, slice) in other.slices.iter().enumerate() {
            let at_ns = (other.first + index as u64) * SLICE_NS;
            if self.slices.is_empty() || at_ns / SLICE_NS >= self.first {
                self.add(at_ns, slice.operations, slice.slowest_ns);
            } else {
                let missing = self.first - at_ns / SLICE_NS;
                self.slices.splice(0..0, std::iter::repeat_n(Slice::default(), missing as usize));
                self.first -= missing;
                self.add(at_ns, slice.operations, slice.slowest_ns);
            }
        }
    }

    /// The whole of it, from its first slice; nothing when there is nothing to draw.
    pub(crate) fn series(&self) -> Option<Series> {
        self.cut(self.first * SLICE_NS, 0, u64::MAX, WHOLE_MAX)
    }

    /// The part between two moments, in ms after `zero_ns`.
    pub(crate) fn between(&self, zero_ns: u64, from_ns: u64, to_ns: u64) -> Option<Series> {
        self.cut(zero_ns, from_ns, to_ns, PART_MAX)
    }

    fn cut(&self, zero_ns: u64, from_ns: u64, to_ns: u64, count_max: usize) -> Option<Series> {
        let last = self.first + self.slices.len() as u64;
        let from = (from_ns / SLICE_NS).clamp(self.first, last);
        let to = (to_ns / SLICE_NS).saturating_add(1).clamp(from, last);
        let part = &self.slices[(from - self.first) as usize..(to - self.first) as usize];
        if part.len() < 2 {
            return None;
        }
        let joined = part.len().div_ceil(count_max);
        let slowest = |slices: &[Slice]| slices.iter().map(|slice| slice.slowest_ns).max().unwrap_or(0);
        let slowest_ns: Vec<u64> = part.chunks(joined).map(slowest).collect();
        let looked_at = slowest_ns.iter().any(|&ns| ns > 0);
        Some(Series {
            slice_ms: (joined as u64 * SLICE_NS) as f64 / 1e6,
            start_ms: (from * SLICE_NS) as f64 / 1e6 - zero_ns as f64 / 1e6,
            operations: part.chunks(joined).map(|slices| slices.iter().map(|s| s.operations).sum()).collect(),
            slowest_ns: if looked_at { slowest_ns } else { Vec::new() },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    #[test]
    fn slices_of_threads_add_up_whoever_began_first() {
        let (mut a, mut b) = (Timeline::default(), Timeline::default());
        a.add(1_000 * MS, 5, 70);
        a.add(1_012 * MS, 1, 90);
        b.add(990 * MS, 2, 10);
        b.add(1_003 * MS, 3, 80);
        for (mut sum, other) in [(a.clone(), &b), (b.clone(), &a)] {
            sum.merge(other);
            let series = sum.series().unwrap();
            assert_eq!(series.operations, [2, 0, 8, 0, 1]);
            assert_eq!(series.slowest_ns, [10, 0, 80, 0, 90]);
            assert_eq!((series.slice_ms, series.start_ms), (5.0, 0.0));
        }
    }

    #[test]
    fn a_long_series_is_joined_and_a_part_is_placed() {
        let mut timeline = Timeline::default();
        (0..10_000).for_each(|index| timeline.add(index * SLICE_NS, 1, 0));
        let series = timeline.series().unwrap();
        assert!(series.operations.len() <= WHOLE_MAX && series.slowest_ns.is_empty());
        assert_eq!(series.operations.iter().sum::<u64>(), 10_000);
        let part = timeline.between(100 * MS, 90 * MS, 120 * MS).unwrap();
        assert_eq!((part.start_ms, part.operations.len()), (-10.0, 7));
        assert_eq!(Timeline::default().series(), None);
    }
}
