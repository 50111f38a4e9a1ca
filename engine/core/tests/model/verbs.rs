//! Each verb on shard and model, and the comparison of what they say.

use crate::model::Allowed;
use crate::rig::{Rig, SHARD, item_bytes};
use std::collections::BTreeSet;
use tenure_core::*;

impl Rig {
    pub(crate) fn grant(&mut self, chosen: Option<usize>, ttl_ms: u64, key: Option<u64>) {
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

    pub(crate) fn renew(&mut self, id: LeaseId) {
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

    pub(crate) fn renew_batch(&mut self, leases: &[usize]) {
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

    pub(crate) fn revoke(&mut self, id: LeaseId) {
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

    pub(crate) fn revoke_batch(&mut self, leases: &[usize]) {
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

    pub(crate) fn time_to_live(&mut self, id: LeaseId) {
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

    pub(crate) fn items(&mut self, id: LeaseId, after: Option<u8>, bytes: usize) {
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

    pub(crate) fn list(&mut self, limit: usize) {
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

    pub(crate) fn attach(&mut self, id: LeaseId, item: &[u8]) {
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

    pub(crate) fn detach(&mut self, id: LeaseId, item: &[u8]) {
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

    pub(crate) fn lease_of(&mut self, item: &[u8]) {
        let owner = self.model.owner(item).filter(|&owner| self.model.alive(owner).is_some());
        let expected = owner.map(|id| (id, self.model.leases[&id].token));
        let (answer, _) = self.run(&Allowed::default(), |shard, now, log| shard.lease_of(now, item, log));
        assert_eq!(answer.result, Ok(expected));
        self.check_after_tail(answer.after);
    }

    pub(crate) fn expire(&mut self, budget: usize) {
        let before = self.model.leases.len();
        if self.model.role == Role::Primary {
            self.model.expired_to = self.model.horizon();
        }
        let (progress, ends) =
            self.run(&Allowed::default(), |shard, now, log| shard.expire(now, budget, log));
        assert_eq!((progress.ended, before - self.model.leases.len()), (ends.len(), ends.len()));
        assert!(
            ends.len() <= budget.next_multiple_of(4),
            "L3 fair: expire beyond its budget, in whole lines"
        );
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
}
