//! The floor of a renewal: touching a random record of 16 bytes, fetched ahead of time.
//!
//! Read, change, write, as a renewal does with its deadline, on huge pages where the system gives them, 32
//! records ahead: as many lines in flight as a core has buffers for. There is no ID to check, no TTL, no
//! wheel and no refusal; nothing that keeps leases in memory can be faster than this.

use std::time::Duration;

use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munmap};

use crate::ring::thread_cpu_ns;

/// How far ahead a record is fetched.
const AHEAD: usize = 32;

/// One record.
#[repr(C, align(16))]
#[derive(Clone, Copy)]
struct Record([u32; 4]);

/// CPU time per touch of one of `count` records, ns.
///
/// # Errors
/// When there is not enough memory.
pub(crate) fn touch(count: usize, span: Duration) -> anyhow::Result<f64> {
    let mut records = Records::new(count)?;
    let records = records.as_mut();
    let (mut touches, mut spent_ns) = (0u64, 0);
    let mut random = 0x2545_F491_4F6C_DD1Du64;
    let mut places = vec![0usize; 4_096 + AHEAD];
    // One round touches fresh pages; it is not counted.
    records.iter_mut().for_each(|record| record.0[0] = 1);
    while spent_ns < span.as_nanos() as u64 {
        for place in &mut places {
            random = random.wrapping_add(0x9E37_79B9_7F4A_7C15);
            let mixed = (random ^ random >> 32).wrapping_mul(0xD6E8_FEB8_6659_FD93);
            *place = ((u128::from(mixed ^ mixed >> 32) * count as u128) >> 64) as usize;
        }
        let began_ns = thread_cpu_ns();
        places[..AHEAD].iter().for_each(|&place| prefetch(&records[place]));
        for index in 0..places.len() - AHEAD {
            prefetch(&records[places[index + AHEAD]]);
            let record = &mut records[places[index]];
            record.0[0] = record.0[0].wrapping_add(record.0[2] | 1);
        }
        spent_ns += thread_cpu_ns() - began_ns;
        touches += (places.len() - AHEAD) as u64;
    }
    std::hint::black_box(&records[0].0);
    Ok(spent_ns as f64 / touches as f64)
}

#[inline(always)]
fn prefetch(record: &Record) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a hint; the address is that of a reference, and prefetching reads nothing.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(record).cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    std::hint::black_box(record);
}

/// Records on huge pages.
struct Records {
    memory: *mut Record,
    count: usize,
}

impl Records {
    fn new(count: usize) -> anyhow::Result<Records> {
        assert!(count > 0, "there is something to touch");
        let bytes = count * size_of::<Record>();
        // SAFETY: a fresh anonymous mapping; nothing else is there.
        let memory = unsafe {
            let memory = mmap_anonymous(
                std::ptr::null_mut(),
                bytes,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE,
            )?;
            // Where there are none, small pages do, and the floor is that of this machine.
            let _ = madvise(memory, bytes, Advice::LinuxHugepage);
            memory
        };
        Ok(Records { memory: memory.cast(), count })
    }

    fn as_mut(&mut self) -> &mut [Record] {
        // SAFETY: the mapping has room for `count` records, is zeroed, aligned to a page, and borrowed
        // through `&mut self`.
        unsafe { std::slice::from_raw_parts_mut(self.memory, self.count) }
    }
}

impl Drop for Records {
    fn drop(&mut self) {
        // SAFETY: mapped with this length; no borrow outlives `self`.
        let _ = unsafe { munmap(self.memory.cast(), self.count * size_of::<Record>()) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_touch_takes_some_time_and_less_than_a_syscall() {
        let ns = touch(10_000, Duration::from_millis(20)).unwrap();
        assert!(ns > 0.0 && ns < 10_000.0, "{ns}");
    }
}
