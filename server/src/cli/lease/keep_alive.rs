//! `lease keep-alive`: renews until the lease is gone or the user stops it.
//!
//! A renewal each third of the TTL, as etcd's client does, so that two may fail. The lease can be
//! relied on until a TTL after the *send* of the last renewal that was answered, on a clock that
//! counts suspend; past that moment without an answer nobody here knows whether it lives, and this
//! says so instead of guessing.

use std::time::Duration;

use serde_json::json;
use tenure_client::{BootTime, Client, Error, Renewed};
use tenure_protocol::{LeaseId, Refusal};

use crate::cli::connect::{Interrupt, of_client};
use crate::cli::failure::{Failure, Outcome};
use crate::cli::screen::Screen;
use crate::cli::ttl::show_ttl_bare;
use crate::exit;

/// Shortest wait between two renewals, for leases of a few ms.
const PAUSE_MIN: Duration = Duration::from_millis(1);

/// Longest wait between two renewals: the runtime's timers do not reach as far as the longest TTLs.
const PAUSE_MAX: Duration = Duration::from_secs(86_400);

/// Wait after a renewal that did not get through.
const RETRY_PAUSE: Duration = Duration::from_millis(250);

/// One renewal.
pub(super) async fn once(client: &Client, screen: &mut Screen, id: LeaseId) -> Outcome {
    match client.renew(id).await {
        Ok(renewed) => kept(screen, id, renewed),
        Err(error) => ended(screen, id, &error),
    }
}

/// Renewals until the lease is gone (a failure) or a signal comes (a clean end).
pub(super) async fn go_on(client: &Client, screen: &mut Screen, id: LeaseId) -> Outcome {
    let mut interrupt = Interrupt::take()?;
    let mut valid_until: Option<BootTime> = None;
    loop {
        let renewal = tokio::select! {
            renewal = client.renew(id) => renewal,
            () = interrupt.wait() => return Ok(()),
        };
        let pause = match renewal {
            Ok(renewed) => {
                kept(screen, id, renewed)?;
                valid_until = Some(renewed.valid_until);
                Duration::from_millis(renewed.ttl_ms / 3).clamp(PAUSE_MIN, PAUSE_MAX)
            }
            Err(error) if is_passing(&error) && valid_until.is_some_and(|until| !until.is_past()) => {
                eprintln!("tenure: {}; trying again", of_client(&error));
                RETRY_PAUSE
            }
            Err(error) if is_passing(&error) && valid_until.is_some() => {
                let text = format!(
                    "no renewal of lease {id} got through for its TTL: it may have expired ({error})"
                );
                return Err(Failure::new(exit::UNREACHABLE, text));
            }
            Err(error) => return ended(screen, id, &error),
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = interrupt.wait() => return Ok(()),
        }
    }
}

/// Whether the next attempt may succeed.
fn is_passing(error: &Error) -> bool {
    match error {
        Error::Refused { refusal, .. } => {
            matches!(refusal, Refusal::Busy | Refusal::ShuttingDown | Refusal::TooManyConnections)
        }
        Error::Disconnected { .. } | Error::Timeout { .. } | Error::Unreachable { .. } => true,
        _ => false,
    }
}

fn kept(screen: &mut Screen, id: LeaseId, renewed: Renewed) -> Outcome {
    screen.say(
        || format!("lease {id} keepalived with TTL({})", show_ttl_bare(renewed.ttl_ms)),
        || json!({ "id": id.to_string(), "alive": true, "ttl_ms": renewed.ttl_ms }),
    )?;
    Ok(screen.flush()?)
}

/// The last word: in etcdctl's sentence when the lease is gone.
fn ended(screen: &mut Screen, id: LeaseId, error: &Error) -> Outcome {
    if error.refusal() != Some(Refusal::NotFound) {
        return Err(of_client(error));
    }
    screen.say(
        || format!("lease {id} expired or revoked."),
        || json!({ "id": id.to_string(), "alive": false }),
    )?;
    Err(Failure::said())
}
