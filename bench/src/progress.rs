//! What a run shows on standard error while it lasts: phase, rate, p99 of the last moments.
//!
//! Load threads publish into a [`Board`] with plain atomic stores, the main thread draws. On a terminal
//! one line is drawn over and over; elsewhere, as in CI logs, each phase gets one line when it ends.

use std::io::{IsTerminal, Write};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::human;

/// How often the p99 is published and the line is drawn.
pub(crate) const REFRESH: Duration = Duration::from_millis(200);

/// What one load thread says of itself, written by it alone.
#[derive(Default)]
pub(crate) struct Notice {
    pub(crate) operations: AtomicU64,
    p99_ns: AtomicU64,
    /// How much of its work or of its time is done.
    done_permille: AtomicU64,
}

/// Between the main thread and the load threads of one phase.
pub(crate) struct Board {
    pub(crate) notices: Vec<Notice>,
    /// The threads should end: interrupted, or something failed.
    pub(crate) stop: AtomicBool,
    /// The lane that watches the events has all of them.
    pub(crate) events_complete: AtomicBool,
}

impl Board {
    pub(crate) fn new(threads: usize) -> Board {
        Board {
            notices: (0..threads).map(|_| Notice::default()).collect(),
            stop: AtomicBool::new(false),
            events_complete: AtomicBool::new(false),
        }
    }

    #[inline]
    pub(crate) fn should_stop(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn operations(&self) -> u64 {
        self.notices.iter().map(|notice| notice.operations.load(Ordering::Relaxed)).sum()
    }

    /// Of the thread that has most left to do; `None` until one has said so.
    fn done_permille(&self) -> Option<u64> {
        let done = self.notices.iter().map(|notice| notice.done_permille.load(Ordering::Relaxed));
        done.min().filter(|&done| done > 0)
    }

    fn p99(&self) -> Duration {
        let p99_ns = self.notices.iter().map(|notice| notice.p99_ns.load(Ordering::Relaxed)).max();
        Duration::from_nanos(p99_ns.unwrap_or(0))
    }
}

/// Latencies of the last moments, coarse and cheap: eight buckets for each power of two.
pub(crate) struct Glance {
    buckets: Box<[u32; 512]>,
    published_ns: u64,
}

impl Glance {
    pub(crate) fn new() -> Glance {
        Glance { buckets: Box::new([0; 512]), published_ns: 0 }
    }

    #[inline]
    pub(crate) fn record(&mut self, ns: u64, count: u32) {
        let bucket = &mut self.buckets[bucket_of(ns)];
        *bucket = bucket.saturating_add(count);
    }

    /// Tells the board, when it is time.
    #[inline]
    pub(crate) fn publish(&mut self, notice: &Notice, operations: u64, now_ns: u64) {
        notice.operations.store(operations, Ordering::Relaxed);
        if now_ns - self.published_ns >= REFRESH.as_nanos() as u64 {
            self.published_ns = now_ns;
            // Nothing came in the last moments: what was said before is still the news.
            if let Some(p99_ns) = self.p99_ns() {
                notice.p99_ns.store(p99_ns, Ordering::Relaxed);
                self.buckets.fill(0);
            }
        }
    }

    fn p99_ns(&self) -> Option<u64> {
        let total: u64 = self.buckets.iter().map(|&count| u64::from(count)).sum();
        let mut above = total / 100;
        for (index, &count) in self.buckets.iter().enumerate().rev() {
            if u64::from(count) > above {
                return Some(lowest_of(index));
            }
            above -= u64::from(count);
        }
        None
    }
}

#[inline]
fn bucket_of(ns: u64) -> usize {
    let ns = ns.max(8);
    let power = 63 - ns.leading_zeros() as usize;
    power * 8 + (ns >> (power - 3) & 7) as usize
}

fn lowest_of(bucket: usize) -> u64 {
    let power = (bucket / 8).max(3);
    (8 + bucket as u64 % 8) << (power - 3)
}

impl Notice {
    /// Tells how much is done: the largest of these parts of a whole, in whatever they are counted.
    #[inline]
    pub(crate) fn tell_done<const N: usize>(&self, parts: [(u64, u64); N]) {
        let done = parts.map(|(part, whole)| (part as f64 * 1_000.0 / whole.max(1) as f64) as u64);
        self.done_permille.store(done.into_iter().max().unwrap_or(0).min(1_000), Ordering::Relaxed);
    }
}

/// A bar of twenty cells.
fn bar(done_permille: u64) -> String {
    let full = (done_permille.min(1_000) / 50) as usize;
    format!("[{}{}]", "#".repeat(full), ".".repeat(20 - full))
}

/// The line on standard error.
pub(crate) struct Progress {
    draws: bool,
    quiet: bool,
    drawn: Instant,
    seen: (u64, Instant),
}

impl Progress {
    pub(crate) fn new(quiet: bool) -> Progress {
        let now = Instant::now();
        Progress { draws: !quiet && std::io::stderr().is_terminal(), quiet, drawn: now, seen: (0, now) }
    }

    /// A phase begins.
    pub(crate) fn begin(&mut self, label: &str) {
        self.seen = (0, Instant::now());
        if self.draws {
            eprint!("\r\x1b[K{label} ...");
        }
    }

    /// Draws, when it is time.
    pub(crate) fn draw(&mut self, label: &str, board: &Board) {
        if !self.draws || self.drawn.elapsed() < REFRESH {
            return;
        }
        self.drawn = Instant::now();
        let operations = board.operations();
        let rate = operations.saturating_sub(self.seen.0) as f64 / self.seen.1.elapsed().as_secs_f64();
        self.seen = (operations, self.drawn);
        let p99 = board.p99();
        let p99 = if p99.is_zero() { "-".to_owned() } else { human::span(p99) };
        let bar = board.done_permille().map_or(String::new(), |done| format!("  {}", bar(done)));
        eprint!("\r\x1b[K{label}{bar}  {}/s  p99 {p99}", human::count(rate));
        let _ = std::io::stderr().flush();
    }

    /// A phase has ended; `line` says how.
    pub(crate) fn end(&mut self, line: &str) {
        if self.draws {
            eprintln!("\r\x1b[K{line}");
        } else if !self.quiet {
            eprintln!("{line}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_glance_finds_the_99th_percentile_within_an_eighth() {
        let mut glance = Glance::new();
        glance.record(40_000, 985);
        glance.record(3_000_000, 10);
        glance.record(90_000_000, 5);
        let p99_ns = glance.p99_ns().unwrap();
        assert!((3_000_000 * 7 / 8..=3_000_000).contains(&p99_ns), "{p99_ns}");
        assert_eq!(Glance::new().p99_ns(), None);
    }

    #[test]
    fn the_bar_is_of_the_slowest_thread() {
        let board = Board::new(2);
        assert_eq!(board.done_permille(), None, "nobody has said anything");
        board.notices[0].tell_done([(u64::MAX, u64::MAX)]);
        board.notices[1].tell_done([(1, 4), (1, u64::MAX)]);
        assert_eq!(board.done_permille(), Some(250));
        assert_eq!(bar(250), "[#####...............]");
        assert_eq!(bar(5_000), "[####################]");
    }

    #[test]
    fn buckets_rise_with_the_value_and_never_leave_the_array() {
        let mut last = 0;
        for shift in 0..64 {
            let bucket = bucket_of(1 << shift);
            assert!(bucket >= last && bucket < 512);
            assert!(lowest_of(bucket) <= (1 << shift).max(8));
            last = bucket;
        }
        assert_eq!(bucket_of(u64::MAX), 511);
    }
}
