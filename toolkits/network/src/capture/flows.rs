//! The flows of a capture: who talks with whom, in a table of bounded size.

use std::collections::HashMap;
use std::hash::{Hash, Hasher};
use std::net::IpAddr;
use std::sync::Arc;

use super::data::Owner;
use super::decode::{Decoded, Fragment, Ip, Transport, Tunnel, flags};
use super::tcp::{Connection, Marks};
use super::tls;

/// The most flows that are kept; beyond them the least recently seen goes.
pub const MOST_FLOWS: usize = 100_000;
/// The most first fragments whose ports are remembered for their siblings.
const MOST_FRAGMENTS: usize = 256;
/// The most TLS alerts of a flow that are told.
const MOST_ALERTS: usize = 8;

/// The most bytes of hellos that are not whole yet, over all flows.
const MOST_PARTIAL_BYTES: usize = 1 << 20;

const NONE: u32 = u32::MAX;

/// One end of a flow.
pub type Place = (IpAddr, u16);

/// What makes packets one flow: both directions have the same key.
#[derive(Debug, Clone, Copy, Eq, PartialOrd, Ord)]
pub struct Key {
    /// The interface, where packets of all are captured: one that passes two is not
    /// one that is sent twice.
    pub interface: Option<u32>,
    /// The innermost tunnel, and how many there are.
    pub tunnel: Option<(Tunnel, usize)>,
    /// The VLAN.
    pub vlan: Option<u16>,
    /// The IP protocol.
    pub protocol: u8,
    /// The lower of its ends, and the higher.
    pub ends: [Place; 2],
}

/// An address as a number.
fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => address.to_bits().into(),
        IpAddr::V6(address) => address.to_bits(),
    }
}

impl Key {
    /// Its ends and its protocol in three numbers, which are compared and hashed for every packet.
    fn packed(&self) -> (u128, u128, u64) {
        let [(low, low_port), (high, high_port)] = self.ends;
        let ports = u64::from(low_port) | u64::from(high_port) << 16;
        let families = u64::from(low.is_ipv6()) << 32 | u64::from(high.is_ipv6()) << 33;
        (bits(low), bits(high), ports | families | u64::from(self.protocol) << 40)
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        // The ports, in the last of them, differ most often.
        let (own, others) = (self.packed(), other.packed());
        own.2 == others.2
            && own.0 == others.0
            && own.1 == others.1
            && (self.interface, self.vlan, self.tunnel) == (other.interface, other.vlan, other.tunnel)
    }
}

/// What is rarely different is left out.
impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let (low, high, rest) = self.packed();
        state.write_u128(low);
        state.write_u128(high);
        let place = u64::from(self.interface.unwrap_or(0)) << 48 ^ u64::from(self.vlan.unwrap_or(0)) << 52;
        state.write_u64(rest ^ place);
    }
}

/// One direction of a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Direction {
    /// Packets.
    pub packets: u64,
    /// Bytes on the wire, with all headers.
    pub bytes: u64,
    /// Bytes of payload.
    pub payload_bytes: u64,
    /// Fragments among the packets.
    pub fragments: u64,
}

/// What was seen of TLS.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Tls {
    /// The client's hello.
    pub client: Option<tls::Hello>,
    /// The server's.
    pub server: Option<tls::Hello>,
    /// Alerts in the clear, with who sent them (0 the client).
    pub alerts: Vec<(usize, tls::Alert)>,
    /// The beginning of a hello, and the sequence number after it.
    partial: [Option<(Vec<u8>, u32)>; 2],
}

/// A flow.
#[derive(Debug, Clone)]
pub struct Flow {
    /// What makes it one.
    pub key: Key,
    /// Which of the ends is the client: the one that asked first.
    pub client: usize,
    /// From the client, and from the server.
    pub directions: [Direction; 2],
    /// When its first packet passed, in nanoseconds since 1970.
    pub first_ns: u64,
    /// When the last did.
    pub last_ns: u64,
    /// The connection, if it is TCP.
    pub tcp: Option<Box<Connection>>,
    /// TLS, if it began with a hello.
    pub tls: Option<Box<Tls>>,
    /// The least MTU that an ICMP error gave for it, in bytes.
    pub mtu_bytes: Option<u32>,
    /// ICMP errors about it.
    pub icmp_errors: u64,
    /// The processes that own its sockets: the client's, and the server's.
    pub owners: [Option<Arc<Owner>>; 2],
    newer: u32,
    older: u32,
}

