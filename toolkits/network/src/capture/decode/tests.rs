//! Decoders on literal packets, and on anything.

use super::*;

/// Bytes from hex, blanks left out.
fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    let digit = |byte: u8| (byte as char).to_digit(16).unwrap_or(0) as u8;
    digits.chunks_exact(2).map(|pair| digit(pair[0]) * 16 + digit(pair[1])).collect()
}

/// A SYN with all usual options, as Linux sends it: IPv4 and TCP.
const SYN: &str = "4500003c1c4640004006 2074 7f000001 7f000002
    d4310050 a1b2c3d4 00000000 a002ffd7 fe310000 0204ffd7 0402080a 0a0b0c0d 00000000 01030307";

fn ethernet(kind: &str, packet: &[u8]) -> Vec<u8> {
    [hex("020000000001 020000000002"), hex(kind), packet.to_vec()].concat()
}

fn whole(link_type: u16, bytes: &[u8]) -> Decoded<'_> {
    let decoded = decode(link_type, bytes, bytes.len() as u32);
    assert_eq!((decoded.malformed, decoded.is_cut), (None, false));
    decoded
}

#[test]
fn every_link_header_leads_to_the_same_packet() {
    let syn = hex(SYN);
    let sll = [hex("0004 0304 0006 000000000000 0000 0800"), syn.clone()].concat();
    let sll2 = [hex("0800 0000 00000007 0304 04 06 0000000000000000"), syn.clone()].concat();
    let null = [vec![2, 0, 0, 0], syn.clone()].concat();
    let swapped = [vec![0, 0, 0, 2], syn.clone()].concat();
    let tagged = ethernet("88a8 0005 8100 2fff 0800", &syn);
    let cases = [
        (1, ethernet("0800", &syn)),
        (1, tagged),
        (113, sll),
        (276, sll2),
        (0, null),
        (0, swapped.clone()),
        (108, swapped),
        (101, syn.clone()),
        (228, syn),
    ];
    for (link_type, bytes) in cases {
        let decoded = whole(link_type, &bytes);
        assert_eq!(decoded.ports(), Some((54321, 80)), "link type {link_type}");
        let Transport::Tcp(tcp) = decoded.transport else { panic!("TCP") };
        assert_eq!((tcp.mss, tcp.window_scale, tcp.sack_permitted), (Some(65495), Some(7), true));
        assert_eq!(tcp.timestamps, Some((0x0a0b_0c0d, 0)));
        assert_eq!((decoded.payload_at, decoded.payload_wire_bytes), (bytes.len(), 0));
        if link_type == 276 {
            assert_eq!((decoded.interface, decoded.is_outgoing), (Some(7), Some(true)));
        }
    }
    assert_eq!(whole(1, &ethernet("88a8 0005 8100 2fff 0800", &hex(SYN))).vlan, Some(5));
}

/// IPv4 without options around `payload`.
fn ipv4(protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = hex("45000000 0001 0000 40 00 0000 0a000001 0a000002");
    packet[9] = protocol;
    packet[2..4].copy_from_slice(&(20 + payload.len() as u16).to_be_bytes());
    [packet, payload.to_vec()].concat()
}

/// IPv6 around `payload`.
fn ipv6(next: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = hex("60000000 0000 00 40 fd000000000000000000000000000001 fd000000000000000000000000000002");
    packet[4..6].copy_from_slice(&(payload.len() as u16).to_be_bytes());
    packet[6] = next;
    [packet, payload.to_vec()].concat()
}

fn udp(destination_port: u16, payload: &[u8]) -> Vec<u8> {
    let mut header = hex("9c40 0000 0000 0000");
    header[2..4].copy_from_slice(&destination_port.to_be_bytes());
    header[4..6].copy_from_slice(&(8 + payload.len() as u16).to_be_bytes());
    [header, payload.to_vec()].concat()
}

#[test]
fn options_and_extension_headers_are_passed_over() {
    let mut with_options = ipv4(17, &[hex("01010100"), udp(7, b"hello")].concat());
    with_options[0] = 0x46;
    let decoded = whole(101, &with_options);
    assert_eq!((decoded.ports(), decoded.payload), (Some((40000, 7)), &b"hello"[..]));
    // Hop-by-hop, destination options of 16 bytes, authentication of 12.
    let extensions =
        [hex("3c00 0000 0000 0000"), hex("3301"), vec![0; 14], hex("1101"), vec![0; 10], udp(7, b"x")].concat();
    let decoded = whole(101, &ipv6(0, &extensions)).transport;
    assert_eq!(decoded, Transport::Udp { source_port: 40000, destination_port: 7 });
}

