//! Requests: what a client may ask, decoded into borrowed views and encoded back.
//!
//! [`Request::decode`] checks everything that can be checked without the engine: opcode, flags,
//! lengths, counts, limits. What it cannot know (is the lease alive, does the shard exist) is the
//! server's to refuse. A server with many Renews in its buffer takes them with
//! [`crate::Frames::next_renew`] first.

use crate::batch::{GrantBatch, Ids};
use crate::encode;
use crate::error::ProtocolError;
use crate::frame::Frame;
use crate::handshake::Hello;
use crate::id::{LeaseId, Position, RequestId};
use crate::limits::Limits;
use crate::opcode::{flag, request};
use crate::reader::{Reader, u64_at};

/// A grant of one lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant {
    /// Time to live in ms.
    pub ttl_ms: u64,
    /// The chosen ID, or [`LeaseId::NONE`] for the server to choose.
    pub id: LeaseId,
    /// With the Hello's client id, names this grant, so that a repeat is answered with the lease it
    /// already made. 0: not identified.
    pub sequence: u64,
}

/// One request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request<'a> {
    /// The client introduces itself.
    Hello(Hello<'a>),
    /// Answered with the same number.
    Ping {
        /// Any number.
        echo: u64,
    },
    /// Counters and state of the server.
    Info,
    /// Makes a lease.
    Grant(Grant),
    /// Makes many leases.
    GrantBatch(GrantBatch<'a>),
    /// Sets a lease's deadline to now + TTL.
    Renew {
        /// The lease.
        id: LeaseId,
    },
    /// Renews many leases.
    RenewBatch(Ids<'a>),
    /// Ends a lease.
    Revoke {
        /// The lease.
        id: LeaseId,
    },
    /// Ends many leases.
    RevokeBatch(Ids<'a>),
    /// TTL, remaining time and, on request, a page of items.
    TimeToLive {
        /// The lease.
        id: LeaseId,
        /// With a page of items.
        items: bool,
        /// The page starts after this item. Only with `items`.
        after: Option<&'a [u8]>,
    },
    /// A page of the leases of one shard.
    List {
        /// The shard.
        shard: u16,
        /// Most leases wanted; 0: as many as a page holds. Larger wishes are cut to the page.
        limit: u32,
        /// 0 to start, then the reply's next cursor.
        cursor: u64,
    },
    /// Puts an item on a lease, taking it from another lease of the same shard.
    Attach {
        /// The lease.
        id: LeaseId,
        /// The item.
        item: &'a [u8],
    },
    /// Takes an item off a lease.
    Detach {
        /// The lease.
        id: LeaseId,
        /// The item.
        item: &'a [u8],
    },
    /// Which lease has this item.
    LeaseOf {
        /// The item.
        item: &'a [u8],
    },
    /// End-of-lease events of one shard.
    Subscribe {
        /// The shard.
        shard: u16,
        /// Events at this position and later; [`Position::NOW`], [`Position::OLDEST`].
        from: Position,
    },
    /// Ends a subscription of this connection.
    Unsubscribe {
        /// The request id of its Subscribe.
        subscription: RequestId,
    },
    /// Makes a standby the primary.
    Promote {
        /// Every lease gets at least this much beside its remaining time, ms.
        extend_ms: u64,
    },
    /// Makes a primary a standby.
    Demote,
}

impl<'a> Request<'a> {
    /// Reads a request frame.
    ///
    /// # Errors
    /// Whatever is wrong with the frame; [`ProtocolError::refusal`] says what to answer.
    pub fn decode(frame: &Frame<'a>, limits: &Limits) -> Result<Request<'a>, ProtocolError> {
        let mut reader = Reader::new(frame);
        Ok(match frame.header.opcode {
            request::RENEW => Request::Renew { id: LeaseId(one_word(&reader)?) },
            request::GRANT => decode_grant(&reader)?,
            request::REVOKE => Request::Revoke { id: LeaseId(one_word(&reader)?) },
            request::TIME_TO_LIVE => decode_time_to_live(&mut reader, limits)?,
            request::HELLO => Request::Hello(Hello::decode(&mut reader)?),
            request::PING => Request::Ping { echo: one_word(&reader)? },
            request::INFO => {
                reader.exactly::<0>()?;
                Request::Info
            }
            request::GRANT_BATCH => {
                reader.flags(0)?;
                Request::GrantBatch(GrantBatch::decode(&mut reader, limits.grant_batch_max)?)
            }
            request::RENEW_BATCH => {
                reader.flags(0)?;
                Request::RenewBatch(Ids::decode(&mut reader, limits.batch_ids_max)?)
            }
            request::REVOKE_BATCH => {
                reader.flags(0)?;
                Request::RevokeBatch(Ids::decode(&mut reader, limits.batch_ids_max)?)
            }
            request::LIST => decode_list(&mut reader)?,
            request::ATTACH => {
                let (id, item) = decode_id_and_item(&mut reader, limits)?;
                Request::Attach { id, item }
            }
            request::DETACH => {
                let (id, item) = decode_id_and_item(&mut reader, limits)?;
                Request::Detach { id, item }
            }
            request::LEASE_OF => {
                reader.flags(0)?;
                Request::LeaseOf { item: decode_item(&mut reader, limits)? }
            }
            request::SUBSCRIBE => decode_subscribe(&mut reader)?,
            request::UNSUBSCRIBE => decode_unsubscribe(&mut reader)?,
            request::PROMOTE => Request::Promote { extend_ms: one_word(&reader)? },
            request::DEMOTE => {
                reader.exactly::<0>()?;
                Request::Demote
            }
            opcode => return Err(ProtocolError::UnknownOpcode { opcode }),
        })
    }

    /// The opcode of this request's frame.
    #[must_use]
    pub const fn opcode(&self) -> u8 {
        match self {
            Request::Hello(_) => request::HELLO,
            Request::Ping { .. } => request::PING,
            Request::Info => request::INFO,
            Request::Grant(_) => request::GRANT,
            Request::GrantBatch(_) => request::GRANT_BATCH,
            Request::Renew { .. } => request::RENEW,
            Request::RenewBatch(_) => request::RENEW_BATCH,
            Request::Revoke { .. } => request::REVOKE,
            Request::RevokeBatch(_) => request::REVOKE_BATCH,
            Request::TimeToLive { .. } => request::TIME_TO_LIVE,
            Request::List { .. } => request::LIST,
            Request::Attach { .. } => request::ATTACH,
            Request::Detach { .. } => request::DETACH,
            Request::LeaseOf { .. } => request::LEASE_OF,
            Request::Subscribe { .. } => request::SUBSCRIBE,
            Request::Unsubscribe { .. } => request::UNSUBSCRIBE,
            Request::Promote { .. } => request::PROMOTE,
            Request::Demote => request::DEMOTE,
        }
    }

    /// Appends the frame. Decoding what this appends gives the request back.
    pub fn encode(&self, out: &mut Vec<u8>, request_id: RequestId) {
        match *self {
            Request::Hello(hello) => hello.encode(out, request_id),
            Request::Ping { echo } => encode::ping(out, request_id, echo),
            Request::Info => encode::info(out, request_id),
            Request::Grant(grant) => encode::grant(out, request_id, grant),
            Request::GrantBatch(batch) => {
                encode::grant_batch(out, request_id, batch.first_sequence, batch.iter());
            }
            Request::Renew { id } => encode::renew(out, request_id, id),
            Request::RenewBatch(ids) => encode::renew_batch(out, request_id, ids.iter()),
            Request::Revoke { id } => encode::revoke(out, request_id, id),
            Request::RevokeBatch(ids) => encode::revoke_batch(out, request_id, ids.iter()),
            Request::TimeToLive { id, items, after } => {
                encode::time_to_live(out, request_id, id, items, after);
            }
            Request::List { shard, limit, cursor } => encode::list(out, request_id, shard, limit, cursor),
            Request::Attach { id, item } => encode::attach(out, request_id, id, item),
            Request::Detach { id, item } => encode::detach(out, request_id, id, item),
            Request::LeaseOf { item } => encode::lease_of(out, request_id, item),
            Request::Subscribe { shard, from } => encode::subscribe(out, request_id, shard, from),
            Request::Unsubscribe { subscription } => encode::unsubscribe(out, request_id, subscription),
            Request::Promote { extend_ms } => encode::promote(out, request_id, extend_ms),
            Request::Demote => encode::demote(out, request_id),
        }
    }
}

/// A body of one u64.
#[inline]
fn one_word(reader: &Reader<'_>) -> Result<u64, ProtocolError> {
    Ok(u64::from_le_bytes(*reader.exactly::<8>()?))
}

/// `| ttl ms u64 | id u64 | sequence u64 |`
fn decode_grant<'a>(reader: &Reader<'a>) -> Result<Request<'a>, ProtocolError> {
    let body = reader.exactly::<24>()?;
    Ok(Request::Grant(Grant {
        ttl_ms: u64_at(body, 0),
        id: LeaseId(u64_at(body, 8)),
        sequence: u64_at(body, 16),
    }))
}

/// `| id u64 |`, with flag AFTER also an item.
fn decode_time_to_live<'a>(reader: &mut Reader<'a>, limits: &Limits) -> Result<Request<'a>, ProtocolError> {
    let flags = reader.flags(flag::ITEMS | flag::AFTER)?;
    if flags == flag::AFTER {
        return Err(reader.bad_value("flags: AFTER without ITEMS"));
    }
    let id = LeaseId(reader.u64()?);
    let after = if flags & flag::AFTER == 0 { None } else { Some(decode_item(reader, limits)?) };
    reader.end()?;
    Ok(Request::TimeToLive { id, items: flags & flag::ITEMS != 0, after })
}

