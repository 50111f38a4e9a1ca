//! Snapshots of a core's shard, written in slices beside its work.

use std::time::Duration;

use tenure_core::{Position, Shard, Time};

use crate::journal::Journal;

#[derive(Default)]
pub(crate) struct Snapshotting {
    completed: u64,
}

impl Snapshotting {
    pub(crate) fn is_due(&self, _journal: &Journal, _shard: &Shard) -> bool {
        false
    }
    pub(crate) fn start(&mut self, _shard: &mut Shard, _journal: &mut Journal, _now: Time) {}
    pub(crate) fn step(&mut self, _shard: &mut Shard, _journal: &mut Journal, _tail: Position) {}
    pub(crate) fn next_turn(&self) -> Option<Duration> {
        None
    }
    pub(crate) fn completed(&self) -> u64 {
        self.completed
    }
}
