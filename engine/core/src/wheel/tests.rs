//! The wheel alone, against deadlines kept beside it.

use super::*;
use crate::slab::{Entry, PLACE_FREE};

/// A wheel and the leases it points to.
struct Bench {
    wheel: Wheel,
    entries: Vec<Entry>,
    deadlines: Vec<u64>,
}

impl Bench {
    fn new(now: u64) -> Bench {
        let mut wheel = Wheel::new(100_000, crate::limits::WHEEL_REFERENCE_SLACK);
        wheel.reset(Time(now));
        Bench { wheel, entries: Vec::new(), deadlines: Vec::new() }
    }

    fn add(&mut self, deadline: u64) -> u32 {
        let slot = self.entries.len() as u32;
        self.entries.push(Entry { generation: 1, deadline: 0, ttl: 0, loc: PLACE_FREE });
        self.deadlines.push(0);
        self.set(slot, deadline);
        slot
    }

    fn set(&mut self, slot: u32, deadline: u64) {
        self.deadlines[slot as usize] = deadline;
        self.entries[slot as usize].loc = self.wheel.file(Slot(slot), deadline);
    }

    /// Drains to `target`, `budget` references at a time; returns what was overdue, with the target.
    fn drain(&mut self, target: u64, budget: usize) -> Vec<u32> {
        let (mut batch, mut overdue) = (Batch::default(), Vec::new());
        while self.wheel.due(target, &mut batch) {
            let count = batch.len.min(budget);
            for &slot in &batch.slots[..count] {
                let entry = &mut self.entries[slot as usize];
                if entry.loc & PLACE_MASK != batch.place {
                    continue;
                }
                let deadline = self.deadlines[slot as usize];
                if deadline <= target {
                    entry.loc = PLACE_FREE;
                    overdue.push(slot);
                } else {
                    entry.loc = self.wheel.file(Slot(slot), deadline);
                }
            }
            self.wheel.done(count);
        }
        assert_eq!(self.wheel.now(), target);
        overdue
    }

    /// Moves event by event and says when the lease came up.
    fn fires_at(&mut self, slot: u32) -> u64 {
        loop {
            let Time(at) = self.wheel.next_event().expect("a lease is filed");
            if self.drain(at, usize::MAX).contains(&slot) {
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
fn each_lease_fires_at_its_deadline_from_any_clock() {
    for now in clocks() {
        for distance in distances() {
            let mut bench = Bench::new(now);
            let slot = bench.add(now + distance);
            assert_eq!(bench.fires_at(slot), now + distance, "{distance} after {now}");
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
fn a_lease_is_filed_again_at_most_once_a_level() {
    for now in clocks() {
        for distance in distances().filter(|&distance| distance < 1 << 36) {
            let mut bench = Bench::new(now);
            let slot = bench.add(now + distance);
            let mut events = 0;
            loop {
                events += 1;
                let Time(at) = bench.wheel.next_event().unwrap();
                if bench.drain(at, usize::MAX).contains(&slot) {
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
        let expected: Vec<u32> = (0..5_000).filter(|&slot| deadlines[slot as usize] <= target).collect();
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

/// Ends and grants again in the same places until references exceed their bound; compaction brings them back and
/// loses none, whether it finishes at once, in steps of one, or is overtaken by the clock half-way.
#[test]
fn compaction_drops_what_is_stale_and_nothing_else() {
    for (step, overtaken) in [(1, false), (61, false), (1_000_000, false), (1, true), (100, true)] {
        let mut bench = Bench::new(0);
        for i in 0..1_000 {
            bench.add(100 + i % 50);
        }
        for round in 0..20 {
            for slot in 0..1_000 {
                // An ended lease and a new one in its slot: the old reference stays behind.
                bench.entries[slot as usize].loc = PLACE_FREE;
                bench.set(slot, 100 + u64::from((slot + round) % 50));
            }
        }
        assert_eq!(bench.wheel.reference_count(), 21_000);
        assert!(bench.wheel.wants_compaction(1_000));
        let mut fired = Vec::new();
        let mut visits = 0;
        while bench.wheel.wants_compaction(1_000) {
            visits += bench.wheel.compact(&mut bench.entries, step);
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

/// S7, and the count, by walking all references.
fn check_references(bench: &Bench) {
    let mut found = vec![false; bench.entries.len()];
    let mut count = 0;
    bench.wheel.for_each_reference(|place, fires, slot| {
        count += 1;
        if bench.entries[slot.index()].loc & PLACE_MASK == place {
            assert!(fires <= bench.deadlines[slot.index()]);
            found[slot.index()] = true;
        }
    });
    assert_eq!(count, bench.wheel.reference_count());
    for (slot, entry) in bench.entries.iter().enumerate() {
        assert!(found[slot] || entry.loc == PLACE_FREE, "S7 wheel-agrees: slot {slot} has no reference");
    }
}

/// The bound of S8 under the worst churn: grants with the clock stopped, each paying for four references.
#[test]
fn references_stay_bounded_under_churn() {
    let mut bench = Bench::new(0);
    let live = 2_000;
    for i in 0..live {
        bench.add(3_600_000 + u64::from(i));
    }
    let mut worst = 0;
    for i in 0..200_000u32 {
        let slot = i.wrapping_mul(2_654_435_761) % live;
        bench.entries[slot as usize].loc = PLACE_FREE;
        bench.set(slot, 3_600_000 + u64::from(i));
        if bench.wheel.wants_compaction(u64::from(live)) {
            bench.wheel.compact(&mut bench.entries, 4);
        }
        worst = worst.max(bench.wheel.reference_count());
    }
    let bound = (2 * u64::from(live) + crate::limits::WHEEL_REFERENCE_SLACK) * 5 / 4;
    assert!(worst <= bound, "{worst} references for {live} leases, bound {bound}");
    check_references(&bench);
}
