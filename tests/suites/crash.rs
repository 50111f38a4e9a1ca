//! kill -9 under load, at random moments, a hundred times: nothing acknowledged is lost, nothing told dead
//! lives, nothing expires early, and the server starts again by itself.
//!
//! `TENURE_CRASH_ROUNDS` kills (default 100) are shared among a few runs, each in a directory of its own;
//! `TENURE_CRASH_SEED` chooses other moments. A failure prints the command that repeats it; load on a
//! real machine does not replay to the microsecond, but the choices do.

use tenure_tests::crash::run::{Plan, assert_worthwhile, run};
use tenure_tests::random::setting;

const BINARY: &str = env!("CARGO_BIN_EXE_tenure-under-test");

fn crash(name: &str, share_percent: u64, reshard: bool) {
    let rounds = (setting("TENURE_CRASH_ROUNDS", 100) * share_percent).div_ceil(100);
    let seed = setting("TENURE_CRASH_SEED", 2_026) + share_percent;
    let plan = Plan { seed, rounds, reshard };
    // Kept when the run fails, whichever way it does.
    let dir = tempfile::tempdir().expect("a temporary directory").keep();
    println!(
        "{name} in {}; repeat with: TENURE_CRASH_SEED={} TENURE_CRASH_ROUNDS={} cargo test -p tenure-tests --test \
         crash {name} -- --nocapture",
        dir.display(),
        setting("TENURE_CRASH_SEED", 2_026),
        setting("TENURE_CRASH_ROUNDS", 100),
    );
    match run(BINARY, &dir, plan) {
        Ok(tally) => {
            println!("{name}: {rounds} kills, {tally:?}");
            assert_worthwhile(&tally, &plan);
            let _ = std::fs::remove_dir_all(&dir);
        }
        Err(broken) => panic!("{broken}"),
    }
}

#[test]
fn acknowledged_is_acknowledged() {
    crash("acknowledged_is_acknowledged", 60, false);
}

#[test]
fn and_stays_so_through_resharding() {
    crash("and_stays_so_through_resharding", 40, true);
}
