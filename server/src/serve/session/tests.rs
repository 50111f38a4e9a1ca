//! The session over bytes in memory, with a real engine and no socket.
//!
//! A service stands in for a driver: it feeds pieces of a byte stream to sessions on a core and hands
//! out what they would send.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use tenure::shell::ring::{Completion, Ring, RingService};
use tenure::{Config, Driver, Engine, Services, ShardIndex};
use tenure_protocol::opcode::{REPLY, push, request};
use tenure_protocol::{GrantEntry, Hello, LeaseId, Position, RequestId, encode, first_frame};

use super::*;
use crate::serve::config::ServeConfig;
use crate::serve::front::Front;
use crate::serve::glommio_driver::GlommioDriver;
use crate::serve::shared::{Opened, Shared};

/// Tells a new session of the core to take these pieces one after the other.
struct Feed {
    pieces: Vec<Vec<u8>>,
    answers: Sender<Vec<u8>>,
    /// Nothing is sent until so many turns have passed.
    held_turns: u32,
}

struct Fed {
    key: u64,
    answers: Sender<Vec<u8>>,
    held_turns: u32,
}

struct NoSockets {
    front: Front,
    fed: Vec<Fed>,
}

impl RingService for NoSockets {
    fn start(&mut self, _: &mut Ring, station: &mut Station) {
        self.front.start(station);
    }

    fn completion(&mut self, _: Completion, _: &mut Ring, _: &mut Station) {}

    fn turn(&mut self, _: &mut Ring, station: &mut Station) {
        for parcel in station.take_parcels() {
            let Ok(feed) = parcel.downcast::<Feed>() else { continue };
            let key = self.front.enter(false).expect("there is room");
            for piece in &feed.pieces {
                self.front.receive(key, piece, station);
            }
            self.fed.push(Fed { key, answers: feed.answers, held_turns: feed.held_turns });
        }
        self.front.turn(station);
    }

    fn flush(&mut self, _: &mut Ring, station: &mut Station) {
        self.front.finish_turn(station);
        let now_ms = self.front.desk.now_ms;
        for fed in &mut self.fed {
            let Some(session) = self.front.looked_at(fed.key) else { continue };
            assert!(session.unanswered <= TEST_WINDOW, "S8 bounded: the window");
            let promised = session.unsent_bytes() + session.promised_bytes;
            assert!(promised < TEST_SEND_BYTES + 70_000, "S8 bounded: {promised} bytes for one connection");
            fed.held_turns = fed.held_turns.saturating_sub(1);
            if fed.held_turns == 0 && session.has_outgoing() {
                let mut bytes = Vec::new();
                session.take_outgoing(&mut bytes, now_ms);
                // The test may have seen enough.
                let _ = fed.answers.send(bytes.clone());
                self.front.sent(fed.key, bytes.len());
            }
        }
        let mut touched = Vec::new();
        self.front.take_touched(&mut touched);
    }

    fn is_drained(&self) -> bool {
        true
    }

    fn next_wake(&self) -> Option<Duration> {
        let held = self.fed.iter().any(|fed| fed.held_turns > 0);
        (held || self.front.wakes_in_ms() == Some(0)).then_some(Duration::ZERO)
    }
}

const TEST_WINDOW: u32 = 16;
const TEST_SEND_BYTES: usize = 128 << 10;

struct Fronts {
    shared: Arc<Shared>,
}

impl Services for Fronts {
    type Ring = NoSockets;
    type Glommio = GlommioDriver;

    fn ring(&self, core: ShardIndex) -> NoSockets {
        NoSockets { front: Front::new(Arc::clone(&self.shared), core.0), fed: Vec::new() }
    }

    fn glommio(&self, core: ShardIndex) -> GlommioDriver {
        GlommioDriver::new(Arc::clone(&self.shared), core)
    }
}

