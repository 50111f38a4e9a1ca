//! The phases that answer "how late": expiries a few at a time, and a million at once.
//!
//! **lateness**: leases with random short TTLs are granted one by one and left alone, first on an idle
//! server, then beside renewals. **storm**: `--expire-leases` leases are granted so that all end in the
//! same millisecond, give or take the time that their grants waited; renewals at a fixed rate run from
//! before the deadline until the last event has come, and their latencies before and during the storm
//! are told apart by their intended send time.
//!
//! Events come over one connection of their own per shard, on the first lane. IDs of the storm are not
//! kept: a count and a sum of fingerprints on either side show that exactly the granted leases ended,
//! each once (S9).

use std::collections::BTreeMap;
use std::time::Duration;

use super::Run;
use super::measure::{Usage, row};
use super::phases::foreground;
use crate::clock::ns;
use crate::closed_loop::{ClosedLoop, Operation, Ttl};
use crate::ends::{Ends, Storm, Trickle};
use crate::human;
use crate::interrupt;
use crate::lane::Keep;
use crate::latency::Latency;
use crate::limits::{FILL_BATCH, STORM_GRACE};
use crate::open_loop::{self, Fate, OpenLoop, OpenTally, SideLoad};
use crate::report::{LatenessRow, Row, StormSeries};
use crate::tally::Tally;
use crate::timeline::Timeline;

/// Leases that the foreground renews when there are none yet.
const FOREGROUND_LEASES: u64 = 10_000;
/// Leases granted to learn how fast this server grants, when fill has not shown it: at least so many, and
/// of a large storm this part, because a table that grows grants more slowly.
const PROBE_LEASES: u64 = 4 * FILL_BATCH as u64;
const PROBE_PART: u64 = 50;
/// A storm's leases are granted so many times at most, each time with a later deadline.
const STORM_FILLS_MAX: usize = 3;
/// Renewals run alone for this long before the deadline, so that there is something to compare with.
const CALM: Duration = Duration::from_millis(1_500);
/// What is shown of the time before the deadline of a storm and after its last event.
const SHOWN_AROUND: Duration = Duration::from_millis(300);
/// Leases granted per second to be late one by one.
const DRIP_PER_SECOND: f64 = 1_000.0;
/// Their TTLs: long enough that they are granted first, short enough that many fit into a phase.
pub(super) const DRIP_TTL_MS: (u64, u64) = (50, 550);

impl Run {
    /// Grants a few leases to renew, unless there are some.
    fn ensure_leases(&mut self, count: u64) -> anyhow::Result<()> {
        if self.lanes.iter().all(|lane| lane.stock.lease_count() > 0) {
            return Ok(());
        }
        let ttl = Ttl::Ms(self.plan.ttl_ms);
        // Small frames, so that every link grants some and every shard has some.
        let operation = Operation::GrantBatch { size: 64, ttl, keep: Keep::Leases };
        let plan = self.plan.clone();
        let settings = ClosedLoop { links: usize::MAX, depth: 1, ..self.bulk(operation, 0) };
        self.closed_loop("leases to renew", |lane, _| ClosedLoop {
            operations_max: plan.share(count, lane),
            ..settings
        })?;
        self.lanes.iter_mut().for_each(|lane| lane.shuffle(plan.seed));
        Ok(())
    }

    /// Opens a connection per shard on the first lane and subscribes there. How many links were there.
    pub(super) fn subscribe(&mut self) -> anyhow::Result<usize> {
        let links = self.lanes[0].links.len();
        for shard in 0..self.lane_settings.shard_count {
            let lane = &mut self.lanes[0];
            let mut link = lane.open(&self.lane_settings, shard)?;
            open_loop::subscribe(&mut link, shard)?;
            lane.links.push(link);
        }
        Ok(links)
    }

    pub(super) fn unsubscribe(&mut self, links: usize) {
        self.lanes[0].links.truncate(links);
    }

    pub(super) fn lateness(&mut self) -> anyhow::Result<()> {
        self.ensure_leases(FOREGROUND_LEASES)?;
        let links = self.subscribe()?;
        self.trickle("lateness: idle", 0.0, links)?;
        self.trickle("lateness: loaded", self.plan.foreground_rate, links)?;
        self.unsubscribe(links);
        Ok(())
    }

