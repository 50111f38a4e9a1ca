//! Tenure: the client crate's own connection machine, as any application would use it.
//!
//! A unit of one lease is one frame; a unit of several is one batch frame. Tokens are the times at which
//! requests were meant to leave.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use anyhow::{Context, bail};
use tenure_client::machine::{Connection, ConnectionConfig, Delivery};
use tenure_protocol::{Cause, Event, Grant, GrantEntry, LeaseId, Position, Refusal, Request, Response};

use super::{Ask, Book, CONNECT_TIMEOUT, Heard, Talk, Until, Verb, connect};

/// The token of a subscription: no time of the run's clock.
const SUBSCRIPTION: u64 = u64::MAX;

/// A connection.
#[derive(Debug)]
pub(crate) struct Tenure {
    machine: Connection,
}

fn ttl_ms(until: Until, book: &Book, now_ns: u64) -> u64 {
    match until {
        Until::Ttl => book.ttl_ms,
        Until::At(at_ns) => (at_ns.saturating_sub(now_ns) / 1_000_000).max(1),
    }
}

/// IDs off the end of the list.
fn take(book: &mut Book, count: u32) -> Vec<LeaseId> {
    let keep = book.held.len().saturating_sub(count as usize);
    book.held.split_off(keep).into_iter().map(LeaseId).collect()
}

impl Tenure {
    /// Sends one unit; `false`: there are no leases for it.
    #[inline]
    fn unit(&mut self, ask: Ask, book: &mut Book, now_ns: u64) -> anyhow::Result<bool> {
        let machine = &mut self.machine;
        match (ask.verb, ask.leases) {
            (Verb::Renew, 1) => {
                let Some(id) = book.next() else { return Ok(false) };
                machine.send_renew(LeaseId(id), now_ns)?;
            }
            (Verb::Renew, count) => {
                let ids: Vec<LeaseId> = (0..count).map_while(|_| book.next()).map(LeaseId).collect();
                if ids.is_empty() {
                    return Ok(false);
                }
                machine.send_renew_batch(ids.into_iter(), now_ns)?;
            }
            (Verb::Grant(until), 1) => {
                let grant = Grant { ttl_ms: ttl_ms(until, book, now_ns), id: LeaseId::NONE, sequence: 0 };
                machine.send(&Request::Grant(grant), now_ns)?;
            }
            (Verb::Grant(until), count) => {
                let entry = GrantEntry { ttl_ms: ttl_ms(until, book, now_ns), id: LeaseId::NONE };
                machine.send_grant_batch(0, (0..count as usize).map(|_| entry), now_ns)?;
            }
            (Verb::Revoke, 1) => {
                let Some(id) = book.held.pop() else { return Ok(false) };
                machine.send(&Request::Revoke { id: LeaseId(id) }, now_ns)?;
            }
            (Verb::Revoke, count) => {
                let ids = take(book, count);
                if ids.is_empty() {
                    return Ok(false);
                }
                machine.send_revoke_batch(ids.into_iter(), now_ns)?;
            }
        }
        Ok(true)
    }
}

/// Counts what a reply says.
fn count(response: &Response<'_>, book: &mut Book, heard: &mut Heard) -> anyhow::Result<()> {
    match response {
        Response::Renewed { .. } | Response::Revoked { .. } => heard.operations += 1,
        Response::Granted(granted) => {
            heard.operations += 1;
            book.grant(granted.id.0);
        }
        Response::GrantBatch(results) => {
            for result in results.iter() {
                match result {
                    Ok(granted) => {
                        heard.operations += 1;
                        book.grant(granted.id.0);
                    }
                    // Back-pressure: whoever fills asks again.
                    Err(Refusal::Busy) => heard.busy += 1,
                    Err(refusal) => heard.error(refusal.name(), 1),
                }
            }
        }
        Response::RenewBatch(outcome) | Response::RevokeBatch(outcome) => {
            heard.operations += u64::from(outcome.count()) - outcome.failed_count() as u64;
            outcome.failed().for_each(|failed| heard.error(failed.refusal.name(), 1));
        }
        Response::TimeToLive(found) => heard.count = Some(found.remaining_ms),
        Response::Refused(refused) if refused.refusal == Refusal::Busy => heard.busy += 1,
        Response::Refused(refused) => heard.error(refused.refusal.name(), 1),
        other => bail!("{other:?} was not asked for"),
    }
    Ok(())
}

