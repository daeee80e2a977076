//! Socket diagnostics of our network namespace (sock_diag(7)).

use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;

use agent_session::Access;
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink};

use crate::{Cause, Failure, Run};

/// Netlink message types and flags (linux/netlink.h).
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_DUMP_INTR: u16 = 0x10;
const HEADER: usize = 16;

/// A socket for diagnostics.
#[derive(Debug)]
pub struct SockDiag<'r> {
    run: &'r Run,
    socket: OwnedFd,
}

/// How a dump ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Dumped {
    /// The table changed while it was dumped: some sockets may be missing or
    /// twice.
    pub interrupted: bool,
}

impl<'r> SockDiag<'r> {
    /// Opens a socket for diagnostics.
    ///
    /// # Errors
    ///
    /// When the kernel has none (CONFIG_INET_DIAG), or seccomp forbids it.
    pub fn open(run: &'r Run) -> Result<Self, Failure> {
        let fail = |cause: Cause| Failure::new("sock_diag", cause);
        if !run.is_live() {
            return Err(fail(Cause::Unsupported("a recorded tree has no kernel to ask")));
        }
        run.permit(Access::Socket, &"sock_diag").map_err(|refusal| fail(refusal.into()))?;
        let protocol = Some(netlink::SOCK_DIAG);
        let socket = rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, protocol)
            .map_err(|errno| fail(errno.into()))?;
        Ok(Self { run, socket })
    }

    /// Sends `request`, one netlink message with NLM_F_DUMP set, and hands the
    /// payload of each answer to `each`.
    ///
    /// # Errors
    ///
    /// When the kernel refuses: EOPNOTSUPP or ENOENT where it lacks the family's
    /// diagnostics.
    pub fn dump(&self, request: &[u8], mut each: impl FnMut(&[u8])) -> Result<Dumped, Failure> {
        let fail = |cause: Cause| Failure::new("sock_diag", cause);
        let os = |errno: Errno| fail(errno.into());
        rustix::net::send(&self.socket, request, SendFlags::empty()).map_err(os)?;
        let mut dumped = Dumped::default();
        let mut buffer = vec![MaybeUninit::<u8>::uninit(); 64 << 10];
        loop {
            if self.run.is_over() {
                return Err(fail(agent_session::Refusal::Deadline.into()));
            }
            let received = match rustix::net::recv(&self.socket, &mut *buffer, RecvFlags::empty()) {
                Ok(((bytes, _), _)) => bytes,
                Err(Errno::INTR) => continue,
                Err(errno) => return Err(os(errno)),
            };
            self.run.ledger().read(received.len());
            let mut rest: &[u8] = received;
            while let Some(header) = rest.get(..HEADER) {
                let word = |at: usize| u32::from_ne_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
                let length = word(0) as usize;
                let kind = u16::from_ne_bytes([header[4], header[5]]);
                let flags = u16::from_ne_bytes([header[6], header[7]]);
                let Some(payload) = rest.get(HEADER..length) else {
                    return Err(fail(Cause::Malformed("a netlink message longer than its packet")));
                };
                dumped.interrupted |= flags & NLM_F_DUMP_INTR != 0;
                match kind {
                    NLMSG_DONE => return Ok(dumped),
                    NLMSG_ERROR => {
                        let code = payload.get(..4).map_or(0, |c| i32::from_ne_bytes([c[0], c[1], c[2], c[3]]));
                        return Err(os(Errno::from_raw_os_error(-code)));
                    }
                    _ => each(payload),
                }
                rest = rest.get((length + 3) & !3..).unwrap_or_default();
            }
        }
    }
}