/// `| shard u16 | reserved u16 = 0 | limit u32 | cursor u64 |`
fn decode_list<'a>(reader: &mut Reader<'a>) -> Result<Request<'a>, ProtocolError> {
    reader.flags(0)?;
    let shard = reader.u16()?;
    reader.zero::<2>()?;
    let (limit, cursor) = (reader.u32()?, reader.u64()?);
    reader.end()?;
    Ok(Request::List { shard, limit, cursor })
}

/// `| shard u16 | reserved 6 B = 0 | from u64 |`
fn decode_subscribe<'a>(reader: &mut Reader<'a>) -> Result<Request<'a>, ProtocolError> {
    reader.flags(0)?;
    let shard = reader.u16()?;
    reader.zero::<6>()?;
    let from = Position(reader.u64()?);
    reader.end()?;
    Ok(Request::Subscribe { shard, from })
}

/// `| subscription u32 | reserved u32 = 0 |`
fn decode_unsubscribe<'a>(reader: &mut Reader<'a>) -> Result<Request<'a>, ProtocolError> {
    reader.flags(0)?;
    let subscription = RequestId(reader.u32()?);
    reader.zero::<4>()?;
    reader.end()?;
    Ok(Request::Unsubscribe { subscription })
}

/// `| id u64 | item |`
fn decode_id_and_item<'a>(
    reader: &mut Reader<'a>,
    limits: &Limits,
) -> Result<(LeaseId, &'a [u8]), ProtocolError> {
    reader.flags(0)?;
    let id = LeaseId(reader.u64()?);
    Ok((id, decode_item(reader, limits)?))
}

/// `| item length u16 | reserved u16 = 0 | bytes |`, the last field of its frame.
fn decode_item<'a>(reader: &mut Reader<'a>, limits: &Limits) -> Result<&'a [u8], ProtocolError> {
    let item_bytes = reader.u16()?;
    reader.zero::<2>()?;
    let item = reader.bytes(item_bytes as usize)?;
    reader.end()?;
    if u32::from(item_bytes) > limits.item_bytes_max {
        return Err(ProtocolError::ItemTooLarge {
            item_bytes: u32::from(item_bytes),
            item_bytes_max: limits.item_bytes_max,
        });
    }
    Ok(item)
}
