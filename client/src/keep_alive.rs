//! Keeping leases alive: the task around [`crate::machine::KeepAlive`], and the handle of a kept lease.
//!
//! All leases that one client keeps share one task and travel in few RenewBatch frames. A handle knows
//! whether its lease may be relied on by a look at the clock, without asking anybody; see
//! [`crate::machine::trusted_ms`] for how long a renewal is trusted.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::Duration;

use tenure_protocol::{LeaseId, Token};
use tokio::sync::Notify;

use crate::call::{Answer, Call};
use crate::client::{Client, Inner, Lease, Revoked};
use crate::clock::BootTime;
use crate::error::Error;
use crate::machine::{Change, KeepAlive, KeepBatch, KeepKey, LossReason};

/// Longest sleep while leases are kept: after the machine was suspended, losses are noticed this soon.
const SLEEP_MAX: Duration = Duration::from_secs(1);

/// What a handle and the keeper share about one lease.
#[derive(Debug)]
struct Held {
    valid_until_ms: AtomicU64,
    /// 0 while held, else a [`LossReason`] as coded below.
    loss: AtomicU8,
    lost: Notify,
}

const LOSSES: [LossReason; 4] =
    [LossReason::Expired, LossReason::Ended, LossReason::Unreachable, LossReason::Closed];

impl Held {
    fn lose(&self, reason: LossReason) {
        let code = LOSSES.iter().position(|loss| *loss == reason).map_or(0, |index| index as u8 + 1);
        self.loss.store(code, Ordering::Release);
        self.lost.notify_waiters();
    }

    async fn lost(&self) -> LossReason {
        loop {
            // Registered before the look, so that a loss in between is not missed.
            let notified = self.lost.notified();
            if let Some(reason) = self.loss() {
                return reason;
            }
            notified.await;
        }
    }

    fn loss(&self) -> Option<LossReason> {
        let code = self.loss.load(Ordering::Acquire);
        code.checked_sub(1).map(|index| LOSSES[index as usize])
    }
}

/// A lease that this client keeps alive until the handle is dropped.
///
/// Dropping it stops the renewals, so that the lease ends at its deadline; [`KeptLease::revoke`] ends it
/// at once.
///
/// ```no_run
/// # async fn example() -> Result<(), tenure_client::Error> {
/// # let client = tenure_client::Client::connect("localhost:7070").await?;
/// let lease = client.grant_kept(10_000).await?;
/// while lease.is_alive() {
///     // Do a piece of the work that only the holder may do.
/// #   break;
/// }
/// println!("lost: {:?}", lease.lost().await);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct KeptLease {
    id: LeaseId,
    token: Token,
    ttl_ms: u64,
    held: Arc<Held>,
    key: KeepKey,
    client: Client,
}

impl KeptLease {
    /// The lease's ID.
    #[must_use]
    pub fn id(&self) -> LeaseId {
        self.id
    }

    /// Its fencing token.
    #[must_use]
    pub fn token(&self) -> Token {
        self.token
    }

    /// Its TTL in ms.
    #[must_use]
    pub fn ttl_ms(&self) -> u64 {
        self.ttl_ms
    }

    /// Whether the lease may be relied on now: a look at this machine's boot clock, no more. Once false,
    /// it stays false.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.held.loss().is_none() && !self.valid_until().is_past()
    }

    /// The lease may be relied on until then, if no further renewal succeeds.
    #[must_use]
    pub fn valid_until(&self) -> BootTime {
        BootTime::from_ms(self.held.valid_until_ms.load(Ordering::Acquire))
    }

    /// Why the lease is no longer held, once that has been noticed.
    #[must_use]
    pub fn loss(&self) -> Option<LossReason> {
        self.held.loss()
    }

    /// Waits until the lease is lost, and says why. Prompt to within a few per cent of the TTL;
    /// [`KeptLease::is_alive`] is exact.
    pub async fn lost(&self) -> LossReason {
        self.held.lost().await
    }

    /// As [`KeptLease::lost`], without borrowing the handle.
    pub(crate) fn watch(&self) -> impl Future<Output = (LeaseId, LossReason)> + Send + use<> {
        let (id, held) = (self.id, Arc::clone(&self.held));
        async move { (id, held.lost().await) }
    }

    /// Stops keeping the lease and ends it.
    ///
    /// # Errors
    /// As [`Client::revoke`].
    pub async fn revoke(self) -> Result<Revoked, Error> {
        let (client, id) = (self.client.clone(), self.id);
        drop(self);
        client.revoke(id).await
    }
}

impl Drop for KeptLease {
    fn drop(&mut self) {
        if let Some(keeper) = self.client.inner.keeper.get() {
            keeper.machine().remove(self.key);
        }
    }
}

impl Client {
    /// Makes a lease and keeps it alive.
    ///
    /// # Errors
    /// As [`Client::grant`].
    pub async fn grant_kept(&self, ttl_ms: u64) -> Result<KeptLease, Error> {
        Ok(self.keep(&self.grant(ttl_ms).await?))
    }

