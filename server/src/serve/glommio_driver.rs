//! The glommio driver: one core's sockets as tasks of the core's executor.
//!
//! A task per connection waits for readiness and reads into the connection's inbound buffer; the
//! core's turn passes that to the session; answers are sent straight from the turn, and only a
//! connection whose socket is full gets a writer task. Readiness costs a system call to wait, one to
//! read and one to write where the ring driver has none, which is why this is the fallback.
//!
//! Requests are applied in the turn and nowhere else: the station's clock is read when a turn begins,
//! so a request applied between turns would be dated before its arrival (S2).
//!
//! What the bytes mean is the business of [`Session`](super::session::Session), as in the ring driver.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use event_listener::Event;
use glommio::io::PollableFd;
use glommio::timer::Timer;
use glommio::{Task, spawn_local};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, SocketFlags};
use socket2::SockRef;
use tenure::ShardIndex;
use tenure::shell::glommio::{Core, GlommioService};
use tenure::station::Station;

use super::front::{Arrival, Front};
use super::limits;
use super::listen;
use super::session::{Fate, Session};
use super::sessions::slot_of;
use super::shared::Shared;

/// Bytes that a connection's task may read ahead of the turn.
const INBOUND_BYTES_MAX: usize = 4 * limits::RECEIVE_BUFFER_BYTES;

/// A connection's socket, shared by its tasks and the driver.
struct Pipe {
    key: Cell<u64>,
    socket: PollableFd<OwnedFd>,
    /// Received, not yet passed to the session.
    inbound: RefCell<Vec<u8>>,
    /// Listed in `Driver::arrived`.
    listed: Cell<bool>,
    at_end: Cell<bool>,
    broken: Cell<bool>,
    /// Whether the session wants to be read for.
    reading: Cell<bool>,
    read_on: Event,
    /// Being sent, from `sent` on.
    outbound: RefCell<Vec<u8>>,
    sent: Cell<usize>,
    /// A writer task waits for the socket.
    writing: Cell<bool>,
}

/// A connection and its tasks, which end with it.
struct Link {
    pipe: Rc<Pipe>,
    _reader: Task<()>,
    writer: Option<Task<()>>,
    leaving: bool,
}

/// The state of the driver on one core.
struct Driver {
    front: Front,
    links: Vec<Option<Link>>,
    listeners: Vec<Task<()>>,
    lingering: VecDeque<(u64, u64)>,
    staying: Vec<u64>,
    touched: Vec<u64>,
}

/// One core's sockets.
pub(crate) struct GlommioDriver {
    driver: RefCell<Driver>,
    /// Connections with inbound bytes, in the order of arrival.
    arrived: RefCell<Vec<Rc<Pipe>>>,
    ticker: RefCell<Option<Task<()>>>,
    /// Itself, for the tasks that its turns start.
    this: RefCell<Weak<GlommioDriver>>,
}

impl GlommioDriver {
    pub(crate) fn new(shared: Arc<Shared>, core: ShardIndex) -> GlommioDriver {
        let driver = Driver {
            front: Front::new(shared, core.0),
            links: Vec::new(),
            listeners: Vec::new(),
            lingering: VecDeque::new(),
            staying: Vec::new(),
            touched: Vec::new(),
        };
        GlommioDriver {
            driver: RefCell::new(driver),
            arrived: RefCell::default(),
            ticker: RefCell::default(),
            this: RefCell::default(),
        }
    }

    /// Notes that a pipe has something for the turn.
    fn list(&self, pipe: &Rc<Pipe>, core: &Core) {
        if !pipe.listed.replace(true) {
            self.arrived.borrow_mut().push(Rc::clone(pipe));
        }
        core.nudge();
    }
}

impl GlommioService for GlommioDriver {
    fn start(self: Rc<Self>, core: &Rc<Core>) {
        self.driver.borrow_mut().front.start(&core.station.borrow());
        let (this, core) = (Rc::downgrade(&self), Rc::clone(core));
        let ticker = spawn_local(async move {
            // Timeouts need turns although nothing arrives.
            loop {
                Timer::new(Duration::from_millis(limits::SWEEP_INTERVAL_MS)).await;
                let Some(this) = this.upgrade() else { return };
                let driver = this.driver.borrow();
                if driver.front.sessions.len() > 0 || driver.front.is_stopping() {
                    core.nudge();
                }
            }
        });
        *self.ticker.borrow_mut() = Some(ticker);
        *self.this.borrow_mut() = Rc::downgrade(&self);
    }

