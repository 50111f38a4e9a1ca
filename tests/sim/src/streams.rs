//! The event streams as they are: read from the cores' own hubs as soon as something is published, and from
//! the log files after a start.
//!
//! This is what subscribers are compared with (S9), and how the oracle learns of ends.

use std::collections::BTreeMap;

use tenure::events::{EventBlock, HubRead};
use tenure::{Cause, Event, Position};

use crate::checkers::{Verdict, s1_one_shard, s6_time};
use crate::host::Host;
use crate::oracle::{End, Key, Oracle};

/// All streams since the log was made.
#[derive(Debug, Default)]
pub struct Streams {
    shards: BTreeMap<u16, Stream>,
    /// Engine time of the newest end of any shard, ms.
    pub told_ms: u64,
}

#[derive(Debug, Default)]
struct Stream {
    /// What is older was not read.
    begins: u64,
    /// Everything before has been read.
    next: u64,
    ends: BTreeMap<u64, (Key, bool)>,
    /// Position and time of the newest end.
    newest: (u64, u64),
}

/// An end with the engine time at which it happened.
pub struct Happened {
    /// Which lease.
    pub key: Key,
    /// It expired.
    pub expired: bool,
    /// Engine time, ms.
    pub engine_ms: u64,
}

impl Streams {
    /// Reads what was published since, telling the oracle. `served` turns engine time into served time.
    ///
    /// # Errors
    /// What it contradicts.
    pub fn read(
        &mut self,
        host: &Host,
        oracle: &mut Oracle,
        served: &impl Fn(u64) -> u64,
        happened: &mut Vec<Happened>,
    ) -> Verdict {
        for shard in 0..host.shard_count() {
            let Some(hub) = host.cores.handle().event_hub(shard) else { continue };
            let stream = self.shards.entry(shard).or_default();
            let durable = hub.durable().0;
            if durable <= stream.next {
                continue;
            }
            loop {
                match hub.read(Position(stream.next), usize::MAX) {
                    HubRead::Blocks { blocks, .. } => {
                        let count = host.shard_count();
                        for block in &blocks {
                            stream.take(block, (shard, count), oracle, served, happened)?;
                        }
                        stream.next = durable;
                        break;
                    }
                    HubRead::Behind { .. } => {
                        let read = hub.history(Position(stream.next), usize::MAX);
                        let history = match read {
                            Ok(history) => history,
                            Err(error) => {
                                return Err(format!("S9 once: events cannot be read again: {error}"));
                            }
                        };
                        let count = host.shard_count();
                        for block in &history.blocks {
                            stream.take(block, (shard, count), oracle, served, happened)?;
                        }
                        stream.next = history.next.0;
                    }
                    // Weaker durabilities publish before they write: the rest comes once it is on file.
                    HubRead::Unwritten | HubRead::Closed => break,
                }
            }
            self.told_ms = self.told_ms.max(stream.newest.1);
        }
        Ok(())
    }

    /// The positions begin anew: the directory was re-sharded, or is accepted as it is.
    pub fn restart(&mut self, host: &Host) {
        self.shards.clear();
        for shard in 0..host.shard_count() {
            let durable = host.cores.handle().event_hub(shard).map_or(0, |hub| hub.durable().0);
            self.shards.insert(shard, Stream { begins: durable, next: durable, ..Stream::default() });
        }
        self.told_ms = 0;
    }

    /// Whether what happened at a position is known here.
    #[must_use]
    pub fn knows(&self, shard: u16, position: u64) -> bool {
        self.shards.get(&shard).is_some_and(|stream| position >= stream.begins)
    }

    /// What ended at a position.
    #[must_use]
    pub fn end_at(&self, shard: u16, position: u64) -> Option<(Key, bool)> {
        self.shards.get(&shard)?.ends.get(&position).copied()
    }

    /// The first end from `from` on and before `to`.
    #[must_use]
    pub fn first_in(&self, shard: u16, from: u64, to: u64) -> Option<u64> {
        if from >= to {
            return None;
        }
        self.shards.get(&shard)?.ends.range(from..to).next().map(|(position, _)| *position)
    }

    /// The newest end of a shard.
    #[must_use]
    pub fn newest(&self, shard: u16) -> Option<u64> {
        self.shards.get(&shard)?.ends.keys().next_back().copied()
    }
}

impl Stream {
    fn take(
        &mut self,
        block: &EventBlock,
        (shard, shard_count): (u16, u16),
        oracle: &mut Oracle,
        served: &impl Fn(u64) -> u64,
        happened: &mut Vec<Happened>,
    ) -> Verdict {
        for event in block.events(Position(self.next)) {
            match event {
                Event::Ended { position, time, id, token, cause, .. } => {
                    let key = (id.0, token.0);
                    s1_one_shard::event_of_own_shard(key, shard, shard_count)?;
                    s6_time::stream_goes_forward(self.newest, (position.0, time.0))?;
                    self.newest = (position.0, time.0);
                    let expired = cause == Cause::Expired;
                    self.ends.insert(position.0, (key, expired));
                    oracle.ended(key, End { position: position.0, at_ms: served(time.0), expired })?;
                    happened.push(Happened { key, expired, engine_ms: time.0 });
                }
                Event::Items { id, token, items, last, .. } => {
                    let items: Vec<String> =
                        items.iter().map(|item| String::from_utf8_lossy(item).into_owned()).collect();
                    oracle.items.left((id.0, token.0), &items, last)?;
                }
            }
        }
        Ok(())
    }
}
