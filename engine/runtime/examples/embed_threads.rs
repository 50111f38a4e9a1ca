//! An engine inside a program without any async runtime: plain threads and blocking calls.
//!
//! `cargo run --release -p tenure --example embed_threads`

use std::time::Duration;

use tenure::{Config, Engine, Event, From};

/// Runs it.
pub(crate) fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = std::env::temp_dir().join(format!("tenure-embed-{}", std::process::id()));
    let engine = Engine::open(&Config::durable(&dir))?;
    let handle = engine.handle();

    // A session with something attached to it.
    let lease = handle.grant(Duration::from_secs(1)).wait()?;
    handle.attach(lease.id, "worker/1").wait()?;
    println!("lease {} granted, token {}", lease.id, lease.token);

    // Another thread learns of its end.
    let mut watchers = Vec::new();
    for shard in 0..handle.shard_count() {
        let mut events = handle.events(shard, From::Oldest)?;
        watchers.push(std::thread::spawn(move || {
            while let Ok(event) = events.next_blocking() {
                match event {
                    Event::Ended { id, cause, .. } => println!("lease {id} {cause}"),
                    Event::Items { items, .. } => println!("  it had {items:?}"),
                }
            }
        }));
    }

    // Keep it alive for a while, in batches as a real program would.
    for _ in 0..12 {
        std::thread::sleep(Duration::from_millis(100));
        let missing = handle.renew_batch(&[lease.id]).wait()?;
        assert!(missing.is_empty());
    }
    // Then stop renewing: it expires by itself.
    while handle.time_to_live(lease.id).wait().is_ok() {
        std::thread::sleep(Duration::from_millis(100));
    }
    assert!(handle.renew(lease.id).wait().is_err());

    engine.stop();
    for watcher in watchers {
        watcher.join().expect("a watcher panicked");
    }
    std::fs::remove_dir_all(dir)?;
    Ok(())
}
