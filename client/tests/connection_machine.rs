//! The connection machine against a peer written here with the protocol crate: no sockets, time by hand.

use tenure_client::machine::{Connection, ConnectionConfig, ConnectionError, Delivery, SendError};
use tenure_client::protocol::*;

fn config() -> ConnectionConfig {
    ConnectionConfig { client_id: 77, wish_shard: Some(2), auth: b"key".to_vec(), silence_ms_max: 1_000 }
}

fn welcome(limits: Limits) -> Welcome<'static> {
    Welcome {
        version: 1,
        shard_count: 4,
        shard: 2,
        id_rule: ID_RULE,
        features: 0,
        session: 1,
        limits,
        ttl_ms_min: 10,
        ttl_ms_max: 1_000_000,
        idle_timeout_ms: 6_000,
        server: "test",
    }
}

/// Takes what the connection wants to send, as frames.
fn sent(connection: &mut Connection) -> Vec<(RequestId, String)> {
    let bytes = std::mem::take(connection.outgoing());
    let mut frames = Frames::new(&bytes, limits::FRAME_BYTES_MAX);
    let mut requests = Vec::new();
    while let Some(frame) = frames.next_frame().unwrap() {
        let request = Request::decode(&frame, &Limits::DEFAULT).unwrap();
        requests.push((frame.header.request_id, format!("{request:?}")));
    }
    assert_eq!(frames.consumed(), bytes.len(), "only whole frames");
    requests
}

fn open_with(limits: Limits) -> Connection {
    let mut connection = Connection::new(&config());
    let hello = sent(&mut connection);
    assert_eq!(hello.len(), 1);
    let mut bytes = Vec::new();
    welcome(limits).encode(&mut bytes, hello[0].0);
    connection.receive(&bytes);
    assert!(matches!(connection.poll(), Ok(Some(Delivery::Welcome(w))) if w.server == "test"));
    assert!(connection.is_open());
    connection
}

fn open() -> Connection {
    open_with(Limits::DEFAULT)
}

#[test]
fn the_handshake_carries_the_configuration_and_brings_the_terms() {
    let mut connection = Connection::new(&config());
    assert!(!connection.is_open());
    assert_eq!(connection.send_renew(LeaseId(1), 0), Err(SendError::NotReady));
    let hello = sent(&mut connection);
    assert!(hello[0].1.contains("client_id: 77") && hello[0].1.contains("Some(2)"), "{hello:?}");
    let connection = open();
    assert_eq!(connection.terms().shard_count, 4);
    assert_eq!(connection.terms().limits, Limits::DEFAULT);
    assert_eq!(connection.in_flight(), 0);
}

#[test]
fn a_refused_handshake_is_an_error_with_the_reason() {
    let mut connection = Connection::new(&config());
    let hello = sent(&mut connection);
    let mut bytes = Vec::new();
    encode::reply::refused(&mut bytes, hello[0].0, Refusal::Unauthorized, 0, "no such key");
    connection.receive(&bytes);
    let error = connection.poll().unwrap_err();
    assert_eq!(
        error,
        ConnectionError::Refused { refusal: Refusal::Unauthorized, text: "no such key".into() }
    );
    assert_eq!(connection.poll(), Ok(None));
    assert_eq!(connection.send_renew(LeaseId(1), 0), Err(SendError::Closed));
}

#[test]
fn l2_replies_find_their_requests_in_any_order_and_any_cut() {
    let mut connection = open();
    for token in 0..100 {
        connection.send_renew(LeaseId(token), token + 1_000).unwrap();
    }
    assert_eq!(connection.in_flight(), 100);
    let mut requests = sent(&mut connection);
    requests.reverse();
    let mut bytes = Vec::new();
    for (index, (request_id, _)) in requests.iter().enumerate() {
        if index % 10 == 0 {
            encode::reply::refused(&mut bytes, *request_id, Refusal::NotFound, 0, "");
        } else {
            encode::reply::renewed(&mut bytes, *request_id, 5_000);
        }
    }
    let mut tokens = Vec::new();
    for piece in bytes.chunks(7) {
        connection.receive(piece);
        while let Some(delivery) = connection.poll().unwrap() {
            let Delivery::Reply { token, response } = delivery else { panic!("{delivery:?}") };
            match response {
                Response::Renewed { ttl_ms } => assert_eq!(ttl_ms, 5_000),
                Response::Refused(refused) => {
                    assert_eq!((refused.refusal, token % 10), (Refusal::NotFound, 9));
                }
                other => panic!("{other:?}"),
            }
            tokens.push(token);
        }
    }
    assert_eq!(tokens, (1_000..1_100).rev().collect::<Vec<_>>());
    assert_eq!(connection.in_flight(), 0);
}

