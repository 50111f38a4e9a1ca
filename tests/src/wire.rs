//! One blocking connection, by hand: frames out, frames in.
//!
//! It uses the protocol crate and nothing else, can send bytes that no client would, and gives replies
//! as owned frames whose borrowed view is a call away. Reading has an end ([`PATIENCE`]), so that a lost
//! reply is a failure and not a hang.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};

use tenure_protocol::{
    Grant, Granted, Hello, LeaseId, Limits, Refusal, Request, RequestId, Response, first_frame, peek, tag,
};

use crate::patience::PATIENCE;

/// A connection.
#[derive(Debug)]
pub struct Wire {
    stream: TcpStream,
    outgoing: Vec<u8>,
    incoming: Vec<u8>,
    start: usize,
    next_id: u32,
    /// What the Welcome said.
    pub terms: Terms,
}

/// What a server announced.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    /// Shards of the engine.
    pub shard_count: u16,
    /// The shard whose core has this connection.
    pub shard: u16,
    /// The limits in force.
    pub limits: Limits,
}

/// A frame from the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Received {
    bytes: Vec<u8>,
}

impl Received {
    /// The request it answers.
    ///
    /// # Panics
    /// Never: a received frame has a header.
    #[must_use]
    pub fn request_id(&self) -> RequestId {
        peek(&self.bytes, u32::MAX).ok().flatten().expect("a received frame has a header").request_id
    }

    /// What it says.
    ///
    /// # Panics
    /// When the server sent something that is not this protocol.
    #[must_use]
    pub fn response(&self) -> Response<'_> {
        let frame = first_frame(&self.bytes, u32::MAX).expect("framing").expect("a received frame is whole");
        Response::decode(&frame).unwrap_or_else(|error| panic!("the server broke the protocol: {error}"))
    }

    /// The refusal, if it is one.
    #[must_use]
    pub fn refusal(&self) -> Option<Refusal> {
        match self.response() {
            Response::Refused(refused) => Some(refused.refusal),
            _ => None,
        }
    }
}

impl Wire {
    /// Connects and introduces itself, not identified.
    ///
    /// # Errors
    /// The connection failed, or the server refused it.
    pub fn connect(address: SocketAddr) -> io::Result<Wire> {
        Wire::connect_as(address, &Hello::new(0))
    }

    /// Connects and introduces itself.
    ///
    /// # Errors
    /// The connection failed, or the server refused it.
    pub fn connect_as(address: SocketAddr, hello: &Hello<'_>) -> io::Result<Wire> {
        let mut wire = Wire::stranger(address)?;
        let reply = wire.call(&Request::Hello(*hello))?;
        match reply.response() {
            Response::Welcome(welcome) => {
                wire.terms =
                    Terms { shard_count: welcome.shard_count, shard: welcome.shard, limits: welcome.limits };
                Ok(wire)
            }
            other => Err(io::Error::other(format!("no Welcome but {other:?}"))),
        }
    }

