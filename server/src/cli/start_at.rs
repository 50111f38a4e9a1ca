//! Where `watch` starts: `oldest`, `now`, or a place per shard as printed by an earlier `watch`.
//!
//! A place is `SHARD:POSITION`, several are joined by commas: `0:40960,1:8192`. Shards that a list
//! leaves out start at the oldest event still kept: a slip of the pen repeats rather than loses.

use std::fmt;

use tenure_protocol::Position;

/// Where to start, per shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum StartAt {
    /// With the oldest event that the server still has.
    Oldest,
    /// With what ends from here on.
    Now,
    /// At these places; unnamed shards at the oldest.
    Places(Places),
}

/// A position in each of some shards, ordered by shard.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Places(Vec<(u16, Position)>);

impl Places {
    /// The place in one shard.
    pub(crate) fn position(&self, shard: u16) -> Option<Position> {
        self.0.iter().find(|(named, _)| *named == shard).map(|(_, position)| *position)
    }

    /// Moves a shard's place.
    pub(crate) fn set(&mut self, shard: u16, position: Position) {
        match self.0.binary_search_by_key(&shard, |(named, _)| *named) {
            Ok(index) => self.0[index].1 = position,
            Err(index) => self.0.insert(index, (shard, position)),
        }
    }

    /// The largest shard named.
    pub(crate) fn shard_max(&self) -> Option<u16> {
        self.0.last().map(|(shard, _)| *shard)
    }
}

impl fmt::Display for Places {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (shard, position)) in self.0.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            write!(f, "{comma}{shard}:{position}")?;
        }
        Ok(())
    }
}

/// Reads the argument of `--from`.
///
/// # Errors
/// Neither a word nor a list of places, or a shard that is named twice.
pub(crate) fn parse_start_at(text: &str) -> Result<StartAt, String> {
    match text {
        "oldest" => return Ok(StartAt::Oldest),
        "now" => return Ok(StartAt::Now),
        _ => {}
    }
    let refuse = || {
        format!(
            "`{text}` is not a place to start: write oldest, now, or SHARD:POSITION,.. as in 0:40960,1:8192"
        )
    };
    let mut places = Places::default();
    for part in text.split(',') {
        let (shard, position) = part.split_once(':').ok_or_else(refuse)?;
        let shard: u16 = shard.parse().map_err(|_| refuse())?;
        let position: u64 = position.parse().map_err(|_| refuse())?;
        if places.position(shard).is_some() {
            return Err(format!("shard {shard} is named twice in `{text}`"));
        }
        places.set(shard, Position(position));
    }
    Ok(StartAt::Places(places))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_words_and_places_and_prints_places_as_read() {
        assert_eq!(parse_start_at("oldest"), Ok(StartAt::Oldest));
        assert_eq!(parse_start_at("now"), Ok(StartAt::Now));
        let Ok(StartAt::Places(mut places)) = parse_start_at("1:8192,0:40960") else {
            panic!("places were given")
        };
        assert_eq!(places.position(0), Some(Position(40960)));
        assert_eq!(places.position(1), Some(Position(8192)));
        assert_eq!(places.position(2), None);
        assert_eq!(places.shard_max(), Some(1));
        assert_eq!(places.to_string(), "0:40960,1:8192");
        places.set(0, Position(40961));
        places.set(2, Position(7));
        assert_eq!(places.to_string(), "0:40961,1:8192,2:7");
        assert_eq!(parse_start_at(&places.to_string()), Ok(StartAt::Places(places)));
    }

    #[test]
    fn refuses_what_names_no_place() {
        for text in ["", "later", "0", "0:", ":1", "0:1,", "a:1", "0:x", "70000:1", "0:-1", "0:1:2"] {
            assert!(parse_start_at(text).expect_err(text).contains("SHARD:POSITION"), "{text}");
        }
        assert!(parse_start_at("0:1,0:2").unwrap_err().contains("twice"));
    }
}
