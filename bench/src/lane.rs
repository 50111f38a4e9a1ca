//! A lane: one load thread with its connections and the leases that it works on.
//!
//! Lanes share nothing: each has its sockets, its ring and, per shard, its list of leases, so that a
//! lane renews only what it granted itself. Routing is any client's (S1): a link works on the leases of
//! the shard that serves it, and a granted ID is filed under `shard_of(id)`.
//!
//! The lists are shuffled once after filling. Walking them in order is then a random walk for the
//! server's table, and a sequential one for the load, which so does not pay for the server's misses.

use std::net::SocketAddr;
use std::num::NonZero;

use anyhow::Context;
use rand::SeedableRng;
use rand::rngs::SmallRng;
use rand::seq::SliceRandom;
use tenure_protocol::{LeaseId, shard_of};

use crate::args::Ids;
use crate::chooser::Chooser;
use crate::clock::Clock;
use crate::host;
use crate::link::{Introduction, Link};
use crate::ring::Ring;

/// How lanes are made.
#[derive(Clone, Debug)]
pub(crate) struct LaneSettings {
    pub(crate) address: SocketAddr,
    pub(crate) introduction: Introduction,
    pub(crate) shard_count: u16,
    pub(crate) connections: usize,
    pub(crate) cpu: Option<usize>,
    pub(crate) spins: bool,
    pub(crate) ids: Ids,
    pub(crate) seed: u64,
    /// How many lanes there are.
    pub(crate) lanes: usize,
}

/// One load thread's belongings. Between phases it rests on the main thread.
pub(crate) struct Lane {
    pub(crate) index: usize,
    pub(crate) cpu: Option<usize>,
    pub(crate) clock: Clock,
    /// This thread has its CPU to itself and may poll.
    may_spin: bool,
    pub(crate) links: Vec<Link>,
    pub(crate) stock: Stock,
}

/// The leases of a lane.
pub(crate) struct Stock {
    /// What the renew phases work on, by shard.
    pub(crate) leases: Vec<Vec<u64>>,
    /// Drawn from them, by shard of the link that renews; empty: they are renewed in their order.
    pub(crate) traces: Vec<Vec<u64>>,
    /// What the grant phases granted, by shard: kept to be revoked.
    pub(crate) extra: Vec<Vec<u64>>,
    /// The sum of [`fingerprint`] over leases that are not kept, modulo 2^64, and their count.
    pub(crate) unkept_sum: u64,
    pub(crate) unkept_count: u64,
    /// Chooses the IDs that are granted; `None`: the server does.
    chooser: Option<Chooser>,
}

/// Where a granted lease goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Keep {
    Leases,
    Extra,
    /// Only into the sum: ten million need no list.
    Sum,
}

/// A number for an ID such that sums over two different sets of IDs differ for all practical purposes.
pub(crate) fn fingerprint(id: LeaseId) -> u64 {
    let mixed = tenure_protocol::mix(id.0) ^ id.0 >> 63;
    mixed.wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(29) ^ mixed
}

impl Stock {
    fn new(shard_count: u16, chooser: Option<Chooser>) -> Stock {
        let lists = || (0..shard_count).map(|_| Vec::new()).collect();
        Stock { leases: lists(), traces: Vec::new(), extra: lists(), unkept_sum: 0, unkept_count: 0, chooser }
    }

    /// What a link of `shard` renews.
    #[inline]
    pub(crate) fn to_renew(&self, shard: u16) -> &[u64] {
        let lists = if self.traces.is_empty() { &self.leases } else { &self.traces };
        &lists[usize::from(shard)]
    }

    /// The ID to ask for in a grant.
    #[inline]
    pub(crate) fn id_to_grant(&mut self, shard: u16) -> LeaseId {
        self.chooser.as_mut().map_or(LeaseId::NONE, |chooser| chooser.next(shard))
    }

    /// Makes room for so many more leases, so that lists of a hundred million do not move while they grow.
    pub(crate) fn reserve(&mut self, count: u64) {
        let shards = self.leases.len() as u64;
        // IDs spread over shards evenly, but not exactly.
        let each = if shards == 1 { count } else { count / shards + count / shards / 64 + 4_096 };
        self.leases.iter_mut().for_each(|list| list.reserve_exact(each as usize));
    }

    #[inline]
    pub(crate) fn put(&mut self, id: LeaseId, keep: Keep) {
        let lists = match keep {
            Keep::Leases => &mut self.leases,
            Keep::Extra => &mut self.extra,
            Keep::Sum => {
                self.unkept_sum = self.unkept_sum.wrapping_add(fingerprint(id));
                self.unkept_count += 1;
                return;
            }
        };
        let shard = shard_of(id, lists.len() as u16);
        lists[shard as usize].push(id.0);
    }

    pub(crate) fn lease_count(&self) -> u64 {
        self.leases.iter().map(|list| list.len() as u64).sum()
    }

    /// Of both lists.
    pub(crate) fn held_count(&self) -> u64 {
        self.lease_count() + self.extra.iter().map(|list| list.len() as u64).sum::<u64>()
    }
}

