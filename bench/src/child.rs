//! The server that a run starts: a child process like any operator's, on a directory of its own.
//!
//! `EXE serve --listen 127.0.0.1:0 --data-dir DIR …`, ready when it prints `listening on ADDR`. It is
//! measured from outside (`usage`), stopped with SIGTERM, and must then exit with code 0. Whatever
//! happens to the run, the child does not outlive it and its directory is removed: by `Drop` when the
//! run ends, by the kernel (parent-death signal) when this process is killed.

use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use tempfile::TempDir;

use crate::interrupt;
use crate::limits::{CHILD_LINE_BYTES_MAX, CHILD_LINES_MAX, START_TIMEOUT, STOP_TIMEOUT};

/// What the child is started with.
#[derive(Clone, Debug)]
pub(crate) struct ServerSettings {
    pub(crate) exe: PathBuf,
    /// Where the temporary directory is made.
    pub(crate) place: PathBuf,
    /// Arguments after `serve --listen … --data-dir …`.
    pub(crate) arguments: Vec<String>,
}

/// A running child.
pub(crate) struct ServerChild {
    child: Child,
    address: SocketAddr,
    lines: Lines,
    settings: ServerSettings,
    /// Removed when this is dropped, after the child has ended.
    directory: TempDir,
}

/// The newest lines that the child printed.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<std::collections::VecDeque<String>>>);

impl ServerChild {
    /// Starts the server and waits until it listens.
    ///
    /// # Errors
    /// When it cannot be started, ends before it listens (its output is in the error), or does not
    /// listen in time.
    pub(crate) fn start(settings: &ServerSettings) -> anyhow::Result<ServerChild> {
        let directory = tempfile::Builder::new()
            .prefix("tenure-bench-")
            .tempdir_in(&settings.place)
            .with_context(|| format!("cannot make a directory in {}", settings.place.display()))?;
        let (child, address, lines) = spawn(settings, directory.path())?;
        Ok(ServerChild { child, address, lines, settings: settings.clone(), directory })
    }

    /// Kills the server as a crash would and starts it again on what it left. How long the start took.
    ///
    /// # Errors
    /// As for [`ServerChild::start`].
    pub(crate) fn crash_and_restart(&mut self) -> anyhow::Result<Duration> {
        self.child.kill().context("cannot kill the server")?;
        self.child.wait().context("cannot wait for the server")?;
        let began = Instant::now();
        (self.child, self.address, self.lines) = spawn(&self.settings, self.directory.path())?;
        Ok(began.elapsed())
    }

