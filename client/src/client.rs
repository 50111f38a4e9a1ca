//! The async client: one call per operation, routed to the connection of the lease's shard.
//!
//! A [`Client`] is a handle; clones share connections, and calls made at the same time share frames'
//! trips. There is one connection per shard of the server (up to a limit), each placed on its shard's
//! core, opened when first needed. Routing is a hint for speed: a server answers for every shard on any
//! connection.
//!
//! Calls that are safe to repeat are repeated over a new connection until the request timeout. A grant
//! is: it carries this client's id and a sequence, which the server recognises. After a repeat, `revoke`
//! and `detach` take "not found" as success, since the first attempt may have done it.

mod batch;
mod single;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use tenure_protocol::{Granted, LeaseId, Token, shard_of};
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::call::Call;
use crate::clock::BootTime;
use crate::config::ClientConfig;
use crate::error::Error;
use crate::keep_alive::Keeper;
use crate::link::{Job, Link, Reply, Shared, open};
use crate::machine::trusted_ms;

pub use batch::RenewOutcome;
pub use single::{LeaseList, Renewed, Revoked};

/// A lease that was granted to this client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Its ID.
    pub id: LeaseId,
    /// Its fencing token: pass it to whatever the lease protects.
    pub token: Token,
    /// Its TTL in ms, as the server set it.
    pub ttl_ms: u64,
    /// The TTL asked for was below the server's minimum and was raised.
    pub raised: bool,
    /// Without a renewal the lease may be relied on until then.
    pub valid_until: BootTime,
}

impl Lease {
    fn new(granted: &Granted, sent_at: BootTime) -> Lease {
        // A repeated grant did not restart the clock: what remained when the repeat was answered counts.
        let trusted = trusted_ms(granted.ttl_ms)
            .saturating_sub(granted.ttl_ms - granted.remaining_ms.min(granted.ttl_ms));
        Lease {
            id: granted.id,
            token: granted.token,
            ttl_ms: granted.ttl_ms,
            raised: granted.raised,
            valid_until: BootTime::from_ms(sent_at.as_ms() + trusted),
        }
    }
}

/// A handle to a Tenure server. Cheap to clone; usable from any task.
///
/// ```no_run
/// # async fn example() -> Result<(), tenure_client::Error> {
/// use tenure_client::Client;
///
/// let client = Client::connect("localhost:7070").await?;
/// let lease = client.grant(10_000).await?;
/// client.attach(lease.id, "/services/db/1").await?;
/// println!("lease {} granted, token {}", lease.id, lease.token);
/// client.renew(lease.id).await?;
/// client.revoke(lease.id).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Client {
    pub(crate) inner: Arc<Inner>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) shared: Arc<Shared>,
    /// One place per possible connection; filled when first needed.
    links: Vec<OnceLock<Link>>,
    is_closed: Mutex<bool>,
    next_sequence: AtomicU64,
    /// Spreads grants without an ID over the connections.
    next_link: AtomicU64,
    pub(crate) keeper: OnceLock<Keeper>,
}

impl Client {
    /// Connects to the server at `endpoint` (`HOST:PORT`) with default settings.
    ///
    /// # Errors
    /// [`Error::Unreachable`] when no connection could be made, [`Error::Refused`] when the server does
    /// not want this client.
    pub async fn connect(endpoint: impl Into<String>) -> Result<Client, Error> {
        Client::connect_with(ClientConfig::new(endpoint)).await
    }

    /// Connects with settings of the caller's.
    ///
    /// # Errors
    /// As [`Client::connect`].
    pub async fn connect_with(config: ClientConfig) -> Result<Client, Error> {
        let links = (0..config.connections_max.max(1)).map(|_| OnceLock::new()).collect();
        let shared = Arc::new(Shared::new(config));
        let first = open(&shared, Some(0)).await.map_err(|failure| failure.error)?;
        let inner = Inner {
            shared: Arc::clone(&shared),
            links,
            is_closed: Mutex::new(false),
            next_sequence: AtomicU64::new(1),
            // From a random place: processes that make one lease each must not all fill shard 0.
            next_link: AtomicU64::new(u64::from(rand::random::<u16>())),
            keeper: OnceLock::new(),
        };
        inner.links[0].get_or_init(|| Link::start(shared, Some(0), Some(first)));
        Ok(Client { inner: Arc::new(inner) })
    }

    /// Shards of the server; 1 when its ID rule is not known to this client.
    #[must_use]
    pub fn shard_count(&self) -> u16 {
        self.inner.shared.shard_count()
    }

    /// Ends this client and all its clones: kept leases are reported lost as closed (they live on until
    /// their deadline), later calls fail.
    pub fn close(&self) {
        *self.inner.is_closed.lock().expect("no holder panics") = true;
        if let Some(keeper) = self.inner.keeper.get() {
            keeper.close();
        }
    }

    /// Numbers for `count` grants in a row.
    fn sequences(&self, count: u64) -> u64 {
        self.inner.next_sequence.fetch_add(count, Ordering::Relaxed)
    }

    /// The shard whose connection takes requests about this lease.
    fn shard_of(&self, id: LeaseId) -> u16 {
        shard_of(id, self.shard_count())
    }

    /// The shard for a request that any may answer: the next in turn.
    fn any_shard(&self) -> u16 {
        let next = self.inner.next_link.fetch_add(1, Ordering::Relaxed);
        (next % u64::from(self.shard_count())) as u16
    }

    /// Sends a call on the connection of `shard` and waits for the answer.
    pub(crate) async fn call(&self, shard: u16, call: Call) -> Result<Reply, Error> {
        let may_repeat = call.may_repeat();
        self.inner.call(shard, call, may_repeat).await
    }
}

impl Inner {
    fn link(&self, shard: u16) -> &Link {
        // Fewer connections than shards: several shards share one.
        let index = shard as usize % self.links.len();
        self.links[index].get_or_init(|| Link::start(Arc::clone(&self.shared), Some(index as u16), None))
    }

    pub(crate) async fn call(&self, shard: u16, call: Call, may_repeat: bool) -> Result<Reply, Error> {
        if *self.is_closed.lock().expect("no holder panics") {
            return Err(Error::Closed);
        }
        let (reply, answer) = oneshot::channel();
        let job = Job { call, reply, may_repeat, repeated: false, sent_at: BootTime::now() };
        let exchange = async {
            self.link(shard).send(job).await?;
            answer.await.map_err(|_| Error::Closed)?
        };
        let after = self.shared.config.request_timeout;
        match timeout(after, exchange).await {
            Ok(result) => result,
            Err(_) => Err(Error::Timeout { after, reason: self.shared.last_failure() }),
        }
    }
}

/// Takes the answer of the kind that the call was about.
macro_rules! expect_answer {
    ($answer:expr, $pattern:pat => $value:expr) => {
        match $answer {
            $pattern => $value,
            other => unreachable!("L2: the machine matches replies to requests, not {other:?}"),
        }
    };
}
use expect_answer;
