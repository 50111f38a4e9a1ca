//! The blocking face: the async client on a thread of its own.
//!
//! Calls hand their work to that thread and wait. Many threads may share one [`BlockingClient`]; their
//! calls travel together as those of async tasks do.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tenure_protocol::{Failed, GrantEntry, LeaseId, Listed, Refusal, Token};
use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

use crate::call::{Attached, LeaseInfo, ServerInfo};
use crate::client::{Client, Lease, RenewOutcome, Renewed, Revoked};
use crate::config::ClientConfig;
use crate::error::Error;
use crate::events::{EventStream, LeaseEvent, SubscribeFrom};
use crate::keep_alive::KeptLease;
use crate::machine::LossReason;

/// A handle to a Tenure server for programs without an async runtime. Cheap to clone. Leases are kept
/// alive for as long as one clone lives.
///
/// ```no_run
/// # fn main() -> Result<(), tenure_client::Error> {
/// let client = tenure_client::BlockingClient::connect("localhost:7070")?;
/// let lease = client.grant_kept(10_000)?;
/// assert!(lease.is_alive());
/// client.revoke(lease.id())?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct BlockingClient {
    client: Client,
    runtime: Arc<Background>,
}

/// The thread that runs the async client, stopped when the last handle is dropped.
#[derive(Debug)]
struct Background {
    handle: Handle,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Background {
    fn start() -> Result<Background, Error> {
        let fault =
            |error: std::io::Error| Error::Unreachable { reason: format!("no client thread: {error}") };
        let runtime = Builder::new_current_thread().enable_all().build().map_err(fault)?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel::<()>();
        let body = move || {
            // Ends when `stop` is used or dropped.
            let _ = runtime.block_on(stopped);
        };
        let thread = std::thread::Builder::new().name("tenure-client".into()).spawn(body).map_err(fault)?;
        Ok(Background { handle, stop: Some(stop), thread: Some(thread) })
    }

    /// Runs a future on the client's thread and waits for it.
    fn run<T: Send + 'static>(
        &self,
        future: impl Future<Output = Result<T, Error>> + Send + 'static,
    ) -> Result<T, Error> {
        let (done, result) = oneshot::channel();
        self.handle.spawn(async move {
            // The caller waits for it: it cannot have gone away.
            let _ = done.send(future.await);
        });
        result.blocking_recv().unwrap_or(Err(Error::Closed))
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take()
            && thread.thread().id() != std::thread::current().id()
        {
            let _ = thread.join();
        }
    }
}

impl BlockingClient {
    /// As [`Client::connect`].
    ///
    /// # Errors
    /// As [`Client::connect`].
    pub fn connect(endpoint: impl Into<String>) -> Result<BlockingClient, Error> {
        BlockingClient::connect_with(ClientConfig::new(endpoint))
    }

    /// As [`Client::connect_with`].
    ///
    /// # Errors
    /// As [`Client::connect_with`].
    pub fn connect_with(config: ClientConfig) -> Result<BlockingClient, Error> {
        let runtime = Arc::new(Background::start()?);
        let client = runtime.run(Client::connect_with(config))?;
        Ok(BlockingClient { client, runtime })
    }

