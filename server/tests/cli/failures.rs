//! What goes wrong is one line that says what to do, with an exit code of its own.

use super::rig::{Server, directory, run, tenure, text};

#[test]
fn without_a_server_the_way_to_one_is_told() {
    // Nobody listens on port 1.
    let run = run(&mut tenure(&["--endpoint", "127.0.0.1:1", "lease", "list"]));
    let line = "tenure: cannot reach 127.0.0.1:1: connection refused; \
                is the server running? start one with: tenure serve\n";
    assert_eq!((run.err.as_str(), run.out.as_str(), run.code), (line, "", 69));
}

#[test]
fn a_server_that_wants_a_secret_gets_it_or_says_so() {
    let dir = directory();
    let (right, wrong) = (dir.path().join("right"), dir.path().join("wrong"));
    std::fs::write(&right, "open sesame\n").expect("writing");
    std::fs::write(&wrong, "open barley\n").expect("writing");
    let server = Server::start(&["--shards", "1", "--auth-token-file", text(&right)]);
    let refused =
        "tenure: the credentials are missing or wrong; pass the server's secret with --auth-token-file FILE";
    for args in [&["lease", "list"][..], &["lease", "list", "--auth-token-file", text(&wrong)]] {
        let run = server.run(args);
        assert!(run.err.starts_with(refused) && run.err.lines().count() == 1, "{run:?}");
        assert_eq!((run.out.as_str(), run.code), ("", 77));
    }
    let run = server.run(&["--auth-token-file", text(&right), "lease", "list"]);
    assert_eq!((run.out.as_str(), run.code), ("found 0 leases\n", 0), "{run:?}");
    let mut command = server.command(&["lease", "list"]);
    assert_eq!(super::rig::run(command.env("TENURE_AUTH_TOKEN_FILE", &right)).code, 0);
}

#[test]
fn wrong_command_lines_and_files_have_their_codes() {
    for (line, code, part) in [
        ("lease grant soon", 2, "write for example 600 (seconds), 10s, 250ms"),
        ("lease grant -5", 2, "-5"),
        ("lease revoke xyz", 2, "write 1 to 16 hex digits"),
        ("lease timetolive 0", 2, "ID 0 names no lease"),
        ("--endpoint http://host lease list", 2, "write HOST:PORT"),
        ("watch --from yesterday", 2, "write oldest, now, or SHARD:POSITION"),
        ("no-such-command", 2, "no-such-command"),
        ("bench --endpoint 127.0.0.1:1", 69, "cannot connect to 127.0.0.1:1: "),
        ("--auth-token-file /no/such/file lease list", 78, "cannot read /no/such/file: "),
        ("inspect /no/such/directory", 78, "cannot read /no/such/directory: "),
        ("verify /no/such/directory", 78, "cannot read /no/such/directory: "),
        ("repair /no/such/directory --shard 0 --truncate-at 0", 78, "cannot read /no/such/directory: "),
    ] {
        let args: Vec<&str> = line.split(' ').collect();
        let run = run(&mut tenure(&args));
        assert!(run.err.contains(part), "$ tenure {line}\n{}", run.err);
        assert_eq!((run.out.as_str(), run.code), ("", code), "$ tenure {line}");
    }
}

#[test]
fn help_has_topics_and_completions_know_the_commands() {
    let help = run(&mut tenure(&["help", "exit-codes"]));
    assert!(help.out.contains("\n   69  the server cannot be reached"), "{help:?}");
    assert_eq!(run(&mut tenure(&["exit-codes"])).code, 0);
    for (shell, word) in [("bash", "keep-alive"), ("zsh", "'keep-alive:"), ("fish", "\"keep-alive\"")] {
        let script = run(&mut tenure(&["completions", shell]));
        assert_eq!((script.err.as_str(), script.code), ("", 0));
        assert!(script.out.contains(word) && script.out.contains("truncate-at"), "{shell}");
    }
}
