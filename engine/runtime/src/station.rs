//! One core's working place: its shard, its log, the replies that wait for the disk, its inbox and
//! its peers. Sans-I/O: a shell (raw ring or glommio) moves the bytes and tells it what happened.
//!
//! A turn is: [`begin_turn`](Station::begin_turn) (time, inbox) → the service applies what its
//! connections sent → [`end_turn`](Station::end_turn) (expiry, upkeep, seal, release) → the shell
//! submits [`next_write`](Station::next_write) and sleeps no longer than [`sleep`](Station::sleep).
//!
//! - **S1 one-shard**: the shard is a plain field, reached through `&mut` on one thread.
//! - **S3 ack-after-durable**: every answer goes through `Station::answer`, which holds it in the
//!   gate unless its position is durable; events are published in `Station::release` only.
//! - **S6 time-forward**: `now` is taken once a turn and never goes back.
//! - **S8 bounded**: a backed-up log refuses writes and stops expiry; a full peer refuses forwards.
//! - **L3 fair**: expiry and upkeep share a bounded slice of each turn, and begin every other turn while the
//!   log has no room for all; after a pause of the process arrivals are served before anything expires.
//!
//! It does not know sockets, files or executors.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tenure_core::{GrantKey, LeaseId, Position, RecordBuffer, Refusal, Renewed, Shard, ShardIndex, Time};
use tenure_planted::Bug;

use crate::clock::EngineClock;
use crate::ending::Ending;
use crate::error::Unavailable;
use crate::events::{EventHub, PendingEvents};
use crate::gate::Gate;
use crate::handle::Shared;
use crate::inbox::{Inbox, Message};
use crate::journal::{Journal, LogFault, LogWrite};
use crate::limits;
use crate::memory::Memory;
use crate::peers::Peers;
use crate::request::{Reply, Request, ServiceTicket, Ticket};
use crate::snapshotting::Snapshotting;

mod apply;
mod background;
mod disturbances;
mod pause;
#[cfg(feature = "simulation")]
mod simulated;
mod slice;
#[cfg(test)]
mod tests;
mod turn_clock;

use pause::PauseWatch;
use slice::Slice;
use turn_clock::{Stage, TurnClock};

/// How long a shell may let the core sleep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sleep {
    /// There is more to do: take another turn at once.
    No,
    /// Until this much time has passed, or something arrives.
    For(Duration),
    /// Until something arrives.
    Forever,
}

/// A core's shard and everything that surrounds it.
pub struct Station {
    index: ShardIndex,
    shard: Shard,
    records: RecordBuffer,
    /// Engine time before the open batch's first record.
    batch_time: Time,
    journal: Journal,
    gate: Gate,
    pending: PendingEvents,
    shared: Arc<Shared>,
    peers: Peers,
    inbox: Arc<Inbox>,
    /// Messages taken from the inbox; between turns those that the last one had no time for.
    arrived: VecDeque<Message>,
    clock: EngineClock,
    now: Time,
    /// Replies for this core's service.
    ready: Vec<(ServiceTicket, Reply)>,
    /// What other threads sent to this core's service.
    parcels: Vec<Box<dyn std::any::Any + Send>>,
    settling: Vec<oneshot::Sender<()>>,
    snapshotting: Snapshotting,
    stopping: bool,
    ending: Arc<Ending>,
    memory: Memory,
    /// This core's service is among those that `ending` counts as drained.
    service_drained: bool,
    pause: PauseWatch,
    background_more: bool,
    /// Expiry found no room in the log.
    background_held: bool,
    /// This turn began with expiry: the next one that could begins with requests.
    background_first: bool,
    slice: Slice,
    turn_clock: TurnClock,
}

/// What a station is made of.
pub(crate) struct Parts {
    pub(crate) shard: Shard,
    pub(crate) index: ShardIndex,
    pub(crate) journal: Journal,
    pub(crate) shared: Arc<Shared>,
    pub(crate) ending: Arc<Ending>,
    pub(crate) memory: Memory,
    pub(crate) clock: EngineClock,
    pub(crate) snapshotting: Snapshotting,
}

