//! The gate on instruction counts: `cargo run -p tenure-instructions -- check` and `-- update`.
//!
//! Timings on a shared machine vary by tens of per cent, so a path that became 10 % slower hides in them.
//! Instructions executed do not vary: callgrind counts them to the last one. The gate runs each hot path once
//! (`benches/paths`, by gungraun), divides by the operations it made, and compares with `baseline.txt` beside
//! this crate. Growth beyond the tolerance fails; so does a path without a baseline and a baseline without
//! a path. Who changes the baseline does so in the same commit, where a reviewer sees it.
//!
//! What it does not see: cache misses, branch misses, system calls, and instructions that valgrind hides from the
//! program (AVX-512: checksums take another way here than on a new server). Those are the criterion suites' affair.

mod baseline;
mod measure;

use std::process::ExitCode;

use anyhow::{Context, bail};
use baseline::Baseline;

/// Growth that fails, in per cent of the baseline. Half of it is what a harmless change of inlining makes.
const GROWTH_PERCENT_MAX: f64 = 5.0;

const USAGE: &str = "usage: tenure-instructions check|update

check   counts the instructions of the hot paths and compares them with bench/instructions/baseline.txt
update  counts them and writes that file; commit it with the change that explains it";

fn main() -> ExitCode {
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::from(2)
        }
    }
}

/// Whether every path is within the tolerance.
fn run() -> anyhow::Result<bool> {
    let path = measure::root().join("bench/instructions/baseline.txt");
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let update = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["check"] => false,
        ["update"] => true,
        _ => bail!(USAGE),
    };
    let old = match std::fs::read_to_string(&path) {
        Ok(text) => Baseline::parse(&text).with_context(|| format!("in {}", path.display()))?,
        Err(_) if update => Baseline::default(),
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
    };
    let new = Baseline::new(measure::paths()?);
    let report = old.compare(&new, GROWTH_PERCENT_MAX);
    print!("{report}");
    if update {
        std::fs::write(&path, new.to_string()).with_context(|| format!("cannot write {}", path.display()))?;
        println!("\nwritten to {}", path.display());
        return Ok(true);
    }
    if !report.passes() {
        println!(
            "\nA hot path needs more than {GROWTH_PERCENT_MAX} % more instructions than its baseline, or has none. Is it meant?\n\
             Then: cargo run -p tenure-instructions -- update, and commit the file with the change."
        );
    }
    Ok(report.passes())
}