    /// Connects and says nothing yet.
    ///
    /// # Errors
    /// The connection failed.
    pub fn stranger(address: SocketAddr) -> io::Result<Wire> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let terms = Terms { shard_count: 1, shard: 0, limits: Limits::DEFAULT };
        Ok(Wire { stream, outgoing: Vec::new(), incoming: Vec::new(), start: 0, next_id: 1, terms })
    }

    /// The socket itself.
    #[must_use]
    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// Writes a request into the buffer; [`Wire::flush`] sends it.
    pub fn queue(&mut self, request: &Request<'_>) -> RequestId {
        self.queue_with(|out, id| request.encode(out, id))
    }

    /// Writes what an encoder makes into the buffer.
    pub fn queue_with(&mut self, encode: impl FnOnce(&mut Vec<u8>, RequestId)) -> RequestId {
        let id = RequestId(self.next_id);
        // 0 is the server's own.
        self.next_id = self.next_id.checked_add(1).unwrap_or(1);
        encode(&mut self.outgoing, id);
        id
    }

    /// Writes bytes of any kind into the buffer.
    pub fn queue_bytes(&mut self, bytes: &[u8]) {
        self.outgoing.extend_from_slice(bytes);
    }

    /// Sends what was queued.
    ///
    /// # Errors
    /// The server has closed the connection, or takes nothing for too long.
    pub fn flush(&mut self) -> io::Result<()> {
        let result = self.stream.write_all(&self.outgoing);
        self.outgoing.clear();
        result
    }

    /// Sends a request.
    ///
    /// # Errors
    /// As [`Wire::flush`].
    pub fn send(&mut self, request: &Request<'_>) -> io::Result<RequestId> {
        let id = self.queue(request);
        self.flush()?;
        Ok(id)
    }

    /// The next frame.
    ///
    /// # Errors
    /// The connection ended, or nothing came for too long.
    pub fn receive(&mut self) -> io::Result<Received> {
        loop {
            if let Some(frame) = self.received()? {
                return Ok(frame);
            }
            if self.start > 0 {
                self.incoming.drain(..self.start);
                self.start = 0;
            }
            let held = self.incoming.len();
            self.incoming.resize(held + 64 * 1024, 0);
            let result = self.stream.read(&mut self.incoming[held..]);
            let count = *result.as_ref().unwrap_or(&0);
            self.incoming.truncate(held + count);
            match result {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// The next frame that is here already.
    ///
    /// # Errors
    /// The bytes are no frame.
    pub fn received(&mut self) -> io::Result<Option<Received>> {
        let unread = &self.incoming[self.start..];
        let Some(header) = peek(unread, u32::MAX).map_err(io::Error::other)? else { return Ok(None) };
        let Some(bytes) = unread.get(..header.length as usize) else { return Ok(None) };
        let frame = Received { bytes: bytes.to_vec() };
        self.start += bytes.len();
        Ok(Some(frame))
    }

    /// Sends a request and waits for its reply; nothing else may be in flight.
    ///
    /// # Errors
    /// The connection ended.
    ///
    /// # Panics
    /// L2 one-reply: when something else comes.
    pub fn call(&mut self, request: &Request<'_>) -> io::Result<Received> {
        let id = self.send(request)?;
        let reply = self.receive()?;
        if matches!(reply.response(), Response::GoAway(_)) {
            return Err(io::Error::other(format!("{:?}", reply.response())));
        }
        assert_eq!(reply.request_id(), id, "L2 one-reply: {:?}", reply.response());
        Ok(reply)
    }

    /// Grants a lease with an ID of the server's choice.
    ///
    /// # Panics
    /// When it is not granted.
    pub fn grant(&mut self, ttl_ms: u64) -> Granted {
        self.grant_with_id(LeaseId::NONE, ttl_ms)
    }

    /// Grants a lease.
    ///
    /// # Panics
    /// When it is not granted.
    pub fn grant_with_id(&mut self, id: LeaseId, ttl_ms: u64) -> Granted {
        let reply = self.call(&Request::Grant(Grant { ttl_ms, id, sequence: 0 })).expect("connected");
        match reply.response() {
            Response::Granted(granted) => granted,
            other => panic!("not granted: {other:?}"),
        }
    }

    /// Renews a lease: its TTL, or the refusal.
    ///
    /// # Errors
    /// The refusal.
    ///
    /// # Panics
    /// When the reply is of another kind.
    pub fn renew(&mut self, id: LeaseId) -> Result<u64, Refusal> {
        let reply = self.call(&Request::Renew { id }).expect("connected");
        match reply.response() {
            Response::Renewed { ttl_ms } => Ok(ttl_ms),
            Response::Refused(refused) => Err(refused.refusal),
            other => panic!("not a reply to a renewal: {other:?}"),
        }
    }

    /// Whether the lease is alive, and what it has left, ms.
    ///
    /// # Panics
    /// When the reply is neither that nor NotFound.
    pub fn remaining_ms(&mut self, id: LeaseId) -> Option<u64> {
        let reply = self.call(&Request::TimeToLive { id, items: false, after: None }).expect("connected");
        match reply.response() {
            Response::TimeToLive(found) => Some(found.remaining_ms),
            Response::Refused(refused) if refused.refusal == Refusal::NotFound => None,
            other => panic!("not a reply to a time-to-live: {other:?}"),
        }
    }

    /// A number of the Info reply.
    ///
    /// # Panics
    /// When the server does not say it.
    pub fn info(&mut self, wanted: u16) -> u64 {
        let reply = self.call(&Request::Info).expect("connected");
        match reply.response() {
            Response::Info(info) => info.number(wanted).unwrap_or_else(|| panic!("no number {wanted}")),
            other => panic!("not a reply to Info: {other:?}"),
        }
    }

    /// Open connections, this one included.
    pub fn connection_count(&mut self) -> u64 {
        self.info(tag::CONNECTIONS)
    }

    /// Reads to the end of the connection and gives everything that still came.
    ///
    /// # Errors
    /// The connection stays open for too long.
    pub fn drain(&mut self) -> io::Result<Vec<Received>> {
        let mut all = Vec::new();
        loop {
            match self.receive() {
                Ok(frame) => all.push(frame),
                Err(error) if is_end(&error) => return Ok(all),
                Err(error) => return Err(error),
            }
        }
    }
}

/// Whether a connection is over, as opposed to quiet for too long.
#[must_use]
pub fn is_end(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof)
}
