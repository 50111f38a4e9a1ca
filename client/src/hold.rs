//! A lease that comes back: granted again whenever it is lost.
//!
//! For presence and registration, where the holder wants *some* lease at all times and can put its
//! items on a new one. Not for exclusion: between loss and re-grant somebody else may have held
//! whatever the lease protects, and the new lease has a new token; the callback is where the holder
//! learns of it.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tenure_protocol::LeaseId;
use tokio::task::JoinHandle;

use crate::client::{Client, Lease, Revoked};
use crate::error::Error;
use crate::keep_alive::KeptLease;
use crate::link::backoff;
use crate::machine::LossReason;

/// What happens to a held lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HoldEvent {
    /// The lease was lost; another is being granted.
    Lost {
        /// The lease that was lost.
        id: LeaseId,
        /// Why.
        reason: LossReason,
    },
    /// A new lease is held.
    Granted(Lease),
}

/// Holds a lease and replaces it when it is lost. Dropping it lets the lease end at its deadline.
///
/// ```no_run
/// # async fn example(client: tenure_client::Client) -> Result<(), tenure_client::Error> {
/// use tenure_client::HoldEvent;
///
/// let (register, mut to_register) = tokio::sync::mpsc::unbounded_channel();
/// let holder = client
///     .hold(5_000, None, move |event| {
///         if let HoldEvent::Granted(lease) = event {
///             let _ = register.send(lease.id);
///         }
///     })
///     .await?;
/// client.attach(holder.lease_id().expect("just granted"), "/workers/7").await?;
/// while let Some(id) = to_register.recv().await {
///     client.attach(id, "/workers/7").await?;
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Holder {
    client: Client,
    current: Arc<Mutex<Option<KeptLease>>>,
    task: JoinHandle<()>,
}

impl Client {
    /// Makes a lease, keeps it alive, and grants a new one whenever it is lost. With `id`, each has that
    /// ID: after a loss without contact to the server, the re-grant then waits until the old one has
    /// ended there. `on_event` is called from the client's task and must not block.
    ///
    /// # Errors
    /// As [`Client::grant_with_id`], for the first grant. Later ones are tried until they succeed.
    pub async fn hold(
        &self,
        ttl_ms: u64,
        id: Option<LeaseId>,
        on_event: impl FnMut(HoldEvent) + Send + 'static,
    ) -> Result<Holder, Error> {
        let id = id.unwrap_or(LeaseId::NONE);
        let first = self.grant_with_id(id, ttl_ms).await?;
        let current = Arc::new(Mutex::new(Some(self.keep(&first))));
        let task = tokio::spawn(replace_forever(self.clone(), ttl_ms, id, Arc::clone(&current), on_event));
        Ok(Holder { client: self.clone(), current, task })
    }
}

impl Holder {
    /// The ID of the lease, while one is held and may be relied on.
    #[must_use]
    pub fn lease_id(&self) -> Option<LeaseId> {
        let current = self.current.lock().expect("no holder panics");
        current.as_ref().filter(|kept| kept.is_alive()).map(KeptLease::id)
    }

    /// Stops holding and ends the lease, if there is one.
    ///
    /// # Errors
    /// As [`Client::revoke`].
    pub async fn revoke(self) -> Result<Option<Revoked>, Error> {
        self.task.abort();
        let current = self.current.lock().expect("no holder panics").take();
        match current {
            None => Ok(None),
            Some(kept) => self.client.revoke(kept.id()).await.map(Some),
        }
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        self.task.abort();
        self.current.lock().expect("no holder panics").take();
    }
}

async fn replace_forever(
    client: Client,
    ttl_ms: u64,
    id: LeaseId,
    current: Arc<Mutex<Option<KeptLease>>>,
    mut on_event: impl FnMut(HoldEvent) + Send + 'static,
) {
    loop {
        // Not awaited under the lock: the waiter is made from a handle of its own.
        let Some(lost) = current.lock().expect("no holder panics").as_ref().map(KeptLease::watch) else {
            return;
        };
        let (lost_id, reason) = lost.await;
        current.lock().expect("no holder panics").take();
        on_event(HoldEvent::Lost { id: lost_id, reason });
        if reason == LossReason::Closed {
            return;
        }
        let mut waits = backoff(&client.inner.shared.config, lost_id.0);
        let lease = loop {
            match client.grant_with_id(id, ttl_ms).await {
                Ok(lease) => break lease,
                Err(Error::Closed) => return,
                Err(_) => tokio::time::sleep(Duration::from_millis(waits.next_ms())).await,
            }
        };
        *current.lock().expect("no holder panics") = Some(client.keep(&lease));
        on_event(HoldEvent::Granted(lease));
    }
}
