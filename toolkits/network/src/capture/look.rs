//! One capture, from the first packet to the answer.

use std::thread::Scope;
use std::time::Duration;

use agent_model::{Gap, Gathered, Reason};
use agent_system::capture::{Capture, CaptureOptions, Counts, Packet, may_capture};
use agent_system::interrupt::{Interrupted, Interrupts};
use agent_system::{Failure, Run, clock};

use super::about;
use super::data::Packets;
use super::decode::{decode, link_name};
use super::keep::{self, Ring};
use super::options::Options;
use super::owners::{Owners, Table};
use super::summary::{Noticed, Watch};
use super::writer::Writer;

/// The kernel holds packets back for this long at most, to hand over more at once.
const HOLD: Duration = Duration::from_millis(100);
/// Time that is left of the command's for the answer.
const RESERVE_US: u64 = 500_000;
/// The most packets that `--ring` holds, where no other number is given.
const MOST_HELD: u64 = 1 << 20;

/// Why it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ended {
    Time,
    Timeout,
    MaxPackets,
    MaxBytes,
    Interrupted(Interrupted),
    OutputClosed,
    InterfaceLost,
}

/// A capture that was opened.
pub(crate) struct Look<'r> {
    run: &'r Run,
    options: &'r Options,
    capture: Capture<'r>,
    interrupts: Interrupts,
    table: Option<Table>,
}

/// What changes as packets come.
struct Taken<'r> {
    options: &'r Options,
    link_type: u16,
    watch: Watch,
    owners: Option<Owners>,
    writer: Option<Writer>,
    ring: Option<Ring>,
    ended: Option<Ended>,
    /// Packets that came later are not part of it.
    until_ns: u64,
}

impl<'r> Look<'r> {
    /// Opens the capture.
    ///
    /// # Errors
    ///
    /// As [`Capture::open`].
    pub(crate) fn open(run: &'r Run, options: &'r Options) -> Result<Self, Failure> {
        // Signals first: from now on there is always an answer.
        let interrupts = Interrupts::watch(run)?;
        may_capture(run)?;
        // Before packets come, which would have to wait.
        let table = (!options.no_owners).then(|| Table::read(run));
        let capture = Capture::open(
            run,
            &CaptureOptions {
                interface: &options.interface,
                filter: &options.filter,
                snaplen: options.snaplen(),
                buffer_bytes: u32::try_from(options.buffer_bytes).unwrap_or(u32::MAX),
                hold: HOLD,
                is_for_old_tools: run.format() == Some("pcap"),
            },
        )?;
        Ok(Self { run, options, capture, interrupts, table })
    }

    /// Captures.
    pub(crate) fn run(self) -> Gathered<Packets> {
        std::thread::scope(|scope| self.run_in(scope))
    }

    fn run_in<'s>(mut self, scope: &'s Scope<'s, '_>) -> Gathered<Packets>
    where
        'r: 's,
    {
        let (run, options) = (self.run, self.options);
        let began_us = clock::boot_us();
        let link_type = self.capture.link_type();
        let mut taken = Taken {
            options,
            link_type,
            watch: Watch::default(),
            owners: None,
            writer: None,
            ring: options.ring.then(|| {
                let most = options.max_packets.unwrap_or(MOST_HELD).min(MOST_HELD);
                Ring::new(options.max_bytes as usize, most as usize)
            }),
            ended: None,
            until_ns: u64::MAX,
        };
        match Writer::begin(run, options, link_type, clock::wall_us() * 1000) {
            Ok(writer) => taken.writer = writer,
            Err(_) => taken.ended = Some(Ended::OutputClosed),
        }
        taken.owners = self.table.take().map(|table| Owners::new(scope, run, table));
        let failure = self.take_all(&mut taken, began_us.saturating_add(options.for_us)).err();
        if failure.is_some() {
            taken.ended = Some(Ended::InterfaceLost);
        }
        let counts = self.capture.counts();
        if let Some(owners) = &mut taken.owners {
            owners.finish(&mut taken.watch.flows);
        }
        taken.finish(run, counts, failure.as_ref())
    }

    /// Takes packets until the end.
    fn take_all(&mut self, taken: &mut Taken<'_>, until_us: u64) -> Result<(), Failure> {
        let mut pause_us = 0;
        while taken.ended.is_none() {
            let now_us = clock::boot_us();
            if now_us >= until_us {
                taken.ended = Some(Ended::Time);
            } else if self.run.session().ends_by(now_us.saturating_add(RESERVE_US)) || self.run.is_over() {
                taken.ended = Some(Ended::Timeout);
            }
            if now_us >= pause_us {
                taken.pause(&mut self.capture);
                pause_us = now_us + HOLD.as_micros() as u64;
            }
            if taken.ended.is_some() {
                break;
            }
            // One wait for packets and for what ends it; the kernel hands over hundreds of packets at once.
            let left = Duration::from_micros(until_us.saturating_sub(now_us)).min(HOLD);
            if let Some(interrupted) = self.interrupts.wait(self.capture.file(), left) {
                taken.ended = Some(Ended::Interrupted(interrupted));
                break;
            }
            self.capture.packets(|packet| taken.packet(&packet))?;
        }
        // What has passed by now may still be held back by the kernel.
        let is_limit = matches!(taken.ended, Some(Ended::MaxPackets | Ended::MaxBytes | Ended::OutputClosed));
        if !is_limit {
            self.take_rest(taken)?;
        }
        Ok(())
    }

    fn take_rest(&mut self, taken: &mut Taken<'_>) -> Result<(), Failure> {
        let ended = taken.ended.take();
        taken.until_ns = clock::wall_us().saturating_mul(1000);
        let until_us = clock::boot_us() + 2 * HOLD.as_micros() as u64;
        while clock::boot_us() < until_us && taken.ended.is_none() {
            if self.capture.packets(|packet| taken.packet(&packet))? == 0 {
                // A signal that comes now changes nothing.
                let _ = self.interrupts.wait(self.capture.file(), HOLD / 4);
            }
        }
        taken.ended = ended;
        Ok(())
    }
}

