//! What the command line makes of single words: for fuzzing. No stability is promised.
//!
//! Each function reads a word as a command does and says what it read, so that a fuzzer can hold the reader to what the
//! writer of the same word prints. Decides nothing of its own.

/// Reads a lease ID.
#[must_use]
pub fn lease_id(text: &str) -> Option<u64> {
    super::lease_id::parse_lease_id(text).ok().map(|id| id.0)
}

/// Reads a TTL, in ms.
#[must_use]
pub fn ttl_ms(text: &str) -> Option<u64> {
    super::ttl::parse_ttl_ms(text).ok()
}

/// Reads the places at which `watch` starts, and writes them as it prints them. `oldest` and `now` are empty.
#[must_use]
pub fn places(text: &str) -> Option<String> {
    match super::start_at::parse_start_at(text).ok()? {
        super::start_at::StartAt::Places(places) => Some(places.to_string()),
        super::start_at::StartAt::Oldest | super::start_at::StartAt::Now => Some(String::new()),
    }
}
