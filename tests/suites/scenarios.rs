//! Plays every file of `tests/scenarios` and compares what happens with what it says.

use tenure_tests::scenario::check_on_a_shard;
use tenure_tests::tree;

#[test]
fn every_scenario_goes_as_it_is_told() {
    let files = tree::files("tests/scenarios", "txt");
    assert!(files.len() >= 10, "only {} scenarios: have they moved?", files.len());
    let failures: Vec<String> = files.iter().filter_map(check_on_a_shard).collect();
    let advice = "if it should be so: TENURE_SCENARIOS=write cargo test -p tenure-tests --test scenarios";
    assert!(failures.is_empty(), "{}\n{advice}", failures.join("\n"));
}
