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
struct Sealed {
    first: Position,
    time: Time,
    bytes: Vec<u8>,
    end: Position,
    model: Model,
}

/// Something a client was told, once the log was durable up to `after`.
struct Told {
    after: Position,
    id: LeaseId,
    token: Token,
    /// A deadline, or the news that the lease is gone.
    deadline: Option<u64>,
}

struct Image {
    chunks: Vec<Vec<u8>>,
    cursor: ImageCursor,
    /// Log position at which the walk ended.
    complete_at: Option<Position>,
}

pub(crate) struct Rig {
    config: RigConfig,
    shard: Shard,
    model: Model,
    log: RecordBuffer,
    opened_at: Time,
    sealed: Vec<Sealed>,
    durable: Position,
    image: Option<Image>,
    ids: Vec<LeaseId>,
    chosen: Vec<LeaseId>,
    told: Vec<Told>,
    ever_issued: BTreeSet<LeaseId>,
}

const SHARD: ShardIndex = ShardIndex(0);

fn item_bytes(item: u8) -> Vec<u8> {
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

    fn fresh_shard(config: &RigConfig) -> Shard {
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

    fn now(&self) -> Time {
        Time(self.model.clock)
    }

    fn id(&self, index: usize) -> LeaseId {
        if self.ids.is_empty() { LeaseId(0x1234_5678) } else { self.ids[index % self.ids.len()] }
    }

    /// Runs one verb and lets the model take in its records; returns the answer and the ends written.
    fn run<T>(
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

    fn seal(&mut self) {
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
    fn check_after_alive(&self, id: LeaseId, after: Position) {
        let pending = self.model.leases[&id].pending;
        if pending > self.durable {
            assert!(
                after >= pending,
                "S3 ack-after-durable: {id} is pending until {pending}, told after {after}"
            );
        }
        assert!(after <= self.log.tail());
    }

    /// S3: news of an end waits for the last end.
    fn check_after_gone(&self, after: Position) {
        if self.model.last_end > self.durable {
            assert!(after >= self.model.last_end, "S3 ack-after-durable: an end told too early");
        }
        assert!(after <= self.log.tail());
    }

    fn check_after_tail(&self, after: Position) {
        if self.model.last_record > self.durable {
            assert!(after >= self.model.last_record, "S3 ack-after-durable: told before its record");
        }
    }

    fn tell_gone(&mut self, id: LeaseId, token: Option<Token>, after: Position) {
        if let Some(token) = token {
            self.told.push(Told { after, id, token, deadline: None });
        }
    }

    fn tell_alive(&mut self, id: LeaseId, after: Position) {
        let lease = &self.model.leases[&id];
        self.told.push(Told { after, id, token: lease.token, deadline: Some(lease.deadline) });
    }

    /// The token under which the id is known, alive or overdue.
    fn token_of(&self, id: LeaseId) -> Option<Token> {
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

    fn grant(&mut self, chosen: Option<usize>, ttl_ms: u64, key: Option<u64>) {
        let id = chosen.map(|index| self.chosen[index % self.chosen.len()]);
        // Key 0 is not identified.
        let key = key.map(|request| GrantKey { client: u64::from(request > 0), request: request % 3 });
        let grant = Grant { id, ttl_ms, key };
        let raised_ttl = ttl_ms.max(self.config.ttl_ms_min);
        let key = key.filter(|key| key.client != 0);
        let known = key.and_then(|key| self.model.keys.get(&key).copied());
        let repeated =
            known.filter(|&(id, token)| self.model.alive(id).is_some_and(|lease| lease.token == token));
        let live_before = self.model.leases.len();
        let taken = id.filter(|&id| self.model.alive(id).is_some());
        let is_primary = self.model.role == Role::Primary;
        let allowed = Allowed { grant: Some((id, raised_ttl, key)), ..Allowed::default() };
        let (answer, ends) = self.run(&allowed, |shard, now, log| shard.grant(now, &grant, log));
        let live = live_before - ends.len();
        // A memory of four forgets keys that the model knows.
        let forgetful = self.config.tight;
        match answer.result {
            Err(Refusal::NotPrimary) => assert!(!is_primary),
            Err(Refusal::TtlZero) => assert_eq!(ttl_ms, 0),
            Err(Refusal::TtlTooLarge) => assert!(ttl_ms > 9_000_000_000_000),
            Err(Refusal::AlreadyExists) => {
                assert!(taken.is_some() && (repeated.is_none() || forgetful));
                self.check_after_alive(taken.unwrap(), answer.after);
            }
            Err(Refusal::LimitExceeded) => {
                let retired = self.config.tight && self.shard.generation_next() >= 39;
                assert!(
                    live >= self.config.lease_count_max as usize || retired,
                    "{live} leases are not too many"
                );
            }
            Err(refusal) => panic!("unexpected {refusal}"),
            Ok(granted) if granted.repeated => {
                assert_eq!(Some((granted.id, granted.token)), repeated);
                let lease = &self.model.leases[&granted.id];
                assert_eq!(granted.ttl_ms, lease.ttl_ms);
                assert_eq!(
                    granted.remaining_ms,
                    self.model.remaining_ms(lease),
                    "the clock was not restarted"
                );
                self.check_after_alive(granted.id, answer.after);
                self.tell_alive(granted.id, answer.after);
            }
            Ok(granted) => {
                assert!(is_primary && taken.is_none() && (repeated.is_none() || forgetful));
                assert!(live < self.config.lease_count_max as usize, "S8 bounded: too many leases");
                assert_eq!((granted.ttl_ms, granted.remaining_ms), (raised_ttl, raised_ttl));
                assert_eq!(granted.raised, raised_ttl > ttl_ms);
                assert_eq!(self.model.leases[&granted.id].token, granted.token);
                assert_eq!(shard_of(granted.id, self.config.shard_count), SHARD, "S1 one-shard");
                if id.is_none() {
                    assert!(granted.id.0 > 0 && granted.id.0 >> 63 == 0, "positive in etcd's reading");
                    assert!(self.ever_issued.insert(granted.id), "{} is issued twice", granted.id);
                }
                self.check_after_tail(answer.after);
                self.tell_alive(granted.id, answer.after);
                if !self.ids.contains(&granted.id) {
                    self.ids.push(granted.id);
                }
            }
        }
    }

    fn renew(&mut self, id: LeaseId) {
        let (alive, token) = (self.model.alive(id).is_some(), self.token_of(id));
        let is_primary = self.model.role == Role::Primary;
        let allowed = Allowed { renew: BTreeSet::from([id]), ..Allowed::default() };
        self.shard.prefetch(id);
        let (answer, _) = self.run(&allowed, |shard, now, log| shard.renew(now, id, log));
        match answer.result {
            Ok(renewed) => {
                assert!(alive && is_primary, "renewed a dead lease {id}");
                self.model.renew(id);
                assert_eq!(renewed.ttl_ms, self.model.leases[&id].ttl_ms);
                self.check_after_alive(id, answer.after);
                self.tell_alive(id, answer.after);
            }
            Err(Refusal::NotFound) => {
                assert!(!alive && is_primary, "{id} lives, with deadline {:?}", self.model.leases.get(&id));
                self.check_after_gone(answer.after);
                self.tell_gone(id, token, answer.after);
            }
            Err(refusal) => assert_eq!((refusal, is_primary), (Refusal::NotPrimary, false)),
        }
    }

    fn renew_batch(&mut self, leases: &[usize]) {
        let ids: Vec<LeaseId> = leases.iter().map(|&lease| self.id(lease)).collect();
        let expected: Vec<u32> =
            (0..ids.len() as u32).filter(|&index| self.model.alive(ids[index as usize]).is_none()).collect();
        let tokens: Vec<Option<Token>> = ids.iter().map(|&id| self.token_of(id)).collect();
        let allowed = Allowed { renew: ids.iter().copied().collect(), ..Allowed::default() };
        let mut failed = Vec::new();
        let (answer, _) =
            self.run(&allowed, |shard, now, log| shard.renew_batch(now, &ids, &mut failed, log));
        let Ok(after) = answer else {
            assert_eq!((answer, self.model.role), (Err(Refusal::NotPrimary), Role::Standby));
            return;
        };
        assert_eq!(failed, expected);
        for (index, &id) in ids.iter().enumerate() {
            if failed.contains(&(index as u32)) {
                self.check_after_gone(after);
                self.tell_gone(id, tokens[index], after);
            } else {
                self.model.renew(id);
                self.check_after_alive(id, after);
                self.tell_alive(id, after);
            }
        }
    }

    fn revoke(&mut self, id: LeaseId) {
        let (alive, token) = (self.model.alive(id).cloned(), self.token_of(id));
        let allowed = Allowed { revoke: BTreeSet::from([id]), ..Allowed::default() };
        let (answer, ends) = self.run(&allowed, |shard, now, log| shard.revoke(now, id, log));
        match answer.result {
            Ok(revoked) => {
                let lease = alive.expect("revoked a dead lease");
                assert_eq!((revoked.token, revoked.item_count), (lease.token, lease.items.len() as u64));
                assert_eq!(ends, [(Cause::Revoked, id)]);
                self.check_after_tail(answer.after);
                self.tell_gone(id, token, answer.after);
            }
            Err(Refusal::NotFound) => {
                assert!(alive.is_none());
                self.check_after_gone(answer.after);
                self.tell_gone(id, token, answer.after);
            }
            Err(refusal) => assert_eq!((refusal, self.model.role), (Refusal::NotPrimary, Role::Standby)),
        }
    }

    fn revoke_batch(&mut self, leases: &[usize]) {
        let ids: Vec<LeaseId> = leases.iter().map(|&lease| self.id(lease)).collect();
        let mut gone = BTreeSet::new();
        let expected: Vec<u32> = (0..ids.len() as u32)
            .filter(|&index| {
                let id = ids[index as usize];
                self.model.alive(id).is_none() || !gone.insert(id)
            })
            .collect();
        let allowed = Allowed { revoke: ids.iter().copied().collect(), ..Allowed::default() };
        let mut failed = Vec::new();
        let (answer, _) =
            self.run(&allowed, |shard, now, log| shard.revoke_batch(now, &ids, &mut failed, log));
        match answer {
            Ok(after) => {
                assert_eq!(failed, expected);
                if !ids.is_empty() {
                    self.check_after_gone(after);
                }
            }
            Err(refusal) => assert_eq!((refusal, self.model.role), (Refusal::NotPrimary, Role::Standby)),
        }
    }

    fn time_to_live(&mut self, id: LeaseId) {
        let (alive, token) = (self.model.alive(id).cloned(), self.token_of(id));
        let (answer, _) = self.run(&Allowed::default(), |shard, now, log| shard.time_to_live(now, id, log));
        match alive {
            Some(lease) => {
                let expected = TimeToLive {
                    token: lease.token,
                    ttl_ms: lease.ttl_ms,
                    remaining_ms: self.model.remaining_ms(&lease),
                    item_count: lease.items.len() as u64,
                };
                assert_eq!(answer.result, Ok(expected));
                self.check_after_alive(id, answer.after);
            }
            None => {
                assert_eq!(answer.result, Err(Refusal::NotFound));
                self.check_after_gone(answer.after);
                self.tell_gone(id, token, answer.after);
            }
        }
    }

    fn items(&mut self, id: LeaseId, after: Option<u8>, bytes: usize) {
        let after = after.map(item_bytes);
        let mut page = Vec::new();
        let (answer, _) = self.run(&Allowed::default(), |shard, now, log| {
            shard.items(now, id, after.as_deref(), bytes, &mut page, log)
        });
        let Some(lease) = self.model.alive(id) else {
            assert_eq!(answer.result, Err(Refusal::NotFound));
            return;
        };
        let all: Vec<&Vec<u8>> =
            lease.items.iter().filter(|item| after.as_ref().is_none_or(|after| *item > after)).collect();
        assert!(page.iter().zip(&all).all(|(found, expected)| **found == ***expected), "items in order");
        assert_eq!(answer.result, Ok(page.len() < all.len()));
        assert!(!page.is_empty() || all.is_empty(), "a page moves on");
        self.check_after_tail(answer.after);
    }

    fn list(&mut self, limit: usize) {
        let (mut cursor, mut all) = (0, Vec::new());
        loop {
            let before = all.len();
            let (answer, _) = self
                .run(&Allowed::default(), |shard, now, log| shard.list(now, cursor, limit, &mut all, log));
            assert!(all.len() - before <= limit);
            self.check_after_tail(answer.after);
            cursor = answer.result.expect("list is never refused");
            if cursor == 0 {
                break;
            }
        }
        all.sort_by_key(|listed| listed.id);
        let expected: Vec<Listed> = self
            .model
            .leases
            .iter()
            .map(|(&id, lease)| Listed {
                id,
                token: lease.token,
                ttl_ms: lease.ttl_ms,
                remaining_ms: self.model.remaining_ms(lease),
                item_count: lease.items.len() as u64,
            })
            .collect();
        assert_eq!(all, expected, "list, with overdue leases ended");
    }

    fn attach(&mut self, id: LeaseId, item: &[u8]) {
        let alive = self.model.alive(id).map(|lease| (lease.token, lease.items.contains(item)));
        let former = self.model.owner(item).filter(|&owner| owner != id && self.model.alive(owner).is_some());
        let allowed = Allowed { attach: Some((id, item.to_vec())), ..Allowed::default() };
        let (answer, _) = self.run(&allowed, |shard, now, log| shard.attach(now, id, item, log));
        match (answer.result, alive) {
            (Ok(attached), Some((token, _))) => {
                assert_eq!(attached, Attached { token, moved_from: former });
                assert!(self.model.leases[&id].items.contains(item));
                self.check_after_alive(id, answer.after);
            }
            (Err(Refusal::NotFound), None) => self.check_after_gone(answer.after),
            (Err(Refusal::NotPrimary), _) => assert_eq!(self.model.role, Role::Standby),
            (answer, alive) => panic!("attach to {id}, {alive:?}: {answer:?}"),
        }
    }

    fn detach(&mut self, id: LeaseId, item: &[u8]) {
        let had = self.model.alive(id).map(|lease| lease.items.contains(item));
        let allowed = Allowed { detach: Some((id, item.to_vec())), ..Allowed::default() };
        let (answer, _) = self.run(&allowed, |shard, now, log| shard.detach(now, id, item, log));
        match (answer.result, had) {
            (Ok(()), Some(true)) => {
                assert!(!self.model.leases[&id].items.contains(item));
                self.check_after_alive(id, answer.after);
            }
            (Err(Refusal::ItemNotFound), Some(false)) => self.check_after_tail(answer.after),
            (Err(Refusal::NotFound), None) => self.check_after_gone(answer.after),
            (Err(Refusal::NotPrimary), _) => assert_eq!(self.model.role, Role::Standby),
            (answer, had) => panic!("detach from {id}, {had:?}: {answer:?}"),
        }
    }

    fn lease_of(&mut self, item: &[u8]) {
        let owner = self.model.owner(item).filter(|&owner| self.model.alive(owner).is_some());
        let expected = owner.map(|id| (id, self.model.leases[&id].token));
        let (answer, _) = self.run(&Allowed::default(), |shard, now, log| shard.lease_of(now, item, log));
        assert_eq!(answer.result, Ok(expected));
        self.check_after_tail(answer.after);
    }

    fn expire(&mut self, budget: usize) {
        let before = self.model.leases.len();
        if self.model.role == Role::Primary {
            self.model.expired_to = self.model.horizon();
        }
        let (progress, ends) =
            self.run(&Allowed::default(), |shard, now, log| shard.expire(now, budget, log));
        assert_eq!((progress.ended, before - self.model.leases.len()), (ends.len(), ends.len()));
        assert!(ends.len() <= budget, "L3 fair: expire beyond its budget");
        if progress.more || self.model.role == Role::Standby {
            return;
        }
        for (id, lease) in &self.model.leases {
            assert!(!self.model.is_overdue(lease), "L1 bounded-lateness: {id} is overdue after expire");
        }
        if let (Some(wake), None) = (self.shard.next_wake(), self.model.held) {
            let earliest = self.model.leases.values().map(|lease| lease.deadline).min();
            assert!(
                earliest.is_none_or(|earliest| wake.0 <= earliest),
                "L1 bounded-lateness: wakes too late"
            );
        } else if self.model.held.is_none() {
            assert!(self.model.leases.is_empty(), "L1 bounded-lateness: never wakes");
        }
    }

    fn make_durable(&mut self, part: u8) {
        self.seal();
        let candidates: Vec<Position> =
            self.sealed.iter().map(|batch| batch.end).filter(|&end| end > self.durable).collect();
        if let Some(&position) =
            candidates.get((candidates.len().saturating_sub(1)) * usize::from(part) / 100)
        {
            self.durable = position;
            self.shard.durable(position);
        }
    }

    fn image(&mut self, bytes: usize) {
        if self.image.as_ref().is_none_or(|image| image.complete_at.is_some()) {
            let cursor = self.shard.image_start();
            self.image = Some(Image { chunks: Vec::new(), cursor, complete_at: None });
        }
        let tail = self.log.tail();
        let image = self.image.as_mut().unwrap();
        let mut chunk = Vec::new();
        if self.shard.image_step(&mut image.cursor, bytes, &mut chunk) {
            image.complete_at = Some(tail);
        }
        image.chunks.push(chunk);
        if image.complete_at.is_some() {
            self.check_replay();
        }
    }

    pub(crate) fn check(&mut self) {
        self.shard.check_invariants();
        let stats = self.shard.stats();
        assert_eq!(stats.lease_count, self.model.leases.len() as u64);
        let items: usize = self.model.leases.values().map(|lease| lease.items.len()).sum();
        assert_eq!(stats.item_count, items as u64);
        let leaving: usize = self.model.leaving.values().map(BTreeSet::len).sum();
        assert_eq!(stats.leaving_item_count, leaving as u64);
        self.check_replay();
    }

    /// S4: the log alone, and the image with the log behind it, give the live dump.
    fn check_replay(&mut self) {
        self.seal();
        let (expected, end) = (self.dump(), self.log.tail());
        assert_eq!(self.replayed(None, end).dump_text(), expected, "S4 replay-equal: the log alone");
        if let Some(image) = self.image.as_ref().filter(|image| image.complete_at.is_some()) {
            assert_eq!(
                self.replayed(Some(image), end).dump_text(),
                expected,
                "S4 replay-equal: image and log"
            );
        }
    }

    /// A new shard with everything up to `end`.
    fn replayed(&self, image: Option<&Image>, end: Position) -> Replayed {
        let mut shard = Rig::fresh_shard(&self.config);
        for chunk in image.iter().flat_map(|image| &image.chunks) {
            shard.load_image(chunk).expect("an image that the shard wrote");
        }
        for batch in self.sealed.iter().filter(|batch| batch.end <= end) {
            if image.is_none_or(|image| batch.end > image.cursor.position()) {
                shard.replay(batch.first, batch.time, &batch.bytes).expect("records that the shard wrote");
            }
        }
        Replayed(shard)
    }

    /// The process dies; the log survives up to some batch that is not below what was acknowledged.
    fn crash(&mut self, part: u8, pause: u64) {
        self.seal();
        let died_at = self.model.clock;
        let first = self.sealed.iter().rposition(|batch| batch.end <= self.durable.max(Position(8))).unwrap();
        let survivor = first + (self.sealed.len() - 1 - first) * usize::from(part) / 100;
        self.sealed.truncate(survivor + 1);
        let end = self.sealed[survivor].end;
        let usable = self.image.take().filter(|image| image.complete_at.is_some_and(|at| at <= end));
        let Replayed(mut shard) = self.replayed(usable.as_ref(), end);
        let now = shard.clock().0 + pause;
        shard.recovered(Time(now));
        shard.check_invariants();
        self.model = self.sealed[survivor].model.clone();
        self.model.restart(now);
        self.check_promises(died_at, now - pause, end);
        self.durable = end;
        self.image = usable;
        self.log = RecordBuffer::new(Position(end.0 + 4096), Time(now));
        self.opened_at = Time(now);
        self.shard = shard;
        self.told.clear();
        // Ids of grants that the crash undid may be issued again: nobody was told.
        let kept: BTreeSet<LeaseId> = self.issued_in_log();
        self.ever_issued.retain(|id| kept.contains(id));
    }

    fn issued_in_log(&self) -> BTreeSet<LeaseId> {
        let records = self.sealed.iter().flat_map(|batch| RecordIter::new(batch.first, &batch.bytes));
        records
            .filter_map(|record| match record {
                Ok((_, Record::Grant { id, chosen: false, .. })) => Some(id),
                _ => None,
            })
            .collect()
    }

    /// S2 and S3 across the crash: `died_at` on the old clock and `resumed_at` on the new one are the same moment.
    fn check_promises(&self, died_at: u64, resumed_at: u64, end: Position) {
        for told in self.told.iter().filter(|told| told.after <= self.durable) {
            let now = self.model.leases.get(&told.id).filter(|lease| lease.token == told.token);
            match told.deadline {
                None => assert!(now.is_none(), "S3 ack-after-durable: {} was told dead and lives", told.id),
                Some(deadline) => {
                    let Some(lease) = now else {
                        assert!(
                            deadline <= died_at || self.has_ended(told.id, told.token, end),
                            "S3 ack-after-durable: {} was acknowledged and is lost",
                            told.id
                        );
                        continue;
                    };
                    let (promised, left) =
                        (deadline.saturating_sub(died_at), lease.deadline.saturating_sub(resumed_at));
                    assert!(left >= promised, "S2 never-early: {} had {promised}ms, now {left}ms", told.id);
                }
            }
        }
    }

    fn has_ended(&self, id: LeaseId, token: Token, end: Position) -> bool {
        let survivors = self.sealed.iter().filter(|batch| batch.end <= end);
        survivors.flat_map(|batch| RecordIter::new(batch.first, &batch.bytes)).any(|record| match record {
            Ok((_, Record::Ended { mut entries, .. })) => entries.any(|entry| entry == (id, token)),
            _ => false,
        })
    }
}

struct Replayed(Shard);

impl Replayed {
    fn dump_text(&self) -> String {
        let mut dump = String::new();
        self.0.dump(&mut dump);
        dump
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
