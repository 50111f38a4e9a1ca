//! The unsafe part of the ring driver: memory that the kernel writes into and reads from.
//!
//! [`Pool`] is the ring of receive buffers that all connections of a core share: the kernel takes a
//! buffer when bytes arrive and says which in the completion; the driver looks at it and gives it
//! back. The kernel goes round all the buffers that it has, so it gets few, which stay in the cache, and more when a
//! turn has needed more. [`Outbox`] is the buffer of one connection's send, which cannot be touched while the kernel
//! may read it. The rest are submissions that point to no memory.
//!
//! A buffer is owned by the kernel or by the driver, never by both: it changes hands by `give_back`
//! one way and by a completion the other way.

use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::types::{BufRingEntry, Fd};
use io_uring::{cqueue, opcode};
use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};
use tenure::shell::ring::{Completion, Ring};

/// The buffer group of the connections; a core's ring has no other.
const GROUP: u16 = 0;

/// Receive buffers shared with the kernel.
pub(super) struct Pool {
    entries: Mapping,
    memory: Mapping,
    count: u16,
    buffer_bytes: usize,
    /// Buffers in use, by the kernel or the driver: the first so many.
    lent: u16,
    /// The buffers ran out since the last [`publish`](Pool::publish).
    ran_out: bool,
    /// Where the next buffer given back goes; the kernel sees it when published.
    tail: u16,
}

impl Pool {
    /// Makes room for `count` buffers (a power of two) and registers it with `ring`, which must outlive the
    /// pool's use. The kernel gets `first` of them to begin with.
    ///
    /// # Errors
    /// What the kernel answered.
    pub(super) fn new(ring: &Ring, first: u16, count: u16, buffer_bytes: usize) -> std::io::Result<Pool> {
        assert!(count.is_power_of_two() && count <= 1 << 15, "S8 bounded: a buffer ring has 2^n entries");
        let mut pool = Pool {
            entries: Mapping::new(usize::from(count) * size_of::<BufRingEntry>())?,
            memory: Mapping::new(usize::from(count) * buffer_bytes)?,
            count,
            buffer_bytes,
            lent: 0,
            ran_out: false,
            tail: 0,
        };
        // SAFETY: the address is that of `count` zeroed, page-aligned entries. They stay where they are
        // until the pool is dropped, which is after the last submission that uses the group (see `Drop`).
        unsafe {
            let address = pool.entries.address() as u64;
            ring.submitter().register_buf_ring_with_flags(address, count, GROUP, 0)?;
        }
        pool.lend(first);
        pool.publish();
        Ok(pool)
    }

    /// Brings so many more buffers into use, as far as there are more.
    fn lend(&mut self, more: u16) {
        let from = self.lent;
        self.lent = from.saturating_add(more).min(self.count);
        (from..self.lent).for_each(|id| self.give_back(id));
    }

    /// Notes that a receive found no buffer: there are twice as many from the next [`publish`](Pool::publish) on.
    pub(super) fn ran_out(&mut self) {
        self.ran_out = true;
    }

    /// Takes the buffers back from a ring on which nothing receives.
    ///
    /// # Errors
    /// What the kernel answered.
    pub(super) fn unregister(self, ring: &Ring) -> std::io::Result<()> {
        ring.submitter().unregister_buf_ring(GROUP)
    }

    /// The bytes that a receive put into buffer `id`.
    pub(super) fn received(&self, id: u16, len: usize) -> &[u8] {
        assert!(id < self.lent && len <= self.buffer_bytes, "the kernel names a buffer that it was given");
        // SAFETY: in bounds by the assertion, initialised (mapped zeroed). A completion named this
        // buffer, so the kernel has let go of it until it is given back, which needs `&mut self`.
        unsafe {
            let start = self.memory.address().add(usize::from(id) * self.buffer_bytes);
            std::slice::from_raw_parts(start, len)
        }
    }

    /// Returns buffer `id` to the kernel with the next [`publish`](Pool::publish).
    pub(super) fn give_back(&mut self, id: u16) {
        assert!(id < self.lent, "the kernel names a buffer that it was given");
        let place = usize::from(self.tail & (self.count - 1));
        // SAFETY: both offsets are in bounds. The kernel reads entries below the published tail only,
        // and this one is at it; the tail's own field (in entry 0) is not written here.
        unsafe {
            let entry = &mut *self.first_entry().add(place);
            entry.set_addr(self.memory.address().add(usize::from(id) * self.buffer_bytes) as u64);
            entry.set_len(u32::try_from(self.buffer_bytes).expect("S8 bounded: buffers are small"));
            entry.set_bid(id);
        }
        self.tail = self.tail.wrapping_add(1);
    }

    fn first_entry(&self) -> *mut BufRingEntry {
        self.entries.address().cast()
    }

    /// Lets the kernel see the buffers given back.
    pub(super) fn publish(&mut self) {
        if std::mem::take(&mut self.ran_out) {
            self.lend(self.lent);
        }
        // SAFETY: the tail's field lies in the first entry, is aligned for u16, and is shared with the
        // kernel as an atomic: release, so that the entries before it are seen first.
        unsafe {
            let tail = BufRingEntry::tail(self.first_entry()).cast::<AtomicU16>();
            (*tail).store(self.tail, Ordering::Release);
        }
    }
}

