//! Time as the shard sees it: milliseconds of the engine's own uptime clock, and places in its log.
//!
//! Both only ever grow. The clock is passed in with every verb (S6 time-forward: a step back is a bug of the
//! caller and stops the process); it is carried in the log, stands still while the engine is down, and has
//! nothing to do with wall-clock time.

use std::fmt;

/// Milliseconds of the engine's uptime clock, rounded down.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
#[repr(transparent)]
pub struct Time(pub u64);

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}ms", self.0)
    }
}

/// A byte-exact place in a shard's log, ever increasing. 0 stands before every record: "nothing to wait for".
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
#[repr(transparent)]
pub struct Position(pub u64);

impl Position {
    /// Before every record; as the `after` of an answer: it may be told at once.
    pub const ZERO: Position = Position(0);
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// Fencing token of a lease: the position of its grant record. Strictly increasing within a shard, so that a
/// late holder can be told from a new one, whatever the id. Never 0.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
#[repr(transparent)]
pub struct Token(pub u64);

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}
