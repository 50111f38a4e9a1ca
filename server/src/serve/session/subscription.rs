//! Subscriptions: end-of-lease events of a shard, pushed into a connection's send buffer.
//!
//! Nothing is queued per subscriber. Each turn a subscription with room reads the shard's
//! [`EventHub`] from where it stands and encodes straight from the log's records. One that is not
//! read from simply stands still, and goes on where it stood (S8). When it has fallen behind what
//! the hub keeps in memory, a helper thread reads the log files for it, so that a core never waits
//! for a disk; when the files do not reach back either, it is told of the gap.
//!
//! - **S3**: a hub publishes only what is durable.
//! - **S9 once**: events leave in the order of positions, each once per subscription; after `Subscribed
//!   {start}` nothing from `start` on is left out unless a Gap says so.

use std::sync::Arc;

use tenure::Position as CorePosition;
use tenure::events::{EventBlock, EventHub, History, HubRead};
use tenure::station::Station;
use tenure::{Cause as CoreCause, EventsError, ShardIndex};
use tenure_core::{Record, RecordIter, end_position};
use tenure_protocol::encode::reply;
use tenure_protocol::limits::{EVENT_ENTRIES_MAX, HEADER_BYTES};
use tenure_protocol::{
    Cause, ENDED_STRIDE, EndedHead, EndedItemsHead, LeaseId, Position, Refusal, RequestId, Token,
};

use super::Session;
use crate::serve::desk::Desk;
use crate::serve::limits;

/// Bytes of records read at a time.
const READ_BYTES: usize = 256 << 10;
/// How often a subscriber is told how far it is when nothing ends.
const PROGRESS_INTERVAL_MS: u64 = 1_000;

const _: () = assert!(tenure_core::END_ENTRY_BYTES as u64 == ENDED_STRIDE, "positions must agree (S9)");

/// A connection's subscriptions.
#[derive(Default)]
pub(crate) struct Subscriptions {
    all: Vec<Subscription>,
    /// Who reads first, so that a busy shard does not starve the others.
    first: usize,
    /// The core knows that this connection has subscriptions.
    listed: bool,
}

struct Subscription {
    request_id: RequestId,
    shard: u16,
    hub: Arc<EventHub>,
    /// Everything before has been sent.
    next: CorePosition,
    /// The client knows that everything before has been sent.
    told: CorePosition,
    told_at_ms: u64,
    /// The files are being read for it.
    reading: bool,
    /// Subscribed has not been sent: whether the position is kept is not known yet.
    unconfirmed: bool,
    /// The client asked for whatever is kept.
    from_oldest: bool,
}

/// A read of log files for a subscription, done on the helper thread.
pub(crate) struct HistoryJob {
    pub(crate) session: u64,
    pub(crate) request_id: RequestId,
    pub(crate) core: u16,
    pub(crate) hub: Arc<EventHub>,
    pub(crate) from: CorePosition,
}

/// What it found: a parcel to the subscription's core.
pub(crate) struct HistoryRead {
    pub(crate) session: u64,
    pub(crate) request_id: RequestId,
    hub: Arc<EventHub>,
    from: CorePosition,
    result: Result<History, EventsError>,
}

impl HistoryJob {
    /// Reads; blocks.
    pub(crate) fn read(self) -> (u16, HistoryRead) {
        let result = self.hub.history(self.from, READ_BYTES);
        let HistoryJob { session, request_id, core, hub, from } = self;
        (core, HistoryRead { session, request_id, hub, from, result })
    }
}

impl Subscriptions {
    pub(crate) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Whether the core must list this connection; says so once.
    pub(crate) fn is_news(&mut self) -> bool {
        !self.all.is_empty() && !std::mem::replace(&mut self.listed, true)
    }

    /// The core has taken the connection off its list.
    pub(crate) fn unlist(&mut self) {
        self.listed = false;
    }
}

/// Why a position is too old although the log was kept.
const DAMAGED: &str = "older events are damaged on disk";

