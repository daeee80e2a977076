//! Formats that suit one command alone, beside JSON, NDJSON and tables.
//!
//! A collector lists them in [`crate::Collector::FORMATS`]: an SBOM of modules, a
//! profile for pprof, packets for Wireshark. Each is a function from the
//! collector's own data to bytes. The command line, its help and the refusal of a
//! format that a command does not have follow from the list.

use std::io;

use agent_model::{Envelope, Shown};

/// An envelope of any command.
pub type Enveloped<'a> = Envelope<&'a dyn erased_serde::Serialize, &'a dyn Shown>;

/// A format that suits one command: `D` is the data of its collector.
#[derive(Debug)]
pub struct ExtraFormat<D: 'static> {
    /// What follows `-o`.
    pub name: &'static str,
    /// One line for people.
    pub about: &'static str,
    /// Writes it. The envelope says in which session, where and when it was seen.
    pub write: fn(&Enveloped<'_>, &D, &mut dyn io::Write) -> io::Result<()>,
}

/// Standard output, for a collector that writes as it goes: what it sees in an
/// hour need not fit in memory, and is there when the agent is killed.
pub trait Sink: Send {
    /// Writes `bytes` as they are.
    ///
    /// # Errors
    ///
    /// When nothing more can be written: the collector ends then, with an answer.
    fn bytes(&mut self, bytes: &[u8]) -> io::Result<()>;

    /// How many bytes may still be written: pieces that are whole together may be handed over at once.
    fn room(&self) -> u64;

    /// Writes a row of NDJSON.
    ///
    /// # Errors
    ///
    /// As [`Sink::bytes`].
    fn row(&mut self, row: &dyn erased_serde::Serialize) -> io::Result<()>;

    /// Lets go of what is held back.
    ///
    /// # Errors
    ///
    /// As [`Sink::bytes`].
    fn flush(&mut self) -> io::Result<()>;
}

/// The format that a collector was asked to write as it goes
/// ([`crate::Collector::STREAMS`]), and where to.
pub struct Stream {
    /// Its name.
    pub format: &'static str,
    /// Where to.
    pub sink: Box<dyn Sink>,
}

impl std::fmt::Debug for Stream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stream").field("format", &self.format).finish_non_exhaustive()
    }
}
