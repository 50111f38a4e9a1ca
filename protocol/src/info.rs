//! The reply to Info: tagged numbers and texts, so that a server can say more without a new version.
//!
//! A reader looks for the tags that it knows and passes over the others.

use crate::error::ProtocolError;
use crate::limits::TEXT_BYTES_MAX;
use crate::reader::{Reader, u16_at, u64_at};

/// Tags of the numbers in an Info reply. `index` is 0 unless a tag says otherwise.
pub mod tag {
    /// Live leases.
    pub const LEASES: u16 = 1;
    /// Items attached to live leases.
    pub const ITEMS: u16 = 2;
    /// Time since the server process started, ms.
    pub const UPTIME_MS: u16 = 3;
    /// 0 = primary, 1 = standby.
    pub const ROLE: u16 = 4;
    /// 0 = none (in memory), 1 = interval, 2 = always.
    pub const DURABILITY: u16 = 5;
    /// Shards of the engine.
    pub const SHARDS: u16 = 6;
    /// Open connections.
    pub const CONNECTIONS: u16 = 7;
    /// Leases granted since the process started.
    pub const GRANTED: u16 = 8;
    /// Renewals since the process started.
    pub const RENEWED: u16 = 9;
    /// Leases revoked since the process started.
    pub const REVOKED: u16 = 10;
    /// Leases expired since the process started.
    pub const EXPIRED: u16 = 11;
    /// Largest lateness of an expiry since the process started, ms.
    pub const LATENESS_MS_MAX: u16 = 12;
    /// Expiries by lateness; `index` is the bucket: 0 = under 1 ms, b = 2^(b-1) ms up to under 2^b ms.
    pub const LATENESS_BUCKET: u16 = 13;
    /// Everything below is on disk; `index` is the shard.
    pub const DURABLE_POSITION: u16 = 14;
    /// Where the events kept in memory begin: a subscription may start further back, as far as the log goes; `index` is
    /// the shard.
    pub const OLDEST_POSITION: u16 = 15;
    /// Live leases of one shard; `index` is the shard.
    pub const SHARD_LEASES: u16 = 16;
    /// The engine's uptime clock in ms; `index` is the shard.
    pub const SHARD_TIME_MS: u16 = 17;
    /// 0 = renewals not logged, 1 = logged.
    pub const RENEWALS_LOGGED: u16 = 18;
    /// Bytes of log on disk.
    pub const LOG_BYTES: u16 = 19;
    /// Bytes of memory that the lease tables hold.
    pub const MEMORY_BYTES: u16 = 20;
    /// CPU time of the server process, microseconds, user and system.
    pub const CPU_US: u16 = 21;
    /// Leases recovered when the server started.
    pub const RECOVERED: u16 = 22;
    /// How long recovery took, ms.
    pub const RECOVERY_MS: u16 = 23;
    /// Requests answered since the process started.
    pub const REQUESTS: u16 = 24;
    /// Refusals among them.
    pub const REFUSALS: u16 = 25;
    /// Longest turn of a core since the start, µs by the wall; `index` is the shard. While a turn runs, the core
    /// answers nobody.
    pub const TURN_US_MAX: u16 = 26;
    /// Longest that a turn took to apply what had arrived, µs of CPU time; `index` is the shard.
    pub const TURN_REQUESTS_US_MAX: u16 = 27;
    /// Longest slice of expiry, µs of CPU time; `index` is the shard.
    pub const TURN_EXPIRY_US_MAX: u16 = 28;
    /// Longest step of a snapshot, µs of CPU time; `index` is the shard.
    pub const TURN_SNAPSHOT_US_MAX: u16 = 29;
    /// Longest that a turn took to send replies and events, µs of CPU time; `index` is the shard.
    pub const TURN_REPLIES_US_MAX: u16 = 30;
    // 31 to 45 stand in `TURN_CAUSES`.
}

/// What can keep a core from answering: a name, and the tags of the longest that it did since the start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TurnCause {
    /// In a word.
    pub name: &'static str,
    /// Tag of the longest by the wall, µs, times included in which the system gave the CPU to somebody else.
    pub wall: u16,
    /// Tag of the longest in CPU time, µs.
    pub cpu: u16,
}

const fn cause(name: &'static str, wall: u16, cpu: u16) -> TurnCause {
    TurnCause { name, wall, cpu }
}

