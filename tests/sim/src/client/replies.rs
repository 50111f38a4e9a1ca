//! What a client is told, and what it means for the oracle.

use tenure::Role;
use tenure_client::machine::trusted_ms;
use tenure_protocol::{Event, Failed, Refusal, Response};

use super::{Asked, Client, Pending, Scene};
use crate::checkers::{Verdict, s1_one_shard, s3_durable, s9_once};
use crate::oracle::{Key, Told};

impl Client {
    pub(super) fn answered(&mut self, token: u64, response: &Response<'_>, scene: &mut Scene<'_>) -> Verdict {
        scene.trace.note(scene.host_ms, "told", &[self.index as u64, token, code(response)]);
        match response {
            // It has the CPU time of the real process in it.
            Response::Info(_) => scene.trace.remark(format_args!("Info")),
            response => scene.trace.remark(format_args!("{response:?}")),
        }
        let Some(pending) = self.pending.remove(&token) else {
            // A subscription that was confirmed before has ended.
            return self.watch_refused(token, response, scene);
        };
        let Pending { asked, sent_ms, sent_local_ms, promised_ms, known, .. } = pending;
        let refusal = match response {
            Response::Refused(refused) => Some(refused.refusal),
            _ => None,
        };
        match (asked, response) {
            (Asked::Grant { number, grant, hold }, Response::Granted(granted)) => {
                let told = told_of(granted);
                if grant.sequence != 0 && !self.granted.contains(&grant) {
                    self.granted.push(grant);
                }
                // What another lease of that ID was promised, which has ended since, is not this one's.
                let promised_ms = if known == Some(told.key) { promised_ms } else { 0 };
                scene.oracle.granted(number, grant, &told, (sent_ms, promised_ms), scene.now_ms)?;
                if hold {
                    let trusted = trusted_ms(told.ttl_ms).saturating_sub(told.ttl_ms - told.remaining_ms);
                    self.hold(told.key, told.ttl_ms, sent_local_ms + trusted, scene);
                }
                Ok(())
            }
            (Asked::Grant { number, grant, hold }, Response::Refused(_)) => {
                scene.oracle.possible.remove(&number);
                if matches!(refusal, Some(Refusal::ShuttingDown | Refusal::Busy)) && grant.sequence != 0 {
                    self.repeats.push((grant, hold));
                }
                Ok(())
            }
            (Asked::GrantBatch { grants }, Response::GrantBatch(results)) => {
                for ((number, grant), result) in grants.into_iter().zip(results.iter()) {
                    match result {
                        Ok(granted) => {
                            let told = told_of(&granted);
                            scene.oracle.granted(number, grant, &told, (sent_ms, 0), scene.now_ms)?;
                        }
                        Err(_) => {
                            scene.oracle.possible.remove(&number);
                        }
                    }
                }
                Ok(())
            }
            (Asked::GrantBatch { grants }, _) => {
                for (number, _) in grants {
                    scene.oracle.possible.remove(&number);
                }
                Ok(())
            }
            (Asked::Renew { id }, Response::Renewed { ttl_ms }) => {
                scene.oracle.renewed(id, Some(*ttl_ms), sent_ms, scene.now_ms)
            }
            (Asked::RenewBatch { ids, known }, Response::RenewBatch(outcome)) => {
                let failed: Vec<Failed> = outcome.failed().collect();
                batch_renewed(&ids, &known, &failed, sent_ms, scene)
            }
            (Asked::Keep { batch, known }, Response::RenewBatch(outcome)) => {
                let failed: Vec<Failed> = outcome.failed().collect();
                let ids: Vec<u64> = batch.ids.iter().map(|id| id.0).collect();
                let local_ms = self.local_ms(scene.host_ms);
                self.kept(&batch, &failed, sent_local_ms, local_ms)?;
                batch_renewed(&ids, &known, &failed, sent_ms, scene)
            }
            (Asked::Keep { batch, .. }, _) => {
                let local_ms = self.local_ms(scene.host_ms);
                self.keep.unanswered(local_ms, &batch);
                Ok(())
            }
            (Asked::Revoke { id }, Response::Revoked { token, .. }) => {
                revoke_answered(id, scene);
                revoked((id, token.0), scene)
            }
            (Asked::Revoke { id }, Response::Refused(_)) => {
                revoke_answered(id, scene);
                dead(id, known, refusal, scene)
            }
            (Asked::RevokeBatch { ids, known }, Response::RevokeBatch(outcome)) => {
                let failed: Vec<Failed> = outcome.failed().collect();
                for (index, (id, known)) in ids.iter().zip(known).enumerate() {
                    revoke_answered(*id, scene);
                    let failure = failed.iter().find(|failed| failed.index as usize == index);
                    if ids[..index].contains(id) {
                        continue;
                    }
                    dead(*id, known, failure.map(|failed| failed.refusal), scene)?;
                    if let (None, Some(key)) = (failure, known) {
                        let ended = scene.oracle.leases.get(&key).is_none_or(|lease| lease.end.is_some());
                        let ended = ended || !scene.plan.is_durable();
                        s3_durable::told_ended(key, ended)?;
                    }
                }
                Ok(())
            }
            (Asked::RevokeBatch { ids, .. }, _) => {
                ids.iter().for_each(|id| revoke_answered(*id, scene));
                Ok(())
            }
            (Asked::Look { id }, Response::TimeToLive(facts)) => {
                let key = (id, facts.token.0);
                living(key, sent_ms, scene)?;
                if scene.oracle.live_of(id).any(|(live, _)| *live == key) && known == Some(key) {
                    let told = (facts.ttl_ms, facts.remaining_ms);
                    let standby_zero = facts.remaining_ms == 0;
                    if !standby_zero {
                        crate::checkers::s2_never_early::remaining(
                            key,
                            told.0,
                            told.1,
                            promised_ms,
                            scene.now_ms,
                        )?;
                    }
                }
                Ok(())
            }
            (Asked::List, Response::List(page)) => {
                for listed in page.iter() {
                    living((listed.id.0, listed.token.0), sent_ms, scene)?;
                }
                Ok(())
            }
            (Asked::Attach { item, shard, key }, Response::Attached { token, .. }) => {
                living((key.0, token.0), sent_ms, scene)?;
                scene.oracle.items.told(&item, shard, Some((key.0, token.0)));
                if scene.oracle.leases.get(&key).is_some_and(|lease| lease.end.is_some()) {
                    // It ended since, and took the item along.
                    scene.oracle.items.told(&item, shard, None);
                }
                Ok(())
            }
            (Asked::Detach { item, shard, .. }, Response::Detached) => {
                scene.oracle.items.told(&item, shard, None);
                Ok(())
            }
            (Asked::Attach { item, key, .. }, Response::Refused(_)) => {
                scene.oracle.items.refused(&item);
                dead(key.0, known, refusal, scene)
            }
            (Asked::Detach { item, key, .. }, Response::Refused(_)) => {
                scene.oracle.items.refused(&item);
                dead(key.0, known, refusal, scene)
            }
            (Asked::LeaseOf, Response::LeaseOf(Some((id, token)))) => living((id.0, token.0), sent_ms, scene),
            (Asked::Promote { extend_ms, before, number }, response) => {
                let is_promoted = matches!(response, Response::Promoted);
                scene.oracle.role_answered(is_promoted.then_some(Role::Primary));
                // Another change of role may have come first, and then this one found a primary.
                if is_promoted && scene.oracle.roles_asked == number {
                    scene.oracle.extended(extend_ms, &before, sent_ms);
                }
                Ok(())
            }
            (Asked::Demote, response) => {
                let is_demoted = matches!(response, Response::Demoted);
                scene.oracle.role_answered(is_demoted.then_some(Role::Standby));
                Ok(())
            }
            (Asked::Subscribe { shard }, Response::Subscribed { start, .. }) => {
                let watch = self.watches.entry(shard).or_default();
                // Position 0 means the oldest that is kept.
                if watch.confirmed && watch.next != 0 && start.0 != watch.next {
                    return Err(format!("S9 once: resumed at {}, asked for {}", start.0, watch.next));
                }
                (watch.next, watch.confirmed) = (start.0, true);
                Ok(())
            }
            (Asked::Subscribe { .. }, _) => self.watch_refused(token, response, scene),
            (Asked::Renew { id } | Asked::Look { id }, Response::Refused(_)) => {
                dead(id, known, refusal, scene)
            }
            _ => Ok(()),
        }
    }

