//! Recovery against every way a log can end or be damaged.

use super::*;
use crate::log::rig::{Noise, Rig, SEGMENT, Seen, Session};
use crate::log::writer::Tail;

/// Three committed batches of 1, 2 and 3 blocks; returns their header places.
fn three_batches(rig: &mut Rig) -> [u64; 3] {
    let mut session = rig.open();
    [100, 5000, 9000].map(|length| session.commit(&vec![length as u8; length]) - 64)
}

#[test]
fn an_empty_directory_is_an_empty_log() {
    let (seen, recovered) = Rig::new().recover().unwrap();
    assert_eq!(seen, Seen::default());
    assert_eq!((recovered.tail, recovered.torn), (Tail::empty(0), None));
}

#[test]
fn replays_what_was_committed_across_segments_and_runs() {
    let mut rig = Rig::new();
    let mut noise = Noise(1);
    let mut expected = Vec::new();
    for _run in 0..4 {
        let mut session = rig.open();
        assert_eq!(session.seen.batches, expected);
        assert_eq!(session.recovered.torn, None);
        for _ in 0..30 {
            let length = 1 + noise.below(60_000) as usize;
            let records = noise.bytes(length);
            let first = session.commit(&records);
            expected.push((first, 10 * (expected.len() as u64 + 1), records));
        }
    }
    let (seen, recovered) = rig.recover().unwrap();
    assert_eq!(seen.batches, expected);
    assert_eq!(recovered.batches, 120);
    assert!(recovered.tail.place > 3 * SEGMENT, "the test is about several segments");
    assert_eq!(recovered.time, Time(1200));
}

#[test]
fn a_tail_torn_anywhere_is_cut_off() {
    let mut rig = Rig::new();
    let places = three_batches(&mut rig);
    let (whole, _) = rig.recover().unwrap();
    rig.log.floor = 0;
    let end = 9000 + 64;
    let cuts = (0..80).chain((80..end).step_by(97)).chain([4095, 4096, 4097, 8191, 8192, end - 1]);
    let mut good = Vec::new();
    rig.poke(places[2], |bytes| good.extend_from_slice(bytes), 12_288);
    // Behind the cut: zeros of a fresh segment, or what a recycled one held.
    for (behind, cut) in cuts.flat_map(|cut| [(0u8, cut), (0xA5, cut)]) {
        rig.poke(places[2] + cut as u64, |bytes| bytes.fill(behind), 12_288 - cut);
        let (seen, recovered) = rig.recover().unwrap();
        assert_eq!(seen.batches, whole.batches[..2], "cut at {cut}");
        assert_eq!(recovered.tail, Tail { place: places[2], previous: places[1] });
        rig.poke(places[2], |bytes| bytes.copy_from_slice(&good), 12_288);
    }
    rig.poke(places[2] + 5000, |bytes| bytes.fill(0), 1000);
    rig.open().commit(b"the log goes on");
    let (seen, _) = rig.recover().unwrap();
    assert_eq!((seen.batches.len(), seen.batches[2].2.as_slice()), (3, &b"the log goes on"[..]));
}

#[test]
fn a_flipped_bit_before_the_tail_is_refused_naming_file_and_offset() {
    let mut rig = Rig::new();
    let places = three_batches(&mut rig);
    rig.log.floor = 0;
    let lengths = [164, 5064, 9064];
    for (index, (&place, length)) in places.iter().zip(lengths).enumerate() {
        let spots = (0..64).chain([64, 100, length - 1]);
        for spot in spots {
            let bit = spot as usize % 8;
            rig.flip(place + spot, bit);
            if index < 2 {
                let text = rig.refusal();
                let expected = format!("damaged log: {} at byte {place} ", rig.segment(0).display());
                assert!(text.starts_with(&expected), "{text}");
                let data_dir = rig.log.dir.parent().unwrap().display();
                let command = format!("`tenure repair {data_dir} --shard 3 --truncate-at {place}`");
                assert!(text.contains(&command), "{text}");
            } else {
                let (seen, recovered) = rig.recover().expect("the tail may be torn");
                assert_eq!((seen.batches.len(), recovered.tail.place), (2, place), "byte {spot}");
            }
            rig.flip(place + spot, bit);
        }
    }
    assert_eq!(rig.recover().unwrap().0.batches.len(), 3, "all bits are back");
}

