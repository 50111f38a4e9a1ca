//! End-of-lease events as the load side sees them: how many, how late, and whether they are right.
//!
//! Lateness is measured from the outside, on this process's clock: from the first moment at which the
//! lease may have ended, *send time of its grant + TTL*, to the arrival of its event. Transit, the
//! server's rounding up by a millisecond (S2) and the time that the grant itself waited are all in it, so
//! it is an upper bound of what the server owes. An event before that moment breaks S2 and is counted
//! as an error, and so is a lease that ends twice or not at all (S9).

use std::collections::HashMap;
use std::sync::atomic::Ordering;

use tenure_protocol::{Cause, Ended, LeaseId};

use crate::lane::fingerprint;
use crate::latency::Latency;
use crate::progress::Board;
use crate::timeline::Timeline;

/// What the events of a phase are held against.
pub(crate) enum Ends {
    /// This lane expects no events.
    None,
    /// Another lane expects them, and this one goes on until it has them.
    Elsewhere,
    /// Leases with one deadline.
    Storm(Storm),
    /// Leases with a deadline each.
    Trickle(Trickle),
}

/// Many leases, one deadline.
pub(crate) struct Storm {
    /// On the run's clock.
    pub(crate) deadline_ns: u64,
    pub(crate) expected: u64,
    pub(crate) ended: u64,
    /// The sum of the fingerprints of the IDs that ended.
    pub(crate) sum: u64,
    pub(crate) early: u64,
    pub(crate) first_ns: u64,
    pub(crate) last_ns: u64,
    /// Leases that ended over time.
    pub(crate) timeline: Timeline,
    pub(crate) lateness: Latency,
}

/// Leases that end one by one.
pub(crate) struct Trickle {
    /// When each lease may end, on the run's clock.
    pub(crate) due_ns: HashMap<u64, u64>,
    pub(crate) ended: u64,
    pub(crate) early: u64,
    /// When leases ended whose grant has not been answered: the answer comes on another connection, and may be
    /// read later. Those that stay are of leases that nobody asked for, or ended twice.
    unexplained_ns: HashMap<u64, u64>,
    pub(crate) lateness: Latency,
}

impl Ends {
    /// An event has arrived.
    pub(crate) fn ended(&mut self, ended: &Ended<'_>, now_ns: u64) {
        if ended.head.cause != Cause::Expired {
            return;
        }
        match self {
            Ends::None | Ends::Elsewhere => {}
            Ends::Storm(storm) => storm.expired(ended, now_ns),
            Ends::Trickle(trickle) => {
                ended.iter().for_each(|lease| trickle.expired(lease.id, now_ns));
            }
        }
    }

    /// Nothing more is expected.
    pub(crate) fn is_complete(&self, board: &Board) -> bool {
        match self {
            Ends::None => true,
            Ends::Elsewhere => board.events_complete.load(Ordering::Relaxed),
            Ends::Storm(storm) => storm.ended >= storm.expected,
            Ends::Trickle(trickle) => trickle.due_ns.is_empty(),
        }
    }
}

impl Storm {
    pub(crate) fn new(deadline_ns: u64, expected: u64) -> Storm {
        Storm {
            deadline_ns,
            expected,
            ended: 0,
            sum: 0,
            early: 0,
            first_ns: 0,
            last_ns: 0,
            timeline: Timeline::default(),
            lateness: Latency::new(),
        }
    }

    fn expired(&mut self, ended: &Ended<'_>, now_ns: u64) {
        let count = ended.len() as u64;
        // The TTLs are whole milliseconds, rounded down: up to one before the deadline is in time.
        if now_ns + 1_000_000 < self.deadline_ns {
            self.early += count;
        }
        if self.ended == 0 {
            self.first_ns = now_ns;
        }
        self.last_ns = now_ns;
        self.timeline.add(now_ns, count, 0);
        self.ended += count;
        self.sum = ended.iter().fold(self.sum, |sum, lease| sum.wrapping_add(fingerprint(lease.id)));
        self.lateness.record_n(now_ns.saturating_sub(self.deadline_ns), count);
    }
}

impl Trickle {
    pub(crate) fn new() -> Trickle {
        Trickle {
            due_ns: HashMap::new(),
            ended: 0,
            early: 0,
            unexplained_ns: HashMap::new(),
            lateness: Latency::new(),
        }
    }

