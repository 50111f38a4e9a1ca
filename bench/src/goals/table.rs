//! The goals as a table for people.

use super::rows::{Bound, Figure, Unit};
use super::{GoalRow, Goals, peers};
use crate::human;
use crate::neighbours;
use crate::report::aligned;

pub(super) fn render(goals: &Goals) -> String {
    let mut out = String::new();
    let mut line = |text: String| {
        out.push_str(text.trim_end());
        out.push('\n');
    };
    line(goals.host.line());
    if goals.quick {
        line("Quick run with small counts: the figures below say that it works, nothing else.".to_owned());
    }
    let head = ["", "value", "goal", "floor", "x floor", "goal x", ""].map(str::to_owned).to_vec();
    let mut cells = vec![head];
    for row in &goals.rows {
        cells.push(vec![row.job.clone()]);
        cells.extend(row.figures.iter().map(figure_cells));
    }
    line(String::new());
    // Jobs are headings: they must not widen the first column.
    let widest =
        cells.iter().filter(|row| row.len() > 1).map(|row| row[0].chars().count()).max().unwrap_or(0);
    let jobs: Vec<String> = goals.rows.iter().map(|row| row.job.clone()).collect();
    for row in &mut cells {
        if row.len() == 1 {
            row[0].clear();
            row[0].push_str(&" ".repeat(widest));
        }
    }
    let mut jobs = jobs.into_iter();
    let mut table = Vec::new();
    aligned(&cells, 1, &mut |text| table.push(text));
    for (text, row) in table.into_iter().zip(&cells) {
        if row.len() == 1 {
            line(String::new());
            line(jobs.next().unwrap_or_default());
        } else {
            line(text);
        }
    }
    line(String::new());
    line(summary(&goals.rows));
    if let Some(text) = near_floor(&goals.rows) {
        line(text);
    }
    if !goals.peers.is_empty() {
        line(String::new());
        line(
            "Beside the peers, Tenure measured again among them; in brackets how many times better it is"
                .to_owned(),
        );
        aligned(&peers::cells(&goals.peers, |text| format!("{text} LOST")), 1, &mut line);
        for peer in peers::absent(&goals.peers) {
            line(format!("not measured: {peer}"));
        }
        line(String::new());
    }
    if let Some(note) = neighbours::note(goals.others_share) {
        line(note);
    }
    for problem in goals.reports().flat_map(crate::report::Report::problems) {
        line(format!("FAILED: {problem}"));
    }
    for failure in &goals.failures {
        line(format!("FAILED: {failure}"));
    }
    if goals.interrupted {
        line("INTERRUPTED: what is missing was not measured".to_owned());
    }
    line(format!("{:.0} s", goals.elapsed_s));
    out
}

/// How many are met, and which are not.
pub(crate) fn summary(rows: &[GoalRow]) -> String {
    let met = rows.iter().filter(|row| row.is_met()).count();
    let figures = rows.iter().flat_map(|row| &row.figures);
    let missed = figures.clone().filter(|figure| figure.is_met() == Some(false)).count();
    let unknown = figures.clone().filter(|figure| figure.is_met().is_none()).count();
    format!(
        "{met} of {} rows met; of {} figures {missed} missed, {unknown} not measured",
        rows.len(),
        figures.count()
    )
}

/// What a slower machine explains, if anything.
pub(crate) fn near_floor(rows: &[GoalRow]) -> Option<String> {
    let near =
        rows.iter().flat_map(|row| &row.figures).filter(|figure| figure.is_missed_near_floor()).count();
    (near > 0).then(|| {
        format!(
            "{near} of those missed are no farther from this machine's floor (x floor) than the goal was from the floor \
             where it was set (goal x)"
        )
    })
}

/// `1.41`, or a dash.
pub(crate) fn times(ratio: Option<f64>) -> String {
    ratio.map_or("-".to_owned(), |ratio| format!("{ratio:.2}"))
}

fn figure_cells(figure: &Figure) -> Vec<String> {
    let number = |value: Option<f64>| value.map_or("-".to_owned(), |value| text(value, figure.unit));
    vec![
        format!("  {}", figure.what),
        number(figure.value),
        bound(figure),
        number(figure.floor),
        times(figure.times_floor()),
        times(figure.goal_times_floor()),
        verdict(figure).to_owned(),
    ]
}

/// `<= 160 ns`.
pub(crate) fn bound(figure: &Figure) -> String {
    match figure.bound {
        Bound::AtMost(most) => format!("<= {}", text(most, figure.unit)),
        Bound::AtLeast(least) => format!(">= {}", text(least, figure.unit)),
    }
}

/// In a word.
pub(crate) fn verdict(figure: &Figure) -> &'static str {
    match figure.is_met() {
        Some(true) => "met",
        Some(false) => "MISSED",
        None => "not measured",
    }
}

/// A number with its unit.
pub(crate) fn text(value: f64, unit: Unit) -> String {
    match unit {
        Unit::Ns => human::nanoseconds(value),
        Unit::PerSecond => format!("{}/s", human::count(value)),
        Unit::Bytes => format!("{value:.1} B"),
        Unit::Leases => human::count(value),
        Unit::Times => format!("x {value:.2}"),
    }
}
