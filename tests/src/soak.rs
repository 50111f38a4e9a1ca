//! The soak: everything at once for an hour, and whether anything grew.
//!
//! One data directory lives through a row of server processes, drivers in turn, ended by SIGTERM and `kill -9` in turn in
//! the middle of the load. Clients, memory and audit are those of [`crate::crash`], so S2, S3, S9 and L2 are checked
//! all the time: after every bout of load the event streams must have told every end that was acknowledged, after
//! every restart the audit compares what is there with what was promised, and at the end everything is revoked or
//! expires, and nothing may be left.
//!
//! ```text
//!  life 0 (ring)                                life 1 (glommio)
//!  audit ▸ bout ▸ streams ▸ bout ▸ … ✗ SIGTERM  audit ▸ bout ▸ … ✗   life 2 … ✗ kill -9   …   peace ▸ judge
//! ```
//! During a bout the workers grant (IDs of the server's choice and their own), renew, revoke, attach, detach and
//! read; a quarter of the leases expire by themselves; a follower of the events hangs up in mid-stream and resumes;
//! strangers connect and leave with or without a word. Segments are the smallest, so that the log rotates and
//! snapshots are taken every second or so. Once a second a [`sample`] is taken; [`judge`] compares them.
//!
//! It is no benchmark: the load is paced, so that an hour's findings fit into memory.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use tenure_protocol::Request;

use crate::crash::belief::Verdict;
use crate::crash::run::{Plan, Run};
use crate::random::Random;
use crate::server::{ServerOptions, ServerProcess};
use crate::wire::Wire;

pub mod follower;
pub mod judge;
pub mod report;
pub mod sample;

use follower::follow;
use report::Report;
use sample::Sample;

/// Load between two readings of the streams.
const BOUT: Duration = Duration::from_secs(8);
/// Rest of a worker between two bursts of up to 24 requests: some thousand requests a second in all.
const REST: Duration = Duration::from_millis(20);
/// Log kept for consumers, bytes per shard: some minutes of this load, so that recycling is soon in full swing.
const RETAIN_LOG_BYTES: u64 = 64 << 20;
/// Events kept in memory, bytes per shard: half a minute of this load, so that memory has reached its level long before
/// it is judged. With the default of 32 MiB it would rise for all of a life, as it may.
const EVENT_BUFFER_BYTES: u64 = 1 << 20;
const SHARD_COUNT: u16 = 2;
const DRIVERS: [&str; 2] = ["ring", "glommio"];
/// A life lasts about this long, s; there are four at least, so that each driver sees each ending.
const LIFE_S: u64 = 300;

/// What to do.
#[derive(Clone, Debug)]
pub struct SoakPlan {
    /// How long, minutes.
    pub minutes: u64,
    /// The clients' choices.
    pub seed: u64,
    /// A program that is the command line of `tenure`.
    pub binary: String,
    /// Where each second's sample goes, a line of JSON each.
    pub samples: PathBuf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    Terminate,
    Kill,
}

/// What the sampler of each life writes to.
struct Recorder {
    measured: Receiver<u64>,
    all: Histogram<u64>,
    samples: Vec<Sample>,
    file: std::fs::File,
}

/// Runs the plan in a directory, printing its progress.
///
/// # Errors
/// A broken promise. Growth is none: see [`Report::passed`].
///
/// # Panics
/// When the server does not start or ends by itself, or the samples cannot be written.
pub fn run(plan: &SoakPlan, dir: &Path) -> Result<Report, String> {
    let life_count = (plan.minutes * 60).div_ceil(LIFE_S).next_multiple_of(4);
    let life = Duration::from_millis(plan.minutes * 60_000 / life_count);
    let started = Instant::now();
    let mut random = Random::new(plan.seed);
    let crash_plan = Plan { seed: plan.seed, rounds: 0, reshard: false };
    let mut run = Run::new(&plan.binary, dir, crash_plan);
    run.shard_count = SHARD_COUNT;
    run.journal.begin(SHARD_COUNT);
    let (sender, measured) = mpsc::channel();
    for worker in &mut run.workers {
        worker.rest = REST;
        worker.latencies = Some(sender.clone());
    }
    let file = std::fs::File::create(&plan.samples).expect("the samples can be written");
    let mut recorder = Recorder { measured, all: sample::latencies(), samples: Vec::new(), file };
    for index in 0..life_count {
        let driver = DRIVERS[index as usize % DRIVERS.len()];
        let ending = if index / 2 % 2 == 0 { Ending::Terminate } else { Ending::Kill };
        println!("{:>5} s  life {index} of {life_count}: {driver}, {ending:?}", started.elapsed().as_secs());
        let options = ServerOptions::new(&plan.binary).data_dir(dir).driver(driver).shards(SHARD_COUNT);
        let options = options.small_log().flag("--checkpoint-interval", "1s");
        let options = options.flag("--event-buffer", EVENT_BUFFER_BYTES);
        run.chosen_options = Some(options.flag("--retain-log", RETAIN_LOG_BYTES));
        live(&mut run, index as usize, life, ending, &mut recorder, &mut random)
            .map_err(|broken| format!("life {index} ({driver}): {broken}"))?;
    }
    run.last_round().map_err(|broken| format!("the end in peace: {broken}"))?;
    let growths = judge::judge(&recorder.samples, DRIVERS.len());
    let answers = run.workers.iter().map(|worker| worker.book.answer_count).sum();
    Ok(Report {
        minutes: plan.minutes,
        life_count,
        answer_count: answers,
        end_count: run.journal.end_count,
        latency_us: sample::quantiles(&recorder.all),
        samples: recorder.samples,
        growths,
    })
}

