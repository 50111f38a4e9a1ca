//! One connection as a state machine: bytes in, bytes out, replies matched to their requests.
//!
//! ```text
//!            send_renew(id, token) …            outgoing()
//!   caller ─────────────────────────▶ encode ──────────────▶ the caller's socket
//!   caller ◀───────────────────────── match  ◀────────────── the caller's socket
//!            poll() = Delivery                  receive() or spare() + received()
//! ```
//! The caller gives each request a token of its own and gets it back with the reply; replies may come
//! in any order. Nothing is allocated per request once the buffers have grown: a pipelined renewal
//! costs a slot in a slab, 20 bytes out and 20 bytes in.
//!
//! L2 one-reply: a reply that nobody waits for, or of another kind than was asked, ends the connection.
//! S8 bounded: at most the server's window is in flight; a frame above the announced size is refused
//! before it is buffered.
//!
//! What it does not do: connect, retry, know a clock ([`Connection::tick`] is told the time), or
//! remember requests after they are encoded; a caller that wants to retry keeps them.

use std::ops::Range;

use tenure_protocol::opcode::{push, request};
use tenure_protocol::{
    Event, GrantEntry, Hello, LeaseId, Limits, RENEWED_BYTES, Refused, Request, RequestId, Response, Welcome,
    encode, first_frame, peek, renew_frame, renewed_at,
};

use super::failure::{ConnectionError, SendError};
use super::in_flight::{InFlight, Match};
use super::incoming::Incoming;
use super::terms::{ConnectionConfig, Terms};

/// Something that [`Connection::poll`] delivers, borrowed from the receive buffer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Delivery<'a> {
    /// The handshake is done; requests may be sent.
    Welcome(Welcome<'a>),
    /// The reply to the request with this token. [`Response::Refused`] is a reply, too; to the token of
    /// an open subscription it says that the subscription has ended.
    Reply {
        /// The token given with the request.
        token: u64,
        /// The reply.
        response: Response<'a>,
    },
    /// An event of the subscription with this token.
    Event {
        /// The token given with the Subscribe.
        token: u64,
        /// The event.
        event: Event<'a>,
    },
    /// The server will close the connection. Replies may still come; nothing can be sent any more.
    GoAway(Refused<'a>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Hello is sent.
    Greeting,
    Open,
    /// GoAway has come: replies still arrive.
    Leaving,
    Failed,
}

/// One connection: bytes in, bytes out, replies matched to their requests.
///
/// Drive it over any transport: write what [`Connection::outgoing`] has, hand what arrives to
/// [`Connection::receive`], and [`Connection::poll`] until there is nothing more. Here the other side is
/// played by hand:
///
/// ```
/// use tenure_client::machine::{Connection, ConnectionConfig, Delivery};
/// use tenure_client::protocol::{Frames, LeaseId, Limits, Response, Welcome, encode};
///
/// let mut connection = Connection::new(&ConnectionConfig::default());
/// # let welcome = Welcome {
/// #     version: 1, shard_count: 1, shard: 0, id_rule: 1, features: 0, session: 1,
/// #     limits: Limits::DEFAULT, ttl_ms_min: 1, ttl_ms_max: 1_000_000, idle_timeout_ms: 0, server: "",
/// # };
/// # let hello = std::mem::take(connection.outgoing());
/// # let request_id = Frames::new(&hello, 4096).next_frame()?.unwrap().header.request_id;
/// # let mut from_server = Vec::new();
/// # welcome.encode(&mut from_server, request_id);
/// // … the Hello goes out, the Welcome comes in …
/// connection.receive(&from_server);
/// assert!(matches!(connection.poll()?, Some(Delivery::Welcome(_))));
///
/// // Two renewals on their way at once; the tokens are the caller's own.
/// connection.send_renew(LeaseId(7), 70)?;
/// connection.send_renew(LeaseId(8), 80)?;
///
/// let to_server = std::mem::take(connection.outgoing());
/// let mut frames = Frames::new(&to_server, 4096);
/// from_server.clear();
/// while let Some((request_id, _id)) = frames.next_renew() {
///     encode::reply::renewed(&mut from_server, request_id, 10_000);
/// }
///
/// connection.receive(&from_server);
/// let mut renewed = Vec::new();
/// while let Some(delivery) = connection.poll()? {
///     if let Delivery::Reply { token, response: Response::Renewed { .. } } = delivery {
///         renewed.push(token);
///     }
/// }
/// assert_eq!(renewed, [70, 80]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Connection {
    state: State,
    terms: Terms,
    in_flight: InFlight,
    outgoing: Vec<u8>,
    incoming: Incoming,
    /// Unsubscribes under way: their own request id, and the subscription that the reply closes.
    unsubscribing: Vec<(RequestId, RequestId)>,
    /// This side's own Ping under way, which keeps the connection from idling out.
    ping: Option<RequestId>,
    silence_ms_max: u64,
    /// Something was encoded, something arrived, since the last tick.
    sent: bool,
    heard: bool,
    last_sent_ms: Option<u64>,
    last_heard_ms: Option<u64>,
}

