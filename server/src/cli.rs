//! The command line: one tree of commands, each in a module of its own under `cli/`.
//!
//! A command returns the code of [`exit`](crate::exit) with which the process should end; what it has
//! to say about a failure it has said on standard error by then.

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

mod serve;

/// A lease engine: leases with deadlines, renewed by the million, expired on time.
#[derive(Debug, Parser)]
#[command(name = "tenure", version, propagate_version = true, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a server
    Serve(Box<serve::Serve>),
}

/// Parses the arguments, runs the command, returns the process's exit code.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let matches = Cli::command().get_matches_from(arguments);
    let cli = Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    let (_, matches) = matches.subcommand().expect("a command is required");
    let code = match cli.command {
        Command::Serve(command) => serve::run(*command, matches),
    };
    ExitCode::from(u8::try_from(code).unwrap_or(u8::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_tree_is_consistent() {
        Cli::command().debug_assert();
    }
}
