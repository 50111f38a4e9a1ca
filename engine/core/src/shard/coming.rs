//! What recovery will need next, fetched ahead of time.
//!
//! A log or an image names leases in an order of its own, so that each is a miss or two in the tables. Walking the same
//! entries some way ahead of the one that is applied lets these misses overlap.

use super::Shard;
use crate::id::LeaseId;

/// How far ahead.
const AHEAD: usize = 24;

/// The ids of entries ahead of the one that is applied; `None` for an entry that names no lease to be looked up.
pub(super) struct Coming<I>(Option<I>);

impl<I: Iterator<Item = Option<LeaseId>>> Coming<I> {
    /// Fetches for the first entries.
    pub(super) fn new(ids: I, shard: &Shard) -> Coming<I> {
        let mut coming = Coming(Some(ids));
        (0..AHEAD).for_each(|_| coming.step(shard));
        coming
    }

    /// For leases that begin: server-assigned ones do so in the order of their slots, and need no fetching.
    pub(super) fn of_new(ids: I, shard: &Shard) -> Coming<I> {
        if shard.table.hashed_count() > 0 { Coming::new(ids, shard) } else { Coming(None) }
    }

    /// Fetches for one more entry; called once for each that is applied.
    #[inline]
    pub(super) fn step(&mut self, shard: &Shard) {
        if let Some(Some(id)) = self.0.as_mut().and_then(Iterator::next)
            && shard.key_ahead(id).is_none()
        {
            let (slot, _) = shard.table.decode(id);
            shard.table.slab.prefetch(slot);
            shard.table.slab.prefetch_token(slot);
        }
    }
}
