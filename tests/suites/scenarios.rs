//! Plays every file of `tests/scenarios` and compares what happens with what it says.

use tenure_tests::scenario::play;
use tenure_tests::tree;

#[test]
fn every_scenario_goes_as_it_is_told() {
    let rewrite = std::env::var("TENURE_SCENARIOS").is_ok_and(|mode| mode == "write");
    let files = tree::files("tests/scenarios", "txt");
    assert!(files.len() >= 10, "only {} scenarios: have they moved?", files.len());
    let mut failures = Vec::new();
    for file in files {
        let played = play(&file.text);
        if rewrite {
            std::fs::write(tree::root().join(&file.path), &played.text).expect("the scenario can be written");
        } else if let Some((line, expected, happened)) = played.difference {
            failures.push(format!("{}:{line}\n  told:     {expected}\n  happened: {happened}", file.path));
        }
    }
    let advice = "if it should be so: TENURE_SCENARIOS=write cargo test -p tenure-tests --test scenarios";
    assert!(failures.is_empty(), "{}\n{advice}", failures.join("\n"));
}
