//! What is asked of every peer, and the seam behind which each has its own words for it.
//!
//! A [`Talk`] is one connection's encoder and decoder: requests become bytes, bytes become counted
//! replies. It moves no byte and reads no clock; all peers but etcd (whose gRPC comes from a library) go
//! through the same ring, loops and histograms, so that what differs is the server.
//!
//! Requests are asked in *units*: a unit is about `leases` leases and is answered as a whole. It is one
//! frame for Tenure, a run of pipelined commands for RESP, a run of quiet commands with a loud one at
//! its end for memcached.

use std::collections::{BTreeMap, VecDeque};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::Context;
use tenure_bench::instruments::Latency;

pub(crate) mod memcached;
pub(crate) mod resp;
pub(crate) mod tenure;

/// How long a connection may take.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// What is done to leases.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verb {
    /// The deadline moves to now + the book's TTL.
    Renew,
    /// A new lease.
    Grant(Until),
    /// The end of one.
    Revoke,
}

/// When a granted lease ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Until {
    /// After the book's TTL.
    Ttl,
    /// At this moment of the run's clock, ns, which is a whole second of the wall clock.
    At(u64),
}

/// One kind of request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ask {
    pub(crate) verb: Verb,
    /// Leases of one unit, at least 1.
    pub(crate) leases: u32,
}

/// The leases of a run.
#[derive(Debug)]
pub(crate) struct Book {
    /// Names of live leases.
    pub(crate) held: Vec<u64>,
    /// Where renewals go on.
    cursor: usize,
    /// For peers whose clients choose the names.
    named: u64,
    pub(crate) ttl_ms: u64,
    /// The wall clock minus the run's clock, ns.
    pub(crate) wall_offset_ns: u64,
    /// Granted leases are counted, but not held.
    pub(crate) forgets: bool,
    /// All that were granted, and the sum of their fingerprints.
    pub(crate) granted: u64,
    pub(crate) granted_sum: u64,
}

impl Book {
    pub(crate) fn new(ttl_ms: u64, wall_offset_ns: u64) -> Book {
        Book {
            held: Vec::new(),
            cursor: 0,
            named: 0,
            ttl_ms,
            wall_offset_ns,
            forgets: false,
            granted: 0,
            granted_sum: 0,
        }
    }

    /// The next lease to renew; `None` when there are none.
    #[inline]
    pub(crate) fn next(&mut self) -> Option<u64> {
        if self.cursor >= self.held.len() {
            self.cursor = 0;
        }
        let name = *self.held.get(self.cursor)?;
        self.cursor += 1;
        Some(name)
    }

    /// A name that was not given before, in no order.
    #[inline]
    pub(crate) fn new_name(&mut self) -> u64 {
        self.named += 1;
        tenure_protocol::mix(self.named)
    }

    #[inline]
    pub(crate) fn grant(&mut self, name: u64) {
        self.granted += 1;
        self.granted_sum = self.granted_sum.wrapping_add(fingerprint(name));
        if !self.forgets {
            self.held.push(name);
        }
    }

    /// Puts the leases into an order that says nothing about where they are in the server's memory.
    pub(crate) fn shuffle(&mut self) {
        // Fisher and Yates, driven by the mixer: a fixed seed, the same for every peer.
        for at in (1..self.held.len()).rev() {
            let other = tenure_protocol::mix(at as u64 ^ 0x5eed << 32) % (at as u64 + 1);
            self.held.swap(at, other as usize);
        }
        self.cursor = 0;
    }
}

/// What was heard.
pub(crate) struct Heard {
    /// Units answered since the caller last looked.
    pub(crate) units: u32,
    /// Leases that were dealt with as asked.
    pub(crate) operations: u64,
    /// What else was answered.
    pub(crate) errors: BTreeMap<String, u64>,
    /// Units asked at this moment or later go into `after`.
    pub(crate) split_ns: u64,
    pub(crate) before: Latency,
    pub(crate) after: Latency,
    /// Leases that the server was too busy for: they may be asked for again.
    pub(crate) busy: u64,
    /// Leases that ended by their deadline, as events told, and the sum of their mixed names.
    pub(crate) ended: u64,
    pub(crate) ended_sum: u64,
    /// Names of ended leases are kept in `ends`, for the caller to take out.
    pub(crate) keeps_ends: bool,
    pub(crate) ends: Vec<u64>,
    /// The answer to [`Talk::ask_count`].
    pub(crate) count: Option<u64>,
}

