//! Carries out one piece of load on all lanes and turns what they counted into a row.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{anyhow, bail};

use super::Run;
use crate::child::describe;
use crate::closed_loop::{self, ClosedLoop};
use crate::interrupt;
use crate::lane::Lane;
use crate::progress::Board;
use crate::report::{Row, per_operation};
use crate::tally::Tally;

/// What the server used in a phase.
#[derive(Clone, Copy, Debug)]
pub(super) struct Usage {
    pub(super) cpu: Option<Duration>,
    pub(super) wall: Duration,
}

impl Run {
    /// Runs `work` on every lane's own thread at once; what each gave, and what the server used.
    ///
    /// # Errors
    /// The first error of a lane, or the death of the server that was started.
    pub(super) fn on_lanes<T: Send>(
        &mut self,
        label: &str,
        work: impl Fn(&mut Lane, &Board) -> anyhow::Result<T> + Sync,
    ) -> anyhow::Result<(Vec<T>, Usage)> {
        let board = Board::new(self.lanes.len());
        let cpu_before = self.server_cpu();
        let began = Instant::now();
        self.progress.begin(label);
        let mut died = None;
        let mut lanes = std::mem::take(&mut self.lanes);
        let results: Vec<anyhow::Result<T>> = std::thread::scope(|scope| {
            let (done, finished) = mpsc::channel();
            let threads: Vec<_> = lanes
                .iter_mut()
                .map(|lane| {
                    let (done, board, work) = (done.clone(), &board, &work);
                    scope.spawn(move || {
                        let result = lane.settle_on_cpu().and_then(|()| work(lane, board));
                        if result.is_err() {
                            // The others would wait for a server that may be gone.
                            board.stop.store(true, Ordering::Relaxed);
                        }
                        let _ = done.send(());
                        result
                    })
                })
                .collect();
            drop(done);
            // Disconnected: every lane has ended.
            while finished.recv_timeout(Duration::from_millis(50))
                != Err(mpsc::RecvTimeoutError::Disconnected)
            {
                self.progress.draw(label, &board);
                died = died.or_else(|| self.server.as_mut().and_then(super::ServerChild::ended));
                if interrupt::is_interrupted() || died.is_some() {
                    board.stop.store(true, Ordering::Relaxed);
                }
            }
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap_or_else(|_| Err(anyhow!("a load thread panicked"))))
                .collect()
        });
        let usage = Usage { cpu: used(cpu_before, self.server_cpu()), wall: began.elapsed() };
        self.lanes = lanes;
        if let Some(status) = died {
            let output = self.server.as_ref().map(super::ServerChild::output).unwrap_or_default();
            bail!("the server ended with {}:\n{output}", describe(status));
        }
        Ok((results.into_iter().collect::<anyhow::Result<_>>()?, usage))
    }

    /// A closed loop on all lanes, each with its own settings.
    pub(super) fn closed_loop(
        &mut self,
        label: &str,
        settings: impl Fn(usize, &Lane) -> ClosedLoop + Sync,
    ) -> anyhow::Result<(Tally, Usage)> {
        let (tallies, usage) =
            self.on_lanes(label, |lane, board| closed_loop::run(lane, settings(lane.index, lane), board))?;
        Ok((Tally::merged(tallies), usage))
    }

    /// CPU time of the server so far: from the kernel when it runs here, else in its own words.
    pub(super) fn server_cpu(&mut self) -> Option<Duration> {
        match self.watched {
            Some(watched) => watched.cpu(),
            None => self.control.info().ok().and_then(|info| info.cpu),
        }
    }

    /// Adds what the server used since `cpu_before` to a row.
    pub(super) fn charge(&mut self, row: &mut Row, cpu_before: Option<Duration>) {
        let used = used(cpu_before, self.server_cpu());
        row.server_cpu_ns = per_operation(used, row.operations);
        row.server_cpus = used.map(|used| used.as_secs_f64() / row.elapsed_s);
    }
}

/// CPU time between two readings; `None` when it is too little for the kernel's ticks to tell.
fn used(before: Option<Duration>, after: Option<Duration>) -> Option<Duration> {
    let used = after?.saturating_sub(before?);
    (used >= Duration::from_millis(50)).then_some(used)
}

/// The row of a phase.
pub(super) fn row(phase: &str, load: String, threads: usize, mut tally: Tally, usage: Option<Usage>) -> Row {
    let elapsed_s = tally.elapsed_ns as f64 / 1e9;
    let cpu = usage.and_then(|usage| usage.cpu);
    let load_busy = tally.busy_ns as f64 / (tally.elapsed_ns.max(1) as f64 * threads as f64);
    Row {
        phase: phase.to_owned(),
        load,
        operations: tally.operations,
        elapsed_s,
        per_second: tally.operations as f64 / elapsed_s.max(1e-9),
        latency: tally.latency.quantiles(),
        open_loop: false,
        server_cpu_ns: per_operation(cpu, tally.operations),
        server_cpus: cpu.zip(usage).map(|(cpu, usage)| cpu.as_secs_f64() / usage.wall.as_secs_f64()),
        load_ns: per_operation(Some(Duration::from_nanos(tally.busy_ns)), tally.operations),
        load_busy: Some(load_busy),
        send_lag: None,
        retries: tally.retries,
        errors: errors(&tally),
        curve: tally.latency.curve(),
        series: tally.timeline.series(),
    }
}

pub(super) fn errors(tally: &Tally) -> BTreeMap<String, u64> {
    tally.refusals.iter().map(|(&what, &count)| (what.to_owned(), count)).collect()
}
