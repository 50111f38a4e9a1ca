//! Scenarios: short stories about one shard that are specification and test at once.
//!
//! ```text
//! # A lease lives until its deadline.
//! shard checkpoint=1000
//! at 0 grant 7 ttl=1000
//!   7 token=t1 ttl=1000 remaining=1000, once durable
//!   + grant 7 ttl 1000ms chosen
//! at 1001 renew 7
//!   NotFound, once durable
//! ```
//! A line at the margin is a command; `at MS` moves the clock first. The indented lines under it are what
//! happens: the answer, `, once durable` when it must wait for the log (S3), and `+` with each record
//! that reached the log. Tokens are named in the order in which they appear (t1, t2 …), and so are the
//! IDs that the shard chose (#1, #2 …), so that the text does not depend on byte positions.
//!
//! After each command the shard's invariants are checked, and at the end a second shard is built from the
//! log and must dump the same (S4). `TENURE_SCENARIOS=write` rewrites the indented lines; read the
//! difference before you commit it.

pub mod command;
mod render;
mod stage;

use stage::Stage;

use crate::tree;

/// Who carries out the commands of a scenario. One shard is (see [`play`]); the simulator has a whole world
/// that speaks the same language.
pub trait Performer {
    /// Carries out one line and tells what happened.
    fn perform(&mut self, line: &str) -> Vec<String>;
    /// The story is over: checks what must hold then.
    fn finish(&mut self);
}

/// What became of a scenario.
#[derive(Debug)]
pub struct Played {
    /// The whole text with what really happened.
    pub text: String,
    /// The first line that differs from what was expected: its number, the expectation, what happened.
    pub difference: Option<(usize, String, String)>,
}

/// Plays the scenario of a text on one shard.
///
/// # Panics
/// On a command that makes no sense, and when an invariant does not hold.
#[must_use]
pub fn play(text: &str) -> Played {
    play_on(&mut Stage::default(), text)
}

/// Plays the scenario of a text on a stage.
///
/// # Panics
/// On a command that makes no sense, and when an invariant does not hold.
pub fn play_on(stage: &mut dyn Performer, text: &str) -> Played {
    let mut played = String::new();
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        played.push_str(line);
        played.push('\n');
        if line.trim().is_empty() || line.starts_with('#') {
            continue;
        }
        assert!(!line.starts_with(' '), "`{line}` stands under no command");
        while lines.next_if(|next| next.starts_with(' ')).is_some() {}
        for happened in stage.perform(line) {
            played.push_str("  ");
            played.push_str(&happened);
            played.push('\n');
        }
    }
    stage.finish();
    let difference = first_difference(text, &played);
    Played { text: played, difference }
}

/// Plays one file and says how it went otherwise than told, if it did; with `TENURE_SCENARIOS=write` writes
/// down how it went instead.
///
/// # Panics
/// As [`play_on`], and when the file cannot be written.
pub fn check(stage: &mut dyn Performer, file: &tree::SourceFile) -> Option<String> {
    let played = play_on(stage, &file.text);
    if std::env::var("TENURE_SCENARIOS").is_ok_and(|mode| mode == "write") {
        std::fs::write(tree::root().join(&file.path), &played.text).expect("the scenario can be written");
        return None;
    }
    let (line, expected, happened) = played.difference?;
    Some(format!("{}:{line}\n  told:     {expected}\n  happened: {happened}", file.path))
}

/// Plays one file on one shard, as [`check`].
#[must_use]
pub fn check_on_a_shard(file: &tree::SourceFile) -> Option<String> {
    check(&mut Stage::default(), file)
}

fn first_difference(expected: &str, happened: &str) -> Option<(usize, String, String)> {
    let (mut expected, mut happened) = (expected.lines(), happened.lines());
    for number in 1.. {
        match (expected.next(), happened.next()) {
            (None, None) => return None,
            (Some(a), Some(b)) if a.trim_end() == b.trim_end() => {}
            (a, b) => return Some((number, a.unwrap_or("(end)").into(), b.unwrap_or("(end)").into())),
        }
    }
    unreachable!("a text ends")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scenario_that_expects_something_else_differs() {
        let right = play("at 0 grant 7 ttl=1000\n").text;
        assert!(play(&right).difference.is_none(), "{right}");
        let wrong = right.replace("remaining=1000", "remaining=999");
        assert_ne!(wrong, right);
        assert_eq!(play(&wrong).difference.expect("it differs").0, 2);
    }
}
