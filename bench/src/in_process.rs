//! The engine without server, log and network: one shard in this process, CPU time per renewal.
//!
//! **All in**: leases are renewed at random so that each is renewed about three times per TTL, batch by
//! batch, while the clock moves; what lapses expires and is granted anew, and every turn of the wheel is
//! in the figure. Records are written and thrown away, as a log would take them.

use anyhow::ensure;
use serde::{Deserialize, Serialize};
use tenure_core::{Grant, LeaseId, Position, RecordBuffer, Shard, ShardConfig, ShardIndex, Time};

use crate::args::Ids;
use crate::chooser::Chooser;
use crate::ring::thread_cpu_ns;

const TTL_MS: u64 = 60_000;
/// Each lease is renewed about once in this time.
const PERIOD_MS: usize = 20_000;
/// Batches between two looks at the CPU clock, which costs as much as ten renewals.
const BATCHES: usize = 64;
/// References of the wheel that one call of `expire` looks at, as the server does it.
const EXPIRE_BUDGET: usize = 1_024;
/// Renewals per lease, of which the first half is not counted.
const ROUNDS: usize = 6;

/// What was found.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct InProcess {
    /// Leases.
    pub leases: usize,
    /// Leases per batch.
    pub batch: usize,
    /// CPU time per renewal in a bare batch, ns.
    pub renew_ns: f64,
    /// CPU time per renewal with wheel, expiry and the grants that replace what lapsed, ns.
    pub all_in_ns: f64,
}

struct Bench {
    shard: Shard,
    log: RecordBuffer,
    now: Time,
    leases: Vec<LeaseId>,
    random: u64,
    chosen: bool,
}

/// Measures on the calling thread.
///
/// # Errors
/// When the shard refuses what it must not refuse.
pub(crate) fn measure(leases: usize, batch: usize, ids: Ids) -> anyhow::Result<InProcess> {
    let config = ShardConfig {
        lease_count_max: u32::try_from(leases + leases / 8 + 1_000)?,
        checkpoint_interval_ms: None,
        seed: 99,
        ..ShardConfig::new(ShardIndex(0), 1)
    };
    let mut bench = Bench {
        shard: Shard::new(config),
        log: RecordBuffer::new(Position(64), Time(0)),
        now: Time(0),
        leases: Vec::with_capacity(leases),
        random: 7,
        chosen: ids == Ids::Chosen,
    };
    bench.fill(leases)?;
    let renew_ns = bench.bare(batch)?;
    let all_in_ns = bench.all_in(batch)?;
    Ok(InProcess { leases, batch, renew_ns, all_in_ns })
}

/// CPU time per lease of replaying a log of `leases` grants into an empty shard and making it serve, ns:
/// the floor of a recovery.
///
/// # Errors
/// When the log is not read back.
pub(crate) fn replay(leases: usize) -> anyhow::Result<f64> {
    let config = ShardConfig {
        lease_count_max: u32::try_from(leases + 1_000)?,
        checkpoint_interval_ms: None,
        ..ShardConfig::new(ShardIndex(0), 1)
    };
    let mut shard = Shard::new(config.clone());
    let mut log = RecordBuffer::new(Position(64), Time(0));
    let mut parts = Vec::new();
    for index in 0..leases {
        let grant = Grant { id: None, ttl_ms: TTL_MS, key: None };
        ensure!(shard.grant(Time(0), &grant, &mut log).result.is_ok(), "a grant was refused");
        if log.bytes().len() > 128 << 10 || index + 1 == leases {
            parts.push((log.start(), log.bytes().to_vec()));
            let tail = log.tail();
            shard.durable(tail);
            log.begin(tail, Time(0));
        }
    }
    drop(shard);
    let mut replayed = Shard::new(config);
    let began_ns = thread_cpu_ns();
    for (first, bytes) in &parts {
        replayed.replay(*first, Time(0), bytes).map_err(|error| anyhow::anyhow!("replay: {error:?}"))?;
    }
    replayed.recovered(Time(0));
    let spent_ns = thread_cpu_ns() - began_ns;
    ensure!(replayed.lease_count() == leases as u64, "not every lease came back (S4)");
    Ok(spent_ns as f64 / leases as f64)
}

impl Bench {
    fn fill(&mut self, count: usize) -> anyhow::Result<()> {
        let mut chooser = Chooser::new(0, 0, 1, 1);
        for index in 0..count {
            let id = self.chosen.then(|| LeaseId(chooser.next(0).0));
            // Deadlines spread over a period, as they are when leases come one by one.
            let early_ms = (index % PERIOD_MS) as u64;
            let id = self.grant(id, TTL_MS - early_ms)?;
            self.leases.push(id);
            if index % 4_096 == 0 {
                self.settle();
            }
        }
        self.settle();
        Ok(())
    }

