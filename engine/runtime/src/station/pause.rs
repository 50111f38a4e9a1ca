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
}

impl PauseWatch {
    /// When the grace ends, if expiry is held now.
    pub(super) fn grace_until(&self) -> Option<Time> {
        self.grace_until
    }

    /// A turn begins at `now`, the last one began at `before`.
    pub(super) fn notice(&mut self, before: Time, now: Time, shard: &mut Shard) {
        if now.0.saturating_sub(before.0) >= limits::PAUSE_MS_MIN && overslept(before, now, shard) {
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
