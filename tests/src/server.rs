//! A real server process: started, waited for, paused, drained, killed.
//!
//! The process is the command line itself, told everything by flags; it says `listening on ADDR` when it
//! serves. Standard output and standard error are collected by threads, so that the child never blocks on
//! a full pipe and a failing test can show what it said. Dropping the handle kills the child: no test
//! leaves one behind.

use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use crate::patience::{PATIENCE, eventually};

/// What a server is started with.
#[derive(Clone, Debug)]
pub struct ServerOptions {
    binary: PathBuf,
    arguments: Vec<String>,
    sandbox: crate::sandbox::Sandbox,
}

impl ServerOptions {
    /// An in-memory server of one shard on a free port of the loopback, on whatever driver is chosen
    /// automatically. `binary` is the path of `tenure-under-test`.
    #[must_use]
    pub fn new(binary: &str) -> ServerOptions {
        let fixed = ["serve", "--listen", "127.0.0.1:0", "--no-pin", "--log-level", "info"];
        let options = ServerOptions {
            binary: binary.into(),
            arguments: fixed.map(str::to_owned).to_vec(),
            sandbox: crate::sandbox::Sandbox::default(),
        };
        options.flag("--max-leases", 1 << 20)
    }

    /// With a flag and its value.
    #[must_use]
    #[allow(clippy::needless_pass_by_value, reason = "numbers and texts, as they are at hand")]
    pub fn flag(mut self, name: &str, value: impl ToString) -> ServerOptions {
        self.arguments.extend([name.to_owned(), value.to_string()]);
        self
    }

    /// Durable, in this directory.
    #[must_use]
    pub fn data_dir(self, dir: &Path) -> ServerOptions {
        self.flag("--data-dir", dir.display())
    }

    /// With this many shards.
    #[must_use]
    pub fn shards(self, count: u16) -> ServerOptions {
        self.flag("--shards", count)
    }

    /// With this driver.
    #[must_use]
    pub fn driver(self, name: &str) -> ServerOptions {
        self.flag("--driver", name)
    }

    /// With the smallest segments and a snapshot every few of them, so that rotation, recycling and
    /// snapshots happen all the time.
    #[must_use]
    pub fn small_log(self) -> ServerOptions {
        self.flag("--segment-size", 4 << 20).flag("--snapshot-log", 2 << 20)
    }

    /// In narrower circumstances.
    #[must_use]
    pub fn sandbox(mut self, sandbox: crate::sandbox::Sandbox) -> ServerOptions {
        self.sandbox = sandbox;
        self
    }

    /// Starts it and waits until it serves, or has ended instead.
    ///
    /// # Errors
    /// How it ended.
    ///
    /// # Panics
    /// When it does neither.
    pub fn try_start(&self) -> Result<ServerProcess, Ended> {
        let mut server = self.spawn();
        if let Some(address) = server.listening() {
            server.address = Some(address);
            return Ok(server);
        }
        let status = server.wait();
        Err(Ended { code: status.code(), said: server.said() })
    }

    /// Starts it and waits until it serves.
    ///
    /// # Panics
    /// When it ends or hangs instead; the text has what it said.
    #[must_use]
    pub fn start(&self) -> ServerProcess {
        self.try_start()
            .unwrap_or_else(|ended| panic!("the server ended with {:?}:\n{}", ended.code, ended.said))
    }

    /// Starts it and waits until it ends, which it is expected to do by itself.
    ///
    /// # Panics
    /// When it serves instead.
    #[must_use]
    pub fn start_refused(&self) -> Ended {
        match self.try_start() {
            Err(ended) => ended,
            Ok(server) => panic!("the server listens on {} instead of refusing to start", server.address()),
        }
    }

    /// Starts it and kills it this much later, wherever it is by then.
    pub fn start_and_kill(&self, after: std::time::Duration) {
        let mut server = self.spawn();
        std::thread::sleep(after);
        server.kill();
    }

