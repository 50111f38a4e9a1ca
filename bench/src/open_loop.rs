//! The open loop: renewals, or grants, at a fixed rate, whatever the server does.
//!
//! Operation `k` is *meant* to be sent at `start + k / rate`, and its latency starts there, not when
//! it was sent: a stall of the server delays the operations behind it, and each of them says so (no
//! coordinated omission). What of this was the load side's own doing is recorded apart, as send lag.
//!
//! What is due in a turn leaves in one write on the next connection, as from a process that holds many
//! leases over a pool of connections.
//!
//! Beside the renewals a loop may watch end-of-lease events ([`Ends`]), and grant leases that are left to
//! expire, revoked, or laden with items ([`SideLoad`]).

use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::bail;
use tenure_client::machine::Delivery;
use tenure_protocol::{Event, Grant, LeaseId, Request, Response};

use crate::clock::ns;
use crate::ends::Ends;
use crate::lane::{Keep, Lane, Stock};
use crate::latency::Latency;
use crate::limits::{OPEN_LOOP_WRITE_MAX, SILENCE_MAX};
use crate::link::Link;
use crate::progress::{Board, Glance};
use crate::ring::Ring;
use crate::tally::Tally;
use crate::timeline::Timeline;

mod side;

pub(crate) use side::{Fate, SideLoad};
use side::{Moment, SIDE, Side};

/// A loop that sleeps sleeps at least this long, so that what is due meanwhile leaves together.
const PACE_NS_MIN: u64 = 20_000;
/// The token of a subscription.
const SUBSCRIPTION: u64 = 1 << 62;

/// How an open loop runs in one lane.
pub(crate) struct OpenLoop {
    /// Renewals per second; 0 for none.
    pub(crate) per_second: f64,
    /// In place of renewing, leases of this TTL are granted, one per frame; they are kept to be revoked.
    pub(crate) grants_ttl_ms: Option<u64>,
    /// Leases per frame: 1 for frames of their own.
    pub(crate) batch: usize,
    /// Poll without sleeping: not where the log matters.
    pub(crate) spins: bool,
    /// Links that renewals are spread over, from the first; later ones carry subscriptions.
    pub(crate) links: usize,
    pub(crate) span: Duration,
    /// Renewals meant for this time of the run's clock or later are counted apart.
    pub(crate) split_ns: u64,
    /// Expected events. The loop goes on after `span` until they are complete, at most for `grace`.
    pub(crate) ends: Ends,
    pub(crate) grace: Duration,
    pub(crate) side: Vec<SideLoad>,
}

/// What an open loop found.
pub(crate) struct OpenTally {
    /// Renewals before the split.
    pub(crate) before: Tally,
    /// And after.
    pub(crate) after: Tally,
    /// Grants and revocations beside them.
    pub(crate) grants: Tally,
    pub(crate) revokes: Tally,
    /// Items attached to huge leases.
    pub(crate) attaches: Tally,
    /// How late the load side itself sent.
    pub(crate) send_lag: Latency,
    pub(crate) ends: Ends,
}

/// Asks for the events of every shard, from now on; one link at the end of the lane for each.
pub(crate) fn subscribe(link: &mut Link, shard: u16) -> anyhow::Result<()> {
    let request = Request::Subscribe { shard, from: tenure_protocol::Position::NOW };
    link.machine.send(&request, SUBSCRIPTION)?;
    link.blocking(SILENCE_MAX, |delivery| match delivery {
        Delivery::Reply { response: Response::Subscribed { .. }, .. } => Some(Ok(())),
        Delivery::Reply { response: Response::Refused(refused), .. } => {
            Some(Err(anyhow::anyhow!("no subscription: {} {}", refused.refusal, refused.text)))
        }
        _ => None,
    })?
}

/// A loop in progress.
struct Running {
    settings: OpenLoop,
    began_ns: u64,
    issued: u64,
    next_link: usize,
    side: Side,
    in_flight: u64,
    before: Tally,
    after: Tally,
    send_lag: Latency,
    glance: Glance,
    timeline: Timeline,
    /// Of the replies of one arrival.
    slowest_ns: u64,
}

