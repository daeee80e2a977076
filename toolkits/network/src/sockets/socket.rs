//! One socket, as it is kept.
//!
//! There may be tens of thousands. What is kept is small (a quarter of a KiB for a
//! TCP connection), and becomes a [`Row`] only while it is written.

use std::net::{Ipv4Addr, Ipv6Addr};

use agent_model::{Hex, Text, Wide};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Serialize, Serializer};

use super::follow::Followed;
use super::owners::Owners;
use super::row::{Address, Device, Memory, Row, Timer};
use super::tcp::{Name, Tcp};
use super::words::{self, Family, Protocol, State};

/// How much of a socket is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Depth {
    /// All that is known, and not just what tells at a glance how it is doing.
    pub(crate) whole: bool,
    /// What ticks as well.
    pub(crate) volatile: bool,
}

/// A number, or that there is none, in the room of a number: no queue holds 4 GiB,
/// and no user has the ID 2^32-1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Known(u32);

impl Known {
    pub(crate) const NONE: Self = Self(u32::MAX);

    fn get(self) -> Option<u32> {
        (self != Self::NONE).then_some(self.0)
    }
}

impl From<Option<u32>> for Known {
    fn from(number: Option<u32>) -> Self {
        number.map_or(Self::NONE, Self)
    }
}

/// What only some families have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Detail {
    None,
    Tcp(Box<Inside<BRIEF>>),
    TcpWhole(Box<Inside<WHOLE>>),
    /// From a table of proc(5): congestion window and slow start threshold.
    TcpTable(u32, u32),
    Unix(Box<UnixDetail>),
    Packet {
        protocol: u16,
        running: bool,
    },
    Netlink {
        protocol: u16,
        port: u32,
        groups: u32,
    },
    Other(Option<Box<Name>>),
}

impl Detail {
    /// `info` is a `struct tcp_info`.
    pub(crate) fn tcp(info: &[u8], congestion_control: Option<Name>, ulp: Option<Name>, depth: Depth) -> Self {
        if depth.whole || depth.volatile {
            Self::TcpWhole(Box::new(Inside::new(info, &[(0, WHOLE)], congestion_control, ulp)))
        } else {
            Self::Tcp(Box::new(Inside::new(info, &PARTS, congestion_control, ulp)))
        }
    }
}

/// As much of `struct tcp_info` as is known here, in bytes.
const WHOLE: usize = 280;

/// The parts of it that [`Tcp::brief`] looks at: where they start, and how long
/// they are.
const PARTS: [(usize, usize); 10] =
    [(0, 4), (8, 4), (16, 4), (24, 4), (32, 8), (68, 16), (100, 4), (120, 16), (144, 4), (160, 8)];

/// How long they are together.
const BRIEF: usize = 72;

/// A TCP connection from inside: parts of a `struct tcp_info`, and names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Inside<const N: usize> {
    /// Names that are not in [`ALGORITHMS`]: congestion control, upper layer.
    names: Option<Box<(Option<Name>, Option<Name>)>>,
    bytes: [u8; N],
    /// How long the kernel's structure is.
    length: u16,
    /// Index in [`ALGORITHMS`].
    algorithm: u8,
}

/// The algorithms of congestion control that Linux has, so that their names need not
/// be kept for each connection.
const ALGORITHMS: [&[u8]; 17] = [
    b"cubic",
    b"reno",
    b"bbr",
    b"dctcp",
    b"bic",
    b"cdg",
    b"highspeed",
    b"htcp",
    b"hybla",
    b"illinois",
    b"lp",
    b"nv",
    b"scalable",
    b"vegas",
    b"veno",
    b"westwood",
    b"yeah",
];

impl<const N: usize> Inside<N> {
    fn new(info: &[u8], parts: &[(usize, usize)], congestion_control: Option<Name>, ulp: Option<Name>) -> Self {
        let mut bytes = [0; N];
        let mut to = 0;
        for (from, length) in parts {
            // An older kernel has less.
            let part = info.get(*from..info.len().min(from + length)).unwrap_or_default();
            bytes[to..to + part.len()].copy_from_slice(part);
            to += length;
        }
        let known = congestion_control.and_then(|name| ALGORITHMS.iter().position(|known| *known == name.bytes()));
        let names = if known.is_some() && ulp.is_none() { None } else { Some(Box::new((congestion_control, ulp))) };
        let length = info.len().min(WHOLE) as u16;
        Self { names, bytes, length, algorithm: known.map_or(u8::MAX, |index| index as u8) }
    }