/// A clean stop records the tail: from then on the last batch is as sacred as the others.
#[test]
fn the_manifests_tail_guards_the_last_batch() {
    let mut rig = Rig::new();
    let places = three_batches(&mut rig);
    let (_, recovered) = rig.recover().unwrap();
    rig.log.floor = recovered.tail.place;
    rig.flip(places[2] + 70, 1);
    let text = rig.refusal();
    assert!(text.contains("manifest knows the log to reach position 24576"), "{text}");
    std::fs::remove_file(rig.segment(0)).unwrap();
    let text = rig.refusal();
    assert!(text.contains("00000000000000000000.log at byte 0"), "{text}");
}

/// Four writes in flight, each written, torn or lost, then the same again in the next run: what comes
/// back is a prefix of what was sealed, holds everything acknowledged, and never anything cut off before.
#[test]
fn windows_in_flight_leave_a_prefix_whatever_the_disk_did() {
    for first in 0..81 {
        for second in [0, 41, 80] {
            let mut rig = Rig::new();
            let mut kept = Vec::new();
            for (run, fates) in [(0u8, first), (1, second)] {
                let mut session = rig.open();
                assert_eq!(session.seen.batches, kept, "fates {first} then {second}");
                let acknowledged = session.commit(&[run; 10]);
                kept.push((acknowledged, 0, vec![run; 10]));
                let sealed: Vec<(u64, Vec<u8>)> = (0..4u8)
                    .map(|index| {
                        let records = vec![run * 16 + index + 1; 3000 + 1500 * usize::from(index)];
                        (session.seal(&records), records)
                    })
                    .collect();
                let mut whole = true;
                for (index, write) in session.writes().into_iter().enumerate() {
                    let fate = fates / 3u32.pow(index as u32) % 3;
                    session.put(&write, [0, 64, write.length][fate as usize]);
                    whole &= fate == 2;
                    if whole {
                        let (first, records) = sealed[index].clone();
                        kept.push((first, 0, records));
                    }
                }
                // The process dies here: nothing of the window was acknowledged.
                let (seen, recovered) = rig.recover().unwrap();
                assert_eq!(seen.batches.len(), kept.len(), "fates {first} then {second}");
                if something_behind_the_hole(fates) {
                    assert!(recovered.torn.is_some(), "fates {first} then {second}");
                }
                for (kept, seen) in kept.iter_mut().zip(seen.batches) {
                    assert_eq!((kept.0, &kept.2), (seen.0, &seen.2));
                    kept.1 = seen.1;
                }
            }
        }
    }
}

/// A torn batch right behind the whole ones, or a whole one behind a hole: to be reported.
fn something_behind_the_hole(fates: u32) -> bool {
    let fates: Vec<u32> = (0..4).map(|index| fates / 3u32.pow(index) % 3).collect();
    let whole = fates.iter().take_while(|&&fate| fate == 2).count();
    fates.get(whole) == Some(&1) || fates[whole..].contains(&2)
}

#[test]
fn a_batch_cut_off_once_never_comes_back() {
    let mut rig = Rig::new();
    let mut session = rig.open();
    session.commit(b"kept");
    session.seal(b"lost");
    session.seal(b"left over");
    let writes = session.writes();
    session.put(&writes[1], writes[1].length);
    let (seen, recovered) = rig.recover().unwrap();
    assert_eq!(seen.batches.len(), 1);
    let torn = recovered.torn.expect("a hole");
    assert_eq!((torn.offset, torn.batches_dropped), (4096, 1));
    // The next run writes a batch of the same size into the hole; the left-over batch now stands
    // right behind it, naming it as its previous one. Only the epoch tells.
    let mut session = rig.open();
    session.commit(b"new!");
    let (seen, recovered) = rig.recover().unwrap();
    assert_eq!(seen.batches.last().unwrap().2, b"new!");
    assert_eq!((seen.batches.len(), recovered.torn), (2, None));
}

