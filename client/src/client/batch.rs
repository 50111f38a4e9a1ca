//! Batch calls: split by shard and by the server's limit, sent at once, answers put together.

use std::sync::Arc;

use tenure_protocol::{Failed, GrantEntry, LeaseId, Refusal};

use super::{Client, Lease, expect_answer};
use crate::call::{Answer, Call};
use crate::clock::BootTime;
use crate::error::Error;
use crate::link::Reply;

/// Most IDs in one frame of a batch call. Below the server's limit by default; small enough that one
/// large batch leaves room for others' frames on the connection.
const FRAME_IDS_WISH: usize = 16_384;
/// Most grants in one frame, for the same reason.
const FRAME_GRANTS_WISH: usize = 4_096;

/// What became of a batch of renewals.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RenewOutcome {
    /// The entries that were not renewed, by rising index.
    pub failed: Vec<Failed>,
    /// The moment from which the renewed leases' TTLs count: the earliest send time.
    pub sent_at: BootTime,
}

/// One frame's share of a batch.
struct Part<T> {
    shard: u16,
    entries: Arc<[T]>,
    /// Where each entry stood in the caller's batch.
    indexes: Vec<u32>,
}

/// Splits a batch by shard and frame size. The order within a part is the caller's.
fn split<T: Copy>(entries: &[T], part_max: usize, mut shard_of: impl FnMut(&T) -> u16) -> Vec<Part<T>> {
    let mut open: std::collections::BTreeMap<u16, (Vec<T>, Vec<u32>)> = std::collections::BTreeMap::new();
    let mut parts = Vec::new();
    for (index, entry) in entries.iter().enumerate() {
        let shard = shard_of(entry);
        let (taken, indexes) = open.entry(shard).or_default();
        taken.push(*entry);
        indexes.push(index as u32);
        if taken.len() >= part_max {
            let (taken, indexes) = (std::mem::take(taken), std::mem::take(indexes));
            parts.push(Part { shard, entries: taken.into(), indexes });
        }
    }
    let rest = open.into_iter().filter(|(_, (taken, _))| !taken.is_empty());
    parts.extend(rest.map(|(shard, (taken, indexes))| Part { shard, entries: taken.into(), indexes }));
    parts
}

impl Client {
    /// Makes many leases; with [`LeaseId::NONE`] the server chooses the ID. The answers are in the order
    /// of the entries.
    ///
    /// # Errors
    /// Those of [`Error`]: then any of the grants may have been carried out. What the server refuses for
    /// one entry is that entry's answer.
    ///
    /// # Panics
    /// With 2^32 entries or more.
    pub async fn grant_batch(&self, entries: &[GrantEntry]) -> Result<Vec<Result<Lease, Refusal>>, Error> {
        assert!(u32::try_from(entries.len()).is_ok(), "S8: a batch has fewer than 2^32 entries");
        let any = self.any_shard();
        let parts = split(entries, self.inner.shared.frame_grants(FRAME_GRANTS_WISH), |entry| {
            if entry.id == LeaseId::NONE { any } else { self.shard_of(entry.id) }
        });
        let replies = self
            .send_parts(&parts, |part| Call::GrantBatch {
                first_sequence: self.sequences(part.entries.len() as u64),
                entries: Arc::clone(&part.entries),
            })
            .await?;
        let mut results = vec![Err(Refusal::Internal); entries.len()];
        for (part, reply) in parts.iter().zip(replies) {
            let granted = expect_answer!(reply.answer?, Answer::GrantBatch(granted) => granted);
            for (index, result) in part.indexes.iter().zip(granted) {
                results[*index as usize] = result.map(|granted| Lease::new(&granted, reply.sent_at));
            }
        }
        Ok(results)
    }

    /// Renews many leases.
    ///
    /// # Errors
    /// Those of [`Error`]: then any of the leases may have been renewed. What the server refuses for one
    /// lease is in the outcome.
    ///
    /// # Panics
    /// With 2^32 IDs or more.
    pub async fn renew_batch(&self, ids: &[LeaseId]) -> Result<RenewOutcome, Error> {
        let (failed, sent_at, _) = self.id_batch(ids, |ids| Call::RenewBatch { ids }).await?;
        Ok(RenewOutcome { failed, sent_at })
    }

