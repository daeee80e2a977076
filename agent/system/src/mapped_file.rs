//! Files that a process has mapped, whether or not they still have a name.

use std::ops::Range;

use agent_model::Text;
use agent_session::Access;
use rustix::fs::{Mode, OFlags};
use std::os::fd::{AsFd, AsRawFd};

use crate::patience::Far;
use crate::proc::is_regular;
use crate::root::TargetFile;
use crate::{Cause, Errno, Failure, Process};

impl<'r> Process<'r> {
    /// Opens the file that its executable is (`/proc/PID/exe`), even a deleted one.
    /// Only a regular file is opened.
    ///
    /// # Errors
    ///
    /// When ptrace(2)'s access check says no, or in a recorded tree.
    pub fn open_executable(&self) -> Result<TargetFile<'r>, Failure> {
        self.open_through_link("exe")
    }

    /// Opens the file that is mapped at exactly `avma` (`/proc/PID/map_files`), even
    /// a deleted one. Only a regular file is opened.
    ///
    /// # Errors
    ///
    /// Without CAP_CHECKPOINT_RESTORE or CAP_SYS_ADMIN, or in a recorded tree.
    pub fn open_mapped(&self, avma: &Range<u64>) -> Result<TargetFile<'r>, Failure> {
        self.open_through_link(&format!("map_files/{:x}-{:x}", avma.start, avma.end))
    }

    /// These links lead to the file itself, not to a path.
    fn open_through_link(&self, name: &str) -> Result<TargetFile<'r>, Failure> {
        if !self.run().is_live() {
            return Err(self.failure(name, Cause::Unsupported("a recorded tree has no files behind its links")));
        }
        let name = &*self.place(name);
        self.permit(Access::Open, name)?;
        let fail = |errno| self.failure(name, Cause::Os(errno));
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let remote = self.run().remote(self);
        let leads_to = self.link(name).unwrap_or_default();
        let is_out_of_reach = remote.is_out_of_reach(&leads_to);
        let found = rustix::fs::openat(self.fd(), name, flags, Mode::empty()).map_err(fail)?;
        let opened = move || {
            if is_out_of_reach {
                return Err(Errno::REMOTE.into());
            }
            is_regular(&found).map_err(|_| Cause::Malformed("not a regular file"))?;
            let itself = format!("/proc/self/fd/{}", found.as_fd().as_raw_fd());
            let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
            Ok(rustix::fs::openat(rustix::fs::CWD, itself, flags, Mode::empty())?)
        };
        let fd = remote.ask(&leads_to, opened).map_err(|cause| self.failure(name, cause))?;
        let path = Text::from_bytes(format!("{}/{name}", self.path()).as_bytes());
        let far = Far::of(&remote, &leads_to);
        TargetFile::of(self.run(), path, self.pid(), fd, far).map_err(|cause| self.failure(name, cause))
    }
}
