//! Where an engine's shards come from: a data directory, or nothing.

use std::sync::Arc;

use tenure_core::{Shard, ShardConfig, ShardIndex, Time};

use crate::config::Config;
use crate::error::OpenError;
use crate::events::EventHub;
use crate::handle::Shared;
use crate::inbox::Inbox;
use crate::journal::Journal;
use crate::snapshotting::Snapshotting;

/// What the engine's shards are recovered from.
#[derive(Clone)]
pub(crate) struct Store {
    shard_count: u16,
}

/// One shard, recovered but not yet given a clock.
pub(crate) struct RecoveredShard {
    pub(crate) shard: Shard,
    pub(crate) journal: Journal,
    pub(crate) snapshotting: Snapshotting,
    pub(crate) time: Time,
    pub(crate) torn: Option<String>,
}

impl Store {
    pub(crate) fn open(config: &Config, cpu_count: u16) -> Result<Store, OpenError> {
        Ok(Store { shard_count: config.shard_count.unwrap_or(cpu_count.max(1)) })
    }

    pub(crate) fn shard_count(&self) -> u16 {
        self.shard_count
    }

    pub(crate) fn resharded_from(&self) -> Option<u16> {
        None
    }

    pub(crate) fn hubs(&self, _inboxes: &Arc<[Arc<Inbox>]>, bytes_max: usize) -> Arc<[Arc<EventHub>]> {
        (0..self.shard_count)
            .map(|shard| Arc::new(EventHub::new(ShardIndex(shard), None, bytes_max)))
            .collect()
    }

    pub(crate) fn recover(
        &self,
        index: ShardIndex,
        config: &Config,
        _shared: &Shared,
    ) -> Result<RecoveredShard, OpenError> {
        let shard = Shard::new(shard_config(index, self.shard_count, config));
        Ok(RecoveredShard {
            shard,
            journal: Journal::in_memory(),
            snapshotting: Snapshotting::default(),
            time: Time(0),
            torn: None,
        })
    }

    pub(crate) fn close(self) {}
}

fn shard_config(index: ShardIndex, shard_count: u16, config: &Config) -> ShardConfig {
    let ms = |duration: std::time::Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    ShardConfig {
        ttl_ms_min: ms(config.ttl_min),
        ttl_ms_max: ms(config.ttl_max),
        lease_count_max: config.lease_count_max,
        checkpoint_interval_ms: config.checkpoint_interval.map(ms),
        renewals: config.renewals,
        role: config.role,
        seed: rand::random(),
        ..ShardConfig::new(index, shard_count)
    }
}
