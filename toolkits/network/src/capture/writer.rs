//! What is written as packets come: capture files, or a line a packet.

use std::borrow::Cow;
use std::io;
use std::sync::Arc;

use agent_model::Text;
use agent_session::redact::{Class, Redactor};
use agent_system::Run;
use agent_system::capture::Counts;
use agent_system::format::Stream;

use super::decode::Decoded;
use super::flows::Flow;
use super::line::Line;
use super::options::Options;
use super::pcapng::{self, Statistics, Tagged};
use super::summary::Noticed;

/// A stream, and what it is.
pub(crate) struct Writer {
    stream: Stream,
    redactor: Arc<Redactor>,
    start_ns: u64,
    delivered: u64,
}

impl Writer {
    /// Begins the stream of `run`, if it has one.
    ///
    /// # Errors
    ///
    /// When it cannot be written.
    pub(crate) fn begin(run: &Run, options: &Options, link_type: u16, now_ns: u64) -> io::Result<Option<Self>> {
        let Some(mut stream) = run.take_stream() else { return Ok(None) };
        match stream.format {
            "pcapng" => {
                let application = concat!("agent ", env!("CARGO_PKG_VERSION"));
                stream.sink.bytes(&pcapng::section(application, &comment(run)))?;
                let (name, filter) = (&options.interface, &options.filter);
                stream.sink.bytes(&pcapng::interface(link_type, options.snaplen(), name, filter))?;
            }
            "pcap" => stream.sink.bytes(&pcapng::old_header(link_type, options.snaplen()))?,
            _ => {}
        }
        stream.sink.flush()?;
        let redactor = Arc::clone(run.session().redactor());
        Ok(Some(Self { stream, redactor, start_ns: now_ns, delivered: 0 }))
    }

    /// Whether it wants decoded headers, and not bytes.
    pub(crate) fn wants_lines(&self) -> bool {
        self.stream.format == "ndjson"
    }

    /// Writes a packet of which `bytes` are kept.
    ///
    /// # Errors
    ///
    /// When it cannot be written.
    pub(crate) fn packet(
        &mut self,
        (time_ns, wire_bytes, bytes): (u64, u32, &[u8]),
        decoded: &Decoded<'_>,
        noticed: &Noticed,
        flow: Option<&Flow>,
    ) -> io::Result<()> {
        self.delivered += 1;
        if self.wants_lines() {
            return self.stream.sink.row(&Line::new((time_ns, wire_bytes, bytes.len()), decoded, noticed, flow));
        }
        let mut tagged = Tagged { time_ns, wire_bytes, bytes, ..Tagged::default() };
        if self.stream.format == "pcap" {
            return self.stream.sink.bytes(&pcapng::old_packet(&tagged));
        }
        let from = noticed.placed.map_or(0, |placed| placed.from);
        let owner = |side: usize| flow.and_then(|flow| flow.owners[side].as_deref());
        let mut words = Vec::new();
        for (role, owner) in [("from", owner(from)), ("to", owner(1 - from))] {
            if let Some(owner) = owner {
                let name = owner.name.as_ref().map_or(Cow::Borrowed("?"), |name| self.name(name));
                words.push(format!("{role} {name} (pid {})", owner.pid));
            }
        }
        let comment = words.join(", ");
        tagged.comment = &comment;
        tagged.pid = owner(from).or(owner(1 - from)).map(|owner| owner.pid);
        tagged.is_outgoing = decoded.is_outgoing;
        self.stream.sink.bytes(&pcapng::packet(&tagged))
    }

    /// The name of a process, as it may be shown: the file is not serialized, and nothing else redacts it.
    fn name<'a>(&self, name: &'a Text) -> Cow<'a, str> {
        self.redactor.text(Class::Name, name.as_str())
    }

    /// Writes out what is buffered: the agent may be killed while nothing comes.
    ///
    /// # Errors
    ///
    /// When it cannot be written.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        self.stream.sink.flush()
    }

    /// Ends the file.
    ///
    /// # Errors
    ///
    /// When it cannot be written.
    pub(crate) fn end(mut self, counts: Counts, now_ns: u64) -> io::Result<()> {
        if self.stream.format == "pcapng" {
            let statistics = Statistics {
                start_ns: self.start_ns,
                end_ns: now_ns,
                received: counts.received,
                interface_dropped: counts.interface_dropped,
                kernel_dropped: counts.dropped,
                delivered: self.delivered,
            };
            self.stream.sink.bytes(&pcapng::statistics(&statistics))?;
        }
        self.stream.sink.flush()
    }
}

/// The comment on the whole file: in which session it was captured.
fn comment(run: &Run) -> String {
    let info = run.session().info();
    let mut words = format!("session {}", info.id);
    for (name, value) in [("incident", &info.incident), ("actor", &info.actor), ("traceparent", &info.traceparent)] {
        if let Some(value) = value {
            words.push_str(&format!("\n{name} {value}"));
        }
    }
    if let Some(target) = run.target() {
        let target = run.session().redactor().target(target);
        words.push_str(&format!("\ntarget {} (pid {})", target.name, target.pid));
    }
    words
}
