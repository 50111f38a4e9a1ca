//! The CPU clock of another process: user and system time of all its threads, to the nanosecond.
//!
//! It is the sum that `/proc/PID/stat` gives in ticks of 10 ms. A storm of a million leases may cost a server
//! no more than three of those, so the clock itself is read.

use std::time::Duration;

use anyhow::Context;

/// The clock of a process; it stands when the process has ended.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CpuClock(libc::clockid_t);

impl CpuClock {
    /// # Errors
    /// When there is no such process.
    pub(crate) fn of(pid: u32) -> anyhow::Result<CpuClock> {
        let pid = libc::pid_t::try_from(pid).context("no process has such a number")?;
        let mut clock = 0;
        // SAFETY: it writes one clock id to where it is told to.
        let error = unsafe { libc::clock_getcpuclockid(pid, &raw mut clock) };
        match error {
            0 => Ok(CpuClock(clock)),
            errno => Err(std::io::Error::from_raw_os_error(errno)).context("no CPU clock of the server"),
        }
    }

    /// CPU time so far; `None` when the process is gone.
    pub(crate) fn read(self) -> Option<Duration> {
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: it writes one timespec to where it is told to.
        let result = unsafe { libc::clock_gettime(self.0, &raw mut time) };
        let (seconds, nanoseconds) = (u64::try_from(time.tv_sec).ok()?, u32::try_from(time.tv_nsec).ok()?);
        (result == 0).then(|| Duration::new(seconds, nanoseconds))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tenure_bench::instruments::Watched;

    #[test]
    fn the_clock_of_a_process_agrees_with_proc_and_is_gone_with_it() {
        let me = std::process::id();
        let (clock, proc) = (CpuClock::of(me).unwrap(), Watched::new(me));
        let (before, proc_before) = (clock.read().unwrap(), proc.cpu().unwrap());
        let mut sum = 0u64;
        while clock.read().unwrap() - before < Duration::from_millis(60) {
            sum = (0..100_000u64).fold(sum, |sum, i| std::hint::black_box(sum ^ i));
        }
        // Other tests of this process run beside: what came between is in both, to within their ticks.
        let (after_proc, after) = (proc.cpu().unwrap() - proc_before, clock.read().unwrap() - before);
        assert!(after_proc <= after + Duration::from_millis(20), "{after_proc:?} {after:?}");
        let mut child = std::process::Command::new("sleep").arg("600").spawn().unwrap();
        let clock = CpuClock::of(child.id()).unwrap();
        assert!(clock.read().is_some());
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(clock.read(), None);
        assert!(CpuClock::of(u32::MAX).is_err());
    }
}
