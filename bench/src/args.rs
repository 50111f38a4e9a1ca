//! The command line of `tenure bench`, as a clap fragment that the `tenure` binary mounts.
//!
//! Optional everywhere: a bare `tenure bench` starts a durable server, loads it for about a minute
//! and reports. What a field left out means is decided in [`crate::plan`], which knows the machine.

use std::path::PathBuf;
use std::time::Duration;

use clap::ValueEnum;

/// Arguments of `tenure bench`.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct BenchArgs {
    /// Load this server instead of starting one
    #[arg(long, value_name = "HOST:PORT")]
    pub endpoint: Option<String>,
    /// Process id of the server behind --endpoint, on this machine, for its CPU and memory
    #[arg(long, value_name = "PID", requires = "endpoint")]
    pub server_pid: Option<u32>,
    /// File with the secret that the server behind --endpoint asks for
    #[arg(long, value_name = "FILE", requires = "endpoint")]
    pub auth_token_file: Option<PathBuf>,
    /// Phases to run, in this order [default: fill, renew, renew1, renew-batch, grant, grant1, open, lateness, storm, revoke]
    #[arg(long, value_enum, value_delimiter = ',', value_name = "PHASE,..")]
    pub phases: Vec<Phase>,
    /// A short run with small counts, for CI: about 15 s
    #[arg(long)]
    pub quick: bool,
    /// Who chooses the IDs of leases
    #[arg(long, value_enum, default_value_t = Ids::Assigned, value_name = "WHO")]
    pub ids: Ids,
    /// Leases held while renewing [default: 1000000, quick 100000]
    #[arg(long, value_name = "N")]
    pub leases: Option<u64>,
    /// TTL of the leases that are held, such as 10m: longer than the run, or they expire [default: 60m]
    #[arg(long, value_name = "SPAN", value_parser = parse_span)]
    pub ttl: Option<Duration>,
    /// Connections [default: 64]
    #[arg(long, value_name = "N")]
    pub connections: Option<usize>,
    /// Requests in flight per connection where pipelined [default: 32]
    #[arg(long, value_name = "N")]
    pub depth: Option<usize>,
    /// Leases per frame in renew-batch [default: 256]
    #[arg(long, value_name = "N")]
    pub batch: Option<usize>,
    /// Batches in flight per connection in renew-batch [default: 4]
    #[arg(long, value_name = "N")]
    pub batch_depth: Option<usize>,
    /// Measured time of each phase, such as 5s or 800ms [default: 5s, quick 1s]
    #[arg(long, value_name = "SPAN", value_parser = parse_span)]
    pub duration: Option<Duration>,
    /// Operations per second of open, grant-open and mixed [default: half of what renew or grant reached; mixed --foreground-rate]
    #[arg(long, value_name = "PER_S")]
    pub rate: Option<f64>,
    /// Renewals per second beside storm and lateness, operations of mixed [default: 100000]
    #[arg(long, value_name = "PER_S")]
    pub foreground_rate: Option<f64>,
    /// In which order leases are renewed
    #[arg(long, value_enum, default_value_t = Order::Shuffled, value_name = "ORDER")]
    pub order: Order,
    /// Exponent of Zipf's law, for --order zipf [default: 0.99]
    #[arg(long, value_name = "S")]
    pub zipf: Option<f64>,
    /// Clients of the fleet, which share the leases [default: 100000]
    #[arg(long, value_name = "N")]
    pub clients: Option<u64>,
    /// Connections of the fleet, where it has many [default: 10000, quick 500, or what the limit of open files allows]
    #[arg(long, value_name = "N")]
    pub fleet_connections: Option<usize>,
    /// How often the fleet renews its leases: a third of their TTL, such as 10s [default: 10s]
    #[arg(long, value_name = "SPAN", value_parser = parse_span)]
    pub fleet_period: Option<Duration>,
    /// Leases of the storm, all with one deadline [default: 1000000, quick 100000]
    #[arg(long, value_name = "N")]
    pub expire_leases: Option<u64>,
    /// Threads of the load side [default: half of the CPUs]
    #[arg(long, value_name = "N")]
    pub load_threads: Option<usize>,
    /// Shards of the server that is started [default: half of the CPUs]
    #[arg(long, value_name = "N")]
    pub shards: Option<u16>,
    /// Network driver of the server that is started: auto, ring, glommio [default: auto]
    #[arg(long, value_name = "DRIVER")]
    pub driver: Option<String>,
    /// Durability of the server that is started: always, interval:MS, none [default: always]
    #[arg(long, value_name = "MODE")]
    pub durability: Option<String>,
    /// More arguments for the server that is started; repeat for several
    #[arg(long, value_name = "ARG", allow_hyphen_values = true)]
    pub server_arg: Vec<String>,
    /// Where to make the server's temporary directory [default: the first disk among TMPDIR, /var/tmp, here]
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// First CPU of the server that is started; none to leave it to the scheduler [default: 0 when there are 2 or more]
    #[arg(long, value_name = "CPU")]
    pub pin_server: Option<CpuChoice>,
    /// Last CPU of the load side, the first thread's; none to leave it to the scheduler [default: the last when there are 2 or more]
    #[arg(long, value_name = "CPU")]
    pub pin_load: Option<CpuChoice>,
    /// Seed of the order in which leases are renewed
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
    /// Form of the report on standard output
    #[arg(short = 'w', long, value_enum, default_value_t = Output::Text, value_name = "FORM")]
    pub output: Output,
    /// Append the report to this file, as one line of JSON
    #[arg(long, value_name = "FILE")]
    pub json_out: Option<PathBuf>,
    /// Write a page with tables and charts to this file
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// No progress on standard error
    #[arg(long)]
    pub no_progress: bool,
}

