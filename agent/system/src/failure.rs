//! What went wrong with one access.

use agent_model::{Gap, Reason, Text};
use agent_session::Refusal;
use rustix::io::Errno;

/// One access that did not succeed.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{path}: {cause}")]
pub struct Failure {
    /// The file or the system call.
    pub path: Text,
    /// What happened.
    pub cause: Cause,
    /// The process it is about, so that the denial can be explained.
    pub pid: Option<u32>,
}

/// Why an access did not succeed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Cause {
    /// The kernel said no.
    #[error("{}", errno_name(*.0))]
    Os(Errno),
    /// The process or thread has ended.
    #[error("it has ended")]
    Exited,
    /// The mount of proc(5) hides other users' processes.
    #[error("proc is mounted with hidepid")]
    Hidden,
    /// The session said no.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The content breaks its format.
    #[error("malformed: {0}")]
    Malformed(&'static str),
    /// What a person wrote is not as it should be: why, and where.
    #[error("{0}")]
    Invalid(String),
    /// This kernel, or a recorded tree, cannot give it.
    #[error("unsupported: {0}")]
    Unsupported(&'static str),
    /// It is larger than the agent reads.
    #[error("larger than {0} bytes")]
    TooLarge(usize),
    /// It did not come in time.
    #[error("timed out: {0}")]
    Timeout(&'static str),
}

impl Failure {
    /// A failure of `path`.
    pub fn new(path: impl Into<Text>, cause: impl Into<Cause>) -> Self {
        Self { path: path.into(), cause: cause.into(), pid: None }
    }

    /// The error number of the system call, if it was one that failed.
    pub fn errno(&self) -> Option<Errno> {
        match self.cause {
            Cause::Os(errno) => Some(errno),
            _ => None,
        }
    }

    /// True when the kernel denied it (EACCES or EPERM), or hides it.
    pub fn is_denied(&self) -> bool {
        matches!(self.cause, Cause::Os(Errno::ACCESS | Errno::PERM) | Cause::Hidden)
    }

    /// True when the session did not allow it.
    pub fn is_refused(&self) -> bool {
        matches!(self.cause, Cause::Refused(_))
    }

    /// True when the process or thread was gone.
    pub fn is_exited(&self) -> bool {
        matches!(self.cause, Cause::Exited | Cause::Os(Errno::SRCH))
    }

    /// True when the file is not there though its process is.
    pub fn is_not_found(&self) -> bool {
        matches!(self.cause, Cause::Os(Errno::NOENT))
    }

    /// The gap at `at`, without the keys that would open it: [`crate::Run::gap`]
    /// adds these.
    pub fn gap(&self, at: impl Into<String>) -> Gap {
        let reason = match &self.cause {
            Cause::Os(Errno::ACCESS | Errno::PERM) | Cause::Hidden => Reason::PermissionDenied,
            Cause::Os(Errno::NOENT | Errno::NODEV) => Reason::NotFound,
            Cause::Os(Errno::SRCH) | Cause::Exited => Reason::Exited,
            Cause::Os(Errno::NOSYS | Errno::OPNOTSUPP | Errno::PROTONOSUPPORT | Errno::AFNOSUPPORT)
            | Cause::Unsupported(_) => Reason::Unsupported,
            Cause::Os(Errno::TIMEDOUT) | Cause::Timeout(_) => Reason::Timeout,
            Cause::Os(_) => Reason::Incomplete,
            Cause::Refused(refusal) => refusal.reason(),
            Cause::Malformed(_) | Cause::Invalid(_) => Reason::Malformed,
            Cause::TooLarge(_) => Reason::LimitReached,
        };
        let mut gap = Gap::new(at, reason);
        gap.path = Some(self.path.clone());
        gap.errno = self.errno().map(errno_name);
        gap.detail = match &self.cause {
            Cause::Os(_) | Cause::Exited => None,
            other => Some(other.to_string()),
        };
        if let Cause::Refused(refusal) = &self.cause {
            gap.remedy = Some(refusal.remedy().to_owned());
        }
        gap
    }
}

impl From<Errno> for Cause {
    fn from(errno: Errno) -> Self {
        Self::Os(errno)
    }
}

/// The name of an error number, as errno(3) lists it.
pub fn errno_name(errno: Errno) -> String {
    format!("{:?}", nix::errno::Errno::from_raw(errno.raw_os_error()))
}
