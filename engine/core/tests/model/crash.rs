//! The log's side of the rig: durability, images, replays, and crashes.
//!
//! After a crash the log survives up to some batch that is not below what was acknowledged. What clients were told
//! by then must hold: deadlines (S2), grants, and the news that a lease is gone (S3).

use crate::rig::{Image, Rig};
use std::collections::BTreeSet;
use tenure_core::*;

pub(crate) struct Replayed(Shard);

impl Replayed {
    fn dump_text(&self) -> String {
        let mut dump = String::new();
        self.0.dump(&mut dump);
        dump
    }
}

impl Rig {
    pub(crate) fn make_durable(&mut self, part: u8) {
        self.seal();
        let candidates: Vec<Position> =
            self.sealed.iter().map(|batch| batch.end).filter(|&end| end > self.durable).collect();
        if let Some(&position) =
            candidates.get((candidates.len().saturating_sub(1)) * usize::from(part) / 100)
        {
            self.durable = position;
            self.shard.durable(position);
        }
    }

    pub(crate) fn image(&mut self, bytes: usize) {
        if self.image.as_ref().is_none_or(|image| image.complete_at.is_some()) {
            let cursor = self.shard.image_start();
            self.image = Some(Image { chunks: Vec::new(), cursor, complete_at: None });
        }
        let tail = self.log.tail();
        let image = self.image.as_mut().unwrap();
        let mut chunk = Vec::new();
        if self.shard.image_step(&mut image.cursor, bytes, &mut chunk) {
            image.complete_at = Some(tail);
        }
        image.chunks.push(chunk);
        if image.complete_at.is_some() {
            self.check_replay();
        }
    }

    pub(crate) fn check(&mut self) {
        self.shard.check_invariants();
        let stats = self.shard.stats();
        assert_eq!(stats.lease_count, self.model.leases.len() as u64);
        let items: usize = self.model.leases.values().map(|lease| lease.items.len()).sum();
        assert_eq!(stats.item_count, items as u64);
        let leaving: usize = self.model.leaving.values().map(BTreeSet::len).sum();
        assert_eq!(stats.leaving_item_count, leaving as u64);
        if self.config.tight {
            let bound = (2 * u64::from(self.config.lease_count_max) + 16) * 5 / 4;
            assert!(
                stats.wheel_reference_count <= bound,
                "S8 bounded: {} references",
                stats.wheel_reference_count
            );
        }
        self.check_replay();
    }

    /// S4: the log alone, and the image with the log behind it, give the live dump.
    pub(crate) fn check_replay(&mut self) {
        self.seal();
        let (expected, end) = (self.dump(), self.log.tail());
        assert_eq!(self.replayed(None, end).dump_text(), expected, "S4 replay-equal: the log alone");
        if let Some(image) = self.image.as_ref().filter(|image| image.complete_at.is_some()) {
            assert_eq!(
                self.replayed(Some(image), end).dump_text(),
                expected,
                "S4 replay-equal: image and log"
            );
        }
    }

    /// A new shard with everything up to `end`.
    pub(crate) fn replayed(&self, image: Option<&Image>, end: Position) -> Replayed {
        let mut shard = Rig::fresh_shard(&self.config);
        for chunk in image.iter().flat_map(|image| &image.chunks) {
            shard.load_image(chunk).expect("an image that the shard wrote");
        }
        for batch in self.sealed.iter().filter(|batch| batch.end <= end) {
            if image.is_none_or(|image| batch.end > image.cursor.position()) {
                shard.replay(batch.first, batch.time, &batch.bytes).expect("records that the shard wrote");
            }
        }
        Replayed(shard)
    }

    /// The process dies; the log survives up to some batch that is not below what was acknowledged.
    pub(crate) fn crash(&mut self, part: u8, pause: u64) {
        self.seal();
        let died_at = self.model.clock;
        let first = self.sealed.iter().rposition(|batch| batch.end <= self.durable.max(Position(8))).unwrap();
        let survivor = first + (self.sealed.len() - 1 - first) * usize::from(part) / 100;
        self.sealed.truncate(survivor + 1);
        let end = self.sealed[survivor].end;
        let usable = self.image.take().filter(|image| image.complete_at.is_some_and(|at| at <= end));
        let Replayed(mut shard) = self.replayed(usable.as_ref(), end);
        let now = shard.clock().0 + pause;
        shard.recovered(Time(now));
        shard.check_invariants();
        self.model = self.sealed[survivor].model.clone();
        self.model.restart(now);
        self.check_promises(died_at, now - pause, end);
        self.durable = end;
        self.image = usable;
        self.log = RecordBuffer::new(Position(end.0 + 4096), Time(now));
        self.opened_at = Time(now);
        self.shard = shard;
        self.told.clear();
        // Ids of grants that the crash undid may be issued again: nobody was told.
        let kept: BTreeSet<LeaseId> = self.issued_in_log();
        self.ever_issued.retain(|id| kept.contains(id));
    }

    pub(crate) fn issued_in_log(&self) -> BTreeSet<LeaseId> {
        let records = self.sealed.iter().flat_map(|batch| RecordIter::new(batch.first, &batch.bytes));
        records
            .filter_map(|record| match record {
                Ok((_, Record::Grant { id, chosen: false, .. })) => Some(id),
                _ => None,
            })
            .collect()
    }

    /// S2 and S3 across the crash: `died_at` on the old clock and `resumed_at` on the new one are the same moment.
    pub(crate) fn check_promises(&self, died_at: u64, resumed_at: u64, end: Position) {
        for told in self.told.iter().filter(|told| told.after <= self.durable) {
            let now = self.model.leases.get(&told.id).filter(|lease| lease.token == told.token);
            match told.deadline {
                None => assert!(now.is_none(), "S3 ack-after-durable: {} was told dead and lives", told.id),
                Some(deadline) => {
                    let Some(lease) = now else {
                        assert!(
                            deadline <= died_at || self.has_ended(told.id, told.token, end),
                            "S3 ack-after-durable: {} was acknowledged and is lost",
                            told.id
                        );
                        continue;
                    };
                    let (promised, left) =
                        (deadline.saturating_sub(died_at), lease.deadline.saturating_sub(resumed_at));
                    assert!(left >= promised, "S2 never-early: {} had {promised}ms, now {left}ms", told.id);
                }
            }
        }
    }

    pub(crate) fn has_ended(&self, id: LeaseId, token: Token, end: Position) -> bool {
        let survivors = self.sealed.iter().filter(|batch| batch.end <= end);
        survivors.flat_map(|batch| RecordIter::new(batch.first, &batch.bytes)).any(|record| match record {
            Ok((_, Record::Ended { mut entries, .. })) => entries.any(|entry| entry == (id, token)),
            _ => false,
        })
    }
}
