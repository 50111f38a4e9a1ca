//! The configuration of `tenure serve`: flag over environment over file over default.
//!
//! [`Settings`] is one layer as it is written; [`ServeConfig`] is what the layers add up to, checked
//! and typed; [`Effective`] is the same with where each value came from, for `--print-config`. Keys
//! that nobody knows are refused by name rather than ignored: a typing error in `durability` must
//! not start a server that loses data.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::ArgMatches;
use clap::parser::ValueSource;
use tenure::{Config, Durability, Renewals, Role};
use tenure_protocol::Limits;

use crate::serve::limits;

mod settings;

pub use settings::{
    DriverSetting, DurabilitySetting, LogFormat, OptionalSpan, RenewalsSetting, Settings, Span,
};

/// What a server is started with.
#[derive(Clone, Debug)]
pub struct ServeConfig {
    /// Addresses to listen on, `HOST:PORT`; port 0 lets the system choose.
    pub listen: Vec<String>,
    /// The engine behind the server.
    pub engine: Config,
    /// Connections at a time, over all cores.
    pub connection_count_max: u32,
    /// What each client must keep to.
    pub limits: Limits,
    /// Silence after which a connection without a subscription is closed. `None`: never.
    pub idle_timeout: Option<Duration>,
    /// Time within which a connection must introduce itself.
    pub handshake_timeout: Duration,
    /// Time without progress after which a connection with a full send buffer is dropped.
    pub slow_reader_timeout: Duration,
    /// Unsent bytes of one connection beyond which it is no longer read from.
    pub send_bytes_max: usize,
    /// A secret that every client must present; empty: none.
    pub auth: Vec<u8>,
    /// Form of the log lines.
    pub log_format: LogFormat,
    /// Which log lines are written.
    pub log_level: String,
}

impl Default for ServeConfig {
    fn default() -> Self {
        let settings = Settings::default();
        let (effective, file) = (&mut Effective::default(), Settings::default());
        layer(settings, file, &|_| Source::Default, effective).expect("the defaults are valid")
    }
}

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file could not be read.
    #[error("cannot read the configuration file {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system answered.
        source: std::io::Error,
    },
    /// The file is not valid: bad TOML, an unknown key, a value of the wrong form.
    #[error("{}: {reason}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong, with line and key.
        reason: String,
    },
    /// A value cannot work.
    #[error("{key}: {reason}")]
    Value {
        /// The setting.
        key: &'static str,
        /// What is wrong and what would be right.
        reason: String,
    },
}

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A flag on the command line.
    Flag,
    /// The environment variable of that name.
    Environment(String),
    /// The configuration file.
    File(PathBuf),
    /// Nobody said anything.
    Default,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Flag => f.write_str("flag"),
            Source::Environment(name) => write!(f, "environment {name}"),
            Source::File(path) => write!(f, "file {}", path.display()),
            Source::Default => f.write_str("default"),
        }
    }
}

/// The effective settings, printable as a TOML file that would reproduce them.
#[derive(Clone, Debug, Default)]
pub struct Effective {
    lines: Vec<(&'static str, Option<toml::Value>, Source)>,
}

impl fmt::Display for Effective {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (key, value, source) in &self.lines {
            let line = match value {
                Some(value) => format!("{key} = {value}"),
                None => format!("# {key} is not set"),
            };
            writeln!(f, "{line:<44} # {source}")?;
        }
        Ok(())
    }
}

/// Layers what the command line and environment say (`settings`, with `matches` to tell them apart)
/// over the file, if one is named, over the defaults.
///
/// # Errors
/// The file cannot be read or is not valid, or a value cannot work.
pub fn load(
    settings: Settings,
    matches: &ArgMatches,
    file: Option<&Path>,
) -> Result<(ServeConfig, Effective), ConfigError> {
    let from_file = file.map(read_file).transpose()?.unwrap_or_default();
    let source = |key: &'static str| {
        let id = key.replace('-', "_");
        match matches.value_source(&id) {
            Some(ValueSource::CommandLine) => Source::Flag,
            Some(ValueSource::EnvVariable) => Source::Environment(format!("TENURE_{}", id.to_uppercase())),
            _ => file.map_or(Source::Default, |path| Source::File(path.to_owned())),
        }
    };
    let mut effective = Effective::default();
    let config = layer(settings, from_file, &source, &mut effective)?;
    Ok((config, effective))
}

fn read_file(path: &Path) -> Result<Settings, ConfigError> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
    toml::from_str(&text)
        .map_err(|error| ConfigError::File { path: path.to_owned(), reason: error.to_string() })
}

/// What the text of a configuration file alone adds up to: for fuzzing, no stability is promised.
///
/// # Errors
/// As of [`load`].
#[cfg(feature = "simulation")]
pub fn read(text: &str) -> Result<(ServeConfig, Effective), ConfigError> {
    let file = toml::from_str(text)
        .map_err(|error| ConfigError::File { path: PathBuf::new(), reason: error.to_string() })?;
    let mut effective = Effective::default();
    let config = layer(Settings::default(), file, &|_| Source::File(PathBuf::new()), &mut effective)?;
    Ok((config, effective))
}

