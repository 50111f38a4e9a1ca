//! The systems that are compared, and where their programs are.
//!
//! A peer that is not installed is not an error: its rows say that it is missing, and what to do. Found
//! are, in this order: the folder given with `--bin-dir`, the one that `install-peers.sh` fills, PATH.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// One system, in the order of the report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Peer {
    /// This project's server.
    Tenure,
    /// etcd 3.5 or newer.
    Etcd,
    /// etcd 3.5.1: its keepalives are cheaper than those of later releases.
    Etcd351,
    /// Redis.
    Redis,
    /// Valkey.
    Valkey,
    /// memcached.
    Memcached,
}

/// Peers that speak the same language.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    Tenure,
    Etcd,
    Resp,
    Memcached,
}

impl Peer {
    /// All of them.
    pub(crate) const ALL: [Peer; 6] =
        [Peer::Tenure, Peer::Etcd, Peer::Etcd351, Peer::Redis, Peer::Valkey, Peer::Memcached];

    pub(crate) fn family(self) -> Family {
        match self {
            Peer::Tenure => Family::Tenure,
            Peer::Etcd | Peer::Etcd351 => Family::Etcd,
            Peer::Redis | Peer::Valkey => Family::Resp,
            Peer::Memcached => Family::Memcached,
        }
    }

    /// For people.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Peer::Tenure => "Tenure",
            Peer::Etcd | Peer::Etcd351 => "etcd",
            Peer::Redis => "Redis",
            Peer::Valkey => "Valkey",
            Peer::Memcached => "memcached",
        }
    }

    /// The file name of its program.
    pub(crate) fn program(self) -> &'static str {
        match self {
            Peer::Tenure => "tenure",
            Peer::Etcd => "etcd",
            Peer::Etcd351 => "etcd-3.5.1",
            Peer::Redis => "redis-server",
            Peer::Valkey => "valkey-server",
            Peer::Memcached => "memcached",
        }
    }
}

/// A peer that can be started.
#[derive(Clone, Debug)]
pub(crate) struct Installed {
    pub(crate) peer: Peer,
    pub(crate) exe: PathBuf,
    pub(crate) version: String,
}

/// Finds a peer's program and asks it for its version.
///
/// # Errors
/// What to do about it, for the report.
pub(crate) fn find(peer: Peer, places: &[PathBuf]) -> Result<Installed, String> {
    let program = peer.program();
    let exe = places.iter().map(|place| place.join(program)).find(|exe| is_program(exe));
    let exe = exe.ok_or_else(|| match peer {
        Peer::Tenure => "not built: cargo build --release, or say --bin-dir".to_owned(),
        _ => format!("{program} is not installed: bench/compare/install-peers.sh, or say --bin-dir"),
    })?;
    let output = Command::new(&exe).arg("--version").stdin(Stdio::null()).output();
    let output = output.map_err(|error| format!("{} does not start: {error}", exe.display()))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let said = said.lines().next().unwrap_or_default();
        return Err(format!("{} --version failed: {said}", exe.display()));
    }
    let version = version_in(&String::from_utf8_lossy(&output.stdout));
    let version = version.ok_or_else(|| format!("{} --version names no version", exe.display()))?;
    Ok(Installed { peer, exe, version })
}

/// Where to look: the given folder or the one of `install-peers.sh`, beside this program, PATH.
pub(crate) fn places(bin_dir: Option<&Path>) -> Vec<PathBuf> {
    let mut places: Vec<PathBuf> = bin_dir.map(Path::to_owned).into_iter().collect();
    if let Ok(own) = std::env::current_exe()
        && let Some(beside) = own.parent()
    {
        places.push(beside.to_owned());
        // target/release/tenure-compare: target/peers/bin.
        places.extend(beside.parent().map(|target| target.join("peers/bin")));
    }
    places.push(PathBuf::from("target/peers/bin"));
    places.extend(std::env::var_os("PATH").iter().flat_map(std::env::split_paths));
    // Servers are started in a directory of their own, from where another folder would be meant.
    places.into_iter().map(|place| std::path::absolute(&place).unwrap_or(place)).collect()
}

fn is_program(path: &Path) -> bool {
    path.is_file() && rustix::fs::access(path, rustix::fs::Access::EXEC_OK).is_ok()
}

/// The first word that begins like `3.5.30`, perhaps after `v=`.
fn version_in(text: &str) -> Option<String> {
    let words = text.split_whitespace().map(|word| word.strip_prefix("v=").unwrap_or(word));
    let mut versions =
        words.filter(|word| word.starts_with(|c: char| c.is_ascii_digit()) && word.contains('.'));
    versions.next().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn versions_are_found_in_what_the_programs_print() {
        let printed = [
            ("etcd Version: 3.5.30\nGit SHA: GitNotFound\nGo Version: go1.26\n", "3.5.30"),
            ("Redis server v=8.0.6 sha=00000000:0 malloc=jemalloc-5.3.1 bits=64", "8.0.6"),
            ("Valkey server v=9.1.2 sha=00000000:0", "9.1.2"),
            ("memcached 1.6.45\n", "1.6.45"),
            ("tenure 0.1.0\n", "0.1.0"),
        ];
        for (text, version) in printed {
            assert_eq!(version_in(text).as_deref(), Some(version));
        }
        assert_eq!(version_in("no version"), None);
    }

    #[test]
    fn places_are_meant_from_where_the_comparison_was_started() {
        let places = places(Some(Path::new("some/bin")));
        assert!(places.iter().all(|place| place.is_absolute()), "{places:?}");
        assert!(places[0].ends_with("some/bin"));
    }

    #[test]
    fn a_peer_is_found_in_the_first_place_and_a_missing_one_says_what_to_do() {
        let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let places = [first.path().to_owned(), second.path().to_owned()];
        let missing = find(Peer::Memcached, &places).unwrap_err();
        assert!(missing.contains("install-peers.sh"), "{missing}");
        for (place, version) in [(&second, "2.0"), (&first, "1.0")] {
            let exe = place.path().join("memcached");
            std::fs::write(&exe, format!("#!/bin/sh\necho memcached {version}\n")).unwrap();
            assert!(find(Peer::Memcached, &[place.path().to_owned()]).is_err(), "not executable");
            std::fs::set_permissions(&exe, std::fs::Permissions::from_mode(0o755)).unwrap();
            assert_eq!(find(Peer::Memcached, &places).unwrap().version, version);
        }
    }
}
