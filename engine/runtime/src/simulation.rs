//! An engine whose cores a simulator runs, one step at a time, on a disk, a clock and a randomness of its own.
//!
//! For simulators: no stability is promised. Opening, recovery, stations, journal, snapshots and event
//! streams are the very code that the threads of an [`Engine`](crate::Engine) run; what is missing are the
//! threads: whoever holds the [`Cores`] takes their turns ([`Cores::station`]), does their log writes and
//! works off their keepers' requests ([`Cores::keeper_step`]).
//!
//! **S5**: with the same disk, clock and calls, the same happens.

use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tenure_core::{ShardIndex, Time};

use crate::assembly::{Assembly, CoreFacts};
use crate::clock::{EngineClock, ManualClock};
use crate::config::Config;
use crate::ending::Ending;
use crate::error::OpenError;
use crate::grant_routes::GrantRoutes;
use crate::handle::{Handle, Shared};
use crate::inbox::{Inbox, Message};
pub use crate::log::disk::{Access, Disk, DiskFile, DiskPort, Entry, Sizes};
use crate::log::{DirLock, Worker};
use crate::memory::Memory;
use crate::recovery::Store;
use crate::station::Station;

/// The cores of an engine, without threads.
pub struct Cores {
    stations: Vec<Station>,
    /// None in memory.
    keepers: Vec<Option<Worker>>,
    store: Store,
    handle: Handle,
    torn: Vec<String>,
}

impl Cores {
    /// Opens an engine on `disk`. Settings are not checked: a simulator may want smaller ones than
    /// [`Engine::open`](crate::Engine::open) takes.
    ///
    /// # Errors
    /// As of [`Engine::open`](crate::Engine::open).
    pub fn open(config: &Config, disk: Arc<dyn Disk>) -> Result<Cores, OpenError> {
        let store = Store::open_on(DiskPort::Other(disk), config, 1)?;
        let shard_count = store.shard_count();
        let inboxes: Result<Vec<_>, _> = (0..shard_count).map(|_| Inbox::new().map(Arc::new)).collect();
        let inboxes: Arc<[Arc<Inbox>]> =
            inboxes.map_err(|source| OpenError::Io { what: "creating an eventfd".into(), source })?.into();
        let hubs = store.hubs(config.event_buffer_bytes);
        let ending = Arc::new(Ending::new(Arc::clone(&inboxes)));
        let grant_routes = OnceLock::new();
        let shared = Arc::new(Shared { inboxes, hubs, grant_routes, next_shard: AtomicUsize::new(0) });
        let recovered: Result<Vec<_>, _> =
            (0..shard_count).map(|index| store.recover(ShardIndex(index), &Memory::default())).collect();
        let recovered = recovered?;
        let facts: Vec<CoreFacts> = (0..)
            .map(ShardIndex)
            .zip(&recovered)
            .map(|(index, found)| CoreFacts::of(index, found, shard_count))
            .collect();
        let tails: Vec<u64> = facts.iter().map(|facts| facts.tail).collect();
        let base = facts.iter().map(|facts| facts.time).max().unwrap_or(Time(0));
        let epoch = store.begin(&tails)?;
        let clock = EngineClock::starting_at(base, &config.clock);
        let core = Assembly {
            store: &store,
            config,
            shared: &shared,
            ending: &ending,
            memory: Memory::default(),
            clock,
            epoch,
        };
        let (mut stations, mut keepers) = (Vec::new(), Vec::new());
        for (index, recovered) in (0..).map(ShardIndex).zip(recovered) {
            let (parts, keeper) = core.parts(index, recovered)?;
            stations.push(Station::new(parts));
            keepers.push(keeper);
        }
        let (mut torn, mut routes) = (Vec::new(), GrantRoutes::default());
        for facts in facts {
            torn.extend(facts.torn);
            routes.note(facts.index, facts.remembered);
        }
        // Set once: cores are opened once.
        let _ = shared.grant_routes.set(routes);
        Ok(Cores { stations, keepers, store, handle: Handle { shared }, torn })
    }

    /// Shards.
    #[must_use]
    pub fn shard_count(&self) -> u16 {
        self.store.shard_count()
    }

    /// Shards before, when opening re-sharded.
    #[must_use]
    pub fn resharded_from(&self) -> Option<u16> {
        self.store.resharded_from()
    }

    /// What was cut off the ends of logs, in words.
    #[must_use]
    pub fn torn(&self) -> &[String] {
        &self.torn
    }

    /// A core, to take its turn.
    pub fn station(&mut self, core: u16) -> &mut Station {
        &mut self.stations[usize::from(core)]
    }

    /// A core, to be looked at.
    #[must_use]
    pub fn look(&self, core: u16) -> &Station {
        &self.stations[usize::from(core)]
    }

    /// A way to ask from outside the cores.
    #[must_use]
    pub fn handle(&self) -> &Handle {
        &self.handle
    }

    /// Works off one request to a core's keeper. False: there was nothing to do. `elapsed` never goes back.
    pub fn keeper_step(&mut self, core: u16, elapsed: Duration) -> bool {
        self.keepers[usize::from(core)].as_mut().is_some_and(|keeper| keeper.step(elapsed))
    }

    /// When a core's keeper has work although nobody asks.
    #[must_use]
    pub fn keeper_wake(&self, core: u16) -> Option<Duration> {
        self.keepers[usize::from(core)].as_ref().and_then(Worker::next_wake)
    }

    /// Asks every core to finish and flush.
    pub fn begin_stop(&self) {
        for inbox in self.handle.shared.inboxes.iter() {
            // A full inbox is worked off by the next turns: the simulator asks again.
            let _ = inbox.push(Message::Stop);
        }
    }

    /// Ends an engine all of whose cores may end ([`Station::may_end`]).
    pub fn close(self) {
        let Cores { stations, keepers, store, handle, .. } = self;
        drop(stations);
        drop(keepers);
        for hub in handle.shared.hubs.iter() {
            hub.close();
        }
        store.close();
    }

    /// Ends the engine as a crash of the process does: nothing is finished or written.
    pub fn crash(mut self) {
        for station in &mut self.stations {
            station.crash();
        }
    }
}

/// Moves a simulated clock.
pub fn forward(clock: &ManualClock, by: Duration) {
    clock.forward(by);
}

/// The lock of a data directory on a simulated disk, which nobody else can reach.
#[must_use]
pub fn lock() -> DirLock {
    DirLock::simulated()
}