impl Heard {
    pub(crate) fn new(split_ns: u64) -> Heard {
        Heard {
            units: 0,
            operations: 0,
            errors: BTreeMap::new(),
            split_ns,
            before: Latency::new(),
            after: Latency::new(),
            busy: 0,
            ended: 0,
            ended_sum: 0,
            keeps_ends: false,
            ends: Vec::new(),
            count: None,
        }
    }

    /// A unit of `sent_ns` is answered.
    #[inline]
    pub(crate) fn unit(&mut self, sent_ns: u64, now_ns: u64) {
        self.units += 1;
        let latency = if sent_ns < self.split_ns { &mut self.before } else { &mut self.after };
        latency.record(now_ns.saturating_sub(sent_ns));
    }

    #[cold]
    pub(crate) fn error(&mut self, what: &str, count: u64) {
        // S8: texts from outside are cut, and there are not many of them.
        let what: String = what.chars().take(80).collect();
        let full = self.errors.len() >= 16 && !self.errors.contains_key(&what);
        let what = if full { "others".to_owned() } else { what };
        *self.errors.entry(what).or_default() += count;
    }

    #[inline]
    pub(crate) fn end(&mut self, name: u64) {
        self.ended += 1;
        self.ended_sum = self.ended_sum.wrapping_add(fingerprint(name));
        if self.keeps_ends {
            self.ends.push(name);
        }
    }
}

/// A number for a name such that sums over different sets of names differ for all practical purposes.
pub(crate) fn fingerprint(name: u64) -> u64 {
    name.wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(29) ^ name
}

/// One connection's words.
pub(crate) trait Talk: Sized {
    /// Connects and greets, blocking.
    ///
    /// # Errors
    /// When there is no server, or it does not greet back.
    fn open(address: SocketAddr) -> anyhow::Result<(TcpStream, Self)>;

    /// Queues up to `units` requests, meant for `now_ns`; how many there were leases for.
    ///
    /// # Errors
    /// When the peer's own limits refuse.
    fn ask(&mut self, ask: Ask, units: u32, book: &mut Book, now_ns: u64) -> anyhow::Result<u32>;

    /// Queues the grant of one lease, whose name the caller chose; only for peers that tell ends.
    ///
    /// # Errors
    /// When the peer's own limits refuse.
    fn ask_named(&mut self, name: u64, ttl_ms: u64, now_ns: u64) -> anyhow::Result<()>;

    /// What is queued; the caller sends it and leaves it empty.
    fn outgoing(&mut self) -> &mut Vec<u8>;

    /// Takes bytes that have arrived.
    ///
    /// # Errors
    /// When they are no replies.
    fn hear(&mut self, bytes: &[u8], book: &mut Book, heard: &mut Heard, now_ns: u64) -> anyhow::Result<()>;

    /// Asks for the end-of-lease events from now on; `false`: this peer has none.
    ///
    /// # Errors
    /// When the peer's own limits refuse.
    fn subscribe(&mut self) -> anyhow::Result<bool>;

    /// Asks how many leases the server still holds; only for peers that say so in one reply.
    fn ask_count(&mut self);

    /// Asks how much of a lease's TTL is left, which [`Heard::count`] then has, in ms.
    fn ask_remaining(&mut self, name: u64);
}

/// Connects for a [`Talk`].
///
/// # Errors
/// When there is no server.
pub(crate) fn connect(address: SocketAddr) -> anyhow::Result<TcpStream> {
    let socket = TcpStream::connect_timeout(&address, CONNECT_TIMEOUT)
        .with_context(|| format!("cannot connect to {address}"))?;
    socket.set_nodelay(true)?;
    socket.set_read_timeout(Some(CONNECT_TIMEOUT))?;
    Ok(socket)
}

