//! Waits for sockets, and knows how much of its time it waited.
//!
//! With a CPU of its own a load thread may poll instead of sleeping: the wake-up of a halted CPU costs
//! tens of microseconds, and would be measured as the server's. Only where nothing waits for the disk,
//! though: the kernel may finish the server's log writes on this very CPU, and a thread that never
//! sleeps makes them wait for its time slice (measured: 4 ms for a commit of 0.2 ms). CPU time between a poll that found
//! nothing and the next one that found something is *idle*; the rest is what the load itself costs, and
//! the report says it, so that a reader can tell whether the server or the load was the limit. It is CPU
//! time of the thread, not time of day, so that other work on the machine does not enter.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::event::{Timespec, epoll};

use crate::limits::EVENTS_MAX;

pub(crate) struct Poller {
    epoll: OwnedFd,
    /// This thread has its CPU to itself.
    may_spin: bool,
    /// Poll without sleeping.
    spins: bool,
    idle_since_ns: Option<u64>,
    idle_ns: u64,
    /// CPU time of the thread at the last [`Poller::restart`].
    restarted_ns: u64,
}

impl Poller {
    pub(crate) fn new(may_spin: bool) -> io::Result<Poller> {
        Ok(Poller {
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            may_spin,
            spins: false,
            idle_since_ns: None,
            idle_ns: 0,
            restarted_ns: 0,
        })
    }

    /// Watches a socket, edge-triggered, both ways.
    pub(crate) fn watch(&self, socket: impl AsFd, index: usize) -> io::Result<()> {
        let flags = epoll::EventFlags::IN | epoll::EventFlags::OUT | epoll::EventFlags::ET;
        Ok(epoll::add(&self.epoll, socket, epoll::EventData::new_u64(index as u64), flags)?)
    }

    /// Writes into `ready` the indexes of the sockets where something happened; none after `timeout`,
    /// or at once when this poller spins.
    #[inline]
    pub(crate) fn wait(&mut self, timeout: Duration, ready: &mut Vec<usize>) -> io::Result<()> {
        ready.clear();
        let timeout = if self.spins { Duration::ZERO } else { timeout };
        let timeout = Timespec { tv_sec: timeout.as_secs() as i64, tv_nsec: timeout.subsec_nanos().into() };
        let mut events = [const { MaybeUninit::uninit() }; EVENTS_MAX];
        match epoll::wait(&self.epoll, &mut events[..], Some(&timeout)) {
            Ok((events, _)) => ready.extend(events.iter().map(|event| event.data.u64() as usize)),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        if ready.is_empty() {
            if self.idle_since_ns.is_none() {
                self.idle_since_ns = Some(thread_cpu_ns());
            }
        } else {
            self.end_idle();
        }
        Ok(())
    }

    /// The thread has found something to do by itself.
    #[inline]
    pub(crate) fn end_idle(&mut self) {
        if let Some(since_ns) = self.idle_since_ns.take() {
            self.idle_ns += thread_cpu_ns() - since_ns;
        }
    }

    /// Counts from now, and polls without sleeping if that is wanted and allowed. To be called on the
    /// thread that will wait.
    pub(crate) fn restart(&mut self, spins: bool) {
        self.spins = spins && self.may_spin;
        self.idle_since_ns = None;
        self.idle_ns = 0;
        self.restarted_ns = thread_cpu_ns();
    }

    /// CPU time since [`Poller::restart`] that was not idle.
    pub(crate) fn busy_ns(&mut self) -> u64 {
        self.end_idle();
        (thread_cpu_ns() - self.restarted_ns).saturating_sub(self.idle_ns)
    }
}

/// CPU time of this thread.
fn thread_cpu_ns() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::unix::net::UnixStream;

    #[test]
    fn a_socket_is_reported_once_for_each_time_that_something_happens() {
        let (near, mut far) = UnixStream::pair().unwrap();
        near.set_nonblocking(true).unwrap();
        let mut poller = Poller::new(false).unwrap();
        poller.watch(&near, 7).unwrap();
        let mut ready = Vec::new();
        // Writable from the start.
        poller.wait(Duration::from_secs(10), &mut ready).unwrap();
        assert_eq!(ready, [7]);
        poller.wait(Duration::ZERO, &mut ready).unwrap();
        assert!(ready.is_empty());
        far.write_all(b"x").unwrap();
        poller.wait(Duration::from_secs(10), &mut ready).unwrap();
        assert_eq!(ready, [7]);
    }

    #[test]
    fn polling_in_vain_is_idle_and_work_is_busy() {
        let mut poller = Poller::new(true).unwrap();
        let mut ready = Vec::new();
        poller.restart(true);
        let began_ns = thread_cpu_ns();
        while thread_cpu_ns() - began_ns < 20_000_000 {
            poller.wait(Duration::ZERO, &mut ready).unwrap();
        }
        assert!(poller.busy_ns() < 10_000_000, "waiting counted as work");
        poller.restart(true);
        let began_ns = thread_cpu_ns();
        while thread_cpu_ns() - began_ns < 20_000_000 {}
        assert!(poller.busy_ns() >= 20_000_000);
    }
}
