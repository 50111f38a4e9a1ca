//! The physical floor: one random cache line read and written per operation, and nothing else.
//!
//! The footprint is that of Tenure's table, 16 bytes a lease. *plain* leaves it to the CPU to look ahead; *prefetched* asks
//! for the line 32 operations before it is needed; *chase* takes each place from the line before, as a lookup does that
//! nobody could foresee. On 4 KiB pages and on huge pages.

use criterion::measurement::Measurement;
use criterion::{BenchmarkGroup, BenchmarkId, Throughput};
use memmap2::{Advice, MmapMut};

const LINE_BYTES: usize = 64;
const LEASE_BYTES: usize = 16;
/// As the shard's batches.
const AHEAD: u64 = 32;
const TOUCHES: u64 = 4_096;
const HUGE_PAGE_BYTES: usize = 2 << 20;

struct Memory {
    map: MmapMut,
    lines: u64,
    touched: u64,
    at: u64,
}

impl Memory {
    fn new(leases: usize, huge: bool) -> Memory {
        let bytes = (leases * LEASE_BYTES).next_multiple_of(HUGE_PAGE_BYTES);
        let mut map = MmapMut::map_anon(bytes).expect("memory");
        map.advise(if huge { Advice::HugePage } else { Advice::NoHugePage })
            .expect("advice for fresh memory");
        map.fill(1);
        Memory { map, lines: (leases * LEASE_BYTES / LINE_BYTES) as u64, touched: 0, at: 0 }
    }

    /// Offset of a random line; the multiplications of different touches overlap.
    fn offset(&self, touch: u64) -> usize {
        let x = (touch ^ (touch >> 33)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let x = (x ^ (x >> 29)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((u128::from(x) * u128::from(self.lines)) >> 64) as usize * LINE_BYTES
    }

    fn touch(&mut self, offset: usize) -> u64 {
        let word = self.map[offset..].first_chunk_mut::<8>().expect("within the memory");
        let value = u64::from_le_bytes(*word).wrapping_add(1);
        *word = value.to_le_bytes();
        value
    }

    fn plain(&mut self) {
        for touch in self.touched..self.touched + TOUCHES {
            self.touch(self.offset(touch));
        }
        self.touched += TOUCHES;
    }

    fn prefetched(&mut self) {
        for touch in self.touched..self.touched + TOUCHES {
            prefetch(&self.map[self.offset(touch + AHEAD)]);
            self.touch(self.offset(touch));
        }
        self.touched += TOUCHES;
    }

    fn chase(&mut self) {
        for touch in self.touched..self.touched + TOUCHES {
            let value = self.touch(self.offset(self.at));
            self.at = value.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ touch;
        }
        self.touched += TOUCHES;
    }
}

fn prefetch(byte: &u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch has no architectural effect, and the address is that of a live reference.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(byte).cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = byte;
}

/// Adds the floor's rows to a group whose other rows are of so many leases.
pub(crate) fn rows<M: Measurement>(group: &mut BenchmarkGroup<'_, M>, leases: usize) {
    type Way = (&'static str, fn(&mut Memory));
    const WAYS: [Way; 3] =
        [("plain", Memory::plain), ("prefetched", Memory::prefetched), ("chase", Memory::chase)];
    group.throughput(Throughput::Elements(TOUCHES));
    for (pages, huge) in [("4 KiB pages", false), ("huge pages", true)] {
        let mut memory = Memory::new(leases, huge);
        for (way, touch) in WAYS {
            let row = BenchmarkId::new(format!("floor: one line, {pages}, {way}"), leases);
            group.bench_function(row, |bencher| bencher.iter(|| touch(&mut memory)));
        }
    }
}
