//! One small history with every kind of record and image entry.

use tenure_core::*;

pub(crate) fn config() -> ShardConfig {
    ShardConfig {
        lease_count_max: 50,
        checkpoint_interval_ms: Some(100),
        ..ShardConfig::new(ShardIndex(0), 1)
    }
}

/// A log with every kind of record, and the image of the shard that wrote it.
pub(crate) fn sample() -> (Vec<u8>, Vec<u8>, String) {
    let mut shard = Shard::new(config());
    let mut log = RecordBuffer::new(Position(64), Time(5));
    let grant =
        |shard: &mut Shard, log: &mut RecordBuffer, now: u64, id: Option<u64>, ttl_ms: u64, request: u64| {
            let key = (request > 0).then_some(GrantKey { client: 9, request });
            let answer = shard.grant(Time(now), &Grant { id: id.map(LeaseId), ttl_ms, key }, log);
            answer.result.expect("granted").id
        };
    let plain = grant(&mut shard, &mut log, 5, None, 1_000, 0);
    let named = grant(&mut shard, &mut log, 5, Some(u64::MAX), 5_000_000_000, 1);
    let short = grant(&mut shard, &mut log, 6, None, 10, 2);
    for (id, item) in
        [(plain, &b"one"[..]), (plain, b""), (short, b"12345678"), (named, b"three"), (short, b"one")]
    {
        assert!(shard.attach(Time(6), id, item, &mut log).result.is_ok());
    }
    assert!(shard.detach(Time(7), named, b"three", &mut log).result.is_ok());
    let gone = grant(&mut shard, &mut log, 7, None, 1_000, 0);
    assert!(shard.revoke(Time(8), gone, &mut log).result.is_ok());
    while shard.maintain(Time(8), 1_000, &mut log) {}
    assert_eq!(shard.expire(Time(20), 1_000, &mut log).ended, 1);
    while shard.maintain(Time(200), 1_000, &mut log) {}
    while shard.maintain(Time(200), 1_000, &mut log) {}
    assert!(shard.renew(Time(210), plain, &mut log).result.is_ok(), "withdraws its checkpoint");
    assert!(shard.demote(Time(220), &mut log).result.is_ok());
    assert!(shard.promote(Time(221), 1_000, &mut log).result.is_ok());
    let busy = grant(&mut shard, &mut log, 221, None, 500, 3);
    assert!(shard.attach(Time(222), busy, b"leaves late", &mut log).result.is_ok());
    assert!(shard.revoke(Time(222), busy, &mut log).result.is_ok());
    let (mut image, mut dump) = (Vec::new(), String::new());
    let mut cursor = shard.image_start();
    while !shard.image_step(&mut cursor, 64, &mut image) {}
    shard.dump(&mut dump);
    (log.bytes().to_vec(), image, dump)
}

pub(crate) fn dump_of(shard: &Shard) -> String {
    let mut dump = String::new();
    shard.dump(&mut dump);
    dump
}
