//! The async client over real sockets, against the test server of `support/peer.rs`.

#[path = "support/peer.rs"]
mod peer;

use std::time::Duration;

use peer::{Misfortune, Peer};
use tenure_client::protocol::opcode::request;
use tenure_client::protocol::{Limits, shard_of, tag};
use tenure_client::*;

fn config(peer: &Peer) -> ClientConfig {
    let mut config = ClientConfig::new(peer.endpoint());
    config.backoff = (Duration::from_millis(1), Duration::from_millis(20));
    config
}

async fn connect(peer: &Peer) -> Client {
    Client::connect_with(config(peer)).await.unwrap()
}

#[tokio::test]
async fn every_operation_does_what_it_says() {
    let peer = Peer::start(4).await;
    let client = connect(&peer).await;
    assert_eq!(client.shard_count(), 4);

    let lease = client.grant(5_000).await.unwrap();
    assert_eq!(lease.ttl_ms, 5_000);
    assert!(!lease.valid_until.is_past() && lease.valid_until.remaining() < Duration::from_millis(5_000));
    assert_eq!(client.renew(lease.id).await.unwrap().ttl_ms, 5_000);

    let chosen = client.grant_with_id(LeaseId(u64::MAX - 1), 7_000).await.unwrap();
    assert_eq!(chosen.id, LeaseId(u64::MAX - 1));
    let again = client.grant_with_id(chosen.id, 7_000).await.unwrap_err();
    assert_eq!(again.refusal(), Some(Refusal::AlreadyExists));
    assert_eq!(client.grant(0).await.unwrap_err().refusal(), Some(Refusal::TtlZero));

    for item in ["e", "b", "d", "a", "c"] {
        assert_eq!(client.attach(lease.id, item).await.unwrap().token, lease.token);
    }
    let info = client.time_to_live_with_items(lease.id).await.unwrap();
    assert_eq!(info.items, ["a", "b", "c", "d", "e"].map(|item| item.as_bytes().to_vec()));
    assert_eq!(client.lease_of("c").await.unwrap(), Some((lease.id, lease.token)));
    assert_eq!(client.attach(chosen.id, "c").await.unwrap().moved_from, Some(lease.id));
    client.detach(chosen.id, "c").await.unwrap();
    assert_eq!(client.detach(chosen.id, "c").await.unwrap_err().refusal(), Some(Refusal::ItemNotFound));
    assert_eq!(client.lease_of("c").await.unwrap(), None);
    assert_eq!(client.time_to_live(lease.id).await.unwrap().item_count, 4);

    assert_eq!(client.info().await.unwrap().number(tag::LEASES), Some(2));
    client.ping().await.unwrap();
    client.promote(1_000).await.unwrap();
    client.demote().await.unwrap();

    let revoked = client.revoke(lease.id).await.unwrap();
    assert_eq!(revoked, Revoked::Ended { token: lease.token, item_count: 4 });
    assert_eq!(client.revoke(lease.id).await.unwrap_err().refusal(), Some(Refusal::NotFound));
    assert_eq!(client.renew(lease.id).await.unwrap_err().refusal(), Some(Refusal::NotFound));
}

#[tokio::test]
async fn s1_requests_go_over_the_connection_of_their_shard() {
    let peer = Peer::start(4).await;
    let client = connect(&peer).await;
    for id in 1..=50 {
        client.grant_with_id(LeaseId(id), 1_000).await.unwrap();
        client.renew(LeaseId(id)).await.unwrap();
    }
    let shards: Vec<u16> = (1..=50).map(|id| shard_of(LeaseId(id), 4)).collect();
    assert_eq!(peer.requests_of(request::RENEW), shards);
    let own: std::collections::BTreeSet<u16> = {
        for _ in 0..8 {
            client.grant(1_000).await.unwrap();
        }
        peer.requests_of(request::GRANT)[50..].iter().copied().collect()
    };
    assert_eq!(own.len(), 4, "grants without an ID go round the shards");
}

