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

#[cfg(all(test, target_endian = "little"))]
mod tests {
    use super::super::recorded;
    use super::*;
    use serde_json::{Value, json};

    const WHOLE: Depth = Depth { whole: true, volatile: true };

    fn row(socket: Option<Socket>) -> Value {
        serde_json::to_value(socket.expect("parses")).expect("serializable")
    }

    fn assert_has(row: &Value, members: Value) {
        for (key, value) in members.as_object().expect("members") {
            assert_eq!(row[key], *value, "{key} of {row}");
        }
    }

    #[test]
    fn reads_a_listener_and_its_backlog() {
        let row = row(inet_socket(Protocol::Tcp, Depth::default(), &recorded::bytes(recorded::LISTENER)));
        let inode = row["inode"].as_str().expect("an inode").to_owned();
        assert_eq!(
            row,
            json!({"protocol": "tcp", "family": "ipv4", "state": "listen", "backlog": 3, "backlog_limit": 5,
                "local_address": "127.0.0.1", "local_port": 4001, "uid": 0, "inode": inode, "cgroup_id": "1",
                // It was asked for, and this much is shown without.
                "drops": 0})
        );
    }

    #[test]
    fn reads_a_connection_from_inside() {
        let row = row(inet_socket(Protocol::Tcp, WHOLE, &recorded::bytes(recorded::CONNECTION)));
        assert_has(
            &row,
            json!({"state": "established", "receive_queue_bytes": 1000, "send_queue_bytes": 0, "local_port": 4001,
                "remote_address": "127.0.0.1"}),
        );
        assert_has(
            &row["tcp"],
            json!({"congestion_control": "bbr", "congestion_state": "open", "bytes_received": 1000, "rto_us": 204_000,
                "options": ["timestamps", "sack", "window_scale"], "send_window_scale": 10, "send_mss_bytes": 32768,
                "path_mtu_bytes": 65535, "congestion_window": 10, "data_segments_received": 1, "reordering": 3,
                "busy_us": 0}),
        );
        assert_eq!(row["tcp"].get("slow_start_threshold"), None);
        assert_eq!(row["memory"]["receive_limit_bytes"], 131_072);
        assert_eq!(row.get("timer"), None);
    }

    #[test]
    fn reads_ipv6_datagrams_and_what_has_ended() {
        let six = row(inet_socket(Protocol::Tcp, WHOLE, &recorded::bytes(recorded::CONNECTION6)));
        assert_has(
            &six,
            json!({"family": "ipv6", "local_address": "::1", "remote_address": "::1", "local_port": 4002}),
        );
        let udp = row(inet_socket(Protocol::Udp, Depth::default(), &recorded::bytes(recorded::DATAGRAMS)));
        assert_has(&udp, json!({"state": "unconnected", "receive_queue_bytes": 832, "local_port": 4101, "drops": 0}));
        assert_eq!((udp.get("remote_address"), udp.get("memory")), (None, None));
        let ended = row(inet_socket(Protocol::Tcp, WHOLE, &recorded::bytes(recorded::TIME_WAIT)));
        assert_has(&ended, json!({"state": "time_wait", "remote_port": 4011}));
        assert_eq!((ended.get("inode"), ended.get("tcp")), (None, None));
        assert_eq!(ended["timer"]["kind"], "time_wait");
        assert!(ended["timer"]["expires_us"].as_u64() > Some(50_000_000), "{ended}");
    }

    #[test]
    fn reads_unix_sockets_with_any_name() {
        let listener = row(unix_socket(WHOLE, &recorded::bytes(recorded::UNIX_LISTENER)));
        assert_has(&listener, json!({"type": "stream", "state": "listen", "backlog": 1, "backlog_limit": 7, "uid": 0}));
        let path = listener["path"].as_str().expect("a path");
        assert!(path.ends_with("/a b\\x0ac\\x1b[31m\\\\\\xff"), "{path}");
        assert!(listener["file_inode"].is_string() && listener["file_device"] == "254:0", "{listener}");
        let accepted = row(unix_socket(WHOLE, &recorded::bytes(recorded::UNIX_ABSTRACT)));
        assert_has(
            &accepted,
            json!({"state": "established", "receive_queue_bytes": 33, "abstract_name": "agent.\\x0a\\x1b[2J\\x00tail\\xfe"}),
        );
        assert!(accepted["peer_inode"].is_string() && accepted.get("path").is_none());
    }

    #[test]
    fn truncated_and_random_answers_never_panic() {
        let all = [recorded::LISTENER, recorded::CONNECTION, recorded::UNIX_LISTENER, recorded::TIME_WAIT];
        let mut seed = 7_u64;
        for bytes in all.map(recorded::bytes) {
            for end in 0..bytes.len() {
                let cut = &bytes[..end];
                let mut noise = cut.to_vec();
                for byte in &mut noise {
                    seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    *byte ^= (seed >> 58) as u8;
                }
                for answer in [cut, &noise] {
                    for socket in
                        [inet_socket(Protocol::Tcp, WHOLE, answer), unix_socket(WHOLE, answer), vsock_socket(answer)]
                    {
                        let _ = serde_json::to_value(socket);
                    }
                }
            }
        }
    }

    #[test]
    fn reads_a_vsock_listener() {
        let mut answer = vec![40, 1, 10, 0];
        for word in [3_u32, 1024, u32::MAX, u32::MAX, 77, 5, 6] {
            answer.extend(word.to_ne_bytes());
        }
        assert_eq!(
            row(vsock_socket(&answer)),
            json!({"protocol": "vsock", "family": "vsock", "type": "stream", "state": "listen", "local_address": "3",
                "local_port": 1024, "inode": "77"})
        );
    }

    #[test]
    fn only_what_is_shown_is_asked_for() {
        let ask = |protocol, depth| inet_request(protocol, Family::Ipv4, 1 << 10, depth).expect("a request");
        let brief = ask(Protocol::Tcp, Depth::default());
        assert_eq!((brief.len(), &brief[..8]), (56, &[2, 6, 0b1010, 0, 0, 4, 0, 0][..]));
        assert_eq!(ask(Protocol::Tcp, WHOLE)[2], 0b100_1010);
        assert_eq!(ask(Protocol::Udp, Depth::default())[2], 0b100_0000);
        // Multipath TCP's number does not fit: an attribute has it.
        assert_eq!(ask(Protocol::Mptcp, WHOLE)[56..], [8, 0, 3, 0, 6, 1, 0, 0]);
        assert_eq!(inet_request(Protocol::Unix, Family::Ipv4, 1, WHOLE), None);
    }
}