/// Units in flight on a connection that answers in order.
#[derive(Debug, Default)]
pub(crate) struct InOrder {
    runs: VecDeque<Run>,
}

/// Units that left together.
#[derive(Debug)]
struct Run {
    sent_ns: u64,
    /// Replies of a unit, and replies of the run that have not come.
    per_unit: u32,
    left: u32,
    /// Leases that one reply stands for.
    per_reply: u32,
}

impl InOrder {
    /// Units of `per_unit` replies each, every reply standing for `per_reply` leases.
    #[inline]
    pub(crate) fn sent(&mut self, sent_ns: u64, units: u32, per_unit: u32, per_reply: u32) {
        let replies = units * per_unit;
        if replies == 0 {
            return;
        }
        match self.runs.back_mut() {
            Some(run) if (run.sent_ns, run.per_unit, run.per_reply) == (sent_ns, per_unit, per_reply) => {
                run.left += replies;
            }
            _ => self.runs.push_back(Run { sent_ns, per_unit, left: replies, per_reply }),
        }
    }

    /// The next reply has come, and says whether it was done.
    ///
    /// # Errors
    /// When nothing is in flight.
    #[inline]
    pub(crate) fn replied(&mut self, done: bool, heard: &mut Heard, now_ns: u64) -> anyhow::Result<()> {
        let run = self.runs.front_mut().context("a reply that nobody waits for")?;
        run.left -= 1;
        if done {
            heard.operations += u64::from(run.per_reply);
        }
        if run.left % run.per_unit == 0 {
            heard.unit(run.sent_ns, now_ns);
        }
        if run.left == 0 {
            self.runs.pop_front();
        }
        Ok(())
    }
}

/// The name of a lease as 16 hexadecimal digits.
#[inline]
pub(crate) fn hex(name: u64) -> [u8; 16] {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = [0; 16];
    for (place, byte) in text.chunks_exact_mut(2).zip(name.to_be_bytes()) {
        place[0] = DIGITS[usize::from(byte >> 4)];
        place[1] = DIGITS[usize::from(byte & 15)];
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_book_walks_its_leases_in_a_shuffled_circle_and_names_none_twice() {
        let mut book = Book::new(1, 0);
        assert_eq!(book.next(), None);
        for _ in 0..1_000 {
            let name = book.new_name();
            book.grant(name);
        }
        let in_order = book.held.clone();
        book.shuffle();
        assert_ne!(book.held, in_order);
        let mut walked: Vec<u64> = (0..1_000).map(|_| book.next().unwrap()).collect();
        assert_eq!(book.next(), Some(book.held[0]), "a circle");
        walked.sort_unstable();
        walked.dedup();
        assert_eq!(walked.len(), 1_000);
        book.forgets = true;
        book.grant(7);
        assert_eq!(book.held.len(), 1_000);
    }

    #[test]
    fn a_unit_is_answered_with_its_last_reply() {
        let (mut flight, mut heard) = (InOrder::default(), Heard::new(150));
        flight.sent(100, 2, 3, 1);
        flight.sent(200, 1, 1, 8);
        for reply in 1..=6 {
            flight.replied(reply != 2, &mut heard, 1_000_100).unwrap();
            assert_eq!(heard.units, reply / 3);
        }
        assert_eq!(heard.operations, 5, "one reply said no");
        flight.replied(true, &mut heard, 1_000_200).unwrap();
        assert_eq!((heard.units, heard.operations), (3, 13));
        assert_eq!((heard.before.quantiles().unwrap().count, heard.after.quantiles().unwrap().count), (2, 1));
        assert!(flight.replied(true, &mut heard, 0).is_err(), "nobody asked");
    }

    #[test]
    fn names_are_sixteen_digits_and_errors_are_bounded() {
        assert_eq!(&hex(0x0123_4567_89ab_cdef), b"0123456789abcdef");
        assert_eq!(&hex(1), b"0000000000000001");
        let mut heard = Heard::new(0);
        (0..100).for_each(|number| heard.error(&format!("error {number}"), 1));
        assert_eq!((heard.errors.len(), heard.errors["others"]), (17, 84));
    }
}
