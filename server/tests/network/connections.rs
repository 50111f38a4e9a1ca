//! Connections that come, go, break, stand still, or are too many.

use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use tenure_protocol::{Hello, LeaseId, Refusal, Request, RequestId, Response, encode};
use tenure_server::Server;

use crate::peer::{Came, DRIVERS, Peer, config, eventually, start};

#[test]
fn ten_thousand_connections_leave_nothing_behind() {
    for driver in DRIVERS {
        let server = start(driver, 2);
        let address = server.addresses()[0];
        let mut hello = Vec::new();
        Hello::new(0).encode(&mut hello, RequestId(1));
        for round in 0..5_000u32 {
            // By turns: closed at once, mid-Hello, mid-frame, with requests in flight, by a reset.
            let mut peer = Peer::connect(address);
            match round % 5 {
                0 => {}
                1 => peer.send_bytes(&hello[..20]),
                2 => {
                    peer.send_bytes(&hello);
                    peer.send_bytes(&hello[..7]);
                }
                3 => {
                    peer.send_bytes(&hello);
                    for _ in 0..20 {
                        peer.send(Request::Grant(tenure_protocol::Grant {
                            ttl_ms: 60_000,
                            id: LeaseId::NONE,
                            sequence: 0,
                        }));
                    }
                }
                _ => {
                    peer.send_bytes(&hello);
                    reset(&peer.stream);
                }
            }
        }
        eventually("sessions are gone", || server.connection_count() == 0);
        let mut peer = Peer::greet(address);
        let came = peer.ask(Request::Info);
        let Response::Info(info) = came.response() else { panic!("{came:?}") };
        assert_eq!(info.number(tenure_protocol::tag::CONNECTIONS), Some(1));
        server.stop();
    }
}

fn reset(stream: &TcpStream) {
    socket2::SockRef::from(stream).set_linger(Some(Duration::ZERO)).unwrap();
}

#[test]
fn requests_accepted_before_a_disconnect_complete_or_not_at_all() {
    for driver in DRIVERS {
        let server = start(driver, 2);
        let mut peer = Peer::greet(server.addresses()[0]);
        let mut bytes = Vec::new();
        for id in 1..=5_000u64 {
            let grant = tenure_protocol::Grant { ttl_ms: 600_000, id: LeaseId(id), sequence: 0 };
            encode::grant(&mut bytes, RequestId(id as u32), grant);
        }
        // The last frame is cut: it must not take effect.
        peer.send_bytes(&bytes[..bytes.len() - 1]);
        peer.stream.shutdown(Shutdown::Write).unwrap();
        assert_eq!(peer.drain().len(), 4_999, "L2 one-reply, also to one that sends no more");
        eventually("the session is gone", || server.connection_count() == 0);
        let stats = server.handle().stats().wait().unwrap();
        assert_eq!(stats.iter().map(|stats| stats.shard.lease_count).sum::<u64>(), 4_999);
        server.stop();
    }
}

#[test]
fn one_connection_too_many_is_told_so() {
    for driver in DRIVERS {
        let mut config = config(driver, 2);
        config.connection_count_max = 3;
        let server = Server::start(config).unwrap();
        let address = server.addresses()[0];
        let mut peers: Vec<Peer> = (0..3).map(|_| Peer::greet(address)).collect();
        let mut fourth = Peer::connect(address);
        let came = fourth.drain();
        assert_eq!(came.first().and_then(Came::refusal), Some(Refusal::TooManyConnections));
        peers.pop();
        eventually("a place is free", || server.connection_count() == 2);
        Peer::greet(address).assert_alive();
        peers[0].assert_alive();
        server.stop();
    }
}

#[test]
fn whoever_does_not_read_is_paused_then_dropped_and_others_go_on() {
    for driver in DRIVERS {
        let mut config = config(driver, 1);
        config.slow_reader_timeout = Duration::from_millis(500);
        config.send_bytes_max = 1 << 20;
        let server = Server::start(config).unwrap();
        let address = server.addresses()[0];
        let mut good = Peer::greet(address);
        for _ in 0..1_000 {
            good.grant(600_000);
        }
        let slow = Peer::greet(address);
        // Pages of 40 KiB that nobody reads, asked for until the server takes no more.
        slow.stream.set_nonblocking(true).unwrap();
        let mut bytes = Vec::new();
        encode::list(&mut bytes, RequestId(9), 0, 0, 0);
        let mut refused = false;
        eventually("the slow reader is dropped", || {
            while !refused {
                match std::io::Write::write(&mut &slow.stream, &bytes) {
                    Ok(count) if count == bytes.len() => {}
                    Ok(_) => refused = true,
                    Err(_) => break,
                }
            }
            good.assert_alive();
            server.connection_count() == 1
        });
        good.assert_alive();
        server.stop();
    }
}

#[test]
fn stopping_answers_what_is_in_flight_and_says_goodbye() {
    for driver in DRIVERS {
        let server = start(driver, 2);
        let address = server.addresses()[0];
        let mut peer = Peer::greet(address);
        peer.assert_alive();
        let mut bystander = Peer::greet(address);
        let stopping = std::thread::spawn(move || server.stop());
        let goodbye = peer.drain();
        assert_eq!(goodbye.last().and_then(Came::refusal), Some(Refusal::ShuttingDown));
        assert_eq!(bystander.drain().len(), 1);
        stopping.join().unwrap();
        assert!(TcpStream::connect(address).is_err(), "nobody listens any more");
    }
}

#[test]
fn every_address_is_listened_on() {
    for driver in DRIVERS {
        let mut config = config(driver, 2);
        config.listen = vec!["127.0.0.1:0".to_owned(), "127.0.0.1:0".to_owned()];
        if TcpStream::connect("[::1]:9").err().map(|error| error.kind())
            == Some(std::io::ErrorKind::ConnectionRefused)
        {
            config.listen.push("[::1]:0".to_owned());
        }
        let count = config.listen.len();
        let server = Server::start(config).unwrap();
        assert_eq!(server.addresses().len(), count);
        for address in server.addresses() {
            Peer::greet(*address).assert_alive();
        }
        let taken = crate::peer::config(driver, 1);
        let taken = tenure_server::ServeConfig { listen: vec![server.addresses()[0].to_string()], ..taken };
        let error = Server::start(taken).err().expect("the address is taken").to_string();
        assert!(error.contains("--listen"), "{error}");
        server.stop();
    }
}