#[test]
fn padding_is_no_payload() {
    let frame = [ethernet("0800", &ipv4(17, &udp(7, b"x"))), vec![0; 17]].concat();
    let decoded = whole(1, &frame);
    assert_eq!((decoded.payload, decoded.payload_wire_bytes), (&b"x"[..], 1));
}

#[test]
fn fragments_say_where_they_belong() {
    let mut first = ipv4(17, &udp(7, b"hello"));
    first[4..8].copy_from_slice(&hex("abcd 2000"));
    // The length in the UDP header is that of the whole.
    first[24..26].copy_from_slice(&2000_u16.to_be_bytes());
    let decoded = whole(101, &first);
    assert_eq!(decoded.ip.and_then(|ip| ip.fragment), Some(Fragment { id: 0xabcd, offset: 0, more: true }));
    assert_eq!(decoded.ports(), Some((40000, 7)));
    let mut last = ipv4(17, b"rest");
    last[4..8].copy_from_slice(&hex("abcd 0002"));
    let decoded = whole(101, &last);
    assert_eq!((decoded.ports(), decoded.ip.and_then(|ip| ip.fragment).map(|f| f.offset)), (None, Some(16)));
    let sixth = ipv6(44, &[hex("1100 0011 00000007"), b"not a header".to_vec()].concat());
    let fragment = whole(101, &sixth).ip.and_then(|ip| ip.fragment);
    assert_eq!(fragment, Some(Fragment { id: 7, offset: 16, more: true }));
}

#[test]
fn tunnels_show_what_is_in_them() {
    let inner = ipv4(6, &hex(SYN)[20..]);
    let frame = ethernet("0800", &inner);
    let gre = ipv4(47, &[hex("2000 0800 00000009"), inner.clone()].concat());
    let bridged = ipv4(47, &[hex("0000 6558"), frame.clone()].concat());
    let vxlan = ipv4(17, &udp(4789, &[hex("08000000 00002a00"), frame.clone()].concat()));
    let geneve = ipv6(17, &udp(6081, &[hex("0100 6558 00000500 00000000"), frame].concat()));
    let nested = ipv6(4, &inner);
    let cases = [
        (gre, Tunnel::Gre(Some(9))),
        (bridged, Tunnel::Gre(None)),
        (vxlan, Tunnel::Vxlan(42)),
        (geneve, Tunnel::Geneve(5)),
        (nested, Tunnel::Ip),
    ];
    for (packet, tunnel) in cases {
        let decoded = whole(101, &packet);
        assert_eq!((decoded.innermost_tunnel(), decoded.ports()), (Some((tunnel, 1)), Some((54321, 80))));
    }
}

#[test]
fn too_many_tunnels_are_malformed() {
    let mut packet = ipv4(17, &udp(7, b""));
    for _ in 0..6 {
        packet = ipv4(4, &packet);
    }
    assert_eq!(decode(101, &packet, packet.len() as u32).malformed, Some(Layer::Tunnel));
}

#[test]
fn icmp_errors_name_the_flow_they_are_about() {
    let quoted = &hex(SYN)[..28];
    let error = ipv4(1, &[hex("0304 0000 0000 0578"), quoted.to_vec()].concat());
    let Transport::Icmp(icmp) = whole(101, &error).transport else { panic!("ICMP") };
    let about = icmp.about.expect("a quotation");
    assert_eq!((icmp.mtu_bytes, about.ports, about.protocol), (Some(1400), Some((54321, 80)), 6));
    assert_eq!((icmp.quoted_bytes, about.destination.to_string().as_str()), (28, "127.0.0.2"));
    let sixth = ipv6(58, &[hex("0200 0000 00000500"), ipv6(17, &udp(53, b"q"))].concat());
    let Transport::Icmp(icmp) = whole(101, &sixth).transport else { panic!("ICMP") };
    assert_eq!((icmp.mtu_bytes, icmp.about.and_then(|about| about.ports)), (Some(1280), Some((40000, 53))));
    let echo = ipv4(1, &hex("0800 0000 0001 0001 61626364"));
    let Transport::Icmp(icmp) = whole(101, &echo).transport else { panic!("ICMP") };
    assert!(!icmp.is_error() && icmp.about.is_none());
}

