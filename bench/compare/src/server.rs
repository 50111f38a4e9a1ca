//! A peer's server: a child process on a free loopback port, in a temporary directory on a disk, on one CPU.
//!
//! Every server gets the same: one CPU for all its threads, its own directory, and settings that its
//! documentation names for the job. Whatever happens to the run, no child outlives it: by `Drop` when the
//! run ends, by the parent-death signal when this process is killed. What a killed run leaves on the disk,
//! the next one removes ([`sweep`]).

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use tempfile::TempDir;
use tenure_bench::instruments::Watched;

use crate::cpu_clock::CpuClock;
use crate::peer::{Family, Installed};

/// How long a server may take until it accepts connections.
const START_TIMEOUT: Duration = Duration::from_secs(60);
/// Lines of its output that are kept for an error report, and their length.
const LINES_MAX: usize = 40;
const LINE_BYTES_MAX: u64 = 2_048;

/// What is promised about acknowledged writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Durability {
    /// As the peer is run as a rule: etcd and Tenure durable, Redis and Valkey without files.
    Usual,
    /// Nothing waits for a disk.
    Memory,
    /// Acknowledged means on disk.
    Durable,
}

/// How a server is started.
#[derive(Clone, Debug)]
pub(crate) struct Launch {
    pub(crate) installed: Installed,
    pub(crate) durability: Durability,
    /// With events for leases that end, where that is a setting.
    pub(crate) events: bool,
    pub(crate) cpu: Option<usize>,
    /// Where its temporary directory is made.
    pub(crate) place: PathBuf,
}

/// A running server.
pub(crate) struct Server {
    child: Child,
    launch: Launch,
    ports: [u16; 2],
    lines: Lines,
    /// Removed after the child has ended.
    directory: TempDir,
}

/// Directories of servers are named after this and the process that made them.
const PREFIX: &str = "tenure-compare-";