impl Connection {
    /// A new connection; its Hello waits in [`Connection::outgoing`].
    #[must_use]
    pub fn new(config: &ConnectionConfig) -> Connection {
        let mut in_flight = InFlight::new();
        let mut outgoing = Vec::new();
        let hello =
            Hello { wish_shard: config.wish_shard, auth: &config.auth, ..Hello::new(config.client_id) };
        hello.encode(&mut outgoing, in_flight.start(request::HELLO, 0));
        Connection {
            state: State::Greeting,
            terms: Terms::BEFORE_WELCOME,
            in_flight,
            outgoing,
            incoming: Incoming::new(),
            unsubscribing: Vec::new(),
            ping: None,
            silence_ms_max: config.silence_ms_max,
            sent: true,
            heard: false,
            last_sent_ms: None,
            last_heard_ms: None,
        }
    }

    /// Whether the handshake is done and requests may be sent.
    #[inline]
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.state == State::Open
    }

    /// What the server announced. Before the Welcome: the narrowest assumptions.
    #[inline]
    #[must_use]
    pub fn terms(&self) -> &Terms {
        &self.terms
    }

    /// Requests that wait for their reply.
    #[inline]
    #[must_use]
    pub fn in_flight(&self) -> u32 {
        self.in_flight.waiting()
    }

    /// How many more requests may be sent before a reply must be polled.
    #[inline]
    #[must_use]
    pub fn room(&self) -> u32 {
        if self.state == State::Open { self.terms.limits.window - self.in_flight.waiting() } else { 0 }
    }

    /// Bytes to write to the socket. The caller removes what it has written (`clear` or `drain`).
    #[inline]
    pub fn outgoing(&mut self) -> &mut Vec<u8> {
        &mut self.outgoing
    }

    #[inline]
    fn admit(&mut self, opcode: u8, token: u64) -> Result<RequestId, SendError> {
        if self.state != State::Open {
            return Err(if self.state == State::Greeting { SendError::NotReady } else { SendError::Closed });
        }
        if self.in_flight.waiting() >= self.terms.limits.window {
            return Err(SendError::WindowFull);
        }
        self.sent = true;
        Ok(self.in_flight.start(opcode, token))
    }

    /// Sends a Renew: the short cut for [`Connection::send`].
    ///
    /// # Errors
    /// [`SendError`]; nothing was sent.
    #[inline]
    pub fn send_renew(&mut self, id: LeaseId, token: u64) -> Result<(), SendError> {
        let request_id = self.admit(request::RENEW, token)?;
        self.outgoing.extend_from_slice(&renew_frame(request_id, id));
        Ok(())
    }

    /// Sends a RenewBatch.
    ///
    /// # Errors
    /// [`SendError`]; nothing was sent.
    pub fn send_renew_batch(
        &mut self,
        ids: impl ExactSizeIterator<Item = LeaseId>,
        token: u64,
    ) -> Result<(), SendError> {
        check_count(ids.len(), self.terms.limits.batch_ids_max)?;
        let request_id = self.admit(request::RENEW_BATCH, token)?;
        encode::renew_batch(&mut self.outgoing, request_id, ids);
        Ok(())
    }

    /// Sends a RevokeBatch.
    ///
    /// # Errors
    /// [`SendError`]; nothing was sent.
    pub fn send_revoke_batch(
        &mut self,
        ids: impl ExactSizeIterator<Item = LeaseId>,
        token: u64,
    ) -> Result<(), SendError> {
        check_count(ids.len(), self.terms.limits.batch_ids_max)?;
        let request_id = self.admit(request::REVOKE_BATCH, token)?;
        encode::revoke_batch(&mut self.outgoing, request_id, ids);
        Ok(())
    }

    /// Sends a GrantBatch. Entry `i` has the sequence `first_sequence + i`; 0: not identified.
    ///
    /// # Errors
    /// [`SendError`]; nothing was sent.
    pub fn send_grant_batch(
        &mut self,
        first_sequence: u64,
        entries: impl ExactSizeIterator<Item = GrantEntry>,
        token: u64,
    ) -> Result<(), SendError> {
        check_count(entries.len(), self.terms.limits.grant_batch_max)?;
        let request_id = self.admit(request::GRANT_BATCH, token)?;
        encode::grant_batch(&mut self.outgoing, request_id, first_sequence, entries);
        Ok(())
    }

    /// Sends any request but Hello.
    ///
    /// # Errors
    /// [`SendError`]; nothing was sent. A Hello is [`SendError::Closed`]: it has been sent already.
    pub fn send(&mut self, request: &Request<'_>, token: u64) -> Result<RequestId, SendError> {
        let limits = self.terms.limits;
        match *request {
            Request::Hello(_) => return Err(SendError::Closed),
            Request::RenewBatch(ids) | Request::RevokeBatch(ids) => {
                check_count(ids.len(), limits.batch_ids_max)?;
            }
            Request::GrantBatch(batch) => check_count(batch.len(), limits.grant_batch_max)?,
            Request::Attach { item, .. }
            | Request::Detach { item, .. }
            | Request::LeaseOf { item }
            | Request::TimeToLive { after: Some(item), .. } => check_item(item, &limits)?,
            _ => {}
        }
        let request_id = self.admit(request.opcode(), token)?;
        if let Request::Unsubscribe { subscription } = *request {
            self.unsubscribing.push((request_id, subscription));
        }
        request.encode(&mut self.outgoing, request_id);
        Ok(request_id)
    }

    /// Takes bytes from the socket. A caller that can read into a buffer of this side's uses
    /// [`Connection::spare`] and [`Connection::received`] and saves the copy.
    pub fn receive(&mut self, bytes: &[u8]) {
        self.incoming.append(bytes, self.terms.limits.frame_bytes_max);
        self.heard |= !bytes.is_empty();
    }

    /// Room to read into; follow up with [`Connection::received`]. Empty only when frames wait to be
    /// polled.
    pub fn spare(&mut self) -> &mut [u8] {
        self.incoming.spare(self.terms.limits.frame_bytes_max)
    }

    /// Says that `count` bytes were read into [`Connection::spare`].
    ///
    /// # Panics
    /// S8: when `count` is more than there was room for.
    pub fn received(&mut self, count: usize) {
        self.incoming.received(count);
        self.heard |= count > 0;
    }

    /// The next reply if it is a Renewed that has arrived whole: its token and TTL in ms. A short cut for
    /// [`Connection::poll`], for a caller that pipelines many renewals; `None` says nothing else.
    #[inline]
    pub fn poll_renewed(&mut self) -> Option<(u64, u64)> {
        if self.state == State::Failed {
            return None;
        }
        let (request_id, ttl_ms) = renewed_at(self.incoming.unread())?;
        let token = self.in_flight.finish_renew(request_id)?;
        self.incoming.take(RENEWED_BYTES);
        Some((token, ttl_ms))
    }

    /// What has arrived next, or `None` when more bytes are needed.
    ///
    /// # Errors
    /// The connection cannot go on: close it, and see [`Connection::abandon`]. It takes and delivers
    /// nothing any more.
    pub fn poll(&mut self) -> Result<Option<Delivery<'_>>, ConnectionError> {
        if let Some((token, ttl_ms)) = self.poll_renewed() {
            return Ok(Some(Delivery::Reply { token, response: Response::Renewed { ttl_ms } }));
        }
        if self.state == State::Failed {
            return Ok(None);
        }
        match self.next_match() {
            Ok(None) => Ok(None),
            Ok(Some((found, frame))) => self.deliver(found, frame).map(Some),
            Err(error) => {
                self.fail();
                Err(error)
            }
        }
    }

    /// Takes and delivers nothing any more.
    fn fail(&mut self) {
        self.state = State::Failed;
        self.incoming.clear();
        self.outgoing.clear();
    }

    /// Cuts the next frame that is not this side's own business, and finds whose it is.
    fn next_match(&mut self) -> Result<Option<(Match, Range<usize>)>, ConnectionError> {
        loop {
            let unread = self.incoming.unread();
            let Some(header) = peek(unread, self.terms.limits.frame_bytes_max)? else { return Ok(None) };
            if (header.length as usize) > unread.len() {
                return Ok(None);
            }
            let range = self.incoming.take(header.length as usize);
            let (request_id, opcode) = (header.request_id, header.opcode);
            if opcode == push::GO_AWAY {
                self.state = State::Leaving;
                return Ok(Some((Match::Unknown, range)));
            }
            let found = self.in_flight.finish(request_id, opcode);
            match found {
                Match::Unknown if opcode == push::REFUSED => return Err(self.refused_error(range)),
                Match::Unknown => return Err(ConnectionError::Unexpected { opcode, request_id }),
                Match::Reply { opcode: request::HELLO, .. } if opcode == push::REFUSED => {
                    return Err(self.refused_error(range));
                }
                Match::Reply { .. } if self.ping == Some(request_id) => {
                    self.ping = None;
                    continue;
                }
                Match::Reply { opcode: request::UNSUBSCRIBE, .. } => self.finish_unsubscribe(request_id),
                Match::Reply { opcode: request::HELLO, .. } => self.open(range.clone())?,
                _ => {}
            }
            return Ok(Some((found, range)));
        }
    }

    fn finish_unsubscribe(&mut self, request_id: RequestId) {
        if let Some(index) = self.unsubscribing.iter().position(|(unsubscribe, _)| *unsubscribe == request_id)
        {
            let (_, subscription) = self.unsubscribing.swap_remove(index);
            self.in_flight.close_subscription(subscription);
        }
    }

    fn open(&mut self, range: Range<usize>) -> Result<(), ConnectionError> {
        let Response::Welcome(welcome) = decode(self.incoming.taken(range))? else {
            unreachable!("L2: the reply to a Hello has the opcode of a Welcome")
        };
        self.terms = Terms::of(&welcome);
        self.state = State::Open;
        Ok(())
    }

    fn refused_error(&self, range: Range<usize>) -> ConnectionError {
        match decode(self.incoming.taken(range)) {
            Ok(Response::Refused(refused)) => {
                ConnectionError::Refused { refusal: refused.refusal, text: refused.text.to_owned() }
            }
            Ok(_) => unreachable!("L2: the opcode of a Refused decodes to a Refused"),
            Err(error) => error,
        }
    }

    fn deliver(&mut self, found: Match, range: Range<usize>) -> Result<Delivery<'_>, ConnectionError> {
        let response = match decode(self.incoming.taken(range)) {
            Ok(response) => response,
            Err(error) => {
                // Not `fail`, which would clear the buffer that the other branch lends out.
                self.state = State::Failed;
                return Err(error);
            }
        };
        Ok(match (found, response) {
            (Match::Event { token }, Response::Event(event)) => Delivery::Event { token, event },
            (Match::Reply { .. }, Response::Welcome(welcome)) => Delivery::Welcome(welcome),
            (Match::Unknown, Response::GoAway(refused)) => Delivery::GoAway(refused),
            (Match::Reply { token, .. } | Match::SubscriptionRefused { token }, response) => {
                Delivery::Reply { token, response }
            }
            (found, response) => unreachable!("L2: {found:?} does not go with {response:?}"),
        })
    }

    /// Tells the time, ms on any clock that does not go back. Call it at [`Connection::next_tick_ms`]
    /// intervals: it sends a Ping before the server's idle timeout and notices a server that is gone.
    ///
    /// # Errors
    /// [`ConnectionError::Silent`].
    pub fn tick(&mut self, now_ms: u64) -> Result<(), ConnectionError> {
        if self.state == State::Failed {
            return Ok(());
        }
        if std::mem::take(&mut self.sent) {
            self.last_sent_ms = Some(now_ms);
        }
        if std::mem::take(&mut self.heard) || self.in_flight.waiting() == 0 {
            self.last_heard_ms = Some(now_ms);
        }
        let heard_ms = *self.last_heard_ms.get_or_insert(now_ms);
        let sent_ms = *self.last_sent_ms.get_or_insert(now_ms);
        if now_ms.saturating_sub(heard_ms) >= self.silence_ms_max {
            self.fail();
            return Err(ConnectionError::Silent);
        }
        let quiet_ms = now_ms.saturating_sub(sent_ms);
        let idle_ms = self.terms.idle_timeout_ms;
        let due = idle_ms > 0 && quiet_ms >= idle_ms / 3;
        if due && self.ping.is_none() && self.room() > 0 {
            let request_id = self.in_flight.start(request::PING, 0);
            encode::ping(&mut self.outgoing, request_id, now_ms);
            self.ping = Some(request_id);
            self.last_sent_ms = Some(now_ms);
        }
        Ok(())
    }

    /// How often [`Connection::tick`] wants to be called, ms.
    #[must_use]
    pub fn next_tick_ms(&self) -> u64 {
        let idle = if self.terms.idle_timeout_ms == 0 { u64::MAX } else { self.terms.idle_timeout_ms / 6 };
        idle.min(self.silence_ms_max / 4).max(1)
    }

    /// Ends this side and gives back the tokens of everything open: requests whose outcome is unknown,
    /// and subscriptions.
    pub fn abandon(&mut self) -> Vec<u64> {
        self.fail();
        if let Some(ping) = self.ping.take() {
            // The caller never saw this one.
            self.in_flight.finish(ping, push::REFUSED);
        }
        self.in_flight.abandon()
    }
}

/// Reads one whole frame.
fn decode(bytes: &[u8]) -> Result<Response<'_>, ConnectionError> {
    let frame = first_frame(bytes, u32::MAX)?;
    Ok(Response::decode(&frame.expect("L2: the frame was whole when it was cut"))?)
}

fn check_count(count: usize, count_max: u32) -> Result<(), SendError> {
    if count > count_max as usize { Err(SendError::BatchTooLarge { count_max }) } else { Ok(()) }
}

fn check_item(item: &[u8], limits: &Limits) -> Result<(), SendError> {
    if item.len() > limits.item_bytes_max as usize { Err(SendError::TooLarge) } else { Ok(()) }
}
