//! What an open loop does beside its renewals: grants at a rate, and what becomes of those leases.
//!
//! Leases of one stream are left alone and expire, so that their lateness can be told; those of another are
//! held for a while and revoked, so that leases come and go at a constant number (churn); a third attaches items
//! to one lease after the other, which then expires with all of them (a huge lease). Latencies here start at the
//! sending.

use std::collections::VecDeque;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tenure_protocol::{Grant, LeaseId, Refusal, Request, Response};

use crate::ends::Ends;
use crate::lane::{Keep, Lane};
use crate::limits::OPEN_LOOP_WRITE_MAX;
use crate::ring::Ring;
use crate::tally::Tally;

/// Marks the token of a request from here; the low bits are a time of the run's clock.
pub(super) const SIDE: u64 = 1 << 63;
const STREAM_SHIFT: u32 = 56;
/// In place of a stream's number: a revocation, and one of a hoard that nobody counts.
const REVOKE: u64 = 0x3f;
const CLEARANCE: u64 = 0x3e;
const TIME: u64 = (1 << STREAM_SHIFT) - 1;

/// A churning stream holds its leases for about this long, s, before it revokes the oldest, but not more
/// of them than this.
const HELD_S: f64 = 0.05;
const HELD_MAX: f64 = 1_024.0;
/// An item: the lease's ID and its number.
const ITEM_BYTES: usize = 16;

/// A stream of grants.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SideLoad {
    /// Grants, or of a hoard its items.
    pub(crate) per_second: f64,
    /// TTLs are spread evenly over this range, ms.
    pub(crate) ttl_ms: (u64, u64),
    pub(crate) seed: u64,
    pub(crate) fate: Fate,
}

/// What becomes of the leases of a stream.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Fate {
    /// They are left to expire.
    Expire,
    /// The oldest is revoked when some more have been granted.
    Revoke,
    /// One at a time is granted; so many items are attached to it, and then it is left to expire.
    Hoard { items: u64 },
}

struct Stream {
    load: SideLoad,
    /// Grants that were sent; of a hoard, items.
    issued: u64,
    random: SmallRng,
    /// Which link granted what, oldest first.
    held: VecDeque<(usize, LeaseId)>,
    held_max: usize,
    hoard: Hoarding,
}

/// Where a stream of huge leases is.
#[derive(Clone, Copy)]
enum Hoarding {
    Idle,
    Asked,
    Holds(Hoard),
}

/// A lease that is being filled.
#[derive(Clone, Copy)]
struct Hoard {
    wire: usize,
    id: LeaseId,
    sent_ns: u64,
    ttl_ms: u64,
    /// Items that were sent, and those that were acknowledged.
    attached: u64,
    acknowledged: u64,
}

/// The streams of one lane.
pub(super) struct Side {
    streams: Vec<Stream>,
    pub(super) grants: Tally,
    pub(super) revokes: Tally,
    /// Items attached to huge leases.
    pub(super) attaches: Tally,
    /// The hoard that was cut short and is being revoked.
    clearing: Option<LeaseId>,
}

/// What a turn of the loop has to say to its streams.
#[derive(Clone, Copy)]
pub(super) struct Moment {
    /// Since the start, at most the loop's time.
    pub(super) elapsed_ns: u64,
    /// The loop's time is up.
    pub(super) is_over: bool,
    /// Links to use, from the first.
    pub(super) links: usize,
}

impl Side {
    pub(super) fn new(loads: &[SideLoad]) -> Side {
        let stream = |load: &SideLoad| Stream {
            load: *load,
            issued: 0,
            random: SmallRng::seed_from_u64(load.seed),
            held: VecDeque::new(),
            held_max: (load.per_second * HELD_S).clamp(1.0, HELD_MAX) as usize,
            hoard: Hoarding::Idle,
        };
        Side {
            streams: loads.iter().map(stream).collect(),
            grants: Tally::new(),
            revokes: Tally::new(),
            attaches: Tally::new(),
            clearing: None,
        }
    }

