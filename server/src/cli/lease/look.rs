//! The lease commands that only look: timetolive, list, of.

use serde_json::{Value, json};
use tenure_client::{Client, Error};
use tenure_protocol::{LeaseId, Listed, Refusal};

use crate::cli::connect::of_client;
use crate::cli::failure::{Failure, Outcome};
use crate::cli::item::{item_json, show_item, show_items};
use crate::cli::screen::Screen;
use crate::cli::ttl::{show_remaining, show_ttl};

/// Leases asked for at a time.
const PAGE_LEASES: u32 = 8_192;

pub(super) async fn time_to_live(client: &Client, screen: &mut Screen, id: LeaseId, items: bool) -> Outcome {
    let answer = if items { client.time_to_live_with_items(id).await } else { client.time_to_live(id).await };
    let info = match answer {
        Ok(info) => info,
        Err(Error::Refused { refusal: Refusal::NotFound, .. }) => {
            // Never granted and ended look the same; etcdctl's word covers both.
            screen.say(
                || format!("lease {id} already expired"),
                || json!({ "id": id.to_string(), "alive": false }),
            )?;
            return Err(Failure::said());
        }
        Err(error) => return Err(of_client(&error)),
    };
    let attached =
        if items { format!(", attached items({})", show_items(&info.items)) } else { String::new() };
    screen.say(
        || {
            let (ttl, remaining) = (show_ttl(info.ttl_ms), show_remaining(info.remaining_ms));
            format!("lease {id} granted with TTL({ttl}), remaining({remaining}){attached}")
        },
        || {
            let mut object = json!({
                "id": id.to_string(),
                "alive": true,
                "ttl_ms": info.ttl_ms,
                "remaining_ms": info.remaining_ms,
                "token": info.token.0,
                "item_count": info.item_count,
            });
            if items {
                object["items"] = info.items.iter().map(|item| item_json(item)).collect();
            }
            object
        },
    )?;
    Ok(())
}

/// Text gathers all leases first (40 bytes each), because their number stands above them; JSON prints
/// each page as it comes.
pub(super) async fn list(client: &Client, screen: &mut Screen, limit: Option<u64>, ttl: bool) -> Outcome {
    let limit = limit.unwrap_or(u64::MAX);
    let mut pages = client.list().page_limit(u32::try_from(limit).unwrap_or(u32::MAX).min(PAGE_LEASES));
    let mut found: Vec<Listed> = Vec::new();
    let mut rest = limit;
    let mut is_whole = true;
    while let Some(mut page) = pages.next_page().await.map_err(|error| of_client(&error))? {
        if page.len() as u64 > rest {
            page.truncate(usize::try_from(rest).expect("less than the page has"));
            is_whole = false;
        }
        rest -= page.len() as u64;
        if screen.is_json() {
            for lease in &page {
                screen.say(String::new, || listed_json(lease))?;
            }
        } else {
            found.append(&mut page);
        }
        if !is_whole {
            break;
        }
    }
    let more = if is_whole { "" } else { ", there are more" };
    screen.text(format_args!(
        "found {} lease{}{more}",
        found.len(),
        if found.len() == 1 { "" } else { "s" }
    ))?;
    found.sort_unstable_by_key(|lease| lease.id);
    if ttl && !found.is_empty() {
        screen
            .text(format_args!("{:<16}  {:>12}  {:>12}  {:>8}  token", "id", "ttl", "remaining", "items"))?;
    }
    for lease in found {
        if ttl {
            let (total, left) = (show_ttl(lease.ttl_ms), show_remaining(lease.remaining_ms));
            let (id, items, token) = (lease.id, lease.item_count, lease.token);
            screen.text(format_args!("{id}  {total:>12}  {left:>12}  {items:>8}  {token}"))?;
        } else {
            screen.text(lease.id)?;
        }
    }
    Ok(())
}

fn listed_json(lease: &Listed) -> Value {
    json!({
        "id": lease.id.to_string(),
        "ttl_ms": lease.ttl_ms,
        "remaining_ms": lease.remaining_ms,
        "token": lease.token.0,
        "item_count": lease.item_count,
    })
}

pub(super) async fn lease_of(client: &Client, screen: &mut Screen, item: &[u8]) -> Outcome {
    let found = client.lease_of(item).await.map_err(|error| of_client(&error))?;
    screen.say(
        || match found {
            Some((id, _)) => format!("lease {id} has item {}", show_item(item)),
            None => format!("no lease has item {}", show_item(item)),
        },
        || {
            let (id, token) = (found.map(|(id, _)| id.to_string()), found.map(|(_, token)| token.0));
            json!({ "item": item_json(item), "id": id, "token": token })
        },
    )?;
    if found.is_some() { Ok(()) } else { Err(Failure::said()) }
}