#[test]
fn a_torn_batch_stays_cut_off_when_the_same_bytes_make_it_whole() {
    let mut rig = Rig::new();
    let mut session = rig.open();
    session.commit(b"kept");
    session.seal(&[7; 6_000]);
    let writes = session.writes();
    session.put(&writes[0], 4_096);
    assert!(rig.recover().unwrap().1.torn.is_some());
    // The next run is asked the same again, and loses power when only the second block has reached the disk.
    let mut session = rig.open();
    session.seal(&[7; 6_000]);
    let write = session.writes().remove(0);
    let rest = session.writer.write_bytes(&write)[4_096..].to_vec();
    rig.poke(4_096 + 4_096, |bytes| bytes.copy_from_slice(&rest), rest.len());
    let (seen, recovered) = rig.recover().unwrap();
    assert_eq!(
        (seen.batches.len(), recovered.tail.place),
        (1, 4_096),
        "S3: it had been found not to be there"
    );
}

#[test]
fn recycled_segments_show_nothing_of_their_past() {
    let mut rig = Rig::new();
    let mut session = rig.open();
    let mut noise = Noise(2);
    let mut last = Vec::new();
    while session.writer.position().0 < 3 * SEGMENT {
        last = noise.bytes(4032); // one block exactly: old batches stand wherever new ones could
        session.commit(&last);
    }
    let start = session.writer.position().0;
    rig.snapshot(start, start, b"image");
    assert_eq!(session.recycle(start - 64), 3 * SEGMENT);
    while session.writer.position().0 < 4 * SEGMENT + SEGMENT / 2 {
        last = noise.bytes(4032);
        session.commit(&last);
    }
    let (seen, recovered) = rig.recover().unwrap();
    assert_eq!((seen.image.as_slice(), recovered.torn), (&b"image"[..], None));
    assert_eq!(seen.batches.last().unwrap().2, last);
    assert!(seen.batches.iter().all(|batch| batch.0 >= start));
    assert_eq!(recovered.tail.place, session.writer.written_end());
}

/// A log over four segments, with the manifest not yet knowing its tail.
fn four_segments() -> Rig {
    let mut rig = Rig::new();
    let mut session = rig.open();
    while session.writer.position().0 < 3 * SEGMENT + 10_000 {
        session.commit(&[1; 60_000]);
    }
    rig
}

#[test]
fn missing_segments_are_damage_naming_the_file() {
    for base in [0, SEGMENT, 2 * SEGMENT] {
        let rig = four_segments();
        std::fs::remove_file(rig.segment(base)).unwrap();
        let text = rig.refusal();
        assert!(text.contains(&format!("{} at byte 0", rig.segment(base).display())), "{text}");
        assert!(text.contains("the segment is missing"), "{text}");
    }
}

#[test]
fn a_missing_last_segment_passes_only_when_nothing_tells_of_it() {
    let mut rig = four_segments();
    let (whole, recovered) = rig.recover().unwrap();
    for base in [3 * SEGMENT, 4 * SEGMENT] {
        std::fs::remove_file(rig.segment(base)).unwrap();
    }
    let (seen, _) = rig.recover().unwrap();
    assert!(seen.batches.len() < whole.batches.len());
    rig.log.floor = recovered.tail.place;
    assert!(rig.refusal().contains("manifest knows"), "{}", rig.refusal());
    rig.log.floor = 0;
    rig.snapshot(64, 3 * SEGMENT + 4096 + 64, b"image");
    assert!(rig.refusal().contains("needs the log up to position"), "{}", rig.refusal());
}

#[test]
fn a_cut_short_segment_is_damage() {
    let rig = four_segments();
    let file = std::fs::OpenOptions::new().write(true).open(rig.segment(SEGMENT)).unwrap();
    file.set_len(SEGMENT / 2).unwrap();
    let text = rig.refusal();
    assert!(text.contains(&format!("position {}", SEGMENT + SEGMENT / 2)), "{text}");
}

fn reseal(bytes: &mut [u8]) {
    let length = u32::from_le_bytes(bytes[4..8].try_into().unwrap()) as usize;
    let crc = crc_fast::crc32_iscsi(&bytes[4..length]);
    bytes[..4].copy_from_slice(&crc.to_le_bytes());
}

#[test]
fn sound_batches_of_others_are_refused_not_cut_off() {
    for (change, expected) in [
        (58, "format version 2, this build reads 1"),
        (40, "batch of another log"),
        (56, "batch of shard"),
        (60, "reserved bits"),
    ] {
        let mut rig = Rig::new();
        let places = three_batches(&mut rig);
        rig.log.floor = 0;
        rig.poke(
            places[2],
            |bytes| {
                bytes[change] = 2;
                reseal(bytes);
            },
            9064,
        );
        let text = rig.refusal();
        assert!(text.contains(expected) && text.contains("00000000000000000000.log"), "{text}");
    }
}

