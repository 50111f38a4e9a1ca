//! Everything heals, and the world must come to rest: every request answered, every overdue lease ended, every
//! subscriber told everything, nothing held.
//!
//! From here on nobody stalls, writes complete at once, bytes arrive whole and time passes only when nothing
//! else can happen; so what does not happen now never will (L1, L2), and what takes many turns is starved
//! (L3).

use crate::checkers::{Verdict, l1_lateness, l2_one_reply, l3_fair, s7_wheel, s9_once};

use super::World;

/// Rounds without any fault within which the world must rest.
const ROUNDS_MAX: u64 = 40_000;
/// Rounds of a storm.
const STORM_ROUNDS: u64 = 20;
/// What had to wait for a disk is answered within this, ms.
const ANSWER_MS_MAX: u64 = 3 * tenure::log::limits::PREPARE_RETRY_MS;
/// Leases that live longer are revoked rather than waited for.
const PATIENCE_MS: u64 = 8_000;

impl World {
    pub(super) fn heal(&mut self) -> Verdict {
        self.disk.heal();
        if self.disk.is_dead() {
            self.crash(crate::disk::Failure::Power)?;
        }
        (self.is_healed, self.slow_until_ms, self.full_until_ms) = (true, 0, 0);
        if self.host.is_none() {
            self.restart()?;
        }
        for client in &mut self.clients {
            client.stalled_until_ms = 0;
            client.go_quiet();
        }
        self.healed_at_ms = self.host_ms();
        self.begin_calm();
        self.calm_round = u64::MAX;
        self.trace.note(self.host_ms(), "heal", &[]);
        for round in 0..ROUNDS_MAX {
            if self.round(round)? {
                // A full disk is tried again each second, and some wait for it without rest.
                self.pass(if self.is_storage_full() { 1 } else { 0 });
                continue;
            }
            if self.is_at_rest(round)? {
                return self.check_rest();
            }
        }
        l2_one_reply::never_rests(ROUNDS_MAX)
    }

    /// Nothing is under way any more: from here on deadlines and turns count.
    fn begin_calm(&mut self) {
        let now_ms = self.served_ms();
        (self.calm_since_ms, self.calm_round) = (now_ms, self.rounds);
        for lease in self.oracle.leases.values_mut() {
            // Renewals that nobody was told of may have moved it.
            lease.overdue_ms = lease.overdue_ms.max(now_ms + lease.ttl_ms + 1);
        }
    }

    /// Everybody moves once. False: nobody had anything to do.
    fn round(&mut self, round: u64) -> Result<bool, String> {
        if self.host.is_none() {
            self.restart()?;
        }
        let before = self.trace_of_work();
        for index in 0..self.clients.len() {
            self.client_acts(index)?;
            self.observe()?;
        }
        for core in 0..self.shard_count {
            self.turn(core, false)?;
            if self.host.is_none() {
                return Ok(true);
            }
            self.observe()?;
        }
        let mut busy = self.finish_work()?;
        if self.is_storage_full() {
            self.full_round = self.rounds;
        }
        for client in self.clients.iter().filter(|client| client.is_open()) {
            if let Some(since) = client.waits_since_round(self.full_round) {
                if self.trace.keeps_text() {
                    let link = client.link.map(|link| format!("{:?}", self.links[link])).unwrap_or_default();
                    self.trace.remark(format_args!("{} {link}", client.describe()));
                }
                let waited = self.rounds.saturating_sub(since.max(self.calm_round));
                l3_fair::answered_in_turn(waited)?;
            }
        }
        for core in 0..self.shard_count {
            let sleeps = self.host.as_mut().and_then(|host| host.sleep(core));
            busy |= sleeps.is_some_and(|wait| wait.is_zero());
            if round > ROUNDS_MAX - 3 && self.trace.keeps_text() {
                let debug = self.host.as_ref().map(|host| host.describe(core)).unwrap_or_default();
                self.trace.remark(format_args!("core {core} sleeps {sleeps:?} {debug}"));
            }
        }
        Ok(busy || before != self.trace_of_work())
    }

    /// Changes whenever a client did something.
    fn trace_of_work(&self) -> (usize, usize, usize) {
        let waiting = self.clients.iter().map(crate::client::Client::waiting).sum();
        let links = self.clients.iter().filter(|client| client.is_open()).count();
        let bytes = self.links.iter().map(|link| link.to_server.len()).sum();
        (waiting, links, bytes)
    }

