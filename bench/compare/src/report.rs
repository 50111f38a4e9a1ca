//! The report: Markdown made from the lines of a run, and from nothing else.
//!
//! One table per job; every table has the same last column, which says how many times better Tenure is by
//! each main figure. What is below one is bold and stands again in a list of its own: rows that Tenure
//! loses are to be found by whoever looks for them.

use std::fmt::Write;

use tenure_bench::instruments::{bytes, count, nanoseconds, neighbours_note};

use crate::line::PeerLine;
use crate::measure::{Figure, Job, Unit};
use crate::peer::Peer;
use crate::summary::{self, Row};

/// What a reader must know before the tables.
const HOW_TO_READ: &str = include_str!("report/how_to_read.md");

/// The whole document.
pub(crate) fn document(lines: &[PeerLine]) -> String {
    let rows = summary::rows(lines);
    let mut text = String::from(HOW_TO_READ);
    let Some(first) = lines.first() else { return text };
    let (host, plan) = (&first.host, &first.plan);
    let _ = writeln!(text, "\n## This run\n");
    let _ = writeln!(
        text,
        "{}, {} CPUs, {} memory, Linux {}, commit {}. {} rounds of {} s a row{}.",
        host.cpu_model,
        host.cpus,
        bytes(host.memory_bytes as f64),
        host.kernel,
        host.commit.as_deref().unwrap_or("unknown"),
        plan.rounds,
        plan.span_s,
        if plan.quick { "; **a quick run: its figures say nothing**" } else { "" }
    );
    if let Some(note) = neighbours_note(others_share(lines)) {
        let _ = writeln!(text, "\n**{note}.**");
    }
    let _ = writeln!(text, "\n| peer | version | settings |\n| --- | --- | --- |");
    for peer in Peer::ALL {
        settings_of(&mut text, peer, &rows);
    }
    losses(&mut text, &rows);
    for job in Job::ALL {
        let rows: Vec<&Row> = rows.iter().filter(|row| row.job == job).collect();
        if !rows.is_empty() {
            let _ = writeln!(text, "\n## {}\n\n`--jobs {}`\n", job.title(), job.name());
            text.push_str(&table(job, &rows));
        }
    }
    text
}

/// Of all measurements, the mean.
fn others_share(lines: &[PeerLine]) -> Option<f64> {
    let shares: Vec<f64> = lines.iter().filter_map(|line| line.others_share).collect();
    (!shares.is_empty()).then(|| shares.iter().sum::<f64>() / shares.len() as f64)
}

/// A line for each set of settings that a peer was run with.
fn settings_of(text: &mut String, peer: Peer, rows: &[Row]) {
    let mut seen: Vec<(&str, Vec<String>)> = Vec::new();
    for row in rows.iter().filter(|row| row.peer == peer && row.missing.is_none()) {
        match seen.iter_mut().find(|(settings, _)| *settings == row.settings) {
            Some((_, jobs)) if jobs.contains(&row.job.name()) => {}
            Some((_, jobs)) => jobs.push(row.job.name()),
            None => seen.push((&row.settings, vec![row.job.name()])),
        }
    }
    let version = rows.iter().find(|row| row.peer == peer).map_or("", |row| row.version.as_str());
    for (settings, jobs) in seen {
        let _ = writeln!(text, "| {} | {version} | `{settings}` ({}) |", peer.name(), jobs.join(", "));
    }
}

fn losses(text: &mut String, rows: &[Row]) {
    let _ = writeln!(text, "\n## What Tenure loses\n");
    let mut none = true;
    for row in rows {
        for (figure, ratio) in row.lost() {
            none = false;
            let theirs = value(figure, row.figures[figure.key]);
            let _ = writeln!(
                text,
                "- {}: {} of {} {} ({}) is {theirs}, {} times better than Tenure's.",
                row.job.title(),
                figure.title,
                row.peer.name(),
                row.version,
                row.how,
                times(1.0 / ratio)
            );
        }
    }
    if none {
        let _ = writeln!(text, "No main figure of any row.");
    }
}

/// The table of one job.
fn table(job: Job, rows: &[&Row]) -> String {
    let figures: Vec<&Figure> = job.figures().iter().collect();
    let titles: Vec<&str> = figures.iter().map(|figure| figure.title).collect();
    let mut text = format!("| peer | how | {} | Tenure is better by |\n", titles.join(" | "));
    text.push_str(&"| --- ".repeat(titles.len() + 3));
    text.push_str("|\n");
    for row in rows {
        let peer = format!("{} {}", row.peer.name(), row.version);
        if let Some(why) = &row.missing {
            let _ = writeln!(text, "| {peer} | {} | {}{why} |", row.how, "– | ".repeat(titles.len()));
            continue;
        }
        let cells = figures.iter().map(|figure| cell(figure, row));
        let cells: Vec<String> = cells.collect();
        let _ = writeln!(text, "| {peer} | {} | {} | {} |", row.how, cells.join(" | "), verdict(row));
    }
    text
}

/// A figure and, where rounds differ by more than a tenth, its range.
fn cell(figure: &Figure, row: &Row) -> String {
    let Some(&middle) = row.figures.get(figure.key) else { return "–".to_owned() };
    let mut text = value(figure, middle);
    if row.is_least(figure.key) {
        text.insert_str(0, "≥ ");
    }
    if figure.key == "load_busy" && row.load_limited {
        text.push_str(" (the limit)");
    }
    let wide = |(low, high): (f64, f64)| high - low > 0.1 * middle.abs();
    if figure.better.is_some()
        && let Some(range) = row.ranges.get(figure.key).copied().filter(|range| wide(*range))
    {
        let _ = write!(text, " ({} … {})", value(figure, range.0), value(figure, range.1));
    }
    text
}

