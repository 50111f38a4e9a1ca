//! The phase that answers "how long is nobody renewed": the server is killed and started again.
//!
//! SIGKILL, because a crash is what recovery is for. The clock starts with the new process and stops
//! with the first renewal that it answers. Then a sample of leases from every lane and shard is
//! renewed: whoever was granted a lease must find it (S3), and the counts must agree.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::Context;
use tenure_client::machine::Delivery;
use tenure_protocol::{LeaseId, Response};

use super::Run;
use crate::control::Control;
use crate::human;
use crate::limits::{RESTART_SAMPLE, SILENCE_MAX};
use crate::link::Link;
use crate::report::RestartRow;
use crate::usage::Watched;

impl Run {
    pub(super) fn restart(&mut self) -> anyhow::Result<()> {
        let server = self.server.as_mut().context("there is no server that may be killed")?;
        self.progress.begin("restart");
        for lane in &mut self.lanes {
            lane.links.clear();
        }
        let leases = self.lanes.iter().map(|lane| lane.stock.held_count()).sum();
        let directory_bytes = server.directory_bytes();
        let began = Instant::now();
        let listens = server.crash_and_restart()?;
        // The kill itself, and reaping the old process, are not the start's.
        let killing = began.elapsed() - listens;
        self.lane_settings.address = server.address();
        self.watched = Some(Watched::new(server.pid()));
        let mut errors = BTreeMap::new();
        let renews = self.sample(began, &mut errors)? - killing;
        self.control = Control::connect(self.lane_settings.address, &self.lane_settings.introduction)?;
        let info = self.control.info()?;
        self.reconnect()?;
        self.check_count("restart")?;
        let row = RestartRow {
            leases,
            directory_bytes,
            listens_s: listens.as_secs_f64(),
            renews_s: renews.as_secs_f64(),
            recovery_ms: info.recovery_ms,
            resident_bytes: self
                .watched
                .and_then(|watched| watched.memory())
                .map(|memory| memory.resident_bytes),
            errors,
        };
        let counted = human::count(leases as f64);
        self.progress.end(&format!("restart: {counted} leases, first renewal after {}", human::span(renews)));
        self.report.restarts.push(row);
        Ok(())
    }

    /// Renews some leases of every list; how long after `began` the first one was answered.
    fn sample(&self, began: Instant, errors: &mut BTreeMap<String, u64>) -> anyhow::Result<Duration> {
        let mut first = None;
        for shard in 0..self.lane_settings.shard_count {
            let introduction = crate::link::Introduction {
                wish_shard: Some(shard),
                ..self.lane_settings.introduction.clone()
            };
            let mut link = Link::connect(self.lane_settings.address, &introduction)?;
            for lane in &self.lanes {
                let list = &lane.stock.leases[usize::from(shard)];
                let step = (list.len() / RESTART_SAMPLE).max(1);
                for id in list.iter().step_by(step) {
                    link.machine.send_renew(LeaseId(*id), 0)?;
                    let refused = link.blocking(SILENCE_MAX, |delivery| match delivery {
                        Delivery::Reply { response: Response::Renewed { .. }, .. } => Some(None),
                        Delivery::Reply { response: Response::Refused(refused), .. } => {
                            Some(Some(refused.refusal.name()))
                        }
                        _ => None,
                    })?;
                    if let Some(refusal) = refused {
                        *errors.entry(format!("{refusal} after the restart (S3)")).or_default() += 1;
                    }
                    first.get_or_insert_with(|| began.elapsed());
                }
            }
        }
        first.context("there was no lease to renew")
    }

    /// Opens the lanes' connections again.
    fn reconnect(&mut self) -> anyhow::Result<()> {
        let mut lanes = std::mem::take(&mut self.lanes);
        for lane in &mut lanes {
            lane.open_all(&self.lane_settings_of(lane.index), &mut Vec::new())?;
            lane.spread();
        }
        self.lanes = lanes;
        Ok(())
    }
}