#[tokio::test]
async fn batches_are_split_and_put_together_again() {
    let peer = Peer::start(3).await;
    let limits = Limits { batch_ids_max: 100, grant_batch_max: 70, ..Limits::DEFAULT };
    peer.world().limits = Some(limits);
    let client = connect(&peer).await;
    let entries: Vec<GrantEntry> =
        (1..=1_000).map(|id| GrantEntry { ttl_ms: 1_000 + id, id: LeaseId(id) }).collect();
    let granted = client.grant_batch(&entries).await.unwrap();
    for (entry, granted) in entries.iter().zip(&granted) {
        let granted = granted.as_ref().unwrap();
        assert_eq!((granted.id, granted.ttl_ms), (entry.id, entry.ttl_ms));
    }
    let again = client.grant_batch(&entries[..2]).await.unwrap();
    assert_eq!(again, [Err(Refusal::AlreadyExists); 2]);

    let mut ids: Vec<LeaseId> = (1..=1_000).map(LeaseId).collect();
    assert_eq!(client.renew_batch(&ids).await.unwrap().failed, []);
    for index in [0, 17, 500, 999] {
        ids[index] = LeaseId(1_000_000 + index as u64);
    }
    let failed = client.renew_batch(&ids).await.unwrap().failed;
    assert_eq!(failed.iter().map(|entry| entry.index).collect::<Vec<_>>(), [0, 17, 500, 999]);
    assert!(failed.iter().all(|entry| entry.refusal == Refusal::NotFound));
    assert_eq!(client.revoke_batch(&ids).await.unwrap().len(), 4);
    assert_eq!(peer.lease_count(), 4);
    assert_eq!(client.renew_batch(&[]).await.unwrap().failed, []);

    let chosen = vec![GrantEntry { ttl_ms: 1_000, id: LeaseId::NONE }; 200];
    let granted = client.grant_batch(&chosen).await.unwrap();
    let ids: std::collections::BTreeSet<u64> = granted.into_iter().map(|lease| lease.unwrap().id.0).collect();
    assert_eq!(ids.len(), 200);
}

#[tokio::test]
async fn the_list_shows_each_lease_once() {
    let peer = Peer::start(4).await;
    let client = connect(&peer).await;
    for id in 1..=40 {
        client.grant_with_id(LeaseId(id), 1_000).await.unwrap();
    }
    let mut ids: Vec<u64> =
        client.list().page_limit(3).collect().await.unwrap().iter().map(|listed| listed.id.0).collect();
    ids.sort_unstable();
    assert_eq!(ids, (1..=40).collect::<Vec<_>>());
}

#[tokio::test]
async fn many_tasks_share_the_connection() {
    let peer = Peer::start(2).await;
    let client = connect(&peer).await;
    let lease = client.grant(1_000).await.unwrap();
    let tasks: Vec<_> = (0..500)
        .map(|_| {
            let client = client.clone();
            tokio::spawn(async move { client.renew(lease.id).await })
        })
        .collect();
    for task in tasks {
        task.await.unwrap().unwrap();
    }
    assert_eq!(peer.requests_of(request::RENEW).len(), 500);
}

#[tokio::test]
async fn a_grant_whose_answer_is_lost_is_repeated_and_makes_one_lease() {
    let peer = Peer::start(1).await;
    let client = connect(&peer).await;
    peer.script(request::GRANT, &[Misfortune::ApplyAndDrop, Misfortune::Drop]);
    let lease = client.grant(5_000).await.unwrap();
    assert_eq!(peer.lease_count(), 1);
    assert_eq!(peer.requests_of(request::GRANT).len(), 3);
    assert_eq!(client.renew(lease.id).await.unwrap().ttl_ms, 5_000);

    peer.script(request::GRANT_BATCH, &[Misfortune::ApplyAndDrop]);
    let entries = [GrantEntry { ttl_ms: 1_000, id: LeaseId::NONE }; 10];
    let granted = client.grant_batch(&entries).await.unwrap();
    assert!(granted.iter().all(Result::is_ok));
    assert_eq!(peer.lease_count(), 11);
}

#[tokio::test]
async fn a_revoke_whose_answer_is_lost_is_not_reported_as_a_failure() {
    let peer = Peer::start(1).await;
    let client = connect(&peer).await;
    let lease = client.grant(5_000).await.unwrap();
    peer.script(request::REVOKE, &[Misfortune::ApplyAndDrop]);
    assert_eq!(client.revoke(lease.id).await.unwrap(), Revoked::AlreadyGone);

    let (a, b) = (client.grant(5_000).await.unwrap(), client.grant(5_000).await.unwrap());
    peer.script(request::REVOKE_BATCH, &[Misfortune::ApplyAndDrop]);
    assert_eq!(client.revoke_batch(&[a.id, b.id]).await.unwrap(), []);
    assert_eq!(peer.lease_count(), 0);

    let lease = client.grant(5_000).await.unwrap();
    client.attach(lease.id, "x").await.unwrap();
    peer.script(request::DETACH, &[Misfortune::ApplyAndDrop]);
    client.detach(lease.id, "x").await.unwrap();
}

