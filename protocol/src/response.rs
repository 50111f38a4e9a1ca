//! Responses: what a server may say, decoded into borrowed views and encoded back.
//!
//! A reply has its request's id and its request's opcode with the top bit set, so that a client needs
//! to remember no more than the id. [`Response::decode`] allocates nothing.

use crate::batch::{BatchOutcome, GrantResults, Granted};
use crate::encode::reply;
use crate::error::ProtocolError;
use crate::event::{self, Ended, EndedItems, Event};
use crate::frame::Frame;
use crate::handshake::Welcome;
use crate::id::{LeaseId, Position, RequestId, Token};
use crate::info::Info;
use crate::items::Items;
use crate::opcode::{REPLY, flag, push, request};
use crate::reader::{Reader, u32_at, u64_at};
use crate::refusal::Refusal;

/// What the server said to a TimeToLive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeToLive<'a> {
    /// The lease's fencing token.
    pub token: Token,
    /// Its TTL in ms.
    pub ttl_ms: u64,
    /// What is left of it in ms.
    pub remaining_ms: u64,
    /// How many items it has.
    pub item_count: u64,
    /// A page of them, when asked for.
    pub items: Option<ItemPage<'a>>,
}

/// A page of a live lease's items.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ItemPage<'a> {
    /// The items in rising byte order.
    pub items: Items<'a>,
    /// There are more after the last one of this page.
    pub more: bool,
}

/// One lease on a page of List.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listed {
    /// The lease.
    pub id: LeaseId,
    /// Its fencing token.
    pub token: Token,
    /// Its TTL in ms.
    pub ttl_ms: u64,
    /// What is left of it in ms.
    pub remaining_ms: u64,
    /// How many items it has (at most 2^32 - 1 are counted).
    pub item_count: u32,
}

/// A page of the leases of a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListPage<'a> {
    /// The cursor of the next page; 0: this was the last.
    pub next_cursor: u64,
    entries: &'a [u8],
}

pub(crate) const LISTED_BYTES: usize = 40;

impl<'a> ListPage<'a> {
    /// How many leases.
    #[inline]
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len() / LISTED_BYTES
    }

    /// Whether there are none; an empty page need not be the last.
    #[inline]
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The leases in the order of the cursor.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Listed> + Clone + use<'a> {
        self.entries.as_chunks::<LISTED_BYTES>().0.iter().map(|raw| Listed {
            id: LeaseId(u64_at(raw, 0)),
            token: Token(u64_at(raw, 8)),
            ttl_ms: u64_at(raw, 16),
            remaining_ms: u64_at(raw, 24),
            item_count: u32_at(raw, 32),
        })
    }
}

/// A refusal with its explanation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused<'a> {
    /// Why.
    pub refusal: Refusal,
    /// A number that belongs to the refusal: PositionTooOld the oldest position kept, TtlTooLarge the
    /// maximum, FrameTooLarge, BatchTooLarge and ItemTooLarge the limit, VersionUnsupported the
    /// server's lowest version in the low 16 bits and its highest in the next; else 0.
    pub detail: u64,
    /// An explanation for people; may be empty.
    pub text: &'a str,
}

