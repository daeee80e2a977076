//! Everything that is noted of the packets as they pass, and the answer made of it.

use std::collections::{BTreeMap, HashMap, VecDeque};

use agent_model::Text;
use agent_system::clock;
use serde::{Serialize, Serializer};

use super::data;
use super::decode::{Decoded, Icmp, Layer, Transport, Tunnel};
use super::flows::{Flow, Flows, MOST_FLOWS, Place, Placed};
use super::names::Names;
use super::{dns, http, keep, tcp, tls};

/// The most HTTP requests, and kinds of ICMP errors, that are told.
const MOST_TOLD: usize = 1000;
/// The most requests of one connection that wait for a response.
const MOST_WAITING: usize = 64;

/// What was noted of one packet, for the line about it.
#[derive(Debug, Clone, Default)]
pub struct Noticed {
    /// Its place.
    pub placed: Option<Placed>,
    /// The DNS message.
    pub dns: Option<Box<dns::Message>>,
    /// The latency of that answer, in nanoseconds.
    pub dns_latency_ns: Option<u64>,
    /// The beginning of an HTTP message.
    pub http: Option<Box<http::Start>>,
}

/// What is noted of all packets.
#[derive(Debug)]
pub struct Watch {
    /// The flows.
    pub flows: Flows,
    names: Names,
    errors: BTreeMap<data::IcmpError, u64>,
    exchanges: Vec<(u64, data::Exchange)>,
    waiting: HashMap<u32, VecDeque<usize>>,
    first_ns: u64,
    last_ns: u64,
    malformed: [u64; 5],
    /// Totals that are counted packet by packet.
    pub totals: data::Summary,
    /// Requests and errors that are not told, since there were too many.
    pub left_out: u64,
}

/// Layers in the order of their counts, and one for DNS.
const LAYERS: [&str; 5] = ["link", "network", "transport", "tunnel", "dns"];

impl Default for Watch {
    fn default() -> Self {
        Self {
            flows: Flows::new(MOST_FLOWS),
            names: Names::default(),
            errors: BTreeMap::new(),
            exchanges: Vec::new(),
            waiting: HashMap::new(),
            first_ns: 0,
            last_ns: 0,
            malformed: [0; 5],
            totals: data::Summary::default(),
            left_out: 0,
        }
    }
}

impl Watch {
    /// Takes a packet.
    pub fn packet(&mut self, decoded: &Decoded<'_>, wire_bytes: u32, now_ns: u64) -> Noticed {
        if self.totals.packets == 0 {
            (self.first_ns, self.last_ns) = (now_ns, now_ns);
        }
        self.last_ns = self.last_ns.max(now_ns);
        let totals = &mut self.totals;
        totals.packets += 1;
        totals.bytes += u64::from(wire_bytes);
        totals.cut += u64::from(decoded.is_cut);
        totals.not_ip += u64::from(decoded.ip.is_none());
        totals.fragments += u64::from(decoded.ip.is_some_and(|ip| ip.fragment.is_some()));
        if let Some(layer) = decoded.malformed {
            self.malformed[match layer {
                Layer::Link => 0,
                Layer::Network => 1,
                Layer::Transport => 2,
                Layer::Tunnel => 3,
            }] += 1;
        }
        let Some(placed) = self.flows.place(decoded, wire_bytes, now_ns) else { return Noticed::default() };
        let mut noticed = Noticed { placed: Some(placed), ..Noticed::default() };
        let marks = placed.marks;
        self.totals.retransmissions += u64::from(marks.retransmission);
        self.totals.out_of_order += u64::from(marks.out_of_order);
        self.totals.duplicate_acks += u64::from(marks.duplicate_ack);
        self.totals.zero_windows += u64::from(marks.zero_window);
        match &decoded.transport {
            Transport::Icmp(icmp) if icmp.is_error() => self.icmp(placed, icmp),
            Transport::Tcp(_) if decoded.payload.is_empty() || marks.retransmission => {}
            Transport::Tcp(_) if keep::is_dns(decoded) => {
                // RFC 1035, section 4.2.2: a length comes first. Of a message in more than
                // one segment the first has the question.
                if let Some(bytes) = decoded.payload.get(2..) {
                    self.dns(decoded, bytes, &mut noticed, now_ns);
                }
            }
            Transport::Udp { .. } if keep::is_dns(decoded) => {
                self.dns(decoded, decoded.payload, &mut noticed, now_ns);
            }
            Transport::Tcp(_) => {
                if placed.is_first {
                    self.waiting.remove(&placed.flow);
                }
                noticed.http = http::start(decoded.payload).map(Box::new);
                if let Some(start) = &noticed.http {
                    self.http(placed, start, now_ns);
                }
            }
            _ => {}
        }
        noticed
    }