impl Flow {
    /// The client's end, and the server's.
    pub fn ends(&self) -> [Place; 2] {
        [self.key.ends[self.client], self.key.ends[1 - self.client]]
    }
}

/// A packet, placed in its flow.
#[derive(Debug, Clone, Copy)]
pub struct Placed {
    /// The flow, as [`Flows::get`] takes it.
    pub flow: u32,
    /// 0 from the client, 1 from the server.
    pub from: usize,
    /// What its TCP segment was.
    pub marks: Marks,
    /// How much of its payload is a TLS hello, in bytes.
    pub hello_bytes: usize,
    /// Whether it is the first of its flow.
    pub is_first: bool,
}

/// All flows.
#[derive(Debug)]
pub struct Flows {
    flows: Vec<Flow>,
    /// Hashed with a seed of this run, and for each packet: cheaply.
    index: HashMap<Key, u32, foldhash::fast::RandomState>,
    newest: u32,
    oldest: u32,
    most: usize,
    /// Flows that had to go.
    pub evicted: u64,
    fragments: HashMap<(IpAddr, IpAddr, u8, u32), (u16, u16)>,
    fragment_order: std::collections::VecDeque<(IpAddr, IpAddr, u8, u32)>,
    partial_bytes: usize,
}

impl Flows {
    /// A table of at most `most` flows.
    pub fn new(most: usize) -> Self {
        Self {
            flows: Vec::new(),
            index: HashMap::default(),
            newest: NONE,
            oldest: NONE,
            most: most.max(1),
            evicted: 0,
            fragments: HashMap::new(),
            fragment_order: std::collections::VecDeque::new(),
            partial_bytes: 0,
        }
    }

    /// A flow by its number.
    pub fn get(&self, flow: u32) -> Option<&Flow> {
        self.flows.get(flow as usize)
    }

    /// As [`Flows::get`].
    pub fn get_mut(&mut self, flow: u32) -> Option<&mut Flow> {
        self.flows.get_mut(flow as usize)
    }

    /// All flows: by when they began, then by their key; their times from `origin_ns` on.
    pub fn into_sorted(self, origin_ns: u64) -> Vec<Flow> {
        let mut flows = self.flows;
        for flow in &mut flows {
            flow.first_ns = flow.first_ns.saturating_sub(origin_ns);
            flow.last_ns = flow.last_ns.saturating_sub(origin_ns);
        }
        flows.sort_unstable_by(|a, b| (a.first_ns, &a.key).cmp(&(b.first_ns, &b.key)));
        flows
    }

