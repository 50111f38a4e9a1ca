//! Puts a recovered shard into its station: clock, journal, event stream, inbox.
//!
//! The last step of an opening, the same for a core with a thread of its own and for one that a simulator
//! runs. All shards have been recovered before, and the epoch is durable, so that from here on the core
//! may write (`recovery` has the order and its reasons).

use std::sync::Arc;

use tenure_core::{GrantKey, ShardIndex, Time, Token};

use crate::clock::EngineClock;
use crate::config::Config;
use crate::ending::Ending;
use crate::error::OpenError;
use crate::grant_routes;
use crate::handle::Shared;
use crate::log::Worker;
use crate::memory::Memory;
use crate::recovery::{RecoveredShard, Store};
use crate::station::{Parts, Station};

/// What a core found when it recovered.
pub(crate) struct CoreFacts {
    pub(crate) index: ShardIndex,
    pub(crate) time: Time,
    pub(crate) tail: u64,
    pub(crate) lease_count: u64,
    pub(crate) item_count: u64,
    pub(crate) torn: Option<String>,
    /// Identified grants that it remembers.
    pub(crate) remembered: Vec<(GrantKey, Token)>,
}

impl CoreFacts {
    pub(crate) fn of(index: ShardIndex, recovered: &RecoveredShard, shard_count: u16) -> CoreFacts {
        let stats = recovered.shard.stats();
        CoreFacts {
            index,
            time: recovered.time,
            tail: recovered.tail(),
            lease_count: stats.lease_count,
            item_count: stats.item_count,
            torn: recovered.torn(),
            remembered: grant_routes::remembered(&recovered.shard, shard_count),
        }
    }
}

/// What all cores of an engine are put together with.
pub(crate) struct Assembly<'a> {
    pub(crate) store: &'a Store,
    pub(crate) config: &'a Config,
    pub(crate) shared: &'a Arc<Shared>,
    pub(crate) ending: &'a Arc<Ending>,
    pub(crate) memory: Memory,
    pub(crate) clock: EngineClock,
    /// Durable in the manifest.
    pub(crate) epoch: u32,
}

impl Assembly<'_> {
    /// The station of one core, its keeper on a thread.
    pub(crate) fn station(&self, index: ShardIndex, recovered: RecoveredShard) -> Result<Station, OpenError> {
        let (mut parts, work) = self.parts(index, recovered)?;
        let failed = |source| OpenError::Io { what: "starting a keeper thread".into(), source };
        if let Some(work) = work {
            parts.journal.start_keeper(work).map_err(failed)?;
        }
        Ok(Station::new(parts))
    }

    /// What a station is made of, and the work of its keeper: none in memory.
    pub(crate) fn parts(
        &self,
        index: ShardIndex,
        mut recovered: RecoveredShard,
    ) -> Result<(Parts, Option<Worker>), OpenError> {
        recovered.shard.recovered(self.clock.now());
        let core = usize::from(index.0);
        let inbox = Arc::clone(&self.shared.inboxes[core]);
        let notify = Arc::new(move || inbox.call());
        let found = recovered.found.as_ref();
        let (journal, snapshotting, work) =
            self.store.journal(index, found, self.epoch, self.config, notify)?;
        self.shared.hubs[core].start_at(journal.open_position());
        let parts = Parts {
            shard: recovered.shard,
            index,
            journal,
            shared: Arc::clone(self.shared),
            ending: Arc::clone(self.ending),
            memory: self.memory.clone(),
            clock: self.clock.clone(),
            snapshotting,
        };
        Ok((parts, work))
    }
}
