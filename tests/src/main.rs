//! The `tenure` command under a name of its own, for the suites of this package.
//!
//! An integration test can name only the programs of its own package; this one is the whole command
//! line and nothing else.

use std::process::ExitCode;

fn main() -> ExitCode {
    tenure_server::cli::run(std::env::args_os())
}
