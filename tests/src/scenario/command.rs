//! A line of a scenario: `at MS`, words, and `key=value` options, in any order after the time.

use std::collections::HashMap;

/// The words of a command and its `key=value` options.
#[derive(Debug)]
pub struct Command<'a> {
    /// The line itself, for messages.
    pub line: &'a str,
    /// Its words, without the time and the options.
    pub words: Vec<&'a str>,
    /// Its options.
    pub options: HashMap<&'a str, &'a str>,
}

impl<'a> Command<'a> {
    /// Reads a line: the time that it begins with, and the rest.
    ///
    /// # Panics
    /// The time is no number.
    #[must_use]
    pub fn parse(line: &'a str) -> (Option<u64>, Command<'a>) {
        let mut words: Vec<&str> = line.split_whitespace().collect();
        let mut time = None;
        if words[0] == "at" {
            time = Some(words[1].parse().unwrap_or_else(|_| panic!("`{line}`: no time")));
            words.drain(..2);
        }
        let options = words.iter().filter_map(|word| word.split_once('=')).collect();
        words.retain(|word| !word.contains('='));
        (time, Command { line, words, options })
    }

    /// The value of an option.
    ///
    /// # Panics
    /// It is no number.
    #[must_use]
    pub fn number(&self, name: &str) -> Option<u64> {
        let text = self.options.get(name)?;
        Some(text.parse().unwrap_or_else(|_| panic!("`{}`: {name} is no number", self.line)))
    }

    /// The value of an option that must be there.
    ///
    /// # Panics
    /// It is not.
    #[must_use]
    pub fn needs(&self, name: &str) -> u64 {
        self.number(name).unwrap_or_else(|| panic!("`{}`: {name}= is missing", self.line))
    }

    /// A word.
    ///
    /// # Panics
    /// There are fewer.
    #[must_use]
    pub fn word(&self, index: usize) -> &'a str {
        self.words.get(index).unwrap_or_else(|| panic!("`{}`: too short", self.line))
    }
}