/// The last column.
fn verdict(row: &Row) -> String {
    let mut parts = Vec::new();
    for figure in row.job.figures() {
        let Some(&ratio) = row.tenure_better.get(figure.key) else { continue };
        let least = if row.is_least(figure.key) { "≥ " } else { "" };
        let text = format!("{} {least}{} ×", figure.title, times(ratio));
        parts.push(if ratio < 1.0 { format!("**{text}**") } else { text });
    }
    for (what, count) in &row.errors {
        parts.push(format!("{count} times: {}", what.replace('|', "/")));
    }
    parts.join("; ")
}

fn value(figure: &Figure, value: f64) -> String {
    match figure.unit {
        Unit::Ns => nanoseconds(value),
        Unit::PerSecond | Unit::Count => count(value),
        Unit::Bytes => format!("{value:.1}"),
        Unit::Seconds if value.abs() < 0.0005 => "0 s".to_owned(),
        Unit::Seconds if value < 0.0 => format!("−{}", nanoseconds(-value * 1e9)),
        Unit::Seconds => nanoseconds(value * 1e9),
        Unit::Share => format!("{:.0} %", value * 100.0),
        Unit::Times => times(value),
    }
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
    use crate::line::Origin;
    use crate::line::tests::sample;

    fn lines() -> Vec<PeerLine> {
        let figures = [("server_cpu_ns", 150.0), ("per_second", 6e6), ("load_busy", 0.95)];
        let mut tenure = sample(Peer::Tenure, Job::Renew32, "64 × 32", 1, &figures);
        tenure.measure.load_limited = true;
        let mut redis = sample(
            Peer::Redis,
            Job::Renew32,
            "64 × 32",
            1,
            &[("server_cpu_ns", 1_500.0), ("per_second", 12e6)],
        );
        redis.measure.errors.insert("no such key".to_owned(), 3);
        let origin = Origin { host: redis.host.clone(), plan: redis.plan.clone() };
        let missing =
            PeerLine::missing(&origin, Peer::Memcached, "", Job::Renew32, "memcached is not installed");
        vec![tenure, redis, missing]
    }

    #[test]
    fn a_table_shows_figures_ratios_errors_and_what_is_missing() {
        let text = document(&lines());
        for part in [
            "## Renew, 32 in flight on each of 64 connections",
            "| Tenure 1.2.3 | 64 × 32 | 150 ns | 6.00 M | – | – | 95 % (the limit) |",
            "server CPU per lease 10.0 ×",
            "**per second 0.50 ×**",
            "3 times: no such key",
            "memcached is not installed",
            "`--fast` (renew32)",
        ] {
            assert!(text.contains(part), "{part} is missing in\n{text}");
        }
        let columns: Vec<usize> = text
            .lines()
            .skip_while(|line| !line.starts_with("| peer | how"))
            .take_while(|line| line.starts_with('|'))
            .map(|line| line.matches('|').count())
            .collect();
        assert!(columns.len() == 5 && columns.iter().all(|&count| count == columns[0]), "{columns:?}");
    }

    #[test]
    fn a_busy_machine_is_told() {
        let mut lines = lines();
        assert!(!document(&lines).contains("NOTE"));
        (lines[0].others_share, lines[1].others_share) = (Some(0.2), Some(0.6));
        assert!(
            document(&lines).contains("**NOTE: other work took 40 % of the CPUs"),
            "{}",
            document(&lines)
        );
    }

    #[test]
    fn a_quantile_with_ends_in_it_that_nobody_told_is_a_least() {
        let line = |peer, untold| {
            let late = [("late_p50_ns", 1e9), ("late_p99_ns", 2e9), ("leases", 1_000.0), ("untold", untold)];
            sample(peer, Job::Lateness, "x", 1, &late)
        };
        let text = document(&[line(Peer::Tenure, 0.0), line(Peer::Redis, 20.0)]);
        assert!(text.contains("| 1.00 s | ≥ 2.00 s |"), "{text}");
        assert!(text.contains("late p50 1.00 ×; late p99 ≥ 1.00 ×"), "{text}");
        assert_eq!(document(&[line(Peer::Redis, 5.0)]).matches("≥ 2").count(), 0);
    }

    #[test]
    fn a_loss_is_listed_by_itself() {
        let text = document(&lines());
        let losses = text.split("## What Tenure loses").nth(1).unwrap();
        assert!(
            losses.contains("per second of Redis 1.2.3 (64 × 32) is 12.0 M, 2.00 times better"),
            "{losses}"
        );
        assert!(document(&lines()[..1]).contains("No main figure of any row."));
    }

    #[test]
    fn a_range_is_shown_where_rounds_differ() {
        let line = |round, cpu| sample(Peer::Redis, Job::Renew1, "x", round, &[("server_cpu_ns", cpu)]);
        assert!(
            document(&[line(1, 100.0), line(2, 150.0), line(3, 90.0)]).contains("100 ns (90.0 ns … 150 ns)")
        );
        assert!(!document(&[line(1, 100.0), line(2, 101.0), line(3, 99.0)]).contains("ns … "));
        let shift = |seconds| value(&Job::Restart.figures()[3], seconds);
        assert_eq!(
            (shift(-2.5).as_str(), shift(0.0).as_str(), shift(2.0).as_str()),
            ("−2.50 s", "0 s", "2.00 s")
        );
    }
}
