//! Headers of one packet: pure functions from bytes to types.
//!
//! Whatever the bytes are, decoding ends, gives what was understood, and says at
//! which layer it was not. A packet that was cut off by the snapshot length is no
//! malformed one.

mod link;
mod network;
mod transport;

use std::net::IpAddr;

pub use transport::{Embedded, Icmp, Tcp, Transport, flags};

/// The most tunnels that are looked through: no real packet has more.
const DEEPEST: usize = 3;

/// A layer, to count what breaks its format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layer {
    /// Ethernet, VLAN tags, the cooked headers.
    Link,
    /// IPv4, IPv6 and its extension headers.
    Network,
    /// TCP, UDP, ICMP.
    Transport,
    /// GRE, VXLAN, Geneve.
    Tunnel,
}

impl Layer {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Link => "link",
            Self::Network => "network",
            Self::Transport => "transport",
            Self::Tunnel => "tunnel",
        }
    }
}

/// What a packet was wrapped in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Tunnel {
    /// IP in IP (RFC 2003, RFC 2473, RFC 4213).
    Ip,
    /// GRE (RFC 2784, RFC 2890), with its key.
    Gre(Option<u32>),
    /// VXLAN (RFC 7348), with its network identifier.
    Vxlan(u32),
    /// Geneve (RFC 8926), with its network identifier.
    Geneve(u32),
}

/// A piece of a larger IP packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fragment {
    /// The identification that its siblings share.
    pub id: u32,
    /// Where it begins in the whole, in bytes.
    pub offset: u32,
    /// Whether more follow.
    pub more: bool,
}

/// An IP header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ip {
    /// From where.
    pub source: IpAddr,
    /// To where.
    pub destination: IpAddr,
    /// The protocol of its payload (IANA protocol numbers), after all extension
    /// headers.
    pub protocol: u8,
    /// Time to live, or hop limit.
    pub ttl: u8,
    /// The piece that it is, if it is one.
    pub fragment: Option<Fragment>,
}

/// A packet, as far as it was understood.
#[derive(Debug, Clone, Copy)]
pub struct Decoded<'a> {
    /// The interface index, which only the cooked header of version 2 has.
    pub interface: Option<u32>,
    /// Whether it left this host, which only the cooked headers tell.
    pub is_outgoing: Option<bool>,
    /// The protocol in the link header, the inner one where there are tunnels.
    pub ether_type: Option<u16>,
    /// The VLAN, the outer one where there are two.
    pub vlan: Option<u16>,
    tunnels: [Option<Tunnel>; DEEPEST],
    /// The innermost IP header.
    pub ip: Option<Ip>,
    /// What it carries.
    pub transport: Transport,
    /// Where all headers end and the payload begins, in captured bytes.
    pub payload_at: usize,
    /// The captured part of the payload.
    pub payload: &'a [u8],
    /// How much payload there was on the wire, in bytes.
    pub payload_wire_bytes: u32,
    /// The layer at which it breaks its format.
    pub malformed: Option<Layer>,
    /// Whether its headers were cut off by the snapshot length.
    pub is_cut: bool,
}

/// Bytes from `at` on, both captured and on the wire.
#[derive(Debug, Clone, Copy)]
struct Rest<'a> {
    bytes: &'a [u8],
    /// How long they were on the wire.
    wire: usize,
    /// Where they begin in the packet.
    at: usize,
}

/// Why decoding stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stop {
    /// There is nothing more that is understood here.
    Done,
    /// The snapshot ends within a header.
    Cut,
    /// It breaks its format.
    Malformed(Layer),
}

type Step<T> = Result<T, Stop>;

impl<'a> Rest<'a> {
    /// The first `length` bytes, and what follows.
    fn split(self, length: usize, layer: Layer) -> Step<(&'a [u8], Self)> {
        if length > self.wire {
            return Err(Stop::Malformed(layer));
        }
        let (Some(head), Some(bytes)) = (self.bytes.get(..length), self.bytes.get(length..)) else {
            return Err(Stop::Cut);
        };
        Ok((head, Self { bytes, wire: self.wire - length, at: self.at + length }))
    }

    /// No more than `wire` bytes of it: the rest is padding.
    fn limit(self, wire: usize) -> Self {
        let wire = wire.min(self.wire);
        Self { bytes: &self.bytes[..self.bytes.len().min(wire)], wire, at: self.at }
    }
}

/// The big-endian number at `at`; 0 past the end, where no caller looks.
fn u16_at(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..at + 2).map_or(0, |b| u16::from_be_bytes([b[0], b[1]]))
}

/// As [`u16_at`].
fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).map_or(0, |b| u32::from_be_bytes([b[0], b[1], b[2], b[3]]))
}

impl<'a> Decoded<'a> {
    /// The tunnels that it came through, the outermost first.
    pub fn tunnels(&self) -> impl Iterator<Item = Tunnel> + use<> {
        self.tunnels.into_iter().flatten()
    }

    /// The innermost tunnel, and how many there are.
    pub fn innermost_tunnel(&self) -> Option<(Tunnel, usize)> {
        let depth = self.tunnels().count();
        self.tunnels().last().map(|tunnel| (tunnel, depth))
    }

    /// The ports, where there are any.
    pub fn ports(&self) -> Option<(u16, u16)> {
        match &self.transport {
            Transport::Tcp(tcp) => Some((tcp.source_port, tcp.destination_port)),
            Transport::Udp { source_port, destination_port } => Some((*source_port, *destination_port)),
            _ => None,
        }
    }

    fn enter(&mut self, tunnel: Tunnel) -> Step<()> {
        let free = self.tunnels.iter_mut().find(|slot| slot.is_none()).ok_or(Stop::Malformed(Layer::Tunnel))?;
        *free = Some(tunnel);
        Ok(())
    }

    /// What follows is no header that is understood: it is payload.
    fn settle(&mut self, rest: Rest<'a>) {
        self.payload_at = rest.at;
        self.payload = rest.bytes;
        self.payload_wire_bytes = u32::try_from(rest.wire).unwrap_or(u32::MAX);
    }
}

/// Decodes a packet of a link type (a `LINKTYPE_` value) of which `bytes` were
/// captured and that had `wire_bytes` on the wire.
pub fn decode(link_type: u16, bytes: &[u8], wire_bytes: u32) -> Decoded<'_> {
    let mut decoded = Decoded {
        interface: None,
        is_outgoing: None,
        ether_type: None,
        vlan: None,
        tunnels: [None; DEEPEST],
        ip: None,
        transport: Transport::None,
        payload_at: 0,
        payload: bytes,
        payload_wire_bytes: wire_bytes,
        malformed: None,
        is_cut: false,
    };
    let rest = Rest { bytes, wire: (wire_bytes as usize).max(bytes.len()), at: 0 };
    match link::packet(&mut decoded, link_type, rest) {
        Ok(()) | Err(Stop::Done) => {}
        Err(Stop::Cut) => decoded.is_cut = true,
        Err(Stop::Malformed(layer)) => decoded.malformed = Some(layer),
    }
    decoded
}

/// The link types that are understood, by their names in the tcpdump.org registry.
pub fn link_name(link_type: u16) -> &'static str {
    match link_type {
        0 => "null",
        1 => "ethernet",
        101 => "raw",
        108 => "loop",
        113 => "linux_sll",
        228 => "ipv4",
        229 => "ipv6",
        276 => "linux_sll2",
        _ => "unknown",
    }
}

#[cfg(test)]
pub(crate) mod tests;
