//! The phases that look like life: a mixed steady state, a fleet that keeps its leases alive, clients that
//! come and go, and requests that arrive at the wrong core.
//!
//! **mixed**: renewals at a fixed rate, while leases are granted and revoked again, others are granted and left to
//! expire, and one after the other is laden with very many items and expires with them, all at once. **fleet**: so many clients renew all their leases once in a period, over few
//! connections (a proxy: full frames) and over many (each client's frame on its own). **churn**: connect,
//! grant, renew, revoke, close. **cross**: none, half and all of the leases belong to another core than
//! the one that the connection is placed on.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use tenure_client::machine::Delivery;
use tenure_protocol::{Grant, LeaseId, Request, Response};

use super::Run;
use super::measure::row;
use super::phases::foreground;
use super::storm::{DRIP_TTL_MS, Found, trickle_row};
use crate::closed_loop::Operation;
use crate::ends::{Ends, Trickle};
use crate::floor::{gap, on_cpu};
use crate::human;
use crate::lane::LaneSettings;
use crate::latency::Latency;
use crate::limits::{CHURN_CLIENTS, SILENCE_MAX};
use crate::link::{Introduction, Link};
use crate::open_loop::{self, Fate, OpenLoop, SideLoad};
use crate::order;
use crate::report::{ConnectionsRow, Row, per_operation};
use crate::tally::Tally;

/// Of the rate of a mixed load, this share is grants that expire, as many are grants that are revoked, as many
/// their revocations, and as many are items of huge leases.
const MIXED_SHARE: f64 = 0.05;
/// A huge lease gets items for so long, or for this part of the phase: 100,000 at the usual rate.
const HOARD_SPAN: Duration = Duration::from_secs(20);
const HOARD_PART: u32 = 3;
/// How long an empty loop is watched after a mixed load, at most.
const EMPTY_LOOP_SPAN: Duration = Duration::from_secs(60);
/// Shares of requests for leases of other cores.
const REMOTE: [f64; 3] = [0.0, 0.5, 1.0];

impl Run {
    pub(super) fn mixed(&mut self) -> anyhow::Result<()> {
        let links = self.subscribe()?;
        let plan = self.plan.clone();
        let (rate, threads) = (plan.rate.unwrap_or(plan.foreground_rate), plan.load_threads);
        let stream =
            |ttl_ms, fate| SideLoad { per_second: rate * MIXED_SHARE, ttl_ms, seed: plan.seed, fate };
        let expiring = stream(DRIP_TTL_MS, Fate::Expire);
        let revoked = stream((plan.ttl_ms, plan.ttl_ms), Fate::Revoke);
        let hoard_span = HOARD_SPAN.min(plan.duration / HOARD_PART);
        let items = ((expiring.per_second * hoard_span.as_secs_f64()) as u64).max(1);
        // Twice as long as its items need, and a second: it must not end before it has them all.
        let hoard_ms = 2 * hoard_span.as_millis() as u64 + 1_000;
        let hoards = stream((hoard_ms, hoard_ms), Fate::Hoard { items });
        let renewals = rate * (1.0 - 4.0 * MIXED_SHARE);
        let (tallies, usage) = self.on_lanes("mixed", |lane, board| {
            // Events come over the first lane's links, so it is the one that knows its leases.
            let first = lane.index == 0;
            let settings = OpenLoop {
                links: if first { links } else { lane.links.len() },
                ends: if first { Ends::Trickle(Trickle::new()) } else { Ends::Elsewhere },
                spins: false,
                grace: Duration::from_millis(hoard_ms) + Duration::from_secs(5),
                side: if first { vec![expiring, revoked, hoards] } else { Vec::new() },
                ..foreground(lane, renewals / threads as f64, plan.duration)
            };
            open_loop::run(lane, settings, board)
        })?;
        self.unsubscribe(links);
        let found = Found::new(tallies);
        let others = [&found.grants, &found.revokes, &found.attaches];
        let operations = found.before.operations + others.map(|tally| tally.operations).iter().sum::<u64>();
        let mut lag = found.send_lag;
        for (phase, tally, open_loop) in [
            ("mixed: renew", found.before, true),
            ("mixed: grant", found.grants, false),
            ("mixed: revoke", found.revokes, false),
            ("mixed: attach", found.attaches, false),
        ] {
            let share = tally.operations as f64 * 1e9 / tally.elapsed_ns.max(1) as f64;
            let load = match phase {
                "mixed: attach" => format!("{} items a lease", human::count(items as f64)),
                _ => format!("of {}/s", human::count(rate)),
            };
            let mut row = row(phase, load, threads, tally, None);
            if open_loop {
                // What the server used is divided by all that was asked of it.
                row.server_cpu_ns = per_operation(usage.cpu, operations);
                row.send_lag = lag.quantiles();
            } else {
                (row.load_ns, row.load_busy) = (None, None);
            }
            row.per_second = share;
            self.show(Row { open_loop, ..row });
        }
        let Ends::Trickle(trickle) = found.ends else { return Ok(()) };
        let what = format!("{} at {}/s", trickle.ended, human::count(expiring.per_second));
        let server_ms_max = self.control.info()?.lateness_ms_max;
        self.report.lateness.push(trickle_row(
            "mixed",
            what,
            trickle,
            &found.after,
            usage.wall,
            server_ms_max,
        ));
        self.check_count("mixed")?;
        self.empty_loop()
    }

