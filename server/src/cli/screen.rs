//! Standard output in the form that was asked for: lines for people, or one JSON object a line.
//!
//! A command says each thing once in both forms and does not look at the form otherwise. Output is
//! buffered, for lists of millions; a command that waits between two lines flushes before it waits.

use std::fmt::Display;
use std::io::{self, BufWriter, Write};

use serde_json::Value;

use super::remote::Form;

/// Where a command prints what it found.
pub(crate) struct Screen {
    form: Form,
    out: Box<dyn Write>,
}

impl Screen {
    /// Standard output.
    pub(crate) fn stdout(form: Form) -> Screen {
        Screen { form, out: Box::new(BufWriter::with_capacity(64 << 10, io::stdout())) }
    }

    /// Whether JSON was asked for.
    pub(crate) fn is_json(&self) -> bool {
        self.form == Form::Json
    }

    /// One result: as text, or as an object.
    pub(crate) fn say<T: Display>(
        &mut self,
        text: impl FnOnce() -> T,
        json: impl FnOnce() -> Value,
    ) -> io::Result<()> {
        match self.form {
            Form::Text => writeln!(self.out, "{}", text()),
            Form::Json => writeln!(self.out, "{}", json()),
        }
    }

    /// A line for people, absent from JSON.
    pub(crate) fn text(&mut self, text: impl Display) -> io::Result<()> {
        match self.form {
            Form::Text => writeln!(self.out, "{text}"),
            Form::Json => Ok(()),
        }
    }

    /// The bare writer, for tools that print by themselves.
    pub(crate) fn writer(&mut self) -> &mut dyn Write {
        &mut self.out
    }

    /// Shows what has been said so far.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}
