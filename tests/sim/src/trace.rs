//! What happened, in order: a digest of it always, the lines themselves when somebody wants to read them.
//!
//! **S5**: two runs of one seed have the same lines, so the same digest.

use std::fmt::{self, Write};

/// The trace of a run.
#[derive(Debug)]
pub struct Trace {
    digest: u64,
    lines: u64,
    text: Option<String>,
}

impl Trace {
    /// An empty trace that keeps its lines or not.
    #[must_use]
    pub fn new(keeps_text: bool) -> Trace {
        Trace { digest: 0xcbf2_9ce4_8422_2325, lines: 0, text: keeps_text.then(String::new) }
    }

    /// Whether lines are kept: what only people need is not worth making otherwise.
    #[must_use]
    pub fn keeps_text(&self) -> bool {
        self.text.is_some()
    }

    /// Notes an event: a word and its numbers.
    pub fn note(&mut self, at_ms: u64, what: &'static str, numbers: &[u64]) {
        self.lines += 1;
        // By the word's bytes: where it lies in memory is nobody's business.
        for byte in what.bytes() {
            self.mix(u64::from(byte));
        }
        self.mix(at_ms);
        for number in numbers {
            self.mix(*number);
        }
        if let Some(text) = &mut self.text {
            let _ = write!(text, "{at_ms:>9} {what}");
            for number in numbers {
                let _ = write!(text, " {number}");
            }
            text.push('\n');
        }
    }

    /// Adds a remark for people to the last line.
    pub fn remark(&mut self, remark: fmt::Arguments<'_>) {
        if let Some(text) = &mut self.text {
            if text.ends_with('\n') {
                text.pop();
            }
            let _ = text.write_fmt(format_args!("  {remark}\n"));
        }
    }

    /// The digest so far.
    #[must_use]
    pub fn digest(&self) -> u64 {
        self.digest
    }

    /// The lines, if they were kept.
    #[must_use]
    pub fn text(&self) -> &str {
        self.text.as_deref().unwrap_or("")
    }

    fn mix(&mut self, value: u64) {
        self.digest = (self.digest ^ value).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(17);
    }
}
