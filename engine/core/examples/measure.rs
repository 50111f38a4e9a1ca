//! Measures the shard alone, without log, network or other cores: ns of CPU per operation and bytes per lease.
//!
//! `cargo run --release -p tenure-core --example measure -- [LEASES [steady [BATCH]]]` (default 1,000,000 and everything). Leases are renewed in random
//! order, in batches of 256 unless said; records are written and thrown away.

#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "a measurement needs a clock")]

use tenure_core::*;

const BATCH: usize = 256;

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let x = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        x ^ (x >> 31)
    }
}

fn rss_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap_or("0");
    line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) * 1024
}

/// A moment in this thread's CPU time: what survives a busy machine.
#[derive(Clone, Copy)]
struct Cpu(u64);

impl Cpu {
    fn now() -> Cpu {
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: the call writes one timespec, which outlives it.
        let failed = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
        assert_eq!(failed, 0, "Linux has a CPU clock for each thread");
        Cpu(time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64)
    }
}

fn report(what: &str, count: usize, since: Cpu) {
    let ns = (Cpu::now().0 - since.0) as f64 / count as f64;
    println!("{what:<44} {ns:8.1} ns  {:8.1} M/s", 1e3 / ns);
}

struct Run {
    shard: Shard,
    log: RecordBuffer,
    now: Time,
    random: Random,
}

impl Run {
    fn new(leases: usize) -> Run {
        let config = ShardConfig {
            lease_count_max: leases as u32 + 1_000,
            checkpoint_interval_ms: None,
            seed: 99,
            ..ShardConfig::new(ShardIndex(0), 1)
        };
        let mut run = Run {
            shard: Shard::new(config),
            log: RecordBuffer::new(Position(64), Time(0)),
            now: Time(0),
            random: Random(7),
        };
        run.settle();
        run
    }

    /// What the runtime does each turn: the log is taken and durable.
    fn settle(&mut self) {
        let tail = self.log.tail();
        self.shard.durable(tail);
        self.log.begin(tail, self.now);
        while self.shard.maintain(self.now, 1024, &mut self.log) {}
        while let Some(ahead) = self.shard.memory_wanted() {
            ahead.populate();
        }
    }

    fn grant(&mut self, id: Option<LeaseId>, ttl_ms: u64) -> LeaseId {
        let answer = self.shard.grant(self.now, &Grant { id, ttl_ms, key: None }, &mut self.log);
        answer.result.expect("a grant within the limit").id
    }

    fn fill(&mut self, what: &str, ids: impl Iterator<Item = Option<LeaseId>>, ttl_ms: u64) -> Vec<LeaseId> {
        let start = Cpu::now();
        let mut granted = Vec::new();
        for (index, id) in ids.enumerate() {
            granted.push(self.grant(id, ttl_ms));
            if index % 4096 == 4095 {
                self.settle();
            }
        }
        self.settle();
        report(what, granted.len(), start);
        granted
    }

    fn shuffle(&mut self, ids: &mut [LeaseId]) {
        for index in (1..ids.len()).rev() {
            ids.swap(index, self.random.next() as usize % (index + 1));
        }
    }

    fn renew_batches(&mut self, what: &str, ids: &[LeaseId], batch: usize) {
        let mut failed = Vec::new();
        let start = Cpu::now();
        for ids in ids.chunks(batch) {
            self.shard.renew_batch(self.now, ids, &mut failed, &mut self.log).expect("primary");
        }
        report(what, ids.len(), start);
        assert!(failed.is_empty());
    }

    fn renew_single(&mut self, ids: &[LeaseId]) {
        let start = Cpu::now();
        for &id in ids {
            assert!(self.shard.renew(self.now, id, &mut self.log).result.is_ok());
        }
        report("renew, one by one", ids.len(), start);
        let start = Cpu::now();
        for index in 0..ids.len() {
            if let Some(&coming) = ids.get(index + 16) {
                self.shard.prefetch(coming);
            }
            assert!(self.shard.renew(self.now, ids[index], &mut self.log).result.is_ok());
        }
        report("renew, one by one, prefetched 16 ahead", ids.len(), start);
    }

