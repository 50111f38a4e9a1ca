//! What the sessions of one core work with: its place among the shards, the scattered requests,
//! scratch space that is reused, counts, and the time of the turn.

use std::sync::Arc;

use tenure::{LeaseId, Refusal as CoreRefusal};
use tenure_protocol::Refusal;

use super::scatter::Scatter;
use super::shared::Shared;

/// One core's desk.
pub(crate) struct Desk {
    pub(crate) shared: Arc<Shared>,
    /// This core's shard.
    pub(crate) own: u16,
    pub(crate) shard_count: u16,
    pub(crate) scatter: Scatter,
    /// The IDs of the batch at hand.
    pub(crate) ids: Vec<LeaseId>,
    /// The entries of it that failed.
    pub(crate) missing: Vec<u32>,
    /// Time since the server started, ms: for timeouts of connections, never for leases (S6).
    pub(crate) now_ms: u64,
    pub(crate) requests: u64,
    pub(crate) refusals: u64,
}

impl Desk {
    pub(crate) fn new(shared: Arc<Shared>, own: u16, shard_count: u16) -> Desk {
        Desk {
            shared,
            own,
            shard_count,
            scatter: Scatter::default(),
            ids: Vec::new(),
            missing: Vec::new(),
            now_ms: 0,
            requests: 0,
            refusals: 0,
        }
    }

    /// Notes the time of a turn.
    pub(crate) fn tick(&mut self) {
        self.now_ms = self.shared.uptime_ms();
    }

    /// Publishes the counts of a turn.
    pub(crate) fn publish_counts(&mut self) {
        self.shared.count(std::mem::take(&mut self.requests), std::mem::take(&mut self.refusals));
    }
}

/// The engine's refusal under its number on the wire: the same number, by contract of both enums.
pub(crate) fn wire_refusal(refusal: CoreRefusal) -> Refusal {
    Refusal::from_code(refusal as u16).expect("the wire has a number for each refusal of the engine")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_keep_their_numbers_on_the_wire() {
        for (engine, wire) in [
            (CoreRefusal::NotFound, Refusal::NotFound),
            (CoreRefusal::AlreadyExists, Refusal::AlreadyExists),
            (CoreRefusal::TtlZero, Refusal::TtlZero),
            (CoreRefusal::TtlTooLarge, Refusal::TtlTooLarge),
            (CoreRefusal::LimitExceeded, Refusal::LimitExceeded),
            (CoreRefusal::Busy, Refusal::Busy),
            (CoreRefusal::NotPrimary, Refusal::NotPrimary),
            (CoreRefusal::ItemNotFound, Refusal::ItemNotFound),
            (CoreRefusal::ItemTooLarge, Refusal::ItemTooLarge),
            (CoreRefusal::IdReserved, Refusal::IdReserved),
            (CoreRefusal::NotThisShard, Refusal::NotThisShard),
        ] {
            assert_eq!(wire_refusal(engine), wire);
        }
    }
}
