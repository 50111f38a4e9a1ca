//! A growing array that never moves: address space reserved once, memory touched ahead of use.
//!
//! Growing a `Vec` of 10 M entries copies 160 MB in one step; a reserved mapping copies nothing. It asks for huge
//! pages (1.3–1.9× on random access from 10 M leases up), whose first touch costs up to 9 ms on some machines. So a
//! region says which memory it will want ([`Region::wanted`]), and whoever has a thread to spare touches it.
//!
//! The safe twin below (a `Vec`, same interface) specifies it: it stands in with feature `safe-region`, and a test
//! drives the two side by side, under Miri as well. Invariant: **S8** bounded (an array never outgrows its reservation).

pub(crate) use backing::Region;

/// Memory that a shard is about to use and that nobody has touched yet.
///
/// The first touch of a huge page takes the system milliseconds; [`populate`](MemoryAhead::populate) pays that on any
/// thread, so that the shard's own does not. A shard whose wish comes late, or never, pays it itself.
#[derive(Debug)]
pub struct MemoryAhead {
    start: usize,
    bytes: usize,
}

impl MemoryAhead {
    /// Touches it. Where the system refuses, nothing happens.
    pub fn populate(self) {
        #[cfg(not(miri))]
        // SAFETY: populating changes no contents, whatever the range holds by now; a range that is mapped no longer is
        // refused, and one that was mapped again is touched for nothing.
        unsafe {
            let start = std::ptr::without_provenance_mut::<libc::c_void>(self.start);
            libc::madvise(start, self.bytes, libc::MADV_POPULATE_WRITE);
        }
    }
}

/// Marks types that may live in a region: plain words, no padding, no drop, valid when all bytes are zero.
///
/// # Safety
/// The all-zero bit pattern must be a valid value.
pub(crate) unsafe trait Plain: Copy + 'static {
    /// The value of all-zero bytes.
    const ZERO: Self;
}

// SAFETY: zero is a valid u32.
unsafe impl Plain for u32 {
    const ZERO: u32 = 0;
}

// SAFETY: zero is a valid u64.
unsafe impl Plain for u64 {
    const ZERO: u64 = 0;
}

/// Asks the CPU to fetch the cache line of an element, if there is such an element; a hint without effect on the program.
#[inline(always)]
pub(crate) fn prefetch_line<T>(elements: &[T], index: usize) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    // SAFETY: a prefetch has no architectural effect, whatever the address: it reads nothing and cannot fault.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(elements.as_ptr().wrapping_add(index).cast());
    }
    #[cfg(not(all(target_arch = "x86_64", not(miri))))]
    let _ = elements.get(index);
}

#[cfg(not(feature = "safe-region"))]
mod backing {
    use super::{MemoryAhead, Plain};
    use std::ops::{Deref, DerefMut};
    use std::ptr::NonNull;

    /// One huge page: the unit of population, and the smallest reservation worth huge pages is two of them.
    const HUGE_PAGE_BYTES: usize = 2 << 20;
    /// Huge pages that are asked for ahead of use: at least these, for a small array.
    const PAGES_AHEAD_MIN: usize = 2;
    /// And at most these, for one that an eighth of is more: some 100 ms of grants at full speed.
    const PAGES_AHEAD_MAX: usize = 4;

    /// A reserved mapping of `capacity` elements, the first `len` of them initialised.
    pub(crate) struct Region<T: Plain> {
        base: NonNull<T>,
        len: usize,
        capacity: usize,
        mapped: NonNull<libc::c_void>,
        mapped_bytes: usize,
        /// Everything below was asked for, or needs no asking.
        asked_bytes: usize,
    }

    // SAFETY: the mapping is private, anonymous and owned by this value alone; T is plain data.
    unsafe impl<T: Plain + Send> Send for Region<T> {}

