//! What all cores of a server share: the configuration, and counts that are read by others.
//!
//! Each core writes only its own line of counters, once a turn; nothing here is touched per frame.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant};

use tenure::{Driver, Handle, ShardIndex};

use super::config::ServeConfig;
use super::session::subscription::HistoryJob;

/// How often, at a millisecond's distance, a parcel is offered to a core.
const PARCEL_TRIES: u32 = 10_000;

/// Shared by the cores of one server.
pub(crate) struct Shared {
    pub(crate) config: ServeConfig,
    started: Instant,
    /// In a simulation: its clock, and its hands instead of a helper thread.
    #[cfg(feature = "simulation")]
    pub(crate) simulated: Option<super::simulation::Simulated>,
    /// What is known once the engine is open.
    pub(crate) opened: OnceLock<Opened>,
    history: OnceLock<Sender<HistoryJob>>,
    connections: AtomicU32,
    requests: AtomicU64,
    refusals: AtomicU64,
    sessions: AtomicU64,
}

/// What opening the engine found.
pub(crate) struct Opened {
    pub(crate) handle: Handle,
    pub(crate) driver: Driver,
    pub(crate) lease_count: u64,
    pub(crate) took: Duration,
}

impl Shared {
    pub(crate) fn new(config: ServeConfig) -> Shared {
        Shared {
            config,
            started: Instant::now(),
            #[cfg(feature = "simulation")]
            simulated: None,
            opened: OnceLock::new(),
            history: OnceLock::new(),
            connections: AtomicU32::new(0),
            requests: AtomicU64::new(0),
            refusals: AtomicU64::new(0),
            sessions: AtomicU64::new(0),
        }
    }

    /// Time since the server started, ms.
    pub(crate) fn uptime_ms(&self) -> u64 {
        #[cfg(feature = "simulation")]
        if let Some(simulated) = &self.simulated {
            return simulated.elapsed_ms();
        }
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Takes a place for a connection, if there is one (S8).
    pub(crate) fn admit(&self) -> bool {
        let before = self.connections.fetch_add(1, Ordering::Relaxed);
        if before < self.config.connection_count_max {
            return true;
        }
        self.release();
        false
    }

    /// Gives the place of a connection back.
    pub(crate) fn release(&self) {
        let before = self.connections.fetch_sub(1, Ordering::Relaxed);
        assert!(before > 0, "S8 bounded: more connections closed than opened");
    }

    pub(crate) fn connection_count(&self) -> u32 {
        self.connections.load(Ordering::Relaxed)
    }

    /// Adds what a core counted since its last turn.
    pub(crate) fn count(&self, requests: u64, refusals: u64) {
        if requests != 0 {
            self.requests.fetch_add(requests, Ordering::Relaxed);
        }
        if refusals != 0 {
            self.refusals.fetch_add(refusals, Ordering::Relaxed);
        }
    }

    pub(crate) fn request_count(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    pub(crate) fn refusal_count(&self) -> u64 {
        self.refusals.load(Ordering::Relaxed)
    }

    /// Has the log files read for a subscription, on a thread that may wait for the disk. The answer
    /// comes to the subscription's core as a parcel.
    pub(crate) fn read_history(&self, job: HistoryJob) {
        #[cfg(feature = "simulation")]
        if let Some(simulated) = &self.simulated {
            return simulated.enqueue(job);
        }
        let opened = self.opened.get().expect("connections come after the engine is open");
        let sender = self.history.get_or_init(|| start_reader(opened.handle.clone()));
        // The reader ends only with this sender.
        let _ = sender.send(job);
    }

    /// The next number that names a connection in the log; never 0.
    pub(crate) fn next_session(&self) -> u64 {
        self.sessions.fetch_add(1, Ordering::Relaxed) + 1
    }
}

/// Starts the thread that reads log files for subscriptions. Each subscription has at most one job
/// waiting, so the queue is bounded by them (S8).
fn start_reader(handle: Handle) -> Sender<HistoryJob> {
    let (sender, jobs) = channel::<HistoryJob>();
    let run = move || {
        for job in jobs {
            let (core, read) = job.read();
            let mut parcel: Box<dyn std::any::Any + Send> = Box::new(read);
            // A full inbox empties within a turn; one that stays full belongs to a core that has ended.
            for _ in 0..PARCEL_TRIES {
                let Err(back) = handle.send_parcel(ShardIndex(core), parcel) else { break };
                parcel = back;
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    };
    let thread = std::thread::Builder::new().name("tenure-history".to_owned());
    if let Err(error) = thread.spawn(run) {
        tracing::error!(%error, "cannot start the reader of past events");
    }
    sender
}
