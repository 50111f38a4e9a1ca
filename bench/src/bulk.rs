//! Batches that must be carried out: what the server is too busy for is asked for again.
//!
//! Filling and revoking are jobs with an end, and `Busy` is the server's way of bounding its queues (S8),
//! not a failure. So each GrantBatch and RevokeBatch in flight is remembered until its reply; what the
//! reply calls Busy goes back to where it came from, and is counted.
//!
//! What this file does not do: wait. The repeat leaves with the link's next frame, a round trip later.

use anyhow::bail;
use tenure_protocol::{Refusal, Response};

use crate::lane::{Keep, Stock};
use crate::tally::Tally;

/// Batches in flight in one lane: a handful, so that a search is cheap.
#[derive(Default)]
pub(crate) struct Bulk {
    batches: Vec<Batch>,
    token_last: u64,
}

/// A GrantBatch or RevokeBatch in flight.
pub(crate) struct Batch {
    token: u64,
    shard: u16,
    asked: u64,
    /// What it revokes; empty for a grant.
    ids: Vec<u64>,
}

impl Bulk {
    /// Remembers a batch: its token, which is the time of its sending or some ns more, because no two
    /// are alike, and its IDs.
    pub(crate) fn begin(&mut self, now_ns: u64, shard: u16, asked: u64, ids: Vec<u64>) -> (u64, &[u64]) {
        let token = now_ns.max(self.token_last + 1);
        self.token_last = token;
        self.batches.push(Batch { token, shard, asked, ids });
        (token, &self.batches[self.batches.len() - 1].ids)
    }

    /// Takes a batch out again; `None` when the token is not one of a batch.
    #[inline]
    pub(crate) fn end(&mut self, token: u64) -> Option<Batch> {
        let place = self.batches.iter().position(|batch| batch.token == token)?;
        Some(self.batches.swap_remove(place))
    }
}

impl Batch {
    /// Counts what the reply says; how many leases have to be asked for again.
    ///
    /// # Errors
    /// When the reply is not one to a batch.
    pub(crate) fn settle(
        self,
        response: &Response<'_>,
        keep: Keep,
        tally: &mut Tally,
        stock: &mut Stock,
    ) -> anyhow::Result<u64> {
        let mut again = 0;
        match response {
            Response::GrantBatch(results) => {
                for result in results.iter() {
                    match result {
                        Ok(granted) => {
                            tally.operations += 1;
                            stock.put(granted.id, keep);
                        }
                        Err(Refusal::Busy) => again += 1,
                        Err(refusal) => tally.refused(refusal),
                    }
                }
            }
            Response::RevokeBatch(outcome) => {
                tally.operations += u64::from(outcome.count()) - outcome.failed_count() as u64;
                for failed in outcome.failed() {
                    if failed.refusal == Refusal::Busy {
                        again += 1;
                        stock.leases[self.shard as usize].push(self.ids[failed.index as usize]);
                    } else {
                        tally.refused(failed.refusal);
                    }
                }
            }
            Response::Refused(refused) if refused.refusal == Refusal::Busy => {
                again = self.asked;
                stock.leases[self.shard as usize].extend(self.ids);
            }
            Response::Refused(refused) => tally.failed(refused.refusal.name(), self.asked),
            other => bail!("the server answered something else than was asked: {other:?}"),
        }
        tally.retries += again;
        Ok(again)
    }
}
