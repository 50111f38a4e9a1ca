//! Keeping many leases alive in few frames.
//!
//! Every lease is due for renewal after a third of its TTL, so that two renewals may fail before it is
//! in danger. Due times are rounded *down* to a step of an eighth of that third (a power of two), so
//! that leases granted one by one drift into the same step and leave in one RenewBatch; a jitter of
//! the same size keeps many clients from moving in lockstep. A million leases with a TTL of a minute
//! renew in about eight bursts per 20 s, 8 bytes a lease.
//!
//! ```text
//!   due_ms ──▶ bucket [lease, lease, …]     one bucket per step; at most a few dozen exist
//!   fires:  expired by our clock? ─▶ lost      else ─▶ batch of its shard, filed again for a retry
//!   answer: renewed ─▶ valid until sent + TTL − allowance, filed a third ahead
//!           NotFound, or too late ─▶ lost      no answer ─▶ filed a little ahead
//! ```
//! An answer that finds the lease's time up does not bring it back. The lease may have ended, and if its ID was one
//! that clients choose, somebody else may have been granted it since: then that is what was renewed. An answer
//! that comes before was given while the lease lived, because the server ends it no earlier.
//!
//! A lease filed again leaves its old reference behind; the reference no longer names the entry's
//! bucket and is dropped when it fires, as in the engine's own wheel.
//!
//! S2 seen from the client: a lease is *valid* until send time + TTL − allowance on a clock that counts
//! suspend. The server counts from the receive time, which is later, so the server never ends a lease
//! before its client has stopped trusting it, as long as the two clocks differ by less than the
//! allowance: a thousandth of the TTL (hundred times a usual quartz) and 10 ms for rounding, but at
//! most half of the TTL.
//!
//! What it does not do: send anything, read a clock, or decide what to do about a loss.

use std::collections::BTreeMap;

use tenure_protocol::{Failed, LeaseId, Refusal, shard_of};

/// Why a lease is no longer held. Final: a lease that was reported lost is not renewed again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LossReason {
    /// The server no longer knows the lease, and by this client's clock its time was up: renewals came
    /// too late, or this process or machine was paused.
    Expired,
    /// The server no longer knows the lease although its time was not up: somebody revoked it, or an
    /// in-memory server was restarted.
    Ended,
    /// No renewal was answered in time. The lease may live on at the server for a while, but its holder
    /// can no longer rely on it.
    Unreachable,
    /// The client was closed.
    Closed,
}

/// What happened to a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It was renewed and is valid until then, ms.
    Renewed {
        /// On the clock of the `now` arguments.
        valid_until_ms: u64,
    },
    /// It is no longer held, and no longer kept here.
    Lost(LossReason),
}

/// Names a kept lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct KeepKey {
    slot: u32,
    generation: u32,
}

/// One RenewBatch to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeepBatch {
    /// The shard of all these leases.
    pub shard: u16,
    /// The leases, in the order of `keys`.
    pub ids: Vec<LeaseId>,
    keys: Vec<KeepKey>,
}

#[derive(Debug)]
struct Entry<T> {
    id: LeaseId,
    ttl_ms: u64,
    valid_until_ms: u64,
    /// The bucket that this lease is in; references in others are stale.
    filed_ms: u64,
    generation: u32,
    /// `None`: free.
    payload: Option<T>,
}

