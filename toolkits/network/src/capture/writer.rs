//! What is written as packets come: capture files, or a line a packet.

use std::io;

use agent_system::Run;
use agent_system::capture::Counts;
use agent_system::format::Stream;

use super::decode::Decoded;
use super::flows::Flow;
use super::line::Line;
use super::options::Options;
use super::pcapng::{self, Statistics, Tagged};
use super::summary::Noticed;

/// So many bytes of packets are handed over at once: as many as are written at once, so that they need not be copied.
const BATCH: usize = 64 << 10;

/// A stream, and what it is.
pub(crate) struct Writer {
    stream: Stream,
    /// Packets that are not handed over yet.
    batch: Vec<u8>,
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
        Ok(Some(Self { stream, batch: Vec::with_capacity(BATCH + (BATCH >> 3)), start_ns: now_ns, delivered: 0 }))
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
        let before = self.batch.len();
        let mut tagged = Tagged { time_ns, wire_bytes, bytes, ..Tagged::default() };
        if self.stream.format == "pcap" {
            pcapng::old_packet(&tagged, &mut self.batch);
        } else {
            let from = noticed.placed.map_or(0, |placed| placed.from);
            let owners = [from, 1 - from].map(|side| flow.and_then(|flow| flow.owners[side].as_deref()));
            tagged.ends = owners.map(|owner| owner.map(|owner| owner.label.as_str()));
            tagged.pid = owners[0].or(owners[1]).map(|owner| owner.pid);
            tagged.is_outgoing = decoded.is_outgoing;
            pcapng::packet(&tagged, &mut self.batch);
        }
        if self.batch.len() as u64 > self.stream.sink.room() {
            // All before it still fits, and it does not.
            let last = self.batch.split_off(before);
            self.hand_over()?;
            return self.stream.sink.bytes(&last);
        }
        if self.batch.len() >= BATCH { self.hand_over() } else { Ok(()) }
    }

    /// Hands over the packets that were gathered.
    fn hand_over(&mut self) -> io::Result<()> {
        if self.batch.is_empty() {
            return Ok(());
        }
        let handed = self.stream.sink.bytes(&self.batch);
        self.batch.clear();
        handed
    }

    /// Writes out what is buffered: the agent may be killed while nothing comes.
    ///
    /// # Errors
    ///
    /// When it cannot be written.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        self.hand_over()?;
        self.stream.sink.flush()
    }

    /// Ends the file.
    ///
    /// # Errors
    ///
    /// When it cannot be written.
    pub(crate) fn end(mut self, counts: Counts, now_ns: u64) -> io::Result<()> {
        self.hand_over()?;
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
