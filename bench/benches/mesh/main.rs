//! Between cores: a renewal asked for on one and done on another, on the wall clock.
//!
//! Rows are renewals in a window of so many unanswered ones. *tenure* goes from a service on core 0 to the shard of core 1
//! and back, with what the runtime does around it in each turn; *tenure, own shard* is the same without the way. *handle* is
//! a thread outside the cores that asks for a batch as large as the window and waits. The others are a thread that owns a
//! shard and channels to and from it, one message a renewal or one a window; a shard behind a mutex that
//! nobody else wants, which is what a program does that gives each thread its own shard; and the floor: an atomic word
//! bounced between two threads that do nothing else.
//!
//! On a machine with two CPUs all of this shares them with whatever else runs: look at ratios.

mod forwarder;

#[path = "../support/setting.rs"]
mod setting;
#[path = "../support/summary.rs"]
mod summary;

use std::hint::{black_box, spin_loop};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use criterion::measurement::WallTime;
use criterion::{BenchmarkId, Criterion, SamplingMode, Throughput};
use forwarder::Cores;
use rustix::thread::{CpuSet, sched_setaffinity};
use tenure_core::{Grant, LeaseId, Position, RecordBuffer, Shard, ShardConfig, ShardIndex, Time};

const WINDOWS: [usize; 3] = [1, 32, 1_024];
const LEASES: usize = 4_096;

/// One row: `work` makes so many windows and says how long they took.
fn row(
    criterion: &mut Criterion<WallTime>,
    name: &str,
    window: usize,
    mut work: impl FnMut(usize) -> Duration,
) {
    let mut group = criterion.benchmark_group("renew elsewhere");
    group.sampling_mode(SamplingMode::Flat).throughput(Throughput::Elements(window as u64));
    group.bench_function(BenchmarkId::new(name, window), |bencher| {
        bencher.iter_custom(|rounds| work(rounds as usize));
    });
    group.finish();
}

fn timed(windows: usize, mut window: impl FnMut()) -> Duration {
    let began = Instant::now();
    (0..windows).for_each(|_| window());
    began.elapsed()
}

/// A shard with leases, and what a renewal of it needs.
struct Owned {
    shard: Shard,
    log: RecordBuffer,
    ids: Vec<LeaseId>,
}

impl Owned {
    fn new() -> Owned {
        let shard = Shard::new(ShardConfig::new(ShardIndex(0), 1));
        let mut owned = Owned { shard, log: RecordBuffer::new(Position(64), Time(0)), ids: Vec::new() };
        for _ in 0..LEASES {
            let grant = Grant { id: None, ttl_ms: 3_600_000, key: None };
            let granted = owned.shard.grant(Time(0), &grant, &mut owned.log).result;
            owned.ids.push(granted.expect("there is room").id);
        }
        owned.shard.durable(owned.log.tail());
        owned
    }

    fn renew(&mut self, id: LeaseId) -> u64 {
        self.shard.renew(Time(1), id, &mut self.log).result.expect("it lives").ttl_ms
    }
}

/// A thread that owns a shard and answers messages of `M` with as many of `R`.
struct Owner<M, R> {
    ids: Vec<LeaseId>,
    requests: Option<Sender<M>>,
    replies: Receiver<R>,
    thread: Option<JoinHandle<()>>,
}

impl<M: Send + 'static, R: Send + 'static> Owner<M, R> {
    fn start(answer: fn(&mut Owned, M) -> R) -> Owner<M, R> {
        let mut owned = Owned::new();
        let ids = owned.ids.clone();
        let (requests, inbox) = channel();
        let (outbox, replies) = channel();
        let work = move || {
            pin(1);
            while let Some(message) = spinning(&inbox) {
                if outbox.send(answer(&mut owned, message)).is_err() {
                    return;
                }
            }
        };
        Owner { ids, requests: Some(requests), replies, thread: Some(std::thread::spawn(work)) }
    }

    fn send(&self, message: M) {
        self.requests.as_ref().expect("it runs").send(message).expect("the owner listens");
    }

    fn reply(&self) -> R {
        spinning(&self.replies).expect("the owner answers")
    }
}

