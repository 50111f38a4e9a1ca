//! A server in a process of its own, and commands run against it.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};

use tempfile::TempDir;

/// The command, without anything that the environment of the test might say.
pub(crate) fn tenure(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tenure"));
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.as_encoded_bytes().starts_with(b"TENURE_")) {
        command.env_remove(name);
    }
    command.args(args).stdin(Stdio::null());
    command
}

/// What a command printed and how it ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) out: String,
    pub(crate) err: String,
    pub(crate) code: i32,
}

/// Runs a command to its end.
pub(crate) fn run(command: &mut Command) -> Run {
    let output = command.output().expect("the command starts");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("output is UTF-8");
    let code = output.status.code().expect("no signal ends it");
    Run { out: text(output.stdout), err: text(output.stderr), code }
}

/// A server that ends with the test.
pub(crate) struct Server {
    child: Child,
    // Kept open: a server whose output nobody reads must not be hindered by that.
    _out: BufReader<ChildStdout>,
    pub(crate) address: String,
}

impl Server {
    /// One shard, in memory.
    pub(crate) fn in_memory() -> Server {
        Server::start(&["--shards", "1"])
    }

    /// With these arguments beside the address.
    pub(crate) fn start(args: &[&str]) -> Server {
        Server::start_at("127.0.0.1:0", args)
    }

    /// At this address, with these arguments beside it.
    pub(crate) fn start_at(address: &str, args: &[&str]) -> Server {
        let mut command = tenure(&["serve", "--listen", address, "--no-pin"]);
        let mut child = command
            .args(args)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the server starts");
        let mut out = BufReader::new(child.stdout.take().expect("it was piped"));
        let mut line = String::new();
        out.read_line(&mut line).expect("reading the server's output");
        let Some(address) = line.trim_end().strip_prefix("listening on ") else {
            let mut log = String::new();
            child.stderr.take().expect("it was piped").read_to_string(&mut log).expect("reading its log");
            panic!("the server did not start: {log}");
        };
        // Its log is nobody's business here, but must not fill the pipe.
        let mut log = child.stderr.take().expect("it was piped");
        std::thread::spawn(move || std::io::copy(&mut log, &mut std::io::sink()));
        Server { address: address.to_owned(), child, _out: out }
    }

    /// A command to this server.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = tenure(args);
        command.env("TENURE_ENDPOINT", &self.address);
        command
    }

    /// Runs a command against this server.
    pub(crate) fn run(&self, args: &[&str]) -> Run {
        run(&mut self.command(args))
    }

    /// Runs a command line that must succeed; what it prints.
    pub(crate) fn out(&self, line: &str) -> String {
        let args: Vec<&str> = line.split(' ').collect();
        let run = self.run(&args);
        assert_eq!((run.code, run.err.as_str()), (0, ""), "{line}: {run:?}");
        run.out
    }

    /// Runs each command line and compares what it prints and its exit code.
    pub(crate) fn check(&self, session: &[(&str, i32, &str)]) {
        for (line, code, expected) in session {
            let args: Vec<&str> = line.split(' ').collect();
            let run = self.run(&args);
            let printed = settled(&format!("{}{}", run.out, run.err));
            assert_eq!((printed.trim_end(), run.code), (*expected, *code), "$ tenure {line}");
        }
    }

    /// Ends it as a crash would.
    pub(crate) fn kill(mut self) {
        self.child.kill().expect("it is alive");
        self.child.wait().expect("waiting for the server");
    }

    /// Stops it as a service manager would.
    pub(crate) fn stop(mut self) -> i32 {
        interrupt(&self.child, rustix::process::Signal::TERM);
        self.child.wait().expect("waiting for the server").code().expect("it ends by itself")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Sends a signal to a process of this test.
pub(crate) fn interrupt(child: &Child, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_child(child);
    rustix::process::kill_process(pid, signal).expect("the process is alive");
}

/// A free address outside the range from which the system takes the ports of outgoing connections, so
/// that nobody takes it while a server is started there again.
pub(crate) fn lasting_address() -> String {
    let start = 10_000 + std::process::id() % 10_000;
    (start..start + 1_000)
        .map(|port| format!("127.0.0.1:{port}"))
        .find(|address| std::net::TcpListener::bind(address).is_ok())
        .expect("a port is free")
}

/// A directory on a disk rather than in memory, where O_DIRECT works.
pub(crate) fn directory() -> TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("making a directory")
}

pub(crate) fn text(path: &Path) -> &str {
    path.to_str().expect("temporary paths are UTF-8")
}

/// The text with the numbers that differ from run to run replaced by `N`.
pub(crate) fn settled(text: &str) -> String {
    let mut text = text.to_owned();
    for before in [
        "remaining(",
        "token ",
        "\"token\":",
        "\"remaining_ms\":",
        "\"position\":",
        "\"time_ms\":",
        "\"resume\":\"0:",
        "--from 0:",
        "watching from 0:",
    ] {
        text = replace_numbers(&text, before);
    }
    // The position at the start of a line of `watch`.
    let lines: Vec<String> = text
        .lines()
        .map(|line| if line.starts_with("0:") { replace_numbers(line, "0:") } else { line.to_owned() })
        .collect();
    lines.join("\n")
}

fn replace_numbers(text: &str, before: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find(before) {
        let number = at + before.len();
        let digits = rest[number..].bytes().take_while(u8::is_ascii_digit).count();
        out.push_str(&rest[..number]);
        out.push_str(if digits > 0 { "N" } else { "" });
        rest = &rest[number + digits..];
    }
    out + rest
}

#[test]
fn settling_replaces_numbers_and_nothing_else() {
    let line =
        "0:4160  expired  lease 00000000000000a1  token 80\nlease 2a granted with TTL(5s), remaining(4s)";
    let settled_line =
        "0:N  expired  lease 00000000000000a1  token N\nlease 2a granted with TTL(5s), remaining(Ns)";
    assert_eq!(settled(line), settled_line);
    assert_eq!(
        settled(r#"{"token":12,"ttl_ms":500,"resume":"0:77"}"#),
        r#"{"token":N,"ttl_ms":500,"resume":"0:N"}"#
    );
    assert_eq!(settled("no lease has item token x"), "no lease has item token x");
}
