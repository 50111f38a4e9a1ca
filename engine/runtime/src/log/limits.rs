//! Every bound of the log in one place (S8). The first group is the format's, the rest are choices.

/// Version of the batch and snapshot formats this build writes and reads.
pub const FORMAT_VERSION: u8 = 1;

/// Batches start at multiples of this, bytes: what O_DIRECT asks for on every disk we know of.
pub const BLOCK_BYTES: usize = 4_096;

/// Bytes of a batch header.
pub const HEADER_BYTES: usize = 64;

/// Largest batch, header included, bytes. A reader may allocate this much and no more for a batch.
pub const BATCH_BYTES_MAX: usize = 1 << 20;

/// Largest record bytes of one batch.
pub const RECORD_BYTES_MAX: usize = BATCH_BYTES_MAX - HEADER_BYTES;

/// Segment sizes are multiples of this, bytes, so that a cut-short file cannot pass for a whole one.
pub const SEGMENT_BYTES_UNIT: u64 = 1 << 20;

/// Segment size of a new log, bytes. Zero-filling one takes some 40 ms, a recycled one nothing.
pub const SEGMENT_BYTES_DEFAULT: u64 = 64 << 20;

/// Writes of one shard on their way to the disk. Four triple the commit rate of one for 30 % more
/// latency; more only lengthens the window that a crash can leave full of holes.
pub const WRITES_IN_FLIGHT_MAX: usize = 4;

/// Idle batch buffers kept for reuse by a writer; those in use are bounded by its caller's backlog.
pub const IDLE_BUFFERS_MAX: usize = 16;

/// Recycled segments kept waiting for use, per shard; more are deleted.
pub const SPARE_SEGMENTS_MAX: usize = 2;

/// Bytes a reader asks the disk for at a time. Enough for the device's full rate from one thread.
pub const READ_BYTES: usize = 2 << 20;

/// Largest snapshot chunk, bytes. A reader may allocate this much for one.
pub const SNAPSHOT_CHUNK_BYTES_MAX: usize = 4 << 20;

/// Snapshot chunks that may wait for the keeper; a full queue makes the shard wait a turn.
pub const SNAPSHOT_CHUNKS_WAITING_MAX: usize = 8;

/// Complete snapshots kept: the newest, and one to fall back to.
pub const SNAPSHOTS_KEPT: usize = 2;

/// Pause between attempts to prepare a segment on a full disk, ms.
pub const PREPARE_RETRY_MS: u64 = 1_000;

const _: () = assert!(BATCH_BYTES_MAX.is_multiple_of(BLOCK_BYTES));
const _: () = assert!(BATCH_BYTES_MAX as u64 <= SEGMENT_BYTES_UNIT);
const _: () = assert!(SEGMENT_BYTES_DEFAULT.is_multiple_of(SEGMENT_BYTES_UNIT));
const _: () = assert!(READ_BYTES >= BATCH_BYTES_MAX);
const _: () = assert!(READ_BYTES.is_multiple_of(BLOCK_BYTES));
const _: () = assert!(HEADER_BYTES < BLOCK_BYTES);