    fn trickle(&mut self, label: &str, rate: f64, links: usize) -> anyhow::Result<()> {
        let span = self.plan.duration.min(Duration::from_secs(4));
        let threads = self.plan.load_threads;
        let drip = SideLoad {
            per_second: DRIP_PER_SECOND,
            ttl_ms: DRIP_TTL_MS,
            seed: self.plan.seed,
            fate: Fate::Expire,
        };
        let (tallies, usage) = self.on_lanes(label, |lane, board| {
            let first = lane.index == 0;
            let settings = OpenLoop {
                links: if first { links } else { lane.links.len() },
                ends: if first { Ends::Trickle(Trickle::new()) } else { Ends::None },
                spins: false,
                grace: Duration::from_secs(5),
                side: if first { vec![drip] } else { Vec::new() },
                ..foreground(lane, rate / threads as f64, span)
            };
            open_loop::run(lane, settings, board)
        })?;
        let found = Found::new(tallies);
        let Ends::Trickle(trickle) = found.ends else { return Ok(()) };
        let what = format!("{} at {}/s", trickle.ended, human::count(DRIP_PER_SECOND));
        let server_ms_max = self.control.info()?.lateness_ms_max;
        let mut others = found.after;
        found.grants.refusals.iter().for_each(|(what, count)| others.failed(what, *count));
        self.report.lateness.push(trickle_row(label, what, trickle, &others, usage.wall, server_ms_max));
        if rate > 0.0 {
            let load = format!("{}/s", human::count(rate));
            let row = row(label, load, threads, found.before, Some(usage));
            let errors = BTreeMap::new();
            self.show(Row { open_loop: true, send_lag: None, errors, ..row });
        } else {
            self.progress.end(label);
        }
        Ok(())
    }

    pub(super) fn storm(&mut self) -> anyhow::Result<()> {
        self.ensure_leases(FOREGROUND_LEASES)?;
        let count = self.plan.expire_leases;
        let deadline_ns = self.storm_fill(count)?;
        let links = self.subscribe()?;
        let tallies = self.ride_out(deadline_ns, count, links)?;
        self.unsubscribe(links);
        self.storm_rows(Found::new(tallies), count)
    }

    /// Grants the leases of the storm; when they all end.
    ///
    /// All have one deadline, so it is set before the first is granted, from how fast this server grants; where
    /// it then turns out to be slower, the leases expire unseen and all begins again with the rate that it showed.
    fn storm_fill(&mut self, count: u64) -> anyhow::Result<u64> {
        let per_second = match self.report.rate_of("fill") {
            Some(rate) => rate,
            None => self.probe_grants(PROBE_LEASES.max(count / PROBE_PART))?,
        };
        // Three times as long: a table that has been used grants at half the rate of a fresh one.
        let mut fill = Duration::from_secs_f64(count as f64 / per_second.max(1.0)) * 3;
        for _ in 0..STORM_FILLS_MAX {
            let live = self.control.info()?.leases;
            let deadline_ns = self.clock.now_ns() + ns(fill) + ns(2 * CALM);
            let (tally, usage) = self.storm_fill_until(deadline_ns, count)?;
            let complete = tally.operations + tally.refusals.values().sum::<u64>() >= count;
            if (complete && self.clock.now_ns() + ns(CALM) / 3 <= deadline_ns) || interrupt::is_interrupted()
            {
                let load = format!("{} leases, {FILL_BATCH} a frame", human::count(count as f64));
                let row = row("storm: fill", load, self.plan.load_threads, tally, Some(usage));
                self.show(row);
                return Ok(deadline_ns);
            }
            self.progress
                .end("storm: granting took longer than foreseen: again, with the rate that it showed");
            let per_lease =
                Duration::from_nanos(tally.elapsed_ns).as_secs_f64() / tally.operations.max(1) as f64;
            fill = Duration::from_secs_f64(per_lease * count as f64) * 3 / 2;
            self.await_leases_at_most(live, count)?;
        }
        anyhow::bail!(
            "storm: granting took longer than foreseen {STORM_FILLS_MAX} times: fewer --expire-leases"
        )
    }

