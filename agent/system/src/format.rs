//! Formats that suit one command alone, beside JSON, NDJSON and tables.
//!
//! A collector lists them in [`crate::Collector::FORMATS`]: an SBOM of modules, a
//! profile for pprof, packets for Wireshark. Each is a function from the
//! collector's own data to bytes. The command line, its help and the refusal of a
//! format that a command does not have follow from the list.

use std::io;

use agent_model::{Data, Envelope};

/// An envelope of any command.
pub type Enveloped<'a> = Envelope<&'a dyn erased_serde::Serialize, &'a dyn Data>;

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
