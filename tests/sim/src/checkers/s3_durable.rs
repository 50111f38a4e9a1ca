//! **S3 ack-after-durable**: no reply or event reveals state that a crash could undo (at the default
//! durability). This includes reads and "expired": what was told dead stays dead.
//!
//! After every crash the recovered shards are compared with what was told before it; between crashes what
//! is told now with what was told before.

use std::collections::BTreeSet;

use super::Verdict;
use crate::oracle::{Key, Lease};

/// A lease of which somebody was told, after a crash.
///
/// # Errors
/// It is gone without an end.
pub fn still_there(key: Key, lease: &Lease, is_there: bool, may_have_ended: bool) -> Verdict {
    if !is_there && !may_have_ended {
        return Err(format!(
            "S3 ack-after-durable: {key:x?} (TTL {} ms) is gone without an end",
            lease.ttl_ms
        ));
    }
    Ok(())
}

/// A lease that recovery shows.
///
/// # Errors
/// It had ended, and somebody was told.
pub fn stays_dead(key: Key, lease: Option<&Lease>) -> Verdict {
    match lease.and_then(|lease| lease.end) {
        Some(end) => Err(format!("S3 ack-after-durable: {key:x?} lives again, after its end {end:?}")),
        None => Ok(()),
    }
}

/// A lease that recovery shows and nobody was told of.
///
/// # Errors
/// Nobody asked for it either.
pub fn granted_by_somebody(key: Key, possible: bool) -> Verdict {
    if possible { Ok(()) } else { Err(format!("S3 ack-after-durable: {key:x?} was granted by nobody")) }
}

/// A client is told `what` of an ID, as of a living lease.
///
/// # Errors
/// No lease of that ID lived since the request was sent.
pub fn told_living(id: u64, what: &str, candidates: usize, possible: bool) -> Verdict {
    if candidates == 0 && !possible {
        return Err(format!("S3 ack-after-durable: {id:x} was {what}, though told dead before"));
    }
    Ok(())
}

/// A client is told that no lease has an ID.
///
/// # Errors
/// The one that it knew when it asked has not ended.
pub fn told_dead(id: u64, known: Option<Key>, lease: Option<&Lease>) -> Verdict {
    match (known, lease) {
        (Some(key), Some(lease)) if lease.end.is_none() => {
            Err(format!("S3 ack-after-durable: {id:x} was told dead, but {key:x?} has no end on record"))
        }
        _ => Ok(()),
    }
}

/// After a crash, who has an item.
///
/// # Errors
/// Somebody who cannot have it, or nobody although somebody must.
pub fn item_is_possible(item: &str, owner: Option<Key>, possible: &BTreeSet<Option<Key>>) -> Verdict {
    if !possible.contains(&owner) {
        return Err(format!(
            "S3 ack-after-durable: item {item} is on {owner:x?}, possible were {possible:x?}"
        ));
    }
    Ok(())
}

/// A client is told that it ended a lease.
///
/// # Errors
/// The lease has no end on record.
pub fn told_ended(key: Key, ended: bool) -> Verdict {
    if ended {
        Ok(())
    } else {
        Err(format!("S3 ack-after-durable: {key:x?} is told revoked, with no end on record"))
    }
}
