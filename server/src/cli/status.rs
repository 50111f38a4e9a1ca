//! `tenure status`: what a server says about itself.
//!
//! Everything comes from one Info reply; a number that the server does not send is left out rather
//! than shown as 0. Latenesses come as a histogram in powers of two, so a percentile is "under" a
//! bound, never an exact number.

use std::fmt;

use clap::Args;
use serde_json::{Map, Value, json};
use tenure_client::ServerInfo;
use tenure_protocol::{TURN_CAUSES, tag, text_tag};

use super::connect::{self, of_client};
use super::failure::Outcome;
use super::remote::Remote;
use super::screen::Screen;
use super::ttl::show_age;

/// Show a server's version, role, load, lateness and shards
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  tenure status
  tenure -w json status | jq .lateness.p99_ms_below

Lateness is how long after its deadline a lease's end was logged, over all expiries since the server started.")]
pub(crate) struct Status {
    #[command(flatten)]
    remote: Remote,
}

impl Status {
    pub(crate) fn run(self, outer: Remote) -> Outcome {
        let remote = self.remote.or(outer);
        let mut screen = Screen::stdout(remote.form());
        connect::run(&remote, async |client| {
            let info = client.info().await.map_err(|error| of_client(&error))?;
            let report = Report(&info);
            screen.say(|| &report, || report.json())?;
            Ok(screen.flush()?)
        })
    }
}

/// Plain numbers of the JSON form: name and tag.
const NUMBERS: [(&str, u16); 17] = [
    ("uptime_ms", tag::UPTIME_MS),
    ("connections", tag::CONNECTIONS),
    ("leases", tag::LEASES),
    ("items", tag::ITEMS),
    ("granted_total", tag::GRANTED),
    ("renewed_total", tag::RENEWED),
    ("revoked_total", tag::REVOKED),
    ("expired_total", tag::EXPIRED),
    ("requests_total", tag::REQUESTS),
    ("refusals_total", tag::REFUSALS),
    ("table_bytes", tag::MEMORY_BYTES),
    ("log_bytes", tag::LOG_BYTES),
    ("cpu_us", tag::CPU_US),
    ("recovered_leases", tag::RECOVERED),
    ("recovery_ms", tag::RECOVERY_MS),
    ("shard_count", tag::SHARDS),
    ("lateness_ms_max", tag::LATENESS_MS_MAX),
];

/// Plain numbers of a shard: name and tag.
const SHARD_NUMBERS: [(&str, u16); 4] = [
    ("leases", tag::SHARD_LEASES),
    ("durable_position", tag::DURABLE_POSITION),
    ("oldest_position", tag::OLDEST_POSITION),
    ("time_ms", tag::SHARD_TIME_MS),
];

/// The role that a server says it has.
pub(super) fn role_of(info: &ServerInfo) -> Option<&'static str> {
    info.number(tag::ROLE).map(|role| if role == 0 { "primary" } else { "standby" })
}

struct Report<'a>(&'a ServerInfo);

