//! Log records and snapshot images, as a recovery feeds them to a shard: any bytes, behind a checksum that matches.
//!
//! Refused with a reason, or replayed into a shard that keeps its invariants, serves, and whose own image loads into
//! the same dump (S4).

use tenure_core::{Position, RecordBuffer, Shard, ShardConfig, ShardIndex, Time};

/// Where the log goes on: beyond all that a script can have said.
const BEYOND: Position = Position(tenure_core::limits::POSITION_MAX);

fn config() -> ShardConfig {
    ShardConfig { lease_count_max: 10_000, ..ShardConfig::new(ShardIndex(0), 1) }
}

/// Checks a shard that has come through, and lets it live on for a while.
fn serve(mut shard: Shard) {
    let now = shard.clock();
    shard.recovered(now);
    shard.check_invariants();
    let mut dump = String::new();
    shard.dump(&mut dump);
    assert_eq!(dump_of_image(&mut shard, now), dump, "S4 replay-equal: the image of a replayed shard");
    // Recovery refuses times that leave no room for the longest TTL.
    let later = Time(now.0 + 1_000);
    let mut log = RecordBuffer::new(BEYOND, later);
    while shard.expire(later, 100, &mut log).more {}
    for _ in 0..100 {
        shard.maintain(later, 1_000, &mut log);
    }
    shard.durable(log.tail());
    shard.check_invariants();
}

fn dump_of_image(shard: &mut Shard, now: Time) -> String {
    let mut other = Shard::new(config());
    let mut cursor = shard.image_start();
    let (mut chunk, mut done) = (Vec::new(), false);
    while !done {
        chunk.clear();
        done = shard.image_step(&mut cursor, 4_096, &mut chunk);
        other.load_image(&chunk).expect("S4 replay-equal: an image loads");
    }
    other.recovered(now);
    let mut dump = String::new();
    other.dump(&mut dump);
    dump
}

/// The records of some batches; two bytes before each say how long it is.
pub fn records(data: &[u8]) {
    let mut shard = Shard::new(config());
    let (mut first, mut rest) = (Position(64), data);
    while let [low, high, records @ ..] = rest {
        let (records, behind) =
            records.split_at(usize::from(u16::from_le_bytes([*low, *high])).min(records.len()));
        if shard.replay(first, shard.clock(), records).is_err() {
            return;
        }
        first = Position(first.0 + records.len().next_multiple_of(4_096) as u64 + 4_096);
        rest = behind;
    }
    serve(shard);
}

/// The chunks of an image, and then an empty log.
pub fn image(data: &[u8]) {
    let mut shard = Shard::new(config());
    for chunk in data.chunks(1 << 16) {
        if shard.load_image(chunk).is_err() {
            return;
        }
    }
    if shard.replay(BEYOND, shard.clock(), &[]).is_ok() {
        serve(shard);
    }
    let mut moved = Shard::new(config());
    if moved.load_foreign(data).is_ok() {
        let now = moved.clock();
        moved.recovered(now);
        moved.check_invariants();
    }
}
