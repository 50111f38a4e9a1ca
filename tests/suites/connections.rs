//! Connections that come and go, say nonsense, or stop listening: nobody else notices, nothing is left behind.
//!
//! Every test runs on both drivers. Counts come from the server itself (Info) and from `/proc`: sessions,
//! descriptors, memory.

use std::io::Write;
use std::net::{Shutdown, SocketAddr};
use std::time::Duration;

use tenure_protocol::{Grant, Hello, LeaseId, Position, Refusal, Request, RequestId, Response, encode, tag};
use tenure_tests::patience::eventually;
use tenure_tests::random::{Random, setting};
use tenure_tests::server::{ServerOptions, ServerProcess};
use tenure_tests::wire::{Received, Wire};

const BINARY: &str = env!("CARGO_BIN_EXE_tenure-under-test");
const DRIVERS: [&str; 2] = ["ring", "glommio"];

/// A TTL that does not run out during a test.
const LONG_MS: u64 = 3_600_000;

fn server(driver: &str) -> ServerProcess {
    ServerOptions::new(BINARY).driver(driver).shards(2).start()
}

/// What a server has before others come: a connection on each core, and its descriptors.
struct Household {
    wires: Vec<Wire>,
    descriptor_count: usize,
}

impl Household {
    /// Counts only when each core has answered: one that has just started may still open what it lives with.
    fn of(server: &ServerProcess) -> Household {
        let first = Wire::connect(server.address()).unwrap();
        let core_count = first.terms.shard_count;
        let greet = |shard| {
            let hello = Hello { wish_shard: Some(shard), ..Hello::new(0) };
            let wire = Wire::connect_as(server.address(), &hello).unwrap();
            assert_eq!(wire.terms.shard, shard, "placed where it wished");
            wire
        };
        let mut household = Household { wires: (0..core_count).map(greet).collect(), descriptor_count: 0 };
        drop(first);
        household.assert_no_others();
        // A socket that was carried to another core is closed by the first one a moment later.
        let sockets = |server: &ServerProcess| server.descriptor_kinds("socket:");
        let listeners = usize::from(core_count);
        eventually("every connection has one descriptor", || {
            (sockets(server) <= listeners + household.wires.len()).then_some(())
        });
        household.descriptor_count = server.descriptor_count();
        household
    }

    fn wire(&mut self) -> &mut Wire {
        &mut self.wires[0]
    }

    fn assert_no_others(&mut self) {
        let own = self.wires.len() as u64;
        eventually("all other sessions are gone", || (self.wires[0].connection_count() == own).then_some(()));
    }

    /// Waits until nobody else is connected, and asserts that no descriptor was left behind.
    fn assert_alone(&mut self, server: &ServerProcess) {
        self.assert_no_others();
        eventually("their descriptors are closed", || {
            (server.descriptor_count() <= self.descriptor_count).then_some(())
        });
    }
}

/// How far a connection gets before it is dropped.
#[derive(Clone, Copy, Debug)]
enum Stage {
    Silent,
    HalfHello,
    Greeted,
    HalfFrame,
    HalfBatch,
    Flight,
    FlightAndReset,
}

const STAGES: [Stage; 7] = [
    Stage::Silent,
    Stage::HalfHello,
    Stage::Greeted,
    Stage::HalfFrame,
    Stage::HalfBatch,
    Stage::Flight,
    Stage::FlightAndReset,
];