/// Removes the directories of runs that were killed.
pub(crate) fn sweep(place: &Path) {
    for entry in std::fs::read_dir(place).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let owner = name.to_str().and_then(|name| name.strip_prefix(PREFIX)?.split_once('-'));
        let Some(owner) = owner.and_then(|(pid, _)| pid.parse::<u32>().ok()) else { continue };
        if !Path::new(&format!("/proc/{owner}")).exists() {
            // Somebody else's remain.
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

type Lines = Arc<Mutex<VecDeque<String>>>;

/// Arguments that mean the job, and nothing about this machine: for the report.
pub(crate) fn settings(family: Family, durability: Durability, events: bool) -> Vec<&'static str> {
    use Durability::{Durable, Memory, Usual};
    let mut settings = match (family, durability) {
        (Family::Tenure, Usual | Durable) => vec!["--shards=1", "--durability=always"],
        // Without a directory nothing is written.
        (Family::Tenure, Memory) => vec!["--shards=1"],
        (Family::Etcd, Usual | Durable) => vec!["--quota-backend-bytes=8589934592"],
        (Family::Etcd, Memory) => vec!["--quota-backend-bytes=8589934592", "--unsafe-no-fsync"],
        (Family::Resp, Usual | Memory) => vec!["--save", "", "--appendonly", "no"],
        (Family::Resp, Durable) => vec![
            "--save",
            "",
            "--appendonly",
            "yes",
            "--appendfsync",
            "always",
            "--auto-aof-rewrite-percentage",
            "0",
        ],
        (Family::Memcached, _) => vec!["-t", "1", "-m", "2048", "-c", "4096"],
    };
    if family == Family::Resp && events {
        settings.extend(["--notify-keyspace-events", "Ex", "--client-output-buffer-limit", "pubsub 0 0 0"]);
    }
    settings
}

impl Launch {
    /// Settings in a line, for the report.
    pub(crate) fn settings(&self) -> String {
        let settings = settings(self.installed.peer.family(), self.durability, self.events);
        settings.iter().map(|word| if word.is_empty() { "''" } else { word }).collect::<Vec<_>>().join(" ")
    }

    fn command(&self, directory: &Path, ports: [u16; 2]) -> Command {
        let family = self.installed.peer.family();
        let mut command = Command::new(&self.installed.exe);
        let (port, url) = (ports[0].to_string(), |port: u16| format!("http://127.0.0.1:{port}"));
        let data = directory.join("data");
        match family {
            Family::Tenure => {
                command.arg("serve").arg(format!("--listen=127.0.0.1:{port}"));
                command.arg(self.cpu.map_or("--no-pin".to_owned(), |cpu| format!("--first-cpu={cpu}")));
                if self.durability != Durability::Memory {
                    command.arg("--data-dir").arg(data);
                }
            }
            Family::Etcd => {
                command.arg("--data-dir").arg(data).arg("--log-level=error");
                command.args(["--listen-client-urls", &url(ports[0])]);
                command.args(["--advertise-client-urls", &url(ports[0])]);
                command.args(["--listen-peer-urls", &url(ports[1])]);
                command.args(["--initial-advertise-peer-urls", &url(ports[1])]);
                command.arg("--initial-cluster").arg(format!("default={}", url(ports[1])));
            }
            Family::Resp => {
                command.args(["--port", &port, "--bind", "127.0.0.1", "--daemonize", "no", "--dir"]);
                command.arg(directory);
            }
            Family::Memcached => {
                command.args(["-p", &port, "-U", "0", "-l", "127.0.0.1"]);
                if rustix::process::geteuid().is_root() {
                    command.args(["-u", "root"]);
                }
            }
        }
        command.args(settings(family, self.durability, self.events));
        command
    }
}

impl Server {
    /// Starts it and waits until it accepts connections.
    ///
    /// # Errors
    /// When it does not start or does not listen in time; its output is in the error.
    pub(crate) fn start(launch: &Launch) -> anyhow::Result<Server> {
        let directory = tempfile::Builder::new()
            .prefix(&format!("{PREFIX}{}-", std::process::id()))
            .tempdir_in(&launch.place)
            .with_context(|| format!("cannot make a directory in {}", launch.place.display()))?;
        let ports = free_ports()?;
        let (child, lines) = spawn(launch, directory.path(), ports)?;
        let mut server = Server { child, launch: launch.clone(), ports, lines, directory };
        server.wait_until_it_listens()?;
        Ok(server)
    }

    /// Kills it as a crash would and starts it again on what it left, without waiting for it.
    ///
    /// # Errors
    /// When it cannot be started.
    pub(crate) fn crash_and_respawn(&mut self) -> anyhow::Result<Instant> {
        self.child.kill().context("cannot kill the server")?;
        self.child.wait().context("cannot wait for the server")?;
        let began = Instant::now();
        (self.child, self.lines) = spawn(&self.launch, self.directory.path(), self.ports)?;
        Ok(began)
    }

    pub(crate) fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.ports[0]).into()
    }

    pub(crate) fn settings(&self) -> String {
        self.launch.settings()
    }

    /// For whoever reads its CPU time in the middle of a load.
    ///
    /// # Errors
    /// When it has ended.
    pub(crate) fn cpu_clock(&self) -> anyhow::Result<CpuClock> {
        CpuClock::of(self.child.id()).with_context(|| format!("the server is gone{}", self.output()))
    }

    /// User and system time so far.
    ///
    /// # Errors
    /// When it has ended.
    pub(crate) fn cpu(&self) -> anyhow::Result<Duration> {
        self.cpu_clock()?.read().with_context(|| format!("the server is gone{}", self.output()))
    }

    /// Resident memory, bytes.
    ///
    /// # Errors
    /// When it has ended.
    pub(crate) fn resident_bytes(&self) -> anyhow::Result<u64> {
        let memory = Watched::new(self.child.id()).memory();
        Ok(memory.with_context(|| format!("the server is gone{}", self.output()))?.resident_bytes)
    }

    /// # Errors
    /// When it has ended; its output is in the error.
    pub(crate) fn check_alive(&mut self) -> anyhow::Result<()> {
        match self.child.try_wait().context("cannot ask for the server")? {
            None => Ok(()),
            Some(status) => bail!("the server ended: {status}{}", self.output()),
        }
    }

    fn wait_until_it_listens(&mut self) -> anyhow::Result<()> {
        let began = Instant::now();
        while began.elapsed() < START_TIMEOUT {
            if TcpStream::connect(self.address()).is_ok() {
                return Ok(());
            }
            self.check_alive()?;
            std::thread::sleep(Duration::from_millis(2));
        }
        bail!("the server does not listen after {START_TIMEOUT:?}{}", self.output())
    }

    /// Its newest output.
    fn output(&self) -> String {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines.iter().map(|line| format!("\n  | {line}")).collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Both fail when it has ended, which is what is wanted. Nothing in its directory is needed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn(launch: &Launch, directory: &Path, ports: [u16; 2]) -> anyhow::Result<(Child, Lines)> {
    let mut command = launch.command(directory, ports);
    let foreign = |name: &str| ["TENURE_", "ETCD_"].iter().any(|prefix| name.starts_with(prefix));
    command
        .env_clear()
        .envs(std::env::vars_os().filter(|(name, _)| !foreign(&name.to_string_lossy())))
        .current_dir(directory)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0);
    let cpu = launch.cpu;
    // SAFETY: between fork and exec only prctl and sched_setaffinity are called: plain system calls on
    // memory of this stack.
    unsafe {
        command.pre_exec(move || {
            let death = Some(rustix::process::Signal::KILL);
            rustix::process::set_parent_process_death_signal(death)?;
            cpu.map_or(Ok(()), tenure_bench::instruments::pin_to)
        });
    }
    let exe = launch.installed.exe.display();
    let mut child = command.spawn().with_context(|| format!("cannot start {exe}"))?;
    let lines = Lines::default();
    keep_lines(child.stdout.take().expect("piped above"), Arc::clone(&lines));
    keep_lines(child.stderr.take().expect("piped above"), Arc::clone(&lines));
    Ok((child, lines))
}

