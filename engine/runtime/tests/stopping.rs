//! L2 one-reply while an engine stops: a core with nothing left to do still answers its peers.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tenure::request::{Reply, Request, ServiceTicket};
use tenure::shell::glommio::{Core, GlommioService};
use tenure::shell::ring::{Completion, Ring, RingService};
use tenure::station::Station;
use tenure::{Config, Driver, Engine, Services, ShardIndex};

/// Requests that the slow service sends to the other core after the stop, one a turn.
const REQUESTS: u64 = 50;
/// When the slow service gives up, so that a failure is a failure and not a hang.
const PATIENCE: Duration = Duration::from_secs(20);

/// Core 0 has a conversation with core 1 to finish when the engine stops; core 1 has nothing to say.
struct Conversation {
    answered: Arc<AtomicU64>,
}

#[derive(Default)]
struct Talker {
    asked: Cell<u64>,
    heard: Cell<u64>,
    since: Cell<Option<Instant>>,
    ready: RefCell<Vec<(ServiceTicket, Reply)>>,
    answered: Option<Arc<AtomicU64>>,
}

impl Talker {
    fn turn(&self, station: &mut Station) {
        let Some(answered) = &self.answered else { return };
        let mut ready = self.ready.borrow_mut();
        station.take_ready(&mut ready);
        for (_, reply) in ready.drain(..) {
            assert!(matches!(reply, Reply::Stats(_)), "{reply:?}");
            self.heard.set(self.heard.get() + 1);
            answered.store(self.heard.get(), Ordering::SeqCst);
        }
        if station.is_stopping() {
            self.since.set(Some(self.since.get().unwrap_or_else(Instant::now)));
            // One question after the answer to the last: the other core has long been drained by then.
            if self.asked.get() == self.heard.get() && self.asked.get() < REQUESTS {
                self.asked.set(self.asked.get() + 1);
                let ticket = ServiceTicket { session: 0, request: self.asked.get() };
                station.submit(ShardIndex(1), Request::Stats, ticket);
            }
        }
    }

    fn is_drained(&self) -> bool {
        self.answered.is_none()
            || self.heard.get() == REQUESTS
            || self.since.get().is_some_and(|since| since.elapsed() > PATIENCE)
    }
}

impl RingService for Talker {
    fn start(&mut self, _: &mut Ring, _: &mut Station) {}
    fn completion(&mut self, _: Completion, _: &mut Ring, _: &mut Station) {}
    fn turn(&mut self, _: &mut Ring, station: &mut Station) {
        Talker::turn(self, station);
    }
    fn flush(&mut self, _: &mut Ring, _: &mut Station) {}
    fn is_drained(&self) -> bool {
        Talker::is_drained(self)
    }
    fn next_wake(&self) -> Option<Duration> {
        Some(Duration::from_millis(100))
    }
}

impl GlommioService for Talker {
    fn start(self: Rc<Self>, _: &Rc<Core>) {}
    fn turn(&self, _: &Rc<Core>, station: &mut Station) {
        Talker::turn(self, station);
    }
    fn flush(&self, _: &Rc<Core>, _: &mut Station) {}
    fn is_drained(&self) -> bool {
        Talker::is_drained(self)
    }
}

impl Services for Conversation {
    type Ring = Talker;
    type Glommio = Talker;
    fn ring(&self, core: ShardIndex) -> Talker {
        self.glommio(core)
    }
    fn glommio(&self, core: ShardIndex) -> Talker {
        Talker { answered: (core.0 == 0).then(|| Arc::clone(&self.answered)), ..Talker::default() }
    }
}

#[test]
fn a_core_with_nothing_left_to_do_answers_its_peers_until_all_are_done() {
    for driver in [Driver::Ring, Driver::Glommio] {
        let answered = Arc::new(AtomicU64::new(0));
        let services = Arc::new(Conversation { answered: Arc::clone(&answered) });
        let config = Config { shard_count: Some(2), driver, pin: false, ..Config::in_memory() };
        let engine = Engine::open_with(&config, &services).unwrap();
        engine.stop();
        assert_eq!(answered.load(Ordering::SeqCst), REQUESTS, "L2 one-reply, driver {driver:?}");
    }
}