/// One phase of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Phase {
    /// Grant --leases leases in batches, durably
    Fill,
    /// Renew, one per frame, --connections x --depth in flight
    Renew,
    /// Renew, one per frame, one in flight per connection
    Renew1,
    /// Renew in batches of --batch
    RenewBatch,
    /// Grant, one per frame, --connections x --depth in flight
    Grant,
    /// Grant, one at a time over one connection
    Grant1,
    /// Renew at a fixed rate; latency from the intended send time
    Open,
    /// Grant at a fixed rate, durably; latency from the intended send time
    GrantOpen,
    /// Leases ending a few at a time, first alone, then beside renewals: how late
    Lateness,
    /// --expire-leases leases with one deadline, beside renewals
    Storm,
    /// Renew at a fixed rate while leases come, go and expire
    Mixed,
    /// --clients renew all their leases once per --fleet-period, over few connections and over many
    Fleet,
    /// Clients that connect, grant, renew, revoke and close
    Churn,
    /// Renew leases of another core: none, half, all
    Cross,
    /// Kill the server that was started and start it again: how long until it renews
    Restart,
    /// Revoke what is left
    Revoke,
}

/// Who chooses the IDs of leases.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ids {
    /// The server
    #[default]
    Assigned,
    /// The client, any 64 bits
    Chosen,
}

impl Phase {
    /// A full run; the other phases are run when they are asked for.
    pub const ALL: [Phase; 10] = [
        Phase::Fill,
        Phase::Renew,
        Phase::Renew1,
        Phase::RenewBatch,
        Phase::Grant,
        Phase::Grant1,
        Phase::Open,
        Phase::Lateness,
        Phase::Storm,
        Phase::Revoke,
    ];

    /// Whether it renews the leases of [`Phase::Fill`].
    #[must_use]
    pub fn needs_leases(self) -> bool {
        use Phase::{Cross, Fleet, Mixed, Open, Renew, Renew1, RenewBatch, Restart};
        matches!(self, Renew | Renew1 | RenewBatch | Open | Mixed | Fleet | Cross | Restart)
    }

    /// The name on the command line.
    #[must_use]
    pub fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }
}

/// In which order leases are renewed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Order {
    /// Each once per round
    #[default]
    Shuffled,
    /// Any at any time
    Uniform,
    /// A few most of the time
    Zipf,
}

/// Form of the report.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// A table
    #[default]
    Text,
    /// One JSON object
    Json,
}

/// A CPU, or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CpuChoice {
    /// Stay on this CPU.
    Cpu(usize),
    /// Wherever the scheduler likes.
    None,
}

impl std::str::FromStr for CpuChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<CpuChoice, String> {
        if text == "none" {
            return Ok(CpuChoice::None);
        }
        text.parse()
            .map(CpuChoice::Cpu)
            .map_err(|_| format!("`{text}` is not a CPU number: write for example 1, or none"))
    }
}

/// Reads `800ms`, `5s` or `2m`.
pub(crate) fn parse_span(text: &str) -> Result<Duration, String> {
    let refuse = || format!("`{text}` is not a span of time: write for example 800ms, 5s or 2m");
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| refuse())?;
    let unit_ms = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        _ => return Err(refuse()),
    };
    number.checked_mul(unit_ms).map(Duration::from_millis).ok_or_else(refuse)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        bench: BenchArgs,
    }

    fn parse(line: &str) -> Result<BenchArgs, String> {
        Command::try_parse_from(line.split(' '))
            .map(|command| command.bench)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn phases_are_read_in_the_order_given() {
        let args = parse("bench --phases storm,renew-batch,renew1 --expire-leases 10000000").unwrap();
        assert_eq!(args.phases, [Phase::Storm, Phase::RenewBatch, Phase::Renew1]);
        assert_eq!(args.expire_leases, Some(10_000_000));
    }

    #[test]
    fn spans_and_cpus_are_read_or_refused_with_an_example() {
        let args = parse("bench --duration 800ms --pin-load none --pin-server 3").unwrap();
        assert_eq!(args.duration, Some(Duration::from_millis(800)));
        assert_eq!((args.pin_load, args.pin_server), (Some(CpuChoice::None), Some(CpuChoice::Cpu(3))));
        assert!(parse("bench --duration 5").unwrap_err().contains("for example 800ms"));
        assert!(parse("bench --pin-load x").unwrap_err().contains("or none"));
        assert!(parse("bench --server-pid 7").unwrap_err().contains("--endpoint"));
    }
}