/// One server process, from its audit to its end.
fn live(
    run: &mut Run<'_>,
    index: usize,
    length: Duration,
    ending: Ending,
    recorder: &mut Recorder,
    random: &mut Random,
) -> Verdict {
    let mut server = run.start()?;
    let (pid, address, dir) = (server.pid(), server.address(), run.dir().to_owned());
    let done = AtomicBool::new(false);
    let (mut forked, started) = (random.fork(), Instant::now());
    std::thread::scope(|scope| {
        scope.spawn(|| record(index, pid, address, &dir, &done, recorder));
        scope.spawn(|| come_and_go(address, &done, &mut forked));
        let _set_at_the_end = SetAtTheEnd(&done);
        bouts(run, &mut server, started, length, ending, random)
    })
}

/// Lets the threads of a scope go also when a panic leaves it, which would otherwise wait for them for ever.
struct SetAtTheEnd<'a>(&'a AtomicBool);

impl Drop for SetAtTheEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn bouts(
    run: &mut Run<'_>,
    server: &mut ServerProcess,
    started: Instant,
    length: Duration,
    ending: Ending,
    random: &mut Random,
) -> Verdict {
    let address = server.address();
    for bout_index in 1u64.. {
        let left = length.saturating_sub(started.elapsed());
        if left <= BOUT {
            return bout(run, server, left, Some(ending), random);
        }
        bout(run, server, BOUT, None, random)?;
        run.catch_up(address)?;
        if bout_index.is_multiple_of(3) {
            run.read_history_again(address)?;
        }
        for worker in &mut run.workers {
            worker.book.forget_ended();
        }
    }
    unreachable!("the bouts are counted without end")
}

/// Load, and at its end rest or the server's end.
fn bout(
    run: &mut Run<'_>,
    server: &mut ServerProcess,
    length: Duration,
    ending: Option<Ending>,
    random: &mut Random,
) -> Verdict {
    let (address, stop) = (server.address(), AtomicBool::new(false));
    let (from, mut forked) = (run.journal.resume.clone(), random.fork());
    let (verdicts, notes) = std::thread::scope(|scope| {
        let workers: Vec<_> =
            run.workers.iter_mut().map(|worker| scope.spawn(|| worker.work(address, &stop))).collect();
        let follower = scope.spawn(|| follow(address, &from, &stop, &mut forked));
        std::thread::sleep(length);
        assert!(server.is_running(), "the server ended by itself:\n{}", server.said());
        match ending {
            None => {}
            Some(Ending::Kill) => server.kill(),
            Some(Ending::Terminate) => {
                let ended = server.terminate();
                assert_eq!(ended.code, Some(0), "SIGTERM under load: {}", ended.said);
            }
        }
        stop.store(true, Ordering::Relaxed);
        let verdicts: Vec<Verdict> =
            workers.into_iter().map(|worker| worker.join().expect("a worker does not panic")).collect();
        (verdicts, follower.join().expect("the follower does not panic"))
    });
    verdicts.into_iter().collect::<Verdict>()?;
    run.take_notes(&notes?)
}

/// Takes a sample each second of a life.
fn record(
    life: usize,
    pid: u32,
    address: SocketAddr,
    dir: &Path,
    done: &AtomicBool,
    recorder: &mut Recorder,
) {
    use std::io::Write;
    let started = Instant::now();
    for second in 1u64.. {
        while started.elapsed() < Duration::from_secs(second) {
            if done.load(Ordering::Relaxed) {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let Some(taken) = sample::take(pid, address, dir, &recorder.measured, &mut recorder.all) else {
            continue;
        };
        let sample = Sample { life, at_s: started.elapsed().as_secs_f64(), ..taken };
        writeln!(recorder.file, "{}", sample.json()).expect("the samples can be written");
        if second.is_multiple_of(15) {
            println!(
                "         {second:>4} s: {:.1} MB, {} descriptors, {:.0} MB of disk, {} leases, {} answers/s, p99 {} µs, \
                 longest turn {} µs",
                sample.rss_bytes as f64 / 1e6,
                sample.descriptor_count,
                sample.disk_bytes as f64 / 1e6,
                sample.lease_count,
                sample.answer_count,
                sample.latency_us[1],
                sample.turn_us_max[0],
            );
        }
        recorder.samples.push(sample);
    }
}

/// Strangers who connect and leave: after an answer, with a question open, without a word, or talking nonsense.
fn come_and_go(address: SocketAddr, done: &AtomicBool, random: &mut Random) {
    while !done.load(Ordering::Relaxed) {
        // Errors are all right: the server may be gone.
        match random.below(4) {
            0 => drop(Wire::stranger(address)),
            1 => {
                if let Ok(mut wire) = Wire::stranger(address) {
                    wire.queue_bytes(&random.next().to_le_bytes().repeat(8));
                    let _ = wire.flush();
                }
            }
            2 => {
                if let Ok(mut wire) = Wire::connect(address) {
                    let _ = wire.send(&Request::Info);
                }
            }
            _ => {
                if let Ok(mut wire) = Wire::connect(address) {
                    let _ = wire.call(&Request::Info);
                }
            }
        }
        std::thread::sleep(Duration::from_millis(random.between(10, 90)));
    }
}
