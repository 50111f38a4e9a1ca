//! What a soak found: one line of JSON, and a table for people.

use super::judge::{Growth, MEASURES};
use super::sample::{STAGES, Sample};

/// The outcome of a run whose promises held.
#[derive(Clone, Debug)]
pub struct Report {
    /// How long it was to last.
    pub minutes: u64,
    /// Server processes.
    pub life_count: u64,
    /// Answers that were checked.
    pub answer_count: u64,
    /// Ends of leases in the streams.
    pub end_count: u64,
    /// Latency over the whole run, µs: p50, p99, p99.9, max.
    pub latency_us: [u64; 4],
    /// Every second.
    pub samples: Vec<Sample>,
    /// Whether anything grew.
    pub growths: Vec<Growth>,
}

impl Report {
    /// Whether nothing grew beyond its bound.
    #[must_use]
    pub fn passed(&self) -> bool {
        self.growths.iter().all(|growth| growth.within_bounds)
    }

    fn turn_us_max(&self) -> [u64; 5] {
        let stage = |index: usize| self.samples.iter().map(|s| s.turn_us_max[index]).max().unwrap_or(0);
        [0, 1, 2, 3, 4].map(stage)
    }

    /// One line of JSON.
    #[must_use]
    pub fn json(&self) -> String {
        let number =
            |value: Option<f64>| value.map_or_else(|| "null".to_owned(), |value| format!("{value:.1}"));
        let growths = self.growths.iter().map(|growth| {
            format!(
                "\"{}\":{{\"level\":{:.0},\"per_minute\":{},\"across\":{},\"within_bounds\":{}}}",
                growth.name,
                growth.level,
                number(growth.per_minute),
                number(growth.across),
                growth.within_bounds
            )
        });
        format!(
            "{{\"soak_minutes\":{},\"lives\":{},\"samples\":{},\"answers\":{},\"ends\":{},\"latency_us\":{:?},\
             \"turn_us_max\":{:?},{},\"passed\":{}}}",
            self.minutes,
            self.life_count,
            self.samples.len(),
            self.answer_count,
            self.end_count,
            self.latency_us,
            self.turn_us_max(),
            growths.collect::<Vec<_>>().join(","),
            self.passed()
        )
    }

    /// A table in Markdown.
    #[must_use]
    pub fn table(&self) -> String {
        let number = |value: Option<f64>, scale: f64| {
            value.map_or_else(|| "not judged".to_owned(), |value| format!("{:+.2}", value / scale))
        };
        let mut text = String::from(
            "| measure | level | growth within a life, a minute (bound) | growth between halves (bound) | verdict |\n\
             | --- | --- | --- | --- | --- |\n",
        );
        for (growth, measure) in self.growths.iter().zip(&MEASURES) {
            let (scale, unit) = if growth.name.ends_with("bytes") { (1e6, " MB") } else { (1.0, "") };
            let name = growth.name.trim_end_matches("_bytes");
            text += &format!(
                "| {name} | {:.1}{unit} | {}{unit} ({}) | {}{unit} ({}) | {} |\n",
                growth.level / scale,
                number(growth.per_minute, scale),
                bound(measure.per_minute_max, scale),
                number(growth.across, scale),
                bound(measure.across_max, scale),
                if growth.within_bounds { "no growth" } else { "GROWS" }
            );
        }
        let [p50, p99, p999, max] = self.latency_us;
        text += &format!("\nlatency µs: p50 {p50}, p99 {p99}, p99.9 {p999}, max {max}\nlongest turn µs:");
        for ((name, _), longest) in STAGES.iter().zip(self.turn_us_max()) {
            text += &format!(" {name} {longest}");
        }
        text
    }
}

fn bound(value: f64, scale: f64) -> String {
    if value.is_finite() { format!("{:.1}", value / scale) } else { "none".to_owned() }
}
