//! Client for Tenure servers: async and blocking, pipelined, shard-aware.
//!
//! - [`Client`] for tokio; one call per operation, batches, events, keep-alive.
//! - [`BlockingClient`] for programs without a runtime.
//! - [`KeptLease`]: a lease that is renewed in the background, knows by a look at the clock whether it
//!   may be relied on, and says why when it is lost. [`Holder`]: one that is replaced when it is lost.
//! - [`EventStream`]: ends of leases from a position, resuming by itself.
//! - [`machine`]: the logic of all this without sockets and clocks, for simulators, load generators and
//!   other runtimes.
//!
//! ```no_run
//! use tenure_client::{Client, SubscribeFrom};
//!
//! # async fn example() -> Result<(), tenure_client::Error> {
//! let client = Client::connect("localhost:7070").await?;
//!
//! // A lease that stays alive as long as this process does.
//! let lease = client.grant_kept(5_000).await?;
//! client.attach(lease.id(), "/workers/7").await?;
//!
//! // Elsewhere: learn of it when the process dies.
//! let mut events = client.subscribe(SubscribeFrom::Now).await?;
//! while let Some(event) = events.next().await {
//!     println!("{:?}", event?);
//! }
//! # Ok(())
//! # }
//! ```
//!
//! # What a client may rely on
//! A lease is valid until the *send* time of its last answered grant or renewal + TTL − allowance, on a
//! clock that counts suspend ([`BootTime`]). The server never ends it earlier (S2), so a holder that asks
//! [`KeptLease::is_alive`] before each step stops before anybody else can start. For steps that take
//! long, pass the [`protocol::Token`] along and let the resource refuse older ones.

#![forbid(unsafe_code)]

pub mod machine;

mod blocking;
mod call;
mod client;
mod clock;
mod config;
mod error;
mod events;
mod hold;
mod keep_alive;
mod link;

pub use blocking::{BlockingClient, BlockingEvents};
pub use call::{Attached, LeaseInfo, ServerInfo};
pub use client::{Client, Lease, LeaseList, RenewOutcome, Renewed, Revoked};
pub use clock::BootTime;
pub use config::ClientConfig;
pub use error::Error;
pub use events::{EventStream, LeaseEvent, LeaseEventKind, SubscribeFrom};
pub use hold::{HoldEvent, Holder};
pub use keep_alive::KeptLease;
pub use machine::LossReason;
pub use tenure_protocol as protocol;
pub use tenure_protocol::{Cause, EndedLease, Failed, GrantEntry, LeaseId, Listed, Position, Refusal, Token};
