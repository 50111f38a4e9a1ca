//! The writer alone, with files that are never written to.

use super::*;
use crate::log::batch::BatchOwner;
use crate::log::segment::segment_path;

const MIB: u64 = 1 << 20;

fn config(batch_bytes_max: usize, sync: SyncMode) -> WriterConfig {
    WriterConfig {
        log_id: 77,
        shard: 1,
        epoch: 3,
        segment_bytes: MIB,
        batch_bytes_max,
        in_flight_max: 4,
        sync,
    }
}

fn segment(dir: &tempfile::TempDir, base: u64) -> Arc<SegmentFile> {
    let path = segment_path(dir.path(), base);
    std::fs::File::create(&path).unwrap().set_len(MIB).unwrap();
    Arc::new(SegmentFile::open(&path, base, SyncMode::EachWrite).unwrap())
}

fn writer(dir: &tempfile::TempDir) -> LogWriter {
    let mut writer = LogWriter::new(config(64 * 1024, SyncMode::EachWrite), Tail::empty(0), None);
    assert_eq!(writer.needs_segment(), Some(0));
    writer.offer_segment(segment(dir, 0));
    assert_eq!(writer.needs_segment(), Some(MIB), "one ahead at all times");
    writer
}

fn header(writer: &LogWriter, write: &LogWrite) -> BatchHeader {
    BatchHeader::check(writer.write_bytes(write), BatchOwner { log_id: 77, shard: 1 }).unwrap()
}

#[test]
fn positions_are_known_before_the_seal_and_batches_chain() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = writer(&dir);
    assert_eq!(writer.position(), Position(64));
    assert_eq!(writer.seal(&[1; 100], 2, Time(5)), Position(4096 + 64));
    assert_eq!(
        writer.seal(&[2; 4096], 1, Time(6)),
        Position(3 * 4096 + 64),
        "header and records take two blocks"
    );
    let first = writer.next_write().unwrap();
    let second = writer.next_write().unwrap();
    assert_eq!((first.offset, first.length, second.offset, second.length), (0, 4096, 4096, 8192));
    assert_eq!(first.address.addr() % 4096, 0);
    let (first, second) = (header(&writer, &first), header(&writer, &second));
    assert_eq!((first.previous, second.previous, first.time_ms, second.epoch), (PREVIOUS_NONE, 0, 5, 3));
    assert!(writer.next_write().is_none());
}

#[test]
fn durability_is_reported_in_order_only() {
    let dir = tempfile::tempdir().unwrap();
    // Every order in which four writes can complete.
    for order in permutations(&[0, 1, 2, 3]) {
        let mut writer = writer(&dir);
        let ends: Vec<u64> = (0..4).map(|_| writer.seal(&[7; 64], 1, Time(1)).0).collect();
        let writes: Vec<LogWrite> = std::iter::from_fn(|| writer.next_write()).collect();
        assert_eq!(writes.len(), 4);
        let mut done = [false; 4];
        for &index in &order {
            done[index] = true;
            let reported = writer.completed(writes[index].id, Ok(4096)).unwrap();
            let whole = done.iter().take_while(|&&done| done).count();
            let expected = if whole == 0 { 64 } else { ends[whole - 1] };
            assert_eq!(writer.acknowledged(), Position(expected), "S3 after {order:?}");
            assert!(reported.is_none_or(|position| position.0 == expected));
        }
        assert!(writer.is_idle());
        assert_eq!(writer.queued_bytes(), 0);
        assert_eq!(writer.acknowledged(), writer.position(), "nothing logged means nothing to wait for");
    }
}

fn permutations(items: &[usize]) -> Vec<Vec<usize>> {
    if items.is_empty() {
        return vec![Vec::new()];
    }
    let mut all = Vec::new();
    for (index, &first) in items.iter().enumerate() {
        let mut rest = items.to_vec();
        rest.remove(index);
        for mut tail in permutations(&rest) {
            tail.insert(0, first);
            all.push(tail);
        }
    }
    all
}

#[test]
fn at_most_four_writes_are_out_and_headers_carry_what_was_durable_then() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = writer(&dir);
    for _ in 0..6 {
        writer.seal(&[7; 64], 1, Time(1));
    }
    let writes: Vec<LogWrite> = std::iter::from_fn(|| writer.next_write()).collect();
    assert_eq!((writes.len(), writer.in_flight()), (4, 4));
    writer.completed(writes[1].id, Ok(4096)).unwrap();
    assert!(writer.next_write().is_none(), "a hole in front keeps the window closed");
    writer.completed(writes[0].id, Ok(4096)).unwrap();
    let late = writer.next_write().unwrap();
    assert_eq!(header(&writer, &late).durable, 2 * 4096);
}