    fn tcp(&self, parts: &[(usize, usize)], depth: Depth) -> Tcp {
        let mut bytes = [0; WHOLE];
        let mut from = 0;
        for (to, length) in parts {
            bytes[*to..to + length].copy_from_slice(&self.bytes[from..from + length]);
            from += length;
        }
        let bytes = &bytes[..usize::from(self.length)];
        let mut tcp = if depth.whole { Tcp::whole(bytes) } else { Tcp::brief(bytes) };
        if depth.volatile {
            tcp.add_volatile(bytes);
        }
        let (other, ulp) = self.names.as_deref().copied().unwrap_or_default();
        tcp.congestion_control = ALGORITHMS.get(usize::from(self.algorithm)).and_then(|name| Name::new(name)).or(other);
        tcp.ulp = ulp;
        tcp
    }
}

/// Of a unix socket.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct UnixDetail {
    /// As it was bound: a path, or a NUL byte and an abstract name.
    pub(crate) name: Box<[u8]>,
    pub(crate) file: Option<(u32, u32)>,
    pub(crate) peer_inode: u32,
    pub(crate) peer_owners: Option<Owners>,
}

/// Memory of a socket, and how much of that this kernel tells (SK_MEMINFO_*).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct KeptMemory(pub(crate) [u32; 8], pub(crate) u8);

/// One socket, as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Socket {
    pub(crate) protocol: Protocol,
    pub(crate) family: Option<Family>,
    pub(crate) state: Option<State>,
    /// SOCK_*, or 0.
    pub(crate) kind: u8,
    pub(crate) timer: u8,
    pub(crate) retries: u8,
    /// RCV_SHUTDOWN and SEND_SHUTDOWN.
    pub(crate) shutdown: u8,
    pub(crate) ipv6_only: Option<bool>,
    pub(crate) depth: Depth,
    pub(crate) local: [u8; 16],
    pub(crate) remote: [u8; 16],
    pub(crate) local_port: u32,
    pub(crate) remote_port: u32,
    /// 0 for none.
    pub(crate) interface: u32,
    pub(crate) receive_queue: Known,
    pub(crate) send_queue: Known,
    pub(crate) uid: Known,
    pub(crate) drops: Known,
    pub(crate) timer_ms: u32,
    /// These three are 0 where there is none.
    pub(crate) inode: u64,
    pub(crate) cookie: u64,
    pub(crate) cgroup: u64,
    pub(crate) memory: Option<Box<KeptMemory>>,
    pub(crate) detail: Detail,
    pub(crate) owners: Option<Owners>,
    /// With --follow.
    pub(crate) followed: Option<Box<Followed>>,
}

impl Socket {
    /// Of a unix socket, the inode number of its peer.
    pub fn peer_inode(&self) -> Option<u64> {
        match &self.detail {
            Detail::Unix(unix) if unix.peer_inode != 0 => Some(unix.peer_inode.into()),
            _ => None,
        }
    }

    /// A socket of which nothing else is known.
    pub(crate) fn new(protocol: Protocol, family: Option<Family>) -> Self {
        Self {
            protocol,
            family,
            state: None,
            kind: 0,
            timer: 0,
            retries: 0,
            shutdown: 0,
            ipv6_only: None,
            depth: Depth::default(),
            local: [0; 16],
            remote: [0; 16],
            local_port: 0,
            remote_port: 0,
            interface: 0,
            receive_queue: Known::NONE,
            send_queue: Known::NONE,
            uid: Known::NONE,
            drops: Known::NONE,
            timer_ms: 0,
            inode: 0,
            cookie: 0,
            cgroup: 0,
            memory: None,
            detail: Detail::None,
            owners: None,
            followed: None,
        }
    }

    /// Takes what `words`, of which `count` are there, say of its memory (SK_MEMINFO_*
    /// of linux/sock_diag.h).
    pub(crate) fn put_memory(&mut self, (words, count): ([u32; 9], u8)) {
        self.drops = (count > 8).then_some(words[8]).into();
        if self.depth.whole && count > 0 {
            let mut memory = [0; 8];
            memory.copy_from_slice(&words[..8]);
            self.memory = Some(Box::new(KeptMemory(memory, count)));
        }
    }

