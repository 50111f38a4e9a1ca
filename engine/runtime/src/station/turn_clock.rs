//! How long a core's turns take, by what they were busy with: the stall recorder.
//!
//! A core answers nobody while one of its turns runs, so the longest turn is the longest stall that the core itself can
//! cause. Each stage of a turn keeps its own longest, so that a stall has a name. A thread that loses its CPU in the
//! middle of a stage looks stalled too; so each longest is kept twice: by the wall, and, where it took long, as the CPU
//! time that the thread had meanwhile, give or take [`SAMPLE_INTERVAL`].
//!
//! Three causes are special. *Log* interrupts whatever stage seals a batch, and its time is taken out of that one.
//! *Growth* is the time of the requests of a turn in which the tables reached for new memory, counted once more.
//! *Kernel* is what the ring driver hands over and takes at a turn's end. The core waits for nothing there, but it
//! spins on locks: a socket whose other side lost its CPU with the lock in its hands holds up this one.
//!
//! No lease and no record depends on what is measured here (S5); how long a slice of work lasts may (`slice.rs`).

use std::fmt;
use std::time::{Duration, Instant};

use super::disturbances::Disturbances;
use crate::request::{Longest, TurnStats};

/// A turn that takes this much CPU time, and more than any before it, is worth a line in the log.
const SLOW_TURN: Duration = Duration::from_millis(5);

/// How old the last look at the thread's CPU time, and at what disturbed it, may be when a turn begins: a look is a
/// system call or two.
const SAMPLE_INTERVAL: Duration = Duration::from_millis(1);

/// What a turn is busy with, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// Taking what arrived and applying it.
    Requests,
    /// Expiring leases.
    Expiry,
    /// Compacting the wheel.
    Compaction,
    /// Writing items of ended leases, and checkpoints.
    Items,
    /// Moving a snapshot along.
    Snapshot,
    /// Sealing a batch, changing segments; interrupts any other.
    Log,
    /// Releasing replies and events.
    Replies,
    /// The kernel sends and receives.
    Kernel,
}

/// A turn that took longer than all before it, and what it was busy with, in ms of CPU time.
pub(super) struct SlowTurn {
    cpu: Duration,
    wall: Duration,
    spent: [Duration; STAGES.len()],
    /// In the turn, or up to an interval before it.
    disturbed: Disturbances,
}

const STAGES: [&str; 8] =
    ["requests", "expiry", "compaction", "items", "snapshot", "log", "replies", "kernel"];

const _: () = assert!(Stage::Kernel as usize + 1 == STAGES.len(), "a name for each stage, in their order");

impl fmt::Display for SlowTurn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |took: Duration| took.as_secs_f64() * 1e3;
        write!(f, "{:.2} ms of CPU time in {:.2} ms", ms(self.cpu), ms(self.wall))?;
        let mut between = ": ";
        for (stage, spent) in STAGES.iter().zip(self.spent).filter(|(_, spent)| !spent.is_zero()) {
            write!(f, "{between}{stage} {:.2}", ms(spent))?;
            between = ", ";
        }
        write!(f, "; {}", self.disturbed)
    }
}

pub(super) struct TurnClock {
    /// Where time stands still in a turn nothing is measured.
    measures: bool,
    turn_started: Instant,
    stage_started: Instant,
    sampled: Instant,
    cpu_sampled: Duration,
    disturbed_sampled: Disturbances,
    /// The thread's CPU time when the turn began, or up to an interval earlier.
    turn_cpu: Duration,
    turn_disturbed: Disturbances,
    /// What the requests of this turn took: by the wall, and of CPU time.
    requests: (Duration, Duration),
    /// CPU time of this turn, by stage.
    spent: [Duration; STAGES.len()],
    stats: TurnStats,
}