    /// The async client, for what has no blocking form; its futures must run on
    /// [`BlockingClient::block_on`].
    #[must_use]
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Runs a future of the async client and waits for it.
    ///
    /// # Errors
    /// Those of the future, and [`Error::Closed`] when it panicked.
    ///
    /// # Panics
    /// From within an async runtime, where waiting would block the runtime.
    pub fn block_on<T: Send + 'static>(
        &self,
        future: impl Future<Output = Result<T, Error>> + Send + 'static,
    ) -> Result<T, Error> {
        self.runtime.run(future)
    }

    /// As [`Client::grant`].
    ///
    /// # Errors
    /// As [`Client::grant`].
    pub fn grant(&self, ttl_ms: u64) -> Result<Lease, Error> {
        let client = self.client.clone();
        self.block_on(async move { client.grant(ttl_ms).await })
    }

    /// As [`Client::grant_with_id`].
    ///
    /// # Errors
    /// As [`Client::grant_with_id`].
    pub fn grant_with_id(&self, id: LeaseId, ttl_ms: u64) -> Result<Lease, Error> {
        let client = self.client.clone();
        self.block_on(async move { client.grant_with_id(id, ttl_ms).await })
    }

    /// As [`Client::grant_batch`].
    ///
    /// # Errors
    /// As [`Client::grant_batch`].
    pub fn grant_batch(&self, entries: &[GrantEntry]) -> Result<Vec<Result<Lease, Refusal>>, Error> {
        let (client, entries) = (self.client.clone(), entries.to_vec());
        self.block_on(async move { client.grant_batch(&entries).await })
    }

    /// As [`Client::grant_kept`].
    ///
    /// # Errors
    /// As [`Client::grant_kept`].
    pub fn grant_kept(&self, ttl_ms: u64) -> Result<KeptLease, Error> {
        let client = self.client.clone();
        self.block_on(async move { client.grant_kept(ttl_ms).await })
    }

    /// As [`Client::keep_alive`].
    ///
    /// # Errors
    /// As [`Client::keep_alive`].
    pub fn keep_alive(&self, id: LeaseId) -> Result<KeptLease, Error> {
        let client = self.client.clone();
        self.block_on(async move { client.keep_alive(id).await })
    }

    /// Waits until a kept lease is lost, and says why; `None` when it is still held after `wait_max`.
    #[must_use]
    pub fn wait_lost(&self, lease: &KeptLease, wait_max: Duration) -> Option<LossReason> {
        let lost = lease.watch();
        let wait =
            async move { Ok(tokio::time::timeout(wait_max, lost).await.ok().map(|(_, reason)| reason)) };
        self.block_on(wait).unwrap_or(Some(LossReason::Closed))
    }

    /// As [`Client::renew`].
    ///
    /// # Errors
    /// As [`Client::renew`].
    pub fn renew(&self, id: LeaseId) -> Result<Renewed, Error> {
        let client = self.client.clone();
        self.block_on(async move { client.renew(id).await })
    }

    /// As [`Client::renew_batch`].
    ///
    /// # Errors
    /// As [`Client::renew_batch`].
    pub fn renew_batch(&self, ids: &[LeaseId]) -> Result<RenewOutcome, Error> {
        let (client, ids) = (self.client.clone(), ids.to_vec());
        self.block_on(async move { client.renew_batch(&ids).await })
    }

    /// As [`Client::revoke`].
    ///
    /// # Errors
    /// As [`Client::revoke`].
    pub fn revoke(&self, id: LeaseId) -> Result<Revoked, Error> {
        let client = self.client.clone();
        self.block_on(async move { client.revoke(id).await })
    }

    /// As [`Client::revoke_batch`].
    ///
    /// # Errors
    /// As [`Client::revoke_batch`].
    pub fn revoke_batch(&self, ids: &[LeaseId]) -> Result<Vec<Failed>, Error> {
        let (client, ids) = (self.client.clone(), ids.to_vec());
        self.block_on(async move { client.revoke_batch(&ids).await })
    }

    /// As [`Client::time_to_live`], or [`Client::time_to_live_with_items`] with `items`.
    ///
    /// # Errors
    /// As [`Client::time_to_live`].
    pub fn time_to_live(&self, id: LeaseId, items: bool) -> Result<LeaseInfo, Error> {
        let client = self.client.clone();
        self.block_on(async move {
            if items { client.time_to_live_with_items(id).await } else { client.time_to_live(id).await }
        })
    }

    /// All live leases; see [`Client::list`].
    ///
    /// # Errors
    /// Those of [`Error`].
    pub fn list(&self) -> Result<Vec<Listed>, Error> {
        self.block_on(self.client.list().collect())
    }

    /// As [`Client::attach`].
    ///
    /// # Errors
    /// As [`Client::attach`].
    pub fn attach(&self, id: LeaseId, item: impl AsRef<[u8]>) -> Result<Attached, Error> {
        let (client, item) = (self.client.clone(), item.as_ref().to_vec());
        self.block_on(async move { client.attach(id, item).await })
    }

    /// As [`Client::detach`].
    ///
    /// # Errors
    /// As [`Client::detach`].
    pub fn detach(&self, id: LeaseId, item: impl AsRef<[u8]>) -> Result<(), Error> {
        let (client, item) = (self.client.clone(), item.as_ref().to_vec());
        self.block_on(async move { client.detach(id, item).await })
    }

    /// As [`Client::lease_of`].
    ///
    /// # Errors
    /// As [`Client::lease_of`].
    pub fn lease_of(&self, item: impl AsRef<[u8]>) -> Result<Option<(LeaseId, Token)>, Error> {
        let (client, item) = (self.client.clone(), item.as_ref().to_vec());
        self.block_on(async move { client.lease_of(item).await })
    }

    /// As [`Client::info`].
    ///
    /// # Errors
    /// As [`Client::info`].
    pub fn info(&self) -> Result<ServerInfo, Error> {
        let client = self.client.clone();
        self.block_on(async move { client.info().await })
    }

    /// As [`Client::ping`].
    ///
    /// # Errors
    /// As [`Client::ping`].
    pub fn ping(&self) -> Result<Duration, Error> {
        let client = self.client.clone();
        self.block_on(async move { client.ping().await })
    }

    /// As [`Client::subscribe`], as an iterator.
    ///
    /// # Errors
    /// As [`Client::subscribe`].
    pub fn subscribe(&self, from: SubscribeFrom) -> Result<BlockingEvents, Error> {
        let client = self.client.clone();
        let stream = self.block_on(async move { client.subscribe(from).await })?;
        Ok(BlockingEvents { stream, _runtime: Arc::clone(&self.runtime) })
    }
}

/// End-of-lease events as an iterator that waits for the next one.
#[derive(Debug)]
pub struct BlockingEvents {
    stream: EventStream,
    /// Keeps the client's thread, on which the stream's tasks run.
    _runtime: Arc<Background>,
}

impl BlockingEvents {
    /// As [`EventStream::positions`].
    #[must_use]
    pub fn positions(&self) -> &[tenure_protocol::Position] {
        self.stream.positions()
    }
}

impl Iterator for BlockingEvents {
    type Item = Result<LeaseEvent, Error>;

    fn next(&mut self) -> Option<Result<LeaseEvent, Error>> {
        self.stream.blocking_next()
    }
}
