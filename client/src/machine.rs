//! The client's logic without a clock, a socket or a thread.
//!
//! Everything here is a plain state machine: bytes, times and answers come in as arguments, bytes and
//! verdicts go out. The async and the blocking client are thin shells around these; the simulator and
//! the load generator drive them over whatever they like.
//!
//! - [`Connection`]: one connection: handshake, requests in flight, replies, events.
//! - [`KeepAlive`]: which leases to renew when, and which are lost.
//! - [`Backoff`]: how long to wait between attempts.

mod backoff;
mod connection;
mod failure;
mod in_flight;
mod incoming;
mod keep_alive;
mod terms;

pub use backoff::Backoff;
pub use connection::{Connection, Delivery};
pub use failure::{ConnectionError, SendError};
pub use keep_alive::{Change, KeepAlive, KeepBatch, KeepKey, LossReason, trusted_ms};
pub use terms::{ConnectionConfig, Terms};
