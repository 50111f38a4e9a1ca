//! The wire codec, and the client's connection machine on top of it: what a renewal costs outside of
//! the kernel and the shard.
//!
//! - renew: frames of one renewal, as the server decodes and answers them.
//! - batch: RenewBatch of 256.
//! - machine: a renewal there and back through the client's in-flight table, with an answering peer
//!   in the same thread (whose cost is in the figure; `renew/answer` says what it is).

use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use tenure_client::machine::{Connection, ConnectionConfig};
use tenure_protocol::{
    Frames, LeaseId, Limits, RENEW_BYTES, Request, RequestId, Response, Welcome, encode, renewed_frame,
};

/// Frames of one read of a pipelined connection.
const RUN: u64 = 32;
const BATCH: u64 = 256;

fn renews() -> Vec<u8> {
    let mut bytes = Vec::new();
    (1..=RUN).for_each(|id| encode::renew(&mut bytes, RequestId(id as u32), LeaseId(id << 20)));
    bytes
}

/// Answers a run of renewals as the server's session does.
fn answer(requests: &[u8], replies: &mut Vec<u8>) {
    let mut frames = Frames::new(requests, Limits::DEFAULT.frame_bytes_max);
    while let Some((request_id, _)) = frames.next_renew() {
        replies.extend_from_slice(&renewed_frame(request_id, 10_000));
    }
    assert_eq!(frames.consumed(), requests.len());
}

fn renew(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("renew");
    group.warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1));
    group.throughput(Throughput::Elements(RUN));
    let mut out = Vec::with_capacity(64 << 10);
    group.bench_function("encode", |bencher| {
        bencher.iter(|| {
            out.clear();
            (1..=RUN).for_each(|id| encode::renew(&mut out, RequestId(id as u32), black_box(LeaseId(id))));
            black_box(&out);
        });
    });
    let requests = renews();
    group.bench_function("decode: fast path", |bencher| {
        bencher.iter(|| {
            let mut frames = Frames::new(black_box(&requests), Limits::DEFAULT.frame_bytes_max);
            let mut sum = 0;
            while let Some((_, id)) = frames.next_renew() {
                sum ^= id.0;
            }
            sum
        });
    });
    group.bench_function("decode: general path", |bencher| {
        bencher.iter(|| {
            let mut frames = Frames::new(black_box(&requests), Limits::DEFAULT.frame_bytes_max);
            let mut sum = 0;
            while let Ok(Some(frame)) = frames.next_frame() {
                let Ok(Request::Renew { id }) = Request::decode(&frame, &Limits::DEFAULT) else {
                    unreachable!()
                };
                sum ^= id.0;
            }
            sum
        });
    });
    group.bench_function("answer", |bencher| {
        bencher.iter(|| {
            out.clear();
            answer(black_box(&requests), &mut out);
            black_box(&out);
        });
    });
    group.finish();
}

fn batch(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("batch of 256");
    group.warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1));
    group.throughput(Throughput::Elements(BATCH));
    let ids: Vec<u64> = (1..=BATCH).map(|id| id << 20).collect();
    let mut out = Vec::with_capacity(64 << 10);
    group.bench_function("encode", |bencher| {
        bencher.iter(|| {
            out.clear();
            encode::renew_batch(&mut out, RequestId(1), black_box(&ids).iter().map(|&id| LeaseId(id)));
            black_box(&out);
        });
    });
    let mut request = Vec::new();
    encode::renew_batch(&mut request, RequestId(1), ids.iter().map(|&id| LeaseId(id)));
    let mut decoded: Vec<LeaseId> = Vec::with_capacity(BATCH as usize);
    group.bench_function("decode", |bencher| {
        bencher.iter(|| {
            let frame = Frames::new(black_box(&request), Limits::DEFAULT.frame_bytes_max).next_frame();
            let Ok(Some(frame)) = frame else { unreachable!() };
            let Ok(Request::RenewBatch(ids)) = Request::decode(&frame, &Limits::DEFAULT) else {
                unreachable!()
            };
            decoded.clear();
            decoded.extend(ids.iter());
            black_box(&decoded);
        });
    });
    let mut reply = Vec::new();
    encode::reply::renew_batch(&mut reply, RequestId(1), BATCH as u32, std::iter::empty());
    group.bench_function("decode the reply", |bencher| {
        bencher.iter(|| {
            let frame = Frames::new(black_box(&reply), Limits::DEFAULT.frame_bytes_max).next_frame();
            let Ok(Some(frame)) = frame else { unreachable!() };
            let Ok(Response::RenewBatch(outcome)) = Response::decode(&frame) else { unreachable!() };
            outcome.is_all()
        });
    });
    group.finish();
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

fn machine(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("machine");
    group.warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1));
    group.throughput(Throughput::Elements(RUN));
    let mut machine = open_connection();
    let mut replies = Vec::with_capacity(RENEW_BYTES * RUN as usize);
    group.bench_function("renew there and back", |bencher| {
        bencher.iter(|| {
            for id in 1..=RUN {
                machine.send_renew(LeaseId(id), id).expect("the window is open");
            }
            replies.clear();
            answer(machine.outgoing(), &mut replies);
            machine.outgoing().clear();
            machine.receive(&replies);
            let mut sum = 0;
            while let Some((token, _)) = machine.poll_renewed() {
                sum += token;
            }
            assert_eq!(sum, RUN * (RUN + 1) / 2);
        });
    });
    group.finish();
}

criterion_group!(benches, renew, batch, machine);
criterion_main!(benches);
