//! Runs shard and model side by side, keeps the log, crashes the shard and brings it back.
//!
//! After each operation: the answer is the model's (S1, S2, S9), its `after` covers what it reveals (S3), and every
//! record is one that the model can justify. At checks: invariants hold, and log alone as well as image + log give
//! the live dump (S4). At crashes: what was promised and acknowledged holds (S2, S3).

use crate::model::{Allowed, Model};
use std::collections::BTreeSet;
use tenure_core::limits::Bounds;
use tenure_core::*;

#[derive(Clone, Debug)]
pub(crate) struct RigConfig {
    pub(crate) shard_count: u16,
    pub(crate) renewals: Renewals,
    pub(crate) checkpoint_interval_ms: Option<u64>,
    pub(crate) role: Role,
    /// Bounds that short histories reach: slots are reused at once, generations run out.
    pub(crate) tight: bool,
    pub(crate) lease_count_max: u32,
    pub(crate) ttl_ms_min: u64,
}

/// One step of a history. Leases are indexes into all ids ever seen, chosen ids into a fixed set.
#[derive(Clone, Debug)]
pub(crate) enum Op {
    Advance(u64),
    Grant { chosen: Option<usize>, ttl: u64, key: Option<u64> },
    Renew(usize),
    RenewBatch(Vec<usize>),
    Revoke(usize),
    RevokeBatch(Vec<usize>),
    TimeToLive(usize),
    Items { lease: usize, after: Option<u8>, bytes: usize },
    List(usize),
    Attach { lease: usize, item: u8 },
    Detach { lease: usize, item: u8 },
    LeaseOf(u8),
    Expire(usize),
    Maintain(usize),
    Seal,
    Durable(u8),
    Image(usize),
    Promote(u64),
    Demote,
    Hold(u64),
    Release,
    Crash { part: u8, pause: u64 },
    Check,
}

/// A sealed batch, and the model as it was when it was sealed.
#[derive(Clone)]
pub(crate) struct Sealed {
    pub(crate) first: Position,
    pub(crate) time: Time,
    pub(crate) bytes: Vec<u8>,
    pub(crate) end: Position,
    pub(crate) model: Model,
}

/// Something a client was told, once the log was durable up to `after`.
pub(crate) struct Told {
    pub(crate) after: Position,
    pub(crate) id: LeaseId,
    pub(crate) token: Token,
    /// A deadline, or the news that the lease is gone.
    pub(crate) deadline: Option<u64>,
}

pub(crate) struct Image {
    pub(crate) chunks: Vec<Vec<u8>>,
    pub(crate) cursor: ImageCursor,
    /// Log position at which the walk ended.
    pub(crate) complete_at: Option<Position>,
}

pub(crate) struct Rig {
    pub(crate) config: RigConfig,
    pub(crate) shard: Shard,
    pub(crate) model: Model,
    pub(crate) log: RecordBuffer,
    pub(crate) opened_at: Time,
    pub(crate) sealed: Vec<Sealed>,
    pub(crate) durable: Position,
    pub(crate) image: Option<Image>,
    pub(crate) ids: Vec<LeaseId>,
    pub(crate) chosen: Vec<LeaseId>,
    pub(crate) told: Vec<Told>,
    pub(crate) ever_issued: BTreeSet<LeaseId>,
}

pub(crate) const SHARD: ShardIndex = ShardIndex(0);

pub(crate) fn item_bytes(item: u8) -> Vec<u8> {
    match item {
        0 => Vec::new(),
        1 => vec![0xff; 300],
        item => format!("item/{item}").into_bytes().repeat(1 + usize::from(item % 3)),
    }
}

impl Rig {
    pub(crate) fn new(config: RigConfig) -> Rig {
        let model = Model::new(config.role, config.renewals, config.checkpoint_interval_ms);
        let first = Sealed {
            first: Position(8),
            time: Time(0),
            bytes: vec![],
            end: Position(8),
            model: model.clone(),
        };
        Rig {
            shard: Rig::fresh_shard(&config),
            model,
            log: RecordBuffer::new(Position(64), Time(0)),
            opened_at: Time(0),
            sealed: vec![first],
            durable: Position::ZERO,
            image: None,
            ids: Vec::new(),
            chosen: chosen_ids(config.shard_count),
            told: Vec::new(),
            ever_issued: BTreeSet::new(),
            config,
        }
    }

