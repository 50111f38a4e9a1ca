//! What must be true, in obvious code: maps and linear scans.
//!
//! The oracle hears what clients asked and were told, and what the event streams say. A request whose
//! outcome no client can know stays *possible* until something reveals it. Time is *served time*: the
//! milliseconds in which some process served the data, the one clock that leases know (S6).

use std::collections::{BTreeMap, BTreeSet};

use tenure::Role;

use crate::checkers::{Verdict, s1_one_shard, s2_never_early, s3_durable, s9_once};
use crate::plan::Plan;

pub mod items;

use items::Belongings;

/// A lease: its ID and its fencing token.
pub type Key = (u64, u64);

/// How a lease ended, as its stream says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    /// Where in the stream.
    pub position: u64,
    /// When, in served time.
    pub at_ms: u64,
    /// By its deadline, not by request.
    pub expired: bool,
}

/// What is known of a lease.
#[derive(Clone, Debug, Default)]
pub struct Lease {
    /// Its TTL; 0 while only its end is known.
    pub ttl_ms: u64,
    /// A client was told of it, or recovery showed it: it may not vanish without an end.
    pub is_known: bool,
    /// It must not expire before, in served time.
    pub promised_ms: u64,
    /// Its deadline is not later than this when nobody renews it any more, in served time.
    pub overdue_ms: u64,
    /// Somebody asked for its end.
    pub revoke_asked: bool,
    /// Somebody was told of its end.
    pub revoke_told: bool,
    /// It ended.
    pub end: Option<End>,
}

/// A grant that was asked for and may have happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PossibleGrant {
    /// The chosen ID; 0: the server's choice.
    pub id: u64,
    /// The TTL asked for.
    pub ttl_ms: u64,
    /// Who asked.
    pub client: u64,
    /// Its sequence; 0: not identified.
    pub sequence: u64,
}

/// Everything that is known.
#[derive(Debug, Default)]
pub struct Oracle {
    /// All leases that ever were.
    pub leases: BTreeMap<Key, Lease>,
    /// Grants without an answer, each with a number of its own.
    pub possible: BTreeMap<u64, PossibleGrant>,
    /// Identified grants and the leases that they made.
    pub identified: BTreeMap<(u64, u64), Key>,
    /// Items.
    pub items: Belongings,
    /// The newest token of each ID that was seen.
    tokens: BTreeMap<u64, u64>,
    /// The same when the last run without a durable log ended.
    tokens_before: BTreeMap<u64, u64>,
    /// Revocations under way that may hit any lease of the ID.
    pub revoking: BTreeMap<u64, u32>,
    /// Changes of role without an answer.
    pub roles_under_way: u32,
    /// Changes of role ever asked for.
    pub roles_asked: u64,
    /// The role that was told last, if nothing else was under way meanwhile.
    pub role_told: Option<Role>,
    /// Changes of role were under way at the same time: which came last is not known.
    roles_are_mixed: bool,
    /// Extensions of all promotions that may have happened.
    pub extends_ms: u64,
}

impl Oracle {
    /// Nothing is known yet.
    #[must_use]
    pub fn of(plan: &Plan) -> Oracle {
        let mut oracle = Oracle::default();
        oracle.items.is_lax = !plan.is_durable();
        oracle
    }

    /// Live leases as far as is known.
    pub fn live(&self) -> impl Iterator<Item = (&Key, &Lease)> {
        self.leases.iter().filter(|(_, lease)| lease.end.is_none())
    }

    /// The leases of an ID that have not ended.
    pub fn live_of(&self, id: u64) -> impl Iterator<Item = (&Key, &Lease)> {
        self.leases.range((id, 0)..=(id, u64::MAX)).filter(|(_, lease)| lease.end.is_none())
    }

