//! The hex vectors of `tests/vectors`: decoders read the fields, encoders give the bytes back, and
//! what must be refused is refused with the refusal named.
//!
//! The vector files were written by a program that shares no code with this crate. Each frame is
//! described here in words of its own, so that a vector's `fields` line is compared as text.

#[path = "support/vector_file.rs"]
mod vector_file;

use tenure_protocol::*;
use vector_file::{Entry, entries};

fn yes(value: bool) -> &'static str {
    if value { "yes" } else { "no" }
}

fn bytes(bytes: &[u8]) -> String {
    if bytes.is_empty() { "-".into() } else { vector_file::to_hex(bytes) }
}

/// Comma-separated, `-` when there is nothing.
fn joined(parts: impl Iterator<Item = String>) -> String {
    let parts: Vec<String> = parts.collect();
    if parts.is_empty() { "-".into() } else { parts.join(",") }
}

fn or_none<T: ToString>(value: Option<T>) -> String {
    value.map_or("none".into(), |value| value.to_string())
}

fn describe_request(request: &Request<'_>, request_id: RequestId) -> String {
    let (opcode, rest) = match request {
        Request::Hello(h) => (
            "hello",
            format!(
                " version_min={} version_max={} wish_shard={} features={} client_id={} auth={}",
                h.version_min,
                h.version_max,
                or_none(h.wish_shard),
                h.features,
                h.client_id,
                bytes(h.auth)
            ),
        ),
        Request::Ping { echo } => ("ping", format!(" echo={echo}")),
        Request::Info => ("info", String::new()),
        Request::Grant(g) => ("grant", format!(" ttl_ms={} id={} sequence={}", g.ttl_ms, g.id, g.sequence)),
        Request::GrantBatch(batch) => {
            let entries = joined(batch.iter().map(|entry| format!("{}:{}", entry.ttl_ms, entry.id)));
            ("grant_batch", format!(" first_sequence={} entries={entries}", batch.first_sequence()))
        }
        Request::Renew { id } => ("renew", format!(" id={id}")),
        Request::RenewBatch(ids) => {
            ("renew_batch", format!(" ids={}", joined(ids.iter().map(|id| id.to_string()))))
        }
        Request::Revoke { id } => ("revoke", format!(" id={id}")),
        Request::RevokeBatch(ids) => {
            ("revoke_batch", format!(" ids={}", joined(ids.iter().map(|id| id.to_string()))))
        }
        Request::TimeToLive { id, items, after } => {
            ("time_to_live", format!(" id={id} items={} after={}", yes(*items), or_none(after.map(bytes))))
        }
        Request::List { shard, limit, cursor } => {
            ("list", format!(" shard={shard} limit={limit} cursor={cursor}"))
        }
        Request::Attach { id, item } => ("attach", format!(" id={id} item={}", bytes(item))),
        Request::Detach { id, item } => ("detach", format!(" id={id} item={}", bytes(item))),
        Request::LeaseOf { item } => ("lease_of", format!(" item={}", bytes(item))),
        Request::Subscribe { shard, from } => ("subscribe", format!(" shard={shard} from={from}")),
        Request::Unsubscribe { subscription } => ("unsubscribe", format!(" subscription={subscription}")),
        Request::Promote { extend_ms } => ("promote", format!(" extend_ms={extend_ms}")),
        Request::Demote => ("demote", String::new()),
    };
    format!("opcode={opcode} request_id={request_id}{rest}")
}

fn describe_welcome(w: &Welcome<'_>) -> String {
    let limits = &w.limits;
    format!(
        " version={} shard_count={} shard={} id_rule={} features={} session={} frame_bytes_max={} window={} \
         batch_ids_max={} grant_batch_max={} item_bytes_max={} list_page_max={} ttl_ms_min={} ttl_ms_max={} \
         idle_timeout_ms={} server={}",
        w.version,
        w.shard_count,
        w.shard,
        w.id_rule,
        w.features,
        w.session,
        limits.frame_bytes_max,
        limits.window,
        limits.batch_ids_max,
        limits.grant_batch_max,
        limits.item_bytes_max,
        limits.list_page_max,
        w.ttl_ms_min,
        w.ttl_ms_max,
        w.idle_timeout_ms,
        bytes(w.server.as_bytes())
    )
}

