//! One connection as a plain state machine: bytes in, bytes out, no socket.
//!
//! A driver hands over what arrived ([`Session::receive`]) and takes away what is to be sent
//! ([`Session::outgoing`]); between the two the session cuts frames, applies requests to the core's
//! [`Station`] and encodes answers. Renewals, which are nearly everything a lease server hears, are
//! answered on the spot from the receive buffer into the send buffer: no allocation, no table of
//! requests in flight, no copy besides the two that the kernel makes.
//!
//! ```text
//!           Hello ──────────────► Open ──── malformed, EOF, idle, stop ───► Finishing ──► gone
//!             └─ wish elsewhere ─► Moving (the driver carries socket and bytes to that core)
//! ```
//!
//! - **L2 one-reply**: a request is counted in `unanswered` when it leaves and counted out by its
//!   answer, which is encoded exactly once. A connection that is finishing waits for its answers.
//! - **S8 bounded**: nothing more is decoded while `window` requests are unanswered, or while unsent
//!   bytes and the largest possible answers to what is in flight exceed `send_bytes_max`. Undecoded
//!   bytes wait in `carry`, and the driver stops reading ([`Session::wants_read`]).
//! - Bytes from outside never panic: whatever the protocol crate refuses ends in a Refused or GoAway.

use tenure::station::Station;
use tenure_protocol::encode::reply;
use tenure_protocol::limits::{HEADER_BYTES, HELLO_FRAME_BYTES_MAX};
use tenure_protocol::{ProtocolError, Refusal, RequestId, first_frame, peek};

use super::desk::Desk;
use super::limits;

mod answer;
mod apply;
mod renew;
pub(crate) mod subscription;

use subscription::Subscriptions;

/// Where a connection stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Nothing but a Hello is accepted.
    Hello,
    /// Serving.
    Open,
    /// It belongs on another core; nothing was consumed since its Hello.
    Moving(u16),
    /// No more requests; what is in flight is answered and sent, then it closes.
    Finishing,
    /// The socket is gone; answers are counted and dropped.
    Dead,
}

/// What the driver should do with a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// Go on.
    Keep,
    /// Carry it to this core.
    Move(u16),
    /// Everything has been said: close.
    Close,
    /// Close at once: nothing more can be said.
    Abort,
}

/// One connection.
pub(crate) struct Session {
    /// Generation and slot: the session half of its tickets.
    key: u64,
    /// Names the connection in the log and in its Welcome.
    number: u64,
    stage: Stage,
    /// Was carried here because of its wish; it is not carried on.
    placed: bool,
    /// Encoded, not yet taken by the driver.
    out: Vec<u8>,
    /// Taken by the driver, not yet accepted by the kernel.
    sending_bytes: usize,
    /// Received, not yet decoded: a partial frame, or more when `paused`.
    carry: Vec<u8>,
    /// Whole frames wait in `carry` because of S8.
    paused: bool,
    unanswered: u32,
    /// The most bytes that the answers in flight can have.
    promised_bytes: usize,
    client_id: u64,
    /// Grants without an ID go to this core's shard even when identified: the client wished it.
    own_shard_wished: bool,
    frame_bytes_max: u32,
    /// When something last came in, and when something last went out.
    received_at_ms: u64,
    sent_at_ms: u64,
    pub(super) subscriptions: Subscriptions,
    /// Stands in the list of sessions that the driver must look at.
    pub(super) touched: bool,
}

impl Session {
    pub(crate) fn new(key: u64, number: u64, placed: bool, now_ms: u64) -> Session {
        Session {
            key,
            number,
            stage: Stage::Hello,
            placed,
            out: Vec::new(),
            sending_bytes: 0,
            carry: Vec::new(),
            paused: false,
            unanswered: 0,
            promised_bytes: 0,
            client_id: 0,
            own_shard_wished: false,
            frame_bytes_max: HELLO_FRAME_BYTES_MAX,
            received_at_ms: now_ms,
            sent_at_ms: now_ms,
            subscriptions: Subscriptions::default(),
            touched: false,
        }
    }

