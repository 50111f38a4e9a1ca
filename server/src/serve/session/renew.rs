//! The hot path: runs of Renew frames, answered from the receive buffer into the send buffer.
//!
//! A renewal touches one cache line of a table that is larger than any cache, so the leases of the
//! next frames are fetched while the current one is renewed: frames have a fixed size, and looking
//! ahead is one compare and two loads.

use tenure::request::Request;
use tenure::station::Station;
use tenure::{LeaseId, Refusal as CoreRefusal, Renewed};
use tenure_protocol::encode::reply;
use tenure_protocol::{RENEW_BYTES, RENEWED_BYTES, RequestId, renew_at, renewed_frame};

use super::Session;
use crate::serve::desk::{Desk, wire_refusal};
use crate::serve::limits::PREFETCH_FRAMES;
use crate::serve::tag::{Kind, Tag};

impl Session {
    /// Takes the Renew frames at the start of `bytes`; returns how many bytes they were. Stops early,
    /// and pauses, when the session is full.
    pub(super) fn renew_run(&mut self, bytes: &[u8], desk: &mut Desk, station: &mut Station) -> usize {
        if renew_at(bytes).is_none() {
            return 0;
        }
        let mut at = 0;
        let (mut fetched, mut found) = (0, 0);
        let over_index = station.has_chosen_ids();
        if self.is_full(desk) {
            self.paused = true;
            return 0;
        }
        // The answer to a renewal is as long as the question, so the room for a whole run is known.
        self.out.reserve(bytes.len() / RENEW_BYTES * RENEWED_BYTES);
        while let Some((request_id, id)) = renew_at(&bytes[at..]) {
            let id = LeaseId(id.0);
            fetched = fetch_ahead(bytes, at, fetched, PREFETCH_FRAMES, |id| station.prefetch(id));
            // What the index names, once its cell has had half of the way to arrive.
            if over_index {
                found = fetch_ahead(bytes, at, found, PREFETCH_FRAMES / 2, |id| station.prefetch_found(id));
            }
            at += RENEW_BYTES;
            if desk.shard_count != 1 && station.shard_of(id).0 != desk.own {
                self.forward_renew(request_id, id, station);
            } else {
                let ticket = Tag { kind: Kind::Renew, amount: 0, id: request_id.0 }.ticket(self.key);
                match station.renew(id, ticket) {
                    Some(Ok(Renewed { ttl_ms })) => {
                        self.out.extend_from_slice(&renewed_frame(request_id, ttl_ms));
                        continue;
                    }
                    Some(Err(refusal)) => self.renew_refused(request_id, refusal, desk),
                    None => self.renew_held(),
                }
            }
            if self.is_full(desk) {
                self.paused = true;
                break;
            }
        }
        desk.requests += (at / RENEW_BYTES) as u64;
        at
    }

    #[cold]
    fn renew_refused(&mut self, request_id: RequestId, refusal: CoreRefusal, desk: &mut Desk) {
        desk.refusals += 1;
        reply::refused(&mut self.out, request_id, wire_refusal(refusal), 0, "");
    }

    #[cold]
    fn renew_held(&mut self) {
        self.unanswered += 1;
        self.promised_bytes += Tag { kind: Kind::Renew, amount: 0, id: 0 }.reply_bytes_max();
    }

    fn forward_renew(&mut self, request_id: RequestId, id: LeaseId, station: &mut Station) {
        let tag = Tag { kind: Kind::Renew, amount: 0, id: request_id.0 };
        self.renew_held();
        station.submit(station.shard_of(id), Request::Renew(id), tag.ticket(self.key));
    }
}

/// Fetches so that so many frames beyond `at` are under way; returns up to where.
#[inline]
fn fetch_ahead(bytes: &[u8], at: usize, fetched: usize, frames: usize, fetch: impl Fn(LeaseId)) -> usize {
    let mut fetched = fetched.max(at);
    let end = at + frames * RENEW_BYTES;
    while fetched < end {
        let Some((_, id)) = bytes.get(fetched..).and_then(renew_at) else { break };
        fetch(LeaseId(id.0));
        fetched += RENEW_BYTES;
    }
    fetched
}
