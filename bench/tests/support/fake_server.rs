//! A server in a few lines that keeps leases in a map, and breaks the contract on request.
//!
//! It exists to show that the load generator notices: a checker that was never seen to fail checks
//! nothing. Two shards, one thread per connection; a connection with a subscription also expires.

use std::collections::HashMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tenure_protocol::{
    Cause, EndedHead, Failed, Frames, Granted, InfoNumber, InfoText, LeaseId, Limits, Position, Refusal,
    Request, RequestId, Token, Welcome, encode::reply, shard_of, tag, text_tag,
};

pub(crate) const SHARDS: u16 = 2;

/// How the server breaks the contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    None,
    /// One renewal in a hundred is refused although the lease is alive.
    ForgetsLeases,
    /// S2: leases end 40 ms before their time.
    EndsEarly,
    /// S9: of each event, the last lease is left out.
    LosesEnds,
    /// S9: of each event, the first lease comes twice.
    EndsTwice,
    /// S9: a lease ends that was never granted, in place of another.
    EndsAnother,
    /// S8, and allowed: every third batch is refused as a whole, and the first lease of the others.
    IsBusy,
    /// No fault: leases of other shards are renewed, too, as a server does by asking the other core.
    ServesEveryShard,
    /// The connection is closed after some thousand renewals.
    HangsUp,
    /// No fault: a connection that asked for Info is closed when it has been silent for a while.
    ClosesTheSilent,
    /// No fault: the first large batch of leases to grant takes longer than anybody would foresee.
    HesitatesOnce,
}

/// Shorter than the shortest phase.
const SILENCE: Duration = Duration::from_millis(50);
/// Longer than a storm's deadline is put off beyond the time that its grants need.
const HESITATION: Duration = Duration::from_millis(3_300);

struct Lease {
    deadline: Instant,
    ttl_ms: u64,
}

struct Shared {
    fault: Fault,
    leases: HashMap<u64, Lease>,
    next_id: u64,
    renewed: u64,
    /// Renewals of leases of another shard than the connection's.
    remote: u64,
    batches: u64,
    /// Somebody is told of ends.
    is_watched: bool,
}

/// Serves until the process ends; where.
pub(crate) fn start(fault: Fault) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let shared = Shared {
        fault,
        leases: HashMap::new(),
        next_id: 0,
        renewed: 0,
        remote: 0,
        batches: 0,
        is_watched: false,
    };
    let shared = Arc::new(Mutex::new(shared));
    std::thread::spawn(move || {
        for socket in listener.incoming() {
            let (socket, shared) = (socket.unwrap(), Arc::clone(&shared));
            let heard = Instant::now();
            let session = Session { shared, socket, shard: 0, subscription: None, asked_info: false, heard };
            std::thread::spawn(move || session.serve());
        }
    });
    address
}

struct Session {
    shared: Arc<Mutex<Shared>>,
    socket: TcpStream,
    shard: u16,
    subscription: Option<RequestId>,
    asked_info: bool,
    heard: Instant,
}

impl Session {
    /// Until the peer or a fault ends it.
    fn serve(mut self) {
        self.socket.set_nodelay(true).unwrap();
        self.socket.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
        let (mut incoming, mut out) = (Vec::new(), Vec::new());
        let mut chunk = [0; 64 << 10];
        loop {
            match self.socket.read(&mut chunk) {
                Ok(0) => return,
                Ok(count) => {
                    self.heard = Instant::now();
                    incoming.extend_from_slice(&chunk[..count]);
                }
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                Err(_) => return,
            }
            let mut frames = Frames::new(&incoming, Limits::DEFAULT.frame_bytes_max);
            while let Some(frame) = frames.next_frame().unwrap() {
                let request = Request::decode(&frame, &Limits::DEFAULT).unwrap();
                self.answer(frame.header.request_id, &request, &mut out);
            }
            let consumed = frames.consumed();
            incoming.drain(..consumed);
            self.expire(&mut out);
            let shared = self.shared.lock().unwrap();
            let is_silent = self.asked_info && self.heard.elapsed() > SILENCE;
            let hangs_up = (shared.fault == Fault::HangsUp && shared.renewed > 5_000)
                || (shared.fault == Fault::ClosesTheSilent && is_silent);
            drop(shared);
            if hangs_up || self.socket.write_all(&out).is_err() {
                return;
            }
            out.clear();
        }
    }