/// The leases that one client keeps alive, each with a payload of the caller's.
///
/// ```
/// use tenure_client::machine::{Change, KeepAlive, trusted_ms};
/// use tenure_client::protocol::LeaseId;
///
/// let mut keep = KeepAlive::new(1, 1_000);
/// keep.add(0, LeaseId(7), 3_000, trusted_ms(3_000), "mine");
/// let due_ms = keep.next_wake_ms().unwrap();
/// assert!(due_ms <= 1_000, "a third of the TTL");
/// for batch in keep.poll(due_ms, &mut |name, reason| println!("{name} is lost: {reason:?}")) {
///     // … send `batch.ids` as a RenewBatch; 5 ms later the answer says that all were renewed …
///     keep.answered(due_ms + 5, due_ms, &batch, &[], &mut |_, change| {
///         assert_eq!(change, Change::Renewed { valid_until_ms: due_ms + trusted_ms(3_000) });
///     });
/// }
/// ```
#[derive(Debug)]
pub struct KeepAlive<T> {
    entries: Vec<Entry<T>>,
    free: Vec<u32>,
    buckets: BTreeMap<u64, Vec<KeepKey>>,
    shard_count: u16,
    batch_ids_max: usize,
    noise: u64,
    count: usize,
}

/// References that one call of [`KeepAlive::poll`] looks at, at most: about 2 ms of work.
const POLL_BUDGET: usize = 100_000;

/// How long a lease of this TTL may be trusted after the send time of its renewal, ms.
#[must_use]
pub const fn trusted_ms(ttl_ms: u64) -> u64 {
    let allowance_ms = ttl_ms / 1_000 + 10;
    if allowance_ms < ttl_ms / 2 { ttl_ms - allowance_ms } else { ttl_ms - ttl_ms / 2 }
}

const fn period_ms(ttl_ms: u64) -> u64 {
    if ttl_ms < 3 { 1 } else { ttl_ms / 3 }
}

/// The largest power of two within an eighth of the period, at least 1 ms.
const fn step_ms(ttl_ms: u64) -> u64 {
    let eighth_ms = period_ms(ttl_ms) / 8;
    if eighth_ms < 2 { 1 } else { 1 << eighth_ms.ilog2() }
}

impl<T> KeepAlive<T> {
    /// None yet. The seed makes the jitter; batches have at most `batch_ids_max` leases.
    #[must_use]
    pub fn new(seed: u64, batch_ids_max: usize) -> KeepAlive<T> {
        KeepAlive {
            entries: Vec::new(),
            free: Vec::new(),
            buckets: BTreeMap::new(),
            shard_count: 1,
            batch_ids_max: batch_ids_max.max(1),
            noise: seed | 1,
            count: 0,
        }
    }

    /// How many leases are kept.
    #[must_use]
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether none is kept.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Batches are made per shard of this many; 1 when the server's ID rule is not known.
    pub fn set_shard_count(&mut self, shard_count: u16) {
        self.shard_count = shard_count.max(1);
    }

    /// Keeps a lease that is valid until `valid_until_ms` (see [`trusted_ms`]).
    pub fn add(&mut self, now_ms: u64, id: LeaseId, ttl_ms: u64, valid_until_ms: u64, payload: T) -> KeepKey {
        let slot = self.free.pop().unwrap_or_else(|| {
            let entry = Entry { id, ttl_ms: 0, valid_until_ms: 0, filed_ms: 0, generation: 0, payload: None };
            self.entries.push(entry);
            u32::try_from(self.entries.len() - 1).expect("S8: fewer than 2^32 kept leases")
        });
        let entry = &mut self.entries[slot as usize];
        let generation = entry.generation;
        *entry = Entry { id, ttl_ms, valid_until_ms, filed_ms: 0, generation, payload: Some(payload) };
        self.count += 1;
        let key = KeepKey { slot, generation };
        // The first renewal comes anywhere in the second half of the period: leases granted in one
        // burst spread over several steps, and stay spread.
        let period_ms = period_ms(ttl_ms);
        let due_ms = now_ms + period_ms / 2 + self.below(period_ms.div_ceil(2) + 1);
        self.file_early(key, due_ms.min(valid_until_ms));
        key
    }

