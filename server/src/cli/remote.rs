//! Which server to talk to and how: the options that every command of a client shares.
//!
//! They may stand anywhere: `tenure --endpoint a:7070 lease list` as in etcdctl, or behind the
//! command. The one nearest to the command wins, then the environment, then the default. Options of
//! the connection are not shown where there is none (`serve`, `inspect`, …).

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, ValueEnum};

use super::failure::Failure;
use super::ttl;

/// Where a server listens when nobody says.
pub(crate) const ENDPOINT_DEFAULT: &str = "127.0.0.1:7070";

/// Port of an endpoint that names none.
const PORT_DEFAULT: u16 = 7070;

/// Time for connecting and for each request when nobody says.
const TIMEOUT_DEFAULT: Duration = Duration::from_secs(5);

/// Form of what is printed on standard output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Form {
    /// Lines for people, in the words of etcdctl
    #[default]
    Text,
    /// JSON, one object a line
    Json,
}

/// Options of every command that talks to a server.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Connection and output")]
pub(crate) struct Remote {
    /// Server to talk to; several separated by commas are tried in turn [env: TENURE_ENDPOINT] [default: 127.0.0.1:7070]
    #[arg(long, value_name = "HOST:PORT,..")]
    endpoint: Option<String>,
    /// Form of the output: text, or json with one object a line [default: text]
    #[arg(short = 'w', long, value_enum, value_name = "FORM", hide_possible_values = true)]
    output: Option<Form>,
    /// Longest time for connecting and for each request [default: 5s]
    #[arg(long, value_name = "SPAN", value_parser = parse_timeout)]
    timeout: Option<Duration>,
    /// File with the secret that the server asks for [env: TENURE_AUTH_TOKEN_FILE]
    #[arg(long, value_name = "FILE")]
    auth_token_file: Option<PathBuf>,
}

impl Remote {
    /// Takes from `outer` what is not said here.
    #[must_use]
    pub(crate) fn or(self, outer: Remote) -> Remote {
        Remote {
            endpoint: self.endpoint.or(outer.endpoint),
            output: self.output.or(outer.output),
            timeout: self.timeout.or(outer.timeout),
            auth_token_file: self.auth_token_file.or(outer.auth_token_file),
        }
    }

    /// The form of the output.
    pub(crate) fn form(&self) -> Form {
        self.output.unwrap_or_default()
    }

    /// The endpoint, if the command line names one.
    pub(crate) fn endpoint_named(&self) -> Option<String> {
        self.endpoint.clone()
    }

    /// The time for connecting and for each request.
    pub(crate) fn timeout(&self) -> Duration {
        self.timeout.unwrap_or(TIMEOUT_DEFAULT)
    }

    /// The servers to try, each as `HOST:PORT`.
    ///
    /// # Errors
    /// One of them cannot be an address.
    pub(crate) fn endpoints(&self) -> Result<Vec<String>, Failure> {
        let text = self.endpoint.clone().or_else(|| std::env::var("TENURE_ENDPOINT").ok());
        let text = text.filter(|text| !text.is_empty()).unwrap_or_else(|| ENDPOINT_DEFAULT.to_owned());
        text.split(',').map(|one| endpoint(one).map_err(Failure::usage)).collect()
    }

    /// The secret to present; empty when none is known.
    ///
    /// # Errors
    /// The file cannot be read.
    pub(crate) fn auth(&self) -> Result<Vec<u8>, Failure> {
        let file = self.auth_token_file.clone();
        let file = file.or_else(|| std::env::var_os("TENURE_AUTH_TOKEN_FILE").map(PathBuf::from));
        file.filter(|file| !file.as_os_str().is_empty()).map_or(Ok(Vec::new()), |file| read_secret(&file))
    }
}

fn read_secret(file: &Path) -> Result<Vec<u8>, Failure> {
    let text = std::fs::read_to_string(file).map_err(|error| Failure::file(file, &error))?;
    Ok(text.trim().as_bytes().to_vec())
}

fn parse_timeout(text: &str) -> Result<Duration, String> {
    match ttl::parse_ttl_ms(text)? {
        0 => Err("a timeout must be longer than nothing".to_owned()),
        timeout_ms => Ok(Duration::from_millis(timeout_ms)),
    }
}

/// Completes one endpoint to `HOST:PORT`.
fn endpoint(text: &str) -> Result<String, String> {
    let text = text.trim();
    let refuse =
        || format!("`{text}` is not an endpoint: write HOST:PORT, as in 127.0.0.1:7070 or [::1]:7070");
    // etcdctl's users are used to URLs; the scheme says nothing here.
    let address = text.strip_prefix("tcp://").or_else(|| text.strip_prefix("tenure://")).unwrap_or(text);
    if address.is_empty() || address.contains(['/', '@']) || address.contains(char::is_whitespace) {
        return Err(refuse());
    }
    // A bare IPv6 address has colons but no port.
    if address.parse::<std::net::Ipv6Addr>().is_ok() {
        return Ok(format!("[{address}]:{PORT_DEFAULT}"));
    }
    match address.rsplit_once(':') {
        Some((host, _)) if host.starts_with('[') && !host.ends_with(']') => {
            Ok(format!("{address}:{PORT_DEFAULT}"))
        }
        Some((host, port)) => {
            let is_port = port.parse::<u16>().is_ok_and(|port| port > 0);
            let is_host = !host.is_empty() && (host.starts_with('[') || !host.contains(':'));
            if is_host && is_port { Ok(address.to_owned()) } else { Err(refuse()) }
        }
        None => Ok(format!("{address}:{PORT_DEFAULT}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_completed_with_the_port() {
        for (text, whole) in [
            ("127.0.0.1:7070", "127.0.0.1:7070"),
            ("localhost", "localhost:7070"),
            (" leases.example:99 ", "leases.example:99"),
            ("[::1]:7171", "[::1]:7171"),
            ("[::1]", "[::1]:7070"),
            ("::1", "[::1]:7070"),
            ("tcp://10.0.0.1:1", "10.0.0.1:1"),
        ] {
            assert_eq!(endpoint(text).as_deref(), Ok(whole), "{text}");
        }
        for text in
            ["", ":7070", "host:", "host:0", "host:70707", "http://host:1", "a b:1", "a:b:1", "user@host:1"]
        {
            assert!(endpoint(text).expect_err(text).contains("HOST:PORT"), "{text}");
        }
    }

    #[test]
    fn what_stands_nearer_to_the_command_wins() {
        let outer = Remote {
            endpoint: Some("outer:1".to_owned()),
            timeout: Some(Duration::from_secs(1)),
            ..Remote::default()
        };
        let inner = Remote { endpoint: Some("inner:1,inner:2".to_owned()), ..Remote::default() };
        let both = inner.or(outer);
        assert_eq!(both.endpoints().unwrap(), ["inner:1", "inner:2"]);
        assert_eq!((both.timeout(), both.form()), (Duration::from_secs(1), Form::Text));
        let bad = Remote { endpoint: Some("ok:1,:".to_owned()), ..Remote::default() };
        assert_eq!(bad.endpoints().unwrap_err().code, crate::exit::USAGE);
    }

    #[test]
    fn timeouts_are_spans_above_zero() {
        assert_eq!(parse_timeout("5s"), Ok(Duration::from_secs(5)));
        assert_eq!(parse_timeout("300ms"), Ok(Duration::from_millis(300)));
        assert!(parse_timeout("0").is_err());
        assert!(parse_timeout("soon").is_err());
    }
}
