//! Commands that go on until they are stopped.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, ChildStderr, ChildStdout, Stdio};

use rustix::process::Signal;

use super::rig::{Server, directory, interrupt, lasting_address, settled, text};

struct Going {
    child: Child,
    out: BufReader<ChildStdout>,
    err: BufReader<ChildStderr>,
}

impl Going {
    fn start(server: &Server, args: &[&str]) -> Going {
        let mut command = server.command(args);
        let mut child =
            command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the command starts");
        let out = BufReader::new(child.stdout.take().expect("it was piped"));
        let err = BufReader::new(child.stderr.take().expect("it was piped"));
        Going { child, out, err }
    }

    fn out_line(&mut self) -> String {
        let mut line = String::new();
        self.out.read_line(&mut line).expect("reading its output");
        line.trim_end().to_owned()
    }

    fn err_line(&mut self) -> String {
        let mut line = String::new();
        self.err.read_line(&mut line).expect("reading its errors");
        line.trim_end().to_owned()
    }

    /// The rest of both outputs, and the exit code.
    fn end(mut self) -> (String, String, i32) {
        let (mut out, mut err) = (String::new(), String::new());
        self.out.read_to_string(&mut out).expect("reading its output");
        self.err.read_to_string(&mut err).expect("reading its errors");
        (out, err, self.child.wait().expect("waiting").code().expect("no signal ends it"))
    }
}

impl Drop for Going {
    fn drop(&mut self) {
        // A test that fails leaves nothing running; mostly it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn keep_alive_goes_on_until_a_signal_and_the_lease_lives_on() {
    let server = Server::in_memory();
    server.out("lease grant 3s --id a");
    let mut keep_alive = Going::start(&server, &["lease", "keep-alive", "a"]);
    for _ in 0..3 {
        assert_eq!(keep_alive.out_line(), "lease 000000000000000a keepalived with TTL(3)");
    }
    interrupt(&keep_alive.child, Signal::INT);
    assert_eq!(keep_alive.end(), (String::new(), String::new(), 0));
    assert!(server.out("lease timetolive a").starts_with("lease 000000000000000a granted with TTL(3s)"));
}

#[test]
fn keep_alive_ends_when_the_lease_does() {
    let server = Server::in_memory();
    server.out("lease grant 600ms --id a");
    let mut keep_alive = Going::start(&server, &["lease", "keep-alive", "a"]);
    assert_eq!(keep_alive.out_line(), "lease 000000000000000a keepalived with TTL(600ms)");
    server.out("lease revoke a");
    let (out, err, code) = keep_alive.end();
    assert_eq!((err.as_str(), code), ("", 1));
    assert_eq!(out.lines().last(), Some("lease 000000000000000a expired or revoked."));
}

#[test]
fn watch_says_where_to_resume_and_resuming_goes_on_there() {
    let server = Server::in_memory();
    for id in ["a", "b"] {
        server.out(&format!("lease grant 600 --id {id}"));
    }
    let mut watch = Going::start(&server, &["watch"]);
    assert_eq!(settled(&watch.err_line()), "watching from 0:N");
    server.out("lease revoke a");
    assert_eq!(settled(&watch.out_line()), "0:N  revoked  lease 000000000000000a  token N");
    interrupt(&watch.child, Signal::TERM);
    let (out, err, code) = watch.end();
    assert_eq!((out.as_str(), code), ("", 0));
    let place = err.trim_end().strip_prefix("resume with: tenure watch --from ").expect("a way to resume");
    server.out("lease revoke b");
    let run = server.run(&["watch", "--from", place, "--limit", "1"]);
    assert_eq!(settled(&run.out), "0:N  revoked  lease 000000000000000b  token N");
}

#[test]
fn both_go_on_when_the_server_was_killed_and_started_again() {
    let dir = directory();
    let data = text(dir.path());
    let arguments = ["--shards", "1", "--data-dir", data];
    let address = lasting_address();
    let server = Server::start_at(&address, &arguments);
    server.out("lease grant 9s --id a");
    server.out("lease grant 600 --id b");
    server.out("lease grant 600 --id c");
    let mut keep_alive = Going::start(&server, &["lease", "keep-alive", "a"]);
    let mut watch = Going::start(&server, &["watch"]);
    watch.err_line();
    server.out("lease revoke b");
    assert_eq!(settled(&watch.out_line()), "0:N  revoked  lease 000000000000000b  token N");
    assert_eq!(keep_alive.out_line(), "lease 000000000000000a keepalived with TTL(9)");

    server.kill();
    let server = Server::start_at(&address, &arguments);
    server.out("lease revoke c");
    assert_eq!(settled(&watch.out_line()), "0:N  revoked  lease 000000000000000c  token N");
    assert_eq!(keep_alive.out_line(), "lease 000000000000000a keepalived with TTL(9)");
    for going in [keep_alive, watch] {
        interrupt(&going.child, Signal::INT);
        let (out, _, code) = going.end();
        assert_eq!((out.as_str(), code), ("", 0));
    }
}

#[test]
fn a_reader_that_goes_away_ends_a_command_silently() {
    let server = Server::in_memory();
    server.out("lease grant 600 --id a");
    let mut watch = Going::start(&server, &["watch"]);
    watch.err_line();
    drop(std::mem::replace(&mut watch.out, empty_output()));
    server.out("lease revoke a");
    let status = watch.child.wait().expect("waiting");
    assert_eq!(status.code(), Some(128 + 13));
    let mut err = String::new();
    watch.err.read_to_string(&mut err).expect("reading its errors");
    assert_eq!(err, "");
}

/// A stand-in for an output that was closed.
fn empty_output() -> BufReader<ChildStdout> {
    let mut child =
        std::process::Command::new("true").stdout(Stdio::piped()).spawn().expect("`true` is everywhere");
    let out = child.stdout.take().expect("it was piped");
    child.wait().expect("waiting");
    BufReader::new(out)
}