    /// Those that are kept now, in no order.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Flow> {
        self.flows.iter_mut()
    }

    /// The flow between two places that an ICMP error is about; it is in a packet of
    /// the same interface, tunnel and VLAN.
    pub fn about(&self, like: &Key, protocol: u8, a: Place, b: Place) -> Option<u32> {
        let key = Key { protocol, ends: if a <= b { [a, b] } else { [b, a] }, ..*like };
        self.index.get(&key).copied()
    }

    /// Puts a packet into its flow. `None` when it is not IP.
    pub fn place(&mut self, decoded: &Decoded<'_>, wire_bytes: u32, now_ns: u64) -> Option<Placed> {
        let ip = decoded.ip.as_ref()?;
        if let (Some(ports), Some(fragment)) = (decoded.ports(), ip.fragment) {
            self.remember(ip, fragment, ports);
        }
        let (key, sender) = self.key(decoded)?;
        let tcp = match &decoded.transport {
            Transport::Tcp(tcp) => Some(tcp),
            _ => None,
        };
        // Packets of one flow come one after the other.
        let newest = self.flows.get(self.newest as usize).filter(|flow| flow.key == key).map(|_| self.newest);
        let known = newest.or_else(|| self.index.get(&key).copied()).filter(|&number| {
            let flow = &self.flows[number as usize];
            let from = usize::from(sender != flow.client);
            !flow.tcp.as_ref().zip(tcp).is_some_and(|(connection, tcp)| connection.is_another(from, tcp))
        });
        let is_new = known.is_none();
        let number = match known {
            Some(number) if number == self.newest => number,
            Some(number) => {
                self.unlink(number);
                self.link(number);
                number
            }
            None => {
                let number = self.begin(key, client_of(decoded, sender, &key), now_ns);
                self.link(number);
                number
            }
        };
        let flow = &mut self.flows[number as usize];
        flow.last_ns = flow.last_ns.max(now_ns);
        let from = usize::from(sender != flow.client);
        let direction = &mut flow.directions[from];
        direction.packets += 1;
        direction.bytes += u64::from(wire_bytes);
        direction.payload_bytes += u64::from(decoded.payload_wire_bytes);
        direction.fragments += u64::from(ip.fragment.is_some());
        let (mut marks, mut hello_bytes) = (Marks::default(), 0);
        // A fragment's length is not that of its segment: it would be judged wrongly.
        if let Some(tcp) = tcp
            && ip.fragment.is_none()
        {
            let connection = flow.tcp.get_or_insert_default();
            marks = connection.segment(from, tcp, decoded.payload_wire_bytes, now_ns);
            hello_bytes = watch_tls(&mut flow.tls, &mut self.partial_bytes, from, tcp.sequence, decoded);
        }
        Some(Placed { flow: number, from, marks, hello_bytes, is_first: is_new })
    }

    /// The flow of a packet that was placed before.
    pub fn find(&self, decoded: &Decoded<'_>) -> Option<Placed> {
        let (key, sender) = self.key(decoded)?;
        let flow = *self.index.get(&key)?;
        let from = usize::from(sender != self.get(flow)?.client);
        Some(Placed { flow, from, marks: Marks::default(), hello_bytes: 0, is_first: false })
    }

    /// The key of a packet, and which of its ends has sent it.
    fn key(&self, decoded: &Decoded<'_>) -> Option<(Key, usize)> {
        let ip = decoded.ip.as_ref()?;
        let ports = match (decoded.ports(), ip.fragment) {
            (Some(ports), _) => ports,
            (None, Some(fragment)) => self.of_siblings(ip, fragment),
            (None, None) => (0, 0),
        };
        let (source, destination) = ((ip.source, ports.0), (ip.destination, ports.1));
        // Both are of one family.
        let is_first = (bits(source.0), source.1) <= (bits(destination.0), destination.1);
        let key = Key {
            interface: decoded.interface,
            tunnel: decoded.innermost_tunnel(),
            vlan: decoded.vlan,
            protocol: ip.protocol,
            ends: if is_first { [source, destination] } else { [destination, source] },
        };
        Some((key, usize::from(!is_first)))
    }

    fn begin(&mut self, key: Key, client: usize, now_ns: u64) -> u32 {
        let flow = Flow {
            key,
            client,
            directions: [Direction::default(); 2],
            first_ns: now_ns,
            last_ns: now_ns,
            tcp: None,
            tls: None,
            mtu_bytes: None,
            icmp_errors: 0,
            owners: [None, None],
            newer: NONE,
            older: NONE,
        };
        let number = if self.flows.len() < self.most {
            self.flows.push(flow);
            (self.flows.len() - 1) as u32
        } else {
            let number = self.oldest;
            self.unlink(number);
            let old = std::mem::replace(&mut self.flows[number as usize], flow);
            // An earlier connection of the same ports is no longer in the index.
            if self.index.get(&old.key) == Some(&number) {
                self.index.remove(&old.key);
            }
            let partial = old.tls.iter().flat_map(|tls| tls.partial.iter().flatten());
            self.partial_bytes = self.partial_bytes.saturating_sub(partial.map(|(bytes, _)| bytes.len()).sum());
            self.evicted += 1;
            number
        };
        self.index.insert(key, number);
        number
    }

    fn unlink(&mut self, number: u32) {
        let (newer, older) = {
            let flow = &self.flows[number as usize];
            (flow.newer, flow.older)
        };
        match self.flows.get_mut(newer as usize) {
            Some(flow) => flow.older = older,
            None => self.newest = older,
        }
        match self.flows.get_mut(older as usize) {
            Some(flow) => flow.newer = newer,
            None => self.oldest = newer,
        }
    }

    fn link(&mut self, number: u32) {
        let older = std::mem::replace(&mut self.newest, number);
        if let Some(flow) = self.flows.get_mut(older as usize) {
            flow.newer = number;
        } else {
            self.oldest = number;
        }
        let flow = &mut self.flows[number as usize];
        (flow.newer, flow.older) = (NONE, older);
    }

    fn remember(&mut self, ip: &Ip, fragment: Fragment, ports: (u16, u16)) {
        let of = (ip.source, ip.destination, ip.protocol, fragment.id);
        if self.fragments.insert(of, ports).is_none() {
            self.fragment_order.push_back(of);
        }
        while self.fragment_order.len() > MOST_FRAGMENTS {
            if let Some(oldest) = self.fragment_order.pop_front() {
                self.fragments.remove(&oldest);
            }
        }
    }

    /// The ports of a later fragment, which has none itself.
    fn of_siblings(&self, ip: &Ip, fragment: Fragment) -> (u16, u16) {
        let of = (ip.source, ip.destination, ip.protocol, fragment.id);
        self.fragments.get(&of).copied().unwrap_or((0, 0))
    }
}

