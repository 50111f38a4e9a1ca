//! S8 bounded: decoding allocates nothing, whatever the frame claims.
//!
//! Counted with a global allocator of this test's own, so that a decoder that trusts a count of four
//! thousand million shows up as a number instead of a dead machine.

#[path = "support/vector_file.rs"]
mod vector_file;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use tenure_protocol::*;

struct Counting;

static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call goes to the system allocator unchanged; counting touches no memory of it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the pointer came from `System.alloc` with this layout.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Decodes and walks everything in `bytes`, both as server and as client.
fn read_everything(bytes: &[u8]) -> u64 {
    let Ok(Some(frame)) = first_frame(bytes, limits::FRAME_BYTES_MAX) else { return 0 };
    let mut sum = 0;
    match Request::decode(&frame, &Limits::DEFAULT) {
        Ok(Request::RenewBatch(ids) | Request::RevokeBatch(ids)) => {
            sum += ids.iter().map(|id| id.0 & 1).sum::<u64>();
        }
        Ok(Request::GrantBatch(batch)) => sum += batch.iter().map(|entry| entry.ttl_ms & 1).sum::<u64>(),
        _ => {}
    }
    match Response::decode(&frame) {
        Ok(Response::GrantBatch(results)) => sum += results.iter().filter(Result::is_ok).count() as u64,
        Ok(Response::RenewBatch(outcome)) => sum += outcome.failed().count() as u64,
        Ok(Response::List(page)) => sum += page.iter().count() as u64,
        Ok(Response::TimeToLive(ttl)) => sum += ttl.items.map_or(0, |page| page.items.iter().count() as u64),
        Ok(Response::Event(Event::Ended(ended))) => sum += ended.iter().count() as u64,
        Ok(Response::Event(Event::EndedItems(items))) => sum += items.items.iter().count() as u64,
        Ok(Response::Info(info)) => sum += (info.numbers().count() + info.texts().count()) as u64,
        _ => {}
    }
    sum
}

#[test]
fn s8_decoding_allocates_nothing() {
    let mut frames: Vec<Vec<u8>> = Vec::new();
    for file in ["protocol-requests.txt", "protocol-responses.txt", "protocol-refused.txt"] {
        frames.extend(vector_file::entries(file).into_iter().map(|entry| entry.bytes));
    }
    let mut batch = Vec::new();
    encode::renew_batch(&mut batch, RequestId(1), (1..=65_536).map(LeaseId).collect::<Vec<_>>().into_iter());
    frames.push(batch);
    // Every 32-bit field of every frame in turn claims as much as it can.
    let claims: Vec<Vec<u8>> = frames
        .iter()
        .filter(|frame| frame.len() < 256)
        .flat_map(|frame| {
            (12..frame.len().saturating_sub(3)).map(|at| {
                let mut claim = frame.clone();
                claim[at..at + 4].fill(0xFF);
                claim
            })
        })
        .collect();
    frames.extend(claims);

    let mut sum = 0;
    let before = ALLOCATIONS.load(Ordering::Relaxed);
    for frame in &frames {
        sum += read_everything(frame);
    }
    let after = ALLOCATIONS.load(Ordering::Relaxed);
    assert_eq!(after - before, 0, "{} frames", frames.len());
    assert!(sum >= 32_768, "the large batch was read: {sum}");
}