#[test]
fn s8_the_window_holds_and_opens_again() {
    let mut connection = open_with(Limits { window: 3, ..Limits::DEFAULT });
    for token in 0..3 {
        connection.send_renew(LeaseId(1), token).unwrap();
    }
    assert_eq!(connection.room(), 0);
    assert_eq!(connection.send_renew(LeaseId(1), 3), Err(SendError::WindowFull));
    let requests = sent(&mut connection);
    assert_eq!(requests.len(), 3, "what was refused was not sent");
    let mut bytes = Vec::new();
    encode::reply::renewed(&mut bytes, requests[1].0, 1);
    connection.receive(&bytes);
    assert_eq!(connection.poll_renewed(), Some((1, 1)));
    assert_eq!(connection.room(), 1);
    connection.send_renew(LeaseId(1), 4).unwrap();
}

#[test]
fn s8_what_the_server_would_refuse_is_not_sent() {
    let mut connection = open_with(Limits { batch_ids_max: 2, item_bytes_max: 3, ..Limits::DEFAULT });
    let ids = [LeaseId(1); 3];
    let too_large = Err(SendError::BatchTooLarge { count_max: 2 });
    assert_eq!(connection.send_renew_batch(ids.into_iter(), 0), too_large);
    assert_eq!(connection.send_revoke_batch(ids.into_iter(), 0), too_large);
    let attach = Request::Attach { id: LeaseId(1), item: b"four" };
    assert_eq!(connection.send(&attach, 0), Err(SendError::TooLarge));
    assert_eq!(connection.in_flight(), 0);
    assert!(sent(&mut connection).is_empty());
}

#[test]
fn l2_a_reply_that_nobody_waits_for_ends_the_connection() {
    for kind in 0..3 {
        let mut connection = open();
        connection.send_renew(LeaseId(1), 5).unwrap();
        let requests = sent(&mut connection);
        let mut bytes = Vec::new();
        match kind {
            0 => encode::reply::renewed(&mut bytes, RequestId(requests[0].0.0 + 1), 1),
            1 => encode::reply::pong(&mut bytes, requests[0].0, 1),
            _ => {
                encode::reply::renewed(&mut bytes, requests[0].0, 1);
                encode::reply::renewed(&mut bytes, requests[0].0, 1);
            }
        }
        connection.receive(&bytes);
        if kind == 2 {
            assert!(connection.poll().unwrap().is_some());
        }
        assert!(matches!(connection.poll(), Err(ConnectionError::Unexpected { .. })), "kind {kind}");
        assert_eq!(connection.poll(), Ok(None), "nothing more is delivered");
        let open = if kind == 2 { vec![] } else { vec![5] };
        assert_eq!(connection.abandon(), open, "kind {kind}");
    }
}

#[test]
fn a_reply_that_cannot_be_read_ends_the_connection() {
    let mut connection = open();
    connection.send(&Request::Info, 5).unwrap();
    connection.send_renew(LeaseId(1), 6).unwrap();
    let requests = sent(&mut connection);
    let mut bytes = Vec::new();
    encode::reply::pong(&mut bytes, requests[0].0, 1);
    bytes[4] = 0x83;
    encode::reply::renewed(&mut bytes, requests[1].0, 1);
    connection.receive(&bytes);
    assert!(matches!(connection.poll(), Err(ConnectionError::Protocol(_))));
    assert_eq!(connection.poll(), Ok(None));
    assert_eq!(connection.poll_renewed(), None);
    assert_eq!(connection.send_renew(LeaseId(1), 7), Err(SendError::Closed));
    assert_eq!(connection.abandon(), [6]);
}

#[test]
fn a_frame_above_the_announced_size_is_refused_before_it_is_buffered() {
    let mut connection = open_with(Limits {
        frame_bytes_max: 1 << 17,
        batch_ids_max: 100,
        grant_batch_max: 100,
        list_page_max: 100,
        ..Limits::DEFAULT
    });
    let mut bytes = (1u32 << 20).to_le_bytes().to_vec();
    bytes.extend([0x92, 0, 0, 0, 1, 0, 0, 0]);
    connection.receive(&bytes);
    assert!(matches!(
        connection.poll(),
        Err(ConnectionError::Protocol(ProtocolError::FrameTooLarge { length: 1_048_576, .. }))
    ));
}

#[test]
fn a_frame_larger_than_the_buffer_arrives_whole() {
    let mut connection = open();
    let list = Request::List { shard: 0, limit: 0, cursor: 0 };
    let request_id = connection.send(&list, 9).unwrap();
    sent(&mut connection);
    let entry = Listed { id: LeaseId(3), token: Token(4), ttl_ms: 5, remaining_ms: 6, item_count: 7 };
    let mut bytes = Vec::new();
    encode::reply::list(&mut bytes, request_id, 0, vec![entry; 8_000].into_iter());
    for piece in bytes.chunks(30_000) {
        assert_eq!(connection.poll(), Ok(None));
        connection.receive(piece);
    }
    let Ok(Some(Delivery::Reply { token: 9, response: Response::List(page) })) = connection.poll() else {
        panic!("a page")
    };
    assert_eq!(page.len(), 8_000);
    assert!(page.iter().all(|listed| listed == entry));
}