    fn watch_refused(&mut self, token: u64, response: &Response<'_>, scene: &Scene<'_>) -> Verdict {
        let Response::Refused(refused) = response else { return Ok(()) };
        // What was never synced may be damaged history; at the default durability there is none.
        if refused.refusal == Refusal::Internal || refused.text.contains("damaged") {
            let may_be = !scene.plan.is_durable() && refused.refusal == Refusal::PositionTooOld;
            s9_once::history_is_whole(!may_be, refused.text)?;
        }
        for watch in self.watches.values_mut().filter(|watch| watch.active == Some(token)) {
            watch.active = None;
            // What is no longer kept is lost to it: it begins with what there is.
            watch.confirmed &= refused.refusal != Refusal::PositionTooOld;
        }
        Ok(())
    }

    pub(super) fn told(&mut self, token: u64, event: &Event<'_>, scene: &mut Scene<'_>) -> Verdict {
        let shard = event.shard();
        scene.trace.note(scene.host_ms, "event", &[self.index as u64, u64::from(shard), event.resume_at().0]);
        let Some(watch) = self.watches.get_mut(&shard).filter(|watch| watch.active == Some(token)) else {
            return Err(format!("S9 once: an event of shard {shard} for a subscription that is not open"));
        };
        let from = watch.next;
        watch.next = event.resume_at().0.max(watch.next);
        match event {
            Event::Ended(ended) => {
                let mut from = from;
                for lease in ended.iter() {
                    let key = (lease.id.0, lease.token.0);
                    s1_one_shard::event_of_own_shard(key, shard, scene.shard_count)?;
                    let expired = ended.head.cause == tenure_protocol::Cause::Expired;
                    let position = lease.position.0;
                    if !scene.streams.knows(shard, position) {
                        continue;
                    }
                    let was = scene.streams.end_at(shard, position);
                    let left_out = scene.streams.first_in(shard, from, position);
                    s9_once::told_as_it_was(position, (key, expired), was, left_out)?;
                    from = position + 1;
                }
                Ok(())
            }
            Event::Progress { position, .. } => {
                let left_out = scene.streams.first_in(shard, from, position.0);
                s9_once::nothing_left_out(from, left_out)
            }
            Event::EndedItems(_) | Event::Gap { .. } => Ok(()),
        }
    }
}

