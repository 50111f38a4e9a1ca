//! Rule 1: from a lease id to its shard, and for ids that the server chose, to its slot as well.
//!
//! A bijection mixes the low 63 bits of an id; the top bits of the mixed word choose the shard. Ids that clients
//! choose spread over the shards however they were chosen; ids that the server chooses are made backwards,
//! from a generation and a slot, so that finding such a lease takes one multiply chain and no table:
//!
//! ```text
//! mixed word x, 63 bits:  | generation: 35 | slot: 28 |        id = unmix(x), top bit 0
//! shard                =  (x >> 31) * shard_count >> 32        (x >> 31 = generation >> 3: 32 bits)
//! ```
//!
//! A shard therefore owns a contiguous range of generations ([`generation_range`]). The wire protocol has a copy
//! of [`mix`] and [`shard_of`]; test vectors keep the two equal.
//!
//! Invariants: **S1** one-shard (a pure function of id and shard count). Does not know which leases exist.

use crate::id::{LeaseId, ShardIndex};
use std::ops::Range;

/// Bits of a mixed word: the sign bit of etcd's reading stays outside.
pub(crate) const MIXED_BITS: u32 = 63;
/// Bits of the slot in a mixed word.
pub(crate) const SLOT_BITS: u32 = 28;

const MASK: u64 = (1 << MIXED_BITS) - 1;
const SLOT_MASK: u64 = (1 << SLOT_BITS) - 1;
const MULTIPLIER_1: u64 = 0x6A5D_39EA_E126_57A9;
const MULTIPLIER_2: u64 = 0x5851_F42D_4C95_7F2D;
const INVERSE_1: u64 = inverse(MULTIPLIER_1);
const INVERSE_2: u64 = inverse(MULTIPLIER_2);

const _: () = assert!(MULTIPLIER_1 & 1 == 1 && MULTIPLIER_2 & 1 == 1, "only odd multipliers are invertible");
const _: () = assert!(MULTIPLIER_1.wrapping_mul(INVERSE_1) & MASK == 1);
const _: () = assert!(MULTIPLIER_2.wrapping_mul(INVERSE_2) & MASK == 1);

/// Inverse of an odd number modulo 2^64 (and so modulo 2^63), by Newton's iteration: each step doubles the
/// number of correct low bits, starting from 3.
const fn inverse(odd: u64) -> u64 {
    let mut x = odd;
    let mut round = 0;
    while round < 5 {
        x = x.wrapping_mul(2u64.wrapping_sub(odd.wrapping_mul(x)));
        round += 1;
    }
    x
}

/// Mixes the low 63 bits of an id; the top bit is ignored.
#[inline(always)]
pub const fn mix(id: u64) -> u64 {
    let mut x = id & MASK;
    x ^= x >> 32;
    x = x.wrapping_mul(MULTIPLIER_1) & MASK;
    x ^= x >> 29;
    x = x.wrapping_mul(MULTIPLIER_2) & MASK;
    x ^ (x >> 32)
}

/// Exact inverse of [`mix`] on 63-bit words.
#[inline(always)]
pub const fn unmix(mixed: u64) -> u64 {
    let mut x = mixed & MASK;
    x ^= x >> 32;
    x = x.wrapping_mul(INVERSE_2) & MASK;
    x = x ^ (x >> 29) ^ (x >> 58);
    x = x.wrapping_mul(INVERSE_1) & MASK;
    x ^ (x >> 32)
}

/// The shard that owns an id (S1), for an engine of `shard_count` shards.
#[inline(always)]
pub const fn shard_of(id: LeaseId, shard_count: u16) -> ShardIndex {
    ShardIndex((((mix(id.0) >> 31) * shard_count as u64) >> 32) as u16)
}

/// Generations (absolute, 35 bits) whose ids belong to `shard`.
///
/// `ceil(shard * 2^32 / count) * 8`, because the shard is chosen by the generation's top 32 bits.
pub const fn generation_range(shard: ShardIndex, shard_count: u16) -> Range<u64> {
    assert!(shard.0 < shard_count, "S1 one-shard: shard index beyond the shard count");
    let count = shard_count as u64;
    let start = ((shard.0 as u64) << 32).div_ceil(count) << 3;
    let end = ((shard.0 as u64 + 1) << 32).div_ceil(count) << 3;
    start..end
}

