//! `tenure promote` and `tenure demote`: which engine expires leases.

use clap::Args;
use serde_json::json;

use super::connect::{self, of_client};
use super::failure::Outcome;
use super::remote::Remote;
use super::screen::Screen;
use super::status::role_of;
use super::ttl::{parse_ttl_ms, show_ttl};

/// Make a standby the primary: it takes writes and expires leases
#[derive(Debug, Args)]
#[command(after_help = "Example:
  tenure promote --extend 5s

The extension is added to what is left of every lease, so that holders that could not reach a primary meanwhile do not \
lose what they hold. A server that is primary already stays as it is, and extends nothing.")]
pub(crate) struct Promote {
    /// Time added to what is left of every lease
    #[arg(long, value_name = "SPAN", default_value = "0s", value_parser = parse_ttl_ms)]
    extend: u64,
    #[command(flatten)]
    remote: Remote,
}

/// Make the primary a standby: it answers reads and expires nothing
#[derive(Debug, Args)]
#[command(after_help = "Example:
  tenure demote")]
pub(crate) struct Demote {
    #[command(flatten)]
    remote: Remote,
}

impl Promote {
    pub(crate) fn run(self, outer: Remote) -> Outcome {
        let remote = self.remote.or(outer);
        let mut screen = Screen::stdout(remote.form());
        let extend_ms = self.extend;
        connect::run(&remote, async |client| {
            let info = client.info().await.map_err(|error| of_client(&error))?;
            let changes = role_of(&info) != Some("primary");
            client.promote(extend_ms).await.map_err(|error| of_client(&error))?;
            let text = match extend_ms {
                _ if !changes => "is primary already: nothing changed, and no lease was extended".to_owned(),
                0 => "promoted to primary".to_owned(),
                extend_ms => format!("promoted to primary, every lease extended by {}", show_ttl(extend_ms)),
            };
            let extended_ms = if changes { extend_ms } else { 0 };
            screen.say(
                || text,
                || json!({ "role": "primary", "extend_ms": extended_ms, "changed": changes }),
            )?;
            Ok(screen.flush()?)
        })
    }
}

impl Demote {
    pub(crate) fn run(self, outer: Remote) -> Outcome {
        let remote = self.remote.or(outer);
        let mut screen = Screen::stdout(remote.form());
        connect::run(&remote, async |client| {
            client.demote().await.map_err(|error| of_client(&error))?;
            screen.say(|| "demoted to standby", || json!({ "role": "standby" }))?;
            Ok(screen.flush()?)
        })
    }
}
