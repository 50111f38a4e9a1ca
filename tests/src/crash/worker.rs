//! One client under load: random operations, pipelined, at most one in flight per lease.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use tenure_protocol::{Grant, GrantEntry, Hello, LeaseId, Request, RequestId, Response, encode, shard_of};

use super::belief::{Presence, Verdict};
use super::book::{Ask, Book, LONG_TTL_MS, Op};
use crate::random::Random;
use crate::wire::{Wire, is_end};

/// Requests in flight per worker. A few times what a commit takes along, and few enough that a kill
/// leaves an outcome that can be checked.
const WINDOW: usize = 24;
/// Live leases beyond which a worker grants less than it ends.
const LIVE_COUNT_AIM: usize = 160;
/// IDs of its own that a worker grants again and again.
const CHOSEN_COUNT: u64 = 40;
/// Items of one lease at most; with the longest items a dying lease then leaves in several slices.
const ITEM_COUNT_MAX: usize = 60;

/// The `number`th ID of a worker: half of them negative in etcd's reading, all of them close together.
fn chosen_id(worker: u64, number: u64) -> LeaseId {
    LeaseId((worker << 32 | number) | (number & 1) << 63)
}

/// Whether this is an ID that some worker chooses.
#[must_use]
pub fn is_chosen(id: LeaseId) -> bool {
    let (worker, number) = (id.0 >> 32 & 0x7FFF_FFFF, id.0 & 0xFFFF_FFFF);
    worker < 1_000 && (1..=CHOSEN_COUNT).contains(&number)
}

/// A client with a memory.
#[derive(Debug)]
pub struct Worker {
    /// Which one; its IDs, items and TTLs differ from those of the others.
    pub index: u64,
    /// What it believes.
    pub book: Book,
    /// Identifies its grants across connections.
    pub client_id: u64,
    /// How long it rests between two bursts of requests; zero: it keeps its window full.
    pub rest: Duration,
    /// Told how long each answer took, µs.
    pub latencies: Option<Sender<u64>>,
    random: Random,
    serial: u64,
    in_flight: HashMap<RequestId, (Op, Instant)>,
}

impl Worker {
    /// A new client.
    #[must_use]
    pub fn new(index: u64, mut random: Random) -> Worker {
        let ids = (1..=CHOSEN_COUNT).map(|number| chosen_id(index, number));
        let client_id = random.next() | 1;
        Worker {
            index,
            book: Book::new(ids),
            client_id,
            rest: Duration::ZERO,
            latencies: None,
            random,
            serial: 0,
            in_flight: HashMap::new(),
        }
    }

