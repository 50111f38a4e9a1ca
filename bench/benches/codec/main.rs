//! The wire codec, and the client's connection machine on top of it: what a renewal costs outside of
//! the kernel and the shard. One thread, CPU time; 32 renewals at a time, as one read of a pipelined connection
//! brings them.
//!
//! - request, answer: frames of one renewal, as a client writes them, and as the server decodes and answers them.
//! - batch: RenewBatch of 256, which none of the others has.
//! - client: a renewal there and back through the client's in-flight table, with an answering peer in the same
//!   thread (whose cost is in the figure).
//!
//! Beside them what Redis and etcd put on the wire (`others.rs`), and the floor: the bytes of the frames copied.

mod others;

#[path = "../support/cpu_time.rs"]
mod cpu_time;
#[path = "../support/setting.rs"]
mod setting;
#[path = "../support/summary.rs"]
mod summary;

use std::hint::black_box;
use std::time::SystemTime;

use cpu_time::CpuTime;
use criterion::{BenchmarkId, Criterion, Throughput};
use others::{KeepAlive, grpc_decode, grpc_encode, kept_alive, resp_answer, resp_decode, resp_encode};
use tenure_client::machine::{Connection, ConnectionConfig};
use tenure_protocol::{
    Frames, LeaseId, Limits, RENEW_BYTES, Request, RequestId, Response, Welcome, encode, renewed_frame,
};

/// Frames of one read of a pipelined connection.
const RUN: u64 = 32;
const BATCH: u64 = 256;