/// Where a shard's generations go on when the number of shards changes: above every generation in its range that was
/// ever issued. `issued_next` are the [`crate::Shard::generation_next`] of all shards of all former numbers of shards.
pub fn generation_base_after(shard: ShardIndex, shard_count: u16, issued_next: &[u64]) -> u64 {
    let range = generation_range(shard, shard_count);
    issued_next.iter().copied().filter(|next| range.contains(next)).fold(range.start, u64::max)
}

/// The id of a server-assigned lease, from its absolute generation and its slot.
#[inline(always)]
pub(crate) const fn direct_id(generation: u64, slot: u32) -> LeaseId {
    LeaseId(unmix((generation << SLOT_BITS) | slot as u64))
}

/// Generation and slot that an id would have if the server had assigned it; the caller checks the top bit and
/// whether such a lease exists.
#[inline(always)]
pub(crate) const fn decode_direct(id: LeaseId) -> (u64, u32) {
    let x = mix(id.0);
    (x >> SLOT_BITS, (x & SLOT_MASK) as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples() -> impl Iterator<Item = u64> {
        let edges = [0, 1, 2, MASK, MASK - 1, 1 << 62, 0xdead_beef, 0x694d_8141_7acd_4754 & MASK];
        let counted = (0..10_000u64).map(|i| i.wrapping_mul(0x9E37_79B9_7F4A_7C15) & MASK);
        edges.into_iter().chain(counted).chain((0..63).map(|bit| 1 << bit))
    }

    #[test]
    fn unmix_inverts_mix() {
        for x in samples() {
            assert_eq!(unmix(mix(x)), x, "{x:016x}");
            assert_eq!(mix(unmix(x)), x, "{x:016x}");
            assert!(mix(x) <= MASK && unmix(x) <= MASK);
        }
    }

    #[test]
    fn the_top_bit_does_not_choose_the_shard() {
        for x in samples() {
            assert_eq!(shard_of(LeaseId(x), 7), shard_of(LeaseId(x | 1 << 63), 7));
        }
    }

    #[test]
    fn generation_ranges_tile_and_agree_with_shard_of() {
        for count in [1u16, 2, 3, 5, 7, 16, 255, 256, 1000] {
            let mut next = 0;
            for shard in 0..count {
                let range = generation_range(ShardIndex(shard), count);
                assert_eq!(range.start, next, "ranges tile");
                next = range.end;
                for generation in [range.start, range.start + 1, range.end - 1] {
                    for slot in [0, 1, (1 << SLOT_BITS) - 1] {
                        let id = direct_id(generation, slot);
                        assert_eq!(shard_of(id, count), ShardIndex(shard), "{generation} of {count}");
                        assert_eq!(decode_direct(id), (generation, slot));
                        assert!(id.0 >> 63 == 0);
                    }
                }
            }
            assert_eq!(next, 1 << (MIXED_BITS - SLOT_BITS));
        }
    }

    #[test]
    fn chosen_ids_spread_over_shards() {
        for stride in [1u64, 1 << 20, 1 << 40, 0x1_0000_0001] {
            let mut counts = [0u32; 16];
            for i in 0..16_000u64 {
                counts[shard_of(LeaseId(i.wrapping_mul(stride)), 16).0 as usize] += 1;
            }
            let worst = counts.iter().max().unwrap();
            assert!(*worst < 1_300, "stride {stride:x}: {counts:?}");
        }
    }

    /// The vectors that the wire protocol's copy of the rule is held to as well.
    #[test]
    fn vectors() {
        let text = include_str!("../../../tests/vectors/id-rule.txt");
        let mut count = 0;
        for line in text.lines().filter(|line| !line.starts_with('#') && !line.trim().is_empty()) {
            let words: Vec<&str> = line.split_whitespace().collect();
            let (id, mixed) = (u64::from_str_radix(words[0], 16), u64::from_str_radix(words[1], 16));
            let (id, mixed) = (id.unwrap(), mixed.unwrap());
            assert_eq!((mix(id), unmix(mixed)), (mixed, id & MASK), "{line}");
            for (shards, shard) in [1, 2, 3, 16, 256].into_iter().zip(&words[2..]) {
                assert_eq!(shard_of(LeaseId(id), shards).0, shard.parse::<u16>().unwrap(), "{line}");
            }
            count += 1;
        }
        assert!(count > 10, "the file of vectors is all but empty");
    }
}
