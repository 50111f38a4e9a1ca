//! L3 fair: while leases expire by the thousand, who asks for something is answered before the core goes on with them.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tenure::request::{Reply, Request, ServiceTicket};
use tenure::shell::glommio::{Core, GlommioService};
use tenure::shell::ring::{Completion, Ring, RingService};
use tenure::station::Station;
use tenure::{Clock, Config, Driver, Engine, From, Grant, ManualClock, Services, ShardIndex};

/// Some ten slices of a turn.
const LEASES: usize = 60_000;
const TTL: Duration = Duration::from_secs(60);

/// When an answer could be sent, and how many leases had expired when it was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sent {
    Early(u64),
    AtTheEnd(u64),
}

/// Asks its shard for its counters in each turn, and notes when they could be sent.
struct Asker {
    ready: RefCell<Vec<(ServiceTicket, Reply)>>,
    sent: Arc<Mutex<Vec<Sent>>>,
}

impl Asker {
    fn ask(&self, station: &mut Station) {
        station.submit(ShardIndex(0), Request::Stats, ServiceTicket { session: 0, request: 0 });
    }

    fn send(&self, station: &mut Station, note: fn(u64) -> Sent) {
        let mut ready = self.ready.borrow_mut();
        station.take_ready(&mut ready);
        for (_, reply) in ready.drain(..) {
            let Reply::Stats(stats) = reply else { panic!("{reply:?}") };
            self.sent.lock().unwrap().push(note(stats.shard.expired_total));
        }
    }
}

impl RingService for Asker {
    fn start(&mut self, _: &mut Ring, _: &mut Station) {}
    fn completion(&mut self, _: Completion, _: &mut Ring, _: &mut Station) {}
    fn turn(&mut self, _: &mut Ring, station: &mut Station) {
        self.ask(station);
    }
    fn answer(&mut self, _: &mut Ring, station: &mut Station) {
        self.send(station, Sent::Early);
    }
    fn flush(&mut self, _: &mut Ring, station: &mut Station) {
        self.send(station, Sent::AtTheEnd);
    }
    fn is_drained(&self) -> bool {
        true
    }
}

/// The other driver is not asked for.
impl GlommioService for Asker {
    fn start(self: Rc<Self>, _: &Rc<Core>) {}
    fn turn(&self, _: &Rc<Core>, _: &mut Station) {}
    fn flush(&self, _: &Rc<Core>, _: &mut Station) {}
    fn is_drained(&self) -> bool {
        true
    }
}

struct Asking(Arc<Mutex<Vec<Sent>>>);

impl Services for Asking {
    type Ring = Asker;
    type Glommio = Asker;
    fn ring(&self, core: ShardIndex) -> Asker {
        self.glommio(core)
    }
    fn glommio(&self, _: ShardIndex) -> Asker {
        Asker { ready: RefCell::default(), sent: Arc::clone(&self.0) }
    }
}

#[test]
fn answers_go_before_the_next_slice_of_a_storm() {
    let config = Config {
        shard_count: Some(1),
        driver: Driver::Ring,
        clock: Clock::Manual(ManualClock::new()),
        pin: false,
        ..Config::in_memory()
    };
    let services = Arc::new(Asking(Arc::default()));
    let engine = Engine::open_with(&config, &services).unwrap();
    let handle = engine.handle();
    let grant = Grant { id: None, ttl_ms: TTL.as_millis() as u64, key: None };
    let granted = handle.grant_batch(&vec![grant; LEASES]).wait().unwrap();
    assert!(granted.iter().all(Result::is_ok));
    let mut events = handle.events(0, From::Oldest).unwrap();
    engine.advance(2 * TTL);
    for _ in 0..LEASES {
        events.next_blocking().unwrap();
    }
    engine.stop();
    let sent = services.0.lock().unwrap().clone();
    let amid = |expired: u64| 0 < expired && expired < LEASES as u64;
    let early = sent.iter().filter(|sent| matches!(sent, Sent::Early(expired) if amid(*expired))).count();
    let late: Vec<_> = sent.iter().filter(|sent| matches!(sent, Sent::AtTheEnd(n) if amid(*n))).collect();
    assert!(early >= 2, "L3 fair: {early} answers amid the storm: {sent:?}");
    assert!(late.is_empty(), "L3 fair: waited for the storm: {late:?}");
}