    pub(crate) fn granted(&mut self, id: LeaseId, sent_ns: u64, ttl_ms: u64) {
        let due_ns = sent_ns + ttl_ms * 1_000_000;
        match self.unexplained_ns.remove(&id.0) {
            Some(ended_ns) => self.count(due_ns, ended_ns),
            None => drop(self.due_ns.insert(id.0, due_ns)),
        }
    }

    /// Ends of leases that nobody asked for, or that had ended before.
    pub(crate) fn unknown(&self) -> u64 {
        self.unexplained_ns.len() as u64
    }

    fn expired(&mut self, id: LeaseId, now_ns: u64) {
        match self.due_ns.remove(&id.0) {
            Some(due_ns) => self.count(due_ns, now_ns),
            None => drop(self.unexplained_ns.insert(id.0, now_ns)),
        }
    }

    fn count(&mut self, due_ns: u64, now_ns: u64) {
        self.ended += 1;
        if now_ns < due_ns {
            self.early += 1;
        }
        self.lateness.record_n(now_ns.saturating_sub(due_ns), 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tenure_protocol::{
        EndedHead, EndedLease, Event, Frames, Position, RequestId, Response, Token, encode,
    };

    const MS: u64 = 1_000_000;

    /// The event of these leases, through the wire.
    fn expire(ends: &mut Ends, cause: Cause, ids: &[u64], now_ns: u64) {
        let mut bytes = Vec::new();
        let head = EndedHead { shard: 0, cause, time_ms: 5, first: Position(64), items_follow: false };
        let entries = ids.iter().map(|&id| (LeaseId(id), Token(8)));
        encode::reply::ended(&mut bytes, RequestId(1), &head, entries);
        let frame = Frames::new(&bytes, 1 << 20).next_frame().unwrap().unwrap();
        let Ok(Response::Event(Event::Ended(ended))) = Response::decode(&frame) else { panic!() };
        assert!(ended.iter().all(|EndedLease { token, .. }| token == Token(8)));
        ends.ended(&ended, now_ns);
    }

    #[test]
    fn s9_a_storm_counts_each_lease_and_knows_which() {
        let mut ends = Ends::Storm(Storm::new(100 * MS, 3));
        expire(&mut ends, Cause::Expired, &[1, 2], 101 * MS);
        expire(&mut ends, Cause::Revoked, &[9], 102 * MS);
        assert!(!ends.is_complete(&Board::new(1)), "a revoked lease is not one of the storm");
        expire(&mut ends, Cause::Expired, &[3], 105 * MS);
        assert!(ends.is_complete(&Board::new(1)));
        let Ends::Storm(mut storm) = ends else { panic!() };
        assert_eq!((storm.first_ns, storm.last_ns, storm.early), (101 * MS, 105 * MS, 0));
        assert_eq!(storm.sum, (1..=3).fold(0u64, |sum, id| sum.wrapping_add(fingerprint(LeaseId(id)))));
        let lateness = storm.lateness.quantiles().unwrap();
        assert_eq!(lateness.count, 3);
        assert!(lateness.max_ns.abs_diff(5 * MS) < 10_000, "{lateness:?}");
    }

    #[test]
    fn s2_an_event_before_its_time_is_counted() {
        let mut ends = Ends::Storm(Storm::new(100 * MS, 2));
        expire(&mut ends, Cause::Expired, &[1], 99 * MS);
        expire(&mut ends, Cause::Expired, &[2], 98 * MS);
        let Ends::Storm(storm) = ends else { panic!() };
        assert_eq!(storm.early, 1, "one millisecond is the rounding of the TTL");

        let mut trickle = Trickle::new();
        trickle.granted(LeaseId(7), 10 * MS, 50);
        let mut ends = Ends::Trickle(trickle);
        expire(&mut ends, Cause::Expired, &[7, 8], 59 * MS);
        let Ends::Trickle(trickle) = ends else { panic!() };
        assert_eq!((trickle.early, trickle.unknown(), trickle.ended), (1, 1, 1));
    }

    #[test]
    fn s9_an_end_may_be_read_before_the_grant() {
        let mut ends = Ends::Trickle(Trickle::new());
        expire(&mut ends, Cause::Expired, &[7, 8], 70 * MS);
        let Ends::Trickle(mut trickle) = ends else { panic!() };
        assert_eq!((trickle.unknown(), trickle.ended), (2, 0));
        trickle.granted(LeaseId(7), 10 * MS, 50);
        assert_eq!((trickle.unknown(), trickle.ended, trickle.early), (1, 1, 0));
        assert_eq!(trickle.lateness.quantiles().unwrap().count, 1);
        assert!(trickle.due_ns.is_empty());
    }
}
