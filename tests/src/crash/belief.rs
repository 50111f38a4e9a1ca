//! What the only client of a lease may believe of it.
//!
//! Three kinds of evidence: an answer (certain), no answer (unknown), and an observation after a
//! restart, which must be consistent with the first and resolves the second. Every method that takes
//! evidence returns the broken promise as a text that begins with the invariant's name.
//!
//! Time is the client's monotonic clock, passed in. `held_until` counts from the *send* time of the last
//! acknowledged grant or renewal: the server's deadline cannot be before it (S2).

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use tenure_protocol::{Cause, LeaseId, Token};

/// A broken promise.
pub type Verdict = Result<(), String>;

/// What is known of an item on a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// Attached, acknowledged.
    Present,
    /// Taken off, acknowledged.
    Absent,
    /// Attached or taken off without an answer.
    Unknown,
}

/// Whether the lease lives, as far as anybody has said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    /// Granted, and nobody has said that it ended.
    Live,
    /// It was said that it ended, with the cause if that is certain.
    Dead(Option<Cause>),
}

/// What a reading of a live lease showed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observation {
    /// Its fencing token.
    pub token: Token,
    /// Its TTL, ms.
    pub ttl_ms: u64,
    /// What is left of it, ms.
    pub remaining_ms: u64,
    /// All of its items, sorted.
    pub items: Vec<Vec<u8>>,
}

/// One lease.
#[derive(Clone, Debug)]
pub struct Belief {
    /// Its ID.
    pub id: LeaseId,
    /// Its fencing token.
    pub token: Token,
    /// Its TTL, ms.
    pub ttl_ms: u64,
    /// It cannot have expired before this.
    pub held_until: Instant,
    /// Whether it lives.
    pub life: Life,
    /// A revocation was sent whose answer never came.
    pub may_be_revoked: bool,
    /// Its items: every one that was ever mentioned.
    pub items: BTreeMap<Vec<u8>, Presence>,
    /// A request for it is in flight.
    pub busy: bool,
    /// Its end was seen in the event stream.
    pub end_seen: bool,
    /// Its items were seen in the event stream, all of them.
    pub items_seen: bool,
    /// Its end may have gone with an event history that a re-sharding discarded.
    pub end_may_be_lost: bool,
}

impl Belief {
    /// A lease that was granted to a request sent at `sent`.
    #[must_use]
    pub fn granted(id: LeaseId, token: Token, ttl_ms: u64, sent: Instant) -> Belief {
        Belief {
            id,
            token,
            ttl_ms,
            held_until: sent + Duration::from_millis(ttl_ms),
            life: Life::Live,
            may_be_revoked: false,
            items: BTreeMap::new(),
            busy: false,
            end_seen: false,
            items_seen: false,
            end_may_be_lost: false,
        }
    }

    /// Whether nobody has said that it ended.
    #[must_use]
    pub fn is_live(&self) -> bool {
        self.life == Life::Live
    }

    fn broken(&self, what: &str) -> Verdict {
        Err(format!("{what} (lease {} token {} ttl {} ms)", self.id, self.token, self.ttl_ms))
    }

    /// A renewal sent at `sent` was acknowledged.
    ///
    /// # Errors
    /// The lease was told dead before.
    pub fn renewed(&mut self, ttl_ms: u64, sent: Instant) -> Verdict {
        if !self.is_live() {
            return self.broken("S9 once: renewed after it was told dead");
        }
        if ttl_ms != self.ttl_ms {
            return self.broken("contract: renewed with another TTL");
        }
        self.held_until = self.held_until.max(sent + Duration::from_millis(ttl_ms));
        Ok(())
    }

    /// A reply received at `at` said that there is no such lease.
    ///
    /// # Errors
    /// It must still be alive.
    pub fn not_found(&mut self, at: Instant) -> Verdict {
        if self.is_live() {
            if at < self.held_until && !self.may_be_revoked {
                return self.broken("S2 never-early or S3 ack-after-durable: told dead while it must live");
            }
            let cause = if self.may_be_revoked { None } else { Some(Cause::Expired) };
            self.life = Life::Dead(cause);
        }
        Ok(())
    }

    /// A revocation was acknowledged.
    ///
    /// # Errors
    /// Another lease was revoked, or this one was dead, or its items are not what was acknowledged.
    pub fn revoked(&mut self, token: Token, item_count: u64) -> Verdict {
        if !self.is_live() {
            return self.broken("S9 once: revoked after it was told dead");
        }
        if token != self.token {
            return self.broken(&format!("fencing: the revocation hit token {token}"));
        }
        let (certain, possible) = self.item_counts();
        if !(certain..=possible).contains(&item_count) {
            let text = format!("S3 ack-after-durable: {item_count} items, not {certain} to {possible}");
            return self.broken(&text);
        }
        self.life = Life::Dead(Some(Cause::Revoked));
        Ok(())
    }