    fn spawn(&self) -> ServerProcess {
        let mut command = Command::new(&self.binary);
        // What the developer's shell sets must not leak into a test.
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("TENURE_") {
                command.env_remove(name);
            }
        }
        command.args(&self.arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        self.sandbox.apply(&mut command);
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{}: {error}", self.binary.display()));
        let said = Arc::new(Mutex::new(String::new()));
        let stdout = child.stdout.take().expect("stdout is piped");
        let stderr = child.stderr.take().expect("stderr is piped");
        let (sender, lines) = mpsc::channel();
        let _ = collect(stdout, Arc::clone(&said), Some(sender));
        let complaints = collect(stderr, Arc::clone(&said), None);
        ServerProcess { child, lines, said, complaints: Some(complaints), address: None, ended: None }
    }
}

/// How a process ended.
#[derive(Clone, Debug)]
pub struct Ended {
    /// Its exit code; `None` when a signal ended it.
    pub code: Option<i32>,
    /// Everything it wrote to standard output and standard error.
    pub said: String,
}

/// Runs a command of the command line to its end.
///
/// # Panics
/// When it cannot be started.
#[must_use]
pub fn run_tool(binary: &str, arguments: &[&str]) -> Ended {
    let output = Command::new(binary).args(arguments).stdin(Stdio::null()).output();
    let output = output.unwrap_or_else(|error| panic!("{binary}: {error}"));
    let said =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    Ended { code: output.status.code(), said }
}

/// Copies lines to `said`, and to the channel if there is one.
fn collect(
    pipe: impl Read + Send + 'static,
    said: Arc<Mutex<String>>,
    lines: Option<mpsc::Sender<String>>,
) -> std::thread::JoinHandle<()> {
    std::thread::spawn(move || {
        for line in BufReader::new(pipe).lines().map_while(Result::ok) {
            let mut all = said.lock().expect("no collector panics");
            all.push_str(&line);
            all.push('\n');
            drop(all);
            if let Some(sender) = &lines {
                // Nobody may be waiting for lines any more.
                let _ = sender.send(line);
            }
        }
    })
}

/// A running server.
#[derive(Debug)]
pub struct ServerProcess {
    child: Child,
    lines: Receiver<String>,
    said: Arc<Mutex<String>>,
    complaints: Option<std::thread::JoinHandle<()>>,
    address: Option<SocketAddr>,
    ended: Option<ExitStatus>,
}

impl ServerProcess {
    /// The address from the `listening on` line, or `None` when the process ended first.
    fn listening(&mut self) -> Option<SocketAddr> {
        let started = Instant::now();
        loop {
            match self.lines.recv_timeout(PATIENCE.saturating_sub(started.elapsed())) {
                Ok(line) => {
                    if let Some(address) = line.strip_prefix("listening on ") {
                        return Some(address.trim().parse().expect("the line names an address"));
                    }
                }
                Err(mpsc::RecvTimeoutError::Disconnected) => return None,
                Err(mpsc::RecvTimeoutError::Timeout) => panic!("the server neither listens nor ends"),
            }
        }
    }

    /// Where it listens.
    ///
    /// # Panics
    /// Never for a server made by [`ServerOptions::start`].
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address.expect("a started server listens")
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Everything it has written so far.
    ///
    /// # Panics
    /// Never: the collectors do not panic.
    #[must_use]
    pub fn said(&self) -> String {
        self.said.lock().expect("no collector panics").clone()
    }

    fn signal(&self, signal: libc::c_int) {
        if self.ended.is_some() {
            return;
        }
        let pid = libc::pid_t::try_from(self.child.id()).expect("a process id fits");
        // SAFETY: plain system call; the child has not been waited for, so the id is still its own.
        let result = unsafe { libc::kill(pid, signal) };
        assert_eq!(result, 0, "signal {signal} to process {pid}");
    }

