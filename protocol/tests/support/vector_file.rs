//! Reads the vector files of `tests/vectors`: named entries of `key value` lines, `#` comments.
//! The tests include it by path.

#![allow(dead_code, reason = "each test that includes this uses a part of it")]

use std::path::PathBuf;

/// One entry of a vector file.
pub(crate) struct Entry {
    pub(crate) name: String,
    pub(crate) bytes: Vec<u8>,
    values: Vec<(String, String)>,
}

impl Entry {
    pub(crate) fn value(&self, key: &str) -> &str {
        let value = self.values.iter().find(|(k, _)| k == key).map(|(_, value)| value.as_str());
        value.unwrap_or_else(|| panic!("{}: no line {key}", self.name))
    }
}

fn read(file: &str) -> String {
    let path: PathBuf = [env!("CARGO_MANIFEST_DIR"), "..", "tests", "vectors", file].iter().collect();
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// The lines that are neither empty nor comments.
pub(crate) fn lines(file: &str) -> Vec<String> {
    let keep = |line: &&str| !line.trim().is_empty() && !line.starts_with('#');
    read(file).lines().filter(keep).map(str::to_owned).collect()
}

/// The entries of a file, in its order; at least ten, so that a test of an empty file cannot pass.
pub(crate) fn entries(file: &str) -> Vec<Entry> {
    let mut entries: Vec<Entry> = Vec::new();
    for line in lines(file) {
        match line.strip_prefix("  ") {
            None => entries.push(Entry { name: line, bytes: Vec::new(), values: Vec::new() }),
            Some(line) => {
                let (key, value) = line.split_once(' ').expect("a key and a value");
                let entry = entries.last_mut().expect("a name comes first");
                if key == "hex" {
                    entry.bytes = from_hex(value);
                }
                entry.values.push((key.to_owned(), value.trim().to_owned()));
            }
        }
    }
    assert!(entries.len() >= 10, "{file} has {} entries", entries.len());
    entries
}

pub(crate) fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn from_hex(text: &str) -> Vec<u8> {
    let digits: Vec<u32> = text.chars().filter(|c| *c != ' ').map(|c| c.to_digit(16).expect("hex")).collect();
    assert!(digits.len().is_multiple_of(2), "half a byte in {text}");
    digits.chunks(2).map(|pair| (pair[0] << 4 | pair[1]) as u8).collect()
}
