//! Several cores: placement on the wished one, and requests for leases of another.

use tenure_protocol::{Hello, LeaseId, Request, Response, shard_of};

use crate::peer::{DRIVERS, Peer, start};

#[test]
fn a_connection_is_served_by_the_core_it_wishes() {
    for driver in DRIVERS {
        let server = start(driver, 4);
        for round in 0..5 {
            for wish in 0..4 {
                let hello = Hello { wish_shard: Some(wish), ..Hello::new(0) };
                let (mut peer, shard) = Peer::greet_with(server.addresses()[0], &hello);
                assert_eq!(shard, wish);
                let id = peer.grant(60_000);
                assert_eq!(shard_of(id, 4), wish, "server-assigned IDs are of the core's own shard");
                // IDs of every other shard are served all the same (S1: on their own core).
                for id in 1..20 {
                    let id = LeaseId(1_000 * (round * 4 + u64::from(wish)) + id);
                    peer.grant_id(60_000, id);
                    assert!(matches!(peer.ask(Request::Renew { id }).response(), Response::Renewed { .. }));
                }
            }
        }
        let hello = Hello { wish_shard: Some(99), ..Hello::new(0) };
        let (mut peer, shard) = Peer::greet_with(server.addresses()[0], &hello);
        assert!(shard < 4, "a wish for a shard that does not exist is passed over");
        peer.assert_alive();
        drop(peer);
        crate::peer::eventually("moved connections are counted once", || server.connection_count() == 0);
        server.stop();
    }
}

#[test]
fn what_follows_the_hello_moves_along() {
    for driver in DRIVERS {
        let server = start(driver, 2);
        for wish in [0, 1, 0, 1] {
            let mut bytes = Vec::new();
            let hello = Hello { wish_shard: Some(wish), ..Hello::new(0) };
            Request::Hello(hello).encode(&mut bytes, tenure_protocol::RequestId(1));
            for id in 2..2_000 {
                tenure_protocol::encode::ping(&mut bytes, tenure_protocol::RequestId(id), 5);
            }
            let mut peer = Peer::connect(server.addresses()[0]);
            peer.send_bytes(&bytes);
            for id in 1..2_000 {
                assert_eq!(peer.receive().expect("L2 one-reply").id(), id);
            }
        }
        server.stop();
    }
}

#[test]
fn a_pipeline_over_all_shards_is_answered_completely() {
    for driver in DRIVERS {
        let server = start(driver, 3);
        let mut peer = Peer::greet(server.addresses()[0]);
        let ids: Vec<LeaseId> = (1..=500).map(|id| peer.grant_id(60_000, LeaseId(id * 31))).collect();
        let mut waiting = std::collections::HashSet::new();
        for _ in 0..10 {
            for id in &ids {
                waiting.insert(peer.send(Request::Renew { id: *id }));
            }
        }
        while !waiting.is_empty() {
            let came = peer.receive().expect("L2 one-reply");
            assert!(matches!(came.response(), Response::Renewed { ttl_ms: 60_000 }), "{came:?}");
            assert!(waiting.remove(&came.id()), "L2 one-reply: answered twice");
        }
        server.stop();
    }
}