    /// Ends many leases. The answer names those that were not ended, by rising index. When a part of the
    /// batch had to be repeated over a new connection, leases of it that were gone by then count as
    /// ended.
    ///
    /// # Errors
    /// Those of [`Error`]: then any of the leases may have been ended.
    ///
    /// # Panics
    /// With 2^32 IDs or more.
    pub async fn revoke_batch(&self, ids: &[LeaseId]) -> Result<Vec<Failed>, Error> {
        let (mut failed, _, repeated) = self.id_batch(ids, |ids| Call::RevokeBatch { ids }).await?;
        failed.retain(|entry| {
            let is_repeated = repeated.binary_search(&entry.index).is_ok();
            !(is_repeated && entry.refusal == Refusal::NotFound)
        });
        Ok(failed)
    }

    /// Failed entries, earliest send time, and the entries whose part was repeated (both by index).
    async fn id_batch(
        &self,
        ids: &[LeaseId],
        call: impl Fn(Arc<[LeaseId]>) -> Call,
    ) -> Result<(Vec<Failed>, BootTime, Vec<u32>), Error> {
        assert!(u32::try_from(ids.len()).is_ok(), "S8: a batch has fewer than 2^32 entries");
        let mut sent_at = BootTime::now();
        let parts = split(ids, self.inner.shared.frame_ids(FRAME_IDS_WISH), |id| self.shard_of(*id));
        let replies = self.send_parts(&parts, |part| call(Arc::clone(&part.entries))).await?;
        let (mut failed, mut repeated) = (Vec::new(), Vec::new());
        for (index, (part, reply)) in parts.iter().zip(replies).enumerate() {
            sent_at = if index == 0 { reply.sent_at } else { sent_at.min(reply.sent_at) };
            let part_failed = expect_answer!(reply.answer?, Answer::Batch { failed, .. } => failed);
            failed.extend(
                part_failed.into_iter().map(|entry| Failed {
                    index: part.indexes[entry.index as usize],
                    refusal: entry.refusal,
                }),
            );
            if reply.repeated {
                repeated.extend_from_slice(&part.indexes);
            }
        }
        failed.sort_unstable_by_key(|entry| entry.index);
        repeated.sort_unstable();
        Ok((failed, sent_at, repeated))
    }

    /// Sends all parts at once; the replies are in the order of the parts.
    async fn send_parts<T>(
        &self,
        parts: &[Part<T>],
        call: impl Fn(&Part<T>) -> Call,
    ) -> Result<Vec<Reply>, Error> {
        let mut tasks = Vec::with_capacity(parts.len());
        for part in parts {
            let (client, shard, call) = (self.clone(), part.shard, call(part));
            if parts.len() == 1 {
                return Ok(vec![client.call(shard, call).await?]);
            }
            tasks.push(tokio::spawn(async move { client.call(shard, call).await }));
        }
        let mut replies = Vec::with_capacity(tasks.len());
        for task in tasks {
            replies.push(task.await.map_err(|_| Error::Closed)??);
        }
        Ok(replies)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_split_batch_covers_each_entry_once_in_order() {
        let entries: Vec<u64> = (0..1_000).collect();
        for part_max in [1, 7, 64, 5_000] {
            let parts = split(&entries, part_max, |entry| (entry % 3) as u16);
            let mut seen = vec![false; entries.len()];
            for part in &parts {
                assert!(part.entries.len() <= part_max && !part.entries.is_empty());
                assert!(part.indexes.is_sorted_by(|a, b| a < b));
                for (entry, index) in part.entries.iter().zip(&part.indexes) {
                    assert_eq!(entries[*index as usize], *entry);
                    assert_eq!(part.shard, (entry % 3) as u16);
                    assert!(!std::mem::replace(&mut seen[*index as usize], true));
                }
            }
            assert!(seen.into_iter().all(|seen| seen));
        }
        assert!(split(&[] as &[u64], 5, |_| 0).is_empty());
    }
}
