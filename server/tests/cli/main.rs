//! The `tenure` command against a real server, both as the processes that users run.
//!
//! What a command prints is compared whole, with only the numbers that differ from run to run
//! (positions, tokens, what is left of a TTL) replaced by their names.

mod data_directory;
mod failures;
mod leases;
mod rig;
mod signals;
mod watching;
