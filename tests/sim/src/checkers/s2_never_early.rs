//! **S2 never-early**: no expiry while now < the latest promised deadline, restart and recovery included. A
//! holder that renews in time never loses its lease.
//!
//! A promise is made by each acknowledged grant and renewal: the lease does not expire before the time at
//! which the request was *sent*, plus the TTL, in served time. A client that trusts a lease by its own
//! clock (send time + TTL − allowance) must never trust one that has expired, nor give one up that it may
//! trust, nor come to trust again what it could not for a while, when the ID may be somebody else's; and it
//! finds out within a hundredth of the TTL that it may trust one no longer, however its clock leapt.

use super::Verdict;
use crate::oracle::{End, Key, Lease};

/// A lease expired at `at_ms`.
///
/// # Errors
/// It had been promised for longer.
pub fn expired(key: Key, lease: &Lease, at_ms: u64) -> Verdict {
    if at_ms < lease.promised_ms {
        return Err(format!(
            "S2 never-early: {key:x?} with TTL {} ms expired at {at_ms}, promised until {}",
            lease.ttl_ms, lease.promised_ms
        ));
    }
    Ok(())
}

/// A promise is told of a lease that may have ended meanwhile.
///
/// # Errors
/// It had expired before the promised time.
pub fn promise(key: Key, lease: &Lease, promised_ms: u64) -> Verdict {
    match lease.end {
        Some(End { at_ms, expired: true, .. }) if at_ms < promised_ms => Err(format!(
            "S2 never-early: {key:x?} was promised until {promised_ms}, and had expired at {at_ms}"
        )),
        _ => Ok(()),
    }
}

/// A client is told what is left of a lease that had been promised until `promised_ms` when it asked.
///
/// # Errors
/// Less than was promised before, or more than the TTL.
pub fn remaining(key: Key, ttl_ms: u64, remaining_ms: u64, promised_ms: u64, now_ms: u64) -> Verdict {
    if remaining_ms < ttl_ms && now_ms + remaining_ms < promised_ms {
        return Err(format!(
            "S2 never-early: {key:x?} is told {remaining_ms} ms at {now_ms}, promised until {promised_ms}"
        ));
    }
    if remaining_ms > ttl_ms {
        return Err(format!("S2 never-early: {key:x?} has {remaining_ms} ms of {ttl_ms} ms"));
    }
    Ok(())
}

/// A client trusted a lease until `valid_until_ms` of its clock, which stood at `local_ms` when it expired or
/// later.
///
/// # Errors
/// It still trusted it.
pub fn trusted(key: Key, valid_until_ms: u64, local_ms: u64) -> Verdict {
    if local_ms < valid_until_ms {
        return Err(format!(
            "S2 never-early: {key:x?} has expired at {local_ms} of its holder's clock, who trusts it until {valid_until_ms}"
        ));
    }
    Ok(())
}

/// A client's clock stands at `local_ms`, and it gives up a lease that was valid until `valid_until_ms` because
/// nobody renewed it.
///
/// # Errors
/// It may trust it still.
pub fn given_up(key: Key, valid_until_ms: u64, local_ms: u64) -> Verdict {
    if local_ms < valid_until_ms {
        return Err(format!(
            "S2 never-early: {key:x?} is given up at {local_ms} of its holder's clock, valid until {valid_until_ms}"
        ));
    }
    Ok(())
}

/// A lease was valid until `before_ms` of its holder's clock, which stands at `local_ms`; a renewal is answered,
/// and it is said to be valid until `after_ms`.
///
/// # Errors
/// It was not to be trusted for a while, and is now.
pub fn stays_lost(key: Key, before_ms: u64, after_ms: u64, local_ms: u64) -> Verdict {
    if before_ms <= local_ms && local_ms < after_ms {
        return Err(format!(
            "S2 never-early: {key:x?} was valid until {before_ms}, and is trusted again at {local_ms} of its \
             holder's clock"
        ));
    }
    Ok(())
}

/// A client's clock stands at `local_ms`, it has just looked for what is due, and it still keeps this lease.
///
/// # Errors
/// The lease is past its time, and the client did not notice.
pub fn noticed(key: Key, ttl_ms: u64, valid_until_ms: u64, local_ms: u64) -> Verdict {
    if local_ms > valid_until_ms + ttl_ms / 100 {
        return Err(format!(
            "S2 never-early: {key:x?} is kept at {local_ms} of its holder's clock, valid until {valid_until_ms}"
        ));
    }
    Ok(())
}
