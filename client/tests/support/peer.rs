//! A server for tests: leases in a map, real sockets, and a script of misfortunes.
//!
//! It speaks through the protocol crate alone and knows nothing of the engine. Each test has its own.

#![allow(dead_code, reason = "each test that includes this uses a part of it")]

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};

use tenure_client::protocol::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// What happens to the next request of a kind instead of its answer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Misfortune {
    /// The connection closes before the request has any effect.
    Drop,
    /// The request takes effect, then the connection closes without an answer.
    ApplyAndDrop,
    /// No answer ever comes.
    Ignore,
    /// Refused.
    Refuse(Refusal),
    /// The server says that it goes away, then closes.
    GoAway,
    /// An answer about another number of entries than was asked.
    Miscount,
    /// Answered; then every lease ends, and somebody else is granted one of the same ID.
    ChangeHands,
}

#[derive(Clone, Debug)]
struct PeerLease {
    token: u64,
    ttl_ms: u64,
    items: Vec<Vec<u8>>,
}

#[derive(Clone, Copy, Debug)]
struct End {
    position: u64,
    shard: u16,
    id: u64,
    token: u64,
}

/// The state that all connections share.
#[derive(Debug, Default)]
pub(crate) struct World {
    shard_count: u16,
    leases: BTreeMap<u64, PeerLease>,
    by_key: HashMap<(u64, u64), u64>,
    position: u64,
    ends: Vec<End>,
    /// The oldest position that a subscription may ask for.
    pub(crate) oldest: u64,
    /// By opcode: what happens to the next requests of that kind.
    script: HashMap<u8, VecDeque<Misfortune>>,
    /// Opcode and shard of the connection of every request.
    pub(crate) requests: Vec<(u8, u16)>,
    pub(crate) refuse_hello: Option<Refusal>,
    pub(crate) limits: Option<Limits>,
}

/// A running test server.
pub(crate) struct Peer {
    pub(crate) address: SocketAddr,
    world: Arc<Mutex<World>>,
    /// Changed to close every connection (odd: refuse new ones, too) or to wake subscriptions.
    epoch: watch::Sender<u64>,
}

impl Peer {
    pub(crate) async fn start(shard_count: u16) -> Peer {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let world = World { shard_count, position: 4_096, ..World::default() };
        let world = Arc::new(Mutex::new(world));
        let (epoch, _) = watch::channel(0);
        tokio::spawn(accept(listener, Arc::clone(&world), epoch.clone()));
        Peer { address, world, epoch }
    }

    pub(crate) fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap()
    }

    pub(crate) fn endpoint(&self) -> String {
        self.address.to_string()
    }

    pub(crate) fn script(&self, opcode: u8, misfortunes: &[Misfortune]) {
        self.world().script.entry(opcode).or_default().extend(misfortunes);
    }

    /// Closes every connection.
    pub(crate) fn cut(&self) {
        self.epoch.send_modify(|epoch| *epoch += 2);
    }

    /// Refuses new connections (after closing the old ones) until called again.
    pub(crate) fn toggle_down(&self) {
        self.epoch.send_modify(|epoch| *epoch += 1);
    }

    pub(crate) fn requests_of(&self, opcode: u8) -> Vec<u16> {
        let world = self.world();
        world.requests.iter().filter(|(of, _)| *of == opcode).map(|(_, shard)| *shard).collect()
    }

    pub(crate) fn lease_count(&self) -> usize {
        self.world().leases.len()
    }

    /// Ends a lease as if its deadline had passed.
    pub(crate) fn expire(&self, id: LeaseId) {
        let mut world = self.world();
        world.end(id.0).unwrap();
    }
}

async fn accept(listener: TcpListener, world: Arc<Mutex<World>>, epoch: watch::Sender<u64>) {
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        if *epoch.borrow() % 2 == 1 {
            continue;
        }
        let session = Session {
            world: Arc::clone(&world),
            client_id: 0,
            shard: 0,
            is_welcome: false,
            subscriptions: Vec::new(),
        };
        tokio::spawn(session.run(stream, epoch.subscribe()));
    }
}

struct Session {
    world: Arc<Mutex<World>>,
    client_id: u64,
    shard: u16,
    is_welcome: bool,
    /// Request id, shard, next position.
    subscriptions: Vec<(RequestId, u16, u64)>,
}