/// IDs as large as real ones are.
fn id(index: u64) -> u64 {
    (index + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 1
}

/// One row: `work` fills the buffer, which is empty each time.
fn row(
    criterion: &mut Criterion<CpuTime>,
    group: &str,
    name: &str,
    count: u64,
    mut work: impl FnMut(&mut Vec<u8>),
) {
    let mut group = criterion.benchmark_group(group);
    group.throughput(Throughput::Elements(count));
    let mut out = Vec::with_capacity(64 << 10);
    group.bench_function(BenchmarkId::new(name, count), |bencher| {
        bencher.iter(|| {
            out.clear();
            work(&mut out);
            black_box(&out);
        });
    });
    group.finish();
}

fn request(criterion: &mut Criterion<CpuTime>) {
    let frames = requests();
    row(criterion, "request", "floor: copied", RUN, |out| out.extend_from_slice(black_box(&frames)));
    row(criterion, "request", "tenure", RUN, |out| {
        (0..RUN).for_each(|index| encode::renew(out, RequestId(index as u32), LeaseId(black_box(id(index)))));
    });
    row(criterion, "request", "RESP", RUN, |out| {
        (0..RUN).for_each(|index| resp_encode(out, black_box(id(index))));
    });
    row(criterion, "request", "gRPC", RUN, |out| {
        (0..RUN).for_each(|index| grpc_encode(out, &KeepAlive { id: black_box(id(index)) as i64 }));
    });
}

fn requests() -> Vec<u8> {
    let mut bytes = Vec::new();
    (0..RUN).for_each(|index| encode::renew(&mut bytes, RequestId(index as u32), LeaseId(id(index))));
    bytes
}

/// Answers a run of renewals as the server's session does.
fn answer(requests: &[u8], replies: &mut Vec<u8>) {
    let mut frames = Frames::new(requests, Limits::DEFAULT.frame_bytes_max);
    while let Some((request_id, id)) = frames.next_renew() {
        black_box(id);
        replies.extend_from_slice(&renewed_frame(request_id, 10_000));
    }
    assert_eq!(frames.consumed(), requests.len());
}

/// The same by way of any request's decoder.
fn answer_generally(requests: &[u8], replies: &mut Vec<u8>) {
    let mut frames = Frames::new(requests, Limits::DEFAULT.frame_bytes_max);
    while let Ok(Some(frame)) = frames.next_frame() {
        let Ok(Request::Renew { id }) = Request::decode(&frame, &Limits::DEFAULT) else { unreachable!() };
        black_box(id);
        replies.extend_from_slice(&renewed_frame(frame.header.request_id, 10_000));
    }
    assert_eq!(frames.consumed(), requests.len());
}

fn answers(criterion: &mut Criterion<CpuTime>) {
    let (tenure, mut resp, mut grpc) = (requests(), Vec::new(), Vec::new());
    (0..RUN).for_each(|index| resp_encode(&mut resp, id(index)));
    (0..RUN).for_each(|index| grpc_encode(&mut grpc, &KeepAlive { id: id(index) as i64 }));
    row(criterion, "answer", "tenure", RUN, |out| answer(black_box(&tenure), out));
    row(criterion, "answer", "tenure, general decoder", RUN, |out| answer_generally(black_box(&tenure), out));
    row(criterion, "answer", "RESP", RUN, |out| {
        let mut bytes = black_box(&resp[..]);
        while let Some(command) = resp_decode(&mut bytes) {
            black_box(command);
            resp_answer(out);
        }
        assert!(bytes.is_empty());
    });
    row(criterion, "answer", "gRPC", RUN, |out| {
        let mut bytes = black_box(&grpc[..]);
        while let Some(request) = grpc_decode::<KeepAlive>(&mut bytes) {
            grpc_encode(out, &kept_alive(request.id));
        }
        assert!(bytes.is_empty());
    });
}

fn batch(criterion: &mut Criterion<CpuTime>) {
    let ids: Vec<u64> = (0..BATCH).map(id).collect();
    let mut request = Vec::new();
    encode::renew_batch(&mut request, RequestId(1), ids.iter().map(|&id| LeaseId(id)));
    row(criterion, "batch request", "floor: copied", BATCH, |out| out.extend_from_slice(black_box(&request)));
    row(criterion, "batch request", "tenure", BATCH, |out| {
        encode::renew_batch(out, RequestId(1), black_box(&ids).iter().map(|&id| LeaseId(id)));
    });
    let mut decoded: Vec<LeaseId> = Vec::with_capacity(BATCH as usize);
    row(criterion, "batch answer", "tenure", BATCH, |out| {
        let frame = Frames::new(black_box(&request), Limits::DEFAULT.frame_bytes_max).next_frame();
        let Ok(Some(frame)) = frame else { unreachable!() };
        let Ok(Request::RenewBatch(ids)) = Request::decode(&frame, &Limits::DEFAULT) else { unreachable!() };
        decoded.clear();
        decoded.extend(ids.iter());
        black_box(&decoded);
        encode::reply::renew_batch(out, RequestId(1), BATCH as u32, std::iter::empty());
    });
    let mut reply = Vec::new();
    encode::reply::renew_batch(&mut reply, RequestId(1), BATCH as u32, std::iter::empty());
    row(criterion, "batch reply read", "tenure", BATCH, |_| {
        let frame = Frames::new(black_box(&reply), Limits::DEFAULT.frame_bytes_max).next_frame();
        let Ok(Some(frame)) = frame else { unreachable!() };
        let Ok(Response::RenewBatch(outcome)) = Response::decode(&frame) else { unreachable!() };
        assert!(outcome.is_all());
    });
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

fn client(criterion: &mut Criterion<CpuTime>) {
    let mut machine = open_connection();
    let mut replies = Vec::with_capacity(RENEW_BYTES * RUN as usize);
    row(criterion, "client", "tenure", RUN, |_| {
        for index in 0..RUN {
            machine.send_renew(LeaseId(id(index)), index).expect("the window is open");
        }
        replies.clear();
        answer(machine.outgoing(), &mut replies);
        machine.outgoing().clear();
        machine.receive(&replies);
        let mut sum = 0;
        while let Some((token, _)) = machine.poll_renewed() {
            sum += token;
        }
        assert_eq!(sum, RUN * (RUN - 1) / 2);
    });
}

fn main() {
    let (began, mut criterion) = (SystemTime::now(), setting::criterion(CpuTime));
    request(&mut criterion);
    answers(&mut criterion);
    batch(&mut criterion);
    client(&mut criterion);
    criterion.final_summary();
    summary::print(began);
}
