//! The wire codec on both sides, and the client's machine around it.

use std::hint::black_box;

use gungraun::{library_benchmark, library_benchmark_group};
use tenure_client::machine::{Connection, ConnectionConfig};
use tenure_protocol::{
    Failed, Frames, LeaseId, Limits, Refusal, Request, RequestId, Response, Welcome, encode, renewed_frame,
};

use crate::{BATCH, OPERATIONS};

/// Frames of one read of a pipelined connection.
const RUN: usize = 32;

fn id(index: usize) -> LeaseId {
    LeaseId((index as u64 + 1) << 20)
}

fn room() -> Vec<u8> {
    Vec::with_capacity(64 << 10)
}

#[library_benchmark]
#[bench::run(room())]
fn encode_renew(mut out: Vec<u8>) -> Vec<u8> {
    for index in 0..OPERATIONS {
        if index % RUN == 0 {
            out.clear();
        }
        encode::renew(&mut out, RequestId(index as u32), black_box(id(index)));
    }
    out
}

fn renew_frames() -> Vec<u8> {
    let mut bytes = Vec::new();
    (0..RUN).for_each(|index| encode::renew(&mut bytes, RequestId(index as u32), id(index)));
    bytes
}

/// What the server's session does with a run of renewals, the shard left out.
fn answer(requests: &[u8], replies: &mut Vec<u8>) {
    let mut frames = Frames::new(requests, Limits::DEFAULT.frame_bytes_max);
    while let Some((request_id, id)) = frames.next_renew() {
        black_box(id);
        replies.extend_from_slice(&renewed_frame(request_id, 10_000));
    }
    assert_eq!(frames.consumed(), requests.len());
}

#[library_benchmark]
#[bench::run(renew_frames(), room())]
fn decode_and_answer_renew(requests: Vec<u8>, mut replies: Vec<u8>) -> (Vec<u8>, Vec<u8>) {
    for _ in 0..OPERATIONS / RUN {
        replies.clear();
        answer(black_box(&requests), &mut replies);
    }
    (requests, replies)
}

fn grant_frames() -> Vec<u8> {
    let mut bytes = Vec::new();
    for index in 0..RUN {
        let grant = tenure_protocol::Grant { ttl_ms: 10_000, id: LeaseId(0), sequence: index as u64 };
        encode::grant(&mut bytes, RequestId(index as u32), grant);
    }
    bytes
}

// The general way into a frame, which all requests but renewals take.
#[library_benchmark]
#[bench::run(grant_frames())]
fn decode_grant(requests: Vec<u8>) -> Vec<u8> {
    for _ in 0..OPERATIONS / RUN {
        let mut frames = Frames::new(black_box(&requests), Limits::DEFAULT.frame_bytes_max);
        while let Ok(Some(frame)) = frames.next_frame() {
            let request = Request::decode(&frame, &Limits::DEFAULT);
            assert!(matches!(black_box(request), Ok(Request::Grant(_))));
        }
        assert_eq!(frames.consumed(), requests.len());
    }
    requests
}

fn batch_ids() -> Vec<LeaseId> {
    (0..BATCH).map(id).collect()
}

#[library_benchmark]
#[bench::of_256(batch_ids(), room())]
fn encode_renew_batch(ids: Vec<LeaseId>, mut out: Vec<u8>) -> (Vec<LeaseId>, Vec<u8>) {
    for _ in 0..OPERATIONS / BATCH {
        out.clear();
        encode::renew_batch(&mut out, RequestId(1), black_box(&ids).iter().copied());
    }
    (ids, out)
}

fn batch_frame() -> Vec<u8> {
    let mut bytes = Vec::new();
    encode::renew_batch(&mut bytes, RequestId(1), batch_ids().into_iter());
    bytes
}

#[library_benchmark]
#[bench::of_256(batch_frame(), Vec::with_capacity(BATCH))]
fn decode_renew_batch(request: Vec<u8>, mut ids: Vec<LeaseId>) -> (Vec<u8>, Vec<LeaseId>) {
    for _ in 0..OPERATIONS / BATCH {
        let frame = Frames::new(black_box(&request), Limits::DEFAULT.frame_bytes_max).next_frame();
        let Ok(Some(frame)) = frame else { unreachable!("the frame is whole") };
        let Ok(Request::RenewBatch(batch)) = Request::decode(&frame, &Limits::DEFAULT) else {
            unreachable!("the frame is a RenewBatch")
        };
        ids.clear();
        ids.extend(batch.iter());
    }
    (request, ids)
}

/// A reply that names one failed lease in 256.
fn batch_reply() -> Vec<u8> {
    let mut reply = Vec::new();
    encode::reply::renew_batch(
        &mut reply,
        RequestId(1),
        BATCH as u32 - 1,
        std::iter::once(Failed { index: 17, refusal: Refusal::NotFound }),
    );
    reply
}

#[library_benchmark]
#[bench::of_256(batch_reply())]
fn decode_renew_batch_reply(reply: Vec<u8>) -> Vec<u8> {
    for _ in 0..OPERATIONS {
        let frame = Frames::new(black_box(&reply), Limits::DEFAULT.frame_bytes_max).next_frame();
        let Ok(Some(frame)) = frame else { unreachable!("the frame is whole") };
        let Ok(Response::RenewBatch(outcome)) = Response::decode(&frame) else {
            unreachable!("the frame is a RenewBatch reply")
        };
        assert!(!black_box(outcome).is_all());
    }
    reply
}

fn open_connection() -> Connection {
    let mut machine = Connection::new(&ConnectionConfig::default());
    let hello = Frames::new(machine.outgoing(), 4_096).next_frame().expect("valid").expect("whole").header;
    machine.outgoing().clear();
    let welcome = Welcome {
        version: 1,
        shard_count: 1,
        shard: 0,
        id_rule: 1,
        features: 0,
        session: 1,
        limits: Limits::DEFAULT,
        ttl_ms_min: 1,
        ttl_ms_max: u64::MAX,
        idle_timeout_ms: 0,
        server: "",
    };
    let mut bytes = Vec::new();
    welcome.encode(&mut bytes, hello.request_id);
    machine.receive(&bytes);
    assert!(matches!(machine.poll(), Ok(Some(_))) && machine.is_open());
    machine
}

// There and back through the client's in-flight table; the answering side is in the figure.
#[library_benchmark]
#[bench::run(open_connection(), room())]
fn client_renew(mut machine: Connection, mut replies: Vec<u8>) -> (Connection, Vec<u8>) {
    for _ in 0..OPERATIONS / RUN {
        for index in 0..RUN {
            machine.send_renew(id(index), index as u64).expect("the window is open");
        }
        replies.clear();
        answer(machine.outgoing(), &mut replies);
        machine.outgoing().clear();
        machine.receive(&replies);
        while let Some(answered) = machine.poll_renewed() {
            black_box(answered);
        }
    }
    (machine, replies)
}

library_benchmark_group!(
    name = wire;
    benchmarks =
        encode_renew,
        decode_and_answer_renew,
        decode_grant,
        encode_renew_batch,
        decode_renew_batch,
        decode_renew_batch_reply,
        client_renew
);
