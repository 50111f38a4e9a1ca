//! What can go wrong with a log, in words that name file, place and way out.
//!
//! Faults of the world only: refusals to clients are elsewhere, and bugs assert. A [`LogError`] comes
//! from opening, reading and tools and leaves everything as it was; a [`LogFault`] is a failed write
//! or sync of a running log, after which nothing truthful can be said and the process ends.

use std::io;
use std::path::{Path, PathBuf};

use super::limits::FORMAT_VERSION;

/// Why a log could not be opened, read or changed.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// A file operation failed.
    #[error("cannot {what} {}: {source}{}", path.display(), advice(source))]
    Io {
        /// What was tried, as a verb.
        what: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the system answered.
        source: io::Error,
    },
    /// The disk does not give back what is on it. Nothing is known about the bytes, so nothing is changed or repaired.
    #[error("cannot read {} at byte {offset}: {source} (the disk fails: copy the data directory to a sound one)", path.display())]
    Unreadable {
        /// Which file.
        path: PathBuf,
        /// First byte that could not be read.
        offset: u64,
        /// What the system answered.
        source: io::Error,
    },
    /// Another process has the directory.
    #[error("{} is in use by {holder}: stop that process first, or choose another directory", path.display())]
    Locked {
        /// The data directory.
        path: PathBuf,
        /// What the lock file says about the holder.
        holder: String,
    },
    /// Written by a version of the format that this build does not read.
    #[error("{}: format version {found}, this build reads {FORMAT_VERSION}", path.display())]
    Version {
        /// The file.
        path: PathBuf,
        /// The version it has.
        found: u64,
    },
    /// The manifest cannot be trusted.
    #[error("{}: {reason}; restore the file from a backup of the data directory", path.display())]
    Manifest {
        /// The manifest.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Acknowledged data is missing or damaged.
    #[error(transparent)]
    Damaged(Box<Damage>),
    /// The caller asked a tool for something that is not there.
    #[error("{0}")]
    Request(String),
    /// The replaying state machine refused sound bytes.
    #[error("{}: {reason}", path.display())]
    Replay {
        /// Segment or snapshot the bytes came from.
        path: PathBuf,
        /// What it said, with the position.
        reason: String,
    },
}

/// Acknowledged data that is missing or damaged. Nothing was changed by finding it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("damaged log: {} at byte {offset} (position {position}): {reason}.{}", path.display(), self.way_out())]
pub struct Damage {
    /// The file that is damaged or missing.
    pub path: PathBuf,
    /// Byte offset in that file.
    pub offset: u64,
    /// The same place as a position in the shard's log.
    pub position: u64,
    /// What is wrong.
    pub reason: String,
    /// Which shard.
    pub shard: u16,
    /// Whether cutting the log at `position` would let it start again.
    pub can_truncate: bool,
}

impl Damage {
    fn way_out(&self) -> String {
        let (shard, position) = (self.shard, self.position);
        // The file lies in the directory of its shard, and that in the data directory.
        let dir = quoted(self.path.ancestors().nth(2).unwrap_or(&self.path));
        if self.can_truncate {
            format!(
                " Nothing was changed. `tenure verify {dir}` shows the extent; to give up everything of this shard \
                 from there on: `tenure repair {dir} --shard {shard} --truncate-at {position}`"
            )
        } else {
            " Nothing was changed. Restore the file from a backup of the data directory".to_owned()
        }
    }
}

/// A path as a shell takes it for one word, whatever is in it.
fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-".contains(c);
    if text.starts_with(|c| plain(c) && c != '-') && text.chars().all(plain) {
        return text;
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

impl From<Damage> for LogError {
    fn from(damage: Damage) -> Self {
        LogError::Damaged(Box::new(damage))
    }
}

impl LogError {
    /// For `map_err`: `LogError::io("open", path)`.
    pub(super) fn io(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> LogError {
        move |source| LogError::Io { what, path: path.to_owned(), source }
    }
}

fn advice(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::StorageFull => " (free some space and start again)",
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            " (the data directory must be writable by this user)"
        }
        _ => "",
    }
}

/// A write or sync of a running log failed. It is never retried: after a failed sync the kernel may
/// have dropped the data and report success the next time. The process ends and recovers.
#[derive(Debug, thiserror::Error)]
#[error("log write of {length} bytes at byte {offset} of {}: {reason}", path.display())]
pub struct LogFault {
    /// Segment written to.
    pub path: PathBuf,
    /// Byte offset in it.
    pub offset: u64,
    /// Bytes that were to be written.
    pub length: usize,
    /// What happened.
    pub reason: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proposed_command_names_the_directory_as_one_word() {
        let quoted = |path: &str| quoted(Path::new(path));
        assert_eq!(quoted("/var/lib/tenure-1.2"), "/var/lib/tenure-1.2");
        assert_eq!(quoted("/srv/my data"), "'/srv/my data'");
        assert_eq!(quoted("/srv/$HOME's"), r"'/srv/$HOME'\''s'");
        assert_eq!(quoted("-x"), "'-x'");
    }
}
