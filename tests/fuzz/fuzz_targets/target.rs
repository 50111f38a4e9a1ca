//! One program per target, all from this file: the name of the program is that of the target.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tenure_tests::fuzz::{TARGETS, Target};

fn target() -> Target {
    let name = env!("CARGO_BIN_NAME");
    TARGETS.iter().find(|(known, _)| *known == name).expect("a target of tenure_tests::fuzz").1
}

fuzz_target!(|data: &[u8]| target()(data));
