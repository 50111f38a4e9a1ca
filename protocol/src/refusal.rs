//! Refusals: what a server says when it will not do what it was asked.
//!
//! A closed enum with stable numbers. Numbers 1 to 31 are the engine's own (the client asked for
//! something the lease contract does not give); from 32 on the connection's (the bytes, the session or
//! the server's condition stood in the way). A number is never reused; a new one comes with a new
//! protocol version, so a peer of a version knows them all.

use std::fmt;

macro_rules! refusals {
    ($($(#[$doc:meta])* $name:ident = $code:literal, $fatal:literal, $text:literal;)*) => {
        /// Why a request was not carried out, or why a connection is closed.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u16)]
        pub enum Refusal {
            $($(#[$doc])* $name = $code,)*
        }

        impl Refusal {
            /// Every refusal, in the order of the numbers.
            pub const ALL: &'static [Refusal] = &[$(Refusal::$name),*];

            /// The refusal with this number.
            #[must_use]
            pub const fn from_code(code: u16) -> Option<Refusal> {
                match code {
                    $($code => Some(Refusal::$name),)*
                    _ => None,
                }
            }

            /// The name as written in the documentation.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Refusal::$name => stringify!($name),)*
                }
            }

            /// Whether the server closes the connection after saying this. The other refusals answer
            /// one request and leave the connection as it was.
            #[must_use]
            pub const fn is_fatal(self) -> bool {
                match self {
                    $(Refusal::$name => $fatal,)*
                }
            }
        }

        impl fmt::Display for Refusal {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self {
                    $(Refusal::$name => $text,)*
                })
            }
        }
    };
}

refusals! {
    /// No live lease has this ID: it never existed, expired or was revoked.
    NotFound = 1, false, "no live lease has this ID: grant a new one";
    /// The chosen ID belongs to a live lease.
    AlreadyExists = 2, false, "a live lease has this ID already: choose another, or let the server choose";
    /// A TTL of 0 was asked for.
    TtlZero = 3, false, "a TTL must be at least 1 ms";
    /// The TTL is above the server's maximum.
    TtlTooLarge = 4, false, "the TTL is above the server's maximum: ask for a shorter one and renew";
    /// The server holds as many leases or items as it may.
    LimitExceeded = 5, false, "a configured limit is reached: revoke something or raise the server's limit";
    /// A queue is full for the moment.
    Busy = 6, false, "the server is busy: try again after a short wait";
    /// The engine is a standby.
    NotPrimary = 7, false, "this server is a standby: ask the primary, or promote this one";
    /// The lease is alive but does not have this item.
    ItemNotFound = 8, false, "the lease does not have this item";
    /// The item is longer than the server's maximum.
    ItemTooLarge = 9, false, "the item is longer than the server's maximum";
    /// ID 0 was used where a lease must be named.
    IdReserved = 10, false, "ID 0 means that the server chooses: it names no lease";
    /// The shard does not exist, or the ID is not of this shard.
    NotThisShard = 11, false, "the shard does not exist here, or the ID belongs to another one: route by the ID rule";

    /// The bytes are not a frame of this protocol.
    Malformed = 32, true, "the bytes are not a valid frame: the two sides disagree about the protocol";
    /// The opcode is not one of this version.
    UnknownOpcode = 33, false, "the opcode is not known in this version";
    /// No common protocol version.
    VersionUnsupported = 34, true, "no common protocol version: upgrade the older side";
    /// A request came before Hello, or a second Hello came.
    HandshakeRequired = 35, true, "the first frame, and only the first, must be Hello";
    /// The credentials are missing or wrong.
    Unauthorized = 36, true, "the credentials are missing or wrong";
    /// The frame is longer than the announced maximum.
    FrameTooLarge = 37, true, "the frame is longer than the maximum that the server announced";
    /// The batch has more entries than the announced maximum.
    BatchTooLarge = 38, false, "the batch has more entries than the server announced: split it";
    /// More requests in flight than the announced window.
    WindowExceeded = 39, true, "more requests in flight than the window that the server announced";
    /// The events from this position are gone; the detail number is the oldest position kept.
    PositionTooOld = 40, false, "the events from this position are no longer kept: list the leases, then subscribe from the oldest position given";
    /// The server is stopping.
    ShuttingDown = 41, true, "the server is shutting down: reconnect later or elsewhere";
    /// The disk is full: writes are refused, reads and renewals go on.
    StorageFull = 42, false, "the server's disk is full: reads go on, writes are refused until there is space";
    /// A fault of the server.
    Internal = 43, false, "the server met a fault: see its log";
    /// Nothing came from the client for longer than the idle timeout.
    IdleTimeout = 44, true, "nothing came for longer than the idle timeout: send a Ping in time";
    /// The client does not read its replies or events.
    SlowReader = 45, true, "replies or events were not read fast enough: read more, or subscribe to less";
    /// The server has as many connections as it may.
    TooManyConnections = 46, true, "the server has as many connections as it may: close some or raise the limit";
}

impl Refusal {
    /// The stable number on the wire.
    #[inline]
    #[must_use]
    pub const fn code(self) -> u16 {
        self as u16
    }
}

impl std::error::Error for Refusal {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_stable_and_round_trip() {
        for &refusal in Refusal::ALL {
            assert_eq!(Refusal::from_code(refusal.code()), Some(refusal));
            assert!(!refusal.to_string().is_empty());
        }
        let known = (0..=u16::MAX).filter(|&code| Refusal::from_code(code).is_some()).count();
        assert_eq!(known, Refusal::ALL.len());
        assert_eq!(Refusal::NotThisShard.code(), 11);
        assert_eq!(Refusal::Malformed.code(), 32);
        assert_eq!(Refusal::TooManyConnections.code(), 46);
    }

    #[test]
    fn the_engines_refusals_never_close_a_connection() {
        assert!(Refusal::ALL.iter().filter(|r| r.code() < 32).all(|r| !r.is_fatal()));
    }
}
