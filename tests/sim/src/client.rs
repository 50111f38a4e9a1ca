//! A client: the real connection and keep-alive machines, and a will of its own.
//!
//! It connects, asks at random for whatever its deeds allow, holds some of its leases by keep-alive, repeats
//! identified grants over a new connection when the old one broke, and trusts its leases by its own clock
//! ([`clock`]). What it asked and was told goes to the oracle.

pub mod clock;
mod deeds;
mod replies;

use std::collections::BTreeMap;

use tenure_client::machine::{
    Change, Connection, ConnectionConfig, Delivery, KeepAlive, KeepBatch, KeepKey, LossReason,
};

use crate::checkers::{Verdict, l2_one_reply, s2_never_early};
use crate::link::Link;
use crate::oracle::{Key, Oracle, PossibleGrant};
use crate::plan::Plan;
use crate::random::Random;
use crate::streams::Streams;
use crate::trace::Trace;
use clock::ClientClock;

/// What a client sees of the world, and whom it tells.
pub struct Scene<'a> {
    /// The seed's draw.
    pub plan: &'a Plan,
    /// What must be true.
    pub oracle: &'a mut Oracle,
    /// What the event streams say.
    pub streams: &'a Streams,
    /// What happened.
    pub trace: &'a mut Trace,
    /// The client's randomness.
    pub random: &'a mut Random,
    /// Served time, ms.
    pub now_ms: u64,
    /// The host's clock, ms.
    pub host_ms: u64,
    /// Shards of the server.
    pub shard_count: u16,
    /// Every shard is a standby, and nobody is changing that.
    pub all_standby: bool,
    /// Turns that every core has taken.
    pub rounds: u64,
}

/// A request under way.
#[derive(Debug)]
struct Pending {
    asked: Asked,
    /// Served time when it was sent.
    sent_ms: u64,
    /// The same on the client's clock.
    sent_local_ms: u64,
    /// Rounds of turns when it was sent.
    round: u64,
    /// What the lease had been promised when it was sent.
    promised_ms: u64,
    /// The lease of that ID that was known to live then.
    known: Option<Key>,
}

#[derive(Debug)]
enum Asked {
    Grant { number: u64, grant: PossibleGrant, hold: bool },
    GrantBatch { grants: Vec<(u64, PossibleGrant)> },
    Renew { id: u64 },
    RenewBatch { ids: Vec<u64>, known: Vec<Option<Key>> },
    Keep { batch: KeepBatch, known: Vec<Option<Key>> },
    Revoke { id: u64 },
    RevokeBatch { ids: Vec<u64>, known: Vec<Option<Key>> },
    Look { id: u64 },
    List,
    Attach { item: String, shard: u16, key: Key },
    Detach { item: String, shard: u16, key: Key },
    LeaseOf,
    Subscribe { shard: u16 },
    Promote { extend_ms: u64, before: Vec<(Key, u64)>, number: u64 },
    Demote,
    Other,
}

/// A subscription, which goes on where it stood whenever the client has a connection.
#[derive(Clone, Copy, Debug, Default)]
pub struct Watch {
    /// Everything before has been told.
    pub next: u64,
    /// The token of the subscription on this connection.
    active: Option<u64>,
    /// The server has confirmed where it begins.
    pub confirmed: bool,
}

/// A lease that a client keeps alive.
#[derive(Clone, Copy, Debug)]
struct Hold {
    keep_key: KeepKey,
    ttl_ms: u64,
    /// It is trusted until then, on the client's clock.
    valid_until_ms: u64,
}

