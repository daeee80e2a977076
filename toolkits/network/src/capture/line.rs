//! One packet as a line of NDJSON: its headers, decoded, and no payload.

use agent_model::Text;
use serde::Serialize;

use super::data::Owner;
use super::decode::{Decoded, Transport, Tunnel, flags};
use super::flows::Flow;
use super::summary::{Noticed, icmp_error, protocol};
use super::{dns, http};

/// A packet.
#[derive(Debug, Serialize)]
pub(crate) struct Line<'a> {
    /// When (RFC 3339, UTC, nanoseconds).
    time: String,
    wire_bytes: u32,
    captured_bytes: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    interface_index: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ether_type: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    vlan: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tunnel: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    protocol: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    source_address: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    source_port: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    destination_address: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    destination_port: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hop_limit: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    fragment_offset_bytes: Option<u32>,
    payload_bytes: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    tcp: Option<Segment>,
    #[serde(skip_serializing_if = "Option::is_none")]
    icmp: Option<Message>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dns: Option<Name>,
    #[serde(skip_serializing_if = "Option::is_none")]
    http: Option<Start>,
    #[serde(skip_serializing_if = "Option::is_none")]
    malformed: Option<&'static str>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    cut: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    sender_owner: Option<&'a Owner>,
    #[serde(skip_serializing_if = "Option::is_none")]
    receiver_owner: Option<&'a Owner>,
}

#[derive(Debug, Serialize)]
struct Segment {
    flags: Vec<&'static str>,
    sequence: u32,
    acknowledgment: u32,
    window: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    mss_bytes: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    window_scale: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    timestamp: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    timestamp_echo: Option<u32>,
    /// What it is beyond an ordinary one.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    analysis: Vec<&'static str>,
}

#[derive(Debug, Serialize)]
struct Message {
    #[serde(rename = "type")]
    kind: u8,
    code: u8,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mtu_bytes: Option<u32>,
}

#[derive(Debug, Serialize)]
struct Name {
    id: u16,
    response: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<Text>,
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    kind: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    answer: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    latency_us: Option<u64>,
}

#[derive(Debug, Serialize)]
struct Start {
    #[serde(skip_serializing_if = "Option::is_none")]
    method: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<Text>,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<u16>,
}

/// The names of TCP flags, by bit.
const FLAGS: [&str; 8] = ["fin", "syn", "rst", "psh", "ack", "urg", "ece", "cwr"];

impl<'a> Line<'a> {
    /// The line about a packet of which `captured` bytes were captured.
    pub(crate) fn new(
        (time_ns, wire_bytes, captured_bytes): (u64, u32, usize),
        decoded: &Decoded<'_>,
        noticed: &Noticed,
        flow: Option<&'a Flow>,
    ) -> Self {
        let ip = decoded.ip.as_ref();
        let ports = decoded.ports();
        let from = noticed.placed.map_or(0, |placed| placed.from);
        let owner = |side: usize| flow.and_then(|flow| flow.owners[side].as_deref());
        Self {
            time: time(time_ns),
            wire_bytes,
            captured_bytes,
            interface_index: decoded.interface,
            ether_type: decoded.ether_type,
            vlan: decoded.vlan,
            tunnel: decoded.innermost_tunnel().map(|(tunnel, _)| match tunnel {
                Tunnel::Ip => "ip",
                Tunnel::Gre(_) => "gre",
                Tunnel::Vxlan(_) => "vxlan",
                Tunnel::Geneve(_) => "geneve",
            }),
            protocol: ip.map(|ip| protocol(ip.protocol)),
            source_address: ip.map(|ip| ip.source.to_string()),
            source_port: ports.map(|ports| ports.0),
            destination_address: ip.map(|ip| ip.destination.to_string()),
            destination_port: ports.map(|ports| ports.1),
            hop_limit: ip.map(|ip| ip.ttl),
            fragment_offset_bytes: ip.and_then(|ip| ip.fragment).map(|fragment| fragment.offset),
            payload_bytes: decoded.payload_wire_bytes,
            tcp: segment(decoded, noticed),
            icmp: match &decoded.transport {
                Transport::Icmp(icmp) => Some(Message {
                    kind: icmp.kind,
                    code: icmp.code,
                    error: icmp.is_error().then(|| icmp_error(icmp)),
                    mtu_bytes: icmp.mtu_bytes,
                }),
                _ => None,
            },
            dns: noticed.dns.as_ref().map(|message| Name {
                id: message.id,
                response: message.is_response,
                name: message.question.as_ref().map(|question| Text::from_bytes(&question.name)),
                kind: message.question.as_ref().map(|question| dns::kind_name(question.kind)),
                answer: message.is_response.then(|| dns::rcode_name(message.rcode)),
                latency_us: noticed.dns_latency_ns.map(|ns| ns / 1000),
            }),
            http: noticed.http.as_deref().map(|start| match start {
                http::Start::Request { method, target, .. } => {
                    Start { method: Some(method), target: Some(Text::from_bytes(target)), status: None }
                }
                http::Start::Response(status) => Start { method: None, target: None, status: Some(*status) },
            }),
            malformed: decoded.malformed.map(|layer| layer.name()),
            cut: decoded.is_cut,
            sender_owner: owner(from),
            receiver_owner: owner(1 - from),
        }
    }
}

fn segment(decoded: &Decoded<'_>, noticed: &Noticed) -> Option<Segment> {
    let Transport::Tcp(tcp) = &decoded.transport else { return None };
    let set = FLAGS.iter().enumerate().filter(|(bit, _)| tcp.has(1 << bit));
    Some(Segment {
        flags: set.map(|(_, name)| *name).collect(),
        sequence: tcp.sequence,
        acknowledgment: if tcp.has(flags::ACK) { tcp.acknowledgment } else { 0 },
        window: tcp.window,
        mss_bytes: tcp.mss,
        window_scale: tcp.window_scale,
        timestamp: tcp.timestamps.map(|(value, _)| value),
        timestamp_echo: tcp.timestamps.map(|(_, echo)| echo),
        analysis: noticed.placed.map(|placed| placed.marks.names().collect()).unwrap_or_default(),
    })
}

/// A time with nanoseconds.
fn time(time_ns: u64) -> String {
    let seconds = agent_system::clock::rfc3339_seconds(time_ns / 1_000_000_000);
    format!("{}.{:09}Z", seconds.trim_end_matches('Z'), time_ns % 1_000_000_000)
}
