//! The engine as a whole: opened, running, stopped.
//!
//! Opening locks the directory, recovers every shard on the thread that will own it (so that its
//! memory is local), agrees on one clock, and only then lets the cores run. Stopping tells every
//! core to finish what is in flight and waits for a flushed log.
//!
//! **Boundary:** a panic on a core is a broken invariant. The other cores cannot know what it held,
//! so the process ends instead of serving on.

use std::sync::atomic::AtomicUsize;
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tenure_core::{ShardIndex, Time};

use crate::assembly::{Assembly, CoreFacts};
use crate::clock::EngineClock;
use crate::config::{Clock, Config, Driver};
use crate::ending::Ending;
use crate::error::{Error, OpenError};
use crate::grant_routes::GrantRoutes;
use crate::handle::{Handle, Shared};
use crate::inbox::{Inbox, Message, NotTaken};
use crate::memory::Memory;
use crate::recovery::Store;
use crate::shell::{glommio, ring};
use crate::station::Station;

/// What shares each core with its shard, made on that core's thread.
pub trait Services: Send + Sync + 'static {
    /// For the ring driver.
    type Ring: ring::RingService;
    /// For the glommio driver.
    type Glommio: glommio::GlommioService;
    /// Registers with a ring what a core's service will register, to see whether the system lets it. The ring and
    /// what is registered with it are given up after.
    ///
    /// # Errors
    /// What the kernel answered: the ring driver cannot be used.
    fn try_ring(&self, _: &ring::Ring) -> std::io::Result<()> {
        Ok(())
    }
    /// Makes the service of one core.
    fn ring(&self, core: ShardIndex) -> Self::Ring;
    /// Makes the service of one core.
    fn glommio(&self, core: ShardIndex) -> Self::Glommio;
}

/// Cores without services: the bare engine.
struct Bare;

impl Services for Bare {
    type Ring = ring::NoService;
    type Glommio = glommio::NoService;
    fn ring(&self, _: ShardIndex) -> Self::Ring {
        ring::NoService
    }
    fn glommio(&self, _: ShardIndex) -> Self::Glommio {
        glommio::NoService
    }
}

/// What opening found and did.
#[derive(Clone, Debug, Default)]
pub struct Opened {
    /// Live leases recovered.
    pub lease_count: u64,
    /// Items recovered.
    pub item_count: u64,
    /// How long recovery took, re-sharding included.
    pub took: Duration,
    /// Shards of the directory before, when opening re-sharded it.
    pub resharded_from: Option<u16>,
    /// Unacknowledged bytes cut off at the end of logs, and where.
    pub torn: Vec<String>,
    /// The driver chosen.
    pub driver: Driver,
    /// Why `Driver::Auto` did not choose the ring, if so.
    pub fallback: Option<String>,
}

/// A running engine. Dropping it stops it as [`stop`](Engine::stop) does.
pub struct Engine {
    handle: Handle,
    threads: Vec<JoinHandle<()>>,
    clock: Clock,
    opened: Opened,
    store: Option<Store>,
}

/// One core's words to the opener, in this order.
enum Word {
    /// The shard is rebuilt.
    Recovered(CoreFacts),
    /// The log is open for writing; the core runs.
    Ready,
}

type Report = Result<Word, OpenError>;

/// The opener's word to every core: all have recovered, run.
#[derive(Clone)]
struct Start {
    clock: EngineClock,
    /// Durable in the manifest.
    epoch: u32,
}

impl Engine {
    /// Opens an engine: recovers `config.data_dir`, or starts empty in memory.
    ///
    /// # Errors
    /// The settings cannot work, the directory is in use or damaged, or the kernel lacks what the
    /// driver needs. Nothing was changed then, unless the text says so.
    pub fn open(config: &Config) -> Result<Engine, OpenError> {
        Engine::open_with(config, &Arc::new(Bare))
    }

