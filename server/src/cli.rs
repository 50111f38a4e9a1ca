//! The command line: one tree of commands, each in a module of its own under `cli/`.
//!
//! Shape and words are etcdctl's where etcdctl has the command: `lease grant 600`, hex IDs, the same
//! sentences. What a command finds goes to standard output, as text or as one JSON object a line
//! (`-w json`); what goes wrong is one line on standard error that says what to do, and one of the
//! codes of [`exit`].
//!
//! **Boundary:** commands talk to a server through `tenure_client` alone, and to a data directory
//! through [`tenure::log`]; only `serve` starts an engine.

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{ArgMatches, CommandFactory, FromArgMatches, Parser, Subcommand};

use self::failure::{Failure, Outcome};
use self::remote::Remote;
use crate::exit;

mod bench;
mod completions;
mod connect;
mod exit_codes;
mod failure;
mod item;
mod lease;
mod lease_id;
mod log_tools;
mod remote;
mod role;
mod screen;
mod serve;
mod start_at;
mod status;
mod ttl;
mod watch;
#[cfg(feature = "simulation")]
pub mod words;

/// A lease engine: leases with deadlines, renewed by the million, expired on time.
#[derive(Debug, Parser)]
#[command(name = "tenure", version, arg_required_else_help = true)]
#[command(after_help = "Examples:
  tenure serve --data-dir /var/lib/tenure
  tenure lease grant 600
  tenure --endpoint leases.example:7070 -w json lease list

`tenure help COMMAND` has more, `tenure help exit-codes` what the exit codes mean.")]
struct Cli {
    #[command(flatten)]
    remote: Remote,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a server
    #[command(after_help = "Examples:
  tenure serve --data-dir /var/lib/tenure
  tenure serve --listen 0.0.0.0:7070 --listen '[::]:7070' --shards 4
  tenure serve --config /etc/tenure.toml --print-config")]
    Serve(Box<serve::Serve>),
    Lease(lease::Lease),
    Watch(watch::Watch),
    Status(status::Status),
    Promote(role::Promote),
    Demote(role::Demote),
    Inspect(log_tools::Inspect),
    Verify(log_tools::Verify),
    Repair(log_tools::Repair),
    Bench(Box<bench::Bench>),
    Completions(completions::Completions),
    /// What the exit codes mean
    #[command(long_about = exit_codes::table())]
    ExitCodes,
}

/// Parses the arguments, runs the command, returns the process's exit code.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let matches = tree().get_matches_from(arguments);
    let cli = Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    let (_, matches) = matches.subcommand().expect("a command is required");
    dispatch(cli, matches).unwrap_or_else(|failure| report(&failure))
}

/// The commands with their options, as the derived tree has them but for one thing: the options of a
/// connection may also stand behind `lease grant`, not only between `tenure` and `lease`.
fn tree() -> clap::Command {
    Cli::command().mut_subcommand("lease", |lease| lease.mut_args(|option| option.global(true)))
}

fn dispatch(cli: Cli, matches: &ArgMatches) -> Result<ExitCode, Failure> {
    let remote = cli.remote;
    let outcome: Outcome = match cli.command {
        Command::Serve(command) => return Ok(exit_code(serve::run(*command, matches))),
        Command::Bench(command) => return command.run(&remote),
        Command::Lease(command) => command.run(remote),
        Command::Watch(command) => command.run(remote),
        Command::Status(command) => command.run(remote),
        Command::Promote(command) => command.run(remote),
        Command::Demote(command) => command.run(remote),
        Command::Inspect(command) => command.run(),
        Command::Verify(command) => command.run(),
        Command::Repair(command) => command.run(),
        Command::Completions(command) => command.run(tree()),
        Command::ExitCodes => exit_codes::run(),
    };
    outcome.map(|()| exit_code(exit::OK))
}

fn report(failure: &Failure) -> ExitCode {
    if !failure.text.is_empty() {
        eprintln!("tenure: {failure}");
    }
    exit_code(failure.code)
}

fn exit_code(code: i32) -> ExitCode {
    ExitCode::from(u8::try_from(code).unwrap_or(u8::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::from_arg_matches(&tree().try_get_matches_from(line.split(' '))?)
    }

    #[test]
    fn the_command_tree_is_consistent() {
        tree().debug_assert();
    }

    #[test]
    fn every_command_shows_an_example() {
        fn visit(command: &clap::Command, path: &str) {
            for sub in command.get_subcommands().filter(|sub| sub.get_name() != "exit-codes") {
                let path = format!("{path} {}", sub.get_name());
                if sub.has_subcommands() {
                    visit(sub, &path);
                    continue;
                }
                let help = sub.get_after_help().map(ToString::to_string).unwrap_or_default();
                assert!(help.contains("Example") && help.contains(&path), "`{path} --help` has no example");
            }
        }
        visit(&tree(), "tenure");
    }

    #[test]
    fn the_connection_may_be_named_at_any_level() {
        for line in [
            "tenure --endpoint a:1 lease revoke 7",
            "tenure lease --endpoint a:1 revoke 7",
            "tenure lease revoke --endpoint a:1 7",
            "tenure --endpoint b:2 lease revoke 7 --endpoint a:1",
        ] {
            let cli = parse(line).unwrap_or_else(|error| panic!("{line}: {error}"));
            let Command::Lease(lease) = cli.command else { panic!("{line}: not a lease command") };
            assert_eq!(lease.remote.or(cli.remote).endpoints().unwrap(), ["a:1"], "{line}");
        }
    }

    #[test]
    fn nonsense_is_a_usage_error() {
        for line in [
            "tenure nothing",
            "tenure lease grant",
            "tenure lease grant 10parsecs",
            "tenure lease grant 10 --id 0",
            "tenure lease revoke",
            "tenure lease revoke xyz",
            "tenure lease timetolive 7 8",
            "tenure -w yaml lease list",
            "tenure --timeout 0 lease list",
            "tenure watch --from later",
            "tenure repair dir --shard 0",
            "tenure completions tcsh",
        ] {
            let error = parse(line).expect_err(line);
            assert_eq!(error.exit_code(), exit::USAGE, "{line}: {error}");
        }
    }
}
