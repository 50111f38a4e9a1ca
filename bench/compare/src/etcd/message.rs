//! The part of etcd's protobuf messages that leases need, and gRPC's frame around them.
//!
//! Field numbers are those of `api/etcdserverpb/rpc.proto` and `api/mvccpb/kv.proto`, which are stable by etcd's promise. Fields that are not
//! asked for here are passed over; what is cut short or malformed is an error.

use anyhow::{Context, bail};

/// Longest message that is waited for, bytes: a watch response with thousands of keys.
const MESSAGE_BYTES_MAX: usize = 64 << 20;
/// gRPC's prefix: a flag and a length.
const PREFIX_BYTES: usize = 5;

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn integer(out: &mut Vec<u8>, field: u32, value: u64) {
    varint(out, u64::from(field) << 3);
    varint(out, value);
}

fn bytes(out: &mut Vec<u8>, field: u32, value: &[u8]) {
    varint(out, u64::from(field) << 3 | 2);
    varint(out, value.len() as u64);
    out.extend_from_slice(value);
}

/// One message in gRPC's frame, at the end of `out`.
fn framed(out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    let at = out.len();
    out.extend_from_slice(&[0; PREFIX_BYTES]);
    write(out);
    let len = u32::try_from(out.len() - at - PREFIX_BYTES).expect("S8: requests are short");
    out[at + 1..at + PREFIX_BYTES].copy_from_slice(&len.to_be_bytes());
}

/// LeaseGrantRequest: the server chooses the ID.
pub(crate) fn grant(out: &mut Vec<u8>, ttl_s: u64) {
    framed(out, |out| integer(out, 1, ttl_s));
}

/// LeaseRevokeRequest, and LeaseKeepAliveRequest, which looks the same.
pub(crate) fn lease(out: &mut Vec<u8>, id: u64) {
    framed(out, |out| integer(out, 1, id));
}

/// LeaseTimeToLiveRequest, which does, too.
pub(crate) fn time_to_live(out: &mut Vec<u8>, id: u64) {
    lease(out, id);
}

/// PutRequest with an empty value.
pub(crate) fn put(out: &mut Vec<u8>, key: &[u8], lease: u64) {
    framed(out, |out| {
        bytes(out, 1, key);
        integer(out, 3, lease);
    });
}

/// WatchRequest: create one for all keys from `from` to before `to`.
pub(crate) fn watch(out: &mut Vec<u8>, from: &[u8], to: &[u8]) {
    let mut create = Vec::new();
    bytes(&mut create, 1, from);
    bytes(&mut create, 2, to);
    framed(out, |out| bytes(out, 1, &create));
}

/// A field's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Value<'a> {
    Integer(u64),
    Bytes(&'a [u8]),
    /// Of a kind that is not asked for.
    Other,
}

/// Takes a varint off the front.
#[inline]
fn take_varint(bytes: &mut &[u8]) -> anyhow::Result<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let Some((&byte, rest)) = bytes.split_first() else { bail!("a message is cut short") };
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Ok(value);
        }
    }
    bail!("an integer is too long")
}

#[inline]
fn take_bytes<'a>(bytes: &mut &'a [u8], len: u64) -> anyhow::Result<&'a [u8]> {
    let len = usize::try_from(len).ok().filter(|&len| len <= bytes.len());
    let (taken, rest) = bytes.split_at(len.context("a message is cut short")?);
    *bytes = rest;
    Ok(taken)
}

/// Takes a field off the front.
#[inline]
fn take_field<'a>(message: &mut &'a [u8]) -> anyhow::Result<(u64, Value<'a>)> {
    let key = take_varint(message)?;
    let value = match key & 7 {
        0 => Value::Integer(take_varint(message)?),
        1 => take_bytes(message, 8).map(|_| Value::Other)?,
        2 => {
            let len = take_varint(message)?;
            Value::Bytes(take_bytes(message, len)?)
        }
        5 => take_bytes(message, 4).map(|_| Value::Other)?,
        kind => bail!("a field of kind {kind} is none of protobuf's"),
    };
    Ok((key >> 3, value))
}

/// Calls `each` for every field.
#[inline]
fn fields<'a>(mut message: &'a [u8], mut each: impl FnMut(u64, Value<'a>)) -> anyhow::Result<()> {
    while !message.is_empty() {
        let (field, value) = take_field(&mut message)?;
        each(field, value);
    }
    Ok(())
}

/// ID (field 2) and TTL (field 3) of LeaseGrantResponse, LeaseKeepAliveResponse and
/// LeaseTimeToLiveResponse: seconds, and -1 or 0 when there is no such lease.
#[inline]
pub(crate) fn lease_response(message: &[u8]) -> anyhow::Result<(u64, i64)> {
    let (mut id, mut ttl) = (0, 0);
    fields(message, |field, value| match (field, value) {
        (2, Value::Integer(value)) => id = value,
        (3, Value::Integer(value)) => ttl = value as i64,
        _ => {}
    })?;
    Ok((id, ttl))
}

/// Calls `deleted` with every key that a WatchResponse says was deleted; whether it confirms the watch.
pub(crate) fn watch_response(message: &[u8], mut deleted: impl FnMut(&[u8])) -> anyhow::Result<bool> {
    let (mut created, mut canceled, mut result) = (false, false, Ok(()));
    fields(message, |field, value| match (field, value) {
        (3, Value::Integer(value)) => created = value != 0,
        (4, Value::Integer(value)) => canceled = value != 0,
        (11, Value::Bytes(event)) => {
            if let Err(error) = watch_event(event, &mut deleted) {
                result = Err(error);
            }
        }
        _ => {}
    })?;
    if canceled {
        bail!("etcd ended the watch");
    }
    result.map(|()| created)
}

