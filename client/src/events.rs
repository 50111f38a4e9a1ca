//! End-of-lease events: a stream that reconnects and resumes by itself.
//!
//! Each shard's events come over a connection of their own, so that a consumer that falls behind holds
//! up nothing but itself: the task stops reading, the server notices and may drop the connection, and the
//! stream resumes from its position when the consumer has caught up.
//!
//! S9 once: within one stream each event comes exactly once. Across restarts of the consumer, store
//! [`LeaseEvent::resume_at`] with the event's effects and start from the stored positions.

use std::sync::Arc;
use std::time::Duration;

use tenure_protocol::{
    Cause, EndedLease, Event, LeaseId, Position, Refusal, Refused, Request, Response, Token,
};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{Interval, MissedTickBehavior};

use crate::client::Client;
use crate::clock::BootTime;
use crate::error::Error;
use crate::link::{Opened, Shared, backoff, open, read_some, write_some};
use crate::machine::{Connection, Delivery, SendError};

/// Event frames that wait for the consumer, at most (S8).
const EVENTS_MAX: usize = 256;

/// Where a subscription starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SubscribeFrom {
    /// With what happens after the subscription is made.
    Now,
    /// With the oldest event that the server still has.
    Oldest,
    /// Where an earlier subscription stopped: the last [`LeaseEvent::resume_at`] of each shard, by shard.
    /// Shards beyond the list start with the oldest event.
    Positions(Vec<Position>),
}

/// Something that happened to leases of one shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseEvent {
    /// The shard.
    pub shard: u16,
    /// Where to resume so that this event does not come again and the next one does.
    pub resume_at: Position,
    /// What happened.
    pub kind: LeaseEventKind,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LeaseEventKind {
    /// Leases ended.
    Ended {
        /// Why.
        cause: Cause,
        /// When, on the shard's uptime clock, ms.
        time_ms: u64,
        /// The leases in the order of their ends.
        leases: Vec<EndedLease>,
        /// At least one of them had items, which follow.
        items_follow: bool,
    },
    /// Items of a lease that ended.
    Items {
        /// The lease.
        id: LeaseId,
        /// Its fencing token.
        token: Token,
        /// The items in rising byte order.
        items: Vec<Vec<u8>>,
        /// The last page of this lease's items.
        last: bool,
    },
    /// Nothing ended up to [`LeaseEvent::resume_at`].
    Progress,
    /// The events from here to [`LeaseEvent::resume_at`] are lost: the server no longer has them. List
    /// the leases to find out what is left.
    Gap {
        /// The first position that may be missing.
        from: Position,
    },
}

impl LeaseEvent {
    fn from_wire(event: &Event<'_>) -> LeaseEvent {
        let kind = match event {
            Event::Ended(ended) => LeaseEventKind::Ended {
                cause: ended.head.cause,
                time_ms: ended.head.time_ms,
                leases: ended.iter().collect(),
                items_follow: ended.head.items_follow,
            },
            Event::EndedItems(page) => LeaseEventKind::Items {
                id: page.head.id,
                token: page.head.token,
                items: page.items.iter().map(<[u8]>::to_vec).collect(),
                last: page.head.last,
            },
            Event::Progress { .. } => LeaseEventKind::Progress,
            Event::Gap { from, .. } => LeaseEventKind::Gap { from: *from },
        };
        LeaseEvent { shard: event.shard(), resume_at: event.resume_at(), kind }
    }
}

/// A stream of end-of-lease events of all shards. Events of one shard come in order.
///
/// ```no_run
/// # async fn example(client: tenure_client::Client, stored: Vec<tenure_client::Position>) -> Result<(), tenure_client::Error> {
/// use tenure_client::{LeaseEventKind, SubscribeFrom};
///
/// let mut events = client.subscribe(SubscribeFrom::Positions(stored)).await?;
/// while let Some(event) = events.next().await {
///     if let LeaseEventKind::Ended { cause, leases, .. } = event?.kind {
///         for lease in leases {
///             println!("{} ({cause:?})", lease.id);
///         }
///     }
///     // Store this with what was done about the event.
///     let _positions = events.positions();
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct EventStream {
    events: mpsc::Receiver<Result<LeaseEvent, Error>>,
    positions: Vec<Position>,
    tasks: Vec<JoinHandle<()>>,
}

