//! Answers of the engine as reply frames.
//!
//! L2 one-reply: each ticket comes back exactly once, is counted out here and becomes one frame. For
//! a connection that has gone it is counted out and nothing more.

use tenure::Granted as CoreGranted;
use tenure::request::{Reply, StationStats, TurnStats};
use tenure_protocol::encode::reply;
use tenure_protocol::{
    Failed, Granted, InfoNumber, InfoText, LeaseId, Listed, Refusal, RequestId, TURN_CAUSES, TimeToLive,
    Token, tag, text_tag,
};

use super::apply::SERVER_NAME;
use super::{Session, Stage};
use crate::serve::desk::{Desk, wire_refusal};
use crate::serve::scatter::{Join, Scattered, in_order, unavailable};
use crate::serve::tag::{Kind, Tag};

impl Session {
    /// Takes the answer to a request that one shard answered.
    pub(crate) fn answered(&mut self, answer_to: Tag, reply: Reply, desk: &mut Desk) {
        self.count_out(answer_to.reply_bytes_max());
        if self.stage == Stage::Dead {
            return;
        }
        let id = RequestId(answer_to.id);
        let out = &mut self.out;
        match reply {
            Reply::Renewed(renewed) if tenure_planted::is(tenure_planted::Bug::OrderOfThreads) => {
                reply::renewed(out, id, renewed.ttl_ms + tenure_planted::count());
            }
            Reply::Renewed(renewed) => reply::renewed(out, id, renewed.ttl_ms),
            Reply::Granted(granted) => reply::granted(out, id, &wire_granted(&granted)),
            Reply::Grants(results) => {
                let results = results.into_iter();
                reply::grant_batch(
                    out,
                    id,
                    results.map(|result| result.map(|g| wire_granted(&g)).map_err(wire_refusal)),
                );
            }
            Reply::Missing(missing) => {
                desk.refusals += missing.len() as u64;
                let failed = missing.into_iter().map(|index| (index, Refusal::NotFound));
                self.put_outcome(id, answer_to.kind == Kind::RenewBatch, answer_to.amount, failed);
            }
            Reply::Revoked(revoked) => reply::revoked(out, id, Token(revoked.token.0), revoked.item_count),
            Reply::TimeToLive(facts) => reply::time_to_live(out, id, &wire_facts(&facts)),
            Reply::Listed { leases, next } => reply::list(out, id, next, leases.iter().map(wire_listed)),
            Reply::Attached(attached) => {
                let from = attached.moved_from.map(|id| LeaseId(id.0));
                reply::attached(out, id, Token(attached.token.0), from);
            }
            Reply::Done => reply::detached(out, id),
            Reply::Refused(refusal) => {
                let detail = match refusal {
                    tenure::Refusal::TtlTooLarge => {
                        u64::try_from(desk.shared.config.engine.ttl_max.as_millis()).unwrap_or(u64::MAX)
                    }
                    tenure::Refusal::ItemTooLarge => u64::from(desk.shared.config.limits.item_bytes_max),
                    _ => 0,
                };
                self.refuse(id, wire_refusal(refusal), detail, "", desk);
            }
            Reply::Unavailable(reason) => self.refuse(id, unavailable(reason), 0, "", desk),
            other @ (Reply::Items { .. } | Reply::LeaseOf(_) | Reply::Stats(_) | Reply::Dump(_)) => {
                panic!("L2 one-reply: not an answer to a request of one shard: {other:?}")
            }
        }
    }

