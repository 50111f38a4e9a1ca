//! The load on everything that is not gRPC: one thread, one ring, many connections.
//!
//! **Closed loop**: so many units in flight on each connection, each answer lets the next one go.
//! **Storm**: renewals at a fixed rate, latencies from the intended send time, beside a connection that
//! hears the ends of leases, or, where a peer tells none, asks how many are left. **Trickle**: leases that end
//! one by one, heard by events only.

mod trickle;

use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::bail;
use tenure_bench::instruments::{Latency, Ring};

use crate::cpu_clock::CpuClock;
use crate::talk::{Ask, Book, Heard, Talk, Verb};

pub(crate) use trickle::Trickle;

/// A server that owes replies and sends none for this long has failed the run.
const SILENCE_MAX: Duration = Duration::from_secs(15);
/// Between two questions how many leases are left: the grain of a lateness that nobody tells.
const POLL_NS: u64 = 5_000_000;
/// Most renewals that leave in one turn of an open loop.
const BURST_MAX: u64 = 256;

/// The clock of a run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock(Instant);

impl Clock {
    pub(crate) fn start() -> Clock {
        Clock(Instant::now())
    }

    #[inline]
    pub(crate) fn now_ns(self) -> u64 {
        // 584 years fit.
        self.0.elapsed().as_nanos() as u64
    }

    /// The wall clock minus this one, ns.
    pub(crate) fn wall_offset_ns(self) -> u64 {
        let wall = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        (wall.as_nanos() as u64).saturating_sub(self.now_ns())
    }
}

/// One connection.
pub(crate) struct Wire<T> {
    socket: TcpStream,
    pub(crate) talk: T,
}

/// The load side of one server.
pub(crate) struct Party<T> {
    pub(crate) wires: Vec<Wire<T>>,
    pub(crate) book: Book,
    pub(crate) clock: Clock,
}

/// How a closed loop runs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) connections: usize,
    /// Units in flight on each.
    pub(crate) depth: u32,
    pub(crate) ask: Ask,
    pub(crate) span: Duration,
    /// Leases at most, to within a unit; `u64::MAX` for as many as the time allows.
    pub(crate) leases_max: u64,
    /// Poll instead of sleeping; not where answers wait for a disk, whose completions this CPU may serve.
    pub(crate) spins: bool,
}

/// What a loop found.
pub(crate) struct Found {
    pub(crate) elapsed_ns: u64,
    /// CPU time of the load that was not idle polling.
    pub(crate) busy_ns: u64,
    pub(crate) heard: Heard,
}

/// Requests at a fixed rate.
struct Pace {
    began_ns: u64,
    per_second: f64,
    issued: u64,
}

impl Pace {
    fn new(began_ns: u64, per_second: f64) -> Pace {
        Pace { began_ns, per_second, issued: 0 }
    }

    /// When those that are due by now, at most [`BURST_MAX`], were meant to leave.
    fn take(&mut self, now_ns: u64) -> impl Iterator<Item = u64> + use<> {
        let Pace { began_ns, per_second, issued } = *self;
        let due = ((now_ns - began_ns) as f64 * per_second / 1e9) as u64;
        let count = due.saturating_sub(issued).min(BURST_MAX);
        self.issued += count;
        (issued..issued + count).map(move |number| began_ns + (number as f64 * 1e9 / per_second) as u64)
    }
}

/// How a storm is ridden out.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Storm {
    pub(crate) per_second: f64,
    pub(crate) deadline_ns: u64,
    /// Leases that end.
    pub(crate) expected: u64,
    /// Hear events, or ask for the number of leases that are left.
    pub(crate) events: bool,
    /// Leases that stay.
    pub(crate) staying: u64,
    /// How long after the deadline to give up.
    pub(crate) grace: Duration,
    /// The server.
    pub(crate) cpu_clock: CpuClock,
}

/// What a storm was like.
pub(crate) struct Ridden {
    pub(crate) lateness: Latency,
    pub(crate) last_ns: u64,
    pub(crate) early: u64,
    pub(crate) heard: Heard,
    pub(crate) costs: Costs,
}

/// CPU time of the server at the beginning of a storm's calm, at the deadline, and after the last end.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Costs {
    /// On the run's clock.
    pub(crate) at_ns: [u64; 3],
    pub(crate) cpu: [Duration; 3],
}

impl Costs {
    pub(crate) fn note(&mut self, moment: usize, at_ns: u64, clock: CpuClock) {
        self.at_ns[moment] = at_ns;
        self.cpu[moment] = clock.read().unwrap_or_default();
    }