/// Opens a connection, takes it to a stage and drops it there.
fn visit(address: SocketAddr, stage: Stage, lease: LeaseId, random: &mut Random) {
    let mut wire = Wire::stranger(address).expect("the server accepts");
    let mut hello = Vec::new();
    Hello { wish_shard: Some(random.below(2) as u16), ..Hello::new(0) }.encode(&mut hello, RequestId(1));
    match stage {
        Stage::Silent => return,
        Stage::HalfHello => {
            wire.queue_bytes(&hello[..random.between(1, hello.len() as u64) as usize]);
            let _ = wire.flush();
            return;
        }
        _ => wire.queue_bytes(&hello),
    }
    let mut frames = Vec::new();
    match stage {
        Stage::HalfFrame => {
            encode::renew(&mut frames, RequestId(2), lease);
            frames.truncate(random.between(1, frames.len() as u64) as usize);
        }
        Stage::HalfBatch => {
            encode::renew_batch(&mut frames, RequestId(2), [lease; 1_000].into_iter());
            frames.truncate(random.between(12, frames.len() as u64) as usize);
        }
        Stage::Flight | Stage::FlightAndReset => {
            for number in 0..200 {
                encode::renew(&mut frames, RequestId(2 + number), lease);
                let grant = Grant { ttl_ms: 50, id: LeaseId::NONE, sequence: 0 };
                encode::grant(&mut frames, RequestId(1_000 + number), grant);
            }
        }
        _ => {}
    }
    wire.queue_bytes(&frames);
    let _ = wire.flush();
    if matches!(stage, Stage::Flight) {
        let _ = wire.stream().shutdown(Shutdown::Write);
    }
    // Dropping a socket with unread replies resets the connection.
}

#[test]
fn ten_thousand_visitors_leave_nothing_behind() {
    let visits = setting("TENURE_VISITS", 10_000) / DRIVERS.len() as u64;
    for driver in DRIVERS {
        let server = server(driver);
        let mut household = Household::of(&server);
        let lease = household.wire().grant(LONG_MS).id;
        let mut random = Random::new(7);
        for visit_number in 0..visits {
            let stage = STAGES[visit_number as usize % STAGES.len()];
            visit(server.address(), stage, lease, &mut random);
            if visit_number.is_multiple_of(50) {
                assert_eq!(household.wire().renew(lease), Ok(LONG_MS), "another connection is not affected");
            }
        }
        household.assert_alone(&server);
        let wire = household.wire();
        // What was accepted was carried out: the leases that were granted to nobody expire.
        eventually("only one lease is left", || (wire.info(tag::LEASES) == 1).then_some(()));
        assert_eq!(wire.renew(lease), Ok(LONG_MS));
    }
}

/// Bytes that no client of this protocol would send, after a good Hello, and what they are called.
fn nonsense() -> Vec<(&'static str, Vec<u8>, Refusal)> {
    let frame = |length: u32, opcode: u8, flags: u8, reserved: u16, body: &[u8]| {
        let mut bytes = length.to_le_bytes().to_vec();
        bytes.extend([opcode, flags]);
        bytes.extend(reserved.to_le_bytes());
        bytes.extend(9u32.to_le_bytes());
        bytes.extend(body);
        bytes
    };
    let renew = tenure_protocol::opcode::request::RENEW;
    let batch = tenure_protocol::opcode::request::RENEW_BATCH;
    let mut second_hello = Vec::new();
    Hello::new(0).encode(&mut second_hello, RequestId(9));
    vec![
        ("a length below the header", frame(11, renew, 0, 0, &[]), Refusal::Malformed),
        ("a length of zero", frame(0, renew, 0, 0, &[]), Refusal::Malformed),
        ("a frame above the maximum", frame(u32::MAX, renew, 0, 0, &[]), Refusal::FrameTooLarge),
        ("reserved bytes", frame(20, renew, 0, 1, &[0; 8]), Refusal::Malformed),
        ("an unknown flag", frame(20, renew, 0x80, 0, &[0; 8]), Refusal::Malformed),
        ("a body too short", frame(19, renew, 0, 0, &[0; 7]), Refusal::Malformed),
        ("a body too long", frame(21, renew, 0, 0, &[0; 9]), Refusal::Malformed),
        (
            "a count beyond the frame",
            frame(20, batch, 0, 0, &[255, 255, 0, 0, 0, 0, 0, 0]),
            Refusal::Malformed,
        ),
        ("a second Hello", second_hello, Refusal::HandshakeRequired),
    ]
}

/// The refusal in the last frames of a connection that the server closes.
fn last_words(wire: &mut Wire) -> Vec<Refusal> {
    refusals(&wire.drain().expect("the server closes the connection"))
}

fn refusals(frames: &[Received]) -> Vec<Refusal> {
    let words = frames.iter().filter_map(|frame| match frame.response() {
        Response::Refused(refused) | Response::GoAway(refused) => Some(refused.refusal),
        _ => None,
    });
    words.collect()
}

