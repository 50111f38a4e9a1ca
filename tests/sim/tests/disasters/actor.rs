//! Somebody in a scenario: the real connection and keep-alive machines of the client, told what to do.

use std::collections::BTreeMap;

use tenure_client::machine::{
    Change, Connection, ConnectionConfig, Delivery, KeepAlive, KeepBatch, LossReason, trusted_ms,
};
use tenure_protocol::{Cause, Event, Failed, Grant, LeaseId, Position, Request, Response};
use tenure_sim::link::Link;

use super::book::Book;
use super::bulk::{Bulk, Part};

/// A request without an answer.
#[derive(Debug)]
enum Asked {
    /// One frame about one lease, and what it said.
    One {
        id: LeaseId,
        what: String,
    },
    Keep(KeepBatch),
    Part(usize, Part),
    Subscribe,
}

/// Ends that a subscriber was told, since it was told of last.
#[derive(Debug, Default)]
struct Heard {
    expired: u64,
    late_ms_max: u64,
    first_ms: Option<u64>,
    last_ms: u64,
    revoked: u64,
    items: usize,
}

/// Somebody with a connection.
pub(crate) struct Actor {
    /// Its name in the scenario.
    pub(crate) name: String,
    /// Its link among all links.
    pub(crate) link: usize,
    connection: Connection,
    asked: BTreeMap<u64, (u64, u64, Asked)>,
    token_next: u64,
    /// The server has cut its connection.
    is_cut: bool,
    keep: KeepAlive<(LeaseId, u64)>,
    bulks: Vec<Option<Bulk>>,
    heard: Heard,
    lost: BTreeMap<String, u64>,
    said: Vec<String>,
}

/// The times of a step: of the world, and of the engine.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Now {
    /// The world's clock, ms.
    pub(crate) ms: u64,
    /// Engine time, ms.
    pub(crate) engine_ms: u64,
}

impl Actor {
    /// Somebody whose connection is being opened over a link.
    pub(crate) fn new(name: &str, link: usize) -> Actor {
        Actor {
            name: name.to_owned(),
            link,
            connection: Connection::new(&ConnectionConfig::default()),
            asked: BTreeMap::new(),
            token_next: 1,
            is_cut: false,
            keep: KeepAlive::new(7, 4_096),
            bulks: Vec::new(),
            heard: Heard::default(),
            lost: BTreeMap::new(),
            said: Vec::new(),
        }
    }

    /// Opens a new connection: what was under way has no answer.
    pub(crate) fn reconnect(&mut self, link: usize, now: Now) {
        self.connection.abandon();
        self.connection = Connection::new(&ConnectionConfig::default());
        (self.link, self.is_cut) = (link, false);
        for (_, _, asked) in std::mem::take(&mut self.asked).into_values() {
            match asked {
                Asked::Keep(batch) => self.keep.unanswered(now.ms, &batch),
                Asked::One { what, .. } => self.said.push(format!("{what}: no answer")),
                Asked::Part(..) => panic!("{} loses its connection amid much work", self.name),
                Asked::Subscribe => {}
            }
        }
    }

    /// Sends what there is to send: keep-alives that are due, more of its work.
    pub(crate) fn act(&mut self, now: Now, links: &mut [Link]) {
        if links[self.link].cut && !std::mem::replace(&mut self.is_cut, true) {
            self.said.push("cut off".to_owned());
        }
        if self.connection.is_open() && !self.is_cut {
            self.keep_alive(now);
            for place in 0..self.bulks.len() {
                while let Some(bulk) = &mut self.bulks[place]
                    && let Some(part) = bulk.send(&mut self.connection, self.token_next, now.engine_ms)
                {
                    self.note(Asked::Part(place, part), now);
                }
            }
        }
        if self.connection.tick(now.ms).is_err() {
            links[self.link].break_off();
        }
        let out = self.connection.outgoing();
        links[self.link].to_server.extend(out.iter());
        out.clear();
    }

    /// Whether something of it is not over yet.
    pub(crate) fn is_busy(&self) -> bool {
        !self.is_cut && (!self.connection.is_open() || self.bulks.iter().any(Option::is_some))
    }

