//! TCP (RFC 9293, options RFC 7323 and RFC 2018), UDP (RFC 768), ICMP (RFC 792,
//! RFC 4443), and the tunnels over UDP: VXLAN (RFC 7348), Geneve (RFC 8926).

use std::net::IpAddr;

use super::{Decoded, Ip, Layer, Rest, Step, Stop, Tunnel, link, network, u16_at, u32_at};

/// Flags of a TCP segment.
pub mod flags {
    /// No more data from the sender.
    pub const FIN: u8 = 1;
    /// Synchronize sequence numbers.
    pub const SYN: u8 = 2;
    /// Reset the connection.
    pub const RST: u8 = 4;
    /// Push.
    pub const PSH: u8 = 8;
    /// The acknowledgment number counts.
    pub const ACK: u8 = 16;
}

/// A TCP header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tcp {
    /// From which port.
    pub source_port: u16,
    /// To which port.
    pub destination_port: u16,
    /// The sequence number of the first byte.
    pub sequence: u32,
    /// The next sequence number that the sender expects.
    pub acknowledgment: u32,
    /// The lower eight flags: [`flags`].
    pub flags: u8,
    /// The window, not scaled.
    pub window: u16,
    /// Option: maximum segment size.
    pub mss: Option<u16>,
    /// Option: window scale, as a shift.
    pub window_scale: Option<u8>,
    /// Option: selective acknowledgment is permitted.
    pub sack_permitted: bool,
    /// Option: the first block of a selective acknowledgment.
    pub sack: Option<(u32, u32)>,
    /// Option: time stamp value and echo reply.
    pub timestamps: Option<(u32, u32)>,
}

impl Tcp {
    /// Whether any of `flags` is set.
    pub fn has(&self, flags: u8) -> bool {
        self.flags & flags != 0
    }
}

/// An ICMP message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Icmp {
    /// Whether it is ICMP for IPv6.
    pub is_v6: bool,
    /// Its type.
    pub kind: u8,
    /// Its code.
    pub code: u8,
    /// The MTU that "fragmentation needed" or "packet too big" gives, in bytes.
    pub mtu_bytes: Option<u32>,
    /// The packet that an error is about.
    pub about: Option<Embedded>,
    /// How many bytes of the payload are headers of that packet.
    pub quoted_bytes: usize,
}

impl Icmp {
    /// Whether it reports an error.
    pub fn is_error(&self) -> bool {
        if self.is_v6 { self.kind < 128 } else { matches!(self.kind, 3 | 4 | 5 | 11 | 12) }
    }
}

/// The packet that an ICMP error quotes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Embedded {
    /// From where it came.
    pub source: IpAddr,
    /// Where it was to go.
    pub destination: IpAddr,
    /// Its protocol.
    pub protocol: u8,
    /// Its ports, of TCP, UDP and the like.
    pub ports: Option<(u16, u16)>,
}

/// What an IP packet carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// Nothing that is understood.
    None,
    /// A TCP segment.
    Tcp(Tcp),
    /// A UDP datagram.
    Udp {
        /// From which port.
        source_port: u16,
        /// To which port.
        destination_port: u16,
    },
    /// An ICMP message.
    Icmp(Icmp),
}

/// The payload of `ip`.
pub(super) fn packet<'a>(into: &mut Decoded<'a>, ip: Ip, rest: Rest<'a>) -> Step<()> {
    match ip.protocol {
        6 => tcp(into, rest),
        17 => udp(into, ip, rest),
        1 => icmp(into, rest, false),
        58 => icmp(into, rest, true),
        _ => Err(Stop::Done),
    }
}

fn tcp<'a>(into: &mut Decoded<'a>, rest: Rest<'a>) -> Step<()> {
    let (head, _) = rest.split(20, Layer::Transport)?;
    let length = usize::from(head[12] >> 4) * 4;
    if length < 20 {
        return Err(Stop::Malformed(Layer::Transport));
    }
    let mut tcp = Tcp {
        source_port: u16_at(head, 0),
        destination_port: u16_at(head, 2),
        sequence: u32_at(head, 4),
        acknowledgment: u32_at(head, 8),
        flags: head[13],
        window: u16_at(head, 14),
        ..Tcp::default()
    };
    into.transport = Transport::Tcp(tcp);
    // Without its options the segment still counts, and its length is known.
    if length > rest.wire {
        return Err(Stop::Malformed(Layer::Transport));
    }
    let after = rest.wire - length;
    into.payload_wire_bytes = u32::try_from(after).unwrap_or(u32::MAX);
    into.payload_at = rest.at + rest.bytes.len().min(length);
    into.payload = rest.bytes.get(length..).unwrap_or_default();
    let options = rest.bytes.get(20..length).ok_or(Stop::Cut)?;
    let whole = tcp_options(options, &mut tcp);
    into.transport = Transport::Tcp(tcp);
    if whole { Ok(()) } else { Err(Stop::Malformed(Layer::Transport)) }
}