impl TurnClock {
    pub(super) fn new(measures: bool) -> TurnClock {
        let (now, cpu, disturbed) = (Instant::now(), thread_cpu(), Disturbances::so_far());
        TurnClock {
            measures,
            turn_started: now,
            stage_started: now,
            sampled: now,
            cpu_sampled: cpu,
            disturbed_sampled: disturbed,
            turn_cpu: cpu,
            turn_disturbed: disturbed,
            requests: (Duration::ZERO, Duration::ZERO),
            spent: [Duration::ZERO; STAGES.len()],
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
        self.sample(now);
        (self.turn_cpu, self.turn_disturbed) = (self.cpu_sampled, self.disturbed_sampled);
        self.spent = [Duration::ZERO; STAGES.len()];
        self.requests = (Duration::ZERO, Duration::ZERO);
    }

    /// How long the turn has lasted.
    pub(super) fn turn_so_far(&self) -> Duration {
        self.turn_started.elapsed()
    }

    /// A stage is over; the next one begins now.
    pub(super) fn end_of(&mut self, stage: Stage) -> Instant {
        if !self.measures {
            return self.turn_started;
        }
        let now = Instant::now();
        self.charge(stage, now - self.stage_started);
        self.stage_started = now;
        now
    }

    /// Something that interrupts a stage begins.
    pub(super) fn interrupt(&mut self) -> Instant {
        if !self.measures {
            return self.turn_started;
        }
        let now = Instant::now();
        self.sample(now);
        now
    }

    /// It is over: what was done since then belongs to `stage`, and not to the one that it interrupted.
    pub(super) fn end_of_interruption(&mut self, stage: Stage, since: Instant) {
        if !self.measures {
            return;
        }
        let took = since.elapsed();
        self.charge(stage, took);
        self.stage_started += took;
    }

    /// The requests of this turn made the tables grow.
    pub(super) fn grew(&mut self) {
        let (wall, cpu) = self.requests;
        raise(&mut self.stats.growth, wall, cpu);
    }

    /// The turn and the last of its stages are over. Told when it was slow, and slower than all before it.
    pub(super) fn end(&mut self, last: Stage) -> Option<SlowTurn> {
        let now = self.end_of(last);
        let took = now - self.turn_started;
        let cpu =
            if took >= SAMPLE_INTERVAL { took.min(thread_cpu().saturating_sub(self.turn_cpu)) } else { took };
        let slowest = self.stats.turn.cpu_us;
        raise(&mut self.stats.turn, took, cpu);
        self.stats.turns += 1;
        let slow = cpu >= SLOW_TURN && self.stats.turn.cpu_us > slowest;
        slow.then(|| SlowTurn {
            cpu,
            wall: took,
            spent: self.spent,
            disturbed: Disturbances::so_far().since(self.turn_disturbed),
        })
    }

    pub(super) fn stats(&self) -> TurnStats {
        self.stats
    }

    /// Looks at the thread's CPU time, unless it did so just now.
    #[inline]
    fn sample(&mut self, now: Instant) {
        if now - self.sampled >= SAMPLE_INTERVAL {
            self.sampled = now;
            self.cpu_sampled = thread_cpu();
            self.disturbed_sampled = Disturbances::so_far();
        }
    }

    /// A stage took so long, and has just ended.
    #[inline]
    fn charge(&mut self, stage: Stage, took: Duration) {
        let cpu = if took >= SAMPLE_INTERVAL { self.cpu_of(took) } else { took };
        if stage == Stage::Requests {
            self.requests = (self.requests.0 + took, self.requests.1 + cpu);
        }
        self.spent[stage as usize] += cpu;
        raise(self.longest(stage), took, cpu);
    }

    /// CPU time in the last `took`.
    #[cold]
    fn cpu_of(&mut self, took: Duration) -> Duration {
        let cpu = thread_cpu();
        let had = cpu.saturating_sub(self.cpu_sampled);
        (self.sampled, self.cpu_sampled) = (Instant::now(), cpu);
        self.disturbed_sampled = Disturbances::so_far();
        took.min(had)
    }

    fn longest(&mut self, stage: Stage) -> &mut Longest {
        match stage {
            Stage::Requests => &mut self.stats.requests,
            Stage::Expiry => &mut self.stats.expiry,
            Stage::Compaction => &mut self.stats.compaction,
            Stage::Items => &mut self.stats.items,
            Stage::Snapshot => &mut self.stats.snapshot,
            Stage::Log => &mut self.stats.log,
            Stage::Replies => &mut self.stats.replies,
            Stage::Kernel => &mut self.stats.kernel,
        }
    }
}

fn raise(longest: &mut Longest, wall: Duration, cpu: Duration) {
    let us = |took: Duration| u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
    longest.wall_us = longest.wall_us.max(us(wall));
    longest.cpu_us = longest.cpu_us.max(us(cpu));
}

/// CPU time of this thread, user and system.
fn thread_cpu() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::try_from(time).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sleep_ms(ms: u64) {
        std::thread::sleep(Duration::from_millis(ms));
    }

