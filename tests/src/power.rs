//! Power-loss images: what a disk may legally hold when the power goes, recovered by the real engine.
//!
//! ```text
//!  load ─▶ real cores, journal, keeper ─▶ MediumDisk ─▶ Medium: durable │ written, not synced │ names, not synced
//!                                             │ at every disk operation
//!                                             └─▶ images: any subset of the un-synced sectors and names
//!                                                  └─▶ real recovery ─▶ audit against what was written
//! ```
//! A load ([`load`]) runs the engine's own log code on a disk of ours ([`disk`]) that remembers of each byte
//! and of each name whether it has been synced ([`medium`]). At every operation some of the images that a
//! power loss at that moment may leave behind are taken. Each is opened as a start after the power loss
//! would open it, and audited ([`audit`]) against the batches that were handed to the disk ([`truth`]):
//!
//! - it opens: no legal image is ever refused as damaged;
//! - **S3**: every batch that was durable is there, and so is all that was told to a client;
//! - what is there is a whole-batch prefix of the log; its canonical dump is that of a shard that was
//!   fed the same records and nothing else (**S4**);
//! - it goes on: what is granted after the recovery survives the next power loss;
//! - a re-sharding leaves the old layout or the new one, and in both every lease.
//!
//! Legal is what `docs/log-format.md` §10 says and no more: a completed O_DSYNC write and a synced file are
//! there; of everything else any sector, and of one sector any part, may be there or not; names last after
//! a sync of their directory and may otherwise be any subset of what was done, in order or not.
//!
//! It does not judge replies beyond what was told (the simulator does), nor damage (`tests/suites/bad_disks.rs`).

pub mod audit;
pub mod disk;
pub mod load;
pub mod medium;
pub mod survival;
pub mod truth;