#[test]
fn nonsense_closes_its_own_connection_with_a_reason() {
    for driver in DRIVERS {
        let server = server(driver);
        let mut household = Household::of(&server);
        let lease = household.wire().grant(LONG_MS).id;
        for (name, bytes, refusal) in nonsense() {
            let mut bad = Wire::connect(server.address()).unwrap();
            // What came before it is answered.
            let before = bad.queue(&Request::Renew { id: lease });
            bad.queue_bytes(&bytes);
            bad.flush().unwrap();
            let frames = bad.drain().expect("the server closes the connection");
            let renewed = frames.iter().any(|frame| {
                frame.request_id() == before && matches!(frame.response(), Response::Renewed { .. })
            });
            assert!(renewed, "{driver}: {name}: L2 one-reply, also to what came before");
            let words = refusals(&frames);
            assert!(words.contains(&refusal), "{driver}: {name}: {words:?}");
            assert_eq!(household.wire().renew(lease), Ok(LONG_MS), "{driver}: {name}");
        }
        household.assert_alone(&server);
    }
}

#[test]
fn strangers_must_introduce_themselves_in_this_protocol() {
    let mut hello = Vec::new();
    Hello { version_min: 9, version_max: 12, ..Hello::new(0) }.encode(&mut hello, RequestId(1));
    let mut request = Vec::new();
    encode::ping(&mut request, RequestId(1), 5);
    let cases: [(&str, Vec<u8>, Refusal); 4] = [
        ("another version", hello, Refusal::VersionUnsupported),
        ("a request before Hello", request, Refusal::HandshakeRequired),
        ("another protocol", b"GET / HTTP/1.1\r\nHost: tenure\r\n\r\n".to_vec(), Refusal::FrameTooLarge),
        ("zeros", vec![0; 64], Refusal::Malformed),
    ];
    for driver in DRIVERS {
        let server = server(driver);
        for (name, bytes, refusal) in &cases {
            let mut wire = Wire::stranger(server.address()).unwrap();
            wire.queue_bytes(bytes);
            wire.flush().unwrap();
            let words = last_words(&mut wire);
            assert!(words.contains(refusal), "{driver}: {name}: {words:?}");
        }
    }
}

#[test]
fn an_unknown_opcode_or_a_batch_too_large_is_refused_and_the_connection_goes_on() {
    for driver in DRIVERS {
        let server = server(driver);
        let mut wire = Wire::connect(server.address()).unwrap();
        let lease = wire.grant(LONG_MS).id;
        let mut unknown = Vec::new();
        encode::ping(&mut unknown, RequestId(77), 5);
        unknown[4] = 0x7E;
        wire.queue_bytes(&unknown);
        wire.flush().unwrap();
        let reply = wire.receive().unwrap();
        assert_eq!((reply.request_id(), reply.refusal()), (RequestId(77), Some(Refusal::UnknownOpcode)));

        // As a whole, before any effect: not one of the IDs is revoked.
        let count = wire.terms.limits.batch_ids_max as usize + 1;
        let sent = wire.queue_with(|out, id| {
            encode::revoke_batch(out, id, std::iter::repeat_n(lease, count));
        });
        wire.flush().unwrap();
        let reply = wire.receive().unwrap();
        assert_eq!((reply.request_id(), reply.refusal()), (sent, Some(Refusal::BatchTooLarge)));
        assert_eq!(wire.renew(lease), Ok(LONG_MS));
    }
}

#[test]
fn batches_answer_for_each_of_their_ids() {
    for driver in DRIVERS {
        let server = server(driver);
        let mut wire = Wire::connect(server.address()).unwrap();
        let (a, b) = (wire.grant(LONG_MS).id, wire.grant_with_id(LeaseId(0x1234), LONG_MS).id);
        let missing = LeaseId(0x9999);

        let empty = wire.queue_with(|out, id| encode::renew_batch(out, id, std::iter::empty()));
        let repeated =
            wire.queue_with(|out, id| encode::renew_batch(out, id, [a, b, a, missing].into_iter()));
        let revoked = wire.queue_with(|out, id| encode::revoke_batch(out, id, [a, a, b].into_iter()));
        wire.flush().unwrap();
        for _ in 0..3 {
            let reply = wire.receive().unwrap();
            let (count, failed) = match reply.response() {
                Response::RenewBatch(outcome) | Response::RevokeBatch(outcome) => {
                    (outcome.count(), outcome.failed().map(|f| (f.index, f.refusal)).collect::<Vec<_>>())
                }
                other => panic!("{driver}: {other:?}"),
            };
            let id = reply.request_id();
            if id == empty {
                assert_eq!((count, failed), (0, vec![]), "{driver}");
            } else if id == repeated {
                assert_eq!((count, failed), (4, vec![(3, Refusal::NotFound)]), "{driver}");
            } else {
                assert_eq!(id, revoked);
                assert_eq!((count, failed), (3, vec![(1, Refusal::NotFound)]), "{driver}");
            }
        }
        assert_eq!(wire.info(tag::LEASES), 0, "{driver}");
    }
}

