//! Crash testing: load with a memory, a kill at a random moment, and an audit of what comes back.
//!
//! ```text
//!  start ─▶ audit ─▶ events caught up ─▶ load … ✗ kill -9 ─▶ what is certain, what is unknown ─▶ start …
//! ```
//! Each worker owns the leases that it touches and has at most one request in flight for each, so that
//! what it may believe of a lease ([`belief`]) is a matter of a few lines: an acknowledged effect is
//! certain, an effect without an answer is unknown, and an audit turns unknown into certain. The oracle
//! knows nothing of logs, snapshots or shards; it compares promises with observations:
//!
//! - S2 never-early: neither NotFound nor an expiry event before the send time of the last acknowledged
//!   renewal plus the TTL, on the client's own clock;
//! - S3 ack-after-durable: what was told, dead or alive, stays so across the kill;
//! - S9 once: each end is in the event stream once, under one position, with one cause, and a stream
//!   resumed at a stored position neither misses nor repeats one;
//! - tokens of an ID only grow; a TTL of its own in each long grant tells which request made a lease,
//!   so that a grant applied twice, or an orphan that nobody asked for, shows up in the list.

pub mod audit;
pub mod belief;
pub mod book;
pub mod journal;
pub mod run;
pub mod worker;
