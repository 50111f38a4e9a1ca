//! **S9 once**: a lease ends exactly once, with one cause (`Expired` or `Revoked`), one position, one event in
//! the stream. Delivery is at least once; the position makes it exactly once for a consumer that stores it.
//!
//! With it what makes a grant happen once: tokens that only grow, and identified grants that are found again.

use std::collections::BTreeSet;

use super::Verdict;
use crate::oracle::{End, Key, Lease};

/// A stream says that a lease ended.
///
/// # Errors
/// It had ended before, or was revoked by nobody, or expired after its revocation was told.
pub fn ends_once(key: Key, lease: &Lease, end: End) -> Verdict {
    if let Some(before) = lease.end {
        return Err(format!("S9 once: {key:x?} ended twice: {before:?} and {end:?}"));
    }
    if !end.expired && !lease.revoke_asked {
        return Err(format!("S9 once: {key:x?} was revoked by nobody: {end:?}"));
    }
    if end.expired && lease.revoke_told {
        return Err(format!("S9 once: {key:x?} expired, though told revoked: {end:?}"));
    }
    Ok(())
}

/// A subscriber gets an end.
///
/// # Errors
/// It is not what happened there, or something that happened before it was left out.
pub fn told_as_it_was(
    position: u64,
    told: (Key, bool),
    was: Option<(Key, bool)>,
    left_out: Option<u64>,
) -> Verdict {
    if was != Some(told) {
        return Err(format!("S9 once: a subscriber was told {told:x?} at {position}, it was {was:x?}"));
    }
    if let Some(left_out) = left_out {
        return Err(format!("S9 once: a subscriber was told {position} and never {left_out}"));
    }
    Ok(())
}

/// A subscriber has everything when nothing happens any more.
///
/// # Errors
/// An event was left out.
pub fn nothing_left_out(next: u64, last: Option<u64>) -> Verdict {
    match last {
        Some(last) if last >= next => {
            Err(format!("S9 once: a subscriber stands at {next} and was never told {last}"))
        }
        _ => Ok(()),
    }
}

/// A grant gives a token.
///
/// # Errors
/// Not a newer one than before, for a lease that is not known already.
pub fn token_is_newer(key: Key, newest: u64, known: Option<&Lease>) -> Verdict {
    if key.1 <= newest && known.is_none() {
        return Err(format!("S9 once: {key:x?} was granted after the token {newest:x}"));
    }
    Ok(())
}

/// An identified grant was answered with another lease than before.
///
/// # Errors
/// The one before still lived.
pub fn granted_twice(before: Key, now: Key, lease: Option<&Lease>, sent_ms: u64) -> Verdict {
    let lived = lease.is_some_and(|lease| lease.end.is_none());
    if lived {
        return Err(format!("S9 once: one grant made {before:x?} and {now:x?} (repeat sent at {sent_ms})"));
    }
    Ok(())
}

/// Items leave with a lease that ended.
///
/// # Errors
/// For a second time.
pub fn items_leave_once(key: Key, items: &[String], seen: &BTreeSet<String>, is_done: bool) -> Verdict {
    if is_done {
        return Err(format!("S9 once: items of {key:x?} left after the last: {items:?}"));
    }
    if let Some(again) = items.iter().find(|item| seen.contains(*item)) {
        return Err(format!("S9 once: item {again} left {key:x?} twice"));
    }
    Ok(())
}

/// The last items of a lease have left.
///
/// # Errors
/// Some are missing, or were never its own.
pub fn items_leave_whole(
    key: Key,
    must: &BTreeSet<String>,
    seen: &BTreeSet<String>,
    may: &BTreeSet<String>,
) -> Verdict {
    if let Some(missing) = must.difference(seen).next() {
        return Err(format!("S9 once: item {missing} did not leave with {key:x?}"));
    }
    if let Some(foreign) = seen.difference(may).next() {
        return Err(format!("S9 once: item {foreign} left with {key:x?}, which did not have it"));
    }
    Ok(())
}

/// The leases of one shard that have an item.
///
/// # Errors
/// More than one.
pub fn one_owner(item: &str, one: Option<Key>, other: Option<Key>) -> Verdict {
    match other {
        Some(other) => Err(format!("S9 once: item {item} is on {one:x?} and {other:x?}")),
        None => Ok(()),
    }
}

/// Past events cannot be read.
///
/// # Errors
/// They are all on disk at the default durability.
pub fn history_is_whole(is_durable: bool, text: &str) -> Verdict {
    if is_durable { Err(format!("S9 once: past events cannot be read: {text}")) } else { Ok(()) }
}
