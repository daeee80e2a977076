//! One socket, as it is printed.

use std::fmt::{self, Write as _};
use std::net::{Ipv4Addr, Ipv6Addr};

use agent_model::{Text, Wide};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Serialize, Serializer};

use super::follow::Followed;
use super::owners::Owners;
use super::tcp::{Name, Tcp};

/// One socket, as it is printed. What its family, this kernel or the source does
/// not have is absent.
#[derive(Debug, Default, Serialize, JsonSchema)]
#[schemars(rename = "Socket")]
#[schemars(extend(
    "x-key" = ["protocol", "inode", "local_address", "local_port", "remote_address", "remote_port", "path", "abstract_name"],
    "x-alike" = ["protocol", "state", "remote_address", "remote_port", "path"],
    "x-ends" = ["local_address", "local_port", "remote_address", "remote_port"],
    "x-life" = ["cookie", "owners", "cgroup_id", "peer_inode", "peer_owners", "file_inode", "file_device", "port_id"]
))]
pub struct Row<'a> {
    /// Its table: `tcp`, `mptcp`, `udp`, `udplite`, `icmp` (ping sockets), `raw`,
    /// `unix`, `packet`, `netlink`, `vsock`; `other` for a socket that a process
    /// holds and that stands in none of these (see `kernel_name`).
    #[schemars(extend("x-column" = "PROTOCOL"))]
    #[schemars(extend("x-class" = "word"))]
    pub protocol: &'static str,
    /// Address family: `ipv4`, `ipv6`, `unix`, `packet`, `netlink`, `vsock`. An IPv4
    /// connection of an IPv6 socket has `ipv6`, and addresses like `::ffff:10.0.0.1`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-class" = "word"))]
    pub family: Option<&'static str>,
    /// `stream`, `datagram`, `seqpacket`, `raw`, where the protocol leaves that open.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-class" = "word"))]
    pub kind: Option<&'static str>,
    /// `established`, `syn_sent`, `syn_recv`, `fin_wait1`, `fin_wait2`, `time_wait`,
    /// `unconnected`, `close_wait`, `last_ack`, `listen`, `closing`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-column" = "STATE"))]
    #[schemars(extend("x-class" = "word"))]
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
    #[schemars(extend("x-class" = "path"))]
    pub path: Option<Text>,
    /// The name that it is bound to in the abstract namespace (unix(7)), without
    /// the NUL byte before it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-column" = "ABSTRACT"))]
    #[schemars(extend("x-class" = "path"))]
    pub abstract_name: Option<Text>,
    /// What became of it while it was followed; with --follow.
    #[serde(flatten)]
    pub followed: Option<&'a Followed>,
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
    #[schemars(extend("x-class" = "word"))]
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
    #[schemars(extend("x-class" = "word"))]
    pub netlink_name: Option<&'static str>,
    /// Of a netlink socket: its address, often the pid that opened it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port_id: Option<u32>,
    /// Of a netlink socket: the first 32 multicast groups that it hears, as bits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub groups: Option<agent_model::Hex>,
    /// Of `other`: what the kernel calls the protocol (`system.sockprotoname`).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-class" = "word"))]
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
    #[schemars(extend("x-class" = "word"))]
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
    ($type:ty, $name:literal, $class:literal) => {
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
                json_schema!({"type": "string", "x-class": $class})
            }
        }
    };
}

short_text!(Address, "Address", "host");
short_text!(Device, "Device", "id");