impl Station {
    pub(crate) fn new(parts: Parts) -> Self {
        let Parts { shard, index, journal, shared, ending, memory, clock, snapshotting } = parts;
        let now = clock.now();
        let records = RecordBuffer::new(journal.open_position(), now);
        Station {
            index,
            shard,
            batch_time: now,
            records,
            journal,
            gate: Gate::default(),
            pending: PendingEvents::default(),
            inbox: Arc::clone(&shared.inboxes[usize::from(index.0)]),
            arrived: VecDeque::new(),
            peers: Peers::new(index, Arc::clone(&shared.inboxes)),
            shared,
            slice: Slice::default(),
            turn_clock: TurnClock::new(clock.is_host()),
            clock,
            now,
            ready: Vec::new(),
            parcels: Vec::new(),
            settling: Vec::new(),
            snapshotting,
            stopping: false,
            ending,
            memory,
            service_drained: false,
            pause: PauseWatch::default(),
            background_more: false,
            background_held: false,
            background_first: false,
        }
    }

    /// Which shard lives here.
    #[must_use]
    pub fn shard_index(&self) -> ShardIndex {
        self.index
    }

    /// Shards of the engine.
    #[must_use]
    pub fn shard_count(&self) -> u16 {
        self.peers.shard_count()
    }

    /// The shard an ID belongs to (S1).
    #[must_use]
    pub fn shard_of(&self, id: LeaseId) -> ShardIndex {
        self.peers.shard_of(id)
    }

    /// The shard that an identified grant without a chosen ID goes to, so that its repeat finds the lease that it
    /// made. `wished`: its connection would have it made here.
    #[must_use]
    pub fn shard_of_grant(&self, key: GrantKey, wished: bool) -> ShardIndex {
        self.shared.grant_routes().shard_of(key, wished.then_some(self.index), self.shard_count())
    }

    /// The engine time of this turn.
    #[must_use]
    pub fn now(&self) -> Time {
        self.now
    }

    /// Everything below this position survives a crash (at the default durability).
    #[must_use]
    pub fn durable(&self) -> Position {
        self.journal.acknowledged()
    }

    /// The event stream of a shard, whichever core it lives on; from now on its news wake this core.
    #[must_use]
    pub fn watch_events(&self, shard: ShardIndex) -> Option<Arc<EventHub>> {
        let hub = self.shared.hubs.get(usize::from(shard.0))?;
        hub.watch(&self.inbox);
        Some(Arc::clone(hub))
    }

    /// Whether the core has been asked to stop; a service then drains.
    #[must_use]
    pub fn is_stopping(&self) -> bool {
        self.stopping
    }

    /// Starts a turn: takes what arrived in the inbox, reads the clock, notices a pause.
    ///
    /// In this order: a thread can be preempted for milliseconds between any two steps, and a request that is taken
    /// after the clock was read would be dated before it was sent (S2).
    pub fn begin_turn(&mut self) {
        self.turn_clock.begin();
        let room = limits::INBOX_MESSAGES_PER_TURN - self.arrived.len();
        self.arrived.extend(std::iter::from_fn(|| self.inbox.pop()).take(room));
        let before = self.now;
        self.now = self.clock.now().max(before);
        if self.clock.shows_pauses() {
            self.pause.notice(before, self.now, &mut self.shard);
        }
        // L3: on a disk that cannot keep up, whoever comes first takes all the room that the log has got since.
        self.background_first = self.background_held && !self.background_first;
        if self.background_first {
            self.background();
        }
        for step in 1.. {
            let Some(message) = self.arrived.pop_front() else { break };
            self.receive(message);
            if self.arrived.is_empty() || self.is_inbox_spent(step) {
                break;
            }
        }
    }

    /// Whether this turn has spent on messages what it may, of which it has taken so many.
    fn is_inbox_spent(&self, taken: u32) -> bool {
        if !self.clock.is_host() {
            return taken >= limits::TURN_INBOX_STEPS;
        }
        self.turn_clock.turn_so_far() >= Duration::from_micros(limits::TURN_INBOX_US_MAX)
    }

    /// Whether this turn has spent on requests what it may: what else has arrived waits for the next turn, so that
    /// expiry, the log and those who wait for their replies come by (L3). A request that has been begun is never cut.
    #[must_use]
    pub fn is_turn_spent(&self) -> bool {
        self.clock.is_host()
            && self.turn_clock.turn_so_far() >= Duration::from_micros(limits::TURN_REQUESTS_US_MAX)
    }

