//! Every operation over the wire, with the refusals that the lease contract gives.

use tenure_protocol::{
    Grant, GrantEntry, Hello, Info, LeaseId, Position, Refusal, Request, RequestId, Response, encode, tag,
    text_tag,
};
use tenure_server::Server;

use crate::peer::{DRIVERS, Peer, config, start};

/// Runs a test against servers with one and with several shards, on both drivers.
fn everywhere(test: impl Fn(&mut Peer)) {
    for driver in DRIVERS {
        for shard_count in [1, 3] {
            let server = start(driver, shard_count);
            test(&mut Peer::greet(server.addresses()[0]));
            server.stop();
        }
    }
}

fn refusal_of(peer: &mut Peer, ttl_ms: u64, id: u64) -> Option<Refusal> {
    peer.ask(Request::Grant(Grant { ttl_ms, id: LeaseId(id), sequence: 0 })).refusal()
}

#[test]
fn a_lease_lives_and_ends() {
    everywhere(|peer| {
        for id in [LeaseId::NONE, LeaseId(7), LeaseId(u64::MAX - 4)] {
            let lease = peer.grant_id(600_000, id);
            assert!(id == LeaseId::NONE || lease == id);
            let came = peer.ask(Request::Renew { id: lease });
            assert!(matches!(came.response(), Response::Renewed { ttl_ms: 600_000 }), "{came:?}");
            let came = peer.ask(Request::TimeToLive { id: lease, items: false, after: None });
            let Response::TimeToLive(facts) = came.response() else { panic!("{came:?}") };
            assert!(facts.ttl_ms == 600_000 && facts.remaining_ms <= 600_000 && facts.remaining_ms > 500_000);
            let came = peer.ask(Request::Revoke { id: lease });
            assert!(matches!(came.response(), Response::Revoked { item_count: 0, .. }), "{came:?}");
            for request in [
                Request::Renew { id: lease },
                Request::Revoke { id: lease },
                Request::TimeToLive { id: lease, items: false, after: None },
                Request::TimeToLive { id: lease, items: true, after: None },
                Request::Attach { id: lease, item: b"late" },
                Request::Detach { id: lease, item: b"late" },
            ] {
                assert_eq!(peer.ask(request).refusal(), Some(Refusal::NotFound), "{request:?}");
            }
        }
    });
}

#[test]
fn grants_are_refused_by_name() {
    everywhere(|peer| {
        peer.grant_id(60_000, LeaseId(5));
        assert_eq!(refusal_of(peer, 60_000, 5), Some(Refusal::AlreadyExists));
        assert_eq!(refusal_of(peer, 0, 6), Some(Refusal::TtlZero));
        // Negative in etcd's reading of the same 64 bits.
        assert_eq!(refusal_of(peer, (-1i64).cast_unsigned(), 6), Some(Refusal::TtlTooLarge));
        assert_eq!(refusal_of(peer, 9_000_000_000_001, 6), Some(Refusal::TtlTooLarge));
        assert_eq!(refusal_of(peer, 9_000_000_000_000, 6), None);
    });
}

#[test]
fn a_short_ttl_is_raised_and_told_so() {
    for driver in DRIVERS {
        let mut config = config(driver, 1);
        config.engine.ttl_min = std::time::Duration::from_secs(5);
        let server = Server::start(config).unwrap();
        let mut peer = Peer::greet(server.addresses()[0]);
        let came = peer.ask(Request::Grant(Grant { ttl_ms: 20, id: LeaseId::NONE, sequence: 0 }));
        let Response::Granted(granted) = came.response() else { panic!("{came:?}") };
        assert!(granted.raised && granted.ttl_ms == 5_000);
        server.stop();
    }
}