impl EventStream {
    /// The next event. `None` after an error, which is the last thing a stream says.
    pub async fn next(&mut self) -> Option<Result<LeaseEvent, Error>> {
        let event = self.events.recv().await?;
        self.note(&event);
        Some(event)
    }

    /// As [`EventStream::next`], for the blocking face.
    pub(crate) fn blocking_next(&mut self) -> Option<Result<LeaseEvent, Error>> {
        let event = self.events.blocking_recv()?;
        self.note(&event);
        Some(event)
    }

    fn note(&mut self, event: &Result<LeaseEvent, Error>) {
        match event {
            Ok(event) => self.positions[event.shard as usize] = event.resume_at,
            Err(_) => self.events.close(),
        }
    }

    /// Where each shard's events resume after what [`EventStream::next`] has given, by shard: the value
    /// to store for [`SubscribeFrom::Positions`].
    #[must_use]
    pub fn positions(&self) -> &[Position] {
        &self.positions
    }
}

impl Drop for EventStream {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

impl Client {
    /// Subscribes to the ends of leases on all shards. When this returns, everything that happens from
    /// here on will be seen.
    ///
    /// # Errors
    /// Those of [`Error`]. Positions that are too old are not an error: the stream starts with a
    /// [`LeaseEventKind::Gap`].
    pub async fn subscribe(&self, from: SubscribeFrom) -> Result<EventStream, Error> {
        let shared = &self.inner.shared;
        let (sender, events) = mpsc::channel(EVENTS_MAX);
        let mut stream = EventStream { events, positions: Vec::new(), tasks: Vec::new() };
        let mut started = Vec::new();
        for shard in 0..self.shard_count() {
            let from = match &from {
                SubscribeFrom::Now => Position::NOW,
                SubscribeFrom::Oldest => Position::OLDEST,
                SubscribeFrom::Positions(list) => *list.get(shard as usize).unwrap_or(&Position::OLDEST),
            };
            let (ready, is_ready) = oneshot::channel();
            let reader = ShardReader {
                shared: Arc::clone(shared),
                shard,
                next: from,
                sender: sender.clone(),
                ready: Some(ready),
            };
            stream.tasks.push(tokio::spawn(reader.run()));
            started.push(is_ready);
        }
        for is_ready in started {
            let after = shared.config.request_timeout;
            let start = tokio::time::timeout(after, is_ready).await;
            let start = start.map_err(|_| Error::Timeout { after, reason: shared.last_failure() })?;
            stream.positions.push(start.map_err(|_| Error::Closed)??);
        }
        Ok(stream)
    }
}

/// Reads one shard's events for as long as the stream lives.
struct ShardReader {
    shared: Arc<Shared>,
    shard: u16,
    /// Where to subscribe from next.
    next: Position,
    sender: mpsc::Sender<Result<LeaseEvent, Error>>,
    /// Told the start position once, or why there is none.
    ready: Option<oneshot::Sender<Result<Position, Error>>>,
}

/// Why a connection's reading stopped.
enum Stopped {
    /// Connect again and resume.
    Lost(String),
    /// The server will not serve this subscription.
    Refused(Error),
    /// The consumer is gone.
    Unused,
}

impl ShardReader {
    async fn run(mut self) {
        let mut waits = backoff(&self.shared.config, self.shared.client_id ^ u64::from(self.shard));
        loop {
            let stopped = match open(&self.shared, Some(self.shard)).await {
                Ok(opened) => {
                    waits.reset();
                    self.read(opened).await
                }
                Err(failure) if failure.is_final => Stopped::Refused(failure.error),
                Err(failure) => Stopped::Lost(failure.error.to_string()),
            };
            match stopped {
                Stopped::Unused => return,
                Stopped::Lost(reason) => self.shared.note_failure(&reason),
                Stopped::Refused(error) => {
                    if let Some(ready) = self.ready.take() {
                        let _ = ready.send(Err(error));
                    } else {
                        let _ = self.sender.send(Err(error)).await;
                    }
                    return;
                }
            }
            if self.sender.is_closed() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(waits.next_ms())).await;
        }
    }

