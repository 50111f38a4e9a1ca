//! Work by the hundred thousand: sent as fast as the window allows, told in one line.

use std::collections::BTreeMap;

use tenure_client::machine::Connection;
use tenure_protocol::{GrantEntry, LeaseId, Refusal, Request, Response};

use super::book::Book;

/// Leases in one request.
const BATCH: usize = 4_096;
/// Requests left to others on the same connection.
const ROOM_KEPT: u32 = 8;

/// What to do with many leases.
#[derive(Debug)]
pub(crate) enum Verb {
    /// Grant leases of this TTL, of the server's choice of ID or from this ID on.
    Grant { ttl_ms: u64, first: Option<u64>, group: String },
    /// Renew them, whose TTL is this.
    Renew { ttl_ms: u64 },
    /// Revoke them.
    Revoke,
    /// Ask how long they have left.
    Look,
    /// Attach numbered items to the one lease.
    Attach { prefix: String, bytes: usize },
}

/// A piece of work under way.
#[derive(Debug)]
pub(crate) struct Bulk {
    verb: Verb,
    leases: Vec<LeaseId>,
    count: usize,
    sent: usize,
    answered: usize,
    refused: BTreeMap<String, usize>,
    /// Least and most that was left, ms.
    left_ms: (u64, u64),
    began_ms: u64,
}

/// One request of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Part {
    from: usize,
    count: usize,
    /// Engine time when it was sent, ms.
    sent_ms: u64,
}

impl Bulk {
    /// Work on leases, or on this many items or leases to be made.
    pub(crate) fn new(verb: Verb, leases: Vec<LeaseId>, count: usize, began_ms: u64) -> Bulk {
        let left_ms = (u64::MAX, 0);
        Bulk { verb, leases, count, sent: 0, answered: 0, refused: BTreeMap::new(), left_ms, began_ms }
    }

    /// Sends the next request, if there is one and room for it.
    pub(crate) fn send(&mut self, connection: &mut Connection, token: u64, engine_ms: u64) -> Option<Part> {
        if self.sent == self.count || connection.room() <= ROOM_KEPT {
            return None;
        }
        let from = self.sent;
        let many = (self.count - from).min(BATCH);
        let leases = self.leases.get(from..from + many).unwrap_or_default().iter().copied();
        let (sent, count) = match &self.verb {
            Verb::Grant { ttl_ms, first, .. } => {
                let id = |index: usize| first.map_or(0, |first| first + index as u64);
                let entries =
                    (from..from + many).map(|index| GrantEntry { ttl_ms: *ttl_ms, id: LeaseId(id(index)) });
                (connection.send_grant_batch(0, entries.collect::<Vec<_>>().into_iter(), token).is_ok(), many)
            }
            Verb::Renew { .. } => (connection.send_renew_batch(leases, token).is_ok(), many),
            Verb::Revoke => (connection.send_revoke_batch(leases, token).is_ok(), many),
            Verb::Look => {
                let request = Request::TimeToLive { id: self.leases[from], items: false, after: None };
                (connection.send(&request, token).is_ok(), 1)
            }
            Verb::Attach { prefix, bytes } => {
                let mut item = format!("{prefix}{from:06}").into_bytes();
                item.resize(item.len().max(*bytes), b'.');
                let request = Request::Attach { id: self.leases[0], item: &item };
                (connection.send(&request, token).is_ok(), 1)
            }
        };
        sent.then(|| {
            self.sent += count;
            Part { from, count, sent_ms: engine_ms }
        })
    }

    /// A request of it was answered.
    pub(crate) fn answered(&mut self, part: Part, response: &Response<'_>, book: &mut Book) {
        self.answered += part.count;
        let mut refuse = |refusal: &dyn std::fmt::Debug, count: usize| {
            *self.refused.entry(format!("{refusal:?}")).or_insert(0) += count;
        };
        match (&self.verb, response) {
            (Verb::Grant { ttl_ms, group, .. }, Response::GrantBatch(results)) => {
                for result in results.iter() {
                    match result {
                        Ok(granted) => {
                            book.promised(granted.id, part.sent_ms, granted.ttl_ms);
                            let group = book.groups.entry(group.clone()).or_default();
                            group.ttl_ms = *ttl_ms;
                            group.ids.push(granted.id);
                        }
                        Err(refusal) => refuse(&refusal, 1),
                    }
                }
            }
            (
                Verb::Renew { .. } | Verb::Revoke,
                Response::RenewBatch(outcome) | Response::RevokeBatch(outcome),
            ) => {
                let failed: BTreeMap<usize, Refusal> =
                    outcome.failed().map(|failed| (failed.index as usize, failed.refusal)).collect();
                if let Verb::Renew { ttl_ms } = self.verb {
                    for index in (0..part.count).filter(|index| !failed.contains_key(index)) {
                        book.promised(self.leases[part.from + index], part.sent_ms, ttl_ms);
                    }
                }
                failed.values().for_each(|refusal| refuse(refusal, 1));
            }
            (Verb::Look, Response::TimeToLive(facts)) => {
                let (least, most) = self.left_ms;
                self.left_ms = (least.min(facts.remaining_ms), most.max(facts.remaining_ms));
            }
            (Verb::Attach { .. }, Response::Attached { .. }) => {}
            (_, Response::Refused(refused)) => refuse(&refused.refusal, part.count),
            (_, other) => panic!("L2 one-reply: {other:?} answers {:?}", self.verb),
        }
    }

    /// What came of it, once everything was answered.
    pub(crate) fn outcome(&self, now_ms: u64) -> Option<String> {
        if self.answered < self.count {
            return None;
        }
        let refused: usize = self.refused.values().sum();
        let done = self.count - refused;
        let mut text = match &self.verb {
            Verb::Grant { ttl_ms, .. } => format!("{done} granted for {ttl_ms}"),
            Verb::Renew { .. } => format!("{done} renewed"),
            Verb::Revoke => format!("{done} revoked"),
            Verb::Look if done == 0 => "none lives".to_owned(),
            Verb::Look => format!("{done} live, with {} to {} left", self.left_ms.0, self.left_ms.1),
            Verb::Attach { .. } => format!("{done} attached"),
        };
        for (refusal, count) in &self.refused {
            text += &format!(", {count} refused: {refusal}");
        }
        Some(format!("{text} (after {} ms)", now_ms - self.began_ms))
    }
}
