//! Spans of time as people write them: `250ms`, `10s`, `5m`, `24h`, `7d`.
//!
//! Used by flags, environment, configuration files and the command line alike, so that a span is
//! written one way everywhere. Integers only: a fraction of a second is written in ms or us. What
//! a bare number means depends on the place (`lease grant 600` is seconds, as in etcdctl), so the
//! caller says it, or refuses it.

use std::time::Duration;

/// Units, longest name first where one ends in another.
const UNITS: [(&str, u64); 6] = [
    ("us", 1),
    ("ms", 1_000),
    ("s", 1_000_000),
    ("m", 60 * 1_000_000),
    ("h", 3_600 * 1_000_000),
    ("d", 86_400 * 1_000_000),
];

/// Reads a span with a unit.
///
/// # Errors
/// The text is not a whole number followed by `us`, `ms`, `s`, `m`, `h` or `d`; the message says so.
pub fn parse(text: &str) -> Result<Duration, String> {
    parse_with(text, None)
}

/// Reads a span in which a bare number counts `bare_unit`.
///
/// # Errors
/// As [`parse`], without the complaint about a missing unit.
pub fn parse_with(text: &str, bare_unit: Option<&str>) -> Result<Duration, String> {
    let refuse = || format!("`{text}` is not a span of time: write for example 250ms, 10s, 5m or 24h");
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| refuse())?;
    let unit = if unit.is_empty() { bare_unit.unwrap_or_default() } else { unit.trim_start() };
    if unit.is_empty() && number == 0 {
        return Ok(Duration::ZERO);
    }
    let (_, unit_us) = UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(refuse)?;
    // Seconds and above go through whole seconds: 9,000,000,000 s do not fit 64 bits of µs with room to spare.
    if *unit_us >= 1_000_000 {
        let seconds = number.checked_mul(unit_us / 1_000_000).ok_or_else(refuse)?;
        return Ok(Duration::from_secs(seconds));
    }
    number.checked_mul(*unit_us).map(Duration::from_micros).ok_or_else(refuse)
}

/// Writes a span in the largest unit that loses nothing.
#[must_use]
pub fn format(span: Duration) -> String {
    let us = span.as_micros();
    if us == 0 {
        return "0s".to_owned();
    }
    let (name, unit_us) = UNITS
        .iter()
        .rev()
        .find(|(_, unit_us)| us.is_multiple_of(u128::from(*unit_us)))
        .expect("every span is a whole number of microseconds");
    format!("{}{name}", us / u128::from(*unit_us))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_and_writes_each_unit() {
        for (text, us) in [
            ("0s", 0),
            ("7us", 7),
            ("250ms", 250_000),
            ("10s", 10_000_000),
            ("5m", 300_000_000),
            ("3h", 10_800_000_000),
            ("7d", 604_800_000_000),
        ] {
            let span = parse(text).unwrap();
            assert_eq!(span, Duration::from_micros(us), "{text}");
            assert_eq!(format(span), text);
        }
        assert_eq!(parse("9000000000s").unwrap(), Duration::from_secs(9_000_000_000));
        assert_eq!(format(Duration::from_millis(1_500)), "1500ms");
        assert_eq!(format(Duration::from_secs(120)), "2m");
    }

    #[test]
    fn a_bare_number_means_what_the_place_says() {
        assert_eq!(parse_with("600", Some("s")).unwrap(), Duration::from_secs(600));
        assert_eq!(parse_with("250ms", Some("s")).unwrap(), Duration::from_millis(250));
        assert_eq!(parse("0").unwrap(), Duration::ZERO);
        assert!(parse("600").is_err());
    }

    #[test]
    fn nonsense_is_refused_with_an_example() {
        for text in ["", "s", "-1s", "1.5s", "10 parsecs", "99999999999999999999s", "18446744073709551615d"] {
            let error = parse(text).unwrap_err();
            assert!(error.contains("250ms"), "{text}: {error}");
        }
    }
}
