//! **L2 one-reply**: each accepted request gets exactly one reply.
//!
//! The client's own state machine refuses a reply that nobody waits for, or one of another kind; here is what
//! must not stay unanswered once everything has healed.

use super::Verdict;

/// What a client's connection says about what came in.
///
/// # Errors
/// It was not what was asked.
pub fn fits(error: &str) -> Verdict {
    Err(format!("L2 one-reply: {error}"))
}

/// A healed world has come to rest.
///
/// # Errors
/// Somebody still waits for an answer.
pub fn nobody_waits(client: usize, waiting: usize) -> Verdict {
    if waiting > 0 {
        return Err(format!("L2 one-reply: client {client} waits for {waiting} answers, and nothing moves"));
    }
    Ok(())
}

/// A healed world does not come to rest.
///
/// # Errors
/// Always.
pub fn never_rests(steps: u64) -> Verdict {
    Err(format!("L2 one-reply: after {steps} rounds without faults there is still something to do"))
}

/// Replies that a core holds when nothing is in flight.
///
/// # Errors
/// There are some.
pub fn nothing_held(shard: u16, held: u64) -> Verdict {
    if held > 0 {
        return Err(format!("L2 one-reply: shard {shard} holds {held} replies for ever"));
    }
    Ok(())
}
