//! `cargo run --release -p tenure-tests --bin soak -- --minutes 60`: the soak of docs/testing.md.
//!
//! Ends by itself; the exit code is 0 when every promise held and nothing grew. As its own child, called with
//! `serve`, it is the server under test: one build makes both.

use std::process::ExitCode;

use tenure_tests::soak::{SoakPlan, run};

const USAGE: &str = "usage: soak [--minutes N] [--seed N] [--samples FILE]";

fn main() -> ExitCode {
    if std::env::args().nth(1).as_deref() == Some("serve") {
        return tenure_server::cli::run(std::env::args_os());
    }
    let binary = std::env::current_exe().expect("this program has a path").to_string_lossy().into_owned();
    let samples = std::env::temp_dir().join(format!("tenure-soak-{}.jsonl", std::process::id()));
    let mut plan = SoakPlan { minutes: 60, seed: 2_026, binary, samples };
    if let Err(wrong) = read_arguments(&mut plan) {
        eprintln!("{wrong}\n{USAGE}");
        return ExitCode::from(64);
    }
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

fn read_arguments(plan: &mut SoakPlan) -> Result<(), String> {
    let mut arguments = std::env::args().skip(1);
    while let Some(name) = arguments.next() {
        let value = arguments.next().ok_or_else(|| format!("{name} needs a value"))?;
        let number = || value.parse::<u64>().map_err(|error| format!("{name} {value}: {error}"));
        match name.as_str() {
            "--minutes" => plan.minutes = number()?.max(1),
            "--seed" => plan.seed = number()?,
            "--samples" => plan.samples = value.into(),
            _ => return Err(format!("unknown argument {name}")),
        }
    }
    Ok(())
}
