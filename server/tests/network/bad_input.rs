//! Bytes that no client should send: named refusal or close with reason, others unaffected.

use std::time::Duration;

use tenure_protocol::opcode::request;
use tenure_protocol::{Hello, LeaseId, Refusal, Request, RequestId, Response, encode};
use tenure_server::Server;

use crate::peer::{Came, DRIVERS, Peer, config, start};

fn hello() -> Vec<u8> {
    let mut bytes = Vec::new();
    Hello::new(0).encode(&mut bytes, RequestId(1));
    bytes
}

fn header(length: u32, opcode: u8, flags: u8, reserved: u16, id: u32) -> Vec<u8> {
    let mut bytes = length.to_le_bytes().to_vec();
    bytes.extend([opcode, flags]);
    bytes.extend(reserved.to_le_bytes());
    bytes.extend(id.to_le_bytes());
    bytes
}

/// What is sent after the handshake, the refusal that answers, the request id it carries.
fn fatal_after_hello() -> Vec<(&'static str, Vec<u8>, Refusal, u32)> {
    let frame = |length: u32, opcode, flags, body: usize, id| {
        let mut bytes = header(length, opcode, flags, 0, id);
        bytes.resize(12 + body, 0);
        bytes
    };
    let mut count_without_ids = frame(20, request::RENEW_BATCH, 0, 8, 5);
    count_without_ids[12] = 200;
    vec![
        ("length below the header", header(11, request::PING, 0, 0, 5), Refusal::Malformed, 0),
        ("length zero", header(0, 0, 0, 0, 5), Refusal::Malformed, 0),
        ("reserved bits", header(20, request::PING, 0, 1, 5), Refusal::Malformed, 0),
        ("above the largest frame", header(1 << 21, request::ATTACH, 0, 0, 5), Refusal::FrameTooLarge, 5),
        ("unknown flag", frame(20, request::PING, 1, 8, 5), Refusal::Malformed, 5),
        ("body too short", frame(16, request::PING, 0, 4, 5), Refusal::Malformed, 5),
        ("body too long", frame(28, request::PING, 0, 16, 5), Refusal::Malformed, 5),
        ("a count without bytes", count_without_ids, Refusal::Malformed, 5),
        ("a second Hello", hello(), Refusal::HandshakeRequired, 1),
    ]
}

#[test]
fn malformed_frames_are_named_and_close_that_connection_only() {
    for driver in DRIVERS {
        let server = start(driver, 1);
        let address = server.addresses()[0];
        let mut bystander = Peer::greet(address);
        let lease = bystander.grant(600_000);
        for (what, bytes, refusal, id) in fatal_after_hello() {
            let mut peer = Peer::greet(address);
            // What was asked before is answered.
            peer.send(Request::Ping { echo: 1 });
            peer.send_bytes(&bytes);
            let came = peer.drain();
            assert_eq!(came.len(), 2, "{what}: {came:?}");
            assert!(matches!(came[0].response(), Response::Pong { echo: 1 }), "{what}");
            assert_eq!((came[1].refusal(), came[1].id()), (Some(refusal), id), "{what}");
        }
        bystander.assert_alive();
        let came = bystander.ask(Request::Renew { id: lease });
        assert!(matches!(came.response(), Response::Renewed { ttl_ms: 600_000 }), "nothing was lost");
        server.stop();
    }
}

#[test]
fn refusals_that_are_not_fatal_leave_the_connection_open() {
    for driver in DRIVERS {
        let server = start(driver, 1);
        let mut peer = Peer::greet(server.addresses()[0]);
        peer.send_bytes(&header(12, 0x7e, 0, 0, 9));
        let came = peer.receive().unwrap();
        assert_eq!((came.refusal(), came.id()), (Some(Refusal::UnknownOpcode), 9));
        let item = vec![7; 5_000];
        let came = peer.ask(Request::Attach { id: LeaseId(1), item: &item });
        assert_eq!(came.refusal(), Some(Refusal::ItemTooLarge));
        let too_many = vec![LeaseId(1); 65_537];
        assert_eq!(peer.ids_frame(true, &too_many).refusal(), Some(Refusal::BatchTooLarge));
        peer.assert_alive();
        server.stop();
    }
}

