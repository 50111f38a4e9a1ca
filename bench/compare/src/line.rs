//! What a run leaves behind: one JSON object per measurement, a line each, in a file that grows.
//!
//! Every line repeats what makes a figure repeatable: commit, machine, version and settings of the peer,
//! counts and times. A row that could not be measured is a line, too, and says why.
//!
//! ```json
//! {"kind":"peer","schema":1,"host":{"commit":…},"plan":{…},"peer":"redis","version":"8.0.6","settings":"--save …",
//!  "job":"renew32","how":"64 × 32","round":1,"figures":{"per_second":512345.6,"server_cpu_ns":1893.2,…},
//!  "load_limited":false,"errors":{},"missing":null}
//! ```
//! `tenure-compare run --json` ends with one more kind of line, which holds the medians of the whole run:
//!
//! ```json
//! {"kind":"peers","schema":1,"host":{…},"plan":{…},"rows":[{"job":"renew32","peer":"redis","version":"8.0.6",
//!  "settings":"…","how":"64 × 32","rounds":3,"figures":{…},"tenure_better":{"server_cpu_ns":9.4,…},
//!  "load_limited":false,"errors":{},"missing":null},…]}
//! ```
//! `tenure_better` is how many times better Tenure's best row of the same job is; below 1, Tenure loses.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

use anyhow::{Context, ensure};
use serde::{Deserialize, Serialize};
use tenure_bench::Host;

use crate::measure::{Job, Measure};
use crate::peer::Peer;
use crate::plan::Plan;
use crate::summary::Row;

/// The form of the lines; counted up when a reader of old ones would misread new ones.
pub(crate) const SCHEMA: u32 = 1;

/// A line.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub(crate) enum Line {
    /// One measurement.
    Peer(Box<PeerLine>),
    /// The medians of a run.
    Peers(Box<PeersLine>),
}

/// One measurement.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct PeerLine {
    pub(crate) schema: u32,
    pub(crate) host: Host,
    pub(crate) plan: Plan,
    pub(crate) peer: Peer,
    pub(crate) version: String,
    pub(crate) settings: String,
    pub(crate) round: u32,
    #[serde(flatten)]
    pub(crate) measure: Measure,
    /// Why there are no figures.
    pub(crate) missing: Option<String>,
    /// Share of the machine's CPUs that other processes took meanwhile, 0 to 1.
    #[serde(default)]
    pub(crate) others_share: Option<f64>,
}

/// The medians of a run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct PeersLine {
    pub(crate) schema: u32,
    pub(crate) host: Host,
    pub(crate) plan: Plan,
    pub(crate) rows: Vec<Row>,
}

/// What all lines of a run have in common.
#[derive(Clone, Debug)]
pub(crate) struct Origin {
    pub(crate) host: Host,
    pub(crate) plan: Plan,
}

impl PeerLine {
    /// A row that could not be measured.
    pub(crate) fn missing(origin: &Origin, peer: Peer, version: &str, job: Job, why: &str) -> PeerLine {
        PeerLine {
            schema: SCHEMA,
            host: origin.host.clone(),
            plan: origin.plan.clone(),
            peer,
            version: version.to_owned(),
            settings: String::new(),
            round: 0,
            measure: Measure {
                job,
                how: String::new(),
                figures: BTreeMap::new(),
                load_limited: false,
                errors: BTreeMap::new(),
            },
            missing: Some(why.to_owned()),
            others_share: None,
        }
    }
}

impl Line {
    /// # Errors
    /// When a figure is no number of JSON, which no measured one is.
    pub(crate) fn to_json(&self) -> anyhow::Result<String> {
        serde_json::to_string(self).context("cannot write a line of JSON")
    }

    /// Appends it to a file.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub(crate) fn append_to(&self, path: &Path) -> anyhow::Result<()> {
        let mut line = self.to_json()?;
        line.push('\n');
        let file = std::fs::File::options().create(true).append(true).open(path);
        let mut file = file.with_context(|| format!("cannot open {}", path.display()))?;
        file.write_all(line.as_bytes()).with_context(|| format!("cannot write to {}", path.display()))
    }
}

/// Reads the measurements of a file; the medians in it can be made again from them.
///
/// # Errors
/// When the file cannot be read, or a line is none of these; which one is said.
pub(crate) fn read_from(path: &Path) -> anyhow::Result<Vec<PeerLine>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut found = Vec::new();
    for (index, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let line = parse(line).with_context(|| format!("{}, line {}", path.display(), index + 1))?;
        if let Line::Peer(line) = line {
            found.push(*line);
        }
    }
    Ok(found)
}

fn parse(text: &str) -> anyhow::Result<Line> {
    #[derive(Deserialize)]
    struct Head {
        schema: u32,
    }
    let head: Head = serde_json::from_str(text).context("not a line of tenure-compare")?;
    ensure!(head.schema == SCHEMA, "written in form {}, and this program reads {SCHEMA}", head.schema);
    serde_json::from_str(text).context("not a line of tenure-compare")
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::path::PathBuf;

    /// A line with these figures.
    pub(crate) fn sample(peer: Peer, job: Job, how: &str, round: u32, figures: &[(&str, f64)]) -> PeerLine {
        let mut measure = Measure::new(job, how);
        figures.iter().for_each(|(key, value)| measure.set(key, *value));
        let plan = Plan::new(false, PathBuf::from("/var/tmp"), 2);
        PeerLine {
            schema: SCHEMA,
            host: Host::observe(),
            plan,
            peer,
            version: "1.2.3".to_owned(),
            settings: "--fast".to_owned(),
            round,
            measure,
            missing: None,
            others_share: None,
        }
    }

    #[test]
    fn a_line_names_commit_settings_and_hardware_and_is_read_back() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("peers.jsonl");
        let written = sample(Peer::Redis, Job::Renew32, "64 × 32", 2, &[("server_cpu_ns", 1_900.5)]);
        let origin = Origin { host: written.host.clone(), plan: written.plan.clone() };
        Line::Peer(Box::new(written.clone())).append_to(&path).unwrap();
        let rows = PeersLine {
            schema: SCHEMA,
            host: origin.host.clone(),
            plan: origin.plan.clone(),
            rows: crate::summary::rows(std::slice::from_ref(&written)),
        };
        Line::Peers(Box::new(rows)).append_to(&path).unwrap();
        let missing = PeerLine::missing(&origin, Peer::Etcd, "", Job::Storm, "not installed");
        Line::Peer(Box::new(missing)).append_to(&path).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        let json: serde_json::Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
        assert_eq!((json["kind"].as_str(), json["job"].as_str()), (Some("peer"), Some("renew32")));
        assert_eq!(
            (json["figures"]["server_cpu_ns"].as_f64(), json["round"].as_u64()),
            (Some(1_900.5), Some(2))
        );
        for place in ["cpu_model", "kernel", "commit", "cpus"] {
            assert!(json["host"].get(place).is_some(), "{place}");
        }
        let read = read_from(&path).unwrap();
        assert_eq!((read.len(), &read[0].measure), (2, &written.measure));
        assert_eq!(read[1].missing.as_deref(), Some("not installed"));
    }

    #[test]
    fn a_line_of_another_form_is_refused_by_its_number() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("old.jsonl");
        for (text, says) in [("\n{\"kind\":\"peer\",\"schema\":99}\n", "form 99"), ("hello\n", "line 1")] {
            std::fs::write(&path, text).unwrap();
            let error = format!("{:#}", read_from(&path).unwrap_err());
            assert!(error.contains(says), "{error}");
        }
    }
}
