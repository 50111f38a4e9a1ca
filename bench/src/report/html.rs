//! Runs as one page that needs nothing but itself: tables, and charts of what tables cannot show.
//!
//! With one run the charts compare its phases, with several the runs of each phase. Light or dark as the
//! reader's system is. No script, no font, no request.

use std::fmt::Write;

use super::chart::{Axis, Chart, Line as Drawn, Scale, escape};
use super::line::Line;
use super::{LatenessRow, Report, Row};
use crate::goals::{Goals, goal_bound, goal_text, goal_times, goal_verdict, goals_near_floor};
use crate::human;
use crate::scale::{FIGURES, ScaleFigure};
use crate::timeline::Series;

const STYLE: &str = include_str!("report.css");

const LATENCY: Axis =
    Axis { label: "latency", scale: Scale::Log, text: human::nanoseconds, from_zero: false };
const SHARE: Axis =
    Axis { label: "share of requests that were faster", scale: Scale::Tail, text: percent, from_zero: true };
const SECONDS: Axis = Axis { label: "seconds", scale: Scale::Linear, text: plain, from_zero: true };
const RATE: Axis = Axis { label: "per second", scale: Scale::Linear, text: human::count, from_zero: true };
const LATE: Axis = Axis { label: "late by", scale: Scale::Log, text: human::nanoseconds, from_zero: false };
const LEASES: Axis = Axis { label: "% of the leases", scale: Scale::Linear, text: plain, from_zero: true };
const AFTER: Axis =
    Axis { label: "ms after the deadline", scale: Scale::Linear, text: plain, from_zero: false };

const LIVE: Axis = Axis { label: "live leases", scale: Scale::Log, text: human::count, from_zero: false };
const COST: Axis = Axis { label: "CPU", scale: Scale::Log, text: human::nanoseconds, from_zero: false };
const TIME: Axis = Axis { label: "time", scale: Scale::Log, text: human::nanoseconds, from_zero: false };
const RATES: Axis = Axis { label: "per second", scale: Scale::Log, text: human::count, from_zero: false };
const EACH: Axis = Axis { label: "bytes", scale: Scale::Linear, text: plain, from_zero: true };

const WIDE: (f64, f64) = (760.0, 320.0);
const NARROW: (f64, f64) = (370.0, 210.0);

fn plain(value: f64) -> String {
    if value.fract().abs() < 1e-6 { format!("{value:.0}") } else { format!("{value:.1}") }
}

fn percent(value: f64) -> String {
    format!("{}%", (value * 1e7).round() / 1e5)
}

/// The page.
pub(super) fn render(lines: &[Line]) -> String {
    let mut runs: Vec<(String, &Report)> = Vec::new();
    let mut body = String::new();
    for line in lines {
        match line {
            Line::Run(report) => runs.push((String::new(), report)),
            Line::Goals(goals) => {
                goal_section(&mut body, goals);
                let parts = [
                    ("1 M leases", &goals.million),
                    ("10 M leases", &goals.ten_million),
                    ("10 M chosen", &goals.ten_million_chosen),
                    ("live leases", &goals.live),
                ];
                let parts =
                    parts.into_iter().filter_map(|(name, run)| Some((name.to_owned(), run.as_ref()?)));
                runs.extend(parts);
            }
            Line::Scale(scale) => scale_section(&mut body, scale),
            Line::Unknown => {}
        }
    }
    name_runs(&mut runs);
    charts(&mut body, &runs);
    for (name, report) in &runs {
        run_section(&mut body, name, report);
    }
    let host = lines.iter().find_map(Line::host).map_or(String::new(), |host| escape(&host.line()));
    format!(
        "<!doctype html>\n<html lang=en><meta charset=utf-8>\
         <meta name=viewport content=\"width=device-width,initial-scale=1\">\
         <title>Tenure benchmarks</title>\n<style>{STYLE}</style>\n<body><main>\
         <header><h1>Tenure benchmarks</h1><p>{host}</p></header>\n{body}</main></body></html>\n"
    )
}

/// Runs without a name are numbered; the number says nothing when there is one.
fn name_runs(runs: &mut [(String, &Report)]) {
    let several = runs.len() > 1;
    for (index, (name, report)) in runs.iter_mut().enumerate() {
        if name.is_empty() {
            let commit = report.host.commit.as_deref().unwrap_or("unknown commit");
            *name = if several { format!("{}: {commit}", index + 1) } else { "run".to_owned() };
        }
    }
}

