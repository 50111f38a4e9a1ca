//! `tenure bench goals --peers`: the rows that need etcd, Redis, Valkey and memcached beside Tenure.
//!
//! They are measured by another program, `tenure-compare` (`bench/compare`), which knows how to start and load
//! them; it uses this crate, so this crate can only run it. It must lie beside the `tenure` binary or on PATH.
//! What it prints is taken as it is: medians of interleaved rounds, Tenure measured again among its peers.
//! Of a peer with several shapes of a job (etcd's streams), the best one counts, figure by figure.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};

use super::GoalsArgs;
use super::rows::Unit;
use super::table::text;
use crate::interrupt;

const PROGRAM: &str = "tenure-compare";
const HOW_TO_BUILD: &str = "build it with `cargo build --release -p tenure-compare`, and fetch the peers with \
                            `bench/compare/install-peers.sh`";

/// One job of one system in one shape.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PeerRow {
    /// `renew32`, and so on: the names of `tenure-compare run --jobs`.
    pub job: String,
    /// `tenure`, `etcd`, `redis`, `valkey`, `memcached`.
    pub peer: String,
    /// Of its program.
    #[serde(default)]
    pub version: String,
    /// The shape of the load.
    #[serde(default)]
    pub how: String,
    /// Medians over the rounds; units are in the names.
    #[serde(default)]
    pub figures: BTreeMap<String, f64>,
    /// In most rounds the load was at its limit.
    #[serde(default)]
    pub load_limited: bool,
    /// What went wrong, and how often.
    #[serde(default)]
    pub errors: BTreeMap<String, u64>,
    /// Why there are no figures.
    #[serde(default)]
    pub missing: Option<String>,
}

/// A figure by which systems are compared.
struct Compared {
    job: &'static str,
    key: &'static str,
    title: &'static str,
    unit: Unit,
    more_is_better: bool,
    /// From its unit to that of `unit`.
    factor: f64,
}

const fn cpu(job: &'static str, title: &'static str) -> Compared {
    less(job, "server_cpu_ns", title, Unit::Ns)
}

const fn rate(job: &'static str, title: &'static str) -> Compared {
    Compared { job, key: "per_second", title, unit: Unit::PerSecond, more_is_better: true, factor: 1.0 }
}

const fn less(job: &'static str, key: &'static str, title: &'static str, unit: Unit) -> Compared {
    Compared { job, key, title, unit, more_is_better: false, factor: 1.0 }
}

/// The rows, in the order of the goals.
const COMPARED: [Compared; 16] = [
    cpu("renew32", "renew, one per frame, 64 x 32: CPU"),
    rate("renew32", "renew, one per frame, 64 x 32"),
    cpu("renew1", "renew, one per frame, 64 x 1: CPU"),
    rate("renew1", "renew, one per frame, 64 x 1"),
    cpu("renew-batch", "renew in batches of 256: CPU"),
    rate("renew-batch", "renew in batches of 256"),
    cpu("grant-durable", "durable grant: CPU"),
    rate("grant-durable", "durable grant"),
    less("grant-durable1", "p50_ns", "durable grant, one at a time: p50", Unit::Ns),
    less("storm", "late_max_ns", "mass expiry: the last one late by", Unit::Ns),
    less("storm", "cpu_per_expiry_ns", "mass expiry: CPU per lease", Unit::Ns),
    less("storm", "during_p99_ns", "mass expiry: p99 of renewals beside it", Unit::Ns),
    less("lateness", "late_p99_ns", "lateness of an expiry, 500 a second: p99, idle", Unit::Ns),
    less(
        "lateness-loaded",
        "late_p99_ns",
        "lateness of an expiry, 500 a second: p99, beside 10 k renewals/s",
        Unit::Ns,
    ),
    less("memory", "bytes_per_lease", "memory per live lease", Unit::Bytes),
    Compared {
        job: "restart",
        key: "first_answer_s",
        title: "kill -9 to the first answer",
        unit: Unit::Ns,
        more_is_better: false,
        factor: 1e9,
    },
];

