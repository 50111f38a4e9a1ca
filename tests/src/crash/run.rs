//! The rounds: start, audit, catch up with the events, load, kill; and a last one that ends in peace.
//!
//! One data directory lives through all rounds of a run. Driver, shard count, renewals and the moment of
//! the kill are drawn from the seed; some starts are killed before they serve. The last round revokes
//! everything and lets the short leases expire, so that what is *owed* (L1) is asked for as well: every
//! lease that ever lived has exactly one end in the streams, and the list is empty.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use tenure_protocol::{Grant, LeaseId, Position, Refusal, Request, shard_of, tag};

use super::audit::{Ghost, audit, list_all};
use super::belief::Verdict;
use super::book::{LONG_TTL_MS, Op};
use super::journal::{Journal, News, Note, oldest_kept, read_events};
use super::worker::Worker;
use crate::patience::{PATIENCE, eventually};
use crate::random::Random;
use crate::server::{ServerOptions, ServerProcess};
use crate::wire::Wire;

const WORKER_COUNT: u64 = 3;

/// What a run is made of.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Everything random in it.
    pub seed: u64,
    /// Kills.
    pub rounds: u64,
    /// Change the shard count now and then.
    pub reshard: bool,
}

/// What happened, for a look at whether the run was worth anything.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    /// Answers to requests.
    pub answers: u64,
    /// Busy among them.
    pub busy: u64,
    /// Leases granted.
    pub leases: u64,
    /// Ends seen in the streams.
    pub ends: u64,
    /// Starts that were killed before they served.
    pub starts_killed: u64,
    /// Changes of the shard count.
    pub reshards: u64,
}

/// A data directory, its clients, and what they know.
pub(crate) struct Run<'a> {
    binary: &'a str,
    dir: &'a Path,
    plan: Plan,
    random: Random,
    pub(crate) workers: Vec<Worker>,
    pub(crate) journal: Journal,
    /// How the server is started, if it is not for the seed to choose.
    pub(crate) chosen_options: Option<ServerOptions>,
    short_ghosts: Vec<Ghost>,
    /// Ends of leases with server-chosen IDs that nobody was told of; the next audit says which grants are left
    /// to explain them.
    strangers: Vec<Note>,
    pub(crate) shard_count: u16,
    marker_count: u64,
    tally: Tally,
}

/// Runs a plan in a fresh directory.
///
/// # Errors
/// A broken promise, and in which round.
///
/// # Panics
/// When the server does not start, or ends by itself.
pub fn run(binary: &str, dir: &Path, plan: Plan) -> Result<Tally, String> {
    let mut run = Run::new(binary, dir, plan);
    for round in 0..plan.rounds {
        run.round(round).map_err(|broken| format!("round {round}: {broken}"))?;
    }
    run.last_round().map_err(|broken| format!("last round: {broken}"))?;
    for worker in &run.workers {
        run.tally.answers += worker.book.answer_count;
        run.tally.busy += worker.book.busy_count;
        run.tally.leases += worker.book.leases.len() as u64;
    }
    run.tally.ends = run.journal.end_count;
    Ok(run.tally)
}

