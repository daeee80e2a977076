//! The tables of `/proc/PID/net` (proc_pid_net(5)): what there is where sock_diag(7)
//! cannot be asked.

use agent_system::parse::{hex, number};

use super::socket::{Detail, Socket, UnixDetail};
use super::words::{Family, Protocol, State};

/// The words of a line.
fn fields(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    line.split(|b| *b == b' ').filter(|field| !field.is_empty())
}

/// `A:B`, both hexadecimal.
fn pair(field: &[u8]) -> Option<(u32, u32)> {
    let colon = field.iter().position(|b| *b == b':')?;
    Some((hex(&field[..colon])?.try_into().ok()?, hex(&field[colon + 1..])?.try_into().ok()?))
}

/// `ADDRESS:PORT`: the address as words in the machine's order.
fn endpoint(field: &[u8]) -> Option<(Family, [u8; 16], u32)> {
    let colon = field.iter().position(|b| *b == b':')?;
    let mut address = [0; 16];
    let family = match colon {
        8 => Family::Ipv4,
        32 => Family::Ipv6,
        _ => return None,
    };
    for (word, bytes) in field[..colon].chunks(8).zip(address.chunks_mut(4)) {
        bytes.copy_from_slice(&u32::try_from(hex(word)?).ok()?.to_ne_bytes());
    }
    Some((family, address, hex(&field[colon + 1..])?.try_into().ok()?))
}

/// A line of `tcp`, `udp`, `udplite`, `icmp`, `raw`, or one of these with a 6
/// behind it; `None` for the heading, and for what breaks the format.
pub(crate) fn inet_socket(protocol: Protocol, line: &[u8]) -> Option<Socket> {
    let mut fields = fields(line);
    fields.next()?.strip_suffix(b":")?;
    let (family, local, local_port) = endpoint(fields.next()?)?;
    let (_, remote, remote_port) = endpoint(fields.next()?)?;
    let state = State::of(hex(fields.next()?)?.try_into().ok()?);
    let (send, receive) = pair(fields.next()?)?;
    let (timer, ticks) = pair(fields.next()?)?;
    let retransmits = hex(fields.next()?)?;
    let mut socket = Socket::new(protocol, Some(family));
    (socket.local, socket.local_port, socket.remote, socket.remote_port) = (local, local_port, remote, remote_port);
    socket.state = Some(state);
    socket.uid = Some(number(fields.next()?)?).into();
    let probes: u64 = number(fields.next()?)?;
    socket.inode = number(fields.next()?)?;
    socket.receive_queue = Some(receive).into();
    // Of a listener it is 0, and not the limit of its backlog.
    socket.send_queue = (state != State::Listen).then_some(send).into();
    if protocol == Protocol::Tcp {
        socket.timer = timer.min(255) as u8;
        socket.retries = if timer == 1 { retransmits } else { probes }.min(255) as u8;
        // Clock ticks of proc(5): 100 a second on every architecture that counts.
        socket.timer_ms = ticks.saturating_mul(10);
        // After references, the kernel's address, rto, ato and flags.
        if let Some(window) = fields.nth(5).and_then(number)
            && state != State::Listen
        {
            // -1 is "no threshold yet"; so is what does not fit.
            let threshold = fields.next().and_then(number::<u32>).unwrap_or(u32::MAX);
            socket.detail = Detail::TcpTable(window, threshold);
        }
    } else {
        // After references and the kernel's address.
        socket.drops = fields.nth(2).and_then(number).into();
    }
    Some(socket)
}

/// Reads `unix`, line by line. A path may hold newlines, so that a line without a
/// beginning of its own belongs to the path before. (Whoever binds a path can thereby
/// forge lines here; sock_diag(7) is not so fooled, and is preferred.)
#[derive(Debug, Default)]
pub(crate) struct UnixTable {
    last: Option<(Socket, Vec<u8>)>,
}

impl UnixTable {
    /// Takes a line; the socket is the one before, which is whole now.
    pub(crate) fn line(&mut self, line: &[u8]) -> Option<Socket> {
        match unix_socket(line) {
            Some(next) => self.last.replace(next).map(whole),
            None => {
                if let Some((_, name)) = &mut self.last {
                    name.push(b'\n');
                    name.extend(line);
                }
                None
            }
        }
    }

    /// The last socket.
    pub(crate) fn end(self) -> Option<Socket> {
        self.last.map(whole)
    }
}

fn whole((mut socket, name): (Socket, Vec<u8>)) -> Socket {
    socket.detail = Detail::Unix(Box::new(UnixDetail { name: name.into(), ..UnixDetail::default() }));
    socket
}