    /// Keeps a lease no longer, and gives its payload back. `None` when it is gone already.
    pub fn remove(&mut self, key: KeepKey) -> Option<T> {
        let entry = self.entries.get_mut(key.slot as usize)?;
        if entry.generation != key.generation {
            return None;
        }
        let payload = entry.payload.take()?;
        entry.generation = entry.generation.wrapping_add(1);
        self.free.push(key.slot);
        self.count -= 1;
        Some(payload)
    }

    /// When [`KeepAlive::poll`] has something to do next, ms.
    #[must_use]
    pub fn next_wake_ms(&self) -> Option<u64> {
        self.buckets.first_key_value().map(|(due_ms, _)| *due_ms)
    }

    /// Collects the leases that are due into batches, and reports those whose time is up. Bounded work:
    /// when much is due at once, [`KeepAlive::next_wake_ms`] is still `now_ms` or earlier afterwards.
    pub fn poll(&mut self, now_ms: u64, changed: &mut impl FnMut(T, LossReason)) -> Vec<KeepBatch> {
        let mut budget = POLL_BUDGET;
        let mut open: BTreeMap<u16, KeepBatch> = BTreeMap::new();
        let mut full = Vec::new();
        while budget > 0
            && let Some(mut bucket) = self.buckets.first_entry()
            && *bucket.key() <= now_ms
        {
            let due_ms = *bucket.key();
            let rest = bucket.get().len().saturating_sub(budget);
            let keys = bucket.get_mut().split_off(rest);
            if rest == 0 {
                bucket.remove();
            }
            budget -= keys.len();
            for key in keys {
                let Some(entry) = self.live(key).filter(|entry| entry.filed_ms == due_ms) else { continue };
                let late_ms = now_ms - due_ms;
                if tenure_planted::is(tenure_planted::Bug::OverlooksLeap) && late_ms > 60_000 {
                    continue;
                }
                let planted = tenure_planted::is(tenure_planted::Bug::GivesUpEarly) && late_ms > 10_000;
                if now_ms >= entry.valid_until_ms || planted {
                    self.lose(key, LossReason::Unreachable, changed);
                    continue;
                }
                let (id, ttl_ms) = (entry.id, entry.ttl_ms);
                // Unanswered by then: sent again, perhaps over a new connection. Renewals may repeat.
                self.file_retry(key, now_ms + (period_ms(ttl_ms) / 2).max(20));
                let shard = shard_of(id, self.shard_count);
                let batch = open.entry(shard).or_insert_with(|| KeepBatch {
                    shard,
                    ids: Vec::new(),
                    keys: Vec::new(),
                });
                batch.ids.push(id);
                batch.keys.push(key);
                if batch.ids.len() >= self.batch_ids_max {
                    full.extend(open.remove(&shard));
                }
            }
        }
        full.extend(open.into_values());
        full
    }

    /// A batch was answered: all renewed but `failed` (by rising index). `sent_ms` is when it was sent, `now_ms`
    /// when the answer came: leases whose time was up by then are lost, whatever it says.
    pub fn answered(
        &mut self,
        now_ms: u64,
        sent_ms: u64,
        batch: &KeepBatch,
        failed: &[Failed],
        changed: &mut impl FnMut(&T, Change),
    ) {
        let mut failed = failed.iter().peekable();
        for (index, &key) in batch.keys.iter().enumerate() {
            let refusal =
                failed.next_if(|failed| failed.index as usize == index).map(|failed| failed.refusal);
            let Some(entry) = self.live(key) else { continue };
            let late = now_ms >= entry.valid_until_ms;
            let revives = tenure_planted::is(tenure_planted::Bug::RevivesLate);
            let loss = match refusal {
                None if late && !revives => LossReason::Unreachable,
                None => {
                    self.renewed(key, sent_ms, changed);
                    continue;
                }
                Some(Refusal::NotFound) if late => LossReason::Expired,
                Some(Refusal::NotFound) => LossReason::Ended,
                // Busy, a standby, a full disk: the lease is not lost yet.
                Some(_) => {
                    self.retry_soon(key, now_ms);
                    continue;
                }
            };
            self.lose(key, loss, &mut |payload, loss| changed(&payload, Change::Lost(loss)));
        }
    }

