//! The report as a table for people. Widths are those of its widest cells; nothing is cut.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{LatenessRow, MemoryRow, Report, RestartRow, Row, StallRow};
use crate::human;
use crate::latency::Quantiles;
use crate::neighbours;

pub(super) fn render(report: &Report) -> String {
    let mut out = String::new();
    let mut line = |text: String| {
        out.push_str(text.trim_end());
        out.push('\n');
    };
    header(report, &mut line);
    line(String::new());
    let mut cells = vec![row([
        "phase",
        "load",
        "ops/s",
        "p50",
        "p99",
        "p99.9",
        "max",
        "server/op",
        "load/op",
        "busy",
        "errors",
    ])];
    cells.extend(report.rows.iter().map(phase_cells));
    aligned(&cells, 2, &mut line);
    for row in &report.rows {
        errors(&row.phase, &row.errors, &mut line);
        if row.retries > 0 {
            let times = row.retries as f64 / row.operations.max(1) as f64;
            line(format!(
                "{}: the server was Busy; each lease was asked for {:.2} times",
                row.phase,
                1.0 + times
            ));
        }
        if let Some(lag) = row.send_lag {
            line(format!(
                "{}: latency from the intended send time; the load itself sent late by {}",
                row.phase,
                brief(lag)
            ));
        }
    }
    if report.rows.iter().any(|row| row.open_loop) {
        line(
            "At a fixed rate the server polls between requests, and its CPU per operation has that in it."
                .to_owned(),
        );
    }
    if !report.lateness.is_empty() {
        line(String::new());
        let mut cells =
            vec![row(["expiry", "leases", "late p50", "p99", "p99.9", "max", "ended/s", "errors"])];
        cells.extend(report.lateness.iter().map(lateness_cells));
        aligned(&cells, 2, &mut line);
        for row in &report.lateness {
            errors(&row.phase, &row.errors, &mut line);
        }
        let server = report.lateness.iter().filter_map(|row| row.server_ms_max).max();
        line(format!(
            "late: from send time + TTL to the arrival of the event, so with both transits and rounding.{}",
            server.map_or(String::new(), |ms| format!(" The server's own maximum: {ms} ms."))
        ));
    }
    if !report.stalls.is_empty() {
        line(String::new());
        aligned(&stall_cells(&report.stalls), 1, &mut line);
        line(STALLS_ARE.to_owned());
    }
    line(String::new());
    out.push_str(&tail(report));
    out
}

/// What the table of stalls says.
pub(super) const STALLS_ARE: &str = "The longest turn of a core since the server's start, in which it answers nobody, and the longest \
                                     of each cause. Where only the wall is long, the CPU was given to somebody else. An \
                                     *empty loop*, where there is one: the longest gap of a loop that does nothing, on the same CPU after \
                                     the load: what machine and host take for themselves.";

/// Head and rows: a column for each cause.
pub(super) fn stall_cells(stalls: &[StallRow]) -> Vec<Vec<String>> {
    let line = |name: &str, of: fn(&StallRow) -> u64| {
        let mut cells = vec![name.to_owned()];
        let took = |us: u64| if us == 0 { "-".to_owned() } else { human::nanoseconds(us as f64 * 1e3) };
        cells.extend(stalls.iter().map(|row| took(of(row))));
        cells
    };
    let mut head = vec!["longest".to_owned()];
    head.extend(stalls.iter().map(|row| row.cause.clone()));
    vec![head, line("by the wall", |row| row.wall_us), line("CPU time", |row| row.cpu_us)]
}

/// What stands below the tables.
pub(super) fn tail(report: &Report) -> String {
    let mut out = String::new();
    let mut line = |text: String| {
        out.push_str(text.trim_end());
        out.push('\n');
    };
    for restart in &report.restarts {
        line(restart_line(restart));
        errors("restart", &restart.errors, &mut line);
    }
    if let Some(found) = &report.connections {
        line(format!(
            "connections: {} a connection, with {} of them",
            human::bytes(found.per_connection_bytes),
            human::count(found.connections as f64)
        ));
    }
    if let Some(memory) = &report.memory {
        line(memory_line(memory));
    }
    if let Some(stop_s) = report.stop_s {
        line(format!("stop: exit code 0, {} after SIGTERM", human::nanoseconds(stop_s * 1e9)));
    }
    if let Some(note) = neighbours::note(report.others_share) {
        line(note);
    }
    for failure in &report.failures {
        line(format!("FAILED: {failure}"));
    }
    if report.interrupted {
        line("INTERRUPTED: the phases above are all there are".to_owned());
    }
    if report.is_clean() {
        line(format!("{:.0} s, no errors", report.elapsed_s));
    }
    out
}

