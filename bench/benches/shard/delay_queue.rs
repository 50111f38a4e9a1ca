//! tokio-util's `DelayQueue` with a map to its keys, on tokio's paused clock: a renewal is its `reset_at`.

use std::collections::HashMap;
use std::future::poll_fn;
use std::task::Poll;
use std::time::Duration;

use foldhash::fast::RandomState;
use tokio::runtime::Runtime;
use tokio::time::Instant;
use tokio_util::time::DelayQueue;
use tokio_util::time::delay_queue::Key;

use crate::shape::Shape;

pub(crate) struct Delays {
    keys: HashMap<u64, Key, RandomState>,
    queue: DelayQueue<u64>,
    ttl_ms: u64,
    next: u64,
    began: Instant,
    now_ms: u64,
    /// Last, because the queue's timer belongs to it.
    runtime: Runtime,
}

impl Delays {
    fn deadline(&self, now_ms: u64) -> Instant {
        self.began + Duration::from_millis(now_ms + self.ttl_ms)
    }
}

impl Shape for Delays {
    const NAME: &'static str = "tokio DelayQueue";

    fn new(leases: usize, ttl_ms: u64) -> Delays {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        let runtime = builder.enable_time().start_paused(true).build().expect("a runtime");
        let _within = runtime.enter();
        let keys = HashMap::with_capacity_and_hasher(leases, RandomState::default());
        let (queue, began) = (DelayQueue::with_capacity(leases), Instant::now());
        drop(_within);
        Delays { keys, queue, ttl_ms, next: 0, began, now_ms: 0, runtime }
    }

    fn grant(&mut self, now_ms: u64) -> u64 {
        self.next += 1;
        let deadline = self.deadline(now_ms);
        let _within = self.runtime.enter();
        self.keys.insert(self.next, self.queue.insert_at(self.next, deadline));
        self.next
    }

    fn renew(&mut self, now_ms: u64, ids: &[u64], lapsed: &mut Vec<u32>) {
        let deadline = self.deadline(now_ms);
        let _within = self.runtime.enter();
        for (index, id) in ids.iter().enumerate() {
            match self.keys.get(id) {
                Some(key) => self.queue.reset_at(key, deadline),
                None => lapsed.push(index as u32),
            }
        }
    }

    fn expire(&mut self, now_ms: u64) -> usize {
        let ahead = Duration::from_millis(now_ms - self.now_ms);
        self.now_ms = now_ms;
        let (keys, queue) = (&mut self.keys, &mut self.queue);
        self.runtime.block_on(tokio::task::unconstrained(async {
            tokio::time::advance(ahead).await;
            poll_fn(|context| {
                let mut ended = 0;
                while let Poll::Ready(Some(expired)) = queue.poll_expired(context) {
                    keys.remove(expired.get_ref());
                    ended += 1;
                }
                Poll::Ready(ended)
            })
            .await
        }))
    }
}
