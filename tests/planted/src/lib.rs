//! Planted bugs: a checker that never fails proves nothing.
//!
//! The code of the engine, the server and the client asks [`is`] at the places where a plausible mistake
//! would break an invariant. Without feature `on` that is the constant `false` and costs nothing; with it a
//! simulator plants one bug at a time, for the thread that it runs on, and shows that the checker of that
//! invariant finds it.

macro_rules! bugs {
    ($($name:ident $checker:literal $text:literal;)*) => {
        /// A bug that can be planted.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u8)]
        pub enum Bug {
            $(#[doc = $text] $name,)*
        }

        /// Every bug: its name, the invariant whose checker must find it, what it does.
        pub const BUGS: &[(Bug, &str, &str, &str)] = &[$((Bug::$name, stringify!($name), $checker, $text),)*];
    };
}

bugs! {
    ChosenIdStays "S1" "a lease with a chosen ID stays on the core that its client is connected to";
    ShortDeadline "S2" "a grant's deadline is three quarters of its TTL away";
    RenewChangesNothing "S2" "a renewal is acknowledged and the deadline stays";
    StaleCheckpoint "S2" "a renewal does not withdraw the logged deadline";
    ShortAfterRestart "S2" "recovery gives each lease half of its TTL";
    TrustsTooLong "S2" "a client trusts a renewal for twice the TTL";
    GivesUpEarly "S2" "a client gives up what was due more than ten seconds ago";
    RevivesLate "S2" "a client takes a late answer for a lease whose time is up";
    OverlooksLeap "S2" "a client passes over what was due more than a minute ago";
    AckAtOnce "S3" "replies leave before what they reveal is on disk";
    AckOutOfOrder "S3" "a log write is acknowledged although the one before it is in flight";
    SegmentNameUnsynced "S3" "a new segment is used before its name is on disk";
    ManifestUnsynced "S4" "the manifest is renamed into place and the directory is not synced";
    SnapshotUnsynced "S4" "a snapshot gets its name before its contents are on disk";
    ReclaimsTooMuch "S3" "a segment that recovery needs is recycled";
    TailNotReplayed "S3" "recovery stops one batch early";
    ForgetsDetach "S4" "a detach is not replayed";
    ForgetsRole "S4" "a demotion is not replayed";
    OrderOfThreads "S5" "a reply depends on what else the thread has done";
    ClockGoesBack "S6" "a restarted engine starts at half of its time";
    WheelFilesLate "S7" "leases are filed behind their deadline";
    NoLeaseLimit "S8" "the limit of leases is not looked at";
    EndsTwice "S9" "an expiry writes two end records";
    WrongCause "S9" "an expiry is recorded as a revocation";
    ForgetsGrantKeys "S9" "a repeated grant makes a second lease";
    SkipsEvents "S9" "a published block of events is dropped";
    ItemsStay "S9" "the first item of an ended lease does not leave";
    TokenOfOld "S9" "a grant of a known ID repeats the token";
    TokensAgain "S9" "IDs and tokens that were told and lost are given out again";
    ExpiresLate "L1" "expiry lags two seconds behind";
    DropsReplies "L2" "a held reply is dropped";
    RepliesTwice "L2" "a held reply is sent twice";
    RequestsFirst "L3" "nothing expires in a turn that has requests";
}

/// Whether this bug is planted on this thread.
#[cfg(not(feature = "on"))]
#[inline(always)]
#[must_use]
pub const fn is(_: Bug) -> bool {
    false
}

#[cfg(feature = "on")]
mod planted {
    use super::Bug;
    use std::cell::Cell;

    thread_local! {
        static PLANTED: Cell<Option<Bug>> = const { Cell::new(None) };
        static COUNT: Cell<u64> = const { Cell::new(0) };
    }

    /// Whether this bug is planted on this thread.
    #[inline]
    #[must_use]
    pub fn is(bug: Bug) -> bool {
        PLANTED.with(|planted| planted.get() == Some(bug))
    }

    /// Plants a bug on this thread, or none.
    pub fn plant(bug: Option<Bug>) {
        PLANTED.with(|planted| planted.set(bug));
    }

    /// A number that no two calls on a thread share, whatever else is the same.
    #[must_use]
    pub fn count() -> u64 {
        COUNT.with(|count| {
            count.set(count.get() + 1);
            count.get()
        })
    }
}

#[cfg(feature = "on")]
pub use planted::{count, is, plant};

/// A number that no two calls on a thread share; 0 while nothing can be planted.
#[cfg(not(feature = "on"))]
#[must_use]
pub const fn count() -> u64 {
    0
}
