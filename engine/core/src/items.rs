//! Items: opaque byte strings attached to leases.
//!
//! Two views of one set: an ordered set per lease (paging and reports are sorted), and a keyed table from item to
//! lease, split into 64 so that no growth stalls the core for long. Leases are named by id and token here, so that
//! slots may be reused and moved.
//!
//! A lease with 500,000 items dies at once: its set moves to the leaving ones in O(1), its items are invisible from
//! then on because no live lease has their token, and they leave in bounded slices, in order.
//!
//! Invariants: **S9** once (each item of an ended lease leaves in exactly one slice); an item is on at most one live
//! lease. Does not write records and does not know which leases are overdue.

use crate::id::LeaseId;
use crate::limits::ENDED_ITEM_COUNT_MAX;
use crate::record::padded;
use crate::seeded_hash::SeededHash;
use crate::time::Token;
use foldhash::quality::FixedState;
use hashbrown::{HashMap, HashTable};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;

const TABLES: usize = 64;

/// An item; the two views share its bytes.
pub(crate) type Item = Arc<[u8]>;

/// One lease among all that a shard ever had. Ordered by token: the order in which leases began.
///
/// Tokens alone are unique until shards are merged; ids alone until a client chooses one again.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub(crate) struct Holder {
    pub(crate) token: Token,
    pub(crate) id: LeaseId,
}

/// Items of one lease, in order.
pub(crate) type ItemSet = BTreeSet<Item>;

struct Owned {
    item: Item,
    holder: Holder,
}

/// A slice of a leaving set.
pub(crate) struct Slice {
    pub(crate) holder: Holder,
    pub(crate) items: Vec<Item>,
    /// Nothing of this lease remains.
    pub(crate) last: bool,
}

/// All items of a shard.
pub(crate) struct Items {
    owners: Vec<HashTable<Owned>>,
    live: HashMap<Holder, ItemSet, FixedState>,
    leaving: BTreeMap<Holder, ItemSet>,
    live_count: u64,
    leaving_count: u64,
}

#[inline]
fn table_of(hash: u64) -> usize {
    (hash >> 48) as usize % TABLES
}

impl Items {
    pub(crate) fn new() -> Items {
        Items {
            owners: (0..TABLES).map(|_| HashTable::new()).collect(),
            live: HashMap::default(),
            leaving: BTreeMap::new(),
            live_count: 0,
            leaving_count: 0,
        }
    }

    /// Items on live leases.
    pub(crate) fn live_count(&self) -> u64 {
        self.live_count
    }

    /// Items of ended leases that have not left.
    pub(crate) fn leaving_count(&self) -> u64 {
        self.leaving_count
    }

    pub(crate) fn has_leaving(&self) -> bool {
        !self.leaving.is_empty()
    }

    /// Items on this lease.
    pub(crate) fn count_of(&self, holder: Holder) -> u64 {
        self.live.get(&holder).map_or(0, |set| set.len() as u64)
    }

    /// The live lease that has this item.
    pub(crate) fn owner(&self, item: &[u8], hash: &SeededHash) -> Option<Holder> {
        let hashed = hash.bytes(item);
        let owned = self.owners[table_of(hashed)].find(hashed, |owned| *owned.item == *item)?;
        self.live.contains_key(&owned.holder).then_some(owned.holder)
    }

    /// Puts an item on a lease, taking it from the live lease that had it.
    pub(crate) fn attach(&mut self, holder: Holder, item: &[u8], hash: &SeededHash) {
        let hashed = hash.bytes(item);
        let table = &mut self.owners[table_of(hashed)];
        let shared = match table.find_mut(hashed, |owned| *owned.item == *item) {
            Some(owned) => {
                let shared = owned.item.clone();
                let former = std::mem::replace(&mut owned.holder, holder);
                self.take_from(former, item);
                shared
            }
            None => {
                let shared: Item = Arc::from(item);
                let owned = Owned { item: shared.clone(), holder };
                table.insert_unique(hashed, owned, |owned| hash.bytes(&owned.item));
                shared
            }
        };
        self.live_count += u64::from(self.live.entry(holder).or_default().insert(shared));
    }

    /// Takes an item from a lease; false when it is not on it.
    pub(crate) fn detach(&mut self, holder: Holder, item: &[u8], hash: &SeededHash) -> bool {
        if !self.take_from(holder, item) {
            return false;
        }
        self.forget_owner(holder, item, hash);
        true
    }

    fn take_from(&mut self, holder: Holder, item: &[u8]) -> bool {
        let Some(set) = self.live.get_mut(&holder) else {
            return false;
        };
        let taken = set.remove(item);
        self.live_count -= u64::from(taken);
        if set.is_empty() {
            self.live.remove(&holder);
        }
        taken
    }

    fn forget_owner(&mut self, holder: Holder, item: &[u8], hash: &SeededHash) {
        let hashed = hash.bytes(item);
        let table = &mut self.owners[table_of(hashed)];
        if let Ok(entry) = table.find_entry(hashed, |owned| owned.holder == holder && *owned.item == *item) {
            entry.remove();
        }
    }

    /// The lease ended: its items begin to leave. Returns how many.
    pub(crate) fn end(&mut self, holder: Holder) -> u64 {
        let Some(set) = self.live.remove(&holder) else {
            return 0;
        };
        let count = set.len() as u64;
        self.live_count -= count;
        self.leave(holder, set);
        count
    }

