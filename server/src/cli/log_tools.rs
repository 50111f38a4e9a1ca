//! `tenure inspect`, `verify` and `repair`: a data directory looked at, checked, cut off.
//!
//! The work is the engine's ([`tenure::log`]); here are its options and the one question that is
//! asked before something is given up for good. None of them talks to a server. Verify and repair
//! refuse a directory that a server has open; inspect looks on.

use std::io::{self, BufRead, IsTerminal, Write};
use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::{Value, json};
use tenure::log::{self, InspectOptions, LogError, ShardReport, VerifyReport};

use super::failure::{Failure, Outcome};
use super::remote::Form;
use super::screen::Screen;
use crate::exit;

/// Print what a data directory holds
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  tenure inspect /var/lib/tenure
  tenure inspect /var/lib/tenure --shard 0 --from 40960 --records

Works beside a running server and on a damaged directory as far as it can; changes nothing.")]
pub(crate) struct Inspect {
    /// The data directory
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    /// Print each batch
    #[arg(long)]
    batches: bool,
    /// Print each record
    #[arg(long)]
    records: bool,
    /// This shard only
    #[arg(long, value_name = "N")]
    shard: Option<u16>,
    /// Nothing before this position
    #[arg(long, value_name = "POSITION")]
    from: Option<u64>,
}

/// Check a data directory without changing it
#[derive(Debug, Args)]
#[command(after_help = "Example:
  tenure verify /var/lib/tenure && echo clean

Reads every snapshot and the whole log. Exit code 0: clean. 65: damaged; each line says where. \
75: a server has the directory open; stop it, or verify a copy.")]
pub(crate) struct Verify {
    /// The data directory
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    /// Form of the output
    #[arg(short = 'w', long, value_enum, value_name = "FORM", default_value = "text")]
    output: Form,
}

/// Cut a damaged log off at a place, keeping a copy of what is cut off
#[derive(Debug, Args)]
#[command(after_help = "Example:
  tenure repair /var/lib/tenure --shard 0 --truncate-at 8192

The refusal to start and `tenure verify` name shard and position. Everything of that shard from the \
position on is given up: it is counted, shown, kept beside as *.dropped, and removed from the log after \
you agree.")]
pub(crate) struct Repair {
    /// The data directory
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    /// The damaged shard
    #[arg(long, value_name = "N")]
    shard: u16,
    /// Position from which on everything is given up
    #[arg(long, value_name = "POSITION")]
    truncate_at: u64,
    /// Do it without asking
    #[arg(long)]
    yes: bool,
}

impl Inspect {
    pub(crate) fn run(&self) -> Outcome {
        let options = InspectOptions {
            batches: self.batches,
            records: self.records,
            shard: self.shard,
            from: self.from,
        };
        must_be_there(&self.dir)?;
        let mut screen = Screen::stdout(Form::Text);
        log::inspect(&self.dir, options, screen.writer()).map_err(|error| of_log(&error))?;
        Ok(screen.flush()?)
    }
}

impl Verify {
    pub(crate) fn run(&self) -> Outcome {
        must_be_there(&self.dir)?;
        let report = log::verify(&self.dir).map_err(|error| of_log(&error))?;
        let mut screen = Screen::stdout(self.output);
        screen.say(|| &report, || verify_json(&report))?;
        screen.flush()?;
        if report.is_clean() { Ok(()) } else { Err(Failure::new(exit::DAMAGED, "")) }
    }
}

impl Repair {
    pub(crate) fn run(&self) -> Outcome {
        must_be_there(&self.dir)?;
        let plan =
            log::plan_repair(&self.dir, self.shard, self.truncate_at).map_err(|error| of_log(&error))?;
        let mut screen = Screen::stdout(Form::Text);
        if !self.yes {
            screen.text(plan)?;
            screen.flush()?;
            if !agreed()? {
                return Err(Failure::new(exit::REFUSED, "nothing was changed"));
            }
        }
        let report = log::repair(&self.dir, self.shard, self.truncate_at).map_err(|error| of_log(&error))?;
        screen.text(report)?;
        Ok(screen.flush()?)
    }
}

/// A slip in the directory's name is not a lost manifest.
fn must_be_there(dir: &Path) -> Outcome {
    std::fs::read_dir(dir).map(|_| ()).map_err(|error| Failure::file(dir, &error))
}

/// Asks on the terminal. Without one there is nobody to agree.
fn agreed() -> Result<bool, Failure> {
    if !io::stdin().is_terminal() {
        return Err(Failure::usage(
            "standard input is no terminal: add --yes to cut this off without being asked",
        ));
    }
    eprint!("Cut it off? Type yes: ");
    io::stderr().flush()?;
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer).map_err(|error| Failure::usage(error.to_string()))?;
    Ok(answer.trim() == "yes")
}

/// The engine's word, unless all that happened is that nobody reads the output any more.
fn of_log(error: &LogError) -> Failure {
    match error {
        LogError::Io { source, .. } if source.kind() == io::ErrorKind::BrokenPipe => {
            Failure::from(io::Error::from(io::ErrorKind::BrokenPipe))
        }
        error => Failure::log(error),
    }
}

fn verify_json(report: &VerifyReport) -> Value {
    let shards: Vec<Value> = report.shards.iter().map(shard_json).collect();
    json!({ "dir": report.dir.display().to_string(), "clean": report.is_clean(), "shards": shards })
}

fn shard_json(shard: &ShardReport) -> Value {
    json!({
        "shard": shard.shard,
        "tail": shard.tail,
        "batches": shard.batches,
        "bytes": shard.bytes,
        "snapshots": shard.snapshots,
        "torn": shard.torn.as_ref().map(ToString::to_string),
        "damage": shard.damage,
        "warnings": shard.warnings,
    })
}
