//! What a lease engine means, in ordered maps and without any cleverness.
//!
//! The model knows ids and tokens from the shard's answers, everything else by itself. It changes only by records that
//! it finds justified (`ingest`) and by the renewals that the rig tells it of.

use std::collections::{BTreeMap, BTreeSet};
use tenure_core::{Cause, GrantKey, LeaseId, Position, Record, RecordIter, Renewals, Role, Time, Token};

#[derive(Clone, Debug)]
pub(crate) struct Lease {
    pub(crate) token: Token,
    pub(crate) ttl_ms: u64,
    pub(crate) deadline: u64,
    pub(crate) items: BTreeSet<Vec<u8>>,
    /// The log's last word on it is an exact deadline.
    pub(crate) pinned: bool,
    /// Answers about it wait for this.
    pub(crate) pending: Position,
}

#[derive(Clone, Debug)]
pub(crate) struct Model {
    pub(crate) leases: BTreeMap<LeaseId, Lease>,
    pub(crate) leaving: BTreeMap<(Token, LeaseId), BTreeSet<Vec<u8>>>,
    pub(crate) keys: BTreeMap<GrantKey, (LeaseId, Token)>,
    pub(crate) role: Role,
    pub(crate) clock: u64,
    pub(crate) held: Option<u64>,
    /// Highest time that the shard has expired up to: a held horizon does not go back behind it.
    pub(crate) expired_to: u64,
    pub(crate) floor: u64,
    pub(crate) last_end: Position,
    pub(crate) last_record: Position,
    pub(crate) last_role: Position,
    pub(crate) renewals: Renewals,
    pub(crate) checkpoint_interval_ms: Option<u64>,
}

/// What the operation under way may write.
#[derive(Clone, Debug, Default)]
pub(crate) struct Allowed {
    pub(crate) revoke: BTreeSet<LeaseId>,
    pub(crate) renew: BTreeSet<LeaseId>,
    pub(crate) attach: Option<(LeaseId, Vec<u8>)>,
    pub(crate) detach: Option<(LeaseId, Vec<u8>)>,
    pub(crate) grant: Option<(Option<LeaseId>, u64, Option<GrantKey>)>,
    pub(crate) maintain: bool,
    pub(crate) promote: Option<u64>,
    pub(crate) demote: bool,
}

impl Model {
    pub(crate) fn new(role: Role, renewals: Renewals, checkpoint_interval_ms: Option<u64>) -> Model {
        Model {
            leases: BTreeMap::new(),
            leaving: BTreeMap::new(),
            keys: BTreeMap::new(),
            role,
            clock: 0,
            held: None,
            expired_to: 0,
            floor: 0,
            last_end: Position::ZERO,
            last_record: Position::ZERO,
            last_role: Position::ZERO,
            renewals,
            checkpoint_interval_ms,
        }
    }

    pub(crate) fn horizon(&self) -> u64 {
        self.held.map_or(self.clock, |held| self.clock.min(held).max(self.expired_to))
    }

    pub(crate) fn is_overdue(&self, lease: &Lease) -> bool {
        self.horizon() >= lease.deadline
    }

    /// The lease as any verb sees it: overdue is dead, but on a standby.
    pub(crate) fn alive(&self, id: LeaseId) -> Option<&Lease> {
        self.leases.get(&id).filter(|lease| self.role == Role::Standby || !self.is_overdue(lease))
    }

    pub(crate) fn owner(&self, item: &[u8]) -> Option<LeaseId> {
        self.leases.iter().find(|(_, lease)| lease.items.contains(item)).map(|(&id, _)| id)
    }

    pub(crate) fn remaining_ms(&self, lease: &Lease) -> u64 {
        lease.deadline.saturating_sub(self.clock).min(lease.ttl_ms)
    }

    /// A renewal, logged or not.
    pub(crate) fn renew(&mut self, id: LeaseId) {
        let now = self.clock;
        let lease = self.leases.get_mut(&id).expect("renewed leases live");
        lease.deadline = lease.deadline.max(now + lease.ttl_ms + 1);
    }

    fn end(&mut self, id: LeaseId, token: Token, items_follow: bool) {
        let lease =
            self.leases.remove(&id).unwrap_or_else(|| panic!("S9 once: end of {id}, which does not live"));
        assert_eq!(lease.token, token, "S9 once: end names another lease of id {id}");
        assert_eq!(items_follow, !lease.items.is_empty(), "S9 once: items-follow flag of {id}");
        if items_follow {
            self.leaving.insert((token, id), lease.items);
        }
    }

    /// Takes in the records of one operation, and panics at any that the model cannot justify. Returns the ends.
    pub(crate) fn ingest(
        &mut self,
        first: Position,
        time: Time,
        bytes: &[u8],
        allowed: &Allowed,
    ) -> Vec<(Cause, LeaseId)> {
        let mut ends = Vec::new();
        let mut time = time;
        let mut iter = RecordIter::new(first, bytes);
        while let Some(next) = iter.next() {
            let (position, record) = next.expect("the shard writes records that decode");
            let tail = Position(first.0 + iter.offset() as u64);
            assert!(position.0.is_multiple_of(8), "records are aligned");
            if let Record::Clock { time: later } = record {
                assert!(later > time, "S6 time-forward: clock record");
                time = later;
                continue;
            }
            assert_eq!(time.0, self.clock, "S6 time-forward: a record carries the time of its operation");
            self.last_record = tail;
            self.ingest_one(position, tail, &record, allowed, &mut ends);
        }
        ends
    }

