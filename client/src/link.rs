//! One connection to the server, kept up by a task of its own: connects, pipelines, reconnects, repeats.
//!
//! Callers hand over [`Job`]s through a bounded channel. The task encodes whatever has gathered, writes
//! it with one call, reads whatever has come, and hands the answers back; so callers that run at the
//! same time share frames' trips without knowing of each other. When the connection is lost, jobs that
//! may be repeated stay and go out again over the next one; the others fail with their outcome unknown.
//!
//! The logic of the connection is in [`crate::machine::Connection`]; this file only moves bytes.
//!
//! S8 bounded: the channel holds [`JOBS_MAX`] jobs, the connection the server's window.

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicU16, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tenure_protocol::{ID_RULE, limits};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{MissedTickBehavior, sleep, timeout};

use crate::call::{Answer, Call};
use crate::clock::BootTime;
use crate::config::ClientConfig;
use crate::error::Error;
use crate::machine::{Backoff, Connection, ConnectionConfig, ConnectionError, Delivery, SendError};

/// Jobs that wait for a link, at most.
const JOBS_MAX: usize = 4_096;
/// Jobs taken from the channel in one turn: enough for one write, few enough to keep reading.
const JOBS_PER_TURN: usize = 512;

/// A request on its way, and where its answer goes.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) call: Call,
    pub(crate) reply: oneshot::Sender<Result<Reply, Error>>,
    /// Keep-alives decide for themselves what to do about a lost connection.
    pub(crate) may_repeat: bool,
    /// An earlier attempt may have been carried out.
    pub(crate) repeated: bool,
    pub(crate) sent_at: BootTime,
}

/// The answer to a job.
#[derive(Debug)]
pub(crate) struct Reply {
    /// What the server said; a refusal is an answer, too.
    pub(crate) answer: Result<Answer, Error>,
    /// When the attempt that was answered was encoded: the moment from which a TTL counts.
    pub(crate) sent_at: BootTime,
    /// An earlier attempt may have been carried out.
    pub(crate) repeated: bool,
}

/// What all links of a client share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) config: ClientConfig,
    pub(crate) client_id: u64,
    /// Shards of the server; 1 when its ID rule is not known here.
    pub(crate) shard_count: AtomicU16,
    /// What the server takes in one batch, as it said last.
    pub(crate) batch_ids_max: AtomicU32,
    pub(crate) grant_batch_max: AtomicU32,
    /// What kept the last attempt to connect from succeeding, or ended the last connection.
    pub(crate) last_failure: Mutex<Option<String>>,
}

impl Shared {
    pub(crate) fn new(config: ClientConfig) -> Shared {
        let client_id = config.client_id.unwrap_or_else(rand::random).max(1);
        Shared {
            config,
            client_id,
            shard_count: AtomicU16::new(1),
            batch_ids_max: AtomicU32::new(limits::BATCH_IDS_MAX),
            grant_batch_max: AtomicU32::new(limits::GRANT_BATCH_MAX),
            last_failure: Mutex::new(None),
        }
    }

    /// Most IDs in one frame, within what the server takes.
    pub(crate) fn frame_ids(&self, wish: usize) -> usize {
        wish.min(self.batch_ids_max.load(Ordering::Relaxed) as usize).max(1)
    }

    /// Most grants in one frame, within what the server takes.
    pub(crate) fn frame_grants(&self, wish: usize) -> usize {
        wish.min(self.grant_batch_max.load(Ordering::Relaxed) as usize).max(1)
    }

    pub(crate) fn note_failure(&self, reason: &str) {
        *self.last_failure.lock().expect("no holder panics") = Some(reason.to_owned());
    }

    pub(crate) fn last_failure(&self) -> Option<String> {
        self.last_failure.lock().expect("no holder panics").clone()
    }

    pub(crate) fn shard_count(&self) -> u16 {
        self.shard_count.load(Ordering::Relaxed)
    }
}

/// The callers' end of a link.
#[derive(Clone, Debug)]
pub(crate) struct Link {
    jobs: mpsc::Sender<Job>,
}

impl Link {
    /// Starts the task of a link whose first connection is made already.
    pub(crate) fn start(shared: Arc<Shared>, wish_shard: Option<u16>, first: Option<Opened>) -> Link {
        let (jobs, inbox) = mpsc::channel(JOBS_MAX);
        let seed = shared.client_id.rotate_left(u32::from(wish_shard.unwrap_or(0)) + 1);
        let backoff = backoff(&shared.config, seed);
        let task = LinkTask {
            shared,
            wish_shard,
            inbox,
            backlog: VecDeque::new(),
            pending: Pending::default(),
            backoff,
            leaving: None,
        };
        tokio::spawn(task.run(first));
        Link { jobs }
    }

