//! Waits for sockets, and knows how much of its time it waited.
//!
//! With a CPU of its own a load thread polls instead of sleeping: the wake-up of a halted CPU costs
//! tens of microseconds, and would be measured as the server's. Time between a poll that found nothing
//! and the next one that found something is *idle*; the rest is what the load itself costs, and the
//! report says it, so that a reader can tell whether the server or the load was the limit.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::event::{Timespec, epoll};

use crate::clock::Clock;
use crate::limits::EVENTS_MAX;

pub(crate) struct Poller {
    epoll: OwnedFd,
    clock: Clock,
    /// Poll without sleeping.
    spins: bool,
    idle_since_ns: Option<u64>,
    idle_ns: u64,
}

impl Poller {
    pub(crate) fn new(clock: Clock, spins: bool) -> io::Result<Poller> {
        Ok(Poller {
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            clock,
            spins,
            idle_since_ns: None,
            idle_ns: 0,
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
        if !self.spins && self.idle_since_ns.is_none() {
            self.idle_since_ns = Some(self.clock.now_ns());
        }
        let mut events = [const { MaybeUninit::uninit() }; EVENTS_MAX];
        match epoll::wait(&self.epoll, &mut events[..], Some(&timeout)) {
            Ok((events, _)) => ready.extend(events.iter().map(|event| event.data.u64() as usize)),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        if ready.is_empty() {
            if self.idle_since_ns.is_none() {
                self.idle_since_ns = Some(self.clock.now_ns());
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
            self.idle_ns += self.clock.now_ns() - since_ns;
        }
    }

    /// Idle time since the last call.
    pub(crate) fn take_idle_ns(&mut self) -> u64 {
        self.end_idle();
        std::mem::take(&mut self.idle_ns)
    }
}
