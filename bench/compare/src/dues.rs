//! Leases that end one by one: when each may, and how much later it was told.
//!
//! Lateness is counted from the first moment at which a lease may end, *send time of its grant + TTL*, to the
//! arrival of its event: transit and the time that the grant itself waited are in it.

use std::collections::HashMap;

use tenure_bench::instruments::Latency;

/// Servers count in whole milliseconds: up to one before its time is in time.
const GRAIN_NS: u64 = 1_000_000;

/// What ends of which nobody knows are called.
pub(crate) const UNEXPECTED: &str = "ended twice, or others did";

/// What is to end, and what has.
pub(crate) struct Dues {
    /// When each lease may end, on the run's clock, by its name.
    due_ns: HashMap<u64, u64>,
    pub(crate) ended: u64,
    pub(crate) early: u64,
    /// Ends of leases that nobody expects: never granted, or ended before.
    pub(crate) unexpected: u64,
    pub(crate) last_ns: u64,
    /// Leases whose end nobody waits for any longer.
    pub(crate) untold: u64,
    gave_up: bool,
    pub(crate) lateness: Latency,
}

impl Dues {
    pub(crate) fn new() -> Dues {
        let lateness = Latency::new();
        Dues {
            due_ns: HashMap::new(),
            ended: 0,
            early: 0,
            unexpected: 0,
            last_ns: 0,
            untold: 0,
            gave_up: false,
            lateness,
        }
    }

    /// A lease was asked for that may end at `due_ns`.
    pub(crate) fn expect(&mut self, name: u64, due_ns: u64) {
        self.due_ns.insert(name, due_ns);
    }

    /// It was not granted in full.
    pub(crate) fn forget(&mut self, name: u64) {
        self.due_ns.remove(&name);
    }

    /// The end of a lease was told.
    pub(crate) fn ended(&mut self, name: u64, now_ns: u64) {
        if self.gave_up {
            return;
        }
        let Some(due_ns) = self.due_ns.remove(&name) else {
            self.unexpected += 1;
            return;
        };
        self.ended += 1;
        self.early += u64::from(now_ns + GRAIN_NS < due_ns);
        self.last_ns = now_ns;
        self.lateness.record(now_ns.saturating_sub(due_ns));
    }

    /// Leases that are to end and have not.
    pub(crate) fn left(&self) -> u64 {
        self.due_ns.len() as u64
    }

    /// Nobody waits any longer: what is left counts as late by what it is late now.
    pub(crate) fn give_up(&mut self, now_ns: u64) {
        self.gave_up = true;
        self.untold += self.left();
        self.due_ns.drain().for_each(|(_, due_ns)| self.lateness.record(now_ns.saturating_sub(due_ns)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_held_against_its_own_time_and_counts_once() {
        let mut dues = Dues::new();
        for (name, due_ns) in [(1, 10_000_000), (2, 20_000_000), (3, 30_000_000)] {
            dues.expect(name, due_ns);
        }
        dues.ended(1, 12_000_000);
        dues.ended(2, 19_500_000);
        dues.ended(2, 25_000_000);
        dues.ended(3, 28_000_000);
        dues.ended(4, 28_000_000);
        assert_eq!((dues.ended, dues.early, dues.unexpected, dues.left()), (3, 1, 2, 0));
        let late = dues.lateness.quantiles().unwrap();
        assert!(late.count == 3 && late.max_ns.abs_diff(2_000_000) < 20_000, "{late:?}");
        dues.expect(5, 40_000_000);
        dues.give_up(90_000_000);
        dues.ended(5, 95_000_000);
        assert_eq!((dues.untold, dues.left(), dues.ended, dues.unexpected), (1, 0, 3, 2));
        let late = dues.lateness.quantiles().unwrap();
        assert!(late.count == 4 && late.max_ns.abs_diff(50_000_000) < 500_000, "{late:?}");
    }
}