    /// Asks it to stop in good order, and waits until it has.
    pub fn terminate(&mut self) -> Ended {
        self.signal(libc::SIGTERM);
        let status = self.wait();
        Ended { code: status.code(), said: self.said() }
    }

    /// Sends SIGTERM and does not wait.
    pub fn ask_to_stop(&self) {
        self.signal(libc::SIGTERM);
    }

    /// Ends it on the spot: the crash of a process.
    pub fn kill(&mut self) {
        self.signal(libc::SIGKILL);
        self.wait();
    }

    /// Freezes it.
    pub fn pause(&self) {
        self.signal(libc::SIGSTOP);
        eventually("the process is stopped", || (self.process_state() == 'T').then_some(()));
    }

    /// Lets it go on.
    pub fn resume(&self) {
        self.signal(libc::SIGCONT);
    }

    /// Waits until it has ended.
    ///
    /// # Panics
    /// When it does not.
    pub fn wait(&mut self) -> ExitStatus {
        if let Some(status) = self.ended {
            return status;
        }
        let started = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("the child can be waited for") {
                break status;
            }
            if started.elapsed() > PATIENCE {
                let _ = self.child.kill();
                let _ = self.child.wait();
                panic!("the server does not end:\n{}", self.said());
            }
            std::thread::sleep(std::time::Duration::from_millis(1));
        };
        self.ended = Some(status);
        if let Some(complaints) = self.complaints.take() {
            let _ = complaints.join();
        }
        status
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        self.ended.is_none() && self.child.try_wait().expect("the child can be waited for").is_none()
    }

    /// Open file descriptors.
    ///
    /// # Panics
    /// When the process has ended.
    #[must_use]
    pub fn descriptor_count(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.pid())).expect("the process runs").count()
    }

    /// Open file descriptors of one kind, such as `socket:`.
    ///
    /// # Panics
    /// When the process has ended.
    #[must_use]
    pub fn descriptor_kinds(&self, kind: &str) -> usize {
        let all = std::fs::read_dir(format!("/proc/{}/fd", self.pid())).expect("the process runs");
        let links = all.flatten().filter_map(|entry| std::fs::read_link(entry.path()).ok());
        links.filter(|link| link.to_string_lossy().starts_with(kind)).count()
    }

    /// Memory in use, bytes.
    ///
    /// # Panics
    /// When the process has ended.
    #[must_use]
    pub fn resident_bytes(&self) -> u64 {
        let path = format!("/proc/{}/statm", self.pid());
        let text = std::fs::read_to_string(path).expect("the process runs");
        let pages: u64 = text.split(' ').nth(1).and_then(|field| field.parse().ok()).expect("statm has it");
        pages * 4096
    }

    /// A line for each thread: name, state, system call, and where in the kernel.
    fn threads(&self) -> String {
        let mut lines = String::new();
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.pid())).into_iter().flatten().flatten();
        for task in tasks {
            let read = |name| std::fs::read_to_string(task.path().join(name)).unwrap_or_default();
            let (name, wait, call) = (read("comm"), read("wchan"), read("syscall"));
            let state = read("stat").rsplit(')').next().unwrap_or("").trim().chars().next().unwrap_or('?');
            lines += &format!("{:<16} {state} {:<28} {}\n", name.trim(), wait.trim(), call.trim());
        }
        lines
    }

    /// The state letter of `/proc/PID/stat`.
    fn process_state(&self) -> char {
        let text = std::fs::read_to_string(format!("/proc/{}/stat", self.pid())).expect("the process runs");
        let after_name = text.rsplit(')').next().expect("stat has a name");
        after_name.trim_start().chars().next().expect("stat has a state")
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        if std::thread::panicking() && self.ended.is_none() {
            eprintln!("---- what its threads wait for ----\n{}", self.threads());
        }
        if self.ended.is_none() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        if std::thread::panicking() {
            eprintln!("---- what the server said ----\n{}------------------------------", self.said());
        }
    }
}