fn goal_section(out: &mut String, goals: &Goals) {
    out.push_str("<section><h2>Goals</h2>");
    if goals.quick {
        out.push_str(
            "<p class=note>A quick run with small counts: it works, the figures say nothing else.</p>",
        );
    }
    if let Some(note) = crate::neighbours::note(goals.others_share) {
        let _ = write!(out, "<p class=note>{}</p>", escape(&note));
    }
    out.push_str("<div class=scroll><table><tr><th><th>value<th>goal<th>floor<th>× floor<th>goal ×<th>");
    for row in &goals.rows {
        let _ = write!(out, "<tr class=job><td colspan=7>{}", escape(&row.job));
        for figure in &row.figures {
            let number = |v: Option<f64>| v.map_or("–".to_owned(), |v| goal_text(v, figure.unit));
            let (times, asked) = (goal_times(figure.times_floor()), goal_times(figure.goal_times_floor()));
            let verdict = goal_verdict(figure);
            let class = match figure.is_met() {
                Some(true) => "met",
                Some(false) => "missed",
                None => "unknown",
            };
            let _ = write!(
                out,
                "<tr><td>{}<td>{}<td>{}<td title=\"{}\">{}<td>{times}<td>{asked}<td class={class}>{}",
                escape(&figure.what),
                number(figure.value),
                escape(&goal_bound(figure)),
                escape(&figure.floor_is),
                number(figure.floor),
                verdict.to_lowercase()
            );
        }
    }
    out.push_str("</table></div>");
    if let Some(text) = goals_near_floor(&goals.rows) {
        let _ = write!(out, "<p class=note>{}.</p>", escape(&text));
    }
    out.push_str("</section>\n");
}

fn scale_section(out: &mut String, scale: &crate::scale::Scale) {
    out.push_str("<section><h2>Scale</h2><div class=scroll><table>");
    for (index, row) in scale.cells().into_iter().enumerate() {
        let cell = if index == 0 { "<th>" } else { "<td>" };
        let _ = write!(out, "<tr>{cell}{}", row.join(cell));
    }
    out.push_str("</table></div></section><section><h2>Cost as leases grow</h2>");
    let line = |figure: &ScaleFigure| {
        let point = |step: &Report| Some((step.plan.leases as f64, (figure.of)(step)?));
        let points = scale.steps.iter().filter_map(point).collect();
        Drawn { name: figure.name.to_owned(), colour: 0, points, filled: false, steps: false }
    };
    for (title, y, figures) in [
        ("CPU time of the server per operation", COST, &FIGURES[..3]),
        ("Leases per second", RATES, &FIGURES[3..5]),
        ("Bytes per lease", EACH, &FIGURES[6..7]),
        ("From kill -9 to the first renewal", TIME, &FIGURES[7..8]),
    ] {
        let lines: Vec<Drawn> = figures.iter().map(line).filter(|line| line.points.len() > 1).collect();
        if !lines.is_empty() {
            let lines = coloured(lines, &[]);
            let chart = Chart { title: title.to_owned(), x: LIVE, y, lines, width: WIDE.0, height: 250.0 };
            out.push_str(&chart.html());
        }
    }
    out.push_str("</section>\n");
}

fn run_section(out: &mut String, name: &str, report: &Report) {
    let _ = write!(out, "<section><h2>{}</h2><p class=note>", escape(name));
    let plan = &report.plan;
    let _ = write!(
        out,
        "{}, {} shards, driver {}, durability {}; {} leases, {:?} IDs, {:?} order, {} connections, seed {}",
        escape(&report.server.server),
        report.server.shards,
        escape(&report.server.driver),
        escape(&report.server.durability),
        human::count(plan.leases as f64),
        plan.ids,
        plan.access.order,
        plan.connections,
        plan.seed
    );
    out.push_str(
        "</p><div class=scroll><table class=phases><tr><th>phase<th>load<th>ops/s<th>p50<th>p99<th>p99.9<th>max\
         <th>server/op<th>load/op<th>errors",
    );
    for row in &report.rows {
        phase_row(out, row);
    }
    for row in &report.lateness {
        let _ = write!(out, "<tr><td>{}<td>{} late", escape(&row.phase), escape(&row.what));
        let _ = write!(out, "<td>{}", human::count(row.per_second));
        quantile_cells(out, row.lateness);
        let _ = write!(out, "<td>–<td>–<td>{}", row.errors.values().sum::<u64>());
    }
    out.push_str("</table></div><pre>");
    // What the table for people says below its columns.
    out.push_str(&escape(&super::table::tail(report)));
    out.push_str("</pre></section>\n");
}

fn phase_row(out: &mut String, row: &Row) {
    let ns = |value: Option<f64>| value.map_or("–".to_owned(), human::nanoseconds);
    let _ = write!(
        out,
        "<tr><td>{}<td>{}<td>{}",
        escape(&row.phase),
        escape(&row.load),
        human::count(row.per_second)
    );
    quantile_cells(out, row.latency);
    let errors = row.errors.values().sum::<u64>();
    let _ = write!(out, "<td>{}<td>{}<td>{errors}", ns(row.server_cpu_ns), ns(row.load_ns));
}

