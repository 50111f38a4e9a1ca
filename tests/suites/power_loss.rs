//! Power loss at every disk operation: thousands of images that a disk may legally hold, each recovered by the
//! real engine and compared with what was written and promised (`tenure_tests::power`).
//!
//! `TENURE_POWER_IMAGES` is the least number of images (default 5,000); `TENURE_POWER_SEED` the first seed.
//! A failure names seed, life, operation and image, and the command that repeats the run.

use tenure_tests::patience::eventually;
use tenure_tests::power::audit::Tally;
use tenure_tests::power::load::{Plan, run};
use tenure_tests::power::medium::Lie;
use tenure_tests::random::setting;
use tenure_tests::server::ServerOptions;
use tenure_tests::wire::Wire;

const BINARY: &str = env!("CARGO_BIN_EXE_tenure-under-test");

#[test]
fn every_legal_image_recovers_to_what_was_promised() {
    let (wanted, first) = (setting("TENURE_POWER_IMAGES", 5_000), setting("TENURE_POWER_SEED", 1));
    let mut tally = Tally::default();
    let mut seed = first;
    while tally.images < wanted {
        let plan = Plan { seed, shots_each: 2, lives: 5, turns: 12, lie: None };
        match run(plan) {
            Ok(found) => tally.add(&found),
            Err(reason) => panic!(
                "{reason}\nrepeat with: TENURE_POWER_SEED={seed} TENURE_POWER_IMAGES=1 cargo test -p tenure-tests \
                 --test power_loss"
            ),
        }
        seed += 1;
    }
    println!("seeds {first} to {}: {tally:?}", seed - 1);
    if wanted < 5_000 {
        return;
    }
    // A run that met no hard case would prove nothing.
    for (what, count) in [
        ("torn logs", tally.torn),
        ("unpromised batches", tally.with_unpromised),
        ("recycled segments", tally.recycled),
        ("re-shardings that happened", tally.resharded),
        ("re-shardings that did not", tally.not_resharded),
        ("re-shardings of an image", tally.resharded_after),
        ("second power losses", tally.second_lives),
    ] {
        assert!(count > tally.images / 2_500, "{what}: only {count} in {} images", tally.images);
    }
}

/// The audit can fail: each lie of a disk is noticed within a few seeds.
#[test]
fn a_disk_that_lies_is_found_out() {
    for lie in [Lie::Writes, Lie::Syncs, Lie::Names] {
        let plan = |seed| Plan { seed, shots_each: 1, lives: 2, turns: 8, lie: Some(lie) };
        let found = (1..=10).find_map(|seed| run(plan(seed)).err());
        let found = found.unwrap_or_else(|| panic!("a disk that lies about {lie:?} was believed"));
        println!("{lie:?}: {found}");
    }
}

/// What the images take for granted of the real drivers: their log files are open such that a completed write is
/// durable. The kernel says how a descriptor was opened.
#[test]
fn a_running_server_has_its_log_open_for_durable_writes() {
    for driver in ["ring", "glommio"] {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let options = ServerOptions::new(BINARY).shards(1).data_dir(dir.path());
        let server = options.flag("--segment-size", 4 << 20).driver(driver).start();
        let mut wire = Wire::connect(server.address()).expect("a connection");
        wire.grant_with_id(tenure_protocol::LeaseId(1), 3_600_000);
        let process = std::path::PathBuf::from(format!("/proc/{}", server.pid()));
        let flags: Vec<i32> = eventually("a log file is open", || {
            let open = std::fs::read_dir(process.join("fd")).ok()?.flatten();
            let logs = open.filter(|fd| {
                std::fs::read_link(fd.path())
                    .is_ok_and(|file| file.extension().is_some_and(|end| end == "log"))
            });
            let flags = logs.filter_map(|fd| {
                let info = std::fs::read_to_string(process.join("fdinfo").join(fd.file_name())).ok()?;
                let octal = info.lines().find_map(|line| line.strip_prefix("flags:"))?.trim();
                i32::from_str_radix(octal, 8).ok()
            });
            let writing = |flags: &i32| flags & libc::O_ACCMODE != libc::O_RDONLY;
            let found: Vec<i32> = flags.filter(writing).collect();
            (!found.is_empty()).then_some(found)
        });
        for flags in flags {
            assert_ne!(flags & libc::O_DSYNC, 0, "S3: {driver} writes its log with the flags {flags:o}");
        }
    }
}