/// A client.
pub struct Client {
    /// Its number among the clients.
    pub index: usize,
    /// Names it to the server.
    identity: u64,
    connection: Option<Connection>,
    /// Its link among all links.
    pub link: Option<usize>,
    pending: BTreeMap<u64, Pending>,
    token_next: u64,
    sequence_next: u64,
    number_next: u64,
    keep: KeepAlive<Key>,
    holds: BTreeMap<Key, Hold>,
    /// Identified grants whose outcome is unknown.
    repeats: Vec<(PossibleGrant, bool)>,
    /// Identified grants that were answered.
    granted: Vec<PossibleGrant>,
    /// Items whose last request may still have an effect, and from which round on it cannot.
    floating: Vec<(String, u64)>,
    /// Its subscriptions by shard.
    pub watches: BTreeMap<u16, Watch>,
    /// The shard on whose core it wants to be.
    wish: Option<u16>,
    /// Its own clock.
    pub clock: ClientClock,
    connect_at_ms: u64,
    /// It does nothing until then, on the host's clock.
    pub stalled_until_ms: u64,
    /// It asks nothing new and keeps nothing alive.
    pub is_quiet: bool,
}

impl Client {
    /// A client that has not connected yet.
    #[must_use]
    pub fn new(index: usize, random: &mut Random) -> Client {
        Client {
            index,
            identity: random.next() | 1,
            connection: None,
            link: None,
            pending: BTreeMap::new(),
            token_next: 1,
            sequence_next: 1,
            number_next: (index as u64) << 32 | 1,
            keep: KeepAlive::new(random.next(), 5),
            holds: BTreeMap::new(),
            repeats: Vec::new(),
            granted: Vec::new(),
            floating: Vec::new(),
            watches: BTreeMap::new(),
            wish: random.permille(300).then(|| random.below(4) as u16),
            clock: ClientClock::new(random),
            connect_at_ms: 0,
            stalled_until_ms: 0,
            is_quiet: false,
        }
    }

    /// Its own clock when the host's stands at `host_ms`.
    #[must_use]
    pub fn local_ms(&self, host_ms: u64) -> u64 {
        self.clock.now_ms(host_ms)
    }

    /// Until when it trusts a lease, on its own clock.
    #[must_use]
    pub fn trusts_until(&self, key: Key) -> Option<u64> {
        self.holds.get(&key).map(|hold| hold.valid_until_ms)
    }

