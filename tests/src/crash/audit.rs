//! What is there after a restart, against what was promised before.
//!
//! First the list: each lease in it must be one that was granted, or one whose grant was never answered;
//! nobody else's, and none that was told dead. Then each lease believed alive is read with its items. Then
//! identified grants without an answer are asked for again: they must find the lease they made.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tenure_protocol::{Grant, Granted, LeaseId, Listed, Request, Response};

use super::belief::{Presence, Verdict};
use super::book::{Ask, LONG_TTL_MS, Op};
use super::run::is_marker;
use super::worker::{Worker, is_chosen};
use crate::wire::Wire;

/// Reads in flight at a time.
const WINDOW: usize = 256;

/// Everything that the list shows, with the time at which its first page was asked for.
///
/// # Errors
/// The server refuses.
pub fn list_all(wire: &mut Wire) -> Result<(Vec<Listed>, Instant), String> {
    let (mut all, started) = (Vec::new(), Instant::now());
    for shard in 0..wire.terms.shard_count {
        let mut cursor = 0;
        loop {
            let request = Request::List { shard, limit: 500, cursor };
            let reply = wire.call(&request).map_err(|error| format!("list: {error}"))?;
            let Response::List(page) = reply.response() else {
                return Err(format!("contract: list was answered by {:?}", reply.response()));
            };
            all.extend(page.iter());
            cursor = page.next_cursor;
            if cursor == 0 {
                break;
            }
        }
    }
    Ok((all, started))
}

/// Compares what a restarted server has with what the workers believe, and resolves what they do not know.
/// `short_ghosts` collects grants that may have made a lease that has expired since.
///
/// # Errors
/// A broken promise.
pub fn audit(workers: &mut [Worker], address: SocketAddr, short_ghosts: &mut Vec<Ghost>) -> Verdict {
    let mut wire = Wire::connect(address).map_err(|error| format!("cannot connect: {error}"))?;
    let (listed, asked_at) = list_all(&mut wire)?;
    let mut by_id = HashMap::new();
    for lease in &listed {
        if by_id.insert(lease.id, *lease).is_some() {
            return Err(format!("S1 one-shard: {} is listed twice", lease.id));
        }
        if !is_marker(lease.id) {
            place(workers, lease, asked_at)?;
        }
    }
    for worker in workers {
        let mut wire =
            Wire::connect_as(address, &worker.hello(None)).map_err(|e| format!("cannot connect: {e}"))?;
        look_at_all(worker, &mut wire)?;
        check_torn_moves(worker)?;
        settle_ghosts(worker, &mut wire, &by_id, short_ghosts)?;
    }
    Ok(())
}

/// A grant that may have made a lease that expired before anybody saw it: it explains one end.
#[derive(Clone, Debug)]
pub struct Ghost {
    /// The ID asked for, or 0.
    pub id: LeaseId,
}

/// Finds whose a listed lease is.
fn place(workers: &mut [Worker], lease: &Listed, asked_at: Instant) -> Verdict {
    for worker in workers.iter_mut() {
        if let Some(key) = worker.book.find(lease.id, lease.token) {
            let belief = &worker.book.leases[key];
            if !belief.is_live() {
                return Err(format!("S3 ack-after-durable: told dead, and listed: {belief:?}"));
            }
            return Ok(());
        }
    }
    for worker in workers.iter_mut() {
        let book = &worker.book;
        let matches = |ghost: &Ask| {
            let asked = book.asked_id(ghost);
            let id_fits = if is_chosen(lease.id) { asked == lease.id } else { asked == LeaseId::NONE };
            id_fits && ghost.ttl_ms == lease.ttl_ms
        };
        if let Some(index) = worker.book.ghosts.iter().position(matches) {
            let ghost = worker.book.ghosts.swap_remove(index);
            worker.book.risen.push(ghost.clone());
            let granted = Granted {
                id: lease.id,
                token: lease.token,
                ttl_ms: lease.ttl_ms,
                remaining_ms: lease.remaining_ms,
                raised: false,
                repeated: false,
            };
            worker.book.adopt(&ghost, &granted, asked_at, Instant::now())?;
            let belief = worker.book.leases.last_mut().expect("one was just adopted");
            // What remains is told against the server's clock, rounded down to 1 ms.
            belief.held_until = asked_at + Duration::from_millis(lease.remaining_ms.saturating_sub(1));
            return Ok(());
        }
    }
    Err(format!("S3 ack-after-durable: a lease that nobody asked for, or a grant applied twice: {lease:?}"))
}