fn describe_event(event: &Event<'_>) -> (&'static str, String) {
    let (opcode, rest) = match event {
        Event::Ended(e) => {
            let cause = match e.head.cause {
                Cause::Expired => "expired",
                Cause::Revoked => "revoked",
            };
            let entries = joined(e.iter().map(|l| format!("{}:{}@{}", l.id, l.token, l.position)));
            (
                "ended",
                format!(
                    " shard={} cause={cause} time_ms={} items_follow={} entries={entries}",
                    e.head.shard,
                    e.head.time_ms,
                    yes(e.head.items_follow)
                ),
            )
        }
        Event::EndedItems(e) => (
            "ended_items",
            format!(
                " shard={} position={} id={} token={} last={} items={}",
                e.head.shard,
                e.head.position,
                e.head.id,
                e.head.token,
                yes(e.head.last),
                joined(e.items.iter().map(vector_file::to_hex))
            ),
        ),
        Event::Progress { shard, position } => ("progress", format!(" shard={shard} position={position}")),
        Event::Gap { shard, from, resumes_at } => {
            ("gap", format!(" shard={shard} from={from} resumes_at={resumes_at}"))
        }
    };
    (opcode, format!("{rest} resume_at={}", event.resume_at()))
}

fn describe_granted(g: &Granted) -> String {
    let flags = match (g.raised, g.repeated) {
        (false, false) => "",
        (true, false) => ":raised",
        (false, true) => ":repeated",
        (true, true) => ":raised:repeated",
    };
    format!("{}:{}:{}:{}{flags}", g.id, g.token, g.ttl_ms, g.remaining_ms)
}

fn describe_outcome(outcome: &BatchOutcome<'_>) -> String {
    let failed = joined(outcome.failed().map(|f| format!("{}:{}", f.index, f.refusal.name())));
    format!(" count={} failed={failed}", outcome.count())
}

fn describe_refused(refused: &Refused<'_>) -> String {
    let text = bytes(refused.text.as_bytes());
    format!(" refusal={} detail={} text={text}", refused.refusal.name(), refused.detail)
}

fn describe_time_to_live(t: &TimeToLive<'_>) -> String {
    let items = t.items.map(|page| page.items.iter().map(vector_file::to_hex).collect::<Vec<_>>().join(","));
    let more = t.items.is_some_and(|page| page.more);
    format!(
        " token={} ttl_ms={} remaining_ms={} item_count={} items={} more={}",
        t.token,
        t.ttl_ms,
        t.remaining_ms,
        t.item_count,
        or_none(items),
        yes(more)
    )
}

fn describe_list(page: &ListPage<'_>) -> String {
    let entries = joined(
        page.iter().map(|l| format!("{}:{}:{}:{}:{}", l.id, l.token, l.ttl_ms, l.remaining_ms, l.item_count)),
    );
    format!(" next_cursor={} entries={entries}", page.next_cursor)
}

fn describe_info(info: &Info<'_>) -> String {
    format!(
        " numbers={} texts={}",
        joined(info.numbers().map(|n| format!("{}.{}:{}", n.tag, n.index, n.value))),
        joined(info.texts().map(|t| format!("{}:{}", t.tag, bytes(t.text.as_bytes()))))
    )
}

