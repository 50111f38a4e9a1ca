//! Power loss at every disk operation: thousands of images that a disk may legally hold, each recovered by the
//! real engine and compared with what was written and promised (`tenure_tests::power`).
//!
//! `TENURE_POWER_IMAGES` is the least number of images (default 5,000); `TENURE_POWER_SEED` the first seed.
//! A failure names seed, life, operation and image, and the command that repeats the run.

use tenure_tests::power::audit::Tally;
use tenure_tests::power::load::{Plan, run};
use tenure_tests::power::medium::Lie;
use tenure_tests::random::setting;

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
