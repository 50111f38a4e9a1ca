//! Items on the command line: opaque bytes that are mostly readable names.
//!
//! Printed as they are when that cannot be mistaken, else in quotes with escapes: `instance/7`,
//! `"two words"`, `"\xff\x00"`. An item never reaches the terminal as a control sequence. With
//! `--escaped` an argument is read by the same rule, so that every item that can be printed can be
//! given. In JSON an item is a string, or `{"hex": "ff00"}` when its bytes are not UTF-8.

use serde_json::{Value, json};

/// An item as text on one line.
pub(crate) fn show_item(item: &[u8]) -> String {
    let plain =
        |text: &str| !text.is_empty() && text.chars().all(is_shown) && !text.contains(['"', '\\', '[', ']']);
    match std::str::from_utf8(item) {
        Ok(text) if plain(text) => text.to_owned(),
        _ => quoted(item),
    }
}

/// Items as etcdctl shows keys: `[a b]`.
pub(crate) fn show_items<I: AsRef<[u8]>>(items: impl IntoIterator<Item = I>) -> String {
    let shown: Vec<String> = items.into_iter().map(|item| show_item(item.as_ref())).collect();
    format!("[{}]", shown.join(" "))
}

/// An item in JSON.
pub(crate) fn item_json(item: &[u8]) -> Value {
    match std::str::from_utf8(item) {
        Ok(text) => Value::from(text),
        Err(_) => json!({ "hex": item.iter().map(|byte| format!("{byte:02x}")).collect::<String>() }),
    }
}

/// Reads an item in the form in which [`show_item`] prints it; the quotes may be left out.
///
/// # Errors
/// A backslash that starts no escape.
pub(crate) fn parse_escaped(text: &str) -> Result<Vec<u8>, String> {
    let quoted = text.len() >= 2 && text.starts_with('"') && text.ends_with('"');
    let inner = if quoted { &text[1..text.len() - 1] } else { text };
    let refuse = || format!("`{text}` has a backslash that starts none of \\\\ \\\" \\n \\r \\t \\xHH");
    let mut item = Vec::with_capacity(inner.len());
    let mut bytes = inner.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'\\' {
            item.push(byte);
            continue;
        }
        item.push(match bytes.next().ok_or_else(refuse)? {
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            same @ (b'\\' | b'"') => same,
            b'x' => {
                let high = bytes.next().and_then(hex_digit).ok_or_else(refuse)?;
                let low = bytes.next().and_then(hex_digit).ok_or_else(refuse)?;
                high << 4 | low
            }
            _ => return Err(refuse()),
        });
    }
    Ok(item)
}

fn hex_digit(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

/// Whether a character shows itself and nothing else. Letters of every script do; controls, line
/// separators and invisible direction marks do not.
fn is_shown(c: char) -> bool {
    // Rust's own escaping knows the classes; the quotes it would escape are ours to judge.
    !c.is_control() && !c.is_whitespace() && (matches!(c, '\'' | '"') || c.escape_debug().len() == 1)
}

fn quoted(item: &[u8]) -> String {
    let mut out = String::with_capacity(item.len() + 2);
    out.push('"');
    for chunk in item.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '\n' => out.push_str("\\n"),
                '\r' => out.push_str("\\r"),
                '\t' => out.push_str("\\t"),
                '"' => out.push_str("\\\""),
                '\\' => out.push_str("\\\\"),
                ' ' => out.push(' '),
                shown if is_shown(shown) => out.push(shown),
                hidden => escape(hidden.encode_utf8(&mut [0; 4]).as_bytes(), &mut out),
            }
        }
        escape(chunk.invalid(), &mut out);
    }
    out.push('"');
    out
}

fn escape(bytes: &[u8], out: &mut String) {
    for byte in bytes {
        out.push_str(&format!("\\x{byte:02x}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readable_items_stay_and_others_are_escaped() {
        for (item, shown) in [
            (&b"instance/7"[..], "instance/7"),
            ("größe-λ".as_bytes(), "größe-λ"),
            (b"it's", "it's"),
            (b"", "\"\""),
            (b"two words", "\"two words\""),
            (b"[a", "\"[a\""),
            (b"a\"b\\c", "\"a\\\"b\\\\c\""),
            (b"line\nend\t", "\"line\\nend\\t\""),
            (b"\x1b[31mred", "\"\\x1b[31mred\""),
            (b"\xff\x00", "\"\\xff\\x00\""),
            ("a\u{202e}b".as_bytes(), "\"a\\xe2\\x80\\xaeb\""),
        ] {
            assert_eq!(show_item(item), shown);
        }
        assert_eq!(show_items([&b"a"[..], b"b c"]), "[a \"b c\"]");
        assert_eq!(show_items::<&[u8]>([]), "[]");
    }

    #[test]
    fn what_is_printed_reads_back_as_the_same_bytes() {
        let all: Vec<u8> = (0..=255).collect();
        for item in [&all[..], b"", b"plain", b"\"", b"\\", b"\"quoted\"", "ü\u{0}".as_bytes()] {
            assert_eq!(parse_escaped(&show_item(item)).as_deref(), Ok(item));
        }
        for text in ["\\", "\\q", "\\x1", "\\xg0"] {
            assert!(parse_escaped(text).is_err(), "{text}");
        }
    }

    #[test]
    fn json_has_strings_and_hex_for_the_rest() {
        assert_eq!(item_json(b"a b").to_string(), r#""a b""#);
        assert_eq!(item_json(b"\xff\x00").to_string(), r#"{"hex":"ff00"}"#);
    }
}
