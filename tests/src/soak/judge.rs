//! Whether anything grew: medians of windows at equal points, against stated bounds.
//!
//! A run is a row of *lives*, each one server process on the same data directory. Memory is noisy within a
//! second and rises while a life warms up, so two questions are asked, each with medians:
//!
//! ```text
//!   life 0            life 1            life 2   …
//!  |warm-up|--E--|-L-||warm-up|--E--|-L-||…
//!          └──1──┘   └─ 2: L against L, same driver, second third of the run against the last ─┘
//! ```
//! 1. *Within a life*, E (40–60 %) against L (80–100 %): the median over the lives of that growth. This is a leak
//!    of the process.
//! 2. *Across lives*, L against L: what a restart carries over, such as an ever longer log to recover. The first third
//!    of the run is warm-up in this.
//!
//! It does not say where growth comes from, and does not judge what is too short to tell.

use super::sample::Sample;

/// Between the middles of the two windows of a life at least, s: then the first begins a minute into the life at
/// least. Measured: events in memory reach their bound after 40 s, and the first reading of the history, after 24 s,
/// takes 4 MB of windows and buffers; from the first minute on it was 0.1 to 0.5 MB a minute and falling. (Not looked
/// into further; the memory of identified grants, which has a bound of its own, would fit.)
const GAP_S_MIN: f64 = 60.0;

/// What is watched, and how much it may grow.
#[derive(Clone, Copy, Debug)]
pub struct Measure {
    /// Its name.
    pub name: &'static str,
    value: fn(&Sample) -> u64,
    /// Growth within a life that is too much, per minute.
    pub per_minute_max: f64,
    /// Growth within a life that is never too much: what a measure varies by at rest.
    pub within_floor: f64,
    /// Growth between the halves of the run that is too much.
    pub across_max: f64,
}

/// Bounds: half of what the hour must notice (1 MB a minute), and a few descriptors for the connections that
/// come and go all the time.
pub const MEASURES: [Measure; 4] = [
    Measure {
        name: "rss_bytes",
        value: |sample| sample.rss_bytes,
        per_minute_max: 500_000.0,
        within_floor: 0.0,
        across_max: 8e6,
    },
    Measure {
        name: "descriptors",
        value: |sample| sample.descriptor_count,
        per_minute_max: 0.5,
        within_floor: 2.0,
        across_max: 3.0,
    },
    Measure {
        name: "threads",
        value: |sample| sample.thread_count,
        per_minute_max: 0.2,
        within_floor: 0.5,
        across_max: 1.0,
    },
    // The log in use swings by a snapshot's worth; what must not happen is that it is never given back.
    Measure {
        name: "disk_bytes",
        value: |sample| sample.disk_bytes,
        per_minute_max: f64::INFINITY,
        within_floor: 0.0,
        across_max: 32e6,
    },
];

/// What became of one measure.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Growth {
    /// Its name.
    pub name: &'static str,
    /// Median of the late windows: its level.
    pub level: f64,
    /// Median growth within a life, per minute; `None`: the lives are too short to tell.
    pub per_minute: Option<f64>,
    /// Largest growth between the halves of what comes after the warm-up, among lives of the same kind; `None`: too few
    /// lives.
    pub across: Option<f64>,
    /// Whether it stays within the bounds.
    pub within_bounds: bool,
}

/// One life in so many of each kind is warm-up: what is bounded fills up over restarts, such as remembered grants, slots
/// that wait for their first reuse, and the kept log.
const WARM_UP_PART: usize = 3;

/// Judges a run; `kind_count` kinds of life take turns.
#[must_use]
pub fn judge(samples: &[Sample], kind_count: usize) -> Vec<Growth> {
    MEASURES.iter().map(|measure| judge_one(measure, samples, kind_count)).collect()
}

