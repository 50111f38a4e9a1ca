//! Starting and stopping a server: addresses first, then the engine, then listening, so that a wrong
//! address is told at once and nobody connects before recovery is done.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use tenure::shell::ring::Ring;
use tenure::{Driver, Engine, Handle, OpenError, Opened as EngineOpened, Services, ShardIndex};

use super::config::{ConfigError, ServeConfig};
use super::front::Listeners;
use super::glommio_driver::GlommioDriver;
use super::listen::{self, Bound};
use super::ring_driver::RingDriver;
use super::shared::{Opened, Shared};

/// Why a server did not start. Each text says what to do.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The engine did not open.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// An address cannot be listened on.
    #[error("cannot listen on {address}: {source}; choose another with --listen")]
    Listen {
        /// As it was written.
        address: String,
        /// What the system answered.
        source: io::Error,
    },
    /// A core did not take its listeners.
    #[error("a core does not answer; nothing was listened on")]
    CoreBusy,
}

/// Makes running servers.
pub struct Server;

/// A running server. Dropping it stops it as [`stop`](Running::stop) does.
pub struct Running {
    engine: Engine,
    addresses: Vec<SocketAddr>,
    shared: Arc<Shared>,
}

/// The network front of each core.
struct Front {
    shared: Arc<Shared>,
}

impl Services for Front {
    type Ring = RingDriver;
    type Glommio = GlommioDriver;

    fn try_ring(&self, ring: &Ring) -> std::io::Result<()> {
        RingDriver::try_ring(ring)
    }

    fn ring(&self, core: ShardIndex) -> RingDriver {
        RingDriver::new(Arc::clone(&self.shared), core)
    }

    fn glommio(&self, core: ShardIndex) -> GlommioDriver {
        GlommioDriver::new(Arc::clone(&self.shared), core)
    }
}

impl Server {
    /// Binds, opens the engine, listens.
    ///
    /// # Errors
    /// An address is taken, the data directory is in use or damaged, the kernel lacks something.
    pub fn start(config: ServeConfig) -> Result<Running, StartError> {
        let bound = listen::bind(&config.listen)
            .map_err(|(address, source)| StartError::Listen { address, source })?;
        raise_descriptor_limit();
        let shared = Arc::new(Shared::new(config));
        let front = Arc::new(Front { shared: Arc::clone(&shared) });
        let engine = Engine::open_with(&shared.config.engine, &front)?;
        let opened = engine.opened();
        let known = Opened {
            handle: engine.handle(),
            driver: opened.driver,
            lease_count: opened.lease_count,
            took: opened.took,
        };
        assert!(shared.opened.set(known).is_ok(), "a server opens its engine once");
        let addresses = listen_on_cores(bound, &engine)?;
        Ok(Running { engine, addresses, shared })
    }
}

/// Gives every core a listener for every address.
fn listen_on_cores(bound: Vec<Bound>, engine: &Engine) -> Result<Vec<SocketAddr>, StartError> {
    let core_count = engine.handle().shard_count();
    let mut addresses = Vec::new();
    let mut of_cores: Vec<Vec<_>> = (0..core_count).map(|_| Vec::new()).collect();
    for one in bound {
        let address = one.address;
        addresses.push(address);
        let sockets = one
            .listen(core_count)
            .map_err(|source| StartError::Listen { address: address.to_string(), source })?;
        for (of_core, socket) in of_cores.iter_mut().zip(sockets) {
            of_core.push(socket);
        }
    }
    for (core, sockets) in (0..core_count).zip(of_cores) {
        let parcel = Box::new(Listeners(sockets));
        engine.send_parcel(ShardIndex(core), parcel).map_err(|_| StartError::CoreBusy)?;
    }
    Ok(addresses)
}

impl Running {
    /// Where it listens, with the real ports.
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// The engine's own way in, beside the network.
    #[must_use]
    pub fn handle(&self) -> Handle {
        self.engine.handle()
    }

    /// What opening the engine found.
    #[must_use]
    pub fn opened(&self) -> &EngineOpened {
        self.engine.opened()
    }

    /// The driver in use.
    #[must_use]
    pub fn driver(&self) -> Driver {
        self.engine.opened().driver
    }

    /// Open connections.
    #[must_use]
    pub fn connection_count(&self) -> u32 {
        self.shared.connection_count()
    }

    /// Says goodbye to clients, answers what is in flight, flushes the log, ends the cores.
    pub fn stop(self) {
        self.engine.stop();
    }
}

/// Raises the soft limit of open descriptors to the hard one: each connection needs one.
fn raise_descriptor_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%error, "cannot raise the limit of open files");
    }
}