impl Session {
    async fn run(mut self, mut stream: TcpStream, mut epoch: watch::Receiver<u64>) {
        let mut incoming = Vec::new();
        let mut chunk = vec![0; 64 * 1024];
        // Ends are found by looking, not by waiting for a sign: the simplest thing that cannot miss one.
        let mut look = tokio::time::interval(std::time::Duration::from_millis(5));
        loop {
            let count = tokio::select! {
                _ = epoch.changed() => return,
                _ = look.tick() => None,
                count = stream.read(&mut chunk) => match count {
                    Ok(0) | Err(_) => return,
                    Ok(count) => Some(count),
                },
            };
            let mut out = Vec::new();
            let mut is_closing = false;
            if let Some(count) = count {
                incoming.extend_from_slice(&chunk[..count]);
                let mut frames = Frames::new(&incoming, limits::FRAME_BYTES_MAX);
                while !is_closing && let Some(frame) = frames.next_frame().unwrap() {
                    is_closing = self.frame(&frame, &mut out);
                }
                let consumed = frames.consumed();
                incoming.drain(..consumed);
            }
            self.push_events(&mut out);
            if stream.write_all(&out).await.is_err() || is_closing {
                return;
            }
        }
    }

    /// Answers one frame; true: close the connection.
    fn frame(&mut self, frame: &Frame<'_>, out: &mut Vec<u8>) -> bool {
        let request = Request::decode(frame, &Limits::DEFAULT).unwrap();
        let request_id = frame.header.request_id;
        let world = Arc::clone(&self.world);
        let mut world = world.lock().unwrap();
        if let Request::Hello(hello) = request {
            return self.hello(&hello, &world, request_id, out);
        }
        assert!(self.is_welcome, "Hello comes first");
        world.requests.push((request.opcode(), self.shard));
        let misfortune = world.script.get_mut(&request.opcode()).and_then(VecDeque::pop_front);
        match misfortune {
            None => self.answer(&request, &mut world, request_id, out),
            Some(Misfortune::Drop) => return true,
            Some(Misfortune::ApplyAndDrop) => {
                self.answer(&request, &mut world, request_id, &mut Vec::new());
                return true;
            }
            Some(Misfortune::Ignore) => {}
            Some(Misfortune::Refuse(refusal)) => {
                encode::reply::refused(out, request_id, refusal, 0, "scripted");
            }
            Some(Misfortune::GoAway) => {
                encode::reply::go_away(out, Refusal::ShuttingDown, 0, "scripted");
                return true;
            }
            Some(Misfortune::ChangeHands) => {
                self.answer(&request, &mut world, request_id, out);
                world.change_hands();
            }
            Some(Misfortune::Miscount) => {
                encode::reply::renew_batch(out, request_id, 1_000_000, std::iter::empty());
            }
        }
        false
    }

    fn hello(&mut self, hello: &Hello<'_>, world: &World, request_id: RequestId, out: &mut Vec<u8>) -> bool {
        if let Some(refusal) = world.refuse_hello {
            encode::reply::refused(out, request_id, refusal, 0, "scripted");
            return true;
        }
        self.is_welcome = true;
        self.client_id = hello.client_id;
        self.shard = hello.wish_shard.unwrap_or(0) % world.shard_count;
        let welcome = Welcome {
            version: 1,
            shard_count: world.shard_count,
            shard: self.shard,
            id_rule: ID_RULE,
            features: 0,
            session: 1,
            limits: world.limits.unwrap_or(Limits::DEFAULT),
            ttl_ms_min: 1,
            ttl_ms_max: 9_000_000_000_000,
            idle_timeout_ms: 60_000,
            server: "peer",
        };
        welcome.encode(out, request_id);
        false
    }

