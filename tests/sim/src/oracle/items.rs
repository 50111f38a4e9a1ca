//! Which lease has which item: a set of possible owners for each item of each shard.
//!
//! One request at a time per item (its client sees to that), so the set has one member, or two while a
//! request is under way or its outcome unknown. Recovery reveals which.

use std::collections::{BTreeMap, BTreeSet};

use super::{Found, Key};
use crate::checkers::{Verdict, s3_durable, s9_once};

type Owners = BTreeSet<Option<Key>>;

/// All items.
#[derive(Debug, Default)]
pub struct Belongings {
    owners: BTreeMap<(String, u16), Owners>,
    /// Items with a request under way, or one whose effect may still come.
    busy: BTreeSet<String>,
    /// Streams lag behind replies: what leaves is not compared.
    pub is_lax: bool,
    /// Of leases that ended: items that must leave with them, and that may.
    leaving: BTreeMap<Key, Leaving>,
}

#[derive(Debug, Default)]
struct Leaving {
    must: BTreeSet<String>,
    may: BTreeSet<String>,
    seen: BTreeSet<String>,
    is_done: bool,
}

impl Belongings {
    /// Whether nothing is under way for the item.
    #[must_use]
    pub fn is_free(&self, item: &str) -> bool {
        !self.busy.contains(item)
    }

    /// The lease that surely has an item.
    #[must_use]
    pub fn owner_of(&self, item: &str) -> Option<Key> {
        let mut owners = self.owners.iter().filter(|((known, _), owners)| known == item && owners.len() == 1);
        owners.find_map(|(_, owners)| owners.iter().next().copied().flatten())
    }

    /// A request is sent that may give the item another owner.
    pub fn asked(&mut self, item: &str, shard: u16, owner: Option<Key>) {
        self.busy.insert(item.to_owned());
        self.owners_of(item, shard).insert(owner);
    }

    /// It was acknowledged.
    pub fn told(&mut self, item: &str, shard: u16, owner: Option<Key>) {
        self.busy.remove(item);
        *self.owners_of(item, shard) = Owners::from([owner]);
    }

    /// It was refused: nothing changed. What was possible stays so.
    pub fn refused(&mut self, item: &str) {
        self.busy.remove(item);
    }

    /// Its outcome will not be told; nothing of it comes any more.
    pub fn settled(&mut self, item: &str) {
        self.busy.remove(item);
    }

    fn owners_of(&mut self, item: &str, shard: u16) -> &mut Owners {
        self.owners.entry((item.to_owned(), shard)).or_insert_with(|| Owners::from([None]))
    }

    /// A lease ended: what was surely on it leaves, what was perhaps on it may.
    pub fn ended(&mut self, key: Key) {
        let mut leaving = Leaving::default();
        for ((item, _), owners) in &mut self.owners {
            if !owners.contains(&Some(key)) {
                continue;
            }
            leaving.may.insert(item.clone());
            if owners.len() == 1 && !self.busy.contains(item) {
                leaving.must.insert(item.clone());
            }
            owners.remove(&Some(key));
            owners.insert(None);
        }
        if !self.is_lax {
            self.leaving.insert(key, leaving);
        }
    }

    /// A stream says that items left with a lease.
    ///
    /// # Errors
    /// They were not its own, or not all of them left.
    pub fn left(&mut self, key: Key, items: &[String], last: bool) -> Verdict {
        if self.is_lax {
            return Ok(());
        }
        let Some(leaving) = self.leaving.get_mut(&key) else {
            return Err(format!("S9 once: items of {key:x?} left before it ended"));
        };
        s9_once::items_leave_once(key, items, &leaving.seen, leaving.is_done)?;
        leaving.seen.extend(items.iter().cloned());
        leaving.is_done = last;
        if last {
            s9_once::items_leave_whole(key, &leaving.must, &leaving.seen, &leaving.may)?;
        }
        Ok(())
    }

    /// Whether a lease that ended still owes items that must leave.
    pub fn owing(&self) -> impl Iterator<Item = &Key> {
        self.leaving
            .iter()
            .filter(|(_, leaving)| !leaving.is_done && !leaving.must.is_empty())
            .map(|(key, _)| key)
    }

    /// What a recovered engine holds against what it must hold, and then what it holds.
    ///
    /// # Errors
    /// An item that was acknowledged is not there, or one is that cannot be.
    pub fn recovered(&mut self, holds: &BTreeMap<Key, &Found>) -> Verdict {
        for ((item, shard), owners) in &mut self.owners {
            let of_shard = holds.values().filter(|found| found.shard == *shard);
            let mut owner = of_shard.filter(|found| found.items.contains(item)).map(|found| found.key);
            let (found, second) = (owner.next(), owner.next());
            s9_once::one_owner(item, found, second)?;
            s3_durable::item_is_possible(item, found, owners)?;
            *owners = Owners::from([found]);
        }
        self.busy.clear();
        Ok(())
    }

    /// What is there is what there is.
    pub fn accept(&mut self, found: &[Found]) {
        self.busy.clear();
        self.owners.clear();
        self.leaving.clear();
        for lease in found {
            for item in &lease.items {
                self.owners.insert((item.clone(), lease.shard), Owners::from([Some(lease.key)]));
            }
        }
    }

    /// Another number of shards: items are where their leases now are.
    pub fn moved(&mut self, shard_of: impl Fn(u64) -> u16) {
        let before = std::mem::take(&mut self.owners);
        for ((item, _), owners) in before {
            for owner in owners {
                let Some(key) = owner else { continue };
                let entry = self.owners.entry((item.clone(), shard_of(key.0))).or_default();
                entry.insert(Some(key));
                entry.insert(None);
            }
        }
    }
}
