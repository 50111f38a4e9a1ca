//! `tenure watch`: each end of a lease as a line, resumable.
//!
//! S9 once: every end is printed once per run, and a run that is started with the places at which
//! the last one stopped goes on behind them. The places move only when something is printed.
//!
//! Items come after the end of their lease in events of their own. A lease that ended alone waits
//! for its first page, so that it is one line; ends in bulk are printed at once and their items
//! follow as `items` lines.

use std::fmt;

use clap::Args;
use serde_json::{Value, json};
use tenure_client::{Cause, Client, EndedLease, LeaseEvent, LeaseEventKind, LeaseId, SubscribeFrom, Token};
use tenure_protocol::Position;

use super::connect::{self, Interrupt, of_client};
use super::failure::{Failure, Outcome};
use super::item::{item_json, show_items};
use super::remote::Remote;
use super::screen::Screen;
use super::start_at::{Places, StartAt, parse_start_at};

/// Print each lease as it ends, with cause, token and items
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  tenure watch
  tenure watch --from oldest --limit 100
  tenure watch --from 0:40961,1:8192     where an earlier watch stopped, as it said
  tenure -w json watch | jq -r 'select(.cause == \"expired\") | .id'

SIGINT (Ctrl-C) and SIGTERM end it cleanly; where to go on is printed on standard error, and stands in \
each JSON line as \"resume\". A lost connection is made again and nothing is missed.")]
pub(crate) struct Watch {
    /// Where to start: oldest, now, or SHARD:POSITION,..
    #[arg(long, value_name = "PLACE", default_value = "now", value_parser = parse_start_at)]
    from: StartAt,
    /// Exit after this many ends
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    limit: Option<u64>,
    #[command(flatten)]
    remote: Remote,
}

impl Watch {
    pub(crate) fn run(self, outer: Remote) -> Outcome {
        let remote = self.remote.or(outer);
        let mut screen = Screen::stdout(remote.form());
        connect::run(&remote, async |client| watch(&client, &mut screen, &self.from, self.limit).await)
    }
}

async fn watch(client: &Client, screen: &mut Screen, from: &StartAt, limit: Option<u64>) -> Outcome {
    let mut interrupt = Interrupt::take()?;
    let from = subscribe_from(from, client.shard_count())?;
    let mut events = client.subscribe(from).await.map_err(|error| of_client(&error))?;
    let mut places = Places::default();
    for (shard, start) in (0u16..).zip(events.positions()) {
        places.set(shard, *start);
    }
    eprintln!("watching from {places}");
    let mut lines = Lines { screen, places, held: Vec::new(), rest: limit.unwrap_or(u64::MAX) };
    loop {
        let event = tokio::select! {
            event = events.next() => event,
            () = interrupt.wait() => break,
        };
        match event {
            Some(Ok(event)) => lines.take(event)?,
            Some(Err(error)) => return Err(of_client(&error)),
            None => return Err(of_client(&tenure_client::Error::Closed)),
        }
        lines.screen.flush()?;
        if lines.rest == 0 {
            break;
        }
    }
    eprintln!("resume with: tenure watch --from {}", lines.places);
    Ok(())
}

fn subscribe_from(from: &StartAt, shard_count: u16) -> Result<SubscribeFrom, Failure> {
    Ok(match from {
        StartAt::Now => SubscribeFrom::Now,
        StartAt::Oldest => SubscribeFrom::Oldest,
        StartAt::Places(places) => {
            if let Some(shard) = places.shard_max().filter(|shard| *shard >= shard_count) {
                let text = format!(
                    "--from names shard {shard}, but the server has {shard_count} (0 to {})",
                    shard_count - 1
                );
                return Err(Failure::usage(text));
            }
            let position = |shard| places.position(shard).unwrap_or(Position::OLDEST);
            SubscribeFrom::Positions((0..shard_count).map(position).collect())
        }
    })
}

/// An end that waits for its first page of items.
struct Held {
    shard: u16,
    end: End,
}

/// The end of one lease.
#[derive(Clone, Copy)]
struct End {
    cause: Cause,
    time_ms: u64,
    lease: EndedLease,
}

/// What is known of a lease's items when its end is printed.
#[derive(Clone, Copy)]
enum Items<'a> {
    /// All, or the first page of many.
    Known(&'a [Vec<u8>]),
    /// They follow, if there are any.
    Follow,
}

/// Turns events into lines and keeps the places where to go on.
struct Lines<'a> {
    screen: &'a mut Screen,
    places: Places,
    held: Vec<Held>,
    /// Ends still to be printed.
    rest: u64,
}