    /// Takes bytes that arrived, in order.
    pub(crate) fn receive(&mut self, mut bytes: &[u8], desk: &mut Desk, station: &mut Station) {
        if self.stage == Stage::Open {
            // A stranger's clock runs from its arrival, however slowly it dribbles.
            self.received_at_ms = desk.now_ms;
        }
        if !self.is_reading() {
            if matches!(self.stage, Stage::Moving(_)) {
                self.carry.extend_from_slice(bytes);
            }
            return;
        }
        if self.paused {
            self.carry.extend_from_slice(bytes);
            return;
        }
        if !self.carry.is_empty() {
            bytes = self.complete_carried(bytes, desk, station);
            if !self.carry.is_empty() || bytes.is_empty() {
                self.carry.extend_from_slice(bytes);
                return;
            }
        }
        if !self.is_reading() {
            return;
        }
        let consumed = self.decode(bytes, desk, station);
        self.carry.extend_from_slice(&bytes[consumed..]);
    }

    /// Goes on decoding what waited, once there is room again.
    pub(crate) fn resume(&mut self, desk: &mut Desk, station: &mut Station) {
        if !self.paused || self.is_full(desk) {
            return;
        }
        self.paused = false;
        let mut carry = std::mem::take(&mut self.carry);
        let consumed = self.decode(&carry, desk, station);
        carry.drain(..consumed);
        // Nothing was carried meanwhile: decoding does not receive.
        self.carry = carry;
        if self.carry.is_empty() && self.carry.capacity() > limits::IDLE_BUFFER_BYTES {
            self.carry = Vec::new();
        }
    }

    /// Whether decoding waits and could go on.
    pub(crate) fn can_resume(&self, desk: &Desk) -> bool {
        self.paused && !self.is_full(desk)
    }

