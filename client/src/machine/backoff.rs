//! Waiting times between attempts: exponential with jitter.
//!
//! Full jitter over the upper half of each step: many clients that lost one server at one moment come
//! back spread over time (AWS Architecture Blog, "Exponential Backoff and Jitter", 2015), and none of
//! them comes back at once.

/// Waiting times between attempts, ms.
#[derive(Clone, Debug)]
pub struct Backoff {
    min_ms: u64,
    max_ms: u64,
    step_ms: u64,
    noise: u64,
}

impl Backoff {
    /// Starts at `min_ms` and doubles up to `max_ms`. The seed makes the jitter.
    #[must_use]
    pub fn new(min_ms: u64, max_ms: u64, seed: u64) -> Backoff {
        let min_ms = min_ms.max(1);
        Backoff { min_ms, max_ms: max_ms.max(min_ms), step_ms: min_ms, noise: seed | 1 }
    }

    /// How long to wait before the next attempt: between half the step and the step, ms.
    pub fn next_ms(&mut self) -> u64 {
        // xorshift64: good enough to spread clients, and no dependency of a pure machine.
        self.noise ^= self.noise << 13;
        self.noise ^= self.noise >> 7;
        self.noise ^= self.noise << 17;
        let half_ms = self.step_ms / 2;
        let wait_ms = self.step_ms - half_ms + self.noise % (half_ms + 1);
        self.step_ms = self.step_ms.saturating_mul(2).min(self.max_ms);
        wait_ms
    }

    /// The attempt succeeded: the next failure starts from the smallest step.
    pub fn reset(&mut self) {
        self.step_ms = self.min_ms;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_double_up_to_the_maximum_and_start_again() {
        let mut backoff = Backoff::new(10, 1_000, 42);
        let mut step_ms = 10;
        for _ in 0..20 {
            let wait_ms = backoff.next_ms();
            assert!((step_ms / 2..=step_ms).contains(&wait_ms), "{wait_ms} of {step_ms}");
            step_ms = (step_ms * 2).min(1_000);
        }
        backoff.reset();
        assert!(backoff.next_ms() <= 10);
    }

    #[test]
    fn clients_with_different_seeds_spread() {
        let waits: std::collections::BTreeSet<u64> =
            (0..100).map(|seed| Backoff::new(1_000, 1_000, seed * 7_919 + 3).next_ms()).collect();
        assert!(waits.len() > 30, "{}", waits.len());
    }
}
