//! Leases that end one by one, granted at a fixed rate and left alone, beside renewals or alone.

use std::time::Duration;

use anyhow::bail;

use super::{Pace, Party, RENEW, SILENCE_MAX};
use crate::dues::Dues;
use crate::talk::{Heard, Talk};

/// How leases are granted to end.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Trickle {
    pub(crate) grants_per_second: f64,
    pub(crate) ttl_ms: u64,
    /// Grants are sent for so long.
    pub(crate) span: Duration,
    /// From the first grant to the last end; 0 for none.
    pub(crate) renewals_per_second: f64,
    /// How long after the last deadline to give up.
    pub(crate) grace: Duration,
}

impl Trickle {
    /// When to give up, on the run's clock.
    pub(crate) fn give_up_ns(&self, began_ns: u64) -> u64 {
        let most = self.span + Duration::from_millis(self.ttl_ms) + self.grace;
        began_ns + most.as_nanos() as u64
    }
}

impl<T: Talk> Party<T> {
    /// Grants leases of a short TTL at a fixed rate, renews those of the book at another, and hears of the ends on
    /// the last connection.
    ///
    /// # Errors
    /// When a connection fails, the server stops answering, or tells no ends.
    pub(crate) fn trickle(&mut self, trickle: Trickle) -> anyhow::Result<(Dues, Heard)> {
        let mut ring = self.ring(false)?;
        let Party { wires, book, clock } = self;
        let last = wires.len() - 1;
        if !wires[last].talk.subscribe()? {
            bail!("it tells nobody of ends");
        }
        ring.send(last, wires[last].talk.outgoing());
        let began_ns = clock.now_ns();
        let until_ns = began_ns + trickle.span.as_nanos() as u64;
        let give_up_ns = trickle.give_up_ns(began_ns);
        let mut grants = Pace::new(began_ns, trickle.grants_per_second);
        let mut renewals = Pace::new(began_ns, trickle.renewals_per_second);
        let (mut dues, mut heard) = (Dues::new(), Heard::new(u64::MAX));
        heard.keeps_ends = true;
        let (mut asked, mut answered, mut next_wire) = (0u64, 0u64, 0);
        loop {
            let now_ns = clock.now_ns();
            let (talk, before) = (&mut wires[next_wire].talk, asked);
            // Those that a late turn finds undone at the end of the span are sent, too.
            for _ in grants.take(now_ns.min(until_ns)) {
                let name = book.new_name();
                dues.expect(name, now_ns + trickle.ttl_ms * 1_000_000);
                talk.ask_named(name, trickle.ttl_ms, now_ns)?;
                asked += 1;
            }
            if now_ns >= give_up_ns {
                dues.give_up(now_ns);
            }
            let over = now_ns >= until_ns && dues.left() == 0;
            if over && asked == answered {
                break;
            }
            if now_ns > give_up_ns + SILENCE_MAX.as_nanos() as u64 {
                bail!("the server owes {} answers", asked - answered);
            }
            if !over {
                for meant_ns in renewals.take(now_ns) {
                    asked += u64::from(talk.ask(RENEW, 1, book, meant_ns)?);
                }
            }
            if asked > before {
                ring.send(next_wire, talk.outgoing());
                next_wire = (next_wire + 1) % last;
            }
            ring.wait(Duration::from_micros(50))?;
            while let Some(arrival) = ring.next()? {
                let now_ns = clock.now_ns();
                let result = wires[arrival.wire].talk.hear(ring.bytes(&arrival), book, &mut heard, now_ns);
                ring.give_back(arrival);
                result?;
                answered += u64::from(std::mem::take(&mut heard.units));
                heard.ends.drain(..).for_each(|name| dues.ended(name, now_ns));
            }
        }
        ring.close(|_, _| ())?;
        Ok((dues, heard))
    }
}