/// Runs the loop: `span`, then until every reply and every expected event has come.
///
/// # Errors
/// When a connection fails or the server stops answering.
pub(crate) fn run(lane: &mut Lane, settings: OpenLoop, board: &Board) -> anyhow::Result<OpenTally> {
    let began_ns = lane.clock.now_ns();
    let until_ns = began_ns + ns(settings.span);
    let patient_ns = until_ns + ns(settings.grace);
    // What is behind when the time is up is still sent, for a while.
    let over_ns = patient_ns + ns(SILENCE_MAX);
    let mut ring = lane.ring(settings.spins)?;
    let mut running = Running::new(settings, began_ns);
    let mut heard_ns = began_ns;
    loop {
        let now_ns = lane.clock.now_ns();
        let waits = now_ns < patient_ns && !running.settings.ends.is_complete(board);
        let goes_on = now_ns < until_ns || waits;
        let target = running.due(running.settings.per_second, if goes_on { now_ns } else { until_ns });
        if board.should_stop() || now_ns >= over_ns {
            running.after.failed("not sent in time", target.saturating_sub(running.issued));
            running.issued = running.issued.max(target);
        } else {
            running.send_due(lane, &mut ring, target, now_ns, now_ns < until_ns)?;
        }
        let sends = running.issued < target || (goes_on && !board.should_stop());
        if !sends && running.in_flight == 0 {
            break;
        }
        ring.wait(running.patience(now_ns))?;
        let Some(arrived_ns) = running.receive_ready(lane, &mut ring)? else {
            if running.in_flight > 0 && now_ns - heard_ns.max(began_ns) > ns(SILENCE_MAX) {
                bail!(
                    "the server owes {} replies and has been silent for {SILENCE_MAX:?}",
                    running.in_flight
                );
            }
            if running.in_flight == 0 {
                heard_ns = now_ns;
            }
            continue;
        };
        heard_ns = arrived_ns;
        let notice = &board.notices[lane.index];
        running.glance.publish(notice, running.operations(), heard_ns);
        notice.tell_done([(heard_ns - began_ns, until_ns - began_ns)]);
    }
    if !matches!(running.settings.ends, Ends::Elsewhere) {
        board.events_complete.store(true, Ordering::Relaxed);
    }
    let ended_ns = lane.clock.now_ns();
    let busy_ns = ring.busy_ns();
    ring.close(|wire, bytes| lane.links[wire].machine.receive(bytes))?;
    running.side.finish(lane, ended_ns - began_ns);
    Ok(running.finish(ended_ns, busy_ns))
}

impl Running {
    fn new(settings: OpenLoop, began_ns: u64) -> Running {
        Running {
            side: Side::new(&settings.side),
            settings,
            began_ns,
            issued: 0,
            next_link: 0,
            in_flight: 0,
            before: Tally::new(),
            after: Tally::new(),
            send_lag: Latency::new(),
            glance: Glance::new(),
            timeline: Timeline::default(),
            slowest_ns: 0,
        }
    }

    fn operations(&self) -> u64 {
        self.before.operations + self.after.operations
    }

    /// How many of a stream of `per_second` should have been sent by now.
    #[inline]
    fn due(&self, per_second: f64, now_ns: u64) -> u64 {
        ((now_ns - self.began_ns) as f64 * per_second / 1e9) as u64
    }

    fn send_due(
        &mut self,
        lane: &mut Lane,
        ring: &mut Ring,
        target: u64,
        now_ns: u64,
        goes_on: bool,
    ) -> anyhow::Result<()> {
        let late = target.saturating_sub(self.issued);
        if self.settings.batch > 1 {
            // Whole frames; what is left of one at the end of the time is sent as it is.
            let frames = late / self.settings.batch as u64;
            let rest = if goes_on { 0 } else { late % self.settings.batch as u64 };
            for _ in 0..frames.min(OPEN_LOOP_WRITE_MAX as u64) {
                self.renew_batch(lane, ring, self.settings.batch as u64, now_ns)?;
            }
            if rest > 0 && frames == 0 {
                self.renew_batch(lane, ring, rest, now_ns)?;
            }
        } else if late > 0 {
            ring.end_idle();
            let count = late.min(OPEN_LOOP_WRITE_MAX as u64);
            match self.settings.grants_ttl_ms {
                Some(ttl_ms) => self.grant(lane, ring, count, ttl_ms, now_ns)?,
                None => self.renew(lane, ring, count, now_ns)?,
            }
        }
        let (elapsed_ns, span_ns) = (now_ns - self.began_ns, ns(self.settings.span));
        let at = Moment {
            elapsed_ns: elapsed_ns.min(span_ns),
            is_over: elapsed_ns >= span_ns,
            links: self.settings.links,
        };
        self.in_flight += self.side.send(lane, ring, at)?;
        Ok(())
    }

