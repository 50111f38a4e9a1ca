//! Exit codes of the `tenure` command, in one place.
//!
//! | code | meaning |
//! | --- | --- |
//! | 0 | done |
//! | 1 | the server answered, and the answer is no: refused, not found |
//! | 2 | the command line makes no sense |
//! | 65 | data is damaged; what `verify` and `inspect` report as well |
//! | 69 | the server cannot be reached, or went away before it answered |
//! | 70 | a fault of this program |
//! | 71 | the system lacks what is needed: io_uring, memlock, an address, a thread, a disk that can be read |
//! | 74 | the log cannot be written: the server ended rather than lie |
//! | 75 | the data directory is in use by another process: try again later |
//! | 77 | credentials missing or wrong |
//! | 78 | the configuration is wrong |
//! | 130, 143 | a benchmark ended by SIGINT or SIGTERM; a server by a second one while draining |
//!
//! From 64 on the numbers are those of `sysexits.h`, which service managers know.

/// Done.
pub const OK: i32 = 0;
/// The server refused, or what was asked for does not exist.
pub const REFUSED: i32 = 1;
/// The command line makes no sense.
pub const USAGE: i32 = 2;
/// A data directory or file is damaged.
pub const DAMAGED: i32 = 65;
/// The server cannot be reached, or the outcome is unknown.
pub const UNREACHABLE: i32 = 69;
/// A fault of this program.
pub const INTERNAL: i32 = 70;
/// The system lacks what is needed.
pub const SYSTEM: i32 = 71;
/// The log cannot be written.
pub const LOG_FAULT: i32 = 74;
/// The data directory is in use.
pub const IN_USE: i32 = 75;
/// Credentials missing or wrong.
pub const UNAUTHORIZED: i32 = 77;
/// The configuration is wrong.
pub const CONFIG: i32 = 78;
/// Ended by a repeated signal: this plus the signal's number.
pub const SIGNAL_BASE: i32 = 128;

/// The code for an engine that did not open.
#[must_use]
pub fn of_open(error: &tenure::OpenError) -> i32 {
    use tenure::OpenError;
    use tenure::log::LogError;
    match error {
        OpenError::Config(_) => CONFIG,
        OpenError::Log(LogError::Locked { .. }) => IN_USE,
        OpenError::Log(LogError::Io { .. } | LogError::Unreadable { .. })
        | OpenError::Io { .. }
        | OpenError::Driver { .. } => SYSTEM,
        OpenError::Log(_) | OpenError::Replay { .. } => DAMAGED,
    }
}

const _: () =
    assert!(LOG_FAULT == tenure::EXIT_LOG_FAULT, "the engine ends the process with this code itself");