#[test]
fn strangers_are_refused_before_they_say_hello() {
    let mut wrong_version = hello();
    wrong_version[20] = 9;
    wrong_version[22] = 9;
    let mut wrong_magic = hello();
    wrong_magic[12] = b'X';
    let mut ping = Vec::new();
    encode::ping(&mut ping, RequestId(3), 1);
    let http = b"GET / HTTP/1.1\r\nHost: leases\r\n\r\n".to_vec();
    for driver in DRIVERS {
        let server = start(driver, 1);
        for (what, bytes, refusal) in [
            ("a request first", ping.clone(), Refusal::HandshakeRequired),
            ("an unknown opcode first", header(12, 0x7e, 0, 0, 3), Refusal::HandshakeRequired),
            ("another version", wrong_version.clone(), Refusal::VersionUnsupported),
            ("other magic bytes", wrong_magic.clone(), Refusal::Malformed),
            ("a browser", http.clone(), Refusal::FrameTooLarge),
            ("a Hello above 4 KiB", header(5_000, request::HELLO, 0, 0, 3), Refusal::FrameTooLarge),
        ] {
            let mut peer = Peer::connect(server.addresses()[0]);
            peer.send_bytes(&bytes);
            let came = peer.drain();
            assert_eq!(came.len(), 1, "{what}: {came:?}");
            assert_eq!(came[0].refusal(), Some(refusal), "{what}");
            if refusal == Refusal::VersionUnsupported {
                let Response::Refused(refused) = came[0].response() else { panic!("{came:?}") };
                assert_eq!(refused.detail, 1 | 1 << 16, "the server's range");
            }
        }
        server.stop();
    }
}

#[test]
fn whoever_says_nothing_is_asked_to_leave() {
    for driver in DRIVERS {
        let mut config = config(driver, 1);
        config.handshake_timeout = Duration::from_millis(300);
        let server = Server::start(config).unwrap();
        let mut silent = Peer::connect(server.addresses()[0]);
        let mut dribbling = Peer::connect(server.addresses()[0]);
        dribbling.send_bytes(&hello()[..10]);
        let mut greeted = Peer::greet(server.addresses()[0]);
        assert_eq!(silent.drain()[0].refusal(), Some(Refusal::HandshakeRequired));
        assert_eq!(dribbling.drain()[0].refusal(), Some(Refusal::HandshakeRequired));
        greeted.assert_alive();
        server.stop();
    }
}

#[test]
fn an_idle_connection_is_closed_and_a_busy_or_subscribed_one_is_not() {
    for driver in DRIVERS {
        let mut config = config(driver, 1);
        config.idle_timeout = Some(Duration::from_millis(600));
        let server = Server::start(config).unwrap();
        let mut subscribed = Peer::greet(server.addresses()[0]);
        subscribed.ask(Request::Subscribe { shard: 0, from: tenure_protocol::Position::NOW });
        let mut idle = Peer::greet(server.addresses()[0]);
        let came = idle.drain();
        assert_eq!(came.last().and_then(Came::refusal), Some(Refusal::IdleTimeout));
        subscribed.assert_alive();
        server.stop();
    }
}

#[test]
fn the_secret_is_asked_for() {
    for driver in DRIVERS {
        let mut config = config(driver, 1);
        config.auth = b"open sesame".to_vec();
        let server = Server::start(config).unwrap();
        for auth in [&b""[..], b"open sesam", b"open sesame!"] {
            let mut peer = Peer::connect(server.addresses()[0]);
            peer.send(Request::Hello(Hello { auth, ..Hello::new(0) }));
            assert_eq!(peer.drain()[0].refusal(), Some(Refusal::Unauthorized));
        }
        let hello = Hello { auth: b"open sesame", ..Hello::new(0) };
        Peer::greet_with(server.addresses()[0], &hello).0.assert_alive();
        server.stop();
    }
}
