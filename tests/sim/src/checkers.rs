//! One file per invariant of the lease contract; each says what would contradict it, and nothing else.
//!
//! A checker gets plain values and answers with a [`Verdict`] whose text begins with the invariant's name,
//! as the assertions of the engine do: a run that fails says which invariant was broken.

pub mod l1_lateness;
pub mod l2_one_reply;
pub mod l3_fair;
pub mod s1_one_shard;
pub mod s2_never_early;
pub mod s3_durable;
pub mod s4_replay;
pub mod s5_deterministic;
pub mod s6_time;
pub mod s7_wheel;
pub mod s8_bounded;
pub mod s9_once;

/// Whether an invariant holds; the text says what contradicts it.
pub type Verdict = Result<(), String>;

/// The invariant that a text of a verdict or of an assertion names: `S1` to `S9`, `L1` to `L3`, else `bug`.
#[must_use]
pub fn named(text: &str) -> &str {
    let name = text.get(..2).unwrap_or("");
    let known = ["S1", "S2", "S3", "S4", "S5", "S6", "S7", "S8", "S9", "L1", "L2", "L3"];
    known.into_iter().find(|known| *known == name).unwrap_or("bug")
}
