//! `capture`: packets of the network namespace, and what they mean.

pub mod data;
pub mod decode;
pub mod dns;
pub mod flows;
pub mod http;
mod keep;
mod line;
mod look;
mod names;
mod options;
mod owners;
pub mod pcapng;
pub mod summary;
pub mod tcp;
pub mod tls;
mod writer;

use std::io;
use std::time::Duration;

use agent_model::{Gap, Gathered, Reason};
use agent_system::collector::TargetUse;
use agent_system::format::ExtraFormat;
use agent_system::{Capability, Collector, Enveloped, Failure, Need, Run, capture};

use data::Packets;
pub use options::Options;

/// The collector of packets.
pub struct CapturePackets;

/// The formats of capture files are written as packets come: there is nothing to
/// make of the answer. This is asked for only if no packet could be captured.
fn nothing(_: &Enveloped<'_>, _: &Packets, _: &mut dyn io::Write) -> io::Result<()> {
    Ok(())
}

impl Collector for CapturePackets {
    const NAME: &'static str = "capture";
    const ABOUT: &'static str = "Packets: per flow what went wrong and how long it took, DNS, TLS, HTTP; or pcapng";
    const MANUAL: &'static str = "\
Captures for --for, or until --max-packets, --max-bytes, SIGINT, SIGTERM or the end of
the target, and says what the packets mean. Needs CAP_NET_RAW (kubectl debug
--profile=netadmin); sends nothing, sets up nothing, and no interface becomes
promiscuous.

Payload is not kept: of each packet only its headers, DNS messages and TLS hellos are
written, and of HTTP/1 the first line and the names of header fields are told, without
any value. --payload keeps all that --snaplen lets through.

Rows are flows, by when they began, then by interface, tunnel, VLAN, protocol and ends;
the client is who asked first. Beyond 100,000 flows the least recently seen are left out
and counted. Retransmissions, segments out of order and duplicate acknowledgments are
judged by the rules of Wireshark. Round-trip times are seen from where the capture
stands, which is next to the target. Reading who owns which socket costs a walk over the
descriptors of all processes, for sockets not seen before, at most a twentieth of the time.

-o pcapng, pcap and ndjson are written as packets come, and the answer follows on
standard error (ndjson: as its last line). With -o ndjson each row is a packet.

  agent capture --for 30s --filter 'tcp port 5432'
  agent capture --filter 'udp port 53' | jq '.data.dns'
  kubectl exec POD -c NAME -- agent capture -o pcapng >trace.pcapng
  agent capture --ring --max-bytes 64M -o pcapng >last.pcapng    until interrupted
  agent capture --dry-run --filter 'tcp[tcpflags] & tcp-rst != 0'";
    const CAPABILITIES: &'static [Capability] =
        &[Capability::NET_RAW, Capability::SYS_PTRACE, Capability::DAC_READ_SEARCH, Capability::DAC_OVERRIDE];
    const NEEDS: &'static [Need] = &[Need::Packets, Need::SocketDiagnostics, Need::Descriptors, Need::Interrupts];
    const TARGET: TargetUse = TargetUse::Optional;
    const FORMATS: &'static [ExtraFormat<Packets>] = &[
        ExtraFormat { name: "pcapng", about: "for Wireshark, tshark and tcpdump", write: nothing },
        ExtraFormat { name: "pcap", about: "the same for old tools, without owners", write: nothing },
    ];
    const STREAMS: &'static [&'static str] = &["pcapng", "pcap", "ndjson"];
    type Options = Options;
    type Data = Packets;

    fn lasts(options: &Options) -> Duration {
        options.time()
    }

    fn collect(run: &Run, options: &Options) -> Result<Gathered<Packets>, Failure> {
        if options.dry_run {
            return Ok(dry_run(run, options));
        }
        match look::Look::open(run, options) {
            Ok(look) => Ok(look.run()),
            // Without NET_RAW, or without such an interface, there is still an answer.
            Err(failure) if failure.errno().is_some() || !run.is_live() => {
                let mut gathered = Gathered::complete(about(options));
                gathered.gaps.push(run.gap("/rows", &failure));
                Ok(gathered)
            }
            Err(failure) => Err(failure),
        }
    }
}

/// The answer without any packet.
fn about(options: &Options) -> Packets {
    Packets {
        interface: options.interface.as_str().into(),
        filter: options.filter.as_str().into(),
        ..Packets::default()
    }
}

/// What would be done, and what is missing for it.
fn dry_run(run: &Run, options: &Options) -> Gathered<Packets> {
    let mut gathered = Gathered::complete(about(options));
    let Gathered { data, gaps } = &mut gathered;
    match capture::interfaces(run) {
        Ok(interfaces) => {
            let is_there = interfaces.iter().any(|interface| interface.name == options.interface);
            if !is_there {
                gaps.push(Gap::new("/interface", Reason::NotFound).detail("there is no such interface"));
            }
            data.interfaces = Some(interfaces.into_iter().map(shown).collect());
        }
        Err(failure) => gaps.push(run.gap("/interfaces", &failure)),
    }
    match capture::compile(&options.interface, &options.filter) {
        Ok(program) => {
            let shown = |one: capture::Instruction| data::Instruction {
                code: one.code,
                jump_true: one.jump_true,
                jump_false: one.jump_false,
                k: one.k,
            };
            data.program = Some(program.into_iter().map(shown).collect());
        }
        Err(words) => gaps.push(Gap::new("/program", Reason::Malformed).detail(words)),
    }
    if let Err(failure) = capture::may_capture(run) {
        gaps.push(run.gap("/rows", &failure));
    }
    gathered
}

fn shown(interface: capture::Interface) -> data::Interface {
    let mut addresses = interface.addresses;
    addresses.sort_unstable();
    addresses.dedup();
    data::Interface {
        name: interface.name.as_str().into(),
        up: interface.is_up,
        loopback: interface.is_loopback,
        addresses: addresses.iter().map(ToString::to_string).collect(),
    }
}