impl Taken<'_> {
    fn packet(&mut self, packet: &Packet<'_>) {
        if self.ended.is_some() || packet.time_ns > self.until_ns {
            return;
        }
        let decoded = decode(self.link_type, packet.bytes, packet.wire_bytes);
        let noticed = self.watch.packet(&decoded, packet.wire_bytes, packet.time_ns);
        if let (Some(owners), Some(placed)) = (&mut self.owners, noticed.placed)
            && placed.is_first
            && let Some(flow) = self.watch.flows.get_mut(placed.flow)
        {
            owners.name(flow);
        }
        let kept = if self.options.payload {
            packet.bytes.len()
        } else {
            let hello_bytes = noticed.placed.map_or(0, |placed| placed.hello_bytes);
            keep::kept_bytes(&decoded, packet.bytes.len(), hello_bytes)
        };
        let kept = &packet.bytes[..kept];
        self.watch.totals.kept_bytes += kept.len() as u64;
        if let Some(ring) = &mut self.ring {
            ring.push(packet.time_ns, packet.wire_bytes, kept);
            return;
        }
        if let Some(writer) = &mut self.writer {
            let flow = noticed.placed.and_then(|placed| self.watch.flows.get(placed.flow));
            let of = (packet.time_ns, packet.wire_bytes, kept);
            if writer.packet(of, &decoded, &noticed, flow).is_err() {
                self.ended = Some(Ended::OutputClosed);
            }
        }
        if self.options.max_packets.is_some_and(|most| self.watch.totals.packets >= most) {
            self.ended = Some(Ended::MaxPackets);
        } else if self.watch.totals.kept_bytes >= self.options.max_bytes {
            self.ended = Some(Ended::MaxBytes);
        }
    }

    /// What is done now and then, and not for each packet.
    fn pause(&mut self, capture: &mut Capture<'_>) {
        // The library's counters have 32 bits.
        capture.counts();
        if self.writer.as_mut().is_some_and(|writer| writer.flush().is_err()) {
            self.ended = Some(Ended::OutputClosed);
        }
        if let Some(owners) = &mut self.owners {
            owners.refresh(&mut self.watch.flows);
        }
    }

    fn finish(mut self, run: &Run, counts: Counts, failure: Option<&Failure>) -> Gathered<Packets> {
        let mut overwritten = 0;
        if let Some(ring) = self.ring.take() {
            overwritten = ring.overwritten;
            if let Some(writer) = &mut self.writer {
                write_ring(ring, self.link_type, writer, &self.watch);
            }
        }
        if let Some(writer) = self.writer.take() {
            // What cannot be written is known to the front door.
            let _ = writer.end(counts, clock::wall_us() * 1000);
        }
        let (left_out, options, ended) = (self.watch.left_out(), self.options, self.ended);
        let evicted = self.watch.flows.evicted;
        let mut data = self.watch.finish();
        data.interface = about(options).interface;
        data.filter = about(options).filter;
        data.link_type = Some(link_name(self.link_type));
        if let Some(summary) = &mut data.summary {
            summary.kernel_received = counts.received;
            summary.kernel_dropped = counts.dropped;
            summary.interface_dropped = counts.interface_dropped;
            summary.overwritten = overwritten;
            (summary.ended, summary.signal) = words(ended);
        }
        let mut gaps = told(ended, evicted, left_out, counts);
        gaps.extend(failure.map(|failure| run.gap("/rows", failure)));
        // Where every flow has an owner nothing is missing.
        let is_missing = data.summary.as_ref().is_some_and(|summary| summary.without_owner > 0);
        if let Some(owners) = self.owners.as_ref().filter(|_| is_missing) {
            gaps.extend(owners.gaps(run));
        }
        gaps.extend(elsewhere(run));
        Gathered { data, gaps }
    }
}

