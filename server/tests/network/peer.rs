//! A client made of one blocking socket and the protocol crate, and a server to talk to.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use tenure::{Config, Driver};
use tenure_protocol::opcode::push;
use tenure_protocol::{
    Frame, Grant, Hello, LeaseId, Refusal, Request, RequestId, Response, encode, first_frame,
};
use tenure_server::{Running, ServeConfig, Server};

/// The drivers that every test runs on.
pub(crate) const DRIVERS: [Driver; 2] = [Driver::Ring, Driver::Glommio];

/// A configuration for a server in memory on a free port.
pub(crate) fn config(driver: Driver, shard_count: u16) -> ServeConfig {
    let engine = Config {
        shard_count: Some(shard_count),
        driver,
        pin: false,
        spin: Duration::ZERO,
        ..Config::in_memory()
    };
    ServeConfig { listen: vec!["127.0.0.1:0".to_owned()], engine, ..ServeConfig::default() }
}

pub(crate) fn start(driver: Driver, shard_count: u16) -> Running {
    Server::start(config(driver, shard_count)).unwrap()
}

/// One connection.
pub(crate) struct Peer {
    pub(crate) stream: TcpStream,
    inbox: Vec<u8>,
    next_id: u32,
}

/// One frame as it came.
#[derive(Debug)]
pub(crate) struct Came {
    bytes: Vec<u8>,
}

impl Came {
    pub(crate) fn frame(&self) -> Frame<'_> {
        first_frame(&self.bytes, 1 << 30).unwrap().unwrap()
    }

    pub(crate) fn response(&self) -> Response<'_> {
        Response::decode(&self.frame()).unwrap()
    }

    pub(crate) fn id(&self) -> u32 {
        self.frame().header.request_id.0
    }

    /// The refusal, if it is one.
    pub(crate) fn refusal(&self) -> Option<Refusal> {
        match self.response() {
            Response::Refused(refused) | Response::GoAway(refused) => Some(refused.refusal),
            _ => None,
        }
    }
}

impl Peer {
    /// Connects without a word.
    pub(crate) fn connect(address: SocketAddr) -> Peer {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        // A test that would wait for ever fails instead; nothing is measured by it.
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        Peer { stream, inbox: Vec::new(), next_id: 1 }
    }

    /// Connects and introduces itself.
    pub(crate) fn greet(address: SocketAddr) -> Peer {
        Peer::greet_with(address, &Hello::new(0)).0
    }

    /// Connects with this Hello; returns the shard that serves the connection.
    pub(crate) fn greet_with(address: SocketAddr, hello: &Hello<'_>) -> (Peer, u16) {
        let mut peer = Peer::connect(address);
        let came = peer.ask(Request::Hello(*hello));
        let Response::Welcome(welcome) = came.response() else { panic!("{came:?}") };
        (peer, welcome.shard)
    }

    pub(crate) fn send_bytes(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    /// Sends a request; returns its id.
    pub(crate) fn send(&mut self, request: Request<'_>) -> u32 {
        let id = self.next_id;
        self.next_id += 1;
        let mut bytes = Vec::new();
        request.encode(&mut bytes, RequestId(id));
        self.send_bytes(&bytes);
        id
    }

    /// Sends a request and takes the answer to it, passing over events.
    pub(crate) fn ask(&mut self, request: Request<'_>) -> Came {
        let id = self.send(request);
        loop {
            let came = self.receive().expect("the connection is open");
            let opcode = came.frame().header.opcode;
            if came.id() == id && !(push::ENDED..=push::GAP).contains(&opcode) {
                return came;
            }
            assert_ne!(opcode, push::GO_AWAY, "{came:?}");
        }
    }

    /// The next frame; `None`: the server has closed.
    pub(crate) fn receive(&mut self) -> Option<Came> {
        loop {
            if let Some(frame) = first_frame(&self.inbox, 1 << 30).unwrap() {
                let length = frame.header.length as usize;
                let rest = self.inbox.split_off(length);
                return Some(Came { bytes: std::mem::replace(&mut self.inbox, rest) });
            }
            let mut buffer = [0; 64 << 10];
            match self.stream.read(&mut buffer) {
                Ok(0) => return None,
                Ok(count) => self.inbox.extend_from_slice(&buffer[..count]),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return None,
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// Everything that still comes, until the server closes.
    pub(crate) fn drain(&mut self) -> Vec<Came> {
        std::iter::from_fn(|| self.receive()).collect()
    }

    pub(crate) fn grant(&mut self, ttl_ms: u64) -> LeaseId {
        self.grant_id(ttl_ms, LeaseId::NONE)
    }

    pub(crate) fn grant_id(&mut self, ttl_ms: u64, id: LeaseId) -> LeaseId {
        let came = self.ask(Request::Grant(Grant { ttl_ms, id, sequence: 0 }));
        let Response::Granted(granted) = came.response() else { panic!("{came:?}") };
        granted.id
    }

    /// Asserts that the connection serves.
    pub(crate) fn assert_alive(&mut self) {
        let came = self.ask(Request::Ping { echo: 42 });
        assert!(matches!(came.response(), Response::Pong { echo: 42 }), "{came:?}");
    }

    pub(crate) fn ids_frame(&mut self, renew: bool, ids: &[LeaseId]) -> Came {
        let id = self.next_id;
        self.next_id += 1;
        let mut bytes = Vec::new();
        let ids = ids.iter().copied();
        if renew {
            encode::renew_batch(&mut bytes, RequestId(id), ids);
        } else {
            encode::revoke_batch(&mut bytes, RequestId(id), ids);
        }
        self.send_bytes(&bytes);
        let came = self.receive().expect("the connection is open");
        assert_eq!(came.id(), id);
        came
    }
}

/// Waits until something holds; a test that would wait for ever fails instead.
pub(crate) fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < Duration::from_secs(60), "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
