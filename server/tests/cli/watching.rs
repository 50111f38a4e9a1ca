//! `tenure watch`: what it prints of each end, and how it resumes.

use super::rig::Server;

/// Ends four leases in a known order: revoked alone, revoked together, expired with items.
fn ends(server: &Server) {
    for id in ["1", "2", "3"] {
        server.out(&format!("lease grant 600 --id {id}"));
    }
    server.out("lease revoke 1");
    server.out("lease revoke 2 3");
    server.out("lease grant 600 --id 4");
    server.out("lease attach 4 a");
    server.out(r"lease attach 4 -e two\x20words");
    server.out("lease revoke 4");
    server.out("lease grant 1ms --id 5");
}

#[test]
fn each_end_is_a_line_with_position_cause_token_and_items() {
    let server = Server::in_memory();
    ends(&server);
    server.check(&[(
        "watch --from oldest --limit 5",
        0,
        "0:N  revoked  lease 0000000000000001  token N\n\
         0:N  revoked  lease 0000000000000002  token N\n\
         0:N  revoked  lease 0000000000000003  token N\n\
         0:N  revoked  lease 0000000000000004  token N  items([a \"two words\"])\n\
         0:N  expired  lease 0000000000000005  token N\n\
         watching from 0:N\n\
         resume with: tenure watch --from 0:N",
    )]);
}

#[test]
fn items_of_leases_that_end_together_follow_in_lines_of_their_own() {
    let server = Server::in_memory();
    for id in ["1", "2", "3"] {
        server.out(&format!("lease grant 600 --id {id}"));
    }
    server.out("lease attach 1 x");
    server.out("lease revoke 1 2");
    server.out("lease revoke 3");
    server.check(&[(
        "watch --from oldest --limit 3",
        0,
        "0:N  revoked  lease 0000000000000001  token N  items follow\n\
         0:N  revoked  lease 0000000000000002  token N\n\
         0:N  items    lease 0000000000000001  token N  items([x])\n\
         0:N  revoked  lease 0000000000000003  token N\n\
         watching from 0:N\n\
         resume with: tenure watch --from 0:N",
    )]);
}

#[test]
fn json_lines_carry_the_place_to_resume_from() {
    let server = Server::in_memory();
    ends(&server);
    let run = server.run(&["-w", "json", "watch", "--from", "oldest", "--limit", "5"]);
    assert_eq!(run.code, 0, "{run:?}");
    let lines: Vec<serde_json::Value> =
        run.out.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let ids: Vec<&str> = lines.iter().map(|line| line["id"].as_str().expect("an ID")).collect();
    assert_eq!(ids, ["1", "2", "3", "4", "5"].map(|id| format!("{id:0>16}")));
    assert_eq!(lines[3]["items"], serde_json::json!(["a", "two words"]));
    assert_eq!((&lines[4]["cause"], &lines[4]["items"]), (&"expired".into(), &serde_json::json!([])));
    // Each line's place leads to the next line and to no earlier one: each end once (S9).
    for (line, next) in lines.iter().zip(&lines[1..]) {
        let place = line["resume"].as_str().expect("a place");
        let again = server.run(&["-w", "json", "watch", "--from", place, "--limit", "1"]);
        let again: serde_json::Value = serde_json::from_str(&again.out).expect("JSON");
        assert_eq!((&again["id"], &again["position"]), (&next["id"], &next["position"]), "from {place}");
    }
}

#[test]
fn a_limit_inside_a_batch_resumes_behind_the_last_end_shown() {
    let server = Server::in_memory();
    ends(&server);
    let first = server.run(&["watch", "--from", "oldest", "--limit", "2"]);
    let place = first.err.trim_end().rsplit(' ').next().expect("the last word is the place");
    let second = server.run(&["watch", "--from", place, "--limit", "1"]);
    assert!(second.out.contains("lease 0000000000000003"), "{first:?}\n{second:?}");
}

#[test]
fn a_place_in_a_shard_that_does_not_exist_is_a_usage_error() {
    let server = Server::in_memory();
    server.check(&[("watch --from 7:0", 2, "tenure: --from names shard 7, but the server has 1 (0 to 0)")]);
}
