//! The oracle can fail: each broken promise, told to a belief, is refused by the name of its invariant;
//! each honest story passes.

use super::*;

const TTL_MS: u64 = 1_000;

fn at(start: Instant, ms: u64) -> Instant {
    start + Duration::from_millis(ms)
}

fn lease(start: Instant) -> Belief {
    let mut belief = Belief::granted(LeaseId(7), Token(64), TTL_MS, start);
    belief.items.insert(b"a".to_vec(), Presence::Present);
    belief.items.insert(b"b".to_vec(), Presence::Absent);
    belief.items.insert(b"c".to_vec(), Presence::Unknown);
    belief
}

fn seen(remaining_ms: u64, items: &[&str]) -> Observation {
    let items = items.iter().map(|item| item.as_bytes().to_vec()).collect();
    Observation { token: Token(64), ttl_ms: TTL_MS, remaining_ms, items }
}

#[track_caller]
fn breaks(verdict: Verdict, invariant: &str) {
    let text = verdict.expect_err("the promise was broken");
    assert!(text.contains(invariant), "{text}");
}

#[test]
fn s2_an_expiry_before_the_promise_is_seen() {
    let start = Instant::now();
    breaks(lease(start).not_found(at(start, 999)), "S2");
    breaks(lease(start).ended(Cause::Expired, at(start, 999)), "S2");
    breaks(lease(start).observed(&seen(499, &["a"]), at(start, 500)), "S2");
    lease(start).not_found(at(start, 1_000)).unwrap();
    lease(start).ended(Cause::Expired, at(start, 1_000)).unwrap();
    lease(start).observed(&seen(500, &["a"]), at(start, 500)).unwrap();
}

#[test]
fn s2_an_acknowledged_renewal_moves_the_promise() {
    let start = Instant::now();
    let mut belief = lease(start);
    belief.renewed(TTL_MS, at(start, 700)).unwrap();
    breaks(belief.clone().not_found(at(start, 1_699)), "S2");
    breaks(belief.clone().observed(&seen(200, &["a"]), at(start, 1_000)), "S2");
    belief.not_found(at(start, 1_700)).unwrap();
}

#[test]
fn s3_what_was_told_dead_stays_dead() {
    let start = Instant::now();
    let mut belief = lease(start);
    belief.revoked(Token(64), 2).unwrap();
    breaks(belief.observed(&seen(900, &["a"]), at(start, 10)), "S3");
    let mut belief = lease(start);
    belief.ended(Cause::Expired, at(start, 1_000)).unwrap();
    breaks(belief.observed(&seen(900, &["a"]), at(start, 1_001)), "S3");
    breaks(belief.renewed(TTL_MS, at(start, 1_001)), "S9");
}

#[test]
fn s3_items_are_what_was_acknowledged() {
    let start = Instant::now();
    breaks(lease(start).observed(&seen(900, &[]), at(start, 900)), "item a is lost");
    breaks(lease(start).observed(&seen(900, &["a", "b"]), at(start, 900)), "item b is back");
    breaks(lease(start).observed(&seen(900, &["a", "x"]), at(start, 900)), "never attached");
    breaks(lease(start).observed(&seen(900, &["c", "a"]), at(start, 900)), "not sorted");
    breaks(lease(start).revoked(Token(64), 0), "items");
    breaks(lease(start).revoked(Token(64), 3), "items");
    breaks(lease(start).left_items(&[b"c".to_vec()]), "item a is lost");
    lease(start).left_items(&[b"a".to_vec(), b"c".to_vec()]).unwrap();
}

#[test]
fn an_observation_makes_the_unknown_certain() {
    let start = Instant::now();
    let mut belief = lease(start);
    belief.may_be_revoked = true;
    belief.observed(&seen(1_000, &["a"]), at(start, 10)).unwrap();
    breaks(belief.clone().observed(&seen(1_000, &["a", "c"]), at(start, 10)), "item c is back");
    breaks(belief.not_found(at(start, 20)), "S2");
}

#[test]
fn s9_an_end_has_one_cause_and_comes_once() {
    let start = Instant::now();
    let mut belief = lease(start);
    breaks(belief.ended(Cause::Revoked, at(start, 2_000)), "S9");
    belief.revoked(Token(64), 1).unwrap();
    breaks(belief.ended(Cause::Expired, at(start, 2_000)), "S9");
    belief.ended(Cause::Revoked, at(start, 2_000)).unwrap();
    breaks(belief.ended(Cause::Revoked, at(start, 2_000)), "a second time");
}

#[test]
fn an_unanswered_revocation_may_have_happened() {
    let start = Instant::now();
    let mut belief = lease(start);
    belief.may_be_revoked = true;
    belief.not_found(at(start, 1)).unwrap();
    belief.clone().ended(Cause::Revoked, at(start, 2)).unwrap();
    breaks(belief.ended(Cause::Expired, at(start, 2)), "S2");
}

#[test]
fn fencing_another_token_is_another_lease() {
    let start = Instant::now();
    breaks(lease(start).revoked(Token(128), 1), "fencing");
    let other = Observation { token: Token(128), ..seen(900, &["a"]) };
    breaks(lease(start).observed(&other, at(start, 900)), "fencing");
}
