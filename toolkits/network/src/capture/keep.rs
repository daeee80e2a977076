//! What is kept of a packet: headers, and of payload only what was asked for.

use std::collections::VecDeque;

use super::decode::{Decoded, Transport};

/// Link headers are this long where nothing else could be told.
const LEAST: usize = 14;
/// Address resolution is all header (RFC 826).
const ARP: u16 = 0x0806;
/// The port of DNS, and that of its multicast kin (RFC 6762).
const DNS: [u16; 2] = [53, 5353];

/// Whether this is DNS, by its ports.
pub(crate) fn is_dns(decoded: &Decoded<'_>) -> bool {
    decoded.ports().is_some_and(|(source, destination)| DNS.contains(&source) || DNS.contains(&destination))
}

/// How many of the captured bytes are kept when payload is not: all headers, DNS,
/// the first `hello_bytes` of the payload, which are a TLS hello, and of an ICMP
/// error the headers that it quotes.
pub(crate) fn kept_bytes(decoded: &Decoded<'_>, captured: usize, hello_bytes: usize) -> usize {
    let headers = decoded.payload_at.max(LEAST);
    let more = match &decoded.transport {
        _ if is_dns(decoded) => decoded.payload.len(),
        Transport::Tcp(_) => hello_bytes,
        Transport::Icmp(icmp) if icmp.is_error() => icmp.quoted_bytes,
        // Neighbour discovery is all header (RFC 4861).
        Transport::Icmp(icmp) if icmp.is_v6 && matches!(icmp.kind, 133..=137) => decoded.payload.len(),
        Transport::None if decoded.ip.is_none() && decoded.ether_type == Some(ARP) => decoded.payload.len(),
        _ => 0,
    };
    (headers + more.min(decoded.payload.len())).min(captured)
}

/// A packet in the [`Ring`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Held {
    /// When, in nanoseconds since 1970.
    pub(crate) time_ns: u64,
    /// Its length on the wire.
    pub(crate) wire_bytes: u32,
    /// How much of it is held.
    pub(crate) bytes: u32,
}

/// The last packets, in a bounded number of bytes.
#[derive(Debug)]
pub(crate) struct Ring {
    most_bytes: usize,
    most_packets: usize,
    held: VecDeque<Held>,
    bytes: VecDeque<u8>,
    /// Packets that had to go.
    pub(crate) overwritten: u64,
}

impl Ring {
    /// A ring of the last `most_packets` packets, in at most `most_bytes`.
    pub(crate) fn new(most_bytes: usize, most_packets: usize) -> Self {
        Self { most_bytes, most_packets, held: VecDeque::new(), bytes: VecDeque::new(), overwritten: 0 }
    }

    /// Puts a packet in, in the place of the oldest ones.
    pub(crate) fn push(&mut self, time_ns: u64, wire_bytes: u32, bytes: &[u8]) {
        let bytes = &bytes[..bytes.len().min(self.most_bytes)];
        while self.held.len() >= self.most_packets.max(1)
            || (self.bytes.len() + bytes.len() > self.most_bytes && !self.held.is_empty())
        {
            let Some(oldest) = self.held.pop_front() else { break };
            self.bytes.drain(..oldest.bytes as usize);
            self.overwritten += 1;
        }
        self.bytes.extend(bytes);
        self.held.push_back(Held { time_ns, wire_bytes, bytes: bytes.len() as u32 });
    }

    /// Hands each packet out, the oldest first.
    pub(crate) fn drain(mut self, mut each: impl FnMut(Held, &[u8])) {
        let mut rest: &[u8] = self.bytes.make_contiguous();
        for held in &self.held {
            let (bytes, after) = rest.split_at(rest.len().min(held.bytes as usize));
            each(*held, bytes);
            rest = after;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ring_holds_the_last_packets_in_its_bytes() {
        let mut ring = Ring::new(10, 100);
        for number in 0..5_u8 {
            ring.push(number.into(), 60, &[number; 4]);
        }
        assert_eq!(ring.overwritten, 3);
        let mut seen = Vec::new();
        ring.drain(|held, bytes| seen.push((held.time_ns, bytes.to_vec())));
        assert_eq!(seen, [(3, vec![3; 4]), (4, vec![4; 4])]);
    }

    #[test]
    fn the_ring_holds_no_more_packets_than_it_may() {
        let mut ring = Ring::new(100, 2);
        for number in 0..5_u8 {
            ring.push(number.into(), 60, &[number]);
        }
        let mut times = Vec::new();
        ring.drain(|held, _| times.push(held.time_ns));
        assert_eq!(times, [3, 4]);
    }
}
