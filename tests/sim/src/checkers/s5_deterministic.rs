//! **S5 deterministic**: same inputs, times and seed give the same outputs and log bytes.
//!
//! A seed is run twice: the digests of everything that happened and of the disk at the end must agree.

use super::Verdict;

/// Digests of two runs of one seed.
///
/// # Errors
/// They differ.
pub fn same_twice(seed: u64, one: (u64, u64), other: (u64, u64)) -> Verdict {
    if one == other {
        return Ok(());
    }
    Err(format!("S5 deterministic: seed {seed} went two ways: {one:x?} and {other:x?}"))
}
