//! What `capture` answers.

use std::collections::BTreeMap;

use agent_model::{Data, Text};
use schemars::JsonSchema;
use serde::Serialize;

use super::flows;

/// What the packets mean.
#[derive(Debug, Clone, Default, Serialize, JsonSchema)]
pub struct Packets {
    /// The interface, or `any`.
    #[schemars(extend("x-class" = "name"))]
    pub interface: Text,
    /// What each packet begins with (`ethernet`, `linux_sll2`, `raw`, …); absent
    /// when nothing was captured.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-class" = "word"))]
    pub link_type: Option<&'static str>,
    /// The filter, as it was given.
    pub filter: Text,
    /// The filter, as the kernel takes it; only with `--dry-run`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub program: Option<Vec<Instruction>>,
    /// The interfaces that there are; only with `--dry-run`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interfaces: Option<Vec<Interface>>,
    /// Flows, by when they began. Absent when nothing was captured.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Vec<Flow>>")]
    pub rows: Option<Vec<flows::Flow>>,
    /// Errors that ICMP reported, by kind, reporter and the flow they are about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub icmp_errors: Option<Vec<IcmpError>>,
    /// DNS.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dns: Option<Dns>,
    /// HTTP/1 requests, in their order.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http: Option<Vec<Exchange>>,
    /// Totals.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub summary: Option<Summary>,
}

impl Data for Packets {
    fn row_count(&self) -> Option<usize> {
        self.rows.as_ref().map(Vec::len)
    }

    fn row(&self, index: usize) -> Option<&dyn erased_serde::Serialize> {
        self.rows.as_ref()?.get(index).map(|row| row as _)
    }

    fn summary(&self) -> Option<&dyn erased_serde::Serialize> {
        self.summary.as_ref().map(|summary| summary as _)
    }

    fn cut(&mut self, count: usize) -> bool {
        self.rows.as_mut().map(|rows| rows.truncate(count)).is_some()
    }
}

/// An instruction of a compiled filter (`struct sock_filter`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Instruction {
    /// What to do.
    pub code: u16,
    /// How many instructions to skip if it is true.
    pub jump_true: u8,
    /// How many to skip if not.
    pub jump_false: u8,
    /// Its operand.
    pub k: u32,
}

/// An interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Interface {
    /// Its name.
    #[schemars(extend("x-class" = "host"))]
    pub name: Text,
    /// Whether it is up.
    pub up: bool,
    /// Whether it is the loopback interface.
    pub loopback: bool,
    /// Its addresses, sorted.
    #[schemars(extend("x-class" = "host"))]
    pub addresses: Vec<String>,
}

/// A process that owns a socket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Owner {
    /// Process ID in our pid namespace.
    pub pid: u32,
    /// Its name (`comm`).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-class" = "name"))]
    pub name: Option<Text>,
    /// Both, as they may be shown, for the comments of a capture file: nothing else redacts that.
    #[serde(skip)]
    pub label: String,
}

/// Packets between two places.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[schemars(extend(
    "x-key" = ["protocol", "client_address", "client_port", "server_address", "server_port"],
    "x-alike" = ["protocol", "server_address", "server_port"]
))]
pub struct Flow {
    /// `tcp`, `udp`, `icmp`, `icmpv6`, `sctp`, …; `other` for the rest.
    #[schemars(extend("x-column" = "PROTOCOL"))]
    #[schemars(extend("x-class" = "word"))]
    pub protocol: &'static str,
    /// Its number (IANA protocol numbers).
    pub ip_protocol: u8,
    /// The end that asked first.
    #[schemars(extend("x-column" = "CLIENT"))]
    #[schemars(extend("x-class" = "host"))]
    pub client_address: String,
    /// Its port; 0 where there are none.
    #[schemars(extend("x-column" = "PORT"))]
    pub client_port: u16,
    /// The other end.
    #[schemars(extend("x-column" = "SERVER"))]
    #[schemars(extend("x-class" = "host"))]
    pub server_address: String,
    /// Its port.
    #[schemars(extend("x-column" = "PORT"))]
    pub server_port: u16,
    /// The interface; absent where only one was captured on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interface_index: Option<u32>,
    /// The VLAN.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vlan: Option<u16>,
    /// The innermost tunnel: `ip`, `gre`, `vxlan`, `geneve`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-class" = "word"))]
    pub tunnel: Option<&'static str>,
    /// Its key or network identifier.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tunnel_id: Option<u32>,
    /// When its first packet passed, in microseconds since the capture's first.
    pub first_us: u64,
    /// From its first packet to its last, in microseconds.
    pub duration_us: u64,
    /// Packets from the client.
    #[schemars(extend("x-column" = "PACKETS>"))]
    pub client_packets: u64,
    /// Bytes in them on the wire, link headers included.
    #[schemars(extend("x-column" = "BYTES>"))]
    pub client_bytes: u64,
    /// Bytes of payload in them.
    pub client_payload_bytes: u64,
    /// Packets from the server.
    #[schemars(extend("x-column" = "<PACKETS"))]
    pub server_packets: u64,
    /// Bytes in them on the wire, link headers included.
    #[schemars(extend("x-column" = "<BYTES"))]
    pub server_bytes: u64,
    /// Bytes of payload in them.
    pub server_payload_bytes: u64,
    /// IP fragments among the packets.
    #[serde(skip_serializing_if = "is_zero")]
    pub fragments: u64,
    /// What the connection is in: `open`, `handshake`, `syn_unanswered`, `refused`,
    /// `reset`, `closing`, `closed`; only of TCP.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-column" = "STATE"))]
    #[schemars(extend("x-class" = "word"))]
    pub state: Option<&'static str>,
    /// From the last SYN to the acknowledgment that ends the handshake.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-column" = "HANDSHAKE"))]
    pub handshake_us: Option<u64>,
    /// Retransmissions of both ends.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-column" = "RETRANSMITS"))]
    pub retransmissions: Option<u64>,
    /// The connection in detail.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tcp: Option<Tcp>,
    /// TLS.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,
    /// Trouble with packets that are too large.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mtu: Option<Mtu>,
    /// ICMP errors about it.
    #[serde(skip_serializing_if = "is_zero")]
    pub icmp_errors: u64,
    /// The process that owns the client's socket, as far as the socket table told.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-column" = "CLIENT PROCESS"))]
    pub client_owner: Option<Owner>,
    /// The process that owns the server's.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-column" = "SERVER PROCESS"))]
    pub server_owner: Option<Owner>,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// A TCP connection.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct Tcp {
    /// From the last SYN to the SYN-ACK, in microseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub syn_ack_us: Option<u64>,
    /// Who reset it: `client` or `server`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-class" = "word"))]
    pub reset_by: Option<&'static str>,
    /// The client's end.
    pub client: End,
    /// The server's end.
    pub server: End,
}

