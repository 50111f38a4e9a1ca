//! Runs the paths under callgrind and reads what it counted.
//!
//! gungraun builds the benchmark, runs each path in a valgrind process of its own, and prints one JSON line each.
//! Its runner is a separate program that must have the library's version: `bench/instructions/install` sees to it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, bail, ensure};
use serde_json::Value;

/// Operations of each path: as in `benches/paths/main.rs`.
const OPERATIONS: f64 = 10_240.0;

const INSTALL: &str = "run bench/instructions/install";

/// The root of the repository.
pub(crate) fn root() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.ancestors().nth(2).expect("the crate is two folders below the root").to_owned()
}

/// Instructions per operation of each path, by `group::function id`.
pub(crate) fn paths() -> anyhow::Result<BTreeMap<String, f64>> {
    let valgrind = Command::new("valgrind").arg("--version").stdout(Stdio::null()).status();
    ensure!(valgrind.is_ok_and(|status| status.success()), "valgrind is not here: {INSTALL}");
    let target = target()?;
    let installed = target.join("tools/bin/gungraun-runner");
    let runner = std::env::var_os("GUNGRAUN_RUNNER").map_or(installed, PathBuf::from);
    ensure!(runner.is_file(), "gungraun's runner is not at {}: {INSTALL}", runner.display());
    // Without earlier results, which the runner would compare with.
    let home = target.join("instructions");
    if home.exists() {
        std::fs::remove_dir_all(&home).with_context(|| format!("cannot remove {}", home.display()))?;
    }
    let mut bench = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    bench.args(["bench", "--locked", "--package", "tenure-instructions", "--bench", "paths", "--"]);
    bench.args(["--output-format=json".into(), format!("--home={}", home.display())]);
    bench.current_dir(root()).env("GUNGRAUN_RUNNER", runner).stderr(Stdio::inherit());
    let output = bench.output().context("cannot run cargo bench")?;
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success(), "the paths did not run ({}):\n{text}", output.status);
    read(&text)
}

/// Where cargo builds: this program is in `debug` or `release` of it.
fn target() -> anyhow::Result<PathBuf> {
    let own = std::env::current_exe().context("where is this program?")?;
    let target = own.ancestors().nth(2).context("this program is not in a target folder")?;
    Ok(target.to_owned())
}

fn read(lines: &str) -> anyhow::Result<BTreeMap<String, f64>> {
    let mut paths = BTreeMap::new();
    for line in lines.lines().filter(|line| line.starts_with('{')) {
        let summary: Value = serde_json::from_str(line).context("a summary that is not JSON")?;
        let (path, count) =
            path_and_count(&summary).with_context(|| format!("a summary without a count: {line}"))?;
        let count = count as f64 / OPERATIONS;
        if paths.insert(path.clone(), count).is_some() {
            bail!("{path} was counted twice");
        }
    }
    ensure!(!paths.is_empty(), "no path was counted");
    Ok(paths)
}

fn path_and_count(summary: &Value) -> Option<(String, u64)> {
    let text = |key: &str| summary[key].as_str();
    let path = format!("{}::{} {}", text("group")?, text("function_name")?, text("id")?);
    let count = summary["profiles"][0]["data"]["total"]["metrics"]["Ir"]["values"]["new"].as_u64()?;
    Some((path, count))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn summary(count: &str) -> String {
        format!(
            r#"{{"group":"verbs","function_name":"renew","id":"assigned","profiles":[{{"data":
            {{"total":{{"metrics":{{"Ir":{{"values":{{{count}}}}}}}}}}}}}]}}"#
        )
        .replace('\n', " ")
    }

    #[test]
    fn a_summary_becomes_a_count_per_operation() {
        let paths = read(&format!("Gungraun\n{}\n", summary(r#""new":20480"#))).unwrap();
        assert_eq!(paths, BTreeMap::from([("verbs::renew assigned".to_owned(), 2.0)]));
    }

    #[test]
    fn what_was_not_counted_is_an_error() {
        let twice = [summary(r#""new":1"#), summary(r#""new":1"#)].join("\n");
        for lines in ["", "Gungraun", "{}", "{", &summary(r#""old":1"#), &twice] {
            assert!(read(lines).is_err(), "{lines}");
        }
    }
}