    fn drain(&mut self, what: &str, count: usize) {
        let start = Cpu::now();
        let (mut ended, mut worst) = (0, 0);
        loop {
            let turn = Cpu::now();
            let progress = self.shard.expire(self.now, 1024, &mut self.log);
            let tail = self.log.tail();
            self.shard.durable(tail);
            self.log.begin(tail, self.now);
            ended += progress.ended;
            worst = worst.max((Cpu::now().0 - turn.0) / 1_000);
            if !progress.more {
                break;
            }
        }
        report(what, count, start);
        println!("    {ended} ended, worst turn of 1024 references {worst} us of CPU");
    }

    /// Renewals at random over three TTLs, the clock moving, expiry and new grants included. Looks at the CPU clock
    /// every 64 batches: a look costs as much as some dozens of renewals.
    fn steady(&mut self, ids: &mut [LeaseId], batch_len: usize) {
        const BATCHES: usize = 64;
        let mut failed = Vec::new();
        let mut batch = vec![LeaseId(0); batch_len * BATCHES];
        let mut places = vec![0usize; batch_len * BATCHES];
        let total = ids.len() * 6;
        let (mut renewals, mut owed, mut spent, mut counted) = (0usize, 0usize, 0u64, 0usize);
        while renewals < total {
            for (place, id) in places.iter_mut().zip(&mut batch) {
                *place = self.random.next() as usize % ids.len();
                *id = ids[*place];
            }
            let start = Cpu::now();
            for (batch, places) in batch.chunks(batch_len).zip(places.chunks(batch_len)) {
                failed.clear();
                self.shard.renew_batch(self.now, batch, &mut failed, &mut self.log).expect("primary");
                for &index in &failed {
                    ids[places[index as usize]] = self.grant(None, 60_000);
                }
                owed = self.move_on(owed + batch_len, ids.len());
            }
            renewals += batch.len();
            if renewals >= total / 2 {
                spent += Cpu::now().0 - start.0;
                counted += batch.len();
            }
        }
        let all = spent as f64 / counted as f64;
        println!("steady state, all in, per renewal            {all:8.1} ns  {:8.1} M/s", 1e3 / all);
    }

    /// The clock moves by what so many renewals stand for, a round of all leases being 20 s; returns the rest.
    fn move_on(&mut self, owed: usize, leases: usize) -> usize {
        let per_ms = (leases / 20_000).max(1);
        self.now.0 += (owed / per_ms) as u64;
        while self.shard.expire(self.now, 1024, &mut self.log).more {}
        let tail = self.log.tail();
        self.shard.durable(tail);
        self.log.begin(tail, self.now);
        owed % per_ms
    }
}

fn chosen(count: usize) -> impl Iterator<Item = Option<LeaseId>> {
    (1..=count as u64).map(|i| Some(LeaseId(i.wrapping_mul(0x9E37_79B9_7F4A_7C15))))
}

fn direct(leases: usize) {
    println!("-- {leases} leases, server-assigned ids");
    let before = rss_bytes();
    let mut run = Run::new(leases);
    let mut ids = run.fill("grant", std::iter::repeat_n(None, leases), 60_000);
    let own = ids.len() as u64 * 8;
    let per_lease = (rss_bytes() - before - own) as f64 / leases as f64;
    println!("    {per_lease:.1} B/lease RSS, {:.0} MB in all", (rss_bytes() - own) as f64 / 1e6);
    run.shuffle(&mut ids);
    run.now = Time(1_000);
    for _ in 0..3 {
        run.renew_batches("renew_batch of 256", &ids, BATCH);
    }
    run.renew_batches("renew_batch of 64", &ids, 64);
    run.renew_single(&ids);
    run.steady(&mut ids, BATCH);
    recover(&run, std::iter::repeat_n(None, leases));
    run.now.0 += 200_000;
    run.drain("the rest expires", leases);
}