    /// It was in a batch of revocations of which none failed.
    ///
    /// # Errors
    /// It was dead before.
    pub fn revoked_in_batch(&mut self) -> Verdict {
        if !self.is_live() {
            return self.broken("S9 once: revoked after it was told dead");
        }
        self.life = Life::Dead(Some(Cause::Revoked));
        Ok(())
    }

    fn item_counts(&self) -> (u64, u64) {
        let count = |wanted| self.items.values().filter(|presence| **presence == wanted).count() as u64;
        let certain = count(Presence::Present);
        (certain, certain + count(Presence::Unknown))
    }

    /// Items that a reading must show, and those that it may show.
    fn check_items(&self, seen: &[Vec<u8>]) -> Verdict {
        if !seen.is_sorted_by(|a, b| a < b) {
            return self.broken("contract: items are not sorted, or one is there twice");
        }
        for item in seen {
            match self.items.get(item) {
                Some(Presence::Present | Presence::Unknown) => {}
                Some(Presence::Absent) => {
                    return self
                        .broken(&format!("S3 ack-after-durable: detached item {} is back", name(item)));
                }
                None => return self.broken(&format!("contract: item {} was never attached", name(item))),
            }
        }
        let missing = self
            .items
            .iter()
            .find(|(item, presence)| **presence == Presence::Present && seen.binary_search(item).is_err());
        match missing {
            Some((item, _)) => {
                self.broken(&format!("S3 ack-after-durable: attached item {} is lost", name(item)))
            }
            None => Ok(()),
        }
    }

    /// A reading received at `at` showed the lease alive. Resolves what was unknown.
    ///
    /// # Errors
    /// It differs from what was acknowledged.
    pub fn observed(&mut self, seen: &Observation, at: Instant) -> Verdict {
        if !self.is_live() {
            return self.broken("S3 ack-after-durable: told dead, and lives");
        }
        if seen.token != self.token || seen.ttl_ms != self.ttl_ms {
            let text = format!("fencing: found with token {} ttl {} ms", seen.token, seen.ttl_ms);
            return self.broken(&text);
        }
        if seen.remaining_ms > seen.ttl_ms {
            return self.broken(&format!("contract: {} ms remain", seen.remaining_ms));
        }
        if at + Duration::from_millis(seen.remaining_ms) < self.held_until {
            let short = self.held_until - (at + Duration::from_millis(seen.remaining_ms));
            return self
                .broken(&format!("S2 never-early: its deadline is {short:?} before the promised one"));
        }
        self.check_items(&seen.items)?;
        for (item, presence) in &mut self.items {
            let there = seen.items.binary_search(item).is_ok();
            *presence = if there { Presence::Present } else { Presence::Absent };
        }
        self.may_be_revoked = false;
        Ok(())
    }

    /// The event stream said, at `at`, that it ended.
    ///
    /// # Errors
    /// It cannot have ended so, or has ended before.
    pub fn ended(&mut self, cause: Cause, at: Instant) -> Verdict {
        if self.end_seen {
            return self.broken("S9 once: it ended a second time");
        }
        if cause == Cause::Expired && at < self.held_until {
            return self.broken(&format!("S2 never-early: expired {:?} early", self.held_until - at));
        }
        let possible = match self.life {
            Life::Live => cause == Cause::Expired || self.may_be_revoked,
            Life::Dead(None) => true,
            Life::Dead(Some(told)) => cause == told,
        };
        if !possible {
            return self.broken(&format!("S9 once: ended as {cause:?}, but {:?}", self.life));
        }
        self.end_seen = true;
        self.life = Life::Dead(Some(cause));
        Ok(())
    }

    /// The event stream gave the items that it had when it ended.
    ///
    /// # Errors
    /// They differ from what was acknowledged, or came before.
    pub fn left_items(&mut self, items: &[Vec<u8>]) -> Verdict {
        if std::mem::replace(&mut self.items_seen, true) {
            return self.broken("S9 once: its items left a second time");
        }
        self.check_items(items)
    }

    /// Whether the event stream still owes its end or its items, now that it has caught up.
    #[must_use]
    pub fn is_owed(&self, items_too: bool) -> bool {
        let owed_items = items_too && self.item_counts().0 > 0 && !self.items_seen;
        !self.is_live() && !self.end_may_be_lost && (!self.end_seen || owed_items)
    }
}

/// An item for people.
fn name(item: &[u8]) -> String {
    String::from_utf8_lossy(&item[..item.len().min(40)]).into_owned()
}

#[cfg(test)]
mod tests;
