//! The phases that answer "how many and how fast": fill, renew, grant, open loops, revoke.
//!
//! A closed phase over time is preceded by a short one that is not counted, so that buffers, tables
//! and branch predictors are warm. Lists of leases are checked against the server's own count where
//! this run is the only user: a load generator that cannot add up measures nothing.

use std::time::Duration;

use super::Run;
use super::measure::row;
use crate::args::Phase;
use crate::closed_loop::{ClosedLoop, Operation, Ttl};
use crate::ends::Ends;
use crate::human;
use crate::lane::{Keep, Lane};
use crate::limits::{DURATION_MAX, FILL_BATCH, REVOKE_BATCH};
use crate::open_loop::{self, OpenLoop};
use crate::report::MemoryRow;
use crate::tally::Tally;

/// Leases of the fill that are not measured.
const FIRST_LEASES: u64 = 4 * FILL_BATCH as u64;
/// Renewals of these, for each core: enough to touch whatever the ring driver will use of its receive buffers, 8 bytes for
/// each and a quarter to spare, were it all 16 MiB.
const FIRST_RENEWALS: u64 = (16 << 20) / 8 * 5 / 4;
/// Longest time for a phase that is bounded by its count.
pub(super) const COUNTED: Duration = DURATION_MAX;

impl Run {
    pub(super) fn phase(&mut self, phase: Phase) -> anyhow::Result<()> {
        match phase {
            Phase::Fill => self.fill(),
            Phase::Renew => self.renew("renew", self.plan.depth),
            Phase::Renew1 => self.renew("renew1", 1),
            Phase::RenewBatch => self.renew_batch(),
            Phase::Grant => self.grant(),
            Phase::Grant1 => self.grant1(),
            Phase::GrantOpen => self.grant_open(),
            Phase::Open => self.open(),
            Phase::Lateness => self.lateness(),
            Phase::Storm => self.storm(),
            Phase::Mixed => self.mixed(),
            Phase::Fleet => self.fleet(),
            Phase::Churn => self.churn(),
            Phase::Cross => self.cross(),
            Phase::Restart => self.restart(),
            Phase::Revoke => self.revoke(),
        }
    }

    /// Two links for each shard, two frames on each: enough to keep a group commit filling while
    /// another is on its way to the disk, and few enough that no frame waits long.
    pub(super) fn bulk(&self, operation: Operation, operations_max: u64) -> ClosedLoop {
        let links = 2 * usize::from(self.lane_settings.shard_count);
        ClosedLoop { operation, links, depth: 2, span: COUNTED, operations_max }
    }

    fn fill(&mut self) -> anyhow::Result<()> {
        let ttl = Ttl::Ms(self.plan.ttl_ms);
        let operation = Operation::GrantBatch { size: FILL_BATCH, ttl, keep: Keep::Leases };
        let plan = self.plan.clone();
        let bulk = self.bulk(operation, 0);
        for (index, lane) in self.lanes.iter_mut().enumerate() {
            lane.stock.reserve(plan.share(plan.leases, index));
        }
        // The first ones make the server's buffers, whose size does not depend on the number of leases.
        let first = if plan.leases >= 4 * FIRST_LEASES { FIRST_LEASES } else { 0 };
        let (warm_up, _) = self
            .closed_loop("fill", |lane, _| ClosedLoop { operations_max: plan.share(first, lane), ..bulk })?;
        if first > 0 {
            self.prepare_order();
            let renewals = FIRST_RENEWALS * u64::from(self.lane_settings.shard_count);
            let renew = self.bulk(Operation::RenewBatch { size: FILL_BATCH }, 0);
            self.closed_loop("fill", |lane, _| ClosedLoop {
                operations_max: plan.share(renewals, lane),
                ..renew
            })?;
        }
        let empty = self.watched.and_then(|watched| watched.memory());
        let (mut tally, usage) = self.closed_loop("fill", |lane, _| ClosedLoop {
            operations_max: plan.share(plan.leases - first, lane),
            ..bulk
        })?;
        let granted = tally.operations;
        warm_up.refusals.iter().for_each(|(what, count)| tally.failed(what, *count));
        let load = format!("{} leases, {FILL_BATCH} a frame", human::count(plan.leases as f64));
        let row = row("fill", load, plan.load_threads, tally, Some(usage));
        self.show(row);
        let filled = self.watched.and_then(|watched| watched.memory());
        if let Some((empty, filled)) = empty.zip(filled)
            && granted > 0
        {
            let growth = filled.resident_bytes.saturating_sub(empty.resident_bytes);
            self.report.memory = Some(MemoryRow {
                empty_bytes: empty.resident_bytes,
                filled_bytes: filled.resident_bytes,
                leases: granted,
                per_lease_bytes: growth as f64 / granted as f64,
                peak_bytes: None,
            });
        }
        self.check_count("fill")?;
        let seed = plan.seed;
        self.lanes.iter_mut().for_each(|lane| lane.shuffle(seed));
        self.prepare_order();
        Ok(())
    }