    fn turn(&self, core: &Rc<Core>, station: &mut Station) {
        let mut driver = self.driver.borrow_mut();
        let parcels = driver.front.turn(station);
        let this = self.this.borrow().upgrade().expect("the service was started");
        for arrival in parcels.arrivals {
            driver.arrived(arrival, &this, core, station);
        }
        for listener in parcels.listeners {
            let task = spawn_local(accept(Rc::clone(&this), Rc::clone(core), listener));
            driver.listeners.push(task);
        }
        for key in std::mem::take(&mut driver.staying) {
            driver.front.stay(key, station);
        }
        if driver.front.is_stopping() {
            driver.listeners.clear();
        }
        let mut arrived = self.arrived.take().into_iter();
        for pipe in arrived.by_ref() {
            pipe.listed.set(false);
            driver.pass_on(&pipe, station);
            if station.is_turn_spent() {
                break;
            }
        }
        if arrived.len() > 0 {
            // They are first in the next turn.
            self.arrived.borrow_mut().extend(arrived);
            core.nudge();
        }
        driver.end_overdue();
    }

    fn flush(&self, core: &Rc<Core>, station: &mut Station) {
        let mut driver = self.driver.borrow_mut();
        driver.front.finish_turn(station);
        let this = self.this.borrow().upgrade().expect("the service was started");
        let mut touched = std::mem::take(&mut driver.touched);
        driver.front.take_touched(&mut touched);
        for key in touched.drain(..) {
            driver.attend(key, &this, core, station);
        }
        driver.touched = touched;
        if driver.front.wakes_in_ms() == Some(0) || !driver.staying.is_empty() {
            core.nudge();
        }
    }

    fn is_drained(&self) -> bool {
        let driver = self.driver.borrow();
        driver.front.sessions.len() == 0 && driver.listeners.is_empty()
    }
}

impl Driver {
    /// Enters a connection; refuses it when there are too many (S8).
    fn enter(
        &mut self,
        socket: OwnedFd,
        placed: bool,
        this: &Rc<GlommioDriver>,
        core: &Rc<Core>,
    ) -> Option<u64> {
        let Some(key) = self.front.enter(placed) else {
            listen::refuse(&socket);
            return None;
        };
        let pipe = Rc::new(Pipe {
            key: Cell::new(key),
            socket: PollableFd::new(socket).expect("an executor is running"),
            inbound: RefCell::default(),
            listed: Cell::new(false),
            at_end: Cell::new(false),
            broken: Cell::new(false),
            reading: Cell::new(true),
            read_on: Event::new(),
            outbound: RefCell::default(),
            sent: Cell::new(0),
            writing: Cell::new(false),
        });
        let reader = spawn_local(read(Rc::clone(this), Rc::clone(core), Rc::clone(&pipe)));
        let slot = slot_of(key);
        if slot >= self.links.len() {
            self.links.resize_with(slot + 1, || None);
        }
        assert!(self.links[slot].is_none(), "a slot is used again only when its connection is forgotten");
        self.links[slot] = Some(Link { pipe, _reader: reader, writer: None, leaving: false });
        Some(key)
    }

    /// Passes what was read to the session.
    fn pass_on(&mut self, pipe: &Pipe, station: &mut Station) {
        let key = pipe.key.get();
        let mut inbound = std::mem::take(&mut *pipe.inbound.borrow_mut());
        if !inbound.is_empty() {
            self.front.receive(key, &inbound, station);
            inbound.clear();
            *pipe.inbound.borrow_mut() = inbound;
            pipe.read_on.notify(1);
        }
        if pipe.at_end.get() {
            self.front.with(key, Session::peer_closed);
        }
        self.front.with(key, |_| {});
    }

