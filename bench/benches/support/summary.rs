//! After a suite: its rows as Markdown, in ns per operation and as ratios to the row called tenure, read from what
//! criterion has just written.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde_json::Value;

/// Where criterion writes: beside the other things that cargo builds.
pub(crate) fn directory() -> PathBuf {
    let own = std::env::current_exe().expect("this program has a path");
    let target = own.ancestors().nth(3).expect("it is in target/release/deps");
    target.join("criterion")
}

struct Row {
    group: String,
    name: String,
    /// Leases, records, …; empty where there is no such thing.
    size: String,
    ns: f64,
    written: SystemTime,
}

/// Prints one table per group: what was measured since `began`, in the order of measurement.
pub(crate) fn print(began: SystemTime) {
    let mut rows = Vec::new();
    collect(&directory(), began, &mut rows);
    rows.sort_by_key(|row| row.written);
    let mut groups: Vec<&str> = rows.iter().map(|row| row.group.as_str()).collect();
    groups.sort_by_key(|group| rows.iter().position(|row| row.group == *group));
    groups.dedup();
    for group in groups {
        let rows: Vec<&Row> = rows.iter().filter(|row| row.group == group).collect();
        print_group(group, &rows);
    }
}

fn print_group(group: &str, rows: &[&Row]) {
    let mut sizes: Vec<&str> = rows.iter().map(|row| row.size.as_str()).collect();
    sizes.sort_by_key(|size| (size.len(), *size));
    sizes.dedup();
    let mut names: Vec<&str> = Vec::new();
    rows.iter().map(|row| row.name.as_str()).for_each(|name| {
        if !names.contains(&name) {
            names.push(name);
        }
    });
    let at: BTreeMap<(&str, &str), f64> =
        rows.iter().map(|row| ((row.name.as_str(), row.size.as_str()), row.ns)).collect();
    println!("\n| {group}, ns each (× tenure) | {} |", sizes.join(" | "));
    println!("| --- |{}", " --- |".repeat(sizes.len()));
    for name in names {
        print!("| {name} |");
        for &size in &sizes {
            match (at.get(&(name, size)), at.get(&("tenure", size))) {
                (Some(ns), Some(tenure)) if name != "tenure" => {
                    print!(" {} ({:.2}×) |", figure(*ns), ns / tenure);
                }
                (Some(ns), _) => print!(" {} |", figure(*ns)),
                (None, _) => print!(" |"),
            }
        }
        println!();
    }
}

/// Three digits or so.
fn figure(ns: f64) -> String {
    let decimals = if ns < 10.0 { 2 } else { usize::from(ns < 100.0) };
    format!("{ns:.decimals$}")
}

fn collect(directory: &Path, began: SystemTime, rows: &mut Vec<Row>) {
    let Ok(entries) = std::fs::read_dir(directory) else { return };
    for entry in entries.flatten().map(|entry| entry.path()).filter(|path| path.is_dir()) {
        if entry.ends_with("new") {
            rows.extend(row(&entry, began));
        } else {
            collect(&entry, began, rows);
        }
    }
}

fn row(new: &Path, began: SystemTime) -> Option<Row> {
    let estimates = new.join("estimates.json");
    let written = estimates.metadata().ok()?.modified().ok().filter(|written| *written >= began)?;
    let read = |path: &Path| -> Option<Value> { serde_json::from_slice(&std::fs::read(path).ok()?).ok() };
    let (estimates, benchmark) = (read(&estimates)?, read(&new.join("benchmark.json"))?);
    let text = |key: &str| benchmark[key].as_str().unwrap_or_default().to_owned();
    let elements = benchmark["throughput"]["Elements"].as_f64().unwrap_or(1.0);
    let ns = estimates["median"]["point_estimate"].as_f64()? / elements;
    Some(Row { group: text("group_id"), name: text("function_id"), size: text("value_str"), ns, written })
}
