//! Event streams over real sockets: order, resuming, gaps.

#[path = "support/peer.rs"]
mod peer;

use std::time::Duration;

use peer::{Misfortune, Peer};
use tenure_client::protocol::opcode::request;
use tenure_client::*;

async fn connect(peer: &Peer) -> Client {
    let mut config = ClientConfig::new(peer.endpoint());
    config.backoff = (Duration::from_millis(1), Duration::from_millis(20));
    Client::connect_with(config).await.unwrap()
}

/// The IDs of the next `count` ends.
async fn ends(stream: &mut EventStream, count: usize) -> Vec<LeaseId> {
    let mut ids = Vec::new();
    while ids.len() < count {
        if let LeaseEventKind::Ended { leases, .. } = stream.next().await.unwrap().unwrap().kind {
            ids.extend(leases.into_iter().map(|lease| lease.id));
        }
    }
    ids
}

#[tokio::test]
async fn s9_every_end_comes_once_through_cuts() {
    let peer = Peer::start(1).await;
    let client = connect(&peer).await;
    let mut stream = client.subscribe(SubscribeFrom::Now).await.unwrap();
    let mut expected = Vec::new();
    let mut seen = Vec::new();
    for round in 0..20 {
        let lease = client.grant(1_000).await.unwrap();
        expected.push(lease.id);
        client.revoke(lease.id).await.unwrap();
        if round % 3 == 0 {
            peer.cut();
        }
        if round % 5 == 0 {
            seen.extend(ends(&mut stream, 1).await);
        }
    }
    seen.extend(ends(&mut stream, expected.len() - seen.len()).await);
    assert_eq!(seen, expected);
}

#[tokio::test]
async fn a_stored_position_resumes_where_it_stopped_and_now_skips_the_past() {
    let peer = Peer::start(2).await;
    let client = connect(&peer).await;
    let mut stream = client.subscribe(SubscribeFrom::Oldest).await.unwrap();
    let mut ids = Vec::new();
    for _ in 0..6 {
        let lease = client.grant(1_000).await.unwrap();
        client.revoke(lease.id).await.unwrap();
        ids.push(lease.id);
    }
    let mut first = ends(&mut stream, 3).await;
    let positions = stream.positions().to_vec();
    drop(stream);
    let mut resumed = client.subscribe(SubscribeFrom::Positions(positions)).await.unwrap();
    first.extend(ends(&mut resumed, 3).await);
    first.sort_unstable();
    ids.sort_unstable();
    assert_eq!(first, ids);

    let mut now = client.subscribe(SubscribeFrom::Now).await.unwrap();
    let lease = client.grant(1_000).await.unwrap();
    peer.expire(lease.id);
    assert_eq!(ends(&mut now, 1).await, [lease.id]);
}

#[tokio::test]
async fn a_position_that_is_too_old_is_a_gap_and_the_stream_goes_on() {
    let peer = Peer::start(1).await;
    let client = connect(&peer).await;
    let lost = client.grant(1_000).await.unwrap();
    client.revoke(lost.id).await.unwrap();
    peer.world().oldest = 5_000;
    let from = SubscribeFrom::Positions(vec![Position(4_100)]);
    let mut stream = client.subscribe(from).await.unwrap();
    let gap = stream.next().await.unwrap().unwrap();
    assert_eq!(gap.kind, LeaseEventKind::Gap { from: Position(4_100) });
    assert_eq!(gap.resume_at, Position(5_000));
    assert_eq!(stream.positions(), [Position(5_000)]);
}

#[tokio::test]
async fn a_refused_subscription_is_an_error() {
    let peer = Peer::start(1).await;
    let client = connect(&peer).await;
    peer.script(request::SUBSCRIBE, &[Misfortune::Refuse(Refusal::NotPrimary)]);
    let error = client.subscribe(SubscribeFrom::Now).await.unwrap_err();
    assert_eq!(error.refusal(), Some(Refusal::NotPrimary));
    // A busy server is asked again.
    peer.script(request::SUBSCRIBE, &[Misfortune::Refuse(Refusal::Busy)]);
    client.subscribe(SubscribeFrom::Now).await.unwrap();
}

#[test]
fn the_blocking_face_does_the_same() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let peer = runtime.block_on(Peer::start(2));
    let client = BlockingClient::connect(peer.endpoint()).unwrap();
    let mut events = client.subscribe(SubscribeFrom::Now).unwrap();
    let kept = client.grant_kept(3_000).unwrap();
    assert!(kept.is_alive());
    client.attach(kept.id(), "item").unwrap();
    assert_eq!(client.time_to_live(kept.id(), true).unwrap().items, [b"item"]);
    assert_eq!(client.list().unwrap().len(), 1);
    assert_eq!(client.wait_lost(&kept, Duration::ZERO), None);

    let threads: Vec<_> = (0..4)
        .map(|_| {
            let client = client.clone();
            std::thread::spawn(move || {
                let lease = client.grant(1_000)?;
                client.renew(lease.id)?;
                client.revoke(lease.id)
            })
        })
        .collect();
    for thread in threads {
        assert!(matches!(thread.join().unwrap(), Ok(Revoked::Ended { .. })));
    }
    let mut ended = 0;
    while ended < 4 {
        if let LeaseEventKind::Ended { leases, .. } = events.next().unwrap().unwrap().kind {
            ended += leases.len();
        }
    }
    peer.expire(kept.id());
    assert_eq!(client.wait_lost(&kept, Duration::from_secs(60)), Some(LossReason::Ended));
}
