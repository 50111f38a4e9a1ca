//! End-of-lease events over the wire.

use tenure_protocol::{Cause, Event, Position, Refusal, Request, Response};

use tenure_protocol::{GrantEntry, LeaseId, RequestId, encode};
use tenure_server::Server;

use crate::peer::{Came, DRIVERS, Peer, config, start};

/// Ends seen in a frame: (id, position, expired, items follow).
fn ends(came: &Came) -> Vec<(u64, u64, bool, bool)> {
    match came.response() {
        Response::Event(Event::Ended(ended)) => {
            let expired = ended.head.cause == Cause::Expired;
            let follow = ended.head.items_follow;
            ended.iter().map(|lease| (lease.id.0, lease.position.0, expired, follow)).collect()
        }
        _ => Vec::new(),
    }
}

fn collect(peer: &mut Peer, count: usize) -> Vec<(u64, u64, bool, bool)> {
    let mut seen = Vec::new();
    while seen.len() < count {
        seen.extend(ends(&peer.receive().expect("the stream goes on")));
    }
    assert_eq!(seen.len(), count, "S9 once");
    seen
}

#[test]
fn ends_arrive_in_order_with_their_cause_and_can_be_resumed() {
    for driver in DRIVERS {
        let server = start(driver, 2);
        let mut worker = Peer::greet(server.addresses()[0]);
        let mut watcher = Peer::greet(server.addresses()[0]);
        for shard in 0..2 {
            let came = watcher.ask(Request::Subscribe { shard, from: Position::NOW });
            assert!(matches!(came.response(), Response::Subscribed { .. }), "{came:?}");
        }
        let revoked: Vec<_> = (0..50).map(|_| worker.grant(600_000)).collect();
        let expired: Vec<_> = (0..50).map(|_| worker.grant(30)).collect();
        for id in &revoked {
            worker.ask(Request::Revoke { id: *id });
        }
        let seen = collect(&mut watcher, 100);
        let ids_of = |wanted: bool| {
            let mut ids: Vec<u64> = seen.iter().filter(|end| end.2 == wanted).map(|end| end.0).collect();
            ids.sort_unstable();
            ids
        };
        let sorted = |ids: &[tenure_protocol::LeaseId]| {
            let mut ids: Vec<u64> = ids.iter().map(|id| id.0).collect();
            ids.sort_unstable();
            ids
        };
        assert_eq!(ids_of(false), sorted(&revoked));
        assert_eq!(ids_of(true), sorted(&expired));
        let shard = tenure_protocol::shard_of(revoked[0], 2);
        let of_shard: Vec<_> = seen
            .iter()
            .filter(|end| tenure_protocol::shard_of(tenure_protocol::LeaseId(end.0), 2) == shard)
            .collect();
        assert!(of_shard.windows(2).all(|pair| pair[0].1 < pair[1].1), "positions rise");
        // From the middle on, everything again and nothing before.
        let middle = of_shard.len() / 2;
        let mut again = Peer::greet(server.addresses()[0]);
        let came = again.ask(Request::Subscribe { shard, from: Position(of_shard[middle].1) });
        assert!(matches!(came.response(), Response::Subscribed { .. }), "{came:?}");
        let resumed = collect(&mut again, of_shard.len() - middle);
        assert!(resumed.iter().zip(&of_shard[middle..]).all(|(again, first)| again == *first));
        server.stop();
    }
}

#[test]
fn items_of_an_ended_lease_follow_its_end() {
    for driver in DRIVERS {
        let server = start(driver, 1);
        let mut peer = Peer::greet(server.addresses()[0]);
        peer.ask(Request::Subscribe { shard: 0, from: Position::OLDEST });
        let lease = peer.grant(600_000);
        let items: Vec<Vec<u8>> = (0..200u8).map(|n| vec![n; 1_000]).collect();
        for item in &items {
            peer.ask(Request::Attach { id: lease, item });
        }
        peer.send(Request::Revoke { id: lease });
        let (mut seen, mut told, mut done) = (Vec::new(), false, false);
        while !done {
            let came = peer.receive().expect("the stream goes on");
            told |= ends(&came).iter().any(|end| end.0 == lease.0 && end.3);
            if let Response::Event(Event::EndedItems(event)) = came.response() {
                assert!(told, "the end comes first");
                assert_eq!(event.head.id, lease);
                seen.extend(event.items.iter().map(<[u8]>::to_vec));
                done = event.head.last;
            }
        }
        assert_eq!(seen, items);
        server.stop();
    }
}

