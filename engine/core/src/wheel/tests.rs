//! The wheel alone, against deadlines kept beside it.

use super::*;
use crate::entry::{Entry, LINE_SLOTS, Slot};
use crate::slab::Slab;
use crate::time::Token;

/// A wheel and the lines it points to, one lease in each.
struct Bench {
    wheel: Wheel,
    slab: Slab,
    deadlines: Vec<u64>,
}

impl Bench {
    fn new(now: u64) -> Bench {
        let mut wheel = Wheel::new(100_000, crate::limits::WHEEL_REFERENCE_SLACK);
        wheel.reset(Time(now));
        Bench { wheel, slab: Slab::new(400_000, 1_000, 400_000), deadlines: Vec::new() }
    }

    fn add(&mut self, deadline: u64) -> u32 {
        let line = self.deadlines.len() as u32;
        (0..LINE_SLOTS).for_each(|_| assert!(self.slab.take().is_some()));
        self.slab.occupy(Slot(line * LINE_SLOTS as u32), 1, Token(1));
        self.deadlines.push(0);
        self.set(line, deadline);
        line
    }

    fn set(&mut self, line: u32, deadline: u64) {
        self.deadlines[line as usize] = deadline;
        let filing = self.wheel.file(Line(line), deadline);
        self.slab.set_filing(Line(line), filing);
    }

    /// Drains to `target`, `budget` references at a time; returns what was overdue, with the target.
    fn drain(&mut self, target: u64, budget: usize) -> Vec<u32> {
        let (mut batch, mut overdue) = (Batch::default(), Vec::new());
        while self.wheel.due(target, &mut batch) {
            let count = batch.len.min(budget);
            for &line in &batch.lines[..count] {
                if !self.slab.filing(Line(line)).is_in(batch.place) {
                    continue;
                }
                let deadline = self.deadlines[line as usize];
                if deadline <= target {
                    self.slab.set_filing(Line(line), Filing::NONE);
                    overdue.push(line);
                } else {
                    self.set(line, deadline);
                }
            }
            self.wheel.done(count);
        }
        assert_eq!(self.wheel.now(), target);
        overdue
    }

    /// Moves event by event and says when the lease came up.
    fn fires_at(&mut self, line: u32) -> u64 {
        loop {
            let Time(at) = self.wheel.next_event().expect("a line is filed");
            if self.drain(at, usize::MAX).contains(&line) {
                return at;
            }
        }
    }
}

fn clocks() -> impl Iterator<Item = u64> {
    let edges = [0, 1, 63, 64, 65, 4095, 4096, (1 << 30) - 1, 1 << 30, (1 << 32) - 1, (1 << 36) - 1, 1 << 36];
    edges.into_iter().chain([(1 << 36) + 12_345, (63 << 30) + 5, (1 << 40) + 77])
}

fn distances() -> impl Iterator<Item = u64> {
    let powers = (0..=LEVELS).map(|level| 1u64 << (level * SLOT_BITS));
    let around =
        powers.flat_map(|power| (power.saturating_sub(2)..=power + 2).chain([power * 63, power * 64 - 1]));
    around.chain([2 << 36, (1 << 42) + 3, 9_000_000_000_000]).filter(|&distance| distance > 0)
}

/// Every distance around every level boundary, from every awkward clock: never early, never late (S2, L1).
#[test]
fn each_line_fires_at_its_deadline_from_any_clock() {
    for now in clocks() {
        for distance in distances() {
            let mut bench = Bench::new(now);
            let line = bench.add(now + distance);
            assert_eq!(bench.fires_at(line), now + distance, "{distance} after {now}");
        }
    }
}

/// Places fire no later than what is filed there (S7), and on the level the header draws.
#[test]
fn places_fire_between_the_clock_and_the_deadline() {
    for now in clocks() {
        for distance in distances() {
            let mut bench = Bench::new(now);
            bench.add(now + distance);
            let Time(fires) = bench.wheel.next_event().unwrap();
            assert!(fires > now && fires <= now + distance, "{distance} after {now} fires at {fires}");
            bench.wheel.for_each_reference(|_, at, _| assert_eq!(at, fires));
        }
    }
}

/// Few filings a lease: at most one a level on the way down, and a turn of the top level for the far future.
#[test]
fn a_line_is_filed_again_at_most_once_a_level() {
    for now in clocks() {
        for distance in distances().filter(|&distance| distance < 1 << 36) {
            let mut bench = Bench::new(now);
            let line = bench.add(now + distance);
            let mut events = 0;
            loop {
                events += 1;
                let Time(at) = bench.wheel.next_event().unwrap();
                if bench.drain(at, usize::MAX).contains(&line) {
                    break;
                }
            }
            assert!(events <= LEVELS as usize + 1, "{distance} after {now}: {events} events");
        }
    }
}