    /// The server must have exactly the leases that it granted to this run.
    pub(super) fn check_count(&mut self, phase: &str) -> anyhow::Result<()> {
        if self.server.is_none() {
            return Ok(());
        }
        let held: u64 = self.lanes.iter().map(|lane| lane.stock.held_count()).sum();
        let mut leases = 0;
        // The counters of other cores reach the one that answers with a delay.
        for _ in 0..40 {
            leases = self.control.info()?.leases;
            if leases == held {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        self.fail(format!("{phase}: the server counts {leases} leases, this run holds {held}"));
        Ok(())
    }

    /// Every link of every lane, for the plan's time.
    pub(super) fn timed(&self, operation: Operation, depth: u32) -> ClosedLoop {
        let span = self.plan.duration;
        ClosedLoop { operation, links: usize::MAX, depth, span, operations_max: u64::MAX }
    }

    fn warm_up(&mut self, label: &str, settings: ClosedLoop) -> anyhow::Result<()> {
        let span = (self.plan.duration / 10).min(Duration::from_millis(500));
        self.closed_loop(label, |_, _| ClosedLoop { span, ..settings })?;
        Ok(())
    }

    pub(super) fn timed_row(
        &mut self,
        phase: &str,
        load: String,
        settings: ClosedLoop,
    ) -> anyhow::Result<()> {
        self.warm_up(phase, settings)?;
        let (tally, usage) = self.closed_loop(phase, |_, _| settings)?;
        let row = row(phase, load, self.plan.load_threads, tally, Some(usage));
        self.show(row);
        Ok(())
    }

    fn renew(&mut self, phase: &str, depth: u32) -> anyhow::Result<()> {
        let load = format!("{} x {depth}", self.plan.connections);
        self.timed_row(phase, load, self.timed(Operation::Renew, depth))
    }

    fn renew_batch(&mut self) -> anyhow::Result<()> {
        let (size, depth) = (self.plan.batch, self.plan.batch_depth);
        let load = format!("{} x {depth} x {size} a frame", self.plan.connections);
        self.timed_row("renew-batch", load, self.timed(Operation::RenewBatch { size }, depth))
    }

    fn grant_operation(&self) -> Operation {
        Operation::Grant { ttl_ms: self.plan.ttl_ms, keep: Keep::Extra }
    }

    fn grant(&mut self) -> anyhow::Result<()> {
        let plan = self.plan.clone();
        let settings = self.timed(self.grant_operation(), plan.depth);
        let (tally, usage) = self.closed_loop("grant", |lane, _| ClosedLoop {
            operations_max: plan.share(plan.grants_max, lane),
            ..settings
        })?;
        let load = format!("{} x {}", plan.connections, plan.depth);
        let row = row("grant", load, plan.load_threads, tally, Some(usage));
        self.show(row);
        self.check_count("grant")
    }

    fn grant1(&mut self) -> anyhow::Result<()> {
        let span = self.plan.duration.min(Duration::from_secs(3));
        let settings = ClosedLoop { links: 1, span, ..self.timed(self.grant_operation(), 1) };
        let (tally, usage) = self.closed_loop("grant1", |lane, _| ClosedLoop {
            operations_max: if lane == 0 { u64::MAX } else { 0 },
            ..settings
        })?;
        let row = row("grant1", "1 x 1".to_owned(), 1, tally, Some(usage));
        self.show(row);
        self.check_count("grant1")
    }

    /// The rate of an open loop: what was asked for, or half of what `phase` reached, measured now when it has not
    /// run.
    fn open_rate(&mut self, phase: &str, operation: Operation) -> anyhow::Result<f64> {
        if let Some(rate) = self.plan.rate {
            return Ok(rate);
        }
        if let Some(rate) = self.report.rate_of(phase) {
            return Ok(rate / 2.0);
        }
        let settings = ClosedLoop { span: Duration::from_secs(1), ..self.timed(operation, self.plan.depth) };
        let (tally, _) = self.closed_loop("find the maximum", |_, _| settings)?;
        Ok(tally.operations as f64 * 1e9 / tally.elapsed_ns.max(1) as f64 / 2.0)
    }

    fn open(&mut self) -> anyhow::Result<()> {
        let rate = self.open_rate("renew", Operation::Renew)?;
        let (span, per_second) = (self.plan.duration, rate / self.plan.load_threads as f64);
        self.open_row("open", rate, |lane| foreground(lane, per_second, span))
    }

    /// As open, but grants, which wait for the disk.
    fn grant_open(&mut self) -> anyhow::Result<()> {
        let rate = self.open_rate("grant", self.grant_operation())?;
        let per_second = rate / self.plan.load_threads as f64;
        // As many as are kept to be revoked, at most.
        let span = self.plan.duration.min(Duration::from_secs_f64(self.plan.grants_max as f64 / rate));
        let grants_ttl_ms = Some(self.plan.ttl_ms);
        self.open_row("grant-open", rate, |lane| OpenLoop {
            grants_ttl_ms,
            spins: false,
            ..foreground(lane, per_second, span)
        })?;
        self.check_count("grant-open")
    }

    fn open_row(
        &mut self,
        phase: &str,
        rate: f64,
        settings: impl Fn(&Lane) -> OpenLoop + Sync,
    ) -> anyhow::Result<()> {
        let threads = self.plan.load_threads;
        let (tallies, usage) =
            self.on_lanes(phase, |lane, board| open_loop::run(lane, settings(lane), board))?;
        let mut send_lag = crate::latency::Latency::new();
        let mut tally = Tally::new();
        for lane in tallies {
            send_lag.merge(lane.send_lag);
            tally.merge(lane.before);
            lane.after.refusals.iter().for_each(|(what, count)| tally.failed(what, *count));
        }
        let load = format!("{}/s over {} conns", human::count(rate), self.plan.connections);
        let row = row(phase, load, threads, tally, Some(usage));
        self.show(crate::report::Row { open_loop: true, send_lag: send_lag.quantiles(), ..row });
        Ok(())
    }

    fn revoke(&mut self) -> anyhow::Result<()> {
        let held: u64 = self.lanes.iter().map(|lane| lane.stock.held_count()).sum();
        if held == 0 {
            return Ok(());
        }
        let settings = self.bulk(Operation::RevokeBatch { size: REVOKE_BATCH }, u64::MAX);
        let (tally, usage) = self.closed_loop("revoke", |_, _| settings)?;
        let load = format!("{} leases, {REVOKE_BATCH} a frame", human::count(held as f64));
        let row = row("revoke", load, self.plan.load_threads, tally, Some(usage));
        self.show(row);
        self.check_count("revoke")
    }
}

/// Renewals at a rate and nothing else.
pub(super) fn foreground(lane: &Lane, per_second: f64, span: Duration) -> OpenLoop {
    OpenLoop {
        per_second,
        grants_ttl_ms: None,
        batch: 1,
        spins: true,
        links: lane.links.len(),
        span,
        split_ns: u64::MAX,
        ends: Ends::None,
        grace: Duration::ZERO,
        side: Vec::new(),
    }
}
