//! The machine that a run was made on, for the report: figures without it mean nothing.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde::{Deserialize, Serialize};

use crate::human;

/// Where a run was made.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Host {
    /// CPUs that this process may use.
    pub cpus: usize,
    /// The model of the first.
    pub cpu_model: String,
    /// Memory in bytes.
    pub memory_bytes: u64,
    /// Release of the kernel.
    pub kernel: String,
    /// Commit of the source tree that the binary was built from, `-dirty` when it had changes; not known
    /// when the tree is gone.
    pub commit: Option<String>,
    /// When the run began, seconds since 1970.
    pub unix_time_s: u64,
}

impl Host {
    /// Looks around. What cannot be found out says so.
    #[must_use]
    pub fn observe() -> Host {
        let unknown = || "unknown".to_owned();
        let since_1970 = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        Host {
            cpus: cpu_count(),
            cpu_model: field("/proc/cpuinfo", "model name").unwrap_or_else(unknown),
            memory_bytes: field("/proc/meminfo", "MemTotal").and_then(|text| kibibytes(&text)).unwrap_or(0),
            kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
            commit: commit(),
            unix_time_s: since_1970.map_or(0, |elapsed| elapsed.as_secs()),
        }
    }
}

impl Host {
    /// In a line.
    pub(crate) fn line(&self) -> String {
        format!(
            "{}, {} CPUs, {} memory, Linux {}{}",
            self.cpu_model,
            self.cpus,
            human::bytes(self.memory_bytes as f64),
            self.kernel,
            self.commit.as_ref().map_or(String::new(), |commit| format!(", commit {commit}"))
        )
    }
}

/// CPUs that this process may use.
pub(crate) fn cpu_count() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// The value of `name` in a file of `name : value` lines.
pub(crate) fn field(path: impl AsRef<Path>, name: &str) -> Option<String> {
    let text = std::fs::read_to_string(path).ok()?;
    let mut fields = text.lines().filter_map(|line| line.split_once(':'));
    fields.find(|(key, _)| key.trim() == name).map(|(_, value)| value.trim().to_owned())
}

/// Bytes of `123 kB`.
pub(crate) fn kibibytes(text: &str) -> Option<u64> {
    text.strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib * 1024)
}

fn commit() -> Option<String> {
    let git = |arguments: &[&str]| {
        let tree = env!("CARGO_MANIFEST_DIR");
        let output = Command::new("git").arg("-C").arg(tree).args(arguments).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let commit = git(&["rev-parse", "--short=12", "HEAD"])?;
    let dirty = git(&["status", "--porcelain", "--untracked-files=no"]).is_some_and(|text| !text.is_empty());
    Some(if dirty { format!("{commit}-dirty") } else { commit })
}

/// Lets this process and its children open as many files as they may; how many that is.
pub(crate) fn raise_open_files() -> u64 {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, ..limit };
    // Where it is refused, what was allowed before still is.
    let allowed = if setrlimit(Resource::Nofile, raised).is_ok() { limit.maximum } else { limit.current };
    allowed.unwrap_or(u64::MAX)
}

/// Keeps the calling thread on one CPU.
///
/// # Errors
/// When there is no such CPU, or it is not allowed.
pub fn pin_to(cpu: usize) -> std::io::Result<()> {
    let mut set = rustix::thread::CpuSet::new();
    if cpu >= rustix::thread::CpuSet::MAX_CPU {
        return Err(std::io::ErrorKind::InvalidInput.into());
    }
    set.set(cpu);
    Ok(rustix::thread::sched_setaffinity(None, &set)?)
}

/// Where a temporary directory is on a disk, so that a durable log is one: the first such place among
/// TMPDIR, /var/tmp and the working directory.
pub fn disk_directory() -> PathBuf {
    let places = [std::env::temp_dir(), PathBuf::from("/var/tmp"), PathBuf::from(".")];
    let found = places.iter().find(|place| is_writable(place) && !in_memory(place));
    found.unwrap_or(&places[0]).clone()
}

fn is_writable(place: &Path) -> bool {
    rustix::fs::access(place, rustix::fs::Access::WRITE_OK).is_ok()
}

/// Whether the file system keeps its files in memory: nothing there is durable.
pub fn in_memory(place: &Path) -> bool {
    const TMPFS_MAGIC: i64 = 0x0102_1994;
    const RAMFS_MAGIC: i64 = 0x8584_58f6;
    #[allow(clippy::unnecessary_cast, reason = "the type differs between architectures")]
    let kind = rustix::fs::statfs(place).map(|status| status.f_type as i64);
    kind.is_ok_and(|kind| kind == TMPFS_MAGIC || kind == RAMFS_MAGIC)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn observes_this_machine() {
        let host = Host::observe();
        assert!(host.cpus >= 1 && host.memory_bytes > 1 << 20, "{host:?}");
        assert!(host.kernel.contains('.'), "{host:?}");
        assert!(!in_memory(Path::new("/")) || in_memory(Path::new("/dev/shm")));
    }

    #[test]
    fn fields_are_found_by_their_whole_name() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "MemTotalX: 1 kB\nMemTotal:  2048 kB\n").unwrap();
        let total = field(file.path(), "MemTotal").unwrap();
        assert_eq!(kibibytes(&total), Some(2 << 20));
        assert_eq!(field(file.path(), "Mem"), None);
        assert_eq!(kibibytes("12 MB"), None);
    }
}
