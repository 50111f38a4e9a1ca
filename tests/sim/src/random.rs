//! Randomness that depends on the seed alone, on any machine and with any version of any library.
//!
//! SplitMix64 (Steele, Lea and Flood 2014). One stream per purpose, so that a draw more of one kind does
//! not shift all others.

/// A stream of random numbers.
#[derive(Clone, Debug)]
pub struct Random {
    state: u64,
}

impl Random {
    /// The stream of this seed for this purpose.
    #[must_use]
    pub fn new(seed: u64, purpose: u64) -> Random {
        let mut random = Random { state: seed ^ purpose.wrapping_mul(0xD6E8_FEB8_6659_FD93) };
        random.next();
        random
    }

    /// The next number.
    #[allow(clippy::should_implement_trait, reason = "an endless stream is no iterator of use here")]
    pub fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`; 0 when the bound is 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(bound)) >> 64) as u64
    }

    /// An index below `len`; 0 when it is 0.
    pub fn index(&mut self, len: usize) -> usize {
        self.below(len as u64) as usize
    }

    /// A number from `low` to `high`, both included.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below((high - low).saturating_add(1))
    }

    /// True this often in a thousand.
    pub fn permille(&mut self, often: u64) -> bool {
        self.below(1_000) < often
    }

    /// One of these.
    pub fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.index(of.len())]
    }
}