/// One frame from the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Response<'a> {
    /// The server accepts the client.
    Welcome(Welcome<'a>),
    /// To Ping.
    Pong {
        /// The request's number.
        echo: u64,
    },
    /// To Info.
    Info(Info<'a>),
    /// To Grant.
    Granted(Granted),
    /// To GrantBatch.
    GrantBatch(GrantResults<'a>),
    /// To Renew.
    Renewed {
        /// The lease's TTL, ms: its deadline is this far from now.
        ttl_ms: u64,
    },
    /// To RenewBatch.
    RenewBatch(BatchOutcome<'a>),
    /// To Revoke.
    Revoked {
        /// The fencing token of the lease that ended.
        token: Token,
        /// How many items it had.
        item_count: u64,
    },
    /// To RevokeBatch.
    RevokeBatch(BatchOutcome<'a>),
    /// To TimeToLive.
    TimeToLive(TimeToLive<'a>),
    /// To List.
    List(ListPage<'a>),
    /// To Attach.
    Attached {
        /// The lease's fencing token.
        token: Token,
        /// The lease that had the item before.
        moved_from: Option<LeaseId>,
    },
    /// To Detach.
    Detached,
    /// To LeaseOf: the lease and its token, if any lease has the item.
    LeaseOf(Option<(LeaseId, Token)>),
    /// To Subscribe.
    Subscribed {
        /// Where the events start.
        start: Position,
        /// The oldest position still kept.
        oldest: Position,
        /// Everything below is on disk.
        durable: Position,
    },
    /// To Unsubscribe: no event of that subscription comes after this.
    Unsubscribed,
    /// To Promote.
    Promoted,
    /// To Demote.
    Demoted,
    /// An event of a subscription.
    Event(Event<'a>),
    /// The server will close this connection, for a reason that no frame of the client gave.
    GoAway(Refused<'a>),
    /// The request was not carried out.
    Refused(Refused<'a>),
}

/// The reply to a request of this opcode.
const fn to(opcode: u8) -> u8 {
    opcode | REPLY
}

const WELCOME: u8 = to(request::HELLO);
const PONG: u8 = to(request::PING);
const INFO: u8 = to(request::INFO);
const GRANTED: u8 = to(request::GRANT);
const GRANT_RESULTS: u8 = to(request::GRANT_BATCH);
const RENEWED: u8 = to(request::RENEW);
const RENEW_OUTCOME: u8 = to(request::RENEW_BATCH);
const REVOKED: u8 = to(request::REVOKE);
const REVOKE_OUTCOME: u8 = to(request::REVOKE_BATCH);
const TIME_TO_LIVE: u8 = to(request::TIME_TO_LIVE);
const LIST_PAGE: u8 = to(request::LIST);
const ATTACHED: u8 = to(request::ATTACH);
const DETACHED: u8 = to(request::DETACH);
const LEASE_OF: u8 = to(request::LEASE_OF);
const SUBSCRIBED: u8 = to(request::SUBSCRIBE);
const UNSUBSCRIBED: u8 = to(request::UNSUBSCRIBE);
const PROMOTED: u8 = to(request::PROMOTE);
const DEMOTED: u8 = to(request::DEMOTE);

impl<'a> Response<'a> {
    /// Reads a frame from the server.
    ///
    /// # Errors
    /// Whatever is wrong with the frame. A client should then close the connection.
    pub fn decode(frame: &Frame<'a>) -> Result<Response<'a>, ProtocolError> {
        let mut reader = Reader::new(frame);
        Ok(match frame.header.opcode {
            RENEWED => Response::Renewed { ttl_ms: u64_at(reader.exactly::<8>()?, 0) },
            RENEW_OUTCOME => Response::RenewBatch(BatchOutcome::decode(&mut reader)?),
            GRANTED => Response::Granted(decode_granted(&mut reader)?),
            push::REFUSED => Response::Refused(decode_refused(&mut reader)?),
            WELCOME => Response::Welcome(Welcome::decode(&mut reader)?),
            PONG => Response::Pong { echo: u64_at(reader.exactly::<8>()?, 0) },
            INFO => Response::Info(Info::decode(&mut reader)?),
            GRANT_RESULTS => {
                reader.flags(0)?;
                Response::GrantBatch(GrantResults::decode(&mut reader)?)
            }
            REVOKED => {
                let body = reader.exactly::<16>()?;
                Response::Revoked { token: Token(u64_at(body, 0)), item_count: u64_at(body, 8) }
            }
            REVOKE_OUTCOME => Response::RevokeBatch(BatchOutcome::decode(&mut reader)?),
            TIME_TO_LIVE => Response::TimeToLive(decode_time_to_live(&mut reader)?),
            LIST_PAGE => Response::List(decode_list_page(&mut reader)?),
            ATTACHED => {
                let body = reader.exactly::<16>()?;
                let moved_from = LeaseId(u64_at(body, 8));
                let moved_from = (moved_from != LeaseId::NONE).then_some(moved_from);
                Response::Attached { token: Token(u64_at(body, 0)), moved_from }
            }
            LEASE_OF => decode_lease_of(&reader)?,
            SUBSCRIBED => decode_subscribed(&reader)?,
            DETACHED | UNSUBSCRIBED | PROMOTED | DEMOTED => {
                reader.exactly::<0>()?;
                match frame.header.opcode {
                    DETACHED => Response::Detached,
                    UNSUBSCRIBED => Response::Unsubscribed,
                    PROMOTED => Response::Promoted,
                    _ => Response::Demoted,
                }
            }
            push::ENDED => Response::Event(Event::Ended(Ended::decode(&mut reader)?)),
            push::ENDED_ITEMS => Response::Event(Event::EndedItems(EndedItems::decode(&mut reader)?)),
            push::PROGRESS => Response::Event(event::decode_progress(&mut reader)?),
            push::GAP => Response::Event(event::decode_gap(&mut reader)?),
            push::GO_AWAY if frame.header.request_id == RequestId(0) => {
                Response::GoAway(decode_refused(&mut reader)?)
            }
            push::GO_AWAY => return Err(reader.bad_value("request id of GoAway")),
            opcode => return Err(ProtocolError::UnknownOpcode { opcode }),
        })
    }

    /// Appends the frame. Decoding what this appends gives the response back.
    pub fn encode(&self, out: &mut Vec<u8>, request_id: RequestId) {
        match *self {
            Response::Welcome(welcome) => welcome.encode(out, request_id),
            Response::Pong { echo } => reply::pong(out, request_id, echo),
            Response::Info(info) => reply::info(out, request_id, info.numbers(), info.texts()),
            Response::Granted(granted) => reply::granted(out, request_id, &granted),
            Response::GrantBatch(results) => reply::grant_batch(out, request_id, results.iter()),
            Response::Renewed { ttl_ms } => reply::renewed(out, request_id, ttl_ms),
            Response::RenewBatch(outcome) => {
                reply::renew_batch(out, request_id, outcome.count(), outcome.failed());
            }
            Response::Revoked { token, item_count } => reply::revoked(out, request_id, token, item_count),
            Response::RevokeBatch(outcome) => {
                reply::revoke_batch(out, request_id, outcome.count(), outcome.failed());
            }
            Response::TimeToLive(ttl) => reply::time_to_live(out, request_id, &ttl),
            Response::List(page) => reply::list(out, request_id, page.next_cursor, page.iter()),
            Response::Attached { token, moved_from } => reply::attached(out, request_id, token, moved_from),
            Response::Detached => reply::detached(out, request_id),
            Response::LeaseOf(found) => reply::lease_of(out, request_id, found),
            Response::Subscribed { start, oldest, durable } => {
                reply::subscribed(out, request_id, start, oldest, durable);
            }
            Response::Unsubscribed => reply::unsubscribed(out, request_id),
            Response::Promoted => reply::promoted(out, request_id),
            Response::Demoted => reply::demoted(out, request_id),
            Response::Event(event) => reply::event(out, request_id, &event),
            // GoAway answers nothing: its request id is 0 whatever the caller says.
            Response::GoAway(refused) => reply::go_away(out, refused.refusal, refused.detail, refused.text),
            Response::Refused(refused) => {
                reply::refused(out, request_id, refused.refusal, refused.detail, refused.text);
            }
        }
    }
}

/// `| id | token | ttl ms | remaining ms |`, flags RAISED, REPEATED
fn decode_granted(reader: &mut Reader<'_>) -> Result<Granted, ProtocolError> {
    let flags = reader.flags(flag::RAISED | flag::REPEATED)?;
    let body = reader.chunk::<32>()?;
    reader.end()?;
    Ok(Granted {
        id: LeaseId(u64_at(body, 0)),
        token: Token(u64_at(body, 8)),
        ttl_ms: u64_at(body, 16),
        remaining_ms: u64_at(body, 24),
        raised: flags & flag::RAISED != 0,
        repeated: flags & flag::REPEATED != 0,
    })
}

/// `| code u16 | text length u16 | reserved u32 = 0 | detail u64 | UTF-8 |`
fn decode_refused<'a>(reader: &mut Reader<'a>) -> Result<Refused<'a>, ProtocolError> {
    reader.flags(0)?;
    let code = reader.u16()?;
    let text_bytes = reader.u16()?;
    reader.zero::<4>()?;
    let detail = reader.u64()?;
    let text = reader.text(text_bytes as usize)?;
    reader.end()?;
    let refusal = Refusal::from_code(code).ok_or(reader.bad_value("refusal"))?;
    Ok(Refused { refusal, detail, text })
}

/// `| token | ttl ms | remaining ms | item count |`, with flag ITEMS `| count u32 | reserved u32 = 0 | items |`
fn decode_time_to_live<'a>(reader: &mut Reader<'a>) -> Result<TimeToLive<'a>, ProtocolError> {
    let flags = reader.flags(flag::ITEMS | flag::MORE)?;
    if flags == flag::MORE {
        return Err(reader.bad_value("flags: MORE without ITEMS"));
    }
    let token = Token(reader.u64()?);
    let (ttl_ms, remaining_ms, item_count) = (reader.u64()?, reader.u64()?, reader.u64()?);
    let items = if flags & flag::ITEMS == 0 {
        reader.end()?;
        None
    } else {
        let count = reader.u32()?;
        reader.zero::<4>()?;
        Some(ItemPage { items: Items::decode(reader, count)?, more: flags & flag::MORE != 0 })
    };
    Ok(TimeToLive { token, ttl_ms, remaining_ms, item_count, items })
}

/// `| next cursor u64 | count u32 | reserved u32 = 0 | count × (id, token, ttl ms, remaining ms, item count u32, reserved u32 = 0) |`
fn decode_list_page<'a>(reader: &mut Reader<'a>) -> Result<ListPage<'a>, ProtocolError> {
    reader.flags(0)?;
    let next_cursor = reader.u64()?;
    let count = reader.u32()?;
    reader.zero::<4>()?;
    let entries = reader.entries::<LISTED_BYTES>(count)?;
    if entries.as_chunks::<LISTED_BYTES>().0.iter().any(|raw| u32_at(raw, 36) != 0) {
        return Err(reader.bad_value("listed"));
    }
    Ok(ListPage { next_cursor, entries })
}

/// `| id or 0 | token or 0 |`
fn decode_lease_of<'a>(reader: &Reader<'a>) -> Result<Response<'a>, ProtocolError> {
    let body = reader.exactly::<16>()?;
    let (id, token) = (LeaseId(u64_at(body, 0)), Token(u64_at(body, 8)));
    if id == LeaseId::NONE {
        if token != Token(0) {
            return Err(reader.bad_value("token"));
        }
        return Ok(Response::LeaseOf(None));
    }
    Ok(Response::LeaseOf(Some((id, token))))
}

/// `| start u64 | oldest u64 | durable u64 |`
fn decode_subscribed<'a>(reader: &Reader<'a>) -> Result<Response<'a>, ProtocolError> {
    let body = reader.exactly::<24>()?;
    Ok(Response::Subscribed {
        start: Position(u64_at(body, 0)),
        oldest: Position(u64_at(body, 8)),
        durable: Position(u64_at(body, 16)),
    })
}
