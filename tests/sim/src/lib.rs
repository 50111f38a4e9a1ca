//! Deterministic simulation of Tenure: the real engine, log, recovery, sessions and client machines on a
//! simulated clock, disk and network, one thread, everything from one seed.
//!
//! ```text
//!   seed ── Plan ── World ──┬── Host: real cores, keepers, sessions ── SimDisk
//!                           ├── Links (network)
//!                           ├── Clients: real connection and keep-alive machines
//!                           └── Oracle + Streams ── checkers/, one per invariant
//! ```
//! Only clock, disk, network, scheduler and oracle are simulated. `docs/testing.md` says how to run it and
//! how to read a failing seed.

pub mod checkers;
pub mod client;
pub mod disk;
pub mod host;
pub mod link;
pub mod oracle;
pub mod plan;
pub mod random;
pub mod shrink;
pub mod streams;
pub mod sweep;
pub mod trace;
pub mod world;
