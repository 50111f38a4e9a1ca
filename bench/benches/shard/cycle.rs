//! Grants, mass expiry and idle time with a full table: each second (of 1,024 ms) of a 20-second TTL a twentieth of all leases ends on one
//! tick, and as many are granted.
//!
//! What ends together lies scattered over the table. Time comes in steps of 64 ms, as it would between requests, so
//! that a wheel's cascades are in *expire*. *idle* is a millisecond in which nothing is due.

use std::time::Duration;

use criterion::{BenchmarkId, Criterion, SamplingMode, Throughput};
use rand::SeedableRng;
use rand::rngs::SmallRng;
use rand::seq::SliceRandom;

use crate::cpu_time::CpuTime;
use crate::shape::Shape;

/// A power of two: cascades fall on the tick, not into the idle time behind it.
const TICK_MS: u64 = 1_024;
const TICKS: usize = 20;
const TTL_MS: u64 = TICKS as u64 * TICK_MS;
const STEP_MS: u64 = 64;
/// Milliseconds of a second that are taken one by one, with nothing due.
const IDLE_MS: u64 = 192;

struct Cycle<S> {
    shape: S,
    /// Between two ticks: half a second behind the last one.
    now_ms: u64,
    /// Leases that end on each tick.
    due: usize,
}

/// What the parts of a second took.
#[derive(Default)]
struct Spent {
    idle: Duration,
    expire: Duration,
    grant: Duration,
}

impl<S: Shape> Cycle<S> {
    fn new(leases: usize) -> Cycle<S> {
        assert!(leases.is_multiple_of(TICKS), "the number of leases is a multiple of {TICKS}");
        let mut shape = S::new(leases + leases / TICKS, TTL_MS);
        let ids: Vec<u64> = (0..leases).map(|_| shape.grant(0)).collect();
        // Each lease is renewed on the tick that is its own, those of tick 0 not at all.
        let mut own: Vec<usize> = (0..leases).map(|index| index % TICKS).collect();
        own.shuffle(&mut SmallRng::seed_from_u64(1));
        let mut lapsed = Vec::new();
        for tick in 1..TICKS {
            let now_ms = tick as u64 * TICK_MS;
            shape.expire(now_ms);
            let mine = ids.iter().zip(&own).filter(|&(_, &own)| own == tick).map(|(&id, _)| id);
            let mine: Vec<u64> = mine.collect();
            shape.renew(now_ms, &mine, &mut lapsed);
        }
        let now_ms = TTL_MS - TICK_MS / 2;
        assert_eq!((shape.expire(now_ms), lapsed.len()), (0, 0), "{}: nothing is due yet", S::NAME);
        Cycle { shape, now_ms, due: leases / TICKS }
    }

    fn second(&mut self) -> Spent {
        let began = CpuTime::now();
        let early = self.steps(1, IDLE_MS);
        let idle = CpuTime::now();
        let before = self.steps(STEP_MS, TICK_MS / 2 - IDLE_MS);
        let ticked = CpuTime::now();
        for _ in 0..self.due {
            self.shape.grant(self.now_ms);
        }
        let granted = CpuTime::now();
        // Tenure rounds a promise up by a millisecond: there, all of them end now.
        let behind = self.steps(STEP_MS, TICK_MS / 2);
        let end = CpuTime::now();
        assert_eq!((early, before + behind), (0, self.due), "{}: what is due ends, and no more", S::NAME);
        Spent { idle: idle - began, expire: (ticked - idle) + (end - granted), grant: granted - ticked }
    }

    /// Moves on by `ms` in steps; how many leases ended.
    fn steps(&mut self, step_ms: u64, ms: u64) -> usize {
        let mut ended = 0;
        for _ in 0..ms / step_ms {
            self.now_ms += step_ms;
            ended += self.shape.expire(self.now_ms);
        }
        ended
    }
}

pub(crate) fn rows<S: Shape>(criterion: &mut Criterion<CpuTime>, leases: usize) {
    type Part = fn(Spent) -> Duration;
    let parts: [(&str, usize, Part); 3] = [
        ("expire", leases / TICKS, |spent| spent.expire),
        ("grant", leases / TICKS, |spent| spent.grant),
        ("idle", IDLE_MS as usize, |spent| spent.idle),
    ];
    // Made when a row is asked for: a filter passes most of them over.
    let mut made: Option<Cycle<S>> = None;
    for (name, count, part) in parts {
        let mut group = criterion.benchmark_group(name);
        group.sampling_mode(SamplingMode::Flat).throughput(Throughput::Elements(count as u64));
        group.bench_function(BenchmarkId::new(S::NAME, leases), |bencher| {
            let cycle = made.get_or_insert_with(|| Cycle::<S>::new(leases));
            bencher.iter_custom(|rounds| (0..rounds).map(|_| part(cycle.second())).sum());
        });
        group.finish();
    }
}