    /// Opens an engine whose cores are shared with services, such as a server's network front.
    ///
    /// # Errors
    /// As [`open`](Engine::open).
    pub fn open_with<S: Services>(config: &Config, services: &Arc<S>) -> Result<Engine, OpenError> {
        config.check()?;
        let started = Instant::now();
        let (driver, fallback) = choose_driver(config.driver, &**services)?;
        let cpus = allowed_cpus();
        let store = Store::open(config, u16::try_from(cpus.len()).unwrap_or(u16::MAX))?;
        let shard_count = store.shard_count();
        let inboxes: Result<Vec<_>, _> = (0..shard_count).map(|_| Inbox::new().map(Arc::new)).collect();
        let inboxes: Arc<[Arc<Inbox>]> =
            inboxes.map_err(|source| OpenError::Io { what: "creating an eventfd".into(), source })?.into();
        let hubs = store.hubs(config.event_buffer_bytes);
        let shared = Shared {
            inboxes: Arc::clone(&inboxes),
            hubs,
            grant_routes: OnceLock::new(),
            next_shard: AtomicUsize::new(0),
        };
        let mut engine = Engine {
            handle: Handle { shared: Arc::new(shared) },
            threads: Vec::new(),
            clock: config.clock.clone(),
            opened: Opened { driver, fallback, resharded_from: store.resharded_from(), ..Opened::default() },
            store: None,
        };
        let ending = Arc::new(Ending::new(inboxes));
        let memory = Memory::beside_cores()
            .map_err(|source| OpenError::Io { what: "starting a thread".into(), source })?;
        let (reports, reported) = mpsc::channel();
        let mut starts = Vec::new();
        for index in (0..shard_count).map(ShardIndex) {
            let (start, started) = mpsc::channel();
            starts.push(start);
            let cpu = config.pin.then(|| cpus[(config.first_cpu + usize::from(index.0)) % cpus.len()]);
            let core = CoreSetup {
                index,
                cpu,
                config: config.clone(),
                store: store.clone(),
                shared: Arc::clone(&engine.handle.shared),
                ending: Arc::clone(&ending),
                memory: memory.clone(),
                services: Arc::clone(services),
                reports: reports.clone(),
                start: started,
            };
            engine.threads.push(spawn_core(core, driver)?);
        }
        drop(reports);
        let (base, tails) = engine.gather(&reported, shard_count)?;
        let epoch = store.begin(&tails)?;
        let word = Start { clock: EngineClock::starting_at(base, &config.clock), epoch };
        for start in starts {
            // A core that is gone has ended the process.
            let _ = start.send(word.clone());
        }
        for _ in 0..shard_count {
            let Word::Ready = hear(&reported)? else { unreachable!("each core reports once") };
        }
        engine.store = Some(store);
        engine.opened.took = started.elapsed();
        Ok(engine)
    }

    /// A way to ask the engine from any thread.
    #[must_use]
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// What opening found and did.
    #[must_use]
    pub fn opened(&self) -> &Opened {
        &self.opened
    }

    /// Hands something to the service on a core.
    ///
    /// # Errors
    /// The core's inbox is full.
    pub fn send_parcel(&self, core: ShardIndex, parcel: Box<dyn std::any::Any + Send>) -> Result<(), Error> {
        let inbox = &self.handle.shared.inboxes[usize::from(core.0)];
        inbox.push(Message::Service(parcel)).map_err(|_| Error::Refused(tenure_core::Refusal::Busy))
    }

    /// Moves the manual clock and returns once everything that became due has happened, is durable
    /// and stands in the event streams.
    ///
    /// # Panics
    /// The engine was not opened with [`Clock::Manual`].
    pub fn advance(&self, by: Duration) {
        let Clock::Manual(clock) = &self.clock else {
            panic!("Engine::advance needs an engine opened with Clock::Manual")
        };
        clock.forward(by);
        self.settle();
    }

    /// Returns once every core has done what is due and flushed it.
    pub fn settle(&self) {
        let settle = |inbox: &Arc<Inbox>| {
            let (done, settled) = oneshot::channel();
            push_surely(inbox, Message::Settle(done));
            settled
        };
        let waiting: Vec<_> = self.handle.shared.inboxes.iter().map(settle).collect();
        for settled in waiting {
            // A core that stopped meanwhile has nothing left to settle.
            let _ = settled.recv();
        }
    }

    /// Asks every core to finish and flush; returns at once.
    pub fn begin_stop(&self) {
        for inbox in self.handle.shared.inboxes.iter() {
            push_surely(inbox, Message::Stop);
        }
    }

    /// Finishes what is in flight, flushes the log and ends the cores.
    pub fn stop(self) {
        drop(self);
    }

    /// Hears every core's recovery; returns the common time and where each log goes on.
    fn gather(
        &mut self,
        reported: &Receiver<Report>,
        shard_count: u16,
    ) -> Result<(Time, Vec<u64>), OpenError> {
        let mut base = Time(0);
        let mut tails = vec![0; usize::from(shard_count)];
        let mut routes = GrantRoutes::default();
        for _ in 0..shard_count {
            let Word::Recovered(facts) = hear(reported)? else { unreachable!("no core was started yet") };
            base = base.max(facts.time);
            tails[usize::from(facts.index.0)] = facts.tail;
            self.opened.lease_count += facts.lease_count;
            self.opened.item_count += facts.item_count;
            self.opened.torn.extend(facts.torn);
            routes.note(facts.index, facts.remembered);
        }
        // Set once: an engine is opened once.
        let _ = self.handle.shared.grant_routes.set(routes);
        Ok((base, tails))
    }
}