impl<M, R> Drop for Owner<M, R> {
    fn drop(&mut self) {
        self.requests = None;
        if let Some(thread) = self.thread.take() {
            assert!(thread.join().is_ok(), "the owner panicked");
        }
    }
}

/// As the engine's cores are: this thread stays on one CPU.
fn pin(cpu: usize) {
    let mut cpus = CpuSet::new();
    cpus.set(cpu);
    // Refused where that CPU is not ours: the figures are then as good as the scheduler.
    let _ = sched_setaffinity(None, &cpus);
}

/// As the engine's cores: polls a little before it sleeps.
fn spinning<T>(receiver: &Receiver<T>) -> Option<T> {
    for _ in 0..2_000 {
        match receiver.try_recv() {
            Ok(message) => return Some(message),
            Err(TryRecvError::Empty) => spin_loop(),
            Err(TryRecvError::Disconnected) => return None,
        }
    }
    receiver.recv().ok()
}

fn tenure_rows(criterion: &mut Criterion<WallTime>) {
    let cores = Cores::start();
    for window in WINDOWS {
        row(criterion, "tenure", window, |windows| cores.renew(1, windows * window, window));
        row(criterion, "tenure, own shard", window, |windows| cores.renew(0, windows * window, window));
        let (handle, ids) = (cores.handle(), &cores.ids(1)[..window]);
        row(criterion, "tenure, handle", window, |windows| {
            timed(windows, || assert!(handle.renew_batch(ids).wait().expect("an answer").is_empty()))
        });
    }
}

fn channel_rows(criterion: &mut Criterion<WallTime>) {
    for window in WINDOWS {
        let owner = Owner::start(|owned, id: LeaseId| owned.renew(id));
        row(criterion, "std mpsc, a message each", window, |windows| {
            timed(windows, || {
                owner.ids[..window].iter().for_each(|&id| owner.send(id));
                (0..window).for_each(|_| {
                    black_box(owner.reply());
                });
            })
        });
        let owner = Owner::start(|owned, ids: Vec<LeaseId>| -> Vec<u64> {
            ids.into_iter().map(|id| owned.renew(id)).collect()
        });
        row(criterion, "std mpsc, a message per window", window, |windows| {
            timed(windows, || {
                owner.send(owner.ids[..window].to_vec());
                assert_eq!(owner.reply().len(), window);
            })
        });
    }
}

fn mutex_row(criterion: &mut Criterion<WallTime>) {
    let owned = Mutex::new(Owned::new());
    let ids = owned.lock().expect("nobody panicked").ids.clone();
    for window in WINDOWS {
        row(criterion, "a mutex nobody else wants", window, |windows| {
            timed(windows, || {
                for &id in &ids[..window] {
                    black_box(owned.lock().expect("nobody panicked").renew(id));
                }
            })
        });
    }
}

/// The word is odd while it is the other thread's turn.
fn floor_row(criterion: &mut Criterion<WallTime>) {
    const END: u64 = u64::MAX;
    let word = Arc::new(AtomicU64::new(0));
    let other = Arc::clone(&word);
    let echo = std::thread::spawn(move || {
        pin(1);
        loop {
            match other.load(Ordering::Acquire) {
                END => return,
                turn if turn % 2 == 1 => other.store(turn + 1, Ordering::Release),
                _ => spin_loop(),
            }
        }
    });
    row(criterion, "floor: a word there and back", 1, |windows| {
        timed(windows, || {
            let turn = word.load(Ordering::Relaxed) + 1;
            word.store(turn, Ordering::Release);
            while word.load(Ordering::Acquire) == turn {
                spin_loop();
            }
        })
    });
    word.store(END, Ordering::Release);
    echo.join().expect("the echo ends");
}

fn main() {
    let (began, mut criterion) = (SystemTime::now(), setting::criterion(WallTime));
    // First: its cores choose among the CPUs that this thread may use.
    tenure_rows(&mut criterion);
    pin(0);
    floor_row(&mut criterion);
    channel_rows(&mut criterion);
    mutex_row(&mut criterion);
    criterion.final_summary();
    summary::print(began);
}
