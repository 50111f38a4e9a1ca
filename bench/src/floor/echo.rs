//! The floor of a request: a bare echo server and a bare load, each on a ring like the load generator's.
//!
//! The server counts bytes, and answers each `request_bytes` with `reply_bytes`; it looks at none. What it
//! costs is TCP over loopback and io_uring, which is what a lease server of any kind pays too. Both sides
//! poll; what they poll in vain is left out, so that the floor does not rise when one waits for the other.

use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};

use super::on_cpu;
use crate::limits::SILENCE_MAX;
use crate::ring::Ring;

/// What is echoed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Echo {
    pub(crate) connections: usize,
    /// Requests in flight on each.
    pub(crate) depth: usize,
    pub(crate) request_bytes: usize,
    pub(crate) reply_bytes: usize,
    pub(crate) span: Duration,
    pub(crate) server_cpu: Option<usize>,
    pub(crate) load_cpu: Option<usize>,
}

/// What it cost.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Echoed {
    /// Frames answered per second.
    pub per_second: f64,
    /// CPU time of the server per frame, without polling in vain, ns.
    pub server_ns: f64,
    /// CPU time of the load per frame, without polling in vain, ns.
    pub load_ns: f64,
}

/// Echoes for a while.
///
/// # Errors
/// When sockets or rings cannot be had, or a side stops answering.
pub(crate) fn run(echo: Echo) -> anyhow::Result<Echoed> {
    let listener = TcpListener::bind("127.0.0.1:0").context("cannot listen")?;
    let address = listener.local_addr()?;
    let sockets = (0..echo.connections).map(|_| TcpStream::connect(address));
    // Closed only when the server has ended, which would take it for a failure.
    let sockets = sockets.collect::<Result<Vec<_>, _>>().context("cannot connect")?;
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let (accepted, ready) = channel();
        let (listener, stop) = (&listener, &stop);
        let server = scope.spawn(move || on_cpu(echo.server_cpu, || serve(echo, listener, stop, &accepted)));
        let found = on_cpu(echo.load_cpu, || load(echo, &sockets, ready));
        stop.store(true, Ordering::Relaxed);
        let server_cpu_ns = server.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        let (frames, elapsed, load_ns) = found?;
        let frames = frames as f64;
        Ok(Echoed {
            per_second: frames / elapsed.as_secs_f64(),
            server_ns: server_cpu_ns? as f64 / frames,
            load_ns: load_ns as f64 / frames,
        })
    })
}

/// Answers until it is stopped; its CPU time.
fn serve(
    echo: Echo,
    listener: &TcpListener,
    stop: &AtomicBool,
    accepted: &Sender<()>,
) -> anyhow::Result<u64> {
    let mut sockets = Vec::new();
    for _ in 0..echo.connections {
        let (socket, _) = listener.accept().context("cannot accept")?;
        socket.set_nodelay(true)?;
        sockets.push(socket);
    }
    let mut ring = Ring::new(true)?;
    for socket in &sockets {
        ring.watch(socket);
    }
    // Fails only when the load has given up, and then this ends, too.
    let _ = accepted.send(());
    let mut pending = vec![0; echo.connections];
    let mut out = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        ring.wait(Duration::ZERO)?;
        while let Some(arrival) = ring.next()? {
            let wire = arrival.wire;
            let bytes = pending[wire] + ring.bytes(&arrival).len();
            ring.give_back(arrival);
            pending[wire] = bytes % echo.request_bytes;
            out.resize(bytes / echo.request_bytes * echo.reply_bytes, 0);
            ring.send(wire, &mut out);
        }
    }
    let spent_ns = ring.busy_ns();
    ring.close(|_, _| {})?;
    Ok(spent_ns)
}

#[expect(clippy::needless_pass_by_value, reason = "a receiver belongs to one thread")]
/// Asks; how many frames were answered, in which time, and what it cost.
fn load(echo: Echo, sockets: &[TcpStream], ready: Receiver<()>) -> anyhow::Result<(u64, Duration, u64)> {
    let mut ring = Ring::new(true)?;
    for socket in sockets {
        socket.set_nodelay(true)?;
        ring.watch(socket);
    }
    ready.recv_timeout(SILENCE_MAX).context("the echo server did not start")?;
    let mut out = Vec::new();
    for wire in 0..sockets.len() {
        out.resize(echo.depth * echo.request_bytes, 0);
        ring.send(wire, &mut out);
    }
    let mut pending = vec![0; sockets.len()];
    let mut in_flight = sockets.len() * echo.depth;
    let mut frames = 0;
    let began = Instant::now();
    let mut heard = began;
    while in_flight > 0 {
        ring.wait(Duration::ZERO)?;
        let now = Instant::now();
        while let Some(arrival) = ring.next()? {
            let wire = arrival.wire;
            let bytes = pending[wire] + ring.bytes(&arrival).len();
            ring.give_back(arrival);
            pending[wire] = bytes % echo.reply_bytes;
            let answered = bytes / echo.reply_bytes;
            frames += answered as u64;
            in_flight -= answered;
            if now - began < echo.span {
                out.resize(answered * echo.request_bytes, 0);
                ring.send(wire, &mut out);
                in_flight += answered;
            }
            heard = now;
        }
        if now - heard > SILENCE_MAX {
            bail!("the echo server owes {in_flight} replies and is silent");
        }
    }
    let elapsed = began.elapsed();
    let busy_ns = ring.busy_ns();
    ring.close(|_, _| {})?;
    Ok((frames, elapsed, busy_ns))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_frame_is_answered_once_whatever_its_size() {
        for (depth, request_bytes, reply_bytes) in [(1, 20, 20), (7, 100_000, 3)] {
            let span = Duration::from_millis(50);
            let echo = Echo {
                connections: 3,
                depth,
                request_bytes,
                reply_bytes,
                span,
                server_cpu: None,
                load_cpu: None,
            };
            let found = run(echo).unwrap();
            assert!(found.per_second > 0.0 && found.server_ns > 0.0 && found.load_ns > 0.0, "{found:?}");
        }
    }
}
