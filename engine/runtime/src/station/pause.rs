//! Notices that the whole process stood still, and holds expiry until what arrived meanwhile has been read.
//!
//! A stopped process (a debugger, a paused virtual machine) could not read renewals: holders must not lose their
//! leases for that. A gap that the core did not ask for starts a grace, in which nothing expires.
//!
//! - **S2 never-early** holds in any case; this is **L3 fair**: arrivals first, then expiry.

use tenure_core::{Shard, Time};

use crate::limits;

#[derive(Default)]
pub(super) struct PauseWatch {
    grace_until: Option<Time>,
    /// The last turn left expiry to a disk that has no room: what is due since then was not overslept.
    expiry_waits: bool,
}

impl PauseWatch {
    /// When the grace ends, if expiry is held now.
    pub(super) fn grace_until(&self) -> Option<Time> {
        self.grace_until
    }

    /// A turn ends; `waits`: what is due may not end before the log has room.
    pub(super) fn expiry_waits(&mut self, waits: bool) {
        self.expiry_waits = waits;
    }

    /// A turn begins at `now`, the last one began at `before`.
    pub(super) fn notice(&mut self, before: Time, now: Time, shard: &mut Shard) {
        let long = now.0.saturating_sub(before.0) >= limits::PAUSE_MS_MIN;
        if long && !self.expiry_waits && overslept(before, now, shard) {
            shard.hold_horizon(before);
            self.grace_until = Some(Time(now.0 + limits::PAUSE_GRACE_MS));
        } else if self.grace_until.is_some_and(|until| until <= now) {
            self.grace_until = None;
            shard.release_horizon();
        }
    }
}

/// Whether something was due at least [`limits::PAUSE_MS_MIN`] ago and the core was not there.
fn overslept(before: Time, now: Time, shard: &Shard) -> bool {
    let due = shard.next_wake().unwrap_or(now).max(before);
    now.0.saturating_sub(due.0) >= limits::PAUSE_MS_MIN
}

#[cfg(test)]
mod tests {
    use tenure_core::{Grant, Position, RecordBuffer, ShardConfig, ShardIndex};

    use super::*;

    #[test]
    fn a_gap_is_a_pause_unless_a_full_disk_kept_expiry_waiting() {
        let mut shard = Shard::new(ShardConfig::new(ShardIndex(0), 1));
        let mut records = RecordBuffer::new(Position(64), Time(0));
        let grant = Grant { id: None, ttl_ms: 1_000, key: None };
        shard.grant(Time(0), &grant, &mut records).result.unwrap();
        let (before, overdue) = (Time(900), Time(5_000));
        for (waits, grace) in [(true, None), (false, Some(Time(5_000 + limits::PAUSE_GRACE_MS)))] {
            let mut pause = PauseWatch::default();
            pause.expiry_waits(waits);
            pause.notice(before, overdue, &mut shard);
            assert_eq!(pause.grace_until(), grace, "waits: {waits}");
        }
        // A core that slept as long as there was nothing to do has not paused.
        let mut pause = PauseWatch::default();
        let wake = shard.next_wake().expect("a lease is live");
        pause.notice(Time(0), Time(wake.0 + 1), &mut shard);
        assert_eq!(pause.grace_until(), None);
    }
}