impl Report<'_> {
    fn role(&self) -> Option<&'static str> {
        role_of(self.0)
    }

    fn renewals(&self) -> Option<&'static str> {
        self.0.number(tag::RENEWALS_LOGGED).map(|logged| if logged == 0 { "unlogged" } else { "logged" })
    }

    fn shards(&self) -> u16 {
        self.0.number(tag::SHARDS).and_then(|count| u16::try_from(count).ok()).unwrap_or(0)
    }

    fn json(&self) -> Value {
        let mut object = Map::new();
        let texts = [
            ("server", self.0.text(text_tag::SERVER)),
            ("role", self.role()),
            ("driver", self.0.text(text_tag::DRIVER)),
            ("durability", self.0.text(text_tag::DURABILITY)),
            ("renewals", self.renewals()),
        ];
        for (name, text) in texts {
            object.extend(text.map(|text| (name.to_owned(), Value::from(text))));
        }
        for (name, tag) in NUMBERS {
            object.extend(self.0.number(tag).map(|number| (name.to_owned(), Value::from(number))));
        }
        let lateness = Lateness::of(self.0);
        let buckets: Vec<Value> = lateness
            .buckets
            .iter()
            .map(|(below, count)| json!({ "below_ms": below, "count": count }))
            .collect();
        let lateness = json!({
            "expiries": lateness.count(),
            "p50_ms_below": lateness.percentile_below(50),
            "p99_ms_below": lateness.percentile_below(99),
            "buckets": buckets,
        });
        object.insert("lateness".to_owned(), lateness);
        let shards = (0..self.shards()).map(|shard| {
            let mut of_shard = Map::new();
            of_shard.insert("shard".to_owned(), Value::from(shard));
            for (name, tag) in SHARD_NUMBERS {
                of_shard
                    .extend(self.0.indexed(tag, shard).map(|number| (name.to_owned(), Value::from(number))));
            }
            of_shard.extend(self.longest_turn(shard));
            Value::from(of_shard)
        });
        object.insert("shards".to_owned(), shards.collect());
        Value::from(object)
    }

    /// The longest turn of a shard's core, and the longest of each cause.
    fn longest_turn(&self, shard: u16) -> Option<(String, Value)> {
        let causes = TURN_CAUSES.iter().filter_map(|cause| {
            let (wall, cpu) = self.0.indexed(cause.wall, shard).zip(self.0.indexed(cause.cpu, shard))?;
            Some((cause.name.to_owned(), json!({ "wall_us": wall, "cpu_us": cpu })))
        });
        let causes: Map<String, Value> = causes.collect();
        (!causes.is_empty()).then(|| ("longest".to_owned(), Value::from(causes)))
    }

    fn line(f: &mut fmt::Formatter<'_>, name: &str, value: impl fmt::Display) -> fmt::Result {
        writeln!(f, "{name:<12} {value}")
    }

    fn head(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let info = self.0;
        let number = |tag| info.number(tag).unwrap_or(0);
        Self::line(f, "server", info.text(text_tag::SERVER).unwrap_or("unknown"))?;
        Self::line(f, "role", self.role().unwrap_or("unknown"))?;
        Self::line(f, "uptime", show_age(number(tag::UPTIME_MS)))?;
        Self::line(f, "driver", info.text(text_tag::DRIVER).unwrap_or("unknown"))?;
        let durability = info.text(text_tag::DURABILITY).unwrap_or("unknown");
        let renewals = self.renewals().map(|renewals| format!(", renewals {renewals}")).unwrap_or_default();
        Self::line(f, "durability", format_args!("{durability}{renewals}"))?;
        if let (Some(leases), Some(ms)) = (info.number(tag::RECOVERED), info.number(tag::RECOVERY_MS)) {
            Self::line(f, "recovered", format_args!("{leases} leases in {ms} ms"))?;
        }
        Self::line(f, "connections", number(tag::CONNECTIONS))?;
        let (requests, refusals) = (number(tag::REQUESTS), number(tag::REFUSALS));
        Self::line(f, "requests", format_args!("{requests}, {refusals} refused"))
    }

    fn load(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = |tag| self.0.number(tag).unwrap_or(0);
        Self::line(f, "leases", number(tag::LEASES))?;
        Self::line(f, "items", number(tag::ITEMS))?;
        let (granted, renewed) = (number(tag::GRANTED), number(tag::RENEWED));
        let (revoked, expired) = (number(tag::REVOKED), number(tag::EXPIRED));
        let since =
            format_args!("{granted} granted, {renewed} renewed, {revoked} revoked, {expired} expired");
        Self::line(f, "since start", since)?;
        Self::line(f, "lateness", Lateness::of(self.0))?;
        Self::line(f, "tables", show_bytes(number(tag::MEMORY_BYTES)))?;
        Self::line(f, "log written", show_bytes(number(tag::LOG_BYTES)))?;
        Self::line(f, "cpu", show_age(number(tag::CPU_US) / 1_000))
    }
}

