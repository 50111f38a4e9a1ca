//! What ends a connection, and what keeps a request from being sent.

use std::fmt;

use tenure_protocol::{ProtocolError, Refusal, RequestId};

/// Why a connection cannot go on. It takes and delivers nothing any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConnectionError {
    /// The server sent bytes that are not this protocol.
    Protocol(ProtocolError),
    /// The server sent a frame that answers nothing that was asked.
    Unexpected {
        /// The frame's opcode.
        opcode: u8,
        /// Its request id.
        request_id: RequestId,
    },
    /// The server refused the handshake, or closed the connection for something that was sent.
    Refused {
        /// Why.
        refusal: Refusal,
        /// The server's explanation.
        text: String,
    },
    /// The server has not said anything for too long although requests wait.
    Silent,
}

impl fmt::Display for ConnectionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ConnectionError::Protocol(error) => write!(f, "the server broke the protocol: {error}"),
            ConnectionError::Unexpected { opcode, request_id } => {
                write!(
                    f,
                    "the server answered what was not asked: opcode {opcode:#04x}, request id {request_id}"
                )
            }
            ConnectionError::Refused { refusal, text } if text.is_empty() => refusal.fmt(f),
            ConnectionError::Refused { refusal, text } => write!(f, "{refusal} ({text})"),
            ConnectionError::Silent => f.write_str("the server does not answer"),
        }
    }
}

impl std::error::Error for ConnectionError {}

impl From<ProtocolError> for ConnectionError {
    fn from(error: ProtocolError) -> ConnectionError {
        ConnectionError::Protocol(error)
    }
}

/// Why a request was not taken. Nothing was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SendError {
    /// The Welcome has not come yet.
    NotReady,
    /// As many requests wait as the server allows; poll replies first.
    WindowFull,
    /// The server is going away, or the connection has failed.
    Closed,
    /// More entries than the server takes in one batch.
    BatchTooLarge {
        /// The server's limit.
        count_max: u32,
    },
    /// The item or the frame is larger than the server takes.
    TooLarge,
}

impl fmt::Display for SendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SendError::NotReady => f.write_str("the handshake is not done"),
            SendError::WindowFull => f.write_str("as many requests are in flight as the server allows"),
            SendError::Closed => f.write_str("the connection is closing"),
            SendError::BatchTooLarge { count_max } => write!(f, "a batch has at most {count_max} entries"),
            SendError::TooLarge => f.write_str("larger than the server accepts"),
        }
    }
}

impl std::error::Error for SendError {}