    fn answer(&mut self, id: RequestId, request: &Request<'_>, out: &mut Vec<u8>) {
        let mut shared = self.shared.lock().unwrap();
        let batch = matches!(request, Request::GrantBatch(_) | Request::RevokeBatch(_));
        shared.batches += u64::from(batch);
        let busy = shared.fault == Fault::IsBusy && batch;
        if shared.fault == Fault::HesitatesOnce
            && matches!(request, Request::GrantBatch(many) if many.len() > 2_000)
        {
            shared.fault = Fault::None;
            std::thread::sleep(HESITATION);
        }
        if busy && shared.batches.is_multiple_of(3) {
            return reply::refused(out, id, Refusal::Busy, 0, "");
        }
        match request {
            Request::Hello(hello) => {
                self.shard = hello.wish_shard.unwrap_or(0);
                welcome(self.shard).encode(out, id);
            }
            Request::Info => {
                self.asked_info = true;
                // Nobody is told of these: no connection watches.
                if !shared.is_watched {
                    shared.leases.retain(|_, lease| lease.deadline > Instant::now());
                }
                info(&shared, out, id);
            }
            Request::Grant(grant) => {
                reply::granted(out, id, &shared.grant(self.shard, grant.id, grant.ttl_ms));
            }
            Request::GrantBatch(batch) => {
                let entries = batch.iter().enumerate();
                let granted: Vec<_> = entries
                    .map(|(place, entry)| match busy && place == 0 && batch.len() > 1 {
                        true => Err(Refusal::Busy),
                        false => Ok(shared.grant(self.shard, entry.id, entry.ttl_ms)),
                    })
                    .collect();
                reply::grant_batch(out, id, granted.into_iter());
            }
            Request::Renew { id: lease } => match shared.renew(self.shard, *lease) {
                Ok(ttl_ms) => reply::renewed(out, id, ttl_ms),
                Err(refusal) => reply::refused(out, id, refusal, 0, ""),
            },
            Request::RenewBatch(ids) => {
                let failed =
                    shared.each(ids.iter(), |shared, lease| shared.renew(self.shard, lease).map(drop));
                reply::renew_batch(out, id, ids.len() as u32, failed.into_iter());
            }
            Request::Revoke { id: lease } => match shared.leases.remove(&lease.0) {
                Some(_) => reply::revoked(out, id, Token(lease.0), 0),
                None => reply::refused(out, id, Refusal::NotFound, 0, ""),
            },
            Request::RevokeBatch(ids) => {
                let first = ids.iter().next();
                let failed = shared.each(ids.iter(), |shared, lease| {
                    // A batch of one must come through some day.
                    if busy && Some(lease) == first && ids.len() > 1 {
                        return Err(Refusal::Busy);
                    }
                    shared.leases.remove(&lease.0).map(drop).ok_or(Refusal::NotFound)
                });
                reply::revoke_batch(out, id, ids.len() as u32, failed.into_iter());
            }
            Request::Attach { id: lease, .. } => match shared.leases.contains_key(&lease.0) {
                true => reply::attached(out, id, Token(lease.0), None),
                false => reply::refused(out, id, Refusal::NotFound, 0, ""),
            },
            Request::Subscribe { shard, .. } => {
                assert_eq!(*shard, self.shard, "S1: a subscription is placed");
                self.subscription = Some(id);
                shared.is_watched = true;
                reply::subscribed(out, id, Position(64), Position(64), Position(64));
            }
            other => panic!("the load generator never asks {other:?}"),
        }
    }

