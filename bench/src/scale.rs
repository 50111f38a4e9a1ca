//! `tenure bench scale`: the same work with ten times as many leases each time.
//!
//! For each number of leases a fresh server on one core: so many are granted, renewed one by one and in
//! batches, and the server is killed and started again; they are revoked, and as many are granted that
//! expire at once, beside renewals. What each costs, and what memory it takes, shows whether cost grows with the number of leases, and where a
//! cache ends. This side keeps 8 bytes a lease, and a sum for those that expire, so that a hundred
//! million fit beside the server.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::ensure;
use serde::{Deserialize, Serialize};

use crate::args::{BenchArgs, CpuChoice, Phase, parse_span};
use crate::host::Host;
use crate::human;
use crate::limits::LEASES_MAX;
use crate::neighbours::{self, Neighbours};
use crate::report::{Line, Report, aligned, write_html};
use crate::{EXIT_FAILED, SCHEMA, interrupt, measure};

/// Each step has so many times the leases of the one before.
const FACTOR: u64 = 10;

/// Arguments of `tenure bench scale`.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct ScaleArgs {
    /// Leases of the first step, such as 10k
    #[arg(long, value_name = "N", value_parser = parse_count, default_value = "10k")]
    pub from: u64,
    /// Leases of the last step, such as 100M; each has ten times those of the one before
    #[arg(long, value_name = "N", value_parser = parse_count, default_value = "10M")]
    pub to: u64,
    /// Measured time of each phase that has one [default: 3s]
    #[arg(long, value_name = "SPAN", value_parser = parse_span)]
    pub duration: Option<Duration>,
    /// Print one JSON object instead of a table
    #[arg(long)]
    pub json: bool,
    /// Append the result to this file, as one line of JSON
    #[arg(long, value_name = "FILE")]
    pub json_out: Option<PathBuf>,
    /// Write a page with tables and charts to this file
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// Where to make the server's temporary directory [default: the first disk among TMPDIR, /var/tmp, here]
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// CPU of the server; none to leave it to the scheduler [default: 0]
    #[arg(long, value_name = "CPU")]
    pub pin_server: Option<CpuChoice>,
    /// CPU of the load; none to leave it to the scheduler [default: the last]
    #[arg(long, value_name = "CPU")]
    pub pin_load: Option<CpuChoice>,
    /// No progress on standard error
    #[arg(long)]
    pub no_progress: bool,
}

/// What was found.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Scale {
    /// [`SCHEMA`].
    pub schema: u32,
    /// Where.
    pub host: Host,
    /// A run for each number of leases, ascending.
    pub steps: Vec<Report>,
    /// All of it, seconds.
    pub elapsed_s: f64,
    /// Share of the machine's CPUs that other processes took meanwhile, 0 to 1.
    #[serde(default)]
    pub others_share: Option<f64>,
}

/// A figure of a step: its name, how it is read, and its unit as text.
pub(crate) struct ScaleFigure {
    /// As a column.
    pub(crate) name: &'static str,
    pub(crate) of: fn(&Report) -> Option<f64>,
    pub(crate) text: fn(f64) -> String,
}

fn phase(report: &Report, name: &str) -> Option<f64> {
    report.rows.iter().find(|row| row.phase == name)?.server_cpu_ns
}

fn rate(report: &Report, name: &str) -> Option<f64> {
    report.rows.iter().find(|row| row.phase == name).map(|row| row.per_second)
}

fn per_second(value: f64) -> String {
    format!("{}/s", human::count(value))
}

fn each(value: f64) -> String {
    format!("{value:.1} B")
}