#[test]
fn a_snapshot_may_start_between_two_records() {
    let mut rig = Rig::new();
    let mut session = rig.open();
    session.commit(b"before");
    let first = session.commit(b"old-half|new-half");
    session.commit(b"after");
    let start = first + 9;
    rig.snapshot(start, first + 17, b"image");
    let (seen, recovered) = rig.recover().unwrap();
    assert_eq!(seen.image, b"image");
    assert_eq!(seen.batches[0], (start, 700, b"new-half".to_vec()), "with the snapshot's time");
    assert_eq!((seen.batches[1].2.as_slice(), seen.batches.len()), (&b"after"[..], 2));
    assert_eq!(recovered.snapshot, Some(start));
}

#[test]
fn a_damaged_snapshot_falls_back_only_to_a_complete_log() {
    let mut rig = four_segments();
    let (whole, recovered) = rig.recover().unwrap();
    let end = recovered.tail.place + 64;
    rig.snapshot(64, end, b"older");
    rig.snapshot(2 * SEGMENT + 64, end, b"newer");
    let newer = rig.dir.path().join("snapshot-00000000000002097216.img");
    let (seen, _) = rig.recover().unwrap();
    assert_eq!(seen.image, b"newer");
    assert!(seen.batches.iter().all(|batch| batch.0 >= 2 * SEGMENT));
    let mut bytes = std::fs::read(&newer).unwrap();
    bytes[85] ^= 4;
    std::fs::write(&newer, &bytes).unwrap();
    let (seen, _) = rig.recover().unwrap();
    assert_eq!((seen.image.as_slice(), seen.restarts), (&b"older"[..], 1));
    assert_eq!(seen.batches, whole.batches);
    std::fs::remove_file(rig.dir.path().join("snapshot-00000000000000000064.img")).unwrap();
    let (seen, _) = rig.recover().unwrap();
    assert_eq!((seen.image.len(), &seen.batches), (0, &whole.batches), "the log alone tells it all");
    std::fs::remove_file(rig.segment(0)).unwrap();
    let text = rig.refusal();
    assert!(text.contains("snapshot-00000000000002097216.img") && text.contains("is gone"), "{text}");
    rig.snapshot(64, end, b"older");
    assert!(rig.refusal().contains("is gone"), "an older snapshot without its log does not help");
    std::fs::remove_file(newer).unwrap();
    std::fs::remove_file(rig.dir.path().join("snapshot-00000000000000000064.img")).unwrap();
    rig.log.floor = 0;
    assert!(rig.refusal().contains("00000000000000000000.log at byte 0"), "{}", rig.refusal());
}

/// A snapshot of a quiet log starts where nothing has been written yet, here the first byte of a
/// segment; a left-over batch of an earlier run that happens to stand there is not taken up.
#[test]
fn nothing_older_than_the_snapshot_follows_it() {
    let mut rig = Rig::new();
    let mut session = rig.open();
    for _ in 0..16 {
        session.commit(&[1; 60_000]);
    }
    session.seal(&[2; 60_000]);
    assert_eq!(session.seal(b"left over"), SEGMENT + 64);
    let writes = session.writes();
    session.put(&writes[1], writes[1].length);
    let mut session = rig.open();
    session.commit(&[3; 60_000]);
    let start = session.writer.position().0;
    assert_eq!(start, SEGMENT + 64);
    rig.snapshot(start, start, b"image");
    let (seen, recovered) = rig.recover().unwrap();
    assert_eq!((seen.image.as_slice(), seen.batches.len()), (&b"image"[..], 0));
    assert_eq!(recovered.tail, Tail { place: SEGMENT, previous: 16 * 61_440 });
}

/// The next batch after a snapshot at a segment's start must name the last one of the segment before.
#[test]
fn the_chain_holds_across_a_snapshot_at_a_segments_start() {
    let mut rig = Rig::new();
    let mut session = rig.open();
    while session.writer.position().0 < SEGMENT {
        session.commit(&[1; 60_000]);
    }
    let start = session.writer.position().0;
    assert_eq!(start, SEGMENT + 64);
    rig.snapshot(start, start, b"image");
    let mut session = rig.open();
    assert_eq!(session.recovered.tail.place, SEGMENT);
    session.commit(b"first of its segment");
    std::fs::remove_file(rig.dir.path().join("snapshot-00000000000001048640.img")).unwrap();
    let (seen, _) = rig.recover().unwrap();
    assert_eq!(seen.batches.last().unwrap().2, b"first of its segment");
}

