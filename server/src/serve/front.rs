//! One core's connections without their sockets: what both drivers share.
//!
//! A driver enters connections, passes on what it receives, and walks the sessions that were
//! *touched* in a turn: those that have something to send or have come to an end.

use std::any::Any;
use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Instant;

use tenure::request::{Reply, ServiceTicket};
use tenure::station::Station;
use tenure_protocol::Refusal;

use super::desk::Desk;
use super::limits;
use super::session::Session;
use super::session::subscription::HistoryRead;
use super::sessions::Sessions;
use super::shared::Shared;
use super::tag::{Kind, Tag};

/// A connection on its way to a core: a parcel.
pub(crate) struct Arrival {
    pub(crate) socket: OwnedFd,
    /// What was received before, from its Hello on.
    pub(crate) bytes: Vec<u8>,
    /// The other side has sent everything already.
    pub(crate) at_end: bool,
}

/// Listeners for a core: a parcel.
pub(crate) struct Listeners(pub(crate) Vec<OwnedFd>);

/// What a turn's parcels were.
#[derive(Default)]
pub(crate) struct Parcels {
    pub(crate) arrivals: Vec<Arrival>,
    pub(crate) listeners: Vec<OwnedFd>,
}

/// One core's connections.
pub(crate) struct Front {
    pub(crate) desk: Desk,
    pub(crate) sessions: Sessions,
    /// Sessions that the driver must look at, each once.
    touched: Vec<u64>,
    /// Sessions that may go on decoding.
    resumable: Vec<u64>,
    /// Sessions with subscriptions; whose turn it is comes first.
    subscribed: VecDeque<u64>,
    /// The last turn had no time for all of them.
    events_left: bool,
    ready: Vec<(ServiceTicket, Reply)>,
    swept_at_ms: u64,
    /// When the core began to stop.
    stopping_since_ms: Option<u64>,
}

impl Front {
    pub(crate) fn new(shared: Arc<Shared>, own: u16) -> Front {
        Front {
            // The shard count is known when the first turn begins.
            desk: Desk::new(shared, own, 1),
            sessions: Sessions::default(),
            touched: Vec::new(),
            resumable: Vec::new(),
            subscribed: VecDeque::new(),
            events_left: false,
            ready: Vec::new(),
            swept_at_ms: 0,
            stopping_since_ms: None,
        }
    }

    /// Called once, with the core's station.
    pub(crate) fn start(&mut self, station: &Station) {
        self.desk.shard_count = station.shard_count();
        self.desk.tick();
    }

    /// Enters a connection, if there is room for one more (S8).
    pub(crate) fn enter(&mut self, placed: bool) -> Option<u64> {
        if !self.desk.shared.admit() {
            return None;
        }
        // Before the turn's own look at the clock, which may be as old as the core's last sleep.
        self.desk.tick();
        let (number, now_ms) = (self.desk.shared.next_session(), self.desk.now_ms);
        Some(self.sessions.enter(|key| Session::new(key, number, placed, now_ms)))
    }

    /// Forgets a connection.
    pub(crate) fn leave(&mut self, key: u64) {
        self.sessions.remove(key);
        self.desk.shared.release();
    }

    /// Passes on bytes that arrived.
    #[inline]
    pub(crate) fn receive(&mut self, key: u64, bytes: &[u8], station: &mut Station) {
        let Some(session) = self.sessions.find(key) else { return };
        session.receive(bytes, &mut self.desk, station);
        if session.subscriptions.is_news() {
            self.subscribed.push_back(key);
        }
        touch(&mut self.touched, session);
    }

    /// Passes on what a connection that was carried here had received before.
    pub(crate) fn receive_moved(&mut self, key: u64, bytes: &[u8], station: &mut Station) {
        if self.is_stopping() {
            // The others have been told already.
            return self.with(key, |session| session.go_away(Refusal::ShuttingDown, ""));
        }
        self.receive(key, bytes, station);
    }

    /// The connection could not be carried elsewhere: it is served here.
    pub(crate) fn stay(&mut self, key: u64, station: &mut Station) {
        let Some(session) = self.sessions.find(key) else { return };
        session.stay(&mut self.desk, station);
        touch(&mut self.touched, session);
    }

    /// Notes progress of a send.
    pub(crate) fn sent(&mut self, key: u64, bytes: usize) {
        let Some(session) = self.sessions.find(key) else { return };
        session.sent(bytes, self.desk.now_ms);
        if session.can_resume(&self.desk) {
            self.resumable.push(key);
        }
    }

    /// Changes a session and lets the driver look at it.
    pub(crate) fn with(&mut self, key: u64, change: impl FnOnce(&mut Session)) {
        if let Some(session) = self.sessions.find(key) {
            change(session);
            touch(&mut self.touched, session);
        }
    }

    /// The beginning of a turn: the time, parcels, answers, and what had to wait for room.
    pub(crate) fn turn(&mut self, station: &mut Station) -> Parcels {
        self.desk.tick();
        let parcels = self.sort_parcels(station.take_parcels());
        self.collect(station);
        let mut resumable = std::mem::take(&mut self.resumable).into_iter();
        for key in resumable.by_ref() {
            let Some(session) = self.sessions.find(key) else { continue };
            session.resume(&mut self.desk, station);
            if session.subscriptions.is_news() {
                self.subscribed.push_back(key);
            }
            touch(&mut self.touched, session);
            if station.is_turn_spent() {
                break;
            }
        }
        // Those that are left come before those that have just had their turn.
        self.resumable.splice(..0, resumable);
        if station.is_stopping() {
            self.stop();
        }
        self.sweep();
        parcels
    }

