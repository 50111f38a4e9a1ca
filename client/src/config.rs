//! How a client connects, waits and repeats.

use std::time::Duration;

/// Settings of a client. [`ClientConfig::new`] gives defaults that suit most.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ClientConfig {
    /// `HOST:PORT` of the server; several when it can be reached in several ways. Tried in turn.
    pub endpoints: Vec<String>,
    /// Credentials; empty when the server asks for none.
    pub auth: Vec<u8>,
    /// How long one attempt to connect may take, handshake included.
    pub connect_timeout: Duration,
    /// How long a call may take altogether, reconnecting and repeating included.
    pub request_timeout: Duration,
    /// With requests waiting, this long without a byte from the server means that it is gone.
    pub silence_max: Duration,
    /// Shortest and longest wait between attempts to connect.
    pub backoff: (Duration, Duration),
    /// Most connections; a server with more shards shares them. One per shard saves the server a hop.
    pub connections_max: u16,
    /// Most leases in one keep-alive frame. Larger frames cost less, smaller ones delay others less.
    pub keep_alive_batch_ids: usize,
    /// Identifies this client's grants, so that repeating one after a lost connection cannot make a
    /// second lease. `None`: a random number.
    pub client_id: Option<u64>,
}

impl ClientConfig {
    /// Defaults for a server at `endpoint` (`HOST:PORT`).
    #[must_use]
    pub fn new(endpoint: impl Into<String>) -> ClientConfig {
        ClientConfig {
            endpoints: vec![endpoint.into()],
            auth: Vec::new(),
            connect_timeout: Duration::from_secs(3),
            request_timeout: Duration::from_secs(10),
            silence_max: Duration::from_secs(5),
            backoff: (Duration::from_millis(10), Duration::from_secs(2)),
            connections_max: 16,
            keep_alive_batch_ids: 16_384,
            client_id: None,
        }
    }
}
