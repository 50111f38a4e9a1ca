//! `tenure serve`: configuration, logging, signals; then the server.

use std::io::{IsTerminal, Write};
use std::path::PathBuf;

use clap::{ArgMatches, Args};
use tracing_subscriber::EnvFilter;

use crate::exit;
use crate::serve::config::{self, LogFormat, ServeConfig, Settings};
use crate::serve::signal;
use crate::serve::start::{Running, Server, StartError};

/// Run a server.
#[derive(Debug, Args)]
pub(super) struct Serve {
    #[command(flatten)]
    settings: Settings,
    /// TOML file with settings under the names of the flags; flags and environment go before it
    #[arg(long, value_name = "FILE", env = "TENURE_CONFIG")]
    config: Option<PathBuf>,
    /// Print the effective configuration, with where each value comes from, and exit
    #[arg(long)]
    print_config: bool,
}

/// Runs until a signal says to stop.
pub(super) fn run(command: Serve, matches: &ArgMatches) -> i32 {
    let loaded = config::load(command.settings, matches, command.config.as_deref());
    let (config, effective) = match loaded {
        Ok(loaded) => loaded,
        Err(error) => {
            eprintln!("tenure: {error}");
            return exit::CONFIG;
        }
    };
    if command.print_config {
        say(format_args!("{effective}"));
        return exit::OK;
    }
    if let Err(error) = start_log(&config) {
        eprintln!("tenure: log-level: {error}");
        return exit::CONFIG;
    }
    signal::block();
    let signals = signal::listen();
    let running = match Server::start(config.clone()) {
        Ok(running) => running,
        Err(error) => {
            eprintln!("tenure: {error}");
            return code_of(&error);
        }
    };
    announce(&config, &running);
    let signal = signals.recv().expect("the signal thread does not end");
    tracing::info!(
        signal,
        connections = running.connection_count(),
        "stopping: draining connections and flushing the log"
    );
    running.stop();
    tracing::info!("stopped");
    exit::OK
}

fn start_log(config: &ServeConfig) -> Result<(), String> {
    let filter = EnvFilter::try_new(&config.log_level).map_err(|error| error.to_string())?;
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false);
    match config.log_format {
        LogFormat::Text => log.try_init(),
        LogFormat::Json => log.json().try_init(),
    }
    .map_err(|error| error.to_string())
}

/// The one clear line at the start, and what a script can wait for.
fn announce(config: &ServeConfig, running: &Running) {
    let opened = running.opened();
    for torn in &opened.torn {
        tracing::warn!("{torn}");
    }
    if let Some(from) = opened.resharded_from {
        tracing::info!(from, to = running.handle().shard_count(), "the directory was re-sharded");
    }
    if let Some(reason) = &opened.fallback {
        tracing::warn!(reason, "running on the slower driver");
    }
    if config.engine.data_dir.is_none() {
        tracing::warn!("in memory: nothing survives a restart; --data-dir DIR makes leases durable");
    }
    let addresses: Vec<String> = running.addresses().iter().map(ToString::to_string).collect();
    let durability = crate::serve::durability_text(&config.engine);
    let driver = crate::serve::driver_text(opened.driver);
    tracing::info!(
        address = addresses.join(","),
        cores = running.handle().shard_count(),
        driver,
        durability,
        leases = opened.lease_count,
        recovered_in = ?opened.took,
        "serving"
    );
    for address in addresses {
        say(format_args!("listening on {address}\n"));
    }
}

/// Writes to standard output, if anybody still reads it: a server does not end because nobody does.
fn say(text: std::fmt::Arguments<'_>) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_fmt(text).and_then(|()| out.flush());
}

fn code_of(error: &StartError) -> i32 {
    match error {
        StartError::Config(_) | StartError::Open(tenure::OpenError::Config(_)) => exit::CONFIG,
        StartError::Listen { .. } | StartError::CoreBusy => exit::SYSTEM,
        StartError::Open(open) => crate::exit::of_open(open),
    }
}
