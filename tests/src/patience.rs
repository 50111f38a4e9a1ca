//! Waits that end: generous, because they exist only to turn a hang into a failure.

use std::time::{Duration, Instant};

/// How long any one thing may take on the busiest machine before it counts as hanging.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// How long between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// Asks again and again until there is an answer.
///
/// # Panics
/// When there is none within [`PATIENCE`]; the text says what was waited for.
pub fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(started.elapsed() < PATIENCE, "still waiting after {PATIENCE:?}: {what}");
        std::thread::sleep(LOOK_EVERY);
    }
}