    /// Does for a connection what its session and socket ask for.
    fn attend(&mut self, key: u64, this: &Rc<GlommioDriver>, core: &Rc<Core>, station: &Station) {
        let now_ms = self.front.desk.now_ms;
        let Some(session) = self.front.looked_at(key) else { return };
        let link = self.links[slot_of(key)].as_mut().expect("a session has a socket");
        let pipe = Rc::clone(&link.pipe);
        if pipe.broken.get() {
            session.kill();
        }
        match session.fate() {
            Fate::Keep => {}
            Fate::Abort => return self.abandon(key),
            Fate::Move(to) => return self.carry(key, to, station),
            Fate::Close if pipe.at_end.get() => return self.abandon(key),
            Fate::Close if !link.leaving => {
                link.leaving = true;
                // It fails only when the other side has gone, which reading tells as well.
                let _ = SockRef::from(pipe.socket.get_ref()).shutdown(Shutdown::Write);
                self.lingering.push_back((now_ms, key));
            }
            Fate::Close => {}
        }
        pipe.reading.set(session.wants_read());
        if pipe.reading.get() {
            pipe.read_on.notify(1);
        }
        while session.has_outgoing() && !pipe.writing.get() {
            session.take_outgoing(&mut pipe.outbound.borrow_mut(), now_ms);
            let (sent, outcome) = send_some(&pipe);
            session.sent(sent, now_ms);
            match outcome {
                Sent::All => {}
                Sent::Full => {
                    pipe.writing.set(true);
                    let writer = write(Rc::clone(this), Rc::clone(core), Rc::clone(&pipe));
                    link.writer = Some(spawn_local(writer));
                }
                Sent::Broken => {
                    pipe.broken.set(true);
                    session.kill();
                    return self.abandon(key);
                }
            }
        }
        // What was sent at once may have been the last word.
        if matches!(session.fate(), Fate::Close) && !link.leaving {
            self.front.with(key, |_| {});
        }
        // Or it may have made room for requests that waited.
        self.front.sent(key, 0);
    }

    /// Ends a connection; its tasks end with it.
    fn abandon(&mut self, key: u64) {
        self.links[slot_of(key)] = None;
        self.front.leave(key);
    }

    /// Hands a connection to the core that it wished for.
    fn carry(&mut self, key: u64, to: u16, station: &Station) {
        let slot = slot_of(key);
        let link = self.links[slot].as_ref().expect("a session has a socket");
        let session = self.front.sessions.find(key).expect("it is being looked at");
        let Ok(socket) = link.pipe.socket.get_ref().try_clone() else {
            // Out of descriptors: it is served from here, which costs a trip per request.
            return self.staying.push(key);
        };
        let mut bytes = session.take_carry();
        bytes.append(&mut link.pipe.inbound.borrow_mut());
        let arrival = Arrival { socket, bytes, at_end: link.pipe.at_end.get() };
        match station.send_parcel(ShardIndex(to), Box::new(arrival)) {
            Ok(()) => {
                self.links[slot] = None;
                self.front.leave(key);
            }
            Err(back) => {
                let Ok(arrival) = back.downcast::<Arrival>() else {
                    unreachable!("a parcel comes back as it was")
                };
                session.put_carry(arrival.bytes);
                self.staying.push(key);
            }
        }
    }

    fn arrived(
        &mut self,
        arrival: Arrival,
        this: &Rc<GlommioDriver>,
        core: &Rc<Core>,
        station: &mut Station,
    ) {
        let Arrival { socket, bytes, at_end } = arrival;
        let Some(key) = self.enter(socket, true, this, core) else { return };
        self.front.receive_moved(key, &bytes, station);
        if at_end {
            let link = self.links[slot_of(key)].as_ref().expect("it was just entered");
            link.pipe.at_end.set(true);
            self.front.with(key, Session::peer_closed);
        }
    }

    /// Ends connections that have been leaving for too long, or all when the stop takes too long.
    fn end_overdue(&mut self) {
        let now_ms = self.front.desk.now_ms;
        let linger_ms = if self.front.is_stopping() { limits::LINGER_STOP_MS } else { limits::LINGER_MS };
        while let Some(&(since_ms, key)) = self.lingering.front() {
            if now_ms.saturating_sub(since_ms) < linger_ms {
                break;
            }
            self.lingering.pop_front();
            self.front.with(key, Session::kill);
        }
        if self.front.stop_overdue() {
            let keys: Vec<u64> = self.links.iter().flatten().map(|link| link.pipe.key.get()).collect();
            for key in keys {
                self.front.with(key, Session::kill);
            }
        }
    }
}

