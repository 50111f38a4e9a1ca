//! One shard: the lease table, its wheel, items and records behind a handful of verbs.

use crate::config::{Role, ShardConfig};
use crate::id::LeaseId;
use crate::outcome::*;
use crate::record::RecordBuffer;
use crate::refusal::{Answer, Refusal};
use crate::time::{Position, Time, Token};

/// A shard.
pub struct Shard {
    config: ShardConfig,
    role: Role,
}

/// Walks a shard for a snapshot.
#[derive(Debug)]
pub struct ImageCursor {
    position: Position,
}

impl ImageCursor {
    /// The log position from which a replay completes the image.
    pub fn position(&self) -> Position {
        self.position
    }
}

/// A chunk of an image that cannot be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ImageError {
    /// Offset in the chunk.
    pub offset: usize,
    /// What is wrong.
    pub reason: &'static str,
}

/// Records that cannot be applied.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReplayError {
    /// Offset in the batch's record bytes.
    pub offset: usize,
    /// What is wrong.
    pub reason: &'static str,
}

#[allow(unused_variables, missing_docs, clippy::todo)]
impl Shard {
    pub fn new(config: ShardConfig) -> Shard {
        config.check();
        Shard { role: config.role, config }
    }
    pub fn config(&self) -> &ShardConfig {
        &self.config
    }
    pub fn role(&self) -> Role {
        self.role
    }
    pub fn grant(&mut self, now: Time, grant: &Grant, log: &mut RecordBuffer) -> Answer<Granted> {
        todo!()
    }
    pub fn renew(&mut self, now: Time, id: LeaseId, log: &mut RecordBuffer) -> Answer<Renewed> {
        todo!()
    }
    pub fn prefetch(&self, id: LeaseId) {}
    pub fn renew_batch(
        &mut self,
        now: Time,
        ids: &[LeaseId],
        failed: &mut Vec<u32>,
        log: &mut RecordBuffer,
    ) -> Result<Position, Refusal> {
        todo!()
    }
    pub fn revoke(&mut self, now: Time, id: LeaseId, log: &mut RecordBuffer) -> Answer<Revoked> {
        todo!()
    }
    pub fn revoke_batch(
        &mut self,
        now: Time,
        ids: &[LeaseId],
        failed: &mut Vec<u32>,
        log: &mut RecordBuffer,
    ) -> Result<Position, Refusal> {
        todo!()
    }
    pub fn time_to_live(&mut self, now: Time, id: LeaseId, log: &mut RecordBuffer) -> Answer<TimeToLive> {
        todo!()
    }
    pub fn items(
        &mut self,
        now: Time,
        id: LeaseId,
        after: Option<&[u8]>,
        bytes_max: usize,
        out: &mut Vec<Box<[u8]>>,
        log: &mut RecordBuffer,
    ) -> Answer<bool> {
        todo!()
    }
    pub fn list(
        &mut self,
        now: Time,
        cursor: u64,
        limit: usize,
        out: &mut Vec<Listed>,
        log: &mut RecordBuffer,
    ) -> Answer<u64> {
        todo!()
    }
    pub fn attach(
        &mut self,
        now: Time,
        id: LeaseId,
        item: &[u8],
        log: &mut RecordBuffer,
    ) -> Answer<Attached> {
        todo!()
    }
    pub fn detach(&mut self, now: Time, id: LeaseId, item: &[u8], log: &mut RecordBuffer) -> Answer<()> {
        todo!()
    }
    pub fn lease_of(
        &mut self,
        now: Time,
        item: &[u8],
        log: &mut RecordBuffer,
    ) -> Answer<Option<(LeaseId, Token)>> {
        todo!()
    }
    pub fn expire(&mut self, now: Time, budget: usize, log: &mut RecordBuffer) -> Progress {
        todo!()
    }
    pub fn maintain(&mut self, now: Time, budget: usize, log: &mut RecordBuffer) -> bool {
        todo!()
    }
    pub fn hold_horizon(&mut self, at: Time) {}
    pub fn release_horizon(&mut self) {}
    pub fn durable(&mut self, position: Position) {}
    pub fn next_wake(&self) -> Option<Time> {
        todo!()
    }
    pub fn promote(&mut self, now: Time, extend_ms: u64, log: &mut RecordBuffer) -> Answer<()> {
        todo!()
    }
    pub fn demote(&mut self, now: Time, log: &mut RecordBuffer) -> Answer<()> {
        todo!()
    }
    pub fn stats(&self) -> ShardStats {
        todo!()
    }
    pub fn check_invariants(&self) {}
    pub fn dump(&self, out: &mut String) {}
    pub fn load_image(&mut self, chunk: &[u8]) -> Result<(), ImageError> {
        todo!()
    }
    /// Loads what belongs to this shard from a chunk of another shard's image (re-sharding).
    pub fn load_foreign(&mut self, chunk: &[u8]) -> Result<(), ImageError> {
        todo!()
    }
    pub fn replay(&mut self, first: Position, time: Time, records: &[u8]) -> Result<(), ReplayError> {
        todo!()
    }
    pub fn recovered(&mut self, now: Time) {}
    /// The engine time of the newest record or image replayed.
    pub fn clock(&self) -> Time {
        todo!()
    }
    /// One past the highest absolute generation this shard ever issued.
    pub fn generation_next(&self) -> u64 {
        todo!()
    }
    pub fn image_start(&mut self) -> ImageCursor {
        todo!()
    }
    pub fn image_step(&self, cursor: &mut ImageCursor, bytes_max: usize, out: &mut Vec<u8>) -> bool {
        todo!()
    }
}
