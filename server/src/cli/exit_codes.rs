//! `tenure help exit-codes`: what the exit codes mean, from the one place that names them.

use super::failure::Outcome;
use super::remote::Form;
use super::screen::Screen;
use crate::exit;

/// Each code with its meaning, as `docs/operating.md` has them too.
const MEANINGS: [(i32, &str); 12] = [
    (exit::OK, "done"),
    (exit::REFUSED, "the answer is no: refused, not found, expired"),
    (exit::USAGE, "the command line makes no sense"),
    (exit::DAMAGED, "a data directory or file is damaged"),
    (exit::UNREACHABLE, "the server cannot be reached, is going away, or did not answer in time"),
    (exit::INTERNAL, "a fault of this program: please report it"),
    (exit::SYSTEM, "the system lacks what is needed: a file, an address, io_uring, locked memory"),
    (exit::LOG_FAULT, "serve: the log cannot be written; the server ended rather than lie"),
    (exit::IN_USE, "the data directory is in use by another process"),
    (exit::UNAUTHORIZED, "credentials are missing or wrong"),
    (exit::CONFIG, "the configuration is wrong, or a file or directory that is named cannot be read"),
    (exit::SIGNAL_BASE, "plus N: ended by signal N (bench: by SIGINT or SIGTERM; serve: by its second one)"),
];

pub(crate) fn run() -> Outcome {
    let mut screen = Screen::stdout(Form::Text);
    screen.text(table())?;
    Ok(screen.flush()?)
}

/// The table, for `tenure help exit-codes` and `tenure exit-codes`.
pub(crate) fn table() -> String {
    let mut text = "What the exit code of `tenure` says.\n\n".to_owned();
    for (code, meaning) in MEANINGS {
        text.push_str(&format!("  {code:>3}  {meaning}\n"));
    }
    text.push_str("\nFrom 64 on the numbers are those of sysexits.h, which service managers know.");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_code_stands_there_once_in_rising_order() {
        assert!(MEANINGS.is_sorted_by(|a, b| a.0 < b.0));
        let table = table();
        assert!(table.contains("\n   69  the server cannot be reached"));
    }

    #[test]
    fn the_operating_guide_lists_the_same_codes() {
        let guide = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/operating.md"))
            .expect("docs/operating.md is part of the repository");
        for (code, _) in MEANINGS.iter().take(MEANINGS.len() - 1) {
            assert!(
                guide.contains(&format!("| {code} |")),
                "docs/operating.md does not explain exit code {code}"
            );
        }
    }
}
