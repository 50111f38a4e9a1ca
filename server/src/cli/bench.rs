//! `tenure bench`: mounts the load generator and hands it this binary to start a server with.

use std::process::ExitCode;

use clap::Args;
use tenure_bench::{BenchArgs, Command};

use super::failure::Failure;
use super::remote::{Form, Remote};
use crate::exit;

/// Load a server and report throughput, latency, CPU and lateness
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  tenure bench                             starts a durable server in a temporary directory
  tenure bench --quick --phases fill,renew,storm
  tenure bench --endpoint 127.0.0.1:7070 --leases 100000
  tenure bench goals                       every goal of the design, with what this machine can do at all

Do not load a server that others depend on. Exit code 1 when anything failed or was refused, \
130 or 143 when SIGINT or SIGTERM ended it.")]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Bench {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    args: BenchArgs,
}

impl Bench {
    pub(crate) fn run(self, outer: &Remote) -> Result<ExitCode, Failure> {
        let Bench { command, mut args } = self;
        // `tenure --endpoint a:1 bench` means what `tenure bench --endpoint a:1` means. The environment
        // is not asked: a bare `tenure bench` must never load a server by accident.
        args.endpoint = args.endpoint.or_else(|| outer.endpoint_named());
        if outer.form() == Form::Json {
            args.output = tenure_bench::Output::Json;
        }
        let fault = |text: String| Failure::new(exit::SYSTEM, text);
        let exe =
            std::env::current_exe().map_err(|error| fault(format!("cannot find this program: {error}")))?;
        if let Some(command) = command {
            return command.run(exe).map_err(|error| fault(format!("{error:#}")));
        }
        tenure_bench::run(args, exe).map_err(|error| {
            // As every other command tells it.
            let unreachable = tenure_bench::is_unreachable(&error);
            Failure::new(if unreachable { exit::UNREACHABLE } else { exit::SYSTEM }, format!("{error:#}"))
        })
    }
}
