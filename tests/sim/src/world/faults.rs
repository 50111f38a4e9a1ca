//! What goes wrong: crashes, stops, starts, damage, pauses.

use crate::checkers::{Verdict, s1_one_shard, s4_replay, s6_time};
use crate::disk::Failure;
use crate::host::Host;
use crate::plan::Action;

use super::World;

impl World {
    pub(super) fn fault(&mut self, action: Action) -> Verdict {
        let host_ms = self.host_ms();
        match action {
            Action::Crash => return self.crash(Failure::Power),
            Action::Kill => return self.crash(Failure::Kill),
            Action::FailIo => {
                let nth = self.random.between(1, 12);
                self.disk.fail_in(nth);
            }
            Action::Cut if !self.links.is_empty() => {
                let index = self.random.index(self.links.len());
                self.links[index].break_off();
                self.trace.note(host_ms, "cut", &[index as u64]);
            }
            Action::Full => {
                self.disk.limit(Some(self.random.below(40_000)));
                self.full_until_ms = host_ms + self.random.below(5_000);
            }
            Action::Slow => self.slow_until_ms = host_ms + self.random.below(2_000),
            Action::WriteError => {
                if let Some(host) = self.host.as_mut().filter(|host| !host.writes.is_empty()) {
                    host.complete(0, true);
                    return self.crash(Failure::Power);
                }
            }
            Action::Stall => {
                let index = self.random.index(self.clients.len());
                self.clients[index].stalled_until_ms = host_ms + self.random.below(20_000);
            }
            Action::Pause => {
                let ms = self.random.pick(&[300, 5_000, 3_600_000, 40_000_000]);
                self.trace.note(host_ms, "pause", &[ms]);
                self.pass(ms);
            }
            Action::Leap => self.leap(host_ms),
            Action::CleanStop => self.begin_stop(None),
            Action::Reshard => {
                let to = self.random.between(1, 4) as u16;
                if self.plan.is_durable() {
                    self.begin_stop(Some(to));
                }
            }
            Action::Flip => return self.flip(),
            _ => {}
        }
        if self.full_until_ms != 0 && self.host_ms() >= self.full_until_ms {
            self.disk.limit(None);
            self.full_until_ms = 0;
        }
        Ok(())
    }

    /// The clock of a client leaps, or goes at another rate from now on; nobody else's does.
    fn leap(&mut self, host_ms: u64) {
        let index = self.random.index(self.clients.len());
        let (mut leap_ms, mut fast_ppm) = (0, 0);
        let clock = &mut self.clients[index].clock;
        if self.random.permille(250) {
            fast_ppm = self.random.pick(&[-900, 2_000, 50_000, 200_000]);
            clock.change_rate(host_ms, fast_ppm);
        } else {
            let most_ms = self.random.pick(&[2_000, 60_000, 3_600_000, 86_400_000]);
            leap_ms = self.random.between(1_000, most_ms);
            clock.leap(host_ms, leap_ms);
        }
        self.trace.note(host_ms, "leap", &[index as u64, leap_ms, fast_ppm as u64]);
    }

    pub(super) fn begin_stop(&mut self, reshard_to: Option<u16>) {
        if let Some(host) = self.host.as_ref().filter(|_| !self.stopping) {
            host.begin_stop();
            self.stopping = true;
            self.reshard_to = reshard_to;
            self.trace.note(self.host_ms(), "stop", &[u64::from(reshard_to.unwrap_or(0))]);
        }
    }

    /// Every core has ended in order.
    pub(super) fn ended(&mut self) -> Verdict {
        self.observe()?;
        let Some(host) = self.host.take() else { return Ok(()) };
        self.served_before_ms += host.engine_ms() - host.base_ms;
        self.dumps_at_end = Some(host.dumps());
        host.close();
        self.trace.note(self.host_ms(), "ended", &[]);
        // Where the end could not be noted, what replied early is given new IDs and tokens by the next start.
        let unnoted = self.disk.files().iter().any(|(path, _)| path == "/d/UNSYNCED");
        if self.disk.is_dead() || unnoted {
            self.dumps_at_end = None;
        }
        // The process ends; nothing unsynced may be needed.
        self.disk.crash(Failure::Power);
        self.break_links();
        if let Some(to) = self.reshard_to.take() {
            self.shard_count = to;
        }
        Ok(())
    }

    /// The process ends without a word.
    pub(super) fn crash(&mut self, failure: Failure) -> Verdict {
        let Some(host) = self.host.take() else { return Ok(()) };
        self.served_before_ms += host.engine_ms() - host.base_ms;
        host.crash();
        self.disk.crash(failure);
        self.dumps_at_end = None;
        self.reshard_to = None;
        self.break_links();
        self.trace.note(self.host_ms(), "crash", &[u64::from(failure == Failure::Kill), self.disk.changes()]);
        self.crashes += 1;
        Ok(())
    }

