//! sock_diag(7): requests, and sockets from answers.
//!
//! The structures are those of linux/inet_diag.h, linux/unix_diag.h and
//! linux/vm_sockets_diag.h. Only what is shown is asked for.

use super::bytes::{array, attributes, halves_at, u32_at, words};
use super::socket::{Depth, Detail, Socket, UnixDetail};
use super::tcp::Name;
use super::words::{Family, Protocol, State};

const AF_UNIX: u8 = 1;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const AF_VSOCK: u8 = 40;

/// INET_DIAG_* attributes.
const INFO: u16 = 2;
const CONG: u16 = 4;
const SKMEMINFO: u16 = 7;
const SHUTDOWN: u16 = 8;
const SKV6ONLY: u16 = 11;
const ULP_INFO: u16 = 19;
const CGROUP_ID: u16 = 21;

/// A request for all sockets of `protocol` and `family` in `states` (bits by
/// number): `struct inet_diag_req_v2`.
pub(crate) fn inet_request(protocol: Protocol, family: Family, states: u32, depth: Depth) -> Option<Vec<u8>> {
    let number = match protocol {
        Protocol::Tcp => 6,
        Protocol::Udp => 17,
        Protocol::Udplite => 136,
        // Multipath TCP's number (262) needs the attribute. 254 is nobody's: a kernel
        // that does not know the attribute has nothing to say.
        Protocol::Mptcp => 254,
        _ => return None,
    };
    let family = match family {
        Family::Ipv4 => AF_INET,
        Family::Ipv6 => AF_INET6,
        _ => return None,
    };
    let bit = |attribute: u16| 1_u8 << (attribute - 1);
    let wanted = match (protocol, depth.whole) {
        (Protocol::Tcp, false) => bit(INFO) | bit(CONG),
        (Protocol::Tcp, true) => bit(INFO) | bit(CONG) | bit(SKMEMINFO),
        _ => bit(SKMEMINFO),
    };
    let mut request = vec![family, number, wanted, 0];
    request.extend(states.to_ne_bytes());
    // struct inet_diag_sockid: any.
    request.resize(56, 0);
    if protocol == Protocol::Mptcp {
        const INET_DIAG_REQ_PROTOCOL: u16 = 3;
        request.extend(8_u16.to_ne_bytes());
        request.extend(INET_DIAG_REQ_PROTOCOL.to_ne_bytes());
        request.extend(262_u32.to_ne_bytes());
    }
    Some(request)
}

/// The socket in `answer`: `struct inet_diag_msg` and attributes.
pub(crate) fn inet_socket(protocol: Protocol, depth: Depth, answer: &[u8]) -> Option<Socket> {
    const LENGTH: usize = 72;
    let head = answer.get(..LENGTH)?;
    let family = match head[0] {
        AF_INET => Family::Ipv4,
        AF_INET6 => Family::Ipv6,
        _ => return None,
    };
    let mut socket = Socket::new(protocol, Some(family));
    socket.depth = depth;
    socket.state = Some(State::of(head[1]));
    socket.timer = head[2];
    socket.retries = head[3];
    socket.local_port = u16::from_be_bytes(array(head, 4)?).into();
    socket.remote_port = u16::from_be_bytes(array(head, 6)?).into();
    // What stands behind an IPv4 address is left from whatever was there before.
    let bytes = if family == Family::Ipv4 { 4 } else { 16 };
    socket.local[..bytes].copy_from_slice(&head[8..8 + bytes]);
    socket.remote[..bytes].copy_from_slice(&head[24..24 + bytes]);
    socket.interface = u32_at(head, 40)?;
    socket.cookie = halves_at(head, 44)?;
    socket.timer_ms = u32_at(head, 52)?;
    socket.receive_queue = u32_at(head, 56).into();
    socket.send_queue = u32_at(head, 60).into();
    socket.uid = u32_at(head, 64).into();
    socket.inode = u32_at(head, 68)?.into();
    inet_attributes(&mut socket, &answer[LENGTH..]);
    Some(socket)
}

