//! **S7 wheel-agrees**: each live lease is reachable from exactly the wheel place that fires no later than
//! its deadline; stale wheel references are recognised by generation and dropped.
//!
//! The shard checks itself ([`tenure_core::Shard::check_invariants`]) after each start and at random moments.
//! Here is what shows from outside when it lies: a core that sleeps past a deadline.

use super::Verdict;

/// A core wants to sleep until `wake_ms`; its leases are overdue from `deadline_ms` on.
///
/// # Errors
/// It would oversleep.
pub fn wakes_in_time(deadline_ms: Option<u64>, wake_ms: Option<u64>) -> Verdict {
    match (deadline_ms, wake_ms) {
        (Some(deadline_ms), Some(wake_ms)) if wake_ms > deadline_ms => {
            Err(format!("S7 wheel-agrees: a core sleeps until {wake_ms}, past the deadline {deadline_ms}"))
        }
        (Some(deadline_ms), None) => {
            Err(format!("S7 wheel-agrees: a core sleeps for ever, past the deadline {deadline_ms}"))
        }
        _ => Ok(()),
    }
}