    fn answer(&mut self, request: &Request<'_>, world: &mut World, request_id: RequestId, out: &mut Vec<u8>) {
        use encode::reply;
        let refuse = |out: &mut Vec<u8>, refusal| reply::refused(out, request_id, refusal, 0, "");
        match *request {
            Request::Hello(_) => panic!("a second Hello"),
            Request::Ping { echo } => reply::pong(out, request_id, echo),
            Request::Info => {
                let leases = InfoNumber { tag: tag::LEASES, index: 0, value: world.leases.len() as u64 };
                let server = InfoText { tag: text_tag::SERVER, text: "peer" };
                reply::info(out, request_id, [leases].into_iter(), [server].into_iter());
            }
            Request::Grant(grant) => {
                match world.grant(self.shard, (self.client_id, grant.sequence), grant.ttl_ms, grant.id) {
                    Ok(granted) => reply::granted(out, request_id, &granted),
                    Err(refusal) => refuse(out, refusal),
                }
            }
            Request::GrantBatch(batch) => {
                let results: Vec<_> = batch
                    .iter()
                    .enumerate()
                    .map(|(index, entry)| {
                        let key = (self.client_id, batch.sequence(index));
                        world.grant(self.shard, key, entry.ttl_ms, entry.id)
                    })
                    .collect();
                reply::grant_batch(out, request_id, results.into_iter());
            }
            Request::Renew { id } => match world.leases.get(&id.0) {
                Some(lease) => reply::renewed(out, request_id, lease.ttl_ms),
                None => refuse(out, Refusal::NotFound),
            },
            Request::RenewBatch(ids) => {
                let failed = failed_of(ids, |id| world.leases.contains_key(&id));
                reply::renew_batch(out, request_id, ids.len() as u32, failed.into_iter());
            }
            Request::Revoke { id } => match world.end(id.0) {
                Some(lease) => reply::revoked(out, request_id, Token(lease.token), lease.items.len() as u64),
                None => refuse(out, Refusal::NotFound),
            },
            Request::RevokeBatch(ids) => {
                let failed = failed_of(ids, |id| world.end(id).is_some());
                reply::revoke_batch(out, request_id, ids.len() as u32, failed.into_iter());
            }
            Request::TimeToLive { id, items, after } => match world.leases.get(&id.0) {
                Some(lease) => time_to_live(lease, items, after, request_id, out),
                None => refuse(out, Refusal::NotFound),
            },
            Request::List { shard, cursor, .. } => world.list(shard, cursor, request_id, out),
            Request::Attach { id, item } => match world.attach(id.0, item) {
                Some((token, moved_from)) => reply::attached(out, request_id, Token(token), moved_from),
                None => refuse(out, Refusal::NotFound),
            },
            Request::Detach { id, item } => match world.detach(id.0, item) {
                Ok(()) => reply::detached(out, request_id),
                Err(refusal) => refuse(out, refusal),
            },
            Request::LeaseOf { item } => {
                let found = world.leases.iter().find(|(_, lease)| lease.items.iter().any(|i| i == item));
                let found = found.map(|(id, lease)| (LeaseId(*id), Token(lease.token)));
                reply::lease_of(out, request_id, found);
            }
            Request::Subscribe { shard, from } => self.subscribe(world, shard, from, request_id, out),
            Request::Unsubscribe { subscription } => {
                self.subscriptions.retain(|(of, ..)| *of != subscription);
                reply::unsubscribed(out, request_id);
            }
            Request::Promote { .. } => reply::promoted(out, request_id),
            Request::Demote => reply::demoted(out, request_id),
        }
    }

    fn subscribe(
        &mut self,
        world: &World,
        shard: u16,
        from: Position,
        request_id: RequestId,
        out: &mut Vec<u8>,
    ) {
        if from != Position::NOW && from != Position::OLDEST && from.0 < world.oldest {
            return encode::reply::refused(out, request_id, Refusal::PositionTooOld, world.oldest, "");
        }
        let start = if from == Position::NOW { world.position } else { from.0.max(world.oldest) };
        let durable = Position(world.position);
        encode::reply::subscribed(out, request_id, Position(start), Position(world.oldest), durable);
        self.subscriptions.push((request_id, shard, start));
    }

    fn push_events(&mut self, out: &mut Vec<u8>) {
        let world = self.world.lock().unwrap();
        for (request_id, shard, next) in &mut self.subscriptions {
            for end in world.ends.iter().filter(|end| end.shard == *shard && end.position >= *next) {
                let head = EndedHead {
                    shard: *shard,
                    cause: Cause::Expired,
                    time_ms: end.position,
                    first: Position(end.position),
                    items_follow: false,
                };
                let entries = [(LeaseId(end.id), Token(end.token))];
                encode::reply::ended(out, *request_id, &head, entries.into_iter());
            }
            *next = (*next).max(world.position);
        }
    }
}

fn failed_of(ids: Ids<'_>, mut done: impl FnMut(u64) -> bool) -> Vec<Failed> {
    let failed = ids.iter().enumerate().filter(|(_, id)| !done(id.0));
    failed.map(|(index, _)| Failed { index: index as u32, refusal: Refusal::NotFound }).collect()
}

