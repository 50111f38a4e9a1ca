//! The load's sockets on a raw io_uring, so that the load costs less than the server that it loads.
//!
//! One ring per load thread and phase, made on the thread that uses it (SINGLE_ISSUER, DEFER_TASKRUN):
//! per socket one multishot receive into buffers that all sockets share, per socket and turn one send,
//! and one `enter` for all of them. It is what the server's own driver does; a load through epoll, `read`
//! and `write` spent more CPU than the server and so measured itself.
//!
//! With a CPU of its own a load thread may poll instead of sleeping: the wake-up of a halted CPU costs
//! tens of microseconds, and would be measured as the server's. Only where nothing waits for the disk,
//! though: the kernel may finish the server's log writes on this very CPU, and a thread that never
//! sleeps makes them wait for its time slice (measured: 4 ms for a commit of 0.2 ms).
//!
//! CPU time between a poll that found nothing and the last one that did so in a row is *idle*; the rest
//! is what the load itself costs. It is CPU time of the thread, not time of day, so that other work on
//! the machine does not enter.
//!
//! What it does not do: connect, or know frames. It moves bytes.

use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::time::{Duration, Instant};

use io_uring::types::{CancelBuilder, Fd, SubmitArgs, Timespec};
use io_uring::{EnterFlags, IoUring, cqueue, opcode, squeue};

use crate::limits::{
    RECEIVE_BUFFER_BYTES, RECEIVE_BUFFERS, RING_COMPLETIONS, RING_SUBMISSIONS, STOP_TIMEOUT,
};

mod memory;

use memory::{GROUP, Outbox, Pool};

const RECEIVE: u64 = 1 << 56;
const SEND: u64 = 2 << 56;
const CANCEL: u64 = 3 << 56;
const TAG: u64 = 0xff << 56;

/// One socket.
struct Wire {
    socket: RawFd,
    receiving: bool,
    outbox: Outbox,
}

/// Bytes that have arrived, in a buffer of the ring's; to be given back.
pub struct Arrival {
    /// The number that [`Ring::watch`] gave.
    pub wire: usize,
    buffer: u16,
    len: usize,
}

/// The sockets of one load thread in one phase. They must outlive it.
pub struct Ring {
    uring: IoUring,
    pool: Pool,
    wires: Vec<Wire>,
    /// Completions of the last wait, and how many of them were looked at.
    completions: Vec<(u64, i32, u32)>,
    seen: usize,
    /// Wires whose receive ended by itself and wants to be armed again.
    unarmed: Vec<usize>,
    closing: bool,
    spins: bool,
    idle: Idle,
}

/// What of the thread's CPU time was spent in vain.
struct Idle {
    began_ns: u64,
    since_ns: Option<u64>,
    until_ns: u64,
    total_ns: u64,
}

impl Ring {
    /// A ring of the calling thread, which polls without sleeping when `spins`.
    ///
    /// # Errors
    /// What the kernel answered; the text says what to do.
    pub fn new(spins: bool) -> anyhow::Result<Ring> {
        let make = || {
            let uring = IoUring::builder()
                .setup_single_issuer()
                .setup_defer_taskrun()
                .setup_submit_all()
                .setup_cqsize(RING_COMPLETIONS)
                .build(RING_SUBMISSIONS)?;
            let pool = Pool::new(&uring, RECEIVE_BUFFERS, RECEIVE_BUFFER_BYTES)?;
            io::Result::Ok((uring, pool))
        };
        let (uring, pool) = make().map_err(|error| {
            let needs = "the load needs io_uring: Linux 6.1 or newer, allowed here, and a memlock limit \
                         (ulimit -l) of 1 MiB per load thread";
            anyhow::Error::new(error).context(needs)
        })?;
        Ok(Ring {
            uring,
            pool,
            wires: Vec::new(),
            completions: Vec::with_capacity(RING_COMPLETIONS as usize),
            seen: 0,
            unarmed: Vec::new(),
            closing: false,
            spins,
            idle: Idle { began_ns: thread_cpu_ns(), since_ns: None, until_ns: 0, total_ns: 0 },
        })
    }

    /// Receives from a socket from now on; its number, counted from 0.
    pub fn watch(&mut self, socket: impl AsFd) -> usize {
        let socket = socket.as_fd().as_raw_fd();
        self.wires.push(Wire { socket, receiving: false, outbox: Outbox::default() });
        let wire = self.wires.len() - 1;
        self.unarmed.push(wire);
        wire
    }

