//! Identifiers on the wire, and ID rule 1: which shard a lease belongs to.
//!
//! S1 one-shard: an ID maps to exactly one shard, by arithmetic alone, so that a client, any core of
//! the server and the log agree without asking each other. The rule mixes the low 63 bits with a
//! bijection (so that consecutive or aligned client-chosen IDs spread evenly) and scales the top 32
//! bits of the result to the shard count. The sign bit is kept aside: an ID and its negative twin
//! live on the same shard, which costs nothing and keeps server-assigned IDs positive for etcd's
//! signed reading.
//!
//! The engine has its own copy of this rule; `tests/vectors/id-rule.txt` keeps the two equal.
//! What this file does not do: say anything about how the engine lays slots and generations into an
//! ID. A client must treat server-assigned IDs as opaque.

use std::fmt;

/// The number of this rule in a Welcome. A client that does not know the number must not route by
/// shard; it can still talk to any connection.
pub const ID_RULE: u16 = 1;

const MASK: u64 = (1 << 63) - 1;
const FACTOR_1: u64 = 0x6A5D_39EA_E126_57A9;
const FACTOR_2: u64 = 0x5851_F42D_4C95_7F2D;
const INVERSE_1: u64 = inverse_mod_2_63(FACTOR_1);
const INVERSE_2: u64 = inverse_mod_2_63(FACTOR_2);

/// Newton's iteration for the inverse of an odd number; each step doubles the correct low bits.
const fn inverse_mod_2_63(odd: u64) -> u64 {
    let mut inverse = odd; // Correct to 3 bits for any odd number.
    let mut step = 0;
    while step < 5 {
        inverse = inverse.wrapping_mul(2u64.wrapping_sub(odd.wrapping_mul(inverse)));
        step += 1;
    }
    inverse & MASK
}

const _: () = assert!(FACTOR_1.wrapping_mul(INVERSE_1) & MASK == 1);
const _: () = assert!(FACTOR_2.wrapping_mul(INVERSE_2) & MASK == 1);

/// The bijection of rule 1 on 63 bits. The top bit of `id` does not take part.
#[inline]
#[must_use]
pub const fn mix(id: u64) -> u64 {
    let mut x = id & MASK;
    x ^= x >> 32;
    x = x.wrapping_mul(FACTOR_1) & MASK;
    x ^= x >> 29;
    x = x.wrapping_mul(FACTOR_2) & MASK;
    x ^ (x >> 32)
}

/// The inverse of [`mix`]: the non-negative ID whose mix is `mixed` (below 2^63).
#[inline]
#[must_use]
pub const fn unmix(mixed: u64) -> u64 {
    let mut x = mixed & MASK;
    x ^= x >> 32;
    x = x.wrapping_mul(INVERSE_2) & MASK;
    x = x ^ (x >> 29) ^ (x >> 58);
    x = x.wrapping_mul(INVERSE_1) & MASK;
    x ^ (x >> 32)
}

/// The shard that owns `id` among `shard_count` shards (S1). A count of 0 is read as 1.
#[inline]
#[must_use]
pub const fn shard_of(id: LeaseId, shard_count: u16) -> u16 {
    (((mix(id.0) >> 31) * shard_count as u64) >> 32) as u16
}

macro_rules! wire_u64 {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(transparent)]
        pub struct $name(pub u64);

        impl From<u64> for $name {
            #[inline]
            fn from(value: u64) -> $name {
                $name(value)
            }
        }

        impl From<$name> for u64 {
            #[inline]
            fn from(value: $name) -> u64 {
                value.0
            }
        }
    };
}

wire_u64! {
    /// A lease's ID: any 64-bit number but 0. Shown as 16 lower-case hex digits, as etcd does.
    LeaseId
}
wire_u64! {
    /// A fencing token: the position of the grant that made the lease. Strictly larger for any later
    /// grant under the same ID, so that a late holder can be told from a new one.
    Token
}
wire_u64! {
    /// A byte-exact place in one shard's log, ever increasing. Positions of different shards do not
    /// compare.
    Position
}

impl LeaseId {
    /// The ID that no lease has; in a Grant it asks the server to choose.
    pub const NONE: LeaseId = LeaseId(0);
}

impl Position {
    /// Subscribe from now on.
    pub const NOW: Position = Position(u64::MAX);
    /// Subscribe from the oldest event that the server still has.
    pub const OLDEST: Position = Position(0);
}

impl fmt::Display for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::LowerHex for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::LowerHex::fmt(&self.0, f)
    }
}

impl std::str::FromStr for LeaseId {
    type Err = std::num::ParseIntError;

    /// Reads up to 16 hex digits.
    fn from_str(text: &str) -> Result<LeaseId, Self::Err> {
        u64::from_str_radix(text, 16).map(LeaseId)
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// The number that ties a reply to its request on one connection. The client chooses it; it may be
/// used again once the reply has come. 0 is left to the server's unsolicited frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct RequestId(pub u32);

impl From<u32> for RequestId {
    #[inline]
    fn from(value: u32) -> RequestId {
        RequestId(value)
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unmix_is_the_inverse_of_mix() {
        let mut x = 1u64;
        for _ in 0..100_000 {
            x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            assert_eq!(unmix(mix(x)), x & MASK);
            assert_eq!(mix(unmix(x)), x & MASK);
        }
        for id in [0, 1, 2, MASK, MASK - 1, 1 << 62] {
            assert_eq!(unmix(mix(id)), id);
        }
    }

    #[test]
    fn s1_every_id_has_one_shard_in_range_and_ignores_the_sign() {
        for count in [1u16, 2, 3, 16, 255, 256, u16::MAX] {
            for i in 0..10_000u64 {
                let id = LeaseId(i << (i % 50));
                let shard = shard_of(id, count);
                assert!(shard < count);
                assert_eq!(shard, shard_of(LeaseId(id.0 | 1 << 63), count));
            }
        }
    }

    #[test]
    fn sequential_and_aligned_ids_spread_evenly() {
        for shift in [0, 8, 16, 32, 40] {
            let mut counts = [0u32; 16];
            for i in 1..=16_000u64 {
                counts[shard_of(LeaseId(i << shift), 16) as usize] += 1;
            }
            assert!(counts.iter().all(|&n| (800..1_200).contains(&n)), "shift {shift}: {counts:?}");
        }
    }
}
