//! One socket: as it is kept, and as it is printed.
//!
//! There may be tens of thousands. What is kept ([`Socket`]) is small, and becomes
//! a [`Row`] only while it is written.

use std::fmt::{self, Write as _};
use std::net::{Ipv4Addr, Ipv6Addr};

use agent_model::{Text, Wide};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Serialize, Serializer};

use super::owners::Owners;
use super::tcp::{Name, Tcp};
use super::words::{self, Family, Protocol, State};

/// One socket, as it is printed. What its family, this kernel or the source does
/// not have is absent.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "Row")]
pub struct Row<'a> {
    /// Its table: `tcp`, `mptcp`, `udp`, `udplite`, `icmp` (ping sockets), `raw`,
    /// `unix`, `packet`, `netlink`, `vsock`; `other` for a socket that a process
    /// holds and that stands in none of these (see `kernel_name`).
    #[schemars(extend("x-column" = "PROTOCOL"))]
    pub protocol: &'static str,
    /// Address family: `ipv4`, `ipv6`, `unix`, `packet`, `netlink`, `vsock`. An IPv4
    /// connection of an IPv6 socket has `ipv6`, and addresses like `::ffff:10.0.0.1`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub family: Option<&'static str>,
    /// `stream`, `datagram`, `seqpacket`, `raw`, where the protocol leaves that open.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<&'static str>,
    /// `established`, `syn_sent`, `syn_recv`, `fin_wait1`, `fin_wait2`, `time_wait`,
    /// `unconnected`, `close_wait`, `last_ack`, `listen`, `closing`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-column" = "STATE"))]
    pub state: Option<&'static str>,
    /// Bytes that were received and not yet read by the application.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-column" = "RECV"))]
    pub receive_queue_bytes: Option<u32>,
    /// Bytes that the application has written and the peer has not acknowledged
    /// (TCP), or that were not sent yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-column" = "SEND"))]
    pub send_queue_bytes: Option<u32>,
    /// Of a listener: connections that wait to be accepted.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-column" = "BACKLOG"))]
    pub backlog: Option<u32>,
    /// Of a listener: how many may wait (listen(2), at most net.core.somaxconn).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-column" = "LIMIT"))]
    pub backlog_limit: Option<u32>,
    /// Local address; of vsock the context ID.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-column" = "LOCAL"))]
    pub local_address: Option<Address>,
    /// Local port.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-column" = "PORT"))]
    pub local_port: Option<u32>,
    /// The peer's address; absent without a peer.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-column" = "REMOTE"))]
    pub remote_address: Option<Address>,
    /// The peer's port.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-column" = "PORT"))]
    pub remote_port: Option<u32>,
    /// The path that a unix socket is bound to, as the process gave it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-column" = "PATH"))]
    pub path: Option<Text>,
    /// The name that it is bound to in the abstract namespace (unix(7)), without
    /// the NUL byte before it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-column" = "ABSTRACT"))]
    pub abstract_name: Option<Text>,
    /// The processes that hold it, by pid and descriptor. Absent where that could
    /// not be told, or was not asked for; empty when no process of this pid
    /// namespace holds it: it is the kernel's alone (TIME_WAIT, not yet accepted),
    /// or that of a container that shares only the network.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-column" = "OWNERS"))]
    pub owners: Option<&'a Owners>,
    /// The user that opened it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-column" = "UID"))]
    pub uid: Option<u32>,
    /// Inode number, by which descriptors name it (`socket:[INODE]`); absent for a
    /// socket that no process has: TIME_WAIT, or not yet accepted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub inode: Option<Wide>,
    /// The kernel's own number for it, which is never used again; with `--info`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cookie: Option<Wide>,
    /// The control group (v2) that it was opened in: the inode of its directory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cgroup_id: Option<Wide>,
    /// The interface that it is bound to, by its index; of a packet socket too.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interface_index: Option<u32>,
    /// The half that is shut down: `receive`, `send`, `both`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shutdown: Option<&'static str>,
    /// Whether a bound IPv6 socket refuses IPv4.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ipv6_only: Option<bool>,
    /// Of raw IP: the number of its protocol (protocols(5)).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ip_protocol: Option<u32>,
    /// Of a unix socket: the inode number of its peer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peer_inode: Option<Wide>,
    /// The processes that hold the peer, as `owners`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peer_owners: Option<&'a Owners>,
    /// The inode number of the file that a unix socket was bound to. Another one, or
    /// none, at `path` means that nobody can connect there any more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file_inode: Option<Wide>,
    /// The device of that file, as `major:minor`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file_device: Option<Device>,
    /// Of a packet socket: the protocol that it receives (ETH_P_* of
    /// linux/if_ether.h): 3 for all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ethernet_protocol: Option<u16>,
    /// Of a packet socket: whether it receives.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub running: Option<bool>,
    /// Of a netlink socket: its protocol, by number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub netlink_protocol: Option<u16>,
    /// Of a netlink socket: the name of that protocol (NETLINK_* of
    /// linux/netlink.h).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub netlink_name: Option<&'static str>,
    /// Of a netlink socket: its address, often the pid that opened it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port_id: Option<u32>,
    /// Of a netlink socket: the first 32 multicast groups that it hears, as bits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub groups: Option<agent_model::Hex>,
    /// Of `other`: what the kernel calls the protocol (`system.sockprotoname`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kernel_name: Option<Name>,
    /// Packets that found no room and were dropped; of TCP with `--info`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub drops: Option<u32>,
    /// The timer that runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timer: Option<Timer>,
    /// Memory that the kernel holds for it; with `--info`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<Memory>,
    /// A TCP connection from inside.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tcp: Option<Tcp>,
}

