//! Tenure's binary wire protocol: bytes to frames and back, without I/O.
//!
//! The normative description is `docs/protocol.md`; `tests/vectors/protocol-*.txt` has its frames in
//! hex. This crate is one implementation, used by the server and the client, and by nothing else of
//! Tenure: it does not know the engine.
//!
//! Decoding borrows: [`Frames`] cuts a receive buffer, [`Request::decode`] and [`Response::decode`]
//! give views into it. Encoding appends to a `Vec<u8>` that the caller keeps. Neither allocates on
//! behalf of a peer, and bytes from outside never panic (S8).
//!
//! ```
//! use tenure_protocol::{Frames, LeaseId, Limits, Request, RequestId, Response, encode};
//!
//! // A client asks …
//! let mut to_server = Vec::new();
//! encode::renew_batch(&mut to_server, RequestId(7), [LeaseId(1), LeaseId(2)].into_iter());
//!
//! // … a server reads …
//! let limits = Limits::DEFAULT;
//! let mut frames = Frames::new(&to_server, limits.frame_bytes_max);
//! let frame = frames.next_frame()?.expect("the frame is whole");
//! let Request::RenewBatch(ids) = Request::decode(&frame, &limits)? else { panic!() };
//! assert_eq!(ids.iter().map(|id| id.0).collect::<Vec<_>>(), [1, 2]);
//!
//! // … and answers that all were renewed, in 16 bytes.
//! let mut to_client = Vec::new();
//! encode::reply::renew_batch(&mut to_client, frame.header.request_id, 2, std::iter::empty());
//! assert_eq!(to_client.len(), 16);
//! let frame = Frames::new(&to_client, limits.frame_bytes_max).next_frame()?.expect("whole");
//! let Response::RenewBatch(outcome) = Response::decode(&frame)? else { panic!() };
//! assert!(outcome.is_all());
//! # Ok::<(), tenure_protocol::ProtocolError>(())
//! ```

#![forbid(unsafe_code)]

pub mod encode;
pub mod limits;
pub mod opcode;

mod batch;
mod error;
mod event;
mod frame;
mod handshake;
mod id;
mod info;
mod items;
mod reader;
mod refusal;
mod request;
mod response;
mod writer;

pub use batch::{BatchOutcome, Failed, GrantBatch, GrantEntry, GrantResults, Granted, Ids};
pub use error::ProtocolError;
pub use event::{Cause, ENDED_STRIDE, Ended, EndedHead, EndedItems, EndedItemsHead, EndedLease, Event};
pub use frame::{
    Frame, Frames, Header, RENEW_BYTES, RENEWED_BYTES, first_frame, peek, renew_at, renew_frame, renewed_at,
    renewed_frame,
};
pub use handshake::{Hello, MAGIC, Welcome};
pub use id::{ID_RULE, LeaseId, Position, RequestId, Token, mix, shard_of, unmix};
pub use info::{Info, InfoNumber, InfoText, TURN_CAUSES, TurnCause, tag, text_tag};
pub use items::{ItemIter, Items};
pub use limits::Limits;
pub use refusal::Refusal;
pub use request::{Grant, Request};
pub use response::{ItemPage, ListPage, Listed, Refused, Response, TimeToLive};

/// Lowest protocol version that this crate speaks.
pub const VERSION_MIN: u16 = 1;
/// Highest protocol version that this crate speaks.
pub const VERSION_MAX: u16 = 1;

// Frame counts and offsets are u32 on the wire and usize in memory.
const _: () = assert!(usize::BITS >= 32);
