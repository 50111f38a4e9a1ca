//! Bytes from outside: every truncation and every flipped bit of records and images is refused or harmless. Refused
//! with an offset within the bytes; harmless means that the shard that took them is whole.

use crate::sample::{config, dump_of, sample};
use tenure_core::*;

/// Replays and, if that is accepted, lets the shard live and checks it.
fn replay(records: &[u8]) -> Result<(), ReplayError> {
    let mut shard = Shard::new(config());
    shard.replay(Position(64), Time(5), records)?;
    live(shard);
    Ok(())
}

fn load(image: &[u8]) -> Result<Shard, ImageError> {
    let mut shard = Shard::new(config());
    shard.load_image(image)?;
    Ok(shard)
}

fn live(mut shard: Shard) {
    let now = shard.clock();
    shard.recovered(now);
    shard.check_invariants();
    let mut log = RecordBuffer::new(Position(1 << 62), now);
    let later = Time(now.0 + 1_000);
    while shard.expire(later, 10, &mut log).more {}
    shard.check_invariants();
}

#[test]
fn the_sample_has_every_kind_and_replays() {
    let (records, image, dump) = sample();
    let kinds: std::collections::BTreeSet<u8> = RecordIter::new(Position(64), &records)
        .map(|record| records[(record.unwrap().0.0 - 64) as usize])
        .collect();
    assert_eq!(kinds.into_iter().collect::<Vec<_>>(), (1..=12).collect::<Vec<u8>>());
    replay(&records).unwrap();
    let mut shard = Shard::new(config());
    shard.replay(Position(64), Time(5), &records).unwrap();
    assert_eq!(dump_of(&shard), dump, "S4 replay-equal");
    assert_eq!(dump_of(&load(&image).unwrap()), dump, "S4 replay-equal");
    live(shard);
}

/// A truncation ends between records, and then replays, or is refused where the cut record begins.
#[test]
fn every_truncation_of_records() {
    let (records, ..) = sample();
    let starts: Vec<usize> =
        RecordIter::new(Position(64), &records).map(|record| (record.unwrap().0.0 - 64) as usize).collect();
    for length in 0..records.len() {
        let begun = *starts.iter().rfind(|&&start| start <= length).unwrap();
        match replay(&records[..length]) {
            Ok(()) => assert_eq!(begun, length, "only a whole record may end the batch"),
            Err(error) => assert_eq!((error.offset, begun < length), (begun, true), "{error}"),
        }
    }
}

#[test]
fn every_bit_flip_of_records() {
    let (mut records, ..) = sample();
    let mut refused = 0;
    for bit in 0..records.len() * 8 {
        records[bit / 8] ^= 1 << (bit % 8);
        if let Err(error) = replay(&records) {
            assert!(error.offset < records.len() && !error.reason.is_empty());
            refused += 1;
        }
        // Printing takes the same path as `tenure inspect`.
        let printed: usize = RecordIter::new(Position(64), &records)
            .map_while(Result::ok)
            .map(|(_, record)| record.to_string().len())
            .sum();
        assert!(printed < 64 * records.len());
        records[bit / 8] ^= 1 << (bit % 8);
    }
    assert!(refused > records.len(), "most flips change the structure: {refused} refused");
}

#[test]
fn every_truncation_of_an_image() {
    let (_, image, _) = sample();
    for length in 0..image.len() {
        match load(&image[..length]) {
            Err(error) => assert!(error.offset <= length, "{error}"),
            Ok(mut shard) if length > 0 => {
                let error = shard.replay(Position(1 << 40), Time(1 << 40), &[]).unwrap_err();
                assert_eq!(error.reason, "the image before it is incomplete");
            }
            Ok(_) => {}
        }
    }
}

#[test]
fn every_bit_flip_of_an_image() {
    let (_, mut image, _) = sample();
    let mut refused = 0;
    for bit in 0..image.len() * 8 {
        image[bit / 8] ^= 1 << (bit % 8);
        match load(&image) {
            Err(error) => {
                assert!(error.offset < image.len() && !error.reason.is_empty());
                refused += 1;
            }
            Ok(mut shard) => {
                // An image without its end is refused later.
                if shard.replay(Position(u64::MAX / 2), shard.clock(), &[]).is_ok() {
                    live(shard);
                }
            }
        }
        image[bit / 8] ^= 1 << (bit % 8);
    }
    assert!(refused > image.len(), "most flips change the structure: {refused} refused");
}

/// Whatever the bytes: no panic, and no allocation that they could not pay for.
#[test]
fn noise_is_refused() {
    let mut x = 1u64;
    for length in (0..4_000).step_by(8) {
        let mut noise: Vec<u8> = (0..length)
            .map(|_| {
                x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (x >> 56) as u8
            })
            .collect();
        if let Some(kind) = noise.first_mut() {
            *kind %= 14;
        }
        let _ = replay(&noise);
        if let Ok(mut shard) = load(&noise)
            && shard.replay(Position(u64::MAX / 2), shard.clock(), &[]).is_ok()
        {
            live(shard);
        }
    }
}
