//! Whether two descriptors are one open file description: kcmp(2).

use std::cmp::Ordering;

use agent_session::Access;
use nix::libc;
use rustix::io::Errno;

use crate::{Cause, Failure, Process};

/// `KCMP_FILE` of linux/kcmp.h.
const KCMP_FILE: libc::c_int = 0;

impl Process<'_> {
    /// Compares the open file descriptions of its descriptors `fd` and `other`: they
    /// are one if they are equal. Otherwise it is an order that means nothing, but by
    /// which many can be sorted.
    ///
    /// # Errors
    ///
    /// When ptrace(2)'s access check says no, the kernel was built without kcmp(2), a
    /// descriptor is gone (EBADF), or in a recorded tree.
    pub fn compare_descriptions(&self, fd: u32, other: u32) -> Result<Ordering, Failure> {
        let fail = |cause: Cause| Failure { path: "kcmp".into(), cause, pid: Some(self.pid()) };
        if !self.run().is_live() {
            return Err(fail(Cause::Unsupported("a recorded tree has no open file descriptions")));
        }
        self.permit(Access::Process, "kcmp")?;
        // The system call takes a pid, which may be another's by now: who asks looks
        // at the end whether the process is still there.
        let pid = libc::c_long::from(self.pid());
        let (fd, other) = (libc::c_ulong::from(fd), libc::c_ulong::from(other));
        // SAFETY: kcmp(2) takes five numbers, and reads and writes no memory of ours.
        let result = unsafe { libc::syscall(libc::SYS_kcmp, pid, pid, KCMP_FILE, fd, other) };
        match result {
            0 => Ok(Ordering::Equal),
            1 => Ok(Ordering::Less),
            2 => Ok(Ordering::Greater),
            // 3: not equal, and in no order that the kernel would tell.
            3.. => Err(fail(Cause::Unsupported("this kernel gives no order"))),
            _ => Err(fail(Cause::Os(Errno::from_raw_os_error(nix::errno::Errno::last_raw())))),
        }
    }
}