    /// Recovery: forgets the items of a lease as if it had never had any.
    pub(crate) fn discard(&mut self, holder: Holder, hash: &SeededHash) {
        let Some(set) = self.live.remove(&holder) else { return };
        self.live_count -= set.len() as u64;
        set.iter().for_each(|item| self.forget_owner(holder, item, hash));
    }

    /// Adds to what is leaving; an image may have brought a part of it before.
    fn leave(&mut self, holder: Holder, set: ItemSet) {
        let leaving = self.leaving.entry(holder).or_default();
        let before = leaving.len();
        if leaving.is_empty() {
            *leaving = set;
        } else {
            leaving.extend(set);
        }
        self.leaving_count += (leaving.len() - before) as u64;
    }

    /// Takes the next slice of about `bytes_max` record bytes and at most `count_max` items, at least one, from the
    /// oldest leaving lease.
    pub(crate) fn take_slice(
        &mut self,
        bytes_max: usize,
        count_max: usize,
        hash: &SeededHash,
    ) -> Option<Slice> {
        let count_max = count_max.min(ENDED_ITEM_COUNT_MAX);
        let mut oldest = self.leaving.first_entry()?;
        let (holder, set) = (*oldest.key(), oldest.get_mut());
        let (mut items, mut bytes) = (Vec::new(), 0);
        while let Some(item) = set.first() {
            bytes += 2 + item.len();
            if !items.is_empty() && (padded(bytes) > bytes_max || items.len() >= count_max) {
                break;
            }
            items.extend(set.pop_first());
        }
        let last = set.is_empty();
        if last {
            oldest.remove();
        }
        self.leaving_count -= items.len() as u64;
        for item in &items {
            self.forget_owner(holder, item, hash);
        }
        if tenure_planted::is(tenure_planted::Bug::ItemsStay) && items.len() > 1 {
            items.remove(0);
        }
        Some(Slice { holder, items, last })
    }

    /// Replay of a slice: removes what a record says has left.
    pub(crate) fn left<'a>(
        &mut self,
        holder: Holder,
        items: impl Iterator<Item = &'a [u8]>,
        last: bool,
        hash: &SeededHash,
    ) {
        for item in items {
            if let Some(set) = self.leaving.get_mut(&holder) {
                self.leaving_count -= u64::from(set.remove(item));
            }
            self.forget_owner(holder, item, hash);
        }
        let gone = self.leaving.get(&holder).is_some_and(|set| last || set.is_empty());
        if gone && let Some(set) = self.leaving.remove(&holder) {
            self.leaving_count -= set.len() as u64;
            set.iter().for_each(|item| self.forget_owner(holder, item, hash));
        }
    }

    /// An image brings a part of a leaving set.
    pub(crate) fn load_leaving(&mut self, holder: Holder, item: &[u8]) {
        self.leave(holder, BTreeSet::from([Arc::from(item)]));
    }

    /// The items of a live lease after `after`, in order.
    pub(crate) fn items_after<'a>(
        &'a self,
        holder: Holder,
        after: Option<&[u8]>,
    ) -> impl Iterator<Item = &'a Item> + use<'a> {
        self.live.get(&holder).map(|set| range_after(set, after)).into_iter().flatten()
    }

    /// The leaving sets from this lease on, in the order in which they leave.
    pub(crate) fn leaving_from(&self, holder: Holder) -> impl Iterator<Item = (Holder, &ItemSet)> {
        self.leaving.range(holder..).map(|(&holder, set)| (holder, set))
    }

    pub(crate) fn clear(&mut self) {
        self.owners.iter_mut().for_each(HashTable::clear);
        self.live.clear();
        self.leaving.clear();
        (self.live_count, self.leaving_count) = (0, 0);
    }

    /// Panics naming the invariant when the two views disagree; `is_live` says whether a lease is.
    pub(crate) fn check(&self, hash: &SeededHash, is_live: impl Fn(Holder) -> bool) {
        let (mut live, mut leaving) = (0, 0);
        for (&holder, set) in &self.live {
            let id = holder.id;
            assert!(!set.is_empty(), "S9 once: lease {id} has an empty item set");
            assert!(is_live(holder), "S9 once: items on the ended lease {id}@{}", holder.token);
            live += set.len() as u64;
            for item in set {
                assert_eq!(
                    self.owner(item, hash),
                    Some(holder),
                    "S9 once: an item of {id} is owned by another"
                );
            }
        }
        for (&holder, set) in &self.leaving {
            assert!(!set.is_empty(), "S9 once: lease {} has nothing left to leave", holder.id);
            assert!(!is_live(holder), "S9 once: items of the live lease {} leave", holder.id);
            leaving += set.len() as u64;
        }
        assert_eq!((live, leaving), (self.live_count, self.leaving_count), "S8 bounded: item counts");
        let owned: usize = self.owners.iter().map(HashTable::len).sum();
        assert!(owned as u64 <= live + leaving, "S8 bounded: owners of items that are gone");
    }
}

/// The elements of a set after `after`.
pub(crate) fn range_after<'a>(
    set: &'a ItemSet,
    after: Option<&[u8]>,
) -> impl Iterator<Item = &'a Item> + use<'a> {
    let from = after.map_or(Bound::Unbounded, Bound::Excluded);
    set.range::<[u8], _>((from, Bound::Unbounded))
}
