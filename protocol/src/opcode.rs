//! Opcodes and flags.
//!
//! A request has the top bit clear; its reply has the same number with the top bit set. Frames that
//! the server sends unasked (events, GoAway) and the universal Refused have the top bit set and no
//! request of that number. Numbers are never reused.

/// Opcodes of requests. The reply is the same number with [`REPLY`] set.
pub mod request {
    #![allow(missing_docs, reason = "the names are the operations of docs/protocol.md")]
    pub const HELLO: u8 = 0x01;
    pub const PING: u8 = 0x02;
    pub const INFO: u8 = 0x03;
    pub const GRANT: u8 = 0x10;
    pub const GRANT_BATCH: u8 = 0x11;
    pub const RENEW: u8 = 0x12;
    pub const RENEW_BATCH: u8 = 0x13;
    pub const REVOKE: u8 = 0x14;
    pub const REVOKE_BATCH: u8 = 0x15;
    pub const TIME_TO_LIVE: u8 = 0x16;
    pub const LIST: u8 = 0x17;
    pub const ATTACH: u8 = 0x18;
    pub const DETACH: u8 = 0x19;
    pub const LEASE_OF: u8 = 0x1A;
    pub const SUBSCRIBE: u8 = 0x20;
    pub const UNSUBSCRIBE: u8 = 0x21;
    pub const PROMOTE: u8 = 0x30;
    pub const DEMOTE: u8 = 0x31;
}

/// Opcodes of frames that the server sends without a request of the same number.
pub mod push {
    #![allow(missing_docs, reason = "the names are the frames of docs/protocol.md")]
    pub const GO_AWAY: u8 = 0x84;
    pub const ENDED: u8 = 0xA2;
    pub const ENDED_ITEMS: u8 = 0xA3;
    pub const PROGRESS: u8 = 0xA4;
    pub const GAP: u8 = 0xA5;
    pub const REFUSED: u8 = 0xFF;
}

/// Set in the opcode of every frame from the server.
pub const REPLY: u8 = 0x80;

/// Flags of the header. Each belongs to the opcodes named; any other bit must be 0.
pub mod flag {
    /// Granted, and an entry of GrantBatch's reply: the TTL was raised to the server's minimum.
    pub const RAISED: u8 = 1;
    /// Granted, and an entry of GrantBatch's reply: this answers a repeated request with the lease it
    /// already made.
    pub const REPEATED: u8 = 2;
    /// Reply to RenewBatch or RevokeBatch: every entry was carried out; the body is the count alone.
    pub const ALL: u8 = 1;
    /// TimeToLive, request and reply: with a page of items.
    pub const ITEMS: u8 = 1;
    /// Request TimeToLive: the page starts after the item given.
    pub const AFTER: u8 = 2;
    /// Reply to TimeToLive: there are items after this page.
    pub const MORE: u8 = 2;
    /// Event Ended: at least one of these leases had items; they follow in EndedItems events.
    pub const ITEMS_FOLLOW: u8 = 1;
    /// Event EndedItems: the last page of this lease's items.
    pub const LAST: u8 = 1;
}
