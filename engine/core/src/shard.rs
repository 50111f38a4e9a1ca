//! One shard: leases, wheel and items behind a handful of verbs.
//!
//! A shard belongs to one core, through `&mut`. Each verb is told the time, may append records to the caller's
//! [`RecordBuffer`], and answers with a result and the log position that has to be durable before it may be told. What
//! it owns: the table (ids and slots), the wheel (when), the items, the memory of identified grants, the ledger (what
//! a crash could undo), the sweep (checkpoints). The verbs are in the files under shard/, by what they do.
//!
//! Rules of time: `now` is the engine's clock in ms, rounded down. A promised deadline is now + TTL + 1, so that it is
//! never before the moment of the promise + TTL (S2). A lease is overdue when the *horizon*, which is `now` unless the
//! caller holds it back after a pause, has reached its deadline; from then on it is dead to every verb: the first
//! that meets it ends it on the spot, with a record, and the answer waits for that record (S3).
//!
//! Invariants: **S1** one-shard, **S2** never-early, **S3** ack-after-durable, **S4** replay-equal, **S5** deterministic,
//! **S6** time-forward, **S7** wheel-agrees, **S8** bounded, **S9** once; [`Shard::check_invariants`] checks what
//! can be seen at rest. It does not know clocks, files, sockets, threads, or who asked.

mod attach;
mod coming;
mod dump;
mod end;
mod grant;
mod image;
mod maintain;
mod read;
mod recover;
mod renew;
mod role;

pub use image::ImageCursor;
pub use recover::ReplayError;

use crate::config::{Renewals, Role, ShardConfig};
use crate::entry::{Filing, HAS_ITEMS, Line, NOBODY, Slot, earliest_left};
use crate::grant_memory::GrantMemory;
use crate::id::LeaseId;
use crate::id_rule::SLOT_BITS;
use crate::items::{Holder, Items};
use crate::ledger::Ledger;
use crate::limits::{Bounds, SLOT_COUNT_SLACK, TIME_MS_MAX};
use crate::outcome::{LATENESS_BUCKETS, ShardStats};
use crate::record::{Cause, RecordBuffer};
use crate::refusal::Refusal;
use crate::slab::Slab;
use crate::table::Table;
use crate::time::{Position, Time};
use crate::wheel::{Batch, Wheel};
use maintain::Sweep;

/// What may be asked of a shard now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    /// Made, and not used yet: may be served from, or recovered into.
    Fresh,
    /// An image or a log is being read; `image_open` until the image's end.
    Recovering { image_open: bool },
    /// Verbs are answered.
    Serving,
}

/// Running totals for `stats`.
#[derive(Default)]
struct Totals {
    granted: u64,
    renewed: u64,
    revoked: u64,
    expired: u64,
    lateness_ms_log2: [u64; LATENESS_BUCKETS],
    lateness_ms_max: u64,
}

/// One shard of the lease engine. See the crate's documentation for an example.
pub struct Shard {
    config: ShardConfig,
    role: Role,
    phase: Phase,
    clock: Time,
    /// After a pause: nothing later than this counts as overdue.
    held: Option<Time>,
    /// The horizon never goes back behind what `expire` has begun to expire; not behind the wheel.
    expired_to: Time,
    table: Table,
    wheel: Wheel,
    items: Items,
    grants: GrantMemory,
    ledger: Ledger,
    sweep: Sweep,
    totals: Totals,
    /// Promotions promised every lease the time until here, and then what it had left (S2).
    floor: Time,
    /// Promotions so far: an image begun before one starts over.
    promotions: u64,
    /// Recovery: where the log goes on that the image needs, and slots that became free.
    replay_from: Position,
    replayed_to: Position,
    holes: Vec<Slot>,
    /// Reused by `expire`.
    batch: Batch,
}

const _: () = {
    /// A shard is made on one thread and then belongs to another.
    const fn moves_between_threads<T: Send>() {}
    moves_between_threads::<Shard>();
};

impl Shard {
    /// A shard without leases. Serves at once; or load an image, replay a log, and call [`Shard::recovered`].
    ///
    /// # Panics
    /// When the configuration is impossible, or the system refuses to reserve address space for its tables.
    pub fn new(config: ShardConfig) -> Shard {
        Shard::with_bounds(config, &Bounds::default())
    }

    /// As [`Shard::new`], with bounds that a test can reach.
    #[doc(hidden)]
    pub fn with_bounds(config: ShardConfig, bounds: &Bounds) -> Shard {
        config.check();
        // Twice the leases: a fuzzy image and its log may hold a lease and its successor at once. Address space only.
        let slots = (2 * u64::from(config.lease_count_max) + u64::from(SLOT_COUNT_SLACK)).min(1 << SLOT_BITS);
        Shard {
            role: config.role,
            phase: Phase::Fresh,
            clock: Time(0),
            held: None,
            expired_to: Time(0),
            table: Table::new(&config, slots as u32, bounds),
            wheel: Wheel::new(Slab::lines_of(slots as u32), bounds.wheel_reference_slack),
            items: Items::new(),
            grants: GrantMemory::new(bounds.grant_keys_max),
            ledger: Ledger::default(),
            sweep: Sweep::default(),
            totals: Totals::default(),
            floor: Time(0),
            promotions: 0,
            replay_from: Position::ZERO,
            replayed_to: Position::ZERO,
            holes: Vec::new(),
            batch: Batch::default(),
            config,
        }
    }

