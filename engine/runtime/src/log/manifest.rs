//! The manifest: the one small text file that says what a data directory is.
//!
//! TOML whose last line is a comment with the CRC-32C of everything before it, replaced as a whole
//! (written aside, synced, renamed, directory synced), so that it is always the old one or the new
//! one. It is rewritten once per start, before the first log write, with the next *epoch*: batches of
//! an earlier run that a crash left behind the tail carry a smaller epoch and are never taken up. The
//! same rewrite records each shard's recovered *tail*: a log that is later found shorter has lost
//! acknowledged data, even where no batch is left to say so (S3).
//!
//! Does not know what the numbers of a shard mean to the core, nor when to re-shard.

use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::disk::DiskPort;
use super::error::LogError;
use super::limits::{BLOCK_BYTES, FORMAT_VERSION, HEADER_BYTES};

/// File name of the manifest in a data directory.
pub const MANIFEST_FILE: &str = "MANIFEST";

const HEAD: &str = "# Manifest of a Tenure data directory, written by the engine. Do not edit: the checksum would not match.\n";
const CRC_PREFIX: &str = "# crc32c ";

/// What a data directory is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Version of all formats in the directory.
    pub format: u64,
    /// Random identity of the log, carried by every batch and snapshot.
    #[serde(with = "hex")]
    pub log_id: u64,
    /// Starts of the engine on this directory; the running one's epoch.
    pub epoch: u32,
    /// Generations of server-assigned IDs used up before re-shardings, as `[first, next]`: never
    /// issued again, whichever shard they would belong to now.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub issued: Vec<[u64; 2]>,
    /// One entry per shard, in shard order.
    #[serde(rename = "shard")]
    pub shards: Vec<ShardManifest>,
}

/// What one shard of a data directory is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShardManifest {
    /// Folder of its segments and snapshots, inside the data directory.
    pub directory: String,
    /// Where the generations of its server-assigned IDs count from.
    pub generation_base: u64,
    /// Seed of its hash tables.
    #[serde(with = "hex")]
    pub seed: u64,
    /// Position of the first byte of its log. Not 0 after re-sharding: positions, and with them
    /// fencing tokens, go on above those of every shard before.
    pub start: u64,
    /// The log is known complete up to here; a multiple of 4096.
    pub tail: u64,
}

impl Manifest {
    /// A manifest of a new log.
    #[must_use]
    pub fn new(log_id: u64, shards: Vec<ShardManifest>) -> Manifest {
        Manifest { format: u64::from(FORMAT_VERSION), log_id, epoch: 0, issued: Vec::new(), shards }
    }

    /// The text of the file.
    #[must_use]
    pub fn encode(&self) -> String {
        let mut text = HEAD.to_owned();
        text += &toml::to_string(self).expect("a manifest is plain numbers and names");
        let line = crc_line(&text);
        text + &line
    }

    /// Reads the text of a manifest file. `path` is for the error.
    ///
    /// # Errors
    /// The checksum does not match, the version is another, or the contents contradict themselves.
    pub fn decode(path: &Path, text: &str) -> Result<Manifest, LogError> {
        let invalid = |reason: String| LogError::Manifest { path: path.to_owned(), reason };
        let body = checked_body(text).map_err(|reason| invalid(reason.to_owned()))?;
        let table: toml::Table = body.parse().map_err(|error| invalid(format!("not valid TOML: {error}")))?;
        // The version first: a later one may have other fields.
        let format = table.get("format").and_then(toml::Value::as_integer);
        let format = format.ok_or_else(|| invalid("no format version".to_owned()))?;
        if format != i64::from(FORMAT_VERSION) {
            return Err(LogError::Version { path: path.to_owned(), found: format.unsigned_abs() });
        }
        let manifest: Manifest =
            table.try_into().map_err(|error| invalid(format!("{error}").trim().to_owned()))?;
        manifest.check().map_err(invalid)?;
        Ok(manifest)
    }

    fn check(&self) -> Result<(), String> {
        if self.shards.is_empty() || self.shards.len() > usize::from(u16::MAX) {
            return Err(format!("{} shards", self.shards.len()));
        }
        for (index, shard) in self.shards.iter().enumerate() {
            let name = Path::new(&shard.directory);
            if name.components().count() != 1 || name.file_name() != Some(name.as_os_str()) {
                return Err(format!("shard {index} has the directory {:?}", shard.directory));
            }
            if self.shards[..index].iter().any(|other| other.directory == shard.directory) {
                return Err(format!("two shards have the directory {:?}", shard.directory));
            }
            let block = BLOCK_BYTES as u64;
            let aligned = shard.start.is_multiple_of(block) && shard.tail.is_multiple_of(block);
            if !aligned || shard.tail < shard.start || shard.tail > i64::MAX as u64 - HEADER_BYTES as u64 {
                return Err(format!("shard {index} goes from {} to {}", shard.start, shard.tail));
            }
        }
        Ok(())
    }

    /// Reads the manifest of a data directory; `None` when it has none.
    ///
    /// # Errors
    /// As [`decode`](Self::decode), or the file cannot be read.
    pub fn read(dir: &Path) -> Result<Option<Manifest>, LogError> {
        Manifest::read_on(&DiskPort::System, dir)
    }