    /// Whether the turn's end will take long, compared with what most requests take: leases are expiring, or a snapshot is under way.
    #[must_use]
    pub fn will_be_long(&self) -> bool {
        self.background_more || self.snapshotting.is_imaging()
    }

    /// Sends peers what they should get before a long end of the turn; the shell sends answers next.
    pub fn requests_done(&mut self) {
        self.turn_clock.end_of(Stage::Requests);
        self.peers.flush();
    }

    /// Ends a turn: expires and keeps up within a time slice (L3), seals the batch when it is worth
    /// it, releases what became durable, sends what peers should get.
    pub fn end_turn(&mut self) {
        self.background();
        self.snapshot();
        self.log_clock();
        self.seal_if_worth_it();
        self.release();
        self.peers.flush();
        self.settle();
    }

    /// Notes that the shell has done all that the turn asked for, but for what the kernel does.
    pub fn replies_done(&mut self) {
        self.turn_clock.end_of(Stage::Replies);
    }

    /// Notes that the kernel has taken what there was to send, in mid-turn.
    pub fn kernel_done(&mut self) {
        self.turn_clock.end_of(Stage::Kernel);
    }

    /// Notes that the turn is over: the kernel has taken what there was, or the core is about to sleep.
    pub fn turn_done(&mut self) {
        if self.background_more && !self.background_held && self.clock.is_host() {
            self.slice.turn_took(self.turn_clock.turn_so_far());
        }
        if let Some(slow) = self.turn_clock.end(Stage::Kernel) {
            tracing::info!(shard = self.index.0, "the longest turn so far: {slow}");
        }
    }

    /// The next log write to submit, if one may be in flight.
    pub fn next_write(&mut self) -> Option<LogWrite> {
        self.journal.next_write()
    }

    /// The bytes of a write in flight, for shells that copy them.
    #[must_use]
    pub fn write_bytes(&self, write: &LogWrite) -> &[u8] {
        self.journal.write_bytes(write)
    }

    /// Takes the outcome of a log write. A fault means that nothing truthful can be promised any
    /// more: the shell must end the process.
    ///
    /// # Errors
    /// The write failed or was short.
    pub fn write_completed(&mut self, id: u64, result: std::io::Result<usize>) -> Result<(), LogFault> {
        self.journal.completed(id, result)?;
        self.release();
        Ok(())
    }

    /// Looks after segments and syncs, once a turn.
    ///
    /// # Errors
    /// A sync failed; as for a failed write.
    pub fn mind_log(&mut self) -> Result<(), LogFault> {
        let since = self.turn_clock.interrupt();
        if self.journal.mind(&mut self.snapshotting)? {
            self.turn_clock.end_of_interruption(Stage::Log, since);
        }
        Ok(())
    }

    /// How long the core may sleep after this turn.
    #[must_use]
    pub fn sleep(&self) -> Sleep {
        if !self.ready.is_empty()
            || !self.parcels.is_empty()
            || !self.arrived.is_empty()
            || self.background_more
            || self.peers.waiting()
            || (!self.settling.is_empty() && self.journal.in_flight() == 0)
            || !self.inbox.is_empty()
        {
            return Sleep::No;
        }
        // Expiry that must wait for the disk or for the end of a grace is no reason to stay awake:
        // a completed write, the keeper's bell or the grace's end starts the next turn. A core whose expiry waits
        // for the disk looks up now and then all the same, so that a gap is still a pause of the process.
        let held = self.journal.is_backed_up() || self.journal.is_full();
        let look_up = if held { Time(self.now.0 + limits::PAUSE_MS_MIN / 2) } else { Time(0) };
        let due = self.pause.grace_until().or_else(|| Some(self.shard.next_wake()?.max(look_up)));
        let due = [due, self.next_clock_record()].into_iter().flatten().min();
        let waits = [
            due.and_then(|at| self.clock.until(at)),
            self.journal.next_turn(),
            self.snapshotting.next_turn(),
        ];
        match waits.into_iter().flatten().min() {
            Some(Duration::ZERO) => Sleep::No,
            Some(wait) => Sleep::For(wait),
            None => Sleep::Forever,
        }
    }

    /// The way into this core, for threads that serve it.
    pub(crate) fn inbox(&self) -> Arc<Inbox> {
        Arc::clone(&self.inbox)
    }