#[test]
fn a_lease_of_another_shard_is_served_on_any_connection() {
    for driver in DRIVERS {
        let server = server(driver);
        for wish in 0..2 {
            let hello = Hello { wish_shard: Some(wish), ..Hello::new(0) };
            let mut wire = Wire::connect_as(server.address(), &hello).unwrap();
            assert_eq!(wire.terms.shard, wish, "{driver}: placed where it wished");
            for number in 1..=20 {
                let id = LeaseId(u64::from(wish) << 40 | number);
                assert_eq!(wire.grant_with_id(id, LONG_MS).id, id);
                assert_eq!(wire.renew(id), Ok(LONG_MS));
                assert_eq!(wire.renew(LeaseId(id.0 << 8)), Err(Refusal::NotFound));
            }
        }
    }
}

#[test]
fn a_client_that_does_not_read_is_paused_then_dropped_with_bounded_memory() {
    for driver in DRIVERS {
        let server = ServerOptions::new(BINARY)
            .driver(driver)
            .flag("--slow-reader-timeout", "1s")
            .flag("--send-max", 2 << 20)
            .start();
        let mut household = Household::of(&server);
        let lease = household.wire().grant(LONG_MS).id;
        grant_many(household.wire());
        let memory = server.resident_bytes();

        let greedy = Wire::connect(server.address()).unwrap();
        let mut pages = Vec::new();
        for number in 0..20_000 {
            encode::list(&mut pages, RequestId(number + 10), 0, 0, 0);
        }
        // 4 GB of replies are asked for and none is read: the server stops reading, then hangs up.
        greedy.stream().set_write_timeout(Some(Duration::from_millis(200))).unwrap();
        let mut most = 0;
        eventually("the slow reader is dropped", || {
            let _ = greedy.stream().write(&pages);
            most = most.max(server.resident_bytes());
            assert_eq!(household.wire().renew(lease), Ok(LONG_MS), "{driver}: others are served meanwhile");
            (household.wire().connection_count() == household.wires.len() as u64).then_some(())
        });
        assert!(most < memory + (64 << 20), "{driver}: grew from {memory} to {most} bytes");
        drop(greedy);
        household.assert_alone(&server);
    }
}

#[test]
fn a_client_that_does_not_read_is_dropped_although_it_goes_on_talking_nonsense() {
    for driver in DRIVERS {
        let server = ServerOptions::new(BINARY).driver(driver).flag("--slow-reader-timeout", "1s").start();
        let mut household = Household::of(&server);
        grant_many(household.wire());
        let babbler = Wire::connect(server.address()).unwrap();
        let mut pages = Vec::new();
        // 10 MB of replies, more than a socket holds; what is left must wait to be read.
        for number in 0..100 {
            encode::list(&mut pages, RequestId(number + 10), 0, 0, 0);
        }
        let mut stream = babbler.stream();
        stream.set_write_timeout(Some(Duration::from_millis(200))).unwrap();
        stream.write_all(&pages).unwrap();
        // Its framing is lost here, and everything that follows is thrown away.
        eventually("it is dropped", || {
            let _ = stream.write(&[0xFF; 4_096]);
            (household.wire().connection_count() == household.wires.len() as u64).then_some(())
        });
        drop(babbler);
        household.assert_alone(&server);
    }
}

