//! Hello and Welcome: the first frame each way.
//!
//! The start of a Hello (magic, version range) has the same place in every version, and a client of
//! several versions writes its Hello in the layout of version 1; so any server can read the range of
//! any client and name its own in the refusal. S8: neither frame may exceed 4 KiB, so a stranger
//! cannot make the server hold a megabyte.

use crate::error::ProtocolError;
use crate::id::RequestId;
use crate::limits::{AUTH_BYTES_MAX, Limits};
use crate::opcode;
use crate::reader::Reader;
use crate::writer::{FrameWriter, bounded_text, length_u16};
use crate::{VERSION_MAX, VERSION_MIN};

/// The first eight bytes of a Hello's body. The line end shows up transports that translate it.
pub const MAGIC: [u8; 8] = *b"TENURE\r\n";

/// On the wire: no wish for a shard.
const NO_SHARD: u32 = u32::MAX;

/// A client introduces itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hello<'a> {
    /// Lowest protocol version that the client speaks.
    pub version_min: u16,
    /// Highest.
    pub version_max: u16,
    /// The shard on whose core the client wants this connection, if it cares.
    pub wish_shard: Option<u16>,
    /// Optional features that the client can use. Version 1 defines none; unknown bits are ignored.
    pub features: u64,
    /// A random number that identifies the client across reconnects, so that a repeated grant can be
    /// recognised; 0: grants are not identified.
    pub client_id: u64,
    /// Credentials; empty when the server asks for none.
    pub auth: &'a [u8],
}

impl<'a> Hello<'a> {
    /// A Hello for every version that this crate speaks, with no wishes.
    #[must_use]
    pub const fn new(client_id: u64) -> Hello<'a> {
        Hello {
            version_min: VERSION_MIN,
            version_max: VERSION_MAX,
            wish_shard: None,
            features: 0,
            client_id,
            auth: &[],
        }
    }

    /// The version to use with this client: the highest that both sides speak.
    ///
    /// # Errors
    /// [`ProtocolError::VersionUnsupported`] when there is none.
    pub fn common_version(&self) -> Result<u16, ProtocolError> {
        common_version(self.version_min, self.version_max)
    }

    pub(crate) fn decode(reader: &mut Reader<'a>) -> Result<Hello<'a>, ProtocolError> {
        if *reader.chunk::<8>()? != MAGIC {
            return Err(ProtocolError::BadMagic);
        }
        let version_min = reader.u16()?;
        let version_max = reader.u16()?;
        // Before anything else: a later version may have added fields that this one cannot read.
        common_version(version_min, version_max)?;
        reader.flags(0)?;
        let wish_shard = match reader.u32()? {
            NO_SHARD => None,
            shard => Some(u16::try_from(shard).map_err(|_| reader.bad_value("wish shard"))?),
        };
        let features = reader.u64()?;
        let client_id = reader.u64()?;
        let auth_bytes = reader.u16()?;
        reader.zero::<2>()?;
        let auth = reader.bytes(auth_bytes as usize)?;
        reader.end()?;
        if u32::from(auth_bytes) > AUTH_BYTES_MAX {
            return Err(reader.bad_value("auth"));
        }
        Ok(Hello { version_min, version_max, wish_shard, features, client_id, auth })
    }

    /// Appends the frame.
    pub fn encode(&self, out: &mut Vec<u8>, request_id: RequestId) {
        let mut frame = FrameWriter::begin(out, opcode::request::HELLO, 0, request_id);
        frame.bytes(&MAGIC);
        frame.u16(self.version_min);
        frame.u16(self.version_max);
        frame.u32(self.wish_shard.map_or(NO_SHARD, u32::from));
        frame.u64(self.features);
        frame.u64(self.client_id);
        frame.u16(length_u16(self.auth.len()));
        frame.u16(0);
        frame.bytes(self.auth);
        frame.finish();
    }
}

fn common_version(version_min: u16, version_max: u16) -> Result<u16, ProtocolError> {
    let version = version_max.min(VERSION_MAX);
    if version < version_min.max(VERSION_MIN) {
        return Err(ProtocolError::VersionUnsupported { version_min, version_max });
    }
    Ok(version)
}

/// The server accepts a client and states its terms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Welcome<'a> {
    /// The version that both sides use from here on.
    pub version: u16,
    /// Shards of the engine behind this server, at least 1.
    pub shard_count: u16,
    /// The shard whose core serves this connection.
    pub shard: u16,
    /// The rule that maps an ID to its shard: 1, see [`crate::shard_of`].
    pub id_rule: u16,
    /// The features in force: a subset of the Hello's.
    pub features: u64,
    /// A number that names this connection in the server's log.
    pub session: u64,
    /// What the client must keep to on this connection.
    pub limits: Limits,
    /// Shorter TTLs are raised to this, ms.
    pub ttl_ms_min: u64,
    /// Longer TTLs are refused, ms.
    pub ttl_ms_max: u64,
    /// The server closes a connection from which nothing came for this long, ms; 0: never.
    pub idle_timeout_ms: u64,
    /// Name and version of the server, for people.
    pub server: &'a str,
}

impl<'a> Welcome<'a> {
    pub(crate) fn decode(reader: &mut Reader<'a>) -> Result<Welcome<'a>, ProtocolError> {
        reader.flags(0)?;
        let version = reader.u16()?;
        let shard_count = reader.u16()?;
        let shard = reader.u16()?;
        let id_rule = reader.u16()?;
        let features = reader.u64()?;
        let session = reader.u64()?;
        let limits = Limits {
            frame_bytes_max: reader.u32()?,
            window: reader.u32()?,
            batch_ids_max: reader.u32()?,
            grant_batch_max: reader.u32()?,
            item_bytes_max: reader.u32()?,
            list_page_max: reader.u32()?,
        };
        let ttl_ms_min = reader.u64()?;
        let ttl_ms_max = reader.u64()?;
        let idle_timeout_ms = reader.u64()?;
        let server_bytes = reader.u16()?;
        reader.zero::<2>()?;
        let server = reader.text(server_bytes as usize)?;
        reader.end()?;
        if !(VERSION_MIN..=VERSION_MAX).contains(&version) {
            return Err(ProtocolError::VersionUnsupported { version_min: version, version_max: version });
        }
        if shard >= shard_count {
            return Err(reader.bad_value("shard"));
        }
        if !limits.are_consistent() {
            return Err(reader.bad_value("limits"));
        }
        Ok(Welcome {
            version,
            shard_count,
            shard,
            id_rule,
            features,
            session,
            limits,
            ttl_ms_min,
            ttl_ms_max,
            idle_timeout_ms,
            server,
        })
    }

    /// Appends the frame.
    pub fn encode(&self, out: &mut Vec<u8>, request_id: RequestId) {
        let mut frame = FrameWriter::begin(out, opcode::request::HELLO | opcode::REPLY, 0, request_id);
        for number in [self.version, self.shard_count, self.shard, self.id_rule] {
            frame.u16(number);
        }
        frame.u64(self.features);
        frame.u64(self.session);
        let limits = &self.limits;
        for number in [
            limits.frame_bytes_max,
            limits.window,
            limits.batch_ids_max,
            limits.grant_batch_max,
            limits.item_bytes_max,
            limits.list_page_max,
        ] {
            frame.u32(number);
        }
        for number in [self.ttl_ms_min, self.ttl_ms_max, self.idle_timeout_ms] {
            frame.u64(number);
        }
        let server = bounded_text(self.server);
        frame.u16(length_u16(server.len()));
        frame.u16(0);
        frame.bytes(server.as_bytes());
        frame.finish();
    }
}