    /// Queues bytes for a wire and leaves `bytes` empty. They leave with the next wait.
    #[inline]
    pub fn send(&mut self, wire: usize, bytes: &mut Vec<u8>) {
        if self.wires[wire].outbox.take(bytes) {
            self.submit_send(wire);
        }
    }

    #[inline]
    fn submit_send(&mut self, wire: usize) {
        let Wire { socket, outbox, .. } = &mut self.wires[wire];
        let entry = outbox.entry(*socket).user_data(SEND | wire as u64);
        // SAFETY: while in flight the outbox neither changes, moves nor drops its bytes.
        unsafe { self.push(&entry) };
    }

    /// # Safety
    /// Memory the entry points to must stay valid, and unmoved, until its completion.
    #[inline]
    unsafe fn push(&mut self, entry: &squeue::Entry) {
        // SAFETY: passed on to the caller.
        while unsafe { self.uring.submission().push(entry) }.is_err() {
            // Full: the kernel takes what is queued. Its own queue being full is dealt with in `enter`.
            if self.enter(Some(Duration::ZERO)).is_err() {
                return;
            }
        }
    }

    /// Submits what is queued; waits for a completion, at most for `timeout`, or not at all when this ring
    /// spins. Then [`Ring::next`] has what came.
    ///
    /// # Errors
    /// When the kernel refuses.
    #[inline]
    pub fn wait(&mut self, timeout: Duration) -> io::Result<()> {
        debug_assert_eq!(self.seen, self.completions.len(), "what came before was looked at");
        self.completions.clear();
        self.seen = 0;
        self.pool.publish();
        if !self.unarmed.is_empty() {
            self.arm();
        }
        self.enter(Some(if self.spins { Duration::ZERO } else { timeout }))?;
        self.collect();
        if self.completions.is_empty() {
            self.idle.vain();
        } else {
            self.idle.end();
        }
        Ok(())
    }

    #[cold]
    fn arm(&mut self) {
        for wire in std::mem::take(&mut self.unarmed) {
            self.wires[wire].receiving = true;
            let entry = opcode::RecvMulti::new(Fd(self.wires[wire].socket), GROUP).build();
            // SAFETY: it writes into buffers of the registered group only, which the pool keeps alive.
            unsafe { self.push(&entry.user_data(RECEIVE | wire as u64)) };
        }
    }

    /// Moves completions out of the ring.
    fn collect(&mut self) {
        let arrived = self.uring.completion();
        self.completions.extend(arrived.map(|entry| (entry.user_data(), entry.result(), entry.flags())));
    }

    /// `None`: without limit.
    fn enter(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        let result = match timeout {
            Some(Duration::ZERO) => {
                let queued = u32::try_from(self.uring.submission().len()).unwrap_or(u32::MAX);
                // SAFETY: no signal mask is passed; the arguments are plain numbers.
                unsafe { self.uring.submitter().enter::<()>(queued, 0, EnterFlags::GETEVENTS.bits(), None) }
            }
            Some(timeout) => {
                let timespec = Timespec::new().sec(timeout.as_secs()).nsec(timeout.subsec_nanos());
                self.uring.submitter().submit_with_args(1, &SubmitArgs::new().timespec(&timespec))
            }
            None => self.uring.submit_and_wait(1),
        };
        match result.map_err(|error| (error.raw_os_error(), error)) {
            // A timeout, a signal, or completions that must be taken first: all mean "look again".
            Ok(_) | Err((Some(libc::ETIME | libc::EINTR | libc::EAGAIN), _)) => Ok(()),
            Err((Some(libc::EBUSY), _)) => {
                self.collect();
                Ok(())
            }
            Err((_, error)) => Err(error),
        }
    }

    /// What came next since the last wait; sends that completed are dealt with on the way.
    ///
    /// # Errors
    /// When a connection has failed or was closed by the other side.
    #[inline]
    #[expect(clippy::should_implement_trait, reason = "it waits for nothing, and there may be more later")]
    pub fn next(&mut self) -> io::Result<Option<Arrival>> {
        while let Some(&(user_data, result, flags)) = self.completions.get(self.seen) {
            self.seen += 1;
            let wire = user_data as u32 as usize;
            match user_data & TAG {
                RECEIVE => {
                    if let Some(arrival) = self.received(wire, result, flags)? {
                        return Ok(Some(arrival));
                    }
                }
                SEND => self.sent(wire, result)?,
                _ => {}
            }
        }
        Ok(None)
    }

