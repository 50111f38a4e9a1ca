//! What the system did to this thread while it worked: took the CPU away, or had to find memory for it.

use std::fmt;

/// Counts since the thread began, or of a span of its life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Disturbances {
    /// The CPU was given to another thread although this one was not done.
    preemptions: u64,
    /// Pages that had to be found on the first touch, or fetched from a disk.
    page_faults: u64,
}

impl Disturbances {
    /// Those of the calling thread so far.
    #[allow(unsafe_code)]
    pub(super) fn so_far() -> Disturbances {
        // SAFETY: plain numbers, for which zero is valid.
        let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
        // SAFETY: writes to the structure that it is given and keeps no pointer to it.
        let result = unsafe { libc::getrusage(libc::RUSAGE_THREAD, &raw mut usage) };
        debug_assert_eq!(result, 0, "a thread may ask for its own usage");
        let count = |number: libc::c_long| u64::try_from(number).unwrap_or(0);
        Disturbances {
            preemptions: count(usage.ru_nivcsw),
            page_faults: count(usage.ru_minflt) + count(usage.ru_majflt),
        }
    }

    /// What has come on top of `before`; nothing when that was of another thread, on which a core may have been made.
    pub(super) fn since(self, before: Disturbances) -> Disturbances {
        Disturbances {
            preemptions: self.preemptions.saturating_sub(before.preemptions),
            page_faults: self.page_faults.saturating_sub(before.page_faults),
        }
    }
}

impl fmt::Display for Disturbances {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "preempted {} times, {} page faults", self.preemptions, self.page_faults)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fresh_memory_shows_as_page_faults() {
        let before = Disturbances::so_far();
        // So much is never taken from what was in use before.
        let mut memory = vec![0_u8; 64 << 20];
        (0..16).for_each(|page| memory[page * 4_096] = 1);
        assert_eq!(std::hint::black_box(&memory)[0], 1);
        let told = Disturbances::so_far().since(before);
        assert!(told.page_faults > 0, "{told:?}");
        assert!(told.to_string().ends_with(" page faults"), "{told}");
    }
}