    /// Announces sleep to senders. False: something arrived, take another turn.
    #[must_use]
    pub fn prepare_sleep(&self) -> bool {
        self.inbox.prepare_sleep()
    }

    /// Takes the announcement back.
    pub fn woke(&self) {
        self.inbox.woke();
    }

    /// The file descriptor that becomes readable when a sleeping core is needed.
    #[must_use]
    pub fn bell(&self) -> std::os::fd::BorrowedFd<'_> {
        self.inbox.bell()
    }

    /// Resets the bell after it was rung.
    pub fn silence_bell(&self) {
        self.inbox.silence();
    }

    /// Replies for this core's service, in the order in which they became ready.
    pub fn take_ready(&mut self, into: &mut Vec<(ServiceTicket, Reply)>) {
        into.append(&mut self.ready);
    }

    /// What other threads and cores handed to this core's service.
    pub fn take_parcels(&mut self) -> Vec<Box<dyn std::any::Any + Send>> {
        std::mem::take(&mut self.parcels)
    }

    /// Hands something to the service on another core, such as a socket that should live there.
    ///
    /// # Errors
    /// That core's inbox is full: the parcel comes back.
    pub fn send_parcel(
        &self,
        core: ShardIndex,
        parcel: Box<dyn std::any::Any + Send>,
    ) -> Result<(), Box<dyn std::any::Any + Send>> {
        self.peers.send_parcel(core, parcel)
    }

    /// Whether this core may end: the engine is stopping, no core's service needs this one any more, everything asked
    /// was answered, the log is flushed. A shell asks after every turn, and says whether its own service is drained.
    pub fn may_end(&mut self, service_drained: bool) -> bool {
        if !self.stopping || !service_drained {
            return false;
        }
        if !self.service_drained {
            self.service_drained = true;
            self.ending.drained();
        }
        self.ending.all_drained() && self.is_inbox_done() && !self.peers.waiting() && self.is_flushed()
    }

    /// No message waits, nor one that was taken.
    fn is_inbox_done(&self) -> bool {
        self.inbox.is_empty() && self.arrived.is_empty()
    }

    /// Nothing held, nothing in flight.
    fn is_flushed(&self) -> bool {
        self.gate.is_empty() && self.record_bytes() == 0 && self.journal.is_idle()
    }

    /// A hint that `id` will be renewed on this core in a moment.
    #[inline]
    pub fn prefetch(&self, id: LeaseId) {
        self.shard.prefetch(id);
    }

    /// The second step of [`prefetch`](Station::prefetch), some requests after it: for IDs that clients chose.
    #[inline]
    pub fn prefetch_found(&self, id: LeaseId) {
        self.shard.prefetch_found(id);
    }

    /// Whether this core's shard has leases whose IDs clients chose: else [`prefetch`](Station::prefetch) is enough.
    #[inline]
    pub fn has_chosen_ids(&self) -> bool {
        self.shard.has_chosen_ids()
    }

    /// Renews a lease of this core's own shard: the hot path. `None`: the answer waits for the disk
    /// and comes under `ticket`.
    #[inline]
    pub fn renew(&mut self, id: LeaseId, ticket: ServiceTicket) -> Option<Result<Renewed, Refusal>> {
        let answer = self.shard.renew(self.now, id, &mut self.records);
        if answer.after <= self.journal.acknowledged() {
            return Some(answer.result);
        }
        let reply = answer.result.map_or_else(Reply::Refused, Reply::Renewed);
        self.gate.hold(answer.after, Ticket::Service(ticket), reply);
        None
    }

    /// Renews many leases of this core's own shard. `Some`: done, `missing` names the entries that
    /// failed. `None`: the answer waits for the disk and comes under `ticket`.
    pub fn renew_batch(
        &mut self,
        ids: &[LeaseId],
        missing: &mut Vec<u32>,
        ticket: ServiceTicket,
    ) -> Option<Result<(), Refusal>> {
        match self.in_chunks(ids, missing, Shard::renew_batch) {
            Ok(after) if after <= self.journal.acknowledged() => Some(Ok(())),
            Ok(after) => {
                let reply = Reply::Missing(std::mem::take(missing));
                self.gate.hold(after, Ticket::Service(ticket), reply);
                None
            }
            Err(refusal) => Some(Err(refusal)),
        }
    }

    /// Asks a shard, this core's or another's. The answer comes under `ticket`.
    pub fn submit(&mut self, shard: ShardIndex, request: Request, ticket: ServiceTicket) {
        if shard == self.index {
            self.apply(Ticket::Service(ticket), request);
        } else if let Err(reply) = self.peers.forward(shard, ticket, request) {
            self.ready.push((ticket, reply));
        }
    }

    fn receive(&mut self, message: Message) {
        match message {
            Message::Requests(requests) => {
                for (ticket, request) in requests {
                    self.apply(ticket, request);
                }
            }
            Message::Replies(replies) => {
                self.peers.answered(replies.len());
                self.ready.extend(replies);
            }
            Message::Service(parcel) => self.parcels.push(parcel),
            Message::Settle(done) => self.settling.push(done),
            Message::Stop => {
                self.stopping = true;
                self.journal.flush();
            }
        }
    }

    /// Lets a reply go as soon as what it reveals is durable (S3).
    fn answer(&mut self, ticket: Ticket, reply: Reply, after: Position) {
        if after <= self.journal.acknowledged() || tenure_planted::is(Bug::AckAtOnce) {
            self.deliver(ticket, reply);
        } else {
            self.gate.hold(after, ticket, reply);
        }
    }

    fn deliver(&mut self, ticket: Ticket, reply: Reply) {
        match ticket {
            Ticket::Service(ticket) => self.ready.push((ticket, reply)),
            Ticket::Forwarded { core, ticket } => self.peers.reply(core, ticket, reply),
            // A caller that has stopped waiting needs no answer.
            Ticket::Caller(sender) => drop(sender.send(reply)),
        }
    }

    fn record_bytes(&self) -> usize {
        self.records.bytes().len()
    }

    fn seal_if_worth_it(&mut self) {
        let bytes = self.record_bytes();
        if bytes == 0 {
            return;
        }
        let eager = bytes >= limits::BATCH_BYTES_EAGER && self.journal.may_submit();
        if eager || self.journal.in_flight() == 0 || bytes >= limits::BATCH_BYTES_SEAL {
            self.seal();
        }
    }

    /// Closes the open batch, keeps its events until it is durable, opens the next one.
    fn seal(&mut self) {
        let since = self.turn_clock.interrupt();
        self.pending.take(&self.records);
        let next = self.journal.seal(&self.records, self.batch_time);
        self.batch_time = self.now;
        self.records.begin(next, self.now);
        self.turn_clock.end_of_interruption(Stage::Log, since);
    }

    /// Publishes events and releases replies up to the acknowledged position.
    fn release(&mut self) {
        let durable = self.journal.acknowledged();
        self.shard.durable(durable);
        let hub = &self.shared.hubs[usize::from(self.index.0)];
        hub.written(self.journal.written());
        self.pending.publish(durable, hub);
        while let Some((ticket, reply)) = self.gate.release(durable) {
            if let (Ticket::Service(ticket), true) = (&ticket, tenure_planted::is(Bug::RepliesTwice)) {
                self.ready.push((*ticket, reply.clone()));
            }
            self.deliver(ticket, reply);
        }
    }

    /// Answers those who wait for quiet: everything due has been done and is durable.
    fn settle(&mut self) {
        if self.settling.is_empty() || self.background_more || !self.gate.is_empty() {
            return;
        }
        let due = self.shard.next_wake().is_some_and(|at| at <= self.now);
        if due || self.record_bytes() > 0 || self.journal.in_flight() > 0 || self.clock.now() > self.now {
            return;
        }
        for done in self.settling.drain(..) {
            drop(done.send(()));
        }
    }

    /// Why a write cannot be taken right now, if so.
    fn refuse_write(&self) -> Option<Reply> {
        if self.stopping {
            Some(Reply::Unavailable(Unavailable::Stopping))
        } else if self.journal.is_full() {
            Some(Reply::Unavailable(Unavailable::StorageFull))
        } else if self.journal.is_backed_up() {
            Some(Reply::Refused(Refusal::Busy))
        } else {
            None
        }
    }
}

impl Drop for Station {
    /// Whoever still asks is told that nobody answers.
    fn drop(&mut self) {
        self.inbox.close();
    }
}