/// The socket in a line, and as much of its name as the line holds.
fn unix_socket(line: &[u8]) -> Option<(Socket, Vec<u8>)> {
    /// __SO_ACCEPTCON of linux/net.h.
    const LISTENS: u64 = 1 << 16;
    let mut rest = line;
    let mut next = || {
        let start = rest.iter().position(|b| *b != b' ')?;
        let end = rest[start..].iter().position(|b| *b == b' ').map_or(rest.len(), |length| start + length);
        let field = &rest[start..end];
        rest = &rest[end..];
        Some(field)
    };
    let address = next()?.strip_suffix(b":")?;
    hex(address).filter(|_| address.len() >= 8)?;
    hex(next()?)?;
    hex(next()?)?;
    let flags = hex(next()?)?;
    let mut socket = Socket::new(Protocol::Unix, Some(Family::Unix));
    socket.kind = hex(next()?)?.try_into().ok()?;
    // SS_* of linux/net.h: a socket that was not accepted yet is "connecting" or
    // "disconnecting".
    socket.state = Some(match hex(next()?)? {
        1 if flags & LISTENS != 0 => State::Listen,
        2 | 3 => State::Established,
        1 | 4 => State::Unconnected,
        _ => State::Unknown,
    });
    socket.inode = number(next()?)?;
    // One space, then the name. The kernel writes `@` for a NUL byte.
    let name = rest.strip_prefix(b" ").unwrap_or_default();
    let name = match name.split_first() {
        Some((b'@', name)) => [&[0], name].concat(),
        _ => name.to_vec(),
    };
    Some((socket, name))
}

/// A line of `packet`.
pub(crate) fn packet_socket(line: &[u8]) -> Option<Socket> {
    let mut fields = fields(line);
    let mut next = || fields.next();
    hex(next()?)?;
    next()?;
    let mut socket = Socket::new(Protocol::Packet, Some(Family::Packet));
    socket.kind = number(next()?)?;
    let protocol = u16::try_from(hex(next()?)?).ok()?;
    socket.interface = number(next()?)?;
    let running = number::<u32>(next()?)? != 0;
    socket.receive_queue = Some(number(next()?)?).into();
    socket.uid = Some(number(next()?)?).into();
    socket.inode = number(next()?)?;
    socket.detail = Detail::Packet { protocol, running };
    Some(socket)
}

