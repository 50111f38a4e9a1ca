//! A service on core 0 of an engine of two that asks for renewals and waits for the answers, as the network front does for
//! its connections: some of its own shard, some of the other core's.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use tenure::config::Driver;
use tenure::request::{Reply, Request, ServiceTicket};
use tenure::shell::glommio as fallback;
use tenure::shell::ring::{Completion, Ring, RingService};
use tenure::station::Station;
use tenure::{Config, Engine, Handle, LeaseId, Services, ShardIndex};

const LEASES: usize = 4_096;

/// `count` renewals, at most `window` of them unanswered.
struct Job {
    ids: Arc<Vec<LeaseId>>,
    count: usize,
    window: usize,
    done: Sender<Duration>,
}

/// A job under way.
struct Work {
    job: Job,
    asked: usize,
    answered: usize,
    began: Instant,
}

#[derive(Default)]
struct Forwarder {
    work: Option<Work>,
    ready: Vec<(ServiceTicket, Reply)>,
}

impl Forwarder {
    fn go_on(&mut self, station: &mut Station) {
        for parcel in station.take_parcels() {
            let job = *parcel.downcast::<Job>().expect("nothing else is sent here");
            self.work = Some(Work { job, asked: 0, answered: 0, began: Instant::now() });
        }
        let Some(work) = &mut self.work else { return };
        station.take_ready(&mut self.ready);
        for (_, reply) in self.ready.drain(..) {
            assert!(matches!(reply, Reply::Renewed(_)), "{reply:?}");
            work.answered += 1;
        }
        while work.asked < work.job.count && work.asked - work.answered < work.job.window {
            let id = work.job.ids[work.asked % LEASES];
            let ticket = ServiceTicket { session: 1, request: work.asked as u64 };
            station.submit(station.shard_of(id), Request::Renew(id), ticket);
            work.asked += 1;
        }
        if work.answered == work.job.count {
            work.job.done.send(work.began.elapsed()).expect("the suite waits");
            self.work = None;
        }
    }
}

impl RingService for Forwarder {
    fn start(&mut self, _: &mut Ring, _: &mut Station) {}
    fn completion(&mut self, _: Completion, _: &mut Ring, _: &mut Station) {}
    fn turn(&mut self, _: &mut Ring, station: &mut Station) {
        self.go_on(station);
    }
    fn flush(&mut self, _: &mut Ring, _: &mut Station) {}
    fn is_drained(&self) -> bool {
        true
    }
}

/// The other driver is not measured here.
struct Unused;

impl fallback::GlommioService for Unused {
    fn start(self: Rc<Self>, _: &Rc<fallback::Core>) {}
    fn turn(&self, _: &Rc<fallback::Core>, _: &mut Station) {}
    fn flush(&self, _: &Rc<fallback::Core>, _: &mut Station) {}
    fn is_drained(&self) -> bool {
        true
    }
}

struct Front;

impl Services for Front {
    type Ring = Forwarder;
    type Glommio = Unused;
    fn ring(&self, _: ShardIndex) -> Forwarder {
        Forwarder::default()
    }
    fn glommio(&self, _: ShardIndex) -> Unused {
        Unused
    }
}

/// An engine of two cores in memory, and leases on each.
pub(crate) struct Cores {
    engine: Engine,
    /// By shard.
    ids: [Arc<Vec<LeaseId>>; 2],
    done: (Sender<Duration>, Receiver<Duration>),
}

impl Cores {
    pub(crate) fn start() -> Cores {
        let config = Config { shard_count: Some(2), driver: Driver::Ring, ..Config::in_memory() };
        let engine = Engine::open_with(&config, &Arc::new(Front)).expect("an engine in memory");
        let handle = engine.handle();
        let mut ids = [Vec::new(), Vec::new()];
        while ids.iter().any(|ids| ids.len() < LEASES) {
            let id = handle.grant(Duration::from_secs(3_600)).wait().expect("a grant").id;
            let shard = usize::from(tenure_core::shard_of(id, 2).0);
            if ids[shard].len() < LEASES {
                ids[shard].push(id);
            }
        }
        Cores { engine, ids: ids.map(Arc::new), done: channel() }
    }

    pub(crate) fn handle(&self) -> Handle {
        self.engine.handle()
    }

    pub(crate) fn ids(&self, shard: usize) -> &[LeaseId] {
        &self.ids[shard]
    }

    /// Time that core 0 takes for `count` renewals of leases of a shard.
    pub(crate) fn renew(&self, shard: usize, count: usize, window: usize) -> Duration {
        let job = Job { ids: Arc::clone(&self.ids[shard]), count, window, done: self.done.0.clone() };
        let sent = self.engine.handle().send_parcel(ShardIndex(0), Box::new(job));
        assert!(sent.is_ok(), "the core has room for a job");
        self.done.1.recv().expect("the job ends")
    }
}