    pub(crate) fn fresh_shard(config: &RigConfig) -> Shard {
        let tight =
            Bounds { slots_before_reuse: 4, grant_keys_max: 4, wheel_reference_slack: 16, generations: 40 };
        let shard_config = ShardConfig {
            seed: 7,
            ttl_ms_min: config.ttl_ms_min,
            lease_count_max: config.lease_count_max,
            checkpoint_interval_ms: config.checkpoint_interval_ms,
            renewals: config.renewals,
            role: config.role,
            ..ShardConfig::new(SHARD, config.shard_count)
        };
        Shard::with_bounds(shard_config, &if config.tight { tight } else { Bounds::default() })
    }

    pub(crate) fn log_bytes(&self) -> Vec<u8> {
        self.sealed.iter().flat_map(|batch| &batch.bytes).chain(self.log.bytes()).copied().collect()
    }

    pub(crate) fn dump(&self) -> String {
        let mut dump = String::new();
        self.shard.dump(&mut dump);
        dump
    }

    pub(crate) fn now(&self) -> Time {
        Time(self.model.clock)
    }

    pub(crate) fn id(&self, index: usize) -> LeaseId {
        if self.ids.is_empty() { LeaseId(0x1234_5678) } else { self.ids[index % self.ids.len()] }
    }

    /// Runs one verb and lets the model take in its records; returns the answer and the ends written.
    pub(crate) fn run<T>(
        &mut self,
        allowed: &Allowed,
        verb: impl FnOnce(&mut Shard, Time, &mut RecordBuffer) -> T,
    ) -> (T, Vec<(Cause, LeaseId)>) {
        let (tail, time, offset) = (self.log.tail(), self.log.time(), self.log.bytes().len());
        let now = self.now();
        // A record that joins the one before it cannot be decoded from the middle: seal first.
        let answer = if offset > 0 {
            let mut apart = RecordBuffer::new(tail, time);
            let answer = verb(&mut self.shard, now, &mut apart);
            self.seal();
            self.log = apart;
            self.opened_at = time;
            answer
        } else {
            verb(&mut self.shard, now, &mut self.log)
        };
        let ends = self.model.ingest(self.log.start(), self.opened_at, self.log.bytes(), allowed);
        (answer, ends)
    }

    pub(crate) fn seal(&mut self) {
        if self.log.is_empty() {
            return;
        }
        let end = self.log.tail();
        // Every other batch leaves a gap, as batch headers do.
        let gap = if self.sealed.len().is_multiple_of(2) { 64 } else { 0 };
        self.sealed.push(Sealed {
            first: self.log.start(),
            time: self.opened_at,
            bytes: self.log.bytes().to_vec(),
            end,
            model: self.model.clone(),
        });
        self.opened_at = self.log.time();
        self.log.begin(Position(end.0 + gap), self.opened_at);
    }

    /// S3: an answer about a live lease waits for what is pending about it, and for nothing otherwise.
    pub(crate) fn check_after_alive(&self, id: LeaseId, after: Position) {
        let pending = self.model.leases[&id].pending.max(self.model.last_role);
        if pending > self.durable {
            assert!(
                after >= pending,
                "S3 ack-after-durable: {id} is pending until {pending}, told after {after}"
            );
        }
        assert!(after <= self.log.tail());
    }

    /// S3: news of an end waits for the last end.
    pub(crate) fn check_after_gone(&self, after: Position) {
        let last_end = self.model.last_end.max(self.model.last_role);
        if last_end > self.durable {
            assert!(after >= last_end, "S3 ack-after-durable: an end told too early");
        }
        assert!(after <= self.log.tail());
    }

    pub(crate) fn check_after_tail(&self, after: Position) {
        if self.model.last_record > self.durable {
            assert!(after >= self.model.last_record, "S3 ack-after-durable: told before its record");
        }
    }

    pub(crate) fn tell_gone(&mut self, id: LeaseId, token: Option<Token>, after: Position) {
        if let Some(token) = token {
            self.told.push(Told { after, id, token, deadline: None });
        }
    }