    fn dns(&mut self, decoded: &Decoded<'_>, bytes: &[u8], noticed: &mut Noticed, now_ns: u64) {
        let Some((ip, ports)) = decoded.ip.zip(decoded.ports()) else { return };
        let Some(message) = dns::message(bytes) else {
            // What the snapshot has cut off, or a fragment, is not malformed.
            let is_whole = decoded.payload.len() == decoded.payload_wire_bytes as usize && ip.fragment.is_none();
            self.malformed[4] += u64::from(is_whole && matches!(decoded.transport, Transport::Udp { .. }));
            return;
        };
        let (source, destination) = ((ip.source, ports.0), (ip.destination, ports.1));
        noticed.dns_latency_ns = self.names.message(message.clone(), source, destination, now_ns);
        noticed.dns = Some(Box::new(message));
    }

    fn http(&mut self, placed: Placed, start: &http::Start, now_ns: u64) {
        let Some(flow) = self.flows.get(placed.flow) else { return };
        match start {
            http::Start::Request { method, target, fields } => {
                if self.exchanges.len() >= MOST_TOLD {
                    self.left_out += 1;
                    return;
                }
                let ends = flow.ends();
                let (client, server) = (ends[placed.from], ends[1 - placed.from]);
                let waiting = self.waiting.entry(placed.flow).or_default();
                if waiting.len() < MOST_WAITING {
                    waiting.push_back(self.exchanges.len());
                }
                let exchange = data::Exchange {
                    first_us: now_ns.saturating_sub(self.first_ns) / 1000,
                    client_address: client.0.to_string(),
                    client_port: client.1,
                    server_address: server.0.to_string(),
                    server_port: server.1,
                    method,
                    target: Text::from_bytes(target),
                    fields: fields.iter().map(|name| Text::from_bytes(name)).collect(),
                    status: None,
                    first_byte_us: None,
                };
                self.exchanges.push((now_ns, exchange));
            }
            // 100 and the like announce the response.
            http::Start::Response(100..200) => {}
            http::Start::Response(status) => {
                let first = self.waiting.get_mut(&placed.flow).and_then(VecDeque::pop_front);
                if let Some((since, exchange)) = first.and_then(|at| self.exchanges.get_mut(at)) {
                    exchange.status = Some(*status);
                    exchange.first_byte_us = Some(now_ns.saturating_sub(*since) / 1000);
                }
            }
        }
    }

    fn icmp(&mut self, placed: Placed, icmp: &Icmp) {
        let Some(flow) = self.flows.get(placed.flow) else { return };
        let (key, reporter) = (flow.key, flow.ends()[placed.from].0);
        if let Some(about) = icmp.about {
            let ports = about.ports.unwrap_or((0, 0));
            let (source, destination) = ((about.source, ports.0), (about.destination, ports.1));
            let known = self.flows.about(&key, about.protocol, source, destination);
            if let Some(flow) = known.and_then(|known| self.flows.get_mut(known)) {
                flow.icmp_errors += 1;
                if let Some(mtu) = icmp.mtu_bytes {
                    flow.mtu_bytes = Some(flow.mtu_bytes.map_or(mtu, |least| least.min(mtu)));
                }
            }
        }
        let error = data::IcmpError {
            error: icmp_error(icmp),
            kind: icmp.kind,
            code: icmp.code,
            reporter_address: reporter.to_string(),
            source_address: icmp.about.map(|about| about.source.to_string()),
            source_port: icmp.about.and_then(|about| about.ports).map(|ports| ports.0),
            destination_address: icmp.about.map(|about| about.destination.to_string()),
            destination_port: icmp.about.and_then(|about| about.ports).map(|ports| ports.1),
            protocol: icmp.about.map(|about| protocol(about.protocol)),
            mtu_bytes: icmp.mtu_bytes,
            count: 0,
        };
        if self.errors.len() < MOST_TOLD || self.errors.contains_key(&error) {
            *self.errors.entry(error).or_default() += 1;
        } else {
            self.left_out += 1;
        }
    }