/// Grants enough leases that a List page is larger than its request by far.
fn grant_many(wire: &mut Wire) {
    let grants = (0..5_000).map(|_| tenure_protocol::GrantEntry { ttl_ms: LONG_MS, id: LeaseId::NONE });
    wire.queue_with(|out, id| encode::grant_batch(out, id, 0, grants));
    wire.flush().unwrap();
    wire.receive().unwrap();
}

#[test]
fn more_connections_than_allowed_are_told_so() {
    for driver in DRIVERS {
        let server = ServerOptions::new(BINARY).driver(driver).flag("--max-connections", 3).start();
        let mut three: Vec<Wire> = (0..3).map(|_| Wire::connect(server.address()).unwrap()).collect();
        let mut fourth = Wire::stranger(server.address()).unwrap();
        assert_eq!(last_words(&mut fourth), [Refusal::TooManyConnections], "{driver}");
        three.pop();
        // There is room again, once the server has noticed.
        eventually("a place is free", || Wire::connect(server.address()).ok());
        assert!(three[0].connection_count() <= 3);
    }
}

#[test]
fn silence_has_an_end_where_it_is_configured() {
    for driver in DRIVERS {
        let server = ServerOptions::new(BINARY)
            .driver(driver)
            .flag("--idle-timeout", "500ms")
            .flag("--handshake-timeout", "500ms")
            .start();
        let mut idle = Wire::connect(server.address()).unwrap();
        assert_eq!(last_words(&mut idle), [Refusal::IdleTimeout], "{driver}");
        let mut stranger = Wire::stranger(server.address()).unwrap();
        assert!(!last_words(&mut stranger).is_empty(), "{driver}: a stranger is told why");
    }
}

#[test]
fn an_idle_subscriber_is_told_how_far_it_is() {
    for driver in DRIVERS {
        let dir = tempfile::tempdir().unwrap();
        let server = ServerOptions::new(BINARY).driver(driver).shards(2).data_dir(dir.path()).start();
        let mut wire = Wire::connect(server.address()).unwrap();
        let grant = wire.grant(LONG_MS);
        for shard in 0..2 {
            wire.send(&Request::Subscribe { shard, from: Position::OLDEST }).unwrap();
        }
        // Nothing ends; the positions to resume from move on all the same.
        let mut reached = Position(0);
        while reached <= Position(grant.token.0) {
            if let Response::Event(event) = wire.receive().unwrap().response() {
                reached = reached.max(event.resume_at());
            }
        }
    }
}

/// The ring driver has 16 MiB of receive buffers a core; glommio has none, and is the same in all that costs memory.
#[test]
fn receive_buffers_cost_no_memory_before_they_are_used() {
    let [ring, glommio] = DRIVERS.map(|driver| ServerOptions::new(BINARY).driver(driver).shards(3).start());
    eventually("the ring driver rests on little more memory than glommio", || {
        (ring.resident_bytes() < glommio.resident_bytes() + 3 * (4 << 20)).then_some(())
    });
}

/// The ring driver begins with 64 receive buffers of 16 KiB a core: here 200 connections have something in their sockets, and one has
/// more than all those buffers hold, when the core gets to look.
#[test]
fn more_arrives_at_once_than_there_are_receive_buffers() {
    for driver in DRIVERS {
        let server = ServerOptions::new(BINARY).driver(driver).shards(1).start();
        let mut wires: Vec<Wire> = (0..200).map(|_| Wire::connect(server.address()).unwrap()).collect();
        let id = wires[0].grant(LONG_MS).id;
        for _ in 0..2 {
            server.pause();
            for wire in &mut wires {
                wire.send(&Request::Renew { id }).unwrap();
            }
            for _ in 0..50_000 {
                wires[0].queue(&Request::Renew { id });
            }
            std::thread::scope(|scope| {
                // More than a socket takes while nobody reads.
                let (first, others) = wires.split_first_mut().unwrap();
                let rest = scope.spawn(|| first.flush().map(|()| first));
                server.resume();
                for wire in others {
                    assert!(
                        matches!(wire.receive().unwrap().response(), Response::Renewed { .. }),
                        "{driver}"
                    );
                }
                let first = rest.join().unwrap().unwrap();
                for _ in 0..50_001 {
                    assert!(
                        matches!(first.receive().unwrap().response(), Response::Renewed { .. }),
                        "{driver}"
                    );
                }
            });
        }
    }
}