/// Re-sharding starts logs at positions above all old ones, with a snapshot and nothing else.
#[test]
fn a_log_may_begin_with_a_snapshot_alone() {
    let mut rig = Rig::new();
    rig.log.start = 5 * SEGMENT;
    rig.log.floor = 5 * SEGMENT;
    rig.snapshot(5 * SEGMENT + 64, 5 * SEGMENT + 64, b"moved");
    let mut session = rig.open();
    assert_eq!((session.seen.image.as_slice(), session.recovered.tail.place), (&b"moved"[..], 5 * SEGMENT));
    session.commit(b"first");
    let (seen, _) = rig.recover().unwrap();
    assert_eq!(seen.batches, [(5 * SEGMENT + 64, 710, b"first".to_vec())]);
}

#[test]
fn refused_records_name_the_segment() {
    struct Refuses;
    impl Replay for Refuses {
        fn restart(&mut self) {}
        fn image(&mut self, _: &[u8]) -> Result<(), String> {
            Ok(())
        }
        fn batch(&mut self, first: Position, _: Time, _: &[u8]) -> Result<(), String> {
            Err(format!("nonsense at {first:?}"))
        }
    }
    let mut rig = Rig::new();
    three_batches(&mut rig);
    let text = recover(&rig.log, &mut Refuses).unwrap_err().to_string();
    assert!(text.contains("00000000000000000000.log: nonsense at Position(64)"), "{text}");
}

/// Long random lives: runs that end in a crash with any part of the window on disk, snapshots and
/// recycling in between. What was acknowledged is always there, in order, and nothing else but a
/// prefix of the rest.
#[test]
fn random_lives_keep_what_was_acknowledged() {
    for seed in 0..12 {
        let mut life = Life { noise: Noise(seed), ..Life::default() };
        let mut rig = Rig::new();
        for _run in 0..6 {
            let mut session = rig.open();
            life.check(&session, seed);
            life.live(&rig, &mut session);
        }
    }
}

#[derive(Default)]
struct Life {
    noise: Noise,
    /// Every batch sealed and not known lost, with its first record's position.
    written: Vec<(u64, Vec<u8>)>,
    /// How many of them were acknowledged, or recovered and built upon.
    acknowledged: usize,
}

impl Life {
    fn check(&mut self, session: &Session, seed: u64) {
        let run = session.writer.position().0;
        let kept = self.written.partition_point(|batch| batch.0 < session.recovered.tail.place);
        assert!(kept >= self.acknowledged, "S3: seed {seed} at {run} lost an acknowledged batch");
        self.written.truncate(kept);
        self.acknowledged = kept;
        let start = session.recovered.snapshot.unwrap_or(0);
        let expected = &self.written[self.written.partition_point(|batch| batch.0 < start)..];
        assert_eq!(session.seen.batches.len(), expected.len(), "S4: seed {seed} at {run}");
        for (seen, expected) in session.seen.batches.iter().zip(expected) {
            assert_eq!((seen.0, &seen.2), (expected.0, &expected.1), "S4: seed {seed} at {run}");
        }
    }

    /// One run, ended by a crash.
    fn live(&mut self, rig: &Rig, session: &mut Session) {
        for _ in 0..self.noise.below(60) {
            let records = self.records(50_000);
            self.written.push((session.commit(&records), records));
        }
        self.acknowledged = self.written.len();
        if self.noise.below(2) == 0 {
            let start = session.writer.position().0;
            rig.snapshot(start, start, b"image");
            session.recycle((start - 64).saturating_sub(self.noise.below(2) * SEGMENT));
        }
        for _ in 0..self.noise.below(6) {
            let records = self.records(20_000);
            self.written.push((session.seal(&records), records));
        }
        for write in session.writes() {
            let fates = [0, 64, write.length / 8192 * 4096, write.length, write.length];
            session.put(&write, fates[self.noise.below(5) as usize]);
        }
    }

    fn records(&mut self, length_max: u64) -> Vec<u8> {
        let length = 1 + self.noise.below(length_max) as usize;
        self.noise.bytes(length)
    }
}
