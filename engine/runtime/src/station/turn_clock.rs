//! How long a core's turns take, by what they were busy with: the stall recorder.
//!
//! A core answers nobody while one of its turns runs, so the longest turn is the longest stall that the core itself can
//! cause. Each stage of a turn keeps its own longest, so that a stall has a name. A thread that loses its CPU in the
//! middle of a stage looks stalled too; so a stage that took long is charged only with the CPU time that the thread
//! had meanwhile, give or take [`SAMPLE_INTERVAL`], while the longest turn is by the wall.
//!
//! Decides nothing: no lease, batch or slice depends on what is measured here (S5).

use std::time::{Duration, Instant};

use crate::request::TurnStats;

/// How old the last look at the thread's CPU time may be when a turn begins: the look is a system call.
const SAMPLE_INTERVAL: Duration = Duration::from_millis(1);

/// What a turn is busy with, in this order.
#[derive(Clone, Copy)]
pub(super) enum Stage {
    /// Taking what arrived and applying it.
    Requests,
    /// Expiring leases and keeping the table in order.
    Expiry,
    /// Moving a snapshot along.
    Snapshot,
    /// Sealing the batch, releasing replies and events, handing bytes to the kernel.
    Replies,
}

pub(super) struct TurnClock {
    /// Where time stands still in a turn nothing is measured.
    measures: bool,
    turn_started: Instant,
    stage_started: Instant,
    sampled: Instant,
    cpu_sampled: Duration,
    stats: TurnStats,
}

impl TurnClock {
    pub(super) fn new(measures: bool) -> TurnClock {
        let now = Instant::now();
        TurnClock {
            measures,
            turn_started: now,
            stage_started: now,
            sampled: now,
            cpu_sampled: thread_cpu(),
            stats: TurnStats::default(),
        }
    }

    pub(super) fn begin(&mut self) {
        if !self.measures {
            return;
        }
        let now = Instant::now();
        self.turn_started = now;
        self.stage_started = now;
        if now - self.sampled >= SAMPLE_INTERVAL {
            self.sampled = now;
            self.cpu_sampled = thread_cpu();
        }
    }

    /// A stage is over; the next one begins now.
    pub(super) fn end_of(&mut self, stage: Stage) -> Instant {
        if !self.measures {
            return self.turn_started;
        }
        let now = Instant::now();
        let took = now - self.stage_started;
        self.stage_started = now;
        if took >= SAMPLE_INTERVAL {
            self.long_stage(stage, took);
        } else {
            raise(self.longest(stage), took);
        }
        now
    }

    /// The turn is over.
    pub(super) fn end(&mut self) {
        let now = self.end_of(Stage::Replies);
        raise(&mut self.stats.turn_us_max, now - self.turn_started);
        self.stats.turns += 1;
    }

    pub(super) fn stats(&self) -> TurnStats {
        self.stats
    }

    #[cold]
    fn long_stage(&mut self, stage: Stage, took: Duration) {
        let cpu = thread_cpu();
        let had = cpu.saturating_sub(self.cpu_sampled);
        (self.sampled, self.cpu_sampled) = (self.stage_started, cpu);
        raise(self.longest(stage), took.min(had));
    }

    fn longest(&mut self, stage: Stage) -> &mut u64 {
        match stage {
            Stage::Requests => &mut self.stats.requests_us_max,
            Stage::Expiry => &mut self.stats.expiry_us_max,
            Stage::Snapshot => &mut self.stats.snapshot_us_max,
            Stage::Replies => &mut self.stats.replies_us_max,
        }
    }
}

fn raise(longest_us: &mut u64, took: Duration) {
    *longest_us = (*longest_us).max(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
}

/// CPU time of this thread, user and system.
fn thread_cpu() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::try_from(time).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stage_is_charged_for_work_and_not_for_sleep() {
        let mut clock = TurnClock::new(true);
        clock.begin();
        std::thread::sleep(Duration::from_millis(30));
        clock.end_of(Stage::Requests);
        let busy = Instant::now();
        let before = thread_cpu();
        while thread_cpu() - before < Duration::from_millis(5) {
            assert!(busy.elapsed() < Duration::from_secs(60), "no CPU for a minute");
        }
        clock.end_of(Stage::Expiry);
        clock.end();
        let stats = clock.stats();
        assert!(stats.turn_us_max >= 35_000, "{stats:?}");
        assert!(stats.requests_us_max < 15_000, "asleep for 30 ms: {stats:?}");
        assert!(stats.expiry_us_max >= 4_900, "{stats:?}");
        assert_eq!((stats.turns, stats.snapshot_us_max), (1, 0));
    }
}
