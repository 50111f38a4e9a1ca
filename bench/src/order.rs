//! In which order leases are renewed, and whose they are.
//!
//! **Shuffled**: every lease once per round, as a fleet does that keeps all its leases alive. **Uniform**: any
//! lease at any time. **Zipf**: a few leases most of the time, as with readers of popular keys. The latter
//! two are drawn once, before anything is measured, into a trace that links walk in order: the load pays
//! for a sequential read, and what it costs the server to jump about is the server's.
//!
//! A trace may also take a share of its leases from other shards than that of the link that walks it, which
//! the server then has to fetch from another core.

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use rand_distr::{Distribution, Zipf};
use serde::{Deserialize, Serialize};

use crate::args::Order;
use crate::lane::Lane;
use crate::limits::TRACE_LEASES_MAX;

/// Which leases links renew.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Access {
    pub(crate) order: Order,
    /// Exponent of Zipf's law: the n-th lease comes n^-exponent times as often as the first.
    pub(crate) exponent: f64,
    /// Share of renewals for leases of other shards, 0 to 1.
    pub(crate) remote: f64,
    pub(crate) seed: u64,
}

impl Access {
    /// Every lease once per round is what the lists are already.
    fn needs_trace(&self) -> bool {
        self.order != Order::Shuffled || self.remote > 0.0
    }
}

/// Draws the traces of a lane, or removes them.
pub(crate) fn prepare(lane: &mut Lane, access: Access) {
    let lists = &lane.stock.leases;
    let mut random = SmallRng::seed_from_u64(access.seed.wrapping_mul(31).wrapping_add(lane.index as u64));
    lane.stock.traces = if access.needs_trace() {
        (0..lists.len()).map(|shard| draw(lists, shard, access, &mut random)).collect()
    } else {
        Vec::new()
    };
    lane.spread();
}

fn draw(lists: &[Vec<u64>], own: usize, access: Access, random: &mut SmallRng) -> Vec<u64> {
    let others: Vec<usize> = (0..lists.len()).filter(|&s| s != own && !lists[s].is_empty()).collect();
    let length = lists[own].len().clamp(1, TRACE_LEASES_MAX);
    let mut next = vec![random.random_range(0..length); lists.len()];
    let zipfs: Vec<Option<Zipf<f64>>> =
        lists.iter().map(|list| Zipf::new((list.len() as f64).max(1.0), access.exponent).ok()).collect();
    let mut trace = Vec::with_capacity(length);
    for _ in 0..length {
        let is_remote = !others.is_empty() && random.random_bool(access.remote);
        let shard = if is_remote { others[random.random_range(0..others.len())] } else { own };
        let list = &lists[shard];
        if list.is_empty() {
            continue;
        }
        let place = match (access.order, &zipfs[shard]) {
            // Lists are shuffled, so the most wanted leases lie anywhere in the server's table.
            (Order::Zipf, Some(zipf)) => zipf.sample(random) as usize - 1,
            (Order::Shuffled, _) => {
                next[shard] = (next[shard] + 1) % list.len();
                next[shard]
            }
            _ => random.random_range(0..list.len()),
        };
        trace.push(list[place.min(list.len() - 1)]);
    }
    trace
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    fn trace(order: Order, remote: f64) -> Vec<u64> {
        let lists = [(0..10_000).collect::<Vec<u64>>(), (20_000..30_000).collect()];
        let access = Access { order, exponent: 0.99, remote, seed: 1 };
        draw(&lists, 0, access, &mut SmallRng::seed_from_u64(1))
    }

    fn counts(trace: &[u64]) -> HashMap<u64, u32> {
        let mut counts = HashMap::new();
        trace.iter().for_each(|id| *counts.entry(*id).or_default() += 1);
        counts
    }

    #[test]
    fn a_round_has_every_lease_once_and_a_draw_has_not() {
        assert_eq!(counts(&trace(Order::Shuffled, 0.0)).len(), 10_000);
        let uniform = counts(&trace(Order::Uniform, 0.0));
        // 1 - 1/e of them.
        assert!((6_000..6_700).contains(&uniform.len()), "{}", uniform.len());
        assert!(uniform.values().all(|&count| count < 12));
    }

    #[test]
    fn zipf_wants_the_first_lease_about_a_tenth_of_the_time() {
        let zipf = counts(&trace(Order::Zipf, 0.0));
        // 1 / H(10,000) with exponent 0.99 is 0.098.
        assert!((800..1_200).contains(&zipf[&0]), "{}", zipf[&0]);
        assert!(zipf[&0] > zipf[&1] && zipf[&1] > zipf.get(&100).copied().unwrap_or(0));
    }

    #[test]
    fn s1_the_share_of_remote_leases_is_what_was_asked_for() {
        for (remote, expected) in [(0.0, 0..1), (0.5, 4_700..5_300), (1.0, 10_000..10_001)] {
            for order in [Order::Shuffled, Order::Uniform, Order::Zipf] {
                let count = trace(order, remote).iter().filter(|&&id| id >= 20_000).count();
                assert!(expected.contains(&count), "{order:?}, {remote}: {count}");
            }
        }
    }
}
