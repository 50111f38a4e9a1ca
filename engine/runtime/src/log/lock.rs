//! The lock that keeps a second process out of a data directory, and tells it who is inside.
//!
//! An exclusive `flock` on `DIR/LOCK`, held as long as the value lives and released by the kernel
//! whatever becomes of the process. The text in the file is for people: a stale one means nothing.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::Write;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use super::error::LogError;

const LOCK_FILE: &str = "LOCK";

/// A held lock.
#[derive(Debug)]
pub struct DirLock {
    /// Closing the descriptor lets go of the lock.
    _file: Option<File>,
}

impl DirLock {
    /// A lock that keeps nobody out.
    #[cfg(feature = "simulation")]
    pub(crate) fn simulated() -> DirLock {
        DirLock { _file: None }
    }

    /// Takes the directory for writing and signs the lock file.
    ///
    /// # Errors
    /// Another process has it (named), or the file cannot be written.
    pub fn exclusive(dir: &Path) -> Result<DirLock, LogError> {
        let path = dir.join(LOCK_FILE);
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        let mut file = options.open(&path).map_err(LogError::io("create", &path))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(held(dir)),
            Err(TryLockError::Error(error)) => return Err(LogError::io("lock", &path)(error)),
        }
        let sign = |file: &mut File| {
            file.set_len(0)?;
            writeln!(file, "{}", signature())
        };
        sign(&mut file).map_err(LogError::io("write", &path))?;
        Ok(DirLock { _file: Some(file) })
    }

    /// Keeps writers out without writing, for tools that only read. `None`: there is no lock file.
    ///
    /// # Errors
    /// Another process has it for writing, or the file cannot be opened.
    pub fn shared(dir: &Path) -> Result<Option<DirLock>, LogError> {
        let path = dir.join(LOCK_FILE);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(LogError::io("open", &path)(error)),
        };
        match file.try_lock_shared() {
            Ok(()) => Ok(Some(DirLock { _file: Some(file) })),
            Err(TryLockError::WouldBlock) => Err(held(dir)),
            Err(TryLockError::Error(error)) => Err(LogError::io("lock", &path)(error)),
        }
    }
}

fn held(dir: &Path) -> LogError {
    let text = std::fs::read_to_string(dir.join(LOCK_FILE)).unwrap_or_default();
    let holder = text.lines().next().filter(|line| !line.is_empty()).unwrap_or("a reading tool").to_owned();
    LogError::Locked { path: dir.to_owned(), holder }
}

fn signature() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let host = if host.trim().is_empty() { "unknown host" } else { host.trim() };
    // Wall clock for people only: no decision is ever taken on it (S6).
    let since = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    format!("process {} on {host} since {}", std::process::id(), utc(since))
}

/// Seconds since 1970 as `YYYY-MM-DDThh:mm:ssZ`, proleptic Gregorian (Hinnant, "chrono-compatible
/// low-level date algorithms").
fn utc(seconds: u64) -> String {
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_shifted + 2) / 5 + 1;
    let month = if month_shifted < 10 { month_shifted + 3 } else { month_shifted - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (hour, minute, second) = (rest / 3600, rest / 60 % 60, rest % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_holder_is_told_who_is_first() {
        let dir = tempfile::tempdir().unwrap();
        let first = DirLock::exclusive(dir.path()).unwrap();
        let error = DirLock::exclusive(dir.path()).unwrap_err().to_string();
        assert!(error.contains(&format!("in use by process {}", std::process::id())), "{error}");
        assert!(DirLock::shared(dir.path()).is_err());
        drop(first);
        let tool = DirLock::shared(dir.path()).unwrap().unwrap();
        assert!(DirLock::shared(dir.path()).unwrap().is_some(), "readers do not exclude one another");
        assert!(DirLock::exclusive(dir.path()).is_err());
        drop(tool);
        drop(DirLock::exclusive(dir.path()).unwrap());
    }

    #[test]
    fn dates_are_right() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_735_689_599, "2024-12-31T23:59:59Z"),
            (4_102_444_800, "2100-01-01T00:00:00Z"),
        ] {
            assert_eq!(utc(seconds), text);
        }
    }
}
