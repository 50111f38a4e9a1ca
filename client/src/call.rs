//! Requests and answers that own their data: what travels between a caller's task and a connection's.

use std::sync::Arc;

use tenure_protocol::{
    BatchOutcome, Failed, Grant, GrantEntry, Granted, InfoNumber, LeaseId, Listed, Request, Response, Token,
};

use crate::error::Error;
use crate::machine::{Connection, SendError};

/// A request.
#[derive(Clone, Debug)]
pub(crate) enum Call {
    Ping { echo: u64 },
    Info,
    Grant(Grant),
    GrantBatch { first_sequence: u64, entries: Arc<[GrantEntry]> },
    Renew { id: LeaseId },
    RenewBatch { ids: Arc<[LeaseId]> },
    Revoke { id: LeaseId },
    RevokeBatch { ids: Arc<[LeaseId]> },
    TimeToLive { id: LeaseId, items: bool, after: Option<Vec<u8>> },
    List { shard: u16, limit: u32, cursor: u64 },
    Attach { id: LeaseId, item: Vec<u8> },
    Detach { id: LeaseId, item: Vec<u8> },
    LeaseOf { item: Vec<u8> },
    Promote { extend_ms: u64 },
    Demote,
}

impl Call {
    /// Encodes this into the connection.
    pub(crate) fn send(&self, connection: &mut Connection, token: u64) -> Result<(), SendError> {
        let request = match self {
            Call::Renew { id } => return connection.send_renew(*id, token),
            Call::RenewBatch { ids } => return connection.send_renew_batch(ids.iter().copied(), token),
            Call::RevokeBatch { ids } => return connection.send_revoke_batch(ids.iter().copied(), token),
            Call::GrantBatch { first_sequence, entries } => {
                return connection.send_grant_batch(*first_sequence, entries.iter().copied(), token);
            }
            Call::Ping { echo } => Request::Ping { echo: *echo },
            Call::Info => Request::Info,
            Call::Grant(grant) => Request::Grant(*grant),
            Call::Revoke { id } => Request::Revoke { id: *id },
            Call::TimeToLive { id, items, after } => {
                Request::TimeToLive { id: *id, items: *items, after: after.as_deref() }
            }
            Call::List { shard, limit, cursor } => {
                Request::List { shard: *shard, limit: *limit, cursor: *cursor }
            }
            Call::Attach { id, item } => Request::Attach { id: *id, item },
            Call::Detach { id, item } => Request::Detach { id: *id, item },
            Call::LeaseOf { item } => Request::LeaseOf { item },
            Call::Promote { extend_ms } => Request::Promote { extend_ms: *extend_ms },
            Call::Demote => Request::Demote,
        };
        connection.send(&request, token).map(|_| ())
    }

    /// Whether sending this again after a lost connection does what sending it once would have done.
    ///
    /// Grants carry a sequence that the server recognises. A repeated revoke or detach may find that the
    /// first one did the work: its caller takes that as success. A promotion extends leases each time,
    /// but to the same `remaining + extend` at most once per change of role.
    pub(crate) fn may_repeat(&self) -> bool {
        match self {
            Call::Grant(grant) => grant.sequence != 0,
            Call::GrantBatch { first_sequence, .. } => *first_sequence != 0,
            Call::Promote { .. } | Call::Demote => false,
            _ => true,
        }
    }
}

/// A server's counters and state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerInfo {
    /// The numbers; see [`tenure_protocol::tag`].
    pub numbers: Vec<InfoNumber>,
    /// The texts with their tags; see [`tenure_protocol::text_tag`].
    pub texts: Vec<(u16, String)>,
}

impl ServerInfo {
    /// The number with this tag and index 0.
    #[must_use]
    pub fn number(&self, tag: u16) -> Option<u64> {
        self.indexed(tag, 0)
    }

    /// The number with this tag and index.
    #[must_use]
    pub fn indexed(&self, tag: u16, index: u16) -> Option<u64> {
        self.numbers.iter().find(|n| n.tag == tag && n.index == index).map(|n| n.value)
    }

    /// The text with this tag.
    #[must_use]
    pub fn text(&self, tag: u16) -> Option<&str> {
        self.texts.iter().find(|text| text.0 == tag).map(|text| text.1.as_str())
    }
}

