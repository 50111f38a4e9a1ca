//! The ring driver: one core's sockets on the core's io_uring.
//!
//! Everything is a completion. A multishot accept per listener brings sockets, a multishot receive
//! per connection brings bytes in buffers that all connections share, and per connection and turn at
//! most one send leaves, with everything that the turn answered. There is no system call per frame,
//! per connection or per readiness: the shell's one `enter` a turn submits and reaps all of it.
//!
//! - At most one send is in flight per connection, so bytes leave in order.
//! - A connection is forgotten only after the last completion of its operations; until then its slot
//!   and generation, which travel in `user_data`, are not used again.
//! - A multishot operation that ends by itself (buffers ran out, the kernel felt like it) is armed
//!   again; one that was paused for back-pressure is armed when the session wants to read (S8).
//!
//! What the bytes mean is the business of [`Session`](super::session::Session).

use std::collections::VecDeque;
use std::net::Shutdown;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use socket2::SockRef;
use tenure::ShardIndex;
use tenure::shell::ring::{Completion, Ring, RingService};
use tenure::station::Station;

use super::front::{Arrival, Front};
use super::limits;
use super::listen;
use super::session::{Fate, Session};
use super::sessions::slot_of;
use super::shared::Shared;

mod kernel;

use kernel::{Outbox, Pool};

const ACCEPT: u64 = 1 << 56;
const RECEIVE: u64 = 2 << 56;
const SEND: u64 = 3 << 56;
const CANCEL: u64 = 4 << 56;
const TAG: u64 = 0xff << 56;

/// Where a connection's receive stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Receiving {
    Idle,
    Armed,
    Cancelling,
}

/// A connection's socket.
struct Link {
    key: u64,
    socket: OwnedFd,
    receiving: Receiving,
    outbox: Outbox,
    /// The other side will send no more.
    at_end: bool,
    /// Everything has been said; waiting for the other side to close.
    leaving: bool,
    /// The socket is useless.
    broken: bool,
    /// It was shut down, so that what is in flight completes.
    shut: bool,
}

impl Link {
    /// `user_data` of one of its operations: kind, low bits of the generation, slot.
    fn user_data(&self, tag: u64) -> u64 {
        tag | self.key & !TAG
    }

    fn is_quiet(&self) -> bool {
        self.receiving == Receiving::Idle && !self.outbox.is_busy()
    }
}

/// A listener of this core.
struct Listener {
    socket: Option<OwnedFd>,
    armed: bool,
    /// Not armed before, because the system had no descriptor left.
    paused_until_ms: u64,
}

/// One core's sockets.
pub(crate) struct RingDriver {
    front: Front,
    pool: Option<Pool>,
    links: Vec<Option<Link>>,
    listeners: Vec<Listener>,
    /// Connections that are leaving, and since when.
    lingering: VecDeque<(u64, u64)>,
    /// Connections that could not be carried to another core.
    staying: Vec<u64>,
    touched: Vec<u64>,
}

impl RingDriver {
    pub(crate) fn new(shared: Arc<Shared>, core: ShardIndex) -> RingDriver {
        RingDriver {
            front: Front::new(shared, core.0),
            pool: None,
            links: Vec::new(),
            listeners: Vec::new(),
            lingering: VecDeque::new(),
            staying: Vec::new(),
            touched: Vec::new(),
        }
    }

    /// Whether the receive buffers of a core can be registered.
    ///
    /// # Errors
    /// What the kernel answered.
    pub(crate) fn try_ring(ring: &Ring) -> std::io::Result<()> {
        let pool = receive_pool(ring)?;
        // The kernel lets go of the buffers before their memory is freed.
        pool.unregister(ring)
    }

