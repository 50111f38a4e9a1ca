//! The hot paths whose instructions the gate counts, each over [`OPERATIONS`] operations.
//!
//! Callgrind runs each path once, in a process of its own; what `setup` makes and what is dropped at the end is
//! not counted. Nothing here is random or timed, so the counts repeat to the instruction. `src/main.rs` runs
//! this and compares.

// The macros make public items without documentation.
#![allow(
    missing_docs,
    unreachable_pub,
    clippy::needless_pass_by_value,
    reason = "the macros of gungraun ask for it"
)]

mod codec;
mod log;
mod shard;

use codec::wire;
use gungraun::main;
use log::records;
use shard::verbs;

/// Operations of each path: the gate divides by it. 40 batches of 256, 320 reads of 32 frames.
const OPERATIONS: usize = 10_240;
/// Leases in a batch.
const BATCH: usize = 256;

main!(library_benchmark_groups = verbs, wire, records);
