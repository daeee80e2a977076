//! How an answer is told: as JSON, rows or a table, in a format of the command's own, or as it is found.

use std::io::IsTerminal;

use agent_output::{Ended, Format};
use agent_system::{Command, own};

use crate::{cli, schemas, scrub};

/// Prints the envelopes of one command.
pub(crate) struct Printer<'a> {
    pub(crate) command: &'a Command,
    pub(crate) chosen: Option<cli::Chosen>,
    pub(crate) streamed: Option<(&'static str, agent_output::Streamed)>,
}

impl Printer<'_> {
    /// What was chosen, or else what fits where it goes.
    pub(crate) fn format(&self) -> cli::Chosen {
        let usual = if std::io::stdout().is_terminal() { Format::Table } else { Format::Json };
        self.chosen.unwrap_or(cli::Chosen::Common(usual))
    }

    /// What makes the bytes of an envelope without data, and says to which file they go; in a bundle that is cut off there is none.
    pub(crate) fn without_data(&self) -> impl Fn(&agent_output::Printed<'_>) -> Option<(i32, Vec<u8>)> + use<> {
        let (format, is_streamed) = (self.format(), self.streamed.is_some());
        let width = if std::io::stdout().is_terminal() { own::terminal_width() } else { None };
        move |envelope| match format {
            cli::Chosen::Bundle => None,
            cli::Chosen::Common(format) if !is_streamed => {
                Some((agent_output::STDOUT, agent_output::printed(envelope, Some(format), width)))
            }
            // Of a stream that was begun nobody knows where it ends.
            _ => Some((agent_output::STDERR, agent_output::printed(envelope, None, None))),
        }
    }

    pub(crate) fn print(
        &mut self,
        envelope: &agent_output::Printed<'_>,
        answer: &agent_system::Answer,
    ) -> std::io::Result<Ended> {
        let width = if std::io::stdout().is_terminal() { own::terminal_width() } else { None };
        match self.format() {
            _ if self.streamed.is_some() => self
                .streamed
                .take()
                .map_or(Ok(Ended::Whole), |(format, stream)| stream.end(envelope, format == "ndjson")),
            cli::Chosen::Bundle => Ok(Ended::Whole),
            // There is nothing that could be in that format.
            cli::Chosen::Extra(_) if envelope.data.is_absent() => {
                agent_output::log(envelope);
                Ok(Ended::Whole)
            }
            cli::Chosen::Common(format) => agent_output::print(envelope, format, || schemas::of(self.command), width),
            cli::Chosen::Extra(name) => agent_output::print_with(|out| {
                let mut out = scrub::Lines::new(out, envelope.redaction.level);
                (self.command.write)(name, envelope, &*answer.data, &mut out)?;
                out.finish()
            }),
        }
    }
}