/// Reads options into `tcp`; false when they break their format.
fn tcp_options(mut options: &[u8], tcp: &mut Tcp) -> bool {
    while let [kind, after @ ..] = options {
        match kind {
            0 => return true,
            1 => {
                options = after;
                continue;
            }
            _ => {}
        }
        let Some(length) = after.first().map(|length| usize::from(*length)).filter(|length| *length >= 2) else {
            return false;
        };
        let Some(body) = options.get(2..length) else { return false };
        match (kind, body.len()) {
            (2, 2) => tcp.mss = Some(u16_at(body, 0)),
            (3, 1) => tcp.window_scale = Some(body[0].min(14)),
            (4, 0) => tcp.sack_permitted = true,
            (5, 8..) => tcp.sack = Some((u32_at(body, 0), u32_at(body, 4))),
            (8, 8) => tcp.timestamps = Some((u32_at(body, 0), u32_at(body, 4))),
            _ => {}
        }
        options = &options[length..];
    }
    true
}

fn udp<'a>(into: &mut Decoded<'a>, ip: Ip, rest: Rest<'a>) -> Step<()> {
    let (head, after) = rest.split(8, Layer::Transport)?;
    let (source_port, destination_port) = (u16_at(head, 0), u16_at(head, 2));
    into.transport = Transport::Udp { source_port, destination_port };
    let length = usize::from(u16_at(head, 4));
    let is_piece = ip.fragment.is_some();
    // 0: more than 64 KiB (RFC 2675, segmentation offload).
    if length != 0 && (length < 8 || (length - 8 > after.wire && !is_piece)) {
        return Err(Stop::Malformed(Layer::Transport));
    }
    let after = if length == 0 { after } else { after.limit(length - 8) };
    into.settle(after);
    match destination_port {
        // IANA's port, and the one that Linux and flannel take by default.
        4789 | 8472 => vxlan(into, after),
        6081 => geneve(into, after),
        _ => Ok(()),
    }
}

fn vxlan<'a>(into: &mut Decoded<'a>, rest: Rest<'a>) -> Step<()> {
    // Anybody may use these ports: without the flag it is not VXLAN.
    if rest.bytes.first().is_none_or(|flags| flags & 0x08 == 0) || rest.wire < 8 + 14 {
        return Ok(());
    }
    let (head, after) = rest.split(8, Layer::Tunnel)?;
    into.enter(Tunnel::Vxlan(u32_at(head, 4) >> 8))?;
    into.ip = None;
    into.transport = Transport::None;
    into.settle(after);
    link::ethernet(into, after)
}

fn geneve<'a>(into: &mut Decoded<'a>, rest: Rest<'a>) -> Step<()> {
    if rest.bytes.first().is_none_or(|first| first >> 6 != 0) || rest.wire < 8 {
        return Ok(());
    }
    let (head, _) = rest.split(8, Layer::Tunnel)?;
    let kind = u16_at(head, 2);
    if !matches!(kind, link::BRIDGED | 0x0800 | 0x86dd) {
        return Ok(());
    }
    let (_, after) = rest.split(8 + usize::from(head[0] & 0x3f) * 4, Layer::Tunnel)?;
    into.enter(Tunnel::Geneve(u32_at(head, 4) >> 8))?;
    into.ip = None;
    into.transport = Transport::None;
    into.settle(after);
    match kind {
        link::BRIDGED => link::ethernet(into, after),
        kind => link::ether_type(into, kind, after),
    }
}

fn icmp<'a>(into: &mut Decoded<'a>, rest: Rest<'a>, is_v6: bool) -> Step<()> {
    let (head, after) = rest.split(8, Layer::Transport)?;
    let (kind, code) = (head[0], head[1]);
    let mut icmp = Icmp { is_v6, kind, code, mtu_bytes: None, about: None, quoted_bytes: 0 };
    if (is_v6, kind) == (true, 2) {
        icmp.mtu_bytes = Some(u32_at(head, 4));
    } else if (is_v6, kind, code) == (false, 3, 4) {
        icmp.mtu_bytes = Some(u16_at(head, 6).into());
    }
    if icmp.is_error()
        && let Some((ip, payload)) = network::quoted(after.bytes)
    {
        // The first 8 bytes of what it carried (RFC 792): ports, and a length or a
        // sequence number.
        icmp.quoted_bytes = after.bytes.len() - payload.len() + payload.len().min(8);
        icmp.about = Some(Embedded {
            source: ip.source,
            destination: ip.destination,
            protocol: ip.protocol,
            ports: (matches!(ip.protocol, 6 | 17 | 132 | 136) && payload.len() >= 4)
                .then(|| (u16_at(payload, 0), u16_at(payload, 2))),
        });
    }
    into.transport = Transport::Icmp(icmp);
    into.settle(after);
    Ok(())
}
