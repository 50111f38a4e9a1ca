//! The canonical dump, and the checks that hold at rest.
//!
//! The dump is what S4 compares: two shards with the same dump will answer alike after a restart. It is sorted, names
//! nothing that a replay may choose differently (slots, wheel places), and shows a deadline only where the log makes
//! it exact.

use super::{Phase, Shard};
use crate::config::Role;
use crate::entry::{HAS_ITEMS, PINNED};
use crate::id_rule::shard_of;
use std::collections::BTreeMap;
use std::fmt::Write;

impl Shard {
    /// Appends the canonical dump: one line for the shard, one per lease sorted by id, one per ended lease whose items
    /// have not all left, one per remembered grant.
    pub fn dump(&self, out: &mut String) {
        let role = if self.role == Role::Primary { "primary" } else { "standby" };
        let (shard, count) = (self.config.shard, self.config.shard_count);
        let (time, floor, generation) = (self.ledger.time(), self.floor, self.generation_next());
        self.line(
            out,
            format_args!("shard {shard}/{count} {role} time {time} floor {floor} generation {generation}"),
        );
        let leases: BTreeMap<_, _> =
            self.table.live_slots().map(|slot| (self.table.id(slot), slot)).collect();
        for (id, slot) in leases {
            let holder = self.holder(slot);
            let mut line = format!("lease {id} token {} ttl {}ms", holder.token, self.table.ttl_ms(slot));
            if self.table.entry(slot).has(PINNED) {
                line += &format!(" until {}ms", self.deadline(slot));
            }
            for item in self.items.items_after(holder, None) {
                line += &format!(" \"{}\"", item.escape_ascii());
            }
            self.line(out, format_args!("{line}"));
        }
        for (holder, set) in self.items.leaving_from(Default::default()) {
            let mut line = format!("leaving {} token {}", holder.id, holder.token);
            set.iter().for_each(|item| line += &format!(" \"{}\"", item.escape_ascii()));
            self.line(out, format_args!("{line}"));
        }
        for (key, id, token) in self.grants.entries_after(None, self.table.hash()) {
            self.line(out, format_args!("grant {:016x}/{} {id} token {token}", key.client, key.request));
        }
    }

    fn line(&self, out: &mut String, line: std::fmt::Arguments<'_>) {
        out.write_fmt(line).expect("a String takes any text");
        out.push('\n');
    }

    /// Checks everything that can be seen at rest; O(leases), for tests and simulators.
    ///
    /// # Panics
    /// Names the invariant that does not hold.
    pub fn check_invariants(&self) {
        self.table.check(|id| shard_of(id, self.config.shard_count) == self.config.shard);
        self.items
            .check(self.table.hash(), |holder| self.table.find_exact(holder.id, holder.token).is_some());
        self.grants.check(self.table.hash());
        self.ledger.check(&self.table.slab);
        for slot in self.table.live_slots() {
            let flagged = self.table.entry(slot).has(HAS_ITEMS);
            let has_items = self.items.count_of(self.holder(slot)) > 0;
            assert_eq!(flagged, has_items, "S9 once: item flag of lease {}", self.table.id(slot));
        }
        if self.phase == Phase::Serving {
            self.check_wheel();
        }
    }

    /// S7: each line with a live lease has a reference in the place its filing names, which fires no later than any
    /// deadline in it.
    fn check_wheel(&self) {
        let mut found = vec![false; self.table.slab.line_count()];
        let (mut references, horizon) = (0u64, self.wheel.now());
        self.wheel.for_each_reference(|place, fires, line| {
            references += 1;
            if !self.table.slab.filing(line).is_in(place) {
                return;
            }
            found[line.index()] = true;
            for slot in line.slots().filter(|&slot| self.table.entry(slot).is_live()) {
                let deadline = self.deadline(slot);
                assert!(
                    fires <= deadline,
                    "S7 wheel-agrees: lease {} fires at {fires}, after its deadline {deadline}",
                    self.table.id(slot)
                );
            }
        });
        assert_eq!(references, self.wheel.reference_count(), "S7 wheel-agrees: reference count");
        assert!(horizon <= self.clock.0, "S7 wheel-agrees: the wheel is ahead of the clock");
        for slot in self.table.live_slots() {
            let (id, line) = (self.table.id(slot), slot.line());
            assert!(self.table.slab.filing(line).place().is_some(), "S7 wheel-agrees: {id} is unfiled");
            assert!(found[line.index()], "S7 wheel-agrees: lease {id} has no reference where its line says");
            assert!(self.deadline(slot) >= horizon, "S7 wheel-agrees: the wheel has passed lease {id}");
        }
    }
}
