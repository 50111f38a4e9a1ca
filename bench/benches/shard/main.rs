//! A lease table against what else one could build it from, in one run, one thread, CPU time.
//!
//! - steady: the cost of a renewal with everything that follows from it (`steady.rs`), beside the floor: one
//!   random cache line.
//! - grant, expire, idle: a full table of which a twentieth ends on one tick each second (`cycle.rs`).
//!
//! The others only keep deadlines. Tenure in the same measurement writes log records for every grant and end, makes IDs
//! that cannot be guessed to collide, hands out fencing tokens, and ends leases in bounded turns.

mod cycle;
mod delay_queue;
mod hash_wheel;
mod heap;
mod lessor;
mod shape;
mod steady;
mod tenure;
mod tree;
mod ttl_buckets;

#[path = "../support/cpu_time.rs"]
mod cpu_time;
#[path = "../support/floor.rs"]
mod floor;
#[path = "../support/setting.rs"]
mod setting;
#[path = "../support/summary.rs"]
mod summary;

use std::time::SystemTime;

use cpu_time::CpuTime;
use criterion::Criterion;
use delay_queue::Delays;
use hash_wheel::HashWheel;
use heap::Heap;
use lessor::Lessor;
use shape::Shape;
use tenure::Tenure;
use tree::Tree;
use ttl_buckets::TtlBuckets;

/// All rows of one shape and size.
fn rows<S: Shape>(criterion: &mut Criterion<CpuTime>, leases: usize) {
    let mut group = criterion.benchmark_group("steady");
    steady::row::<S>(&mut group, leases);
    group.finish();
    cycle::rows::<S>(criterion, leases);
}

fn main() {
    setting::huge_pages_for_all();
    let began = SystemTime::now();
    let mut criterion = setting::criterion(CpuTime);
    for leases in setting::sizes() {
        let mut group = criterion.benchmark_group("steady");
        floor::rows(&mut group, leases);
        group.finish();
        rows::<Tenure<false>>(&mut criterion, leases);
        rows::<Tenure<true>>(&mut criterion, leases);
        rows::<Heap>(&mut criterion, leases);
        rows::<HashWheel>(&mut criterion, leases);
        rows::<TtlBuckets>(&mut criterion, leases);
        rows::<Delays>(&mut criterion, leases);
        rows::<Lessor>(&mut criterion, leases);
        rows::<Tree>(&mut criterion, leases);
    }
    criterion.final_summary();
    summary::print(began);
}
