//! Joins a collector that writes as it goes to the crate that prints.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use agent_model::data::json_bytes;
use agent_output::Streamed;
use agent_system::format::{Sink, Stream};

/// What is kept back for the end: the envelope, and what closes the format.
const RESERVE: u64 = 8 << 10;

/// A stream of `format` to `out`, of `most` bytes; `is_full` is set when it has come to its end.
pub(crate) fn to(format: &'static str, out: &Streamed, most: u64, is_full: &Arc<AtomicBool>) -> Stream {
    let left = most.saturating_sub(RESERVE);
    Stream { format, sink: Box::new(To { out: out.clone(), left, is_full: Arc::clone(is_full) }) }
}

struct To {
    out: Streamed,
    left: u64,
    is_full: Arc<AtomicBool>,
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

    fn row(&mut self, row: &dyn erased_serde::Serialize) -> io::Result<()> {
        // Schema and session come on top.
        self.take(json_bytes(row).unwrap_or(0) + 192)?;
        self.out.row(row)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}
