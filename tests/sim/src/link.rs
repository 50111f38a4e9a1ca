//! The network: connections as two queues of bytes, cut anywhere, delivered in any pieces.
//!
//! A link belongs to one client and one core. What a client has sent is the server's to receive unless the
//! link is cut first; a cut loses what is under way in both directions.

use std::collections::VecDeque;

/// One connection.
#[derive(Debug)]
pub struct Link {
    /// Its client.
    pub client: usize,
    /// The core that accepted it, or that it was carried to.
    pub core: u16,
    /// The session on that core, once it was accepted.
    pub key: Option<u64>,
    /// On the way to the server.
    pub to_server: VecDeque<u8>,
    /// On the way to the client.
    pub to_client: VecDeque<u8>,
    /// What the session counts as being sent.
    pub sending: usize,
    /// The client has closed its side.
    pub client_closed: bool,
    /// The server has closed its side: the client sees the end after the last byte.
    pub server_closed: bool,
    /// Broken: neither side gets anything any more.
    pub cut: bool,
}

impl Link {
    /// A connection that a client opens to a core.
    #[must_use]
    pub fn new(client: usize, core: u16) -> Link {
        Link {
            client,
            core,
            key: None,
            to_server: VecDeque::new(),
            to_client: VecDeque::new(),
            sending: 0,
            client_closed: false,
            server_closed: false,
            cut: false,
        }
    }

    /// Breaks it.
    pub fn break_off(&mut self) {
        self.cut = true;
        self.to_server.clear();
        self.to_client.clear();
    }

    /// Whether the client has nothing to expect from it any more.
    #[must_use]
    pub fn is_over_for_client(&self) -> bool {
        self.cut || (self.server_closed && self.to_client.is_empty())
    }

    /// Whether nobody needs it any more.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        self.key.is_none() && self.client_closed && self.is_over_for_client()
    }
}
