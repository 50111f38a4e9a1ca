//! Numbers as people read them: three digits and a unit.

use std::time::Duration;

/// `1.23 M`, `45.6 k`, `789`.
pub fn count(value: f64) -> String {
    match value {
        v if v >= 999_500_000.0 => format!("{} G", digits(v / 1e9)),
        v if v >= 999_500.0 => format!("{} M", digits(v / 1e6)),
        v if v >= 9_995.0 => format!("{} k", digits(v / 1e3)),
        v => format!("{v:.0}"),
    }
}

/// `850 ns`, `12.3 us`, `4.56 ms`, `1.20 s`.
pub(crate) fn span(span: Duration) -> String {
    nanoseconds(span.as_nanos() as f64)
}

/// `850 ns`, `12.3 us`, `4.56 ms`, `1.20 s`, from nanoseconds, which may be a fraction.
pub fn nanoseconds(value: f64) -> String {
    match value {
        v if v >= 999.5e6 => format!("{} s", digits(v / 1e9)),
        v if v >= 999.5e3 => format!("{} ms", digits(v / 1e6)),
        v if v >= 999.5 => format!("{} us", digits(v / 1e3)),
        v => format!("{} ns", digits(v)),
    }
}

/// `1.50 GB`, `24.0 MB`.
pub fn bytes(value: f64) -> String {
    format!("{}B", if value < 9_995.0 { format!("{value:.0} ") } else { count(value) })
}

fn digits(value: f64) -> String {
    match value {
        v if v >= 99.95 => format!("{v:.0}"),
        v if v >= 9.995 => format!("{v:.1}"),
        v => format!("{v:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_digits_and_a_unit_also_at_the_edges() {
        let counts =
            [(0.0, "0"), (9_994.0, "9994"), (9_995.0, "10.0 k"), (999_499.0, "999 k"), (999_500.0, "1.00 M")];
        for (value, text) in counts {
            assert_eq!(count(value), text);
        }
        let spans = [
            (0.5, "0.50 ns"),
            (999.4, "999 ns"),
            (999.5, "1.00 us"),
            (12_345.0, "12.3 us"),
            (1.2e9, "1.20 s"),
        ];
        for (value, text) in spans {
            assert_eq!(nanoseconds(value), text);
        }
        assert_eq!(bytes(24_000_000.0), "24.0 MB");
    }
}
