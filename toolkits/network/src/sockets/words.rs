//! The words for what a socket is.

use clap::ValueEnum;
use schemars::JsonSchema;
use serde::Serialize;

/// A table of sockets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, ValueEnum, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub enum Protocol {
    /// TCP, over IPv4 and IPv6.
    Tcp,
    /// Multipath TCP: the socket that the application has; its subflows are TCP.
    Mptcp,
    /// UDP.
    Udp,
    /// UDP-Lite.
    Udplite,
    /// ICMP echo sockets ("ping sockets").
    Icmp,
    /// Raw IP.
    Raw,
    /// Unix domain sockets.
    Unix,
    /// Packet sockets.
    Packet,
    /// Netlink; the kernel's own ends are left out.
    Netlink,
    /// Sockets between a virtual machine and its host.
    Vsock,
    /// Held by a process, but in none of the tables: see `kernel_name`.
    Other,
}

impl Protocol {
    /// Its name in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Mptcp => "mptcp",
            Self::Udp => "udp",
            Self::Udplite => "udplite",
            Self::Icmp => "icmp",
            Self::Raw => "raw",
            Self::Unix => "unix",
            Self::Packet => "packet",
            Self::Netlink => "netlink",
            Self::Vsock => "vsock",
            Self::Other => "other",
        }
    }
}

/// An address family (address_families(7)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// AF_INET.
    Ipv4,
    /// AF_INET6.
    Ipv6,
    /// AF_UNIX.
    Unix,
    /// AF_PACKET.
    Packet,
    /// AF_NETLINK.
    Netlink,
    /// AF_VSOCK.
    Vsock,
}

impl Family {
    /// Its name in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ipv4 => "ipv4",
            Self::Ipv6 => "ipv6",
            Self::Unix => "unix",
            Self::Packet => "packet",
            Self::Netlink => "netlink",
            Self::Vsock => "vsock",
        }
    }
}

/// The state of a socket (TCP_* of net/tcp_states.h, which other families use as
/// well).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, ValueEnum, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub enum State {
    /// Connected.
    Established,
    /// Asked for a connection.
    SynSent,
    /// Was asked for one.
    SynRecv,
    /// Closed here, not acknowledged.
    FinWait1,
    /// Closed here, acknowledged.
    FinWait2,
    /// Closed on both sides, waiting for what may still come.
    TimeWait,
    /// Not connected (TCP_CLOSE; ss(8) calls it UNCONN).
    Unconnected,
    /// Closed by the peer, not yet here.
    CloseWait,
    /// Closed by the peer and then here, not acknowledged.
    LastAck,
    /// Waiting for connections.
    Listen,
    /// Closed on both sides at once, not acknowledged.
    Closing,
    /// Another, of a newer kernel.
    Unknown,
}

impl State {
    /// The state that the kernel numbers so.
    pub fn of(number: u8) -> Self {
        match number {
            1 => Self::Established,
            2 => Self::SynSent,
            // 12 is a connection request (TCP_NEW_SYN_RECV).
            3 | 12 => Self::SynRecv,
            4 => Self::FinWait1,
            5 => Self::FinWait2,
            6 => Self::TimeWait,
            // 13 is bound and neither connected nor listening.
            7 | 13 => Self::Unconnected,
            8 => Self::CloseWait,
            9 => Self::LastAck,
            10 => Self::Listen,
            11 => Self::Closing,
            _ => Self::Unknown,
        }
    }

    /// The bits of it in a request's mask of states.
    pub fn mask(self) -> u32 {
        match self {
            Self::Established => 1 << 1,
            Self::SynSent => 1 << 2,
            Self::SynRecv => 1 << 3 | 1 << 12,
            Self::FinWait1 => 1 << 4,
            Self::FinWait2 => 1 << 5,
            Self::TimeWait => 1 << 6,
            Self::Unconnected => 1 << 7 | 1 << 13,
            Self::CloseWait => 1 << 8,
            Self::LastAck => 1 << 9,
            Self::Listen => 1 << 10,
            Self::Closing => 1 << 11,
            Self::Unknown => !0x3fff,
        }
    }

    /// Its name in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Established => "established",
            Self::SynSent => "syn_sent",
            Self::SynRecv => "syn_recv",
            Self::FinWait1 => "fin_wait1",
            Self::FinWait2 => "fin_wait2",
            Self::TimeWait => "time_wait",
            Self::Unconnected => "unconnected",
            Self::CloseWait => "close_wait",
            Self::LastAck => "last_ack",
            Self::Listen => "listen",
            Self::Closing => "closing",
            Self::Unknown => "unknown",
        }
    }
}

/// The name of a type of socket (SOCK_* of socket(2)).
pub(crate) fn kind(number: u8) -> Option<&'static str> {
    match number {
        1 => Some("stream"),
        2 => Some("datagram"),
        3 => Some("raw"),
        5 => Some("seqpacket"),
        10 => Some("packet"),
        _ => None,
    }
}

/// The name of a timer (`idiag_timer`, and `tr` of proc(5)).
pub(crate) fn timer(number: u8) -> Option<&'static str> {
    match number {
        1 => Some("retransmit"),
        2 => Some("keepalive"),
        3 => Some("time_wait"),
        4 => Some("zero_window_probe"),
        _ => None,
    }
}

/// The name of a netlink protocol (NETLINK_* of linux/netlink.h).
pub(crate) fn netlink(number: u16) -> Option<&'static str> {
    Some(match number {
        0 => "route",
        2 => "usersock",
        3 => "firewall",
        4 => "sock_diag",
        5 => "nflog",
        6 => "xfrm",
        7 => "selinux",
        8 => "iscsi",
        9 => "audit",
        10 => "fib_lookup",
        11 => "connector",
        12 => "netfilter",
        13 => "ip6_fw",
        14 => "dnrtmsg",
        15 => "kobject_uevent",
        16 => "generic",
        18 => "scsitransport",
        19 => "ecryptfs",
        20 => "rdma",
        21 => "crypto",
        22 => "smc",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_command_line_and_the_schema() {
        for protocol in Protocol::value_variants() {
            assert_eq!(protocol.to_possible_value().expect("not hidden").get_name(), protocol.name());
            assert_eq!(serde_json::to_value(protocol).expect("serializable"), protocol.name());
        }
        for state in State::value_variants() {
            assert_eq!(state.to_possible_value().expect("not hidden").get_name(), state.name());
            assert_eq!(serde_json::to_value(state).expect("serializable"), state.name());
        }
    }

    #[test]
    fn every_state_is_asked_for_by_its_own_bits() {
        for number in 1..=13 {
            assert_ne!(State::of(number).mask() >> number & 1, 0, "{number}");
        }
        assert_eq!(State::value_variants().iter().fold(1, |all, state| all | state.mask()), u32::MAX);
    }
}