impl<'a> Run<'a> {
    /// A fresh start.
    pub(crate) fn new(binary: &'a str, dir: &'a Path, plan: Plan) -> Run<'a> {
        let mut random = Random::new(plan.seed);
        let workers = (0..WORKER_COUNT).map(|index| Worker::new(index, random.fork())).collect();
        let shard_count = 1 + u16::from(random.one_in(2));
        let mut journal = Journal::default();
        journal.begin(shard_count);
        let tally = Tally::default();
        let short_ghosts = Vec::new();
        Run {
            binary,
            dir,
            plan,
            random,
            workers,
            journal,
            chosen_options: None,
            short_ghosts,
            strangers: Vec::new(),
            shard_count,
            marker_count: 0,
            tally,
        }
    }

    /// Where the data is.
    pub(crate) fn dir(&self) -> &Path {
        self.dir
    }

    fn options(&mut self) -> ServerOptions {
        if let Some(options) = &self.chosen_options {
            return options.clone();
        }
        let driver = *self.random.pick(&["ring", "glommio"]);
        let renewals = *self.random.pick(&["unlogged", "unlogged", "logged"]);
        ServerOptions::new(self.binary)
            .data_dir(self.dir)
            .driver(driver)
            .shards(self.shard_count)
            .flag("--renewals", renewals)
            .flag("--checkpoint-interval", "1s")
            .small_log()
    }

    /// Starts the server, after killing it on its way up now and then.
    pub(crate) fn start(&mut self) -> Result<ServerProcess, String> {
        let reshard = self.plan.reshard && self.random.one_in(3);
        if reshard {
            self.shard_count = 3 - self.shard_count;
            self.journal.begin(self.shard_count);
            self.tally.reshards += 1;
        }
        let options = self.options();
        if self.random.one_in(4) {
            options.start_and_kill(Duration::from_micros(self.random.below(60_000)));
            self.tally.starts_killed += 1;
        }
        let server = options.start();
        audit(&mut self.workers, server.address(), &mut self.short_ghosts)?;
        for stranger in std::mem::take(&mut self.strangers) {
            self.explain_stranger(&stranger)?;
        }
        if reshard {
            // The old streams went with the old layout; what ended before may be told or not.
            for belief in self.workers.iter_mut().flat_map(|worker| &mut worker.book.leases) {
                belief.end_may_be_lost |= !belief.is_live();
            }
        }
        self.catch_up(server.address())?;
        Ok(server)
    }

    fn round(&mut self, round: u64) -> Verdict {
        let mut server = self.start()?;
        if round.is_multiple_of(8) {
            self.read_history_again(server.address())?;
        }
        let before_kill = Duration::from_micros(self.random.between(5_000, 200_000));
        let address = server.address();
        let from = self.journal.resume.clone();
        let stop = AtomicBool::new(false);
        let (verdicts, events) = std::thread::scope(|scope| {
            let workers: Vec<_> =
                self.workers.iter_mut().map(|worker| scope.spawn(|| worker.work(address, &stop))).collect();
            let follower = scope.spawn(|| read_events(address, &from, None));
            std::thread::sleep(before_kill);
            let alive = server.is_running();
            server.kill();
            assert!(alive, "the server ended by itself:\n{}", server.said());
            let verdicts: Vec<Verdict> =
                workers.into_iter().map(|worker| worker.join().expect("a worker does not panic")).collect();
            (verdicts, follower.join().expect("the follower does not panic"))
        });
        verdicts.into_iter().collect::<Verdict>()?;
        self.take_notes(&events?.notes)
    }

    /// Grants and revokes a lease on each shard: when its end comes by in the stream, everything that had
    /// been told before has come by.
    fn place_markers(&mut self, address: SocketAddr) -> Result<Vec<LeaseId>, String> {
        let mut wire = Wire::connect(address).map_err(|error| format!("cannot connect: {error}"))?;
        let mut markers = Vec::new();
        for shard in 0..self.shard_count {
            let id = loop {
                self.marker_count += 1;
                let id = LeaseId(MARKER_BITS | self.marker_count);
                if shard_of(id, self.shard_count) == shard {
                    break id;
                }
            };
            let grant = Grant { ttl_ms: LONG_TTL_MS, id, sequence: 0 };
            for request in [Request::Grant(grant), Request::Revoke { id }] {
                eventually("a marker is taken", || {
                    let reply = wire.call(&request).expect("connected");
                    (reply.refusal() != Some(Refusal::Busy)).then_some(())
                });
            }
            markers.push(id);
        }
        Ok(markers)
    }

    /// Reads the streams up to everything that has been told, and asks for what is owed.
    pub(crate) fn catch_up(&mut self, address: SocketAddr) -> Verdict {
        let markers = self.place_markers(address)?;
        let reading = read_events(address, &self.journal.resume, Some(&markers))?;
        self.take_notes(&reading.notes)?;
        self.check_owed(false)
    }

    fn check_owed(&self, items_too: bool) -> Verdict {
        let mut all = self.workers.iter().flat_map(|worker| &worker.book.leases);
        match all.find(|belief| belief.is_owed(items_too)) {
            Some(belief) => Err(format!("S9 once: the streams never told the end of {belief:?}")),
            None => Ok(()),
        }
    }

    pub(crate) fn take_notes(&mut self, notes: &[Note]) -> Verdict {
        for note in notes {
            match self.journal.note(note)? {
                None => {}
                Some(News::Ended(id, token, cause)) => {
                    let owner = self.workers.iter_mut().find_map(|worker| {
                        let key = worker.book.find(id, token)?;
                        Some(&mut worker.book.leases[key])
                    });
                    match owner {
                        Some(belief) => belief.ended(cause, note.at)?,
                        None => self.explain_stranger(note)?,
                    }
                }
                Some(News::Items(id, token, items)) => {
                    for worker in &mut self.workers {
                        if let Some(key) = worker.book.find(id, token) {
                            worker.book.leases[key].left_items(&items)?;
                        }
                    }
                }
            }
        }
        for worker in &mut self.workers {
            let leases = &worker.book.leases;
            worker.book.live.retain(|&key| leases[key].is_live());
        }
        Ok(())
    }

    /// The end of a lease that nobody was told of: a grant without an answer whose lease was short.
    fn explain_stranger(&mut self, note: &Note) -> Verdict {
        let super::journal::What::Ended(id, ..) = note.what else { return Ok(()) };
        if is_marker(id) {
            return Ok(());
        }
        // Between a kill and the next audit, the ghosts are still with their workers.
        let chosen = self.short_ghosts.iter().position(|ghost| ghost.id == id);
        let any = self.short_ghosts.iter().position(|ghost| ghost.id.0 == 0);
        if let Some(index) = chosen.or(any) {
            self.short_ghosts.swap_remove(index);
            return Ok(());
        }
        let short = |ghost: &super::book::Ask| ghost.ttl_ms < LONG_TTL_MS;
        for worker in &mut self.workers {
            let book = &worker.book;
            let fits = |ghost: &super::book::Ask| short(ghost) && book.asked_id(ghost) == id;
            if let Some(index) = book.ghosts.iter().position(fits) {
                worker.book.ghosts.swap_remove(index);
                return Ok(());
            }
        }
        // It may be any of those whose ID the server chose: which of them live shows in the next audit.
        let any = |worker: &Worker| {
            let unnamed = |ghost: &super::book::Ask| short(ghost) && worker.book.asked_id(ghost).0 == 0;
            worker.book.ghosts.iter().any(unnamed)
        };
        if self.workers.iter().any(any) {
            self.strangers.push(note.clone());
            return Ok(());
        }
        Err(format!("S9 once: the end of a lease that nobody asked for: {note:?}"))
    }

    pub(crate) fn read_history_again(&mut self, address: SocketAddr) -> Verdict {
        let markers = self.place_markers(address)?;
        let oldest = vec![Position::OLDEST; usize::from(self.shard_count)];
        let again = read_events(address, &oldest, Some(&markers))?;
        let again = again.after_gaps(&oldest_kept(address, self.shard_count)?)?;
        self.journal.compare(&again)?;
        self.journal.forget_before(&again.oldest);
        Ok(())
    }

    /// No kill: everything ends, and everything that is owed comes.
    pub(crate) fn last_round(&mut self) -> Verdict {
        let mut server = self.start()?;
        let address = server.address();
        for worker in &mut self.workers {
            revoke_all(worker, address)?;
        }
        let mut wire = Wire::connect(address).map_err(|error| format!("cannot connect: {error}"))?;
        let started = std::time::Instant::now();
        loop {
            let (listed, _) = list_all(&mut wire)?;
            let counted = wire.info(tag::LEASES);
            if listed.is_empty() && counted == 0 {
                break;
            }
            if started.elapsed() > PATIENCE {
                return Err(format!(
                    "L1 bounded-lateness: {counted} leases, among them {:?}",
                    listed.first()
                ));
            }
        }
        let started = std::time::Instant::now();
        while self.catch_up(address).is_err() || self.check_owed(true).is_err() {
            // Items of big leases leave in slices after their end; L1 lets them take their time, not for ever.
            if started.elapsed() > PATIENCE {
                self.catch_up(address)?;
                self.check_owed(true)?;
            }
        }
        self.read_history_again(address)?;
        let ended = server.terminate();
        if ended.code != Some(0) {
            return Err(format!("SIGTERM ended it with {:?}:\n{}", ended.code, ended.said));
        }
        let server = self.options().start();
        audit(&mut self.workers, server.address(), &mut self.short_ghosts)?;
        self.read_history_again(server.address())
    }
}