#[test]
fn one_step_over_hours_finds_everything_whatever_the_budget() {
    for budget in [1, 7, 62, 63, usize::MAX] {
        let mut bench = Bench::new(1_000);
        let deadlines: Vec<u64> = (0..5_000u64).map(|i| 1_001 + i * i * 37 % 40_000_000).collect();
        deadlines.iter().for_each(|&deadline| {
            bench.add(deadline);
        });
        let target = 20_000_000;
        let mut overdue = bench.drain(target, budget);
        overdue.sort_unstable();
        let expected: Vec<u32> = (0..5_000).filter(|&line| deadlines[line as usize] <= target).collect();
        assert_eq!(overdue, expected, "budget {budget}");
        assert_eq!(bench.wheel.reference_count(), 5_000 - expected.len() as u64);
    }
}

#[test]
fn an_empty_wheel_moves_in_one_step() {
    let mut bench = Bench::new(0);
    assert_eq!(bench.wheel.next_event(), None);
    assert_eq!(bench.drain(u64::MAX >> 4, 1), []);
}

/// Files lines again in the same places until references exceed their bound; compaction brings them back and
/// loses none, whether it finishes at once, in steps of one, or is overtaken by the clock half-way.
#[test]
fn compaction_drops_what_is_stale_and_nothing_else() {
    for (step, overtaken) in [(1, false), (61, false), (1_000_000, false), (1, true), (100, true)] {
        let mut bench = Bench::new(0);
        for i in 0..1_000 {
            bench.add(100 + i % 50);
        }
        for round in 0..20 {
            for line in 0..1_000 {
                // A new lease in the line: the old reference stays behind.
                bench.set(line, 100 + u64::from((line + round) % 50));
            }
        }
        assert_eq!(bench.wheel.reference_count(), 21_000);
        assert!(bench.wheel.wants_compaction(1_000));
        let mut fired = Vec::new();
        let mut visits = 0;
        while bench.wheel.wants_compaction(1_000) {
            visits += bench.wheel.compact(&mut bench.slab, step);
            if overtaken && visits > 5_000 {
                fired.extend(bench.drain(bench.wheel.now() + 1, 7));
            }
            check_references(&bench);
        }
        if !overtaken {
            assert_eq!(bench.wheel.reference_count(), 1_000, "steps of {step}");
        }
        fired.extend(bench.drain(1_000, usize::MAX));
        fired.sort_unstable();
        assert_eq!(fired, (0..1_000).collect::<Vec<u32>>(), "steps of {step}");
        assert_eq!(bench.wheel.reference_count(), 0);
    }
}

/// Lines whose leases have all ended lose their reference, and are filed again when a lease begins in them.
#[test]
fn compaction_takes_lines_without_leases_out_of_the_wheel() {
    let mut bench = Bench::new(0);
    for i in 0..100 {
        bench.add(100 + i);
    }
    for line in (0..100).filter(|line| line % 2 == 1) {
        bench.slab.give_back(Slot(line * LINE_SLOTS as u32), 2);
    }
    bench.wheel.compact(&mut bench.slab, 1_000);
    assert_eq!(bench.wheel.reference_count(), 50);
    for line in 0..100 {
        assert_eq!(bench.slab.filing(Line(line)) == Filing::NONE, line % 2 == 1, "line {line}");
    }
    assert!(!bench.wheel.comes_up_by(Filing::NONE, u64::MAX));
}

/// S7, and the count, by walking all references.
fn check_references(bench: &Bench) {
    let mut found = vec![false; bench.deadlines.len()];
    let mut count = 0;
    bench.wheel.for_each_reference(|place, fires, line| {
        count += 1;
        if bench.slab.filing(line).is_in(place) {
            assert!(fires <= bench.deadlines[line.index()]);
            found[line.index()] = true;
        }
    });
    assert_eq!(count, bench.wheel.reference_count());
    for (line, found) in found.iter().enumerate() {
        let filing = bench.slab.filing(Line(line as u32));
        assert!(*found || filing == Filing::NONE, "S7 wheel-agrees: line {line} has no reference");
        let is_live = bench.slab.line(Line(line as u32)).iter().any(Entry::is_live);
        assert!(is_live || filing == Filing::NONE);
    }
}

/// The bound of S8 under the worst churn: lines filed anew with the clock stopped, each paying for four references.
#[test]
fn references_stay_bounded_under_churn() {
    let mut bench = Bench::new(0);
    let lines = 2_000;
    for i in 0..lines {
        bench.add(3_600_000 + u64::from(i));
    }
    let mut worst = 0;
    for i in 0..200_000u32 {
        let line = i.wrapping_mul(2_654_435_761) % lines;
        bench.set(line, 3_600_000 + u64::from(i));
        if bench.wheel.wants_compaction(lines as usize) {
            bench.wheel.compact(&mut bench.slab, 4);
        }
        worst = worst.max(bench.wheel.reference_count());
    }
    let bound = (2 * u64::from(lines) + crate::limits::WHEEL_REFERENCE_SLACK) * 5 / 4;
    assert!(worst <= bound, "{worst} references for {lines} lines, bound {bound}");
    check_references(&bench);
}
