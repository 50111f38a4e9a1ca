//! Several runs side by side: a line for each phase, a column for each run, and the ratio to the first.

use super::table::aligned;
use super::{Line, Report};
use crate::human;

/// What is compared of a phase.
const FIGURES: [(&str, bool); 3] = [("ops/s", true), ("server/op", false), ("p99", false)];

/// The table.
pub(super) fn render(lines: &[Line]) -> String {
    let runs: Vec<&Report> = lines.iter().flat_map(Line::reports).collect();
    let mut out = String::new();
    let mut line = |text: String| {
        out.push_str(text.trim_end());
        out.push('\n');
    };
    for (index, run) in runs.iter().enumerate() {
        let quick = if run.plan.quick { ", quick" } else { "" };
        let leases = human::count(run.plan.leases as f64);
        let plan = format!("{leases} leases, {:?} IDs, seed {}{quick}", run.plan.ids, run.plan.seed);
        line(format!("{}: {}: {plan}", index + 1, run.host.line()));
    }
    line(String::new());
    let mut head = vec!["phase".to_owned(), String::new()];
    head.extend((1..=runs.len()).map(|number| number.to_string()));
    head.extend((2..=runs.len()).map(|number| format!("{number}/1")));
    let mut cells = vec![head];
    for phase in phases(&runs) {
        for (figure, _) in FIGURES {
            let values: Vec<Option<f64>> = runs.iter().map(|run| value(run, &phase, figure)).collect();
            if values.iter().all(Option::is_none) {
                continue;
            }
            let mut row = vec![phase.clone(), figure.to_owned()];
            row.extend(values.iter().map(|value| value.map_or("-".to_owned(), |v| text(v, figure))));
            row.extend(values[1..].iter().map(|value| {
                let ratio = value.zip(values[0]).map(|(value, first)| value / first);
                ratio.map_or("-".to_owned(), |ratio| format!("x {ratio:.2}"))
            }));
            cells.push(row);
        }
    }
    aligned(&cells, 2, &mut line);
    if runs.len() > 1 {
        line(String::new());
        line(
            "Runs at different times on a shared machine differ by themselves: trust server/op first, and \
             ratios within one run more than any between two."
                .to_owned(),
        );
    }
    out
}

/// Names of phases in the order of the first run that has each.
fn phases(runs: &[&Report]) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for run in runs {
        let rows = run.rows.iter().map(|row| &row.phase);
        let late = run.lateness.iter().map(|row| format!("late: {}", row.phase));
        for name in rows.cloned().chain(late) {
            if !names.contains(&name) {
                names.push(name);
            }
        }
    }
    names
}

fn value(run: &Report, phase: &str, figure: &str) -> Option<f64> {
    if let Some(name) = phase.strip_prefix("late: ") {
        let row = run.lateness.iter().find(|row| row.phase == name)?;
        return match figure {
            "p99" => row.lateness.map(|quantiles| quantiles.p99_ns as f64),
            "ops/s" => Some(row.per_second),
            _ => None,
        };
    }
    let row = run.rows.iter().find(|row| row.phase == phase)?;
    match figure {
        "ops/s" => Some(row.per_second),
        "server/op" => row.server_cpu_ns,
        _ => row.latency.map(|quantiles| quantiles.p99_ns as f64),
    }
}

fn text(value: f64, figure: &str) -> String {
    if figure == "ops/s" { human::count(value) } else { human::nanoseconds(value) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::sample;

    #[test]
    fn runs_stand_side_by_side_with_their_ratio() {
        let mut second = sample();
        second.rows[0].server_cpu_ns = Some(79.1);
        second.rows[0].per_second = 9_000_000.0;
        let mut other = second.rows[0].clone();
        other.phase = "grant".to_owned();
        second.rows.push(other);
        let text = render(&[Line::Run(Box::new(sample())), Line::Run(Box::new(second))]);
        let row = |start: &str| text.lines().find(|line| line.starts_with(start)).unwrap().to_owned();
        assert!(row("renew  ops/s").contains("6.00 M") && row("renew  ops/s").ends_with("x 1.50"), "{text}");
        assert!(text.contains("x 0.50"), "{text}");
        assert!(row("grant").ends_with('-'), "the first run has no grant: {text}");
    }
}
