//! What a shard is told once, when it is made.
//!
//! Everything here is either the same across restarts (shard, count, seed, generation base: the manifest keeps
//! them) or a policy that may change from one start to the next (the rest). Checked when the shard is made; an
//! impossible configuration is a bug of the caller, who has validated the operator's.

use crate::id::ShardIndex;
use crate::id_rule::generation_range;
use crate::limits::{LEASE_COUNT_MAX, TTL_MS_MAX};

/// Whether renewals reach the log.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Renewals {
    /// They do not (as in etcd): a restart gives each lease its full TTL, or what its last checkpoint left.
    #[default]
    Unlogged,
    /// Each renewal is logged and its reply waits: TTLs are exact across a restart.
    Logged,
}

/// Who expires leases.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Role {
    /// This engine grants, renews and expires.
    #[default]
    Primary,
    /// This engine answers reads only and never expires.
    Standby,
}

/// Settings of one shard.
#[derive(Clone, Debug)]
pub struct ShardConfig {
    /// Which shard this is.
    pub shard: ShardIndex,
    /// Shards of the engine (S1).
    pub shard_count: u16,
    /// Seed of the hash tables: secret, so that nobody can choose ids that collide; kept, so that runs repeat (S5).
    pub seed: u64,
    /// Where this shard's 31-bit generations count from; within [`generation_range`]. Ids made under
    /// another base stay valid, as hashed ones.
    pub generation_base: u64,
    /// Shorter TTLs are raised to this.
    pub ttl_ms_min: u64,
    /// Longer TTLs are refused; at most [`TTL_MS_MAX`].
    pub ttl_ms_max: u64,
    /// Live leases at most; at most [`LEASE_COUNT_MAX`].
    pub lease_count_max: u32,
    /// Leases with a TTL above this have their deadline logged about this often; `None` = never.
    pub checkpoint_interval_ms: Option<u64>,
    /// Whether renewals reach the log.
    pub renewals: Renewals,
    /// The role to start in. A log or image, if one is loaded, overrides it.
    pub role: Role,
}

impl ShardConfig {
    /// Defaults for one shard of `shard_count`: TTLs from 1 ms to [`TTL_MS_MAX`], 10 M leases, a checkpoint
    /// every 60 s, unlogged renewals, primary.
    pub fn new(shard: ShardIndex, shard_count: u16) -> ShardConfig {
        ShardConfig {
            shard,
            shard_count,
            seed: 0,
            generation_base: generation_range(shard, shard_count).start,
            ttl_ms_min: 1,
            ttl_ms_max: TTL_MS_MAX,
            lease_count_max: 10_000_000,
            checkpoint_interval_ms: Some(60_000),
            renewals: Renewals::Unlogged,
            role: Role::Primary,
        }
    }

    /// # Panics
    /// When a field is out of its range.
    pub(crate) fn check(&self) {
        let generations = generation_range(self.shard, self.shard_count);
        assert!(
            generations.contains(&self.generation_base),
            "S1 one-shard: generation base {} of shard {} is outside {generations:?}",
            self.generation_base,
            self.shard
        );
        assert!(self.ttl_ms_min >= 1 && self.ttl_ms_min <= self.ttl_ms_max, "TTL minimum out of range");
        assert!(self.ttl_ms_max <= TTL_MS_MAX, "TTL maximum out of range");
        assert!(
            (1..=LEASE_COUNT_MAX).contains(&self.lease_count_max),
            "S8 bounded: lease_count_max of {} is outside 1..={LEASE_COUNT_MAX}",
            self.lease_count_max
        );
        assert!(self.checkpoint_interval_ms != Some(0), "a checkpoint interval of 0 ms");
    }
}
