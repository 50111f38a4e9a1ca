//! The floor of a stall: how long a loop that does nothing is kept from going on.
//!
//! Interrupts, the kernel's own work and the host that runs this machine take their time from whoever runs, and often it
//! is counted as his CPU time. A core of a server cannot promise a shorter longest turn than such a loop has a gap.

use std::time::{Duration, Instant};

use crate::report::StallRow;
use crate::ring::thread_cpu_ns;

/// A gap shorter than this is not looked at, and this is how old the last look at the CPU time may be.
const LOOK: Duration = Duration::from_micros(100);

/// The longest gaps of a loop on the calling thread, by the wall and of CPU time.
pub(crate) fn gap(span: Duration) -> StallRow {
    let began = Instant::now();
    let (mut last, mut looked, mut cpu_ns) = (began, began, thread_cpu_ns());
    let (mut wall_max, mut cpu_max_ns) = (Duration::ZERO, 0);
    while last - began < span {
        let now = Instant::now();
        let wall = now - last;
        last = now;
        if wall < LOOK && now - looked < LOOK {
            continue;
        }
        let before_ns = std::mem::replace(&mut cpu_ns, thread_cpu_ns());
        wall_max = wall_max.max(wall);
        cpu_max_ns = cpu_max_ns.max((cpu_ns - before_ns).min(wall.as_nanos() as u64));
        // The look itself is no gap.
        last = Instant::now();
        looked = last;
    }
    StallRow {
        cause: format!("empty loop, {} s", span.as_secs_f64().round()),
        wall_us: wall_max.as_micros() as u64,
        cpu_us: cpu_max_ns / 1_000,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    /// More threads than CPUs: the loop is kept from going on, and has no CPU time meanwhile.
    #[test]
    fn a_gap_is_seen_and_told_apart_from_work() {
        let cpus = std::thread::available_parallelism().unwrap().get();
        let done = AtomicBool::new(false);
        let found = std::thread::scope(|scope| {
            for _ in 0..3 * cpus {
                scope.spawn(|| {
                    while !done.load(Ordering::Relaxed) {
                        std::hint::spin_loop();
                    }
                });
            }
            let mut gaps = std::iter::repeat_with(|| gap(Duration::from_millis(50))).take(200);
            let found = gaps.find(|found| found.wall_us >= 1_000 && found.cpu_us < found.wall_us);
            done.store(true, Ordering::Relaxed);
            found
        });
        assert_eq!(found.expect("three threads for each CPU and never a gap").cause, "empty loop, 0 s");
    }
}
