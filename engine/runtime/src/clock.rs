//! The engine's uptime clock (S6): milliseconds that this data set has been served, never wall time.
//!
//! It starts where the log left it, moves with the host's monotonic clock and stands still while
//! the engine is down, because nobody can renew then. A [`ManualClock`] moves only when told to,
//! so that code which embeds the engine can test an hour of expiry in a millisecond.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tenure_core::Time;

use crate::config::Clock;

/// A clock that stands still until [`Engine::advance`](crate::Engine::advance) moves it.
#[derive(Clone, Debug, Default)]
pub struct ManualClock {
    elapsed_ms: Arc<AtomicU64>,
}

impl ManualClock {
    /// A clock at zero.
    #[must_use]
    pub fn new() -> Self {
        ManualClock::default()
    }

    /// Time moved so far.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        Duration::from_millis(self.elapsed_ms.load(Ordering::Acquire))
    }

    /// Moves the clock. Cores must be woken to see it; `Engine::advance` does both.
    pub(crate) fn forward(&self, by: Duration) {
        let ms = u64::try_from(by.as_millis()).unwrap_or(u64::MAX);
        self.elapsed_ms.fetch_add(ms, Ordering::AcqRel);
    }
}

/// One core's view of the engine clock.
#[derive(Clone, Debug)]
pub(crate) struct EngineClock {
    base: Time,
    source: Source,
}

#[derive(Clone, Debug)]
enum Source {
    System(Instant),
    /// `simulated`: it stands for the host's clock, pauses included.
    Manual {
        clock: ManualClock,
        offset_ms: u64,
        simulated: bool,
    },
}

/// Time that passes for things that are not leases: intervals between syncs, slices of a turn. The host's
/// monotonic clock, or a manual one.
#[derive(Clone, Debug)]
pub(crate) struct Stopwatch {
    source: Source,
}

impl Stopwatch {
    pub(crate) fn start(clock: &Clock) -> Self {
        Stopwatch { source: Source::of(clock) }
    }

    /// Time since the start.
    pub(crate) fn elapsed(&self) -> Duration {
        match &self.source {
            Source::System(start) => start.elapsed(),
            manual @ Source::Manual { .. } => Duration::from_millis(manual.elapsed_ms()),
        }
    }
}

impl Source {
    fn of(clock: &Clock) -> Source {
        let manual = |manual: &ManualClock, simulated| Source::Manual {
            clock: manual.clone(),
            offset_ms: manual.elapsed_ms.load(Ordering::Acquire),
            simulated,
        };
        match clock {
            Clock::System => Source::System(Instant::now()),
            Clock::Manual(clock) => manual(clock, false),
            #[cfg(feature = "simulation")]
            Clock::Simulated(clock) => manual(clock, true),
        }
    }

    fn elapsed_ms(&self) -> u64 {
        match self {
            Source::System(start) => u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX),
            Source::Manual { clock, offset_ms, .. } => clock.elapsed_ms.load(Ordering::Acquire) - offset_ms,
        }
    }
}

impl EngineClock {
    /// A clock that reads `base` now.
    pub(crate) fn starting_at(base: Time, clock: &Clock) -> Self {
        let planted = tenure_planted::is(tenure_planted::Bug::ClockGoesBack);
        let base = if planted { Time(base.0 / 2) } else { base };
        EngineClock { base, source: Source::of(clock) }
    }

    /// The current time, rounded down to the millisecond.
    pub(crate) fn now(&self) -> Time {
        Time(self.base.0.saturating_add(self.source.elapsed_ms()))
    }

    /// How long to sleep until `at`. Zero when due; for a manual clock only a wake moves time, so
    /// there is nothing to wait for.
    pub(crate) fn until(&self, at: Time) -> Option<Duration> {
        match &self.source {
            Source::System(start) => {
                let target = Duration::from_millis(at.0.saturating_sub(self.base.0));
                Some(target.saturating_sub(start.elapsed()))
            }
            Source::Manual { simulated: true, .. } => {
                Some(Duration::from_millis(at.0.saturating_sub(self.now().0)))
            }
            Source::Manual { .. } if at <= self.now() => Some(Duration::ZERO),
            Source::Manual { .. } => None,
        }
    }

    /// Whether a gap in this clock means a pause of the process.
    pub(crate) fn shows_pauses(&self) -> bool {
        matches!(self.source, Source::System(_) | Source::Manual { simulated: true, .. })
    }

    /// Whether it moves during a turn, so that slices of a turn can be timed; else they are counted (S5).
    pub(crate) fn is_host(&self) -> bool {
        matches!(self.source, Source::System(_))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn manual_clock_starts_at_the_recovered_time_and_moves_when_told() {
        let manual = ManualClock::new();
        manual.forward(Duration::from_secs(5));
        let clock = EngineClock::starting_at(Time(1_000), &Clock::Manual(manual.clone()));
        assert_eq!(clock.now(), Time(1_000));
        assert_eq!(clock.until(Time(1_001)), None);
        manual.forward(Duration::from_millis(7));
        assert_eq!(clock.now(), Time(1_007));
        assert_eq!(clock.until(Time(1_007)), Some(Duration::ZERO));
    }

    #[test]
    fn system_clock_never_goes_back() {
        let clock = EngineClock::starting_at(Time(42), &Clock::System);
        let mut last = clock.now();
        assert!(last >= Time(42));
        for _ in 0..10_000 {
            let now = clock.now();
            assert!(now >= last, "S6 time-forward");
            last = now;
        }
    }
}
