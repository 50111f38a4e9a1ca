//! The closed loop: each reply lets the next request go, so that a fixed number is in flight.
//!
//! It finds what the server can do at most. Its latencies are those of a server under as much load as
//! it takes, and they hide what would have been asked during a stall; the open loop does not.
//!
//! One receive, one clock reading, one send per link and turn: a link whose 32 replies arrive together
//! sends its next 32 requests together. The clock is read after the receive and stands for the sending
//! of the next requests too, a little before they leave, so that a latency is never too small.
//!
//! Filling and revoking are jobs to be finished: what the server was too busy for is asked for again, as
//! any client does, and the row says how often. In all other loads a refusal is an error.

use std::time::Duration;

use anyhow::bail;
use tenure_client::machine::Delivery;
use tenure_protocol::{Grant, GrantEntry, LeaseId, Request, Response};

use crate::bulk::Bulk;
use crate::lane::{Keep, Lane, Stock};
use crate::limits::SILENCE_MAX;
use crate::link::Link;
use crate::progress::{Board, Glance};
use crate::tally::Tally;

/// What is asked.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Operation {
    Renew,
    RenewBatch {
        size: usize,
    },
    Grant {
        ttl_ms: u64,
        keep: Keep,
    },
    GrantBatch {
        size: usize,
        ttl: Ttl,
        keep: Keep,
    },
    /// Takes the leases off the lane's lists.
    RevokeBatch {
        size: usize,
    },
}

impl Operation {
    /// Its replies do not wait for the log.
    fn is_in_memory(self) -> bool {
        matches!(self, Operation::Renew | Operation::RenewBatch { .. })
    }
}

/// The TTL of granted leases.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Ttl {
    Ms(u64),
    /// Whatever is left until this moment of the run's clock, at least 1 ms.
    Until(u64),
}

impl Ttl {
    fn ms(self, now_ns: u64) -> u64 {
        match self {
            Ttl::Ms(ms) => ms,
            Ttl::Until(at_ns) => (at_ns.saturating_sub(now_ns) / 1_000_000).max(1),
        }
    }
}

/// How a closed loop runs in one lane.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ClosedLoop {
    pub(crate) operation: Operation,
    /// Links that take part, from the first.
    pub(crate) links: usize,
    /// Requests in flight on each.
    pub(crate) depth: u32,
    /// When it stops sending.
    pub(crate) span: Duration,
    /// Leases that it asks for at most; `u64::MAX` for as many as the time allows.
    pub(crate) operations_max: u64,
}

/// A loop in progress.
struct Running<'a> {
    settings: ClosedLoop,
    stock: &'a mut Stock,
    tally: Tally,
    glance: Glance,
    /// Leases that may still be asked for.
    budget: u64,
    in_flight: u64,
    bulk: Bulk,
}

/// Runs the loop until its time or its operations are used up and every reply has come.
///
/// # Errors
/// When a connection fails or the server stops answering.
pub(crate) fn run(lane: &mut Lane, settings: ClosedLoop, board: &Board) -> anyhow::Result<Tally> {
    let mut ring = lane.ring(settings.operation.is_in_memory())?;
    let Lane { links, stock, clock, index, .. } = lane;
    let notice = &board.notices[*index];
    let began_ns = clock.now_ns();
    let until_ns = began_ns + crate::clock::ns(settings.span);
    let mut running = Running {
        settings,
        stock,
        tally: Tally::new(),
        glance: Glance::new(),
        budget: settings.operations_max,
        in_flight: 0,
        bulk: Bulk::default(),
    };
    let mut now_ns = began_ns;
    for (wire, link) in links.iter_mut().take(settings.links).enumerate() {
        now_ns = clock.now_ns();
        running.send(link, settings.depth, now_ns)?;
        link.send(wire, &mut ring);
    }
    let mut heard_ns = now_ns;
    while running.in_flight > 0 {
        ring.wait(Duration::from_millis(50))?;
        let mut arrived = false;
        while let Some(arrival) = ring.next()? {
            let wire = arrival.wire;
            let link = &mut links[wire];
            link.take(arrival, &mut ring);
            now_ns = clock.now_ns();
            let before = running.tally.operations;
            let done = running.receive(link, now_ns)?;
            running.tally.timeline.add(now_ns, running.tally.operations - before, 0);
            if now_ns < until_ns && !board.should_stop() {
                running.send(link, done, now_ns)?;
            }
            link.send(wire, &mut ring);
            heard_ns = now_ns;
            arrived = true;
        }
        if !arrived {
            now_ns = clock.now_ns();
            if now_ns - heard_ns > crate::clock::ns(SILENCE_MAX) {
                bail!(
                    "the server owes {} replies and has been silent for {SILENCE_MAX:?}",
                    running.in_flight
                );
            }
        }
        running.glance.publish(notice, running.tally.operations, now_ns);
        let whole = running.settings.operations_max;
        // Whichever ends it first: its time or its work.
        notice.tell_done([(now_ns - began_ns, until_ns - began_ns), (whole - running.budget, whole)]);
    }
    let mut tally = running.tally;
    tally.elapsed_ns = now_ns - began_ns;
    tally.busy_ns = ring.busy_ns();
    ring.close(|wire, bytes| links[wire].machine.receive(bytes))?;
    Ok(tally)
}

