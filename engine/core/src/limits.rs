//! Every bound of the core in one place (S8 bounded), tied together by const assertions.
//!
//! A limit that a client can reach answers with a refusal; one that only this crate can reach is an assertion.

use crate::id_rule::SLOT_BITS;

/// Longest TTL that any configuration may allow: 9,000,000,000 s, as etcd's.
pub const TTL_MS_MAX: u64 = 9_000_000_000_000;

/// Latest engine time and deadline that is accepted from a log or an image: 36 million years leave room for
/// `time + TTL + extension` in 64 bits.
pub const TIME_MS_MAX: u64 = 1 << 60;

/// Furthest log position that is accepted from a log or an image: as much again fits 64 bits.
pub const POSITION_MAX: u64 = 1 << 62;

/// Furthest log position at which a lease is granted: a token has 56 bits in the table. That is 72 PB of log, two
/// years at 1 GB a second without a pause. Grants are refused from there on; leases live, are renewed and end.
pub const TOKEN_MAX: u64 = (1 << 56) - 1;

/// Longest extension that a promotion may give.
pub const EXTEND_MS_MAX: u64 = TTL_MS_MAX;

/// Leases that one shard can be configured for: what a slot number in a server-assigned id can name, less the
/// slack below.
pub const LEASE_COUNT_MAX: u32 = (1 << SLOT_BITS) - SLOT_COUNT_SLACK;

/// Slots of a shard beyond its lease limit: freed slots wait here so that generations spread.
pub const SLOT_COUNT_SLACK: u32 = 1 << 16;

/// Free slots are reused only once the slab has this many, so that few live leases do not use up the generations
/// of few slots.
pub const SLOT_COUNT_BEFORE_REUSE: u32 = 1 << 16;

/// Longest item, in bytes.
pub const ITEM_BYTES_MAX: usize = 4_096;

/// Items of one shard, live and leaving together.
pub const ITEM_COUNT_MAX: u64 = 1 << 27;

/// Identified grants that a shard remembers.
pub const GRANT_KEY_COUNT_MAX: usize = 65_536;

/// Entries of one record.
pub const RECORD_ENTRY_COUNT_MAX: usize = 4_096;

/// Record bytes of the items of dead leases that one call of `maintain` writes at most, but for the last item.
pub const ENDED_ITEMS_BYTES_PER_CALL: usize = 64 << 10;

/// An item of an ended lease counts for as many of the leases and references that a call of `maintain` may touch: its
/// bytes, its place in its lease's set and its place in the table are three corners of memory, about half a µs.
pub const ITEM_TOUCHES: usize = 8;

/// Items in one ended-items record: its count is 16 bits wide.
pub const ENDED_ITEM_COUNT_MAX: usize = RECORD_ENTRY_COUNT_MAX;

/// Slots that one call of `list` looks at: a nearly empty slab is walked in several pages, and the overdue leases that
/// a call meets write a bounded number of records.
pub const LIST_SLOTS_PER_CALL: usize = 16_384;

/// Record bytes that a batch of renewals or revocations, a list or an expiry writes per id or reference at most:
/// a renewal's entry with a record head of its own. For callers that cut their slices to fit a log batch.
pub const RECORD_BYTES_PER_ID_MAX: usize = 32;

/// Generations of a slot: 31 bits, less the last two, which stand for "no server-assigned id" in comparisons.
pub const GENERATION_COUNT_MAX: u32 = (1 << 31) - 2;

/// References in the wheel may exceed twice the live leases by this many before compaction starts.
pub const WHEEL_REFERENCE_SLACK: u64 = 4_096;

/// References that each grant compacts while there are too many: a pass over R of them ends within R/4 grants.
pub const COMPACT_PER_GRANT: usize = 4;

/// Bounds that take days of load to reach; tests bring them within reach ([`crate::Shard::with_bounds`]).
#[doc(hidden)]
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// See [`SLOT_COUNT_BEFORE_REUSE`].
    pub slots_before_reuse: u32,
    /// See [`GRANT_KEY_COUNT_MAX`].
    pub grant_keys_max: usize,
    /// See [`WHEEL_REFERENCE_SLACK`].
    pub wheel_reference_slack: u64,
    /// Generations of a slot, before it is retired.
    pub generations: u32,
}

impl Default for Bounds {
    fn default() -> Bounds {
        Bounds {
            slots_before_reuse: SLOT_COUNT_BEFORE_REUSE,
            grant_keys_max: GRANT_KEY_COUNT_MAX,
            wheel_reference_slack: WHEEL_REFERENCE_SLACK,
            generations: GENERATION_COUNT_MAX,
        }
    }
}

const _: () = assert!(ITEM_BYTES_MAX <= u16::MAX as usize, "item lengths are 16 bits in records");
const _: () = assert!(TOKEN_MAX < POSITION_MAX);
const _: () = assert!(TTL_MS_MAX < 1 << 48, "TTLs are 48 bits in grant records");
const _: () = assert!(ENDED_ITEM_COUNT_MAX <= u16::MAX as usize);
const _: () = assert!(TIME_MS_MAX < u64::MAX - 2 * TTL_MS_MAX - EXTEND_MS_MAX);
const _: () = assert!(LEASE_COUNT_MAX as u64 + SLOT_COUNT_SLACK as u64 <= 1 << SLOT_BITS);
const _: () = assert!(SLOT_COUNT_BEFORE_REUSE <= SLOT_COUNT_SLACK);
