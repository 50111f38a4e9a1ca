//! What can be wrong with bytes from outside.
//!
//! Decoding never panics and never allocates on behalf of a peer; whatever is wrong comes back as one
//! of these, and [`ProtocolError::refusal`] says what the server answers.

use std::fmt;

use crate::Refusal;

/// A frame that this side will not accept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ProtocolError {
    /// The length field is below the header's own 12 bytes.
    FrameTooShort {
        /// The length field.
        length: u32,
    },
    /// The length field is above the maximum in force.
    FrameTooLarge {
        /// The length field.
        length: u32,
        /// The maximum in force, bytes.
        frame_bytes_max: u32,
    },
    /// A reserved field is not zero.
    ReservedNotZero {
        /// The frame's opcode byte.
        opcode: u8,
    },
    /// The opcode is not one of this version, or not one for this direction.
    UnknownOpcode {
        /// The frame's opcode byte.
        opcode: u8,
    },
    /// A flag is set that the opcode does not have.
    UnknownFlags {
        /// The frame's opcode byte.
        opcode: u8,
        /// The frame's flags byte.
        flags: u8,
    },
    /// The body is shorter or longer than its fields.
    BodyLength {
        /// The frame's opcode byte.
        opcode: u8,
        /// Bytes after the header.
        body_bytes: u32,
    },
    /// A field has a value that it cannot have.
    BadValue {
        /// The frame's opcode byte.
        opcode: u8,
        /// The field's name in docs/protocol.md.
        field: &'static str,
    },
    /// More entries than the limit in force.
    BatchTooLarge {
        /// Entries in the frame.
        count: u32,
        /// The limit in force.
        count_max: u32,
    },
    /// An item longer than the limit in force.
    ItemTooLarge {
        /// Bytes of the item.
        item_bytes: u32,
        /// The limit in force.
        item_bytes_max: u32,
    },
    /// A text is not UTF-8.
    NotUtf8 {
        /// The frame's opcode byte.
        opcode: u8,
    },
    /// The Hello does not start with the magic bytes: something else is talking.
    BadMagic,
    /// The Hello offers no version that this side has.
    VersionUnsupported {
        /// Lowest version offered.
        version_min: u16,
        /// Highest version offered.
        version_max: u16,
    },
}

impl ProtocolError {
    /// The refusal that answers this. `refusal().is_fatal()` says whether the connection must close.
    #[must_use]
    pub const fn refusal(self) -> Refusal {
        match self {
            ProtocolError::FrameTooLarge { .. } => Refusal::FrameTooLarge,
            ProtocolError::UnknownOpcode { .. } => Refusal::UnknownOpcode,
            ProtocolError::BatchTooLarge { .. } => Refusal::BatchTooLarge,
            ProtocolError::ItemTooLarge { .. } => Refusal::ItemTooLarge,
            ProtocolError::VersionUnsupported { .. } => Refusal::VersionUnsupported,
            ProtocolError::FrameTooShort { .. }
            | ProtocolError::ReservedNotZero { .. }
            | ProtocolError::UnknownFlags { .. }
            | ProtocolError::BodyLength { .. }
            | ProtocolError::BadValue { .. }
            | ProtocolError::NotUtf8 { .. }
            | ProtocolError::BadMagic => Refusal::Malformed,
        }
    }

    /// The detail number that goes with the refusal: the limit in force, or the versions of this side.
    #[must_use]
    pub const fn detail(self) -> u64 {
        match self {
            ProtocolError::FrameTooLarge { frame_bytes_max: max, .. }
            | ProtocolError::BatchTooLarge { count_max: max, .. }
            | ProtocolError::ItemTooLarge { item_bytes_max: max, .. } => max as u64,
            ProtocolError::VersionUnsupported { .. } => {
                crate::VERSION_MIN as u64 | (crate::VERSION_MAX as u64) << 16
            }
            _ => 0,
        }
    }
}

impl fmt::Display for ProtocolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            ProtocolError::FrameTooShort { length } => {
                write!(f, "frame length {length} is below the header's 12 bytes")
            }
            ProtocolError::FrameTooLarge { length, frame_bytes_max } => {
                write!(f, "frame length {length} is above the maximum of {frame_bytes_max}")
            }
            ProtocolError::ReservedNotZero { opcode } => {
                write!(f, "a reserved field is not zero (opcode {opcode:#04x})")
            }
            ProtocolError::UnknownOpcode { opcode } => write!(f, "unknown opcode {opcode:#04x}"),
            ProtocolError::UnknownFlags { opcode, flags } => {
                write!(f, "unknown flags {flags:#04x} (opcode {opcode:#04x})")
            }
            ProtocolError::BodyLength { opcode, body_bytes } => {
                write!(f, "a body of {body_bytes} bytes does not match its fields (opcode {opcode:#04x})")
            }
            ProtocolError::BadValue { opcode, field } => {
                write!(f, "field {field} has a value that it cannot have (opcode {opcode:#04x})")
            }
            ProtocolError::BatchTooLarge { count, count_max } => {
                write!(f, "a batch of {count} entries is above the maximum of {count_max}")
            }
            ProtocolError::ItemTooLarge { item_bytes, item_bytes_max } => {
                write!(f, "an item of {item_bytes} bytes is above the maximum of {item_bytes_max}")
            }
            ProtocolError::NotUtf8 { opcode } => write!(f, "a text is not UTF-8 (opcode {opcode:#04x})"),
            ProtocolError::BadMagic => f.write_str("the first bytes are not those of a Tenure client"),
            ProtocolError::VersionUnsupported { version_min, version_max } => write!(
                f,
                "versions {version_min} to {version_max} are offered, this side has {} to {}",
                crate::VERSION_MIN,
                crate::VERSION_MAX
            ),
        }
    }
}

impl std::error::Error for ProtocolError {}