    /// How long until it has something to do by itself.
    pub(crate) fn wakes_in_ms(&self, now: Now) -> u64 {
        let keep = self.keep.next_wake_ms().map_or(u64::MAX, |at_ms| at_ms.saturating_sub(now.ms));
        self.connection.next_tick_ms().min(keep)
    }

    fn note(&mut self, asked: Asked, now: Now) {
        self.asked.insert(self.token_next, (now.ms, now.engine_ms, asked));
        self.token_next += 1;
    }

    fn one(&mut self, id: LeaseId, what: String, request: &Request<'_>, now: Now) {
        self.connection.send(request, self.token_next).expect("there is room in the window");
        self.note(Asked::One { id, what }, now);
    }

    /// Asks for a lease of this ID.
    pub(crate) fn grant(&mut self, id: LeaseId, ttl_ms: u64, book: &Book, now: Now) {
        let grant = Grant { ttl_ms, id, sequence: 0 };
        self.one(id, format!("grant {}", book.name(id)), &Request::Grant(grant), now);
    }

    /// Asks for something about one lease.
    pub(crate) fn ask(&mut self, verb: &str, id: LeaseId, item: &str, book: &Book, now: Now) {
        let bytes = item.as_bytes();
        let request = match verb {
            "renew" => Request::Renew { id },
            "revoke" => Request::Revoke { id },
            "ttl" => Request::TimeToLive { id, items: false, after: None },
            "attach" => Request::Attach { id, item: bytes },
            "detach" => Request::Detach { id, item: bytes },
            _ => panic!("nobody can {verb} a lease"),
        };
        self.one(id, format!("{verb} {}", book.name(id)), &request, now);
    }

    /// Begins a piece of work.
    pub(crate) fn begin(&mut self, bulk: Bulk) {
        self.bulks.push(Some(bulk));
    }

    /// Keeps leases of this TTL alive from now on.
    pub(crate) fn keeps(&mut self, leases: &[LeaseId], ttl_ms: u64, now: Now) {
        for id in leases {
            self.keep.add(now.ms, *id, ttl_ms, now.ms + trusted_ms(ttl_ms), (*id, ttl_ms));
        }
    }

    /// Keeps nothing alive any more, without a word.
    pub(crate) fn drops(&mut self) {
        self.keep = KeepAlive::new(7, 4_096);
    }

    /// Wants to be told of every end.
    pub(crate) fn watch(&mut self, shard_count: u16, now: Now) {
        for shard in 0..shard_count {
            let request = Request::Subscribe { shard, from: Position::OLDEST };
            self.connection.send(&request, self.token_next).expect("there is room in the window");
            self.note(Asked::Subscribe, now);
        }
    }

    fn keep_alive(&mut self, now: Now) {
        let lost = &mut self.lost;
        let batches = self.keep.poll(now.ms, &mut |_, reason| lose(lost, reason));
        for batch in batches {
            let ids = batch.ids.iter().copied();
            if self.connection.send_renew_batch(ids, self.token_next).is_ok() {
                self.note(Asked::Keep(batch), now);
            } else {
                self.keep.unanswered(now.ms, &batch);
            }
        }
    }

    /// Takes bytes from its link.
    ///
    /// # Panics
    /// The server said something that makes no sense.
    pub(crate) fn receive(&mut self, bytes: &[u8], book: &mut Book, now: Now) {
        let mut connection =
            std::mem::replace(&mut self.connection, Connection::new(&ConnectionConfig::default()));
        connection.receive(bytes);
        loop {
            match connection.poll() {
                Ok(None) => break,
                Ok(Some(Delivery::Welcome(_) | Delivery::GoAway(_))) => {}
                Ok(Some(Delivery::Reply { token, response })) => self.answered(token, &response, book, now),
                Ok(Some(Delivery::Event { event, .. })) => self.told(&event, book),
                Err(error) => {
                    self.said.push(format!("disconnected: {error}"));
                    break;
                }
            }
        }
        self.connection = connection;
    }