fn inet_attributes(socket: &mut Socket, rest: &[u8]) {
    let (mut congestion_control, mut ulp, mut info) = (None, None, None);
    for (kind, content) in attributes(rest) {
        match kind {
            INFO => info = Some(content),
            CONG => congestion_control = Name::new(content),
            SKMEMINFO => socket.put_memory(words(content)),
            SHUTDOWN => socket.shutdown = content.first().copied().unwrap_or(0),
            SKV6ONLY => socket.ipv6_only = content.first().map(|only| *only != 0),
            ULP_INFO => {
                const INET_ULP_INFO_NAME: u16 = 1;
                ulp = attributes(content).find(|(kind, _)| *kind == INET_ULP_INFO_NAME).and_then(|(_, n)| Name::new(n));
            }
            CGROUP_ID => socket.cgroup = array(content, 0).map_or(0, u64::from_ne_bytes),
            _ => {}
        }
    }
    // A listener has no connection to look into: the kernel fills in its backlog.
    if let Some(info) = info.filter(|_| socket.protocol == Protocol::Tcp && socket.state != Some(State::Listen)) {
        socket.detail = Detail::tcp(info, congestion_control, ulp, socket.depth);
    }
}

/// A request for all unix sockets in `states`: `struct unix_diag_req`.
pub(crate) fn unix_request(states: u32) -> Vec<u8> {
    const NAME: u32 = 1;
    const VFS: u32 = 2;
    const PEER: u32 = 4;
    const RQLEN: u32 = 0x10;
    const MEMINFO: u32 = 0x20;
    const UID: u32 = 0x40;
    let mut request = vec![AF_UNIX, 0, 0, 0];
    for word in [states, 0, NAME | VFS | PEER | RQLEN | MEMINFO | UID, 0, 0] {
        request.extend(word.to_ne_bytes());
    }
    request
}

/// The socket in `answer`: `struct unix_diag_msg` and attributes.
pub(crate) fn unix_socket(depth: Depth, answer: &[u8]) -> Option<Socket> {
    const LENGTH: usize = 16;
    let head = answer.get(..LENGTH)?;
    let mut socket = Socket::new(Protocol::Unix, Some(Family::Unix));
    socket.depth = depth;
    socket.kind = head[1];
    socket.state = Some(State::of(head[2]));
    socket.inode = u32_at(head, 4)?.into();
    socket.cookie = halves_at(head, 8)?;
    let mut unix = UnixDetail::default();
    for (kind, content) in attributes(&answer[LENGTH..]) {
        match kind {
            0 => unix.name = bound_name(content).into(),
            1 => unix.file = u32_at(content, 0).zip(u32_at(content, 4)),
            2 => unix.peer_inode = u32_at(content, 0).unwrap_or(0),
            4 => {
                socket.receive_queue = u32_at(content, 0).into();
                socket.send_queue = u32_at(content, 4).into();
            }
            5 => socket.put_memory(words(content)),
            6 => socket.shutdown = content.first().copied().unwrap_or(0),
            7 => socket.uid = u32_at(content, 0).into(),
            _ => {}
        }
    }
    socket.detail = Detail::Unix(Box::new(unix));
    Some(socket)
}

/// A path ends with a NUL byte that is not part of it; an abstract name begins with
/// one, and may hold and end with any.
fn bound_name(bytes: &[u8]) -> &[u8] {
    if bytes.first() == Some(&0) { bytes } else { bytes.strip_suffix(&[0]).unwrap_or(bytes) }
}

/// A request for all vsock sockets in `states`: `struct vsock_diag_req`.
pub(crate) fn vsock_request(states: u32) -> Vec<u8> {
    let mut request = vec![AF_VSOCK, 0, 0, 0];
    request.extend(states.to_ne_bytes());
    request.resize(24, 0);
    request
}

/// The socket in `answer`: `struct vsock_diag_msg`.
pub(crate) fn vsock_socket(answer: &[u8]) -> Option<Socket> {
    let head = answer.get(..32)?;
    let mut socket = Socket::new(Protocol::Vsock, Some(Family::Vsock));
    socket.kind = head[1];
    socket.state = Some(State::of(head[2]));
    socket.shutdown = head[3];
    socket.local[..4].copy_from_slice(&head[4..8]);
    socket.local_port = u32_at(head, 8)?;
    socket.remote[..4].copy_from_slice(&head[12..16]);
    socket.remote_port = u32_at(head, 16)?;
    // Without a peer both are VMADDR_*_ANY.
    if socket.remote_port == u32::MAX {
        socket.remote = [0; 16];
        socket.remote_port = 0;
    }
    socket.inode = u32_at(head, 20)?.into();
    socket.cookie = halves_at(head, 24)?;
    Some(socket)
}