/// Keeps the newest lines of one output. Ends with it.
fn keep_lines(output: impl Read + Send + 'static, lines: Lines) {
    std::thread::spawn(move || {
        let (mut output, mut line) = (BufReader::new(output), Vec::new());
        loop {
            line.clear();
            let read = output.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut line);
            if read.unwrap_or(0) == 0 {
                return;
            }
            let mut lines = lines.lock().unwrap_or_else(PoisonError::into_inner);
            if lines.len() == LINES_MAX {
                lines.pop_front();
            }
            lines.push_back(String::from_utf8_lossy(&line).trim_end().to_owned());
        }
    });
}

/// Two ports that nobody has now. Somebody else may take them before the server does; then it does not
/// start, and says so.
fn free_ports() -> anyhow::Result<[u16; 2]> {
    let listeners = [(); 2].map(|()| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)));
    let mut ports = [0; 2];
    for (port, listener) in ports.iter_mut().zip(listeners) {
        *port = listener.context("no free port")?.local_addr()?.port();
    }
    Ok(ports)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peer::Peer;

    fn launch(exe: &str) -> Launch {
        let installed = Installed { peer: Peer::Redis, exe: exe.into(), version: "0".to_owned() };
        let place = std::env::temp_dir();
        Launch { installed, durability: Durability::Durable, events: true, cpu: None, place }
    }

    #[test]
    fn durable_settings_are_the_ones_that_wait_for_the_disk() {
        assert!(launch("x").settings().contains("--appendonly yes --appendfsync always"));
        assert!(launch("x").settings().contains("--notify-keyspace-events Ex"));
        let memory = settings(Family::Etcd, Durability::Memory, false);
        assert!(memory.contains(&"--unsafe-no-fsync"));
        assert!(!settings(Family::Etcd, Durability::Usual, false).contains(&"--unsafe-no-fsync"));
    }

    #[test]
    fn a_sweep_removes_what_killed_runs_left_and_nothing_else() {
        let place = tempfile::tempdir().unwrap();
        let mine = format!("{PREFIX}{}-abc", std::process::id());
        // No process has the largest number.
        let dead = format!("{PREFIX}{}-abc", u32::MAX);
        for name in [mine.as_str(), &dead, "tenure-compare-", "tenure-bench-1-x"] {
            std::fs::create_dir(place.path().join(name)).unwrap();
        }
        sweep(place.path());
        assert_eq!(std::fs::read_dir(place.path()).unwrap().count(), 3);
        assert!(!place.path().join(dead).exists());
    }

    #[test]
    fn a_server_that_ends_at_once_is_an_error_that_quotes_it() {
        let place = tempfile::tempdir().unwrap();
        let exe = place.path().join("server");
        std::fs::write(&exe, "#!/bin/sh\necho no room for $2\nexit 3\n").unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(&exe, mode).unwrap();
        let Err(error) = Server::start(&launch(exe.to_str().unwrap())) else { panic!("it listens") };
        let error = format!("{error:#}");
        assert!(error.contains("exit status: 3"), "{error}");
        assert!(Server::start(&launch("/nonexistent")).is_err());
    }
}