    fn answered(&mut self, token: u64, response: &Response<'_>, book: &mut Book, now: Now) {
        let (sent_ms, sent_engine_ms, asked) = self.asked.remove(&token).expect("L2 one-reply: it was asked");
        match asked {
            Asked::One { id, what } => {
                let told = tell(id, response, sent_engine_ms, book);
                self.said.push(format!("{what}: {told} (after {} ms)", now.ms - sent_ms));
            }
            Asked::Part(place, part) => {
                let bulk = self.bulks[place].as_mut().expect("it is under way");
                bulk.answered(part, response, book);
                if let Some(outcome) = bulk.outcome(now.ms) {
                    self.said.push(outcome);
                    self.bulks[place] = None;
                }
            }
            Asked::Keep(batch) => match response {
                Response::RenewBatch(outcome) => {
                    let failed: Vec<Failed> = outcome.failed().collect();
                    let lost = &mut self.lost;
                    self.keep.answered(now.ms, sent_ms, &batch, &failed, &mut |(id, ttl_ms), change| {
                        match change {
                            Change::Renewed { .. } => book.promised(*id, sent_engine_ms, *ttl_ms),
                            Change::Lost(reason) => lose(lost, reason),
                        }
                    });
                }
                _ => self.keep.unanswered(now.ms, &batch),
            },
            Asked::Subscribe => match response {
                Response::Subscribed { .. } => {}
                other => self.said.push(format!("subscribe: {}", refusal(other))),
            },
        }
    }

    fn told(&mut self, event: &Event<'_>, book: &mut Book) {
        match event {
            Event::Ended(ended) => {
                let at_ms = ended.head.time_ms;
                for lease in ended.iter() {
                    if ended.head.cause == Cause::Expired {
                        let late_ms = book.expired(lease.id, at_ms);
                        self.heard.expired += 1;
                        self.heard.late_ms_max = self.heard.late_ms_max.max(late_ms);
                    } else {
                        self.heard.revoked += 1;
                    }
                }
                self.heard.first_ms.get_or_insert(at_ms);
                self.heard.last_ms = at_ms;
            }
            Event::EndedItems(items) => self.heard.items += items.items.iter().count(),
            Event::Progress { .. } => {}
            Event::Gap { .. } => self.said.push("events were lost".to_owned()),
        }
    }

    /// What there is to tell since this was asked last.
    pub(crate) fn says(&mut self) -> Vec<String> {
        let mut said = std::mem::take(&mut self.said);
        for (reason, count) in std::mem::take(&mut self.lost) {
            said.push(format!("lost {count} leases: {reason}"));
        }
        let heard = std::mem::take(&mut self.heard);
        if heard.expired > 0 {
            let (count, late_ms) = (heard.expired, heard.late_ms_max);
            let from_ms = heard.first_ms.unwrap_or(0);
            said.push(format!(
                "heard of {count} expired, from {from_ms} to {}, at most {late_ms} ms late",
                heard.last_ms
            ));
        }
        if heard.revoked > 0 {
            said.push(format!("heard of {} revoked", heard.revoked));
        }
        if heard.items > 0 {
            said.push(format!("heard of {} items that left", heard.items));
        }
        said.into_iter().map(|text| format!("{}: {text}", self.name)).collect()
    }
}

fn lose(lost: &mut BTreeMap<String, u64>, reason: LossReason) {
    *lost.entry(format!("{reason:?}")).or_insert(0) += 1;
}

fn refusal(response: &Response<'_>) -> String {
    match response {
        Response::Refused(refused) => format!("{:?}", refused.refusal),
        other => panic!("L2 one-reply: {other:?} is no answer to that"),
    }
}

fn tell(id: LeaseId, response: &Response<'_>, sent_ms: u64, book: &mut Book) -> String {
    match response {
        Response::Granted(granted) => {
            book.promised(granted.id, sent_ms, granted.ttl_ms);
            format!("{} for {}", book.token(granted.token), granted.ttl_ms)
        }
        Response::Renewed { ttl_ms } => {
            book.promised(id, sent_ms, *ttl_ms);
            format!("renewed for {ttl_ms}")
        }
        Response::Revoked { token, item_count } => {
            format!("revoked {} with {item_count} items", book.token(*token))
        }
        Response::TimeToLive(facts) => {
            let token = book.token(facts.token);
            format!("{token}, {} of {} left, {} items", facts.remaining_ms, facts.ttl_ms, facts.item_count)
        }
        Response::Attached { .. } => "attached".to_owned(),
        Response::Detached => "detached".to_owned(),
        other => refusal(other),
    }
}
