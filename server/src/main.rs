//! The `tenure` command: server, command line client and load benchmark.

use std::process::ExitCode;

fn main() -> ExitCode {
    tenure_server::cli::run(std::env::args_os())
}