/// A line of `netlink`; the kernel's own sockets, which have no port, are left out.
pub(crate) fn netlink_socket(line: &[u8]) -> Option<Socket> {
    let mut fields = fields(line);
    let mut next = || fields.next();
    hex(next()?)?;
    let protocol = number(next()?)?;
    let port = number::<u32>(next()?)?;
    let groups = u32::try_from(hex(next()?)?).ok()?;
    let mut socket = Socket::new(Protocol::Netlink, Some(Family::Netlink));
    socket.receive_queue = Some(number(next()?)?).into();
    socket.send_queue = Some(number(next()?)?).into();
    next()?;
    next()?;
    socket.drops = Some(number(next()?)?).into();
    socket.inode = number(next()?)?;
    socket.detail = Detail::Netlink { protocol, port, groups };
    (port != 0).then_some(socket)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn row(socket: Socket) -> Value {
        serde_json::to_value(socket).expect("serializable")
    }

    #[test]
    fn reads_a_listener_and_a_connection() {
        let listener = b"   0: 00000000:07E8 00000000:0000 0A 00000000:00000002 00:00000000 00000000     0        0 1125 1 0000000059e7608b 100 0 0 10 0";
        assert_eq!(
            row(inet_socket(Protocol::Tcp, listener).expect("parses")),
            json!({"protocol": "tcp", "family": "ipv4", "state": "listen", "backlog": 2, "local_address": "0.0.0.0",
                "local_port": 2024, "uid": 0, "inode": "1125"})
        );
        let connection = b"   1: 020200C0:C17A 507100CB:01BB 01 00000010:00000020 02:00000007 00000001     5        3 161415 1 00000000195586f6 21 4 1 50 146";
        assert_eq!(
            row(inet_socket(Protocol::Tcp, connection).expect("parses")),
            json!({"protocol": "tcp", "family": "ipv4", "state": "established", "receive_queue_bytes": 32,
                "send_queue_bytes": 16, "local_address": "192.0.2.2", "local_port": 49530,
                "remote_address": "203.0.113.80", "remote_port": 443, "uid": 5, "inode": "161415",
                "timer": {"kind": "keepalive", "retries": 3},
                "tcp": {"congestion_window": 50, "slow_start_threshold": 146}})
        );
    }

    #[test]
    fn a_socket_in_time_wait_has_no_inode_and_fewer_fields() {
        let line = b"   3: 0100007F:1F90 0100007F:9C40 06 00000000:00000000 03:00000F1E 00000000     0        0 0 3 00000000d5f0b2b4";
        let mut socket = inet_socket(Protocol::Tcp, line).expect("parses");
        socket.depth.volatile = true;
        let row = row(socket);
        assert_eq!(row["state"], "time_wait");
        assert_eq!(row.get("inode"), None);
        assert_eq!(row["timer"], json!({"kind": "time_wait", "retries": 0, "expires_us": 38_700_000}));
    }

    #[test]
    fn reads_ipv6_and_mapped_ipv4() {
        let line = b"  12: 0000000000000000FFFF00000100007F:1F90 00000000000000000000000001000000:E0D2 01 00000000:00000000 00:00000000 00000000  1000        0 99 2 0000000000000000 20 4 30 10 -1";
        let row = row(inet_socket(Protocol::Tcp, line).expect("parses"));
        assert_eq!((&row["local_address"], &row["remote_address"]), (&json!("::ffff:127.0.0.1"), &json!("::1")));
        assert_eq!((&row["family"], &row["local_port"]), (&json!("ipv6"), &json!(8080)));
        assert_eq!(row["tcp"], json!({"congestion_window": 10}));
    }

    #[test]
    fn reads_udp_with_drops_and_raw_with_its_protocol() {
        let line = b" 1234: 0100007F:0035 00000000:0000 07 00000000:00000300 00:00000000 00000000   101        0 15623 2 0000000000000000 17";
        let udp = row(inet_socket(Protocol::Udp, line).expect("parses"));
        assert_eq!(
            (&udp["state"], &udp["drops"], &udp["receive_queue_bytes"]),
            (&json!("unconnected"), &json!(17), &json!(768))
        );
        let line = b"   1: 00000000:0001 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 44120 2 0000000000000000 0";
        let raw = row(inet_socket(Protocol::Raw, line).expect("parses"));
        assert_eq!((&raw["ip_protocol"], raw.get("local_port")), (&json!(1), None));
    }

    #[test]
    fn reads_unix_names_with_anything_in_them() {
        let text: &[u8] = b"Num       RefCount Protocol Flags    Type St Inode Path\n\
            0000000051da25d5: 00000003 00000000 00000000 0001 03 161769\n\
            00000000c9619e25: 00000002 00000000 00010000 0001 01 17 /run/a b\n\
            second line\n\
            \n\
            000000001328dc5f: 00000002 00000000 00000000 0002 01 161771 @abs@tract\n\
            00000000e02cece6: 00000002 00000000 00000000 0005 02 0 /x";
        let mut table = UnixTable::default();
        let mut rows: Vec<Value> = text.split(|b| *b == b'\n').filter_map(|line| table.line(line)).map(row).collect();
        rows.extend(table.end().map(row));
        let line = |at: usize, key: &str| rows[at].get(key).cloned().unwrap_or(Value::Null);
        assert_eq!(rows.len(), 4);
        assert_eq!(
            (line(0, "state"), line(0, "path"), line(0, "type")),
            (json!("established"), Value::Null, json!("stream"))
        );
        assert_eq!((line(1, "state"), line(1, "path")), (json!("listen"), json!("/run/a b\\x0asecond line\\x0a")));
        assert_eq!((line(2, "abstract_name"), line(2, "type")), (json!("abs@tract"), json!("datagram")));
        assert_eq!(
            (line(3, "state"), line(3, "inode"), line(3, "type")),
            (json!("established"), Value::Null, json!("seqpacket"))
        );
    }

    #[test]
    fn reads_packet_and_netlink_sockets() {
        let line = b"00000000f1b4c6d2 3      3    0003   2     1 4096   0      52511 ";
        assert_eq!(
            row(packet_socket(line).expect("parses")),
            json!({"protocol": "packet", "family": "packet", "type": "raw", "receive_queue_bytes": 4096, "uid": 0,
                "inode": "52511", "interface_index": 2, "ethernet_protocol": 3, "running": true})
        );
        let line = b"00000000147dd90f 15  4117       00000005 12       0        0     2        7        500     ";
        assert_eq!(
            row(netlink_socket(line).expect("parses")),
            json!({"protocol": "netlink", "family": "netlink", "receive_queue_bytes": 12, "send_queue_bytes": 0,
                "inode": "500", "netlink_protocol": 15, "netlink_name": "kobject_uevent", "port_id": 4117,
                "groups": "0x5", "drops": 7})
        );
        let kernel = b"000000008365f98b 0   0          00000000 0        0        0     2        0        4       ";
        assert_eq!(netlink_socket(kernel), None);
    }

    #[test]
    fn headings_and_garbage_are_no_sockets_and_never_panic() {
        let lines: [&[u8]; 7] = [
            b"  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode",
            b"sk               RefCnt Type Proto  Iface R Rmem   User   Inode",
            b"sk               Eth Pid        Groups   Rmem     Wmem     Dump  Locks    Drops    Inode",
            b"",
            b"   0: 0:0 0:0 0A 0:0",
            b"\xff\xfe: : : : : : : :",
            b"   0: ZZZZZZZZ:07E8 00000000:0000 0A 00000000:00000002 00:00000000 00000000     0        0 1125 1",
        ];
        let whole = b"   0: 00000000:07E8 00000000:0000 0A 00000000:00000002 00:00000000 00000000     0        0 1125 1 0 1 2 3 4 5";
        for line in lines {
            assert_eq!(inet_socket(Protocol::Tcp, line), None);
            assert_eq!(packet_socket(line), None);
            assert_eq!(netlink_socket(line), None);
            assert!(unix_socket(line).is_none());
        }
        for end in 0..whole.len() {
            let _ = (inet_socket(Protocol::Tcp, &whole[..end]), unix_socket(&whole[..end]));
            let _ = (packet_socket(&whole[..end]), netlink_socket(&whole[..end]));
        }
    }
}