    #[inline]
    fn received(&mut self, wire: usize, result: i32, flags: u32) -> io::Result<Option<Arrival>> {
        if !cqueue::more(flags) {
            self.wires[wire].receiving = false;
            if !self.closing {
                self.unarmed.push(wire);
            }
        }
        match result {
            1.. => {
                let buffer =
                    cqueue::buffer_select(flags).expect("received bytes are in a buffer of the pool");
                Ok(Some(Arrival { wire, buffer, len: result.unsigned_abs() as usize }))
            }
            0 if self.closing => Ok(None),
            0 => Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the server closed a connection in the middle of the run",
            )),
            error => match -error {
                libc::ENOBUFS | libc::ECANCELED | libc::EAGAIN | libc::EINTR => Ok(None),
                errno => Err(io::Error::from_raw_os_error(errno)),
            },
        }
    }

    #[inline]
    fn sent(&mut self, wire: usize, result: i32) -> io::Result<()> {
        let count = match result {
            0.. => result.unsigned_abs() as usize,
            error if matches!(-error, libc::EAGAIN | libc::EINTR) => 0,
            error => {
                // Nothing of this wire is in the kernel's hands any more.
                self.wires[wire].outbox.completed(0);
                return Err(io::Error::from_raw_os_error(-error));
            }
        };
        if self.wires[wire].outbox.completed(count) {
            self.submit_send(wire);
        }
        Ok(())
    }

    /// The bytes of an arrival.
    #[inline]
    pub fn bytes(&self, arrival: &Arrival) -> &[u8] {
        self.pool.received(arrival.buffer, arrival.len)
    }

    /// The bytes have been looked at.
    #[inline]
    #[expect(clippy::needless_pass_by_value, reason = "an arrival is given back once")]
    pub fn give_back(&mut self, arrival: Arrival) {
        self.pool.give_back(arrival.buffer);
    }

    /// The thread has found something to do by itself.
    #[inline]
    pub fn end_idle(&mut self) {
        self.idle.end();
    }

    /// CPU time of the thread since this ring was made that was not idle.
    pub fn busy_ns(&mut self) -> u64 {
        self.idle.end();
        (thread_cpu_ns() - self.idle.began_ns).saturating_sub(self.idle.total_ns)
    }

    /// Stops receiving and gives what arrived meanwhile to `deliver`. What arrives later stays in the
    /// sockets.
    ///
    /// # Errors
    /// When a connection fails or the kernel does not let go.
    pub fn close(mut self, mut deliver: impl FnMut(usize, &[u8])) -> io::Result<()> {
        let began = Instant::now();
        self.closing = true;
        self.unarmed.clear();
        self.spins = false;
        let entry = opcode::AsyncCancel2::new(CancelBuilder::any()).build().user_data(CANCEL);
        let mut asked = false;
        while !self.is_quiet() {
            if began.elapsed() > STOP_TIMEOUT {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "the kernel does not end a receive"));
            }
            // Sends first: they are to leave, not to be cancelled.
            if !asked && !self.wires.iter().any(|wire| wire.outbox.is_busy()) {
                asked = true;
                // SAFETY: a cancel points to no memory.
                unsafe { self.push(&entry) };
            }
            self.wait(Duration::from_millis(10))?;
            while let Some(arrival) = self.next()? {
                deliver(arrival.wire, self.bytes(&arrival));
                self.give_back(arrival);
            }
        }
        Ok(())
    }

    fn is_quiet(&self) -> bool {
        self.wires.iter().all(|wire| !wire.receiving && !wire.outbox.is_busy())
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        if !self.is_quiet() {
            self.pool.leak();
        }
    }
}

impl Idle {
    /// A poll found nothing.
    #[inline]
    fn vain(&mut self) {
        let now_ns = thread_cpu_ns();
        self.since_ns.get_or_insert(now_ns);
        self.until_ns = now_ns;
    }

    /// There is something to do. The poll that found it did work of the load's: receiving happens in it.
    #[inline]
    fn end(&mut self) {
        if let Some(since_ns) = self.since_ns.take() {
            self.total_ns += self.until_ns - since_ns;
        }
    }
}

