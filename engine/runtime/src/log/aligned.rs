//! Byte buffers that start at a 4096-byte boundary, as O_DIRECT asks, and a small pool of them.
//!
//! An ordinary `Vec` with a block to spare, used from its first aligned byte: no unsafe, and the
//! heap block never moves because the `Vec` never grows. New memory is touched once, then reused.

use super::limits::{BATCH_BYTES_MAX, BLOCK_BYTES, IDLE_BUFFERS_MAX};

/// A fixed-size, block-aligned buffer.
pub(super) struct AlignedBuffer {
    storage: Vec<u8>,
    start: usize,
    capacity: usize,
}

impl AlignedBuffer {
    /// A zeroed buffer of `capacity` bytes, a multiple of the block size.
    pub(super) fn zeroed(capacity: usize) -> Self {
        assert!(capacity.is_multiple_of(BLOCK_BYTES), "aligned buffers hold whole blocks");
        let storage = vec![0; capacity + BLOCK_BYTES];
        let start = storage.as_ptr().align_offset(BLOCK_BYTES);
        assert!(start < BLOCK_BYTES, "a byte pointer can be aligned");
        AlignedBuffer { storage, start, capacity }
    }

    pub(super) fn capacity(&self) -> usize {
        self.capacity
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.storage[self.start..self.start + self.capacity]
    }

    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.storage[self.start..self.start + self.capacity]
    }
}

/// Batch buffers waiting for reuse, so that sealing touches no fresh memory in the steady state.
#[derive(Default)]
pub(super) struct BufferPool {
    idle: Vec<AlignedBuffer>,
}

impl BufferPool {
    /// A buffer of at least `length` bytes, contents undefined. Sizes are powers of two, so that
    /// buffers fit one another's batches.
    pub(super) fn take(&mut self, length: usize) -> AlignedBuffer {
        assert!(length <= BATCH_BYTES_MAX, "S8: batch length");
        match self.idle.iter().rposition(|buffer| buffer.capacity() >= length) {
            Some(index) => self.idle.swap_remove(index),
            None => AlignedBuffer::zeroed(length.next_power_of_two().max(16 * BLOCK_BYTES)),
        }
    }

    /// Gives a buffer back; beyond the bound the smallest goes.
    pub(super) fn give(&mut self, buffer: AlignedBuffer) {
        self.idle.push(buffer);
        if self.idle.len() > IDLE_BUFFERS_MAX {
            let smallest = (0..self.idle.len()).min_by_key(|&index| self.idle[index].capacity());
            self.idle.swap_remove(smallest.expect("the pool is not empty"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_aligned_and_reused() {
        let mut pool = BufferPool::default();
        let buffer = pool.take(5000);
        assert_eq!(buffer.bytes().as_ptr().addr() % BLOCK_BYTES, 0);
        assert_eq!(buffer.capacity(), 64 * 1024);
        let address = buffer.bytes().as_ptr();
        pool.give(buffer);
        assert_eq!(pool.take(4096).bytes().as_ptr(), address, "an idle buffer is taken again");
        for _ in 0..3 * IDLE_BUFFERS_MAX {
            let fresh = AlignedBuffer::zeroed(BLOCK_BYTES);
            pool.give(fresh);
        }
        assert_eq!(pool.idle.len(), IDLE_BUFFERS_MAX);
    }
}
