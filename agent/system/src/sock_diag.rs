//! Socket diagnostics of our network namespace (sock_diag(7)).

use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;

use agent_session::Access;
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink};

use crate::{Cause, Failure, Run};

/// Netlink message types and flags (linux/netlink.h, linux/sock_diag.h).
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_DUMP_INTR: u16 = 0x10;
const NLM_F_DUMP: u16 = 0x300;
const HEADER: usize = 16;

/// The kernel makes its packets as large as our buffer, but no larger than 32 KiB.
const BUFFER: usize = 32 << 10;

/// A socket for diagnostics.
#[derive(Debug)]
pub struct SockDiag<'r> {
    run: &'r Run,
    socket: OwnedFd,
    sequence: u32,
    buffer: Vec<MaybeUninit<u8>>,
}

/// How a dump ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Dumped {
    /// The table changed while it was dumped: some sockets may be missing or
    /// twice.
    pub interrupted: bool,
}

fn fail(cause: impl Into<Cause>) -> Failure {
    Failure::new("sock_diag", cause)
}

impl<'r> SockDiag<'r> {
    /// Opens a socket for diagnostics.
    ///
    /// # Errors
    ///
    /// When the kernel has none (CONFIG_INET_DIAG), or seccomp forbids it.
    pub fn open(run: &'r Run) -> Result<Self, Failure> {
        if !run.is_live() {
            return Err(fail(Cause::Unsupported("a recorded tree has no kernel to ask")));
        }
        run.permit(Access::Socket, &"sock_diag").map_err(fail)?;
        let protocol = Some(netlink::SOCK_DIAG);
        let socket = rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, protocol)
            .map_err(fail)?;
        Ok(Self { run, socket, sequence: 0, buffer: vec![MaybeUninit::uninit(); BUFFER] })
    }

    /// Asks for all sockets that `request` describes (a `struct inet_diag_req_v2`,
    /// `unix_diag_req`, …, and its attributes), and hands the payload of each
    /// answer to `each`.
    ///
    /// # Errors
    ///
    /// When the kernel refuses: ENOENT or EOPNOTSUPP where it lacks the
    /// diagnostics of this family or protocol. Answers before that were handed out.
    pub fn dump(&mut self, request: &[u8], mut each: impl FnMut(&[u8])) -> Result<Dumped, Failure> {
        self.sequence += 1;
        // With the kernel's address: what has none is not sent (crate::confine).
        let kernel = netlink::SocketAddrNetlink::new(0, 0);
        rustix::net::sendto(&self.socket, &message(self.sequence, request), SendFlags::empty(), &kernel)
            .map_err(fail)?;
        let mut dumped = Dumped::default();
        loop {
            if let Some(refusal) = self.run.refusal() {
                return Err(fail(refusal));
            }
            // TRUNC: the length of the packet, and not of what fitted.
            let (packet, length) = match rustix::net::recv(&self.socket, &mut *self.buffer, RecvFlags::TRUNC) {
                Ok(((packet, _), length)) => (&*packet, length),
                Err(Errno::INTR) => continue,
                Err(errno) => return Err(fail(errno)),
            };
            self.run.ledger().read(packet.len());
            if length > packet.len() {
                return Err(fail(Cause::Malformed("a netlink packet of more than 32 KiB")));
            }
            if packet.is_empty() || read(packet, self.sequence, &mut dumped, &mut each).map_err(fail)? {
                return Ok(dumped);
            }
        }
    }
}

/// A netlink message: its header and `request`.
fn message(sequence: u32, request: &[u8]) -> Vec<u8> {
    let length = HEADER + request.len();
    let mut message = Vec::with_capacity(length);
    message.extend((length as u32).to_ne_bytes());
    message.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    message.extend((NLM_F_REQUEST | NLM_F_DUMP).to_ne_bytes());
    message.extend(sequence.to_ne_bytes());
    // The sender: the kernel fills it in.
    message.extend(0_u32.to_ne_bytes());
    message.extend(request);
    message
}

/// Hands the payload of each answer to request `sequence` in `packet` to `each`;
/// true when it was the last.
fn read(packet: &[u8], sequence: u32, dumped: &mut Dumped, each: &mut impl FnMut(&[u8])) -> Result<bool, Cause> {
    let mut rest = packet;
    while let Some(header) = rest.get(..HEADER) {
        let word = |at: usize| u32::from_ne_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        let length = word(0) as usize;
        let kind = u16::from_ne_bytes([header[4], header[5]]);
        let flags = u16::from_ne_bytes([header[6], header[7]]);
        let Some(payload) = rest.get(HEADER..length) else {
            return Err(Cause::Malformed("a netlink message longer than its packet"));
        };
        // What an earlier dump, given up half-way, has left.
        if word(8) == sequence {
            dumped.interrupted |= flags & NLM_F_DUMP_INTR != 0;
            match kind {
                // Both carry an error number, negative or 0: a dump that fails after
                // it was begun (a protocol without diagnostics) ends with DONE.
                NLMSG_ERROR | NLMSG_DONE => {
                    let code = payload.get(..4).map_or(0, |c| i32::from_ne_bytes([c[0], c[1], c[2], c[3]]));
                    return if code < 0 { Err(Errno::from_raw_os_error(-code).into()) } else { Ok(kind == NLMSG_DONE) };
                }
                _ => each(payload),
            }
        }
        rest = rest.get((length + 3) & !3..).unwrap_or_default();
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(parts: &[(u16, u16, u32, &[u8])]) -> Vec<u8> {
        let mut packet = Vec::new();
        for (kind, flags, sequence, payload) in parts {
            packet.extend((HEADER as u32 + payload.len() as u32).to_ne_bytes());
            packet.extend(kind.to_ne_bytes());
            packet.extend(flags.to_ne_bytes());
            packet.extend(sequence.to_ne_bytes());
            packet.extend([0; 4]);
            packet.extend(*payload);
            packet.resize(packet.len().next_multiple_of(4), 0);
        }
        packet
    }

    fn payloads(packet: &[u8]) -> (Result<bool, String>, Vec<Vec<u8>>, bool) {
        let (mut seen, mut dumped) = (Vec::new(), Dumped::default());
        let result = read(packet, 7, &mut dumped, &mut |payload| seen.push(payload.to_vec()));
        (result.map_err(|cause| cause.to_string()), seen, dumped.interrupted)
    }

    #[test]
    fn answers_of_another_dump_are_left_out() {
        let bytes = packet(&[(20, 2, 6, b"old"), (20, 2, 7, b"12345"), (20, 0x12, 7, b"x"), (3, 2, 7, &[0; 4])]);
        assert_eq!(payloads(&bytes), (Ok(true), vec![b"12345".to_vec(), b"x".to_vec()], true));
    }

    #[test]
    fn a_protocol_without_diagnostics_is_an_error_and_no_empty_table() {
        for kind in [NLMSG_DONE, NLMSG_ERROR] {
            let bytes = packet(&[(kind, 2, 7, &(-2_i32).to_ne_bytes())]);
            assert_eq!(payloads(&bytes).0, Err("ENOENT".to_owned()));
        }
    }

    #[test]
    fn truncated_packets_never_panic() {
        let bytes = packet(&[(20, 2, 7, b"12345"), (3, 2, 7, &[0; 4])]);
        for end in 0..bytes.len() {
            let _ = payloads(&bytes[..end]);
        }
        assert!(payloads(&[0; 64]).0.is_err());
    }
}