/// Picks each value from the topmost layer that has it and notes where it came from.
struct Layers<'a> {
    source: &'a dyn Fn(&'static str) -> Source,
    effective: &'a mut Effective,
}

impl Layers<'_> {
    fn optional<T: Clone>(
        &mut self,
        key: &'static str,
        top: Option<T>,
        file: Option<T>,
        show: impl Fn(&T) -> toml::Value,
    ) -> Option<T> {
        let source = if top.is_some() || file.is_some() { (self.source)(key) } else { Source::Default };
        let value = top.or(file);
        self.effective.lines.push((key, value.as_ref().map(show), source));
        value
    }

    fn pick<T: Clone>(
        &mut self,
        key: &'static str,
        top: Option<T>,
        file: Option<T>,
        default: T,
        show: impl Fn(&T) -> toml::Value,
    ) -> T {
        let set = top.is_some() || file.is_some();
        let source = if set { (self.source)(key) } else { Source::Default };
        let value = top.or(file).unwrap_or(default);
        self.effective.lines.push((key, Some(show(&value)), source));
        value
    }
}

fn text<T: fmt::Display>(value: &T) -> toml::Value {
    toml::Value::String(value.to_string())
}

fn path(value: &impl AsRef<Path>) -> toml::Value {
    toml::Value::String(value.as_ref().display().to_string())
}

fn number<T: TryInto<i64> + Copy>(value: &T) -> toml::Value {
    toml::Value::Integer((*value).try_into().unwrap_or(i64::MAX))
}