    /// The configuration the shard was made with.
    pub fn config(&self) -> &ShardConfig {
        &self.config
    }

    /// Primary or standby.
    pub fn role(&self) -> Role {
        self.role
    }

    /// The latest time the shard has seen; while recovering, that of the newest record or image read.
    pub fn clock(&self) -> Time {
        self.clock
    }

    /// One past the highest absolute generation this shard has issued: the least generation base under which a
    /// successor can never issue an id twice.
    pub fn generation_next(&self) -> u64 {
        self.table.generation_next()
    }

    /// Holds the horizon back: until released, nothing whose deadline is later than `at` counts as overdue, while
    /// `now` still dates new deadlines. The horizon does not go back behind an earlier `expire`. For a caller that was
    /// stopped and has requests waiting: it serves those first, then releases.
    pub fn hold_horizon(&mut self, at: Time) {
        self.held = Some(at);
    }

    /// The horizon is `now` again.
    pub fn release_horizon(&mut self) {
        self.held = None;
    }

    /// Everything below `position` is durable: answers that reveal it no longer wait (S3).
    pub fn durable(&mut self, position: Position) {
        self.ledger.durable(position, &mut self.table.slab);
    }

    /// When `expire` or `maintain` has something to do; `None` = not before another verb was called. May be in the
    /// past or early (leases are filed again on the way), never late. O(levels).
    pub fn next_wake(&self) -> Option<Time> {
        if self.role == Role::Standby || matches!(self.phase, Phase::Recovering { .. }) {
            return None;
        }
        if self.items.has_leaving() || self.sweep.is_under_way() {
            return Some(self.clock);
        }
        let event = self.wheel.next_event().filter(|&at| self.held.is_none_or(|held| at <= held));
        let sweep = if self.table.live_count() > 0 { self.sweep.next_at() } else { None };
        let planted_ms = if tenure_planted::is(tenure_planted::Bug::ExpiresLate) { 2_000 } else { 0 };
        let event = event.map(|at| Time(at.0 + planted_ms));
        [event, sweep].into_iter().flatten().min()
    }

    /// Live leases, overdue ones that nobody has met yet included.
    pub fn lease_count(&self) -> u64 {
        u64::from(self.table.live_count())
    }

    /// Counters and sizes. O(1).
    pub fn stats(&self) -> ShardStats {
        ShardStats {
            lease_count: u64::from(self.table.live_count()),
            hashed_count: self.table.hashed_count() as u64,
            item_count: self.items.live_count(),
            leaving_item_count: self.items.leaving_count(),
            granted_total: self.totals.granted,
            renewed_total: self.totals.renewed,
            revoked_total: self.totals.revoked,
            expired_total: self.totals.expired,
            wheel_reference_count: self.wheel.reference_count(),
            table_bytes: (self.table.used_bytes() + self.wheel.used_bytes()) as u64,
            lateness_ms_log2: self.totals.lateness_ms_log2,
            lateness_ms_max: self.totals.lateness_ms_max,
            clock: self.clock,
            retired_slot_count: u64::from(self.table.slab.retired_count()),
        }
    }

    /// Every verb begins here (S6).
    #[inline(always)]
    fn enter(&mut self, now: Time) {
        assert!(
            now >= self.clock && now.0 <= TIME_MS_MAX,
            "S6 time-forward: the shard was at {} and is told {now}",
            self.clock
        );
        self.clock = now;
        if self.phase != Phase::Serving {
            self.begin_serving();
        }
    }

    #[cold]
    fn begin_serving(&mut self) {
        assert!(self.phase == Phase::Fresh, "S4 replay-equal: a verb before recovery is over");
        self.wheel.reset(self.clock);
        self.expired_to = self.clock;
        self.phase = Phase::Serving;
    }

    /// Deadlines up to here have passed.
    #[inline(always)]
    fn horizon(&self, now: Time) -> u64 {
        match self.held {
            Some(held) => now.min(held).max(self.expired_to).0,
            None => now.0,
        }
    }

    #[inline(always)]
    fn deadline(&self, slot: Slot) -> u64 {
        self.table.deadline(slot, self.wheel.now())
    }

    #[inline(always)]
    fn is_overdue(&self, slot: Slot, now: Time) -> bool {
        self.horizon(now) >= self.deadline(slot)
    }