#[tokio::test]
async fn what_must_not_be_repeated_fails_with_its_outcome_unknown() {
    let peer = Peer::start(1).await;
    let client = connect(&peer).await;
    peer.script(request::PROMOTE, &[Misfortune::ApplyAndDrop]);
    let error = client.promote(1_000).await.unwrap_err();
    assert!(matches!(error, Error::Disconnected { .. }) && error.outcome_unknown(), "{error}");
    assert_eq!(peer.requests_of(request::PROMOTE).len(), 1);
    client.promote(1_000).await.unwrap();
}

#[tokio::test]
async fn no_answer_is_a_timeout_and_a_refusal_is_told_with_its_text() {
    let peer = Peer::start(1).await;
    let mut config = config(&peer);
    config.request_timeout = Duration::from_millis(50);
    let client = Client::connect_with(config).await.unwrap();
    peer.script(request::INFO, &[Misfortune::Ignore]);
    let error = client.info().await.unwrap_err();
    assert!(matches!(error, Error::Timeout { .. }) && error.outcome_unknown(), "{error}");
    peer.script(request::INFO, &[Misfortune::Refuse(Refusal::Busy)]);
    let error = client.info().await.unwrap_err();
    assert_eq!(error.refusal(), Some(Refusal::Busy));
    assert!(error.to_string().contains("scripted"), "{error}");
    assert!(!error.outcome_unknown());
}

#[tokio::test]
async fn a_restarted_server_is_found_again() {
    let peer = Peer::start(2).await;
    let client = connect(&peer).await;
    let lease = client.grant(5_000).await.unwrap();
    for _ in 0..5 {
        peer.cut();
        client.renew(lease.id).await.unwrap();
    }
    peer.toggle_down();
    let waiting = tokio::spawn({
        let client = client.clone();
        async move { client.renew(lease.id).await }
    });
    tokio::time::sleep(Duration::from_millis(30)).await;
    assert!(!waiting.is_finished());
    peer.toggle_down();
    waiting.await.unwrap().unwrap();
    peer.script(request::RENEW, &[Misfortune::GoAway]);
    client.renew(lease.id).await.unwrap();
}

#[tokio::test]
async fn a_server_that_does_not_want_us_says_why() {
    let peer = Peer::start(1).await;
    peer.world().refuse_hello = Some(Refusal::Unauthorized);
    let error = Client::connect_with(config(&peer)).await.unwrap_err();
    assert_eq!(error.refusal(), Some(Refusal::Unauthorized));

    let peer = Peer::start(1).await;
    let client = connect(&peer).await;
    peer.world().refuse_hello = Some(Refusal::Unauthorized);
    peer.cut();
    let error = client.info().await.unwrap_err();
    assert_eq!(error.refusal(), Some(Refusal::Unauthorized), "at once, not after the request timeout");
}

#[tokio::test]
async fn nobody_there_is_unreachable() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let error = Client::connect(address.to_string()).await.unwrap_err();
    assert!(
        matches!(&error, Error::Unreachable { reason } if reason.contains(&address.to_string())),
        "{error}"
    );
    assert!(!error.outcome_unknown());
}

#[tokio::test]
async fn a_server_that_miscounts_a_batch_is_not_believed() {
    let peer = Peer::start(1).await;
    let client = connect(&peer).await;
    peer.script(request::RENEW_BATCH, &[Misfortune::Miscount]);
    let error = client.renew_batch(&[LeaseId(1), LeaseId(2)]).await.unwrap_err();
    assert!(matches!(error, Error::Disconnected { .. }), "{error}");
    assert_eq!(client.renew_batch(&[LeaseId(1)]).await.unwrap().failed.len(), 1);
}

#[tokio::test]
async fn a_closed_client_says_so() {
    let peer = Peer::start(1).await;
    let client = connect(&peer).await;
    let kept = client.grant_kept(60_000).await.unwrap();
    client.close();
    assert_eq!(client.info().await.unwrap_err(), Error::Closed);
    assert_eq!(kept.lost().await, LossReason::Closed);
    assert!(!kept.is_alive());
}
