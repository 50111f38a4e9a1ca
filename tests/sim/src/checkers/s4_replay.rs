//! **S4 replay-equal**: snapshot + log replayed = the live state, to the byte of a canonical dump (deadlines
//! of unlogged renewals aside).
//!
//! Whenever a process ends with everything written, the next one must show the same dumps; whatever a
//! crash leaves must read the same twice; and each shard has the role that was told last.

use tenure::Role;

use super::Verdict;
use crate::oracle::Found;

/// Dumps of all shards before the end of a process, and after the start of the next.
///
/// # Errors
/// They differ; the text has the first line that does.
pub fn same(before: &str, after: &str) -> Verdict {
    if before == after {
        return Ok(());
    }
    let mut lines = before.lines().zip(after.lines());
    let differs = lines.find(|(one, other)| one != other);
    Err(match differs {
        Some((one, other)) => format!("S4 replay-equal: lived as `{one}`, recovered as `{other}`"),
        None => {
            let (one, other) = (before.lines().count(), after.lines().count());
            format!("S4 replay-equal: {one} lines lived, {other} were recovered")
        }
    })
}

/// A shard is recovered in a role; `told` is the last one that was acknowledged, if that is known.
///
/// # Errors
/// It is another.
pub fn role_kept(shard: u16, told: Option<Role>, role: Role) -> Verdict {
    match told {
        Some(told) if told != role => {
            Err(format!("S4 replay-equal: shard {shard} was told {told:?}, and recovered as {role:?}"))
        }
        _ => Ok(()),
    }
}

/// An engine refuses to start although nothing was damaged.
#[must_use]
pub fn refused_to_start(reason: &str) -> String {
    format!("S4 replay-equal: the engine refuses to start on a sound disk: {reason}")
}

/// An engine refuses to start because a file was damaged.
///
/// # Errors
/// The refusal names no file: it should be the damaged one, or the one before it where the log now ends.
pub fn names_a_file(name: &str, refusal: &str) -> Verdict {
    if refusal.contains("/d/") {
        return Ok(());
    }
    Err(format!("S4 replay-equal: {name} was damaged, the refusal says: {refusal}"))
}

/// An engine starts although a file was damaged.
///
/// # Errors
/// It holds something else than with the file whole.
pub fn unharmed(path: &str, whole: &[Found], damaged: &[Found]) -> Verdict {
    let keys = |found: &[Found]| {
        found.iter().map(|found| (found.key, found.ttl_ms, found.items.clone())).collect::<Vec<_>>()
    };
    if keys(whole) == keys(damaged) {
        return Ok(());
    }
    Err(format!("S4 replay-equal: {path} was damaged and nobody noticed"))
}