/// The timer of a TCP socket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Timer {
    /// `retransmit`, `keepalive`, `time_wait`, `zero_window_probe`.
    pub kind: &'static str,
    /// How often it has gone off without an answer.
    pub retries: u8,
    /// When it goes off, in microseconds from now to the millisecond. Ticks; only
    /// with `--volatile`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_us: Option<u64>,
}

/// Memory of a socket (SK_MEMINFO_* of linux/sock_diag.h).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Memory {
    /// Packets that came while the application held the socket, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backlog_bytes: Option<u32>,
    /// Set aside for the next packets.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub forward_bytes: Option<u32>,
    /// Options, filters and the like.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub option_bytes: Option<u32>,
    /// Packets in the receive queue, with what the kernel needs around them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub receive_bytes: Option<u32>,
    /// The receive buffer's limit (SO_RCVBUF).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub receive_limit_bytes: Option<u32>,
    /// Packets handed to the network device.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub send_bytes: Option<u32>,
    /// The send buffer's limit (SO_SNDBUF).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub send_limit_bytes: Option<u32>,
    /// The send queue, with what the kernel needs around it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub send_queued_bytes: Option<u32>,
}

/// An address, in the form that people write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Address {
    /// Of IPv4.
    V4(Ipv4Addr),
    /// Of IPv6.
    V6(Ipv6Addr),
    /// A context ID of vsock.
    Cid(u32),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::V4(address) => address.fmt(f),
            Self::V6(address) => address.fmt(f),
            Self::Cid(u32::MAX) => f.write_str("any"),
            Self::Cid(cid) => cid.fmt(f),
        }
    }
}

/// A device, as `major:minor`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Device(pub u32);

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The kernel's own dev_t: 12 bits and 20 bits.
        write!(f, "{}:{}", self.0 >> 20, self.0 & 0xf_ffff)
    }
}

/// Serializes a short text without memory of its own.
fn short<S: Serializer>(value: impl fmt::Display, serializer: S) -> Result<S::Ok, S::Error> {
    struct Short([u8; 48], usize);
    impl fmt::Write for Short {
        fn write_str(&mut self, text: &str) -> fmt::Result {
            let room = self.0.get_mut(self.1..self.1 + text.len()).ok_or(fmt::Error)?;
            room.copy_from_slice(text.as_bytes());
            self.1 += text.len();
            Ok(())
        }
    }
    let mut text = Short([0; 48], 0);
    // An IPv6 address has 45 characters at the most.
    write!(text, "{value}").map_err(serde::ser::Error::custom)?;
    serializer.serialize_str(std::str::from_utf8(&text.0[..text.1]).unwrap_or_default())
}

macro_rules! short_text {
    ($type:ty, $name:literal) => {
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                short(self, serializer)
            }
        }
        impl JsonSchema for $type {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                $name.into()
            }
            fn inline_schema() -> bool {
                true
            }
            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({"type": "string"})
            }
        }
    };
}

short_text!(Address, "Address");
short_text!(Device, "Device");

/// What only some families have.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) enum Detail {
    #[default]
    None,
    Tcp(Box<TcpDetail>),
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
        drops: u32,
    },
    /// From a table of proc(5): packets dropped.
    Drops(u32),
    Other(Option<Name>),
}

/// Of TCP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TcpDetail {
    pub(crate) congestion_control: Option<Name>,
    pub(crate) ulp: Option<Name>,
    pub(crate) info: Info,
}

/// How much of a socket is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Depth {
    /// All that is known, and not just what tells at a glance how it is doing.
    pub(crate) whole: bool,
    /// What ticks as well.
    pub(crate) volatile: bool,
}

impl Depth {
    /// As much of a `struct tcp_info` as is kept.
    fn info_bytes(self) -> usize {
        match (self.whole, self.volatile) {
            (false, false) => 168,
            _ => LARGEST_INFO,
        }
    }
}

/// `struct tcp_info` without the zeros at its end, of which there are many.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Info {
    bytes: Box<[u8]>,
    length: u16,
}

/// The most of a `struct tcp_info` that is kept: all that is known of it.
const LARGEST_INFO: usize = 280;

impl Info {
    pub(crate) fn new(bytes: &[u8], depth: Depth) -> Self {
        let bytes = &bytes[..bytes.len().min(depth.info_bytes())];
        let used = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        Self { bytes: bytes[..used].into(), length: bytes.len() as u16 }
    }

