//! Every command about leases: what it prints, in both forms, and its exit code.

use tenure_client::{BlockingClient, GrantEntry, LeaseId};

use super::rig::{Server, settled};

#[test]
fn a_lease_from_grant_to_revoke_in_etcdctls_words() {
    let server = Server::in_memory();
    server.check(&[
        ("lease grant 600 --id 694d81417acd4754", 0, "lease 694d81417acd4754 granted with TTL(600s)"),
        (
            "lease timetolive 694d81417acd4754",
            0,
            "lease 694d81417acd4754 granted with TTL(600s), remaining(Ns)",
        ),
        ("lease keep-alive --once 694d81417acd4754", 0, "lease 694d81417acd4754 keepalived with TTL(600)"),
        ("lease list", 0, "found 1 lease\n694d81417acd4754"),
        ("lease revoke 694d81417acd4754", 0, "lease 694d81417acd4754 revoked"),
        ("lease timetolive 694d81417acd4754", 1, "lease 694d81417acd4754 already expired"),
        ("lease keep-alive 694d81417acd4754", 1, "lease 694d81417acd4754 expired or revoked."),
        (
            "lease revoke 694d81417acd4754",
            1,
            "tenure: lease 694d81417acd4754 not revoked: it does not exist, or has ended already",
        ),
        ("lease list", 0, "found 0 leases"),
    ]);
}

#[test]
fn ttls_are_read_in_every_form_and_shown_exactly() {
    let server = Server::start(&["--shards", "1", "--ttl-min", "100ms", "--ttl-max", "2h"]);
    server.check(&[
        ("lease grant 1m30s --id 1", 0, "lease 0000000000000001 granted with TTL(90s)"),
        ("lease grant 1500ms --id 0x2", 0, "lease 0000000000000002 granted with TTL(1500ms)"),
        ("lease grant 2h --id FF", 0, "lease 00000000000000ff granted with TTL(7200s)"),
        ("lease keep-alive --once 2", 0, "lease 0000000000000002 keepalived with TTL(1500ms)"),
        (
            "lease grant 5ms --id 3",
            0,
            "lease 0000000000000003 granted with TTL(100ms), raised from 5ms to the server's minimum",
        ),
        (
            "-w json lease grant 5ms --id 4",
            0,
            r#"{"id":"0000000000000004","ttl_ms":100,"raised":true,"token":N}"#,
        ),
        ("lease grant 0", 1, "tenure: a TTL must be at least 1 ms"),
        (
            "lease grant 7201",
            1,
            "tenure: the TTL is above the server's maximum: ask for a shorter one and renew",
        ),
        (
            "lease grant 60 --id 1",
            1,
            "tenure: a live lease has this ID already: choose another, or let the server choose",
        ),
    ]);
}

#[test]
fn the_server_chooses_an_id_of_16_digits() {
    let server = Server::in_memory();
    let out = server.out("lease grant 10s");
    let id = out.split(' ').nth(1).expect("the second word is the ID");
    assert!(id.len() == 16 && id.bytes().all(|byte| byte.is_ascii_hexdigit()), "{out}");
    assert_eq!(out, format!("lease {id} granted with TTL(10s)\n"));
    assert_eq!(server.out(&format!("lease revoke {id}")), format!("lease {id} revoked\n"));
}