    /// The answer.
    pub fn finish(self) -> data::Packets {
        let first_ns = self.first_ns;
        let mut summary = self.totals;
        summary.flows_evicted = self.flows.evicted;
        summary.first_time = (summary.packets > 0).then(|| clock::rfc3339(first_ns / 1000));
        summary.duration_us = self.last_ns.saturating_sub(first_ns) / 1000;
        summary.malformed = LAYERS.into_iter().zip(self.malformed).filter(|(_, count)| *count > 0).collect();
        let rows = self.flows.into_sorted(first_ns);
        summary.flows = rows.len() as u64;
        for flow in &rows {
            let state = flow.tcp.as_ref().map(|connection| connection.state());
            summary.resets += u64::from(matches!(state, Some("reset" | "refused")));
            summary.syn_unanswered += u64::from(state == Some("syn_unanswered"));
            summary.without_owner += u64::from(flow.owners.iter().all(Option::is_none));
        }
        let icmp_errors = self.errors.into_iter().map(|(error, count)| data::IcmpError { count, ..error }).collect();
        data::Packets {
            rows: Some(rows),
            icmp_errors: Some(icmp_errors),
            dns: Some(self.names.finish()),
            http: Some(self.exchanges.into_iter().map(|(_, exchange)| exchange).collect()),
            summary: Some(summary),
            ..data::Packets::default()
        }
    }

    /// What is not told, since there was too much of it.
    pub fn left_out(&self) -> u64 {
        self.left_out + self.names.left_out
    }
}

/// Times as they are told; `None` of none.
pub(super) fn times(times: &tcp::Times) -> Option<data::Times> {
    times.mean().map(|mean| data::Times {
        samples: times.count,
        min_us: times.min / 1000,
        mean_us: mean / 1000,
        max_us: times.max / 1000,
    })
}

const SIDES: [&str; 2] = ["client", "server"];

/// A flow as it is shown: made when it is, since that takes several times the room.
impl Serialize for Flow {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        row(self).serialize(serializer)
    }
}

fn row(flow: &Flow) -> data::Flow {
    let [client, server]: [Place; 2] = flow.ends();
    let [sent, received] = flow.directions;
    let connection = flow.tcp.as_deref();
    let is_stuck = connection.is_some_and(|connection| connection.ends.iter().any(|end| end.is_stuck));
    let (tunnel, tunnel_id) = match flow.key.tunnel.map(|(tunnel, _)| tunnel) {
        Some(Tunnel::Ip) => (Some("ip"), None),
        Some(Tunnel::Gre(key)) => (Some("gre"), key),
        Some(Tunnel::Vxlan(id)) => (Some("vxlan"), Some(id)),
        Some(Tunnel::Geneve(id)) => (Some("geneve"), Some(id)),
        None => (None, None),
    };
    let owner = |side: usize| flow.owners[side].as_deref().cloned();
    data::Flow {
        protocol: protocol(flow.key.protocol),
        ip_protocol: flow.key.protocol,
        client_address: client.0.to_string(),
        client_port: client.1,
        server_address: server.0.to_string(),
        server_port: server.1,
        interface_index: flow.key.interface,
        vlan: flow.key.vlan,
        tunnel,
        tunnel_id,
        first_us: flow.first_ns / 1000,
        duration_us: flow.last_ns.saturating_sub(flow.first_ns) / 1000,
        client_packets: sent.packets,
        client_bytes: sent.bytes,
        client_payload_bytes: sent.payload_bytes,
        server_packets: received.packets,
        server_bytes: received.bytes,
        server_payload_bytes: received.payload_bytes,
        fragments: sent.fragments + received.fragments,
        state: connection.map(tcp::Connection::state),
        handshake_us: connection.and_then(|connection| connection.handshake.whole_ns).map(|ns| ns / 1000),
        retransmissions: connection.map(|connection| connection.ends.iter().map(|end| end.retransmissions).sum()),
        tcp: connection.map(|connection| data::Tcp {
            syn_ack_us: connection.handshake.answer_ns.map(|ns| ns / 1000),
            reset_by: connection.reset_by.map(|side| SIDES[side]),
            client: end(&connection.ends[0]),
            server: end(&connection.ends[1]),
        }),
        tls: flow.tls.as_deref().and_then(tls_of),
        mtu: (flow.mtu_bytes.is_some() || is_stuck)
            .then_some(data::Mtu { reported_bytes: flow.mtu_bytes, suspected: is_stuck }),
        icmp_errors: flow.icmp_errors,
        client_owner: owner(0),
        server_owner: owner(1),
    }
}

fn end(end: &tcp::End) -> data::End {
    data::End {
        syns: end.syns,
        retransmissions: end.retransmissions,
        out_of_order: end.out_of_order,
        duplicate_acks: end.duplicate_acks,
        zero_windows: end.zero_windows,
        not_captured: end.gaps,
        mss_bytes: end.mss,
        rtt: times(&end.rtt),
    }
}