/// Pages of two items, so that a handful shows the paging.
fn time_to_live(
    lease: &PeerLease,
    items: bool,
    after: Option<&[u8]>,
    request_id: RequestId,
    out: &mut Vec<u8>,
) {
    let ttl = TimeToLive {
        token: Token(lease.token),
        ttl_ms: lease.ttl_ms,
        remaining_ms: lease.ttl_ms / 2,
        item_count: lease.items.len() as u64,
        items: None,
    };
    if items {
        let mut rest = lease.items.iter().filter(|item| after.is_none_or(|after| item.as_slice() > after));
        let page: Vec<_> = rest.by_ref().take(2).collect();
        let more = rest.next().is_some();
        encode::reply::time_to_live_with_items(out, request_id, &ttl, page.into_iter(), more);
    } else {
        encode::reply::time_to_live(out, request_id, &ttl);
    }
}

impl World {
    fn grant(&mut self, shard: u16, key: (u64, u64), ttl_ms: u64, id: LeaseId) -> Result<Granted, Refusal> {
        let repeated = self.by_key.get(&key).filter(|_| key.1 != 0).copied();
        let id = match repeated {
            Some(id) => id,
            None if ttl_ms == 0 => return Err(Refusal::TtlZero),
            None if id == LeaseId::NONE => self.fresh_id(shard),
            None if self.leases.contains_key(&id.0) => return Err(Refusal::AlreadyExists),
            None => id.0,
        };
        if repeated.is_none() {
            self.position += 16;
            self.leases.insert(id, PeerLease { token: self.position, ttl_ms, items: Vec::new() });
            self.by_key.insert(key, id);
        }
        let lease = &self.leases[&id];
        Ok(Granted {
            id: LeaseId(id),
            token: Token(lease.token),
            ttl_ms: lease.ttl_ms,
            remaining_ms: lease.ttl_ms,
            raised: false,
            repeated: repeated.is_some(),
        })
    }

    /// An ID of the shard, as a real server would choose it.
    fn fresh_id(&self, shard: u16) -> u64 {
        let mut id = self.position * 1_000 + 1;
        while shard_of(LeaseId(id), self.shard_count) != shard || self.leases.contains_key(&id) {
            id += 1;
        }
        id
    }

    fn end(&mut self, id: u64) -> Option<PeerLease> {
        let lease = self.leases.remove(&id)?;
        let shard = shard_of(LeaseId(id), self.shard_count);
        self.ends.push(End { position: self.position, shard, id, token: lease.token });
        self.position += 16;
        Some(lease)
    }

    /// The position of the end is the token of the next holder.
    fn change_hands(&mut self) {
        for (id, former) in self.leases.clone() {
            self.end(id);
            self.leases.insert(id, PeerLease { token: self.position, ..former });
        }
    }

    /// Pages of three leases; the cursor is the last ID + 1.
    fn list(&self, shard: u16, cursor: u64, request_id: RequestId, out: &mut Vec<u8>) {
        let of_shard = |id: u64| shard_of(LeaseId(id), self.shard_count) == shard;
        let mut rest = self.leases.range(cursor..).filter(|(id, _)| of_shard(**id));
        let page: Vec<Listed> = rest
            .by_ref()
            .take(3)
            .map(|(id, lease)| Listed {
                id: LeaseId(*id),
                token: Token(lease.token),
                ttl_ms: lease.ttl_ms,
                remaining_ms: lease.ttl_ms,
                item_count: lease.items.len() as u32,
            })
            .collect();
        let next = if rest.next().is_some() { page.last().map_or(0, |last| last.id.0 + 1) } else { 0 };
        encode::reply::list(out, request_id, next, page.into_iter());
    }

    fn attach(&mut self, id: u64, item: &[u8]) -> Option<(u64, Option<LeaseId>)> {
        if !self.leases.contains_key(&id) {
            return None;
        }
        let mut moved_from = None;
        for (other, lease) in &mut self.leases {
            let before = lease.items.len();
            lease.items.retain(|i| i != item);
            if lease.items.len() < before && *other != id {
                moved_from = Some(LeaseId(*other));
            }
        }
        let lease = self.leases.get_mut(&id)?;
        lease.items.push(item.to_vec());
        lease.items.sort();
        Some((lease.token, moved_from))
    }

    fn detach(&mut self, id: u64, item: &[u8]) -> Result<(), Refusal> {
        let lease = self.leases.get_mut(&id).ok_or(Refusal::NotFound)?;
        let index = lease.items.iter().position(|i| i == item).ok_or(Refusal::ItemNotFound)?;
        lease.items.remove(index);
        Ok(())
    }
}
