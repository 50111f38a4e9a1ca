//! Property: what is encoded decodes to the same, for values of any size up to the limits.
//!
//! The seed is fixed, so that `cargo test` does the same each time.

use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use tenure_protocol::*;

fn runner(cases: u32) -> TestRunner {
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &[7; 32]))
}

fn frame(bytes: &[u8]) -> Frame<'_> {
    let frame = first_frame(bytes, limits::FRAME_BYTES_MAX).unwrap().expect("whole");
    assert_eq!(frame.header.length as usize, bytes.len());
    frame
}

fn any_item() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), 0..64)
}

fn any_refusal() -> impl Strategy<Value = Refusal> {
    prop::sample::select(Refusal::ALL)
}

fn any_granted() -> impl Strategy<Value = Granted> {
    (any::<[u64; 4]>(), any::<bool>(), any::<bool>()).prop_map(
        |([id, token, ttl_ms, remaining_ms], raised, repeated)| Granted {
            id: LeaseId(id),
            token: Token(token),
            ttl_ms,
            remaining_ms,
            raised,
            repeated,
        },
    )
}

#[test]
fn simple_requests() {
    let strategy = (any::<u8>(), any::<[u64; 3]>(), any::<(u16, u32)>(), any_item(), any::<u32>());
    runner(4_000)
        .run(&strategy, |(kind, [a, b, c], (shard, limit), item, request_id)| {
            let item = item.as_slice();
            let id = LeaseId(a);
            let request = match kind % 15 {
                0 => Request::Ping { echo: a },
                1 => Request::Info,
                2 => Request::Grant(Grant { ttl_ms: a, id: LeaseId(b), sequence: c }),
                3 => Request::Renew { id },
                4 => Request::Revoke { id },
                5 => Request::TimeToLive { id, items: b % 2 == 0, after: None },
                6 => Request::TimeToLive { id, items: true, after: Some(item) },
                7 => Request::List { shard, limit, cursor: b },
                8 => Request::Attach { id, item },
                9 => Request::Detach { id, item },
                10 => Request::LeaseOf { item },
                11 => Request::Subscribe { shard, from: Position(b) },
                12 => Request::Unsubscribe { subscription: RequestId(limit) },
                13 => Request::Promote { extend_ms: c },
                _ => Request::Hello(Hello {
                    wish_shard: (b % 2 == 0).then_some(shard),
                    features: c,
                    auth: item,
                    ..Hello::new(a)
                }),
            };
            let mut out = Vec::new();
            request.encode(&mut out, RequestId(request_id));
            let frame = frame(&out);
            prop_assert_eq!(frame.header.request_id, RequestId(request_id));
            prop_assert_eq!(Request::decode(&frame, &Limits::DEFAULT), Ok(request));
            Ok(())
        })
        .unwrap();
}

#[test]
fn batches() {
    let strategy = (prop::collection::vec(any::<(u64, u64)>(), 0..400), 0..u64::MAX / 2);
    runner(300)
        .run(&strategy, |(pairs, sequence)| {
            let ids: Vec<LeaseId> = pairs.iter().map(|pair| LeaseId(pair.0)).collect();
            let mut out = Vec::new();
            encode::renew_batch(&mut out, RequestId(1), ids.iter().copied());
            let Ok(Request::RenewBatch(view)) = Request::decode(&frame(&out), &Limits::DEFAULT) else {
                panic!("a renew batch")
            };
            prop_assert_eq!(view.len(), ids.len());
            prop_assert!(view.iter().eq(ids.iter().copied()));

            let grants: Vec<GrantEntry> =
                pairs.iter().map(|&(ttl_ms, id)| GrantEntry { ttl_ms, id: LeaseId(id) }).collect();
            out.clear();
            encode::grant_batch(&mut out, RequestId(1), sequence, grants.iter().copied());
            let Ok(Request::GrantBatch(view)) = Request::decode(&frame(&out), &Limits::DEFAULT) else {
                panic!("a grant batch")
            };
            prop_assert!(view.iter().eq(grants.iter().copied()));
            for index in 0..view.len() {
                let expected = if sequence == 0 { 0 } else { sequence + index as u64 };
                prop_assert_eq!(view.sequence(index), expected);
            }
            Ok(())
        })
        .unwrap();
}

#[test]
fn batch_replies() {
    let results = prop::collection::vec(prop::result::maybe_ok(any_granted(), any_refusal()), 0..100);
    let failed = prop::collection::btree_map(0..1_000u32, any_refusal(), 0..100);
    runner(300)
        .run(&(results, failed), |(results, failed)| {
            let mut out = Vec::new();
            encode::reply::grant_batch(&mut out, RequestId(2), results.iter().copied());
            let Ok(Response::GrantBatch(view)) = Response::decode(&frame(&out)) else {
                panic!("grant results")
            };
            prop_assert!(view.iter().eq(results.iter().copied()));

            let failed: Vec<Failed> =
                failed.into_iter().map(|(index, refusal)| Failed { index, refusal }).collect();
            out.clear();
            encode::reply::renew_batch(&mut out, RequestId(3), 1_000, failed.iter().copied());
            let Ok(Response::RenewBatch(view)) = Response::decode(&frame(&out)) else { panic!("an outcome") };
            prop_assert_eq!(view.count(), 1_000);
            prop_assert_eq!(view.is_all(), failed.is_empty());
            prop_assert!(view.failed().eq(failed.iter().copied()));
            Ok(())
        })
        .unwrap();
}