/// What cost looks like as leases grow.
pub(crate) const FIGURES: [ScaleFigure; 8] = [
    ScaleFigure { name: "renew, CPU", of: |r| phase(r, "renew"), text: human::nanoseconds },
    ScaleFigure { name: "renew in batches, CPU", of: |r| phase(r, "renew-batch"), text: human::nanoseconds },
    ScaleFigure { name: "grant in batches, CPU", of: |r| phase(r, "fill"), text: human::nanoseconds },
    ScaleFigure { name: "grants", of: |r| rate(r, "fill"), text: per_second },
    ScaleFigure { name: "expired at once", of: |r| Some(r.lateness.first()?.per_second), text: per_second },
    ScaleFigure {
        name: "the last one late by",
        of: |r| Some(r.lateness.first()?.lateness?.max_ns as f64),
        text: human::nanoseconds,
    },
    ScaleFigure { name: "memory per lease", of: |r| Some(r.memory?.per_lease_bytes), text: each },
    ScaleFigure {
        name: "restart to first renewal",
        of: |r| Some(r.restarts.first()?.renews_s * 1e9),
        text: human::nanoseconds,
    },
];

/// Measures every step and prints.
///
/// # Errors
/// When arguments are out of range, or nothing could be measured.
pub(crate) fn run(args: &ScaleArgs, server_exe: &std::path::Path) -> anyhow::Result<ExitCode> {
    ensure!(
        (1..=LEASES_MAX).contains(&args.from) && (args.from..=LEASES_MAX).contains(&args.to),
        "--from and --to must be from 1 to {LEASES_MAX}, and --to not less than --from"
    );
    let (began, neighbours) = (Instant::now(), Neighbours::watch());
    let mut scale = Scale {
        schema: SCHEMA,
        host: Host::observe(),
        steps: Vec::new(),
        elapsed_s: 0.0,
        others_share: None,
    };
    for leases in steps(args.from, args.to) {
        if !args.no_progress {
            eprintln!("-- {} leases", human::count(leases as f64));
        }
        let report = match measure(&step(args, leases), server_exe.to_owned()) {
            Err(_) if interrupt::is_interrupted() => return Ok(interrupt::exit_code()),
            found => found?,
        };
        let goes_on = report.is_clean();
        scale.steps.push(report);
        if !goes_on {
            break;
        }
    }
    scale.elapsed_s = began.elapsed().as_secs_f64();
    scale.others_share = neighbours.share();
    let code = match scale.steps.last() {
        Some(last) if last.interrupted => interrupt::exit_code(),
        Some(last) if last.is_clean() => ExitCode::SUCCESS,
        _ => ExitCode::from(EXIT_FAILED),
    };
    let text = scale.to_text();
    let line = Line::Scale(Box::new(scale));
    if args.json {
        println!("{}", line.to_json()?);
    } else {
        print!("{text}");
    }
    if let Some(path) = &args.json_out {
        line.append_to(path)?;
    }
    if let Some(path) = &args.html {
        write_html(path, &[line])?;
    }
    Ok(code)
}

/// Numbers of leases: from the first by factors, and the last.
fn steps(from: u64, to: u64) -> Vec<u64> {
    let mut steps: Vec<u64> = std::iter::successors(Some(from), |n| n.checked_mul(FACTOR))
        .take_while(|&leases| leases < to)
        .collect();
    steps.push(to);
    steps
}

fn step(args: &ScaleArgs, leases: u64) -> BenchArgs {
    use Phase::{Fill, Renew, RenewBatch, Restart, Revoke, Storm};
    BenchArgs {
        phases: vec![Fill, Renew, RenewBatch, Restart, Revoke, Storm],
        leases: Some(leases),
        expire_leases: Some(leases),
        duration: Some(args.duration.unwrap_or(Duration::from_secs(3))),
        shards: Some(1),
        load_threads: Some(1),
        pin_server: args.pin_server,
        pin_load: args.pin_load,
        data_dir: args.data_dir.clone(),
        no_progress: args.no_progress,
        seed: 1,
        ..BenchArgs::default()
    }
}

/// Reads `10k`, `100M` or `5000`.
fn parse_count(text: &str) -> Result<u64, String> {
    let refuse = || format!("`{text}` is not a number of leases: write for example 10k or 100M");
    let (number, factor) = match text.as_bytes().last() {
        Some(b'k') => (&text[..text.len() - 1], 1_000),
        Some(b'M') => (&text[..text.len() - 1], 1_000_000),
        _ => (text, 1),
    };
    number.parse::<u64>().ok().and_then(|number| number.checked_mul(factor)).ok_or_else(refuse)
}