/// Writes what the ring holds.
fn write_ring(ring: Ring, link_type: u16, writer: &mut Writer, watch: &Watch) {
    ring.drain(|held, bytes| {
        let decoded = decode(link_type, bytes, held.wire_bytes);
        let placed = watch.flows.find(&decoded);
        let noticed = Noticed { placed, ..Noticed::default() };
        let flow = placed.and_then(|placed| watch.flows.get(placed.flow));
        // What cannot be written is known to the front door.
        let _ = writer.packet((held.time_ns, held.wire_bytes, bytes), &decoded, &noticed, flow);
    });
}

/// Packets are those of our own network namespace: the target may have another.
fn elsewhere(run: &Run) -> Option<Gap> {
    let process = run.target_process().ok()?;
    let theirs = process.attributes("net/tcp").ok()?.inode;
    let ours = run.proc().attributes("self/net/tcp").ok()?.inode;
    let detail = "the target has another network namespace than the agent, whose packets these are";
    let remedy = "start the agent in the target's pod with --target, or with nsenter --net";
    (theirs != ours).then(|| Gap::new("/rows", Reason::Unsupported).detail(detail).remedy(remedy))
}

fn words(ended: Option<Ended>) -> (&'static str, Option<&'static str>) {
    match ended {
        Some(Ended::Time) | None => ("time", None),
        Some(Ended::Timeout) => ("timeout", None),
        Some(Ended::MaxPackets) => ("max_packets", None),
        Some(Ended::MaxBytes) => ("max_bytes", None),
        Some(Ended::Interrupted(Interrupted::Signal(name))) => ("signal", Some(name)),
        Some(Ended::Interrupted(Interrupted::TargetExited)) => ("target_exited", None),
        Some(Ended::OutputClosed) => ("output_closed", None),
        Some(Ended::InterfaceLost) => ("interface_lost", None),
    }
}

/// What is missing in the answer.
fn told(ended: Option<Ended>, evicted: u64, left_out: u64, counts: Counts) -> Vec<Gap> {
    let mut gaps = Vec::new();
    let mut gap = |at: &str, reason, detail: String, remedy: &str| {
        gaps.push(Gap::new(at, reason).detail(detail).remedy(remedy));
    };
    match ended {
        Some(Ended::MaxBytes) => {
            let detail = "the capture ended early: as much was kept as was asked for".to_owned();
            gap("/rows", Reason::LimitReached, detail, "a narrower --filter, a larger --max-bytes, or --ring");
        }
        Some(Ended::Timeout) => {
            let detail = "the time of this command was over before --for was".to_owned();
            gap("/rows", Reason::LimitReached, detail, "give it more time with --timeout");
        }
        _ => {}
    }
    if counts.dropped > 0 {
        let detail = format!("{} packets were dropped: the ring was full", counts.dropped);
        gap("/rows", Reason::Incomplete, detail, "a narrower --filter, or a larger --buffer-bytes");
    }
    if counts.interface_dropped > 0 {
        let detail = format!("{} packets were dropped by the interface or its driver", counts.interface_dropped);
        gaps.push(Gap::new("/rows", Reason::Incomplete).detail(detail));
    }
    let mut limit = |at: &str, detail: String| gaps.push(Gap::new(at, Reason::LimitReached).detail(detail));
    if evicted > 0 {
        limit("/rows", format!("{evicted} flows are not listed: those that were not seen for the longest time"));
    }
    if left_out > 0 {
        limit("", format!("{left_out} DNS questions, HTTP requests and ICMP errors are not told"));
    }
    gaps
}
