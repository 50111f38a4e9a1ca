//! How long a core works for itself in a turn while more waits to be done: as long as lets the whole turn last about as
//! long as it should (L3).
//!
//! What a millisecond of expiring leases costs afterwards, in the log, in events and in the kernel, depends on who listens and on
//! the machine. So the slice follows the measured length of turns instead of a table of costs. It never falls
//! below its share of a turn: beside requests without end, leases still have to expire (L1).

use std::time::Duration;

use crate::limits::{BACKGROUND_TURN_SHARE, BACKGROUND_TURN_US_MAX, BACKGROUND_TURN_US_MIN, TURN_US_AIM};

/// The present slice.
pub(super) struct Slice(Duration);

impl Default for Slice {
    fn default() -> Slice {
        Slice(Duration::from_micros(BACKGROUND_TURN_US_MAX))
    }
}

impl Slice {
    pub(super) fn get(&self) -> Duration {
        self.0
    }

    /// A turn that used its slice up, and could have gone on, took so long.
    pub(super) fn turn_took(&mut self, turn: Duration) {
        let turn = turn.max(Duration::from_micros(1));
        let aim = Duration::from_micros(TURN_US_AIM).as_secs_f64() / turn.as_secs_f64();
        // One turn that lost its CPU says little about the next.
        let wanted = self.0.mul_f64(aim.clamp(0.5, 2.0)).max(turn / BACKGROUND_TURN_SHARE);
        let bounds = (BACKGROUND_TURN_US_MIN, BACKGROUND_TURN_US_MAX);
        self.0 = wanted.clamp(Duration::from_micros(bounds.0), Duration::from_micros(bounds.1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A core whose turns take what their slice takes, as much again by `factor`, and `others` beside it.
    fn settled(factor: f64, others_us: u64) -> (Duration, Duration) {
        let mut slice = Slice::default();
        let mut turn = Duration::ZERO;
        for _ in 0..50 {
            turn = slice.get().mul_f64(factor) + Duration::from_micros(others_us);
            slice.turn_took(turn);
        }
        (slice.get(), turn)
    }

    #[test]
    fn turns_come_to_last_as_long_as_they_should() {
        for (factor, others_us) in [(2.0, 50), (2.5, 100), (1.5, 250)] {
            let (slice, turn) = settled(factor, others_us);
            let off = turn.as_micros().abs_diff(u128::from(TURN_US_AIM));
            assert!(off <= u128::from(TURN_US_AIM) / 20, "{factor} {others_us}: {slice:?} of {turn:?}");
        }
    }

    #[test]
    fn alone_a_core_takes_all_it_may_and_beside_requests_without_end_it_keeps_its_share() {
        assert_eq!(settled(1.1, 0).0, Duration::from_micros(BACKGROUND_TURN_US_MAX));
        let (slice, turn) = settled(1.5, 1_000);
        assert!(slice >= turn / (BACKGROUND_TURN_SHARE + 1), "{slice:?} of {turn:?}");
    }

    #[test]
    fn one_turn_that_lost_its_cpu_does_not_stop_the_work() {
        let mut slice = Slice::default();
        slice.turn_took(Duration::from_secs(1));
        assert!(slice.get() >= Duration::from_micros(BACKGROUND_TURN_US_MAX / 2));
    }
}