    pub(crate) async fn send(&self, job: Job) -> Result<(), Error> {
        self.jobs.send(job).await.map_err(|_| Error::Closed)
    }
}

/// The waits between attempts to connect.
pub(crate) fn backoff(config: &ClientConfig, seed: u64) -> Backoff {
    let (min, max) = config.backoff;
    Backoff::new(min.as_millis() as u64, max.as_millis() as u64, seed)
}

/// A connection whose handshake is done.
pub(crate) struct Opened {
    pub(crate) stream: TcpStream,
    pub(crate) connection: Connection,
}

/// Why an attempt to connect failed.
pub(crate) struct OpenError {
    pub(crate) error: Error,
    /// Trying again will not help.
    pub(crate) is_final: bool,
}

/// Connects to one of the endpoints and shakes hands.
pub(crate) async fn open(shared: &Shared, wish_shard: Option<u16>) -> Result<Opened, OpenError> {
    let mut last = OpenError {
        error: Error::Unreachable { reason: "no endpoint is configured".into() },
        is_final: true,
    };
    for endpoint in &shared.config.endpoints {
        let attempt = timeout(shared.config.connect_timeout, open_one(shared, endpoint, wish_shard));
        let failure = match attempt.await {
            Ok(Ok(opened)) => return Ok(opened),
            Ok(Err(failure)) => failure,
            Err(_) => temporary("no answer within the connect timeout"),
        };
        let error = match failure.error {
            Error::Unreachable { reason } => Error::Unreachable { reason: format!("{endpoint}: {reason}") },
            error => error,
        };
        shared.note_failure(&error.to_string());
        last = OpenError { error, is_final: failure.is_final };
    }
    Err(last)
}

#[allow(clippy::needless_pass_by_value, reason = "made for map_err")]
fn temporary(reason: impl ToString) -> OpenError {
    OpenError { error: Error::Unreachable { reason: reason.to_string() }, is_final: false }
}

async fn open_one(shared: &Shared, endpoint: &str, wish_shard: Option<u16>) -> Result<Opened, OpenError> {
    let stream = TcpStream::connect(endpoint).await.map_err(temporary)?;
    // Frames are written whole and at once: Nagle's delay would only add to every round trip.
    stream.set_nodelay(true).map_err(temporary)?;
    let mut connection = Connection::new(&ConnectionConfig {
        client_id: shared.client_id,
        wish_shard,
        auth: shared.config.auth.clone(),
        silence_ms_max: shared.config.silence_max.as_millis() as u64,
    });
    loop {
        write_some(&stream, &mut connection).map_err(temporary)?;
        match connection.poll() {
            Ok(Some(Delivery::Welcome(_))) => break,
            Ok(Some(Delivery::GoAway(refused))) => return Err(temporary(refused.refusal)),
            Ok(Some(other)) => unreachable!("L2: nothing was asked before the handshake: {other:?}"),
            Ok(None) => {}
            Err(ConnectionError::Refused { refusal, text }) => {
                let is_final = refusal != tenure_protocol::Refusal::TooManyConnections
                    && refusal != tenure_protocol::Refusal::ShuttingDown;
                return Err(OpenError { error: Error::Refused { refusal, detail: 0, text }, is_final });
            }
            Err(error) => return Err(temporary(error)),
        }
        if connection.outgoing().is_empty() {
            stream.readable().await.map_err(temporary)?;
            read_some(&stream, &mut connection).map_err(temporary)?;
        } else {
            stream.writable().await.map_err(temporary)?;
        }
    }
    let terms = connection.terms();
    let shard_count = if terms.id_rule == ID_RULE { terms.shard_count } else { 1 };
    shared.shard_count.store(shard_count, Ordering::Relaxed);
    shared.batch_ids_max.store(terms.limits.batch_ids_max, Ordering::Relaxed);
    shared.grant_batch_max.store(terms.limits.grant_batch_max, Ordering::Relaxed);
    Ok(Opened { stream, connection })
}

