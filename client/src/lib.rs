//! Client for Tenure servers: async and blocking, pipelined, shard-aware.

#![forbid(unsafe_code)]

pub mod machine;

pub use tenure_protocol as protocol;
