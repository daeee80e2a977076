//! Joins a collector that writes as it goes to the crate that prints.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use agent_model::data::json_bytes;
use agent_output::Streamed;
use agent_session::redact::{Classes, Redacted, Redactor};
use agent_system::Command;
use agent_system::format::{Sink, Stream};

/// What is kept back for the end: the envelope, and what closes the format.
const RESERVE: u64 = 8 << 10;

/// A stream of `format` to `out`, of `most` bytes, redacted as the session of `redactor` asks; `is_full` is set
/// when it has come to its end.
pub(crate) fn to(
    format: &'static str,
    out: &Streamed,
    (most, is_full): (u64, &Arc<AtomicBool>),
    redactor: &Arc<Redactor>,
    command: &Command,
) -> Stream {
    let classes = crate::schemas::classes(command);
    let left = most.saturating_sub(RESERVE);
    let redactor = Arc::clone(redactor);
    Stream { format, sink: Box::new(To { out: out.clone(), left, is_full: Arc::clone(is_full), redactor, classes }) }
}

struct To {
    out: Streamed,
    left: u64,
    is_full: Arc<AtomicBool>,
    redactor: Arc<Redactor>,
    classes: Classes,
}

impl To {
    /// Takes `bytes` from what is left. Pieces are whole: what was written before stays what it is.
    fn take(&mut self, bytes: u64) -> io::Result<()> {
        match self.left.checked_sub(bytes) {
            Some(left) if !self.is_full.load(Relaxed) => {
                self.left = left;
                Ok(())
            }
            // What closes the format is short.
            _ if self.is_full.load(Relaxed) && bytes <= RESERVE / 8 => Ok(()),
            _ => {
                self.is_full.store(true, Relaxed);
                Err(io::Error::new(io::ErrorKind::StorageFull, "the limit for what may be written was reached"))
            }
        }
    }
}

impl Sink for To {
    fn bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.take(bytes.len() as u64)?;
        self.out.bytes(bytes)
    }

    fn room(&self) -> u64 {
        if self.is_full.load(Relaxed) { 0 } else { self.left }
    }

    fn row(&mut self, row: &dyn erased_serde::Serialize) -> io::Result<()> {
        // Schema and session come on top.
        self.take(json_bytes(row).unwrap_or(0) + 192)?;
        let classes = &self.classes;
        let rows = classes.field(classes.field(Some(classes.root()), "data"), "rows");
        // What is streamed may have no place in the answer: then it is text.
        self.out.row(&Redacted::new(row, &self.redactor, classes, classes.items(rows)))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}