impl Lane {
    /// Connects; how long each handshake took, ns, goes into `handshakes`.
    pub(crate) fn connect(
        index: usize,
        clock: Clock,
        settings: &LaneSettings,
        handshakes: &mut Vec<u64>,
    ) -> anyhow::Result<Lane> {
        let chooser = (settings.ids == Ids::Chosen)
            .then(|| Chooser::new(settings.seed, index, settings.lanes, settings.shard_count));
        let mut lane = Lane {
            index,
            cpu: settings.cpu,
            clock,
            may_spin: settings.spins,
            links: Vec::with_capacity(settings.connections),
            stock: Stock::new(settings.shard_count, chooser),
        };
        lane.open_all(settings, handshakes)?;
        Ok(lane)
    }

    /// Opens the lane's connections, spread over the shards.
    pub(crate) fn open_all(
        &mut self,
        settings: &LaneSettings,
        handshakes: &mut Vec<u64>,
    ) -> anyhow::Result<()> {
        for number in 0..settings.connections {
            let wish = (number % settings.shard_count as usize) as u16;
            let began_ns = self.clock.now_ns();
            let link = self.open(settings, wish)?;
            handshakes.push(self.clock.now_ns() - began_ns);
            self.links.push(link);
        }
        Ok(())
    }

    /// A further connection, placed with `shard`.
    pub(crate) fn open(&self, settings: &LaneSettings, shard: u16) -> anyhow::Result<Link> {
        let introduction = Introduction { wish_shard: Some(shard), ..settings.introduction.clone() };
        let mut link = Link::connect(settings.address, &introduction)?;
        // A server that did not place the connection still serves every shard through it.
        link.shard = shard;
        Ok(link)
    }

    /// A ring of this lane's thread that receives from every link, under its place in the list; it polls
    /// without sleeping if that is wanted and allowed.
    pub(crate) fn ring(&self, spins: bool) -> anyhow::Result<Ring> {
        let mut ring = Ring::new(spins && self.may_spin)?;
        for link in &self.links {
            ring.watch(link.socket());
        }
        Ok(ring)
    }

    /// To be called on the lane's thread before it works.
    pub(crate) fn settle_on_cpu(&self) -> anyhow::Result<()> {
        // 50 us by default, which an open loop would show as its own lag.
        rustix::thread::set_current_timer_slack(NonZero::new(1_000)).context("cannot set the timer slack")?;
        let Some(cpu) = self.cpu else { return Ok(()) };
        host::pin_to(cpu).with_context(|| format!("cannot stay on CPU {cpu}: choose another with --pin-load"))
    }

    /// Puts the leases into an order that says nothing about where they are in the server's table, and
    /// spreads the links over them.
    pub(crate) fn shuffle(&mut self, seed: u64) {
        let mut random = SmallRng::seed_from_u64(seed.wrapping_add(self.index as u64));
        for list in &mut self.stock.leases {
            list.shuffle(&mut random);
        }
        self.spread();
    }

    /// Lets each link begin at another place in its shard's list.
    pub(crate) fn spread(&mut self) {
        let count = self.links.len();
        for (number, link) in self.links.iter_mut().enumerate() {
            link.cursor = self.stock.to_renew(link.shard).len() * number / count;
        }
    }
}

impl Link {
    /// The next lease of this link's shard; `None` when there are none.
    #[inline]
    pub(crate) fn next_lease(&mut self, leases: &[u64]) -> Option<LeaseId> {
        if self.cursor >= leases.len() {
            self.cursor = 0;
        }
        let id = leases.get(self.cursor)?;
        self.cursor += 1;
        Some(LeaseId(*id))
    }

    /// The next `count` leases or fewer, never wrapping; empty when there are none.
    #[inline]
    pub(crate) fn next_leases<'a>(&mut self, leases: &'a [u64], count: usize) -> &'a [u64] {
        if self.cursor >= leases.len() {
            self.cursor = 0;
        }
        let end = leases.len().min(self.cursor + count);
        let slice = &leases[self.cursor..end];
        self.cursor = end;
        slice
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s1_a_granted_lease_is_filed_under_the_shard_of_its_id() {
        let mut stock = Stock::new(4, None);
        (1..=10_000u64).for_each(|id| stock.put(LeaseId(id), Keep::Leases));
        (1..=100u64).for_each(|id| stock.put(LeaseId(id), Keep::Extra));
        assert_eq!((stock.lease_count(), stock.held_count()), (10_000, 10_100));
        for (shard, list) in stock.leases.iter().enumerate() {
            assert!(list.len() > 2_000, "shard {shard} has {}", list.len());
            assert!(list.iter().all(|&id| shard_of(LeaseId(id), 4) == shard as u16));
        }
    }

    #[test]
    fn the_sum_tells_sets_apart_and_does_not_depend_on_the_order() {
        let sum = |ids: &mut dyn Iterator<Item = u64>| {
            let mut stock = Stock::new(1, None);
            ids.for_each(|id| stock.put(LeaseId(id), Keep::Sum));
            (stock.unkept_count, stock.unkept_sum)
        };
        let all = sum(&mut (1..=1_000));
        assert_eq!(all, sum(&mut (1..=1_000).rev()));
        for missing in 1..=1_000 {
            let twice = missing % 1_000 + 1;
            let wrong = sum(&mut (1..=1_000).filter(|&id| id != missing).chain([twice]));
            assert_eq!(wrong.0, all.0);
            assert_ne!(wrong.1, all.1, "{missing} is missing, {twice} came twice");
        }
    }
}