    /// Takes the joined answer to a scattered request.
    pub(crate) fn joined(&mut self, whole: Scattered, desk: &mut Desk) {
        self.count_out(whole.promised_bytes);
        if self.stage == Stage::Dead {
            return;
        }
        let id = whole.request_id;
        if let Some(refusal) = whole.refused {
            return self.refuse(id, refusal, 0, "", desk);
        }
        let out = &mut self.out;
        match whole.join {
            Join::Batch { renew, count, mut failed, .. } => {
                in_order(&mut failed);
                desk.refusals += failed.len() as u64;
                self.put_outcome(id, renew, count, failed.into_iter());
            }
            Join::Grants { results, .. } => {
                let results = results.into_iter().map(|result| result.map(|granted| wire_granted(&granted)));
                reply::grant_batch(out, id, results);
            }
            Join::LeaseOf(found) => {
                reply::lease_of(out, id, found.map(|(id, token)| (LeaseId(id.0), Token(token.0))));
            }
            Join::Items { facts, items, more } => {
                let facts = facts.expect("L2 one-reply: both parts were answered and neither was refused");
                reply::time_to_live_with_items(out, id, &wire_facts(&facts), items.iter(), more);
            }
            Join::Role(true) => reply::promoted(out, id),
            Join::Role(false) => reply::demoted(out, id),
            Join::Stats(stats) => put_info(out, id, &stats, desk),
        }
    }

    /// Encodes what became of a batch; `failed` by rising index.
    pub(super) fn put_outcome(
        &mut self,
        id: RequestId,
        renew: bool,
        count: u32,
        failed: impl Iterator<Item = (u32, Refusal)>,
    ) {
        let failed = failed.map(|(index, refusal)| Failed { index, refusal });
        if renew {
            reply::renew_batch(&mut self.out, id, count, failed);
        } else {
            reply::revoke_batch(&mut self.out, id, count, failed);
        }
    }

    fn count_out(&mut self, promised_bytes: usize) {
        assert!(self.unanswered > 0, "L2 one-reply: more answers than requests");
        self.unanswered -= 1;
        self.promised_bytes -= promised_bytes;
    }
}

fn wire_granted(granted: &CoreGranted) -> Granted {
    Granted {
        id: LeaseId(granted.id.0),
        token: Token(granted.token.0),
        ttl_ms: granted.ttl_ms,
        remaining_ms: granted.remaining_ms,
        raised: granted.raised,
        repeated: granted.repeated,
    }
}

fn wire_facts(facts: &tenure::TimeToLive) -> TimeToLive<'static> {
    TimeToLive {
        token: Token(facts.token.0),
        ttl_ms: facts.ttl_ms,
        remaining_ms: facts.remaining_ms,
        item_count: facts.item_count,
        items: None,
    }
}

fn wire_listed(listed: &tenure::Listed) -> Listed {
    Listed {
        id: LeaseId(listed.id.0),
        token: Token(listed.token.0),
        ttl_ms: listed.ttl_ms,
        remaining_ms: listed.remaining_ms,
        item_count: u32::try_from(listed.item_count).unwrap_or(u32::MAX),
    }
}

