//! Frames of the wire protocol, from any bytes: refused, incomplete, or read and written again to the same bytes.
//!
//! That the same bytes come out again shows that the decoder looked at every bit (`protocol/tests/hostile.rs` does this
//! for the vectors, bit by bit). The announced sizes are never believed beyond the bytes that are there.

use tenure_protocol::{Event, Frame, Frames, Limits, ProtocolError, Request, Response};

/// Walks over frames, however many there are, and checks that a stream cut anywhere is incomplete, not wrong.
fn each_frame(data: &[u8], mut read: impl FnMut(&Frame<'_>) -> Result<Vec<u8>, ProtocolError>) {
    let limits = Limits::DEFAULT;
    let mut frames = Frames::new(data, limits.frame_bytes_max);
    let mut before = 0;
    while let Ok(Some(frame)) = frames.next_frame() {
        let end = frames.consumed();
        assert!(end > before && end <= data.len(), "a frame is made of bytes that are there");
        let bytes = &data[before..end];
        if let Ok(again) = read(&frame) {
            assert_eq!(again, bytes, "read and written again");
        }
        let cut = before + (end - before) / 2;
        let mut shorter = Frames::new(&data[before..cut], limits.frame_bytes_max);
        assert!(matches!(shorter.next_frame(), Ok(None)), "half a frame is incomplete");
        before = end;
    }
}

/// Requests, as a server reads them.
pub fn requests(data: &[u8]) {
    let limits = Limits::DEFAULT;
    each_frame(data, |frame| {
        let request = Request::decode(frame, &limits)?;
        match request {
            Request::RenewBatch(ids) | Request::RevokeBatch(ids) => {
                assert_eq!(ids.iter().count(), ids.len());
                assert!(ids.len() <= limits.batch_ids_max as usize, "S8");
            }
            Request::GrantBatch(grants) => {
                assert_eq!(grants.iter().count(), grants.len());
                assert!(grants.len() <= limits.grant_batch_max as usize, "S8");
            }
            Request::Attach { item, .. } => assert!(item.len() <= limits.item_bytes_max as usize, "S8"),
            _ => {}
        }
        let mut again = Vec::new();
        request.encode(&mut again, frame.header.request_id);
        Ok(again)
    });
}

/// Responses and events, as a client reads them.
pub fn responses(data: &[u8]) {
    each_frame(data, |frame| {
        let response = Response::decode(frame)?;
        match &response {
            Response::GrantBatch(results) => assert_eq!(results.iter().count(), results.len()),
            Response::RenewBatch(outcome) | Response::RevokeBatch(outcome) => {
                assert_eq!(outcome.failed().count(), outcome.failed_count());
                assert!(outcome.failed_count() <= outcome.count() as usize);
            }
            Response::List(page) => assert_eq!(page.iter().count(), page.len()),
            Response::Info(info) => {
                let count = info.numbers().count() + info.texts().count();
                assert!(count <= frame.body.len(), "S8: {count} facts in {} bytes", frame.body.len());
            }
            Response::Event(event) => {
                let _ = (event.shard(), event.resume_at());
                if let Event::Ended(ended) = event {
                    assert_eq!(ended.iter().count(), ended.len());
                }
            }
            _ => {}
        }
        let mut again = Vec::new();
        response.encode(&mut again, frame.header.request_id);
        Ok(again)
    });
}