    pub(crate) fn tell_alive(&mut self, id: LeaseId, after: Position) {
        let lease = &self.model.leases[&id];
        self.told.push(Told { after, id, token: lease.token, deadline: Some(lease.deadline) });
    }

    /// The token under which the id is known, alive or overdue.
    pub(crate) fn token_of(&self, id: LeaseId) -> Option<Token> {
        self.model.leases.get(&id).map(|lease| lease.token)
    }

    pub(crate) fn step(&mut self, op: &Op) {
        match op {
            Op::Advance(ms) => self.model.clock += ms,
            Op::Grant { chosen, ttl, key } => self.grant(*chosen, *ttl, *key),
            Op::Renew(lease) => self.renew(self.id(*lease)),
            Op::RenewBatch(leases) => self.renew_batch(leases),
            Op::Revoke(lease) => self.revoke(self.id(*lease)),
            Op::RevokeBatch(leases) => self.revoke_batch(leases),
            Op::TimeToLive(lease) => self.time_to_live(self.id(*lease)),
            Op::Items { lease, after, bytes } => self.items(self.id(*lease), *after, *bytes),
            Op::List(limit) => self.list(*limit),
            Op::Attach { lease, item } => self.attach(self.id(*lease), &item_bytes(*item)),
            Op::Detach { lease, item } => self.detach(self.id(*lease), &item_bytes(*item)),
            Op::LeaseOf(item) => self.lease_of(&item_bytes(*item)),
            Op::Expire(budget) => self.expire(*budget),
            Op::Maintain(budget) => {
                let allowed = Allowed { maintain: true, ..Allowed::default() };
                self.run(&allowed, |shard, now, log| shard.maintain(now, *budget, log));
            }
            Op::Seal => self.seal(),
            Op::Durable(part) => self.make_durable(*part),
            Op::Image(bytes) => self.image(*bytes),
            Op::Promote(extend_ms) => {
                let standby = self.model.role == Role::Standby;
                let allowed = Allowed { promote: standby.then_some(*extend_ms), ..Allowed::default() };
                let (answer, _) = self.run(&allowed, |shard, now, log| shard.promote(now, *extend_ms, log));
                assert_eq!(answer.result, Ok(()));
                assert_eq!(self.model.role, Role::Primary);
                self.check_after_tail(answer.after);
                if standby {
                    self.model
                        .leases
                        .keys()
                        .copied()
                        .collect::<Vec<_>>()
                        .into_iter()
                        .for_each(|id| self.tell_alive(id, answer.after));
                }
            }
            Op::Demote => {
                let allowed = Allowed { demote: true, ..Allowed::default() };
                let (answer, _) = self.run(&allowed, Shard::demote);
                assert_eq!((answer.result, self.model.role), (Ok(()), Role::Standby));
            }
            Op::Hold(back) => {
                let at = self.model.clock.saturating_sub(*back);
                self.model.held = Some(at);
                self.shard.hold_horizon(Time(at));
            }
            Op::Release => {
                self.model.held = None;
                self.shard.release_horizon();
            }
            Op::Crash { part, pause } => self.crash(*part, *pause),
            Op::Check => self.check(),
        }
    }
}

/// Ids that clients choose: small, negative, far apart, and some that the server itself would assign.
fn chosen_ids(shard_count: u16) -> Vec<LeaseId> {
    let any = [1, 2, 3, 1 << 40, u64::MAX, u64::MAX - 1, 1 << 63, 1 << 62, 0x694d_8141_7acd_4754];
    let spread = (4..4_000).map(|i: u64| i.wrapping_mul(0x9E37_79B9_7F4A_7C15));
    let mut ids: Vec<LeaseId> = any
        .into_iter()
        .chain(spread)
        .map(LeaseId)
        .filter(|&id| shard_of(id, shard_count) == SHARD)
        .take(12)
        .collect();
    let base = generation_range(SHARD, shard_count).start;
    for slot in 0..6 {
        ids.push(LeaseId(unmix((base + 1) << 28 | slot)));
        ids.push(LeaseId(unmix((base + 2) << 28 | slot)));
    }
    ids
}
