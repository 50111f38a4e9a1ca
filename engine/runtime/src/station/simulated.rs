//! What a simulator may see of a core, and how it ends one without notice.

use tenure_core::Shard;

use super::Station;

impl Station {
    /// The shard, to be looked at.
    #[must_use]
    pub fn shard(&self) -> &Shard {
        &self.shard
    }

    /// Replies that wait for the disk.
    #[must_use]
    pub fn replies_held(&self) -> u64 {
        self.gate.len() as u64
    }

    /// Whether the log has no room.
    #[must_use]
    pub fn is_storage_full(&self) -> bool {
        self.journal.is_full()
    }

    /// The process is gone: no kernel holds what was in flight.
    pub(crate) fn crash(&mut self) {
        self.journal.forget_in_flight();
    }
}
