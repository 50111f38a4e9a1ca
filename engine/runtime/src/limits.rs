//! Every bound of the runtime in one place (S8): queues, batches, slices of a turn.
//!
//! Full means a `Busy` refusal or a pause of the producer, never growth without end. Numbers
//! carry their reason; the assertions at the end tie those together that must agree.

/// Most entries a batch request may hold: thousands of leases in one frame, half a MiB of IDs.
pub const BATCH_IDS_MAX: usize = 65_536;

/// Entries of a batch that are applied between two looks at the size of the open log batch: at most
/// 40 bytes of records each, a third of what a log batch may hold.
pub const BATCH_CHUNK: usize = 8_192;

/// Messages that may wait in one core's inbox. A message is a whole batch of requests, so this is
/// far more than one turn's worth; beyond it senders get `Busy`.
pub const INBOX_MESSAGES_MAX: usize = 4_096;

/// Messages a core takes from its inbox in one turn, so that embedders' traffic cannot starve the
/// network front that shares the core (L3).
pub const INBOX_MESSAGES_PER_TURN: usize = 256;

/// Time since a turn's beginning after which no further message is taken, in µs, so that embedders and other cores
/// leave the network front its share of the turn (L3). One message may hold a batch of requests that takes longer.
pub const TURN_INBOX_US_MAX: u64 = 500;

/// The same where the clock stands still in a turn, in messages.
pub const TURN_INBOX_STEPS: u32 = 16;

/// Time since a turn's beginning after which no further request is taken, in µs: the rest waits for the next turn.
/// Everything in a turn waits for all of it, so this bounds how long one client's requests hold up the others'; a
/// single request of 65,536 leases takes longer. Turns this long cost a few µs more of system calls, under 1 %.
pub const TURN_REQUESTS_US_MAX: u64 = 1_000;

/// Bytes taken between two looks at the clock, some tens of µs of work.
pub const TURN_LOOK_BYTES: usize = 16 * 1024;

/// Requests one core may have waiting at its peers. Bounds the replies that can come back at once.
pub const FORWARDS_IN_FLIGHT_MAX: usize = 262_144;

/// Requests gathered for one peer before they are published as a message within a turn.
pub const FORWARD_BATCH_MAX: usize = 1_024;

/// Record bytes in the open batch at which it is sealed even while other writes are in flight.
/// Below, a batch gathers until the write before it is done: a commit costs ~30 µs of CPU, so
/// small ones are not worth overlapping.
pub const BATCH_BYTES_EAGER: usize = 16 * 1024;

/// Record bytes at which the open batch is sealed and queued, whatever is in flight.
pub const BATCH_BYTES_SEAL: usize = 256 * 1024;

/// Sealed bytes waiting for the disk beyond which a shard refuses writes with `Busy` and stops
/// expiring: the backlog a disk must work off before the next acknowledgement.
pub const LOG_BACKLOG_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Leases one `expire` call may visit. About 10–40 µs of work.
pub const EXPIRE_BUDGET: usize = 1_024;

/// Most time a turn may spend on expiry and upkeep before requests are looked at again (L3), in µs.
pub const BACKGROUND_TURN_US_MAX: u64 = 300;

/// The same where the clock stands still in a turn, in calls of `expire`: about as much work.
pub const BACKGROUND_TURN_STEPS: u32 = 8;

/// Least time for expiry and upkeep in a turn, while there is something to do: about one call of `expire`, in µs.
pub const BACKGROUND_TURN_US_MIN: u64 = 60;

/// And at least one in so many of the turn.
pub const BACKGROUND_TURN_SHARE: u32 = 6;

/// How long a turn with expiry and upkeep is to last as a whole, requests, log, events and the kernel's part included, in µs:
/// whoever asks for something then waits for half of it on average. Shorter turns end fewer leases, because each has
/// its system calls and carries fewer answers in each packet.
pub const TURN_US_AIM: u64 = 500;

/// Table places one upkeep call may touch.
pub const MAINTAIN_BUDGET: usize = 4_096;

/// Snapshot bytes written per turn while a snapshot is under way.
pub const IMAGE_STEP_BYTES: usize = 64 * 1024;

/// Longest time the engine's clock may go unlogged while leases live, in ms. It bounds how far a
/// restart can stretch a deadline whose lease is pinned in the log.
pub const CLOCK_RECORD_INTERVAL_MS: u64 = 250;

/// A turn that starts this long after the last one ended although the core did not sleep (or
/// overslept by this much) counts as a pause of the whole process, in ms: what arrived meanwhile
/// is served before anything expires.
pub const PAUSE_MS_MIN: u64 = 200;

/// How long expiry waits after a detected pause so that queued renewals are read first, in ms.
pub const PAUSE_GRACE_MS: u64 = 50;

/// How long a stopping engine waits for a full disk to have room again, in ms: as long as a server gives its clients to
/// take their last replies. What then has no place in the log was not acknowledged (at `Durability::Always`), and the process says so by its end.
pub const STOP_FULL_MS: u64 = 5_000;

/// Most shards of one engine. The ID rule leaves each of 1,024 shards 2^25 generations per slot.
pub const SHARD_COUNT_MAX: u16 = 1_024;

const _: () = assert!(BATCH_BYTES_EAGER < BATCH_BYTES_SEAL);
const _: () =
    assert!(BATCH_BYTES_SEAL + BATCH_CHUNK * 40 + 128 * 1024 <= crate::log::limits::BATCH_BYTES_MAX);
const _: () = assert!(BATCH_IDS_MAX * 32 <= LOG_BACKLOG_BYTES_MAX);
const _: () = assert!(BATCH_BYTES_SEAL * 4 <= LOG_BACKLOG_BYTES_MAX);
const _: () = assert!(INBOX_MESSAGES_PER_TURN <= INBOX_MESSAGES_MAX);
const _: () = assert!(TURN_INBOX_US_MAX < TURN_REQUESTS_US_MAX);
const _: () = assert!(BACKGROUND_TURN_US_MIN <= BACKGROUND_TURN_US_MAX);
const _: () = assert!(PAUSE_GRACE_MS < PAUSE_MS_MIN);