    /// Ends what is overdue in the shard, if this connection watches it.
    fn expire(&mut self, out: &mut Vec<u8>) {
        let Some(subscription) = self.subscription else { return };
        let mut shared = self.shared.lock().unwrap();
        let early = if shared.fault == Fault::EndsEarly { Duration::from_millis(40) } else { Duration::ZERO };
        let now = Instant::now() + early;
        let overdue = |(id, lease): (&u64, &Lease)| {
            (shard_of(LeaseId(*id), SHARDS) == self.shard && lease.deadline <= now).then_some(*id)
        };
        let mut ended: Vec<u64> = shared.leases.iter().filter_map(overdue).collect();
        for id in &ended {
            shared.leases.remove(id);
        }
        if ended.is_empty() {
            return;
        }
        match shared.fault {
            Fault::LosesEnds => drop(ended.pop()),
            Fault::EndsTwice => ended.push(ended[0]),
            Fault::EndsAnother => ended[0] ^= 1 << 40,
            _ => {}
        }
        for part in ended.chunks(4_096) {
            let head = EndedHead {
                shard: self.shard,
                cause: Cause::Expired,
                time_ms: 1,
                first: Position(64),
                items_follow: false,
            };
            reply::ended(out, subscription, &head, part.iter().map(|&id| (LeaseId(id), Token(64))));
        }
    }
}

impl Shared {
    fn grant(&mut self, shard: u16, chosen: LeaseId, ttl_ms: u64) -> Granted {
        let mut id = chosen;
        while id == LeaseId::NONE {
            self.next_id += 1;
            if shard_of(LeaseId(self.next_id), SHARDS) == shard {
                id = LeaseId(self.next_id);
            }
        }
        let deadline = Instant::now() + Duration::from_millis(ttl_ms + 1);
        let before = self.leases.insert(id.0, Lease { deadline, ttl_ms });
        assert!(before.is_none(), "the load chooses every ID once");
        Granted { id, token: Token(id.0), ttl_ms, remaining_ms: ttl_ms, raised: false, repeated: false }
    }

    fn renew(&mut self, shard: u16, id: LeaseId) -> Result<u64, Refusal> {
        let placed = shard_of(id, SHARDS) == shard;
        assert!(placed || self.fault == Fault::ServesEveryShard, "S1: renewals go to the shard of the ID");
        self.remote += u64::from(!placed);
        self.renewed += 1;
        if self.fault == Fault::ForgetsLeases && self.renewed.is_multiple_of(100) {
            return Err(Refusal::NotFound);
        }
        let lease = self.leases.get_mut(&id.0).ok_or(Refusal::NotFound)?;
        lease.deadline = Instant::now() + Duration::from_millis(lease.ttl_ms + 1);
        Ok(lease.ttl_ms)
    }

    fn each(
        &mut self,
        ids: impl Iterator<Item = LeaseId>,
        mut work: impl FnMut(&mut Shared, LeaseId) -> Result<(), Refusal>,
    ) -> Vec<Failed> {
        let outcome = ids.enumerate().map(|(index, id)| (index as u32, work(self, id)));
        outcome.filter_map(|(index, result)| Some(Failed { index, refusal: result.err()? })).collect()
    }
}

fn welcome(shard: u16) -> Welcome<'static> {
    Welcome {
        version: 1,
        shard_count: SHARDS,
        shard,
        id_rule: tenure_protocol::ID_RULE,
        features: 0,
        session: 1,
        limits: Limits::DEFAULT,
        ttl_ms_min: 1,
        ttl_ms_max: 9_000_000_000_000,
        idle_timeout_ms: 0,
        server: "fake",
    }
}

fn info(shared: &Shared, out: &mut Vec<u8>, id: RequestId) {
    let numbers = [(tag::LEASES, shared.leases.len() as u64), (tag::SHARDS, SHARDS.into())];
    let numbers = numbers.map(|(tag, value)| InfoNumber { tag, index: 0, value });
    let text = InfoText { tag: text_tag::SERVER, text: "fake" };
    reply::info(out, id, numbers.into_iter(), [text].into_iter());
}