fn open(shard_count: u16) -> Engine {
    let engine = Config {
        shard_count: Some(shard_count),
        driver: Driver::Ring,
        pin: false,
        spin: Duration::ZERO,
        ..Config::in_memory()
    };
    let mut config = ServeConfig { engine: engine.clone(), ..ServeConfig::default() };
    config.limits.window = TEST_WINDOW;
    config.limits.frame_bytes_max = 128 << 10;
    config.send_bytes_max = TEST_SEND_BYTES;
    let shared = Arc::new(Shared::new(config));
    let opened = Engine::open_with(&engine, &Arc::new(Fronts { shared: Arc::clone(&shared) })).unwrap();
    let (handle, driver) = (opened.handle(), Driver::Ring);
    let _ = shared.opened.set(Opened { handle, driver, lease_count: 0, took: Duration::ZERO });
    opened
}

fn feed(engine: &Engine, pieces: Vec<Vec<u8>>, held_turns: u32) -> Receiver<Vec<u8>> {
    let (answers, receiver) = channel();
    let parcel = Box::new(Feed { pieces, answers, held_turns });
    engine.send_parcel(ShardIndex(0), parcel).unwrap();
    receiver
}

/// (opcode, request id) of the first `count` frames that come, sorted by request id.
fn answers(receiver: &Receiver<Vec<u8>>, count: usize) -> Vec<(u8, u32)> {
    let mut bytes = Vec::new();
    let mut seen = Vec::new();
    while seen.len() < count {
        bytes.extend(receiver.recv_timeout(Duration::from_secs(30)).expect("L2 one-reply"));
        let mut at = 0;
        while let Some(frame) = first_frame(&bytes[at..], 1 << 20).unwrap() {
            seen.push((frame.header.opcode, frame.header.request_id.0));
            at += frame.header.length as usize;
        }
        bytes.drain(..at);
    }
    seen.sort_by_key(|(_, id)| *id);
    seen
}

/// A conversation with a frame of most kinds, and the answers that it must get.
fn conversation() -> (Vec<u8>, Vec<(u8, u32)>) {
    let mut out = Vec::new();
    let mut expected = Vec::new();
    let mut expect = |opcode: u8| {
        expected.push((opcode | REPLY, u32::try_from(expected.len()).unwrap() + 1));
        RequestId(u32::try_from(expected.len()).unwrap())
    };
    Hello::new(0).encode(&mut out, expect(request::HELLO));
    encode::ping(&mut out, expect(request::PING), 7);
    let entries = [GrantEntry { ttl_ms: 60_000, id: LeaseId::NONE }; 3];
    encode::grant_batch(&mut out, expect(request::GRANT_BATCH), 0, entries.into_iter());
    encode::renew(&mut out, expect(push::REFUSED), LeaseId(99));
    encode::renew(&mut out, expect(push::REFUSED), LeaseId(98));
    encode::renew_batch(&mut out, expect(request::RENEW_BATCH), [LeaseId(1), LeaseId(2)].into_iter());
    encode::renew_batch(&mut out, expect(request::RENEW_BATCH), [].into_iter());
    encode::lease_of(&mut out, expect(request::LEASE_OF), b"nobody");
    encode::list(&mut out, expect(request::LIST), 0, 10, 0);
    encode::info(&mut out, expect(request::INFO));
    encode::subscribe(&mut out, expect(request::SUBSCRIBE), 0, Position::NOW);
    encode::renew(&mut out, expect(push::REFUSED), LeaseId(97));
    (out, expected)
}

#[test]
fn the_answers_do_not_depend_on_how_the_bytes_are_cut() {
    for shard_count in [1, 2] {
        let engine = open(shard_count);
        let (bytes, expected) = conversation();
        let whole = feed(&engine, vec![bytes.clone()], 0);
        assert_eq!(answers(&whole, expected.len()), expected);
        for cut in 1..bytes.len() {
            let (first, second) = bytes.split_at(cut);
            let pieces = feed(&engine, vec![first.to_vec(), second.to_vec()], 0);
            assert_eq!(answers(&pieces, expected.len()), expected, "cut at {cut}");
        }
        let dribbled = feed(&engine, bytes.iter().map(|byte| vec![*byte]).collect(), 0);
        assert_eq!(answers(&dribbled, expected.len()), expected, "byte by byte");
        engine.stop();
    }
}

