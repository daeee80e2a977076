//! Link headers (tcpdump.org, "Link-layer header types"; IEEE 802.3, 802.1Q).

use super::{Decoded, Layer, Rest, Step, Stop, network, u16_at, u32_at};

/// The most VLAN tags that are looked through.
const MOST_TAGS: usize = 4;

/// PACKET_OUTGOING (packet(7)).
const OUTGOING: u16 = 4;
const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
/// Transparent Ethernet bridging: an Ethernet frame in GRE or Geneve.
pub(super) const BRIDGED: u16 = 0x6558;

/// A packet with the link header of `link_type`.
pub(super) fn packet<'a>(into: &mut Decoded<'a>, link_type: u16, rest: Rest<'a>) -> Step<()> {
    match link_type {
        0 | 108 => null(into, link_type, rest),
        1 => ethernet(into, rest),
        101 | 228 | 229 => network::any(into, rest),
        113 => {
            let (header, rest) = rest.split(16, Layer::Link)?;
            into.is_outgoing = Some(u16_at(header, 0) == OUTGOING);
            ether_type(into, u16_at(header, 14), rest)
        }
        276 => {
            let (header, rest) = rest.split(20, Layer::Link)?;
            into.interface = Some(u32_at(header, 4));
            into.is_outgoing = Some(u16::from(header[10]) == OUTGOING);
            ether_type(into, u16_at(header, 0), rest)
        }
        _ => Err(Stop::Done),
    }
}

/// An Ethernet frame.
pub(super) fn ethernet<'a>(into: &mut Decoded<'a>, rest: Rest<'a>) -> Step<()> {
    let (header, rest) = rest.split(14, Layer::Link)?;
    ether_type(into, u16_at(header, 12), rest)
}

/// What follows an EtherType, VLAN tags included.
pub(super) fn ether_type<'a>(into: &mut Decoded<'a>, mut kind: u16, mut rest: Rest<'a>) -> Step<()> {
    let mut tags = 0;
    while matches!(kind, 0x8100 | 0x88a8 | 0x9100) {
        tags += 1;
        if tags > MOST_TAGS {
            return Err(Stop::Malformed(Layer::Link));
        }
        let (tag, after) = rest.split(4, Layer::Link)?;
        into.vlan = into.vlan.or(Some(u16_at(tag, 0) & 0x0fff));
        kind = u16_at(tag, 2);
        rest = after;
    }
    into.ether_type = Some(kind);
    match kind {
        IPV4 => network::ipv4(into, rest),
        IPV6 => network::ipv6(into, rest),
        _ => {
            into.settle(rest);
            Err(Stop::Done)
        }
    }
}

/// BSD loopback: the address family, in the byte order of the host that captured
/// (null) or of the network (loop).
fn null<'a>(into: &mut Decoded<'a>, link_type: u16, rest: Rest<'a>) -> Step<()> {
    let (header, rest) = rest.split(4, Layer::Link)?;
    let mut family = u32_at(header, 0);
    if link_type == 0 && family > 0xffff {
        family = family.swap_bytes();
    }
    match family {
        2 => network::ipv4(into, rest),
        // NetBSD and Linux, FreeBSD, Darwin.
        10 | 24 | 28 | 30 => network::ipv6(into, rest),
        _ => {
            into.settle(rest);
            Err(Stop::Done)
        }
    }
}