/// Writes what the socket takes now.
pub(crate) fn write_some(stream: &TcpStream, connection: &mut Connection) -> io::Result<()> {
    let outgoing = connection.outgoing();
    let mut written = 0;
    let result = loop {
        if written == outgoing.len() {
            break Ok(());
        }
        match stream.try_write(&outgoing[written..]) {
            Ok(0) => break Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => written += count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break Ok(()),
            Err(error) => break Err(error),
        }
    };
    outgoing.drain(..written);
    result
}

/// Reads what the socket has now.
pub(crate) fn read_some(stream: &TcpStream, connection: &mut Connection) -> io::Result<()> {
    match stream.try_read(connection.spare()) {
        Ok(0) => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the server closed the connection")),
        Ok(count) => {
            connection.received(count);
            Ok(())
        }
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
        Err(error) => Err(error),
    }
}

/// Jobs that wait for their answers, found by the token given to the connection.
#[derive(Default)]
struct Pending {
    jobs: Vec<Option<Job>>,
    free: Vec<usize>,
}

impl Pending {
    fn insert(&mut self, job: Job) -> u64 {
        let index = self.free.pop().unwrap_or_else(|| {
            self.jobs.push(None);
            self.jobs.len() - 1
        });
        self.jobs[index] = Some(job);
        index as u64
    }

    fn remove(&mut self, token: u64) -> Job {
        self.free.push(token as usize);
        self.jobs[token as usize].take().expect("L2: a token comes back once")
    }

    fn drain(&mut self) -> impl Iterator<Item = Job> + use<> {
        self.free.clear();
        std::mem::take(&mut self.jobs).into_iter().flatten()
    }
}

struct LinkTask {
    shared: Arc<Shared>,
    wish_shard: Option<u16>,
    inbox: mpsc::Receiver<Job>,
    /// Jobs to send before those in the inbox: repeats, and those for which there was no room.
    backlog: VecDeque<Job>,
    pending: Pending,
    backoff: Backoff,
    /// The server's reason for going away, once it has said so.
    leaving: Option<String>,
}

/// How a connection ended.
enum Ended {
    /// No caller is left.
    Unused,
    Lost(String),
}

impl LinkTask {
    async fn run(mut self, first: Option<Opened>) {
        let mut opened = first;
        loop {
            let Some(next) = (match opened.take() {
                Some(opened) => Some(opened),
                None => self.reopen().await,
            }) else {
                return;
            };
            self.backoff.reset();
            match self.serve(next).await {
                Ended::Unused => return,
                Ended::Lost(reason) => {
                    self.shared.note_failure(&reason);
                    self.keep_repeatable(&reason);
                }
            }
        }
    }

    /// Connects again, for as long as it takes and somebody is interested. `None`: nobody is.
    async fn reopen(&mut self) -> Option<Opened> {
        loop {
            self.backlog.retain(|job| !job.reply.is_closed());
            if self.backlog.is_empty() {
                // Without work there is no hurry: the next job brings the connection back.
                self.backlog.push_back(self.inbox.recv().await?);
            }
            match open(&self.shared, self.wish_shard).await {
                Ok(opened) => return Some(opened),
                Err(failure) if failure.is_final => {
                    while let Ok(job) = self.inbox.try_recv() {
                        self.backlog.push_back(job);
                    }
                    for job in self.backlog.drain(..) {
                        let _ = job.reply.send(Err(failure.error.clone()));
                    }
                }
                Err(failure) => self.fail_impatient(&failure.error),
            }
            sleep(Duration::from_millis(self.backoff.next_ms())).await;
        }
    }

    /// Jobs that do not want to wait for the next connection are told so.
    fn fail_impatient(&mut self, error: &Error) {
        while self.backlog.len() < JOBS_MAX
            && let Ok(job) = self.inbox.try_recv()
        {
            self.backlog.push_back(job);
        }
        let backlog = std::mem::take(&mut self.backlog);
        let (patient, impatient): (VecDeque<Job>, VecDeque<Job>) =
            backlog.into_iter().partition(|job| job.may_repeat);
        self.backlog = patient;
        for job in impatient {
            let _ = job.reply.send(Err(error.clone()));
        }
    }

    /// After a lost connection: what may be repeated stays in the backlog, the rest fails.
    fn keep_repeatable(&mut self, reason: &str) {
        for mut job in self.pending.drain() {
            if job.reply.is_closed() {
                continue;
            }
            if job.may_repeat {
                job.repeated = true;
                self.backlog.push_front(job);
            } else {
                let _ = job.reply.send(Err(Error::Disconnected { reason: reason.to_owned() }));
            }
        }
    }