fn tls_of(seen: &super::flows::Tls) -> Option<data::Tls> {
    let text = |bytes: Option<&Vec<u8>>| bytes.map(|bytes| Text::from_bytes(bytes));
    let (client, server) = (seen.client.as_ref(), seen.server.as_ref());
    // What began like a hello and was none.
    if client.is_none() && server.is_none() && seen.alerts.is_empty() {
        return None;
    }
    Some(data::Tls {
        server_name: text(client.and_then(|hello| hello.server_name.as_ref())),
        offered_version: client.map(|hello| tls::version_name(hello.version)),
        version: server.map(|hello| tls::version_name(hello.version)),
        offered_alpn: text(client.and_then(|hello| hello.alpn.as_ref())),
        alpn: text(server.and_then(|hello| hello.alpn.as_ref())),
        alerts: seen
            .alerts
            .iter()
            .map(|(from, alert)| data::Alert {
                from: SIDES[*from],
                level: if alert.level == 2 { "fatal" } else { "warning" },
                description: tls::alert_name(alert.description),
                number: alert.description,
            })
            .collect(),
    })
}

/// The name of an IP protocol.
pub fn protocol(number: u8) -> &'static str {
    match number {
        1 => "icmp",
        2 => "igmp",
        4 | 41 => "ip",
        6 => "tcp",
        17 => "udp",
        47 => "gre",
        50 => "esp",
        51 => "ah",
        58 => "icmpv6",
        89 => "ospf",
        132 => "sctp",
        136 => "udplite",
        _ => "other",
    }
}

/// The name of an ICMP error (IANA, "ICMP Type Numbers", "ICMPv6 Parameters").
pub fn icmp_error(icmp: &Icmp) -> &'static str {
    match (icmp.is_v6, icmp.kind, icmp.code) {
        (false, 3, 0) | (true, 1, 0) => "network_unreachable",
        (false, 3, 1) | (true, 1, 3) => "host_unreachable",
        (false, 3, 2) => "protocol_unreachable",
        (false, 3, 3) | (true, 1, 4) => "port_unreachable",
        (false, 3, 4) => "fragmentation_needed",
        (false, 3, 9 | 10 | 13) | (true, 1, 1 | 5 | 6) => "administratively_prohibited",
        (false, 3, _) | (true, 1, _) => "destination_unreachable",
        (false, 4, _) => "source_quench",
        (false, 5, _) => "redirect",
        (true, 2, _) => "packet_too_big",
        (false, 11, 0) | (true, 3, 0) => "hop_limit_exceeded",
        (false, 11, _) | (true, 3, _) => "reassembly_time_exceeded",
        (false, 12, _) | (true, 4, _) => "parameter_problem",
        _ => "other",
    }
}

#[cfg(test)]
mod tests {
    use super::super::decode::decode;
    use super::super::decode::tests::{Random, corpus};
    use super::super::tls::tests::client_hello;
    use super::*;

    /// IPv4 and TCP from 10.0.0.1:40000 to 10.0.0.2:443, or back.
    fn segment(back: bool, flags: u8, sequence: u32, acknowledgment: u32, payload: &[u8]) -> Vec<u8> {
        let mut packet = vec![0; 40];
        packet[0] = 0x45;
        packet[2..4].copy_from_slice(&(40 + payload.len() as u16).to_be_bytes());
        packet[9] = 6;
        packet[12..16].copy_from_slice(&[10, 0, 0, 1 + u8::from(back)]);
        packet[16..20].copy_from_slice(&[10, 0, 0, 2 - u8::from(back)]);
        let ports: [u16; 2] = if back { [443, 40000] } else { [40000, 443] };
        packet[20..22].copy_from_slice(&ports[0].to_be_bytes());
        packet[22..24].copy_from_slice(&ports[1].to_be_bytes());
        packet[24..28].copy_from_slice(&sequence.to_be_bytes());
        packet[28..32].copy_from_slice(&acknowledgment.to_be_bytes());
        packet[32] = 0x50;
        packet[33] = flags;
        packet[34] = 0xff;
        [packet, payload.to_vec()].concat()
    }

    fn take(watch: &mut Watch, packet: &[u8], now_ns: u64) -> Noticed {
        watch.packet(&decode(101, packet, packet.len() as u32), packet.len() as u32, now_ns)
    }