/// One end of a TCP connection, by what it sent.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct End {
    /// SYN segments.
    pub syns: u64,
    /// Segments that carried what was sent before.
    pub retransmissions: u64,
    /// Segments that were overtaken by later ones.
    pub out_of_order: u64,
    /// Acknowledgments that were repeated.
    pub duplicate_acks: u64,
    /// Segments that said there was no room.
    pub zero_windows: u64,
    /// Times that segments before one were not captured: lost before they came here,
    /// or dropped by the capture.
    pub not_captured: u64,
    /// The maximum segment size that it asked for, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mss_bytes: Option<u16>,
    /// How long its data waited for the acknowledgment, as seen from where the
    /// capture stands.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rtt: Option<Times>,
}

/// Times between two things.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Times {
    /// How many were measured.
    pub samples: u64,
    /// The shortest, in microseconds.
    pub min_us: u64,
    /// The mean, in microseconds.
    pub mean_us: u64,
    /// The longest, in microseconds.
    pub max_us: u64,
}

/// TLS, as far as it is in the clear.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct Tls {
    /// The server that the client asked for (SNI).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-class" = "host"))]
    pub server_name: Option<Text>,
    /// The highest version that the client offers.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-class" = "word"))]
    pub offered_version: Option<&'static str>,
    /// The version that the server has chosen.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-class" = "word"))]
    pub version: Option<&'static str>,
    /// The first application protocol that the client offers.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-class" = "word"))]
    pub offered_alpn: Option<Text>,
    /// The one that the server has chosen, where that is not encrypted.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-class" = "word"))]
    pub alpn: Option<Text>,
    /// Alerts, in their order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub alerts: Vec<Alert>,
}

/// A TLS alert.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Alert {
    /// Who sent it: `client` or `server`.
    #[schemars(extend("x-class" = "word"))]
    pub from: &'static str,
    /// `warning` or `fatal`.
    #[schemars(extend("x-class" = "word"))]
    pub level: &'static str,
    /// What it says (RFC 8446, section 6).
    #[schemars(extend("x-class" = "word"))]
    pub description: &'static str,
    /// Its number.
    pub number: u8,
}

/// Trouble with packets that are too large for the path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Mtu {
    /// The least MTU that ICMP reported for this flow, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reported_bytes: Option<u32>,
    /// Whether its largest segments were repeated again and again without an answer,
    /// as when a router drops them and says nothing.
    pub suspected: bool,
}

/// An error that ICMP reported.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, JsonSchema)]
pub struct IcmpError {
    /// What kind of error.
    #[schemars(extend("x-class" = "word"))]
    pub error: &'static str,
    /// ICMP type.
    #[serde(rename = "type")]
    pub kind: u8,
    /// ICMP code.
    pub code: u8,
    /// Who reported it.
    #[schemars(extend("x-class" = "host"))]
    pub reporter_address: String,
    /// The packet that it is about: from where.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-class" = "host"))]
    pub source_address: Option<String>,
    /// From which port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source_port: Option<u16>,
    /// To where.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-class" = "host"))]
    pub destination_address: Option<String>,
    /// To which port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub destination_port: Option<u16>,
    /// Its protocol.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-class" = "word"))]
    pub protocol: Option<&'static str>,
    /// The MTU that it gives, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mtu_bytes: Option<u32>,
    /// How often.
    pub count: u64,
}

