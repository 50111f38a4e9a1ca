//! **S8 bounded**: each queue, batch, frame, table has a stated maximum; full gives a `Busy` or
//! `LimitExceeded` refusal.

use super::Verdict;

/// Bytes that a server holds for a client that does not read.
///
/// # Errors
/// More than the limit and one turn's answers.
pub fn unsent(bytes: usize, send_bytes_max: usize, frame_bytes_max: usize) -> Verdict {
    if bytes > send_bytes_max + frame_bytes_max {
        return Err(format!("S8 bounded: {bytes} bytes unsent on one connection, limit {send_bytes_max}"));
    }
    Ok(())
}

/// Live leases of a shard.
///
/// # Errors
/// More than configured.
pub fn leases(count: u64, lease_count_max: u32) -> Verdict {
    if count > u64::from(lease_count_max) {
        return Err(format!("S8 bounded: {count} leases on a shard, limit {lease_count_max}"));
    }
    Ok(())
}

/// Segments and snapshots of a shard's folder, when nothing is under way.
///
/// # Errors
/// Old ones are not recycled.
pub fn files(snapshots: usize, spares: usize) -> Verdict {
    let (snapshots_max, spares_max) =
        (tenure::log::limits::SNAPSHOTS_KEPT + 1, tenure::log::limits::SPARE_SEGMENTS_MAX);
    if snapshots > snapshots_max || spares > spares_max {
        return Err(format!("S8 bounded: {snapshots} snapshots and {spares} spare segments are kept"));
    }
    Ok(())
}