    fn ingest_one(
        &mut self,
        position: Position,
        tail: Position,
        record: &Record<'_>,
        allowed: &Allowed,
        ends: &mut Vec<(Cause, LeaseId)>,
    ) {
        match record {
            Record::Clock { .. } => unreachable!("handled before"),
            Record::Grant { id, ttl_ms, exact, chosen, key } => {
                let (wanted, wanted_ttl, wanted_key) = allowed.grant.expect("a grant that nobody asked for");
                assert_eq!((*ttl_ms, *key), (wanted_ttl, wanted_key));
                assert_eq!(*exact, self.renewals == Renewals::Logged);
                assert_eq!(*chosen, wanted.is_some());
                assert!(wanted.is_none_or(|wanted| wanted == *id));
                self.grant(*id, Token(position.0), *ttl_ms, tail);
                if let Some(key) = key {
                    self.keys.insert(*key, (*id, Token(position.0)));
                }
            }
            Record::Ended { cause, items_follow, entries } => {
                assert_eq!(self.role, Role::Primary, "only a primary ends leases");
                self.last_end = tail;
                for (id, token) in entries.clone() {
                    let lease = self.leases.get(&id).expect("S9 once: end of a lease that does not live");
                    match cause {
                        Cause::Expired => assert!(
                            self.is_overdue(lease),
                            "S2 never-early: {id} expires at {} with deadline {}",
                            self.clock,
                            lease.deadline
                        ),
                        Cause::Revoked => assert!(allowed.revoke.contains(&id), "{id} was not to be revoked"),
                    }
                    self.end(id, token, *items_follow);
                    ends.push((*cause, id));
                }
            }
            Record::Checkpoint { entries } => {
                let interval = self.checkpoint_interval_ms.expect("checkpoints are off");
                assert!(allowed.maintain, "a checkpoint outside of maintain");
                for (id, token, deadline) in entries.clone() {
                    let clock = self.clock;
                    let lease = self.exact_mut(id, token);
                    assert!(
                        !lease.pinned && deadline.0 == lease.deadline,
                        "S2 never-early: checkpoint of {id}"
                    );
                    assert!(lease.ttl_ms > interval && deadline.0 - clock <= lease.ttl_ms - interval);
                    lease.pinned = true;
                }
            }
            Record::Renewal { exact, entries } => {
                assert_eq!(*exact, self.renewals == Renewals::Logged);
                for (id, token, deadline) in entries.clone() {
                    assert!(allowed.renew.contains(&id), "{id} was not to be renewed");
                    self.renew(id);
                    let lease = self.exact_mut(id, token);
                    assert_eq!(deadline.0, lease.deadline, "S2 never-early: logged renewal of {id}");
                    lease.pinned = *exact;
                    lease.pending = tail;
                }
            }
            Record::Attach { id, token, item } => {
                assert_eq!(allowed.attach, Some((*id, item.to_vec())));
                if let Some(former) = self.owner(item) {
                    let former = self.leases.get_mut(&former).unwrap();
                    former.items.remove(*item);
                    former.pending = tail;
                }
                let lease = self.exact_mut(*id, *token);
                lease.items.insert(item.to_vec());
                lease.pending = tail;
            }
            Record::Detach { id, token, item } => {
                assert_eq!(allowed.detach, Some((*id, item.to_vec())));
                let lease = self.exact_mut(*id, *token);
                assert!(lease.items.remove(*item), "detach of an item that is not there");
                lease.pending = tail;
            }
            Record::EndedItems { id, token, last, items } => {
                assert!(allowed.maintain, "items leave outside of maintain");
                let (&oldest, set) = self.leaving.iter_mut().next().expect("S9 once: nothing is leaving");
                assert_eq!(oldest, (*token, *id), "the oldest lease's items leave first");
                for item in items.clone() {
                    assert_eq!(set.pop_first().as_deref(), Some(item), "S9 once: items leave in order, once");
                }
                assert_eq!(*last, set.is_empty(), "S9 once: last slice");
                if *last {
                    self.leaving.remove(&oldest);
                }
            }
            Record::Promote { extend_ms } => {
                assert_eq!(allowed.promote, Some(*extend_ms));
                self.promote(*extend_ms);
                self.last_role = tail;
            }
            Record::Demote => {
                assert!(allowed.demote);
                self.role = Role::Standby;
                self.last_role = tail;
            }
        }
    }

    fn exact_mut(&mut self, id: LeaseId, token: Token) -> &mut Lease {
        let lease = self.leases.get_mut(&id).expect("a record of a lease that does not live");
        assert_eq!(lease.token, token, "a record of another lease of id {id}");
        lease
    }

    fn grant(&mut self, id: LeaseId, token: Token, ttl_ms: u64, pending: Position) {
        let deadline = self.clock + ttl_ms + 1;
        let pinned = self.renewals == Renewals::Logged;
        let lease = Lease { token, ttl_ms, deadline, items: BTreeSet::new(), pinned, pending };
        assert!(self.leases.insert(id, lease).is_none(), "S1 one-shard: {id} is granted while it lives");
    }

    fn promote(&mut self, extend_ms: u64) {
        self.role = Role::Primary;
        let now = self.clock;
        self.floor = self.floor.max(now) + extend_ms;
        self.expired_to = now;
        for lease in self.leases.values_mut() {
            lease.deadline = lease.deadline.max(now + 1) + extend_ms;
        }
    }

    /// A restart at `now`: exact deadlines stay, all others start over.
    pub(crate) fn restart(&mut self, now: u64) {
        self.clock = now;
        self.held = None;
        self.expired_to = now;
        for lease in self.leases.values_mut() {
            if !lease.pinned {
                lease.deadline = now.max(self.floor) + lease.ttl_ms + 1;
            }
            lease.pending = Position::ZERO;
        }
        self.last_end = Position::ZERO;
        self.last_record = Position::ZERO;
        self.last_role = Position::ZERO;
    }
}
