//! Records and image as published in tests/vectors: encoders produce them, decoders read them. A change here is a new
//! version of the format.

use crate::sample::{config, dump_of, sample};
use std::fmt::Write;
use tenure_core::*;

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a String takes any text");
        text
    })
}

fn bytes_of(hex: &str) -> Vec<u8> {
    assert!(hex.len().is_multiple_of(2), "{hex}");
    (0..hex.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).expect("hex digits"))
        .collect()
}

/// The lines that are not comments.
fn lines(file: &'static str) -> impl Iterator<Item = &'static str> {
    file.lines().filter(|line| !line.starts_with('#') && !line.is_empty())
}

const RECORDS: &str = include_str!("../vectors/records.txt");
const IMAGE: &str = include_str!("../vectors/image.txt");

#[test]
fn encoders_produce_the_vectors() {
    let (records, image, _) = sample();
    let mut found = String::new();
    let mut iter = RecordIter::new(Position(64), &records);
    let mut start = 0;
    while let Some(record) = iter.next() {
        let (position, record) = record.unwrap();
        writeln!(found, "{position} | {record} | {}", hex(&records[start..iter.offset()])).unwrap();
        start = iter.offset();
    }
    let expected: String = lines(RECORDS).flat_map(|line| [line, "\n"]).collect();
    assert_eq!(found, expected, "records differ from tests/vectors/records.txt");
    assert_eq!(
        hex(&image),
        lines(IMAGE).collect::<String>(),
        "the image differs from tests/vectors/image.txt"
    );
}

#[test]
fn decoders_read_the_vectors() {
    let mut shard = Shard::new(config());
    for line in lines(RECORDS) {
        let [position, text, hex] = line.split(" | ").collect::<Vec<_>>()[..] else { panic!("{line}") };
        let (position, bytes) = (Position(position.parse().unwrap()), bytes_of(hex));
        let decoded: Vec<_> = RecordIter::new(position, &bytes).map(Result::unwrap).collect();
        assert_eq!(decoded.len(), 1, "{line}");
        assert_eq!((decoded[0].0, decoded[0].1.to_string().as_str()), (position, text));
        let time = shard.clock().max(Time(5));
        shard.replay(position, time, &bytes).unwrap();
    }
    let mut loaded = Shard::new(config());
    loaded.load_image(&bytes_of(&lines(IMAGE).collect::<String>())).unwrap();
    assert_eq!(dump_of(&loaded), dump_of(&shard), "S4 replay-equal");
}