fn header(report: &Report, line: &mut impl FnMut(String)) {
    let (host, plan, server) = (&report.host, &report.plan, &report.server);
    line(host.line());
    let pins = plan.server.as_ref().and_then(|server| server.pin).zip(plan.pin_load);
    line(format!(
        "{}: {} shard{}, driver {}, durability {}{}{}",
        server.server,
        server.shards,
        if server.shards == 1 { "" } else { "s" },
        server.driver,
        server.durability,
        pins.map_or(String::new(), |(server, load)| format!(
            "; server from CPU {server}, load on CPU {load}"
        )),
        if plan.quick { "; quick run, not for comparison" } else { "" },
    ));
    if plan.server.as_ref().is_some_and(|server| server.place_in_memory) {
        line("NOTE: the data directory is in memory: no write reached a disk".to_owned());
    }
}

fn row<const N: usize>(cells: [&str; N]) -> Vec<String> {
    cells.map(str::to_owned).to_vec()
}

fn phase_cells(row: &Row) -> Vec<String> {
    let optional = |value: Option<f64>, text: fn(f64) -> String| value.map_or("-".to_owned(), text);
    let mut cells = vec![row.phase.clone(), row.load.clone(), human::count(row.per_second)];
    cells.extend(quantiles(row.latency));
    cells.push(optional(row.server_cpu_ns, human::nanoseconds));
    cells.push(optional(row.load_ns, human::nanoseconds));
    let share = |value: Option<f64>| value.map_or("-".to_owned(), |share| format!("{:.0}", share * 100.0));
    cells.push(format!("{}/{} %", share(row.server_cpus), share(row.load_busy)));
    cells.push(row.errors.values().sum::<u64>().to_string());
    cells
}

fn lateness_cells(row: &LatenessRow) -> Vec<String> {
    let mut cells = vec![row.phase.clone(), row.what.clone()];
    cells.extend(quantiles(row.lateness));
    cells.push(human::count(row.per_second));
    cells.push(row.errors.values().sum::<u64>().to_string());
    cells
}

fn quantiles(quantiles: Option<Quantiles>) -> [String; 4] {
    let Some(q) = quantiles else { return ["-", "-", "-", "-"].map(str::to_owned) };
    [q.p50_ns, q.p99_ns, q.p999_ns, q.max_ns].map(|ns| human::span(Duration::from_nanos(ns)))
}

fn brief(q: Quantiles) -> String {
    let span = |ns| human::span(Duration::from_nanos(ns));
    format!("p50 {}, p99 {}, max {}", span(q.p50_ns), span(q.p99_ns), span(q.max_ns))
}

fn errors(phase: &str, errors: &BTreeMap<String, u64>, line: &mut impl FnMut(String)) {
    for (what, count) in errors {
        line(format!("{phase}: {what} {count} times"));
    }
}

fn restart_line(restart: &RestartRow) -> String {
    format!(
        "restart after kill -9: {} leases, first renewal after {}, listening after {}{} ({} on disk{})",
        human::count(restart.leases as f64),
        human::nanoseconds(restart.renews_s * 1e9),
        human::nanoseconds(restart.listens_s * 1e9),
        restart.recovery_ms.map_or(String::new(), |ms| format!(", of it recovery {ms} ms")),
        human::bytes(restart.directory_bytes as f64),
        restart.resident_bytes.map_or(String::new(), |b| format!("; resident {}", human::bytes(b as f64))),
    )
}

fn memory_line(memory: &MemoryRow) -> String {
    format!(
        "memory: {:.1} B a lease (resident {} with the first few, {} with {} more{})",
        memory.per_lease_bytes,
        human::bytes(memory.empty_bytes as f64),
        human::bytes(memory.filled_bytes as f64),
        human::count(memory.leases as f64),
        memory.peak_bytes.map_or(String::new(), |peak| format!("; peak {}", human::bytes(peak as f64))),
    )
}

pub(super) fn summary(row: &Row) -> String {
    let mut text = format!("{:14} {:22} {:>8}/s", row.phase, row.load, human::count(row.per_second));
    if let Some(latency) = row.latency {
        text.push_str(&format!("  {}", brief(latency)));
    }
    if let Some(cpu) = row.server_cpu_ns {
        text.push_str(&format!("  server {}/op", human::nanoseconds(cpu)));
    }
    if let Some(load) = row.load_ns {
        text.push_str(&format!("  load {}/op", human::nanoseconds(load)));
    }
    for (what, count) in &row.errors {
        text.push_str(&format!("  {what}: {count}"));
    }
    text
}

/// Columns of equal width, the first `left` flush left and the others flush right.
pub(crate) fn aligned(rows: &[Vec<String>], left: usize, line: &mut impl FnMut(String)) {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    for row in rows {
        let cells = row.iter().zip(&widths).enumerate().map(|(column, (cell, &width))| {
            if column < left { format!("{cell:<width$}") } else { format!("{cell:>width$}") }
        });
        line(cells.collect::<Vec<_>>().join("  "));
    }
}
