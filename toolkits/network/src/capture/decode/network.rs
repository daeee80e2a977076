//! IPv4 (RFC 791), IPv6 and its extension headers (RFC 8200), and the tunnels over
//! them: IP in IP, GRE (RFC 2784, RFC 2890).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{Decoded, Fragment, Ip, Layer, Rest, Step, Stop, Tunnel, link, transport, u16_at, u32_at};

/// The most extension headers of a packet that are looked through.
const MOST_EXTENSIONS: usize = 16;

/// IP by its version.
pub(super) fn any<'a>(into: &mut Decoded<'a>, rest: Rest<'a>) -> Step<()> {
    match rest.bytes.first().map(|first| first >> 4) {
        Some(4) => {
            into.ether_type = Some(0x0800);
            ipv4(into, rest)
        }
        Some(6) => {
            into.ether_type = Some(0x86dd);
            ipv6(into, rest)
        }
        Some(_) => Err(Stop::Malformed(Layer::Network)),
        None if rest.wire > 0 => Err(Stop::Cut),
        None => Err(Stop::Malformed(Layer::Network)),
    }
}

/// An IPv4 packet.
pub(super) fn ipv4<'a>(into: &mut Decoded<'a>, rest: Rest<'a>) -> Step<()> {
    let (ip, rest) = ipv4_header(rest, false)?;
    carried(into, ip, rest)
}

/// The header, and the payload without padding. In the quotation of an ICMP error
/// (`quoted`) the packet may be shorter than it says.
fn ipv4_header(rest: Rest<'_>, quoted: bool) -> Step<(Ip, Rest<'_>)> {
    let (head, _) = rest.split(20, Layer::Network)?;
    let length = usize::from(head[0] & 15) * 4;
    if head[0] >> 4 != 4 || length < 20 {
        return Err(Stop::Malformed(Layer::Network));
    }
    let total = usize::from(u16_at(head, 2));
    // Segmentation offload of more than 64 KiB writes 0.
    let total = if total == 0 { rest.wire } else { total };
    if total < length || (total > rest.wire && !quoted) {
        return Err(Stop::Malformed(Layer::Network));
    }
    let (_, payload) = rest.limit(total).split(length, Layer::Network)?;
    let place = u16_at(head, 6);
    let fragment = (place & 0x3fff != 0).then(|| Fragment {
        id: u16_at(head, 4).into(),
        offset: u32::from(place & 0x1fff) * 8,
        more: place & 0x2000 != 0,
    });
    let address = |at: usize| IpAddr::V4(Ipv4Addr::from_bits(u32_at(head, at)));
    Ok((Ip { source: address(12), destination: address(16), protocol: head[9], ttl: head[8], fragment }, payload))
}

/// An IPv6 packet.
pub(super) fn ipv6<'a>(into: &mut Decoded<'a>, rest: Rest<'a>) -> Step<()> {
    let (ip, rest) = ipv6_header(rest, false)?;
    carried(into, ip, rest)
}

fn ipv6_header(rest: Rest<'_>, quoted: bool) -> Step<(Ip, Rest<'_>)> {
    let (head, after) = rest.split(40, Layer::Network)?;
    if head[0] >> 4 != 6 {
        return Err(Stop::Malformed(Layer::Network));
    }
    let length = usize::from(u16_at(head, 4));
    // A jumbogram, or segmentation offload of more than 64 KiB, writes 0.
    let length = if length == 0 { after.wire } else { length };
    if length > after.wire && !quoted {
        return Err(Stop::Malformed(Layer::Network));
    }
    let mut rest = after.limit(length);
    let mut protocol = head[6];
    let mut fragment = None;
    for _ in 0..MOST_EXTENSIONS {
        // Of a later fragment what follows is no header.
        if fragment.is_some_and(|fragment: Fragment| fragment.offset > 0) {
            break;
        }
        let extension = match protocol {
            // Hop-by-hop, routing, destination options, mobility, HIP, shim6.
            0 | 43 | 60 | 135 | 139 | 140 => {
                let (first, _) = rest.split(8, Layer::Network)?;
                (first, usize::from(first[1]) * 8 + 8)
            }
            // Authentication counts in words (RFC 4302).
            51 => {
                let (first, _) = rest.split(8, Layer::Network)?;
                (first, usize::from(first[1]) * 4 + 8)
            }
            44 => {
                let (first, _) = rest.split(8, Layer::Network)?;
                let place = u16_at(first, 2);
                let offset = u32::from(place & 0xfff8);
                fragment = Some(Fragment { id: u32_at(first, 4), offset, more: place & 1 != 0 });
                (first, 8)
            }
            _ => break,
        };
        protocol = extension.0[0];
        rest = rest.split(extension.1, Layer::Network)?.1;
    }
    let address = |at: usize| {
        let bytes: [u8; 16] = head.get(at..at + 16).and_then(|b| b.try_into().ok()).unwrap_or_default();
        IpAddr::V6(Ipv6Addr::from(bytes))
    };
    Ok((Ip { source: address(8), destination: address(24), protocol, ttl: head[7], fragment }, rest))
}

/// What an IP packet carries.
fn carried<'a>(into: &mut Decoded<'a>, ip: Ip, rest: Rest<'a>) -> Step<()> {
    into.ip = Some(ip);
    into.transport = transport::Transport::None;
    into.settle(rest);
    if ip.fragment.is_some_and(|fragment| fragment.offset > 0) {
        return Err(Stop::Done);
    }
    match ip.protocol {
        4 => {
            into.enter(Tunnel::Ip)?;
            ipv4(into, rest)
        }
        41 => {
            into.enter(Tunnel::Ip)?;
            ipv6(into, rest)
        }
        47 => gre(into, rest),
        _ => transport::packet(into, ip, rest),
    }
}

/// Generic routing encapsulation. Version 1 (PPTP) is left as payload.
fn gre<'a>(into: &mut Decoded<'a>, rest: Rest<'a>) -> Step<()> {
    let (head, _) = rest.split(4, Layer::Tunnel)?;
    let flags = u16_at(head, 0);
    if flags & 7 != 0 {
        return Err(Stop::Done);
    }
    let has = |bit: u16| usize::from(flags & bit != 0);
    let (checksum, key, sequence) = (has(0x8000), has(0x2000), has(0x1000));
    let (whole, after) = rest.split(4 + 4 * (checksum + key + sequence), Layer::Tunnel)?;
    into.enter(Tunnel::Gre((key == 1).then(|| u32_at(whole, 4 + 4 * checksum))))?;
    into.settle(after);
    match u16_at(head, 2) {
        link::BRIDGED => link::ethernet(into, after),
        kind => link::ether_type(into, kind, after),
    }
}

/// The packet that an ICMP error quotes: its addresses and protocol, and what
/// there is of its payload.
pub(super) fn quoted(bytes: &[u8]) -> Option<(Ip, &[u8])> {
    let rest = Rest { bytes, wire: bytes.len(), at: 0 };
    let (ip, rest) = match bytes.first()? >> 4 {
        4 => ipv4_header(rest, true).ok()?,
        6 => ipv6_header(rest, true).ok()?,
        _ => return None,
    };
    Some((ip, rest.bytes))
}
