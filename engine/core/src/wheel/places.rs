//! A set of the wheel's places, as a bitmap a level.
//!
//! Finding the next occupied place looks at four words a level, whatever the distance.

use super::{LEVELS, SLOTS};

const WORD_BITS: u32 = u64::BITS;
const WORDS: usize = (SLOTS / WORD_BITS) as usize;

const _: () = assert!(SLOTS.is_multiple_of(WORD_BITS));

/// Places, each in or out.
#[derive(Clone, Copy, Default)]
pub(super) struct Places([[u64; WORDS]; LEVELS as usize]);

impl Places {
    #[inline(always)]
    fn word(&self, place: u32) -> u64 {
        self.0[(place / SLOTS) as usize][(place % SLOTS / WORD_BITS) as usize]
    }

    #[inline(always)]
    fn word_mut(&mut self, place: u32) -> &mut u64 {
        &mut self.0[(place / SLOTS) as usize][(place % SLOTS / WORD_BITS) as usize]
    }

    #[inline(always)]
    pub(super) fn contains(&self, place: u32) -> bool {
        self.word(place) >> (place % WORD_BITS) & 1 == 1
    }

    #[inline(always)]
    pub(super) fn insert(&mut self, place: u32) {
        *self.word_mut(place) |= 1 << (place % WORD_BITS);
    }

    #[inline(always)]
    pub(super) fn remove(&mut self, place: u32) {
        *self.word_mut(place) &= !(1 << (place % WORD_BITS));
    }

    /// The first slot of a level at or after `from`.
    #[inline]
    pub(super) fn first_at(&self, level: u32, from: u32) -> Option<u32> {
        let words = &self.0[level as usize];
        let start = (from / WORD_BITS) as usize;
        let mut word = words[start] & u64::MAX << (from % WORD_BITS);
        let mut index = start;
        while word == 0 {
            index += 1;
            word = *words.get(index)?;
        }
        Some(index as u32 * WORD_BITS + word.trailing_zeros())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_slot_is_found_from_anywhere() {
        for slot in 0..SLOTS {
            for level in 0..LEVELS {
                let mut places = Places::default();
                places.insert(level * SLOTS + slot);
                for from in 0..SLOTS {
                    assert_eq!(
                        places.first_at(level, from),
                        (from <= slot).then_some(slot),
                        "{slot} from {from}"
                    );
                }
                assert!(places.contains(level * SLOTS + slot));
                places.insert(level * SLOTS + (slot + 1) % SLOTS);
                places.remove(level * SLOTS + slot);
                assert_eq!(places.first_at(level, 0), Some((slot + 1) % SLOTS));
                assert!(!places.contains(level * SLOTS + slot));
                assert_eq!(places.first_at((level + 1) % LEVELS, 0), None);
            }
        }
    }
}