#[test]
fn a_batch_opens_only_where_a_largest_one_fits() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = writer(&dir);
    let mut sealed = 0;
    while writer.position().0 < MIB {
        writer.seal(&[7; 60_000], 1, Time(1));
        sealed += 1;
        assert!(writer.position().0 % MIB <= MIB - 65_536 + 64);
    }
    assert_eq!((sealed, writer.position()), (17, Position(MIB + 64)), "17 × 60 KiB, then the next segment");
    writer.seal(&[8; 64], 1, Time(1));
    let mut count = 0;
    while let Some(write) = writer.next_write() {
        writer.completed(write.id, Ok(write.length)).unwrap();
        count += 1;
    }
    assert_eq!((count, writer.is_idle()), (17, false), "the last batch waits for its segment");
    assert_eq!(writer.acknowledged(), Position(MIB + 64));
    writer.segment_refused();
    assert!(writer.is_full());
    assert_eq!(writer.needs_segment(), Some(MIB));
    writer.offer_segment(segment(&dir, MIB));
    assert!(!writer.is_full());
    let write = writer.next_write().unwrap();
    assert_eq!((write.offset, write.file.base()), (0, MIB));
    assert_eq!(header(&writer, &write).previous, 16 * 61_440);
    assert_eq!(header(&writer, &write).durable, 17 * 61_440, "the padded end, not the next segment's start");
}

#[test]
fn a_refused_segment_ahead_is_not_yet_full() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = writer(&dir);
    writer.segment_refused();
    assert!(!writer.is_full(), "the segment at hand has room");
    writer.seal(&[1; 8], 1, Time(1));
    assert!(writer.next_write().is_some());
}

#[test]
fn failed_and_short_writes_are_faults_and_end_the_writer() {
    let dir = tempfile::tempdir().unwrap();
    let outcomes: [(io::Result<usize>, &str); 3] = [
        (Ok(2048), "only 2048 bytes"),
        (Ok(0), "only 0 bytes"),
        (Err(io::ErrorKind::StorageFull.into()), "no storage space"),
    ];
    for (outcome, text) in outcomes {
        let mut writer = writer(&dir);
        writer.seal(&[1; 8], 1, Time(1));
        writer.seal(&[1; 8], 1, Time(1));
        let write = writer.next_write().unwrap();
        let fault = writer.completed(write.id, outcome).unwrap_err();
        assert!(fault.to_string().contains(text), "{fault}");
        assert!(fault.to_string().contains("00000000000000000000.log"), "{fault}");
        assert!(writer.next_write().is_none());
        assert_eq!(writer.acknowledged(), Position(64));
    }
}

#[test]
fn goes_on_behind_a_recovered_tail() {
    let dir = tempfile::tempdir().unwrap();
    let tail = Tail { place: 12_288, previous: 8192 };
    let mut writer = LogWriter::new(config(64 * 1024, SyncMode::EachWrite), tail, Some(segment(&dir, 0)));
    assert_eq!((writer.position(), writer.acknowledged()), (Position(12_352), Position(12_352)));
    writer.seal(&[1; 8], 1, Time(1));
    let write = writer.next_write().unwrap();
    let first = header(&writer, &write);
    assert_eq!((first.previous, first.durable), (8192, 12_288));
    let tail = Tail { place: MIB - 4096, previous: 8192 };
    let writer = LogWriter::new(config(64 * 1024, SyncMode::EachWrite), tail, Some(segment(&dir, 0)));
    assert_eq!((writer.position(), writer.needs_segment()), (Position(MIB + 64), Some(MIB)));
}

#[test]
fn unsynced_writes_are_acknowledged_but_not_vouched_for() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer =
        LogWriter::new(config(64 * 1024, SyncMode::Later), Tail::empty(0), Some(segment(&dir, 0)));
    assert!(writer.take_sync().is_none());
    assert_eq!(writer.durable(), writer.position(), "what recovery found is on disk");
    let durable_of_next = |writer: &mut LogWriter| {
        writer.seal(&[1; 8], 1, Time(1));
        let write = writer.next_write().unwrap();
        let durable = header(writer, &write).durable;
        writer.completed(write.id, Ok(write.length)).unwrap();
        durable
    };
    assert_eq!([durable_of_next(&mut writer), durable_of_next(&mut writer)], [0, 0]);
    assert_eq!(writer.acknowledged(), Position(8192 + 64));
    let request = writer.take_sync().unwrap();
    assert_eq!((request.files.len(), request.through), (1, 8192 + 64), "all that was acknowledged");
    assert_eq!(durable_of_next(&mut writer), 0);
    assert_eq!(writer.durable(), Position(64));
    writer.synced(request.through);
    assert_eq!(writer.durable(), Position(8192 + 64));
    assert_eq!(durable_of_next(&mut writer), 8192, "not what was written after the request");
}
