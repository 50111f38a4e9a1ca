//! **S6 time-forward**: a shard's clock never goes back, also across restarts.
//!
//! Ends come in rising order of time and of position; a restarted engine is never behind the last end that
//! it had told, and loses no more of its time than what passes between two clock records and the writes
//! that carry them.

use super::Verdict;

/// Two neighbours of a stream.
///
/// # Errors
/// The later one is older.
pub fn stream_goes_forward(before: (u64, u64), after: (u64, u64)) -> Verdict {
    if after.0 <= before.0 || after.1 < before.1 {
        return Err(format!("S6 time-forward: (position, time) {before:?} is followed by {after:?}"));
    }
    Ok(())
}

/// An engine starts at `start_ms`; the last end told was at `told_ms`.
///
/// # Errors
/// It starts before.
pub fn starts_behind(start_ms: u64, told_ms: u64) -> Verdict {
    if start_ms < told_ms {
        return Err(format!("S6 time-forward: restarted at {start_ms}, told a time of {told_ms} before"));
    }
    Ok(())
}
