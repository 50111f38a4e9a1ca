//! The settings of `tenure serve` as they are written: one struct for flags, environment and file.
//!
//! Every field is optional, because each of the three may leave it out; `config.rs` layers them.
//! A name is the same everywhere: `--data-dir`, `TENURE_DATA_DIR`, `data-dir = "..."`.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::ValueEnum;
use serde::Deserialize;

use crate::duration;

/// One layer of settings.
#[derive(Clone, Debug, Default, clap::Args, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Settings {
    /// Address to listen on; repeat for several. Port 0 lets the system choose [default: 127.0.0.1:7070]
    #[arg(long, value_name = "ADDR:PORT", env = "TENURE_LISTEN", value_delimiter = ',')]
    pub listen: Option<Vec<String>>,
    /// Directory of the log. Without it the server keeps everything in memory
    #[arg(long, value_name = "DIR", env = "TENURE_DATA_DIR")]
    pub data_dir: Option<PathBuf>,
    /// Shards, each with a core of its own [default: what the directory has, else one per CPU]
    #[arg(long, value_name = "N", env = "TENURE_SHARDS")]
    pub shards: Option<u16>,
    /// Who moves the bytes [default: auto]
    #[arg(long, value_enum, env = "TENURE_DRIVER")]
    pub driver: Option<DriverSetting>,
    /// When a reply may leave: always, interval:MS, none [default: always]
    #[arg(long, value_name = "MODE", env = "TENURE_DURABILITY")]
    pub durability: Option<DurabilitySetting>,
    /// Whether renewals are logged, so that TTLs are exact across a restart [default: unlogged]
    #[arg(long, value_enum, env = "TENURE_RENEWALS")]
    pub renewals: Option<RenewalsSetting>,
    /// How often the remaining TTL of long leases is logged; off to never [default: 1m]
    #[arg(long, value_name = "SPAN", env = "TENURE_CHECKPOINT_INTERVAL")]
    pub checkpoint_interval: Option<OptionalSpan>,
    /// Size of a log segment, bytes: a multiple of 1 MiB, at least 4 MiB [default: 67108864]
    #[arg(long, value_name = "BYTES", env = "TENURE_SEGMENT_SIZE")]
    pub segment_size: Option<u64>,
    /// Log written per shard since the last snapshot that starts the next one, bytes [default: 268435456]
    #[arg(long, value_name = "BYTES", env = "TENURE_SNAPSHOT_LOG")]
    pub snapshot_log: Option<u64>,
    /// Log kept per shard behind a snapshot, so that event streams can be resumed, bytes [default: 268435456]
    #[arg(long, value_name = "BYTES", env = "TENURE_RETAIN_LOG")]
    pub retain_log: Option<u64>,
    /// Recent events kept in memory per shard, bytes; older ones are read from the log [default: 33554432]
    #[arg(long, value_name = "BYTES", env = "TENURE_EVENT_BUFFER")]
    pub event_buffer: Option<u64>,
    /// Shorter TTLs are raised to this [default: 1ms]
    #[arg(long, value_name = "SPAN", env = "TENURE_TTL_MIN")]
    pub ttl_min: Option<Span>,
    /// Longer TTLs are refused [default: 9000000000s]
    #[arg(long, value_name = "SPAN", env = "TENURE_TTL_MAX")]
    pub ttl_max: Option<Span>,
    /// Connections at a time, over all cores [default: 65536]
    #[arg(long, value_name = "N", env = "TENURE_MAX_CONNECTIONS")]
    pub max_connections: Option<u32>,
    /// Live leases that one shard may hold [default: 134217728]
    #[arg(long, value_name = "N", env = "TENURE_MAX_LEASES")]
    pub max_leases: Option<u32>,
    /// Close connections that send nothing for this long, unless they are subscribed; off to never [default: 10m]
    #[arg(long, value_name = "SPAN", env = "TENURE_IDLE_TIMEOUT")]
    pub idle_timeout: Option<OptionalSpan>,
    /// Close connections that do not introduce themselves within this [default: 5s]
    #[arg(long, value_name = "SPAN", env = "TENURE_HANDSHAKE_TIMEOUT")]
    pub handshake_timeout: Option<Span>,
    /// Drop connections that read nothing of a full send buffer for this long [default: 10s]
    #[arg(long, value_name = "SPAN", env = "TENURE_SLOW_READER_TIMEOUT")]
    pub slow_reader_timeout: Option<Span>,
    /// Requests in flight per connection [default: 65536]
    #[arg(long, value_name = "N", env = "TENURE_WINDOW")]
    pub window: Option<u32>,
    /// Largest frame, bytes [default: 1048576]
    #[arg(long, value_name = "BYTES", env = "TENURE_FRAME_MAX")]
    pub frame_max: Option<u32>,
    /// Unsent bytes of one connection beyond which it is no longer read from [default: 4194304]
    #[arg(long, value_name = "BYTES", env = "TENURE_SEND_MAX")]
    pub send_max: Option<usize>,
    /// File with a secret that every client must present
    #[arg(long, value_name = "FILE", env = "TENURE_AUTH_TOKEN_FILE")]
    pub auth_token_file: Option<PathBuf>,
    /// Form of the log lines on standard error [default: text]
    #[arg(long, value_enum, env = "TENURE_LOG_FORMAT")]
    pub log_format: Option<LogFormat>,
    /// Which log lines are written: error, warn, info, debug, trace, or a tracing filter [default: info]
    #[arg(long, value_name = "LEVEL", env = "TENURE_LOG_LEVEL")]
    pub log_level: Option<String>,
    /// CPU of shard 0; the others follow [default: 0]
    #[arg(long, value_name = "CPU", env = "TENURE_FIRST_CPU")]
    pub first_cpu: Option<usize>,
    /// Leave the core threads to the scheduler instead of pinning them
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", env = "TENURE_NO_PIN")]
    pub no_pin: Option<bool>,
    /// How long a core polls after traffic before it sleeps, microseconds [default: 50]
    #[arg(long, value_name = "US", env = "TENURE_SPIN_US")]
    pub spin_us: Option<u64>,
    /// Start a new data directory as a standby: apply, but never expire
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", env = "TENURE_STANDBY")]
    pub standby: Option<bool>,
}