fn quantile_cells(out: &mut String, quantiles: Option<crate::latency::Quantiles>) {
    let Some(q) = quantiles else { return out.push_str("<td>–<td>–<td>–<td>–") };
    for ns in [q.p50_ns, q.p99_ns, q.p999_ns, q.max_ns] {
        let _ = write!(out, "<td>{}", human::nanoseconds(ns as f64));
    }
}

fn charts(out: &mut String, runs: &[(String, &Report)]) {
    if runs.is_empty() {
        return;
    }
    let several = runs.len() > 1;
    let mut phases: Vec<(&str, &str)> = Vec::new();
    for row in runs.iter().flat_map(|(_, report)| &report.rows) {
        let key = (row.phase.as_str(), row.load.as_str());
        if row.phase != "connect" && !phases.iter().any(|known| same(*known, key, several)) {
            phases.push(key);
        }
    }
    let rows = |key: (&str, &str)| {
        let key = (key.0.to_owned(), key.1.to_owned());
        runs.iter().flat_map(move |(name, report)| {
            let key = key.clone();
            let found = report
                .rows
                .iter()
                .filter(move |row| same((&key.0, &key.1), (row.phase.as_str(), row.load.as_str()), several));
            found.map(move |row| (name.as_str(), row))
        })
    };
    let names: Vec<&str> = runs.iter().map(|(name, _)| name.as_str()).collect();
    latency_charts(out, &phases, &names, &rows);
    throughput_charts(out, &phases, &names, &rows);
    lateness_chart(out, runs);
    storm_charts(out, runs);
}

/// The same phase: of several runs by name, of one run with the same load, too.
fn same(a: (&str, &str), b: (&str, &str), several: bool) -> bool {
    a.0 == b.0 && (several || a.1 == b.1)
}

fn latency_charts<'a, I: Iterator<Item = (&'a str, &'a Row)>>(
    out: &mut String,
    phases: &[(&str, &str)],
    runs: &[&str],
    rows: &impl Fn((&str, &str)) -> I,
) {
    let drawn = |name: &str, row: &Row| Drawn {
        name: name.to_owned(),
        colour: 0,
        points: row.curve.iter().map(|&(share, ns)| (share, ns as f64)).collect(),
        filled: false,
        steps: false,
    };
    let chart = |title: String, lines: Vec<Drawn>, size: (f64, f64)| Chart {
        title,
        x: SHARE,
        y: LATENCY,
        lines: coloured(lines, runs),
        width: size.0,
        height: size.1,
    };
    out.push_str("<section><h2>Latency</h2>");
    if runs.len() > 1 {
        out.push_str("<div class=grid2>");
        for &phase in phases {
            let lines: Vec<Drawn> = rows(phase).map(|(name, row)| drawn(name, row)).collect();
            if lines.iter().any(|line| line.points.len() > 1) {
                out.push_str(&chart(phase.0.to_owned(), lines, NARROW).html());
            }
        }
        out.push_str("</div>");
    } else {
        for (open, title) in
            [(false, "Closed loops: a saturated server"), (true, "Open loops: from the intended send time")]
        {
            let found = phases.iter().flat_map(|&phase| rows(phase));
            let lines: Vec<Drawn> = found
                .filter(|(_, row)| row.open_loop == open && has_tail(row))
                .map(|(_, row)| drawn(&row.phase, row))
                .collect();
            if !lines.is_empty() {
                out.push_str(&chart(title.to_owned(), lines, WIDE).html());
            }
        }
    }
    out.push_str("</section>\n");
}

fn throughput_charts<'a, I: Iterator<Item = (&'a str, &'a Row)>>(
    out: &mut String,
    phases: &[(&str, &str)],
    runs: &[&str],
    rows: &impl Fn((&str, &str)) -> I,
) {
    out.push_str("<section><h2>Throughput over time</h2><div class=grid2>");
    for &phase in phases {
        let lines: Vec<Drawn> = rows(phase)
            .filter_map(|(name, row)| {
                let points = per_second(row.series.as_ref()?, 1e-3);
                Some(Drawn { name: name.to_owned(), colour: 0, points, filled: true, steps: true })
            })
            .collect();
        if !lines.is_empty() {
            let (title, lines) = (format!("{}: {}", phase.0, phase.1), coloured(lines, runs));
            let chart = Chart { title, x: SECONDS, y: RATE, lines, width: NARROW.0, height: NARROW.1 };
            out.push_str(&chart.html());
        }
    }
    out.push_str("</div></section>\n");
}

/// Gives each line the colour of its run, or of its place where it is no run.
fn coloured(mut lines: Vec<Drawn>, runs: &[&str]) -> Vec<Drawn> {
    for (place, line) in lines.iter_mut().enumerate() {
        line.colour = runs.iter().position(|run| *run == line.name).unwrap_or(place);
    }
    lines
}