/// Runs the comparison; its progress goes to standard error.
///
/// # Errors
/// When there is no such program, or it measured nothing.
pub(super) fn measure(server_exe: &Path, place: &Path, args: &GoalsArgs) -> anyhow::Result<Vec<PeerRow>> {
    let mut command = Command::new(find(server_exe)?);
    command.args(["run", "--json", "--data-dir"]).arg(place);
    command
        .args(server_exe.parent().into_iter().flat_map(|beside| ["--bin-dir".as_ref(), beside.as_os_str()]));
    command.args(args.quick.then_some("--quick"));
    if let Some(file) = &args.peers_json_out {
        command.arg("--json-out").arg(file);
    }
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {PROGRAM}"))?;
    let mut output = child.stdout.take().expect("piped above");
    let reader = std::thread::spawn(move || {
        let mut text = String::new();
        output.read_to_string(&mut text).map(|_| text)
    });
    let status = loop {
        if let Some(status) = child.try_wait().with_context(|| format!("cannot wait for {PROGRAM}"))? {
            break status;
        }
        if interrupt::is_interrupted()
            && let Some(pid) = i32::try_from(child.id()).ok().and_then(Pid::from_raw)
        {
            // It may have ended just now, which is what is wanted.
            let _ = kill_process(pid, Signal::TERM);
        }
        std::thread::sleep(Duration::from_millis(50));
    };
    let text =
        reader.join().expect("reading does not panic").with_context(|| format!("cannot read {PROGRAM}"))?;
    // Its exit code is that of its rows, which say more.
    read(&text).with_context(|| format!("{PROGRAM} ended with {}", crate::child::describe(status)))
}

/// Beside the server's program, or on PATH.
fn find(server_exe: &Path) -> anyhow::Result<PathBuf> {
    let beside = server_exe.parent().map(|place| place.join(PROGRAM));
    let on_path = std::env::var_os("PATH");
    let on_path = on_path.iter().flat_map(std::env::split_paths).map(|place| place.join(PROGRAM));
    match beside.into_iter().chain(on_path).find(|path| path.is_file()) {
        Some(path) => Ok(path),
        None => bail!("there is no {PROGRAM} beside {} or on PATH: {HOW_TO_BUILD}", server_exe.display()),
    }
}

fn read(text: &str) -> anyhow::Result<Vec<PeerRow>> {
    #[derive(Deserialize)]
    struct Medians {
        rows: Vec<PeerRow>,
    }
    let line = text.lines().last().context("it printed nothing")?;
    let medians: Medians =
        serde_json::from_str(line).context("it printed something else than its medians")?;
    Ok(medians.rows)
}

/// What went wrong, in words: a system that is not installed is none of it.
pub(super) fn problems(rows: &[PeerRow]) -> Vec<String> {
    let failed = rows.iter().filter_map(|row| {
        let why = row.missing.as_ref().filter(|why| why.starts_with("failed"))?;
        Some(format!("{} of {}: {why}", row.job, row.peer))
    });
    let errors = rows.iter().flat_map(|row| {
        row.errors.iter().map(|(what, count)| format!("{} of {}: {what} {count} times", row.job, row.peer))
    });
    failed.chain(errors).collect()
}

/// Systems that are not there, each with the reason.
pub(crate) fn absent(rows: &[PeerRow]) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    for row in rows.iter().filter(|row| !rows.iter().any(|it| it.peer == row.peer && it.missing.is_none())) {
        let text = format!("{}: {}", row.peer, row.missing.as_deref().unwrap_or_default());
        if !found.contains(&text) {
            found.push(text);
        }
    }
    found
}

/// Head and rows of a table: Tenure's value, and each peer's with how many times better Tenure is; `lost` marks
/// those below 1.
pub(crate) fn cells(rows: &[PeerRow], lost: impl Fn(String) -> String) -> Vec<Vec<String>> {
    let mut peers: Vec<(&str, &str)> = Vec::new();
    for row in rows.iter().filter(|row| row.peer != "tenure" && row.missing.is_none()) {
        if !peers.iter().any(|(peer, _)| *peer == row.peer) {
            peers.push((&row.peer, &row.version));
        }
    }
    let mut head = vec![String::new(), "Tenure".to_owned()];
    head.extend(peers.iter().map(|(peer, version)| format!("{peer} {version}")));
    let mut table = vec![head];
    for compared in &COMPARED {
        let ours = best(rows, "tenure", compared);
        let number =
            |value: Option<f64>| value.map_or("-".to_owned(), |v| text(v * compared.factor, compared.unit));
        let mut line = vec![compared.title.to_owned(), number(ours)];
        line.extend(peers.iter().map(|(peer, _)| {
            let theirs = best(rows, peer, compared);
            let ratio = ours.zip(theirs).map(|(ours, theirs)| match compared.more_is_better {
                true => ours / theirs,
                false => theirs / ours,
            });
            let least = if is_least(rows, peer, compared) { ">= " } else { "" };
            match ratio.filter(|ratio| ratio.is_finite() && *ratio > 0.0) {
                Some(ratio) if ratio < 1.0 => lost(format!("{} (x {})", number(theirs), times(ratio))),
                Some(ratio) => format!("{least}{} (x {})", number(theirs), times(ratio)),
                None => number(theirs),
            }
        }));
        table.push(line);
    }
    table
}

