//! All leases of one worker, and what each answer, or its absence, says about them.
//!
//! The worker asks through [`Op`]s; [`Book::settle`] compares an answer with what is believed and believes
//! it; [`Book::lose`] notes that an answer will never come. Grants without an answer become *ghosts*: leases
//! that may exist although nobody was told. An audit finds them by their TTL, or rules them out.

use std::collections::{HashMap, HashSet};
use std::time::Instant;

use tenure_protocol::{Granted, LeaseId, Refusal, Response, Token};

use super::belief::{Belief, Observation, Presence, Verdict};

/// TTLs from here on never run out during a test, and each is used for one grant only.
pub const LONG_TTL_MS: u64 = 1_000_000_000;

/// One lease asked for.
#[derive(Clone, Debug)]
pub struct Ask {
    /// TTL, ms.
    pub ttl_ms: u64,
    /// An index into the worker's chosen IDs, or the server chooses.
    pub chosen: Option<usize>,
    /// Names the request, so that it can be repeated; 0: it cannot.
    pub sequence: u64,
}

/// A request, in terms of the book.
#[derive(Clone, Debug)]
pub enum Op {
    /// Grant, or GrantBatch when there are several.
    Grant(Vec<Ask>),
    /// Renew, or RenewBatch.
    Renew(Vec<usize>),
    /// Revoke, or RevokeBatch.
    Revoke(Vec<usize>),
    /// Attach, taking the item from another lease if that has it.
    Attach {
        /// The lease.
        key: usize,
        /// The item.
        item: Vec<u8>,
        /// Who had it.
        from: Option<usize>,
    },
    /// Detach.
    Detach {
        /// The lease.
        key: usize,
        /// The item.
        item: Vec<u8>,
    },
    /// TimeToLive with items.
    Look(usize),
}

impl Op {
    /// The leases that it touches.
    #[must_use]
    pub fn keys(&self) -> Vec<usize> {
        match self {
            Op::Grant(_) => Vec::new(),
            Op::Renew(keys) | Op::Revoke(keys) => keys.clone(),
            Op::Attach { key, from, .. } => [Some(*key), *from].into_iter().flatten().collect(),
            Op::Detach { key, .. } | Op::Look(key) => vec![*key],
        }
    }
}

/// An ID of the worker's own.
#[derive(Clone, Debug)]
pub struct Chosen {
    /// The ID.
    pub id: LeaseId,
    /// Its last lease.
    pub current: Option<usize>,
    /// The largest token that it ever had.
    pub token_last: Token,
    /// A grant of it is in flight.
    pub busy: bool,
}

/// An item whose move from one lease to another was not answered.
#[derive(Clone, Debug)]
pub struct TornMove {
    /// Who had it.
    pub from: usize,
    /// Who may have it.
    pub to: usize,
    /// The item.
    pub item: Vec<u8>,
}

/// The leases of one worker.
#[derive(Debug, Default)]
pub struct Book {
    /// Every lease ever granted; the index is its key.
    pub leases: Vec<Belief>,
    /// Keys of those not known to be dead.
    pub live: Vec<usize>,
    /// The worker's own IDs.
    pub chosen: Vec<Chosen>,
    /// Grants without an answer that may have made a lease.
    pub ghosts: Vec<Ask>,
    /// Ghosts that an audit has found alive.
    pub risen: Vec<Ask>,
    /// Moves without an answer.
    pub torn_moves: Vec<TornMove>,
    by_token: HashMap<(LeaseId, Token), usize>,
    issued: HashSet<LeaseId>,
    /// Answers that said Busy, or ShuttingDown.
    pub busy_count: u64,
    /// Answers of any kind.
    pub answer_count: u64,
}

impl Book {
    /// A book for a worker with these IDs.
    #[must_use]
    pub fn new(ids: impl Iterator<Item = LeaseId>) -> Book {
        let chosen = ids.map(|id| Chosen { id, current: None, token_last: Token(0), busy: false }).collect();
        Book { chosen, ..Book::default() }
    }