/// `driver`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DriverSetting {
    /// ring where the kernel has it, else glommio
    Auto,
    /// One raw io_uring per core (kernel 6.1 and newer)
    Ring,
    /// A glommio executor per core
    Glommio,
}

/// `renewals`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RenewalsSetting {
    /// After a restart each lease has its full TTL again, or its checkpointed rest
    Unlogged,
    /// Each renewal waits for the log; TTLs are exact across a restart
    Logged,
}

/// `log-format`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people
    Text,
    /// One object a line
    Json,
}

/// `durability`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum DurabilitySetting {
    /// After the log is on disk.
    Always,
    /// At once; the log is synced at this interval, ms.
    IntervalMs(u64),
    /// At once; syncing is left to the system.
    None,
}

/// A span of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Span(pub Duration);

/// A span of time, or `off`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct OptionalSpan(pub Option<Duration>);

impl FromStr for DurabilitySetting {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "always" => Ok(DurabilitySetting::Always),
            "none" => Ok(DurabilitySetting::None),
            _ => match text.strip_prefix("interval:").map(|ms| ms.trim_end_matches("ms").parse()) {
                Some(Ok(ms)) if ms > 0 => Ok(DurabilitySetting::IntervalMs(ms)),
                _ => Err(format!(
                    "`{text}` is not a durability: write always, interval:MS (such as interval:50) or none"
                )),
            },
        }
    }
}

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        duration::parse(text).map(Span)
    }
}

impl FromStr for OptionalSpan {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "off" {
            return Ok(OptionalSpan(None));
        }
        let span = duration::parse(text).map_err(|error| format!("{error}, or off"))?;
        Ok(OptionalSpan((!span.is_zero()).then_some(span)))
    }
}

macro_rules! by_text {
    ($($name:ident),*) => {$(
        impl TryFrom<String> for $name {
            type Error = String;

            fn try_from(text: String) -> Result<Self, String> {
                text.parse()
            }
        }
    )*};
}
by_text!(DurabilitySetting, Span, OptionalSpan);

impl fmt::Display for DurabilitySetting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DurabilitySetting::Always => f.write_str("always"),
            DurabilitySetting::IntervalMs(ms) => write!(f, "interval:{ms}"),
            DurabilitySetting::None => f.write_str("none"),
        }
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&duration::format(self.0))
    }
}

impl fmt::Display for OptionalSpan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(span) => f.write_str(&duration::format(span)),
            None => f.write_str("off"),
        }
    }
}

macro_rules! by_value_name {
    ($($name:ident),*) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.to_possible_value().expect("no value is hidden").get_name())
            }
        }
    )*};
}
by_value_name!(DriverSetting, RenewalsSetting, LogFormat);