/// IDs of markers have these top 32 bits; no worker's have, and one the server chooses has them once in 4 billion.
const MARKER_BITS: u64 = 0x5E47 << 48;

/// Whether a lease is a marker of a run and not a worker's.
pub(super) fn is_marker(id: LeaseId) -> bool {
    id.0 >> 32 == MARKER_BITS >> 32
}

fn revoke_all(worker: &mut Worker, address: SocketAddr) -> Verdict {
    let mut wire =
        Wire::connect_as(address, &worker.hello(None)).map_err(|e| format!("cannot connect: {e}"))?;
    for key in worker.book.live.clone() {
        if worker.book.leases[key].ttl_ms < LONG_TTL_MS {
            continue;
        }
        let op = Op::Revoke(vec![key]);
        worker.book.begin(&op);
        let sent = std::time::Instant::now();
        let request = Request::Revoke { id: worker.book.leases[key].id };
        let reply = wire.call(&request).map_err(|error| format!("revoke: {error}"))?;
        worker.book.settle(&op, &reply.response(), sent, std::time::Instant::now())?;
    }
    Ok(())
}

/// Whether a run did enough to mean something.
///
/// # Panics
/// When it did not: a crash test without load passes on anything.
pub fn assert_worthwhile(tally: &Tally, plan: &Plan) {
    assert!(tally.answers > plan.rounds * 100, "hardly any load: {tally:?}");
    assert!(tally.ends > plan.rounds * 5, "hardly any end: {tally:?}");
    assert!(tally.busy * 10 < tally.answers, "mostly busy: {tally:?}");
}
