//! Scripts: a short, fixed history instead of one that chance makes, so that it can be cut off at each of its
//! disk operations, one run after the other.
//!
//! ```text
//! grant 3, rest, pass 300, revoke, round 1, crash, rest, reshard 2, rest
//! ```
//! A word of [`DEEDS`] lets the first client ask for something of that kind, so many times. `round` lets
//! everybody move once, `rest` until nobody has anything to do, `pass` lets milliseconds go by. `crash`, `kill`
//! and `stop` end the process, `reshard N` stops it and starts it with so many shards; the next round starts it
//! again. The oracle and every checker watch as they do in a swarm; chance only picks leases and TTLs.

use crate::checkers::Verdict;
use crate::disk::{Failure, Survival};
use crate::plan::DEEDS;

use super::World;

/// Rounds after which everything has come to rest.
const ROUNDS_MAX: u64 = 2_000;

/// A history.
#[derive(Clone, Copy, Debug)]
pub struct Script<'a> {
    /// Its commands, separated by commas.
    pub text: &'a str,
    /// Where it is cut off, if it is.
    pub cut: Option<Cut>,
}

/// A crash in the middle of a disk operation.
#[derive(Clone, Copy, Debug)]
pub struct Cut {
    /// The number of the operation, from the start of the script.
    pub at: u64,
    /// What ends the process there.
    pub failure: Failure,
    /// How much of what is not durable survives; `None`: drawn for each thing.
    pub survival: Option<Survival>,
}

impl World {
    /// Plays a script to its end, goes on after the crash with the rest of it, and then everything must come
    /// to rest. Returns the number of disk operations of the script.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn play(&mut self, script: Script<'_>) -> Result<u64, String> {
        if let Some(cut) = script.cut {
            self.disk.fail_at(cut.at, cut.survival);
        }
        self.cut = script.cut;
        self.restart()?;
        for client in &mut self.clients {
            client.go_quiet();
        }
        for command in script.text.split(',').map(str::trim) {
            self.carry_out(command).map_err(|text| format!("{text} (in `{command}`)"))?;
        }
        let operations = self.disk.changes();
        // What is on disk now must be enough, too.
        self.crash(Failure::Power)?;
        self.heal()?;
        Ok(operations)
    }

    fn carry_out(&mut self, command: &str) -> Verdict {
        let (word, count) = command.split_once(' ').unwrap_or((command, "1"));
        let count: u64 = count.parse().unwrap_or_else(|_| panic!("`{command}`: how many?"));
        match word {
            "rest" => {
                for _ in 0..ROUNDS_MAX {
                    if !self.scripted_round()? {
                        return Ok(());
                    }
                }
                panic!("`{command}`: the script never rests")
            }
            "round" => (0..count).try_for_each(|_| self.scripted_round().map(|_| ())),
            "pass" => {
                self.pass(count);
                Ok(())
            }
            "crash" => self.crash(Failure::Power),
            "kill" => self.crash(Failure::Kill),
            "stop" | "reshard" => {
                let to = (word == "reshard").then_some(count as u16);
                self.begin_stop(to);
                while self.stopping && self.host.is_some() {
                    self.scripted_round()?;
                }
                // The stop may have been cut off: then the same number of shards starts again.
                self.reshard_to = None;
                Ok(())
            }
            _ => {
                let deed = DEEDS.iter().find(|(_, name)| *name == word);
                let (deed, _) = deed.unwrap_or_else(|| panic!("`{command}` is no command"));
                if self.clients[0].is_open() {
                    (0..count)
                        .for_each(|_| self.with_client(0, |client, _, scene| client.carry_out(*deed, scene)));
                }
                Ok(())
            }
        }
    }

    /// Everybody moves once, or until the crash. False: nobody had anything to do.
    fn scripted_round(&mut self) -> Result<bool, String> {
        if self.host.is_none() {
            self.restart()?;
            return Ok(true);
        }
        let before = (self.disk.changes(), self.bytes_under_way());
        for index in 0..self.clients.len() {
            self.client_acts(index)?;
        }
        for core in 0..self.shard_count {
            self.turn(core, false)?;
            self.observe()?;
            if self.is_cut()? {
                return Ok(true);
            }
        }
        let busy = self.finish_work()?;
        if self.host.is_none() {
            return Ok(true);
        }
        self.pass(1);
        let waits = |client: &crate::client::Client| !client.is_open() || client.waiting() > 0;
        let awake = (0..self.shard_count).any(|core| {
            self.host.as_mut().and_then(|host| host.sleep(core)).is_some_and(|wait| wait.is_zero())
        });
        let moved = before != (self.disk.changes(), self.bytes_under_way());
        Ok(busy || awake || moved || self.clients.iter().any(waits))
    }

    fn bytes_under_way(&self) -> usize {
        self.links.iter().map(|link| link.to_server.len() + link.to_client.len()).sum()
    }

    /// Whether the process is gone: because it ended, or because this was the operation to crash at.
    pub(super) fn is_cut(&mut self) -> Result<bool, String> {
        if self.disk.is_dead() && self.host.is_some() {
            // What was sent before the end arrives.
            self.deliver_all()?;
            let failure = self.cut.map_or(Failure::Power, |cut| cut.failure);
            self.crash(failure)?;
        }
        Ok(self.host.is_none())
    }
}