    /// Grants leases that end at `deadline_ns`, until there are `count` or it is too late for more.
    fn storm_fill_until(&mut self, deadline_ns: u64, count: u64) -> anyhow::Result<(Tally, Usage)> {
        let plan = self.plan.clone();
        let ttl = Ttl::Until(deadline_ns);
        let bulk = self.bulk(Operation::GrantBatch { size: FILL_BATCH, ttl, keep: Keep::Sum }, 0);
        for lane in &mut self.lanes {
            (lane.stock.unkept_count, lane.stock.unkept_sum) = (0, 0);
        }
        let span = Duration::from_nanos(deadline_ns.saturating_sub(self.clock.now_ns()));
        self.closed_loop("storm: fill", |lane, _| ClosedLoop {
            operations_max: plan.share(count, lane),
            span: span.saturating_sub(CALM / 3),
            ..bulk
        })
    }

    /// Waits until the server has no more live leases than this, after `count` became overdue.
    fn await_leases_at_most(&mut self, live: u64, count: u64) -> anyhow::Result<()> {
        let until_ns = self.clock.now_ns() + ns(2 * CALM) + ns(storm_grace(count));
        while self.control.info()?.leases > live {
            anyhow::ensure!(self.clock.now_ns() < until_ns, "storm: overdue leases have not ended");
            anyhow::ensure!(!interrupt::is_interrupted(), "interrupted");
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    /// Leases granted per second, from a few.
    fn probe_grants(&mut self, count: u64) -> anyhow::Result<f64> {
        let ttl = Ttl::Ms(self.plan.ttl_ms);
        let bulk = self.bulk(Operation::GrantBatch { size: FILL_BATCH, ttl, keep: Keep::Extra }, count);
        let (tally, _) = self.closed_loop("storm: find the grant rate", |_, _| bulk)?;
        // A cold start: twice as careful.
        Ok(tally.operations as f64 * 1e9 / tally.elapsed_ns.max(1) as f64 / 2.0)
    }

    /// Renews in the foreground until the storm is over.
    fn ride_out(&mut self, deadline_ns: u64, count: u64, links: usize) -> anyhow::Result<Vec<OpenTally>> {
        let per_second = self.plan.foreground_rate / self.plan.load_threads as f64;
        // At least this long after the deadline, so that a short storm leaves something to measure.
        let until_ns = deadline_ns + ns(Duration::from_millis(200));
        let span = Duration::from_nanos(until_ns.saturating_sub(self.clock.now_ns()));
        let grace = storm_grace(count);
        let (tallies, _) = self.on_lanes("storm", |lane, board| {
            let first = lane.index == 0;
            let ends = if first { Ends::Storm(Storm::new(deadline_ns, count)) } else { Ends::Elsewhere };
            let settings = OpenLoop {
                links: if first { links } else { lane.links.len() },
                spins: false,
                split_ns: deadline_ns,
                ends,
                grace,
                ..foreground(lane, per_second, span)
            };
            open_loop::run(lane, settings, board)
        })?;
        Ok(tallies)
    }

    fn storm_rows(&mut self, found: Found, count: u64) -> anyhow::Result<()> {
        let threads = self.plan.load_threads;
        let Ends::Storm(mut storm) = found.ends else { return Ok(()) };
        let granted_sum = self.lanes.iter().fold(0u64, |sum, lane| sum.wrapping_add(lane.stock.unkept_sum));
        let granted: u64 = self.lanes.iter().map(|lane| lane.stock.unkept_count).sum();
        let mut wrong = BTreeMap::new();
        let other = u64::from(storm.ended == granted && storm.sum != granted_sum);
        count_wrong(
            &mut wrong,
            &[
                ("early (S2)", storm.early),
                ("never ended", granted.saturating_sub(storm.ended)),
                ("ended more than once (S9)", storm.ended.saturating_sub(granted)),
                ("the leases that ended are not the ones granted (S9)", other),
            ],
        );
        let around = |timeline: &Timeline| {
            let from_ns = storm.deadline_ns.saturating_sub(ns(SHOWN_AROUND));
            timeline.between(storm.deadline_ns, from_ns, storm.last_ns + ns(SHOWN_AROUND))
        };
        self.report.storm = around(&storm.timeline)
            .zip(around(&found.before.timeline))
            .map(|(ended, renewals)| StormSeries { ended, renewals });
        let load = format!("{}/s", human::count(self.plan.foreground_rate));
        let mut lag = found.send_lag;
        for (phase, tally, send_lag) in
            [("storm: before", found.before, None), ("storm: during", found.after, lag.quantiles())]
        {
            let mut row = row(phase, load.clone(), threads, tally, None);
            // The load's busy time covers both halves.
            (row.load_ns, row.load_busy) = (None, None);
            // So does the timeline, which is the storm's.
            self.show(Row { open_loop: true, send_lag, series: None, ..row });
        }
        let took_s = storm.last_ns.saturating_sub(storm.deadline_ns) as f64 / 1e9;
        self.report.lateness.push(LatenessRow {
            phase: "storm".to_owned(),
            what: format!("{} at once", human::count(count as f64)),
            ended: storm.ended,
            lateness: storm.lateness.quantiles(),
            span_s: storm.last_ns.saturating_sub(storm.first_ns) as f64 / 1e9,
            per_second: storm.ended as f64 / took_s.max(1e-9),
            server_ms_max: self.control.info()?.lateness_ms_max,
            errors: wrong.into_iter().map(|(what, count): (&str, u64)| (what.to_owned(), count)).collect(),
            histogram: storm.lateness.buckets(),
        });
        let ended = human::count(storm.ended as f64);
        self.progress.end(&format!("storm: {ended} ended within {took_s:.3} s of their deadline"));
        Ok(())
    }
}

/// How long after their deadline the last of so many leases may end.
fn storm_grace(count: u64) -> Duration {
    STORM_GRACE + Duration::from_secs(count / 1_000_000)
}

/// What all lanes found.
pub(super) struct Found {
    pub(super) before: Tally,
    pub(super) after: Tally,
    pub(super) grants: Tally,
    pub(super) revokes: Tally,
    pub(super) attaches: Tally,
    pub(super) send_lag: Latency,
    pub(super) ends: Ends,
}

impl Found {
    pub(super) fn new(lanes: Vec<OpenTally>) -> Found {
        let mut found = Found {
            before: Tally::new(),
            after: Tally::new(),
            grants: Tally::new(),
            revokes: Tally::new(),
            attaches: Tally::new(),
            send_lag: Latency::new(),
            ends: Ends::None,
        };
        for lane in lanes {
            found.before.merge(lane.before);
            found.after.merge(lane.after);
            found.grants.merge(lane.grants);
            found.revokes.merge(lane.revokes);
            found.attaches.merge(lane.attaches);
            found.send_lag.merge(lane.send_lag);
            if !matches!(lane.ends, Ends::None | Ends::Elsewhere) {
                found.ends = lane.ends;
            }
        }
        found
    }
}

/// The row of leases that ended one by one; `others` has what was refused meanwhile.
pub(super) fn trickle_row(
    phase: &str,
    what: String,
    mut trickle: Trickle,
    others: &Tally,
    wall: Duration,
    server_ms_max: Option<u64>,
) -> LatenessRow {
    let mut wrong = others.refusals.clone();
    let missing = trickle.due_ns.len() as u64;
    count_wrong(
        &mut wrong,
        &[("early (S2)", trickle.early), ("never ended", missing), ("of unknown leases", trickle.unknown())],
    );
    LatenessRow {
        phase: phase.to_owned(),
        what,
        ended: trickle.ended,
        lateness: trickle.lateness.quantiles(),
        span_s: wall.as_secs_f64(),
        per_second: trickle.ended as f64 / wall.as_secs_f64(),
        server_ms_max,
        errors: wrong.into_iter().map(|(what, count)| (what.to_owned(), count)).collect(),
        histogram: trickle.lateness.buckets(),
    }
}

fn count_wrong(wrong: &mut BTreeMap<&'static str, u64>, counts: &[(&'static str, u64)]) {
    wrong.extend(counts.iter().copied().filter(|(_, count)| *count > 0));
}
