//! **S1 one-shard**: an ID maps to exactly one shard; only that shard's core touches the lease.
//!
//! Seen from outside: a lease is found on the shard that its ID names and on no other, and a server that is
//! asked for an ID gives that ID. (The engine's own `check_invariants` looks at every lease of a shard.)

use std::collections::BTreeMap;

use super::Verdict;
use crate::oracle::{Found, Key};

/// A grant with a chosen ID gives that ID.
///
/// # Errors
/// It gave another one.
pub fn id_is_of_its_shard(id: u64, chosen: u64) -> Verdict {
    if chosen != 0 && id != chosen {
        return Err(format!("S1 one-shard: asked for {chosen:x}, granted {id:x}"));
    }
    Ok(())
}

/// Every lease lives on the shard of its ID, once.
///
/// # Errors
/// It lives elsewhere, or twice.
pub fn each_on_its_own(found: &[Found], shard_count: u16) -> Verdict {
    let mut seen: BTreeMap<u64, Key> = BTreeMap::new();
    for lease in found {
        let shard = tenure_core::shard_of(tenure_core::LeaseId(lease.key.0), shard_count).0;
        if shard != lease.shard {
            return Err(format!(
                "S1 one-shard: {:x?} of shard {shard} is on shard {}",
                lease.key, lease.shard
            ));
        }
        if let Some(other) = seen.insert(lease.key.0, lease.key) {
            return Err(format!("S1 one-shard: {:x?} and {other:x?} both live", lease.key));
        }
    }
    Ok(())
}

/// An event comes from the stream of the shard that its lease belongs to.
///
/// # Errors
/// It came from another one's.
pub fn event_of_own_shard(key: Key, shard: u16, shard_count: u16) -> Verdict {
    let own = tenure_core::shard_of(tenure_core::LeaseId(key.0), shard_count).0;
    if own != shard {
        return Err(format!("S1 one-shard: the end of {key:x?} of shard {own} is in the stream of {shard}"));
    }
    Ok(())
}