/// Reads every lease that is believed alive.
fn look_at_all(worker: &mut Worker, wire: &mut Wire) -> Verdict {
    let keys = worker.book.live.clone();
    for keys in keys.chunks(WINDOW) {
        let mut asked = HashMap::new();
        for &key in keys {
            let op = Op::Look(key);
            worker.book.begin(&op);
            let id = worker.book.leases[key].id;
            let request = Request::TimeToLive { id, items: true, after: None };
            asked.insert(wire.queue(&request), op);
        }
        let sent = Instant::now();
        wire.flush().map_err(|error| format!("reading leases: {error}"))?;
        while !asked.is_empty() {
            let received = wire.receive().map_err(|error| format!("reading leases: {error}"))?;
            let op = asked.remove(&received.request_id()).ok_or("L2 one-reply: an answer to nothing")?;
            worker.book.settle(&op, &received.response(), sent, Instant::now())?;
        }
    }
    Ok(())
}

/// A move happens as a whole or not at all: the item is on one of the two.
fn check_torn_moves(worker: &mut Worker) -> Verdict {
    for torn in std::mem::take(&mut worker.book.torn_moves) {
        let (from, to) = (&worker.book.leases[torn.from], &worker.book.leases[torn.to]);
        if from.is_live() && to.is_live() {
            let has = |lease: &super::belief::Belief| lease.items.get(&torn.item) == Some(&Presence::Present);
            if has(from) == has(to) {
                return Err(format!(
                    "contract: half a move of an item: {torn:?} between {from:?} and {to:?}"
                ));
            }
        }
    }
    Ok(())
}

/// Asks again for grants that were never answered.
fn settle_ghosts(
    worker: &mut Worker,
    wire: &mut Wire,
    listed: &HashMap<LeaseId, Listed>,
    short_ghosts: &mut Vec<Ghost>,
) -> Verdict {
    let lost = std::mem::take(&mut worker.book.ghosts);
    for ghost in lost.iter().filter(|ghost| ghost.ttl_ms < LONG_TTL_MS) {
        short_ghosts.push(Ghost { id: worker.book.asked_id(ghost) });
    }
    let risen = std::mem::take(&mut worker.book.risen);
    for ghost in lost.into_iter().chain(risen) {
        if ghost.ttl_ms < LONG_TTL_MS || ghost.sequence == 0 {
            continue;
        }
        let id = worker.book.asked_id(&ghost);
        let made = listed.values().find(|lease| lease.ttl_ms == ghost.ttl_ms);
        let sent = Instant::now();
        let request = Request::Grant(Grant { ttl_ms: ghost.ttl_ms, id, sequence: ghost.sequence });
        let reply = wire.call(&request).map_err(|error| format!("repeating a grant: {error}"))?;
        match (made, reply.response()) {
            (Some(made), Response::Granted(granted)) => {
                if !granted.repeated || granted.id != made.id || granted.token != made.token {
                    return Err(format!(
                        "contract: a repeated grant made another lease: {granted:?} beside {made:?}"
                    ));
                }
            }
            (None, Response::Granted(granted)) if !granted.repeated => {
                worker.book.adopt(&ghost, &granted, sent, Instant::now())?;
            }
            // The chosen ID belongs to another lease; the grant had been refused, or never came.
            (None, Response::Refused(refused))
                if refused.refusal == tenure_protocol::Refusal::AlreadyExists && ghost.chosen.is_some() => {}
            (made, other) => return Err(format!("contract: {ghost:?} repeated, {made:?}: {other:?}")),
        }
    }
    Ok(())
}
