"""Sends frames on an interface that no tool sends: every outer header, fragments, and what breaks each layer's format."""

import socket
import struct
import sys

UDP, TCP, GRE, IN_IP, IN_IP6 = 17, 6, 47, 4, 41
V4, V6, VLAN, SERVICE_VLAN, BRIDGED = 0x0800, 0x86DD, 0x8100, 0x88A8, 0x6558


def checksum(data):
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def eth(kind, payload):
    return bytes.fromhex("020000000002020000000001") + struct.pack("!H", kind) + payload


def tag(vlan, kind, payload):
    return struct.pack("!HH", vlan, kind) + payload


def ip(net, protocol, payload, place=0, first=0x45, length=None):
    """From 10.NET.0.1 to 10.NET.0.2; `place` is the field of the fragment."""
    length = 20 + len(payload) if length is None else length
    ends = bytes([10, net, 0, 1, 10, net, 0, 2])
    head = struct.pack("!BBHHHBBH", first, 0, length, net, place, 64, protocol, 0) + ends
    return head[:10] + struct.pack("!H", checksum(head)) + head[12:] + payload


def ip6(net, protocol, payload):
    """From fd00:NET::1 to fd00:NET::2."""
    ends = b"".join(socket.inet_pton(socket.AF_INET6, f"fd00:{net}::{end}") for end in (1, 2))
    return struct.pack("!IHBB", 6 << 28, len(payload), protocol, 64) + ends + payload


def udp(port, payload, length=None):
    return struct.pack("!HHHH", 40000, port, 8 + len(payload) if length is None else length, 0) + payload


DATA = b"x" * 40
FLOW = udp(2000, DATA)
LONG = udp(2000, b"x" * 40, 8 + 64)
FRAMES = [
    # Outer headers.
    eth(VLAN, tag(100, V4, ip(1, UDP, FLOW))),
    eth(SERVICE_VLAN, tag(200, VLAN, tag(7, V4, ip(2, UDP, FLOW)))),
    eth(V4, ip(103, GRE, struct.pack("!HHI", 0x2000, V4, 5) + ip(3, UDP, FLOW))),
    eth(V4, ip(104, GRE, struct.pack("!HH", 0, BRIDGED) + eth(V6, ip6(4, UDP, FLOW)))),
    eth(V4, ip(105, UDP, udp(4789, struct.pack("!II", 0x08000000, 42 << 8) + eth(V4, ip(5, UDP, FLOW))))),
    eth(V4, ip(106, UDP, udp(6081, struct.pack("!HHI", 0, V4, 77 << 8) + ip(6, UDP, FLOW)))),
    eth(V4, ip(107, IN_IP, ip(7, UDP, FLOW))),
    eth(V4, ip(108, IN_IP6, ip6(8, UDP, FLOW))),
    # Hop-by-hop and destination options of IPv6, then UDP.
    eth(V6, ip6(9, 0, bytes([60, 0, 1, 4, 0, 0, 0, 0, UDP, 0, 1, 4, 0, 0, 0, 0]) + FLOW)),
    # Fragments: of the second the ports are known by the first.
    eth(V4, ip(10, UDP, LONG, place=0x2000)),
    eth(V4, ip(10, UDP, b"x" * 24, place=len(LONG) // 8)),
    eth(V6, ip6(11, 44, struct.pack("!BBHI", UDP, 0, 1, 99) + LONG)),
    eth(V6, ip6(11, 44, struct.pack("!BBHI", UDP, 0, len(LONG), 99) + b"x" * 24)),
    # Link: more tags than there can be. Network: a header of 12 bytes, and a packet that says it is longer than its frame.
    eth(VLAN, tag(1, VLAN, tag(1, VLAN, tag(1, VLAN, tag(1, VLAN, tag(1, V4, ip(12, UDP, FLOW))))))),
    eth(V4, ip(13, UDP, FLOW, first=0x43)),
    eth(V4, ip(14, UDP, FLOW, length=9000)),
    eth(V6, ip6(15, UDP, FLOW)[:30]),
    # Transport: a header of 8 bytes, options that end in the middle of one, a datagram longer than its packet.
    eth(V4, ip(16, TCP, struct.pack("!HHIIBBHHH", 40000, 2000, 1, 0, 0x20, 2, 100, 0, 0))),
    eth(V4, ip(17, TCP, struct.pack("!HHIIBBHHH", 40000, 2000, 1, 0, 0x60, 2, 100, 0, 0) + bytes([2, 9, 0, 0]))),
    eth(V4, ip(18, UDP, udp(2000, DATA, length=4000))),
    # Tunnel: a key and a sequence number that are not there, and tunnels in tunnels in tunnels in tunnels.
    eth(V4, ip(19, GRE, struct.pack("!HHI", 0x3000, V4, 5))),
    eth(V4, ip(20, IN_IP, ip(20, IN_IP, ip(20, IN_IP, ip(20, IN_IP, ip(20, UDP, FLOW)))))),
    # DNS: a message of three bytes, and a name that points to itself.
    eth(V4, ip(21, UDP, udp(53, b"\x01\x02\x03"))),
    eth(V4, ip(21, UDP, udp(53, struct.pack("!HHHHHH", 1, 0x100, 1, 0, 0, 0) + b"\xc0\x0c\x00\x01\x00\x01"))),
]

sender = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
sender.bind((sys.argv[1], 0))
for frame in FRAMES:
    sender.send(frame)
