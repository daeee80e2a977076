//! Asking whether something is allowed, without doing it to anybody.

use agent_session::Access;
use nix::sys::ptrace;
use nix::unistd::Pid;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType};

use crate::{Cause, Failure, Process, Run};

impl Run {
    /// Whether a packet socket (packet(7)) may be opened. It is bound to nothing
    /// and closed at once.
    ///
    /// # Errors
    ///
    /// EPERM without CAP_NET_RAW.
    pub fn may_capture(&self) -> Result<(), Failure> {
        let fail = |cause: Cause| Failure::new("socket(AF_PACKET)", cause);
        self.permit(Access::Socket, &"socket(AF_PACKET)").map_err(|refusal| fail(refusal.into()))?;
        // Protocol 0: no packet is ever delivered to it.
        rustix::net::socket_with(AddressFamily::PACKET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)
            .map(drop)
            .map_err(|errno| fail(errno.into()))
    }
}

impl Process<'_> {
    /// Whether its threads may be held with ptrace(2). None is: the access check is
    /// that of opening `mem` (both PTRACE_MODE_ATTACH), and whether the system call
    /// itself gets through is asked with a process that cannot exist.
    ///
    /// # Errors
    ///
    /// What a stop would say.
    pub fn may_stop(&self) -> Result<(), Failure> {
        self.memory()?;
        match ptrace::interrupt(Pid::from_raw(i32::MAX)) {
            Err(nix::errno::Errno::ESRCH) => Ok(()),
            Ok(()) => Ok(()),
            Err(errno) => Err(Failure {
                path: "ptrace".into(),
                cause: Errno::from_raw_os_error(errno as i32).into(),
                pid: Some(self.pid()),
            }),
        }
    }

    /// Whether files can be opened below its root directory.
    ///
    /// # Errors
    ///
    /// When the link may not be followed.
    pub fn may_enter_root(&self) -> Result<(), Failure> {
        use rustix::fs::OFlags;
        // Not NOFOLLOW: the link is the door.
        self.run()
            .permit(Access::Open, &format_args!("{}/root", self.path()))
            .map_err(|refusal| self.failure("root", refusal))?;
        rustix::fs::openat(
            self.fd(),
            &*self.place("root"),
            OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
            rustix::fs::Mode::empty(),
        )
        .map(drop)
        .map_err(|errno| self.failure("root", errno))
    }

    /// Whether the file `name` of it can be opened. It is not read.
    ///
    /// # Errors
    ///
    /// When it cannot.
    pub fn may_open(&self, name: &str) -> Result<(), Failure> {
        self.open(Access::Open, name, rustix::fs::OFlags::RDONLY).map(drop)
    }
}
