//! A renewal in the words of others: what Redis and etcd put on the wire for it.
//!
//! *RESP* is `PEXPIRE key ms` as Redis clients send it, with a key of 16 hex digits, and `:1` back. *gRPC* is etcd's
//! `LeaseKeepAlive` in protobuf behind the five bytes of a gRPC message; HTTP/2's frames, headers and flow control around
//! it are left out, which is in its favour.

use prost::Message;

/// Appends `PEXPIRE <id> 10000`.
pub(crate) fn resp_encode(out: &mut Vec<u8>, id: u64) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    out.extend_from_slice(b"*3\r\n$7\r\nPEXPIRE\r\n$16\r\n");
    let mut key = [0; 16];
    for (place, digit) in key.iter_mut().enumerate() {
        *digit = DIGITS[(id >> (60 - 4 * place)) as usize & 15];
    }
    out.extend_from_slice(&key);
    out.extend_from_slice(b"\r\n$5\r\n10000\r\n");
}

/// The next command's key and TTL; `None` when the bytes are used up or make no sense.
pub(crate) fn resp_decode<'a>(bytes: &mut &'a [u8]) -> Option<(&'a [u8], u64)> {
    if number(bytes, b'*')? != 3 || bulk(bytes)? != b"PEXPIRE" {
        return None;
    }
    let (key, ttl_ms) = (bulk(bytes)?, bulk(bytes)?);
    Some((key, decimal(ttl_ms)?))
}

/// Appends `:1`.
pub(crate) fn resp_answer(out: &mut Vec<u8>) {
    out.extend_from_slice(b":1\r\n");
}

fn bulk<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = number(bytes, b'$')? as usize;
    let (content, rest) = bytes.split_at_checked(length)?;
    *bytes = rest.strip_prefix(b"\r\n")?;
    Some(content)
}

fn number(bytes: &mut &[u8], mark: u8) -> Option<u64> {
    let rest = bytes.strip_prefix(&[mark])?;
    let end = rest.iter().position(|&byte| byte == b'\r')?;
    *bytes = rest[end..].strip_prefix(b"\r\n")?;
    decimal(&rest[..end])
}

fn decimal(digits: &[u8]) -> Option<u64> {
    digits.iter().try_fold(0u64, |value, digit| {
        Some(value.checked_mul(10)? + u64::from(digit.checked_sub(b'0').filter(|digit| *digit < 10)?))
    })
}

/// etcdserverpb.LeaseKeepAliveRequest.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct KeepAlive {
    #[prost(int64, tag = "1")]
    pub(crate) id: i64,
}

/// etcdserverpb.ResponseHeader.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Head {
    #[prost(uint64, tag = "1")]
    pub(crate) cluster_id: u64,
    #[prost(uint64, tag = "2")]
    pub(crate) member_id: u64,
    #[prost(int64, tag = "3")]
    pub(crate) revision: i64,
    #[prost(uint64, tag = "4")]
    pub(crate) raft_term: u64,
}

/// etcdserverpb.LeaseKeepAliveResponse.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct KeptAlive {
    #[prost(message, optional, tag = "1")]
    pub(crate) header: Option<Head>,
    #[prost(int64, tag = "2")]
    pub(crate) id: i64,
    #[prost(int64, tag = "3")]
    pub(crate) ttl: i64,
}

/// Appends a gRPC message: not compressed, length, protobuf.
pub(crate) fn grpc_encode(out: &mut Vec<u8>, message: &impl Message) {
    out.push(0);
    out.extend_from_slice(&(message.encoded_len() as u32).to_be_bytes());
    message.encode(out).expect("a vector grows");
}

/// The next message; `None` when the bytes are used up or make no sense.
pub(crate) fn grpc_decode<M: Message + Default>(bytes: &mut &[u8]) -> Option<M> {
    let (head, rest) = bytes.split_first_chunk::<5>()?;
    let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
    let (content, rest) = rest.split_at_checked(length)?;
    *bytes = rest;
    M::decode(content).ok()
}

/// What etcd answers.
pub(crate) fn kept_alive(id: i64) -> KeptAlive {
    let header = Head {
        cluster_id: 0xcdf8_181e_3277_8ada,
        member_id: 0x8e9e_05c5_2164_694d,
        revision: 1_000_000,
        raft_term: 7,
    };
    KeptAlive { header: Some(header), id, ttl: 10 }
}