impl fmt::Display for Report<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.head(f)?;
        self.load(f)?;
        write!(
            f,
            "\n{:>5}  {:>12}  {:>16}  {:>16}  {:>12}  served for",
            "shard", "leases", "durable to", "events from", "longest turn"
        )?;
        for shard in 0..self.shards() {
            let number = |tag| self.0.indexed(tag, shard).unwrap_or(0);
            let (leases, durable) = (number(tag::SHARD_LEASES), number(tag::DURABLE_POSITION));
            let (oldest, time) = (number(tag::OLDEST_POSITION), show_age(number(tag::SHARD_TIME_MS)));
            let turn = show_us(number(tag::TURN_US_MAX));
            write!(f, "\n{shard:>5}  {leases:>12}  {durable:>16}  {oldest:>16}  {turn:>12}  {time}")?;
        }
        Ok(())
    }
}

/// How late leases were expired: bound of the bucket in ms, count; ordered, empty buckets left out.
struct Lateness {
    buckets: Vec<(u64, u64)>,
    ms_max: u64,
}

impl Lateness {
    fn of(info: &ServerInfo) -> Lateness {
        let mut buckets: Vec<(u64, u64)> = info
            .numbers
            .iter()
            .filter(|number| number.tag == tag::LATENESS_BUCKET && number.value > 0)
            .map(|number| (1u64.checked_shl(u32::from(number.index)).unwrap_or(u64::MAX), number.value))
            .collect();
        buckets.sort_unstable();
        Lateness { buckets, ms_max: info.number(tag::LATENESS_MS_MAX).unwrap_or(0) }
    }

    fn count(&self) -> u64 {
        self.buckets.iter().map(|(_, count)| count).sum()
    }

    /// The bound under which this share of the expiries was, ms; none without expiries.
    fn percentile_below(&self, percent: u64) -> Option<u64> {
        let rank = (self.count() * percent).div_ceil(100);
        let mut seen = 0;
        self.buckets
            .iter()
            .find(|(_, count)| {
                seen += count;
                seen >= rank
            })
            .map(|(below, _)| *below)
    }
}

impl fmt::Display for Lateness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Some(p50), Some(p99)) = (self.percentile_below(50), self.percentile_below(99)) else {
            return f.write_str("nothing has expired");
        };
        let (count, max) = (self.count(), self.ms_max);
        write!(f, "p50 under {p50} ms, p99 under {p99} ms, max {max} ms, of {count} expiries")
    }
}

/// Microseconds as milliseconds to one place.
fn show_us(us: u64) -> String {
    format!("{}.{} ms", us / 1_000, us % 1_000 / 100)
}

/// Bytes in the largest binary unit that leaves a number of at most four digits.
fn show_bytes(bytes: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let unit = (0..units.len()).find(|unit| bytes >> (10 * unit) < 10_000).unwrap_or(units.len() - 1);
    format!("{} {}", bytes >> (10 * unit), units[unit])
}

#[cfg(test)]
mod tests {
    use super::*;
    use tenure_protocol::InfoNumber;

    fn lateness(buckets: &[(u16, u64)]) -> Lateness {
        let numbers = buckets
            .iter()
            .map(|&(index, value)| InfoNumber { tag: tag::LATENESS_BUCKET, index, value })
            .collect();
        Lateness::of(&ServerInfo { numbers, texts: Vec::new() })
    }

    #[test]
    fn percentiles_are_the_bounds_of_their_buckets() {
        for (buckets, p50, p99) in [
            (&[][..], None, None),
            (&[(0, 1)], Some(1), Some(1)),
            (&[(0, 99), (4, 1)], Some(1), Some(1)),
            (&[(0, 98), (4, 2)], Some(1), Some(16)),
            (&[(3, 1), (0, 1)], Some(1), Some(8)),
            (&[(70, 1)], Some(u64::MAX), Some(u64::MAX)),
        ] {
            let lateness = lateness(buckets);
            assert_eq!(
                (lateness.percentile_below(50), lateness.percentile_below(99)),
                (p50, p99),
                "{buckets:?}"
            );
        }
    }

    #[test]
    fn bytes_keep_four_digits() {
        for (bytes, shown) in
            [(0, "0 B"), (9_999, "9999 B"), (10_240, "10 KiB"), (64 << 20, "64 MiB"), (u64::MAX, "16383 PiB")]
        {
            assert_eq!(show_bytes(bytes), shown);
        }
    }
}