    fn break_links(&mut self) {
        self.stopping = false;
        for link in &mut self.links {
            link.break_off();
            link.key = None;
        }
    }

    /// Starts the server on what the disk holds, however often that takes.
    pub(super) fn restart(&mut self) -> Verdict {
        self.full_until_ms = 0;
        let config = self.plan.config(&self.clock, self.shard_count);
        for attempt in 0.. {
            let may_fail = !self.is_healed && attempt < 3;
            if may_fail && self.random.permille(self.plan.rate(Action::FailIo).min(200)) {
                self.disk.fail_in(self.random.between(1, 40));
            }
            match Host::start(&config, &self.disk, &self.clock) {
                Ok(host) => {
                    self.host = Some(host);
                    break;
                }
                Err(_) if self.disk.is_dead() => {
                    self.disk.crash(Failure::Power);
                    self.dumps_at_end = None;
                    self.crashes += 1;
                }
                Err(error) => return Err(s4_replay::refused_to_start(&error.to_string())),
            }
        }
        if self.disk.is_dead() {
            // The last change of the start failed after everything was read: the next step crashes.
            return Ok(());
        }
        self.check_recovered()
    }

    fn check_recovered(&mut self) -> Verdict {
        let host = self.host.as_ref().expect("it was just started");
        let before = self.shards_before.replace(host.shard_count());
        let resharded = before.is_some_and(|before| before != host.shard_count());
        self.was_resharded |= resharded;
        self.turns = vec![0; usize::from(host.shard_count())];
        self.rounds_before = self.rounds;
        for core in 0..host.shard_count() {
            host.cores.look(core).shard().check_invariants();
        }
        if self.plan.is_durable() && !resharded {
            for core in 0..host.shard_count() {
                s4_replay::role_kept(core, self.oracle.role_told, host.cores.look(core).shard().role())?;
            }
        }
        let found = host.found();
        self.trace.note(self.host_ms(), "start", &[host.base_ms, found.len() as u64]);
        s1_one_shard::each_on_its_own(&found, host.shard_count())?;
        if let Some(before) = self.dumps_at_end.take().filter(|_| !resharded) {
            s4_replay::same(&before, &host.dumps())?;
        }
        let forgets_streams = resharded || !self.plan.is_durable();
        if self.plan.is_durable() {
            s6_time::starts_behind(host.base_ms, self.streams.told_ms)?;
        }
        if forgets_streams {
            self.streams.restart(host);
        }
        if resharded {
            let count = host.shard_count();
            self.oracle.items.moved(|id| tenure_core::shard_of(tenure_core::LeaseId(id), count).0);
        }
        for client in &mut self.clients {
            client.server_restarted(forgets_streams, !self.plan.is_durable());
        }
        self.oracle.roles_under_way = 0;
        let now_ms = self.served_ms();
        if !self.plan.is_durable() {
            self.oracle.accept(&found, now_ms);
            return Ok(());
        }
        self.observe()?;
        self.oracle.recovered(&found, !resharded, now_ms)
    }

    /// Damages what is known to be complete, and expects a refusal that names the file, or no difference.
    fn flip(&mut self) -> Verdict {
        if !self.plan.is_durable() {
            return Ok(());
        }
        self.crash(Failure::Kill)?;
        // The tails that this start makes durable are what the next one may rely on.
        self.restart()?;
        self.crash(Failure::Kill)?;
        let files: Vec<(String, u64)> = self
            .disk
            .files()
            .into_iter()
            .filter(|(path, bytes)| *bytes > 0 && !path.ends_with(".tmp"))
            .collect();
        let (path, bytes) = files[self.random.index(files.len())].clone();
        let (offset, bit) = (self.random.below(bytes), self.random.below(8) as u8);
        let copy = self.disk.copy();
        copy.flip(path.as_ref(), offset, bit);
        self.trace.note(self.host_ms(), "flip", &[offset, u64::from(bit)]);
        self.trace.remark(format_args!("{path}"));
        let config = self.plan.config(&self.clock, self.shard_count);
        let intact = Host::start(&config, &self.disk.copy(), &self.clock);
        let intact = intact.map(|host| (host.found(), host)).map_err(|error| error.to_string());
        let outcome = match (Host::start(&config, &copy, &self.clock), intact) {
            (_, Err(error)) => Err(s4_replay::refused_to_start(&error)),
            (Err(error), Ok((_, intact))) => {
                intact.crash();
                let name = path.rsplit('/').next().unwrap_or("");
                s4_replay::names_a_file(name, &error.to_string())
            }
            (Ok(damaged), Ok((found, intact))) => {
                let same = s4_replay::unharmed(&path, &found, &damaged.found());
                damaged.crash();
                intact.crash();
                same
            }
        };
        outcome?;
        self.restart()
    }
}