    /// The lease with this ID and token.
    #[must_use]
    pub fn find(&self, id: LeaseId, token: Token) -> Option<usize> {
        self.by_token.get(&(id, token)).copied()
    }

    /// The ID asked for.
    #[must_use]
    pub fn asked_id(&self, ask: &Ask) -> LeaseId {
        ask.chosen.map_or(LeaseId::NONE, |chosen| self.chosen[chosen].id)
    }

    /// Marks what an operation touches, so that nothing else is asked of it meanwhile.
    pub fn begin(&mut self, op: &Op) {
        self.set_busy(op, true);
    }

    fn set_busy(&mut self, op: &Op, busy: bool) {
        for key in op.keys() {
            self.leases[key].busy = busy;
        }
        if let Op::Grant(asks) = op {
            for chosen in asks.iter().filter_map(|ask| ask.chosen) {
                self.chosen[chosen].busy = busy;
            }
        }
    }

    /// Notes a lease that a request sent at `sent` made.
    ///
    /// # Errors
    /// It contradicts what is believed.
    pub fn adopt(&mut self, ask: &Ask, granted: &Granted, sent: Instant, at: Instant) -> Verdict {
        let wrong = |what: &str| Err(format!("{what}: asked {ask:?}, got {granted:?}"));
        if granted.ttl_ms != ask.ttl_ms || granted.raised || granted.remaining_ms > granted.ttl_ms {
            return wrong("contract: another TTL than asked for");
        }
        match ask.chosen {
            Some(index) => {
                let chosen = &mut self.chosen[index];
                if granted.id != chosen.id {
                    return wrong("contract: another ID than asked for");
                }
                if granted.token <= chosen.token_last {
                    return wrong(&format!("fencing: the ID had token {} before", chosen.token_last));
                }
                chosen.token_last = granted.token;
                let before = chosen.current.replace(self.leases.len());
                if let Some(before) = before.filter(|&key| self.leases[key].is_live()) {
                    self.leases[before].not_found(at)?;
                    // Whoever asks for the ID now hears of the new lease.
                    self.live.retain(|&key| key != before);
                }
            }
            None if !self.issued.insert(granted.id) || granted.id.0 == 0 || granted.id.0 >> 63 != 0 => {
                return wrong(
                    "contract: a server-chosen ID that was issued before, or that no server issues",
                );
            }
            None => {}
        }
        let key = self.leases.len();
        if self.by_token.insert((granted.id, granted.token), key).is_some() {
            return wrong("fencing: the same ID and token twice");
        }
        self.leases.push(Belief::granted(granted.id, granted.token, granted.ttl_ms, sent));
        self.live.push(key);
        Ok(())
    }