/// Whether more ends were never told than a p99 leaves out: then it is later than that.
fn is_least(rows: &[PeerRow], peer: &str, compared: &Compared) -> bool {
    let mut of_job = rows.iter().filter(|row| row.peer == peer && row.job == compared.job);
    let figure = |row: &PeerRow, key| row.figures.get(key).copied().unwrap_or(0.0);
    compared.key == "late_p99_ns" && of_job.any(|row| figure(row, "untold") > 0.01 * figure(row, "leases"))
}

fn best(rows: &[PeerRow], peer: &str, compared: &Compared) -> Option<f64> {
    let of_job = rows.iter().filter(|row| row.peer == peer && row.job == compared.job);
    let values = of_job.filter_map(|row| row.figures.get(compared.key).copied());
    values.reduce(if compared.more_is_better { f64::max } else { f64::min })
}

/// Two or three digits.
fn times(ratio: f64) -> String {
    match ratio {
        ratio if ratio >= 99.5 => format!("{ratio:.0}"),
        ratio if ratio >= 9.95 => format!("{ratio:.1}"),
        ratio => format!("{ratio:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As `tenure-compare run --json` prints it.
    const PRINTED: &str = r#"{"kind":"peers","schema":1,"host":{"cpus":2},"plan":{"rounds":3},"rows":[
        {"job":"renew32","peer":"tenure","version":"0.1.0","settings":"","how":"64 x 32","rounds":3,
         "figures":{"server_cpu_ns":200.0,"per_second":5e6},"ranges":{},"tenure_better":{},"load_limited":true,
         "errors":{},"missing":null},
        {"job":"renew32","peer":"etcd","version":"3.5.30","settings":"","how":"64 x 32","rounds":3,
         "figures":{"server_cpu_ns":9000.0,"per_second":1e5},"load_limited":false,"errors":{},"missing":null},
        {"job":"renew32","peer":"etcd","version":"3.5.30","settings":"","how":"8 x 1024","rounds":3,
         "figures":{"server_cpu_ns":8000.0,"per_second":9e4},"load_limited":false,"errors":{},"missing":null},
        {"job":"restart","peer":"tenure","version":"0.1.0","settings":"","how":"","rounds":3,
         "figures":{"first_answer_s":0.3},"load_limited":false,"errors":{},"missing":null},
        {"job":"restart","peer":"etcd","version":"3.5.30","settings":"","how":"","rounds":3,
         "figures":{"first_answer_s":0.1},"load_limited":false,"errors":{"gone":2},"missing":null},
        {"job":"lateness","peer":"tenure","version":"0.1.0","settings":"","how":"","rounds":3,
         "figures":{"late_p99_ns":5e6,"leases":1500,"untold":0},"load_limited":false,"errors":{},"missing":null},
        {"job":"lateness","peer":"etcd","version":"3.5.30","settings":"","how":"","rounds":3,
         "figures":{"late_p99_ns":1e10,"leases":1500,"untold":40},"load_limited":false,"errors":{},"missing":null},
        {"job":"restart","peer":"valkey","version":"","settings":"","how":"","rounds":0,
         "figures":{},"load_limited":false,"errors":{},"missing":"valkey-server is not installed"}]}"#;

    fn printed() -> Vec<PeerRow> {
        read(&PRINTED.replace('\n', "")).unwrap()
    }

    #[test]
    fn ratios_are_to_the_best_shape_of_a_peer_and_losses_are_marked() {
        let cells = cells(&printed(), |text| format!("{text} LOST"));
        assert_eq!(cells[0], ["", "Tenure", "etcd 3.5.30"]);
        assert_eq!(cells[1][1..], ["200 ns", "8.00 us (x 40.0)"]);
        assert_eq!(cells[2][1..], ["5.00 M/s", "100 k/s (x 50.0)"]);
        assert!(cells.iter().any(|row| row[1..] == ["5.00 ms", ">= 10.0 s (x 2000)"]), "{cells:?}");
        assert_eq!(cells[cells.len() - 1][1..], ["300 ms", "100 ms (x 0.33) LOST"]);
        assert!(cells.iter().all(|row| row.len() == 3));
    }

    #[test]
    fn a_failure_is_told_and_a_peer_that_is_not_installed_is_none() {
        assert_eq!(problems(&printed()), ["restart of etcd: gone 2 times"]);
        assert_eq!(absent(&printed()), ["valkey: valkey-server is not installed"]);
        assert!(read("").is_err() && read("tenure-compare: no").is_err());
    }

    #[test]
    fn without_the_program_the_reader_is_told_how_to_build_it() {
        let nowhere = tempfile::tempdir().unwrap();
        let exe = nowhere.path().join("tenure");
        if let Err(error) = find(&exe) {
            assert!(error.to_string().contains("install-peers.sh"), "{error}");
        }
        std::fs::write(nowhere.path().join(PROGRAM), "").unwrap();
        assert_eq!(find(&exe).unwrap(), nowhere.path().join(PROGRAM));
    }
}