impl Scale {
    /// The table for people: a column for each number of leases.
    #[must_use]
    pub fn to_text(&self) -> String {
        let mut out = format!("{}\n\n", self.host.line());
        let mut line = |text: String| {
            out.push_str(text.trim_end());
            out.push('\n');
        };
        aligned(&self.cells(), 1, &mut line);
        line(String::new());
        for report in &self.steps {
            for error in report.problems() {
                line(format!("FAILED: {} leases: {error}", human::count(report.plan.leases as f64)));
            }
        }
        if let Some(note) = neighbours::note(self.others_share) {
            line(note);
        }
        line(format!("{:.0} s", self.elapsed_s));
        out
    }

    /// Head and rows of the table.
    pub(crate) fn cells(&self) -> Vec<Vec<String>> {
        let mut cells = vec![vec!["leases".to_owned()]];
        cells[0].extend(self.steps.iter().map(|report| human::count(report.plan.leases as f64)));
        for figure in &FIGURES {
            let mut row = vec![figure.name.to_owned()];
            let value = |report| (figure.of)(report).map_or("-".to_owned(), figure.text);
            row.extend(self.steps.iter().map(value));
            cells.push(row);
        }
        cells
    }

    /// CPU time of a renewal in batches over the number of leases, as a chart that viewers of Markdown draw (Mermaid).
    pub(crate) fn chart(&self) -> Option<String> {
        let leases: Vec<String> =
            self.steps.iter().map(|step| format!("\"{}\"", human::count(step.plan.leases as f64))).collect();
        let ns: Option<Vec<f64>> = self.steps.iter().map(|step| phase(step, "renew-batch")).collect();
        let ns: Vec<String> = ns?.iter().map(|ns| format!("{ns:.1}")).collect();
        Some(format!(
            "```mermaid\nxychart-beta\n    title \"renewal in batches of 256, CPU of the server\"\n    x-axis \"leases\" [{}]\n    \
             y-axis \"ns\"\n    line [{}]\n```",
            leases.join(", "),
            ns.join(", ")
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_rise_by_ten_and_end_where_they_should() {
        assert_eq!(steps(10_000, 1_000_000), [10_000, 100_000, 1_000_000]);
        assert_eq!(steps(10_000, 50_000), [10_000, 50_000]);
        assert_eq!(steps(7, 7), [7]);
        assert_eq!(steps(u64::MAX / 2, u64::MAX), [u64::MAX / 2, u64::MAX]);
    }

    #[test]
    fn counts_are_read_with_their_unit_or_refused() {
        assert_eq!(
            (parse_count("10k"), parse_count("100M"), parse_count("5")),
            (Ok(10_000), Ok(100_000_000), Ok(5))
        );
        for bad in ["", "k", "1G", "-1k", "99999999999999999999M"] {
            assert!(parse_count(bad).unwrap_err().contains("100M"), "{bad}");
        }
    }

    #[test]
    fn the_table_has_a_column_for_each_step() {
        let step = crate::report::tests::sample();
        let scale = Scale {
            schema: SCHEMA,
            host: Host::observe(),
            steps: vec![step.clone(), step],
            elapsed_s: 1.0,
            others_share: None,
        };
        let cells = scale.cells();
        assert!(cells.iter().all(|row| row.len() == 3));
        assert_eq!(cells[1], ["renew, CPU", "158 ns", "158 ns"]);
        assert!(scale.to_text().contains("158 ns"));
        assert_eq!(scale.chart(), None, "no renewals in batches in these steps");
        let mut batches = scale;
        batches.steps.iter_mut().for_each(|step| step.rows[0].phase = "renew-batch".to_owned());
        let ns = batches.steps[0].rows[0].server_cpu_ns.unwrap();
        assert!(batches.chart().unwrap().contains(&format!("line [{ns:.1}, {ns:.1}]")));
    }
}