    impl<T: Plain> Region<T> {
        /// Reserves address space for `capacity` elements; costs no memory yet.
        ///
        /// # Panics
        /// When the system refuses the reservation.
        pub(crate) fn reserve(capacity: usize) -> Region<T> {
            let bytes = (capacity.max(1) * size_of::<T>()).next_multiple_of(4096);
            let huge = bytes >= 2 * HUGE_PAGE_BYTES;
            let mapped_bytes = if huge { bytes + HUGE_PAGE_BYTES } else { bytes };
            let (protection, flags) = (
                libc::PROT_READ | libc::PROT_WRITE,
                // Miri reserves nothing anyway, and does not know the flag.
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | if cfg!(miri) { 0 } else { libc::MAP_NORESERVE },
            );
            // SAFETY: a fresh anonymous private mapping at an address of the kernel's choice touches nothing else.
            let mapped = unsafe { libc::mmap(std::ptr::null_mut(), mapped_bytes, protection, flags, -1, 0) };
            assert!(
                mapped != libc::MAP_FAILED,
                "cannot reserve {mapped_bytes} bytes of address space: {}",
                std::io::Error::last_os_error()
            );
            let mapped = NonNull::new(mapped).expect("mmap returned neither an address nor an error");
            let skip = if huge { mapped.as_ptr().addr().wrapping_neg() % HUGE_PAGE_BYTES } else { 0 };
            // SAFETY: skip < HUGE_PAGE_BYTES, which the mapping has to spare; page alignment suffices for any T here.
            let base = unsafe { mapped.byte_add(skip) }.cast::<T>();
            if huge && !cfg!(miri) {
                // SAFETY: the range lies within the mapping made above. Advice may be refused without harm.
                unsafe { libc::madvise(base.as_ptr().cast(), bytes, libc::MADV_HUGEPAGE) };
            }
            // Small pages are cheap to touch when they are needed.
            let asked_bytes = if huge { 0 } else { bytes };
            Region { base, len: 0, capacity, mapped, mapped_bytes, asked_bytes }
        }

        /// Elements that fit.
        pub(crate) fn capacity(&self) -> usize {
            self.capacity
        }

        /// Appends one element.
        ///
        /// # Panics
        /// When the reservation is full (S8): callers check `capacity` first.
        #[inline]
        pub(crate) fn push(&mut self, value: T) {
            assert!(self.len < self.capacity, "S8 bounded: region of {} elements is full", self.capacity);
            // SAFETY: len < capacity, so the place lies within the mapping, aligned, and not yet in use.
            unsafe { self.base.add(self.len).write(value) };
            self.len += 1;
        }

        /// Lengthens the array with zeroed or formerly used elements, without touching their memory.
        pub(crate) fn grow_untouched(&mut self, len: usize) {
            assert!(len <= self.capacity, "S8 bounded: region of {} elements is full", self.capacity);
            self.len = self.len.max(len);
        }

        /// Forgets all elements; their memory stays.
        pub(crate) fn clear(&mut self) {
            self.len = 0;
        }

        /// Bytes in use.
        pub(crate) fn used_bytes(&self) -> usize {
            self.len * size_of::<T>()
        }

        /// The next huge page beyond the used part that should be touched ahead of use, each once.
        #[inline]
        pub(crate) fn wanted(&mut self) -> Option<MemoryAhead> {
            let used = self.used_bytes();
            let ahead =
                (used / 8).clamp(PAGES_AHEAD_MIN * HUGE_PAGE_BYTES, PAGES_AHEAD_MAX * HUGE_PAGE_BYTES);
            if self.asked_bytes >= used + ahead {
                return None;
            }
            self.ask(used)
        }

        fn ask(&mut self, used: usize) -> Option<MemoryAhead> {
            let end = (self.capacity * size_of::<T>()).next_multiple_of(4096);
            // What is in use has been touched.
            let from = self.asked_bytes.max(used / HUGE_PAGE_BYTES * HUGE_PAGE_BYTES);
            if from >= end {
                return None;
            }
            let bytes = (end - from).min(HUGE_PAGE_BYTES);
            self.asked_bytes = from + bytes;
            Some(MemoryAhead { start: self.base.as_ptr().addr() + from, bytes })
        }
    }

    impl<T: Plain> Deref for Region<T> {
        type Target = [T];

        #[inline(always)]
        fn deref(&self) -> &[T] {
            // SAFETY: the first len elements were written or are zero, which Plain allows; the mapping outlives self.
            unsafe { std::slice::from_raw_parts(self.base.as_ptr(), self.len) }
        }
    }

    impl<T: Plain> DerefMut for Region<T> {
        #[inline(always)]
        fn deref_mut(&mut self) -> &mut [T] {
            // SAFETY: as above, and &mut self is the only way to these elements.
            unsafe { std::slice::from_raw_parts_mut(self.base.as_ptr(), self.len) }
        }
    }

    impl<T: Plain> Drop for Region<T> {
        fn drop(&mut self) {
            // SAFETY: unmaps exactly the mapping made in `reserve`; no reference into it outlives self.
            unsafe { libc::munmap(self.mapped.as_ptr(), self.mapped_bytes) };
        }
    }
}