    /// Sends one frame of `count` renewals on the next link that has room for it.
    fn renew_batch(
        &mut self,
        lane: &mut Lane,
        ring: &mut Ring,
        count: u64,
        now_ns: u64,
    ) -> anyhow::Result<()> {
        ring.end_idle();
        for _ in 0..self.settings.links {
            let wire = self.next_link;
            let link = &mut lane.links[wire];
            self.next_link = (self.next_link + 1) % self.settings.links;
            if link.machine.room() == 0 {
                continue;
            }
            // The frame is meant for the moment at which its last lease is due.
            let meant_ns = self.meant_ns(self.issued + count);
            let ids = link.next_leases(lane.stock.to_renew(link.shard), count as usize);
            if ids.is_empty() {
                continue;
            }
            link.machine.send_renew_batch(ids.iter().map(|&id| LeaseId(id)), meant_ns)?;
            self.send_lag.record(now_ns.saturating_sub(meant_ns));
            self.issued += ids.len() as u64;
            self.in_flight += 1;
            link.send(wire, ring);
            return Ok(());
        }
        Ok(())
    }

    /// Sends `count` renewals on the next link that has room for some.
    #[inline]
    fn renew(&mut self, lane: &mut Lane, ring: &mut Ring, count: u64, now_ns: u64) -> anyhow::Result<()> {
        for _ in 0..self.settings.links {
            let wire = self.next_link;
            let link = &mut lane.links[wire];
            self.next_link = (self.next_link + 1) % self.settings.links;
            let leases = lane.stock.to_renew(link.shard);
            let room = u64::from(link.machine.room()).min(count);
            let mut sent = 0;
            while sent < room {
                let Some(id) = link.next_lease(leases) else { break };
                let meant_ns = self.meant_ns(self.issued + sent);
                link.machine.send_renew(id, meant_ns)?;
                self.send_lag.record(now_ns.saturating_sub(meant_ns));
                sent += 1;
            }
            self.issued += sent;
            self.in_flight += sent;
            if sent > 0 {
                link.send(wire, ring);
                return Ok(());
            }
        }
        Ok(())
    }

    /// Sends `count` grants on the next link that has room for some.
    fn grant(
        &mut self,
        lane: &mut Lane,
        ring: &mut Ring,
        count: u64,
        ttl_ms: u64,
        now_ns: u64,
    ) -> anyhow::Result<()> {
        for _ in 0..self.settings.links {
            let wire = self.next_link;
            let link = &mut lane.links[wire];
            self.next_link = (self.next_link + 1) % self.settings.links;
            let room = u64::from(link.machine.room()).min(count);
            for place in 0..room {
                let meant_ns = self.meant_ns(self.issued + place);
                let grant = Grant { ttl_ms, id: lane.stock.id_to_grant(link.shard), sequence: 0 };
                link.machine.send(&Request::Grant(grant), meant_ns)?;
                self.send_lag.record(now_ns.saturating_sub(meant_ns));
            }
            self.issued += room;
            self.in_flight += room;
            if room > 0 {
                link.send(wire, ring);
                return Ok(());
            }
        }
        Ok(())
    }

    /// When operation `number` is meant to be sent.
    #[inline]
    fn meant_ns(&self, number: u64) -> u64 {
        self.began_ns + (number as f64 * 1e9 / self.settings.per_second) as u64
    }

    /// How long the lane may sleep, when it sleeps at all.
    fn patience(&self, now_ns: u64) -> Duration {
        if self.settings.per_second <= 0.0 {
            return Duration::from_micros(200);
        }
        let next_ns = self.meant_ns(self.issued + 1);
        Duration::from_nanos(next_ns.saturating_sub(now_ns).clamp(PACE_NS_MIN, 1_000_000))
    }

