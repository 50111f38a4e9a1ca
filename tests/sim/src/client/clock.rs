//! A client's own clock: it drifts, and a fault may make it leap forward or go at another rate from then on.
//!
//! ```text
//!   local ▲            ╱        leap: an hour in no time, as a clock that counts suspend shows it after one,
//!         │          ╱·                while the server and the rest of the world went on as ever
//!         │     ····╱           rate: fast by up to a fifth, slow by up to 0.09 %
//!         │   ╱                 drift: up to 0.04 % either way, from the start
//!         └────────────▶ host
//! ```
//! **What is promised** (S2, `docs/architecture.md`, Assumptions): a clock that leaps forward or runs fast ends its
//! client's trust early, never late; what the clock leaves of a lease stays the client's, and goes on being
//! renewed. A clock that goes back, or runs slow by more than the thousandth that clients allow for, is outside of
//! the promise, and no clock here does.

use crate::random::Random;

/// The clock starts here, so that nothing mistakes it for the host's.
const START_MS: u64 = 1_000_000;

/// A clock; time is the host's, and all clocks but this one go with it.
#[derive(Clone, Debug)]
pub struct ClientClock {
    /// One after the other; there is always a first.
    spans: Vec<Span>,
}

/// From some moment on the clock goes at one rate.
#[derive(Clone, Copy, Debug)]
struct Span {
    host_ms: u64,
    local_ms: u64,
    /// How much faster it goes than the host's; slower if negative.
    fast_ppm: i64,
}

impl Span {
    fn local_ms(self, host_ms: u64) -> u64 {
        let passed_ms = i128::from(host_ms - self.host_ms);
        let fast_ms = passed_ms * i128::from(self.fast_ppm) / 1_000_000;
        self.local_ms + u64::try_from(passed_ms + fast_ms).unwrap_or(0)
    }
}

impl ClientClock {
    /// A clock that drifts within what clients allow for.
    #[must_use]
    pub fn new(random: &mut Random) -> ClientClock {
        let fast_ppm = random.below(800) as i64 - 400;
        ClientClock { spans: vec![Span { host_ms: 0, local_ms: START_MS, fast_ppm }] }
    }

    /// What it shows now, when the host's clock stands at `host_ms`.
    #[must_use]
    pub fn now_ms(&self, host_ms: u64) -> u64 {
        self.spans[self.spans.len() - 1].local_ms(host_ms)
    }

    /// What it showed at an earlier moment, before it leapt if it did so in that very millisecond.
    #[must_use]
    pub fn then_ms(&self, host_ms: u64) -> u64 {
        let before = self.spans.iter().rfind(|span| span.host_ms < host_ms);
        before.unwrap_or(&self.spans[0]).local_ms(host_ms)
    }

    /// It leaps forward.
    pub fn leap(&mut self, host_ms: u64, ms: u64) {
        let Span { fast_ppm, .. } = self.spans[self.spans.len() - 1];
        self.spans.push(Span { host_ms, local_ms: self.now_ms(host_ms) + ms, fast_ppm });
    }

    /// From now on it goes at another rate.
    pub fn change_rate(&mut self, host_ms: u64, fast_ppm: i64) {
        let local_ms = self.now_ms(host_ms);
        self.spans.push(Span { host_ms, local_ms, fast_ppm });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_remembers_what_it_showed_before_it_leapt() {
        let mut clock = ClientClock::new(&mut Random::new(1, 1));
        clock.spans[0].fast_ppm = 0;
        clock.leap(50, 3_600_000);
        clock.change_rate(150, 100_000);
        let shown = [0, 49, 50, 51, 150, 250].map(|host_ms| clock.then_ms(host_ms) - START_MS);
        assert_eq!(shown, [0, 49, 50, 3_600_051, 3_600_150, 3_600_260]);
        assert_eq!(clock.now_ms(150) - START_MS, 3_600_150);
    }
}
