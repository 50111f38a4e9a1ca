//! Replays the fuzzers' corpora: every input that they found worth keeping, and every one that once broke something.
//!
//! `tests/fuzz/corpus/TARGET/*` are inputs, minimised; `docs/testing.md` says how they are made. A panic names
//! target and file. Short streams of noise follow, so that a target without a corpus is exercised, too.

use std::panic::catch_unwind;

use tenure_tests::fuzz::TARGETS;
use tenure_tests::random::Random;
use tenure_tests::tree;

/// All corpora together, in the repository.
const CORPUS_BYTES_MAX: u64 = 2 << 20;

#[test]
fn every_input_of_the_corpora_is_harmless() {
    let mut failures = Vec::new();
    let mut bytes_in_all = 0;
    for (name, target) in TARGETS {
        let folder = tree::root().join("tests/fuzz/corpus").join(name);
        let entries =
            std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        let mut count = 0;
        for entry in entries {
            let path = entry.expect("a file").path();
            let input = std::fs::read(&path).expect("an input");
            bytes_in_all += input.len() as u64;
            count += 1;
            if catch_unwind(|| target(&input)).is_err() {
                failures.push(path.display().to_string());
            }
        }
        assert!(count >= 5, "{name}: only {count} inputs: has the corpus moved?");
    }
    assert!(failures.is_empty(), "these inputs break something:\n  {}", failures.join("\n  "));
    assert!(
        bytes_in_all <= CORPUS_BYTES_MAX,
        "the corpora have grown to {bytes_in_all} bytes: minimise them"
    );
}

#[test]
fn noise_is_harmless() {
    for (name, target) in TARGETS {
        let mut random = Random::new(20);
        for round in 0..5_000 {
            let length = random.below(300) as usize;
            let input: Vec<u8> = (0..length).map(|_| random.next() as u8).collect();
            assert!(catch_unwind(|| target(&input)).is_ok(), "{name}, round {round}: {input:02x?}");
        }
    }
}
