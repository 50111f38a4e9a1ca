//! The book refuses contradictory answers: tokens that do not grow, IDs issued twice, grants that were
//! refused for no reason.

use super::*;

fn ask(chosen: Option<usize>) -> Ask {
    Ask { ttl_ms: 1_000, chosen, sequence: 0 }
}

fn granted(id: u64, token: u64) -> Granted {
    let (id, token) = (LeaseId(id), Token(token));
    Granted { id, token, ttl_ms: 1_000, remaining_ms: 1_000, raised: false, repeated: false }
}

fn book() -> Book {
    Book::new([LeaseId(7)].into_iter())
}

#[test]
fn tokens_of_an_id_must_grow() {
    let now = Instant::now();
    let mut book = book();
    let long_ago = now.checked_sub(std::time::Duration::from_secs(10)).unwrap();
    book.adopt(&ask(Some(0)), &granted(7, 64), long_ago, long_ago).unwrap();
    let error = book.adopt(&ask(Some(0)), &granted(7, 64), now, now).unwrap_err();
    assert!(error.contains("fencing"), "{error}");
    book.adopt(&ask(Some(0)), &granted(7, 128), now, now).unwrap();
    assert!(!book.leases[0].is_live());
    assert_eq!(book.live, [1], "who asks for the ID now hears of the second lease");
}

#[test]
fn an_id_cannot_be_granted_over_a_live_lease() {
    let now = Instant::now();
    let mut book = book();
    book.adopt(&ask(Some(0)), &granted(7, 64), now, now).unwrap();
    let error = book.adopt(&ask(Some(0)), &granted(7, 128), now, now).unwrap_err();
    assert!(error.contains("S2"), "{error}");
}

#[test]
fn a_server_chosen_id_is_issued_once_and_positive() {
    let now = Instant::now();
    let mut book = book();
    book.adopt(&ask(None), &granted(9, 64), now, now).unwrap();
    assert!(book.adopt(&ask(None), &granted(9, 128), now, now).is_err());
    assert!(book.adopt(&ask(None), &granted(1 << 63, 192), now, now).is_err());
}

#[test]
fn a_free_id_cannot_exist_already_unless_a_grant_was_lost() {
    let now = Instant::now();
    let mut book = book();
    let op = Op::Grant(vec![ask(Some(0))]);
    let refused = tenure_protocol::Refused { refusal: Refusal::AlreadyExists, detail: 0, text: "" };
    assert!(book.settle(&op, &Response::Refused(refused), now, now).is_err());
    book.lose(&op);
    book.settle(&op, &Response::Refused(refused), now, now).unwrap();
}

#[test]
fn an_answer_to_something_else_is_seen() {
    let now = Instant::now();
    let mut book = book();
    book.adopt(&ask(None), &granted(9, 64), now, now).unwrap();
    let error = book.settle(&Op::Look(0), &Response::Renewed { ttl_ms: 1_000 }, now, now).unwrap_err();
    assert!(error.contains("L2"), "{error}");
}

#[test]
fn what_has_been_told_is_forgotten_and_the_rest_keeps_its_place() {
    let mut book = Book::new([LeaseId(7)].into_iter());
    let at = Instant::now();
    for number in 1..=3 {
        let ask = Ask { ttl_ms: LONG_TTL_MS, chosen: (number == 3).then_some(0), sequence: 0 };
        let id = if number == 3 { LeaseId(7) } else { LeaseId(number << 8) };
        let granted = Granted {
            id,
            token: Token(number),
            ttl_ms: LONG_TTL_MS,
            remaining_ms: LONG_TTL_MS,
            raised: false,
            repeated: false,
        };
        book.adopt(&ask, &granted, at, at).unwrap();
    }
    book.leases[0].revoked(Token(1), 0).unwrap();
    book.forget_ended();
    assert_eq!(book.leases.len(), 3, "its end has not been told");
    book.leases[0].ended(tenure_protocol::Cause::Revoked, at).unwrap();
    book.forget_ended();
    assert_eq!(book.leases.len(), 2);
    assert_eq!(book.find(LeaseId(1 << 8), Token(1)), None);
    for (key, id, token) in [(0, LeaseId(2 << 8), Token(2)), (1, LeaseId(7), Token(3))] {
        assert_eq!(book.find(id, token), Some(key));
        assert_eq!(book.leases[key].id, id);
    }
    assert_eq!((book.live.as_slice(), book.chosen[0].current), ([0, 1].as_slice(), Some(1)));
}
