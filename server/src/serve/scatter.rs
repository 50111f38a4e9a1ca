//! Requests that several shards answer: cut into parts, and the answers joined into one frame.
//!
//! A batch is cut by the shard of each ID; an entry remembers where it stood, so the answer names
//! indexes of the client's batch. If one shard is busy, only its entries say so. Parts are counted in
//! (L2 one-reply: each is answered exactly once), so a place in the table is free again exactly when
//! its last part has been answered, whether or not the connection still exists; the table is bounded
//! (S8), and full means `Busy`.

use tenure::error::Unavailable;
use tenure::request::{Reply, StationStats};
use tenure::{Granted, LeaseId, TimeToLive, Token};
use tenure_protocol::{Refusal, RequestId};

use super::desk::wire_refusal;
use super::limits::SCATTERED_MAX;

/// What the parts add up to.
pub(crate) enum Join {
    /// RenewBatch (`renew`) or RevokeBatch: the entries that failed, as indexes of the batch.
    Batch { renew: bool, count: u32, failed: Vec<(u32, Refusal)>, places: Vec<Vec<u32>> },
    /// GrantBatch, by index of the batch.
    Grants { results: Vec<Result<Granted, Refusal>>, places: Vec<Vec<u32>> },
    /// LeaseOf: the first shard that knows the item.
    LeaseOf(Option<(LeaseId, Token)>),
    /// TimeToLive with a page of items.
    Items { facts: Option<TimeToLive>, items: Vec<Box<[u8]>>, more: bool },
    /// Promote (`true`) or Demote of every shard.
    Role(bool),
    /// Info: what each shard counts.
    Stats(Vec<(u16, StationStats)>),
}

/// A scattered request.
pub(crate) struct Scattered {
    pub(crate) request_id: RequestId,
    pub(crate) promised_bytes: usize,
    pub(crate) join: Join,
    /// The whole was refused because a part was.
    pub(crate) refused: Option<Refusal>,
    waiting: u32,
}

/// The scattered requests of one core.
#[derive(Default)]
pub(crate) struct Scatter {
    places: Vec<Option<Scattered>>,
    free: Vec<u32>,
}

impl Scatter {
    /// Enters a request that waits for `parts` answers. `None`: the table is full.
    pub(crate) fn enter(
        &mut self,
        request_id: RequestId,
        promised_bytes: usize,
        parts: usize,
        join: Join,
    ) -> Option<u32> {
        assert!(parts > 0, "L2 one-reply: a request without parts would never be answered");
        let waiting = u32::try_from(parts).expect("S8 bounded: parts are at most shards");
        let entry = Scattered { request_id, promised_bytes, join, refused: None, waiting };
        if let Some(place) = self.free.pop() {
            self.places[place as usize] = Some(entry);
            return Some(place);
        }
        if self.places.len() >= SCATTERED_MAX {
            return None;
        }
        self.places.push(Some(entry));
        Some(u32::try_from(self.places.len() - 1).expect("S8 bounded"))
    }

    /// Takes the answer to one part. `Some`: it was the last.
    pub(crate) fn answered(&mut self, place: u32, part: usize, reply: Reply) -> Option<Scattered> {
        let slot = &mut self.places[place as usize];
        let entry = slot.as_mut().expect("L2 one-reply: a part was answered twice");
        entry.take(part, reply);
        entry.waiting -= 1;
        if entry.waiting > 0 {
            return None;
        }
        self.free.push(place);
        slot.take()
    }

    /// Requests waiting for parts.
    #[cfg(test)]
    fn len(&self) -> usize {
        self.places.len() - self.free.len()
    }
}

impl Scattered {
    fn take(&mut self, part: usize, reply: Reply) {
        let refusal = match &reply {
            Reply::Refused(refusal) => Some(wire_refusal(*refusal)),
            Reply::Unavailable(reason) => Some(unavailable(*reason)),
            _ => None,
        };
        match (&mut self.join, reply, refusal) {
            (Join::Batch { failed, places, .. }, _, Some(refusal)) => {
                failed.extend(places[part].iter().map(|&index| (index, refusal)));
            }
            (Join::Batch { failed, places, .. }, Reply::Missing(missing), _) => {
                failed.extend(missing.iter().map(|&at| (places[part][at as usize], Refusal::NotFound)));
            }
            (Join::Grants { results, places }, _, Some(refusal)) => {
                for &index in &places[part] {
                    results[index as usize] = Err(refusal);
                }
            }
            (Join::Grants { results, places }, Reply::Grants(granted), _) => {
                for (&index, result) in places[part].iter().zip(granted) {
                    results[index as usize] = result.map_err(wire_refusal);
                }
            }
            (_, _, Some(refusal)) => self.refused = Some(refusal),
            (Join::LeaseOf(found), Reply::LeaseOf(answer), _) => *found = found.take().or(answer),
            (Join::Items { facts, .. }, Reply::TimeToLive(answer), _) => *facts = Some(answer),
            (Join::Items { items, more, .. }, Reply::Items { items: page, more: rest }, _) => {
                (*items, *more) = (page, rest);
            }
            (Join::Role(_), Reply::Done, _) => {}
            (Join::Stats(stats), Reply::Stats(answer), _) => {
                stats.push((u16::try_from(part).expect("S8 bounded"), *answer));
            }
            (_, other, _) => panic!("L2 one-reply: the reply must fit the request: {other:?}"),
        }
    }
}