#[test]
fn a_repeated_grant_finds_its_lease() {
    for driver in DRIVERS {
        let server = start(driver, 3);
        let ask = |sequence: u64| {
            let (mut peer, _) = Peer::greet_with(server.addresses()[0], &Hello::new(77));
            let came = peer.ask(Request::Grant(Grant { ttl_ms: 60_000, id: LeaseId::NONE, sequence }));
            let Response::Granted(granted) = came.response() else { panic!("{came:?}") };
            (granted.id, granted.token, granted.repeated)
        };
        for sequence in 1..20 {
            let first = ask(sequence);
            assert!(!first.2);
            // Whichever core the second connection comes to.
            for _ in 0..3 {
                assert_eq!(ask(sequence), (first.0, first.1, true));
            }
        }
        server.stop();
    }
}

#[test]
fn batches_answer_each_entry() {
    everywhere(|peer| {
        assert!(matches!(peer.ids_frame(true, &[]).response(), Response::RenewBatch(all) if all.is_all()));
        let live: Vec<LeaseId> = (0..40).map(|_| peer.grant(60_000)).collect();
        let mut ids = live.clone();
        // A repeated ID, and IDs that do not exist, in between.
        ids.insert(3, live[0]);
        ids.insert(17, LeaseId(1));
        ids.insert(30, LeaseId(2));
        for renew in [true, false] {
            let came = peer.ids_frame(renew, &ids);
            let (Response::RenewBatch(outcome) | Response::RevokeBatch(outcome)) = came.response() else {
                panic!("{came:?}")
            };
            let failed: Vec<u32> = outcome.failed().map(|failed| failed.index).collect();
            // The second revoke of one ID finds nothing.
            let expected = if renew { vec![17, 30] } else { vec![3, 17, 30] };
            assert_eq!((outcome.count(), failed), (43, expected));
            assert!(outcome.failed().all(|failed| failed.refusal == Refusal::NotFound));
        }
    });
}

#[test]
fn a_grant_batch_answers_in_order() {
    everywhere(|peer| {
        peer.grant_id(60_000, LeaseId(50));
        let entries = [
            GrantEntry { ttl_ms: 60_000, id: LeaseId(49) },
            GrantEntry { ttl_ms: 60_000, id: LeaseId(50) },
            GrantEntry { ttl_ms: 0, id: LeaseId(51) },
            GrantEntry { ttl_ms: 60_000, id: LeaseId::NONE },
            GrantEntry { ttl_ms: 60_000, id: LeaseId(52) },
        ];
        let mut bytes = Vec::new();
        encode::grant_batch(&mut bytes, RequestId(900), 0, entries.into_iter());
        peer.send_bytes(&bytes);
        let came = peer.receive().unwrap();
        let Response::GrantBatch(results) = came.response() else { panic!("{came:?}") };
        let told: Vec<_> = results.iter().map(|result| result.map(|granted| granted.id.0)).collect();
        assert_eq!(told[..3], [Ok(49), Err(Refusal::AlreadyExists), Err(Refusal::TtlZero)]);
        assert!(told[3].is_ok() && told[4] == Ok(52));
    });
}

#[test]
fn items_are_attached_paged_moved_and_found() {
    everywhere(|peer| {
        let lease = peer.grant(60_000);
        let items: Vec<Vec<u8>> = (0..300u32).map(|n| [&n.to_be_bytes()[..], &[7; 2_000]].concat()).collect();
        for item in &items {
            let came = peer.ask(Request::Attach { id: lease, item });
            assert!(matches!(came.response(), Response::Attached { moved_from: None, .. }), "{came:?}");
        }
        let mut seen: Vec<Vec<u8>> = Vec::new();
        loop {
            let after = seen.last().cloned();
            let came = peer.ask(Request::TimeToLive { id: lease, items: true, after: after.as_deref() });
            let Response::TimeToLive(facts) = came.response() else { panic!("{came:?}") };
            assert_eq!(facts.item_count, 300);
            let page = facts.items.expect("items were asked for");
            seen.extend(page.items.iter().map(<[u8]>::to_vec));
            if !page.more {
                break;
            }
        }
        assert_eq!(seen, items);
        let came = peer.ask(Request::LeaseOf { item: &items[9] });
        assert!(matches!(came.response(), Response::LeaseOf(Some((id, _))) if id == lease), "{came:?}");
        let came = peer.ask(Request::Detach { id: lease, item: &items[9] });
        assert!(matches!(came.response(), Response::Detached), "{came:?}");
        let came = peer.ask(Request::Detach { id: lease, item: &items[9] });
        assert_eq!(came.refusal(), Some(Refusal::ItemNotFound));
        let came = peer.ask(Request::LeaseOf { item: &items[9] });
        assert!(matches!(came.response(), Response::LeaseOf(None)), "{came:?}");
    });
}