    /// CPU time since the deadline beyond what the foreground cost before it; `None` when that was not more.
    pub(crate) fn of_the_storm(&self) -> Option<Duration> {
        let calm_s = (self.at_ns[1] - self.at_ns[0]) as f64 / 1e9;
        let storm_s = (self.at_ns[2] - self.at_ns[1]) as f64 / 1e9;
        let before = self.cpu[1].saturating_sub(self.cpu[0]).as_secs_f64();
        let during = self.cpu[2].saturating_sub(self.cpu[1]).as_secs_f64();
        let more = during - before / calm_s.max(0.01) * storm_s;
        (more > 0.0).then(|| Duration::from_secs_f64(more))
    }
}

impl<T: Talk> Party<T> {
    /// # Errors
    /// When a connection cannot be made.
    pub(crate) fn connect(address: SocketAddr, connections: usize, ttl_ms: u64) -> anyhow::Result<Party<T>> {
        let clock = Clock::start();
        let mut wires = Vec::with_capacity(connections);
        for _ in 0..connections {
            wires.push(Wire::open(address)?);
        }
        Ok(Party { wires, book: Book::new(ttl_ms, clock.wall_offset_ns()), clock })
    }

    fn ring(&self, spins: bool) -> anyhow::Result<Ring> {
        let mut ring = Ring::new(spins)?;
        for wire in &self.wires {
            ring.watch(&wire.socket);
        }
        Ok(ring)
    }

    /// Runs a closed loop until its time or its leases are used up and every answer has come.
    ///
    /// # Errors
    /// When a connection fails or the server stops answering.
    pub(crate) fn closed_loop(&mut self, shape: Shape) -> anyhow::Result<Found> {
        let mut ring = self.ring(shape.spins)?;
        let Party { wires, book, clock } = self;
        let began_ns = clock.now_ns();
        let until_ns = began_ns + shape.span.as_nanos() as u64;
        let mut heard = Heard::new(u64::MAX);
        let (mut in_flight, mut left) = (0u64, shape.leases_max.div_ceil(u64::from(shape.ask.leases)));
        let mut now_ns = began_ns;
        let mut send =
            |wire: &mut Wire<T>, book: &mut Book, units: u32, now_ns: u64| -> anyhow::Result<u64> {
                let units = u64::from(units).min(left) as u32;
                let asked = u64::from(wire.talk.ask(shape.ask, units, book, now_ns)?);
                left -= asked;
                Ok(asked)
            };
        for (number, wire) in wires.iter_mut().take(shape.connections).enumerate() {
            in_flight += send(wire, book, shape.depth, now_ns)?;
            ring.send(number, wire.talk.outgoing());
        }
        let mut heard_ns = now_ns;
        while in_flight > 0 {
            ring.wait(Duration::from_millis(50))?;
            while let Some(arrival) = ring.next()? {
                let number = arrival.wire;
                let wire = &mut wires[number];
                now_ns = clock.now_ns();
                let result = wire.talk.hear(ring.bytes(&arrival), book, &mut heard, now_ns);
                ring.give_back(arrival);
                result?;
                let units = std::mem::take(&mut heard.units);
                in_flight -= u64::from(units);
                if now_ns < until_ns {
                    in_flight += send(wire, book, units, now_ns)?;
                }
                if !wire.talk.outgoing().is_empty() {
                    ring.send(number, wire.talk.outgoing());
                }
                heard_ns = now_ns;
            }
            if in_flight > 0 && clock.now_ns() - heard_ns > SILENCE_MAX.as_nanos() as u64 {
                bail!("the server owes {in_flight} answers and has been silent for {SILENCE_MAX:?}");
            }
        }
        let busy_ns = ring.busy_ns();
        ring.close(|_, _| ())?;
        Ok(Found { elapsed_ns: (now_ns - began_ns).max(1), busy_ns, heard })
    }

    /// One question on the last connection, and what was heard: the number that answers it, or an error.
    /// `settles`: the number may be one of many lines, and all of them are wanted.
    ///
    /// # Errors
    /// When there is no answer.
    pub(crate) fn question(&mut self, settles: bool, ask: impl FnOnce(&mut T)) -> anyhow::Result<Heard> {
        let mut ring = self.ring(false)?;
        let last = self.wires.len() - 1;
        let (mut heard, began) = (Heard::new(u64::MAX), Instant::now());
        ask(&mut self.wires[last].talk);
        ring.send(last, self.wires[last].talk.outgoing());
        let mut quiet = 0;
        // A turn without bytes ends an answer of many lines.
        while heard.count.is_none() && heard.errors.is_empty() || settles && quiet < 2 {
            if began.elapsed() > SILENCE_MAX {
                bail!("no answer within {SILENCE_MAX:?}");
            }
            ring.wait(Duration::from_millis(2))?;
            quiet += 1;
            while let Some(arrival) = ring.next()? {
                quiet = 0;
                let now_ns = self.clock.now_ns();
                let result = self.wires[arrival.wire].talk.hear(
                    ring.bytes(&arrival),
                    &mut self.book,
                    &mut heard,
                    now_ns,
                );
                ring.give_back(arrival);
                result?;
            }
        }
        ring.close(|_, _| ())?;
        Ok(heard)
    }