    async fn read(&mut self, opened: Opened) -> Stopped {
        let Opened { stream, mut connection } = opened;
        let mut tick = tokio::time::interval(Duration::from_millis(connection.next_tick_ms()));
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        if let Err(error) = self.subscribe(&mut connection) {
            return Stopped::Lost(error.to_string());
        }
        loop {
            loop {
                let step = match connection.poll() {
                    Ok(Some(delivery)) => self.step(&delivery),
                    Ok(None) => break,
                    Err(error) => return Stopped::Lost(error.to_string()),
                };
                let (event, subscribe_again) = match step {
                    Step::Nothing => continue,
                    Step::Stop(stopped) => return stopped,
                    Step::Event(event) => (event, false),
                    Step::TooOld(gap) => (gap, true),
                };
                self.next = event.resume_at;
                if self.sender.send(Ok(event)).await.is_err() {
                    return Stopped::Unused;
                }
                if subscribe_again && let Err(error) = self.subscribe(&mut connection) {
                    return Stopped::Lost(error.to_string());
                }
            }
            if let Some(stopped) = self.wait(&stream, &mut connection, &mut tick).await {
                return stopped;
            }
        }
    }

    fn subscribe(&self, connection: &mut Connection) -> Result<(), SendError> {
        connection.send(&Request::Subscribe { shard: self.shard, from: self.next }, 0).map(|_| ())
    }

    /// What a delivery means, in owned form: it borrows the connection, and what follows awaits.
    fn step(&mut self, delivery: &Delivery<'_>) -> Step {
        match delivery {
            Delivery::Event { event, .. } if event.shard() == self.shard => {
                Step::Event(LeaseEvent::from_wire(event))
            }
            Delivery::Reply { response: Response::Subscribed { start, .. }, .. } => {
                if self.next == Position::NOW {
                    self.next = *start;
                }
                if let Some(ready) = self.ready.take() {
                    let _ = ready.send(Ok(*start));
                }
                Step::Nothing
            }
            Delivery::Reply { response: Response::Refused(refused), .. } => self.refused(refused),
            Delivery::GoAway(refused) => Step::Stop(Stopped::Lost(refused.refusal.to_string())),
            other => Step::Stop(Stopped::Lost(format!("unexpected {other:?}"))),
        }
    }

    fn refused(&self, refused: &Refused<'_>) -> Step {
        match refused.refusal {
            // Only forward: a server that names an older position would send the reader in circles.
            Refusal::PositionTooOld if refused.detail > self.next.0 => Step::TooOld(LeaseEvent {
                shard: self.shard,
                resume_at: Position(refused.detail),
                kind: LeaseEventKind::Gap { from: self.next },
            }),
            Refusal::PositionTooOld | Refusal::Busy | Refusal::SlowReader | Refusal::ShuttingDown => {
                Step::Stop(Stopped::Lost(refused.refusal.to_string()))
            }
            refusal => Step::Stop(Stopped::Refused(Error::Refused {
                refusal,
                detail: refused.detail,
                text: refused.text.to_owned(),
            })),
        }
    }

    /// Writes and reads what there is, waiting for it if there is none.
    async fn wait(
        &self,
        stream: &TcpStream,
        connection: &mut Connection,
        tick: &mut Interval,
    ) -> Option<Stopped> {
        if let Err(error) = write_some(stream, connection) {
            return Some(Stopped::Lost(error.to_string()));
        }
        let wants_write = !connection.outgoing().is_empty();
        let io = tokio::select! {
            result = stream.readable() => match result {
                Ok(()) => read_some(stream, connection),
                Err(error) => Err(error),
            },
            result = stream.writable(), if wants_write => result,
            _ = tick.tick() => connection.tick(BootTime::now().as_ms()).map_err(std::io::Error::other),
            () = self.sender.closed() => return Some(Stopped::Unused),
        };
        io.err().map(|error| Stopped::Lost(error.to_string()))
    }
}

/// What one delivery means to a shard's reader.
enum Step {
    Nothing,
    Event(LeaseEvent),
    /// The position is no longer kept: say so, and subscribe again where events begin.
    TooOld(LeaseEvent),
    Stop(Stopped),
}