    /// Adds to the carried beginning of a frame until it is whole, and decodes it. Returns the rest.
    fn complete_carried<'b>(&mut self, bytes: &'b [u8], desk: &mut Desk, station: &mut Station) -> &'b [u8] {
        let (head, mut rest) = bytes.split_at(bytes.len().min(HEADER_BYTES.saturating_sub(self.carry.len())));
        self.carry.extend_from_slice(head);
        let wanted = match peek(&self.carry, self.frame_bytes_max) {
            Ok(None) => return rest,
            Ok(Some(header)) => (header.length as usize).saturating_sub(self.carry.len()),
            // Decoding meets the same error and answers it.
            Err(_) => 0,
        };
        let (body, after) = rest.split_at(rest.len().min(wanted));
        rest = after;
        self.carry.extend_from_slice(body);
        if body.len() < wanted {
            return rest;
        }
        let carry = std::mem::take(&mut self.carry);
        let consumed = self.decode(&carry, desk, station);
        self.carry = carry;
        if consumed == self.carry.len() {
            self.carry.clear();
            if self.carry.capacity() > limits::IDLE_BUFFER_BYTES {
                self.carry = Vec::new();
            }
        }
        rest
    }

    /// Decodes and applies whole frames from the start of `bytes`; returns how many bytes they were.
    fn decode(&mut self, bytes: &[u8], desk: &mut Desk, station: &mut Station) -> usize {
        let mut at = 0;
        loop {
            if self.stage == Stage::Open {
                at += self.renew_run(&bytes[at..], desk, station);
                if self.paused {
                    return at;
                }
            }
            let frame = match first_frame(&bytes[at..], self.frame_bytes_max) {
                Ok(Some(frame)) => frame,
                Ok(None) => return at,
                Err(error) => {
                    self.unreadable(&bytes[at..], error, desk);
                    return bytes.len();
                }
            };
            if self.is_full(desk) {
                self.paused = true;
                return at;
            }
            self.apply(&frame, desk, station);
            match self.stage {
                Stage::Hello | Stage::Open => at += frame.header.length as usize,
                // The other core starts with the Hello.
                Stage::Moving(_) => return at,
                Stage::Finishing | Stage::Dead => return bytes.len(),
            }
        }
    }

    /// Answers a header that cannot be used. The connection has lost its framing and cannot go on.
    fn unreadable(&mut self, bytes: &[u8], error: ProtocolError, desk: &mut Desk) {
        // Only of a header whose other fields make sense is the request id worth anything.
        let known = matches!(error, ProtocolError::FrameTooLarge { .. }) && self.stage == Stage::Open;
        let id = if known { u32::from_le_bytes([bytes[8], bytes[9], bytes[10], bytes[11]]) } else { 0 };
        self.reject(error, RequestId(id), desk);
        self.finish();
    }

    /// Answers bytes that are not a request, and closes when that is the rule.
    fn reject(&mut self, error: ProtocolError, request_id: RequestId, desk: &mut Desk) {
        let refusal = error.refusal();
        let detail = match error {
            ProtocolError::FrameTooLarge { frame_bytes_max, .. } => u64::from(frame_bytes_max),
            ProtocolError::BatchTooLarge { count_max, .. } => u64::from(count_max),
            ProtocolError::ItemTooLarge { item_bytes_max, .. } => u64::from(item_bytes_max),
            ProtocolError::VersionUnsupported { .. } => {
                u64::from(tenure_protocol::VERSION_MIN) | u64::from(tenure_protocol::VERSION_MAX) << 16
            }
            _ => 0,
        };
        desk.refusals += 1;
        reply::refused(&mut self.out, request_id, refusal, detail, &error.to_string());
        if refusal.is_fatal() {
            tracing::debug!(session = self.number, %error, "closing a connection");
            self.finish();
        }
    }

    /// Refuses one request.
    fn refuse(&mut self, request_id: RequestId, refusal: Refusal, detail: u64, text: &str, desk: &mut Desk) {
        desk.refusals += 1;
        reply::refused(&mut self.out, request_id, refusal, detail, text);
        if refusal == Refusal::ShuttingDown {
            // A shard may refuse before this core has heard of the stop: the goodbye is due all the same.
            self.go_away(refusal, "");
        } else if refusal.is_fatal() {
            self.finish();
        }
    }

    /// Says why, and closes once what is in flight has been answered and sent.
    pub(crate) fn go_away(&mut self, refusal: Refusal, text: &str) {
        if matches!(self.stage, Stage::Hello | Stage::Open | Stage::Moving(_)) {
            reply::go_away(&mut self.out, refusal, 0, text);
            self.finish();
        }
    }

    /// The client will send no more.
    pub(crate) fn peer_closed(&mut self) {
        if self.stage != Stage::Dead {
            self.finish();
        }
    }

    fn finish(&mut self) {
        self.stage = Stage::Finishing;
        self.carry = Vec::new();
        self.paused = false;
        self.subscriptions = Subscriptions::default();
    }

    /// The socket is gone.
    pub(crate) fn kill(&mut self) {
        self.finish();
        self.stage = Stage::Dead;
        self.out = Vec::new();
        self.sending_bytes = 0;
    }

    /// What the driver should do.
    pub(crate) fn fate(&self) -> Fate {
        match self.stage {
            Stage::Moving(core) => Fate::Move(core),
            Stage::Finishing if self.unanswered == 0 && self.unsent_bytes() == 0 => Fate::Close,
            Stage::Dead => Fate::Abort,
            _ => Fate::Keep,
        }
    }

    /// Gives up the undecoded bytes of a connection that is carried to another core.
    pub(crate) fn take_carry(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.carry)
    }

    /// Takes them back when it could not be carried.
    pub(crate) fn put_carry(&mut self, carry: Vec<u8>) {
        self.carry = carry;
    }

    /// It could not be carried to the core that it wished: it stays.
    pub(crate) fn stay(&mut self, desk: &mut Desk, station: &mut Station) {
        if matches!(self.stage, Stage::Moving(_)) {
            self.stage = Stage::Hello;
            self.placed = true;
            let carry = std::mem::take(&mut self.carry);
            self.receive(&carry, desk, station);
        }
    }

    /// Whether the driver should read from the socket.
    pub(crate) fn wants_read(&self) -> bool {
        match self.stage {
            Stage::Hello | Stage::Open => !self.paused || self.carry.len() < limits::RECEIVE_BUFFER_BYTES,
            // Input is discarded until the other side closes, so that our last words are not lost
            // to a reset.
            Stage::Finishing => true,
            Stage::Moving(_) | Stage::Dead => false,
        }
    }

    fn is_reading(&self) -> bool {
        matches!(self.stage, Stage::Hello | Stage::Open)
    }

    /// Whether anything waits to be sent.
    pub(crate) fn has_outgoing(&self) -> bool {
        !self.out.is_empty()
    }

    /// Exchanges what is to be sent for the driver's empty buffer.
    pub(crate) fn take_outgoing(&mut self, into: &mut Vec<u8>, now_ms: u64) {
        assert!(into.is_empty() && self.sending_bytes == 0, "one send in flight per connection");
        std::mem::swap(into, &mut self.out);
        self.sending_bytes = into.len();
        self.sent_at_ms = now_ms;
    }

    /// The kernel took `bytes` of what is being sent. None is no progress: a slow reader's time runs on.
    pub(crate) fn sent(&mut self, bytes: usize, now_ms: u64) {
        if bytes > 0 {
            self.sending_bytes = self.sending_bytes.saturating_sub(bytes);
            self.sent_at_ms = now_ms;
        }
    }

    fn unsent_bytes(&self) -> usize {
        self.out.len() + self.sending_bytes
    }

    /// S8: whether the next request must wait.
    fn is_full(&self, desk: &Desk) -> bool {
        let config = &desk.shared.config;
        self.unanswered >= config.limits.window
            || self.unsent_bytes() + self.promised_bytes >= config.send_bytes_max
    }

    /// Room for events, which give way to answers.
    pub(crate) fn event_room(&self, desk: &Desk) -> usize {
        let ahead = limits::EVENT_BYTES_AHEAD.min(desk.shared.config.send_bytes_max / 2);
        ahead.saturating_sub(self.unsent_bytes())
    }

    /// Why the connection must end at `now_ms`, if it must.
    pub(crate) fn overdue(&self, desk: &Desk) -> Option<Refusal> {
        let config = &desk.shared.config;
        let since = |at: u64| u128::from(desk.now_ms.saturating_sub(at));
        // What the driver has not taken yet waits for us: after a long silence that may be much at once.
        let stuffed = self.sending_bytes > 0
            && (self.paused
                || self.unsent_bytes() >= limits::EVENT_BYTES_AHEAD.min(config.send_bytes_max / 2));
        if stuffed && since(self.sent_at_ms) > config.slow_reader_timeout.as_millis() {
            return Some(Refusal::SlowReader);
        }
        match self.stage {
            Stage::Hello if since(self.received_at_ms) > config.handshake_timeout.as_millis() => {
                Some(Refusal::HandshakeRequired)
            }
            Stage::Open if self.unanswered == 0 && self.subscriptions.is_empty() => {
                let timeout = config.idle_timeout?.as_millis();
                (since(self.received_at_ms) > timeout).then_some(Refusal::IdleTimeout)
            }
            // The last words are not taken.
            Stage::Finishing if self.unanswered == 0 => {
                let quiet = since(self.sent_at_ms.max(self.received_at_ms));
                (quiet > config.slow_reader_timeout.as_millis()).then_some(Refusal::SlowReader)
            }
            _ => None,
        }
    }

    /// Ends a connection that is overdue.
    pub(crate) fn time_out(&mut self, refusal: Refusal) {
        tracing::debug!(session = self.number, reason = refusal.name(), "closing a connection");
        if refusal == Refusal::SlowReader {
            // Whoever does not read cannot be told either.
            self.kill();
        } else {
            self.go_away(refusal, "");
        }
    }

    /// Its key.
    pub(crate) fn key(&self) -> u64 {
        self.key
    }
}

#[cfg(test)]
mod tests;
