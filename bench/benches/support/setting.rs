//! What all suites share: how many leases, for how long, and on which pages.

#![allow(dead_code, reason = "a suite without a table has no sizes and needs no huge pages")]

use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::Duration;

use criterion::Criterion;
use criterion::measurement::Measurement;

/// Live leases: `TENURE_BENCH_LEASES=10000000` (or a list with commas) chooses others.
pub(crate) fn sizes() -> Vec<usize> {
    let chosen = std::env::var("TENURE_BENCH_LEASES").unwrap_or_else(|_| "10000,1000000".to_owned());
    let size = |text: &str| text.trim().parse().unwrap_or_else(|_| panic!("TENURE_BENCH_LEASES: {text}"));
    chosen.split(',').map(size).collect()
}

/// Short rounds: there are many rows, and ratios within a run are what they are for.
pub(crate) fn criterion<M: Measurement + 'static>(measurement: M) -> Criterion<M> {
    Criterion::default()
        .with_measurement(measurement)
        .warm_up_time(Duration::from_millis(100))
        .measurement_time(Duration::from_millis(400))
        .sample_size(10)
        .without_plots()
        .output_directory(&crate::summary::directory())
        .configure_from_args()
}

/// Tenure asks for huge pages for its tables itself; this gives them to the heaps of the others as well, so that they are
/// compared for what they are. glibc reads it when a process starts. `TENURE_BENCH_SMALL_PAGES=1` leaves it out.
pub(crate) fn huge_pages_for_all() {
    const TUNABLES: &str = "GLIBC_TUNABLES";
    if std::env::var_os(TUNABLES).is_some() || std::env::var_os("TENURE_BENCH_SMALL_PAGES").is_some() {
        return;
    }
    let own = std::env::current_exe().expect("this program has a path");
    let mut again = Command::new(own);
    again.args(std::env::args_os().skip(1)).env(TUNABLES, "glibc.malloc.hugetlb=1");
    let error = again.exec();
    panic!("cannot start again with {TUNABLES}: {error}");
}
