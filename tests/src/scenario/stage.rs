//! One shard on stage: commands in, what happened out, the log kept as batches that a crash can cut.

use tenure_core::{
    Answer, Grant, GrantKey, LeaseId, Position, RecordBuffer, Refusal, Renewals, Role, Shard, ShardConfig,
    ShardIndex, Time,
};

use super::Performer;
use super::command::Command;
use super::render::Names;

/// Bytes between two batches, as the log's headers take them.
const HEADER_BYTES: u64 = 64;

struct Batch {
    first: Position,
    time: Time,
    records: Vec<u8>,
}

/// A shard, its log, its clock.
pub(super) struct Stage {
    config: ShardConfig,
    shard: Shard,
    log: RecordBuffer,
    batches: Vec<Batch>,
    durable: Position,
    now: Time,
    names: Names,
}

impl Default for Stage {
    fn default() -> Stage {
        let mut config = ShardConfig::new(ShardIndex(0), 1);
        config.checkpoint_interval_ms = None;
        Stage::new(config)
    }
}

impl Stage {
    fn new(config: ShardConfig) -> Stage {
        Stage {
            shard: Shard::new(config.clone()),
            config,
            log: RecordBuffer::new(Position(HEADER_BYTES), Time(0)),
            batches: Vec::new(),
            durable: Position::ZERO,
            now: Time(0),
            names: Names::default(),
        }
    }

    fn carry_out(&mut self, line: &str) -> Vec<String> {
        let (time, command) = Command::parse(line);
        if let Some(time) = time {
            assert!(Time(time) >= self.now, "`{line}`: S6 time-forward, also in a scenario");
            self.now = Time(time);
        }
        let mut happened = match command.word(0) {
            "shard" => {
                self.configure(&command);
                Vec::new()
            }
            "durable" => {
                self.durable = self.log.start();
                self.shard.durable(self.durable);
                Vec::new()
            }
            "crash" => vec![self.crash(command.words.contains(&"image"))],
            "hold" => {
                self.shard.hold_horizon(self.now);
                Vec::new()
            }
            "release" => {
                self.shard.release_horizon();
                Vec::new()
            }
            "expire" => {
                let budget = command.number("budget").unwrap_or(1 << 20) as usize;
                let progress = self.shard.expire(self.now, budget, &mut self.log);
                vec![format!("ended {}{}", progress.ended, if progress.more { ", more to do" } else { "" })]
            }
            "maintain" => {
                self.maintain(command.words.contains(&"once"));
                Vec::new()
            }
            _ => self.ask(&command),
        };
        self.shard.check_invariants();
        happened.extend(self.seal());
        happened
    }

    /// Background work: all that there is, or until something reaches the log (fetching memory ahead of
    /// use comes first, and is nobody's story).
    fn maintain(&mut self, once: bool) {
        while self.shard.maintain(self.now, 1 << 20, &mut self.log) {
            if once && !self.log.is_empty() {
                break;
            }
        }
    }

    fn configure(&mut self, command: &Command<'_>) {
        assert!(self.batches.is_empty() && self.now == Time(0), "the shard is described first");
        let mut config = self.config.clone();
        config.ttl_ms_min = command.number("ttl-min").unwrap_or(config.ttl_ms_min);
        config.ttl_ms_max = command.number("ttl-max").unwrap_or(config.ttl_ms_max);
        config.checkpoint_interval_ms = command.number("checkpoint");
        if let Some(most) = command.number("leases-max") {
            config.lease_count_max = u32::try_from(most).expect("a limit");
        }
        if command.words.contains(&"standby") {
            config.role = Role::Standby;
        }
        if command.options.get("renewals") == Some(&"logged") {
            config.renewals = Renewals::Logged;
        }
        *self = Stage::new(config);
    }

    fn id(&self, name: &str) -> LeaseId {
        self.names.id(name)
    }

