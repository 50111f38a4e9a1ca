//! inspect, verify, repair: on a sound directory, a busy one and a damaged one.

use std::os::unix::fs::FileExt;
use std::path::Path;

use super::rig::{Run, Server, directory, run, tenure, text};

/// A directory in which a server granted leases 1 to 5, one commit each, and stopped.
fn filled(dir: &Path) {
    let server = serve(dir);
    for id in 1..=5 {
        server.out(&format!("lease grant 600 --id {id}"));
    }
    assert_eq!(server.stop(), 0);
}

fn serve(dir: &Path) -> Server {
    Server::start(&["--shards", "1", "--data-dir", text(dir)])
}

fn tool(args: &[&str]) -> Run {
    run(&mut tenure(args))
}

/// Positions of the batches that hold a grant, in order.
fn grants(dir: &Path) -> Vec<u64> {
    let shown = tool(&["inspect", text(dir), "--records"]);
    assert_eq!(shown.code, 0, "{shown:?}");
    let mut batch = 0;
    let mut found = Vec::new();
    for line in shown.out.lines().map(str::trim_start) {
        if let Some(rest) = line.strip_prefix("batch ") {
            batch = rest.split(' ').next().expect("a position").parse().expect("a number");
        } else if line.contains(" grant ") {
            found.push(batch);
        }
    }
    found
}

#[test]
fn a_sound_directory_is_shown_and_verified() {
    let dir = directory();
    let data = dir.path().join("data");
    filled(&data);
    assert_eq!(grants(&data).len(), 5);
    let brief = tool(&["inspect", text(&data)]);
    assert!(brief.out.starts_with(&format!("data directory {}\n", data.display())), "{brief:?}");
    assert!(!brief.out.contains("batch "));
    let clean = tool(&["verify", text(&data)]);
    assert_eq!((clean.err.as_str(), clean.code), ("", 0), "{clean:?}");
    assert!(clean.out.ends_with(&format!("{}: clean\n", data.display())), "{clean:?}");
    let json = tool(&["verify", text(&data), "-w", "json"]);
    let json: serde_json::Value = serde_json::from_str(&json.out).expect("JSON");
    assert_eq!((&json["clean"], &json["shards"][0]["damage"]), (&true.into(), &serde_json::json!([])));
}

#[test]
fn a_directory_in_use_is_left_alone() {
    let dir = directory();
    let data = dir.path().join("data");
    let server = serve(&data);
    for args in [
        &["verify", text(&data)][..],
        &["repair", text(&data), "--shard", "0", "--truncate-at", "0", "--yes"],
    ] {
        let run = tool(args);
        assert!(run.err.contains("is in use by"), "{run:?}");
        assert_eq!((run.out.as_str(), run.code), ("", 75));
    }
    let second = tool(&["serve", "--listen", "127.0.0.1:0", "--shards", "1", "--data-dir", text(&data)]);
    assert_eq!(second.code, 75, "{second:?}");
    assert_eq!(tool(&["inspect", text(&data)]).code, 0);
    assert_eq!(server.stop(), 0);
}

#[test]
fn damage_is_refused_named_and_cut_off_only_on_request() {
    let dir = directory();
    let data = dir.path().join("data");
    filled(&data);
    let at = grants(&data)[2];
    let segment = data.join("shard-0000").join(format!("{:020}.log", 0));
    let file =
        std::fs::OpenOptions::new().read(true).write(true).open(&segment).expect("opening the segment");
    let mut byte = [0];
    file.read_exact_at(&mut byte, at + 70).expect("reading");
    file.write_all_at(&[byte[0] ^ 1], at + 70).expect("writing");

    let verified = tool(&["verify", text(&data)]);
    assert_eq!(verified.code, 65, "{verified:?}");
    let way_out = format!("--shard 0 --truncate-at {at}");
    assert!(verified.out.contains(&way_out), "{verified:?}");
    let started = tool(&["serve", "--listen", "127.0.0.1:0", "--data-dir", text(&data)]);
    assert_eq!(started.code, 65, "{started:?}");
    assert!(started.err.contains(&way_out), "{started:?}");

    let position = at.to_string();
    let repair = ["repair", text(&data), "--shard", "0", "--truncate-at", &position];
    let unasked = tool(&repair);
    assert_eq!(unasked.code, 2, "{unasked:?}");
    assert!(unasked.out.contains("would drop everything") && unasked.err.contains("--yes"), "{unasked:?}");
    assert_eq!(tool(&["verify", text(&data)]).code, 65, "nothing may have changed yet");

    let repaired = tool(&[&repair[..], &["--yes"]].concat());
    assert_eq!((repaired.err.as_str(), repaired.code), ("", 0));
    assert!(repaired.out.contains("dropped everything from position"), "{repaired:?}");
    assert_eq!(tool(&["verify", text(&data)]).code, 0);
    let server = serve(&data);
    assert_eq!(server.out("lease list"), "found 2 leases\n0000000000000001\n0000000000000002\n");
}