fn watch_event(event: &[u8], deleted: &mut impl FnMut(&[u8])) -> anyhow::Result<()> {
    let (mut kind, mut key_value) = (0, &[][..]);
    fields(event, |field, value| match (field, value) {
        (1, Value::Integer(value)) => kind = value,
        (2, Value::Bytes(value)) => key_value = value,
        _ => {}
    })?;
    const DELETE: u64 = 1;
    if kind != DELETE {
        return Ok(());
    }
    fields(key_value, |field, value| {
        if let (1, Value::Bytes(key)) = (field, value) {
            deleted(key);
        }
    })
}

/// Takes messages out of gRPC's frames, however the bytes are cut.
#[derive(Debug, Default)]
pub(crate) struct Unframe {
    rest: Vec<u8>,
}

impl Unframe {
    /// Calls `each` for every message that is whole now.
    ///
    /// # Errors
    /// What `each` answers, and frames that are compressed or too long.
    pub(crate) fn take(
        &mut self,
        bytes: &[u8],
        mut each: impl FnMut(&[u8]) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        if self.rest.is_empty() {
            let taken = whole(bytes, &mut each)?;
            self.rest.extend_from_slice(&bytes[taken..]);
        } else {
            self.rest.extend_from_slice(bytes);
            let taken = whole(&self.rest, &mut each)?;
            self.rest.drain(..taken);
        }
        Ok(())
    }
}

fn whole(bytes: &[u8], each: &mut impl FnMut(&[u8]) -> anyhow::Result<()>) -> anyhow::Result<usize> {
    let mut at = 0;
    while let Some(prefix) = bytes[at..].first_chunk::<PREFIX_BYTES>() {
        let [compressed, length @ ..] = *prefix;
        let len = u32::from_be_bytes(length) as usize;
        if compressed != 0 || len > MESSAGE_BYTES_MAX {
            bail!("a message of {len} bytes (compressed: {compressed}) was not asked for");
        }
        let Some(message) = bytes.get(at + PREFIX_BYTES..at + PREFIX_BYTES + len) else { break };
        each(message)?;
        at += PREFIX_BYTES + len;
    }
    Ok(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_the_bytes_that_protobuf_says() {
        let bytes = |write: fn(&mut Vec<u8>)| {
            let mut out = Vec::new();
            write(&mut out);
            out
        };
        assert_eq!(bytes(|out| grant(out, 300)), [0, 0, 0, 0, 3, 8, 0xac, 2]);
        assert_eq!(bytes(|out| lease(out, 1)), [0, 0, 0, 0, 2, 8, 1]);
        assert_eq!(bytes(|out| put(out, b"k", 5)), [0, 0, 0, 0, 5, 10, 1, b'k', 24, 5]);
        assert_eq!(bytes(|out| watch(out, b"a", b"b")), [0, 0, 0, 0, 8, 10, 6, 10, 1, b'a', 18, 1, b'b']);
    }

    #[test]
    fn responses_are_read_however_they_are_cut_and_damage_is_an_error() {
        // A header, an ID, a TTL, an unknown field of each kind.
        let mut message = Vec::new();
        bytes(&mut message, 1, &[8, 1]);
        integer(&mut message, 2, 77);
        integer(&mut message, 3, 60);
        message.extend_from_slice(&[9 << 3 | 1, 0, 0, 0, 0, 0, 0, 0, 0, 10 << 3 | 5, 0, 0, 0, 0]);
        assert_eq!(lease_response(&message).unwrap(), (77, 60));
        integer(&mut message, 3, u64::MAX);
        assert_eq!(lease_response(&message).unwrap(), (77, -1), "the last one counts");
        for len in [1, 3, message.len() - 1] {
            assert!(lease_response(&message[..len]).is_err(), "{len}");
        }
        let mut frames = Vec::new();
        (0..3).for_each(|_| framed(&mut frames, |out| out.extend_from_slice(&message)));
        for piece in 1..frames.len() {
            let (mut unframe, mut count) = (Unframe::default(), 0);
            for piece in frames.chunks(piece) {
                unframe
                    .take(piece, |found| {
                        assert_eq!(found, message);
                        count += 1;
                        Ok(())
                    })
                    .unwrap();
            }
            assert_eq!((count, unframe.rest.len()), (3, 0), "in pieces of {piece}");
        }
        assert!(Unframe::default().take(&[1, 0, 0, 0, 0], |_| Ok(())).is_err(), "compressed");
    }

    #[test]
    fn a_watch_names_the_keys_that_were_deleted() {
        let event = |kind: u64, key: &[u8]| {
            let (mut key_value, mut event) = (Vec::new(), Vec::new());
            bytes(&mut key_value, 1, key);
            integer(&mut event, 1, kind);
            bytes(&mut event, 2, &key_value);
            event
        };
        let mut message = Vec::new();
        integer(&mut message, 3, 1);
        bytes(&mut message, 11, &event(1, b"gone"));
        bytes(&mut message, 11, &event(0, b"written"));
        let mut keys = Vec::new();
        assert!(watch_response(&message, |key| keys.push(key.to_vec())).unwrap());
        assert_eq!(keys, [b"gone"]);
        integer(&mut message, 4, 1);
        assert!(watch_response(&message, |_| ()).is_err(), "canceled");
    }
}