    /// Nothing moves: time passes to the next thing that is due. True when nothing ever will be.
    fn is_at_rest(&mut self, round: u64) -> Result<bool, String> {
        if let Some(index) = self.clients.iter().position(|client| client.is_open() && client.waiting() > 0) {
            // A full disk is tried again each second.
            if self.host_ms() > self.healed_at_ms + ANSWER_MS_MAX {
                l2_one_reply::nobody_waits(index, self.clients[index].waiting())?;
            }
            self.pass(40);
            return Ok(false);
        }
        if !self.has_rested {
            self.has_rested = true;
            self.begin_calm();
        }
        let now_ms = self.served_ms();
        let slack_ms = self.oracle.extends_ms;
        if self.has_standby() {
            self.calm_since_ms = now_ms;
        }
        if self.is_storage_full() {
            // Tried again each second; nothing can end before.
            self.calm_since_ms = now_ms;
            self.pass(20);
            return Ok(false);
        }
        for (key, lease) in self.oracle.live().filter(|(_, lease)| lease.is_known) {
            l1_lateness::ended_in_time(*key, lease.overdue_ms.max(self.calm_since_ms) + slack_ms, now_ms)?;
        }
        if self.clients.iter().any(|client| client.wants_connection() && !client.is_open()) || round < 3 {
            self.pass(40);
            return Ok(false);
        }
        if !self.clients[0].is_open() && (self.has_standby() || !self.patient().is_empty()) {
            self.pass(40);
            return Ok(false);
        }
        if self.make_primary() {
            return Ok(false);
        }
        if self.revoke_the_patient() {
            return Ok(false);
        }
        if !std::mem::replace(&mut self.has_stormed, true) {
            return self.storm().map(|()| false);
        }
        let wait = (0..self.shard_count).filter_map(|core| self.host.as_mut()?.sleep(core)).min();
        let live = self.oracle.live().filter(|(_, lease)| lease.is_known).map(|(_, lease)| lease.overdue_ms);
        let last_ms = live.max().map(|overdue_ms| overdue_ms + slack_ms + l1_lateness::LATENESS_MS_MAX);
        match wait {
            Some(wait) if self.leases_left() > 0 => {
                self.pass(u64::try_from(wait.as_millis()).unwrap_or(u64::MAX).max(1));
                Ok(false)
            }
            None if last_ms.is_some_and(|last_ms| last_ms > now_ms) => {
                s7_wheel::wakes_in_time(last_ms, None).map(|()| false)
            }
            _ => Ok(true),
        }
    }

    fn leases_left(&self) -> u64 {
        let Some(host) = &self.host else { return 0 };
        (0..host.shard_count()).map(|core| host.cores.look(core).shard().lease_count()).sum()
    }

    fn is_storage_full(&self) -> bool {
        let Some(host) = &self.host else { return false };
        (0..host.shard_count()).any(|core| host.cores.look(core).is_storage_full())
    }

    fn has_standby(&self) -> bool {
        let Some(host) = &self.host else { return false };
        (0..host.shard_count()).any(|core| host.cores.look(core).shard().role() == tenure::Role::Standby)
    }

    /// Some of the leases that would live for long.
    fn patient(&self) -> Vec<u64> {
        let found = self.host.as_ref().map(crate::host::Host::found).unwrap_or_default();
        found.iter().filter(|found| found.ttl_ms > PATIENCE_MS).map(|found| found.key.0).take(50).collect()
    }

    /// Leases expire while a client asks for something that must be written in every turn.
    fn storm(&mut self) -> Verdict {
        let mut was_full = false;
        for round in 0..STORM_ROUNDS {
            let (count, ttl_ms) = if round == 0 { (4, 5) } else { (1, 3_000) };
            self.with_client(0, |client, _, scene| client.grant_some(count, ttl_ms, scene));
            self.round(round)?;
            was_full |= self.is_storage_full();
            self.pass(30);
        }
        if was_full {
            // A disk that was full is tried again after a second: nothing could end. Another storm, later.
            self.has_stormed = false;
            return Ok(());
        }
        let now_ms = self.served_ms();
        let late = |lease: &crate::oracle::Lease| {
            lease.is_known && lease.ttl_ms == 5 && lease.overdue_ms + self.oracle.extends_ms + 300 < now_ms
        };
        let left = self.oracle.live().filter(|(_, lease)| late(lease)).count() as u64;
        l3_fair::storm_goes_on(left, STORM_ROUNDS)
    }

    /// A standby expires nothing: somebody promotes it. True when that was asked.
    fn make_primary(&mut self) -> bool {
        let Some(host) = &self.host else { return false };
        let standby =
            (0..host.shard_count()).any(|core| host.cores.look(core).shard().role() == tenure::Role::Standby);
        if !standby {
            return false;
        }
        self.with_client(0, |client, _, scene| client.promote(0, scene));
        // A full disk refuses, and is tried again each second.
        self.pass(20);
        true
    }

    /// Leases that would live for long are revoked. True when that was asked.
    fn revoke_the_patient(&mut self) -> bool {
        let patient = self.patient();
        if patient.is_empty() {
            return false;
        }
        self.with_client(0, |client, _, scene| client.revoke_all(&patient, scene));
        // A full disk refuses, and is tried again each second.
        self.pass(20);
        true
    }

    /// Nothing moves and nothing is due.
    fn check_rest(&mut self) -> Verdict {
        let Some(host) = &self.host else { return Ok(()) };
        for shard in 0..host.shard_count() {
            let station = host.cores.look(shard);
            station.shard().check_invariants();
            l2_one_reply::nothing_held(shard, station.replies_held())?;
        }
        l3_fair::storm_goes_on(self.leases_left(), self.rounds)?;
        if let Some((key, _)) = self.oracle.live().find(|(_, lease)| lease.is_known) {
            return Err(format!("S9 once: {key:x?} is gone without an end"));
        }
        if let Some(key) = self.oracle.items.owing().next() {
            return Err(format!("S9 once: items of {key:x?} never left"));
        }
        for client in &self.clients {
            for (shard, watch) in &client.watches {
                if watch.confirmed && *shard < self.shard_count {
                    s9_once::nothing_left_out(watch.next, self.streams.newest(*shard))?;
                }
            }
        }
        Ok(())
    }
}