    /// A grant was answered.
    ///
    /// # Errors
    /// What it contradicts.
    pub fn granted(
        &mut self,
        number: u64,
        asked: PossibleGrant,
        told: &Told,
        (sent_ms, promised_at_send): (u64, u64),
        now_ms: u64,
    ) -> Verdict {
        self.possible.remove(&number);
        s1_one_shard::id_is_of_its_shard(told.key.0, asked.id)?;
        let identity = (asked.client, asked.sequence);
        if asked.sequence != 0 {
            if let Some(&before) = self.identified.get(&identity)
                && before != told.key
                && !self.items.is_lax
            {
                s9_once::granted_twice(before, told.key, self.leases.get(&before), sent_ms)?;
            }
            self.identified.insert(identity, told.key);
        }
        let newest = self.tokens.entry(told.key.0).or_insert(0);
        if !told.repeated {
            // Where streams lag behind replies, these may overtake each other within a run.
            let before = self.tokens_before.get(&told.key.0).copied().unwrap_or(0);
            let newest = if self.items.is_lax { before } else { *newest };
            s9_once::token_is_newer(told.key, newest, self.leases.get(&told.key))?;
        }
        *newest = (*newest).max(told.key.1);
        let lease = self.leases.entry(told.key).or_default();
        lease.is_known = true;
        lease.ttl_ms = told.ttl_ms;
        s2_never_early::remaining(told.key, told.ttl_ms, told.remaining_ms, promised_at_send, now_ms)?;
        let promised_ms = sent_ms + told.remaining_ms;
        s2_never_early::promise(told.key, lease, promised_ms)?;
        lease.promised_ms = lease.promised_ms.max(promised_ms);
        lease.overdue_ms = lease.overdue_ms.max(now_ms + told.ttl_ms + 1);
        lease.revoke_asked |= self.revoking.contains_key(&told.key.0);
        Ok(())
    }

    /// A renewal was acknowledged.
    ///
    /// # Errors
    /// What it contradicts.
    pub fn renewed(&mut self, id: u64, ttl_ms: Option<u64>, sent_ms: u64, now_ms: u64) -> Verdict {
        let mut candidates: Vec<Key> = Vec::new();
        for (key, lease) in self.leases.range((id, 0)..=(id, u64::MAX)) {
            if lease.end.is_none_or(|end| end.at_ms >= sent_ms) {
                candidates.push(*key);
            }
        }
        s3_durable::told_living(id, "renewed", candidates.len(), self.may_be_chosen(id))?;
        if let [key] = candidates[..]
            && !self.may_be_chosen(id)
        {
            let lease = self.leases.get_mut(&key).expect("it was just found");
            let ttl_ms = ttl_ms.unwrap_or(lease.ttl_ms);
            s2_never_early::promise(key, lease, sent_ms + ttl_ms)?;
            lease.promised_ms = lease.promised_ms.max(sent_ms + ttl_ms);
            lease.overdue_ms = lease.overdue_ms.max(now_ms + lease.ttl_ms + 1);
        }
        Ok(())
    }

    /// Somebody was told that no lease has this ID.
    ///
    /// # Errors
    /// What it contradicts.
    pub fn told_dead(&self, id: u64, known_at_send: Option<Key>) -> Verdict {
        s3_durable::told_dead(id, known_at_send, known_at_send.and_then(|key| self.leases.get(&key)))
    }

    /// A lease that was known to live when a request is sent.
    #[must_use]
    pub fn known_living(&self, id: u64) -> Option<Key> {
        self.live_of(id).find(|(_, lease)| lease.is_known).map(|(key, _)| *key)
    }

    /// Whether a grant without an answer may have made a lease of this ID.
    #[must_use]
    pub fn may_be_granted(&self, id: u64) -> bool {
        // An ID of the server's choice is told by the grant's answer or by nothing.
        self.possible.values().any(|grant| grant.id == id || grant.id == 0)
    }

    /// Whether a grant without an answer may have made a lease of this ID, chosen by its client.
    #[must_use]
    pub fn may_be_chosen(&self, id: u64) -> bool {
        self.possible.values().any(|grant| grant.id == id)
    }

    /// A stream says that a lease ended.
    ///
    /// # Errors
    /// What it contradicts.
    pub fn ended(&mut self, key: Key, end: End) -> Verdict {
        let unknown = !self.leases.contains_key(&key);
        if unknown && !self.may_be_granted(key.0) {
            return Err(format!("S9 once: the lease {key:x?} ended that nobody granted"));
        }
        let asked = self.revoking.contains_key(&key.0);
        let lease = self.leases.entry(key).or_default();
        // Where streams lag behind replies, the request may be forgotten by now.
        lease.revoke_asked |= asked || self.items.is_lax;
        s9_once::ends_once(key, lease, end)?;
        if end.expired {
            s2_never_early::expired(key, lease, end.at_ms)?;
        }
        lease.end = Some(end);
        let newest = self.tokens.entry(key.0).or_insert(0);
        *newest = (*newest).max(key.1);
        self.items.ended(key);
        Ok(())
    }