    /// The verbs that a client knows.
    fn ask(&mut self, command: &Command<'_>) -> Vec<String> {
        let (now, count) = (self.now, command.words.len() - 1);
        match command.word(0) {
            "grant" => vec![self.grant(command)],
            "renew" if count == 1 => {
                let answer = self.shard.renew(now, self.id(command.word(1)), &mut self.log);
                vec![self.tell(&answer, |_, renewed| format!("renewed for {}", renewed.ttl_ms))]
            }
            "revoke" if count == 1 => {
                let answer = self.shard.revoke(now, self.id(command.word(1)), &mut self.log);
                vec![self.tell(&answer, |names, revoked| {
                    format!("revoked token={} items={}", names.token(revoked.token), revoked.item_count)
                })]
            }
            "renew" | "revoke" => vec![self.batch(command)],
            "ttl" => {
                let answer = self.shard.time_to_live(now, self.id(command.word(1)), &mut self.log);
                vec![self.tell(&answer, |names, found| {
                    let token = names.token(found.token);
                    let (ttl_ms, remaining_ms, items) = (found.ttl_ms, found.remaining_ms, found.item_count);
                    format!("token={token} ttl={ttl_ms} remaining={remaining_ms} items={items}")
                })]
            }
            "items" => {
                let mut items = Vec::new();
                let id = self.id(command.word(1));
                let answer = self.shard.items(now, id, None, 1 << 20, &mut items, &mut self.log);
                let items: Vec<_> = items.iter().map(|item| item.escape_ascii().to_string()).collect();
                vec![self.tell(&answer, |_, _| format!("[{}]", items.join(" ")))]
            }
            "list" => self.list(),
            "attach" => self.attach(command),
            "detach" => {
                let id = self.id(command.word(1));
                let answer = self.shard.detach(now, id, command.word(2).as_bytes(), &mut self.log);
                vec![self.tell(&answer, |_, ()| "detached".to_owned())]
            }
            "of" => {
                let answer = self.shard.lease_of(now, command.word(1).as_bytes(), &mut self.log);
                vec![self.tell(&answer, |names, found| match found {
                    Some((id, token)) => format!("on {} token={}", names.lease(*id), names.token(*token)),
                    None => "on no lease".to_owned(),
                })]
            }
            "promote" => {
                let extend_ms = command.number("extend").unwrap_or(0);
                let answer = self.shard.promote(now, extend_ms, &mut self.log);
                vec![self.tell(&answer, |_, ()| "primary".to_owned())]
            }
            "demote" => {
                let answer = self.shard.demote(now, &mut self.log);
                vec![self.tell(&answer, |_, ()| "standby".to_owned())]
            }
            _ => panic!("`{}`: no such command", command.line),
        }
    }

    fn grant(&mut self, command: &Command<'_>) -> String {
        let id = if command.word(1) == "new" { None } else { Some(self.id(command.word(1))) };
        let key = command.options.get("key").map(|key| {
            let (client, request) = key.split_once('/').expect("key=CLIENT/REQUEST");
            GrantKey {
                client: client.parse().expect("a client"),
                request: request.parse().expect("a request"),
            }
        });
        let grant = Grant { id, ttl_ms: command.needs("ttl"), key };
        let answer = self.shard.grant(self.now, &grant, &mut self.log);
        self.tell(&answer, |names, granted| {
            if id.is_none() {
                names.name_chosen_by_shard(granted.id);
            }
            let (lease, token) = (names.lease(granted.id), names.token(granted.token));
            let mut text =
                format!("{lease} token={token} ttl={} remaining={}", granted.ttl_ms, granted.remaining_ms);
            if granted.raised {
                text += " raised";
            }
            if granted.repeated {
                text += " repeated";
            }
            text
        })
    }

    fn batch(&mut self, command: &Command<'_>) -> String {
        let ids: Vec<LeaseId> = command.words[1..].iter().map(|name| self.id(name)).collect();
        let mut failed = Vec::new();
        let result = if command.word(0) == "renew" {
            self.shard.renew_batch(self.now, &ids, &mut failed, &mut self.log)
        } else {
            self.shard.revoke_batch(self.now, &ids, &mut failed, &mut self.log)
        };
        let failed: Vec<String> = failed.iter().map(|&index| self.names.lease(ids[index as usize])).collect();
        let (result, after) = match result {
            Ok(after) => (Ok(()), after),
            Err(refusal) => (Err(refusal), Position::ZERO),
        };
        self.tell(&Answer { result, after }, |_, ()| {
            if failed.is_empty() { "all".to_owned() } else { format!("all but {}", failed.join(" ")) }
        })
    }

    fn list(&mut self) -> Vec<String> {
        let (mut found, mut cursor) = (Vec::new(), 0);
        let mut after = Position::ZERO;
        loop {
            let answer = self.shard.list(self.now, cursor, 100, &mut found, &mut self.log);
            after = after.max(answer.after);
            cursor = answer.result.expect("a list is never refused");
            if cursor == 0 {
                break;
            }
        }
        found.sort_by_key(|listed| listed.token);
        let mut lines =
            vec![self.tell(&Answer { result: Ok(found.len()), after }, |_, count| format!("{count} leases"))];
        lines.extend(found.iter().map(|listed| {
            let (lease, token) = (self.names.lease(listed.id), self.names.token(listed.token));
            let (ttl_ms, remaining_ms, items) = (listed.ttl_ms, listed.remaining_ms, listed.item_count);
            format!("{lease} token={token} ttl={ttl_ms} remaining={remaining_ms} items={items}")
        }));
        lines
    }

