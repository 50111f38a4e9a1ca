//! The disasters of others, told as scenarios and played on the simulated world.
//!
//! `tests/sim/scenarios/*.txt` are both specification and test; [`stage`] says how they are written. Each names in a
//! line `# planted: …` the bugs that make it go another way, so that none is told in vain.

mod actor;
mod book;
mod bulk;
mod stage;

use stage::Stage;
use tenure_tests::scenario::check;
use tenure_tests::tree;

fn scenarios() -> Vec<tree::SourceFile> {
    let files = tree::files("tests/sim/scenarios", "txt");
    assert!(files.len() >= 9, "only {} scenarios: have they moved?", files.len());
    files
}

#[test]
fn every_disaster_goes_as_it_is_told() {
    let failures: Vec<String> = scenarios()
        .iter()
        .filter_map(|file| {
            let started = std::time::Instant::now();
            let failure = check(&mut Stage::default(), file);
            println!("{} in {:.1} s", file.path, started.elapsed().as_secs_f64());
            failure
        })
        .collect();
    let advice = "if it should be so: TENURE_SCENARIOS=write cargo test -p tenure-sim --test disasters";
    assert!(failures.is_empty(), "{}\n{advice}", failures.join("\n"));
}

/// Each scenario goes another way, or breaks an invariant on its way, with each of the bugs that it names.
#[cfg(feature = "planted")]
#[test]
fn every_disaster_would_be_noticed() {
    let mut missed = Vec::new();
    for file in scenarios() {
        let line = file.text.lines().find_map(|line| line.strip_prefix("# planted: "));
        let names = line.unwrap_or_else(|| panic!("{} names no planted bug", file.path)).split(' ');
        for name in names {
            match play_with(name, &file.text) {
                Some(how) => println!("{} with {name}: {how}", file.path),
                None => missed.push(format!("{} with {name}", file.path)),
            }
        }
    }
    assert!(missed.is_empty(), "planted, and nothing went another way: {missed:#?}");
}

/// How a scenario goes otherwise than told with this bug, if it does.
#[cfg(feature = "planted")]
fn play_with(name: &str, text: &str) -> Option<String> {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    let bug = tenure_planted::BUGS.iter().find(|(_, known, ..)| *known == name);
    let (bug, ..) = bug.unwrap_or_else(|| panic!("no bug is called {name}"));
    tenure_planted::plant(Some(*bug));
    let played =
        catch_unwind(AssertUnwindSafe(|| tenure_tests::scenario::play_on(&mut Stage::default(), text)));
    tenure_planted::plant(None);
    match played {
        Ok(played) => {
            let (line, told, happened) = played.difference?;
            Some(format!("line {line}: `{}` became `{}`", told.trim(), happened.trim()))
        }
        Err(_) => Some("an invariant does not hold".to_owned()),
    }
}
