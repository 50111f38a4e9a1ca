//! A server's sessions without sockets and threads, for simulators: no stability is promised.
//!
//! A [`House`] is what the cores of one server share, a [`CoreFront`] one core's connections. Whoever holds
//! them is the network: it enters connections, passes on bytes, and takes away what is to be sent, as the
//! two drivers do. Everything in between (frames, requests, windows, subscriptions, timeouts) is the code
//! that they run.
//!
//! **S5**: with the same clock and calls, the same happens.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tenure::station::Station;
use tenure::{Driver, Handle, ManualClock, ShardIndex};

use super::config::ServeConfig;
use super::front::Front;
use super::session::subscription::HistoryJob;
use super::session::{Fate, Session};
use super::shared::{Opened, Shared};

/// A simulated server's clock, and the reads of log files that wait for somebody to do them.
pub(crate) struct Simulated {
    clock: ManualClock,
    started: Duration,
    jobs: Mutex<VecDeque<HistoryJob>>,
}

impl Simulated {
    pub(crate) fn elapsed_ms(&self) -> u64 {
        let elapsed = self.clock.elapsed().saturating_sub(self.started);
        u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX)
    }

    pub(crate) fn enqueue(&self, job: HistoryJob) {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner).push_back(job);
    }
}

/// What the cores of one server share.
pub struct House {
    shared: Arc<Shared>,
}

impl House {
    /// A server that starts now, by `clock`.
    #[must_use]
    pub fn new(config: ServeConfig, clock: &ManualClock) -> House {
        let mut shared = Shared::new(config);
        let (clock, started) = (clock.clone(), clock.elapsed());
        shared.simulated = Some(Simulated { clock, started, jobs: Mutex::default() });
        House { shared: Arc::new(shared) }
    }

    /// The engine behind it is open.
    pub fn opened(&self, handle: Handle, lease_count: u64) {
        let opened = Opened { handle, driver: Driver::Ring, lease_count, took: Duration::ZERO };
        assert!(self.shared.opened.set(opened).is_ok(), "an engine is opened once");
    }

    /// One core's connections, beginning with none.
    #[must_use]
    pub fn front(&self, station: &Station) -> CoreFront {
        let mut front = Front::new(Arc::clone(&self.shared), station.shard_index().0);
        front.start(station);
        CoreFront { front, entered: Vec::new() }
    }

    /// Whether log files wait to be read for a subscription.
    #[must_use]
    pub fn has_history_to_read(&self) -> bool {
        self.simulated().is_some_and(|jobs| !jobs.is_empty())
    }

    /// Does what the helper thread does: reads log files for the subscription that has waited longest.
    pub fn read_history(&self) {
        let job = self.simulated().and_then(|mut jobs| jobs.pop_front());
        let (Some(job), Some(opened)) = (job, self.shared.opened.get()) else { return };
        let (core, read) = job.read();
        // An inbox is never full in a simulation that takes turns; if it is, the read is lost with it.
        let _ = opened.handle.send_parcel(ShardIndex(core), Box::new(read));
    }

    fn simulated(&self) -> Option<std::sync::MutexGuard<'_, VecDeque<HistoryJob>>> {
        let simulated = self.shared.simulated.as_ref()?;
        Some(simulated.jobs.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// What the network should do with a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// Go on.
    Keep,
    /// Carry it to the core that it wished for ([`CoreFront::hand_over`]).
    Move(u16),
    /// Everything has been said: close.
    Close,
    /// Close at once.
    Abort,
}

/// One core's connections.
pub struct CoreFront {
    front: Front,
    entered: Vec<u64>,
}

impl CoreFront {
    /// Enters a connection. `None`: there are too many (S8).
    pub fn enter(&mut self) -> Option<u64> {
        let key = self.front.enter(false)?;
        self.entered.push(key);
        Some(key)
    }

    /// Enters a connection that another core handed over with what it had received.
    pub fn enter_moved(&mut self, bytes: &[u8], station: &mut Station) -> Option<u64> {
        let key = self.front.enter(true)?;
        self.entered.push(key);
        self.front.receive_moved(key, bytes, station);
        Some(key)
    }

    /// Gives up a connection that moves to another core, and what it had received.
    pub fn hand_over(&mut self, key: u64) -> Vec<u8> {
        let bytes = self.front.sessions.find(key).map(Session::take_carry).unwrap_or_default();
        self.leave(key);
        bytes
    }

    /// Passes on bytes that arrived.
    pub fn receive(&mut self, key: u64, bytes: &[u8], station: &mut Station) {
        self.front.receive(key, bytes, station);
    }

    /// The other side will send no more.
    pub fn at_end(&mut self, key: u64) {
        self.front.with(key, Session::peer_closed);
    }

    /// The connection is broken.
    pub fn broken(&mut self, key: u64) {
        self.front.with(key, Session::kill);
    }

    /// The other side took `bytes`.
    pub fn sent(&mut self, key: u64, bytes: usize) {
        self.front.sent(key, bytes);
        // As the drivers do: a session that has said everything is looked at once more.
        self.front.with(key, |_| {});
    }

    /// The beginning of a turn, after what arrived.
    pub fn turn(&mut self, station: &mut Station) {
        let parcels = self.front.turn(station);
        assert!(
            parcels.arrivals.is_empty() && parcels.listeners.is_empty(),
            "sockets do not come into a simulation"
        );
    }

    /// The end of a turn.
    pub fn finish_turn(&mut self, station: &mut Station) {
        self.front.finish_turn(station);
    }

    /// The connections to look at now.
    pub fn take_touched(&mut self, into: &mut Vec<u64>) {
        self.front.take_touched(into);
    }

    /// What to do with a touched connection.
    pub fn look_at(&mut self, key: u64) -> Option<Wish> {
        let session = self.front.looked_at(key)?;
        Some(match session.fate() {
            Fate::Keep => Wish::Keep,
            Fate::Move(core) => Wish::Move(core),
            Fate::Close => Wish::Close,
            Fate::Abort => Wish::Abort,
        })
    }

    /// Takes what is to be sent, if anything. One send at a time: the next only after all of it was `sent`.
    pub fn take_outgoing(&mut self, key: u64, into: &mut Vec<u8>) -> bool {
        let now_ms = self.front.desk.now_ms;
        let Some(session) = self.front.sessions.find(key).filter(|session| session.has_outgoing()) else {
            return false;
        };
        session.take_outgoing(into, now_ms);
        true
    }

    /// Whether bytes should be passed on.
    pub fn wants_read(&mut self, key: u64) -> bool {
        self.front.sessions.find(key).is_some_and(|session| session.wants_read())
    }

    /// Forgets a connection.
    pub fn leave(&mut self, key: u64) {
        self.entered.retain(|known| *known != key);
        self.front.leave(key);
    }

    /// How soon a turn is wanted although nothing arrives, ms.
    #[must_use]
    pub fn wakes_in_ms(&self) -> Option<u64> {
        self.front.wakes_in_ms()
    }

    /// Whether nothing is left to say to anyone.
    #[must_use]
    pub fn is_drained(&self) -> bool {
        self.front.sessions.len() == 0
    }

    /// Whether clients have had their time to take their last replies.
    #[must_use]
    pub fn stop_overdue(&self) -> bool {
        self.front.stop_overdue()
    }

    /// All connections.
    #[must_use]
    pub fn connections(&self) -> &[u64] {
        &self.entered
    }
}
