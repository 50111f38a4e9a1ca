//! **L3 fair**: an expiry storm never starves renewals, and vice versa.
//!
//! Counted in turns: whatever else a core has to do, a turn takes in what has arrived and moves expiry on.

use super::Verdict;

/// Turns that a request may wait when the disk answers at once: it arrives, perhaps crosses to another core
/// and back, waits for a commit behind the one in flight.
pub const TURNS_MAX: u64 = 12;

/// A request was answered after this many rounds of turns of all cores, in a storm of expiry.
///
/// # Errors
/// It waited for the storm.
pub fn answered_in_turn(rounds: u64) -> Verdict {
    if rounds > TURNS_MAX {
        return Err(format!("L3 fair: a renewal waited {rounds} turns beside a storm of expiry"));
    }
    Ok(())
}

/// Overdue leases that are left after as many turns beside a flood of renewals.
///
/// # Errors
/// More than none.
pub fn storm_goes_on(left: u64, rounds: u64) -> Verdict {
    if left > 0 {
        return Err(format!("L3 fair: {left} overdue leases are left after {rounds} turns beside renewals"));
    }
    Ok(())
}