fn put_info(out: &mut Vec<u8>, id: RequestId, stats: &[(u16, StationStats)], desk: &Desk) {
    let shared = &desk.shared;
    let sum = |of: fn(&StationStats) -> u64| stats.iter().map(|(_, stats)| of(stats)).sum::<u64>();
    let opened = shared.opened.get();
    let took_ms = opened.map_or(0, |opened| u64::try_from(opened.took.as_millis()).unwrap_or(u64::MAX));
    let standby = stats.iter().any(|(_, stats)| !stats.primary);
    let durability = match (&shared.config.engine.data_dir, shared.config.engine.durability) {
        (None, _) | (Some(_), tenure::Durability::None) => 0,
        (Some(_), tenure::Durability::Interval(_)) => 1,
        (Some(_), tenure::Durability::Always) => 2,
    };
    let durability_text = crate::serve::durability_text(&shared.config.engine);
    let logged = shared.config.engine.renewals == tenure::Renewals::Logged;
    let lateness_max = stats.iter().map(|(_, stats)| stats.shard.lateness_ms_max).max().unwrap_or(0);
    let single = [
        (tag::LEASES, sum(|stats| stats.shard.lease_count)),
        (tag::ITEMS, sum(|stats| stats.shard.item_count)),
        (tag::UPTIME_MS, desk.now_ms),
        (tag::ROLE, u64::from(standby)),
        (tag::DURABILITY, durability),
        (tag::SHARDS, u64::from(desk.shard_count)),
        (tag::CONNECTIONS, u64::from(shared.connection_count())),
        (tag::GRANTED, sum(|stats| stats.shard.granted_total)),
        (tag::RENEWED, sum(|stats| stats.shard.renewed_total)),
        (tag::REVOKED, sum(|stats| stats.shard.revoked_total)),
        (tag::EXPIRED, sum(|stats| stats.shard.expired_total)),
        (tag::LATENESS_MS_MAX, lateness_max),
        (tag::RENEWALS_LOGGED, u64::from(logged)),
        (tag::LOG_BYTES, sum(|stats| stats.commit_bytes)),
        (tag::MEMORY_BYTES, sum(|stats| stats.shard.table_bytes)),
        (tag::CPU_US, process_cpu_us()),
        (tag::RECOVERED, opened.map_or(0, |opened| opened.lease_count)),
        (tag::RECOVERY_MS, took_ms),
        (tag::REQUESTS, shared.request_count()),
        (tag::REFUSALS, shared.refusal_count()),
    ];
    let numbers = single.into_iter().map(|(tag, value)| InfoNumber { tag, index: 0, value });
    let by_shard = stats.iter().flat_map(|(shard, stats)| {
        let index = *shard;
        // What memory holds: the files may reach further back, but asking them would block.
        let oldest = opened.and_then(|opened| opened.handle.event_hub(index)).map_or(0, |hub| hub.oldest().0);
        [
            InfoNumber { tag: tag::DURABLE_POSITION, index, value: stats.durable },
            InfoNumber { tag: tag::OLDEST_POSITION, index, value: oldest },
            InfoNumber { tag: tag::SHARD_LEASES, index, value: stats.shard.lease_count },
            InfoNumber { tag: tag::SHARD_TIME_MS, index, value: stats.time_ms },
        ]
        .into_iter()
        .chain(turn_numbers(index, &stats.turns))
    });
    let lateness = (0..tenure_core::LATENESS_BUCKETS).filter_map(|bucket| {
        let value = stats.iter().map(|(_, stats)| stats.shard.lateness_ms_log2[bucket]).sum::<u64>();
        let index = u16::try_from(bucket).ok()?;
        (value > 0).then_some(InfoNumber { tag: tag::LATENESS_BUCKET, index, value })
    });
    let driver = opened.map_or("", |opened| crate::serve::driver_text(opened.driver));
    let texts = [
        InfoText { tag: text_tag::SERVER, text: SERVER_NAME },
        InfoText { tag: text_tag::DRIVER, text: driver },
        InfoText { tag: text_tag::DURABILITY, text: &durability_text },
    ];
    reply::info(out, id, numbers.chain(by_shard).chain(lateness), texts.into_iter());
}

/// How long a core's turns took at most, and why.
fn turn_numbers(index: u16, turns: &TurnStats) -> impl Iterator<Item = InfoNumber> + Clone {
    let longest = [
        turns.turn,
        turns.requests,
        turns.growth,
        turns.expiry,
        turns.compaction,
        turns.items,
        turns.snapshot,
        turns.log,
        turns.replies,
        turns.kernel,
    ];
    TURN_CAUSES.into_iter().zip(longest).flat_map(move |(cause, longest)| {
        [(cause.wall, longest.wall_us), (cause.cpu, longest.cpu_us)].map(|(tag, value)| InfoNumber {
            tag,
            index,
            value,
        })
    })
}

/// CPU time of this process, user and system, µs.
fn process_cpu_us() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    u64::try_from(time.tv_sec * 1_000_000 + time.tv_nsec / 1_000).unwrap_or(0)
}
