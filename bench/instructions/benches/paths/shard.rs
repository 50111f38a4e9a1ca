//! The shard's verbs. *Assigned* are IDs that name their slot, *chosen* those that are looked up.

use std::hint::black_box;

use gungraun::{library_benchmark, library_benchmark_group};
use tenure_core::{Grant, LeaseId, Position, RecordBuffer, Shard, ShardConfig, ShardIndex, Time};

use crate::{BATCH, OPERATIONS};

pub(crate) const TTL_MS: u64 = 10_000;
const LEASE_COUNT_MAX: u32 = 100_000;
/// Coprime to [`OPERATIONS`]: leases are renewed in another order than they were granted.
const STRIDE: usize = 4_099;

/// A shard, its log, and the IDs that the path will ask for.
pub(crate) struct Subject {
    pub(crate) shard: Shard,
    pub(crate) log: RecordBuffer,
    ids: Vec<LeaseId>,
    failed: Vec<u32>,
}

#[derive(Clone, Copy)]
pub(crate) enum Ids {
    Assigned,
    Chosen,
}

impl Ids {
    /// What the grant of lease `index` asks for.
    fn wish(self, index: usize) -> Option<LeaseId> {
        match self {
            Ids::Assigned => None,
            Ids::Chosen => Some(LeaseId((index as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15))),
        }
    }
}

pub(crate) fn empty_shard() -> Shard {
    Shard::new(ShardConfig { lease_count_max: LEASE_COUNT_MAX, ..ShardConfig::new(ShardIndex(0), 1) })
}

/// A shard that has granted `OPERATIONS` leases, and the records of it.
pub(crate) fn filled(ids: Ids) -> Subject {
    let log = RecordBuffer::new(Position(64), Time(0));
    let mut subject = Subject { shard: empty_shard(), log, ids: Vec::new(), failed: Vec::new() };
    for index in 0..OPERATIONS {
        let grant = Grant { id: ids.wish(index), ttl_ms: TTL_MS, key: None };
        let granted = subject.shard.grant(Time(0), &grant, &mut subject.log).result;
        subject.ids.push(granted.expect("there is room").id);
    }
    let ids = (0..OPERATIONS).map(|index| subject.ids[index * STRIDE % OPERATIONS]).collect();
    Subject { ids, ..subject }
}

/// The same, and all of it durable.
fn granted(ids: Ids) -> Subject {
    let mut subject = filled(ids);
    subject.settle(Time(0));
    subject
}

/// The same, each lease renewed half a TTL later, so that its place in the wheel is too early.
fn renewed(ids: Ids) -> Subject {
    let mut subject = granted(ids);
    subject.renew_all();
    subject
}

impl Subject {
    /// What the runtime does with a batch: it is on disk, and a new one begins.
    fn settle(&mut self, now: Time) {
        let tail = self.log.tail();
        self.shard.durable(tail);
        self.log.begin(tail, now);
    }

    #[inline]
    fn renew_all(&mut self) {
        for ids in self.ids.chunks_exact(BATCH) {
            let now = Time(TTL_MS / 2);
            let after = self.shard.renew_batch(now, black_box(ids), &mut self.failed, &mut self.log);
            assert!(after.is_ok());
        }
        assert!(self.failed.is_empty());
    }
}

#[library_benchmark]
#[bench::assigned(granted(Ids::Assigned))]
#[bench::chosen(granted(Ids::Chosen))]
fn renew(mut subject: Subject) -> Subject {
    for &id in &subject.ids {
        let answer = subject.shard.renew(Time(TTL_MS / 2), black_box(id), &mut subject.log);
        assert!(answer.result.is_ok());
    }
    subject
}

#[library_benchmark]
#[bench::assigned(granted(Ids::Assigned))]
#[bench::chosen(granted(Ids::Chosen))]
fn renew_batch(mut subject: Subject) -> Subject {
    subject.renew_all();
    subject
}

// As many leases again, sealed in batches as the runtime does.
#[library_benchmark]
#[bench::assigned(granted(Ids::Assigned), Ids::Assigned)]
#[bench::chosen(granted(Ids::Chosen), Ids::Chosen)]
fn grant(mut subject: Subject, ids: Ids) -> Subject {
    for index in 0..OPERATIONS {
        let grant = Grant { id: ids.wish(OPERATIONS + index), ttl_ms: TTL_MS, key: None };
        let answer = subject.shard.grant(Time(1), black_box(&grant), &mut subject.log);
        assert!(answer.result.is_ok());
        if index % BATCH == BATCH - 1 {
            subject.settle(Time(1));
        }
    }
    subject
}

// All leases end on one tick.
#[library_benchmark]
#[bench::assigned(granted(Ids::Assigned))]
#[bench::chosen(granted(Ids::Chosen))]
fn expire(mut subject: Subject) -> Subject {
    let ended = drain(&mut subject, Time(TTL_MS + 1));
    assert_eq!(ended, OPERATIONS);
    subject
}

// The wheel comes by, finds that each lease was renewed, and files it again.
#[library_benchmark]
#[bench::assigned(renewed(Ids::Assigned))]
fn refile(mut subject: Subject) -> Subject {
    let ended = drain(&mut subject, Time(TTL_MS + 1));
    assert_eq!(ended, 0);
    subject
}

// Turns with nothing due.
#[library_benchmark]
#[bench::assigned(renewed(Ids::Assigned))]
fn idle_turn(mut subject: Subject) -> Subject {
    for turn in 0..OPERATIONS {
        let now = Time(TTL_MS / 2 + turn as u64 * (TTL_MS / 2) / OPERATIONS as u64);
        let progress = subject.shard.expire(black_box(now), BATCH, &mut subject.log);
        assert_eq!(progress.ended, 0);
    }
    subject
}

#[library_benchmark]
#[bench::assigned(granted(Ids::Assigned))]
#[bench::chosen(granted(Ids::Chosen))]
fn revoke_batch(mut subject: Subject) -> Subject {
    for ids in subject.ids.chunks_exact(BATCH) {
        let after =
            subject.shard.revoke_batch(Time(1), black_box(ids), &mut subject.failed, &mut subject.log);
        assert!(after.is_ok());
    }
    assert!(subject.failed.is_empty());
    subject
}

/// Expires what is due, in turns of 1,024 references.
fn drain(subject: &mut Subject, now: Time) -> usize {
    let mut ended = 0;
    loop {
        let progress = subject.shard.expire(now, 1_024, &mut subject.log);
        ended += progress.ended;
        if !progress.more {
            return ended;
        }
    }
}

library_benchmark_group!(
    name = verbs;
    benchmarks = renew, renew_batch, grant, expire, refile, idle_turn, revoke_batch
);
