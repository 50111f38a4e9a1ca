//! The baseline: instructions per operation of each path, as a text file that diffs well, and its comparison.
//!
//! One line a path, `group::function id count`, two decimals, sorted by name; `#` begins a comment.

use std::collections::BTreeMap;
use std::fmt;

use anyhow::{Context, bail};

const HEAD: &str = "\
# Instructions per operation of the hot paths, counted by callgrind. Checked by .ci/run.
# To change it: cargo run -p tenure-instructions -- update
";

/// What the division of two counts may be off by.
const ROUNDING_PERCENT: f64 = 1e-9;

/// Instructions per operation by path.
#[derive(Default, Debug, PartialEq)]
pub(crate) struct Baseline {
    paths: BTreeMap<String, f64>,
}

/// One path in both baselines; `None`: it is not there.
#[derive(Debug)]
struct Row {
    path: String,
    old: Option<f64>,
    new: Option<f64>,
}

/// A comparison, to be printed.
#[derive(Debug)]
pub(crate) struct Report {
    rows: Vec<Row>,
    growth_percent_max: f64,
}

impl Baseline {
    pub(crate) fn new(paths: BTreeMap<String, f64>) -> Baseline {
        // As the file has them, so that what was written compares equal to what was counted.
        Baseline {
            paths: paths.into_iter().map(|(path, count)| (path, (count * 100.0).round() / 100.0)).collect(),
        }
    }

    pub(crate) fn parse(text: &str) -> anyhow::Result<Baseline> {
        let mut paths = BTreeMap::new();
        for (index, line) in text.lines().enumerate() {
            if line.starts_with('#') || line.trim().is_empty() {
                continue;
            }
            let parsed =
                line.rsplit_once(' ').and_then(|(path, count)| Some((path.trim(), count.parse().ok()?)));
            let (path, count): (&str, f64) =
                parsed.with_context(|| format!("line {}: not a path and a count", index + 1))?;
            if !count.is_finite() || count <= 0.0 {
                bail!("line {}: {count} instructions", index + 1);
            }
            if paths.insert(path.to_owned(), count).is_some() {
                bail!("line {}: {path} a second time", index + 1);
            }
        }
        Ok(Baseline { paths })
    }

    /// What `new` is against `self`.
    pub(crate) fn compare(&self, new: &Baseline, growth_percent_max: f64) -> Report {
        let mut names: Vec<&String> = self.paths.keys().chain(new.paths.keys()).collect();
        names.sort();
        names.dedup();
        let row = |path: &String| Row {
            path: path.clone(),
            old: self.paths.get(path).copied(),
            new: new.paths.get(path).copied(),
        };
        Report { rows: names.into_iter().map(row).collect(), growth_percent_max }
    }
}

impl fmt::Display for Baseline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(HEAD)?;
        self.paths.iter().try_for_each(|(path, count)| writeln!(f, "{path:<42} {count:>9.2}"))
    }
}

impl Row {
    fn growth_percent(&self) -> Option<f64> {
        Some((self.new? / self.old? - 1.0) * 100.0)
    }
}

impl Report {
    fn is_within(&self, row: &Row) -> bool {
        row.growth_percent().is_some_and(|growth| growth < self.growth_percent_max + ROUNDING_PERCENT)
    }

    /// Whether every path is in both and none has grown beyond the tolerance; false when there is none at all.
    pub(crate) fn passes(&self) -> bool {
        !self.rows.is_empty() && self.rows.iter().all(|row| self.is_within(row))
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:<42} {:>9} {:>9}", "instructions per operation", "baseline", "now")?;
        for row in &self.rows {
            let shown = |count: Option<f64>| count.map_or("none".to_owned(), |count| format!("{count:.2}"));
            write!(f, "{:<42} {:>9} {:>9}", row.path, shown(row.old), shown(row.new))?;
            match row.growth_percent() {
                Some(growth) if growth.abs() >= 0.005 => write!(f, " {growth:>+7.2} %")?,
                _ => {}
            }
            let better = row.growth_percent().is_some_and(|growth| growth < -self.growth_percent_max);
            match (self.is_within(row), better) {
                (false, _) => writeln!(f, "  FAILS")?,
                (true, true) => writeln!(f, "  better: update the baseline, so that it stays so")?,
                (true, false) => writeln!(f)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn baseline(paths: &[(&str, f64)]) -> Baseline {
        Baseline::new(paths.iter().map(|&(path, count)| (path.to_owned(), count)).collect())
    }

    #[test]
    fn reads_what_it_wrote() {
        let written = baseline(&[("verbs::renew assigned", 82.039), ("wire::encode_renew run", 20.0)]);
        assert_eq!(Baseline::parse(&written.to_string()).unwrap(), written);
    }

    #[test]
    fn growth_beyond_the_tolerance_fails() {
        let old = baseline(&[("a x", 100.0), ("b x", 10.0)]);
        for (count, passes) in [(90.0, true), (100.0, true), (105.0, true), (105.01, false), (200.0, false)] {
            let report = old.compare(&baseline(&[("a x", count), ("b x", 10.0)]), 5.0);
            assert_eq!(report.passes(), passes, "{report}");
            assert_eq!(report.to_string().contains("FAILS"), !passes);
        }
    }

    #[test]
    fn a_path_on_one_side_only_fails() {
        let (one, both) = (baseline(&[("a x", 1.0)]), baseline(&[("a x", 1.0), ("b x", 1.0)]));
        assert!(!one.compare(&both, 5.0).passes(), "a path without a baseline");
        assert!(!both.compare(&one, 5.0).passes(), "a baseline without a path");
        assert!(!baseline(&[]).compare(&baseline(&[]), 5.0).passes(), "nothing was counted");
    }

    #[test]
    fn a_baseline_that_could_not_fail_is_refused() {
        for text in ["a", "a x", "a x NaN", "a x inf", "a x -1", "a x 0", "a x 1\na x 2"] {
            assert!(Baseline::parse(text).is_err(), "{text}");
        }
    }
}