    #[test]
    fn a_hello_in_two_segments_is_put_together_and_kept() {
        let hello = client_hello(b"db.example", 16_000);
        let (first, second) = hello.split_at(40);
        let mut watch = Watch::default();
        take(&mut watch, &segment(false, 2, 99, 0, b""), 0);
        let a = take(&mut watch, &segment(false, 0x18, 100, 1, first), 1000);
        let b = take(&mut watch, &segment(false, 0x18, 140, 1, &[second, b"early"].concat()), 2000);
        let kept = |noticed: Noticed| noticed.placed.map(|placed| placed.hello_bytes);
        assert_eq!((kept(a), kept(b)), (Some(40), Some(second.len())));
        let alert = segment(true, 0x18, 1, 500, b"\x15\x03\x03\x00\x02\x02\x28");
        take(&mut watch, &alert, 3000);
        let data = watch.finish();
        let tls = row(&data.rows.expect("rows")[0]).tls.expect("TLS");
        assert_eq!(tls.server_name.as_ref().map(|name| name.as_str()), Some("db.example"));
        assert_eq!((tls.alerts[0].from, tls.alerts[0].description), ("server", "handshake_failure"));
    }

    #[test]
    fn requests_meet_their_responses() {
        let mut watch = Watch::default();
        take(&mut watch, &segment(false, 2, 99, 0, b""), 0);
        take(&mut watch, &segment(false, 0x18, 100, 1, b"GET /a?x=1 HTTP/1.1\r\nHost: h\r\n\r\n"), 1_000_000);
        take(&mut watch, &segment(true, 0x18, 1, 133, b"HTTP/1.1 100 Continue\r\n\r\n"), 2_000_000);
        take(&mut watch, &segment(true, 0x18, 26, 133, b"HTTP/1.1 503 No\r\n\r\n"), 5_000_000);
        let data = watch.finish();
        let exchange = &data.http.expect("HTTP")[0];
        assert_eq!((exchange.method, exchange.target.as_str()), ("GET", "/a?x=*"));
        assert_eq!((exchange.status, exchange.first_byte_us), (Some(503), Some(4000)));
    }

    #[test]
    fn a_port_that_is_used_again_is_another_flow() {
        let mut watch = Watch::default();
        for (start, time) in [(0, 0), (5000, 10)] {
            take(&mut watch, &segment(false, 2, start, 0, b""), time);
            take(&mut watch, &segment(true, 0x12, 70, start + 1, b""), time + 1);
            take(&mut watch, &segment(false, 0x10, start + 1, 71, b""), time + 2);
            take(&mut watch, &segment(true, 0x14, 71, start + 1, b""), time + 3);
        }
        let rows: Vec<_> = watch.finish().rows.expect("rows").iter().map(row).collect();
        assert_eq!(rows.len(), 2);
        assert!(
            rows.iter().all(|row| row.state == Some("reset") && row.client_port == 40000 && row.client_packets == 2)
        );
        assert_eq!(rows[0].tcp.as_ref().and_then(|tcp| tcp.reset_by), Some("server"));
    }

    #[test]
    fn the_table_of_flows_lets_go_of_the_least_recently_seen() {
        let mut flows = Flows::new(2);
        let packet = |port: u16| {
            let mut packet = segment(false, 0x10, 1, 1, b"");
            packet[20..22].copy_from_slice(&port.to_be_bytes());
            packet
        };
        for (time, port) in [40001, 40002, 40001, 40003].into_iter().enumerate() {
            let packet = packet(port);
            flows.place(&decode(101, &packet, 40), 40, time as u64);
        }
        let ports: Vec<u16> = flows.into_sorted(0).iter().map(|flow| flow.ends()[0].1).collect();
        assert_eq!(ports, [40001, 40003]);
    }

    #[test]
    fn whatever_comes_is_counted_and_nothing_panics() {
        let mut random = Random(42);
        let mut watch = Watch { flows: Flows::new(64), ..Watch::default() };
        let corpus = corpus();
        for time in 0..100_000 {
            let (link_type, packet) = &corpus[random.below(corpus.len())];
            let mut packet = packet.clone();
            for _ in 0..random.below(4) {
                let at = random.below(packet.len());
                packet[at] = random.next() as u8;
            }
            let decoded = decode(*link_type, &packet, packet.len() as u32);
            let noticed = watch.packet(&decoded, packet.len() as u32, time * random.below(3000) as u64);
            let hello_bytes = noticed.placed.map_or(0, |placed| placed.hello_bytes);
            assert!(hello_bytes <= decoded.payload.len());
            assert!(keep::kept_bytes(&decoded, packet.len(), hello_bytes) <= packet.len());
        }
        assert!(watch.flows.evicted > 0);
        let data = watch.finish();
        assert_eq!(data.summary.map(|summary| summary.packets), Some(100_000));
        assert_eq!(data.rows.map(|rows| rows.len()), Some(64));
    }
}