#[cfg(feature = "safe-region")]
mod backing {
    pub(crate) use super::twin::Region;
}

/// The safe twin: the same interface over a `Vec`.
#[cfg(any(test, feature = "safe-region"))]
mod twin {
    use super::{MemoryAhead, Plain};
    use std::ops::{Deref, DerefMut};

    pub(crate) struct Region<T: Plain> {
        elements: Vec<T>,
        capacity: usize,
    }

    #[cfg_attr(not(feature = "safe-region"), allow(dead_code))]
    impl<T: Plain> Region<T> {
        pub(crate) fn reserve(capacity: usize) -> Region<T> {
            Region { elements: Vec::new(), capacity }
        }

        pub(crate) fn capacity(&self) -> usize {
            self.capacity
        }

        pub(crate) fn push(&mut self, value: T) {
            assert!(
                self.elements.len() < self.capacity,
                "S8 bounded: region of {} elements is full",
                self.capacity
            );
            self.elements.push(value);
        }

        pub(crate) fn grow_untouched(&mut self, len: usize) {
            assert!(len <= self.capacity, "S8 bounded: region of {} elements is full", self.capacity);
            if len > self.elements.len() {
                self.elements.resize(len, T::ZERO);
            }
        }

        pub(crate) fn clear(&mut self) {
            self.elements.clear();
        }

        pub(crate) fn used_bytes(&self) -> usize {
            self.elements.len() * size_of::<T>()
        }

        pub(crate) fn wanted(&mut self) -> Option<MemoryAhead> {
            None
        }
    }

    impl<T: Plain> Deref for Region<T> {
        type Target = [T];

        fn deref(&self) -> &[T] {
            &self.elements
        }
    }

    impl<T: Plain> DerefMut for Region<T> {
        fn deref_mut(&mut self) -> &mut [T] {
            &mut self.elements
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{MemoryAhead, backing, twin};

    /// Elements of a region with huge pages; Miri is too slow for one.
    const LARGE: usize = if cfg!(miri) { 3_000 } else { 1 << 20 };

    #[test]
    fn the_mapping_and_its_twin_agree() {
        for capacity in [1usize, 100, LARGE] {
            let mut mapped = backing::Region::<u64>::reserve(capacity);
            let mut plain = twin::Region::<u64>::reserve(capacity);
            let mut x = 7u64;
            for step in 0..if cfg!(miri) { 2_000usize } else { 20_000 } {
                x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                match x >> 60 {
                    0 if step % 97 == 0 => {
                        mapped.clear();
                        plain.clear();
                    }
                    1 => mapped.wanted().into_iter().for_each(MemoryAhead::populate),
                    2 if !plain.is_empty() => {
                        let index = (x >> 8) as usize % plain.len();
                        mapped[index] = x;
                        plain[index] = x;
                    }
                    _ if plain.len() < capacity => {
                        mapped.push(x);
                        plain.push(x);
                    }
                    _ => {}
                }
                assert_eq!(mapped.len(), plain.len());
                assert_eq!(mapped.last(), plain.last());
                assert_eq!(mapped.used_bytes(), plain.used_bytes());
            }
            assert_eq!(&mapped[..], &plain[..]);
            assert_eq!(mapped.capacity(), plain.capacity());
        }
    }

    #[test]
    fn untouched_growth_reads_zero_in_both() {
        let mut mapped = backing::Region::<u64>::reserve(LARGE);
        let mut plain = twin::Region::<u64>::reserve(LARGE);
        mapped.grow_untouched(LARGE / 3 * 2);
        plain.grow_untouched(LARGE / 3 * 2);
        assert!(mapped.iter().eq(plain.iter()));
        let mut pages = 0;
        while let Some(ahead) = mapped.wanted() {
            ahead.populate();
            pages += 1;
        }
        // With the twin for a backing, or without huge pages, there is nothing to ask for.
        let wanted = if cfg!(any(miri, feature = "safe-region")) { 0 } else { 2 };
        assert_eq!(pages, wanted, "each page is asked for once");
        assert!(mapped.iter().all(|&word| word == 0));
    }

    #[test]
    #[should_panic(expected = "S8 bounded")]
    fn a_full_region_refuses() {
        let mut region = backing::Region::<u64>::reserve(2);
        (0..3).for_each(|i| region.push(i));
    }
}
