//! etcd's storm: leases with a key each, whose deletes a watch hears, beside keepalives at a fixed rate.
//!
//! etcd counts TTLs in whole seconds, so leases granted over several seconds cannot end in one moment: each
//! is late by its own deadline, *send time of its grant + TTL*, and all deadlines lie within one second.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, bail};
use tenure_bench::instruments::Latency;

use super::channel::{Channel, GRANT, PUT, WATCH};
use super::load::{KeepAlives, Party, Shared};
use super::message::{self, Unframe};
use crate::ring_load::{Clock, Costs, Ridden, Storm};
use crate::talk::{Heard, hex};

/// Streams that the foreground renews over.
const STREAMS: usize = 8;
/// How often a stream sends what is due.
const PACE: Duration = Duration::from_millis(1);
/// Keys of the storm: nothing else is watched.
const FROM: &[u8] = b"/lease/";
const TO: &[u8] = b"/lease0";

/// When each lease of the storm may end, by its ID.
type Due = Rc<RefCell<HashMap<u64, u64>>>;

fn key(id: u64) -> Vec<u8> {
    [FROM, &hex(id)].concat()
}

fn id_of(key: &[u8]) -> Option<u64> {
    let digits = key.strip_prefix(FROM)?;
    u64::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

impl Party {
    /// Grants `count` leases with a key each that all end within a second from `deadline_ns` on.
    ///
    /// # Errors
    /// When etcd refuses.
    pub(crate) fn fill_storm(
        &mut self,
        count: u64,
        in_flight: usize,
        deadline_ns: u64,
    ) -> anyhow::Result<HashMap<u64, u64>> {
        let (clock, due, begun) = (self.clock, Due::default(), Rc::new(RefCell::new(0)));
        let all = Rc::clone(&due);
        self.on_tasks(in_flight, u64::MAX, move |_, channel, _| {
            let (due, begun) = (Rc::clone(&all), Rc::clone(&begun));
            async move {
                while begun.replace_with(|begun| *begun + 1) < count {
                    let sent_ns = clock.now_ns();
                    let ttl_s = deadline_ns.saturating_sub(sent_ns).div_ceil(1_000_000_000);
                    let mut request = Vec::with_capacity(32);
                    message::grant(&mut request, ttl_s);
                    let (id, ttl) = message::lease_response(&channel.unary(GRANT, request).await?)?;
                    let mut request = Vec::with_capacity(64);
                    message::put(&mut request, &key(id), id);
                    channel.unary(PUT, request).await?;
                    let ttl_ns = u64::try_from(ttl).unwrap_or(0) * 1_000_000_000;
                    due.borrow_mut().insert(id, sent_ns + ttl_ns);
                }
                Ok(())
            }
        })?;
        Ok(due.take())
    }

    /// Renews at a fixed rate until every lease of `due` has ended.
    ///
    /// # Errors
    /// When a connection fails or etcd stops answering.
    pub(crate) fn ride_out(&mut self, storm: Storm, due: HashMap<u64, u64>) -> anyhow::Result<Ridden> {
        let clock = self.clock;
        let ridden = Ridden {
            lateness: Latency::new(),
            last_ns: storm.deadline_ns,
            early: 0,
            heard: Heard::new(storm.deadline_ns),
            costs: Costs::default(),
        };
        let (ridden, due) = (Rc::new(RefCell::new(ridden)), Rc::new(RefCell::new(due)));
        let (found, all) = (Rc::clone(&ridden), Rc::clone(&due));
        let loops = self.on_tasks(1 + STREAMS, u64::MAX, move |number, channel, shared| {
            let (ridden, due) = (Rc::clone(&found), Rc::clone(&all));
            async move {
                shared.borrow_mut().heard.split_ns = storm.deadline_ns;
                if number == 0 {
                    let result = listen(&channel, storm, clock, &ridden, &due).await;
                    shared.borrow_mut().over = true;
                    result
                } else {
                    renew(&channel, storm, clock, &shared).await
                }
            }
        })?;
        let mut ridden = Rc::try_unwrap(ridden).ok().context("a load task lives on")?.into_inner();
        let ended = ridden.heard.ended;
        ridden.heard = loops.heard;
        ridden.heard.ended = ended;
        Ok(ridden)
    }
}

/// Hears of the ends until there are no more, or the time is up.
async fn listen(
    channel: &Channel,
    storm: Storm,
    clock: Clock,
    ridden: &RefCell<Ridden>,
    due: &RefCell<HashMap<u64, u64>>,
) -> anyhow::Result<()> {
    let (mut out, mut inbox) = channel.stream(WATCH).await?;
    let mut request = Vec::new();
    message::watch(&mut request, FROM, TO);
    out.send_data(request.into(), false)?;
    let (mut unframe, mut begun, mut at_deadline) = (Unframe::default(), Some(()), Some(()));
    loop {
        let now_ns = clock.now_ns();
        {
            let costs = &mut ridden.borrow_mut().costs;
            if begun.take().is_some() {
                costs.note(0, now_ns, storm.cpu_clock);
            }
            if now_ns >= storm.deadline_ns && at_deadline.take().is_some() {
                costs.note(1, now_ns, storm.cpu_clock);
            }
            let gives_up = now_ns > storm.deadline_ns + storm.grace.as_nanos() as u64;
            if due.borrow().is_empty() && at_deadline.is_none() || gives_up {
                costs.note(2, now_ns, storm.cpu_clock);
                return Ok(());
            }
        }
        let Ok(chunk) = tokio::time::timeout(Duration::from_millis(5), inbox.next()).await else { continue };
        let Some(chunk) = chunk? else { bail!("etcd ended the watch") };
        let now_ns = clock.now_ns();
        unframe.take(&chunk, |response| {
            let mut ridden = ridden.borrow_mut();
            message::watch_response(response, |key| {
                let Some(due_ns) = id_of(key).and_then(|id| due.borrow_mut().remove(&id)) else { return };
                ridden.heard.ended += 1;
                ridden.early += u64::from(now_ns < due_ns);
                ridden.lateness.record(now_ns.saturating_sub(due_ns));
                ridden.last_ns = now_ns;
            })
            .map(drop)
        })?;
    }
}

/// Renews at this stream's share of the rate until the storm is over.
async fn renew(
    channel: &Channel,
    storm: Storm,
    clock: Clock,
    shared: &Rc<RefCell<Shared>>,
) -> anyhow::Result<()> {
    let mut stream = KeepAlives::open(channel).await?;
    let interval_ns = 1e9 * STREAMS as f64 / storm.per_second;
    let (began_ns, mut issued) = (clock.now_ns(), 0u64);
    let mut pace = tokio::time::interval(PACE);
    while !shared.borrow().over {
        let meant = ((clock.now_ns() - began_ns) as f64 / interval_ns) as u64;
        while issued < meant {
            let meant_ns = began_ns + (issued as f64 * interval_ns) as u64;
            stream.send(1, meant_ns, &mut shared.borrow_mut())?;
            issued += 1;
        }
        tokio::select! {
            answered = stream.answers(shared, clock), if stream.in_flight() > 0 => { answered?; }
            _ = pace.tick() => {}
        }
    }
    while stream.in_flight() > 0 {
        stream.answers(shared, clock).await?;
    }
    stream.close()
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