#[test]
fn pages_and_events() {
    let items = prop::collection::vec(any_item(), 0..40);
    let listed = prop::collection::vec(any::<([u64; 4], u32)>(), 0..60);
    runner(300)
        .run(&(items, listed, any::<[u64; 4]>(), any::<bool>()), |(items, listed, [a, b, c, d], bit)| {
            let mut out = Vec::new();
            let ttl = TimeToLive { token: Token(a), ttl_ms: b, remaining_ms: c, item_count: d, items: None };
            encode::reply::time_to_live_with_items(&mut out, RequestId(4), &ttl, items.iter(), bit);
            let Ok(Response::TimeToLive(view)) = Response::decode(&frame(&out)) else { panic!("a TTL") };
            let page = view.items.expect("a page");
            prop_assert_eq!(page.more, bit);
            prop_assert_eq!(page.items.len(), items.len());
            prop_assert!(page.items.iter().eq(items.iter().map(Vec::as_slice)));

            let listed: Vec<Listed> = listed
                .into_iter()
                .map(|([id, token, ttl_ms, remaining_ms], item_count)| Listed {
                    id: LeaseId(id),
                    token: Token(token),
                    ttl_ms,
                    remaining_ms,
                    item_count,
                })
                .collect();
            out.clear();
            encode::reply::list(&mut out, RequestId(5), d, listed.iter().copied());
            let Ok(Response::List(view)) = Response::decode(&frame(&out)) else { panic!("a page") };
            prop_assert_eq!(view.next_cursor, d);
            prop_assert!(view.iter().eq(listed.iter().copied()));

            if !listed.is_empty() {
                let head = EndedHead {
                    shard: a as u16,
                    cause: if bit { Cause::Expired } else { Cause::Revoked },
                    time_ms: b,
                    first: Position(c / 2),
                    items_follow: bit,
                };
                let ends = listed.iter().map(|lease| (lease.id, lease.token));
                out.clear();
                encode::reply::ended(&mut out, RequestId(6), &head, ends.clone());
                let Ok(Response::Event(event)) = Response::decode(&frame(&out)) else { panic!("an event") };
                let Event::Ended(view) = event else { panic!("ended") };
                prop_assert_eq!(view.head, head);
                prop_assert!(view.iter().map(|lease| (lease.id, lease.token)).eq(ends));
                // S9: positions rise, and resuming skips exactly what was seen.
                let positions: Vec<u64> = view.iter().map(|lease| lease.position.0).collect();
                prop_assert!(positions.is_sorted_by(|x, y| x < y));
                prop_assert_eq!(event.resume_at().0, positions[positions.len() - 1] + 1);
            }
            Ok(())
        })
        .unwrap();
}

#[test]
fn texts_are_cut_at_a_character_and_stay_readable() {
    for length in [0, 1, 1_023, 1_024, 1_025, 2_000] {
        let text: String = "ä".repeat(length);
        let mut out = Vec::new();
        encode::reply::refused(&mut out, RequestId(1), Refusal::Internal, 3, &text);
        let Ok(Response::Refused(refused)) = Response::decode(&frame(&out)) else { panic!("refused") };
        assert_eq!(refused.text, &text[..refused.text.len()]);
        assert_eq!(refused.text.len(), text.len().min(1_024));
    }
}

#[test]
fn limits_are_enforced_without_closing_the_connection() {
    let limits = Limits { batch_ids_max: 2, grant_batch_max: 1, item_bytes_max: 3, ..Limits::DEFAULT };
    let mut out = Vec::new();
    encode::renew_batch(&mut out, RequestId(1), [LeaseId(1); 3].into_iter());
    let error = Request::decode(&frame(&out), &limits).unwrap_err();
    assert_eq!(error, ProtocolError::BatchTooLarge { count: 3, count_max: 2 });
    assert!(!error.refusal().is_fatal());
    assert_eq!(error.detail(), 2);

    out.clear();
    encode::grant_batch(
        &mut out,
        RequestId(1),
        0,
        [GrantEntry { ttl_ms: 1, id: LeaseId::NONE }; 2].into_iter(),
    );
    let error = Request::decode(&frame(&out), &limits).unwrap_err();
    assert_eq!(error, ProtocolError::BatchTooLarge { count: 2, count_max: 1 });

    out.clear();
    encode::attach(&mut out, RequestId(1), LeaseId(1), b"four");
    let error = Request::decode(&frame(&out), &limits).unwrap_err();
    assert_eq!(error, ProtocolError::ItemTooLarge { item_bytes: 4, item_bytes_max: 3 });
    assert!(!error.refusal().is_fatal());
}

#[test]
fn the_largest_of_everything_fits_a_frame() {
    let limits = Limits::DEFAULT;
    let mut out = Vec::new();
    encode::renew_batch(&mut out, RequestId(1), vec![LeaseId(1); limits.batch_ids_max as usize].into_iter());
    assert!(Request::decode(&frame(&out), &limits).is_ok());
    out.clear();
    let failed = (0..limits.batch_ids_max).map(|index| Failed { index, refusal: Refusal::NotFound });
    encode::reply::renew_batch(&mut out, RequestId(1), limits.batch_ids_max, failed);
    assert!(Response::decode(&frame(&out)).is_ok());
    out.clear();
    let refused = vec![Err(Refusal::Busy); limits.grant_batch_max as usize];
    encode::reply::grant_batch(&mut out, RequestId(1), refused.into_iter());
    assert!(Response::decode(&frame(&out)).is_ok());
}
