//! **L1 bounded-lateness**: below the stated rate, expire happens by deadline + tick + budget.
//!
//! Measured when all faults have healed: with a disk that answers and a core that takes its turns, an overdue
//! lease ends at the next turn, and after a pause when its grace is over.

use super::Verdict;
use crate::oracle::Key;

/// What the engine may take in simulated time, where turns and writes take none: the grace after a pause.
pub const LATENESS_MS_MAX: u64 = tenure::limits::PAUSE_GRACE_MS + tenure::limits::PAUSE_MS_MIN;

/// A lease is still there at `now_ms`, its deadline was `overdue_ms` at the latest.
///
/// # Errors
/// It should have ended.
pub fn ended_in_time(key: Key, overdue_ms: u64, now_ms: u64) -> Verdict {
    if now_ms > overdue_ms + LATENESS_MS_MAX {
        return Err(format!(
            "L1 bounded-lateness: {key:x?} was overdue at {overdue_ms} and lives at {now_ms}"
        ));
    }
    Ok(())
}