    fn holder(&self, slot: Slot) -> Holder {
        Holder { token: self.table.token(slot), id: self.table.id(slot) }
    }

    /// Time a lease has left, never more than its TTL.
    fn remaining_ms(&self, slot: Slot, now: Time) -> u64 {
        self.deadline(slot).saturating_sub(now.0).min(self.table.ttl_ms(slot))
    }

    fn item_count(&self, slot: Slot) -> u64 {
        if self.table.entry(slot).has(HAS_ITEMS) { self.items.count_of(self.holder(slot)) } else { 0 }
    }

    fn require_primary(&self) -> Result<(), Refusal> {
        if self.role == Role::Primary { Ok(()) } else { Err(Refusal::NotPrimary) }
    }

    /// Whether renewals are logged, so that deadlines are exact across a restart.
    fn is_exact(&self) -> bool {
        self.config.renewals == Renewals::Logged
    }

    /// The live lease of this id. An overdue one is ended on the spot by a primary; `Err` is the position to wait for
    /// before its absence may be told (S3).
    #[inline]
    fn find_alive(&mut self, now: Time, id: LeaseId, log: &mut RecordBuffer) -> Result<Slot, Position> {
        let Some(slot) = self.table.find(id) else {
            return Err(self.ledger.after_end());
        };
        if self.role == Role::Primary && self.is_overdue(slot, now) {
            self.expire_one(slot, now, log);
            return Err(self.ledger.after_end());
        }
        Ok(slot)
    }

    /// Ends one overdue lease.
    fn expire_one(&mut self, slot: Slot, now: Time, log: &mut RecordBuffer) {
        log.stamp(now);
        self.count_expired(now.0 - self.deadline(slot).min(now.0));
        self.end(slot, Cause::Expired, log);
        self.ledger.wrote_end(log.tail(), log.time());
    }

    #[inline(always)]
    fn count_expired(&mut self, lateness_ms: u64) {
        let bucket = (64 - lateness_ms.leading_zeros() as usize).min(LATENESS_BUCKETS - 1);
        self.totals.expired += 1;
        self.totals.lateness_ms_log2[bucket] += 1;
        self.totals.lateness_ms_max = self.totals.lateness_ms_max.max(lateness_ms);
    }

    /// Ends a lease: its record, its items, its slot. The caller has stamped the time and tells the ledger
    /// afterwards. Returns the number of items that will leave. S9: the only way out for a live lease.
    #[inline]
    fn end(&mut self, slot: Slot, cause: Cause, log: &mut RecordBuffer) -> u64 {
        let entry = *self.table.entry(slot);
        let holder = self.holder(slot);
        let item_count = if entry.has(HAS_ITEMS) { self.items.end(holder) } else { 0 };
        log.end(cause, item_count > 0, holder.id, holder.token);
        self.ledger.forget(slot, &entry);
        self.table.remove(slot);
        item_count
    }

    /// Sees to it that the wheel comes to a lease by its deadline.
    #[inline(always)]
    fn file(&mut self, slot: Slot, deadline: u64) {
        let line = slot.line();
        if !self.wheel.comes_up_by(self.table.slab.filing(line), deadline) {
            let filing = self.wheel.file(line, deadline);
            self.table.slab.set_filing(line, filing);
        }
    }

    /// Gives each live lease the deadline that `deadline_of` says, all of them after `to`, and files all anew in a wheel
    /// that stands at `to`. A pass over the slab: for recovery and promotion.
    fn refile_all(&mut self, to: Time, deadline_of: impl Fn(&Shard, Slot) -> u64) {
        let lines = (0..self.table.slab.line_count() as u32).map(Line);
        for slot in lines.clone().flat_map(Line::slots) {
            if self.table.entry(slot).is_live() {
                let (ttl_ms, deadline) = (self.table.ttl_ms(slot), deadline_of(self, slot));
                self.table.set_deadline(slot, ttl_ms, deadline, to.0);
            }
        }
        self.wheel.reset(to);
        for line in lines {
            let filing = self.file_line(line);
            self.table.slab.set_filing(line, filing);
        }
    }

    /// Files a line at the earliest of its deadlines, all of them after the wheel's clock.
    #[inline]
    fn file_line(&mut self, line: Line) -> Filing {
        let base = self.wheel.now();
        let earliest = match earliest_left(self.table.slab.line(line), base as u32) {
            Some(NOBODY) => return Filing::NONE,
            Some(left) => base + u64::from(left),
            None => self.earliest_of_long(line),
        };
        self.wheel.file(line, earliest)
    }

    /// The earliest deadline of a line with a lease in the side table.
    #[cold]
    fn earliest_of_long(&self, line: Line) -> u64 {
        let live = line.slots().filter(|&slot| self.table.entry(slot).is_live());
        live.map(|slot| self.deadline(slot)).min().expect("S7 wheel-agrees: a long lease lives")
    }
}
