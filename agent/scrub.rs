//! Redaction of formats that are text and not serialized: line by line.

use std::io::{self, Write};

use agent_model::RedactionLevel;
use agent_session::redact::scrubbed;

/// A line that is longer is no text that a person reads, and is looked at in pieces.
const LONGEST: usize = 1 << 20;

/// Passes lines on without what looks like a secret in them; bytes that are no text, as they are: the
/// formats that hold such redact what they put in.
pub(crate) struct Lines<'a> {
    out: &'a mut dyn Write,
    level: RedactionLevel,
    line: Vec<u8>,
}

impl<'a> Lines<'a> {
    /// Passes on to `out` what `level` lets through.
    pub(crate) fn new(out: &'a mut dyn Write, level: RedactionLevel) -> Self {
        Self { out, level, line: Vec::new() }
    }

    /// Passes on what is left.
    ///
    /// # Errors
    ///
    /// When it cannot be written.
    pub(crate) fn finish(mut self) -> io::Result<()> {
        self.pass()
    }

    fn pass(&mut self) -> io::Result<()> {
        match std::str::from_utf8(&self.line) {
            Ok(text) => self.out.write_all(scrubbed(self.level, text).as_bytes())?,
            Err(_) => self.out.write_all(&self.line)?,
        }
        self.line.clear();
        Ok(())
    }
}

impl Write for Lines<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            self.line.extend_from_slice(piece);
            if piece.ends_with(b"\n") || self.line.len() >= LONGEST {
                self.pass()?;
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}
