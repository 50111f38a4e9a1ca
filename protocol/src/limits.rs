//! Every maximum of the wire protocol, in one place (S8 bounded).
//!
//! The constants are the defaults of version 1. A server may be configured with smaller values and
//! says so in its Welcome; [`Limits`] carries the values in force to the decoders. The const
//! assertions at the end tie the numbers together: the largest batch, its largest reply, the largest
//! page and the largest event must each fit one frame.

/// Bytes of the header that opens every frame.
pub const HEADER_BYTES: usize = 12;

/// Largest frame, header included. One MiB holds the largest renew batch twice over and still arrives
/// in about a millisecond on a 10 Gbit/s link, so one big frame does not hold up its neighbours.
pub const FRAME_BYTES_MAX: u32 = 1 << 20;

/// Largest Hello and largest Welcome: a peer that has not introduced itself gets no megabyte of buffer.
pub const HELLO_FRAME_BYTES_MAX: u32 = 4_096;

/// Largest credential in a Hello, bytes.
pub const AUTH_BYTES_MAX: u32 = 2_048;

/// Largest text (server name, explanation of a refusal), bytes of UTF-8. Encoders cut longer ones.
pub const TEXT_BYTES_MAX: u32 = 1_024;

/// Most lease IDs in one RenewBatch or RevokeBatch.
pub const BATCH_IDS_MAX: u32 = 65_536;

/// Most leases in one GrantBatch; bounded by its reply of 40 bytes a lease.
pub const GRANT_BATCH_MAX: u32 = 16_384;

/// Largest item, bytes.
pub const ITEM_BYTES_MAX: u32 = 4_096;

/// Most leases on one page of List.
pub const LIST_PAGE_MAX: u32 = 8_192;

/// Most (ID, token) entries in one Ended event.
pub const EVENT_ENTRIES_MAX: u32 = 4_096;

/// Most requests in flight on one connection.
pub const WINDOW: u32 = 65_536;

/// Smallest `frame_bytes_max` that a server may announce: a page of the items of an ended lease, 64 KiB and one item,
/// has one position and so must fit one frame.
pub const FRAME_BYTES_MAX_FLOOR: u32 = 128 << 10;

/// The limits in force on one connection: the server's configuration, announced in its Welcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Largest frame in bytes, header included.
    pub frame_bytes_max: u32,
    /// Most requests in flight on the connection.
    pub window: u32,
    /// Most IDs in a RenewBatch or RevokeBatch.
    pub batch_ids_max: u32,
    /// Most leases in a GrantBatch.
    pub grant_batch_max: u32,
    /// Largest item in bytes.
    pub item_bytes_max: u32,
    /// Most leases on a page of List; larger wishes are cut to it.
    pub list_page_max: u32,
}

impl Limits {
    /// The defaults of protocol version 1.
    pub const DEFAULT: Limits = Limits {
        frame_bytes_max: FRAME_BYTES_MAX,
        window: WINDOW,
        batch_ids_max: BATCH_IDS_MAX,
        grant_batch_max: GRANT_BATCH_MAX,
        item_bytes_max: ITEM_BYTES_MAX,
        list_page_max: LIST_PAGE_MAX,
    };

    /// Whether each bounded request and its largest reply fit a frame. A server checks its
    /// configuration with this before it listens.
    #[must_use]
    pub const fn are_consistent(&self) -> bool {
        let frame = self.frame_bytes_max as u64;
        // Fixed parts: 16 bytes cover every counted body's own fields.
        let fixed = HEADER_BYTES as u64 + 16;
        self.frame_bytes_max >= FRAME_BYTES_MAX_FLOOR
            && self.frame_bytes_max <= 1 << 30
            && self.window >= 1
            && fixed + 8 * (self.batch_ids_max as u64) <= frame
            && fixed + 40 * (self.grant_batch_max as u64) <= frame
            && fixed + 40 * (self.list_page_max as u64) <= frame
            // A TimeToLive page carries at least one item after 40 bytes of fields.
            && self.item_bytes_max <= u16::MAX as u32
            && HEADER_BYTES as u64 + 40 + 2 + self.item_bytes_max as u64 <= frame
    }
}

impl Default for Limits {
    fn default() -> Limits {
        Limits::DEFAULT
    }
}

const _: () = assert!(Limits::DEFAULT.are_consistent());
const _: () = assert!(HEADER_BYTES as u32 + 36 + AUTH_BYTES_MAX <= HELLO_FRAME_BYTES_MAX);
const _: () = assert!(HEADER_BYTES as u32 + 76 + TEXT_BYTES_MAX <= HELLO_FRAME_BYTES_MAX);
const _: () = assert!(HEADER_BYTES as u32 + 24 + 16 * EVENT_ENTRIES_MAX <= FRAME_BYTES_MAX);
const _: () = assert!(HELLO_FRAME_BYTES_MAX <= FRAME_BYTES_MAX_FLOOR);