impl Session {
    pub(super) fn subscribe(
        &mut self,
        id: RequestId,
        shard: u16,
        from: Position,
        desk: &mut Desk,
        station: &Station,
    ) {
        // Watched before it is looked at: no event can fall in between.
        let Some(hub) = station.watch_events(ShardIndex(shard)) else {
            return self.refuse(id, Refusal::NotThisShard, u64::from(desk.shard_count), "", desk);
        };
        let known = self.subscriptions.all.iter().any(|known| known.request_id == id);
        if known || self.subscriptions.all.len() >= limits::SUBSCRIPTIONS_PER_SESSION {
            return self.refuse(id, Refusal::LimitExceeded, 0, "subscriptions of this connection", desk);
        }
        let durable = hub.durable();
        let oldest = hub.oldest();
        let from_oldest = from == Position::OLDEST;
        let next = if from == Position::NOW { durable } else { CorePosition(from.0) };
        if next > durable {
            let text = "the position is ahead of the log: it was taken from another one";
            return self.refuse(id, Refusal::PositionTooOld, oldest.0, text, desk);
        }
        let unconfirmed = next < oldest;
        if !unconfirmed {
            reply::subscribed(&mut self.out, id, Position(next.0), Position(oldest.0), Position(durable.0));
        }
        self.subscriptions.all.push(Subscription {
            request_id: id,
            shard,
            hub,
            next,
            told: next,
            told_at_ms: desk.now_ms,
            reading: false,
            unconfirmed,
            from_oldest,
        });
    }

    pub(super) fn unsubscribe(&mut self, id: RequestId, subscription: RequestId, desk: &mut Desk) {
        let all = &mut self.subscriptions.all;
        match all.iter().position(|known| known.request_id == subscription) {
            Some(index) => {
                let mut ended = all.swap_remove(index);
                // L2 one-reply: its Subscribe may still wait for the files.
                ended.confirm(ended.hub.oldest(), &mut self.out);
                reply::unsubscribed(&mut self.out, id);
            }
            None => self.refuse(id, Refusal::NotFound, 0, "no such subscription on this connection", desk),
        }
    }

    /// Sends what has happened, as far as there is room.
    pub(crate) fn pump_events(&mut self, desk: &Desk) {
        let count = self.subscriptions.all.len();
        let first = self.subscriptions.first;
        self.subscriptions.first = first.wrapping_add(1);
        for turn in 0..count {
            self.pump(first.wrapping_add(turn) % count, desk);
        }
    }

    fn pump(&mut self, index: usize, desk: &Desk) {
        loop {
            let room = self.event_room(desk);
            let subscription = &mut self.subscriptions.all[index];
            // What is durable now has been published; what the read does not show did not happen.
            let durable = subscription.hub.durable();
            if subscription.reading || (durable <= subscription.next && !subscription.unconfirmed) {
                subscription.progress(&mut self.out, desk.now_ms);
                return;
            }
            if room == 0 {
                return;
            }
            match subscription.hub.read(subscription.next, room.min(READ_BYTES)) {
                HubRead::Blocks { blocks, next } => {
                    let frame_bytes_max = desk.shared.config.limits.frame_bytes_max as usize;
                    for block in &blocks {
                        subscription.encode(block, &mut self.out, frame_bytes_max);
                    }
                    subscription.next = if blocks.is_empty() { subscription.next.max(durable) } else { next };
                    if !blocks.is_empty() {
                        subscription.told = next;
                        subscription.told_at_ms = desk.now_ms;
                    }
                }
                HubRead::Behind { .. } => {
                    subscription.reading = true;
                    let job = HistoryJob {
                        session: self.key,
                        request_id: subscription.request_id,
                        core: desk.own,
                        hub: Arc::clone(&subscription.hub),
                        from: subscription.next,
                    };
                    desk.shared.read_history(job);
                    return;
                }
                HubRead::Unwritten | HubRead::Closed => return,
            }
        }
    }

