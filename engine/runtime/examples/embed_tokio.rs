//! An engine inside a tokio program: many tasks share one handle.
//!
//! `cargo run --release -p tenure --example embed_tokio`

use std::time::Duration;

use tenure::{Config, Engine, Event, From};

/// Runs it.
#[tokio::main(flavor = "current_thread")]
pub(crate) async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let engine = Engine::open(&Config { shard_count: Some(2), ..Config::in_memory() })?;
    let handle = engine.handle();

    // A thousand tasks, each with a lease of its own.
    let mut tasks = Vec::new();
    for worker in 0..1_000 {
        let handle = handle.clone();
        tasks.push(tokio::spawn(async move {
            let lease = handle.grant(Duration::from_secs(30)).await?;
            handle.attach(lease.id, format!("worker/{worker}")).await?;
            handle.renew(lease.id).await?;
            Ok::<_, tenure::Error>(lease.id)
        }));
    }
    let mut ids = Vec::new();
    for task in tasks {
        ids.push(task.await??);
    }
    println!("{} leases, attached and renewed", ids.len());

    // End them all at once and hear of it, in order, with their items.
    let (news, mut told) = tokio::sync::mpsc::unbounded_channel();
    for shard in 0..handle.shard_count() {
        let (mut events, news) = (handle.events(shard, From::Now)?, news.clone());
        tokio::spawn(async move {
            while let Ok(event) = events.next().await {
                let _ = news.send(event);
            }
        });
    }
    let missing = handle.revoke_batch(&ids).await?;
    assert!(missing.is_empty());
    let mut ended = 0;
    let mut items = 0;
    while (ended, items) != (1_000, 1_000) {
        match told.recv().await.expect("this function holds a sender too") {
            Event::Ended { .. } => ended += 1,
            Event::Items { items: some, .. } => items += some.len(),
        }
    }
    println!("{ended} ends, {items} items");
    engine.stop();
    Ok(())
}