#[test]
fn events_carry_the_token_of_their_subscription_until_it_is_closed() {
    let mut connection = open();
    let subscribe = Request::Subscribe { shard: 1, from: Position::NOW };
    let subscription = connection.send(&subscribe, 40).unwrap();
    let mut bytes = Vec::new();
    encode::reply::subscribed(&mut bytes, subscription, Position(100), Position(1), Position(100));
    encode::reply::progress(&mut bytes, subscription, 1, Position(200));
    connection.receive(&bytes);
    assert!(matches!(
        connection.poll(),
        Ok(Some(Delivery::Reply { token: 40, response: Response::Subscribed { start: Position(100), .. } }))
    ));
    assert_eq!(
        connection.poll(),
        Ok(Some(Delivery::Event { token: 40, event: Event::Progress { shard: 1, position: Position(200) } }))
    );
    assert_eq!(connection.in_flight(), 0, "an open subscription is not in flight");

    let unsubscribe = connection.send(&Request::Unsubscribe { subscription }, 41).unwrap();
    bytes.clear();
    encode::reply::progress(&mut bytes, subscription, 1, Position(300));
    encode::reply::unsubscribed(&mut bytes, unsubscribe);
    encode::reply::progress(&mut bytes, subscription, 1, Position(400));
    connection.receive(&bytes);
    assert!(matches!(connection.poll(), Ok(Some(Delivery::Event { token: 40, .. }))));
    assert!(matches!(
        connection.poll(),
        Ok(Some(Delivery::Reply { token: 41, response: Response::Unsubscribed }))
    ));
    assert!(matches!(connection.poll(), Err(ConnectionError::Unexpected { .. })));
}

#[test]
fn a_subscription_that_the_server_ends_is_told_to_its_token() {
    let mut connection = open();
    let subscription = connection.send(&Request::Subscribe { shard: 0, from: Position::OLDEST }, 1).unwrap();
    let mut bytes = Vec::new();
    encode::reply::subscribed(&mut bytes, subscription, Position(5), Position(5), Position(9));
    encode::reply::refused(&mut bytes, subscription, Refusal::PositionTooOld, 9, "");
    connection.receive(&bytes);
    assert!(connection.poll().unwrap().is_some());
    let delivery = connection.poll().unwrap();
    let Some(Delivery::Reply { token: 1, response: Response::Refused(refused) }) = delivery else {
        panic!("{delivery:?}")
    };
    assert_eq!((refused.refusal, refused.detail), (Refusal::PositionTooOld, 9));
}

#[test]
fn after_go_away_replies_still_come_and_nothing_is_sent() {
    let mut connection = open();
    connection.send_renew(LeaseId(1), 5).unwrap();
    let requests = sent(&mut connection);
    let mut bytes = Vec::new();
    encode::reply::go_away(&mut bytes, Refusal::ShuttingDown, 0, "bye");
    encode::reply::renewed(&mut bytes, requests[0].0, 7);
    connection.receive(&bytes);
    assert!(matches!(connection.poll(), Ok(Some(Delivery::GoAway(why))) if why.text == "bye"));
    assert_eq!(connection.send_renew(LeaseId(1), 6), Err(SendError::Closed));
    assert!(matches!(connection.poll(), Ok(Some(Delivery::Reply { token: 5, .. }))));
    assert_eq!(connection.abandon(), []);
}

#[test]
fn an_idle_connection_pings_and_keeps_the_pong_to_itself() {
    let mut connection = open();
    connection.tick(10_000).unwrap();
    assert!(sent(&mut connection).is_empty());
    connection.tick(11_999).unwrap();
    assert!(sent(&mut connection).is_empty(), "a third of the idle timeout is 2,000 ms");
    connection.tick(12_000).unwrap();
    let ping = sent(&mut connection);
    assert_eq!(ping.len(), 1);
    assert_eq!(ping[0].1, "Ping { echo: 12000 }");
    let mut bytes = Vec::new();
    encode::reply::pong(&mut bytes, ping[0].0, 12_000);
    connection.receive(&bytes);
    assert_eq!(connection.poll(), Ok(None));
    assert_eq!(connection.in_flight(), 0);
}

#[test]
fn silence_with_requests_waiting_ends_the_connection_and_idleness_does_not() {
    let mut connection = open();
    connection.tick(0).unwrap();
    connection.tick(1_900).unwrap();
    connection.send_renew(LeaseId(1), 8).unwrap();
    connection.tick(1_950).unwrap();
    assert_eq!(connection.tick(2_899), Ok(()));
    assert_eq!(connection.tick(2_900), Err(ConnectionError::Silent));
    assert_eq!(connection.abandon(), [8]);
}

#[test]
fn abandon_gives_back_the_callers_tokens_and_not_the_own_ping() {
    let mut connection = open();
    connection.tick(0).unwrap();
    connection.tick(5_000).unwrap();
    connection.send_renew(LeaseId(1), 21).unwrap();
    connection.send(&Request::Info, 22).unwrap();
    assert_eq!(connection.in_flight(), 3);
    assert_eq!(connection.abandon(), [21, 22]);
}
