//! A key for each lease that is to end, and a watch that hears of its deletion.

use std::time::Duration;

use anyhow::{Context, bail};
use bytes::Bytes;
use h2::SendStream;

use super::channel::{Channel, GRANT, Inbox, PUT, WATCH};
use super::load::SILENCE_MAX;
use super::message::{self, Unframe};
use crate::talk::hex;

/// Keys of leases: nothing else is watched.
const FROM: &[u8] = b"/lease/";
const TO: &[u8] = b"/lease0";

fn key(id: u64) -> Vec<u8> {
    [FROM, &hex(id)].concat()
}

fn id_of(key: &[u8]) -> Option<u64> {
    let digits = key.strip_prefix(FROM)?;
    u64::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

/// Grants a lease; its ID, and its TTL as etcd set it, in seconds.
///
/// # Errors
/// When etcd refuses, or does not answer.
pub(super) async fn grant(channel: &Channel, ttl_s: u64) -> anyhow::Result<(u64, u64)> {
    let mut request = Vec::with_capacity(32);
    message::grant(&mut request, ttl_s);
    let (id, ttl) = message::lease_response(&call(channel, GRANT, request).await?)?;
    Ok((id, u64::try_from(ttl).unwrap_or(0)))
}

/// Puts the key of a lease.
///
/// # Errors
/// When etcd refuses, such as after the lease has ended, or does not answer.
pub(super) async fn put_key(channel: &Channel, id: u64) -> anyhow::Result<()> {
    let mut request = Vec::with_capacity(64);
    message::put(&mut request, &key(id), id);
    call(channel, PUT, request).await.map(drop)
}

async fn call(channel: &Channel, path: &str, request: Vec<u8>) -> anyhow::Result<Bytes> {
    let answer = tokio::time::timeout(SILENCE_MAX, channel.unary(path, request)).await;
    answer.with_context(|| format!("no answer to {path} in {SILENCE_MAX:?}"))?
}

/// A watch on the keys of leases.
pub(super) struct Watch {
    /// The watch lives as long as its requests may go on.
    _out: SendStream<Bytes>,
    inbox: Inbox,
    unframe: Unframe,
}

impl Watch {
    /// # Errors
    /// When the connection has failed.
    pub(super) async fn open(channel: &Channel) -> anyhow::Result<Watch> {
        let (mut out, inbox) = channel.stream(WATCH).await?;
        let mut request = Vec::new();
        message::watch(&mut request, FROM, TO);
        out.send_data(request.into(), false)?;
        Ok(Watch { _out: out, inbox, unframe: Unframe::default() })
    }

    /// Waits a few ms for news; calls `ended` with the ID of every lease whose key was deleted.
    ///
    /// # Errors
    /// When etcd ends the watch.
    pub(super) async fn hear(&mut self, mut ended: impl FnMut(u64)) -> anyhow::Result<()> {
        let Ok(chunk) = tokio::time::timeout(Duration::from_millis(5), self.inbox.next()).await else {
            return Ok(());
        };
        let Some(chunk) = chunk? else { bail!("etcd ended the watch") };
        self.unframe.take(&chunk, |response| {
            message::watch_response(response, |key| {
                if let Some(id) = id_of(key) {
                    ended(id);
                }
            })
            .map(drop)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_lie_in_the_watched_range_and_name_their_lease() {
        for id in [1, 0x7587_8f3c_0000_1234, u64::MAX] {
            let key = key(id);
            assert!(key.as_slice() >= FROM && key.as_slice() < TO);
            assert_eq!(id_of(&key), Some(id));
        }
        assert_eq!(id_of(b"/other/1"), None);
    }
}