    /// The order of rows.
    pub(crate) fn order(&self, other: &Self) -> std::cmp::Ordering {
        let key = |s: &Self| (s.protocol, s.family, s.local, s.local_port, s.remote, s.remote_port);
        key(self)
            .cmp(&key(other))
            .then_with(|| self.name().cmp(other.name()))
            .then_with(|| (self.inode, self.cookie).cmp(&(other.inode, other.cookie)))
    }

    /// What a unix socket is bound to.
    fn name(&self) -> &[u8] {
        match &self.detail {
            Detail::Unix(unix) => &unix.name,
            _ => &[],
        }
    }

    /// Whether it waits for others: a listener, or a bound socket of a protocol
    /// without connections.
    pub(crate) fn is_listening(&self) -> bool {
        match (self.protocol, self.state) {
            (_, Some(State::Listen)) => true,
            (Protocol::Udp | Protocol::Udplite | Protocol::Icmp | Protocol::Raw, state) => {
                state == Some(State::Unconnected)
            }
            (Protocol::Unix, Some(State::Unconnected)) => !self.name().is_empty(),
            _ => false,
        }
    }

    fn has_ports(&self) -> bool {
        self.protocol != Protocol::Raw && matches!(self.family, Some(Family::Ipv4 | Family::Ipv6 | Family::Vsock))
    }

    /// Whether one of `ports` is its own or its peer's.
    pub(crate) fn has_port(&self, ports: &[u32]) -> bool {
        self.has_ports() && (ports.contains(&self.local_port) || ports.contains(&self.remote_port))
    }

    fn address(&self, bytes: &[u8; 16]) -> Option<Address> {
        let [a, b, c, d, ..] = *bytes;
        match self.family? {
            Family::Ipv4 => Some(Address::V4(Ipv4Addr::new(a, b, c, d))),
            Family::Ipv6 => Some(Address::V6(Ipv6Addr::from(*bytes))),
            Family::Vsock => Some(Address::Cid(u32::from_ne_bytes([a, b, c, d]))),
            Family::Unix | Family::Packet | Family::Netlink => None,
        }
    }

    fn memory(&self) -> Option<Memory> {
        let KeptMemory(words, count) = **self.memory.as_ref()?;
        let at = |index: usize| (index < usize::from(count)).then_some(words[index]);
        Some(Memory {
            backlog_bytes: at(7),
            forward_bytes: at(4),
            option_bytes: at(6),
            receive_bytes: at(0),
            receive_limit_bytes: at(1),
            send_bytes: at(2),
            send_limit_bytes: at(3),
            send_queued_bytes: at(5),
        })
    }

    fn timer(&self) -> Option<Timer> {
        let kind = words::timer(self.timer)?;
        let expires_us = self.depth.volatile.then_some(u64::from(self.timer_ms) * 1000);
        Some(Timer { kind, retries: self.retries, expires_us })
    }

