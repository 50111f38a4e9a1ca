//! The floor of lateness: how long a sleeping thread takes to run after its timer.
//!
//! A server that sleeps until the next deadline cannot be told about it sooner than the system wakes it.

use std::num::NonZero;
use std::time::{Duration, Instant};

use crate::latency::{Latency, Quantiles};

const SLEEP: Duration = Duration::from_millis(1);

/// How late a sleep of a millisecond ends, over `count` sleeps of the calling thread.
///
/// # Errors
/// When the timer slack cannot be set.
pub(crate) fn wake(count: usize) -> anyhow::Result<Option<Quantiles>> {
    rustix::thread::set_current_timer_slack(NonZero::new(1))?;
    let mut latency = Latency::new();
    for _ in 0..count {
        let due = Instant::now() + SLEEP;
        std::thread::sleep(SLEEP);
        latency.record(u64::try_from(due.elapsed().as_nanos()).unwrap_or(u64::MAX));
    }
    Ok(latency.quantiles())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_sleep_is_counted() {
        let found = std::thread::spawn(|| wake(20).unwrap().unwrap()).join().unwrap();
        assert_eq!(found.count, 20);
        assert!(found.max_ns >= found.p50_ns);
    }
}
