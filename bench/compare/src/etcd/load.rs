//! The load on etcd: unary calls so many in flight, and keepalive streams with a window each.
//!
//! All of it on the thread that calls, which sleeps when nothing is due: etcd spends so much per call that
//! polling would gain nothing. What the thread used is the load's CPU time.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use bytes::Bytes;
use h2::SendStream;
use tenure_bench::instruments::thread_cpu_ns;
use tokio::runtime::Runtime;
use tokio::task::LocalSet;

use super::channel::{Channel, GRANT, Inbox, KEEP_ALIVE, REVOKE, TIME_TO_LIVE};
use super::message::{self, Unframe};
use crate::ring_load::{Clock, Found};
use crate::talk::{Book, Heard};

/// Answers may take this long; then the run has failed.
pub(super) const SILENCE_MAX: Duration = Duration::from_secs(30);

/// The load side of one server.
pub(crate) struct Party {
    pub(crate) runtime: Runtime,
    pub(crate) channels: Vec<Channel>,
    pub(crate) book: Book,
    pub(crate) clock: Clock,
}

/// Which unary call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    Grant { ttl_s: u64 },
    Revoke,
}

/// How many unary calls.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Calls {
    pub(crate) call: Call,
    pub(crate) in_flight: usize,
    pub(crate) span: Duration,
    pub(crate) leases_max: u64,
}

/// How keepalives are streamed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Streams {
    pub(crate) streams: usize,
    pub(crate) window: usize,
    pub(crate) span: Duration,
}

/// What the tasks of a loop share.
pub(crate) struct Shared {
    pub(crate) book: Book,
    pub(crate) heard: Heard,
    /// The loop has come to its end.
    pub(crate) over: bool,
    left: u64,
}

/// One keepalive stream, its replies counted and timed in order.
pub(crate) struct KeepAlives {
    out: SendStream<Bytes>,
    inbox: Inbox,
    unframe: Unframe,
    /// When requests were meant to leave, and how many of them.
    sent: VecDeque<(u64, usize)>,
}

impl Party {
    /// # Errors
    /// When there is no server.
    pub(crate) fn connect(address: SocketAddr, connections: usize, ttl_ms: u64) -> anyhow::Result<Party> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let mut channels = Vec::new();
        for _ in 0..connections {
            channels.push(runtime.block_on(Channel::connect(address))?);
        }
        let clock = Clock::start();
        Ok(Party { runtime, channels, book: Book::new(ttl_ms, clock.wall_offset_ns()), clock })
    }

    /// Waits until etcd has a leader and answers a write.
    ///
    /// # Errors
    /// When it does not within a minute.
    pub(crate) fn wait_until_ready(&mut self) -> anyhow::Result<()> {
        let began = Instant::now();
        loop {
            let mut request = Vec::new();
            message::grant(&mut request, 60);
            let answer = self.runtime.block_on(self.channels[0].unary(GRANT, request));
            match answer {
                Ok(_) => return Ok(()),
                Err(error) if began.elapsed() > Duration::from_secs(60) => {
                    return Err(error.context("etcd does not grant"));
                }
                Err(_) => std::thread::sleep(Duration::from_millis(20)),
            }
        }
    }

    /// Seconds that a lease has left; negative: there is no such lease.
    ///
    /// # Errors
    /// When etcd does not answer.
    pub(crate) fn remaining_s(&self, id: u64) -> anyhow::Result<i64> {
        let mut request = Vec::new();
        message::time_to_live(&mut request, id);
        let answer = self.runtime.block_on(self.channels[0].unary(TIME_TO_LIVE, request))?;
        Ok(message::lease_response(&answer)?.1)
    }

    /// Runs `work` for every number below `tasks` at once, all on this thread.
    pub(crate) fn on_tasks<F: Future<Output = anyhow::Result<()>> + 'static>(
        &mut self,
        tasks: usize,
        leases_max: u64,
        work: impl Fn(usize, Channel, Rc<RefCell<Shared>>) -> F,
    ) -> anyhow::Result<Found> {
        let book = std::mem::replace(&mut self.book, Book::new(0, 0));
        let shared = Shared { book, heard: Heard::new(u64::MAX), over: false, left: leases_max };
        let shared = Rc::new(RefCell::new(shared));
        let (began_ns, cpu_ns) = (self.clock.now_ns(), thread_cpu_ns());
        let local = LocalSet::new();
        let results = local.block_on(&self.runtime, async {
            let tasks: Vec<_> = (0..tasks)
                .map(|number| {
                    let channel = self.channels[number % self.channels.len()].clone();
                    tokio::task::spawn_local(work(number, channel, Rc::clone(&shared)))
                })
                .collect();
            let mut results = Vec::new();
            for task in tasks {
                results.push(task.await.context("a load task panicked").flatten());
            }
            results
        });
        drop(local);
        let busy_ns = thread_cpu_ns() - cpu_ns;
        let elapsed_ns = (self.clock.now_ns() - began_ns).max(1);
        let shared = Rc::try_unwrap(shared).ok().context("a load task lives on")?.into_inner();
        self.book = shared.book;
        results.into_iter().collect::<anyhow::Result<()>>()?;
        Ok(Found { elapsed_ns, busy_ns, heard: shared.heard })
    }

    /// Calls until time or leases are used up.
    ///
    /// # Errors
    /// When a connection fails or etcd stops answering.
    pub(crate) fn calls(&mut self, calls: Calls) -> anyhow::Result<Found> {
        let (clock, began) = (self.clock, Instant::now());
        self.on_tasks(calls.in_flight, calls.leases_max, move |_, channel, shared| async move {
            while began.elapsed() < calls.span {
                let Some((path, request)) = next_call(calls.call, &mut shared.borrow_mut()) else {
                    return Ok(());
                };
                let sent_ns = clock.now_ns();
                let answer = tokio::time::timeout(SILENCE_MAX, channel.unary(path, request)).await;
                let answer = answer.with_context(|| format!("no answer to {path} in {SILENCE_MAX:?}"))?;
                let shared = &mut *shared.borrow_mut();
                shared.heard.unit(sent_ns, clock.now_ns());
                match answer {
                    Ok(message) => {
                        shared.heard.operations += 1;
                        if let Call::Grant { .. } = calls.call {
                            shared.book.grant(message::lease_response(&message)?.0);
                        }
                    }
                    Err(error) => shared.heard.error(&format!("{error:#}"), 1),
                }
            }
            Ok(())
        })
    }

    /// Renews over streams until the time is up and every answer has come.
    ///
    /// # Errors
    /// When a connection fails or etcd stops answering.
    pub(crate) fn keep_alive(&mut self, streams: Streams) -> anyhow::Result<Found> {
        let (clock, began) = (self.clock, Instant::now());
        self.on_tasks(streams.streams, u64::MAX, move |_, channel, shared| async move {
            let mut stream = KeepAlives::open(&channel).await?;
            stream.send(streams.window, clock.now_ns(), &mut shared.borrow_mut())?;
            while stream.in_flight() > 0 {
                let answered = stream.answers(&shared, clock).await?;
                if began.elapsed() < streams.span {
                    stream.send(answered, clock.now_ns(), &mut shared.borrow_mut())?;
                }
            }
            stream.close()
        })
    }
}