    /// Keeps the CPU busy for so long of its time.
    fn work_ms(ms: u64) {
        let (began, before) = (Instant::now(), thread_cpu());
        while thread_cpu() - before < Duration::from_millis(ms) {
            assert!(began.elapsed() < Duration::from_secs(60), "no CPU for a minute");
        }
    }

    #[test]
    fn a_stage_is_charged_for_work_and_apart_from_it_for_sleep() {
        let mut clock = TurnClock::new(true);
        clock.begin();
        sleep_ms(30);
        clock.end_of(Stage::Requests);
        work_ms(5);
        clock.end_of(Stage::Expiry);
        clock.end(Stage::Replies);
        let stats = clock.stats();
        assert!(stats.turn.wall_us >= 35_000 && stats.requests.wall_us >= 30_000, "{stats:?}");
        assert!(stats.requests.cpu_us < 15_000 && stats.turn.cpu_us < 20_000, "asleep for 30 ms: {stats:?}");
        assert!(stats.expiry.cpu_us >= 4_900 && stats.turn.cpu_us >= 4_900, "{stats:?}");
        assert_eq!((stats.turns, stats.snapshot, stats.growth), (1, Longest::default(), Longest::default()));
    }

    #[test]
    fn an_interruption_is_taken_out_of_the_stage_that_it_interrupts() {
        let mut clock = TurnClock::new(true);
        clock.begin();
        let since = clock.interrupt();
        sleep_ms(30);
        clock.end_of_interruption(Stage::Log, since);
        clock.end_of(Stage::Compaction);
        clock.end(Stage::Replies);
        let stats = clock.stats();
        assert!(stats.log.wall_us >= 30_000, "{stats:?}");
        assert!(stats.compaction.wall_us < 20_000, "the log's: {stats:?}");
        assert!(stats.turn.wall_us >= 30_000, "{stats:?}");
    }

    #[test]
    fn growth_is_the_requests_of_a_turn_that_grew() {
        let mut clock = TurnClock::new(true);
        for (ms, grows) in [(2, true), (12, false)] {
            clock.begin();
            sleep_ms(ms);
            clock.end_of(Stage::Requests);
            if grows {
                clock.grew();
            }
            clock.end(Stage::Replies);
        }
        let stats = clock.stats();
        assert!(stats.requests.wall_us >= 12_000, "{stats:?}");
        assert!((2_000..stats.requests.wall_us).contains(&stats.growth.wall_us), "{stats:?}");
    }

    #[test]
    fn a_slow_turn_is_told_when_none_was_slower() {
        let mut clock = TurnClock::new(true);
        let told: Vec<Option<String>> = [1, 20, 6]
            .into_iter()
            .map(|ms| {
                clock.begin();
                clock.end_of(Stage::Requests);
                work_ms(ms);
                clock.end_of(Stage::Items);
                clock.end(Stage::Replies).map(|slow| slow.to_string())
            })
            .collect();
        let slow = told[1].as_ref().expect("20 ms are slow");
        assert!(slow.contains(" ms of CPU time in ") && slow.contains("items "), "{slow}");
        assert!(slow.contains("; preempted "), "{slow}");
        assert!(told[2].is_none(), "6 ms after 20 are nothing new: {told:?}");
    }
}
