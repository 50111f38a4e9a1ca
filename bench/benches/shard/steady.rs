//! The steady state, all in: what a renewal costs with everything that follows from it.
//!
//! Leases of 60 s are renewed in batches of 256, each about every 20 s but at random, so that 5 % of the renewals come too
//! late; those are granted anew. After each batch time moves, and what is due is filed again or ends.
//! The table begins as this state leaves it (`settled`). Which leases a batch names is drawn outside of the
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
        let mut random = SmallRng::seed_from_u64(1);
        let (shape, mut ids) = settled::<S>(leases, &mut random);
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

/// A table as this state leaves it at the end of the first TTL, so that no row has to run for long to come to it: when each
/// lease was last filed (by its grant) and when it was last renewed.
fn settled<S: Shape>(leases: usize, random: &mut SmallRng) -> (S, Vec<u64>) {
    let share = |part: f64| (1.0 - (-RENEWALS_PER_TTL * part).exp()) / (1.0 - (-RENEWALS_PER_TTL).exp());
    // A lazy table files a lease again when its old place comes up, at an age that is exponential and
    // below the TTL: what is left until its next place is longer than x with this probability.
    let mut filed_ms = || {
        loop {
            let x: f64 = random.random();
            if random.random::<f64>() < share(1.0 - x) {
                return (x * TTL_MS as f64) as u64;
            }
        }
    };
    let mut filed: Vec<u64> = (0..leases).map(|_| filed_ms()).collect();
    filed.sort_unstable();
    let mut renewed: Vec<(u64, usize)> = filed
        .iter()
        .enumerate()
        .filter_map(|(lease, &filed_ms)| {
            let age_ms = -(1.0 - random.random::<f64>()).ln() * TTL_MS as f64 / RENEWALS_PER_TTL;
            let at_ms = TTL_MS.saturating_sub(age_ms as u64);
            (at_ms > filed_ms).then_some((at_ms, lease))
        })
        .collect();
    renewed.sort_unstable();
    let (mut shape, mut ids) = (S::new(leases, TTL_MS), Vec::with_capacity(leases));
    let (mut renewed, mut lapsed) = (renewed.into_iter().peekable(), Vec::new());
    for at_ms in 0..=TTL_MS {
        while filed.get(ids.len()) == Some(&at_ms) {
            ids.push(shape.grant(at_ms));
        }
        while let Some((_, lease)) = renewed.next_if(|&(renewed_ms, _)| renewed_ms == at_ms) {
            shape.renew(at_ms, &[ids[lease]], &mut lapsed);
        }
    }
    assert!(ids.len() == leases && lapsed.is_empty(), "{}: everything lives", S::NAME);
    (shape, ids)
}

pub(crate) fn row<S: Shape>(group: &mut BenchmarkGroup<'_, CpuTime>, leases: usize) {
    // Made when the row is asked for: a filter passes most of them over.
    let mut made: Option<Steady<S>> = None;
    let renewals = (leases / 8 / BATCH).clamp(1, DRAWN_BATCHES_MAX) * BATCH;
    group.sampling_mode(SamplingMode::Flat).throughput(Throughput::Elements(renewals as u64));
    // Wheels work in bursts, seconds of lease time apart: a sample has to cover several.
    group.measurement_time(
        Duration::from_millis(400) * u32::try_from((leases / 1_000_000).max(1)).expect("small"),
    );
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