/// DNS.
#[derive(Debug, Clone, Default, Serialize, JsonSchema)]
pub struct Dns {
    /// Questions, by name, type and server.
    pub questions: Vec<Question>,
    /// Names that were looked for in search domains first, by name and client.
    pub searches: Vec<Search>,
}

/// A question, and how it was answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Question {
    /// The name asked for, in lower case.
    #[schemars(extend("x-class" = "host"))]
    pub name: Text,
    /// The type asked for.
    #[serde(rename = "type")]
    #[schemars(extend("x-class" = "word"))]
    pub kind: String,
    /// Who was asked.
    #[schemars(extend("x-class" = "host"))]
    pub server_address: String,
    /// How often, repetitions included.
    pub queries: u64,
    /// How often the same query was sent again.
    pub repeated: u64,
    /// Answers by their code.
    pub answers: BTreeMap<&'static str, u64>,
    /// Answers that were cut to fit a datagram.
    pub truncated: u64,
    /// Queries that had no answer by the end of the capture.
    pub unanswered: u64,
    /// From the query to its answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latency: Option<Times>,
}

/// A name that the resolver looked for in search domains first (resolv.conf(5),
/// `search` and `ndots`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Search {
    /// The name that was meant.
    #[schemars(extend("x-class" = "host"))]
    pub name: Text,
    /// Who asked.
    #[schemars(extend("x-class" = "host"))]
    pub client_address: String,
    /// The domains in which it does not exist.
    #[schemars(extend("x-class" = "host"))]
    pub domains: Vec<Text>,
    /// Queries that were for nothing.
    pub wasted_queries: u64,
}

/// An HTTP/1 request and its response.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Exchange {
    /// When, in microseconds since the capture's first packet.
    pub first_us: u64,
    /// The client.
    #[schemars(extend("x-class" = "host"))]
    pub client_address: String,
    /// Its port.
    pub client_port: u16,
    /// The server.
    #[schemars(extend("x-class" = "host"))]
    pub server_address: String,
    /// Its port.
    pub server_port: u16,
    /// The method.
    #[schemars(extend("x-class" = "word"))]
    pub method: &'static str,
    /// The target, with `*` for each value in its query.
    #[schemars(extend("x-class" = "url"))]
    pub target: Text,
    /// The names of the header fields, in their order. Their values are not kept.
    pub fields: Vec<Text>,
    /// The status of the response.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// From the request to the first byte of the response.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_byte_us: Option<u64>,
}

/// Totals.
#[derive(Debug, Clone, Default, Serialize, JsonSchema)]
pub struct Summary {
    /// Why it ended: `time`, `max_packets`, `max_bytes`, `signal`, `target_exited`,
    /// `timeout`, `output_closed`, `interface_lost`.
    #[schemars(extend("x-class" = "word"))]
    pub ended: &'static str,
    /// The signal, if one ended it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-class" = "word"))]
    pub signal: Option<&'static str>,
    /// The time of the first packet (RFC 3339, UTC).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-class" = "id"))]
    pub first_time: Option<String>,
    /// From the first packet to the last, in microseconds.
    pub duration_us: u64,
    /// Packets.
    pub packets: u64,
    /// Bytes in them on the wire.
    pub bytes: u64,
    /// Bytes of them that were kept.
    pub kept_bytes: u64,
    /// Packets that passed the filter, as the kernel counted them.
    pub kernel_received: u64,
    /// Packets for which the kernel's ring had no room.
    pub kernel_dropped: u64,
    /// Packets that the interface or its driver dropped.
    pub interface_dropped: u64,
    /// Packets that `--ring` has overwritten with later ones.
    pub overwritten: u64,
    /// Flows.
    pub flows: u64,
    /// Flows that are not listed: those least recently seen, when there were too
    /// many.
    pub flows_evicted: u64,
    /// Packets that are not IP.
    pub not_ip: u64,
    /// IP fragments.
    pub fragments: u64,
    /// Packets whose headers the snapshot length cut off.
    pub cut: u64,
    /// Packets that break their format, by layer.
    pub malformed: BTreeMap<&'static str, u64>,
    /// TCP retransmissions.
    pub retransmissions: u64,
    /// TCP segments out of order.
    pub out_of_order: u64,
    /// TCP duplicate acknowledgments.
    pub duplicate_acks: u64,
    /// TCP zero windows.
    pub zero_windows: u64,
    /// Connections that were reset.
    pub resets: u64,
    /// Connections whose SYN was not answered.
    pub syn_unanswered: u64,
    /// Flows, none of whose sockets has a known owner.
    pub without_owner: u64,
}
