//! A run: rounds of scenes, peers interleaved, a line for every measurement as it is made.
//!
//! Within a round every scene goes through all peers, one after the other, so that a slow minute of the
//! machine hits all of them alike. A scene that fails is a row that says why; the run goes on.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::Context;
use tenure_bench::instruments::{Neighbours, count, nanoseconds, pin_to};

use crate::line::{Line, Origin, PeerLine, SCHEMA};
use crate::measure::{Job, Measure, Scene};
use crate::peer::{Installed, Peer, find};
use crate::scene::{self, Variant, variants};
use crate::server;

/// What is run.
pub(crate) struct Run {
    pub(crate) origin: Origin,
    pub(crate) peers: Vec<Peer>,
    pub(crate) jobs: Vec<Job>,
    /// Where programs are looked for.
    pub(crate) places: Vec<PathBuf>,
    pub(crate) json_out: Option<PathBuf>,
}

/// Runs; every line that it wrote.
///
/// # Errors
/// When lines cannot be written. What a peer fails at is in the lines.
pub(crate) fn run(run: &Run) -> anyhow::Result<Vec<PeerLine>> {
    let began = Instant::now();
    if let Some(cpu) = run.origin.plan.load_cpu {
        pin_to(cpu).with_context(|| format!("cannot stay on CPU {cpu}"))?;
    }
    server::sweep(&run.origin.plan.place);
    let mut lines = Vec::new();
    let mut scenes: Vec<Scene> = run.jobs.iter().map(|job| job.scene()).collect();
    scenes.sort_unstable();
    scenes.dedup();
    let mut ready = Vec::new();
    for &peer in &run.peers {
        match find(peer, &run.places) {
            Ok(installed) => {
                eprintln!("{} {}: {}", peer.name(), installed.version, installed.exe.display());
                ready.push(installed);
            }
            Err(why) => run.miss(&mut lines, peer, "", None, &why)?,
        }
    }
    for installed in &ready {
        for &scene in &scenes {
            if let Err(why) = variants(installed.peer.family(), scene) {
                run.miss(&mut lines, installed.peer, &installed.version, Some(scene), why)?;
            }
        }
    }
    for round in 1..=run.origin.plan.rounds {
        for &scene in &scenes {
            for installed in &ready {
                for variant in variants(installed.peer.family(), scene).unwrap_or_default() {
                    run.play(&mut lines, round, installed, variant)?;
                }
            }
        }
        let elapsed_s = began.elapsed().as_secs();
        eprintln!("round {round} of {} done after {elapsed_s} s", run.origin.plan.rounds);
    }
    Ok(lines)
}

impl Run {
    fn play(
        &self,
        lines: &mut Vec<PeerLine>,
        round: u32,
        installed: &Installed,
        variant: Variant,
    ) -> anyhow::Result<()> {
        let wanted = |job: Job| self.jobs.contains(&job);
        let Installed { peer, version, .. } = installed;
        let neighbours = Neighbours::watch();
        match scene::play(variant, installed, &self.origin.plan, &wanted) {
            Ok(played) => {
                let others_share = neighbours.share();
                for measure in played.measures {
                    show(*peer, round, &measure);
                    let settings = played.settings.clone();
                    self.put(
                        lines,
                        PeerLine {
                            schema: SCHEMA,
                            host: self.origin.host.clone(),
                            plan: self.origin.plan.clone(),
                            peer: *peer,
                            version: version.clone(),
                            settings,
                            round,
                            measure,
                            missing: None,
                            others_share,
                        },
                    )?;
                }
                Ok(())
            }
            Err(error) => {
                let why = format!("failed: {error:#}").replace('\n', " ");
                self.miss(lines, *peer, version, Some(variant.scene), &why)
            }
        }
    }

    /// Lines for all wanted jobs of a scene, or of all, that cannot be measured.
    fn miss(
        &self,
        lines: &mut Vec<PeerLine>,
        peer: Peer,
        version: &str,
        scene: Option<Scene>,
        why: &str,
    ) -> anyhow::Result<()> {
        eprintln!("{} {version}: {why}", peer.name());
        for &job in self.jobs.iter().filter(|job| scene.is_none_or(|scene| job.scene() == scene)) {
            self.put(lines, PeerLine::missing(&self.origin, peer, version, job, why))?;
        }
        Ok(())
    }

    fn put(&self, lines: &mut Vec<PeerLine>, line: PeerLine) -> anyhow::Result<()> {
        if let Some(path) = &self.json_out {
            Line::Peer(Box::new(line.clone())).append_to(path)?;
        }
        lines.push(line);
        Ok(())
    }
}

/// A line for whoever watches.
fn show(peer: Peer, round: u32, measure: &Measure) {
    let figure = |key: &str| measure.figures.get(key).copied();
    let mut parts = Vec::new();
    parts.extend(figure("per_second").map(|value| format!("{}/s", count(value))));
    parts.extend(figure("server_cpu_ns").map(|value| format!("CPU {}", nanoseconds(value))));
    parts.extend(figure("p50_ns").map(|value| format!("p50 {}", nanoseconds(value))));
    parts.extend(figure("load_busy").map(|value| format!("load {:.0} %", value * 100.0)));
    parts.extend(figure("bytes_per_lease").map(|value| format!("{value:.1} B a lease")));
    parts.extend(figure("late_p99_ns").map(|value| format!("p99 {} late", nanoseconds(value))));
    parts.extend(figure("late_max_ns").map(|value| format!("the last one {} late", nanoseconds(value))));
    parts.extend(figure("disturbance").map(|value| format!("others' p99 × {value:.1}")));
    parts.extend(figure("first_answer_s").map(|value| format!("answers after {}", nanoseconds(value * 1e9))));
    parts.extend(figure("ttl_added_s").map(|value| format!("TTL {value:+.1} s")));
    parts.extend(measure.errors.iter().map(|(what, count)| format!("{count} times: {what}")));
    let name = format!("{} {} ({})", peer.name(), measure.job.name(), measure.how);
    eprintln!("  {round} {name}: {}", parts.join(", "));
}
