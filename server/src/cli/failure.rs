//! Why a command did not do what it was asked: one line for people, one exit code for scripts.
//!
//! Every error of every layer becomes a [`Failure`] where it is met, because only there it is known
//! what the user can do about it. The line says that; the code is one of [`crate::exit`].

use std::fmt;
use std::io;
use std::path::Path;

use tenure::log::LogError;
use tenure_protocol::Refusal;

use crate::exit;

/// What a command does.
pub(crate) type Outcome = Result<(), Failure>;

/// A command that did not do what it was asked.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    /// The exit code, from [`crate::exit`].
    pub(crate) code: i32,
    /// One line for standard error; empty when everything has been said already.
    pub(crate) text: String,
}

impl Failure {
    pub(crate) fn new(code: i32, text: impl Into<String>) -> Failure {
        Failure { code, text: text.into() }
    }

    /// The command line makes no sense, in a way that only a look at several arguments shows.
    pub(crate) fn usage(text: impl Into<String>) -> Failure {
        Failure::new(exit::USAGE, text)
    }

    /// The answer has been printed, and it is no.
    pub(crate) fn said() -> Failure {
        Failure::new(exit::REFUSED, "")
    }

    /// The server refused. `text` is its explanation, which may be empty.
    pub(crate) fn refused(refusal: Refusal, text: &str) -> Failure {
        let code = match refusal {
            Refusal::Unauthorized => exit::UNAUTHORIZED,
            Refusal::ShuttingDown | Refusal::Busy | Refusal::TooManyConnections => exit::UNREACHABLE,
            _ => exit::REFUSED,
        };
        let hint = match refusal {
            Refusal::Unauthorized => "; pass the server's secret with --auth-token-file FILE",
            Refusal::NotPrimary => " with: tenure promote",
            _ => "",
        };
        if text.is_empty() {
            Failure::new(code, format!("{refusal}{hint}"))
        } else {
            Failure::new(code, format!("{refusal}{hint} ({text})"))
        }
    }

    /// A data directory, file or request to a tool that does not work out.
    pub(crate) fn log(error: &LogError) -> Failure {
        let code = match error {
            LogError::Damaged(_) | LogError::Manifest { .. } | LogError::Replay { .. } => exit::DAMAGED,
            LogError::Version { .. } => exit::DAMAGED,
            LogError::Locked { .. } => exit::IN_USE,
            LogError::Request(_) => exit::REFUSED,
            LogError::Io { .. } | LogError::Unreadable { .. } => exit::SYSTEM,
        };
        Failure::new(code, error.to_string())
    }

    /// A file that the user named cannot be read.
    pub(crate) fn file(path: &Path, error: &io::Error) -> Failure {
        Failure::new(exit::CONFIG, format!("cannot read {}: {error}", path.display()))
    }
}

impl From<io::Error> for Failure {
    /// Standard output does not take what is printed. When nobody reads it any more, as in
    /// `tenure lease list | head`, this ends as silently as a program that SIGPIPE ends.
    fn from(error: io::Error) -> Failure {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Failure::new(exit::SIGNAL_BASE + libc::SIGPIPE, ""),
            _ => Failure::new(exit::SYSTEM, format!("cannot write the output: {error}")),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_says_what_to_do_and_has_its_own_exit_code() {
        let failure = Failure::refused(Refusal::NotFound, "");
        assert_eq!((failure.code, failure.text.as_str()), (1, "no live lease has this ID: grant a new one"));
        let failure = Failure::refused(Refusal::Unauthorized, "");
        assert_eq!(failure.code, 77);
        assert!(failure.text.contains("--auth-token-file"));
        let failure = Failure::refused(Refusal::NotPrimary, "");
        assert!(failure.text.contains("tenure promote"));
        assert_eq!(Failure::refused(Refusal::ShuttingDown, "restart").code, 69);
    }
}