/// Accepts connections until the task is dropped.
async fn accept(this: Rc<GlommioDriver>, core: Rc<Core>, listener: OwnedFd) {
    // A spawned task runs at once, inside the turn that spawned it, which has borrowed the driver.
    glommio::executor().yield_now().await;
    let _ = SockRef::from(&listener).set_nonblocking(true);
    let listener = PollableFd::new(listener).expect("an executor is running");
    loop {
        match rustix::net::accept_with(listener.get_ref(), SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
            Ok(socket) => {
                this.driver.borrow_mut().enter(socket, false, &this, &core);
            }
            Err(Errno::AGAIN) => {
                if listener.readable().await.is_err() {
                    return;
                }
            }
            Err(Errno::CONNABORTED | Errno::INTR) => {}
            Err(error) => {
                tracing::warn!(%error, "accepting pauses; if descriptors ran out, raise the limit (ulimit -n)");
                Timer::new(Duration::from_millis(limits::ACCEPT_PAUSE_MS)).await;
            }
        }
    }
}

/// Reads ahead of the turn until the connection ends or its task is dropped.
async fn read(this: Rc<GlommioDriver>, core: Rc<Core>, pipe: Rc<Pipe>) {
    glommio::executor().yield_now().await;
    loop {
        let read_on = pipe.read_on.listen();
        if !pipe.reading.get() || pipe.inbound.borrow().len() >= INBOUND_BYTES_MAX {
            read_on.await;
            continue;
        }
        match receive_some(&pipe) {
            Ok(0) => {
                pipe.at_end.set(true);
                return this.list(&pipe, &core);
            }
            Ok(count) => {
                this.list(&pipe, &core);
                if count == limits::RECEIVE_BUFFER_BYTES {
                    // There may be more; the turn goes first.
                    glommio::executor().yield_now().await;
                    continue;
                }
            }
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(_) => {
                pipe.broken.set(true);
                return this.list(&pipe, &core);
            }
        }
        if pipe.socket.readable().await.is_err() {
            pipe.broken.set(true);
            return this.list(&pipe, &core);
        }
    }
}

fn receive_some(pipe: &Pipe) -> Result<usize, Errno> {
    let mut inbound = pipe.inbound.borrow_mut();
    let start = inbound.len();
    inbound.resize(start + limits::RECEIVE_BUFFER_BYTES, 0);
    let outcome = rustix::net::recv(pipe.socket.get_ref(), &mut inbound[start..], RecvFlags::DONTWAIT);
    let count = outcome.as_ref().map_or(0, |(_, count)| *count);
    inbound.truncate(start + count);
    outcome.map(|(_, count)| count)
}

enum Sent {
    All,
    Full,
    Broken,
}

/// Sends what the socket takes. Returns how many bytes it was, and how it ended.
fn send_some(pipe: &Pipe) -> (usize, Sent) {
    let mut outbound = pipe.outbound.borrow_mut();
    let before = pipe.sent.get();
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    let outcome = loop {
        let at = pipe.sent.get();
        if at == outbound.len() {
            break Sent::All;
        }
        match rustix::net::send(pipe.socket.get_ref(), &outbound[at..], flags) {
            Ok(count) => pipe.sent.set(at + count),
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => break Sent::Full,
            Err(_) => break Sent::Broken,
        }
    };
    let count = pipe.sent.get() - before;
    if matches!(outcome, Sent::All) {
        pipe.sent.set(0);
        outbound.clear();
        if outbound.capacity() > limits::IDLE_BUFFER_BYTES {
            *outbound = Vec::new();
        }
    }
    (count, outcome)
}

/// Sends the rest once the socket takes more.
async fn write(this: Rc<GlommioDriver>, core: Rc<Core>, pipe: Rc<Pipe>) {
    glommio::executor().yield_now().await;
    loop {
        let waited = pipe.socket.writable().await;
        let (count, outcome) = send_some(&pipe);
        let done = !matches!(outcome, Sent::Full);
        if waited.is_err() || matches!(outcome, Sent::Broken) {
            pipe.broken.set(true);
        }
        if done {
            pipe.writing.set(false);
        }
        this.driver.borrow_mut().front.sent(pipe.key.get(), count);
        this.list(&pipe, &core);
        if done || pipe.broken.get() {
            return;
        }
    }
}
