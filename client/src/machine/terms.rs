//! What the two sides tell each other at the start: this one's wishes, the server's terms.

use tenure_protocol::limits::HELLO_FRAME_BYTES_MAX;
use tenure_protocol::{Limits, Welcome};

use super::in_flight::WINDOW_MAX;

/// How a connection introduces itself and when it gives up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectionConfig {
    /// Random number that identifies this client across its connections; 0: grants are not identified.
    pub client_id: u64,
    /// The shard on whose core this connection wants to be.
    pub wish_shard: Option<u16>,
    /// Credentials; empty when the server asks for none.
    pub auth: Vec<u8>,
    /// With requests waiting, this long without a byte from the server means that it is gone, ms.
    pub silence_ms_max: u64,
}

impl Default for ConnectionConfig {
    fn default() -> ConnectionConfig {
        ConnectionConfig { client_id: 0, wish_shard: None, auth: Vec::new(), silence_ms_max: 10_000 }
    }
}

/// What the server said in its Welcome, without the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// Shards of the engine behind the server.
    pub shard_count: u16,
    /// The shard whose core serves this connection.
    pub shard: u16,
    /// The rule that maps an ID to its shard.
    pub id_rule: u16,
    /// What this side must keep to.
    pub limits: Limits,
    /// Shorter TTLs are raised to this, ms.
    pub ttl_ms_min: u64,
    /// Longer TTLs are refused, ms.
    pub ttl_ms_max: u64,
    /// The server drops a connection that is quiet for this long, ms; 0: never.
    pub idle_timeout_ms: u64,
}

impl Terms {
    /// What holds until the Welcome has come: the narrowest assumptions.
    pub(crate) const BEFORE_WELCOME: Terms = Terms {
        shard_count: 1,
        shard: 0,
        id_rule: 0,
        limits: Limits { frame_bytes_max: HELLO_FRAME_BYTES_MAX, ..Limits::DEFAULT },
        ttl_ms_min: 0,
        ttl_ms_max: u64::MAX,
        idle_timeout_ms: 0,
    };

    pub(crate) fn of(welcome: &Welcome<'_>) -> Terms {
        // S8: a server may offer a larger window than the table of requests can name.
        let limits = Limits { window: welcome.limits.window.min(WINDOW_MAX), ..welcome.limits };
        Terms {
            shard_count: welcome.shard_count,
            shard: welcome.shard,
            id_rule: welcome.id_rule,
            limits,
            ttl_ms_min: welcome.ttl_ms_min,
            ttl_ms_max: welcome.ttl_ms_max,
            idle_timeout_ms: welcome.idle_timeout_ms,
        }
    }
}
