//! What happens while an image is being taken, moment by moment (S4): histories that random ones rarely hit.

use tenure_core::limits::Bounds;
use tenure_core::*;

/// A shard whose slots are reused at once, with an image under way.
struct Bench {
    shard: Shard,
    log: RecordBuffer,
    cursor: Option<ImageCursor>,
    chunks: Vec<Vec<u8>>,
}

fn fresh() -> Shard {
    let config = ShardConfig {
        lease_count_max: 100,
        checkpoint_interval_ms: None,
        ..ShardConfig::new(ShardIndex(0), 1)
    };
    Shard::with_bounds(config, &Bounds { slots_before_reuse: 4, ..Bounds::default() })
}

const NOW: Time = Time(10);

impl Bench {
    /// Four leases in slots 0 to 3.
    fn new() -> (Bench, [LeaseId; 4]) {
        let log = RecordBuffer::new(Position(64), NOW);
        let mut bench = Bench { shard: fresh(), log, cursor: None, chunks: Vec::new() };
        let ids = std::array::from_fn(|_| bench.grant());
        (bench, ids)
    }

    fn grant(&mut self) -> LeaseId {
        let grant = Grant { id: None, ttl_ms: 1_000, key: None };
        self.shard.grant(NOW, &grant, &mut self.log).result.expect("granted").id
    }

    fn attach(&mut self, id: LeaseId, item: &str) {
        assert!(self.shard.attach(NOW, id, item.as_bytes(), &mut self.log).result.is_ok());
    }

    fn detach(&mut self, id: LeaseId, item: &str) {
        assert!(self.shard.detach(NOW, id, item.as_bytes(), &mut self.log).result.is_ok());
    }

    fn revoke(&mut self, id: LeaseId) {
        assert!(self.shard.revoke(NOW, id, &mut self.log).result.is_ok());
    }

    /// One step of the walk, of one entry.
    fn walk(&mut self) -> bool {
        let shard = &mut self.shard;
        let cursor = self.cursor.get_or_insert_with(|| shard.image_start());
        let mut chunk = Vec::new();
        let done = shard.image_step(cursor, 1, &mut chunk);
        self.chunks.push(chunk);
        done
    }

    /// Ends the walk and compares image + log with the live shard.
    fn compare(mut self) -> String {
        while !self.walk() {}
        let mut replayed = fresh();
        for chunk in &self.chunks {
            replayed.load_image(chunk).unwrap();
        }
        replayed.replay(self.log.start(), NOW, self.log.bytes()).unwrap();
        let (mut live, mut again) = (String::new(), String::new());
        self.shard.dump(&mut live);
        replayed.dump(&mut again);
        assert_eq!(again, live, "S4 replay-equal");
        self.shard.check_invariants();
        replayed.recovered(NOW);
        replayed.check_invariants();
        live
    }
}

/// The walk has an item on one lease; it moves to a lease that the walk never meets, and ends with it.
#[test]
fn an_item_moves_to_a_lease_the_image_never_sees() {
    let (mut bench, ids) = Bench::new();
    bench.attach(ids[0], "x");
    // Start, then the lease in slot 0 with its item.
    bench.walk();
    bench.walk();
    bench.revoke(ids[1]);
    let unseen = bench.grant();
    bench.attach(unseen, "x");
    bench.revoke(unseen);
    bench.grant();
    let dump = bench.compare();
    assert_eq!(dump.matches("\"x\"").count(), 1, "only as an item that is leaving: {dump}");
}

/// A lease ends between two of its items, and its slot is granted again before the walk goes on.
#[test]
fn a_lease_ends_while_its_items_are_walked() {
    for streamed in [false, true] {
        let (mut bench, ids) = Bench::new();
        for item in ["a", "b", "c", "d"] {
            bench.attach(ids[0], item);
        }
        bench.walk();
        bench.walk();
        bench.walk();
        bench.detach(ids[0], "a");
        bench.revoke(ids[0]);
        if streamed {
            while bench.shard.maintain(NOW, 1, &mut bench.log) {}
        }
        let heir = bench.grant();
        bench.attach(heir, "d");
        let dump = bench.compare();
        assert_eq!(dump.contains("leaving"), !streamed, "{dump}");
        assert!(!dump.contains("\"a\""), "{dump}");
    }
}

/// The same without a successor in the slot: the rest of the items is found among those that are leaving.
#[test]
fn a_lease_ends_while_its_items_are_walked_and_nobody_follows() {
    let (mut bench, ids) = Bench::new();
    for item in ["a", "b", "c", "d"] {
        bench.attach(ids[0], item);
    }
    bench.walk();
    bench.walk();
    bench.revoke(ids[0]);
    let dump = bench.compare();
    assert!(dump.contains("\"a\" \"b\" \"c\" \"d\""), "{dump}");
}

/// A promotion half-way changes what was walked already: the image starts over.
#[test]
fn a_promotion_restarts_the_walk() {
    let mut shard = Shard::new(ShardConfig {
        lease_count_max: 100,
        renewals: Renewals::Logged,
        ..ShardConfig::new(ShardIndex(0), 1)
    });
    let config = shard.config().clone();
    let mut log = RecordBuffer::new(Position(64), NOW);
    for _ in 0..4 {
        assert!(shard.grant(NOW, &Grant { id: None, ttl_ms: 1_000, key: None }, &mut log).result.is_ok());
    }
    assert!(shard.demote(NOW, &mut log).result.is_ok());
    let (mut cursor, mut image) = (shard.image_start(), Vec::new());
    let begun_at = cursor.position();
    for _ in 0..3 {
        shard.image_step(&mut cursor, 1, &mut image);
    }
    assert!(shard.promote(NOW, 5_000, &mut log).result.is_ok());
    while !shard.image_step(&mut cursor, 1, &mut image) {}
    assert!(cursor.position() > begun_at);
    let mut replayed = Shard::new(config);
    replayed.load_image(&image).unwrap();
    replayed.replay(log.start(), NOW, log.bytes()).unwrap();
    let (mut live, mut again) = (String::new(), String::new());
    shard.dump(&mut live);
    replayed.dump(&mut again);
    assert_eq!(again, live, "S4 replay-equal: extended once, not twice");
    assert!(live.contains("until 6011ms"), "{live}");
}

/// Two leases are granted for each step of the walk: it ends all the same, and the log has what it did not see.
#[test]
fn a_walk_does_not_chase_leases_granted_after_its_start() {
    let (mut bench, _) = Bench::new();
    let mut steps = 0;
    while !bench.walk() {
        steps += 1;
        assert!(steps < 16, "S8 bounded: the walk chases new leases");
        let id = bench.grant();
        bench.attach(id, "new");
        bench.grant();
    }
    assert!(bench.compare().lines().count() > 4 + 2 * 4);
}