/// What the wire says when a shard cannot do something right now.
pub(crate) fn unavailable(reason: Unavailable) -> Refusal {
    match reason {
        Unavailable::StorageFull => Refusal::StorageFull,
        Unavailable::Stopping => Refusal::ShuttingDown,
    }
}

/// Grant results before any shard has answered. Every entry belongs to a part, so none stays.
pub(crate) fn unanswered_grants(count: usize) -> Vec<Result<Granted, Refusal>> {
    vec![Err(Refusal::Internal); count]
}

/// Where entries go: for each shard that has any, the entries and their places in the batch.
pub(crate) struct Parts<E> {
    pub(crate) shards: Vec<u16>,
    pub(crate) entries: Vec<Vec<E>>,
    pub(crate) places: Vec<Vec<u32>>,
}

/// Cuts a batch by shard, keeping the order within each.
pub(crate) fn cut<E>(
    batch: impl Iterator<Item = E>,
    shard_count: u16,
    shard_of: impl Fn(&E) -> u16,
) -> Parts<E> {
    let mut part_of_shard = vec![usize::MAX; usize::from(shard_count)];
    let mut parts = Parts { shards: Vec::new(), entries: Vec::new(), places: Vec::new() };
    for (place, entry) in (0u32..).zip(batch) {
        let shard = shard_of(&entry);
        let part = &mut part_of_shard[usize::from(shard)];
        if *part == usize::MAX {
            *part = parts.shards.len();
            parts.shards.push(shard);
            parts.entries.push(Vec::new());
            parts.places.push(Vec::new());
        }
        parts.entries[*part].push(entry);
        parts.places[*part].push(place);
    }
    parts
}

/// Failed entries by rising index, as the wire wants them.
pub(crate) fn in_order(failed: &mut [(u32, Refusal)]) {
    failed.sort_unstable_by_key(|(index, _)| *index);
}

#[cfg(test)]
mod tests {
    use tenure::Refusal as CoreRefusal;

    use super::*;

    #[test]
    fn failed_entries_come_back_as_indexes_of_the_batch() {
        let parts = cut([10u64, 21, 30, 41, 50].into_iter(), 2, |id| (id % 2) as u16);
        assert_eq!(parts.shards, [0, 1]);
        assert_eq!(parts.entries, [vec![10, 30, 50], vec![21, 41]]);
        let mut scatter = Scatter::default();
        let join = Join::Batch { renew: true, count: 5, failed: Vec::new(), places: parts.places };
        let place = scatter.enter(RequestId(9), 0, 2, join).unwrap();
        assert!(scatter.answered(place, 1, Reply::Refused(CoreRefusal::Busy)).is_none());
        let whole = scatter.answered(place, 0, Reply::Missing(vec![0, 2])).expect("L2 one-reply");
        let Join::Batch { mut failed, .. } = whole.join else { panic!() };
        in_order(&mut failed);
        let expected =
            [(0, Refusal::NotFound), (1, Refusal::Busy), (3, Refusal::Busy), (4, Refusal::NotFound)];
        assert_eq!(failed, expected);
        assert_eq!(scatter.len(), 0);
    }

    #[test]
    fn a_full_table_takes_nothing_more_and_frees_places() {
        let mut scatter = Scatter::default();
        for n in 0..SCATTERED_MAX {
            assert!(scatter.enter(RequestId(n as u32), 0, 1, Join::Role(true)).is_some());
        }
        assert!(scatter.enter(RequestId(0), 0, 1, Join::Role(true)).is_none(), "S8 bounded");
        assert!(scatter.answered(77, 0, Reply::Done).is_some());
        assert_eq!(scatter.enter(RequestId(0), 0, 1, Join::Role(true)), Some(77));
    }

    #[test]
    #[should_panic(expected = "L2 one-reply")]
    fn a_part_answered_twice_is_a_bug() {
        let mut scatter = Scatter::default();
        let place = scatter.enter(RequestId(1), 0, 1, Join::Role(true)).unwrap();
        scatter.answered(place, 0, Reply::Done);
        scatter.answered(place, 0, Reply::Done);
    }
}