    /// Requests without an answer.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.pending.values().filter(|pending| !matches!(pending.asked, Asked::Subscribe { .. })).count()
    }

    /// Since which round of turns a request has waited. A Subscribe that only the log files can answer waits for a full
    /// disk, which was last seen in `full_round`, as long as it takes.
    #[must_use]
    pub fn waits_since_round(&self, full_round: u64) -> Option<u64> {
        let since = |pending: &Pending| match pending.asked {
            Asked::Subscribe { .. } => pending.round.max(full_round),
            _ => pending.round,
        };
        self.pending.values().map(since).min()
    }

    /// Whether it has a connection over which it may ask.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.connection.as_ref().is_some_and(Connection::is_open)
    }

    /// Whether something of it waits for a connection.
    #[must_use]
    pub fn wants_connection(&self) -> bool {
        !self.is_open() && (!self.repeats.is_empty() || !self.watches.is_empty() || self.link.is_some())
    }

    /// Does something, or nothing.
    ///
    /// # Errors
    /// What it contradicts.
    pub fn act(&mut self, links: &mut Vec<Link>, scene: &mut Scene<'_>) -> Verdict {
        if scene.host_ms < self.stalled_until_ms {
            return Ok(());
        }
        self.settle(scene);
        self.check_trust(scene)?;
        let Some(link) = self.link else {
            if scene.host_ms >= self.connect_at_ms {
                self.connect(links, scene);
            }
            return Ok(());
        };
        if links[link].is_over_for_client() {
            self.disconnect(links, scene);
            return Ok(());
        }
        if self.is_open() {
            self.repeat_grants(scene);
            self.watch_again(scene);
            self.keep_alive(scene)?;
            if !self.is_quiet {
                self.do_something(scene);
            }
        }
        self.flush(links, scene)
    }

    /// Time passes for its connection; what it wants to send goes on the link.
    fn flush(&mut self, links: &mut [Link], scene: &mut Scene<'_>) -> Verdict {
        let local_ms = self.local_ms(scene.host_ms);
        let (Some(connection), Some(link)) = (&mut self.connection, self.link) else { return Ok(()) };
        let silent = connection.tick(local_ms).is_err();
        if silent {
            self.disconnect(links, scene);
            return Ok(());
        }
        let out = connection.outgoing();
        links[link].to_server.extend(out.iter());
        out.clear();
        Ok(())
    }

    fn connect(&mut self, links: &mut Vec<Link>, scene: &mut Scene<'_>) {
        let core = scene.random.below(u64::from(scene.shard_count)) as u16;
        // Always the same one: a repeated grant must find the shard that made it.
        let config = ConnectionConfig {
            client_id: self.identity,
            wish_shard: self.wish,
            ..ConnectionConfig::default()
        };
        let mut connection = Connection::new(&config);
        let mut link = Link::new(self.index, core);
        link.to_server.extend(connection.outgoing().iter());
        connection.outgoing().clear();
        self.connection = Some(connection);
        let free = links.iter().position(Link::is_gone);
        let place = free.unwrap_or(links.len());
        if free.is_some() {
            links[place] = link;
        } else {
            links.push(link);
        }
        self.link = Some(place);
        scene.trace.note(scene.host_ms, "connect", &[self.index as u64, u64::from(core)]);
    }

    /// The connection is over: what was under way has an outcome that nobody will tell.
    pub fn disconnect(&mut self, links: &mut [Link], scene: &mut Scene<'_>) {
        if let Some(link) = self.link.take() {
            links[link].break_off();
            links[link].client_closed = true;
        }
        if let Some(connection) = &mut self.connection {
            connection.abandon();
        }
        self.connection = None;
        for (_, pending) in std::mem::take(&mut self.pending) {
            self.give_up(pending, scene);
        }
        for watch in self.watches.values_mut() {
            watch.active = None;
        }
        self.connect_at_ms = scene.host_ms + scene.random.below(30);
        scene.trace.note(scene.host_ms, "disconnect", &[self.index as u64]);
    }

    fn give_up(&mut self, pending: Pending, scene: &mut Scene<'_>) {
        match pending.asked {
            Asked::Grant { grant, hold, .. } if grant.sequence != 0 => self.repeats.push((grant, hold)),
            Asked::Keep { batch, .. } => {
                let local_ms = self.local_ms(scene.host_ms);
                self.keep.unanswered(local_ms, &batch);
            }
            Asked::Attach { item, .. } | Asked::Detach { item, .. } => {
                self.floating.push((item, scene.rounds + 5));
            }
            _ => {}
        }
    }

    /// What has no effect any more is free again.
    fn settle(&mut self, scene: &mut Scene<'_>) {
        self.floating.retain(|(item, round)| {
            let over = scene.rounds >= *round;
            if over {
                scene.oracle.items.settled(item);
            }
            !over
        });
    }

    /// What it waits for, for people.
    #[must_use]
    pub fn describe(&self) -> String {
        format!("client {} link {:?} pending {:x?}", self.index, self.link, self.pending)
    }

    /// The server was started again: nothing of an earlier request comes any more.
    pub fn server_restarted(&mut self, forgets_streams: bool, forgets_leases: bool) {
        if forgets_leases {
            for (_, hold) in std::mem::take(&mut self.holds) {
                self.keep.remove(hold.keep_key);
            }
        }
        self.floating.clear();
        if forgets_streams {
            for watch in self.watches.values_mut() {
                *watch = Watch::default();
            }
        }
    }

    /// Takes bytes from its link and deals with what they say.
    ///
    /// # Errors
    /// What it contradicts.
    pub fn receive(&mut self, bytes: &[u8], links: &mut [Link], scene: &mut Scene<'_>) -> Verdict {
        let Some(mut connection) = self.connection.take() else { return Ok(()) };
        connection.receive(bytes);
        let outcome = loop {
            match connection.poll() {
                Ok(None) => break Ok(false),
                Ok(Some(Delivery::Welcome(_))) => {}
                Ok(Some(Delivery::GoAway(_))) => {}
                Ok(Some(Delivery::Reply { token, response })) => {
                    if let Err(text) = self.answered(token, &response, scene) {
                        break Err(text);
                    }
                }
                Ok(Some(Delivery::Event { token, event })) => {
                    if let Err(text) = self.told(token, &event, scene) {
                        break Err(text);
                    }
                }
                Err(tenure_client::machine::ConnectionError::Refused { .. }) => break Ok(true),
                Err(error) => break l2_one_reply::fits(&error.to_string()).map(|()| true),
            }
        };
        self.connection = Some(connection);
        self.check_trust(scene)?;
        if outcome? {
            self.disconnect(links, scene);
        }
        Ok(())
    }

    /// Leases whose time has come go out in batches, or are given up.
    fn keep_alive(&mut self, scene: &mut Scene<'_>) -> Verdict {
        if self.is_quiet {
            return Ok(());
        }
        let local_ms = self.local_ms(scene.host_ms);
        self.keep.set_shard_count(scene.shard_count);
        let mut given_up = Vec::new();
        let batches = self.keep.poll(local_ms, &mut |key, reason| given_up.push((key, reason)));
        for (key, reason) in given_up {
            let hold = self.holds.remove(&key);
            if let (Some(hold), LossReason::Unreachable) = (hold, reason) {
                s2_never_early::given_up(key, hold.valid_until_ms, local_ms)?;
            }
        }
        for (key, hold) in &self.holds {
            s2_never_early::noticed(*key, hold.ttl_ms, hold.valid_until_ms, local_ms)?;
        }
        for batch in batches {
            let ids: Vec<u64> = batch.ids.iter().map(|id| id.0).collect();
            let known = ids.iter().map(|id| scene.oracle.known_living(*id)).collect();
            let sent = self.send(scene, ids.first().copied(), |connection, token| {
                connection.send_renew_batch(batch.ids.iter().copied(), token).is_ok()
            });
            match sent {
                Some(token) => self.note(token, Asked::Keep { batch, known }, scene),
                None => self.keep.unanswered(local_ms, &batch),
            }
        }
        Ok(())
    }

    /// Holds every lease that it trusts against what the streams have said.
    ///
    /// # Errors
    /// It trusts one that has expired.
    fn check_trust(&self, scene: &Scene<'_>) -> Verdict {
        let local_ms = self.local_ms(scene.host_ms);
        for (key, hold) in &self.holds {
            let end = scene.oracle.leases.get(key).and_then(|lease| lease.end);
            if end.is_some_and(|end| end.expired) {
                s2_never_early::trusted(*key, hold.valid_until_ms, local_ms)?;
            }
        }
        Ok(())
    }

    fn hold(&mut self, key: Key, ttl_ms: u64, valid_until_ms: u64, scene: &Scene<'_>) {
        let local_ms = self.local_ms(scene.host_ms);
        if self.is_quiet || self.holds.contains_key(&key) {
            return;
        }
        let keep_key = self.keep.add(local_ms, tenure_protocol::LeaseId(key.0), ttl_ms, valid_until_ms, key);
        self.holds.insert(key, Hold { keep_key, ttl_ms, valid_until_ms });
    }

    /// Keeps nothing alive any more, and asks nothing new.
    pub fn go_quiet(&mut self) {
        self.is_quiet = true;
        for (_, hold) in std::mem::take(&mut self.holds) {
            self.keep.remove(hold.keep_key);
        }
    }

    fn kept(
        &mut self,
        batch: &KeepBatch,
        failed: &[tenure_protocol::Failed],
        sent_local_ms: u64,
        local_ms: u64,
    ) -> Verdict {
        let holds = &mut self.holds;
        let mut verdict = Ok(());
        self.keep.answered(local_ms, sent_local_ms, batch, failed, &mut |key, change| match change {
            Change::Renewed { valid_until_ms } => {
                if let Some(hold) = holds.get_mut(key) {
                    let stays =
                        s2_never_early::stays_lost(*key, hold.valid_until_ms, valid_until_ms, local_ms);
                    verdict = verdict.clone().and(stays);
                    hold.valid_until_ms = valid_until_ms;
                }
            }
            Change::Lost(_) => {
                holds.remove(key);
            }
        });
        verdict
    }
}
