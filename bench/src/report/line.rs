//! What runs leave behind: one JSON object a line, in a file that grows.
//!
//! Every line says of itself what it is (`kind`), in which form (`schema`), and carries commit, settings,
//! seed, cores, kernel, CPU model and durability: a figure without them cannot be repeated.

use std::io::Write;
use std::path::Path;

use anyhow::{Context, ensure};
use serde::{Deserialize, Serialize};

use super::{Report, SCHEMA};
use crate::goals::Goals;
use crate::host::Host;
use crate::scale::Scale;

/// One line.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Line {
    /// A run of `tenure bench`.
    Run(Box<Report>),
    /// A run of `tenure bench goals`.
    Goals(Box<Goals>),
    /// A run of `tenure bench scale`.
    Scale(Box<Scale>),
    /// Something that another program wrote.
    #[serde(other)]
    Unknown,
}

impl Line {
    /// Where it was measured.
    pub(super) fn host(&self) -> Option<&Host> {
        match self {
            Line::Run(report) => Some(&report.host),
            Line::Goals(goals) => Some(&goals.host),
            Line::Scale(scale) => Some(&scale.host),
            Line::Unknown => None,
        }
    }

    /// The runs in it.
    pub(super) fn reports(&self) -> Vec<&Report> {
        match self {
            Line::Run(report) => vec![&**report],
            Line::Goals(goals) => goals.reports().collect(),
            Line::Scale(scale) => scale.steps.iter().collect(),
            Line::Unknown => Vec::new(),
        }
    }

    /// One line of JSON, without its end.
    ///
    /// # Errors
    /// When a number has no JSON form, which no measured one lacks.
    pub fn to_json(&self) -> anyhow::Result<String> {
        serde_json::to_string(self).context("cannot write the report as JSON")
    }

    /// Appends the line to a file.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn append_to(&self, path: &Path) -> anyhow::Result<()> {
        let mut line = self.to_json()?;
        line.push('\n');
        let mut file = std::fs::File::options()
            .create(true)
            .append(true)
            .open(path)
            .with_context(|| format!("cannot open {}", path.display()))?;
        file.write_all(line.as_bytes()).with_context(|| format!("cannot write to {}", path.display()))
    }

    /// Reads the lines of a file.
    ///
    /// # Errors
    /// When the file cannot be read, or a line is none of these; which one is said.
    pub fn read_from(path: &Path) -> anyhow::Result<Vec<Line>> {
        let text =
            std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
        lines
            .map(|(index, line)| {
                Line::parse(line).with_context(|| format!("{}, line {}", path.display(), index + 1))
            })
            .collect()
    }

    fn parse(text: &str) -> anyhow::Result<Line> {
        #[derive(Deserialize)]
        struct Head {
            schema: u32,
        }
        let head: Head = serde_json::from_str(text).context("not a line of `tenure bench --json-out`")?;
        ensure!(
            head.schema == SCHEMA,
            "written in form {}, and this program reads form {SCHEMA}",
            head.schema
        );
        serde_json::from_str(text).context("not a line of `tenure bench --json-out`")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::sample;

    #[test]
    fn a_line_names_commit_settings_and_hardware_and_is_read_back() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("runs.jsonl");
        let mut report = sample();
        report.server.durability = "always".to_owned();
        let line = Line::Run(Box::new(report));
        line.append_to(&path).unwrap();
        line.append_to(&path).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text.lines().count(), 2);
        let json: serde_json::Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
        assert_eq!((json["schema"].as_u64(), json["kind"].as_str()), (Some(SCHEMA.into()), Some("run")));
        assert_eq!(json["plan"]["seed"], 1);
        assert_eq!(json["plan"]["phases"][0], "fill");
        assert_eq!(json["server"]["durability"], "always");
        assert_eq!(json["rows"][0]["latency"]["p99_ns"], 600_000);
        for place in ["cpu_model", "kernel", "commit", "cpus"] {
            assert!(json["host"].get(place).is_some(), "{place}");
        }
        let read = Line::read_from(&path).unwrap();
        assert_eq!(read.len(), 2);
        assert_eq!(read[1].to_json().unwrap(), line.to_json().unwrap());
    }

    #[test]
    fn a_line_of_another_form_is_refused_by_its_number() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("old.jsonl");
        std::fs::write(&path, "\n{\"schema\": 1, \"rows\": []}\n").unwrap();
        let error = format!("{:#}", Line::read_from(&path).unwrap_err());
        assert!(error.contains("line 2") && error.contains("form 1"), "{error}");
        std::fs::write(&path, "hello\n").unwrap();
        assert!(Line::read_from(&path).is_err());
    }
}
