//! Harness of the cross-crate tests: real server processes, plain sockets, an oracle that remembers.
//!
//! The suites are under `tests/suites`; what they share is here:
//!
//! - [`server`]: a server process that can be started, stopped, paused and killed;
//! - [`wire`]: a blocking connection over the protocol crate alone, so that a fault of the client
//!   crate cannot hide a fault of the server;
//! - [`crash`]: load, oracle and audit of the crash suite;
//! - [`scenario`]: the readable files of `tests/scenarios`, run against one shard;
//! - [`fuzz`]: what fuzzers are let loose on;
//! - [`power`]: what a power loss may leave on a disk, recovered and audited;
//! - [`soak`]: an hour of everything at once, and whether anything grew;
//! - [`faulty_disk`]: a mounted file system that fails, stalls and is slow when it is told to;
//! - [`sandbox`]: children with too little memlock, without io_uring, with a small disk;
//! - [`tree`]: the source tree, for the tidiness rules;
//! - [`random`], [`patience`]: seeds that replay, and waits that end.
//!
//! No test asserts how long something takes: a wait has a generous end that turns a hang into a
//! failure, and nothing else.

pub mod crash;
pub mod faulty_disk;
pub mod fuzz;
pub mod patience;
pub mod power;
pub mod random;
pub mod sandbox;
pub mod scenario;
pub mod server;
pub mod soak;
pub mod tree;
pub mod wire;
