//! The unsafe part of the load's ring: memory that the kernel writes into and reads from.
//!
//! [`Pool`] is the set of receive buffers that all wires of a ring share; [`Outbox`] the bytes of one
//! wire's send in flight. A buffer belongs to the kernel or to this side, never to both: it changes
//! hands with a submission (or [`Pool::give_back`]) one way and with a completion the other way.
//!
//! What it deliberately does not do: free memory that the kernel may still use. A ring that is dropped
//! with operations in flight, which only a failed run does, leaks it ([`Pool::leak`]).

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::io;
use std::os::fd::RawFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::types::{BufRingEntry, Fd};
use io_uring::{IoUring, opcode, squeue};

/// The buffer group of a ring; there is no other.
pub(super) const GROUP: u16 = 0;
const PAGE_BYTES: usize = 4_096;

/// Receive buffers shared with the kernel.
pub(super) struct Pool {
    entries: NonNull<BufRingEntry>,
    memory: NonNull<u8>,
    count: u16,
    buffer_bytes: usize,
    /// Where the next buffer given back goes; the kernel sees it when published.
    tail: u16,
    leaks: bool,
}

impl Pool {
    /// Makes `count` buffers, a power of two, and registers them with `uring`.
    pub(super) fn new(uring: &IoUring, count: u16, buffer_bytes: usize) -> io::Result<Pool> {
        assert!(count.is_power_of_two() && count <= 1 << 15, "S8: a buffer ring has 2^n entries");
        let mut pool = Pool {
            entries: allocate(ring_layout(count)).cast(),
            memory: allocate(memory_layout(count, buffer_bytes)),
            count,
            buffer_bytes,
            tail: 0,
            leaks: false,
        };
        // SAFETY: the address is that of `count` zeroed, page-aligned entries, which stay where they are
        // until the pool is dropped: after the last operation of the group, or never (`leak`).
        unsafe {
            let address = pool.entries.as_ptr() as u64;
            uring.submitter().register_buf_ring_with_flags(address, count, GROUP, 0)?;
        }
        (0..count).for_each(|id| pool.give_back(id));
        pool.publish();
        Ok(pool)
    }

    /// The bytes that a receive put into buffer `id`.
    pub(super) fn received(&self, id: u16, len: usize) -> &[u8] {
        assert!(id < self.count && len <= self.buffer_bytes, "the kernel names a buffer that it was given");
        // SAFETY: in bounds by the assertion and initialised (allocated zeroed). A completion named this
        // buffer, so the kernel has let go of it until it is given back, which needs `&mut self`.
        unsafe {
            let start = self.memory.as_ptr().add(usize::from(id) * self.buffer_bytes);
            std::slice::from_raw_parts(start, len)
        }
    }

    /// Returns buffer `id` to the kernel with the next [`Pool::publish`].
    pub(super) fn give_back(&mut self, id: u16) {
        assert!(id < self.count, "the kernel names a buffer that it was given");
        let place = usize::from(self.tail & (self.count - 1));
        // SAFETY: both offsets are in bounds. The kernel reads entries below the published tail only, and
        // this one is at it; the tail's own field, in entry 0, is not written here.
        unsafe {
            let entry = &mut *self.entries.as_ptr().add(place);
            entry.set_addr(self.memory.as_ptr().add(usize::from(id) * self.buffer_bytes) as u64);
            entry.set_len(u32::try_from(self.buffer_bytes).expect("S8: buffers are small"));
            entry.set_bid(id);
        }
        self.tail = self.tail.wrapping_add(1);
    }

    /// Lets the kernel see the buffers given back.
    pub(super) fn publish(&self) {
        // SAFETY: the tail's field lies in the first entry, is aligned for u16, and is shared with the
        // kernel as an atomic: release, so that the entries before it are seen first.
        unsafe {
            let tail = BufRingEntry::tail(self.entries.as_ptr()).cast::<AtomicU16>();
            (*tail).store(self.tail, Ordering::Release);
        }
    }

    /// The kernel may use the buffers for as long as the process lives.
    pub(super) fn leak(&mut self) {
        self.leaks = true;
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        if self.leaks {
            return;
        }
        // SAFETY: allocated with these layouts; no operation is in flight that could take a buffer.
        unsafe {
            dealloc(self.entries.as_ptr().cast(), ring_layout(self.count));
            dealloc(self.memory.as_ptr(), memory_layout(self.count, self.buffer_bytes));
        }
    }
}

fn ring_layout(count: u16) -> Layout {
    let bytes = usize::from(count) * size_of::<BufRingEntry>();
    Layout::from_size_align(bytes, PAGE_BYTES).expect("S8: the ring is small")
}

fn memory_layout(count: u16, buffer_bytes: usize) -> Layout {
    Layout::from_size_align(usize::from(count) * buffer_bytes, PAGE_BYTES).expect("S8: the pool is small")
}

fn allocate(layout: Layout) -> NonNull<u8> {
    assert!(layout.size() > 0, "a pool has buffers");
    // SAFETY: the size is not zero.
    let memory = unsafe { alloc_zeroed(layout) };
    NonNull::new(memory).unwrap_or_else(|| handle_alloc_error(layout))
}

/// What one wire sends: at most one send is in flight, so that bytes leave in order.
#[derive(Default)]
pub(super) struct Outbox {
    flying: Vec<u8>,
    sent: usize,
    in_flight: bool,
    /// What came while a send was in flight.
    waiting: Vec<u8>,
}

impl Outbox {
    /// The kernel may be reading.
    pub(super) fn is_busy(&self) -> bool {
        self.in_flight
    }

    /// Takes `bytes` and leaves an empty vector. `true`: there is a send to submit.
    #[inline]
    pub(super) fn take(&mut self, bytes: &mut Vec<u8>) -> bool {
        if !self.in_flight {
            std::mem::swap(&mut self.flying, bytes);
            return !self.flying.is_empty();
        }
        if self.waiting.is_empty() {
            std::mem::swap(&mut self.waiting, bytes);
        } else {
            self.waiting.append(bytes);
        }
        false
    }

    /// The send of what is left of the bytes in flight. The caller submits it.
    #[inline]
    pub(super) fn entry(&mut self, socket: RawFd) -> squeue::Entry {
        assert!(!self.in_flight && self.sent < self.flying.len(), "one send in flight per wire");
        self.in_flight = true;
        let rest = &self.flying[self.sent..];
        let len = u32::try_from(rest.len()).unwrap_or(u32::MAX);
        opcode::Send::new(Fd(socket), rest.as_ptr(), len).flags(libc::MSG_NOSIGNAL).build()
    }

    /// `count` bytes have left. `true`: there is another send to submit.
    #[inline]
    pub(super) fn completed(&mut self, count: usize) -> bool {
        assert!(self.in_flight, "a send completes once");
        self.in_flight = false;
        self.sent += count;
        if self.sent < self.flying.len() {
            return true;
        }
        self.sent = 0;
        self.flying.clear();
        std::mem::swap(&mut self.flying, &mut self.waiting);
        !self.flying.is_empty()
    }
}

impl Drop for Outbox {
    fn drop(&mut self) {
        if self.in_flight {
            std::mem::forget(std::mem::take(&mut self.flying));
        }
    }
}