impl Talk for Tenure {
    fn open(address: SocketAddr) -> anyhow::Result<(TcpStream, Tenure)> {
        let mut socket = connect(address)?;
        let silence_ms_max = CONNECT_TIMEOUT.as_millis() as u64;
        let mut machine =
            Connection::new(&ConnectionConfig { silence_ms_max, ..ConnectionConfig::default() });
        socket.write_all(machine.outgoing())?;
        machine.outgoing().clear();
        while !machine.is_open() {
            let count = socket.read(machine.spare()).context("no greeting")?;
            if count == 0 {
                bail!("the server closed the connection before it greeted");
            }
            machine.received(count);
            while machine.poll()?.is_some() {}
        }
        Ok((socket, Tenure { machine }))
    }

    #[inline]
    fn ask(&mut self, ask: Ask, units: u32, book: &mut Book, now_ns: u64) -> anyhow::Result<u32> {
        for unit in 0..units {
            if !self.unit(ask, book, now_ns)? {
                return Ok(unit);
            }
        }
        Ok(units)
    }

    fn ask_named(&mut self, name: u64, ttl_ms: u64, now_ns: u64) -> anyhow::Result<()> {
        let grant = Grant { ttl_ms, id: LeaseId(name), sequence: 0 };
        self.machine.send(&Request::Grant(grant), now_ns)?;
        Ok(())
    }

    fn outgoing(&mut self) -> &mut Vec<u8> {
        self.machine.outgoing()
    }

    #[inline]
    fn hear(&mut self, bytes: &[u8], book: &mut Book, heard: &mut Heard, now_ns: u64) -> anyhow::Result<()> {
        self.machine.receive(bytes);
        loop {
            while let Some((sent_ns, _)) = self.machine.poll_renewed() {
                heard.operations += 1;
                heard.unit(sent_ns, now_ns);
            }
            match self.machine.poll()? {
                None => return Ok(()),
                Some(Delivery::Reply { token: SUBSCRIPTION, response: Response::Subscribed { .. } }) => {}
                Some(Delivery::Reply { token: SUBSCRIPTION, response: found @ Response::TimeToLive(_) }) => {
                    count(&found, book, heard)?;
                }
                Some(Delivery::Reply { token, response }) => {
                    count(&response, book, heard)?;
                    heard.unit(token, now_ns);
                }
                Some(Delivery::Event { event: Event::Ended(ended), .. }) => {
                    if ended.head.cause == Cause::Expired {
                        ended.iter().for_each(|lease| heard.end(lease.id.0));
                    }
                }
                Some(Delivery::Event { event: Event::Gap { .. }, .. }) => heard.error("events lost (Gap)", 1),
                Some(Delivery::Event { .. } | Delivery::Welcome(_)) => {}
                Some(Delivery::GoAway(refused)) => {
                    bail!("the server closes a connection: {} {}", refused.refusal, refused.text)
                }
            }
        }
    }

    fn subscribe(&mut self) -> anyhow::Result<bool> {
        let request = Request::Subscribe { shard: 0, from: Position::NOW };
        self.machine.send(&request, SUBSCRIPTION)?;
        Ok(true)
    }

    fn ask_count(&mut self) {}

    fn ask_remaining(&mut self, name: u64) {
        let request = Request::TimeToLive { id: LeaseId(name), items: false, after: None };
        // It can only be refused for an item that is too long, and there is none.
        let _ = self.machine.send(&request, SUBSCRIPTION);
    }
}