#[test]
fn more_than_the_window_waits_and_is_answered() {
    let engine = open(1);
    let mut bytes = Vec::new();
    Hello::new(0).encode(&mut bytes, RequestId(1));
    for id in 2..2_000 {
        let grant = tenure_protocol::Grant { ttl_ms: 60_000, id: LeaseId::NONE, sequence: 0 };
        encode::grant(&mut bytes, RequestId(id), grant);
    }
    let granted = feed(&engine, vec![bytes], 0);
    let seen = answers(&granted, 1_999);
    assert!(seen[1..].iter().all(|(opcode, _)| *opcode == request::GRANT | REPLY), "L2 one-reply");
    assert_eq!(engine.handle().stats().wait().unwrap()[0].shard.lease_count, 1_998);
    engine.stop();
}

#[test]
fn a_reader_that_stands_still_costs_a_bounded_buffer() {
    let engine = open(1);
    let grants = vec![tenure::Grant { id: None, ttl_ms: 60_000, key: None }; 2_000];
    engine.handle().grant_batch(&grants).wait().unwrap();
    let mut bytes = Vec::new();
    Hello::new(0).encode(&mut bytes, RequestId(1));
    // 40 KiB of answer for 28 bytes of question, four hundred times; NoSockets checks the bound.
    for id in 2..402 {
        encode::list(&mut bytes, RequestId(id), 0, 1_000, 0);
    }
    let listed = feed(&engine, vec![bytes], 200);
    assert_eq!(answers(&listed, 401).len(), 401);
    engine.stop();
}

#[test]
fn nothing_is_answered_after_a_fatal_refusal() {
    let engine = open(1);
    let mut bytes = Vec::new();
    Hello::new(0).encode(&mut bytes, RequestId(1));
    encode::ping(&mut bytes, RequestId(2), 1);
    bytes.extend([11, 0, 0, 0, 2, 0, 0, 0, 9, 0, 0, 0]);
    encode::ping(&mut bytes, RequestId(3), 1);
    let answered = feed(&engine, vec![bytes], 0);
    let mut all = Vec::new();
    while let Ok(bytes) = answered.recv_timeout(Duration::from_millis(300)) {
        all.extend(bytes);
    }
    let mut opcodes = Vec::new();
    let mut frames = tenure_protocol::Frames::new(&all, 1 << 20);
    while let Some(frame) = frames.next_frame().unwrap() {
        opcodes.push(frame.header.opcode);
    }
    assert_eq!(opcodes, [request::HELLO | REPLY, request::PING | REPLY, push::REFUSED]);
    engine.stop();
}

#[test]
fn a_send_that_takes_nothing_does_not_win_a_slow_reader_time() {
    let config = ServeConfig::default();
    let timeout_ms = u64::try_from(config.slow_reader_timeout.as_millis()).unwrap();
    let mut desk = Desk::new(Arc::new(Shared::new(config)), 0, 1);
    let mut session = Session::new(1, 1, false, 0);
    session.go_away(Refusal::Malformed, "nobody reads this");
    session.take_outgoing(&mut Vec::new(), 0);
    for now_ms in [timeout_ms / 2, timeout_ms] {
        desk.now_ms = now_ms;
        session.sent(0, now_ms);
        assert_eq!(session.overdue(&desk), None, "{now_ms} ms");
    }
    desk.now_ms = timeout_ms + 1;
    assert_eq!(session.overdue(&desk), Some(Refusal::SlowReader));
    session.sent(1, desk.now_ms);
    assert_eq!(session.overdue(&desk), None, "a byte is progress");
}