#[test]
fn lengths_that_lie_are_malformed_and_cut_packets_are_not() {
    let malformed = |packet: &[u8]| decode(101, packet, packet.len() as u32).malformed;
    let mut long = ipv4(17, &udp(7, b"x"));
    long[3] += 1;
    assert_eq!(malformed(&long), Some(Layer::Network));
    let mut short_header = ipv4(17, &udp(7, b"x"));
    short_header[0] = 0x44;
    assert_eq!(malformed(&short_header), Some(Layer::Network));
    let mut long_udp = ipv4(17, &udp(7, b"x"));
    long_udp[25] += 1;
    assert_eq!(malformed(&long_udp), Some(Layer::Transport));
    let mut option = hex(SYN);
    option[41] = 0;
    assert_eq!(malformed(&option), Some(Layer::Transport));
    let syn = hex(SYN);
    for end in 0..syn.len() {
        let decoded = decode(101, &syn[..end], syn.len() as u32);
        assert_eq!((decoded.malformed, decoded.is_cut), (None, true), "cut at {end}");
    }
    // Of a segment whose options were cut off everything else is known.
    assert_eq!(decode(101, &syn[..40], 60).ports(), Some((54321, 80)));
}

/// Random bytes that are the same in each run.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        // xorshift64*: Vigna 2016.
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub(crate) fn below(&mut self, end: usize) -> usize {
        (self.next() % end.max(1) as u64) as usize
    }
}

/// Packets of every kind, to be mutated.
pub(crate) fn corpus() -> Vec<(u16, Vec<u8>)> {
    let hello = super::super::tls::tests::client_hello(b"db.example", 60);
    let query = b"\x1f\xf3\x01\x20\x00\x01\x00\x00\x00\x00\x00\x00\x07example\x03com\x00\x00\x01\x00\x01";
    let answer = [&query[..2], &[0x85, 0x83], &query[4..], &b"\xc0\x0c\x00\x1c\x00\x01"[..]].concat();
    let tcp = |payload: &[u8]| ipv4(6, &[&hex(SYN)[20..32], &hex("5018 ffff 0000 0000"), payload].concat());
    let request = b"GET http://u:p@h/a?b=c&d HTTP/1.1\r\nHost: h\r\nCookie: x\r\n\r\n";
    let frame = ethernet("0800", &tcp(&hello));
    vec![
        (1, ethernet("0800", &hex(SYN))),
        (
            1,
            ethernet(
                "8100 0005 86dd",
                &ipv6(0, &[hex("2c00 0000 0000 0000 1100 0001 00000007"), udp(53, query)].concat()),
            ),
        ),
        (113, [hex("0004 0304 0006 000000000000 0000 0800"), ipv4(17, &udp(53, query))].concat()),
        (276, [hex("0800 0000 00000007 0304 04 06 0000000000000000"), tcp(request)].concat()),
        (101, tcp(&hello)),
        (101, tcp(b"HTTP/1.1 200 OK\r\n\r\n")),
        (101, tcp(b"\x15\x03\x03\x00\x02\x02\x28")),
        (101, ipv4(17, &udp(4789, &[hex("08000000 00002a00"), frame.clone()].concat()))),
        (101, ipv4(17, &udp(6081, &[hex("0100 6558 00000500 00000000"), frame.clone()].concat()))),
        (101, ipv4(47, &[hex("3000 6558 00000009 00000001"), frame].concat())),
        (101, ipv4(1, &[hex("0304 0000 0000 0578"), hex(SYN)].concat())),
        (101, ipv6(58, &[hex("0200 0000 00000500"), ipv6(17, &udp(53, &answer))].concat())),
        (0, [vec![2, 0, 0, 0], ipv4(17, &udp(5353, &answer))].concat()),
    ]
}

/// A target for fuzzing: whatever the bytes, nothing panics, and what is said of
/// the payload is true of the packet.
fn check(link_type: u16, bytes: &[u8], wire_bytes: u32) {
    let decoded = decode(link_type, bytes, wire_bytes);
    assert!(decoded.payload_at <= bytes.len());
    assert!(decoded.payload_at + decoded.payload.len() <= bytes.len());
    assert!(decoded.tunnels().count() <= DEEPEST);
}

#[test]
fn random_and_mutated_packets_never_panic() {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let corpus = corpus();
    for (link_type, packet) in &corpus {
        for end in 0..=packet.len() {
            check(*link_type, &packet[..end], packet.len() as u32);
            check(*link_type, &packet[..end], end as u32);
        }
    }
    for _ in 0..200_000 {
        let (link_type, packet) = &corpus[random.below(corpus.len())];
        let mut packet = packet.clone();
        for _ in 0..=random.below(6) {
            let at = random.below(packet.len());
            packet[at] = match random.below(4) {
                0 => 0,
                1 => 0xff,
                _ => random.next() as u8,
            };
        }
        packet.truncate(packet.len() - random.below(packet.len()) * random.below(2));
        check(*link_type, &packet, random.below(2 * packet.len() + 1) as u32);
    }
    for _ in 0..50_000 {
        let packet: Vec<u8> = (0..random.below(120)).map(|_| random.next() as u8).collect();
        for link_type in [0, 1, 101, 108, 113, 276] {
            check(link_type, &packet, random.next() as u32);
        }
    }
}