/// A whole turn, and what it is made of. `index` of each is the shard.
pub const TURN_CAUSES: [TurnCause; 10] = [
    cause("turn", tag::TURN_US_MAX, 31),
    // Taking and applying what arrived.
    cause("requests", 32, tag::TURN_REQUESTS_US_MAX),
    // The same, in turns in which the tables reached for new memory.
    cause("growth", 33, 34),
    cause("expiry", 35, tag::TURN_EXPIRY_US_MAX),
    // Of the timing wheel.
    cause("compaction", 36, 37),
    // Of leases that ended, and checkpoints: upkeep that writes records.
    cause("items", 38, 39),
    cause("snapshot", 40, tag::TURN_SNAPSHOT_US_MAX),
    // Sealing a batch, changing segments.
    cause("log", 41, 42),
    cause("replies", 43, tag::TURN_REPLIES_US_MAX),
    // Its sends and receives, where they run on this core and nothing waits.
    cause("kernel", 44, 45),
];

/// Tags of the texts in an Info reply.
pub mod text_tag {
    /// Name and version of the server.
    pub const SERVER: u16 = 1;
    /// Network driver in use.
    pub const DRIVER: u16 = 2;
    /// Durability in the words of the configuration.
    pub const DURABILITY: u16 = 3;
}

/// One number of an Info reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InfoNumber {
    /// What it is: see [`tag`].
    pub tag: u16,
    /// Which one, where there are several.
    pub index: u16,
    /// The value.
    pub value: u64,
}

/// One text of an Info reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InfoText<'a> {
    /// What it is: see [`text_tag`].
    pub tag: u16,
    /// The text.
    pub text: &'a str,
}

/// An Info reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Info<'a> {
    numbers: &'a [u8],
    texts: &'a [u8],
}

impl<'a> Info<'a> {
    /// ```text
    /// | numbers u16 | texts u16 | reserved u32 = 0 |
    /// | numbers × (tag u16, index u16, reserved u32 = 0, value u64) | texts × (tag u16, length u16, UTF-8) |
    /// ```
    pub(crate) fn decode(reader: &mut Reader<'a>) -> Result<Info<'a>, ProtocolError> {
        reader.flags(0)?;
        let number_count = reader.u16()?;
        let text_count = reader.u16()?;
        reader.zero::<4>()?;
        let numbers = reader.bytes(16 * number_count as usize)?;
        if numbers.as_chunks::<16>().0.iter().any(|raw| raw[4..8] != [0; 4]) {
            return Err(reader.bad_value("info number"));
        }
        let texts = reader.rest();
        let mut rest = texts;
        for _ in 0..text_count {
            let (text, after) = split_text(rest).ok_or(reader.length_error())?;
            if text.text.len() > TEXT_BYTES_MAX as usize {
                return Err(reader.bad_value("info text"));
            }
            rest = after;
        }
        if !rest.is_empty() {
            return Err(reader.length_error());
        }
        Ok(Info { numbers, texts })
    }

    /// The value of a number with index 0.
    #[must_use]
    pub fn number(&self, tag: u16) -> Option<u64> {
        self.numbers().find(|number| number.tag == tag && number.index == 0).map(|number| number.value)
    }

    /// All numbers.
    pub fn numbers(&self) -> impl ExactSizeIterator<Item = InfoNumber> + Clone + use<'a> {
        self.numbers.as_chunks::<16>().0.iter().map(|raw| InfoNumber {
            tag: u16_at(raw, 0),
            index: u16_at(raw, 2),
            value: u64_at(raw, 8),
        })
    }

    /// The text with this tag.
    #[must_use]
    pub fn text(&self, tag: u16) -> Option<&'a str> {
        self.texts().find(|text| text.tag == tag).map(|text| text.text)
    }

    /// All texts.
    pub fn texts(&self) -> impl Iterator<Item = InfoText<'a>> + Clone + use<'a> {
        let mut rest = self.texts;
        std::iter::from_fn(move || {
            let (text, after) = split_text(rest)?;
            rest = after;
            Some(text)
        })
    }
}

fn split_text(bytes: &[u8]) -> Option<(InfoText<'_>, &[u8])> {
    let (head, rest) = bytes.split_at_checked(4)?;
    let (text, rest) = rest.split_at_checked(u16_at(head, 2) as usize)?;
    let text = std::str::from_utf8(text).ok()?;
    Some((InfoText { tag: u16_at(head, 0), text }, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cause_of_a_long_turn_has_tags_of_its_own() {
        let mut tags: Vec<u16> = TURN_CAUSES.iter().flat_map(|cause| [cause.wall, cause.cpu]).collect();
        tags.sort_unstable();
        assert_eq!(tags, (tag::TURN_US_MAX..=45).collect::<Vec<_>>());
    }
}