    /// Keeps a lease alive that this client was granted. Returns at once; the lease counts as alive for
    /// as long as its grant may be trusted.
    ///
    /// # Panics
    /// Outside a tokio runtime, when this is the client's first kept lease.
    #[must_use]
    pub fn keep(&self, lease: &Lease) -> KeptLease {
        let keeper = self.inner.keeper.get_or_init(|| Keeper::start(&self.inner));
        let valid_until_ms = lease.valid_until.as_ms();
        let held = Arc::new(Held {
            valid_until_ms: AtomicU64::new(valid_until_ms),
            loss: AtomicU8::new(0),
            lost: Notify::new(),
        });
        let now_ms = BootTime::now().as_ms();
        let mut machine = keeper.machine();
        let wake_before = machine.next_wake_ms();
        let key = machine.add(now_ms, lease.id, lease.ttl_ms, valid_until_ms, Arc::clone(&held));
        let is_sooner = machine.next_wake_ms() != wake_before;
        drop(machine);
        if is_sooner {
            keeper.state.wake.notify_one();
        }
        KeptLease { id: lease.id, token: lease.token, ttl_ms: lease.ttl_ms, held, key, client: self.clone() }
    }

    /// Keeps a lease alive that somebody else made: renews it once, then as [`Client::keep`].
    ///
    /// Asks for the token before and after that renewal: an ID that a client chose may change hands in between, and the
    /// token that fences the lease must be that of the one that was renewed. The same before and after: it was that one,
    /// because no token comes back.
    ///
    /// # Errors
    /// [`tenure_protocol::Refusal::NotFound`] when it has ended, and others of [`Error`].
    pub async fn keep_alive(&self, id: LeaseId) -> Result<KeptLease, Error> {
        let mut before = self.time_to_live(id).await?.token;
        loop {
            let renewed = self.renew(id).await?;
            let token = self.time_to_live(id).await?.token;
            if token == before {
                let (ttl_ms, valid_until) = (renewed.ttl_ms, renewed.valid_until);
                return Ok(self.keep(&Lease { id, token, ttl_ms, raised: false, valid_until }));
            }
            before = token;
        }
    }
}

#[derive(Debug)]
struct State {
    machine: Mutex<KeepAlive<Arc<Held>>>,
    /// Something is due sooner than before, or the client was closed.
    wake: Notify,
}

/// The keep-alive task of one client, started with its first kept lease.
#[derive(Debug)]
pub(crate) struct Keeper {
    state: Arc<State>,
}

impl Keeper {
    fn start(inner: &Arc<Inner>) -> Keeper {
        let shared = &inner.shared;
        let batch_ids = shared.frame_ids(shared.config.keep_alive_batch_ids);
        let machine = KeepAlive::new(shared.client_id, batch_ids);
        let state = Arc::new(State { machine: Mutex::new(machine), wake: Notify::new() });
        tokio::spawn(run(Arc::downgrade(inner), Arc::clone(&state)));
        Keeper { state }
    }

    fn machine(&self) -> MutexGuard<'_, KeepAlive<Arc<Held>>> {
        self.state.machine()
    }

    pub(crate) fn close(&self) {
        self.machine().close(&mut |held, reason| held.lose(reason));
    }
}

impl State {
    fn machine(&self) -> MutexGuard<'_, KeepAlive<Arc<Held>>> {
        self.machine.lock().expect("no holder panics")
    }

    /// The next renewals to send; reports what was lost by the clock.
    fn due(&self, shard_count: u16) -> Vec<KeepBatch> {
        let mut machine = self.machine();
        machine.set_shard_count(shard_count);
        machine.poll(BootTime::now().as_ms(), &mut |held: Arc<Held>, reason| held.lose(reason))
    }

    fn sleep(&self) -> Option<Duration> {
        let wake_ms = self.machine().next_wake_ms()?;
        let wait_ms = wake_ms.saturating_sub(BootTime::now().as_ms());
        Some(Duration::from_millis(wait_ms).min(SLEEP_MAX))
    }
}

/// Sleeps until leases are due, sends their batches, sleeps again; ends with the client.
async fn run(client: Weak<Inner>, state: Arc<State>) {
    loop {
        match state.sleep() {
            None => state.wake.notified().await,
            Some(wait) => {
                let _ = tokio::time::timeout(wait, state.wake.notified()).await;
            }
        }
        let Some(inner) = client.upgrade() else { return };
        for batch in state.due(inner.shared.shard_count()) {
            tokio::spawn(renew(Arc::clone(&inner), Arc::clone(&state), batch));
        }
    }
}

/// Sends one batch and notes what came of it.
async fn renew(inner: Arc<Inner>, state: Arc<State>, mut batch: KeepBatch) {
    let call = Call::RenewBatch { ids: std::mem::take(&mut batch.ids).into() };
    // Not repeated by the link: the machine decides, lease by lease, when to try again.
    let reply = inner.call(batch.shard, call, false).await;
    drop(inner);
    let now_ms = BootTime::now().as_ms();
    let mut machine = state.machine();
    match reply.map(|reply| (reply.answer, reply.sent_at)) {
        Ok((Ok(Answer::Batch { failed, .. }), sent_at)) => {
            machine.answered(now_ms, sent_at.as_ms(), &batch, &failed, &mut |held, change| match change {
                Change::Renewed { valid_until_ms } => {
                    held.valid_until_ms.store(valid_until_ms, Ordering::Release);
                }
                Change::Lost(reason) => held.lose(reason),
            });
        }
        // A refusal of the whole batch (a standby, a full disk) or no answer: try again soon.
        _ => machine.unanswered(now_ms, &batch),
    }
    drop(machine);
    state.wake.notify_one();
}