#[test]
fn a_subscription_ends_when_asked_to() {
    for driver in DRIVERS {
        let server = start(driver, 1);
        let mut peer = Peer::greet(server.addresses()[0]);
        let subscription = peer.send(Request::Subscribe { shard: 0, from: Position::NOW });
        assert_eq!(peer.receive().unwrap().id(), subscription);
        let unsubscribe = Request::Unsubscribe { subscription: tenure_protocol::RequestId(subscription) };
        assert!(matches!(peer.ask(unsubscribe).response(), Response::Unsubscribed));
        assert_eq!(peer.ask(unsubscribe).refusal(), Some(Refusal::NotFound));
        let lease = peer.grant(600_000);
        let revoke = peer.send(Request::Revoke { id: lease });
        assert_eq!(peer.receive().unwrap().id(), revoke, "no event comes any more");
        peer.assert_alive();
        let beyond = Request::Subscribe { shard: 0, from: Position(1 << 60) };
        assert_eq!(peer.ask(beyond).refusal(), Some(Refusal::PositionTooOld), "a position of another log");
        server.stop();
    }
}

/// Grants `count` leases with this TTL in one batch.
fn grant_many(peer: &mut Peer, count: usize, ttl_ms: u64) {
    let mut bytes = Vec::new();
    let entries = vec![GrantEntry { ttl_ms, id: LeaseId::NONE }; count];
    encode::grant_batch(&mut bytes, RequestId(u32::MAX), 0, entries.into_iter());
    peer.send_bytes(&bytes);
    assert!(matches!(peer.receive().unwrap().response(), Response::GrantBatch(_)));
}

#[test]
fn a_subscriber_that_stands_still_misses_nothing() {
    const COUNT: usize = 200_000;
    for driver in DRIVERS {
        let server = start(driver, 1);
        let mut worker = Peer::greet(server.addresses()[0]);
        let mut watcher = Peer::greet(server.addresses()[0]);
        watcher.ask(Request::Subscribe { shard: 0, from: Position::NOW });
        // More events than the send buffer and the sockets between hold.
        for _ in 0..COUNT / 10_000 {
            grant_many(&mut worker, 10_000, 20);
        }
        crate::peer::eventually("all have expired", || {
            server.handle().stats().wait().unwrap()[0].shard.expired_total == COUNT as u64
        });
        let seen = collect(&mut watcher, COUNT);
        assert!(seen.windows(2).all(|pair| pair[0].1 < pair[1].1), "S9 once: positions rise");
        server.stop();
    }
}

#[test]
fn events_from_before_a_restart_come_from_the_log() {
    for driver in DRIVERS {
        let dir = tempfile::tempdir().unwrap();
        let durable = || {
            let mut config = config(driver, 1);
            config.engine.data_dir = Some(dir.path().to_owned());
            config.engine.segment_bytes = 4 << 20;
            config
        };
        let server = Server::start(durable()).unwrap();
        let mut peer = Peer::greet(server.addresses()[0]);
        peer.ask(Request::Subscribe { shard: 0, from: Position::NOW });
        grant_many(&mut peer, 5_000, 20);
        let before = collect(&mut peer, 5_000);
        server.stop();

        let server = Server::start(durable()).unwrap();
        let mut peer = Peer::greet(server.addresses()[0]);
        let all = Position::OLDEST;
        let came = peer.ask(Request::Subscribe { shard: 0, from: all });
        assert!(matches!(came.response(), Response::Subscribed { .. }), "{came:?}");
        assert_eq!(collect(&mut peer, 5_000), before, "S9 once, across a restart");
        // And what ends now follows, without a gap, also for one that resumes in the middle.
        let mut resumed = Peer::greet(server.addresses()[0]);
        resumed.ask(Request::Subscribe { shard: 0, from: Position(before[1_234].1 + 1) });
        let mut worker = Peer::greet(server.addresses()[0]);
        grant_many(&mut worker, 100, 20);
        let after = collect(&mut peer, 100);
        assert_eq!(collect(&mut resumed, 5_000 - 1_235 + 100)[5_000 - 1_235..], after);
        server.stop();
    }
}