/// Enough requests to say something of the slowest in a thousand; bulk frames are few and large.
fn has_tail(row: &Row) -> bool {
    row.latency.is_some_and(|latency| latency.count >= 1_000)
}

/// Points of a series, per second; its times multiplied.
fn per_second(series: &Series, time: f64) -> Vec<(f64, f64)> {
    let rate = |&operations: &u64| operations as f64 * 1e3 / series.slice_ms;
    points(series, time, series.operations.iter().map(rate))
}

fn points(series: &Series, time: f64, values: impl Iterator<Item = f64>) -> Vec<(f64, f64)> {
    values.enumerate().map(|(n, v)| ((series.start_ms + n as f64 * series.slice_ms) * time, v)).collect()
}

fn lateness_chart(out: &mut String, runs: &[(String, &Report)]) {
    let several = runs.iter().filter(|(_, report)| !report.lateness.is_empty()).count() > 1;
    let name = |run: &str, row: &LatenessRow| match several {
        true => format!("{run}: {}", row.phase),
        false => row.phase.clone(),
    };
    let rows = runs.iter().flat_map(|(run, report)| report.lateness.iter().map(move |row| (run, row)));
    let lines: Vec<Drawn> = rows
        .filter(|(_, row)| !row.histogram.is_empty())
        .map(|(run, row)| {
            let share = |count: u64| count as f64 * 100.0 / row.ended.max(1) as f64;
            let mut points: Vec<(f64, f64)> =
                row.histogram.iter().map(|&(ns, count)| (ns as f64, share(count))).collect();
            // A quarter of a power of two wide each, and down to the ground on either side.
            let last = points[points.len() - 1].0;
            points.iter_mut().for_each(|point| point.0 /= 0.25f64.exp2());
            points.insert(0, (points[0].0, 0.0));
            points.push((last, 0.0));
            Drawn { name: name(run, row), colour: 0, points, filled: true, steps: true }
        })
        .collect();
    if !lines.is_empty() {
        let title = "From send time + TTL to the arrival of the event".to_owned();
        let lines = coloured(lines, &[]);
        let chart = Chart { title, x: LATE, y: LEASES, lines, width: WIDE.0, height: WIDE.1 };
        let _ = writeln!(out, "<section><h2>Lateness of expiries</h2>{}</section>", chart.html());
    }
}

fn storm_charts(out: &mut String, runs: &[(String, &Report)]) {
    for (name, report) in runs {
        let Some(storm) = &report.storm else { continue };
        let _ = write!(
            out,
            "<section><h2>Storm: {} leases with one deadline ({})</h2>",
            human::count(report.plan.expire_leases as f64),
            escape(name)
        );
        let ended = Drawn {
            name: "ended".to_owned(),
            colour: 0,
            points: per_second(&storm.ended, 1.0),
            filled: true,
            steps: true,
        };
        let slowest = storm.renewals.slowest_ns.iter().map(|&ns| (ns as f64).max(1.0));
        let slowest = Drawn {
            name: "slowest renewal".to_owned(),
            colour: 1,
            points: points(&storm.renewals, 1.0, slowest).into_iter().filter(|p| p.1 > 1.0).collect(),
            filled: false,
            steps: true,
        };
        // Both over the same time.
        let ends = storm.renewals.start_ms + storm.renewals.operations.len() as f64 * storm.renewals.slice_ms;
        let mut ended = ended;
        ended.points.insert(0, (storm.ended.start_ms, 0.0));
        ended.points.insert(0, (storm.renewals.start_ms.min(storm.ended.start_ms), 0.0));
        ended
            .points
            .push((storm.ended.start_ms + storm.ended.operations.len() as f64 * storm.ended.slice_ms, 0.0));
        ended.points.push((ends, 0.0));
        for (title, y, line) in [
            ("Leases ended, per second", RATE, ended),
            ("The slowest renewal beside them, from its intended send time", LATENCY, slowest),
        ] {
            let chart = Chart {
                title: title.to_owned(),
                x: AFTER,
                y,
                lines: vec![line],
                width: WIDE.0,
                height: 240.0,
            };
            out.push_str(&chart.html());
        }
        out.push_str("</section>\n");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::sample;

    #[test]
    fn a_page_stands_alone_and_draws_what_was_measured() {
        let one = render(&[Line::Run(Box::new(sample()))]);
        assert!(one.contains("<svg") && one.contains("64 x 32") && one.contains("prefers-color-scheme"));
        for foreign in ["http://", "https://", "src=", "@import", "<script", "url("] {
            assert!(!one.contains(foreign), "the page asks for {foreign}");
        }
        let two = render(&[Line::Run(Box::new(sample())), Line::Unknown, Line::Run(Box::new(sample()))]);
        assert!(two.matches("class=legend").count() >= 2, "each phase compares the runs");
    }
}
