//! etcd's leases that end one by one: a key each, whose deletion a watch hears, beside keepalives or alone.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use super::channel::Channel;
use super::load::{Party, Shared};
use super::storm::{STREAMS, renew};
use super::watch::{self, Watch, put_key};
use crate::dues::Dues;
use crate::ring_load::{Clock, Trickle};
use crate::talk::Heard;

/// Tasks that grant in turn: so many grants may wait for etcd's disk before one is sent late.
const GRANTERS: usize = 64;

/// What the tasks share.
struct Flow {
    trickle: Trickle,
    clock: Clock,
    began_ns: u64,
    dues: RefCell<Dues>,
    granting: Cell<usize>,
}

impl Party {
    /// Grants leases of a short TTL at a fixed rate, renews those of the book at another, and hears of the ends.
    ///
    /// # Errors
    /// When a connection fails or etcd stops answering.
    pub(crate) fn trickle(&mut self, trickle: Trickle) -> anyhow::Result<(Dues, Heard)> {
        let (clock, began_ns) = (self.clock, self.clock.now_ns());
        let (dues, granting) = (RefCell::new(Dues::new()), Cell::new(GRANTERS));
        let flow = Rc::new(Flow { trickle, clock, began_ns, dues, granting });
        let renewers = if trickle.renewals_per_second > 0.0 { STREAMS } else { 0 };
        let all = Rc::clone(&flow);
        let found = self.on_tasks(1 + GRANTERS + renewers, u64::MAX, move |number, channel, shared| {
            let flow = Rc::clone(&all);
            async move {
                match number {
                    0 => {
                        let result = flow.listen(&channel).await;
                        shared.borrow_mut().over = true;
                        result
                    }
                    1..=GRANTERS => {
                        let result = flow.grant(&channel, number - 1, &shared).await;
                        flow.granting.set(flow.granting.get() - 1);
                        result
                    }
                    _ => renew(&channel, flow.trickle.renewals_per_second, flow.clock, &shared).await,
                }
            }
        })?;
        Ok((flow.dues.replace(Dues::new()), found.heard))
    }
}

impl Flow {
    /// Grants each of its leases, every [`GRANTERS`]th from `first` on, when it is due.
    async fn grant(&self, channel: &Channel, first: usize, shared: &RefCell<Shared>) -> anyhow::Result<()> {
        for number in (first..).step_by(GRANTERS) {
            let after = Duration::from_secs_f64(number as f64 / self.trickle.grants_per_second);
            if after >= self.trickle.span {
                break;
            }
            let meant_ns = self.began_ns + after.as_nanos() as u64;
            let wait_ns = meant_ns.saturating_sub(self.clock.now_ns());
            tokio::time::sleep(Duration::from_nanos(wait_ns)).await;
            let sent_ns = self.clock.now_ns();
            let (id, ttl_s) = watch::grant(channel, self.trickle.ttl_ms / 1_000).await?;
            self.dues.borrow_mut().expect(id, sent_ns + ttl_s * 1_000_000_000);
            if let Err(error) = put_key(channel, id).await {
                self.dues.borrow_mut().forget(id);
                shared.borrow_mut().heard.error(&format!("{error:#}"), 1);
            }
        }
        Ok(())
    }

    /// Hears of the ends until there are no more, or the time is up.
    async fn listen(&self, channel: &Channel) -> anyhow::Result<()> {
        let mut watch = Watch::open(channel).await?;
        let give_up_ns = self.trickle.give_up_ns(self.began_ns);
        loop {
            let now_ns = self.clock.now_ns();
            if now_ns >= give_up_ns {
                self.dues.borrow_mut().give_up(now_ns);
                return Ok(());
            }
            if self.granting.get() == 0 && self.dues.borrow().left() == 0 {
                return Ok(());
            }
            watch.hear(|id| self.dues.borrow_mut().ended(id, self.clock.now_ns())).await?;
        }
    }
}