    fn accepted(&mut self, completion: Completion, ring: &mut Ring) {
        let index = (completion.user_data & !TAG) as usize;
        if let Some(socket) = kernel::accepted(completion)
            && !self.front.is_stopping()
        {
            self.enter(socket, false);
        }
        if kernel::goes_on(completion) {
            return;
        }
        let now_ms = self.front.desk.now_ms;
        let listener = &mut self.listeners[index];
        listener.armed = false;
        match -completion.result {
            libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM => {
                tracing::warn!(
                    "out of file descriptors or memory: accepting pauses; raise the limit (ulimit -n)"
                );
                listener.paused_until_ms = now_ms + limits::ACCEPT_PAUSE_MS;
            }
            _ => {}
        }
        self.mind_listeners(ring);
    }

    /// Arms listeners that should accept, closes all when the core stops.
    fn mind_listeners(&mut self, ring: &mut Ring) {
        let stopping = self.front.is_stopping();
        let now_ms = self.front.desk.now_ms;
        for (index, listener) in self.listeners.iter_mut().enumerate() {
            let Some(socket) = &listener.socket else { continue };
            let user_data = ACCEPT | index as u64;
            if stopping && listener.armed {
                // Asked each turn until it has ended: cancelling is harmless when there is nothing.
                kernel::cancel(ring, user_data, CANCEL);
            } else if stopping {
                listener.socket = None;
            } else if !listener.armed && listener.paused_until_ms <= now_ms {
                kernel::accept(ring, socket.as_raw_fd(), user_data);
                listener.armed = true;
            }
        }
    }

    /// Enters a connection; refuses it when there are too many (S8).
    fn enter(&mut self, socket: OwnedFd, placed: bool) -> Option<u64> {
        let Some(key) = self.front.enter(placed) else {
            listen::refuse(&socket);
            return None;
        };
        let slot = slot_of(key);
        if slot >= self.links.len() {
            self.links.resize_with(slot + 1, || None);
        }
        assert!(self.links[slot].is_none(), "a slot is used again only when its connection is forgotten");
        self.links[slot] = Some(Link {
            key,
            socket,
            receiving: Receiving::Idle,
            outbox: Outbox::default(),
            at_end: false,
            leaving: false,
            broken: false,
            shut: false,
        });
        self.front.with(key, |_| {});
        Some(key)
    }

    fn received(&mut self, completion: Completion, station: &mut Station) {
        let pool = self.pool.as_mut().expect("a receive needs the pool");
        let slot = completion.user_data as u32 as usize;
        let link = self.links[slot].as_mut().expect("a connection outlives its operations");
        debug_assert_eq!(link.user_data(RECEIVE), completion.user_data);
        let key = link.key;
        if !kernel::goes_on(completion) {
            link.receiving = Receiving::Idle;
        }
        let buffer = kernel::buffer_of(completion);
        match completion.result {
            1.. => {
                let id = buffer.expect("received bytes are in a buffer of the pool");
                let bytes = pool.received(id, completion.result.unsigned_abs() as usize);
                self.front.receive(key, bytes, station);
            }
            0 => {
                link.at_end = true;
                self.front.with(key, Session::peer_closed);
            }
            error => {
                if -error == libc::ENOBUFS {
                    pool.ran_out();
                }
                link.broken |=
                    !matches!(-error, libc::ENOBUFS | libc::ECANCELED | libc::EAGAIN | libc::EINTR);
                self.front.with(key, |_| {});
            }
        }
        if let Some(id) = buffer {
            pool.give_back(id);
        }
    }

    fn sent(&mut self, completion: Completion, ring: &mut Ring) {
        let slot = completion.user_data as u32 as usize;
        let link = self.links[slot].as_mut().expect("a connection outlives its operations");
        let key = link.key;
        let sent = usize::try_from(completion.result).unwrap_or(0);
        link.broken |= completion.result < 0 && !matches!(-completion.result, libc::EAGAIN | libc::EINTR);
        let more = link.outbox.completed(sent, limits::IDLE_BUFFER_BYTES);
        self.front.sent(key, sent);
        if more && !link.broken {
            let user_data = link.user_data(SEND);
            link.outbox.send(ring, link.socket.as_raw_fd(), user_data);
        } else {
            self.front.with(key, |_| {});
        }
    }