    /// Believes an answer, received at `at`, to an operation sent at `sent`.
    ///
    /// # Errors
    /// It contradicts what is believed.
    pub fn settle(&mut self, op: &Op, response: &Response<'_>, sent: Instant, at: Instant) -> Verdict {
        self.set_busy(op, false);
        self.answer_count += 1;
        if let Response::Refused(refused) = response
            && matches!(refused.refusal, Refusal::Busy | Refusal::ShuttingDown)
        {
            self.busy_count += 1;
            return Ok(());
        }
        let outcome = match (op, response) {
            (Op::Grant(asks), Response::Granted(granted)) if asks.len() == 1 => {
                self.settle_grant(&asks[0], Ok(*granted), sent, at)
            }
            (Op::Grant(asks), Response::Refused(refused)) if asks.len() == 1 => {
                self.settle_grant(&asks[0], Err(refused.refusal), sent, at)
            }
            (Op::Grant(asks), Response::GrantBatch(results)) if results.len() == asks.len() => {
                let mut pairs = asks.iter().zip(results.iter());
                pairs.try_for_each(|(ask, result)| self.settle_grant(ask, result, sent, at))
            }
            (Op::Renew(keys), Response::Renewed { ttl_ms }) => self.leases[keys[0]].renewed(*ttl_ms, sent),
            (Op::Renew(keys), Response::RenewBatch(outcome)) if outcome.count() as usize == keys.len() => {
                let failed: HashMap<u32, Refusal> = outcome.failed().map(|f| (f.index, f.refusal)).collect();
                self.settle_each(keys, &failed, at, |lease| lease.renewed(lease.ttl_ms, sent))
            }
            (Op::Revoke(keys), Response::Revoked { token, item_count }) => {
                self.leases[keys[0]].revoked(*token, *item_count)
            }
            (Op::Revoke(keys), Response::RevokeBatch(outcome)) if outcome.count() as usize == keys.len() => {
                let failed: HashMap<u32, Refusal> = outcome.failed().map(|f| (f.index, f.refusal)).collect();
                self.settle_each(keys, &failed, at, Belief::revoked_in_batch)
            }
            (Op::Attach { key, item, from }, Response::Attached { token, moved_from }) => {
                self.settle_attach(*key, item, *from, *token, *moved_from)
            }
            (Op::Detach { key, item }, Response::Detached) => self.settle_detach(*key, item, true),
            (Op::Detach { key, item }, Response::Refused(refused))
                if refused.refusal == Refusal::ItemNotFound =>
            {
                self.settle_detach(*key, item, false)
            }
            (Op::Look(key), Response::TimeToLive(found)) => {
                let page = found.items.expect("items were asked for");
                assert!(!page.more, "the items of these leases fit one page");
                let items = page.items.iter().map(<[u8]>::to_vec).collect();
                let (token, ttl_ms, remaining_ms) = (found.token, found.ttl_ms, found.remaining_ms);
                self.leases[*key].observed(&Observation { token, ttl_ms, remaining_ms, items }, at)
            }
            (_, Response::Refused(refused)) if refused.refusal == Refusal::NotFound => {
                self.leases[op.keys()[0]].not_found(at)
            }
            _ => Err(format!("L2 one-reply: {op:?} was answered by {response:?}")),
        };
        self.live.retain(|&key| self.leases[key].is_live());
        outcome
    }

    fn settle_grant(
        &mut self,
        ask: &Ask,
        result: Result<Granted, Refusal>,
        sent: Instant,
        at: Instant,
    ) -> Verdict {
        match result {
            Ok(granted) if granted.repeated => Err(format!("contract: a first grant was repeated: {ask:?}")),
            Ok(granted) => self.adopt(ask, &granted, sent, at),
            Err(Refusal::Busy | Refusal::ShuttingDown) => {
                self.busy_count += 1;
                Ok(())
            }
            Err(Refusal::AlreadyExists) => match ask.chosen.and_then(|index| self.chosen[index].current) {
                Some(key) if self.leases[key].is_live() => Ok(()),
                // A grant without an answer may have made it.
                _ if self.ghosts.iter().any(|ghost| ghost.chosen == ask.chosen) => Ok(()),
                _ => Err(format!("contract: AlreadyExists for an ID that is free: {ask:?}")),
            },
            Err(refusal) => Err(format!("contract: {ask:?} was refused with {refusal:?}")),
        }
    }

    fn settle_each(
        &mut self,
        keys: &[usize],
        failed: &HashMap<u32, Refusal>,
        at: Instant,
        done: impl Fn(&mut Belief) -> Verdict,
    ) -> Verdict {
        for (index, &key) in (0..).zip(keys) {
            match failed.get(&index) {
                None => done(&mut self.leases[key])?,
                Some(Refusal::NotFound) => self.leases[key].not_found(at)?,
                Some(Refusal::Busy | Refusal::ShuttingDown) => self.busy_count += 1,
                Some(refusal) => return Err(format!("contract: a batch entry failed with {refusal:?}")),
            }
        }
        Ok(())
    }

