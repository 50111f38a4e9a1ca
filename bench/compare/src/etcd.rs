//! etcd: gRPC over the `h2` crate, on one thread.
//!
//! The messages that leases need are a handful of integers, so they are encoded here (`message`); HTTP/2
//! is the library's (`channel`). `load` has the loops, with the same shapes and rules as the ring's: so
//! many in flight, latency from the intended send time, the load's own CPU told apart.
//!
//! A stream of keepalives answers a whole chunk of replies with one DATA frame of as many requests: etcd
//! shall not pay for a client that writes them one by one.

pub(crate) mod channel;
pub(crate) mod load;
pub(crate) mod message;
pub(crate) mod storm;
mod trickle;
mod watch;