    /// Does for each connection that something happened to what its session and socket ask for.
    fn attend_touched(&mut self, ring: &mut Ring, station: &Station) {
        let mut touched = std::mem::take(&mut self.touched);
        self.front.take_touched(&mut touched);
        for key in touched.drain(..) {
            self.attend(key, ring, station);
        }
        self.touched = touched;
    }

    /// Does for a connection what its session and socket ask for.
    fn attend(&mut self, key: u64, ring: &mut Ring, station: &Station) {
        let Some(session) = self.front.looked_at(key) else { return };
        let link = self.links[slot_of(key)].as_mut().expect("a session has a socket");
        if link.broken {
            session.kill();
        }
        match session.fate() {
            Fate::Keep => {}
            Fate::Abort => return self.abandon(key),
            Fate::Move(core) => {
                if link.receiving == Receiving::Idle {
                    return self.carry(key, core, station);
                }
            }
            Fate::Close if link.at_end => return self.abandon(key),
            Fate::Close if !link.leaving => {
                link.leaving = true;
                // It fails only when the other side has gone, which the receive tells as well.
                let _ = SockRef::from(&link.socket).shutdown(Shutdown::Write);
                self.lingering.push_back((self.front.desk.now_ms, key));
            }
            Fate::Close => {}
        }
        self.pump(key, ring);
    }

    /// Sends and receives as the session wishes.
    fn pump(&mut self, key: u64, ring: &mut Ring) {
        let now_ms = self.front.desk.now_ms;
        let Some(session) = self.front.sessions.find(key) else { return };
        let link = self.links[slot_of(key)].as_mut().expect("a session has a socket");
        let socket = link.socket.as_raw_fd();
        if session.has_outgoing() && !link.outbox.is_busy() {
            session.take_outgoing(link.outbox.buffer(), now_ms);
            let user_data = link.user_data(SEND);
            link.outbox.send(ring, socket, user_data);
        }
        let user_data = link.user_data(RECEIVE);
        match link.receiving {
            Receiving::Idle if session.wants_read() && !link.at_end => {
                kernel::receive(ring, socket, user_data);
                link.receiving = Receiving::Armed;
            }
            Receiving::Armed if !session.wants_read() => {
                kernel::cancel(ring, user_data, CANCEL);
                link.receiving = Receiving::Cancelling;
            }
            _ => {}
        }
    }

    /// Ends a connection: at once when nothing of it is in flight, else with the last completion.
    fn abandon(&mut self, key: u64) {
        let slot = slot_of(key);
        let link = self.links[slot].as_mut().expect("a session has a socket");
        if link.is_quiet() {
            self.links[slot] = None;
            return self.front.leave(key);
        }
        if !link.shut {
            link.shut = true;
            // It fails only when the other side has gone, and then everything completes by itself.
            let _ = SockRef::from(&link.socket).shutdown(Shutdown::Both);
        }
        if let Some(session) = self.front.sessions.find(key) {
            session.kill();
        }
    }

    /// Hands a connection to the core that it wished for.
    fn carry(&mut self, key: u64, core: u16, station: &Station) {
        let slot = slot_of(key);
        let session = self.front.sessions.find(key).expect("it is being looked at");
        let link = self.links[slot].take().expect("a session has a socket");
        assert!(link.is_quiet(), "a connection is carried when nothing of it is in flight");
        let arrival = Arrival { bytes: session.take_carry(), socket: link.socket, at_end: link.at_end };
        let Err(back) = station.send_parcel(ShardIndex(core), Box::new(arrival)) else {
            return self.front.leave(key);
        };
        // That core is too busy to take it: it is served from here, which costs a trip per request.
        let Ok(arrival) = back.downcast::<Arrival>() else { unreachable!("a parcel comes back as it was") };
        let session = self.front.sessions.find(key).expect("it is being looked at");
        session.put_carry(arrival.bytes);
        self.links[slot] = Some(Link { socket: arrival.socket, outbox: Outbox::default(), ..link });
        self.staying.push(key);
    }

