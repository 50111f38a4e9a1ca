//! Latencies of one phase: an HDR histogram that is cheap to feed at millions a second.
//!
//! Replies that arrive in one read, to requests that left in one write, took equally long to the
//! nanosecond, because the clock is read once per read and once per write. So a run of equal values
//! is counted first and recorded once.
//!
//! What this file does not do: correct anything. In the open loop a latency starts at the *intended*
//! send time, so there is no coordinated omission to correct.

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// Values below this are not told apart, ns.
const LOWEST_NS: u64 = 64;
/// Values above this count as this, ns: five minutes.
const HIGHEST_NS: u64 = 300_000_000_000;
/// Three digits: 0.1 %.
const DIGITS: u8 = 3;

/// A histogram of nanoseconds.
pub struct Latency {
    histogram: Histogram<u64>,
    run_ns: u64,
    run_count: u64,
}

/// What a report says of a histogram; all in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quantiles {
    /// Values recorded.
    pub count: u64,
    /// Half of them were at most this.
    pub p50_ns: u64,
    /// 99 % of them.
    pub p99_ns: u64,
    /// 99.9 % of them.
    pub p999_ns: u64,
    /// The largest.
    pub max_ns: u64,
}

impl Default for Latency {
    fn default() -> Latency {
        Latency::new()
    }
}

impl Latency {
    /// An empty one.
    ///
    /// # Panics
    /// Never: its bounds are constants.
    #[must_use]
    pub fn new() -> Latency {
        let histogram = Histogram::new_with_bounds(LOWEST_NS, HIGHEST_NS, DIGITS);
        Latency { histogram: histogram.expect("the bounds are constants"), run_ns: 0, run_count: 0 }
    }

    /// One value.
    #[inline]
    pub fn record(&mut self, ns: u64) {
        if ns == self.run_ns {
            self.run_count += 1;
        } else {
            self.settle();
            self.run_ns = ns;
            self.run_count = 1;
        }
    }

    /// The same value `count` times.
    pub fn record_n(&mut self, ns: u64, count: u64) {
        self.histogram.saturating_record_n(ns.min(HIGHEST_NS), count);
    }

    /// Brings the run that is being counted into the histogram.
    #[inline]
    pub fn settle(&mut self) {
        if self.run_count > 0 {
            self.histogram.saturating_record_n(self.run_ns.min(HIGHEST_NS), self.run_count);
            self.run_count = 0;
        }
    }

    /// Adds what another one has.
    pub fn merge(&mut self, mut other: Latency) {
        other.settle();
        self.settle();
        self.histogram.add(&other.histogram).expect("both have the same bounds");
    }

    /// The quantiles, or `None` when nothing was recorded.
    pub fn quantiles(&mut self) -> Option<Quantiles> {
        self.settle();
        (!self.histogram.is_empty()).then(|| Quantiles {
            count: self.histogram.len(),
            p50_ns: self.histogram.value_at_quantile(0.5),
            p99_ns: self.histogram.value_at_quantile(0.99),
            p999_ns: self.histogram.value_at_quantile(0.999),
            max_ns: self.histogram.max(),
        })
    }
}

/// Quantiles of a curve: dense where it is interesting, at the end.
const CURVE: [f64; 22] = [
    0.0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999, 0.9995,
    0.9999, 0.99995, 0.99999, 1.0,
];

impl Latency {
    /// Quantile and value, ns, from the fastest to the slowest; no finer than there are values.
    pub(crate) fn curve(&mut self) -> Vec<(f64, u64)> {
        self.settle();
        let count = self.histogram.len() as f64;
        let known = CURVE.iter().filter(|&&q| q == 1.0 || (1.0 - q) * count >= 1.0);
        known.map(|&q| (q, self.histogram.value_at_quantile(q))).collect()
    }

    /// How many values there are up to each bound, ns: four bounds for each power of two.
    pub(crate) fn buckets(&mut self) -> Vec<(u64, u64)> {
        self.settle();
        let mut buckets: Vec<(u64, u64)> = Vec::new();
        for step in self.histogram.iter_recorded() {
            let steps = ((step.value_iterated_to().max(1) as f64).log2() * 4.0).floor() + 1.0;
            let bound_ns = (steps / 4.0).exp2() as u64;
            match buckets.last_mut() {
                Some((last_ns, count)) if *last_ns == bound_ns => *count += step.count_at_value(),
                _ => buckets.push((bound_ns, step.count_at_value())),
            }
        }
        buckets
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_of_equal_values_count_like_single_ones() {
        let (mut runs, mut singles) = (Latency::new(), Latency::new());
        for ns in [5_000, 5_000, 5_000, 70_000, 5_000, 900_000_000_000] {
            runs.record(ns);
            singles.record_n(ns, 1);
        }
        let quantiles = runs.quantiles().unwrap();
        assert_eq!(quantiles, singles.quantiles().unwrap());
        assert_eq!(quantiles.count, 6);
        assert!(quantiles.p50_ns.abs_diff(5_000) <= 64, "{quantiles:?}");
        assert!(quantiles.max_ns.abs_diff(HIGHEST_NS) < HIGHEST_NS / 500, "saturates: {quantiles:?}");
    }

    #[test]
    fn a_curve_rises_to_the_slowest_and_buckets_have_every_value_once() {
        let mut latency = Latency::new();
        (1..=1_000u64).for_each(|n| latency.record(n * 10_000));
        let curve = latency.curve();
        assert!(curve.windows(2).all(|pair| pair[0].0 < pair[1].0 && pair[0].1 <= pair[1].1), "{curve:?}");
        assert!(curve.iter().all(|(q, _)| *q <= 0.999 || *q == 1.0), "no finer than there are values");
        assert!(curve.last().unwrap().1.abs_diff(10_000_000) < 20_000);
        let buckets = latency.buckets();
        assert_eq!(buckets.iter().map(|(_, count)| count).sum::<u64>(), 1_000);
        assert!(buckets.windows(2).all(|pair| pair[0].0 < pair[1].0));
        assert!(Latency::new().buckets().is_empty());
    }

    #[test]
    fn merging_adds_up() {
        let (mut a, mut b) = (Latency::new(), Latency::new());
        (0..99).for_each(|_| a.record(1_000));
        b.record(8_000_000);
        a.merge(b);
        let quantiles = a.quantiles().unwrap();
        assert_eq!(quantiles.count, 100);
        assert!(quantiles.p99_ns < 2_000 && quantiles.max_ns > 7_900_000, "{quantiles:?}");
        assert_eq!(Latency::new().quantiles(), None);
    }
}