/// Which end asked first: of TCP who sent the SYN; else who has the higher port of
/// the two where one is a service's, and who sent first.
fn client_of(decoded: &Decoded<'_>, sender: usize, key: &Key) -> usize {
    if let Transport::Tcp(tcp) = &decoded.transport
        && tcp.has(flags::SYN)
    {
        return if tcp.has(flags::ACK) { 1 - sender } else { sender };
    }
    let [first, second] = [key.ends[0].1, key.ends[1].1];
    // Linux takes its own ports from 32768 on (ip_local_port_range).
    let is_service = |port: u16| port < 32768;
    match (is_service(first), is_service(second)) {
        (true, false) => 1,
        (false, true) => 0,
        _ if first.min(second) < 1024 && first.max(second) >= 1024 => usize::from(second > first),
        _ => sender,
    }
}

/// Puts hellos together and notes alerts. Returns how much of the payload is a
/// hello, in bytes.
fn watch_tls(
    seen: &mut Option<Box<Tls>>,
    partial_bytes: &mut usize,
    from: usize,
    sequence: u32,
    decoded: &Decoded<'_>,
) -> usize {
    let payload = decoded.payload;
    if payload.is_empty() || (seen.is_none() && !tls::may_be_hello(payload)) {
        return 0;
    }
    let known = seen.get_or_insert_default();
    if let Some(alert) = tls::alert(payload)
        && known.alerts.len() < MOST_ALERTS
    {
        known.alerts.push((from, alert));
    }
    let is_done = if from == 0 { known.client.is_some() } else { known.server.is_some() };
    if is_done {
        return 0;
    }
    let bytes = match known.partial[from].take() {
        // The beginning was seen, and this is the next segment.
        Some((mut kept, expected)) if expected == sequence => {
            *partial_bytes = partial_bytes.saturating_sub(kept.len());
            kept.extend_from_slice(payload);
            kept
        }
        Some(kept) => {
            known.partial[from] = Some(kept);
            return 0;
        }
        None if tls::may_be_hello(payload) => payload.to_vec(),
        None => return 0,
    };
    let before = bytes.len() - payload.len();
    let length = tls::hello_bytes(&bytes);
    match tls::hello(&bytes) {
        tls::Progress::Hello(hello) if hello.is_server => known.server = Some(hello),
        tls::Progress::Hello(hello) => known.client = Some(hello),
        tls::Progress::Partial => {
            // What the snapshot has cut off does not come any more.
            let is_whole = payload.len() == decoded.payload_wire_bytes as usize;
            if is_whole && bytes.len() < tls::LARGEST_HELLO && *partial_bytes < MOST_PARTIAL_BYTES {
                *partial_bytes += bytes.len();
                known.partial[from] = Some((bytes, sequence.wrapping_add(decoded.payload_wire_bytes)));
            }
        }
        tls::Progress::Other => return 0,
    }
    length.saturating_sub(before)
}
