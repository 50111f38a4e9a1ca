//! `tenure lease …`: the commands about leases, in the shape and words of etcdctl.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use clap::{Args, Subcommand};
use tenure_protocol::LeaseId;

use super::connect;
use super::failure::{Failure, Outcome};
use super::item;
use super::lease_id::parse_lease_id;
use super::remote::Remote;
use super::screen::Screen;
use super::ttl::parse_ttl_ms;

mod change;
mod keep_alive;
mod look;

/// Grant, renew, revoke and look at leases
#[derive(Debug, Args)]
#[command(arg_required_else_help = true)]
pub(crate) struct Lease {
    #[command(flatten)]
    pub(crate) remote: Remote,
    #[command(subcommand)]
    command: LeaseCommand,
}

#[derive(Debug, Subcommand)]
enum LeaseCommand {
    /// Create a lease
    #[command(after_help = "Examples:
  tenure lease grant 600              ten minutes: a bare number is seconds
  tenure lease grant 250ms
  tenure lease grant 1m30s --id 2a    with an ID of your choice")]
    Grant {
        /// Time to live: 600 (seconds), 10s, 250ms, 1m30s, 2h
        #[arg(value_name = "TTL", value_parser = parse_ttl_ms)]
        ttl_ms: u64,
        /// ID to use, in hex; without it the server chooses
        #[arg(long, value_name = "ID", value_parser = parse_lease_id)]
        id: Option<LeaseId>,
    },
    /// End leases now
    #[command(after_help = "Examples:
  tenure lease revoke 694d81417acd4754
  tenure -w json lease list | jq -r .id | xargs tenure lease revoke")]
    Revoke {
        /// The leases, in hex; many go in one batch
        #[arg(value_name = "ID", required = true, value_parser = parse_lease_id)]
        ids: Vec<LeaseId>,
    },
    /// Show what is left of a lease
    #[command(after_help = "Example:
  tenure lease timetolive 694d81417acd4754 --items

Exit code 1 when there is no such lease.")]
    Timetolive {
        /// The lease, in hex
        #[arg(value_name = "ID", value_parser = parse_lease_id)]
        id: LeaseId,
        /// Show the attached items too
        // etcdctl's word for it.
        #[arg(long, alias = "keys")]
        items: bool,
    },
    /// List live leases
    #[command(after_help = "Examples:
  tenure lease list
  tenure lease list --ttl --limit 20
  tenure -w json lease list           one object a line, as the pages come")]
    List {
        /// At most this many
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
        limit: Option<u64>,
        /// Show TTL, remaining time, items and token of each
        #[arg(long)]
        ttl: bool,
    },
    /// Renew a lease until stopped, three times per TTL
    #[command(after_help = "Examples:
  tenure lease keep-alive 694d81417acd4754
  tenure lease keep-alive --once 694d81417acd4754

Ends with exit code 1 when the lease is gone. SIGINT (Ctrl-C) and SIGTERM end it cleanly; the lease then \
lives on for its TTL. A lost connection is made again as long as the lease can still be alive.")]
    KeepAlive {
        /// The lease, in hex
        #[arg(value_name = "ID", value_parser = parse_lease_id)]
        id: LeaseId,
        /// Renew once and exit
        #[arg(long)]
        once: bool,
    },
    /// Attach an item to a lease
    #[command(after_help = "Examples:
  tenure lease attach 694d81417acd4754 instance/7
  tenure lease attach 694d81417acd4754 -e '\\xff\\x00'

An item ends with its lease and is reported then. One that is on another lease moves.")]
    Attach {
        /// The lease, in hex
        #[arg(value_name = "ID", value_parser = parse_lease_id)]
        id: LeaseId,
        #[command(flatten)]
        item: ItemArgument,
    },
    /// Detach an item from a lease
    #[command(after_help = "Example:
  tenure lease detach 694d81417acd4754 instance/7")]
    Detach {
        /// The lease, in hex
        #[arg(value_name = "ID", value_parser = parse_lease_id)]
        id: LeaseId,
        #[command(flatten)]
        item: ItemArgument,
    },
    /// Show the lease that an item is attached to
    #[command(after_help = "Example:
  tenure lease of instance/7

Exit code 1 when no lease has the item.")]
    Of {
        #[command(flatten)]
        item: ItemArgument,
    },
}

/// An item as an argument: any bytes.
#[derive(Debug, Args)]
struct ItemArgument {
    /// The item, any bytes
    #[arg(value_name = "ITEM")]
    item: OsString,
    /// Read \xHH, \n, \r, \t, \\ and \" in ITEM, the form in which items are printed
    #[arg(short, long)]
    escaped: bool,
}

impl ItemArgument {
    fn bytes(self) -> Result<Vec<u8>, Failure> {
        if !self.escaped {
            return Ok(self.item.into_vec());
        }
        let text =
            self.item.into_string().map_err(|_| Failure::usage("ITEM with --escaped must be UTF-8"))?;
        item::parse_escaped(&text).map_err(Failure::usage)
    }
}

impl Lease {
    pub(crate) fn run(self, outer: Remote) -> Outcome {
        let remote = self.remote.or(outer);
        let mut screen = Screen::stdout(remote.form());
        let outcome = connect::run(&remote, async |client| match self.command {
            LeaseCommand::Grant { ttl_ms, id } => change::grant(&client, &mut screen, ttl_ms, id).await,
            LeaseCommand::Revoke { ids } => change::revoke(&client, &mut screen, &ids).await,
            LeaseCommand::Attach { id, item } => {
                change::attach(&client, &mut screen, id, &item.bytes()?).await
            }
            LeaseCommand::Detach { id, item } => {
                change::detach(&client, &mut screen, id, &item.bytes()?).await
            }
            LeaseCommand::Timetolive { id, items } => {
                look::time_to_live(&client, &mut screen, id, items).await
            }
            LeaseCommand::List { limit, ttl } => look::list(&client, &mut screen, limit, ttl).await,
            LeaseCommand::Of { item } => look::lease_of(&client, &mut screen, &item.bytes()?).await,
            LeaseCommand::KeepAlive { id, once: true } => keep_alive::once(&client, &mut screen, id).await,
            LeaseCommand::KeepAlive { id, once: false } => keep_alive::go_on(&client, &mut screen, id).await,
        });
        screen.flush()?;
        outcome
    }
}