/// Zeroed memory of whole pages, of which only what is touched exists. An allocator would touch all of it to zero it.
struct Mapping {
    start: NonNull<u8>,
    bytes: usize,
}

impl Mapping {
    fn new(bytes: usize) -> std::io::Result<Mapping> {
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a fresh anonymous mapping at an address of the kernel's choice touches nothing else.
        let start = unsafe { mmap_anonymous(std::ptr::null_mut(), bytes, protection, MapFlags::PRIVATE)? };
        Ok(Mapping { start: NonNull::new(start.cast()).expect("a mapping is never at 0"), bytes })
    }

    fn address(&self) -> *mut u8 {
        self.start.as_ptr()
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // The ring may still be receiving; the process is about to end.
            return;
        }
        // SAFETY: mapped with this length. The driver is dropped only when no connection is left, so no receive is in
        // flight that could take a buffer. Nothing can be done about a failure, and none is possible.
        let _ = unsafe { munmap(self.address().cast(), self.bytes) };
    }
}

/// The bytes of one connection's send in flight.
#[derive(Default)]
pub(super) struct Outbox {
    bytes: Vec<u8>,
    sent: usize,
    in_flight: bool,
}

impl Outbox {
    /// Whether the kernel may be reading the bytes.
    pub(super) fn is_busy(&self) -> bool {
        self.in_flight
    }

    /// The buffer to fill; empty.
    pub(super) fn buffer(&mut self) -> &mut Vec<u8> {
        assert!(!self.in_flight && self.bytes.is_empty(), "one send in flight per connection");
        &mut self.bytes
    }

    /// Submits what has not been sent.
    pub(super) fn send(&mut self, ring: &mut Ring, socket: RawFd, user_data: u64) {
        assert!(!self.in_flight && self.sent < self.bytes.len(), "one send in flight per connection");
        let rest = &self.bytes[self.sent..];
        let len = u32::try_from(rest.len()).unwrap_or(u32::MAX);
        let entry = opcode::Send::new(Fd(socket), rest.as_ptr(), len).flags(libc::MSG_NOSIGNAL);
        self.in_flight = true;
        // SAFETY: while `in_flight` the buffer is neither changed (`buffer` asserts) nor dropped (see
        // `Drop`), and moving the `Vec` does not move its heap memory.
        unsafe { ring.push(&entry.build().user_data(user_data)) };
    }

    /// Takes the completion of a send; `sent` bytes went out. Returns whether some are left.
    pub(super) fn completed(&mut self, sent: usize, keep_bytes: usize) -> bool {
        assert!(self.in_flight, "a send completes once");
        self.in_flight = false;
        self.sent += sent;
        if self.sent < self.bytes.len() {
            return true;
        }
        self.sent = 0;
        self.bytes.clear();
        if self.bytes.capacity() > keep_bytes {
            self.bytes = Vec::new();
        }
        false
    }
}

impl Drop for Outbox {
    fn drop(&mut self) {
        if self.in_flight {
            // Only on the way to the process's end: the kernel may still read it.
            std::mem::forget(std::mem::take(&mut self.bytes));
        }
    }
}

/// Accepts connections on `listener` until further notice.
pub(super) fn accept(ring: &mut Ring, listener: RawFd, user_data: u64) {
    let entry = opcode::AcceptMulti::new(Fd(listener)).flags(libc::SOCK_CLOEXEC);
    // SAFETY: a multishot accept without address points to no memory.
    unsafe { ring.push(&entry.build().user_data(user_data)) };
}

/// The socket that an accept brought.
pub(super) fn accepted(completion: Completion) -> Option<OwnedFd> {
    // SAFETY: the kernel has just made this descriptor for us; nobody else owns it.
    (completion.result >= 0).then(|| unsafe { OwnedFd::from_raw_fd(completion.result) })
}

/// Receives from `socket` into buffers of the pool until further notice.
pub(super) fn receive(ring: &mut Ring, socket: RawFd, user_data: u64) {
    let entry = opcode::RecvMulti::new(Fd(socket), GROUP);
    // SAFETY: it writes into buffers of the registered group only, which the pool keeps alive.
    unsafe { ring.push(&entry.build().user_data(user_data)) };
}

/// Ends the operation that was submitted with `target`.
pub(super) fn cancel(ring: &mut Ring, target: u64, user_data: u64) {
    // SAFETY: a cancel points to no memory.
    unsafe { ring.push(&opcode::AsyncCancel::new(target).build().user_data(user_data)) };
}

/// Whether the operation goes on after this completion.
pub(super) fn goes_on(completion: Completion) -> bool {
    cqueue::more(completion.flags)
}

/// The buffer that a receive used.
pub(super) fn buffer_of(completion: Completion) -> Option<u16> {
    cqueue::buffer_select(completion.flags)
}
