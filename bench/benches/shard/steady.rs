//! The steady state, all in: what a renewal costs with everything that follows from it.
//!
//! Leases of 60 s are renewed in batches of 256, each about every 20 s but at random, so that 5 % of the renewals come too
//! late; those are granted anew. After each batch time moves, and what is due is filed again or ends.
//! Deadlines are spread from the start as they are in this state. Which leases a batch names is drawn outside of the
//! measurement.

use std::time::Duration;

use criterion::BenchmarkGroup;
use criterion::{BenchmarkId, SamplingMode, Throughput};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use crate::cpu_time::CpuTime;
use crate::shape::Shape;

const TTL_MS: u64 = 60_000;
const BATCH: usize = 256;
/// Renewals of a lease within its TTL, on average.
const RENEWALS_PER_TTL: f64 = 3.0;
/// Batches drawn at a time; the measurement is interrupted in between.
const DRAWN_BATCHES_MAX: usize = 64;

struct Steady<S> {
    shape: S,
    /// The ID of each lease; lapsed leases get a new one in place.
    ids: Vec<u64>,
    random: SmallRng,
    /// Time that batches have moved on, in ms.
    now_ms: f64,
    batch_ms: f64,
    places: Vec<usize>,
    drawn: Vec<u64>,
    lapsed: Vec<u32>,
    renewed: usize,
    granted: usize,
}

impl<S: Shape> Steady<S> {
    fn new(leases: usize) -> Steady<S> {
        let (mut shape, mut random) = (S::new(leases, TTL_MS), SmallRng::seed_from_u64(1));
        // Ages since the last renewal: exponential, cut at the TTL, oldest first.
        let cut = 1.0 - (-RENEWALS_PER_TTL).exp();
        let age = |index: usize| {
            let share = (leases - index) as f64 / leases as f64;
            -(1.0 - share * cut).ln() * TTL_MS as f64 / RENEWALS_PER_TTL
        };
        let mut ids: Vec<u64> =
            (0..leases).map(|index| shape.grant((TTL_MS as f64 - age(index)).max(0.0) as u64)).collect();
        for index in (1..ids.len()).rev() {
            ids.swap(index, random.random_range(0..=index));
        }
        let batch_ms = BATCH as f64 * TTL_MS as f64 / (RENEWALS_PER_TTL * leases as f64);
        Steady {
            shape,
            ids,
            random,
            now_ms: TTL_MS as f64,
            batch_ms,
            places: Vec::new(),
            drawn: Vec::new(),
            lapsed: Vec::new(),
            renewed: 0,
            granted: 0,
        }
    }

    /// Draws the next batches and measures them.
    fn round(&mut self) -> Duration {
        let batches = (self.ids.len() / 8 / BATCH).clamp(1, DRAWN_BATCHES_MAX);
        let count = self.ids.len();
        self.places.clear();
        self.places.extend((0..batches * BATCH).map(|_| self.random.random_range(0..count)));
        self.drawn.clear();
        self.drawn.extend(self.places.iter().map(|&place| self.ids[place]));
        let began = CpuTime::now();
        for batch in 0..batches {
            self.batch(batch * BATCH);
        }
        CpuTime::now() - began
    }

    fn batch(&mut self, from: usize) {
        let now_ms = self.now_ms as u64;
        let ids = &self.drawn[from..from + BATCH];
        self.lapsed.clear();
        self.shape.renew(now_ms, ids, &mut self.lapsed);
        for &index in &self.lapsed {
            let place = self.places[from + index as usize];
            // Drawn twice in this round: the new lease is there already.
            if self.ids[place] == ids[index as usize] {
                self.ids[place] = self.shape.grant(now_ms);
                self.granted += 1;
            }
        }
        self.renewed += BATCH - self.lapsed.len();
        self.now_ms += self.batch_ms;
        self.shape.expire(self.now_ms as u64);
    }

    fn renewals_per_round(&self) -> usize {
        (self.ids.len() / 8 / BATCH).clamp(1, DRAWN_BATCHES_MAX) * BATCH
    }
}

pub(crate) fn row<S: Shape>(group: &mut BenchmarkGroup<'_, CpuTime>, leases: usize) {
    // Made when the row is asked for: a filter passes most of them over.
    let mut made: Option<Steady<S>> = None;
    let renewals = (leases / 8 / BATCH).clamp(1, DRAWN_BATCHES_MAX) * BATCH;
    group.sampling_mode(SamplingMode::Flat).throughput(Throughput::Elements(renewals as u64));
    group.bench_function(BenchmarkId::new(S::NAME, leases), |bencher| {
        let steady = made.get_or_insert_with(|| Steady::<S>::new(leases));
        assert_eq!(renewals, steady.renewals_per_round());
        bencher.iter_custom(|rounds| (0..rounds).map(|_| steady.round()).sum());
    });
    if let Some(steady) = made {
        let lapsed = steady.granted as f64 / (steady.renewed + steady.granted) as f64;
        assert!(lapsed < 0.1, "{}: {lapsed} of the renewals came too late: the workload is off", S::NAME);
    }
}