fn told_of(granted: &tenure_protocol::Granted) -> Told {
    Told {
        key: (granted.id.0, granted.token.0),
        ttl_ms: granted.ttl_ms,
        remaining_ms: granted.remaining_ms,
        repeated: granted.repeated,
    }
}

/// A number for the trace.
fn code(response: &Response<'_>) -> u64 {
    match response {
        Response::Refused(refused) => refused.refusal as u64,
        Response::Granted(granted) => granted.id.0 ^ granted.token.0 << 1,
        Response::Renewed { ttl_ms } => *ttl_ms,
        Response::TimeToLive(facts) => facts.remaining_ms,
        _ => 1_000,
    }
}

fn batch_renewed(
    ids: &[u64],
    known: &[Option<Key>],
    failed: &[Failed],
    sent_ms: u64,
    scene: &mut Scene<'_>,
) -> Verdict {
    for (index, (id, known)) in ids.iter().zip(known).enumerate() {
        match failed.iter().find(|failed| failed.index as usize == index) {
            None => scene.oracle.renewed(*id, None, sent_ms, scene.now_ms)?,
            Some(failed) => dead(*id, *known, Some(failed.refusal), scene)?,
        }
    }
    Ok(())
}

fn revoke_answered(id: u64, scene: &mut Scene<'_>) {
    if let Some(count) = scene.oracle.revoking.get_mut(&id) {
        *count -= 1;
        if *count == 0 {
            scene.oracle.revoking.remove(&id);
        }
    }
}

fn revoked(key: Key, scene: &mut Scene<'_>) -> Verdict {
    living(key, 0, scene)?;
    let lease = scene.oracle.leases.entry(key).or_default();
    lease.revoke_told = true;
    match lease.end {
        Some(end) if end.expired => Err(format!("S9 once: {key:x?} is told revoked, and expired: {end:?}")),
        end => s3_durable::told_ended(key, end.is_some() || !scene.plan.is_durable()),
    }
}

/// Somebody was told of a lease as living since `sent_ms`.
fn living(key: Key, sent_ms: u64, scene: &Scene<'_>) -> Verdict {
    let possible = scene.oracle.may_be_granted(key.0) || !scene.plan.is_durable();
    match scene.oracle.leases.get(&key) {
        Some(lease) => match lease.end {
            Some(end) if end.at_ms < sent_ms => s3_durable::told_living(key.0, "shown", 0, false),
            _ => Ok(()),
        },
        None => s3_durable::told_living(key.0, "shown", 0, possible),
    }
}

/// Somebody was told that a lease is not there.
fn dead(id: u64, known: Option<Key>, refusal: Option<Refusal>, scene: &Scene<'_>) -> Verdict {
    let told = refusal == Some(Refusal::NotFound) && scene.plan.is_durable();
    if told { scene.oracle.told_dead(id, known) } else { Ok(()) }
}