    fn read(&self, depth: Depth) -> Tcp {
        let mut bytes = [0; LARGEST_INFO];
        bytes[..self.bytes.len()].copy_from_slice(&self.bytes);
        let bytes = &bytes[..usize::from(self.length)];
        let mut tcp = if depth.whole { Tcp::whole(bytes) } else { Tcp::brief(bytes) };
        if depth.volatile {
            tcp.add_volatile(bytes);
        }
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
    /// How much is shown.
    pub(crate) depth: Depth,
    /// How many of `memory` there are.
    pub(crate) memory_count: u8,
    pub(crate) local: [u8; 16],
    pub(crate) remote: [u8; 16],
    pub(crate) local_port: u32,
    pub(crate) remote_port: u32,
    pub(crate) interface: u32,
    pub(crate) receive_queue: Option<u32>,
    pub(crate) send_queue: Option<u32>,
    pub(crate) uid: Option<u32>,
    pub(crate) timer_ms: u32,
    pub(crate) memory: [u32; 9],
    pub(crate) inode: u64,
    pub(crate) cookie: u64,
    pub(crate) cgroup: u64,
    pub(crate) detail: Detail,
    pub(crate) owners: Option<Owners>,
}

impl Socket {
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
            memory_count: 0,
            local: [0; 16],
            remote: [0; 16],
            local_port: 0,
            remote_port: 0,
            interface: 0,
            receive_queue: None,
            send_queue: None,
            uid: None,
            timer_ms: 0,
            memory: [0; 9],
            inode: 0,
            cookie: 0,
            cgroup: 0,
            detail: Detail::None,
            owners: None,
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

    /// Whether one of `ports` is its own or its peer's.
    pub(crate) fn has_port(&self, ports: &[u32]) -> bool {
        let has_ports =
            self.protocol != Protocol::Raw && matches!(self.family, Some(Family::Ipv4 | Family::Ipv6 | Family::Vsock));
        has_ports && (ports.contains(&self.local_port) || ports.contains(&self.remote_port))
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
        let at = |index: usize| (index < usize::from(self.memory_count)).then_some(self.memory[index]);
        (self.depth.whole && self.memory_count > 0).then(|| Memory {
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
        let has_ports = matches!(self.family, Some(Family::Ipv4 | Family::Ipv6 | Family::Vsock));
        let is_raw = self.protocol == Protocol::Raw;
        let port = |port: u32| (has_ports && !is_raw).then_some(port);
        let has_peer = self.remote_port != 0 || self.remote != [0; 16];
        let mut row = Row {
            protocol: self.protocol.name(),
            family: self.family.map(Family::name),
            kind: words::kind(self.kind),
            state: self.state.map(State::name),
            receive_queue_bytes: self.receive_queue.filter(|_| !is_listener),
            send_queue_bytes: self.send_queue.filter(|_| !is_listener),
            backlog: self.receive_queue.filter(|_| is_listener),
            backlog_limit: self.send_queue.filter(|_| is_listener),
            local_address: self.address(&self.local),
            local_port: port(self.local_port),
            remote_address: self.address(&self.remote).filter(|_| has_peer),
            remote_port: port(self.remote_port).filter(|_| has_peer),
            path: None,
            abstract_name: None,
            owners: self.owners.as_ref(),
            uid: self.uid,
            inode: wide(self.inode),
            cookie: wide(self.cookie).filter(|_| self.depth.whole),
            cgroup_id: wide(self.cgroup),
            interface_index: (self.interface != 0).then_some(self.interface),
            shutdown: [None, Some("receive"), Some("send"), Some("both")][usize::from(self.shutdown & 3)],
            ipv6_only: self.ipv6_only,
            ip_protocol: is_raw.then_some(self.local_port),
            peer_inode: None,
            peer_owners: None,
            file_inode: None,
            file_device: None,
            ethernet_protocol: None,
            running: None,
            netlink_protocol: None,
            netlink_name: None,
            port_id: None,
            groups: None,
            kernel_name: None,
            drops: (self.memory_count > 8).then_some(self.memory[8]),
            timer: self.timer(),
            memory: self.memory(),
            tcp: None,
        };
        self.put_detail(&mut row);
        row
    }

    fn put_detail<'a>(&'a self, row: &mut Row<'a>) {
        match &self.detail {
            Detail::None => {}
            Detail::Tcp(tcp) => {
                let mut inside = tcp.info.read(self.depth);
                inside.congestion_control = tcp.congestion_control;
                inside.ulp = tcp.ulp;
                row.tcp = Some(inside);
            }
            Detail::TcpTable(window, threshold) => {
                let slow_start_threshold = (*threshold < i32::MAX as u32).then_some(*threshold);
                row.tcp = Some(Tcp { congestion_window: Some(*window), slow_start_threshold, ..Tcp::default() });
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
            Detail::Netlink { protocol, port, groups, drops } => {
                row.netlink_protocol = Some(*protocol);
                row.netlink_name = words::netlink(*protocol);
                row.port_id = Some(*port);
                row.groups = Some(agent_model::Hex((*groups).into()));
                row.drops = Some(*drops);
            }
            Detail::Drops(drops) => row.drops = Some(*drops),
            Detail::Other(name) => row.kernel_name = *name,
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
        "Row".into()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        Row::json_schema(generator)
    }
}
