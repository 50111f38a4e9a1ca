//! Listening sockets: for each address one per core, between which the kernel spreads connections.
//!
//! SO_REUSEPORT lets the cores listen side by side, but it would also let a second server on the same
//! address take half of the connections without a word. So each address is first bound without it,
//! which fails when anybody else is there.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tenure_protocol::Refusal;
use tenure_protocol::encode::reply;

use super::limits::{ADDRESS_RETRY, ADDRESS_WAIT_MAX, BACKLOG};

/// Silence after which the kernel asks whether the other side is still there.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(60);
const KEEPALIVE_EVERY: Duration = Duration::from_secs(15);
const KEEPALIVE_TRIES: u32 = 4;

/// An address that belongs to this server; nobody is listening yet.
pub(crate) struct Bound {
    /// With the real port.
    pub(crate) address: SocketAddr,
    first: Socket,
}

/// Binds what a configuration names; a host name may stand for several addresses.
///
/// # Errors
/// The address cannot be resolved or is taken; the text names it.
pub(crate) fn bind(listen: &[String]) -> Result<Vec<Bound>, (String, io::Error)> {
    let mut bound = Vec::new();
    for text in listen {
        let named = |error| (text.clone(), error);
        let mut port = None;
        for mut address in text.to_socket_addrs().map_err(named)? {
            // Port 0 of a name with two addresses is the same port on both.
            if address.port() == 0 {
                address.set_port(port.unwrap_or(0));
            }
            let one = bind_patiently(address).map_err(named)?;
            port = Some(one.address.port());
            bound.push(one);
        }
    }
    Ok(bound)
}

/// A killed server's io_uring is taken down by a kernel thread after the process is gone, and its
/// listeners with it: whoever starts the next one at once must wait a few ms for the address.
fn bind_patiently(address: SocketAddr) -> io::Result<Bound> {
    let start = Instant::now();
    loop {
        match bind_one(address) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && start.elapsed() < ADDRESS_WAIT_MAX => {
                std::thread::sleep(ADDRESS_RETRY);
            }
            result => return result,
        }
    }
}

fn bind_one(address: SocketAddr) -> io::Result<Bound> {
    let probe = socket(address, false)?;
    probe.bind(&address.into())?;
    // Still unused, so it may be listened on for a moment: only then does somebody else's listener show.
    probe.listen(1)?;
    let address = probe.local_addr()?.as_socket().ok_or(io::ErrorKind::AddrNotAvailable)?;
    drop(probe);
    let first = socket(address, true)?;
    first.bind(&address.into())?;
    Ok(Bound { address, first })
}

impl Bound {
    /// Listens with one socket per core.
    pub(crate) fn listen(self, core_count: u16) -> io::Result<Vec<OwnedFd>> {
        let mut sockets = vec![self.first];
        for _ in 1..core_count {
            let next = socket(self.address, true)?;
            next.bind(&self.address.into())?;
            sockets.push(next);
        }
        // The kernel spreads connections over those that listen: all begin together.
        for socket in &sockets {
            socket.listen(BACKLOG)?;
        }
        Ok(sockets.into_iter().map(OwnedFd::from).collect())
    }
}

/// A socket with the options that accepted connections inherit.
fn socket(address: SocketAddr, shared_port: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        // `[::]` and `0.0.0.0` can then be listened on side by side.
        socket.set_only_v6(true)?;
    }
    if shared_port {
        socket.set_reuse_port(true)?;
    }
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_keepalive(
        &TcpKeepalive::new()
            .with_time(KEEPALIVE_AFTER)
            .with_interval(KEEPALIVE_EVERY)
            .with_retries(KEEPALIVE_TRIES),
    )?;
    Ok(socket)
}

/// Tells one connection too many to go away. Best effort: it is not waited for.
pub(crate) fn refuse(socket: &OwnedFd) {
    let mut bytes = Vec::new();
    reply::go_away(&mut bytes, Refusal::TooManyConnections, 0, "");
    let socket = SockRef::from(socket);
    let _ = socket.send_with_flags(&bytes, libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL);
    let _ = socket.shutdown(std::net::Shutdown::Write);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cores_share_a_port_but_servers_do_not() {
        let bound = bind(&["127.0.0.1:0".to_owned()]).unwrap().remove(0);
        let address = bound.address;
        assert_ne!(address.port(), 0);
        let sockets = bound.listen(3).unwrap();
        assert_eq!(sockets.len(), 3);
        let (named, error) = bind(&[address.to_string()]).err().expect("the address is taken");
        assert_eq!(named, address.to_string());
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    }

    #[test]
    fn both_families_listen_on_one_port() {
        let v4 = bind(&["0.0.0.0:0".to_owned()]).unwrap().remove(0);
        let port = v4.address.port();
        let _v4 = v4.listen(1).unwrap();
        // Without IPv6 on the machine there is nothing to show.
        if let Ok(mut v6) = bind(&[format!("[::]:{port}")]) {
            assert!(v6.remove(0).listen(1).is_ok());
        }
    }
}
