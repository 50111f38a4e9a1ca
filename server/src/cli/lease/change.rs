//! The lease commands that change something: grant, revoke, attach, detach.

use serde_json::json;
use tenure_client::{Client, Error};
use tenure_protocol::{LeaseId, Refusal};

use crate::cli::connect::of_client;
use crate::cli::failure::{Failure, Outcome};
use crate::cli::item::{item_json, show_item};
use crate::cli::screen::Screen;
use crate::cli::ttl::show_ttl;

pub(super) async fn grant(client: &Client, screen: &mut Screen, ttl_ms: u64, id: Option<LeaseId>) -> Outcome {
    let granted = client.grant_with_id(id.unwrap_or(LeaseId::NONE), ttl_ms).await;
    let lease = granted.map_err(|error| of_client(&error))?;
    let raised = if lease.raised {
        format!(", raised from {} to the server's minimum", show_ttl(ttl_ms))
    } else {
        String::new()
    };
    screen.say(
        || format!("lease {} granted with TTL({}){raised}", lease.id, show_ttl(lease.ttl_ms)),
        || {
            json!({
                "id": lease.id.to_string(),
                "ttl_ms": lease.ttl_ms,
                "raised": lease.raised,
                "token": lease.token.0,
            })
        },
    )?;
    Ok(())
}

/// One lease or a batch: a line each, in the order given; what was refused goes to standard error.
pub(super) async fn revoke(client: &Client, screen: &mut Screen, ids: &[LeaseId]) -> Outcome {
    let failed = match ids {
        [id] => match client.revoke(*id).await {
            Ok(_) => Vec::new(),
            Err(Error::Refused { refusal: Refusal::NotFound, .. }) => vec![(0, Refusal::NotFound)],
            Err(error) => return Err(of_client(&error)),
        },
        ids => {
            let failed = client.revoke_batch(ids).await.map_err(|error| of_client(&error))?;
            failed.into_iter().map(|entry| (entry.index as usize, entry.refusal)).collect()
        }
    };
    let mut failed = failed.into_iter().peekable();
    let mut all_revoked = true;
    for (index, id) in ids.iter().enumerate() {
        match failed.next_if(|(failed, _)| *failed == index) {
            None => screen
                .say(|| format!("lease {id} revoked"), || json!({ "id": id.to_string(), "revoked": true }))?,
            Some((_, refusal)) => {
                all_revoked = false;
                if screen.is_json() {
                    let (id, refusal) = (id.to_string(), refusal.name());
                    screen.say(String::new, || json!({ "id": id, "revoked": false, "refusal": refusal }))?;
                } else {
                    screen.flush()?;
                    eprintln!("tenure: lease {id} not revoked: {}", reason(refusal));
                }
            }
        }
    }
    if all_revoked { Ok(()) } else { Err(Failure::said()) }
}

/// Why there was nothing to revoke. That a new lease could be granted is no help here.
fn reason(refusal: Refusal) -> String {
    match refusal {
        Refusal::NotFound => "it does not exist, or has ended already".to_owned(),
        refusal => refusal.to_string(),
    }
}

pub(super) async fn attach(client: &Client, screen: &mut Screen, id: LeaseId, item: &[u8]) -> Outcome {
    let attached = client.attach(id, item).await.map_err(|error| of_client(&error))?;
    let moved = attached.moved_from.map(|from| format!(", moved from lease {from}")).unwrap_or_default();
    screen.say(
        || format!("item {} attached to lease {id}{moved}", show_item(item)),
        || {
            let moved_from = attached.moved_from.map(|from| from.to_string());
            let (id, token) = (id.to_string(), attached.token.0);
            json!({ "id": id, "item": item_json(item), "attached": true, "token": token, "moved_from": moved_from })
        },
    )?;
    Ok(())
}

pub(super) async fn detach(client: &Client, screen: &mut Screen, id: LeaseId, item: &[u8]) -> Outcome {
    client.detach(id, item).await.map_err(|error| of_client(&error))?;
    screen.say(
        || format!("item {} detached from lease {id}", show_item(item)),
        || json!({ "id": id.to_string(), "item": item_json(item), "detached": true }),
    )?;
    Ok(())
}