fn layer(
    top: Settings,
    file: Settings,
    source: &dyn Fn(&'static str) -> Source,
    effective: &mut Effective,
) -> Result<ServeConfig, ConfigError> {
    let mut layers = Layers { source, effective };
    let engine = layer_engine(&top, &file, &mut layers);
    let l = &mut layers;
    let listen = l.pick("listen", top.listen, file.listen, vec![limits::LISTEN_DEFAULT.to_owned()], |all| {
        toml::Value::Array(all.iter().map(text).collect())
    });
    let connections = limits::CONNECTION_COUNT_MAX_DEFAULT;
    let connection_count_max =
        l.pick("max-connections", top.max_connections, file.max_connections, connections, number);
    let idle = OptionalSpan(Some(limits::IDLE_TIMEOUT_DEFAULT));
    let idle_timeout = l.pick("idle-timeout", top.idle_timeout, file.idle_timeout, idle, text).0;
    let span = Span(limits::HANDSHAKE_TIMEOUT_DEFAULT);
    let handshake_timeout =
        l.pick("handshake-timeout", top.handshake_timeout, file.handshake_timeout, span, text).0;
    let span = Span(limits::SLOW_READER_TIMEOUT_DEFAULT);
    let slow_reader_timeout =
        l.pick("slow-reader-timeout", top.slow_reader_timeout, file.slow_reader_timeout, span, text).0;
    let window = l.pick("window", top.window, file.window, Limits::DEFAULT.window, number);
    let frame_bytes_max =
        l.pick("frame-max", top.frame_max, file.frame_max, Limits::DEFAULT.frame_bytes_max, number);
    let send_bytes_max =
        l.pick("send-max", top.send_max, file.send_max, limits::SEND_BYTES_MAX_DEFAULT, number);
    let auth_file = l.optional("auth-token-file", top.auth_token_file, file.auth_token_file, path);
    let log_format = l.pick("log-format", top.log_format, file.log_format, LogFormat::Text, text);
    let log_level = l.pick("log-level", top.log_level, file.log_level, "info".to_owned(), text);
    let config = ServeConfig {
        listen,
        engine,
        connection_count_max,
        limits: protocol_limits(frame_bytes_max, window)?,
        idle_timeout,
        handshake_timeout,
        slow_reader_timeout,
        send_bytes_max,
        auth: auth_file.as_deref().map(read_auth).transpose()?.unwrap_or_default(),
        log_format,
        log_level,
    };
    check(&config)?;
    Ok(config)
}

fn layer_engine(top: &Settings, file: &Settings, l: &mut Layers<'_>) -> Config {
    let defaults = Config::default();
    let data_dir = l.optional("data-dir", top.data_dir.clone(), file.data_dir.clone(), path);
    let shard_count = l.optional("shards", top.shards, file.shards, number);
    let driver = l.pick("driver", top.driver, file.driver, DriverSetting::Auto, text);
    let durability = l.pick("durability", top.durability, file.durability, DurabilitySetting::Always, text);
    let renewals = l.pick("renewals", top.renewals, file.renewals, RenewalsSetting::Unlogged, text);
    let interval = OptionalSpan(defaults.checkpoint_interval);
    let checkpoint_interval =
        l.pick("checkpoint-interval", top.checkpoint_interval, file.checkpoint_interval, interval, text);
    let segment_bytes =
        l.pick("segment-size", top.segment_size, file.segment_size, defaults.segment_bytes, number);
    let snapshot_log_bytes =
        l.pick("snapshot-log", top.snapshot_log, file.snapshot_log, defaults.snapshot_log_bytes, number);
    let retain_bytes = l.pick("retain-log", top.retain_log, file.retain_log, defaults.retain_bytes, number);
    let event_buffer = defaults.event_buffer_bytes as u64;
    let event_buffer = l.pick("event-buffer", top.event_buffer, file.event_buffer, event_buffer, number);
    let ttl_min = l.pick("ttl-min", top.ttl_min, file.ttl_min, Span(defaults.ttl_min), text);
    let ttl_max = l.pick("ttl-max", top.ttl_max, file.ttl_max, Span(defaults.ttl_max), text);
    let lease_count_max =
        l.pick("max-leases", top.max_leases, file.max_leases, defaults.lease_count_max, number);
    let first_cpu = l.pick("first-cpu", top.first_cpu, file.first_cpu, defaults.first_cpu, number);
    let no_pin = l.pick("no-pin", top.no_pin, file.no_pin, false, |no| toml::Value::Boolean(*no));
    let spin = u64::try_from(defaults.spin.as_micros()).expect("the default spin is short");
    let spin_us = l.pick("spin-us", top.spin_us, file.spin_us, spin, number);
    let standby = l.pick("standby", top.standby, file.standby, false, |yes| toml::Value::Boolean(*yes));
    Config {
        data_dir,
        shard_count,
        driver: match driver {
            DriverSetting::Auto => tenure::Driver::Auto,
            DriverSetting::Ring => tenure::Driver::Ring,
            DriverSetting::Glommio => tenure::Driver::Glommio,
        },
        durability: match durability {
            DurabilitySetting::Always => Durability::Always,
            DurabilitySetting::IntervalMs(ms) => Durability::Interval(Duration::from_millis(ms)),
            DurabilitySetting::None => Durability::None,
        },
        renewals: match renewals {
            RenewalsSetting::Unlogged => Renewals::Unlogged,
            RenewalsSetting::Logged => Renewals::Logged,
        },
        role: if standby { Role::Standby } else { Role::Primary },
        ttl_min: ttl_min.0,
        ttl_max: ttl_max.0,
        lease_count_max,
        checkpoint_interval: checkpoint_interval.0,
        segment_bytes,
        snapshot_log_bytes,
        retain_bytes,
        event_buffer_bytes: usize::try_from(event_buffer).unwrap_or(usize::MAX),
        pin: !no_pin,
        first_cpu,
        spin: Duration::from_micros(spin_us),
        ..defaults
    }
}

/// The limits announced to clients: the protocol's defaults cut to what fits the largest frame.
fn protocol_limits(frame_bytes_max: u32, window: u32) -> Result<Limits, ConfigError> {
    let entries_max = |entry_bytes: u32| frame_bytes_max.saturating_sub(64) / entry_bytes;
    let limits = Limits {
        frame_bytes_max,
        window,
        batch_ids_max: Limits::DEFAULT.batch_ids_max.min(entries_max(8)),
        grant_batch_max: Limits::DEFAULT.grant_batch_max.min(entries_max(40)),
        item_bytes_max: Limits::DEFAULT.item_bytes_max.min(entries_max(1)),
        list_page_max: Limits::DEFAULT.list_page_max.min(entries_max(40)),
    };
    if window == 0 {
        return Err(ConfigError::Value { key: "window", reason: "must be at least 1".to_owned() });
    }
    if !limits.are_consistent() || frame_bytes_max > limits::FRAME_BYTES_MAX_MAX {
        let reason = format!(
            "{frame_bytes_max} is not between {} and {}",
            tenure_protocol::limits::FRAME_BYTES_MAX_FLOOR,
            limits::FRAME_BYTES_MAX_MAX
        );
        return Err(ConfigError::Value { key: "frame-max", reason });
    }
    Ok(limits)
}

fn read_auth(file: &Path) -> Result<Vec<u8>, ConfigError> {
    let invalid = |reason: String| ConfigError::Value { key: "auth-token-file", reason };
    let text = std::fs::read_to_string(file)
        .map_err(|error| invalid(format!("cannot read {}: {error}", file.display())))?;
    let secret = text.trim().as_bytes();
    let bytes_max = tenure_protocol::limits::AUTH_BYTES_MAX as usize;
    if secret.is_empty() || secret.len() > bytes_max {
        return Err(invalid(format!("{} must hold a secret of 1 to {bytes_max} bytes", file.display())));
    }
    Ok(secret.to_vec())
}

fn check(config: &ServeConfig) -> Result<(), ConfigError> {
    let invalid = |key, reason: &str| Err(ConfigError::Value { key, reason: reason.to_owned() });
    if config.listen.is_empty() {
        return invalid("listen", "name at least one ADDR:PORT");
    }
    if config.connection_count_max == 0 {
        return invalid("max-connections", "must be at least 1");
    }
    if config.send_bytes_max < config.limits.frame_bytes_max as usize {
        return invalid("send-max", "must be at least frame-max, so that the largest reply fits");
    }
    if config.handshake_timeout.is_zero() || config.slow_reader_timeout.is_zero() {
        return invalid("handshake-timeout, slow-reader-timeout", "must not be zero");
    }
    Ok(())
}

#[cfg(test)]
mod tests;