    /// A batch was not answered and will not be: its leases are due again soon.
    pub fn unanswered(&mut self, now_ms: u64, batch: &KeepBatch) {
        for &key in &batch.keys {
            if self.live(key).is_some() {
                self.retry_soon(key, now_ms);
            }
        }
    }

    /// Loses every lease, as the client is closed.
    pub fn close(&mut self, changed: &mut impl FnMut(T, LossReason)) {
        for slot in 0..self.entries.len() as u32 {
            let generation = self.entries[slot as usize].generation;
            self.lose(KeepKey { slot, generation }, LossReason::Closed, changed);
        }
        self.buckets.clear();
    }

    fn live(&mut self, key: KeepKey) -> Option<&mut Entry<T>> {
        let entry = self.entries.get_mut(key.slot as usize)?;
        (entry.generation == key.generation && entry.payload.is_some()).then_some(entry)
    }

    fn lose(&mut self, key: KeepKey, reason: LossReason, changed: &mut impl FnMut(T, LossReason)) {
        if let Some(payload) = self.remove(key) {
            changed(payload, reason);
        }
    }

    fn renewed(&mut self, key: KeepKey, sent_ms: u64, changed: &mut impl FnMut(&T, Change)) {
        let Some(entry) = self.live(key) else { return };
        let ttl_ms = entry.ttl_ms;
        // Answers may overtake each other: the latest promise counts.
        let planted = if tenure_planted::is(tenure_planted::Bug::TrustsTooLong) { ttl_ms } else { 0 };
        entry.valid_until_ms = entry.valid_until_ms.max(sent_ms + trusted_ms(ttl_ms) + planted);
        let valid_until_ms = entry.valid_until_ms;
        if let Some(payload) = &entry.payload {
            changed(payload, Change::Renewed { valid_until_ms });
        }
        let jitter_ms = self.below(period_ms(ttl_ms) / 8 + 1);
        let due_ms = sent_ms + period_ms(ttl_ms) - jitter_ms;
        self.file_early(key, due_ms.min(valid_until_ms));
    }

    fn retry_soon(&mut self, key: KeepKey, now_ms: u64) {
        let Some(entry) = self.live(key) else { return };
        let step_ms = (period_ms(entry.ttl_ms) / 8).clamp(5, 1_000);
        let jitter_ms = self.below(step_ms);
        self.file_retry(key, now_ms + step_ms + jitter_ms);
    }

    /// Files for `due_ms` or up to a step before.
    fn file_early(&mut self, key: KeepKey, due_ms: u64) {
        let Some(entry) = self.live(key) else { return };
        let due_ms = due_ms & !(step_ms(entry.ttl_ms) - 1);
        self.file(key, due_ms);
    }

    /// Files for `due_ms`, but no later than the moment when the lease is lost.
    fn file_retry(&mut self, key: KeepKey, due_ms: u64) {
        let Some(entry) = self.live(key) else { return };
        let fine_ms = (step_ms(entry.ttl_ms) / 8).max(1);
        let lost_ms = entry.valid_until_ms.next_multiple_of(fine_ms);
        let due_ms = due_ms.next_multiple_of(fine_ms).min(lost_ms);
        self.file(key, due_ms);
    }

    fn file(&mut self, key: KeepKey, due_ms: u64) {
        let Some(entry) = self.live(key) else { return };
        entry.filed_ms = due_ms;
        self.buckets.entry(due_ms).or_default().push(key);
    }

    /// A number below `bound` (at least 1).
    fn below(&mut self, bound: u64) -> u64 {
        self.noise ^= self.noise << 13;
        self.noise ^= self.noise >> 7;
        self.noise ^= self.noise << 17;
        self.noise % bound.max(1)
    }
}