fn hear(reported: &Receiver<Report>) -> Report {
    reported.recv().unwrap_or_else(|_| {
        let reason = "a core thread ended while it was starting".to_owned();
        Err(OpenError::Driver { driver: "core", reason })
    })
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.begin_stop();
        for thread in self.threads.drain(..) {
            // A core that panicked has ended the process already.
            let _ = thread.join();
        }
        for hub in self.handle.shared.hubs.iter() {
            hub.close();
        }
        if let Some(store) = self.store.take() {
            store.close();
        }
    }
}

/// A stop or settle must arrive even when the inbox is full just now: the core is emptying it.
fn push_surely(inbox: &Inbox, mut message: Message) {
    while let Err(NotTaken::Full(back)) = inbox.push(message) {
        message = back;
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn choose_driver(asked: Driver, services: &impl Services) -> Result<(Driver, Option<String>), OpenError> {
    let probe = || ring::probe(|ring| services.try_ring(ring));
    match asked {
        Driver::Glommio => Ok((Driver::Glommio, None)),
        Driver::Ring => probe().map(|()| (Driver::Ring, None)),
        Driver::Auto => match probe() {
            Ok(()) => Ok((Driver::Ring, None)),
            Err(reason) => Ok((Driver::Glommio, Some(reason.to_string()))),
        },
    }
}

/// CPUs this process may run on.
fn allowed_cpus() -> Vec<usize> {
    let set = rustix::thread::sched_getaffinity(None);
    let cpus: Vec<usize> = set
        .map(|set| (0..rustix::thread::CpuSet::MAX_CPU).filter(|&cpu| set.is_set(cpu)).collect())
        .unwrap_or_default();
    if cpus.is_empty() { vec![0] } else { cpus }
}

/// Everything one core needs to come up.
struct CoreSetup<S> {
    index: ShardIndex,
    cpu: Option<usize>,
    config: Config,
    store: Store,
    shared: Arc<Shared>,
    ending: Arc<Ending>,
    memory: Memory,
    services: Arc<S>,
    reports: Sender<Report>,
    start: Receiver<Start>,
}

fn spawn_core<S: Services>(core: CoreSetup<S>, driver: Driver) -> Result<JoinHandle<()>, OpenError> {
    std::thread::Builder::new()
        .name(format!("tenure-core-{}", core.index))
        .spawn(move || {
            let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| core.run(driver)));
            if outcome.is_err() {
                eprintln!("tenure: a core broke an invariant (see above); ending the process");
                std::process::abort();
            }
        })
        .map_err(|source| OpenError::Io { what: "starting a core thread".into(), source })
}

impl<S: Services> CoreSetup<S> {
    fn run(self, driver: Driver) {
        let reports = self.reports.clone();
        let outcome = match driver {
            Driver::Glommio => self.run_glommio(),
            Driver::Auto | Driver::Ring => self.run_ring(),
        };
        if let Err(error) = outcome {
            // An opener that has gone has its reason already.
            let _ = reports.send(Err(error));
        }
    }

    fn run_ring(self) -> Result<(), OpenError> {
        pin(self.cpu);
        let ring = ring::Ring::new()?;
        let Some(station) = self.recover()? else { return Ok(()) };
        let service = self.services.ring(self.index);
        ring::run(ring, station, service, self.config.spin);
        Ok(())
    }

    fn run_glommio(self) -> Result<(), OpenError> {
        let (cpu, spin) = (self.cpu, self.config.spin);
        glommio::run(cpu, spin, move || {
            let station = self.recover()?;
            Ok(station.map(|station| (station, self.services.glommio(self.index))))
        })
    }

    /// Recovers the shard, reports, and waits until all have. `None`: another core failed.
    fn recover(&self) -> Result<Option<Station>, OpenError> {
        let recovered = self.store.recover(self.index, &self.memory)?;
        let facts = CoreFacts::of(self.index, &recovered, self.store.shard_count());
        let _ = self.reports.send(Ok(Word::Recovered(facts)));
        let Ok(Start { clock, epoch }) = self.start.recv() else { return Ok(None) };
        let core = Assembly {
            store: &self.store,
            config: &self.config,
            shared: &self.shared,
            ending: &self.ending,
            memory: self.memory.clone(),
            clock,
            epoch,
        };
        let station = core.station(self.index, recovered)?;
        let _ = self.reports.send(Ok(Word::Ready));
        Ok(Some(station))
    }
}

fn pin(cpu: Option<usize>) {
    let Some(cpu) = cpu else { return };
    let mut set = rustix::thread::CpuSet::new();
    set.set(cpu);
    if let Err(error) = rustix::thread::sched_setaffinity(None, &set) {
        tracing::warn!(cpu, %error, "cannot pin a core thread; going on unpinned");
    }
}
