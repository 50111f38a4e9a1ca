//! Walks a live shard for a snapshot, a bounded step at a time.
//!
//! The walk is fuzzy: leases in slot order with their items, then items that are leaving, then remembered grants, each as
//! it is when the walk comes by. Leases before leaving items: one that ends in between appears as both, and the log
//! sorts it out; the other way round it would be lost. A promotion changes all exact deadlines at once, which
//! the log cannot repeat on a lease that has seen it: the walk starts over with a new start entry.
//!
//! Invariant: **S4** replay-equal: image + log from its position = the live state.

use super::Shard;
use crate::entry::{HAS_ITEMS, PINNED, Slot};
use crate::id::GrantKey;
use crate::image::{ImageEntry, Start};
use crate::items::{Holder, Item, range_after};
use crate::time::{Position, Time, Token};
use std::ops::Range;

/// Slots that one step passes at most, live or not.
const SLOTS_PER_STEP: u32 = 1 << 16;

/// Where the walk stands. Made by [`Shard::image_start`].
#[derive(Debug)]
pub struct ImageCursor {
    position: Position,
    /// Slots beyond were taken after the start: their leases are in the log, and the walk need not chase them.
    slot_end: u32,
    promotions: u64,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    Start,
    /// The next slot; and within it, the lease whose items are being written and the last item written.
    Leases(u32, Option<(Holder, Item)>),
    /// The last item written, and whose.
    Leaving(Option<(Holder, Item)>),
    Keys(Option<(Token, GrantKey)>),
    End,
    Done,
}

impl ImageCursor {
    /// Where the log begins that completes the image.
    pub fn position(&self) -> Position {
        self.position
    }
}

impl Shard {
    /// Begins an image of the state as it is now; the log from the cursor's position on completes it. Nothing is
    /// copied and nothing blocked.
    pub fn image_start(&self) -> ImageCursor {
        ImageCursor {
            position: self.ledger.tail(),
            slot_end: self.table.slab.len() as u32,
            promotions: self.promotions,
            stage: Stage::Start,
        }
    }

    /// Appends the next chunk of the image, about `bytes_max` bytes; true when it was the last. Chunks are loaded in
    /// this order by [`Shard::load_image`].
    pub fn image_step(&self, cursor: &mut ImageCursor, bytes_max: usize, out: &mut Vec<u8>) -> bool {
        if cursor.promotions != self.promotions {
            *cursor = self.image_start();
        }
        let end = out.len() + bytes_max;
        loop {
            let stage = std::mem::replace(&mut cursor.stage, Stage::Done);
            cursor.stage = match stage {
                Stage::Start => {
                    ImageEntry::Start(self.image_head(cursor.position)).encode(out);
                    Stage::Leases(0, None)
                }
                Stage::Leases(slot, within) => self.image_leases(slot..cursor.slot_end, within, end, out),
                Stage::Leaving(after) => self.image_leaving(after.as_ref(), end, out),
                Stage::Keys(after) => self.image_keys(after, end, out),
                Stage::End => {
                    ImageEntry::End { position: self.ledger.tail() }.encode(out);
                    Stage::Done
                }
                Stage::Done => return true,
            };
            if out.len() >= end || matches!(cursor.stage, Stage::Leases(..)) {
                return matches!(cursor.stage, Stage::Done);
            }
        }
    }

    fn image_head(&self, position: Position) -> Start {
        Start {
            role: self.role,
            shard: self.config.shard,
            shard_count: self.config.shard_count,
            position,
            time: self.ledger.time(),
            floor: self.floor,
            generation_next: self.table.generation_next(),
        }
    }

    /// Leases with their items until the chunk is full or enough slots are passed.
    fn image_leases(
        &self,
        slots: Range<u32>,
        mut within: Option<(Holder, Item)>,
        end: usize,
        out: &mut Vec<u8>,
    ) -> Stage {
        let stop = slots.end.min(slots.start.saturating_add(SLOTS_PER_STEP));
        for index in slots.start..stop {
            if out.len() >= end {
                return Stage::Leases(index, None);
            }
            let slot = Slot(index);
            if !self.table.entry(slot).is_live() {
                within = None;
                continue;
            }
            let holder = self.holder(slot);
            let resumed = within.take().filter(|(former, _)| *former == holder);
            if resumed.is_none() {
                self.image_lease(slot, holder, out);
            }
            if let Some(last) = self.image_items(slot, holder, resumed.as_ref(), end, out) {
                return Stage::Leases(index, Some((holder, last)));
            }
        }
        if stop < slots.end { Stage::Leases(stop, None) } else { Stage::Leaving(None) }
    }

    fn image_lease(&self, slot: Slot, holder: Holder, out: &mut Vec<u8>) {
        let entry = self.table.entry(slot);
        let deadline = entry.has(PINNED).then(|| Time(self.deadline(slot)));
        let (ttl_ms, chosen) = (self.table.ttl_ms(slot), !entry.is_direct());
        ImageEntry::Lease { id: holder.id, token: holder.token, ttl_ms, deadline, chosen }.encode(out);
    }

    /// Items of one lease; the last one written when the chunk is full before they end.
    fn image_items(
        &self,
        slot: Slot,
        holder: Holder,
        resumed: Option<&(Holder, Item)>,
        end: usize,
        out: &mut Vec<u8>,
    ) -> Option<Item> {
        if !self.table.entry(slot).has(HAS_ITEMS) {
            return None;
        }
        let after = resumed.map(|(_, item)| &item[..]);
        for item in self.items.items_after(holder, after) {
            ImageEntry::Item { id: holder.id, token: holder.token, item }.encode(out);
            if out.len() >= end {
                return Some(item.clone());
            }
        }
        None
    }

    fn image_leaving(&self, after: Option<&(Holder, Item)>, end: usize, out: &mut Vec<u8>) -> Stage {
        let from = after.map_or(Holder::default(), |(holder, _)| *holder);
        for (holder, set) in self.items.leaving_from(from) {
            let within = after.filter(|(former, _)| *former == holder).map(|(_, item)| &item[..]);
            for item in range_after(set, within) {
                ImageEntry::Leaving { id: holder.id, token: holder.token, item }.encode(out);
                if out.len() >= end {
                    return Stage::Leaving(Some((holder, item.clone())));
                }
            }
        }
        Stage::Keys(None)
    }

    fn image_keys(&self, after: Option<(Token, GrantKey)>, end: usize, out: &mut Vec<u8>) -> Stage {
        for (key, id, token) in self.grants.entries_after(after, self.table.hash()) {
            ImageEntry::Key { key, id, token }.encode(out);
            if out.len() >= end {
                return Stage::Keys(Some((token, key)));
            }
        }
        Stage::End
    }
}
