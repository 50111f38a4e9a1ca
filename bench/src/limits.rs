//! Every maximum of the load generator, in one place (S8 bounded): a run ends, whatever the server does.
//!
//! Each phase is bounded in time and in operations, each queue in bytes. The defaults that a user may
//! change stand in `args`; these are the walls behind them.

use std::time::Duration;

/// Most connections of one run.
pub const CONNECTIONS_MAX: usize = 16_384;

/// Most requests in flight on one connection; the server's window may be smaller and then wins.
pub const DEPTH_MAX: usize = 16_384;

/// Most leases granted by one phase: 8 bytes each are kept, so a gigabyte.
pub const LEASES_MAX: u64 = 128_000_000;

/// Longest measured time of one phase.
pub const DURATION_MAX: Duration = Duration::from_secs(3_600);

/// Leases per frame when filling. Large enough that the frame's cost vanishes, small enough that a
/// batch spends no more than a few milliseconds in the server.
pub const FILL_BATCH: usize = 4_096;

/// Leases per frame when revoking.
pub const REVOKE_BATCH: usize = 4_096;

/// Most requests of one write in an open loop: a writer that fell behind catches up in pieces, and
/// looks for replies between them.
pub const OPEN_LOOP_WRITE_MAX: usize = 256;

/// Leases granted by the pipelined grant phase at most, per run: they are kept to be revoked after.
pub const GRANTS_MAX: u64 = 8_000_000;

/// Receive buffers of a load thread's ring, which all its connections share, and their size: 16 MiB of
/// address space, of which only what arrives is ever touched.
pub const RECEIVE_BUFFERS: u16 = 512;
/// See [`RECEIVE_BUFFERS`].
pub const RECEIVE_BUFFER_BYTES: usize = 32 << 10;

/// Submission entries of a load thread's ring; a turn that queues more submits in between.
pub const RING_SUBMISSIONS: u32 = 1_024;

/// Completion entries: a receive and a send for every connection of a full turn.
pub const RING_COMPLETIONS: u32 = 16 * RING_SUBMISSIONS;

/// How long a connection may take to be accepted and welcomed.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// A server that owes replies and sends none for this long has failed the run.
pub const SILENCE_MAX: Duration = Duration::from_secs(15);

/// How long the child may take from its start to `listening on`.
pub const START_TIMEOUT: Duration = Duration::from_secs(60);

/// How long the child may take from SIGTERM to its exit; it is killed after.
pub const STOP_TIMEOUT: Duration = Duration::from_secs(30);

/// How long after their deadline the last expiries of a storm may come, beside one second per million.
pub const STORM_GRACE: Duration = Duration::from_secs(60);

/// Leases of a trace that is drawn before a phase and then walked: 32 MB for each shard.
pub const TRACE_LEASES_MAX: usize = 4 << 20;

/// Clients at a time, per load thread, that connect, work and close.
pub const CHURN_CLIENTS: usize = 16;

/// Leases of each list that are renewed one by one after a restart.
pub const RESTART_SAMPLE: usize = 500;

/// Lines of the child's output that are kept for an error report.
pub const CHILD_LINES_MAX: usize = 200;

/// Longest line of the child's output that is kept, bytes.
pub const CHILD_LINE_BYTES_MAX: usize = 4_096;

const _: () = assert!(FILL_BATCH <= tenure_protocol::limits::GRANT_BATCH_MAX as usize);
const _: () = assert!(REVOKE_BATCH <= tenure_protocol::limits::BATCH_IDS_MAX as usize);
const _: () = assert!(DEPTH_MAX <= tenure_protocol::limits::WINDOW as usize);