impl Lines<'_> {
    fn take(&mut self, event: LeaseEvent) -> Outcome {
        let LeaseEvent { shard, resume_at, kind } = event;
        let held = self
            .held
            .iter()
            .position(|held| held.shard == shard)
            .map(|index| self.held.swap_remove(index).end);
        match kind {
            LeaseEventKind::Items { id, token, items, .. }
                if held.is_some_and(|end| (end.lease.id, end.lease.token) == (id, token)) =>
            {
                self.end(shard, held.expect("just looked at"), Items::Known(&items), resume_at)
            }
            kind => {
                if let Some(end) = held {
                    self.end(shard, end, Items::Follow, after(end.lease.position))?;
                }
                self.take_kind(shard, resume_at, kind)
            }
        }
    }

    fn take_kind(&mut self, shard: u16, resume_at: Position, kind: LeaseEventKind) -> Outcome {
        if self.rest == 0 {
            return Ok(());
        }
        match kind {
            LeaseEventKind::Ended { cause, time_ms, leases, items_follow } => {
                if let ([lease], true) = (&leases[..], items_follow) {
                    self.held.push(Held { shard, end: End { cause, time_ms, lease: *lease } });
                    return Ok(());
                }
                let items = if items_follow { Items::Follow } else { Items::Known(&[]) };
                for lease in leases {
                    if self.rest == 0 {
                        break;
                    }
                    self.end(shard, End { cause, time_ms, lease }, items, after(lease.position))?;
                }
                Ok(())
            }
            LeaseEventKind::Items { id, token, items, .. } => self.items(shard, resume_at, id, token, &items),
            LeaseEventKind::Progress => {
                self.places.set(shard, resume_at);
                Ok(())
            }
            LeaseEventKind::Gap { from } => self.gap(shard, resume_at, from),
        }
    }

    fn end(&mut self, shard: u16, end: End, items: Items<'_>, resume_at: Position) -> Outcome {
        self.places.set(shard, resume_at);
        self.rest -= 1;
        let EndedLease { id, token, position } = end.lease;
        let cause = cause_name(end.cause);
        let places = &self.places;
        self.screen.say(
            || Line { shard, position, what: cause, id, token, items },
            || {
                let items = match items {
                    Items::Known(items) => items_json(items),
                    Items::Follow => Value::Null,
                };
                json!({
                    "event": "ended",
                    "shard": shard,
                    "position": position.0,
                    "cause": cause,
                    "id": id.to_string(),
                    "token": token.0,
                    "time_ms": end.time_ms,
                    "items": items,
                    "resume": places.to_string(),
                })
            },
        )?;
        Ok(())
    }

    fn items(
        &mut self,
        shard: u16,
        resume_at: Position,
        id: LeaseId,
        token: Token,
        items: &[Vec<u8>],
    ) -> Outcome {
        self.places.set(shard, resume_at);
        // A page ends one position before the next event may begin.
        let position = Position(resume_at.0.saturating_sub(1));
        let places = &self.places;
        self.screen.say(
            || Line { shard, position, what: "items", id, token, items: Items::Known(items) },
            || {
                json!({
                    "event": "items",
                    "shard": shard,
                    "position": position.0,
                    "id": id.to_string(),
                    "token": token.0,
                    "items": items_json(items),
                    "resume": places.to_string(),
                })
            },
        )?;
        Ok(())
    }

    fn gap(&mut self, shard: u16, resume_at: Position, from: Position) -> Outcome {
        self.places.set(shard, resume_at);
        let places = &self.places;
        self.screen.say(
            || {
                format!(
                    "{shard}:{from}  gap  the server no longer has what ended up to {shard}:{resume_at}; \
                     `tenure lease list` shows what is left"
                )
            },
            || {
                json!({
                    "event": "gap",
                    "shard": shard,
                    "position": from.0,
                    "to": resume_at.0,
                    "resume": places.to_string(),
                })
            },
        )?;
        Ok(())
    }
}

/// Everything up to and including this end has been seen.
fn after(position: Position) -> Position {
    Position(position.0 + 1)
}

fn cause_name(cause: Cause) -> &'static str {
    match cause {
        Cause::Expired => "expired",
        Cause::Revoked => "revoked",
    }
}

fn items_json(items: &[Vec<u8>]) -> Value {
    items.iter().map(|item| item_json(item)).collect()
}

/// One event as text.
struct Line<'a> {
    shard: u16,
    position: Position,
    what: &'static str,
    id: LeaseId,
    token: Token,
    items: Items<'a>,
}

impl fmt::Display for Line<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Line { shard, position, what, id, token, items } = self;
        write!(f, "{shard}:{position}  {what:<7}  lease {id}  token {token}")?;
        match items {
            Items::Known([]) => Ok(()),
            Items::Known(items) => write!(f, "  items({})", show_items(*items)),
            Items::Follow => f.write_str("  items follow"),
        }
    }
}