fn describe_response(response: &Response<'_>, request_id: RequestId) -> String {
    let (opcode, rest) = match response {
        Response::Welcome(welcome) => ("welcome", describe_welcome(welcome)),
        Response::Pong { echo } => ("pong", format!(" echo={echo}")),
        Response::Info(info) => ("info", describe_info(info)),
        Response::Granted(g) => (
            "granted",
            format!(
                " id={} token={} ttl_ms={} remaining_ms={} raised={} repeated={}",
                g.id,
                g.token,
                g.ttl_ms,
                g.remaining_ms,
                yes(g.raised),
                yes(g.repeated)
            ),
        ),
        Response::GrantBatch(results) => {
            let results = joined(results.iter().map(|result| match result {
                Ok(granted) => describe_granted(&granted),
                Err(refusal) => refusal.name().into(),
            }));
            ("grant_batch", format!(" results={results}"))
        }
        Response::Renewed { ttl_ms } => ("renewed", format!(" ttl_ms={ttl_ms}")),
        Response::RenewBatch(outcome) => ("renew_batch", describe_outcome(outcome)),
        Response::Revoked { token, item_count } => {
            ("revoked", format!(" token={token} item_count={item_count}"))
        }
        Response::RevokeBatch(outcome) => ("revoke_batch", describe_outcome(outcome)),
        Response::TimeToLive(ttl) => ("time_to_live", describe_time_to_live(ttl)),
        Response::List(page) => ("list", describe_list(page)),
        Response::Attached { token, moved_from } => {
            ("attached", format!(" token={token} moved_from={}", or_none(*moved_from)))
        }
        Response::Detached => ("detached", String::new()),
        Response::LeaseOf(found) => {
            ("lease_of", format!(" id={} token={}", or_none(found.map(|f| f.0)), or_none(found.map(|f| f.1))))
        }
        Response::Subscribed { start, oldest, durable } => {
            ("subscribed", format!(" start={start} oldest={oldest} durable={durable}"))
        }
        Response::Unsubscribed => ("unsubscribed", String::new()),
        Response::Promoted => ("promoted", String::new()),
        Response::Demoted => ("demoted", String::new()),
        Response::Event(event) => describe_event(event),
        Response::GoAway(refused) => ("go_away", describe_refused(refused)),
        Response::Refused(refused) => ("refused", describe_refused(refused)),
    };
    format!("opcode={opcode} request_id={request_id}{rest}")
}

fn whole_frame(entry: &Entry) -> Frame<'_> {
    let frame = first_frame(&entry.bytes, limits::FRAME_BYTES_MAX);
    let frame = frame.unwrap_or_else(|e| panic!("{}: {e}", entry.name));
    let frame = frame.unwrap_or_else(|| panic!("{}: the frame is not whole", entry.name));
    assert_eq!(frame.header.length as usize, entry.bytes.len(), "{}", entry.name);
    frame
}

#[test]
fn requests_decode_to_their_fields_and_encode_to_their_bytes() {
    let mut seen = std::collections::BTreeSet::new();
    for entry in entries("protocol-requests.txt") {
        let frame = whole_frame(&entry);
        let request =
            Request::decode(&frame, &Limits::DEFAULT).unwrap_or_else(|e| panic!("{}: {e}", entry.name));
        assert_eq!(
            describe_request(&request, frame.header.request_id),
            entry.value("fields"),
            "{}",
            entry.name
        );
        assert_eq!(request.opcode(), frame.header.opcode, "{}", entry.name);
        let mut out = b"earlier".to_vec();
        request.encode(&mut out, frame.header.request_id);
        assert_eq!(vector_file::to_hex(&out[7..]), vector_file::to_hex(&entry.bytes), "{}", entry.name);
        seen.insert(frame.header.opcode);
    }
    assert_eq!(seen.len(), 18, "each opcode of opcode::request has a vector: {seen:02x?}");
}

#[test]
fn responses_decode_to_their_fields_and_encode_to_their_bytes() {
    let mut seen = std::collections::BTreeSet::new();
    for entry in entries("protocol-responses.txt") {
        let frame = whole_frame(&entry);
        let response = Response::decode(&frame).unwrap_or_else(|e| panic!("{}: {e}", entry.name));
        assert_eq!(
            describe_response(&response, frame.header.request_id),
            entry.value("fields"),
            "{}",
            entry.name
        );
        let mut out = b"earlier".to_vec();
        response.encode(&mut out, frame.header.request_id);
        assert_eq!(vector_file::to_hex(&out[7..]), vector_file::to_hex(&entry.bytes), "{}", entry.name);
        seen.insert(frame.header.opcode);
    }
    assert_eq!(seen.len(), 18 + 6, "each reply and each opcode of opcode::push has a vector: {seen:02x?}");
}

