//! The server on real sockets, spoken to in bare protocol frames, on both drivers.

mod bad_input;
mod connections;
mod events;
mod operations;
mod peer;
mod shards;
