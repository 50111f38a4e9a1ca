//! Lease IDs on the command line: hex, as etcdctl has them.
//!
//! Out: 16 lower-case digits. In: 1 to 16 digits of either case, with or without `0x`. A number that
//! looks decimal is hex all the same: `10` is sixteen. ID 0 names no lease and is refused here,
//! before a server is asked.

use tenure_protocol::LeaseId;

/// Reads the ID of a lease.
///
/// # Errors
/// Not 1 to 16 hex digits, or 0.
pub(crate) fn parse_lease_id(text: &str) -> Result<LeaseId, String> {
    let digits = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")).unwrap_or(text);
    if digits.is_empty() || digits.len() > 16 || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(format!("`{text}` is not a lease ID: write 1 to 16 hex digits, as in 694d81417acd4754"));
    }
    let id: LeaseId = digits.parse().expect("up to 16 hex digits fit 64 bits");
    if id == LeaseId::NONE {
        Err("ID 0 names no lease: it means that the server chooses".to_owned())
    } else {
        Ok(id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_hex_in_every_spelling() {
        for (text, id) in [
            ("694d81417acd4754", 0x694d_8141_7acd_4754),
            ("0x694D81417ACD4754", 0x694d_8141_7acd_4754),
            ("0Xff", 255),
            ("10", 16),
            ("0000000000000001", 1),
            ("ffffffffffffffff", u64::MAX),
        ] {
            assert_eq!(parse_lease_id(text), Ok(LeaseId(id)), "{text}");
        }
    }

    #[test]
    fn refuses_what_is_no_id() {
        for text in ["", "0x", "xyz", "-1", "+1", "1 2", "12345678901234567", "0x00000000000000001", "６９"]
        {
            assert!(parse_lease_id(text).expect_err(text).contains("hex digits"), "{text}");
        }
        for text in ["0", "0x0", "0000000000000000"] {
            assert!(parse_lease_id(text).expect_err(text).contains("names no lease"), "{text}");
        }
    }
}
