//! What an open loop does beside its renewals: grants at a rate, and what becomes of those leases.
//!
//! Leases of one stream are left alone and expire, so that their lateness can be told; those of another are
//! held for a while and revoked, so that leases come and go at a constant number (churn). Latencies here
//! start at the sending.

use std::collections::VecDeque;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tenure_protocol::{Grant, LeaseId, Request, Response};

use crate::ends::Ends;
use crate::lane::{Keep, Lane};
use crate::limits::OPEN_LOOP_WRITE_MAX;
use crate::ring::Ring;
use crate::tally::Tally;

/// Marks the token of a request from here; the low bits are a time of the run's clock.
pub(super) const SIDE: u64 = 1 << 63;
const STREAM_SHIFT: u32 = 56;
/// A revocation, in place of a stream's number.
const REVOKE: u64 = 0x3f;
const TIME: u64 = (1 << STREAM_SHIFT) - 1;

/// A churning stream holds its leases for about this long, s, before it revokes the oldest, but not more
/// of them than this.
const HELD_S: f64 = 0.05;
const HELD_MAX: f64 = 1_024.0;

/// A stream of grants.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SideLoad {
    pub(crate) per_second: f64,
    /// TTLs are spread evenly over this range, ms.
    pub(crate) ttl_ms: (u64, u64),
    pub(crate) seed: u64,
    /// Leases are revoked in the end; else they are left to expire.
    pub(crate) revokes: bool,
}

struct Stream {
    load: SideLoad,
    granted: u64,
    random: SmallRng,
    /// Which link granted what, oldest first.
    held: VecDeque<(usize, LeaseId)>,
    held_max: usize,
}

/// The streams of one lane.
pub(super) struct Side {
    streams: Vec<Stream>,
    pub(super) grants: Tally,
    pub(super) revokes: Tally,
}

impl Side {
    pub(super) fn new(loads: &[SideLoad]) -> Side {
        let stream = |load: &SideLoad| Stream {
            load: *load,
            granted: 0,
            random: SmallRng::seed_from_u64(load.seed),
            held: VecDeque::new(),
            held_max: (load.per_second * HELD_S).clamp(1.0, HELD_MAX) as usize,
        };
        Side { streams: loads.iter().map(stream).collect(), grants: Tally::new(), revokes: Tally::new() }
    }

    /// Sends what is due `elapsed_ns` after the start, over the first `links` links; how many requests.
    pub(super) fn send(
        &mut self,
        lane: &mut Lane,
        ring: &mut Ring,
        links: usize,
        elapsed_ns: u64,
    ) -> anyhow::Result<u64> {
        let mut sent = 0;
        for (number, stream) in self.streams.iter_mut().enumerate() {
            let due = (elapsed_ns as f64 * stream.load.per_second / 1e9) as u64;
            for _ in 0..due.saturating_sub(stream.granted).min(OPEN_LOOP_WRITE_MAX as u64) {
                let wire = stream.granted as usize % links;
                let link = &mut lane.links[wire];
                if link.machine.room() == 0 {
                    break;
                }
                let ttl_ms = stream.random.random_range(stream.load.ttl_ms.0..=stream.load.ttl_ms.1);
                let grant = Grant { ttl_ms, id: lane.stock.id_to_grant(link.shard), sequence: 0 };
                let token = SIDE | (number as u64) << STREAM_SHIFT | lane.clock.now_ns() & TIME;
                link.machine.send(&Request::Grant(grant), token)?;
                link.send(wire, ring);
                stream.granted += 1;
                sent += 1;
                if stream.held.len() > stream.held_max
                    && let Some((wire, id)) = stream.held.pop_front()
                {
                    let link = &mut lane.links[wire];
                    let token = SIDE | REVOKE << STREAM_SHIFT | lane.clock.now_ns() & TIME;
                    link.machine.send(&Request::Revoke { id }, token)?;
                    link.send(wire, ring);
                    sent += 1;
                }
            }
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
        let tally = if number == REVOKE { &mut self.revokes } else { &mut self.grants };
        tally.latency.record(now_ns.saturating_sub(sent_ns));
        tally.frames += 1;
        match response {
            Response::Granted(granted) => {
                tally.operations += 1;
                let stream = &mut self.streams[number as usize];
                if stream.load.revokes {
                    stream.held.push_back((wire, granted.id));
                } else if let Ends::Trickle(trickle) = ends {
                    trickle.granted(granted.id, sent_ns, granted.ttl_ms);
                }
            }
            Response::Revoked { .. } => tally.operations += 1,
            Response::Refused(refused) => tally.refused(refused.refusal),
            other => anyhow::bail!("the server answered something else than was asked: {other:?}"),
        }
        Ok(())
    }

    /// The loop is over: leases that are still held go to those that are revoked in the end.
    pub(super) fn finish(&mut self, lane: &mut Lane, elapsed_ns: u64) {
        for (_, id) in self.streams.iter_mut().flat_map(|stream| stream.held.drain(..)) {
            lane.stock.put(id, Keep::Extra);
        }
        (self.grants.elapsed_ns, self.revokes.elapsed_ns) = (elapsed_ns, elapsed_ns);
    }
}