#[test]
fn items_are_attached_moved_shown_and_detached() {
    let server = Server::in_memory();
    server.check(&[
        ("lease grant 600 --id a", 0, "lease 000000000000000a granted with TTL(600s)"),
        ("lease grant 600 --id b", 0, "lease 000000000000000b granted with TTL(600s)"),
        ("lease attach a instance/7", 0, "item instance/7 attached to lease 000000000000000a"),
        (r"lease attach a -e \xff\x00", 0, r#"item "\xff\x00" attached to lease 000000000000000a"#),
        (r"lease attach a --escaped two\x20words", 0, r#"item "two words" attached to lease 000000000000000a"#),
        (
            "lease timetolive a --items",
            0,
            r#"lease 000000000000000a granted with TTL(600s), remaining(Ns), attached items([instance/7 "two words" "\xff\x00"])"#,
        ),
        (
            "-w json lease timetolive a --items",
            0,
            r#"{"id":"000000000000000a","alive":true,"ttl_ms":600000,"remaining_ms":N,"token":N,"item_count":3,"items":["instance/7","two words",{"hex":"ff00"}]}"#,
        ),
        ("lease of instance/7", 0, "lease 000000000000000a has item instance/7"),
        ("-w json lease of instance/7", 0, r#"{"item":"instance/7","id":"000000000000000a","token":N}"#),
        (
            "lease attach b instance/7",
            0,
            "item instance/7 attached to lease 000000000000000b, moved from lease 000000000000000a",
        ),
        (
            "-w json lease attach a instance/7",
            0,
            r#"{"id":"000000000000000a","item":"instance/7","attached":true,"token":N,"moved_from":"000000000000000b"}"#,
        ),
        ("lease detach a instance/7", 0, "item instance/7 detached from lease 000000000000000a"),
        ("lease detach a instance/7", 1, "tenure: the lease does not have this item"),
        ("lease of instance/7", 1, "no lease has item instance/7"),
        ("-w json lease of instance/7", 1, r#"{"item":"instance/7","id":null,"token":null}"#),
        ("lease attach c x", 1, "tenure: no live lease has this ID: grant a new one"),
        (r"lease attach a -e \q", 2, r#"tenure: `\q` has a backslash that starts none of \\ \" \n \r \t \xHH"#),
    ]);
}

#[test]
fn an_item_may_be_any_bytes() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    let server = Server::in_memory();
    server.out("lease grant 600 --id a");
    let mut command = server.command(&["lease", "attach", "a"]);
    let run = super::rig::run(command.arg(OsStr::from_bytes(b"\xfe\n")));
    assert_eq!((run.out.as_str(), run.code), ("item \"\\xfe\\n\" attached to lease 000000000000000a\n", 0));
    assert_eq!(server.out(r"lease of -e \xfe\n"), "lease 000000000000000a has item \"\\xfe\\n\"\n");
}

#[test]
fn json_has_stable_names_and_hex_ids() {
    let server = Server::in_memory();
    server.check(&[
        ("-w json lease grant 600 --id a", 0, r#"{"id":"000000000000000a","ttl_ms":600000,"raised":false,"token":N}"#),
        (
            "-w json lease timetolive a",
            0,
            r#"{"id":"000000000000000a","alive":true,"ttl_ms":600000,"remaining_ms":N,"token":N,"item_count":0}"#,
        ),
        (
            "-w json lease list",
            0,
            r#"{"id":"000000000000000a","ttl_ms":600000,"remaining_ms":N,"token":N,"item_count":0}"#,
        ),
        (
            "-w json lease keep-alive --once a",
            0,
            r#"{"id":"000000000000000a","alive":true,"ttl_ms":600000}"#,
        ),
        (
            "-w json lease revoke a b",
            1,
            "{\"id\":\"000000000000000a\",\"revoked\":true}\n{\"id\":\"000000000000000b\",\"revoked\":false,\"refusal\":\"NotFound\"}",
        ),
        ("-w json lease timetolive a", 1, r#"{"id":"000000000000000a","alive":false}"#),
        ("-w json lease keep-alive a", 1, r#"{"id":"000000000000000a","alive":false}"#),
    ]);
}

#[test]
fn many_leases_are_revoked_in_one_batch_and_each_is_answered() {
    let server = Server::start(&["--shards", "2"]);
    for id in ["1", "2", "3"] {
        server.out(&format!("lease grant 600 --id {id}"));
    }
    let run = server.run(&["lease", "revoke", "1", "9", "2", "1", "3"]);
    let revoked = ["1", "2", "3"].map(|id| format!("lease 000000000000000{id} revoked\n"));
    assert_eq!((run.out, run.code), (revoked.concat(), 1));
    let missed = ["9", "1"].map(|id| {
        format!("tenure: lease 000000000000000{id} not revoked: it does not exist, or has ended already\n")
    });
    assert_eq!(run.err, missed.concat());
}

#[test]
fn a_list_of_many_pages_has_each_lease_once() {
    let server = Server::start(&["--shards", "2"]);
    let count = 20_000;
    let client = BlockingClient::connect(server.address.clone()).expect("connecting");
    let entries: Vec<GrantEntry> =
        (1..=count).map(|id| GrantEntry { ttl_ms: 600_000, id: LeaseId(id) }).collect();
    let granted = client.grant_batch(&entries).expect("granting");
    assert!(granted.iter().all(Result::is_ok));
    let text = server.out("lease list");
    let mut lines = text.lines();
    assert_eq!(lines.next(), Some("found 20000 leases"));
    assert!(lines.eq((1..=count).map(|id| format!("{id:016x}"))));
    let json = server.out("-w json lease list");
    let mut ids: Vec<String> = json
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).expect("JSON")["id"].to_string())
        .collect();
    ids.sort_unstable();
    assert!(ids.into_iter().eq((1..=count).map(|id| format!("\"{id:016x}\""))));
}

#[test]
fn a_list_can_be_cut_short_and_show_more() {
    let server = Server::in_memory();
    for id in 1..=3 {
        server.out(&format!("lease grant 600 --id {id}"));
    }
    server.out("lease attach 1 x");
    let limited = server.out("lease list --limit 2");
    assert!(limited.starts_with("found 2 leases, there are more\n"), "{limited}");
    assert_eq!(limited.lines().count(), 3);
    assert!(server.out("lease list --limit 3").starts_with("found 3 leases\n"));
    assert_eq!(server.out("-w json lease list --limit 2").lines().count(), 2);
    let wide = server.out("lease list --ttl");
    let words: Vec<Vec<&str>> = wide.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(words[0], ["found", "3", "leases"]);
    assert_eq!(words[1], ["id", "ttl", "remaining", "items", "token"]);
    assert_eq!((words[2][0], words[2][1], words[2][3]), ("0000000000000001", "600s", "1"));
    assert_eq!((words[4][0], words[4][1], words[4][3]), ("0000000000000003", "600s", "0"));
}

#[test]
fn the_endpoint_may_stand_anywhere_and_a_list_of_them_is_tried() {
    let server = Server::in_memory();
    let address = &server.address;
    // Nobody listens on port 1.
    for line in [
        format!("--endpoint {address} lease list"),
        format!("lease --endpoint {address} list"),
        format!("lease list --endpoint {address}"),
        format!("lease list --endpoint 127.0.0.1:1,{address}"),
        format!("--endpoint 127.0.0.1:1 lease list --endpoint {address}"),
    ] {
        let args: Vec<&str> = line.split(' ').collect();
        let run = super::rig::run(super::rig::tenure(&args).env("TENURE_ENDPOINT", "127.0.0.1:1"));
        assert_eq!((run.out.as_str(), run.code), ("found 0 leases\n", 0), "{line}: {}", run.err);
    }
}

#[test]
fn status_and_roles() {
    let server = Server::in_memory();
    server.out("lease grant 600 --id a");
    server.out("lease attach a x");
    let status = server.out("status");
    for line in [
        "role         primary",
        "durability   in memory, renewals unlogged",
        "leases       1",
        "items        1",
    ] {
        assert!(status.lines().any(|found| found == line), "no line `{line}` in:\n{status}");
    }
    let json: serde_json::Value = serde_json::from_str(&server.out("-w json status")).expect("JSON");
    assert_eq!(
        (&json["role"], &json["leases"], &json["shard_count"]),
        (&"primary".into(), &1.into(), &1.into())
    );
    assert_eq!(json["shards"][0]["leases"], 1);
    let longest = &json["shards"][0]["longest"];
    assert_eq!(longest.as_object().map(serde_json::Map::len), Some(tenure_protocol::TURN_CAUSES.len()));
    assert!(longest["turn"]["wall_us"].as_u64() > Some(0));
    assert_eq!(json["lateness"]["expiries"], 0);
    server.check(&[
        ("demote", 0, "demoted to standby"),
        (
            "lease grant 600",
            1,
            "tenure: this server is a standby: ask the primary, or promote this one with: tenure promote",
        ),
        ("lease timetolive a", 0, "lease 000000000000000a granted with TTL(600s), remaining(Ns)"),
        ("promote --extend 5s", 0, "promoted to primary, every lease extended by 5s"),
        ("promote --extend 5s", 0, "is primary already: nothing changed, and no lease was extended"),
        ("-w json promote --extend 5s", 0, r#"{"role":"primary","extend_ms":0,"changed":false}"#),
        ("-w json demote", 0, r#"{"role":"standby"}"#),
    ]);
    assert_eq!(
        settled(&server.out("-w json promote")),
        "{\"role\":\"primary\",\"extend_ms\":0,\"changed\":true}"
    );
}
