//! From measurements to rows: medians over rounds, and how Tenure stands against each.
//!
//! A row is one job of one peer in one shape. Where a peer has several shapes of a job, Tenure's *best* one
//! is what every other row is held against, figure by figure.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::line::PeerLine;
use crate::measure::{Better, Figure, Job};
use crate::peer::Peer;

/// A shape, and its measurements.
type Shape<'a> = (&'a str, Vec<&'a PeerLine>);

/// One row.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Row {
    pub(crate) job: Job,
    pub(crate) peer: Peer,
    pub(crate) version: String,
    pub(crate) settings: String,
    pub(crate) how: String,
    /// Measurements that it is the median of.
    pub(crate) rounds: usize,
    /// Medians.
    pub(crate) figures: BTreeMap<String, f64>,
    /// Smallest and largest of the rounds.
    pub(crate) ranges: BTreeMap<String, (f64, f64)>,
    /// How many times better Tenure is, by each main figure; below 1, Tenure loses. Empty for Tenure.
    pub(crate) tenure_better: BTreeMap<String, f64>,
    /// In most rounds the load was at its limit.
    pub(crate) load_limited: bool,
    /// Sums over the rounds.
    pub(crate) errors: BTreeMap<String, u64>,
    pub(crate) missing: Option<String>,
}

/// The middle one, or the mean of the two in the middle.
///
/// # Panics
/// When there are no values: whoever asks has some.
pub(crate) fn median(values: &mut [f64]) -> f64 {
    assert!(!values.is_empty(), "a median of nothing");
    values.sort_by(f64::total_cmp);
    let half = values.len() / 2;
    if values.len() % 2 == 1 { values[half] } else { f64::midpoint(values[half - 1], values[half]) }
}

/// The rows of these measurements, in the order of jobs and peers.
pub(crate) fn rows(lines: &[PeerLine]) -> Vec<Row> {
    let mut groups: BTreeMap<(Job, Peer), Vec<Shape<'_>>> = BTreeMap::new();
    for line in lines {
        // Shapes of one job stay in the order in which they were measured.
        let shapes = groups.entry((line.measure.job, line.peer)).or_default();
        match shapes.iter_mut().find(|(how, _)| *how == line.measure.how) {
            Some((_, lines)) => lines.push(line),
            None => shapes.push((&line.measure.how, vec![line])),
        }
    }
    // A failure in one round does not make a row of its own beside what the others measured.
    let mut rows: Vec<Row> = groups.values().flatten().map(|(_, lines)| row(lines)).collect();
    let measured: Vec<(Job, Peer)> =
        rows.iter().filter(|row| row.missing.is_none()).map(|row| (row.job, row.peer)).collect();
    for row in &mut rows {
        if row.missing.is_some() && measured.contains(&(row.job, row.peer)) {
            row.how = "a round failed".to_owned();
        }
    }
    let all = rows.clone();
    for row in rows.iter_mut().filter(|row| row.peer != Peer::Tenure) {
        row.tenure_better = better(row, &all);
    }
    rows
}

fn row(lines: &[&PeerLine]) -> Row {
    let first = lines[0];
    let mut values: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    let mut errors = BTreeMap::new();
    for line in lines {
        for (key, value) in &line.measure.figures {
            values.entry(key).or_default().push(*value);
        }
        for (what, count) in &line.measure.errors {
            *errors.entry(what.clone()).or_default() += count;
        }
    }
    let mut figures = BTreeMap::new();
    let mut ranges = BTreeMap::new();
    for (key, mut values) in values {
        figures.insert(key.to_owned(), median(&mut values));
        ranges.insert(key.to_owned(), (values[0], values[values.len() - 1]));
    }
    let limited = lines.iter().filter(|line| line.measure.load_limited).count();
    Row {
        job: first.measure.job,
        peer: first.peer,
        version: first.version.clone(),
        settings: first.settings.clone(),
        how: first.measure.how.clone(),
        rounds: lines.len(),
        figures,
        ranges,
        tenure_better: BTreeMap::new(),
        load_limited: limited * 2 > lines.len(),
        errors,
        missing: first.missing.clone(),
    }
}

/// Tenure's best value of a figure of a job.
fn best(job: Job, figure: &Figure, rows: &[Row]) -> Option<f64> {
    let of_tenure = rows.iter().filter(|row| row.peer == Peer::Tenure && row.job == job);
    let values = of_tenure.filter_map(|row| row.figures.get(figure.key).copied());
    match figure.better? {
        Better::Lower => values.reduce(f64::min),
        Better::Higher => values.reduce(f64::max),
    }
}