    fn grant(&mut self, id: Option<LeaseId>, ttl_ms: u64) -> anyhow::Result<LeaseId> {
        let answer = self.shard.grant(self.now, &Grant { id, ttl_ms, key: None }, &mut self.log);
        answer.result.map(|granted| granted.id).map_err(|refusal| anyhow::anyhow!("a grant: {refusal:?}"))
    }

    /// What the runtime does each turn: the log is taken and durable.
    fn settle(&mut self) {
        let tail = self.log.tail();
        self.shard.durable(tail);
        self.log.begin(tail, self.now);
    }

    fn place(&mut self) -> usize {
        self.random = self.random.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = tenure_core::mix(self.random ^ self.random >> 31);
        ((u128::from(mixed) << 1).wrapping_mul(self.leases.len() as u128) >> 64) as usize % self.leases.len()
    }

    /// Places and IDs of the next batches, chosen outside of what is measured.
    fn choose(&mut self, places: &mut [usize], ids: &mut [LeaseId]) {
        for (place, id) in places.iter_mut().zip(ids) {
            *place = self.place();
            *id = self.leases[*place];
        }
    }

    fn bare(&mut self, batch: usize) -> anyhow::Result<f64> {
        let (mut places, mut ids) = (vec![0; batch * BATCHES], vec![LeaseId(0); batch * BATCHES]);
        let (mut failed, mut spent_ns, mut renewals) = (Vec::new(), 0, 0);
        while renewals < 2 * self.leases.len() {
            self.choose(&mut places, &mut ids);
            let began_ns = thread_cpu_ns();
            for ids in ids.chunks(batch) {
                let done = self.shard.renew_batch(self.now, ids, &mut failed, &mut self.log);
                ensure!(done.is_ok() && failed.is_empty(), "a live lease was refused");
            }
            renewals += ids.len();
            // The first round brings the table into its steady state.
            if renewals > self.leases.len() {
                spent_ns += thread_cpu_ns() - began_ns;
            }
        }
        Ok(spent_ns as f64 / (renewals - self.leases.len()) as f64)
    }

    fn all_in(&mut self, batch: usize) -> anyhow::Result<f64> {
        let (mut places, mut ids) = (vec![0; batch * BATCHES], vec![LeaseId(0); batch * BATCHES]);
        let mut failed = Vec::new();
        let per_ms = (self.leases.len() / PERIOD_MS).max(1);
        let total = self.leases.len() * ROUNDS;
        let (mut renewals, mut counted, mut owed, mut spent_ns) = (0, 0, 0, 0);
        while renewals < total {
            self.choose(&mut places, &mut ids);
            let began_ns = thread_cpu_ns();
            for (ids, places) in ids.chunks(batch).zip(places.chunks(batch)) {
                failed.clear();
                let done = self.shard.renew_batch(self.now, ids, &mut failed, &mut self.log);
                ensure!(done.is_ok(), "a batch was refused");
                for &index in &failed {
                    let place = places[index as usize];
                    // Twice in a block: it was granted anew a moment ago.
                    if self.leases[place] == ids[index as usize] || self.chosen {
                        let id = self.chosen.then(|| self.leases[place]);
                        self.leases[place] = match self.grant(id, TTL_MS) {
                            Ok(id) => id,
                            Err(_) if self.chosen => self.leases[place],
                            Err(error) => return Err(error),
                        };
                    }
                }
                owed += ids.len();
                self.now.0 += (owed / per_ms) as u64;
                owed %= per_ms;
                while self.shard.expire(self.now, EXPIRE_BUDGET, &mut self.log).more {}
                self.settle();
            }
            renewals += ids.len();
            if renewals > total / 2 {
                spent_ns += thread_cpu_ns() - began_ns;
                counted += ids.len();
            }
        }
        Ok(spent_ns as f64 / counted as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_kinds_of_ids_go_through_many_lives() {
        for ids in [Ids::Assigned, Ids::Chosen] {
            let found = measure(20_000, 64, ids).unwrap();
            assert!(found.renew_ns > 0.0 && found.all_in_ns > 0.0, "{found:?}");
        }
    }

    #[test]
    fn s4_a_log_of_grants_is_replayed_whole() {
        assert!(replay(20_000).unwrap() > 0.0);
    }
}
