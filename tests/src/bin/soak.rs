//! `cargo run --release -p tenure-tests --bin soak -- --minutes 60`: the soak of docs/testing.md.
//!
//! Ends by itself; the exit code is 0 when every promise held and nothing grew. As its own child, called with
//! `serve`, it is the server under test: one build makes both.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use tenure_tests::soak::{SoakPlan, run};

/// Keep a durable server under load for long, kill and restart it, hold its promises against it and watch it for growth.
///
/// Exit codes: 0 when every promise held and nothing grew, 1 when not, 64 for wrong arguments.
#[derive(Parser)]
#[command(name = "soak")]
struct Arguments {
    /// How long, in minutes
    #[arg(long, value_name = "N", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..))]
    minutes: u64,
    /// What the clients do and when the server is killed follow from it
    #[arg(long, value_name = "N", default_value_t = 2_026)]
    seed: u64,
    /// Where the samples go, a line of JSON each second [default: a file in the temporary directory]
    #[arg(long, value_name = "FILE")]
    samples: Option<PathBuf>,
}

fn main() -> ExitCode {
    if std::env::args().nth(1).as_deref() == Some("serve") {
        return tenure_server::cli::run(std::env::args_os());
    }
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(wrong) => {
            let _ = wrong.print();
            return ExitCode::from(if wrong.use_stderr() { 64 } else { 0 });
        }
    };
    let binary = std::env::current_exe().expect("this program has a path").to_string_lossy().into_owned();
    let samples = arguments
        .samples
        .unwrap_or_else(|| std::env::temp_dir().join(format!("tenure-soak-{}.jsonl", std::process::id())));
    let plan = SoakPlan { minutes: arguments.minutes, seed: arguments.seed, binary, samples };
    // Kept when the run fails, whichever way it does.
    let dir = tempfile::tempdir().expect("a temporary directory").keep();
    println!("{} min, seed {}: {}, {}", plan.minutes, plan.seed, dir.display(), plan.samples.display());
    match run(&plan, &dir) {
        Ok(report) => {
            println!("\n{}\n{}", report.table(), report.json());
            if !report.passed() {
                return ExitCode::FAILURE;
            }
            let _ = std::fs::remove_dir_all(&dir);
            ExitCode::SUCCESS
        }
        Err(broken) => {
            eprintln!("{broken}\nthe data directory is kept: {}", dir.display());
            ExitCode::FAILURE
        }
    }
}
