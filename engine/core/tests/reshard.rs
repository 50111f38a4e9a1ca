//! Opening with another number of shards: every lease, item and remembered grant finds its new shard, and no id is
//! issued twice.

use std::collections::{BTreeMap, BTreeSet};
use tenure_core::*;

fn shard_with(shard: u16, count: u16, generation_base: Option<u64>) -> Shard {
    let config =
        ShardConfig { lease_count_max: 5_000, seed: 3, ..ShardConfig::new(ShardIndex(shard), count) };
    let generation_base = generation_base.unwrap_or(config.generation_base);
    Shard::new(ShardConfig { generation_base, ..config })
}

/// Shards with leases of all kinds at time 1000, their images, and what each lease is.
struct Old {
    images: Vec<Vec<u8>>,
    leases: BTreeMap<LeaseId, (Token, u64, Vec<Vec<u8>>)>,
    leaving: usize,
    tail: Position,
    generation_next: Vec<u64>,
}

fn old(count: u16) -> Old {
    let mut old = Old {
        images: vec![],
        leases: BTreeMap::new(),
        leaving: 0,
        tail: Position(0),
        generation_next: vec![],
    };
    for index in 0..count {
        let mut shard = shard_with(index, count, None);
        let mut log = RecordBuffer::new(Position(64), Time(1_000));
        for i in 0..300u64 {
            let chosen = (i % 3 == 0).then(|| LeaseId(i.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1));
            let key = (i % 5 == 0).then_some(GrantKey { client: 8, request: i });
            let grant = Grant { id: chosen, ttl_ms: 60_000 + i * 1_000_000_000, key };
            let answer = shard.grant(Time(1_000), &grant, &mut log).result;
            let Ok(granted) = answer else {
                assert_eq!(answer, Err(Refusal::NotThisShard));
                continue;
            };
            let items: Vec<Vec<u8>> = (0..i % 4).map(|n| format!("{index}/{i}/{n}").into_bytes()).collect();
            for item in &items {
                assert!(shard.attach(Time(1_000), granted.id, item, &mut log).result.is_ok());
            }
            if i % 10 == 7 {
                assert!(shard.revoke(Time(1_000), granted.id, &mut log).result.is_ok());
                old.leaving += items.len();
            } else {
                old.leases.insert(granted.id, (granted.token, granted.ttl_ms, items));
            }
        }
        let (mut cursor, mut image) = (shard.image_start(), Vec::new());
        while !shard.image_step(&mut cursor, 1_000, &mut image) {}
        old.images.push(image);
        old.tail = old.tail.max(log.tail());
        old.generation_next.push(shard.generation_next());
    }
    old
}

#[test]
fn every_lease_finds_its_new_shard() {
    for (from, to) in [(3, 2), (1, 4), (4, 1), (2, 7)] {
        let old = old(from);
        let (mut found, mut leaving) = (0, 0);
        for index in 0..to {
            let base = generation_base_after(ShardIndex(index), to, &old.generation_next);
            let mut shard = shard_with(index, to, Some(base));
            old.images.iter().for_each(|image| shard.load_foreign(image).unwrap());
            shard.recovered(Time(2_000));
            shard.check_invariants();
            leaving += shard.stats().leaving_item_count as usize;
            let mut log = RecordBuffer::new(Position(old.tail.0 + 4_096), Time(2_000));
            for (&id, (token, ttl_ms, items)) in &old.leases {
                let answer = shard.time_to_live(Time(2_000), id, &mut log).result;
                if shard_of(id, to) != ShardIndex(index) {
                    assert_eq!(answer, Err(Refusal::NotFound), "S1 one-shard");
                    continue;
                }
                found += 1;
                let expected = TimeToLive {
                    token: *token,
                    ttl_ms: *ttl_ms,
                    remaining_ms: *ttl_ms,
                    item_count: items.len() as u64,
                };
                assert_eq!(answer, Ok(expected), "{id} from {from} shards to {to}");
                let mut page = Vec::new();
                let more = shard.items(Time(2_000), id, None, 10_000, &mut page, &mut log).result;
                assert_eq!((more, page.len()), (Ok(false), items.len()));
                for item in items {
                    let owner = shard.lease_of(Time(2_000), item, &mut log).result.unwrap();
                    assert_eq!(owner, Some((id, *token)));
                }
            }
            assert_reloads(&mut shard);
            let old_ids: BTreeSet<LeaseId> = old.leases.keys().copied().collect();
            for _ in 0..1_000 {
                let grant = Grant { id: None, ttl_ms: 1_000, key: None };
                let granted = shard.grant(Time(2_000), &grant, &mut log).result.unwrap();
                assert!(!old_ids.contains(&granted.id) && granted.token.0 > old.tail.0);
            }
            shard.check_invariants();
        }
        assert_eq!((found, leaving), (old.leases.len(), old.leaving), "from {from} shards to {to}");
    }
}

/// The first snapshot in the new place brings everything back, the clock included (S4, S6).
fn assert_reloads(shard: &mut Shard) {
    let (mut cursor, mut image) = (shard.image_start(), Vec::new());
    while !shard.image_step(&mut cursor, 100_000, &mut image) {}
    let mut reloaded = Shard::new(shard.config().clone());
    reloaded.load_image(&image).unwrap();
    let (mut expected, mut found) = (String::new(), String::new());
    shard.dump(&mut expected);
    reloaded.dump(&mut found);
    assert_eq!(found, expected);
    assert_eq!(reloaded.clock(), Time(1_000), "S6 time-forward: the time of the last record");
}

/// A remembered grant still finds its lease in the new shard.
#[test]
fn a_repeated_grant_finds_its_lease_after_the_move() {
    let old = old(3);
    let mut shard = shard_with(0, 1, Some(generation_base_after(ShardIndex(0), 1, &old.generation_next)));
    old.images.iter().for_each(|image| shard.load_foreign(image).unwrap());
    shard.recovered(Time(2_000));
    let mut log = RecordBuffer::new(Position(old.tail.0 + 4_096), Time(2_000));
    let mut repeated = 0;
    for i in (0..300).step_by(5) {
        let key = Some(GrantKey { client: 8, request: i });
        let answer =
            shard.grant(Time(2_000), &Grant { id: None, ttl_ms: 77_000, key }, &mut log).result.unwrap();
        if answer.repeated {
            assert_eq!(old.leases[&answer.id].0, answer.token);
            repeated += 1;
        }
    }
    assert!(repeated > 40, "{repeated}");
}
