//! The `tenure` command: server, command line client and load benchmark.

fn main() {}
