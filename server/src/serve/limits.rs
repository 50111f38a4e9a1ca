//! Every bound of the server in one place (S8): connections, buffers, times.
//!
//! What a client is told of them goes out in the Welcome as [`tenure_protocol::Limits`]; these are
//! the server's own.

use std::time::Duration;

/// Where a server listens when nobody says: this machine only, so that nothing is open to the world
/// by accident.
pub const LISTEN_DEFAULT: &str = "127.0.0.1:7070";

/// Connections at a time, over all cores. Each costs about 1 KiB at rest.
pub const CONNECTION_COUNT_MAX_DEFAULT: u32 = 65_536;

/// Time within which a stranger must say Hello.
pub const HANDSHAKE_TIMEOUT_DEFAULT: Duration = Duration::from_secs(5);

/// Silence after which a connection without a subscription is closed.
pub const IDLE_TIMEOUT_DEFAULT: Duration = Duration::from_secs(600);

/// Time without progress after which a connection whose send buffer is full is dropped.
pub const SLOW_READER_TIMEOUT_DEFAULT: Duration = Duration::from_secs(10);

/// Unsent bytes (and bytes promised to requests in flight) of one connection beyond which nothing
/// more is taken from it. A few of the largest replies.
pub const SEND_BYTES_MAX_DEFAULT: usize = 4 << 20;

/// Largest frame that can be configured. The replies of a turn are built in memory, so this is
/// also what one connection can make a core copy at a time.
pub const FRAME_BYTES_MAX_MAX: u32 = 64 << 20;

/// How long a start waits for an address that is taken, and how often it looks.
pub const ADDRESS_WAIT_MAX: Duration = Duration::from_secs(2);
/// Pause between two looks.
pub const ADDRESS_RETRY: Duration = Duration::from_millis(10);

/// Connections waiting to be accepted, per listener and core.
pub const BACKLOG: i32 = 4_096;

/// Renew frames whose leases are fetched ahead of the one being renewed. A renewal costs 10 ns and
/// a fetch from memory 100 ns.
pub const PREFETCH_FRAMES: usize = 24;

/// Buffers that a core's connections receive into, at most: 16 MiB of address space, of which only what
/// arrives is ever touched. One buffer per connection with data in a turn.
pub const RECEIVE_BUFFER_COUNT: u16 = 1_024;
/// How many of them are in use at first, 1 MiB: twice as many whenever they did not suffice. The kernel goes round all
/// that are in use, and few stay in the cache.
pub const RECEIVE_BUFFER_COUNT_FIRST: u16 = 64;
/// Bytes of one receive buffer: about 800 Renew frames.
pub const RECEIVE_BUFFER_BYTES: usize = 16 << 10;

/// Capacity that an idle connection may keep of each buffer.
pub const IDLE_BUFFER_BYTES: usize = 16 << 10;

/// How often connections are looked at for timeouts.
pub const SWEEP_INTERVAL_MS: u64 = 250;

/// How long a closing connection may take to read its last bytes and say goodbye, ms.
pub const LINGER_MS: u64 = 2_000;

/// The same when the server is stopping, ms.
pub const LINGER_STOP_MS: u64 = 300;

/// How long a stopping server waits for clients to take their last replies, ms.
pub const DRAIN_MS: u64 = 5_000;

/// Pause before accepting again when the system had no descriptor left.
pub const ACCEPT_PAUSE_MS: u64 = 100;

/// Requests that one core may have split over several shards at a time.
pub const SCATTERED_MAX: usize = 65_536;

/// Subscriptions that one connection may hold.
pub const SUBSCRIPTIONS_PER_SESSION: usize = 1_024;

/// Bytes of events put into a connection's send buffer at a time: 16,000 ends, some 200 µs of work.
pub const EVENT_BYTES_AHEAD: usize = 256 << 10;

/// How long a core encodes events in one turn before it looks at its requests again: the shares of a few subscribers.
pub const EVENTS_SLICE: Duration = Duration::from_millis(1);

const _: () = assert!(RECEIVE_BUFFER_COUNT_FIRST <= RECEIVE_BUFFER_COUNT);
const _: () = assert!(RECEIVE_BUFFER_COUNT.is_power_of_two() && RECEIVE_BUFFER_COUNT <= 1 << 15);
const _: () = assert!(
    tenure_core::limits::ENDED_ITEMS_BYTES_PER_CALL + tenure_core::limits::ITEM_BYTES_MAX + 128
        <= tenure_protocol::limits::FRAME_BYTES_MAX_FLOOR as usize,
    "a record of an ended lease's items has one position, and so must fit one frame"
);
const _: () = assert!(SEND_BYTES_MAX_DEFAULT >= tenure_protocol::limits::FRAME_BYTES_MAX as usize);
const _: () =
    assert!(SCATTERED_MAX <= 1 << 16, "a scattered request's slot travels in 16 bits of its ticket");