    /// Takes what has arrived; when it was, or `None` when there was nothing.
    fn receive_ready(&mut self, lane: &mut Lane, ring: &mut Ring) -> anyhow::Result<Option<u64>> {
        let mut arrived_ns = None;
        while let Some(arrival) = ring.next()? {
            let wire = arrival.wire;
            let link = &mut lane.links[wire];
            link.take(arrival, ring);
            let now_ns = lane.clock.now_ns();
            let before = self.operations();
            self.slowest_ns = 0;
            self.receive(link, &mut lane.stock, wire, now_ns)?;
            self.timeline.add(now_ns, self.operations() - before, self.slowest_ns);
            link.send(wire, ring);
            arrived_ns = Some(now_ns);
        }
        Ok(arrived_ns)
    }

    #[inline]
    fn receive(
        &mut self,
        link: &mut Link,
        stock: &mut Stock,
        wire: usize,
        now_ns: u64,
    ) -> anyhow::Result<()> {
        loop {
            while let Some((meant_ns, _)) = link.machine.poll_renewed() {
                let ns = now_ns.saturating_sub(meant_ns);
                let tally =
                    if meant_ns < self.settings.split_ns { &mut self.before } else { &mut self.after };
                tally.latency.record(ns);
                tally.operations += 1;
                tally.frames += 1;
                self.slowest_ns = self.slowest_ns.max(ns);
                self.in_flight -= 1;
                self.glance.record(ns, 1);
            }
            let Some(delivery) = link.machine.poll()? else { return Ok(()) };
            match delivery {
                Delivery::Event { event: Event::Ended(ended), .. } => {
                    self.settings.ends.ended(&ended, now_ns);
                }
                Delivery::Event { event: Event::Gap { .. }, .. } => self.after.failed("events lost (Gap)", 1),
                Delivery::Event { .. } | Delivery::Welcome(_) => {}
                Delivery::GoAway(refused) => {
                    bail!("the server closes a connection: {} {}", refused.refusal, refused.text)
                }
                Delivery::Reply { token: SUBSCRIPTION, response } => {
                    bail!("the server ended a subscription: {response:?}")
                }
                Delivery::Reply { token, response } => {
                    self.in_flight -= 1;
                    if token & SIDE != 0 {
                        let ends = &mut self.settings.ends;
                        self.side.reply(token, &response, wire, now_ns, ends)?;
                    } else {
                        self.reply(token, &response, stock, now_ns)?;
                    }
                }
            }
        }
    }

    /// A reply that is not a plain Renewed.
    fn reply(
        &mut self,
        meant_ns: u64,
        response: &Response<'_>,
        stock: &mut Stock,
        now_ns: u64,
    ) -> anyhow::Result<()> {
        let tally = if meant_ns < self.settings.split_ns { &mut self.before } else { &mut self.after };
        match response {
            Response::RenewBatch(outcome) => {
                let ns = now_ns.saturating_sub(meant_ns);
                tally.latency.record(ns);
                self.slowest_ns = self.slowest_ns.max(ns);
                tally.frames += 1;
                tally.operations += u64::from(outcome.count()) - outcome.failed_count() as u64;
                outcome.failed().for_each(|failed| tally.refused(failed.refusal));
                self.glance.record(ns, 1);
                Ok(())
            }
            Response::Granted(granted) => {
                let ns = now_ns.saturating_sub(meant_ns);
                tally.latency.record(ns);
                tally.operations += 1;
                tally.frames += 1;
                self.slowest_ns = self.slowest_ns.max(ns);
                self.glance.record(ns, 1);
                stock.put(granted.id, Keep::Extra);
                Ok(())
            }
            Response::Refused(refused) => {
                self.after.refused(refused.refusal);
                Ok(())
            }
            other => bail!("the server answered something else than was asked: {other:?}"),
        }
    }

    fn finish(mut self, ended_ns: u64, busy_ns: u64) -> OpenTally {
        let split_ns = self.settings.split_ns.clamp(self.began_ns, ended_ns);
        self.before.elapsed_ns = split_ns - self.began_ns;
        self.after.elapsed_ns = ended_ns - split_ns;
        self.before.busy_ns = busy_ns;
        // Of both, because a split is a moment on it.
        self.before.timeline = self.timeline;
        OpenTally {
            before: self.before,
            after: self.after,
            grants: self.side.grants,
            revokes: self.side.revokes,
            attaches: self.side.attaches,
            send_lag: self.send_lag,
            ends: self.settings.ends,
        }
    }
}
