//! One connection of the load side: a nonblocking socket around the client crate's own machine.
//!
//! Frames, window, matching of replies and routing are the client's (`tenure_client::machine`); this
//! file only moves its bytes. Nothing here is special to the load generator's benefit.
//!
//! In a phase the bytes go through the lane's [`Ring`]; between phases, for control requests, the socket
//! is read and written directly ([`Link::blocking`]).

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use tenure_client::machine::{Connection, ConnectionConfig, Delivery};

use crate::limits::{CONNECT_TIMEOUT, SILENCE_MAX};
use crate::ring::{Arrival, Ring};

/// What a link introduces itself with.
#[derive(Clone, Debug)]
pub(crate) struct Introduction {
    pub(crate) client_id: u64,
    pub(crate) wish_shard: Option<u16>,
    pub(crate) auth: Vec<u8>,
}

/// A connection.
pub(crate) struct Link {
    socket: TcpStream,
    pub(crate) machine: Connection,
    /// Bytes of the machine's outgoing buffer that the socket has taken.
    written: usize,
    /// The shard whose leases this link works on (S1: also the shard whose core serves it, when placed).
    pub(crate) shard: u16,
    /// Where in the list of that shard's leases this link goes on.
    pub(crate) cursor: usize,
}

impl Link {
    /// Connects and shakes hands, blocking; the socket is nonblocking afterwards.
    ///
    /// # Errors
    /// When there is no server, it refuses, or it does not answer in time.
    pub(crate) fn connect(address: SocketAddr, introduction: &Introduction) -> anyhow::Result<Link> {
        let socket = TcpStream::connect_timeout(&address, CONNECT_TIMEOUT)
            .with_context(|| format!("cannot connect to {address}"))?;
        socket.set_nodelay(true)?;
        let silence_ms_max = SILENCE_MAX.as_millis() as u64;
        let machine = Connection::new(&ConnectionConfig {
            client_id: introduction.client_id,
            wish_shard: introduction.wish_shard,
            auth: introduction.auth.clone(),
            silence_ms_max,
        });
        let mut link = Link { socket, machine, written: 0, shard: 0, cursor: 0 };
        link.blocking(CONNECT_TIMEOUT, |delivery| matches!(delivery, Delivery::Welcome(_)).then_some(()))
            .with_context(|| format!("no handshake with {address}"))?;
        link.shard = link.machine.terms().shard;
        link.socket.set_nonblocking(true)?;
        Ok(link)
    }

    /// Writes what is queued, then reads until `wanted` recognises a delivery; for control requests,
    /// not for load.
    ///
    /// # Errors
    /// When the connection fails or `wanted` has not come within `timeout`.
    pub(crate) fn blocking<T>(
        &mut self,
        timeout: Duration,
        mut wanted: impl FnMut(&Delivery<'_>) -> Option<T>,
    ) -> anyhow::Result<T> {
        let began = Instant::now();
        self.socket.set_nonblocking(false)?;
        self.socket.set_read_timeout(Some(Duration::from_millis(100)))?;
        let found = loop {
            self.flush()?;
            if let Err(error) = self.read()
                && error.kind() != io::ErrorKind::WouldBlock
            {
                return Err(error.into());
            }
            let mut found = None;
            while let Some(delivery) = self.machine.poll()? {
                if let Delivery::GoAway(refused) = delivery {
                    bail!("the server closes the connection: {} {}", refused.refusal, refused.text);
                }
                found = found.or_else(|| wanted(&delivery));
            }
            if let Some(found) = found {
                break found;
            }
            if began.elapsed() > timeout {
                bail!("the server did not answer within {timeout:?}");
            }
        };
        self.socket.set_nonblocking(true)?;
        Ok(found)
    }

    pub(crate) fn socket(&self) -> &TcpStream {
        &self.socket
    }

    /// Takes what has arrived for this link.
    #[inline]
    pub(crate) fn take(&mut self, arrival: Arrival, ring: &mut Ring) {
        self.machine.receive(ring.bytes(&arrival));
        ring.give_back(arrival);
    }

    /// Hands what is queued to the ring, where this link has the number `wire`.
    #[inline]
    pub(crate) fn send(&mut self, wire: usize, ring: &mut Ring) {
        let outgoing = self.machine.outgoing();
        if !outgoing.is_empty() {
            ring.send(wire, outgoing);
        }
    }

    /// Writes as much of the queued bytes as the socket takes.
    fn flush(&mut self) -> io::Result<()> {
        let outgoing = self.machine.outgoing();
        while self.written < outgoing.len() {
            match self.socket.write(&outgoing[self.written..]) {
                Ok(count) => self.written += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        outgoing.clear();
        self.written = 0;
        Ok(())
    }

    /// One read. The caller polls the machine before the next one.
    fn read(&mut self) -> io::Result<()> {
        let spare = self.machine.spare();
        let room = spare.len();
        match self.socket.read(spare) {
            Ok(0) if room > 0 => Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the server closed a connection in the middle of the run",
            )),
            Ok(count) => {
                self.machine.received(count);
                Ok(())
            }
            Err(error) => Err(error),
        }
    }
}
