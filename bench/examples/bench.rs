//! `tenure bench` for a server binary of your choice: to compare two builds with one load side.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;

#[derive(Parser)]
struct Command {
    /// The `tenure` binary to start
    #[arg(long, value_name = "FILE", default_value = "target/release/tenure")]
    server_exe: PathBuf,
    #[command(flatten)]
    bench: tenure_bench::BenchArgs,
}

fn main() -> ExitCode {
    let command = Command::parse();
    tenure_bench::run(command.bench, command.server_exe).unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::from(tenure_bench::EXIT_FAILED)
    })
}