    /// Renews at a fixed rate on all connections but the last, which hears of the ends.
    ///
    /// # Errors
    /// When a connection fails or the server stops answering.
    pub(crate) fn ride_out(&mut self, storm: Storm) -> anyhow::Result<Ridden> {
        let mut ring = self.ring(false)?;
        let Party { wires, book, clock } = self;
        let last = wires.len() - 1;
        let mut ridden = Ridden {
            lateness: Latency::new(),
            last_ns: storm.deadline_ns,
            early: 0,
            heard: Heard::new(storm.deadline_ns),
            costs: Costs::default(),
        };
        if storm.events && wires[last].talk.subscribe()? {
            ring.send(last, wires[last].talk.outgoing());
        }
        let began_ns = clock.now_ns();
        ridden.costs.note(0, began_ns, storm.cpu_clock);
        let give_up_ns = storm.deadline_ns + storm.grace.as_nanos() as u64;
        // A storm that is over at once leaves something to measure.
        let until_ns = storm.deadline_ns + 200_000_000;
        let mut pace = Pace::new(began_ns, storm.per_second);
        let (mut issued, mut answered, mut next_wire, mut polled_ns) = (0u64, 0u64, 0, 0);
        let (mut polling, mut due, mut ended) = (false, Some(()), 0u64);
        loop {
            let now_ns = clock.now_ns();
            if now_ns >= storm.deadline_ns && due.take().is_some() {
                ridden.costs.note(1, now_ns, storm.cpu_clock);
            }
            let over = now_ns >= until_ns && ended >= storm.expected || now_ns >= give_up_ns;
            if over && issued == answered && !polling {
                break;
            }
            if now_ns > give_up_ns + SILENCE_MAX.as_nanos() as u64 {
                bail!("the server owes {} answers", issued - answered);
            }
            if !over {
                let (wire, before) = (&mut wires[next_wire], issued);
                for meant_ns in pace.take(now_ns) {
                    issued += u64::from(wire.talk.ask(RENEW, 1, book, meant_ns)?);
                }
                if issued > before {
                    ring.send(next_wire, wire.talk.outgoing());
                    next_wire = (next_wire + 1) % last;
                }
                if !storm.events && !polling && now_ns >= polled_ns + POLL_NS {
                    (polling, polled_ns) = (true, now_ns);
                    wires[last].talk.ask_count();
                    ring.send(last, wires[last].talk.outgoing());
                }
            }
            ring.wait(Duration::from_micros(50))?;
            while let Some(arrival) = ring.next()? {
                let now_ns = clock.now_ns();
                let result =
                    wires[arrival.wire].talk.hear(ring.bytes(&arrival), book, &mut ridden.heard, now_ns);
                ring.give_back(arrival);
                result?;
                answered += u64::from(std::mem::take(&mut ridden.heard.units));
                let mut gone = ridden.heard.ended;
                if let Some(count) = ridden.heard.count.take() {
                    polling = false;
                    gone = (storm.expected + storm.staying).saturating_sub(count);
                }
                if gone > ended {
                    ridden.ends(gone - ended, now_ns, storm.deadline_ns);
                    ended = gone;
                }
            }
        }
        ridden.costs.note(2, clock.now_ns(), storm.cpu_clock);
        ring.close(|_, _| ())?;
        ridden.heard.ended = ended;
        Ok(ridden)
    }
}

const RENEW: Ask = Ask { verb: Verb::Renew, leases: 1 };

impl Ridden {
    fn ends(&mut self, count: u64, now_ns: u64, deadline_ns: u64) {
        // TTLs are whole milliseconds, rounded down: up to one before the deadline is in time.
        if now_ns + 1_000_000 < deadline_ns {
            self.early += count;
        }
        self.lateness.record_n(now_ns.saturating_sub(deadline_ns), count);
        self.last_ns = now_ns;
    }
}

impl<T: Talk> Wire<T> {
    pub(crate) fn open(address: SocketAddr) -> anyhow::Result<Wire<T>> {
        let (socket, talk) = T::open(address)?;
        Ok(Wire { socket, talk })
    }
}

impl<T: Talk> Party<T> {
    /// A further connection.
    ///
    /// # Errors
    /// When it cannot be made.
    pub(crate) fn join(&mut self, address: SocketAddr) -> anyhow::Result<()> {
        self.wires.push(Wire::open(address)?);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
