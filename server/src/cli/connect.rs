//! From options to a connected client, and from its errors to a line that says what to do.
//!
//! A command is one short exchange: a runtime of one thread, one connection, no retry of the first
//! attempt to connect, so that a wrong endpoint is told at once. [`Interrupt`] is how a command that
//! goes on until the user stops it ends cleanly.

use tenure_client::{Client, ClientConfig, Error};
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::failure::{Failure, Outcome};
use super::remote::Remote;
use crate::exit;

/// Connects and runs a command.
///
/// # Errors
/// The options make no sense, no server can be reached, or the command failed.
pub(crate) fn run(remote: &Remote, command: impl AsyncFnOnce(Client) -> Outcome) -> Outcome {
    let mut config = ClientConfig::new("");
    config.endpoints = remote.endpoints()?;
    config.auth = remote.auth()?;
    config.connect_timeout = remote.timeout();
    config.request_timeout = remote.timeout();
    config.silence_max = remote.timeout();
    // Any connection answers for every shard; a second one would only cost a handshake.
    config.connections_max = 1;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(exit::SYSTEM, format!("cannot start an event loop: {error}")))?;
    runtime.block_on(async {
        let client = Client::connect_with(config).await.map_err(|error| of_client(&error))?;
        command(client).await
    })
}

/// What a failed call means to the user of a command line.
pub(crate) fn of_client(error: &Error) -> Failure {
    match error {
        Error::Refused { refusal, text, .. } => Failure::refused(*refusal, text),
        Error::Unreachable { reason } => {
            let reason = plain(reason);
            Failure::new(exit::UNREACHABLE, format!("cannot reach {reason}; {}", advice(&reason)))
        }
        Error::TooLarge(_) => {
            Failure::new(exit::REFUSED, "an item or batch is larger than the server takes; nothing was sent")
        }
        _ => Failure::new(exit::UNREACHABLE, plain(&error.to_string())),
    }
}

/// The system's words without their number, in the middle of a sentence.
fn plain(reason: &str) -> String {
    let reason = match reason.split_once(" (os error ") {
        Some((before, after)) => format!("{before}{}", after.split_once(')').map_or("", |(_, rest)| rest)),
        None => reason.to_owned(),
    };
    reason
        .replace(": Connection", ": connection")
        .replace(": Network", ": network")
        .replace(": No route", ": no route")
}

fn advice(reason: &str) -> &'static str {
    if reason.contains("refused") {
        "is the server running? start one with: tenure serve"
    } else if reason.contains("lookup") {
        "check the name in --endpoint"
    } else if reason.contains("timeout") || reason.contains("timed out") {
        "check the address in --endpoint, or wait longer with --timeout"
    } else {
        "is a Tenure server listening there?"
    }
}

/// SIGINT and SIGTERM, for a command that goes on until it is stopped.
pub(crate) struct Interrupt {
    int: Signal,
    term: Signal,
}

impl Interrupt {
    /// Takes the two signals from here on.
    ///
    /// # Errors
    /// The system does not let this process handle signals.
    pub(crate) fn take() -> Result<Interrupt, Failure> {
        let of = |error| Failure::new(exit::SYSTEM, format!("cannot handle signals: {error}"));
        let int = signal(SignalKind::interrupt()).map_err(of)?;
        let term = signal(SignalKind::terminate()).map_err(of)?;
        Ok(Interrupt { int, term })
    }

    /// Waits for either.
    pub(crate) async fn wait(&mut self) {
        tokio::select! {
            _ = self.int.recv() => {}
            _ = self.term.recv() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tenure_protocol::Refusal;

    #[test]
    fn a_missing_server_is_told_in_one_line_with_a_way_out() {
        for (reason, text) in [
            (
                "127.0.0.1:7070: Connection refused (os error 111)",
                "cannot reach 127.0.0.1:7070: connection refused; is the server running? start one with: tenure serve",
            ),
            (
                "nowhere:7070: failed to lookup address information: Name or service not known",
                "cannot reach nowhere:7070: failed to lookup address information: Name or service not known; \
                 check the name in --endpoint",
            ),
            (
                "10.0.0.1:7070: no answer within the connect timeout",
                "cannot reach 10.0.0.1:7070: no answer within the connect timeout; \
                 check the address in --endpoint, or wait longer with --timeout",
            ),
        ] {
            let failure = of_client(&Error::Unreachable { reason: reason.to_owned() });
            assert_eq!((failure.code, failure.text.as_str()), (exit::UNREACHABLE, text));
        }
    }

    #[test]
    fn a_refusal_keeps_its_code() {
        assert_eq!(of_client(&Error::from(Refusal::NotFound)).code, exit::REFUSED);
        assert_eq!(of_client(&Error::from(Refusal::Unauthorized)).code, exit::UNAUTHORIZED);
        assert_eq!(of_client(&Error::Closed).code, exit::UNREACHABLE);
    }
}