    /// What the longest turns of the mixed load are to be read beside.
    fn empty_loop(&mut self) -> anyhow::Result<()> {
        let Some(server) = &self.plan.server else { return Ok(()) };
        let span = self.plan.duration.min(EMPTY_LOOP_SPAN);
        self.progress.begin("empty loop");
        let found = on_cpu(server.pin, || Ok(gap::gap(span)))?;
        self.progress.end("empty loop");
        self.report.stalls.push(found);
        Ok(())
    }

    pub(super) fn cross(&mut self) -> anyhow::Result<()> {
        let shards = self.lane_settings.shard_count;
        ensure!(shards > 1, "leases of another core need a server with more than one: --shards 2");
        let plan = self.plan.clone();
        let (size, depth) = (plan.batch, plan.batch_depth);
        for remote in REMOTE {
            let access = order::Access { remote, ..plan.access };
            self.lanes.iter_mut().for_each(|lane| order::prepare(lane, access));
            let share = format!("{:.0} % remote", remote * 100.0);
            let single = self.timed(Operation::Renew, plan.depth);
            self.timed_row("cross", format!("{share}, {} x {}", plan.connections, plan.depth), single)?;
            let batches = self.timed(Operation::RenewBatch { size }, depth);
            let load = format!("{share}, {} x {depth} x {size}", plan.connections);
            self.timed_row("cross-batch", load, batches)?;
        }
        self.lanes.iter_mut().for_each(|lane| order::prepare(lane, plan.access));
        Ok(())
    }

    pub(super) fn fleet(&mut self) -> anyhow::Result<()> {
        let plan = self.plan.clone();
        let leases: u64 = self.lanes.iter().map(|lane| lane.stock.lease_count()).sum();
        let period_s = plan.fleet_period.as_secs_f64();
        let rate = leases as f64 / period_s;
        self.fleet_over("fleet: few", plan.batch, rate)?;
        let per_client = (leases / plan.clients).max(1) as usize;
        let count =
            host_connections(plan.fleet_connections, plan.load_threads, self.lane_settings.shard_count);
        let memory = |run: &Run| run.watched.and_then(|watched| watched.memory()).map(|m| m.resident_bytes);
        let before = memory(self);
        let few: Vec<usize> = self.lanes.iter().map(|lane| lane.links.len()).collect();
        self.progress.begin("fleet: connect");
        self.open_more(count)?;
        self.fleet_over("fleet: many", per_client, rate)?;
        if let Some((before, after)) = before.zip(memory(self)) {
            let per_connection_bytes = after.saturating_sub(before) as f64 / count as f64;
            self.report.connections =
                Some(ConnectionsRow { connections: count as u64, per_connection_bytes });
        }
        for (lane, few) in self.lanes.iter_mut().zip(few) {
            lane.links.truncate(few);
            lane.spread();
        }
        Ok(())
    }

    /// Opens `count` more connections, spread over the lanes.
    fn open_more(&mut self, count: usize) -> anyhow::Result<()> {
        let plan = self.plan.clone();
        let mut lanes = std::mem::take(&mut self.lanes);
        let opened = lanes.iter_mut().try_for_each(|lane| {
            let connections = plan.share(count as u64, lane.index) as usize;
            let settings = LaneSettings { connections, ..self.lane_settings_of(lane.index) };
            lane.open_all(&settings, &mut Vec::new())?;
            lane.spread();
            anyhow::Ok(())
        });
        self.lanes = lanes;
        opened.context("the fleet's connections: is the limit of open files (ulimit -n) too low?")
    }

