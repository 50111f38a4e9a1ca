//! Requests as values to verbs of the shard, one arm each.

use tenure_core::{Answer, Grant, LeaseId, Position, RecordBuffer, Refusal, Shard, Time};

use super::Station;
use crate::limits;
use crate::request::{Reply, Request, StationStats, Ticket};

/// How far ahead of a grant in a batch its place among client-chosen IDs is fetched: a miss, at some 100 ns a grant.
const GRANTS_AHEAD: usize = 8;

impl Station {
    /// Applies one request to this core's shard and sees to its answer.
    pub(super) fn apply(&mut self, ticket: Ticket, request: Request) {
        if request.writes()
            && let Some(refused) = self.refuse_write()
        {
            return self.answer(ticket, refused, Position(0));
        }
        let (reply, after) = self.perform(request);
        self.answer(ticket, reply, after);
        self.seal_if_large();
    }

    fn perform(&mut self, request: Request) -> (Reply, Position) {
        let now = self.now;
        let log = &mut self.records;
        match request {
            Request::Grant(grant) => told(self.shard.grant(now, &grant, log), Reply::Granted),
            Request::GrantBatch(grants) => self.grant_batch(&grants),
            Request::Renew(id) => told(self.shard.renew(now, id, log), Reply::Renewed),
            Request::RenewBatch(ids) => self.batch(&ids, Shard::renew_batch),
            Request::Revoke(id) => told(self.shard.revoke(now, id, log), Reply::Revoked),
            Request::RevokeBatch(ids) => self.batch(&ids, Shard::revoke_batch),
            Request::TimeToLive(id) => told(self.shard.time_to_live(now, id, log), Reply::TimeToLive),
            Request::Items { id, after, bytes_max } => {
                let mut items = Vec::new();
                let answer = self.shard.items(now, id, after.as_deref(), bytes_max, &mut items, log);
                told(answer, |more| Reply::Items { items, more })
            }
            Request::List { cursor, limit } => {
                let mut leases = Vec::new();
                let answer = self.shard.list(now, cursor, limit, &mut leases, log);
                told(answer, |next| Reply::Listed { leases, next })
            }
            Request::Attach { id, item } => told(self.shard.attach(now, id, &item, log), Reply::Attached),
            Request::Detach { id, item } => told(self.shard.detach(now, id, &item, log), |()| Reply::Done),
            Request::LeaseOf(item) => told(self.shard.lease_of(now, &item, log), Reply::LeaseOf),
            Request::Promote { extend_ms } => told(self.shard.promote(now, extend_ms, log), |()| Reply::Done),
            Request::Demote => told(self.shard.demote(now, log), |()| Reply::Done),
            Request::Stats => (Reply::Stats(Box::new(self.stats())), Position(0)),
            Request::Dump => {
                let mut dump = String::new();
                self.shard.dump(&mut dump);
                (Reply::Dump(dump), self.records.tail())
            }
        }
    }

    fn grant_batch(&mut self, grants: &[Grant]) -> (Reply, Position) {
        let mut after = Position(0);
        let mut results = Vec::with_capacity(grants.len());
        for chunk in grants.chunks(limits::BATCH_CHUNK) {
            let mut coming = chunk.iter().filter_map(|grant| grant.id);
            coming.by_ref().take(GRANTS_AHEAD).for_each(|id| self.shard.prefetch(id));
            for grant in chunk {
                if let Some(id) = coming.next() {
                    self.shard.prefetch(id);
                }
                let answer = self.shard.grant(self.now, grant, &mut self.records);
                after = after.max(answer.after);
                results.push(answer.result);
            }
            self.seal_if_large();
        }
        (Reply::Grants(results), after)
    }

    fn batch(&mut self, ids: &[LeaseId], verb: BatchVerb) -> (Reply, Position) {
        let mut missing = Vec::new();
        match self.in_chunks(ids, &mut missing, verb) {
            Ok(after) => (Reply::Missing(missing), after),
            Err(refusal) => (Reply::Refused(refusal), Position(0)),
        }
    }

    /// Applies a batch verb chunk by chunk, so that the records of one call always fit a log batch.
    /// A refusal of the whole (not primary) comes from the first chunk, before any effect.
    pub(super) fn in_chunks(
        &mut self,
        ids: &[LeaseId],
        missing: &mut Vec<u32>,
        verb: BatchVerb,
    ) -> Result<Position, Refusal> {
        let mut after = Position(0);
        for (chunk, first) in ids.chunks(limits::BATCH_CHUNK).zip((0u32..).step_by(limits::BATCH_CHUNK)) {
            let known = missing.len();
            after = after.max(verb(&mut self.shard, self.now, chunk, missing, &mut self.records)?);
            for index in &mut missing[known..] {
                *index += first;
            }
            self.seal_if_large();
        }
        Ok(after)
    }

    fn seal_if_large(&mut self) {
        if self.record_bytes() >= limits::BATCH_BYTES_SEAL {
            self.seal();
        }
    }

    fn stats(&self) -> StationStats {
        let (commits, commit_bytes) = self.journal.commits();
        StationStats {
            shard: self.shard.stats(),
            primary: self.shard.role() == crate::config::Role::Primary,
            time_ms: self.now.0,
            durable: self.durable().0,
            tail: self.records.tail().0,
            commits,
            commit_bytes,
            snapshots: self.snapshotting.completed(),
            replies_held: self.gate.len() as u64,
            turns: self.turn_clock.stats(),
            storage_full: self.journal.is_full(),
        }
    }
}

/// `Shard::renew_batch` or `Shard::revoke_batch`.
type BatchVerb =
    fn(&mut Shard, Time, &[LeaseId], &mut Vec<u32>, &mut RecordBuffer) -> Result<Position, Refusal>;

fn told<T>(answer: Answer<T>, reply: impl FnOnce(T) -> Reply) -> (Reply, Position) {
    (answer.result.map_or_else(Reply::Refused, reply), answer.after)
}
