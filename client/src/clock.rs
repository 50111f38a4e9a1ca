//! The clock that a lease's validity is counted on.
//!
//! CLOCK_BOOTTIME counts while the machine sleeps. A holder that was suspended for an hour must find
//! its lease invalid when it wakes, which CLOCK_MONOTONIC (and so `std::time::Instant` on Linux) would
//! not tell. Only this file reads a clock.

use std::time::Duration;

/// A moment on this machine's boot clock, in ms. Moments of different machines do not compare.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BootTime(u64);

impl BootTime {
    /// The present moment.
    #[must_use]
    pub fn now() -> BootTime {
        #[cfg(target_os = "linux")]
        let clock = rustix::time::ClockId::Boottime;
        #[cfg(not(target_os = "linux"))]
        let clock = rustix::time::ClockId::Monotonic;
        let now = rustix::time::clock_gettime(clock);
        // The boot clock is never negative.
        BootTime(now.tv_sec as u64 * 1_000 + now.tv_nsec as u64 / 1_000_000)
    }

    /// This moment in ms since the machine started.
    #[must_use]
    pub const fn as_ms(self) -> u64 {
        self.0
    }

    pub(crate) const fn from_ms(ms: u64) -> BootTime {
        BootTime(ms)
    }

    /// How long until then; zero when it is past.
    #[must_use]
    pub fn remaining(self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(BootTime::now().0))
    }

    /// Whether this moment is past.
    #[must_use]
    pub fn is_past(self) -> bool {
        BootTime::now() >= self
    }
}
