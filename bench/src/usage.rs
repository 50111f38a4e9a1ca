//! CPU time and memory of a process, from /proc.
//!
//! CPU per operation is the figure that survives a noisy machine, so it is the server's and it is read
//! from the kernel, not estimated: user and system time of /proc/PID/stat before and after a phase.
//! The kernel counts them in ticks of usually 10 ms, which is 0.3 % of a phase of 3 s.

use std::fs;
use std::time::Duration;

use crate::host;

/// A process that is watched.
#[derive(Clone, Copy, Debug)]
pub struct Watched {
    pid: u32,
    tick: Duration,
}

/// Resident memory of a process, bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// Now.
    pub resident_bytes: u64,
    /// The most it ever was.
    pub peak_bytes: u64,
}

impl Watched {
    /// The process with this id.
    #[must_use]
    pub fn new(pid: u32) -> Watched {
        let per_second = rustix::param::clock_ticks_per_second().max(1);
        Watched { pid, tick: Duration::from_nanos(1_000_000_000 / per_second) }
    }

    /// CPU time so far, user and system; `None` when the process is gone.
    #[must_use]
    pub fn cpu(&self) -> Option<Duration> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid)).ok()?;
        let ticks = ticks_of(&stat)?;
        Some(Duration::from_nanos(u64::try_from(self.tick.as_nanos()).ok()?.checked_mul(ticks)?))
    }

    /// What it holds in memory; `None` when the process is gone.
    #[must_use]
    pub fn memory(&self) -> Option<Memory> {
        let path = format!("/proc/{}/status", self.pid);
        let bytes = |name| host::field(&path, name).and_then(|text| host::kibibytes(&text));
        Some(Memory { resident_bytes: bytes("VmRSS")?, peak_bytes: bytes("VmHWM")? })
    }
}

/// utime + stime of a stat line. The name of the process, field 2, may hold anything, brackets too; the
/// last `)` ends it.
fn ticks_of(stat: &str) -> Option<u64> {
    let (_, after_name) = stat.rsplit_once(')')?;
    let mut fields = after_name.split_ascii_whitespace();
    // Fields 14 and 15, counted from 1; the first after the name is field 3.
    let user: u64 = fields.nth(11)?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_process_cannot_shift_the_fields() {
        let stat = "42 (a) R 1 (b) S 1 42 42 0 -1 4194304 100 0 0 0 70 30 0 0 20 0 3 0 100 0 0";
        assert_eq!(ticks_of(stat), Some(100));
        assert_eq!(ticks_of("42 (x) R 1"), None);
    }

    #[test]
    fn this_process_has_used_cpu_and_memory() {
        let watched = Watched::new(std::process::id());
        let before = watched.cpu().unwrap();
        let mut sum = 0u64;
        while watched.cpu().unwrap() == before {
            sum = (0..1_000_000u64).fold(sum, |sum, i| std::hint::black_box(sum ^ i));
        }
        let memory = watched.memory().unwrap();
        assert!(memory.resident_bytes > 0 && memory.peak_bytes >= memory.resident_bytes, "{memory:?}");
        assert_eq!(Watched::new(u32::MAX).cpu(), None);
    }
}