fn mass(leases: usize) {
    println!("-- mass expiry on one tick");
    let mut run = Run::new(leases);
    let mut ids = run.fill("grant", std::iter::repeat_n(None, leases), 60_000);
    run.shuffle(&mut ids);
    run.renew_batches("renew_batch of 256", &ids, BATCH);
    run.now = Time(60_001);
    run.drain("expire, in grant order", leases);
    let mut ids = run.fill("grant, reused slots", std::iter::repeat_n(None, leases), 600_000);
    run.shuffle(&mut ids);
    let mut failed = Vec::new();
    let start = Cpu::now();
    for ids in ids.chunks(BATCH) {
        run.shard.revoke_batch(run.now, ids, &mut failed, &mut run.log).expect("primary");
        let tail = run.log.tail();
        run.shard.durable(tail);
        run.log.begin(tail, run.now);
    }
    report("revoke_batch of 256", leases, start);
    let ids = run.fill("grant, shuffled slots", std::iter::repeat_n(None, leases), 5_000);
    run.now.0 += 5_001;
    run.drain("expire, shuffled, with stale references", ids.len());
}

fn hashed(leases: usize) {
    println!("-- {leases} leases, client-chosen ids");
    let before = rss_bytes();
    let mut run = Run::new(leases);
    let mut ids = run.fill("grant", chosen(leases), 60_000);
    let own = ids.len() as u64 * 8;
    println!("    {:.1} B/lease RSS", (rss_bytes() - before - own) as f64 / leases as f64);
    run.shuffle(&mut ids);
    run.renew_batches("renew_batch of 256", &ids, BATCH);
    run.renew_batches("renew_batch of 256", &ids, BATCH);
    recover(&run, chosen(leases));
    run.now = Time(60_001);
    run.drain("expire", leases);
}

/// Image and replay of the leases that live now.
fn recover(run: &Run, ids: impl Iterator<Item = Option<LeaseId>>) {
    let start = Cpu::now();
    let mut copy = Shard::new(run.shard.config().clone());
    let mut log = RecordBuffer::new(Position(64), Time(0));
    let mut chunks = Vec::new();
    // The walk needs a cursor from a shard that may be changed; a copy by replay is as good.
    let mut grants = Vec::new();
    let mut leases = 0;
    for id in ids {
        if copy.grant(Time(0), &Grant { id, ttl_ms: 60_000, key: None }, &mut log).result.is_err() {
            break;
        }
        leases += 1;
        if log.bytes().len() > 128 << 10 {
            grants.push((log.start(), log.bytes().to_vec()));
            copy.durable(log.tail());
            let tail = log.tail();
            log.begin(tail, Time(0));
        }
    }
    grants.push((log.start(), log.bytes().to_vec()));
    report("grant into a second shard", leases, start);
    let mut cursor = copy.image_start();
    let start = Cpu::now();
    let mut done = false;
    while !done {
        let mut chunk = Vec::new();
        done = copy.image_step(&mut cursor, 64 << 10, &mut chunk);
        chunks.push(chunk);
    }
    report("image", leases, start);
    drop(copy);
    let mut loaded = Shard::new(run.shard.config().clone());
    let start = Cpu::now();
    for chunk in &chunks {
        loaded.load_image(chunk).expect("an image");
    }
    report("load image", leases, start);
    let start = Cpu::now();
    loaded.recovered(Time(0));
    report("recovered", leases, start);
    drop(loaded);
    let mut replayed = Shard::new(run.shard.config().clone());
    let start = Cpu::now();
    for (first, bytes) in &grants {
        replayed.replay(*first, Time(0), bytes).expect("records");
    }
    replayed.recovered(Time(0));
    report("replay of grants, recovery included", leases, start);
}

fn main() {
    let leases = std::env::args().nth(1).and_then(|count| count.parse().ok()).unwrap_or(1_000_000);
    if std::env::args().nth(2).as_deref() == Some("steady") {
        let mut run = Run::new(leases);
        let mut ids = run.fill("grant", std::iter::repeat_n(None, leases), 60_000);
        run.shuffle(&mut ids);
        let batch = std::env::args().nth(3).and_then(|batch| batch.parse().ok()).unwrap_or(BATCH);
        return run.steady(&mut ids, batch);
    }
    direct(leases);
    mass(leases);
    hashed(leases);
}