    /// Moves bytes until the connection ends or nobody needs it any more.
    async fn serve(&mut self, opened: Opened) -> Ended {
        let Opened { stream, mut connection } = opened;
        let mut taken = Vec::with_capacity(JOBS_PER_TURN);
        let mut tick = tokio::time::interval(Duration::from_millis(connection.next_tick_ms()));
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut is_closing = false;
        self.leaving = None;
        loop {
            if let Err(reason) = self.turn(&stream, &mut connection) {
                connection.abandon();
                return Ended::Lost(reason);
            }
            if is_closing && self.backlog.is_empty() && connection.in_flight() == 0 {
                return Ended::Unused;
            }
            if let Some(reason) = self.leaving.take_if(|_| connection.in_flight() == 0) {
                return Ended::Lost(reason);
            }
            let has_room = connection.room() > 0 && self.backlog.is_empty() && !is_closing;
            let wants_write = !connection.outgoing().is_empty();
            let io = tokio::select! {
                biased;
                result = stream.readable() => match result {
                    Ok(()) => read_some(&stream, &mut connection),
                    Err(error) => Err(error),
                },
                result = stream.writable(), if wants_write => result,
                count = self.inbox.recv_many(&mut taken, JOBS_PER_TURN), if has_room => {
                    is_closing = count == 0;
                    self.backlog.extend(taken.drain(..));
                    Ok(())
                }
                _ = tick.tick() => connection.tick(BootTime::now().as_ms()).map_err(io::Error::other),
            };
            if let Err(error) = io {
                // What arrived before the end is still worth reading.
                let _ = self.deliver(&mut connection);
                connection.abandon();
                return Ended::Lost(error.to_string());
            }
        }
    }

    /// One turn without waiting: answers out, requests in, bytes to the socket.
    fn turn(&mut self, stream: &TcpStream, connection: &mut Connection) -> Result<(), String> {
        self.deliver(connection)?;
        // Without waiting, so that a stream of answers cannot keep new requests from being sent.
        let mut room = JOBS_PER_TURN.min(connection.room() as usize);
        while room > 0
            && let Ok(job) = self.inbox.try_recv()
        {
            self.backlog.push_back(job);
            room -= 1;
        }
        self.encode(connection);
        write_some(stream, connection).map_err(|error| error.to_string())
    }

    fn deliver(&mut self, connection: &mut Connection) -> Result<(), String> {
        loop {
            match connection.poll().map_err(|error| error.to_string())? {
                None => return Ok(()),
                Some(Delivery::Reply { token, response }) => {
                    let job = self.pending.remove(token);
                    let answer = Answer::from_response(&response);
                    if answer.as_ref().is_ok_and(|answer| !answer.covers(&job.call)) {
                        let reason = "the server answered another number of entries than was asked about";
                        let _ = job.reply.send(Err(Error::Disconnected { reason: reason.into() }));
                        return Err(reason.into());
                    }
                    let reply = Reply { answer, sent_at: job.sent_at, repeated: job.repeated };
                    // The caller may have stopped waiting.
                    let _ = job.reply.send(Ok(reply));
                }
                // What is under way may still be answered; nothing more is sent.
                Some(Delivery::GoAway(refused)) => self.leaving = Some(refused.refusal.to_string()),
                Some(Delivery::Welcome(_) | Delivery::Event { .. }) => {
                    unreachable!("L2: links shake hands once, before this, and never subscribe")
                }
            }
        }
    }

    fn encode(&mut self, connection: &mut Connection) {
        if self.backlog.is_empty() {
            return;
        }
        // One reading serves all: a moment too early only shortens what the client trusts.
        let now = BootTime::now();
        while let Some(mut job) = self.backlog.pop_front() {
            if job.reply.is_closed() {
                continue;
            }
            job.sent_at = now;
            if connection.room() == 0 {
                self.backlog.push_front(job);
                return;
            }
            let token = self.pending.insert(job);
            let job = self.pending.jobs[token as usize].as_ref().expect("L2: just inserted");
            match job.call.send(connection, token) {
                Ok(()) => {}
                Err(error @ (SendError::BatchTooLarge { .. } | SendError::TooLarge)) => {
                    let job = self.pending.remove(token);
                    let _ = job.reply.send(Err(Error::TooLarge(error)));
                }
                Err(SendError::NotReady | SendError::WindowFull | SendError::Closed) => {
                    self.backlog.push_front(self.pending.remove(token));
                    return;
                }
            }
        }
    }
}
