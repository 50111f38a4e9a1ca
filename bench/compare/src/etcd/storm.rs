//! etcd's storm: leases with a key each, whose deletes a watch hears, beside keepalives at a fixed rate.
//!
//! etcd counts TTLs in whole seconds, so leases granted over several seconds cannot end in one moment: each
//! is late by its own deadline, *send time of its grant + TTL*, and all deadlines lie within one second.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use super::channel::Channel;
use super::load::{KeepAlives, Party, Shared};
use super::watch::{Watch, grant, put_key};
use crate::dues::{Dues, UNEXPECTED};
use crate::ring_load::{Clock, Costs, Ridden, Storm};

/// Streams that renewals at a fixed rate go over.
pub(super) const STREAMS: usize = 8;
/// How often a stream sends what is due.
const PACE: Duration = Duration::from_millis(1);
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
    ) -> anyhow::Result<Dues> {
        let (clock, begun) = (self.clock, Rc::new(RefCell::new(0)));
        let dues = Rc::new(RefCell::new(Dues::new()));
        let all = Rc::clone(&dues);
        self.on_tasks(in_flight, u64::MAX, move |_, channel, _| {
            let (dues, begun) = (Rc::clone(&all), Rc::clone(&begun));
            async move {
                while begun.replace_with(|begun| *begun + 1) < count {
                    let sent_ns = clock.now_ns();
                    let ttl_s = deadline_ns.saturating_sub(sent_ns).div_ceil(1_000_000_000);
                    let (id, ttl_s) = grant(&channel, ttl_s).await?;
                    put_key(&channel, id).await?;
                    dues.borrow_mut().expect(id, sent_ns + ttl_s * 1_000_000_000);
                }
                Ok(())
            }
        })?;
        Ok(dues.replace(Dues::new()))
    }

    /// Renews at a fixed rate until every lease of `dues` has ended.
    ///
    /// # Errors
    /// When a connection fails or etcd stops answering.
    pub(crate) fn ride_out(&mut self, storm: Storm, dues: Dues) -> anyhow::Result<Ridden> {
        let clock = self.clock;
        let heard = Rc::new(RefCell::new((dues, Costs::default())));
        let all = Rc::clone(&heard);
        let loops = self.on_tasks(1 + STREAMS, u64::MAX, move |number, channel, shared| {
            let heard = Rc::clone(&all);
            async move {
                shared.borrow_mut().heard.split_ns = storm.deadline_ns;
                if number == 0 {
                    let result = listen(&channel, storm, clock, &heard).await;
                    shared.borrow_mut().over = true;
                    result
                } else {
                    renew(&channel, storm.per_second, clock, &shared).await
                }
            }
        })?;
        let (dues, costs) = heard.replace((Dues::new(), Costs::default()));
        let mut heard = loops.heard;
        heard.ended = dues.ended;
        if dues.unexpected > 0 {
            heard.error(UNEXPECTED, dues.unexpected);
        }
        let last_ns = dues.last_ns.max(storm.deadline_ns);
        Ok(Ridden { lateness: dues.lateness, last_ns, early: dues.early, heard, costs })
    }
}

/// Hears of the ends until there are no more, or the time is up.
async fn listen(
    channel: &Channel,
    storm: Storm,
    clock: Clock,
    heard: &RefCell<(Dues, Costs)>,
) -> anyhow::Result<()> {
    let (mut watch, mut begun, mut at_deadline) = (Watch::open(channel).await?, Some(()), Some(()));
    loop {
        let now_ns = clock.now_ns();
        {
            let (dues, costs) = &mut *heard.borrow_mut();
            if begun.take().is_some() {
                costs.note(0, now_ns, storm.cpu_clock);
            }
            if now_ns >= storm.deadline_ns && at_deadline.take().is_some() {
                costs.note(1, now_ns, storm.cpu_clock);
            }
            let gives_up = now_ns > storm.deadline_ns + storm.grace.as_nanos() as u64;
            if dues.left() == 0 && at_deadline.is_none() || gives_up {
                costs.note(2, now_ns, storm.cpu_clock);
                return Ok(());
            }
        }
        watch.hear(|id| heard.borrow_mut().0.ended(id, clock.now_ns())).await?;
    }
}

/// Renews at this stream's share of a rate until the loop is over.
pub(super) async fn renew(
    channel: &Channel,
    per_second: f64,
    clock: Clock,
    shared: &Rc<RefCell<Shared>>,
) -> anyhow::Result<()> {
    let mut stream = KeepAlives::open(channel).await?;
    let interval_ns = 1e9 * STREAMS as f64 / per_second;
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
