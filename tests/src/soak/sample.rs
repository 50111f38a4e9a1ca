//! What is recorded once a second: of the process from `/proc`, of the engine from Info, of the load from its clients.
//!
//! A sample that cannot be taken, because the process has just ended, is none: there are no half samples.
//! Latencies are those of the crash suite's workers: from sending a burst of up to 24 requests to each answer, so
//! they contain the wait behind the rest of the burst, and the client's own share of a busy machine.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::mpsc::Receiver;

use hdrhistogram::Histogram;
use tenure_protocol::{Request, Response, tag};

use crate::wire::Wire;

/// The five stages of a turn, as Info names them; the first is by the wall, the others are CPU time.
pub const STAGES: [(&str, u16); 5] = [
    ("turn", tag::TURN_US_MAX),
    ("requests", tag::TURN_REQUESTS_US_MAX),
    ("expiry", tag::TURN_EXPIRY_US_MAX),
    ("snapshot", tag::TURN_SNAPSHOT_US_MAX),
    ("replies", tag::TURN_REPLIES_US_MAX),
];

/// One second.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Sample {
    /// Which server process.
    pub life: usize,
    /// Since it serves, s.
    pub at_s: f64,
    /// Memory in use.
    pub rss_bytes: u64,
    /// Open descriptors.
    pub descriptor_count: u64,
    /// Threads.
    pub thread_count: u64,
    /// CPU time since its start.
    pub cpu_us: u64,
    /// Blocks that the data directory takes.
    pub disk_bytes: u64,
    /// Live leases.
    pub lease_count: u64,
    /// Longest so far, by stage; see [`STAGES`].
    pub turn_us_max: [u64; 5],
    /// Answers in this second.
    pub answer_count: u64,
    /// Their latency: p50, p99, p99.9, max.
    pub latency_us: [u64; 4],
}

impl Sample {
    /// As a line of JSON.
    #[must_use]
    pub fn json(&self) -> String {
        format!(
            "{{\"life\":{},\"at_s\":{:.1},\"rss_bytes\":{},\"descriptors\":{},\"threads\":{},\"cpu_us\":{},\
             \"disk_bytes\":{},\"leases\":{},\"turn_us_max\":{:?},\"answers\":{},\"latency_us\":{:?}}}",
            self.life,
            self.at_s,
            self.rss_bytes,
            self.descriptor_count,
            self.thread_count,
            self.cpu_us,
            self.disk_bytes,
            self.lease_count,
            self.turn_us_max,
            self.answer_count,
            self.latency_us
        )
    }
}

/// Longest latency told apart, µs: twice what a client waits before it calls that a lost answer.
const LATENCY_US_MAX: u64 = 120_000_000;

/// An empty histogram of latencies, µs.
///
/// # Panics
/// Never: three digits are allowed.
#[must_use]
pub fn latencies() -> Histogram<u64> {
    Histogram::new_with_max(LATENCY_US_MAX, 3).expect("three digits are allowed")
}

/// p50, p99, p99.9 and max.
#[must_use]
pub fn quantiles(histogram: &Histogram<u64>) -> [u64; 4] {
    let at = |quantile| histogram.value_at_quantile(quantile);
    [at(0.5), at(0.99), at(0.999), histogram.max()]
}

/// Takes one sample of a server, and what its clients have measured since the last one; `None` when the process is
/// gone.
pub fn take(
    pid: u32,
    address: SocketAddr,
    dir: &Path,
    measured: &Receiver<u64>,
    all: &mut Histogram<u64>,
) -> Option<Sample> {
    let mut second = latencies();
    for latency_us in measured.try_iter() {
        second.saturating_record(latency_us);
    }
    all.add(&second).expect("both are as precise");
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let field = |name: &str| -> Option<u64> {
        let line = status.lines().find(|line| line.starts_with(name))?;
        line.split_whitespace().nth(1)?.parse().ok()
    };
    let descriptor_count = std::fs::read_dir(format!("/proc/{pid}/fd")).ok()?.count() as u64;
    let mut sample = Sample {
        rss_bytes: field("VmRSS:")? * 1_024,
        thread_count: field("Threads:")?,
        descriptor_count,
        disk_bytes: disk_bytes(dir),
        answer_count: second.len(),
        latency_us: quantiles(&second),
        ..Sample::default()
    };
    let mut wire = Wire::connect(address).ok()?;
    let reply = wire.call(&Request::Info).ok()?;
    let Response::Info(info) = reply.response() else { return None };
    sample.lease_count = info.number(tag::LEASES)?;
    sample.cpu_us = info.number(tag::CPU_US)?;
    for number in info.numbers() {
        if let Some(stage) = STAGES.iter().position(|(_, tag)| *tag == number.tag) {
            sample.turn_us_max[stage] = sample.turn_us_max[stage].max(number.value);
        }
    }
    Some(sample)
}

/// Blocks in use by a folder and all below; what vanishes meanwhile does not count.
fn disk_bytes(dir: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let sizes = entries.map(|entry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => disk_bytes(&entry.path()),
        Ok(metadata) => metadata.blocks() * 512,
        Err(_) => 0,
    });
    sizes.sum()
}
