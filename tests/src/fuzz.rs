//! What fuzzers are let loose on: one function per target, the same for a fuzzer and for `cargo test`.
//!
//! A target takes any bytes. It panics when a promise does not hold: bytes from outside never panic, hang or
//! allocate without bound; what is read and written again is the same; what is accepted keeps the invariants.
//! `tests/fuzz` wraps each in a libFuzzer program (`docs/testing.md` has the commands), and
//! `tests/suites/corpora.rs` replays what the fuzzers found worth keeping, on the stable toolchain.
//!
//! Targets that need structure read their bytes as a script of small choices ([`script`]); what a script means never
//! changes with a crate's version, so a corpus stays what it was.

pub mod directory;
pub mod frames;
pub mod records;
pub mod script;
pub mod session;
pub mod words;

/// A target: any bytes in, a panic when something is wrong.
pub type Target = fn(&[u8]);

/// Every target by its name, which is that of its corpus and of its fuzz program.
pub const TARGETS: &[(&str, Target)] = &[
    ("requests", frames::requests),
    ("responses", frames::responses),
    ("session", session::session),
    ("records", records::records),
    ("image", records::image),
    ("directory", directory::directory),
    ("manifest", words::manifest),
    ("config", words::config),
    ("words", words::words),
];