fn next_call(call: Call, shared: &mut Shared) -> Option<(&'static str, Vec<u8>)> {
    shared.left = shared.left.checked_sub(1)?;
    let mut request = Vec::with_capacity(32);
    match call {
        Call::Grant { ttl_s } => {
            message::grant(&mut request, ttl_s);
            Some((GRANT, request))
        }
        Call::Revoke => {
            message::lease(&mut request, shared.book.held.pop()?);
            Some((REVOKE, request))
        }
    }
}

impl KeepAlives {
    pub(crate) async fn open(channel: &Channel) -> anyhow::Result<KeepAlives> {
        let (out, inbox) = channel.stream(KEEP_ALIVE).await?;
        Ok(KeepAlives { out, inbox, unframe: Unframe::default(), sent: VecDeque::new() })
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.sent.iter().map(|(_, count)| count).sum()
    }

    /// Sends `count` requests in one frame, meant for `meant_ns`.
    pub(crate) fn send(&mut self, count: usize, meant_ns: u64, shared: &mut Shared) -> anyhow::Result<()> {
        if count == 0 {
            return Ok(());
        }
        let mut requests = Vec::with_capacity(count * 17);
        for _ in 0..count {
            let id = shared.book.next().context("there is no lease to renew")?;
            message::lease(&mut requests, id);
        }
        self.sent.push_back((meant_ns, count));
        Ok(self.out.send_data(requests.into(), false)?)
    }

    /// Waits for the next chunk of answers; how many they were.
    pub(crate) async fn answers(
        &mut self,
        shared: &Rc<RefCell<Shared>>,
        clock: Clock,
    ) -> anyhow::Result<usize> {
        let chunk = tokio::time::timeout(SILENCE_MAX, self.inbox.next()).await;
        let chunk = chunk.with_context(|| format!("no keepalive was answered in {SILENCE_MAX:?}"))??;
        let Some(chunk) = chunk else { bail!("etcd ended a keepalive stream") };
        let (now_ns, mut count) = (clock.now_ns(), 0);
        let shared = &mut *shared.borrow_mut();
        let sent = &mut self.sent;
        self.unframe.take(&chunk, |answer| {
            count += 1;
            let (_, ttl) = message::lease_response(answer)?;
            if ttl > 0 {
                shared.heard.operations += 1;
            } else {
                shared.heard.error("no such lease", 1);
            }
            let (sent_ns, left) = sent.front_mut().context("a reply that nobody waits for")?;
            shared.heard.unit(*sent_ns, now_ns);
            *left -= 1;
            if *left == 0 {
                sent.pop_front();
            }
            Ok(())
        })?;
        Ok(count)
    }

    pub(crate) fn close(mut self) -> anyhow::Result<()> {
        Ok(self.out.send_data(Bytes::new(), true)?)
    }
}
