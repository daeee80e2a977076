//! Joins a collector that writes as it goes to the crate that prints.

use std::io;

use agent_output::Streamed;
use agent_system::format::{Sink, Stream};

/// A stream of `format` to `out`.
pub(crate) fn to(format: &'static str, out: &Streamed) -> Stream {
    Stream { format, sink: Box::new(To(out.clone())) }
}

struct To(Streamed);

impl Sink for To {
    fn bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.bytes(bytes)
    }

    fn row(&mut self, row: &dyn erased_serde::Serialize) -> io::Result<()> {
        self.0.row(row)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}