fn better(row: &Row, rows: &[Row]) -> BTreeMap<String, f64> {
    let mut found = BTreeMap::new();
    for figure in row.job.figures() {
        let (Some(better), Some(&theirs)) = (figure.better, row.figures.get(figure.key)) else { continue };
        let Some(ours) = best(row.job, figure, rows) else { continue };
        let ratio = match better {
            Better::Lower => theirs / ours,
            Better::Higher => ours / theirs,
        };
        // Nothing against nothing, or against something, is no ratio.
        if ratio.is_finite() && ratio > 0.0 {
            found.insert(figure.key.to_owned(), ratio);
        }
    }
    found
}

impl Row {
    /// Whether a lateness has ends in it that were never told, and are later than that.
    pub(crate) fn is_least(&self, key: &str) -> bool {
        let above = match key {
            "late_p50_ns" => 0.5,
            "late_p99_ns" => 0.01,
            "late_max_ns" => 0.0,
            _ => return false,
        };
        let figure = |key: &str| self.figures.get(key).copied().unwrap_or(0.0);
        figure("untold") > above * figure("leases")
    }

    /// The main figures by which Tenure loses against this row, with its ratios.
    pub(crate) fn lost(&self) -> impl Iterator<Item = (&'static Figure, f64)> {
        let ratios = self.job.figures().iter().filter_map(|figure| {
            let ratio = *self.tenure_better.get(figure.key)?;
            (ratio < 1.0).then_some((figure, ratio))
        });
        ratios.collect::<Vec<_>>().into_iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::line::tests::sample;

    #[test]
    fn a_median_is_the_middle_and_not_the_mean() {
        assert_eq!(median(&mut [3.0]), 3.0);
        assert_eq!(median(&mut [100.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&mut [4.0, 1.0, 2.0, 100.0]), 3.0);
    }

    #[test]
    fn rounds_become_medians_and_shapes_stay_apart() {
        let line = |how, round, cpu| sample(Peer::Etcd, Job::Renew1, how, round, &[("server_cpu_ns", cpu)]);
        let mut lines = vec![line("a", 1, 9.0), line("b", 1, 5.0), line("a", 2, 1.0), line("a", 3, 8.0)];
        lines[0].measure.load_limited = true;
        lines[2].measure.load_limited = true;
        lines[3].measure.errors.insert("refused".to_owned(), 2);
        let rows = rows(&lines);
        assert_eq!(
            rows.iter().map(|row| (row.how.as_str(), row.rounds)).collect::<Vec<_>>(),
            [("a", 3), ("b", 1)]
        );
        assert_eq!((rows[0].figures["server_cpu_ns"], rows[0].ranges["server_cpu_ns"]), (8.0, (1.0, 9.0)));
        assert!(rows[0].load_limited && !rows[1].load_limited);
        assert_eq!(rows[0].errors["refused"], 2);
    }

    #[test]
    fn tenure_is_better_above_one_whichever_way_a_figure_counts() {
        let lines = [
            sample(Peer::Redis, Job::Renew32, "x", 1, &[("server_cpu_ns", 20.0), ("per_second", 300.0)]),
            sample(Peer::Tenure, Job::Renew32, "slow", 1, &[("server_cpu_ns", 90.0), ("per_second", 1.0)]),
            sample(Peer::Tenure, Job::Renew32, "fast", 1, &[("server_cpu_ns", 10.0), ("per_second", 150.0)]),
            sample(Peer::Tenure, Job::Renew1, "other job", 1, &[("server_cpu_ns", 1.0)]),
        ];
        let rows = rows(&lines);
        let redis = rows.iter().find(|row| row.peer == Peer::Redis).unwrap();
        assert_eq!(
            redis.tenure_better,
            [("per_second".to_owned(), 0.5), ("server_cpu_ns".to_owned(), 2.0)].into()
        );
        let lost: Vec<_> = redis.lost().map(|(figure, ratio)| (figure.key, ratio)).collect();
        assert_eq!(lost, [("per_second", 0.5)]);
        assert!(rows.iter().filter(|row| row.peer == Peer::Tenure).all(|row| row.tenure_better.is_empty()));
    }

    #[test]
    fn what_was_not_measured_wins_and_loses_nothing() {
        let lines = [
            sample(Peer::Tenure, Job::Restart, "x", 1, &[("first_answer_s", 0.1), ("kept_share", 1.0)]),
            sample(Peer::Memcached, Job::Restart, "x", 1, &[("first_answer_s", 0.05), ("kept_share", 0.0)]),
        ];
        let rows = rows(&lines);
        assert_eq!(rows[1].tenure_better, [("first_answer_s".to_owned(), 0.5)].into());
    }
}