    fn arrived(&mut self, arrival: Arrival, station: &mut Station) {
        let Arrival { socket, bytes, at_end } = arrival;
        let Some(key) = self.enter(socket, true) else { return };
        self.front.receive_moved(key, &bytes, station);
        if at_end {
            let link = self.links[slot_of(key)].as_mut().expect("it was just entered");
            link.at_end = true;
            self.front.with(key, Session::peer_closed);
        }
    }

    /// Ends connections that have been leaving for too long, or all when the stop takes too long.
    fn end_overdue(&mut self) {
        let now_ms = self.front.desk.now_ms;
        while let Some(&(since_ms, key)) = self.lingering.front() {
            let linger_ms = if self.front.is_stopping() { limits::LINGER_STOP_MS } else { limits::LINGER_MS };
            if now_ms.saturating_sub(since_ms) < linger_ms {
                break;
            }
            self.lingering.pop_front();
            self.front.with(key, Session::kill);
        }
        if self.front.stop_overdue() {
            let keys: Vec<u64> = self.links.iter().flatten().map(|link| link.key).collect();
            for key in keys {
                self.front.with(key, Session::kill);
            }
        }
    }
}

fn receive_pool(ring: &Ring) -> std::io::Result<Pool> {
    let (first, count) = (limits::RECEIVE_BUFFER_COUNT_FIRST, limits::RECEIVE_BUFFER_COUNT);
    Pool::new(ring, first, count, limits::RECEIVE_BUFFER_BYTES)
}

impl RingService for RingDriver {
    fn start(&mut self, ring: &mut Ring, station: &mut Station) {
        self.front.start(station);
        // The same was tried when the driver was chosen.
        self.pool = Some(receive_pool(ring).unwrap_or_else(|error| {
            panic!("registering receive buffers: {error}; raise the memlock limit or use `--driver glommio`")
        }));
    }

    fn completion(&mut self, completion: Completion, ring: &mut Ring, station: &mut Station) {
        match completion.user_data & TAG {
            RECEIVE => self.received(completion, station),
            SEND => self.sent(completion, ring),
            ACCEPT => self.accepted(completion, ring),
            // How a cancel went shows in what it cancelled.
            CANCEL => {}
            other => unreachable!("a completion of the network front with tag {other:#x}"),
        }
    }

    fn turn(&mut self, ring: &mut Ring, station: &mut Station) {
        let parcels = self.front.turn(station);
        for arrival in parcels.arrivals {
            self.arrived(arrival, station);
        }
        let sockets = parcels.listeners.into_iter();
        self.listeners.extend(sockets.map(|socket| Listener {
            socket: Some(socket),
            armed: false,
            paused_until_ms: 0,
        }));
        for key in std::mem::take(&mut self.staying) {
            self.front.stay(key, station);
        }
        self.end_overdue();
        self.mind_listeners(ring);
    }

    fn answer(&mut self, ring: &mut Ring, station: &mut Station) {
        self.front.collect(station);
        self.attend_touched(ring, station);
    }

    fn flush(&mut self, ring: &mut Ring, station: &mut Station) {
        self.front.finish_turn(station);
        if let Some(pool) = &mut self.pool {
            pool.publish();
        }
        self.attend_touched(ring, station);
    }

    fn is_drained(&self) -> bool {
        self.front.sessions.len() == 0 && self.listeners.iter().all(|listener| listener.socket.is_none())
    }

    fn next_wake(&self) -> Option<Duration> {
        let now_ms = self.front.desk.now_ms;
        let mut wake_ms = self.front.wakes_in_ms();
        let mut sooner = |ms: u64| wake_ms = Some(wake_ms.map_or(ms, |wake| wake.min(ms)));
        if !self.staying.is_empty() {
            sooner(0);
        }
        if self.front.is_stopping() {
            sooner(limits::ACCEPT_PAUSE_MS);
        }
        for listener in &self.listeners {
            if listener.socket.is_some() && !listener.armed {
                sooner(listener.paused_until_ms.saturating_sub(now_ms));
            }
        }
        wake_ms.map(Duration::from_millis)
    }
}
