//! TTLs as people write and read them: `600`, `10s`, `250ms`, `1m30s`, `2h`.
//!
//! A bare number is seconds, as in etcdctl. Whole seconds are printed as etcdctl prints them,
//! `TTL(600s)`; what etcd cannot express is printed in milliseconds, `TTL(250ms)`, so that a number
//! on the screen is never rounded. Only a remaining time is: see [`show_remaining`].

/// Units with their size in ms, in the order in which a span may combine them.
const UNITS: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

/// From here on a remaining time is shown in whole seconds, ms.
const SHOWN_EXACT_MS_MAX: u64 = 10_000;

/// Reads a TTL into ms. Zero passes: the server says why it does not grant one.
///
/// # Errors
/// The text is no span of whole milliseconds, or does not fit 64 bits.
pub(crate) fn parse_ttl_ms(text: &str) -> Result<u64, String> {
    let refuse = || {
        format!("`{text}` is not a span of time: write for example 600 (seconds), 10s, 250ms, 1m30s or 2h")
    };
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        let seconds: u64 = text.parse().map_err(|_| refuse())?;
        return seconds.checked_mul(1_000).ok_or_else(refuse);
    }
    let mut rest = text;
    let mut units = UNITS.iter();
    let mut sum_ms = 0u64;
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (number, tail) = rest.split_at(digits);
        let name = tail.bytes().take_while(u8::is_ascii_alphabetic).count();
        let (name, tail) = tail.split_at(name);
        let number: u64 = number.parse().map_err(|_| refuse())?;
        // The iterator only moves on: each unit at most once, the larger before the smaller.
        let (_, unit_ms) = units.find(|(unit, _)| *unit == name).ok_or_else(refuse)?;
        let part_ms = number.checked_mul(*unit_ms).ok_or_else(refuse)?;
        sum_ms = sum_ms.checked_add(part_ms).ok_or_else(refuse)?;
        rest = tail;
    }
    if text.is_empty() { Err(refuse()) } else { Ok(sum_ms) }
}

/// A TTL for `TTL(…)`: whole seconds as `600s`, others as `250ms`.
pub(crate) fn show_ttl(ttl_ms: u64) -> String {
    if ttl_ms.is_multiple_of(1_000) { format!("{}s", ttl_ms / 1_000) } else { format!("{ttl_ms}ms") }
}

/// A TTL as `lease keep-alive` prints it: etcdctl leaves the `s` out there, scripts rely on it.
pub(crate) fn show_ttl_bare(ttl_ms: u64) -> String {
    if ttl_ms.is_multiple_of(1_000) { format!("{}", ttl_ms / 1_000) } else { format!("{ttl_ms}ms") }
}

/// What is left of a TTL: whole seconds, rounded down as in etcdctl, and exact below 10 s, where
/// it matters.
pub(crate) fn show_remaining(remaining_ms: u64) -> String {
    if remaining_ms >= SHOWN_EXACT_MS_MAX {
        format!("{}s", remaining_ms / 1_000)
    } else {
        show_ttl(remaining_ms)
    }
}

/// How long something has lasted, in its two largest units: `3d 4h`, `12m 5s`, `840ms`.
pub(crate) fn show_age(age_ms: u64) -> String {
    if age_ms < 1_000 {
        return format!("{age_ms}ms");
    }
    let mut rest_ms = age_ms;
    let mut parts = Vec::new();
    for (unit, unit_ms) in &UNITS[..4] {
        let count = rest_ms / unit_ms;
        rest_ms %= unit_ms;
        if count > 0 || !parts.is_empty() {
            parts.push(format!("{count}{unit}"));
        }
        if parts.len() == 2 {
            break;
        }
    }
    parts.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_each_form() {
        for (text, ttl_ms) in [
            ("600", 600_000),
            ("0", 0),
            ("1", 1_000),
            ("10s", 10_000),
            ("250ms", 250),
            ("1m30s", 90_000),
            ("2h", 7_200_000),
            ("1d2h3m4s5ms", 93_784_005),
            ("1s500ms", 1_500),
            ("9000000000", 9_000_000_000_000),
            ("007s", 7_000),
        ] {
            assert_eq!(parse_ttl_ms(text), Ok(ttl_ms), "{text}");
        }
    }

    #[test]
    fn refuses_nonsense_with_an_example() {
        for text in [
            "",
            "-1",
            "+1",
            "1.5s",
            "10 s",
            "s",
            "10S",
            "10parsecs",
            "500us",
            "30s1m",
            "1s1s",
            "10s5",
            "18446744073709551615",
            "99999999999999999999",
            "213503982335d",
        ] {
            let error = parse_ttl_ms(text).expect_err(text);
            assert!(error.contains("250ms"), "{text}: {error}");
        }
    }

    #[test]
    fn shows_whole_seconds_as_etcdctl_does_and_the_rest_exactly() {
        for (ttl_ms, shown, bare) in [
            (600_000, "600s", "600"),
            (250, "250ms", "250ms"),
            (1_500, "1500ms", "1500ms"),
            (2_000, "2s", "2"),
        ] {
            assert_eq!(show_ttl(ttl_ms), shown);
            assert_eq!(show_ttl_bare(ttl_ms), bare);
        }
        for (remaining_ms, shown) in
            [(481_999, "481s"), (10_000, "10s"), (9_999, "9999ms"), (5_000, "5s"), (3, "3ms"), (0, "0s")]
        {
            assert_eq!(show_remaining(remaining_ms), shown);
        }
    }

    #[test]
    fn ages_show_two_units() {
        for (age_ms, shown) in
            [(840, "840ms"), (1_000, "1s"), (725_000, "12m 5s"), (3_600_000, "1h 0m"), (277_200_000, "3d 5h")]
        {
            assert_eq!(show_age(age_ms), shown);
        }
    }
}