    /// What a recovered engine holds, against what it must hold.
    ///
    /// # Errors
    /// What does not agree.
    pub fn recovered(&mut self, found: &[Found], ends_are_known: bool, now_ms: u64) -> Verdict {
        let holds: BTreeMap<Key, &Found> = found.iter().map(|found| (found.key, found)).collect();
        for (key, lease) in self.live() {
            let may_have_ended = !ends_are_known || !lease.is_known;
            s3_durable::still_there(*key, lease, holds.contains_key(key), may_have_ended)?;
        }
        for found in holds.values() {
            s3_durable::stays_dead(found.key, self.leases.get(&found.key))?;
            if !self.leases.contains_key(&found.key) {
                let grant = self.possible.values().find(|grant| {
                    (grant.id == 0 || grant.id == found.key.0) && grant.ttl_ms.max(2) == found.ttl_ms
                });
                s3_durable::granted_by_somebody(found.key, grant.is_some())?;
            }
        }
        if !ends_are_known {
            for (key, lease) in &mut self.leases {
                if lease.end.is_none() && !holds.contains_key(key) {
                    lease.end = Some(End { position: 0, at_ms: u64::MAX, expired: false });
                    self.items.ended(*key);
                }
            }
        }
        for found in holds.values() {
            let lease = self.leases.entry(found.key).or_default();
            (lease.is_known, lease.ttl_ms) = (true, found.ttl_ms);
            // Renewals are not logged by default: each lease may have its full TTL again.
            lease.overdue_ms = lease.overdue_ms.max(now_ms + found.ttl_ms + 1);
        }
        self.possible.clear();
        self.revoking.clear();
        self.items.recovered(&holds)
    }

    /// The process crashed without a durable log: what it holds now is what there is.
    pub fn accept(&mut self, found: &[Found], now_ms: u64) {
        let holds: BTreeSet<Key> = found.iter().map(|found| found.key).collect();
        self.leases.retain(|key, _| holds.contains(key));
        for found in found {
            let lease = self.leases.entry(found.key).or_default();
            let overdue_ms = lease.overdue_ms.max(now_ms + found.ttl_ms + 1);
            *lease = Lease { ttl_ms: found.ttl_ms, is_known: true, overdue_ms, ..Lease::default() };
        }
        self.tokens_before.clone_from(&self.tokens);
        self.identified.clear();
        self.possible.clear();
        self.revoking.clear();
        self.items.accept(found);
    }

    /// A change of role is asked for.
    pub fn role_asked(&mut self) {
        self.roles_are_mixed = self.roles_under_way > 0;
        self.roles_under_way += 1;
        self.roles_asked += 1;
        self.role_told = None;
    }

    /// A change of role was answered: with this role, or refused.
    pub fn role_answered(&mut self, role: Option<Role>) {
        self.roles_under_way = self.roles_under_way.saturating_sub(1);
        if self.roles_under_way == 0 && !self.roles_are_mixed {
            self.role_told = role;
        }
    }

    /// A promotion was acknowledged that gave more time to every lease that was promised something `before`.
    pub fn extended(&mut self, extend_ms: u64, before: &[(Key, u64)], sent_ms: u64) {
        if self.items.is_lax {
            // Where streams lag behind replies, some of these may have ended before.
            return;
        }
        for (key, promised_ms) in before {
            if let Some(lease) = self.leases.get_mut(key).filter(|lease| lease.end.is_none()) {
                lease.promised_ms = lease.promised_ms.max((*promised_ms).max(sent_ms) + extend_ms);
            }
        }
    }
}

/// What a client was told of a grant.
#[derive(Clone, Copy, Debug)]
pub struct Told {
    /// The lease.
    pub key: Key,
    /// Its TTL.
    pub ttl_ms: u64,
    /// What is left of it.
    pub remaining_ms: u64,
    /// It is not new.
    pub repeated: bool,
}

/// A lease that a recovered engine holds.
#[derive(Clone, Debug)]
pub struct Found {
    /// The lease.
    pub key: Key,
    /// Its shard.
    pub shard: u16,
    /// Its TTL.
    pub ttl_ms: u64,
    /// Its items.
    pub items: Vec<String>,
}