impl Running<'_> {
    /// Sends up to `count` requests, as long as there is something left to ask for.
    #[inline]
    fn send(&mut self, link: &mut Link, count: u32, now_ns: u64) -> anyhow::Result<()> {
        if let Operation::Renew = self.settings.operation {
            let leases = self.stock.to_renew(link.shard);
            for _ in 0..count {
                let Some(id) = link.next_lease(leases) else { break };
                link.machine.send_renew(id, now_ns)?;
                self.in_flight += 1;
            }
            return Ok(());
        }
        for _ in 0..count {
            let asked = self.send_one(link, now_ns)?;
            if asked == 0 {
                break;
            }
            self.budget -= asked;
            self.in_flight += 1;
        }
        Ok(())
    }

    /// How many leases the request that was sent is about; 0: there is nothing left to ask for.
    fn send_one(&mut self, link: &mut Link, now_ns: u64) -> anyhow::Result<u64> {
        let machine = &mut link.machine;
        let within = |size: usize| (size as u64).min(self.budget);
        match self.settings.operation {
            Operation::Renew => unreachable!("sent in runs"),
            Operation::RenewBatch { size } => {
                let ids = link.next_leases(self.stock.to_renew(link.shard), within(size) as usize);
                if !ids.is_empty() {
                    link.machine.send_renew_batch(ids.iter().map(|&id| LeaseId(id)), now_ns)?;
                }
                Ok(ids.len() as u64)
            }
            Operation::Grant { ttl_ms, .. } => {
                let count = within(1);
                if count > 0 {
                    let grant = Grant { ttl_ms, id: self.stock.id_to_grant(link.shard), sequence: 0 };
                    machine.send(&Request::Grant(grant), now_ns)?;
                }
                Ok(count)
            }
            Operation::GrantBatch { size, ttl, .. } => {
                let count = within(size);
                if count > 0 {
                    let (ttl_ms, shard, stock) = (ttl.ms(now_ns), link.shard, &mut *self.stock);
                    let (token, _) = self.bulk.begin(now_ns, shard, count, Vec::new());
                    let entries =
                        (0..count as usize).map(|_| GrantEntry { ttl_ms, id: stock.id_to_grant(shard) });
                    machine.send_grant_batch(0, entries, token)?;
                }
                Ok(count)
            }
            Operation::RevokeBatch { size } => {
                let shard = link.shard as usize;
                let extra = !self.stock.extra[shard].is_empty();
                let list = if extra { &mut self.stock.extra[shard] } else { &mut self.stock.leases[shard] };
                let ids = list.split_off(list.len() - list.len().min(within(size) as usize));
                let asked = ids.len() as u64;
                if asked > 0 {
                    let (token, batch) = self.bulk.begin(now_ns, link.shard, asked, ids);
                    machine.send_revoke_batch(batch.iter().map(|&id| LeaseId(id)), token)?;
                }
                Ok(asked)
            }
        }
    }

    /// Takes every reply that has arrived; how many there were.
    #[inline]
    fn receive(&mut self, link: &mut Link, now_ns: u64) -> anyhow::Result<u32> {
        let tally = &mut self.tally;
        let mut done = 0;
        loop {
            let before = done;
            while let Some((sent_ns, _)) = link.machine.poll_renewed() {
                let ns = now_ns - sent_ns;
                tally.latency.record(ns);
                self.glance.record(ns, 1);
                done += 1;
            }
            tally.operations += u64::from(done - before);
            let Some(delivery) = link.machine.poll()? else { break };
            let (sent_ns, response) = match delivery {
                Delivery::Reply { token, response } => (token, response),
                Delivery::GoAway(refused) => {
                    bail!("the server closes a connection: {} {}", refused.refusal, refused.text)
                }
                Delivery::Event { .. } | Delivery::Welcome(_) => continue,
            };
            done += 1;
            // A batch that shared its moment with others carries a token some ns later.
            tally.latency.record(now_ns.saturating_sub(sent_ns));
            self.glance.record(now_ns.saturating_sub(sent_ns), 1);
            let operation = self.settings.operation;
            match self.bulk.end(sent_ns) {
                Some(batch) => {
                    self.budget += batch.settle(&response, keep_of(operation), tally, self.stock)?;
                }
                None => count(&response, operation, tally, self.stock)?,
            }
        }
        tally.frames += u64::from(done);
        self.in_flight -= u64::from(done);
        Ok(done)
    }
}

/// Counts what a reply says.
fn count(
    response: &Response<'_>,
    operation: Operation,
    tally: &mut Tally,
    stock: &mut Stock,
) -> anyhow::Result<()> {
    match response {
        Response::Renewed { .. } => tally.operations += 1,
        Response::RenewBatch(outcome) => {
            tally.operations += u64::from(outcome.count()) - outcome.failed_count() as u64;
            outcome.failed().for_each(|failed| tally.refused(failed.refusal));
        }
        Response::Granted(granted) => {
            tally.operations += 1;
            stock.put(granted.id, keep_of(operation));
        }
        Response::Refused(refused) => tally.refused(refused.refusal),
        other => bail!("the server answered something else than was asked: {other:?}"),
    }
    Ok(())
}

fn keep_of(operation: Operation) -> Keep {
    match operation {
        Operation::Grant { keep, .. } | Operation::GrantBatch { keep, .. } => keep,
        Operation::Renew | Operation::RenewBatch { .. } | Operation::RevokeBatch { .. } => Keep::Extra,
    }
}
