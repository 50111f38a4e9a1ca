//! What can go wrong with a call.
//!
//! The one question that a caller must be able to answer is whether the request may have been carried
//! out although no answer came; [`Error::outcome_unknown`] answers it.

use std::fmt;
use std::time::Duration;

use tenure_protocol::Refusal;

use crate::machine::SendError;

/// Why a call failed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// The server said no. Nothing was changed.
    Refused {
        /// Why.
        refusal: Refusal,
        /// A number that belongs to the refusal: see [`tenure_protocol::Refused`].
        detail: u64,
        /// The server's explanation; may be empty.
        text: String,
    },
    /// The connection was lost while the request was under way, and it is not safe to repeat.
    Disconnected {
        /// What ended the connection.
        reason: String,
    },
    /// No answer came within the request timeout, in spite of reconnecting and repeating where safe.
    Timeout {
        /// The request timeout.
        after: Duration,
        /// What stood in the way last, when anything is known.
        reason: Option<String>,
    },
    /// No connection could be made. Nothing was sent.
    Unreachable {
        /// What stood in the way.
        reason: String,
    },
    /// The request is larger than the server takes. Nothing was sent.
    TooLarge(SendError),
    /// The client was closed.
    Closed,
}

impl Error {
    /// Whether the request may have been carried out.
    #[must_use]
    pub fn outcome_unknown(&self) -> bool {
        matches!(self, Error::Disconnected { .. } | Error::Timeout { .. } | Error::Closed)
    }

    /// The refusal, if the server said no.
    #[must_use]
    pub fn refusal(&self) -> Option<Refusal> {
        match self {
            Error::Refused { refusal, .. } => Some(*refusal),
            _ => None,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Refused { refusal, text, .. } if text.is_empty() => refusal.fmt(f),
            Error::Refused { refusal, text, .. } => write!(f, "{refusal} ({text})"),
            Error::Disconnected { reason } => {
                write!(f, "connection lost, the outcome is unknown: {reason}")
            }
            Error::Timeout { after, reason: None } => {
                write!(f, "no answer within {after:?}, the outcome is unknown")
            }
            Error::Timeout { after, reason: Some(reason) } => {
                write!(f, "no answer within {after:?}, the outcome is unknown: {reason}")
            }
            Error::Unreachable { reason } => write!(f, "cannot reach the server: {reason}"),
            Error::TooLarge(error) => error.fmt(f),
            Error::Closed => f.write_str("the client is closed"),
        }
    }
}

impl std::error::Error for Error {}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Error {
        Error::Refused { refusal, detail: 0, text: String::new() }
    }
}
