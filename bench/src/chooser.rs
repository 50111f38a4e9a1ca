//! IDs that a client chooses: computable, all different, each for the shard that is asked.
//!
//! The n-th candidate is n times an odd number, which never repeats; a lane takes every `lanes`-th one, so
//! that lanes do not meet, and a link the next one of its shard (S1). They look random, as hashes of names
//! would.

use tenure_protocol::{LeaseId, shard_of};

/// Fibonacci hashing's multiplier: odd, so that multiplying is a bijection.
const SPREAD: u64 = 0x9E37_79B9_7F4A_7C15;

/// The IDs of one lane.
#[derive(Clone, Debug)]
pub(crate) struct Chooser {
    /// By shard: the candidate that was looked at last.
    last: Vec<u64>,
    lanes: u64,
}

impl Chooser {
    /// `seed` keeps runs against one server apart.
    pub(crate) fn new(seed: u64, lane: usize, lanes: usize, shard_count: u16) -> Chooser {
        let first = (seed << 40).wrapping_add(1 + lane as u64);
        Chooser { last: vec![first; usize::from(shard_count)], lanes: lanes as u64 }
    }

    /// The next ID of `shard`.
    #[inline]
    pub(crate) fn next(&mut self, shard: u16) -> LeaseId {
        let shard_count = self.last.len() as u16;
        let last = &mut self.last[usize::from(shard)];
        loop {
            *last = last.wrapping_add(self.lanes);
            let id = LeaseId(last.wrapping_mul(SPREAD));
            if id != LeaseId::NONE && shard_of(id, shard_count) == shard {
                return id;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s1_ids_differ_between_and_within_lanes_and_belong_to_their_shard() {
        let mut seen = std::collections::HashSet::new();
        for lane in 0..2 {
            let mut chooser = Chooser::new(1, lane, 2, 3);
            for turn in 0..30_000u32 {
                let shard = (turn % 3) as u16;
                let id = chooser.next(shard);
                assert_eq!(shard_of(id, 3), shard);
                assert!(seen.insert(id.0), "{id:?} came twice");
            }
        }
    }
}