    /// Takes what the helper thread read.
    pub(crate) fn history_read(&mut self, read: HistoryRead, desk: &mut Desk) {
        let id = read.request_id;
        let all = &mut self.subscriptions.all;
        // The subscription may have been ended since, and its number given to another one.
        let asked = |known: &Subscription| {
            known.request_id == id
                && known.reading
                && known.next == read.from
                && Arc::ptr_eq(&known.hub, &read.hub)
        };
        let Some(index) = all.iter().position(asked) else { return };
        let subscription = &mut all[index];
        subscription.reading = false;
        // Damage cannot be told past: what lies before it is lost to everybody, as what is no longer kept.
        let (oldest, why) = match &read.result {
            Err(EventsError::Damaged { oldest, .. }) => (Some(*oldest), DAMAGED),
            Err(EventsError::TooOld { oldest, .. }) => (Some(*oldest), ""),
            _ => (None, ""),
        };
        if let (Err(error), DAMAGED) = (&read.result, why) {
            tracing::error!(%error, "past events are damaged");
        }
        match (read.result, oldest) {
            (Ok(history), _) => {
                subscription.confirm(read.from, &mut self.out);
                let frame_bytes_max = desk.shared.config.limits.frame_bytes_max as usize;
                for block in &history.blocks {
                    subscription.encode(block, &mut self.out, frame_bytes_max);
                }
                subscription.next = history.next;
                subscription.told = history.next;
                subscription.told_at_ms = desk.now_ms;
            }
            (Err(_), Some(oldest)) if subscription.unconfirmed && !subscription.from_oldest => {
                all.swap_remove(index);
                self.refuse(id, Refusal::PositionTooOld, oldest, why, desk);
            }
            (Err(_), Some(oldest)) => {
                let oldest = CorePosition(oldest.max(subscription.next.0));
                if subscription.unconfirmed {
                    // Whatever is kept: it begins there.
                    subscription.confirm(oldest, &mut self.out);
                } else if oldest > subscription.next {
                    let (from, to) = (Position(subscription.next.0), Position(oldest.0));
                    reply::gap(&mut self.out, id, subscription.shard, from, to);
                }
                subscription.next = oldest;
                subscription.told = oldest;
            }
            (Err(error), None) => {
                tracing::error!(%error, "reading past events for a subscriber");
                all.swap_remove(index);
                self.refuse(id, Refusal::Internal, 0, "the log could not be read", desk);
            }
        }
    }
}

impl Subscription {
    fn confirm(&mut self, start: CorePosition, out: &mut Vec<u8>) {
        if self.unconfirmed {
            self.unconfirmed = false;
            let (oldest, durable) = (start.min(self.hub.oldest()), self.hub.durable());
            let [start, oldest, durable] = [start, oldest, durable].map(|position| Position(position.0));
            reply::subscribed(out, self.request_id, start, oldest, durable);
        }
    }

    fn progress(&mut self, out: &mut Vec<u8>, now_ms: u64) {
        if self.next > self.told && now_ms.saturating_sub(self.told_at_ms) >= PROGRESS_INTERVAL_MS {
            self.told = self.next;
            self.told_at_ms = now_ms;
            reply::progress(out, self.request_id, self.shard, Position(self.next.0));
        }
    }

    /// Encodes the events of a block from `next` on.
    fn encode(&self, block: &EventBlock, out: &mut Vec<u8>, frame_bytes_max: usize) {
        let entries_max = ((frame_bytes_max - HEADER_BYTES - 24) / 16).min(EVENT_ENTRIES_MAX as usize);
        for decoded in RecordIter::new(block.first, &block.bytes) {
            let (at, record) = decoded.expect("S4 replay-equal: a record that was just written decodes");
            match record {
                Record::Ended { cause, items_follow, entries } => {
                    let first = end_position(at, 0).0;
                    let skip = self.next.0.saturating_sub(first).div_ceil(ENDED_STRIDE);
                    let mut index = usize::try_from(skip).unwrap_or(usize::MAX).min(entries.len());
                    let mut entries = entries.skip(index);
                    while entries.len() > 0 {
                        let head = EndedHead {
                            shard: self.shard,
                            cause: match cause {
                                CoreCause::Expired => Cause::Expired,
                                CoreCause::Revoked => Cause::Revoked,
                            },
                            time_ms: block.time.0,
                            first: Position(end_position(at, index).0),
                            items_follow,
                        };
                        let count = entries.len().min(entries_max);
                        let chunk = entries.by_ref().take(count);
                        let chunk = chunk.map(|(id, token)| (LeaseId(id.0), Token(token.0)));
                        reply::ended(out, self.request_id, &head, chunk);
                        index += count;
                    }
                }
                Record::EndedItems { id, token, last, items } if at >= self.next => {
                    let head = EndedItemsHead {
                        shard: self.shard,
                        position: Position(at.0),
                        id: LeaseId(id.0),
                        token: Token(token.0),
                        last,
                    };
                    reply::ended_items(out, self.request_id, &head, items);
                }
                _ => {}
            }
        }
    }
}