    /// Bytes that its data directory takes on the disk.
    pub(crate) fn directory_bytes(&self) -> u64 {
        fn sum(place: &Path) -> u64 {
            let entries = std::fs::read_dir(place).into_iter().flatten().flatten();
            entries
                .map(|entry| match entry.metadata() {
                    Ok(metadata) if metadata.is_dir() => sum(&entry.path()),
                    Ok(metadata) => metadata.blocks() * 512,
                    // It was removed meanwhile: segments are recycled.
                    Err(_) => 0,
                })
                .sum()
        }
        sum(self.directory.path())
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    #[cfg(test)]
    fn directory(&self) -> &std::path::Path {
        self.directory.path()
    }

    /// Its newest output, for an error report.
    pub(crate) fn output(&self) -> String {
        self.lines.text()
    }

    /// How it ended, if it has.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// SIGTERM, then waits. How long the exit took.
    ///
    /// # Errors
    /// When it exits with another code than 0, or not in time (it is killed then).
    pub(crate) fn stop(mut self) -> anyhow::Result<Duration> {
        let began = Instant::now();
        if let Some(status) = self.ended() {
            bail!("the server had ended by itself: {}\n{}", describe(status), self.output());
        }
        let pid = i32::try_from(self.child.id()).ok().and_then(rustix::process::Pid::from_raw);
        let pid = pid.context("the child has no process id")?;
        rustix::process::kill_process(pid, rustix::process::Signal::TERM)
            .context("cannot stop the server")?;
        while began.elapsed() < STOP_TIMEOUT {
            if let Some(status) = self.ended() {
                if status.success() {
                    return Ok(began.elapsed());
                }
                bail!(
                    "after SIGTERM the server ended with {}, not code 0:\n{}",
                    describe(status),
                    self.output()
                );
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        bail!("the server did not exit within {STOP_TIMEOUT:?} of SIGTERM:\n{}", self.output())
    }
}

impl Drop for ServerChild {
    fn drop(&mut self) {
        // Both fail when it has ended, which is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Starts a server on a directory and waits until it listens.
fn spawn(settings: &ServerSettings, directory: &Path) -> anyhow::Result<(Child, SocketAddr, Lines)> {
    let mut command = Command::new(&settings.exe);
    command
        .args(["serve", "--listen", "127.0.0.1:0", "--data-dir"])
        .arg(directory.join("data"))
        .args(&settings.arguments)
        .env_clear()
        .envs(std::env::vars_os().filter(|(name, _)| !name.to_string_lossy().starts_with("TENURE_")))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0);
    // SAFETY: between fork and exec only prctl is called, which is async-signal-safe.
    unsafe {
        command.pre_exec(|| {
            let death = Some(rustix::process::Signal::KILL);
            rustix::process::set_parent_process_death_signal(death).map_err(Into::into)
        });
    }
    let mut child = command.spawn().with_context(|| format!("cannot start {}", settings.exe.display()))?;
    let lines = Lines::default();
    let (found, address) = sync_channel(1);
    read_lines(child.stdout.take().expect("piped above"), lines.clone(), found.clone());
    read_lines(child.stderr.take().expect("piped above"), lines.clone(), found);
    match wait_for_address(&mut child, &address) {
        Ok(address) => Ok((child, address, lines)),
        Err(error) => {
            let _ = child.kill();
            let _ = child.wait();
            Err(error.context(format!("the server did not start; it said:\n{}", lines.text())))
        }
    }
}

pub(crate) fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("code {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => "an unknown status".to_owned(),
    }
}

fn wait_for_address(child: &mut Child, address: &Receiver<SocketAddr>) -> anyhow::Result<SocketAddr> {
    let began = Instant::now();
    while began.elapsed() < START_TIMEOUT {
        match address.recv_timeout(Duration::from_millis(50)) {
            Ok(address) => return Ok(address),
            // Both of its outputs are closed: it has ended, or is about to.
            Err(RecvTimeoutError::Disconnected) => {
                let status = child.wait().context("cannot wait for the server")?;
                bail!("it ended with {} before it listened", describe(status));
            }
            Err(RecvTimeoutError::Timeout) if interrupt::is_interrupted() => bail!("interrupted"),
            Err(RecvTimeoutError::Timeout) => {}
        }
    }
    bail!("no `listening on ADDRESS` within {START_TIMEOUT:?}")
}

/// Keeps the newest lines of one output and passes on the address in `listening on ADDRESS`. Ends with
/// the output.
fn read_lines(output: impl Read + Send + 'static, lines: Lines, found: SyncSender<SocketAddr>) {
    std::thread::spawn(move || {
        let mut output = BufReader::new(output);
        let mut line = Vec::new();
        loop {
            line.clear();
            let limit = CHILD_LINE_BYTES_MAX as u64;
            if output.by_ref().take(limit).read_until(b'\n', &mut line).unwrap_or(0) == 0 {
                return;
            }
            let text = String::from_utf8_lossy(&line);
            lines.push(text.trim_end());
            if let Some(address) = listening_on(&text) {
                // Full when the server listens on several addresses: the first one serves.
                let _ = found.try_send(address);
            }
        }
    });
}

fn listening_on(line: &str) -> Option<SocketAddr> {
    let (_, after) = line.split_once("listening on ")?;
    after.split([' ', ',', '\n', '\r', '\u{1b}']).next()?.parse().ok()
}

impl Lines {
    fn push(&self, line: &str) {
        let mut lines = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if lines.len() == CHILD_LINES_MAX {
            lines.pop_front();
        }
        lines.push_back(line.to_owned());
    }

    fn text(&self) -> String {
        let lines = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        lines.iter().map(|line| format!("  | {line}")).collect::<Vec<_>>().join("\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A stand-in for the server: a shell script.
    fn settings(place: &Path, script: &str) -> ServerSettings {
        use std::os::unix::fs::PermissionsExt;
        let exe = place.join("server");
        std::fs::write(&exe, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&exe, std::fs::Permissions::from_mode(0o755)).unwrap();
        ServerSettings { exe, place: place.to_owned(), arguments: vec!["--shards=1".to_owned()] }
    }

    const LISTEN: &str = "echo INFO listening on 127.0.0.1:4321 >&2";

    #[test]
    fn starts_finds_the_address_stops_and_removes_the_directory() {
        let place = tempfile::tempdir().unwrap();
        let script = format!("trap 'exit 0' TERM\n{LISTEN}\nwhile :; do sleep 0.01; done");
        let server = ServerChild::start(&settings(place.path(), &script)).unwrap();
        assert_eq!(server.address(), "127.0.0.1:4321".parse().unwrap());
        assert!(server.output().contains("INFO listening"));
        let directory = server.directory().to_owned();
        assert!(directory.is_dir());
        server.stop().unwrap();
        assert!(!directory.exists());
    }

    #[test]
    fn an_exit_code_other_than_0_is_an_error_that_quotes_the_server() {
        let place = tempfile::tempdir().unwrap();
        let script =
            format!("trap 'echo disk on fire; exit 74' TERM\n{LISTEN}\nwhile :; do sleep 0.01; done");
        let server = ServerChild::start(&settings(place.path(), &script)).unwrap();
        let error = server.stop().unwrap_err().to_string();
        assert!(error.contains("code 74"), "{error}");
        assert_eq!(std::fs::read_dir(place.path()).unwrap().count(), 1, "only the script is left");
    }

    #[test]
    fn a_server_that_ends_before_it_listens_is_quoted() {
        let place = tempfile::tempdir().unwrap();
        let Err(error) = ServerChild::start(&settings(place.path(), "echo no such option; exit 2")) else {
            panic!("it cannot have started");
        };
        let error = format!("{error:#}");
        assert!(error.contains("no such option") && error.contains("code 2"), "{error}");
        assert_eq!(std::fs::read_dir(place.path()).unwrap().count(), 1, "only the script is left");
    }

    #[test]
    fn a_crash_leaves_the_directory_to_the_next_start() {
        let place = tempfile::tempdir().unwrap();
        // `serve --listen ADDRESS --data-dir DIRECTORY …`
        let script = format!("mkdir -p $5; echo x >> $5/log; {LISTEN}\nwhile :; do sleep 0.01; done");
        let mut server = ServerChild::start(&settings(place.path(), &script)).unwrap();
        let (first, log) = (server.pid(), server.directory().join("data/log"));
        assert_eq!(std::fs::read_to_string(&log).unwrap(), "x\n");
        server.crash_and_restart().unwrap();
        assert_ne!(server.pid(), first);
        assert!(!Path::new(&format!("/proc/{first}")).exists());
        assert_eq!(std::fs::read_to_string(&log).unwrap(), "x\nx\n");
        assert!(server.directory_bytes() > 0);
    }

    #[test]
    fn a_dropped_child_is_gone() {
        let place = tempfile::tempdir().unwrap();
        let script = format!("trap '' TERM\n{LISTEN}\nwhile :; do sleep 0.01; done");
        let server = ServerChild::start(&settings(place.path(), &script)).unwrap();
        let status = format!("/proc/{}", server.pid());
        assert!(Path::new(&status).exists());
        drop(server);
        assert!(!Path::new(&status).exists());
    }

    #[test]
    fn the_address_is_found_in_any_line() {
        let address = Some("[::1]:7070".parse().unwrap());
        assert_eq!(listening_on("2026 INFO tenure: listening on [::1]:7070, ring driver\n"), address);
        assert_eq!(listening_on("listening on port 7070"), None);
    }
}