fn judge_one(measure: &Measure, samples: &[Sample], kind_count: usize) -> Growth {
    let life_count = samples.iter().map(|sample| sample.life + 1).max().unwrap_or(0);
    let (mut growths, mut lates, mut settled) = (Vec::new(), Vec::new(), Vec::new());
    let mut gap_min = 0.0;
    for life in 0..life_count {
        let of_life: Vec<&Sample> = samples.iter().filter(|sample| sample.life == life).collect();
        let end_s = of_life.iter().map(|sample| sample.at_s).fold(0.0, f64::max);
        let window = |from: f64, to: f64| {
            let inside = of_life.iter().filter(|s| s.at_s >= from * end_s && s.at_s <= to * end_s);
            median(inside.map(|s| (measure.value)(s) as f64).collect())
        };
        let (Some(early), Some(late)) = (window(0.4, 0.6), window(0.8, 1.0)) else { continue };
        lates.push(late);
        let gap_s = 0.4 * end_s;
        if gap_s >= GAP_S_MIN {
            growths.push((late - early) / (gap_s / 60.0));
            gap_min = gap_s / 60.0;
            settled.push((life, late));
        }
    }
    let per_minute = median(growths);
    let across = (0..kind_count)
        .filter_map(|kind| {
            let of_kind: Vec<f64> =
                settled.iter().filter(|(life, _)| life % kind_count == kind).map(|(_, late)| *late).collect();
            let full = &of_kind[of_kind.len() / WARM_UP_PART..];
            let (first, second) = full.split_at(full.len() / 2);
            Some(median(second.to_vec())? - median(first.to_vec())?)
        })
        .reduce(f64::max);
    let leaks = per_minute
        .is_some_and(|growth| growth > measure.per_minute_max && growth * gap_min > measure.within_floor);
    let level = median(lates).unwrap_or(0.0);
    let within_bounds = !leaks && !across.is_some_and(|growth| growth > measure.across_max);
    Growth { name: measure.name, level, per_minute, across, within_bounds }
}

/// The middle one; `None` of nothing.
fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    /// An hour in 12 lives, with a warm-up, 4 MB of noise and whatever else `change` adds, given the minutes
    /// since the start of the life and of the run.
    fn hour(change: impl Fn(&mut Sample, f64, f64)) -> Vec<Sample> {
        let mut random = Random::new(1);
        let mut samples = Vec::new();
        for life in 0..12 {
            for second in 0..300 {
                let warm = 20e6 * (1.0 - (-f64::from(second) / 20.0).exp());
                let mut sample = Sample {
                    life,
                    at_s: f64::from(second),
                    rss_bytes: 60_000_000 + warm as u64 + random.below(4_000_000),
                    descriptor_count: 40 + random.below(6),
                    thread_count: 9,
                    disk_bytes: 150_000_000 + random.below(30_000_000),
                    ..Sample::default()
                };
                let minute = f64::from(second) / 60.0;
                change(&mut sample, minute, life as f64 * 5.0 + minute);
                samples.push(sample);
            }
        }
        samples
    }

    fn guilty(samples: &[Sample]) -> Vec<&'static str> {
        judge(samples, 2).iter().filter(|growth| !growth.within_bounds).map(|growth| growth.name).collect()
    }

    #[test]
    fn noise_and_a_warm_up_are_no_growth() {
        let hour = hour(|_, _, _| {});
        assert_eq!(guilty(&hour), [""; 0]);
        assert!(judge(&hour, 2).iter().all(|growth| growth.per_minute.is_some() && growth.across.is_some()));
    }

    #[test]
    fn what_fills_up_in_the_first_third_is_no_growth() {
        let fills = |sample: &mut Sample, _, run: f64| sample.rss_bytes += (2e6 * run.min(20.0)) as u64;
        assert_eq!(guilty(&hour(fills)), [""; 0]);
    }

    #[test]
    fn a_megabyte_a_minute_is_caught_in_the_process() {
        assert_eq!(guilty(&hour(|sample, life, _| sample.rss_bytes += (1e6 * life) as u64)), ["rss_bytes"]);
    }

    #[test]
    fn a_megabyte_a_minute_is_caught_when_restarts_carry_it_over() {
        let steps = |sample: &mut Sample, _, _| sample.rss_bytes += 5_000_000 * sample.life as u64;
        assert_eq!(guilty(&hour(steps)), ["rss_bytes"]);
    }

    #[test]
    fn descriptors_threads_and_disk_are_caught() {
        let leaks = |sample: &mut Sample, life: f64, run: f64| {
            sample.descriptor_count += (2.0 * life) as u64;
            sample.thread_count += life as u64;
            sample.disk_bytes += (3e6 * run) as u64;
        };
        assert_eq!(guilty(&hour(leaks)), ["descriptors", "threads", "disk_bytes"]);
    }

    #[test]
    fn what_is_too_short_is_not_judged() {
        let mut short = hour(|sample, life, _| sample.rss_bytes += (1e8 * life) as u64);
        short.retain(|sample| sample.life == 0 && sample.at_s < 60.0);
        let growth = judge(&short, 2)[0];
        assert_eq!((growth.per_minute, growth.across, growth.within_bounds), (None, None, true));
    }
}