    /// Sends what is due; how many requests.
    pub(super) fn send(&mut self, lane: &mut Lane, ring: &mut Ring, at: Moment) -> anyhow::Result<u64> {
        let mut sent = 0;
        for (number, stream) in self.streams.iter_mut().enumerate() {
            sent += match stream.load.fate {
                Fate::Expire | Fate::Revoke => stream.send_grants(number as u64, lane, ring, at)?,
                Fate::Hoard { .. } if at.is_over => {
                    let cut_short = stream.clear(lane, ring)?;
                    self.clearing = self.clearing.or(cut_short);
                    u64::from(cut_short.is_some())
                }
                Fate::Hoard { items } => stream.send_items(number as u64, items, lane, ring, at)?,
            };
        }
        Ok(sent)
    }

    /// A reply to a request from here, over link `wire`.
    pub(super) fn reply(
        &mut self,
        token: u64,
        response: &Response<'_>,
        wire: usize,
        now_ns: u64,
        ends: &mut Ends,
    ) -> anyhow::Result<()> {
        let number = (token & !SIDE) >> STREAM_SHIFT;
        let sent_ns = token & TIME;
        let stream = self.streams.get_mut(number as usize);
        let hoards = stream.as_ref().is_some_and(|stream| matches!(stream.load.fate, Fate::Hoard { .. }));
        let tally = match number {
            REVOKE => &mut self.revokes,
            CLEARANCE => &mut self.attaches,
            _ if hoards => &mut self.attaches,
            _ => &mut self.grants,
        };
        let counts = number != CLEARANCE && !matches!((hoards, response), (true, Response::Granted(_)));
        if counts {
            tally.latency.record(now_ns.saturating_sub(sent_ns));
            tally.frames += 1;
        }
        match (response, stream) {
            (Response::Refused(refused), Some(stream)) if hoards => {
                // On a machine so slow that the lease ended before it had all its items.
                let ended = stream.may_have_ended(now_ns) && refused.refusal == Refusal::NotFound;
                if !ended {
                    tally.refused(refused.refusal);
                }
            }
            (Response::Refused(refused), _)
                if number == CLEARANCE && refused.refusal == Refusal::NotFound => {}
            (Response::Refused(refused), _) => tally.refused(refused.refusal),
            (Response::Revoked { .. }, _) => {
                tally.operations += u64::from(counts);
                if let (CLEARANCE, Some(id), Ends::Trickle(trickle)) = (number, self.clearing, ends) {
                    trickle.due_ns.remove(&id.0);
                }
            }
            (Response::Granted(granted), Some(stream)) => {
                tally.operations += u64::from(counts);
                stream.granted(wire, granted.id, sent_ns, granted.ttl_ms, ends);
            }
            (Response::Attached { .. }, Some(stream)) => {
                tally.operations += 1;
                stream.attached();
            }
            (other, _) => anyhow::bail!("the server answered something else than was asked: {other:?}"),
        }
        Ok(())
    }

    /// The loop is over: leases that are still held go to those that are revoked in the end.
    pub(super) fn finish(&mut self, lane: &mut Lane, elapsed_ns: u64) {
        for (_, id) in self.streams.iter_mut().flat_map(|stream| stream.held.drain(..)) {
            lane.stock.put(id, Keep::Extra);
        }
        for tally in [&mut self.grants, &mut self.revokes, &mut self.attaches] {
            tally.elapsed_ns = elapsed_ns;
        }
    }
}

impl Stream {
    /// How many requests should have been sent by now, and have not.
    fn due(&self, at: Moment) -> u64 {
        ((at.elapsed_ns as f64 * self.load.per_second / 1e9) as u64).saturating_sub(self.issued)
    }

    fn send_grants(
        &mut self,
        number: u64,
        lane: &mut Lane,
        ring: &mut Ring,
        at: Moment,
    ) -> anyhow::Result<u64> {
        let mut sent = 0;
        for _ in 0..self.due(at).min(OPEN_LOOP_WRITE_MAX as u64) {
            let wire = self.issued as usize % at.links;
            if !self.grant(number, wire, lane, ring)? {
                break;
            }
            self.issued += 1;
            sent += 1;
            if self.held.len() > self.held_max
                && let Some((wire, id)) = self.held.pop_front()
            {
                revoke(REVOKE, wire, id, lane, ring)?;
                sent += 1;
            }
        }
        Ok(sent)
    }

