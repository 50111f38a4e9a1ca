//! The formats that outlive a process: records and images. What they look like byte for byte (`vectors.rs`), and what
//! happens to bytes that are not as they should be (`damage.rs`).

mod damage;
mod sample;
mod vectors;
