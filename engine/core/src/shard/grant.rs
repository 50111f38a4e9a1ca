//! Grant: a lease begins.
//!
//! The token of a lease is the position of its grant record, and so strictly increasing. An identified request that
//! was granted before, and whose lease still lives, is answered with that lease and without restarting its clock;
//! once that lease is gone the repeat is a new grant, because then nobody holds anything.

use tenure_planted::Bug;

use super::Shard;
use crate::entry::PINNED;
use crate::id::{GrantKey, LeaseId};
use crate::id_rule::shard_of;
use crate::limits::{COMPACT_PER_GRANT, TOKEN_MAX};
use crate::outcome::{Grant, Granted};
use crate::record::{GRANT_CHOSEN, GRANT_EXACT, RecordBuffer};
use crate::refusal::{Answer, Refusal};
use crate::time::{Position, Time, Token};

impl Shard {
    /// Grants a lease.
    ///
    /// # Errors
    /// `NotPrimary`, `TtlZero`, `TtlTooLarge`, `IdReserved` (id 0), `NotThisShard`, `AlreadyExists`, and
    /// `LimitExceeded` when the shard holds as many leases as configured, or its log is at the end of all tokens.
    pub fn grant(&mut self, now: Time, grant: &Grant, log: &mut RecordBuffer) -> Answer<Granted> {
        self.enter(now);
        match self.check_grant(grant) {
            Ok(()) => {}
            Err(refusal) => return Answer::refused(refusal, Position::ZERO),
        }
        let ttl_ms = grant.ttl_ms.max(self.config.ttl_ms_min);
        let raised = ttl_ms > grant.ttl_ms;
        let key = grant.key.filter(|key| key.client != 0);
        if let Some(answer) = key.and_then(|key| self.repeated(now, key, raised, log)) {
            return answer;
        }
        if let Some(id) = grant.id
            && let Ok(slot) = self.find_alive(now, id, log)
        {
            let after = self.ledger.after_lease(self.table.entry(slot));
            return Answer::refused(Refusal::AlreadyExists, after);
        }
        if self.table.is_full() && !tenure_planted::is(Bug::NoLeaseLimit) {
            return Answer::refused(Refusal::LimitExceeded, self.ledger.after_any());
        }
        self.grant_fresh(now, grant.id, ttl_ms, raised, key, log)
    }

    /// The identified grants that this shard remembers, in no order, with the tokens they gave.
    pub fn remembered_grants(&self) -> impl Iterator<Item = (GrantKey, Token)> + '_ {
        self.grants.keys()
    }

    fn check_grant(&self, grant: &Grant) -> Result<(), Refusal> {
        self.require_primary()?;
        if grant.ttl_ms == 0 {
            return Err(Refusal::TtlZero);
        }
        if grant.ttl_ms > self.config.ttl_ms_max {
            return Err(Refusal::TtlTooLarge);
        }
        match grant.id {
            Some(LeaseId(0)) => Err(Refusal::IdReserved),
            Some(id)
                if shard_of(id, self.config.shard_count) != self.config.shard
                    && !tenure_planted::is(Bug::ChosenIdStays) =>
            {
                Err(Refusal::NotThisShard)
            }
            _ => Ok(()),
        }
    }

    /// The answer to a request that was granted before, while its lease lives.
    fn repeated(
        &mut self,
        now: Time,
        key: GrantKey,
        raised: bool,
        log: &mut RecordBuffer,
    ) -> Option<Answer<Granted>> {
        if tenure_planted::is(Bug::ForgetsGrantKeys) {
            return None;
        }
        let (id, token) = self.grants.find(&key, self.table.hash())?;
        self.table.find_exact(id, token)?;
        let slot = self.find_alive(now, id, log).ok()?;
        let (ttl_ms, remaining_ms) = (self.table.ttl_ms(slot), self.remaining_ms(slot, now));
        let granted = Granted { id, token, ttl_ms, remaining_ms, raised, repeated: true };
        Some(Answer::after(granted, self.ledger.after_lease(self.table.entry(slot))))
    }

    fn grant_fresh(
        &mut self,
        now: Time,
        chosen: Option<LeaseId>,
        ttl_ms: u64,
        raised: bool,
        key: Option<GrantKey>,
        log: &mut RecordBuffer,
    ) -> Answer<Granted> {
        log.stamp(now);
        let token = Token(log.tail().0);
        if token.0 > TOKEN_MAX {
            return Answer::refused(Refusal::LimitExceeded, self.ledger.after_any());
        }
        let slot = match chosen {
            Some(id) => self.table.insert_chosen(id, token),
            None => self.table.insert_direct(token),
        };
        let Some(slot) = slot else {
            return Answer::refused(Refusal::LimitExceeded, self.ledger.after_any());
        };
        let id = self.table.id(slot);
        let exact = self.is_exact();
        let flags = if exact { GRANT_EXACT } else { 0 } | if chosen.is_some() { GRANT_CHOSEN } else { 0 };
        log.grant(id, ttl_ms, flags, key);
        // S2: rounded up, so that the deadline is never before the true time of this call plus the TTL.
        let planted_ms = if tenure_planted::is(Bug::ShortDeadline) { ttl_ms / 4 + 1 } else { 0 };
        let deadline = now.0 + ttl_ms + 1 - planted_ms;
        self.table.set_deadline(slot, ttl_ms, deadline, self.wheel.now());
        self.file(slot, deadline);
        if exact {
            self.table.entry_mut(slot).set(PINNED, true);
        }
        if let Some(key) = key {
            self.grants.insert(key, id, token, self.table.hash());
        }
        self.ledger.wrote(log.tail(), log.time());
        self.ledger.mark(&mut self.table.slab, slot);
        self.totals.granted += 1;
        if self.wheel.wants_compaction(self.table.slab.line_count()) {
            self.wheel.compact(&mut self.table.slab, COMPACT_PER_GRANT);
        }
        let told = if tenure_planted::is(Bug::TokenOfOld) { Token(64) } else { token };
        let granted = Granted { id, token: told, ttl_ms, remaining_ms: ttl_ms, raised, repeated: false };
        Answer::after(granted, self.ledger.after_any())
    }
}