/// TTL, remaining time and items of a lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseInfo {
    /// The lease's fencing token.
    pub token: Token,
    /// Its TTL in ms.
    pub ttl_ms: u64,
    /// What is left of it in ms, at the moment of the answer.
    pub remaining_ms: u64,
    /// How many items it has.
    pub item_count: u64,
    /// The items in rising byte order, when asked for.
    pub items: Vec<Vec<u8>>,
}

/// What an attach did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attached {
    /// The lease's fencing token.
    pub token: Token,
    /// The lease that had the item before.
    pub moved_from: Option<LeaseId>,
}

/// An answer.
#[derive(Clone, Debug)]
pub(crate) enum Answer {
    Pong,
    Info(ServerInfo),
    Granted(Granted),
    GrantBatch(Vec<Result<Granted, tenure_protocol::Refusal>>),
    Renewed { ttl_ms: u64 },
    Batch { count: u32, failed: Vec<Failed> },
    Revoked { token: Token, item_count: u64 },
    TimeToLive { info: LeaseInfo, more: bool },
    List { next_cursor: u64, leases: Vec<Listed> },
    Attached(Attached),
    Detached,
    LeaseOf(Option<(LeaseId, Token)>),
    RoleChanged,
}

impl Answer {
    /// Copies a reply out of the receive buffer.
    pub(crate) fn from_response(response: &Response<'_>) -> Result<Answer, Error> {
        let batch = |outcome: &BatchOutcome<'_>| Answer::Batch {
            count: outcome.count(),
            failed: outcome.failed().collect(),
        };
        Ok(match response {
            Response::Renewed { ttl_ms } => Answer::Renewed { ttl_ms: *ttl_ms },
            Response::RenewBatch(outcome) | Response::RevokeBatch(outcome) => batch(outcome),
            Response::Granted(granted) => Answer::Granted(*granted),
            Response::GrantBatch(results) => Answer::GrantBatch(results.iter().collect()),
            Response::Pong { .. } => Answer::Pong,
            Response::Info(info) => Answer::Info(ServerInfo {
                numbers: info.numbers().collect(),
                texts: info.texts().map(|text| (text.tag, text.text.to_owned())).collect(),
            }),
            Response::Revoked { token, item_count } => {
                Answer::Revoked { token: *token, item_count: *item_count }
            }
            Response::TimeToLive(ttl) => Answer::TimeToLive {
                info: LeaseInfo {
                    token: ttl.token,
                    ttl_ms: ttl.ttl_ms,
                    remaining_ms: ttl.remaining_ms,
                    item_count: ttl.item_count,
                    items: ttl.items.iter().flat_map(|page| page.items).map(<[u8]>::to_vec).collect(),
                },
                more: ttl.items.is_some_and(|page| page.more),
            },
            Response::List(page) => {
                Answer::List { next_cursor: page.next_cursor, leases: page.iter().collect() }
            }
            Response::Attached { token, moved_from } => {
                Answer::Attached(Attached { token: *token, moved_from: *moved_from })
            }
            Response::Detached => Answer::Detached,
            Response::LeaseOf(found) => Answer::LeaseOf(*found),
            Response::Promoted | Response::Demoted => Answer::RoleChanged,
            Response::Refused(refused) => {
                return Err(Error::Refused {
                    refusal: refused.refusal,
                    detail: refused.detail,
                    text: refused.text.to_owned(),
                });
            }
            Response::Welcome(_)
            | Response::Subscribed { .. }
            | Response::Unsubscribed
            | Response::Event(_)
            | Response::GoAway(_) => {
                unreachable!("L2: the machine matches replies to requests: {response:?}")
            }
        })
    }

    /// Whether this has an entry for each entry that was asked about. A server that answers otherwise
    /// cannot be trusted with indexes.
    pub(crate) fn covers(&self, call: &Call) -> bool {
        match (self, call) {
            (Answer::Batch { count, .. }, Call::RenewBatch { ids } | Call::RevokeBatch { ids }) => {
                *count as usize == ids.len()
            }
            (Answer::GrantBatch(results), Call::GrantBatch { entries, .. }) => results.len() == entries.len(),
            _ => true,
        }
    }
}