    fn fleet_over(&mut self, phase: &str, batch: usize, rate: f64) -> anyhow::Result<()> {
        let plan = self.plan.clone();
        let connections: usize = self.lanes.iter().map(|lane| lane.links.len()).sum();
        let per_lane = rate / plan.load_threads as f64;
        let (tallies, usage) = self.on_lanes(phase, |lane, board| {
            let settings = OpenLoop { batch, ..foreground(lane, per_lane, plan.duration) };
            open_loop::run(lane, settings, board)
        })?;
        let mut found = Found::new(tallies);
        found.after.refusals.iter().for_each(|(what, count)| found.before.failed(what, *count));
        let load = format!("{}/s, {batch} a frame, {connections} conns", human::count(rate));
        let row = row(phase, load, plan.load_threads, found.before, Some(usage));
        self.show(Row { open_loop: true, send_lag: found.send_lag.quantiles(), ..row });
        Ok(())
    }

    pub(super) fn churn(&mut self) -> anyhow::Result<()> {
        let (span, threads, ttl_ms) = (self.plan.duration, self.plan.load_threads, self.plan.ttl_ms);
        let lane_settings = self.lane_settings.clone();
        let (tallies, usage) = self.on_lanes("churn", |_, board| {
            let began = Instant::now();
            let results: Vec<anyhow::Result<Tally>> = std::thread::scope(|scope| {
                let client = |number: usize| {
                    let introduction = Introduction {
                        wish_shard: Some((number % usize::from(lane_settings.shard_count)) as u16),
                        ..lane_settings.introduction.clone()
                    };
                    let address = lane_settings.address;
                    move || {
                        let mut tally = Tally::new();
                        let mut latency = Latency::new();
                        while began.elapsed() < span && !board.should_stop() {
                            let start = Instant::now();
                            visit(address, &introduction, ttl_ms, &mut tally)?;
                            latency.record(u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX));
                        }
                        tally.latency.merge(latency);
                        tally.elapsed_ns = u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX);
                        anyhow::Ok(tally)
                    }
                };
                let clients: Vec<_> = (0..CHURN_CLIENTS).map(|number| scope.spawn(client(number))).collect();
                let join = |client: std::thread::ScopedJoinHandle<'_, _>| {
                    client.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
                };
                clients.into_iter().map(join).collect()
            });
            Ok(Tally::merged(results.into_iter().collect::<anyhow::Result<Vec<_>>>()?))
        })?;
        let load = format!("connect, grant, renew, revoke; {} clients", CHURN_CLIENTS * threads);
        let mut row = row("churn", load, threads, Tally::merged(tallies), Some(usage));
        // Clients of threads of their own: what they cost is not told apart from waiting.
        (row.load_ns, row.load_busy) = (None, None);
        self.show(row);
        self.check_count("churn")
    }

    /// Leases that the phases of this file and others renew, in the plan's order.
    pub(super) fn prepare_order(&mut self) {
        let access = self.plan.access;
        self.lanes.iter_mut().for_each(|lane| order::prepare(lane, access));
    }
}

/// One client's life.
fn visit(
    address: std::net::SocketAddr,
    introduction: &Introduction,
    ttl_ms: u64,
    tally: &mut Tally,
) -> anyhow::Result<()> {
    let mut link = Link::connect(address, introduction)?;
    let mut ask = |request: &Request<'_>| {
        link.machine.send(request, 0)?;
        link.blocking(SILENCE_MAX, |delivery| match delivery {
            Delivery::Reply { response: Response::Granted(granted), .. } => Some(Ok(granted.id)),
            Delivery::Reply { response: Response::Refused(refused), .. } => Some(Err(refused.refusal)),
            Delivery::Reply { .. } => Some(Ok(LeaseId::NONE)),
            _ => None,
        })
    };
    match ask(&Request::Grant(Grant { ttl_ms, id: LeaseId::NONE, sequence: 0 }))? {
        Ok(id) => {
            for request in [Request::Renew { id }, Request::Revoke { id }] {
                if let Err(refusal) = ask(&request)? {
                    tally.refused(refusal);
                }
            }
        }
        Err(refusal) => tally.refused(refusal),
    }
    tally.operations += 1;
    tally.frames += 3;
    Ok(())
}

/// As many connections as the limit of open files allows, and at least one for each lane and shard.
fn host_connections(wanted: usize, lanes: usize, shards: u16) -> usize {
    let room = crate::host::raise_open_files().saturating_sub(512);
    wanted.min(room as usize).max(lanes * usize::from(shards))
}