    fn settle_attach(
        &mut self,
        key: usize,
        item: &[u8],
        from: Option<usize>,
        token: Token,
        moved_from: Option<LeaseId>,
    ) -> Verdict {
        let target = &mut self.leases[key];
        if !target.is_live() || token != target.token {
            return Err(format!("fencing: attached to token {token}, but {target:?}"));
        }
        target.items.insert(item.to_vec(), Presence::Present);
        match (from, moved_from) {
            (None, None) => {}
            (Some(from), Some(id)) if self.leases[from].id == id => {
                self.leases[from].items.insert(item.to_vec(), Presence::Absent);
            }
            // It had died, and nobody had said so yet, or its own attach was never answered.
            (Some(from), None) => {
                let source = &mut self.leases[from];
                let certain = source.items.get(item) == Some(&Presence::Present) && !source.may_be_revoked;
                if source.is_live() && certain && source.ttl_ms >= LONG_TTL_MS {
                    return Err(format!("contract: {} lost an item before it moved", source.id));
                }
                source.items.insert(item.to_vec(), Presence::Unknown);
            }
            (_, Some(id)) => return Err(format!("contract: the item was on {id}, of all leases")),
        }
        Ok(())
    }

    fn settle_detach(&mut self, key: usize, item: &[u8], was_there: bool) -> Verdict {
        let lease = &mut self.leases[key];
        if !lease.is_live() {
            return Err(format!("S9 once: detached from a dead lease: {lease:?}"));
        }
        let before = lease.items.insert(item.to_vec(), Presence::Absent);
        match (before, was_there) {
            (Some(Presence::Present), false) => Err(format!("S3: an attached item was lost: {lease:?}")),
            (Some(Presence::Absent) | None, true) => Err(format!("S3: a detached item was back: {lease:?}")),
            _ => Ok(()),
        }
    }

    /// Forgets the leases of which nothing more can be learnt, so that a long run needs no more memory than a
    /// short one: their end and their items have been told. One that comes back is nobody's, which is as wrong.
    pub fn forget_ended(&mut self) {
        if !self.torn_moves.is_empty() || self.leases.iter().any(|lease| lease.busy) {
            return;
        }
        let mut places = Vec::with_capacity(self.leases.len());
        for lease in std::mem::take(&mut self.leases) {
            if !lease.is_live() && lease.end_seen && !lease.is_owed(true) {
                self.by_token.remove(&(lease.id, lease.token));
                places.push(None);
            } else {
                places.push(Some(self.leases.len()));
                self.leases.push(lease);
            }
        }
        for key in self.by_token.values_mut() {
            *key = places[*key].expect("only the forgotten have no place");
        }
        self.live = self.live.iter().filter_map(|&key| places[key]).collect();
        for chosen in &mut self.chosen {
            chosen.current = chosen.current.and_then(|key| places[key]);
        }
    }

    /// The answer to an operation will never come.
    pub fn lose(&mut self, op: &Op) {
        self.set_busy(op, false);
        match op {
            Op::Grant(asks) => self.ghosts.extend(asks.iter().cloned()),
            Op::Renew(_) | Op::Look(_) => {}
            Op::Revoke(keys) => {
                for &key in keys {
                    self.leases[key].may_be_revoked = true;
                }
            }
            Op::Attach { key, item, from } => {
                self.leases[*key].items.insert(item.clone(), Presence::Unknown);
                if let Some(from) = *from {
                    if self.leases[from].items.get(item) == Some(&Presence::Present) {
                        self.torn_moves.push(TornMove { from, to: *key, item: item.clone() });
                    }
                    self.leases[from].items.insert(item.clone(), Presence::Unknown);
                }
            }
            Op::Detach { key, item } => {
                self.leases[*key].items.insert(item.clone(), Presence::Unknown);
            }
        }
    }
}

#[cfg(test)]
mod tests;