/// CPU time of this thread.
pub fn thread_cpu_ns() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    /// Everything that arrives until `count` bytes have.
    fn collect(ring: &mut Ring, count: usize) -> Vec<(usize, Vec<u8>)> {
        let mut got: Vec<(usize, Vec<u8>)> = Vec::new();
        while got.iter().map(|(_, bytes)| bytes.len()).sum::<usize>() < count {
            ring.wait(Duration::from_secs(10)).unwrap();
            while let Some(arrival) = ring.next().unwrap() {
                got.push((arrival.wire, ring.bytes(&arrival).to_vec()));
                ring.give_back(arrival);
            }
        }
        got
    }

    #[test]
    fn bytes_arrive_from_the_wire_that_they_were_sent_on_and_close_keeps_what_is_left() {
        let pairs: Vec<_> = (0..3).map(|_| UnixStream::pair().unwrap()).collect();
        let mut ring = Ring::new(false).unwrap();
        for (place, (near, _)) in pairs.iter().enumerate() {
            assert_eq!(ring.watch(near), place);
        }
        (&pairs[1].1).write_all(b"one").unwrap();
        assert_eq!(collect(&mut ring, 3), [(1, b"one".to_vec())]);
        // More than the pool holds: buffers run out, and receiving goes on.
        let much = vec![7u8; 2 * usize::from(RECEIVE_BUFFERS) * RECEIVE_BUFFER_BYTES];
        std::thread::scope(|scope| {
            scope.spawn(|| (&pairs[2].1).write_all(&much).unwrap());
            let got = collect(&mut ring, much.len());
            assert!(got.iter().all(|(wire, bytes)| *wire == 2 && bytes.iter().all(|&byte| byte == 7)));
        });
        (&pairs[0].1).write_all(b"late").unwrap();
        let mut late = Vec::new();
        ring.close(|wire, bytes| late.push((wire, bytes.to_vec()))).unwrap();
        (&pairs[0].1).write_all(b"r").unwrap();
        let mut rest = [0; 8];
        // Before the close or after it, no byte is lost.
        let read = (&pairs[0].0).read(&mut rest).unwrap();
        let mut all: Vec<u8> = late.iter().flat_map(|(_, bytes)| bytes.clone()).collect();
        all.extend_from_slice(&rest[..read]);
        assert!(late.iter().all(|(wire, _)| *wire == 0));
        assert_eq!(all, b"later");
    }

    #[test]
    fn sends_leave_in_order_however_full_the_socket() {
        let (near, far) = UnixStream::pair().unwrap();
        let mut ring = Ring::new(false).unwrap();
        let wire = ring.watch(&near);
        let mut expected = Vec::new();
        let reader = std::thread::spawn(move || {
            let mut all = Vec::new();
            (&far).read_to_end(&mut all).unwrap();
            all
        });
        for turn in 0..200u32 {
            let mut bytes: Vec<u8> = turn.to_le_bytes().repeat(5_000);
            expected.extend_from_slice(&bytes);
            ring.send(wire, &mut bytes);
            assert!(bytes.is_empty());
            if turn % 3 == 0 {
                ring.wait(Duration::from_millis(1)).unwrap();
                assert!(ring.next().unwrap().is_none());
            }
        }
        ring.close(|_, _| panic!("nothing was sent this way")).unwrap();
        drop(near);
        assert_eq!(reader.join().unwrap(), expected);
    }

    #[test]
    fn a_closed_connection_is_an_error_and_polling_in_vain_is_idle() {
        let (near, far) = UnixStream::pair().unwrap();
        let mut ring = Ring::new(true).unwrap();
        ring.watch(&near);
        let began_ns = thread_cpu_ns();
        while thread_cpu_ns() - began_ns < 20_000_000 {
            ring.wait(Duration::ZERO).unwrap();
            assert!(ring.next().unwrap().is_none());
        }
        let busy_ns = ring.busy_ns();
        assert!(busy_ns < 10_000_000, "waiting counted as work: {busy_ns}");
        let began_ns = thread_cpu_ns();
        while thread_cpu_ns() - began_ns < 20_000_000 {}
        assert!(ring.busy_ns() >= busy_ns + 20_000_000);
        drop(far);
        let error = loop {
            ring.wait(Duration::ZERO).unwrap();
            if let Err(error) = ring.next() {
                break error;
            }
        };
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }
}