#[test]
fn all_leases_are_listed_page_by_page() {
    for driver in DRIVERS {
        let server = start(driver, 3);
        let mut peer = Peer::greet(server.addresses()[0]);
        let mut granted: Vec<u64> = (1..=100).map(|id| peer.grant_id(60_000, LeaseId(id * 977)).0).collect();
        let mut listed = Vec::new();
        for shard in 0..3 {
            let mut cursor = 0;
            loop {
                let came = peer.ask(Request::List { shard, limit: 7, cursor });
                let Response::List(page) = came.response() else { panic!("{came:?}") };
                assert!(page.len() <= 7);
                listed.extend(page.iter().map(|lease| lease.id.0));
                cursor = page.next_cursor;
                if cursor == 0 {
                    break;
                }
            }
        }
        listed.sort_unstable();
        granted.sort_unstable();
        assert_eq!(listed, granted);
        let came = peer.ask(Request::List { shard: 3, limit: 7, cursor: 0 });
        assert_eq!(came.refusal(), Some(Refusal::NotThisShard));
        let came = peer.ask(Request::Subscribe { shard: 3, from: Position::NOW });
        assert_eq!(came.refusal(), Some(Refusal::NotThisShard));
        server.stop();
    }
}

#[test]
fn a_standby_refuses_and_a_promoted_one_serves() {
    everywhere(|peer| {
        let lease = peer.grant(60_000);
        assert!(matches!(peer.ask(Request::Demote).response(), Response::Demoted));
        assert_eq!(peer.ask(Request::Renew { id: lease }).refusal(), Some(Refusal::NotPrimary));
        assert_eq!(peer.ids_frame(true, &[lease]).refusal(), Some(Refusal::NotPrimary));
        assert_eq!(refusal_of(peer, 1_000, 0), Some(Refusal::NotPrimary));
        let came = peer.ask(Request::Info);
        let Response::Info(info) = came.response() else { panic!("{came:?}") };
        assert_eq!(info.number(tag::ROLE), Some(1));
        assert!(matches!(peer.ask(Request::Promote { extend_ms: 5_000 }).response(), Response::Promoted));
        assert!(matches!(peer.ask(Request::Renew { id: lease }).response(), Response::Renewed { .. }));
    });
}

#[test]
fn info_says_what_there_is() {
    for driver in DRIVERS {
        let server = start(driver, 3);
        let mut peer = Peer::greet(server.addresses()[0]);
        for _ in 0..10 {
            let id = peer.grant(60_000);
            peer.ask(Request::Renew { id });
        }
        let came = peer.ask(Request::Info);
        let Response::Info(info) = came.response() else { panic!("{came:?}") };
        let number = |tag| Info::number(&info, tag);
        assert_eq!(number(tag::LEASES), Some(10));
        assert_eq!((number(tag::GRANTED), number(tag::RENEWED)), (Some(10), Some(10)));
        assert_eq!((number(tag::SHARDS), number(tag::CONNECTIONS)), (Some(3), Some(1)));
        assert_eq!((number(tag::ROLE), number(tag::DURABILITY)), (Some(0), Some(0)));
        assert!(number(tag::CPU_US) > Some(0));
        assert_eq!(info.numbers().filter(|number| number.tag == tag::SHARD_LEASES).count(), 3);
        assert!(info.text(text_tag::SERVER).unwrap().starts_with("tenure "));
        let name = if driver == tenure::Driver::Ring { "ring" } else { "glommio" };
        assert_eq!(
            (info.text(text_tag::DRIVER), info.text(text_tag::DURABILITY)),
            (Some(name), Some("in memory"))
        );
        server.stop();
    }
}