    pub(super) fn read_on(disk: &DiskPort, dir: &Path) -> Result<Option<Manifest>, LogError> {
        let path = dir.join(MANIFEST_FILE);
        let bytes = match disk.read_whole(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(LogError::io("read", &path)(error)),
        };
        let text = String::from_utf8(bytes)
            .map_err(|_| LogError::Manifest { path: path.clone(), reason: "not text".to_owned() })?;
        Manifest::decode(&path, &text).map(Some)
    }

    /// Replaces the manifest of a data directory, durably.
    ///
    /// # Errors
    /// The file or the directory could not be written; the old manifest is then still in place.
    pub fn write(&self, dir: &Path) -> Result<(), LogError> {
        self.write_on(&DiskPort::System, dir)
    }

    pub(super) fn write_on(&self, disk: &DiskPort, dir: &Path) -> Result<(), LogError> {
        self.check().expect("only sound manifests are written");
        let path = dir.join(MANIFEST_FILE);
        let aside = dir.join("MANIFEST.tmp");
        let write = || -> io::Result<()> {
            disk.write_whole(&aside, self.encode().as_bytes())?;
            disk.rename(&aside, &path)?;
            if tenure_planted::is(tenure_planted::Bug::ManifestUnsynced) {
                return Ok(());
            }
            disk.sync_dir(dir)
        };
        write().map_err(LogError::io("write", &path))
    }
}

/// The part that the last line's checksum vouches for.
fn checked_body(text: &str) -> Result<&str, &'static str> {
    let at = text.rfind(CRC_PREFIX).ok_or("its checksum line is missing: torn or cut short")?;
    let (body, line) = text.split_at(at);
    if line == crc_line(body) { Ok(body) } else { Err("its checksum does not match") }
}

fn crc_line(body: &str) -> String {
    format!("{CRC_PREFIX}{:08x}\n", crc_fast::crc32_iscsi(body.as_bytes()))
}

/// TOML integers are signed: whole 64-bit values are written as hex strings.
mod hex {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde gives a reference")]
    pub(super) fn serialize<S: Serializer>(value: &u64, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&format!("{value:016x}"))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
        let text = String::deserialize(deserializer)?;
        u64::from_str_radix(&text, 16).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest() -> Manifest {
        let shard = |index: u64| ShardManifest {
            directory: format!("shard-{index:04}"),
            generation_base: index << 34,
            seed: u64::MAX - index,
            start: 0,
            tail: 4096 * index,
        };
        Manifest { epoch: 7, ..Manifest::new(0xfedc_ba98_7654_3210, vec![shard(0), shard(1)]) }
    }

    fn decode(text: &str) -> Result<Manifest, LogError> {
        Manifest::decode(Path::new("DIR/MANIFEST"), text)
    }

    fn resealed(body: &str) -> String {
        format!("{body}{}", crc_line(body))
    }

    #[test]
    fn reads_what_it_wrote() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Manifest::read(dir.path()).unwrap(), None);
        manifest().write(dir.path()).unwrap();
        assert_eq!(Manifest::read(dir.path()).unwrap(), Some(manifest()));
        assert!(!dir.path().join("MANIFEST.tmp").exists());
    }

    #[test]
    fn torn_and_flipped_manifests_are_refused_by_name() {
        let text = manifest().encode();
        for length in 0..text.len() {
            let error = decode(&text[..length]).expect_err("a cut manifest").to_string();
            assert!(error.starts_with("DIR/MANIFEST: "), "{error}");
        }
        for bit in 0..text.len() * 8 {
            let mut bytes = text.clone().into_bytes();
            bytes[bit / 8] ^= 1 << (bit % 8);
            let Ok(bad) = String::from_utf8(bytes) else { continue };
            assert!(decode(&bad).is_err(), "bit {bit}: {bad}");
        }
    }

    #[test]
    fn a_later_version_is_named() {
        let body = manifest().encode().replace("format = 1", "format = 2\nsomething = \"new\"");
        let body = &body[..body.rfind(CRC_PREFIX).unwrap()];
        let error = decode(&resealed(body)).unwrap_err().to_string();
        assert_eq!(error, "DIR/MANIFEST: format version 2, this build reads 1");
    }

    #[test]
    fn contradictions_are_refused() {
        let text = manifest().encode();
        let body = &text[..text.rfind(CRC_PREFIX).unwrap()];
        for (from, to, names) in [
            ("shard-0001", "../elsewhere", "directory"),
            ("shard-0001", ".", "directory"),
            ("shard-0001", "shard-0000", "directory"),
            ("tail = 4096", "tail = 4097", "shard 1"),
            ("tail = 4096", "tail = 4096\nsurprise = 1", "surprise"),
            ("tail = 4096", "tail = -4096", "tail"),
            ("format = 1", "", "format"),
        ] {
            assert!(body.contains(from));
            let error = decode(&resealed(&body.replace(from, to))).unwrap_err().to_string();
            assert!(error.contains(names), "{from} -> {to}: {error}");
        }
    }
}