    /// As it is printed.
    pub(crate) fn row(&self) -> Row<'_> {
        let is_listener = self.state == Some(State::Listen);
        let (receive_queue, send_queue) = (self.receive_queue.get(), self.send_queue.get());
        let port = |port: u32| self.has_ports().then_some(port);
        let has_peer = self.remote_port != 0 || self.remote != [0; 16];
        let mut row = Row {
            protocol: self.protocol.name(),
            family: self.family.map(Family::name),
            kind: words::kind(self.kind),
            state: self.state.map(State::name),
            receive_queue_bytes: receive_queue.filter(|_| !is_listener),
            send_queue_bytes: send_queue.filter(|_| !is_listener),
            backlog: receive_queue.filter(|_| is_listener),
            backlog_limit: send_queue.filter(|_| is_listener),
            local_address: self.address(&self.local),
            local_port: port(self.local_port),
            remote_address: if has_peer { self.address(&self.remote) } else { None },
            remote_port: port(self.remote_port).filter(|_| has_peer),
            owners: self.owners.as_ref(),
            followed: self.followed.as_deref(),
            uid: self.uid.get(),
            inode: wide(self.inode),
            cookie: wide(self.cookie).filter(|_| self.depth.whole),
            cgroup_id: wide(self.cgroup),
            interface_index: (self.interface != 0).then_some(self.interface),
            shutdown: [None, Some("receive"), Some("send"), Some("both")][usize::from(self.shutdown & 3)],
            ipv6_only: self.ipv6_only,
            ip_protocol: (self.protocol == Protocol::Raw).then_some(self.local_port),
            drops: self.drops.get(),
            timer: self.timer(),
            memory: self.memory(),
            ..Row::default()
        };
        self.put_detail(&mut row);
        row
    }

    fn put_detail<'a>(&'a self, row: &mut Row<'a>) {
        match &self.detail {
            Detail::None => {}
            Detail::Tcp(inside) => row.tcp = Some(inside.tcp(&PARTS, self.depth)),
            Detail::TcpWhole(inside) => row.tcp = Some(inside.tcp(&[(0, WHOLE)], self.depth)),
            Detail::TcpTable(window, threshold) => {
                row.tcp = Some(Tcp {
                    congestion_window: Some(*window),
                    slow_start_threshold: (*threshold < i32::MAX as u32).then_some(*threshold),
                    ..Tcp::default()
                });
            }
            Detail::Unix(unix) => {
                match &*unix.name {
                    [] => {}
                    [0, name @ ..] => row.abstract_name = Some(Text::from_bytes(name)),
                    path => row.path = Some(Text::from_bytes(path)),
                }
                row.peer_inode = wide(unix.peer_inode.into());
                row.peer_owners = unix.peer_owners.as_ref();
                row.file_inode = unix.file.map(|(inode, _)| Wide(inode.into()));
                row.file_device = unix.file.map(|(_, device)| Device(device));
            }
            Detail::Packet { protocol, running } => {
                row.ethernet_protocol = Some(*protocol);
                row.running = Some(*running);
            }
            Detail::Netlink { protocol, port, groups } => {
                row.netlink_protocol = Some(*protocol);
                row.netlink_name = words::netlink(*protocol);
                row.port_id = Some(*port);
                row.groups = Some(Hex((*groups).into()));
            }
            Detail::Other(name) => row.kernel_name = name.as_deref().copied(),
        }
    }
}

fn wide(number: u64) -> Option<Wide> {
    (number != 0).then_some(Wide(number))
}

impl Serialize for Socket {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.row().serialize(serializer)
    }
}

impl JsonSchema for Socket {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Socket".into()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        Row::json_schema(generator)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_takes_a_quarter_of_a_kib() {
        assert!(size_of::<Socket>() <= 152, "{}", size_of::<Socket>());
        assert!(size_of::<Inside<BRIEF>>() <= 88, "{}", size_of::<Inside<BRIEF>>());
    }

    #[test]
    fn the_brief_look_needs_no_more_than_is_kept() {
        assert_eq!(PARTS.iter().map(|(_, length)| length).sum::<usize>(), BRIEF);
        let info: Vec<u8> = (1..=WHOLE).map(|at| at as u8).collect();
        for length in [0, 3, 8, 72, 100, 104, 120, 163, 192, WHOLE] {
            let info = &info[..length];
            let Detail::Tcp(inside) = Detail::tcp(info, Name::new(b"cubic\0"), None, Depth::default()) else {
                panic!("brief");
            };
            let expected = Tcp { congestion_control: Name::new(b"cubic"), ..Tcp::brief(info) };
            assert_eq!(inside.tcp(&PARTS, Depth::default()), expected, "{length}");
        }
    }

    #[test]
    fn names_that_linux_does_not_have_are_kept() {
        let depth = Depth { whole: true, volatile: true };
        for (control, ulp) in [("reno", None), ("bbr3", None), ("a_bpf_algorithm!", Some("tls")), ("", Some("mptcp"))] {
            let (control, ulp) = (Name::new(control.as_bytes()), ulp.and_then(|ulp: &str| Name::new(ulp.as_bytes())));
            let Detail::TcpWhole(inside) = Detail::tcp(&[0; WHOLE], control, ulp, depth) else { panic!("whole") };
            let tcp = inside.tcp(&[(0, WHOLE)], depth);
            assert_eq!((tcp.congestion_control, tcp.ulp), (control, ulp));
        }
    }
}