    /// `attach 7 name`, or `attach 7 name count=N bytes=B` for many.
    fn attach(&mut self, command: &Command<'_>) -> Vec<String> {
        let (id, name) = (self.id(command.word(1)), command.word(2));
        let count = command.number("count");
        let mut told = Vec::new();
        for number in 0..count.unwrap_or(1) {
            let mut item = name.as_bytes().to_vec();
            if count.is_some() {
                item.extend(format!("{number:06}").bytes());
            }
            item.resize(item.len().max(command.number("bytes").unwrap_or(0) as usize), b'.');
            let answer = self.shard.attach(self.now, id, &item, &mut self.log);
            told.push(self.tell(&answer, |names, attached| match attached.moved_from {
                Some(from) => format!("attached, moved from {}", names.lease(from)),
                None => "attached".to_owned(),
            }));
        }
        told.dedup();
        told
    }

    /// The answer, and whether it has to wait for the log.
    fn tell<T>(&mut self, answer: &Answer<T>, show: impl FnOnce(&mut Names, &T) -> String) -> String {
        let text = match &answer.result {
            Ok(value) => show(&mut self.names, value),
            Err(refusal) => refusal_name(*refusal),
        };
        if answer.after > self.durable { text + ", once durable" } else { text }
    }

    /// Closes the open batch, as a log writer would, and shows its records.
    fn seal(&mut self) -> Vec<String> {
        if self.log.is_empty() {
            return Vec::new();
        }
        let lines = self.names.records(self.log.start(), self.log.bytes());
        // The header carries the time before the first record.
        let time = self.batches.last().map_or(Time(0), time_after);
        self.batches.push(Batch { first: self.log.start(), time, records: self.log.bytes().to_vec() });
        let (tail, time) = (self.log.tail(), self.log.time());
        self.log.begin(Position(tail.0 + HEADER_BYTES), time);
        lines
    }

    /// The process dies: what was not durable is gone, a new shard reads the rest.
    fn crash(&mut self, through_image: bool) -> String {
        self.batches.retain(|batch| batch.first < self.durable);
        let mut shard = Shard::new(self.config.clone());
        if through_image {
            // An image made of what is durable, then nothing to replay.
            let mut source = self.replayed();
            source.recovered(self.now);
            let mut cursor = source.image_start();
            let mut done = false;
            while !done {
                let mut chunk = Vec::new();
                done = source.image_step(&mut cursor, 4_096, &mut chunk);
                shard.load_image(&chunk).expect("S4 replay-equal: an image loads");
            }
        } else {
            shard = self.replayed();
        }
        shard.recovered(self.now);
        shard.durable(self.durable);
        let time = self.batches.last().map_or(Time(0), time_after);
        let next = self.log.start();
        self.log = RecordBuffer::new(next, time);
        self.shard = shard;
        format!("recovered {} leases", self.shard.stats().lease_count)
    }

    fn replayed(&self) -> Shard {
        let mut shard = Shard::new(self.config.clone());
        for batch in &self.batches {
            shard.replay(batch.first, batch.time, &batch.records).expect("S4 replay-equal: the log replays");
        }
        shard
    }

    /// S4: the log, replayed, is the live state.
    fn check_replay(&self) {
        let mut again = self.replayed();
        again.recovered(self.now);
        let (mut live, mut replayed) = (String::new(), String::new());
        self.shard.dump(&mut live);
        again.dump(&mut replayed);
        assert_eq!(live, replayed, "S4 replay-equal");
    }
}

impl Performer for Stage {
    fn perform(&mut self, line: &str) -> Vec<String> {
        self.carry_out(line)
    }

    fn finish(&mut self) {
        self.check_replay();
    }
}

/// The time of the last record of a batch.
fn time_after(batch: &Batch) -> Time {
    let records = tenure_core::RecordIter::new(batch.first, &batch.records);
    let times = records.filter_map(|record| match record {
        Ok((_, tenure_core::Record::Clock { time })) => Some(time),
        _ => None,
    });
    times.last().unwrap_or(batch.time)
}

fn refusal_name(refusal: Refusal) -> String {
    format!("{refusal:?}")
}