    /// A Hello of this client.
    #[must_use]
    pub fn hello(&self, wish_shard: Option<u16>) -> Hello<'static> {
        Hello { wish_shard, ..Hello::new(self.client_id) }
    }

    /// The last worker wishes for a shard of its own. A wish also chooses where its grants go, so that a
    /// repeat would have to wish the same: it does not identify them.
    fn wish_shard(&self) -> Option<u16> {
        (self.index == 2).then_some(0)
    }

    fn next_serial(&mut self) -> u64 {
        self.serial += 1;
        self.serial
    }

    /// Works until the server is gone, or until it is told to stop and everything is answered.
    ///
    /// # Errors
    /// A broken promise.
    pub fn work(&mut self, address: SocketAddr, stop: &AtomicBool) -> Verdict {
        let connected = Wire::connect_as(address, &self.hello(self.wish_shard()));
        let mut outcome = Ok(());
        if let Ok(mut wire) = connected {
            outcome = self.converse(&mut wire, stop);
        }
        for (_, (op, _)) in std::mem::take(&mut self.in_flight) {
            self.book.lose(&op);
        }
        outcome
    }

    fn converse(&mut self, wire: &mut Wire, stop: &AtomicBool) -> Verdict {
        let mut dismissed = false;
        loop {
            if !self.rest.is_zero() && self.in_flight.is_empty() {
                std::thread::sleep(self.rest);
            }
            let stopping = dismissed || stop.load(Ordering::Relaxed);
            let room = self.rest.is_zero() || self.in_flight.is_empty();
            while !stopping && room && self.in_flight.len() < WINDOW {
                let Some(op) = self.choose(wire.terms.shard_count) else { break };
                self.book.begin(&op);
                let sent = Instant::now();
                let request_id = self.queue(wire, &op);
                self.in_flight.insert(request_id, (op, sent));
            }
            if self.in_flight.is_empty() {
                if stopping {
                    return Ok(());
                }
                continue;
            }
            // When the server is gone, what it had answered can still be read.
            let _ = wire.flush();
            // One answer at least, then all that have come with it.
            let mut next = wire.receive().map(Some);
            loop {
                let received = match next {
                    Ok(Some(received)) => received,
                    Ok(None) => break,
                    Err(error) if is_end(&error) => return Ok(()),
                    Err(error) => return Err(self.silence(&error)),
                };
                let at = Instant::now();
                if matches!(received.response(), Response::GoAway(_)) {
                    dismissed = true;
                    next = wire.received();
                    continue;
                }
                let Some((op, sent)) = self.in_flight.remove(&received.request_id()) else {
                    return Err(format!("L2 one-reply: {:?} answers nothing", received.response()));
                };
                self.book.settle(&op, &received.response(), sent, at)?;
                if let Some(latencies) = &self.latencies {
                    // Nobody may be recording any more.
                    let _ = latencies.send(u64::try_from((at - sent).as_micros()).unwrap_or(u64::MAX));
                }
                next = wire.received();
            }
        }
    }

    fn silence(&self, error: &io::Error) -> String {
        let waiting: Vec<&Op> = self.in_flight.values().map(|(op, _)| op).take(5).collect();
        format!("L2 one-reply: no answer ({error}) to {} requests such as {waiting:?}", self.in_flight.len())
    }

    fn queue(&mut self, wire: &mut Wire, op: &Op) -> RequestId {
        let ids =
            |keys: &[usize]| -> Vec<LeaseId> { keys.iter().map(|&key| self.book.leases[key].id).collect() };
        match op {
            Op::Grant(asks) if asks.len() == 1 => {
                let ask = &asks[0];
                let id = self.book.asked_id(ask);
                wire.queue(&Request::Grant(Grant { ttl_ms: ask.ttl_ms, id, sequence: ask.sequence }))
            }
            Op::Grant(asks) => {
                let entries =
                    asks.iter().map(|ask| GrantEntry { ttl_ms: ask.ttl_ms, id: self.book.asked_id(ask) });
                let entries: Vec<GrantEntry> = entries.collect();
                wire.queue_with(|out, id| encode::grant_batch(out, id, asks[0].sequence, entries.into_iter()))
            }
            Op::Renew(keys) if keys.len() == 1 => wire.queue(&Request::Renew { id: ids(keys)[0] }),
            Op::Renew(keys) => {
                let ids = ids(keys);
                wire.queue_with(|out, id| encode::renew_batch(out, id, ids.into_iter()))
            }
            Op::Revoke(keys) if keys.len() == 1 => wire.queue(&Request::Revoke { id: ids(keys)[0] }),
            Op::Revoke(keys) => {
                let ids = ids(keys);
                wire.queue_with(|out, id| encode::revoke_batch(out, id, ids.into_iter()))
            }
            Op::Attach { key, item, .. } => {
                wire.queue(&Request::Attach { id: self.book.leases[*key].id, item })
            }
            Op::Detach { key, item } => wire.queue(&Request::Detach { id: self.book.leases[*key].id, item }),
            Op::Look(key) => {
                wire.queue(&Request::TimeToLive { id: self.book.leases[*key].id, items: true, after: None })
            }
        }
    }

    /// The next operation; `None` when everything it could touch is in flight.
    fn choose(&mut self, shard_count: u16) -> Option<Op> {
        let grants = if self.book.live.len() < LIVE_COUNT_AIM { 25 } else { 8 };
        match self.random.below(100) {
            dice if dice < grants => Some(self.choose_grant()),
            0..40 => self.idle_leases(1).map(Op::Renew),
            40..46 => {
                let count = self.random.between(2, 40) as usize;
                self.idle_leases(count).map(Op::Renew)
            }
            46..56 => self.idle_leases(1).map(Op::Revoke),
            56..58 => {
                let count = self.random.between(2, 12) as usize;
                self.idle_leases(count).map(Op::Revoke)
            }
            58..80 => self.choose_attach(shard_count),
            80..88 => self.choose_detach(),
            _ => self.idle_leases(1).map(|keys| Op::Look(keys[0])),
        }
    }

    fn choose_grant(&mut self) -> Op {
        let count = if self.random.one_in(6) { self.random.between(2, 20) } else { 1 };
        let identified = self.random.one_in(2) && self.wish_shard().is_none();
        let mut asks: Vec<Ask> = Vec::new();
        for _ in 0..count {
            let serial = self.next_serial();
            let short = self.random.one_in(4);
            let ttl_ms =
                if short { self.random.between(1, 1_500) } else { LONG_TTL_MS + serial * 8 + self.index };
            let sequence = if identified { serial } else { 0 };
            let chosen = if self.random.one_in(3) { self.idle_id(&asks) } else { None };
            asks.push(Ask { ttl_ms, chosen, sequence });
        }
        Op::Grant(asks)
    }

    /// An ID of its own, free or not, that nobody is asking about.
    fn idle_id(&mut self, asks: &[Ask]) -> Option<usize> {
        let index = self.random.below(CHOSEN_COUNT) as usize;
        let chosen = &self.book.chosen[index];
        let lease_busy = chosen.current.is_some_and(|key| self.book.leases[key].busy);
        let taken = chosen.busy || lease_busy || asks.iter().any(|ask| ask.chosen == Some(index));
        (!taken).then_some(index)
    }

    /// Some live leases that nobody is asking about.
    fn idle_leases(&mut self, count: usize) -> Option<Vec<usize>> {
        let mut keys = Vec::new();
        for _ in 0..3 * count {
            if self.book.live.is_empty() || keys.len() == count {
                break;
            }
            let key = *self.random.pick(&self.book.live);
            let granting = |chosen: &super::book::Chosen| chosen.busy && chosen.current == Some(key);
            if !self.book.leases[key].busy && !keys.contains(&key) && !self.book.chosen.iter().any(granting) {
                keys.push(key);
            }
        }
        (!keys.is_empty()).then_some(keys)
    }

    fn choose_attach(&mut self, shard_count: u16) -> Option<Op> {
        let key = self.idle_leases(1)?[0];
        if self.random.one_in(4)
            && let Some((from, item)) = self.movable(key, shard_count)
        {
            return Some(Op::Attach { key, item, from: Some(from) });
        }
        if self.book.leases[key].items.len() >= ITEM_COUNT_MAX {
            return None;
        }
        let serial = self.next_serial();
        let mut item = format!("item-{}-{serial}", self.index).into_bytes();
        if self.random.one_in(3) {
            let length = self.random.between(item.len() as u64, 4_000) as usize;
            item.resize(length, b'.');
        }
        Some(Op::Attach { key, item, from: None })
    }

    /// An item of another idle lease of the same shard.
    fn movable(&mut self, key: usize, shard_count: u16) -> Option<(usize, Vec<u8>)> {
        let from = self.idle_leases(1)?[0];
        let shard = |key: usize| shard_of(self.book.leases[key].id, shard_count);
        if from == key || shard(from) != shard(key) {
            return None;
        }
        let items = &self.book.leases[from].items;
        let item = items.iter().find(|(_, presence)| **presence == Presence::Present)?.0.clone();
        Some((from, item))
    }

    fn choose_detach(&mut self) -> Option<Op> {
        let key = self.idle_leases(1)?[0];
        let items: Vec<&Vec<u8>> = self.book.leases[key].items.keys().collect();
        if items.is_empty() {
            return None;
        }
        let item = items[self.random.below(items.len() as u64) as usize].clone();
        // An item that has moved on belongs to another lease's story.
        let presence = self.book.leases[key].items[&item];
        (presence != Presence::Unknown).then_some(Op::Detach { key, item })
    }
}
