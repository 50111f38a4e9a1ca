//! Kept and held leases over real sockets. TTLs are short so that the tests are; none measures time.

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

/// Waits until at least `count` keep-alive frames have come.
async fn renewed(peer: &Peer, count: usize) {
    while peer.requests_of(request::RENEW_BATCH).len() < count {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn kept_leases_are_renewed_together_until_they_are_dropped() {
    let peer = Peer::start(2).await;
    let client = connect(&peer).await;
    let mut kept = Vec::new();
    for _ in 0..100 {
        kept.push(client.grant_kept(2_000).await.unwrap());
    }
    let first: Vec<BootTime> = kept.iter().map(KeptLease::valid_until).collect();
    while kept.iter().zip(&first).any(|(lease, first)| lease.valid_until() == *first) {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(kept.iter().all(KeptLease::is_alive));
    let frames = peer.requests_of(request::RENEW_BATCH).len();
    assert!(frames < 100, "{frames} frames renewed 100 leases");
    drop(kept);
    tokio::time::sleep(Duration::from_millis(50)).await;
    let after_drop = peer.requests_of(request::RENEW_BATCH).len();
    tokio::time::sleep(Duration::from_millis(1_000)).await;
    assert_eq!(peer.requests_of(request::RENEW_BATCH).len(), after_drop, "dropped leases are left alone");
}

#[tokio::test]
async fn a_lease_that_somebody_revokes_is_lost_as_ended() {
    let peer = Peer::start(1).await;
    let client = connect(&peer).await;
    let kept = client.grant_kept(3_000).await.unwrap();
    let other = client.grant_kept(3_000).await.unwrap();
    assert_eq!(kept.loss(), None);
    client.revoke(kept.id()).await.unwrap();
    assert_eq!(kept.lost().await, LossReason::Ended);
    assert_eq!(kept.loss(), Some(LossReason::Ended));
    assert!(!kept.is_alive());
    assert!(other.is_alive());
    let token = other.token();
    assert_eq!(other.revoke().await.unwrap(), Revoked::Ended { token, item_count: 0 });
}

#[tokio::test]
async fn a_lease_is_kept_through_a_cut_and_lost_through_a_long_one() {
    let peer = Peer::start(1).await;
    let client = connect(&peer).await;
    let kept = client.grant_kept(2_000).await.unwrap();
    renewed(&peer, 1).await;
    peer.cut();
    peer.script(request::RENEW_BATCH, &[Misfortune::Drop, Misfortune::Refuse(Refusal::Busy)]);
    renewed(&peer, 6).await;
    assert!(kept.is_alive());
    let before = kept.valid_until();
    peer.toggle_down();
    assert_eq!(kept.lost().await, LossReason::Unreachable);
    assert!(before.is_past() && !kept.is_alive());
}

#[tokio::test]
async fn a_lease_of_somebody_else_can_be_kept() {
    let peer = Peer::start(2).await;
    let client = connect(&peer).await;
    let lease = client.grant(3_000).await.unwrap();
    let other = connect(&peer).await;
    let kept = other.keep_alive(lease.id).await.unwrap();
    assert_eq!((kept.id(), kept.token(), kept.ttl_ms()), (lease.id, lease.token, 3_000));
    renewed(&peer, 2).await;
    assert!(kept.is_alive());
    let missing = other.keep_alive(LeaseId(12_345)).await.unwrap_err();
    assert_eq!(missing.refusal(), Some(Refusal::NotFound));
}

/// The token of the handle fences the lease that is kept, not the one that had the ID a moment before.
#[tokio::test]
async fn a_lease_that_changes_hands_is_kept_under_its_own_token() {
    let peer = Peer::start(1).await;
    let client = connect(&peer).await;
    let lease = client.grant(3_000).await.unwrap();
    peer.script(request::TIME_TO_LIVE, &[Misfortune::ChangeHands, Misfortune::ChangeHands]);
    let kept = connect(&peer).await.keep_alive(lease.id).await.unwrap();
    let now = client.time_to_live(lease.id).await.unwrap();
    assert_ne!(now.token, lease.token);
    assert_eq!(kept.token(), now.token);
}

#[tokio::test]
async fn a_held_lease_is_replaced_when_it_is_lost() {
    let peer = Peer::start(2).await;
    let client = connect(&peer).await;
    let (sender, mut events) = tokio::sync::mpsc::unbounded_channel();
    let holder = client.hold(3_000, None, move |event| sender.send(event).unwrap()).await.unwrap();
    let first = holder.lease_id().unwrap();
    peer.expire(first);
    let lost = events.recv().await.unwrap();
    assert_eq!(lost, HoldEvent::Lost { id: first, reason: LossReason::Ended });
    let Some(HoldEvent::Granted(second)) = events.recv().await else { panic!("a new lease") };
    assert_ne!(second.id, first);
    assert_eq!(holder.lease_id(), Some(second.id));
    assert!(matches!(holder.revoke().await.unwrap(), Some(Revoked::Ended { .. })));
    assert_eq!(peer.lease_count(), 0);
}

#[tokio::test]
async fn a_held_lease_keeps_its_chosen_id_and_waits_for_the_old_one_to_end() {
    let peer = Peer::start(1).await;
    let client = connect(&peer).await;
    let (sender, mut events) = tokio::sync::mpsc::unbounded_channel();
    let id = LeaseId(42);
    let holder = client.hold(300, Some(id), move |event| sender.send(event).unwrap()).await.unwrap();
    peer.toggle_down();
    let lost = events.recv().await.unwrap();
    assert_eq!(lost, HoldEvent::Lost { id, reason: LossReason::Unreachable });
    peer.toggle_down();
    // The test server never expires by itself: the old lease is in the way until it is ended.
    while peer.requests_of(request::GRANT).len() < 3 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(holder.lease_id(), None);
    peer.expire(id);
    let Some(HoldEvent::Granted(lease)) = events.recv().await else { panic!("a new lease") };
    assert_eq!(lease.id, id);
    assert_eq!(holder.lease_id(), Some(id));
}