#[test]
fn the_session_of_the_document_is_the_one_of_the_vectors() {
    let document = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/protocol.md");
    let document = std::fs::read_to_string(document).unwrap();
    for entry in entries("protocol-session.txt") {
        let frame = whole_frame(&entry);
        let fields = match entry.value("from") {
            "client" => {
                let request = Request::decode(&frame, &Limits::DEFAULT).unwrap();
                describe_request(&request, frame.header.request_id)
            }
            _ => describe_response(&Response::decode(&frame).unwrap(), frame.header.request_id),
        };
        assert_eq!(fields, entry.value("fields"), "{}", entry.name);
        assert!(document.contains(entry.value("hex")), "docs/protocol.md lacks: {}", entry.name);
    }
}

#[test]
fn the_document_names_every_refusal_as_the_code_does() {
    let document = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/protocol.md");
    let document = std::fs::read_to_string(document).unwrap();
    for refusal in Refusal::ALL {
        let fatal = if refusal.is_fatal() { "yes" } else { "" };
        let row = format!("| {} | {} | {fatal} | {refusal} |", refusal.code(), refusal.name());
        assert!(document.contains(&row), "docs/protocol.md lacks: {row}");
    }
}

#[test]
fn the_short_cut_for_renewals_agrees_with_the_decoders() {
    for entry in entries("protocol-requests.txt") {
        let frame = whole_frame(&entry);
        let slow = match Request::decode(&frame, &Limits::DEFAULT) {
            Ok(Request::Renew { id }) => Some((frame.header.request_id, id)),
            _ => None,
        };
        assert_eq!(renew_at(&entry.bytes), slow, "{}", entry.name);
    }
    for entry in entries("protocol-responses.txt") {
        let frame = whole_frame(&entry);
        let slow = match Response::decode(&frame) {
            Ok(Response::Renewed { ttl_ms }) => Some((frame.header.request_id, ttl_ms)),
            _ => None,
        };
        assert_eq!(renewed_at(&entry.bytes), slow, "{}", entry.name);
    }
}

#[test]
fn what_must_be_refused_is_refused_with_the_refusal_named() {
    let limits = Limits { frame_bytes_max: 8_192, ..Limits::DEFAULT };
    for entry in entries("protocol-refused.txt") {
        let outcome = first_frame(&entry.bytes, limits.frame_bytes_max).and_then(|frame| {
            let frame = frame.unwrap_or_else(|| panic!("{}: the frame is not whole", entry.name));
            match entry.value("reader") {
                "server" => Request::decode(&frame, &limits).map(|request| format!("{request:?}")),
                "client" => Response::decode(&frame).map(|response| format!("{response:?}")),
                other => panic!("{}: unknown reader {other}", entry.name),
            }
        });
        match outcome {
            Ok(read) => panic!("{}: accepted as {read}", entry.name),
            Err(error) => {
                assert_eq!(error.refusal().name(), entry.value("refusal"), "{}: {error}", entry.name);
            }
        }
    }
}

#[test]
fn s1_the_id_rule_gives_the_shards_of_the_vectors() {
    let lines = vector_file::lines("id-rule.txt");
    assert!(lines.len() > 50);
    for line in lines {
        let columns: Vec<&str> = line.split_whitespace().collect();
        let [id, mixed, shards @ ..] = columns.as_slice() else { panic!("bad line {line}") };
        let id: LeaseId = id.parse().unwrap();
        let mixed = u64::from_str_radix(mixed, 16).unwrap();
        assert_eq!(mix(id.0), mixed, "{line}");
        assert_eq!(unmix(mixed), id.0 & (u64::MAX >> 1), "{line}");
        assert_eq!(shards.len(), 5, "{line}");
        for (count, shard) in [1, 2, 3, 16, 256].into_iter().zip(shards) {
            assert_eq!(shard_of(id, count), shard.parse::<u16>().unwrap(), "{line}: of {count}");
        }
    }
}