    /// Sends a grant, where link `wire` has room for it.
    fn grant(&mut self, number: u64, wire: usize, lane: &mut Lane, ring: &mut Ring) -> anyhow::Result<bool> {
        let link = &mut lane.links[wire];
        if link.machine.room() == 0 {
            return Ok(false);
        }
        let ttl_ms = self.random.random_range(self.load.ttl_ms.0..=self.load.ttl_ms.1);
        let grant = Grant { ttl_ms, id: lane.stock.id_to_grant(link.shard), sequence: 0 };
        link.machine.send(&Request::Grant(grant), token(number, lane.clock.now_ns()))?;
        link.send(wire, ring);
        Ok(true)
    }

    fn send_items(
        &mut self,
        number: u64,
        items: u64,
        lane: &mut Lane,
        ring: &mut Ring,
        at: Moment,
    ) -> anyhow::Result<u64> {
        let mut hoard = match self.hoard {
            Hoarding::Idle | Hoarding::Asked => {
                // What was due before there is a lease is not caught up with.
                self.issued += self.due(at);
                let asks = matches!(self.hoard, Hoarding::Idle);
                if !asks || !self.grant(number, number as usize % at.links, lane, ring)? {
                    return Ok(0);
                }
                self.hoard = Hoarding::Asked;
                return Ok(1);
            }
            Hoarding::Holds(hoard) => hoard,
        };
        let link = &mut lane.links[hoard.wire];
        let left = (items - hoard.attached).min(u64::from(link.machine.room()));
        let count = self.due(at).min(OPEN_LOOP_WRITE_MAX as u64).min(left);
        for _ in 0..count {
            let mut item = [0; ITEM_BYTES];
            item[..8].copy_from_slice(&hoard.id.0.to_le_bytes());
            item[8..].copy_from_slice(&hoard.attached.to_le_bytes());
            let request = Request::Attach { id: hoard.id, item: &item };
            link.machine.send(&request, token(number, lane.clock.now_ns()))?;
            hoard.attached += 1;
        }
        if count > 0 {
            link.send(hoard.wire, ring);
        }
        self.issued += count;
        self.hoard = Hoarding::Holds(hoard);
        Ok(count)
    }

    /// Revokes a lease that has not got all its items when the time is up, so that nobody waits for it to expire.
    fn clear(&mut self, lane: &mut Lane, ring: &mut Ring) -> anyhow::Result<Option<LeaseId>> {
        let Hoarding::Holds(hoard) = self.hoard else { return Ok(None) };
        self.hoard = Hoarding::Idle;
        revoke(CLEARANCE, hoard.wire, hoard.id, lane, ring)?;
        Ok(Some(hoard.id))
    }

    /// Whether the lease that is being filled may have ended by now; then it is given up. One that was given up before
    /// may have.
    fn may_have_ended(&mut self, now_ns: u64) -> bool {
        match self.hoard {
            Hoarding::Holds(hoard) if now_ns < hoard.sent_ns + hoard.ttl_ms * 1_000_000 => false,
            Hoarding::Holds(_) => {
                self.hoard = Hoarding::Idle;
                true
            }
            Hoarding::Idle | Hoarding::Asked => true,
        }
    }

    fn granted(&mut self, wire: usize, id: LeaseId, sent_ns: u64, ttl_ms: u64, ends: &mut Ends) {
        if matches!(self.load.fate, Fate::Revoke) {
            return self.held.push_back((wire, id));
        }
        if let Ends::Trickle(trickle) = ends {
            trickle.granted(id, sent_ns, ttl_ms);
        }
        if matches!(self.load.fate, Fate::Hoard { .. }) {
            self.hoard = Hoarding::Holds(Hoard { wire, id, sent_ns, ttl_ms, attached: 0, acknowledged: 0 });
        }
    }

    /// An item is attached. A lease that has all of them is left to expire.
    fn attached(&mut self) {
        let (Hoarding::Holds(hoard), Fate::Hoard { items }) = (&mut self.hoard, self.load.fate) else {
            return;
        };
        hoard.acknowledged += 1;
        if hoard.acknowledged == items {
            self.hoard = Hoarding::Idle;
        }
    }
}

fn revoke(number: u64, wire: usize, id: LeaseId, lane: &mut Lane, ring: &mut Ring) -> anyhow::Result<()> {
    let link = &mut lane.links[wire];
    link.machine.send(&Request::Revoke { id }, token(number, lane.clock.now_ns()))?;
    link.send(wire, ring);
    Ok(())
}

fn token(number: u64, now_ns: u64) -> u64 {
    SIDE | number << STREAM_SHIFT | now_ns & TIME
}