    /// The end of a turn: answers that became ready, events.
    pub(crate) fn finish_turn(&mut self, station: &mut Station) {
        self.collect(station);
        self.pump_events();
        self.desk.publish_counts();
    }

    /// Takes the answers that are ready to their sessions.
    pub(crate) fn collect(&mut self, station: &mut Station) {
        let mut ready = std::mem::take(&mut self.ready);
        station.take_ready(&mut ready);
        for (ticket, reply) in ready.drain(..) {
            let tag = Tag::of(ticket);
            if tag.kind == Kind::Part {
                let whole = self.desk.scatter.answered(tag.id, tag.amount as usize, reply);
                let Some(whole) = whole else { continue };
                let Some(session) = self.sessions.find(ticket.session) else { continue };
                session.joined(whole, &mut self.desk);
                after_answer(session, &self.desk, &mut self.touched, &mut self.resumable);
            } else {
                let Some(session) = self.sessions.find(ticket.session) else { continue };
                session.answered(tag, reply, &mut self.desk);
                after_answer(session, &self.desk, &mut self.touched, &mut self.resumable);
            }
        }
        self.ready = ready;
    }

    fn sort_parcels(&mut self, parcels: Vec<Box<dyn Any + Send>>) -> Parcels {
        let mut sorted = Parcels::default();
        for parcel in parcels {
            let parcel = match parcel.downcast::<Arrival>() {
                Ok(arrival) => {
                    sorted.arrivals.push(*arrival);
                    continue;
                }
                Err(other) => other,
            };
            let parcel = match parcel.downcast::<Listeners>() {
                Ok(listeners) => {
                    sorted.listeners.extend(listeners.0);
                    continue;
                }
                Err(other) => other,
            };
            if let Ok(read) = parcel.downcast::<HistoryRead>()
                && let Some(session) = self.sessions.find(read.session)
            {
                session.history_read(*read, &mut self.desk);
                touch(&mut self.touched, session);
            }
        }
        sorted
    }

    /// Encodes news for the subscribed, each in its turn, for no longer than a slice (L3).
    fn pump_events(&mut self) {
        self.events_left = false;
        if self.subscribed.is_empty() {
            return;
        }
        let began = Instant::now();
        let count = self.subscribed.len();
        for looked_at in 1..=count {
            let key = self.subscribed.pop_front().expect("each is looked at once");
            let Some(session) = self.sessions.find(key) else { continue };
            if session.subscriptions.is_empty() {
                session.subscriptions.unlist();
                continue;
            }
            session.pump_events(&self.desk);
            self.subscribed.push_back(key);
            if session.has_outgoing() {
                touch(&mut self.touched, session);
                if began.elapsed() >= limits::EVENTS_SLICE {
                    // Those at the front come first in the next turn.
                    self.events_left = looked_at < count;
                    return;
                }
            }
        }
    }

    fn stop(&mut self) {
        if self.stopping_since_ms.is_some() {
            return;
        }
        self.stopping_since_ms = Some(self.desk.now_ms);
        for session in self.sessions.iter_mut() {
            session.go_away(Refusal::ShuttingDown, "");
            touch(&mut self.touched, session);
        }
    }

    /// Whether the core is stopping and clients have had their time.
    pub(crate) fn stop_overdue(&self) -> bool {
        self.stopping_since_ms.is_some_and(|since| self.desk.now_ms.saturating_sub(since) > limits::DRAIN_MS)
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping_since_ms.is_some()
    }

    /// Looks at all connections for timeouts, now and then.
    fn sweep(&mut self) {
        let now_ms = self.desk.now_ms;
        if now_ms.saturating_sub(self.swept_at_ms) < limits::SWEEP_INTERVAL_MS {
            return;
        }
        self.swept_at_ms = now_ms;
        for session in self.sessions.iter_mut() {
            let Some(refusal) = session.overdue(&self.desk) else { continue };
            session.time_out(refusal);
            touch(&mut self.touched, session);
        }
    }

    /// The sessions that the driver must look at now.
    pub(crate) fn take_touched(&mut self, into: &mut Vec<u64>) {
        std::mem::swap(into, &mut self.touched);
    }

    /// Marks a session as looked at.
    pub(crate) fn looked_at(&mut self, key: u64) -> Option<&mut Session> {
        let session = self.sessions.find(key)?;
        session.touched = false;
        Some(session)
    }

    /// How soon a turn is wanted although nothing arrives, ms.
    pub(crate) fn wakes_in_ms(&self) -> Option<u64> {
        if !self.resumable.is_empty() || !self.touched.is_empty() || self.events_left {
            return Some(0);
        }
        (self.sessions.len() > 0).then_some(limits::SWEEP_INTERVAL_MS)
    }
}

fn touch(touched: &mut Vec<u64>, session: &mut Session) {
    if !session.touched {
        session.touched = true;
        touched.push(session.key());
    }
}

fn after_answer(session: &mut Session, desk: &Desk, touched: &mut Vec<u64>, resumable: &mut Vec<u64>) {
    if session.can_resume(desk) && resumable.last() != Some(&session.key()) {
        resumable.push(session.key());
    }
    touch(touched, session);
}
