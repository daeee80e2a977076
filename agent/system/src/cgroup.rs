//! Directories of a control group file system (cgroups(7)), in the target's view
//! or in our own.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use agent_model::Text;
use agent_session::Access;
use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;

use crate::root::open_regular;
use crate::walk::{Links, open_below};
use crate::{Cause, Failure, Process, Run};

/// The most that [`CgroupDirectory::read`] reads of one file: the largest, those
/// with a line a device, are some KiB.
pub const LARGEST_CGROUP_FILE: usize = 1 << 20;

/// What statfs(2) says of cgroup v1 and of v2 (linux/magic.h).
const MAGIC: [u64; 2] = [0x0027_e0eb, 0x6367_7270];

/// The directory of one control group, held open.
///
/// Whatever the target has put into its mount namespace: lookups stay below its
/// root directory, the directory is one of cgroupfs (of a recorded tree: any
/// directory), and only regular files are opened.
#[derive(Debug, Clone)]
pub struct CgroupDirectory<'r> {
    run: &'r Run,
    fd: Arc<OwnedFd>,
    path: Vec<u8>,
    pid: Option<u32>,
}

impl<'r> Process<'r> {
    /// The directory that is mounted at `point` in the process's mount namespace,
    /// below its root directory out of which no link leads.
    ///
    /// # Errors
    ///
    /// When its root may not be entered (ptrace access), or when there is no control
    /// group file system at `point`.
    pub fn cgroup_mount(&self, point: &[u8]) -> Result<CgroupDirectory<'r>, Failure> {
        let path = [self.path().as_bytes(), b"/root", point].concat();
        let fail = |cause: Cause| Failure { path: Text::from_bytes(&path), cause, pid: Some(self.pid()) };
        self.run().permit(Access::List, &Text::from_bytes(&path)).map_err(|refusal| fail(refusal.into()))?;
        let root = self.root_directory()?;
        mounted(self.run(), &root, point, path, Some(self.pid()))
    }
}

impl Run {
    /// The directory that is mounted at `point` in our own mount namespace.
    ///
    /// # Errors
    ///
    /// When there is no control group file system, or when a recorded tree is looked
    /// at: ours has nothing to do with that.
    pub fn own_cgroup_mount(&self, point: &[u8]) -> Result<CgroupDirectory<'_>, Failure> {
        let fail = |cause: Cause| Failure::new(Text::from_bytes(point), cause);
        if !self.is_live() {
            return Err(fail(Cause::Unsupported("a recorded tree is not about this machine")));
        }
        self.permit(Access::List, &Text::from_bytes(point)).map_err(|refusal| fail(refusal.into()))?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::openat(CWD, c"/", flags, Mode::empty()).map_err(|errno| fail(errno.into()))?;
        mounted(self, &root, point, point.to_vec(), None)
    }
}

fn mounted<'r>(
    run: &'r Run,
    root: &OwnedFd,
    point: &[u8],
    path: Vec<u8>,
    pid: Option<u32>,
) -> Result<CgroupDirectory<'r>, Failure> {
    let open = || {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = open_below(root, point, flags, Links::InRoot)?;
        if run.is_live() && !MAGIC.contains(&(rustix::fs::fstatfs(&fd)?.f_type as u64)) {
            return Err(Cause::Unsupported("another file system hides the control groups"));
        }
        Ok(fd)
    };
    match open() {
        Ok(fd) => Ok(CgroupDirectory { run, fd: Arc::new(fd), path, pid }),
        Err(cause) => Err(Failure { path: Text::from_bytes(&path), cause, pid }),
    }
}

impl CgroupDirectory<'_> {
    /// Where it is.
    pub fn path(&self) -> Text {
        Text::from_bytes(&self.path)
    }

    fn below(&self, name: &[u8]) -> Vec<u8> {
        if name.is_empty() { self.path.clone() } else { [&self.path, b"/".as_slice(), name].concat() }
    }

    fn failure(&self, name: &[u8], cause: impl Into<Cause>) -> Failure {
        Failure { path: Text::from_bytes(&self.below(name)), cause: cause.into(), pid: self.pid }
    }

    /// The group `relative` below it; itself for an empty path.
    ///
    /// # Errors
    ///
    /// When there is no such group, or another file system is mounted over it.
    pub fn group(&self, relative: &[u8]) -> Result<Self, Failure> {
        if relative.is_empty() {
            return Ok(self.clone());
        }
        let fail = |cause: Cause| self.failure(relative, cause);
        let path = self.below(relative);
        self.run.permit(Access::List, &Text::from_bytes(&path)).map_err(|refusal| fail(refusal.into()))?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = open_below(&*self.fd, relative, flags, INSIDE).map_err(|errno| fail(errno.into()))?;
        Ok(Self { run: self.run, fd: Arc::new(fd), path, pid: self.pid })
    }

    /// Reads the file `name` whole; `into` is cleared first.
    ///
    /// # Errors
    ///
    /// When it is not there, is no regular file, cannot be read (ENODEV: the group
    /// was removed meanwhile), or is larger than [`LARGEST_CGROUP_FILE`].
    pub fn read(&self, name: &str, into: &mut Vec<u8>) -> Result<(), Failure> {
        let fail = |cause: Cause| self.failure(name.as_bytes(), cause);
        self.run
            .permit(Access::Open, &Text::from_bytes(&self.below(name.as_bytes())))
            .map_err(|refusal| fail(refusal.into()))?;
        let (file, _) = open_regular(&self.fd, name.as_bytes(), INSIDE, &|_| false).map_err(fail)?;
        into.clear();
        loop {
            if into.len() > LARGEST_CGROUP_FILE {
                return Err(fail(Cause::TooLarge(LARGEST_CGROUP_FILE)));
            }
            if into.capacity() - into.len() < 512 {
                into.reserve(into.len().max(4096));
            }
            match rustix::io::read(&file, rustix::buffer::spare_capacity(into)) {
                Ok(0) => break,
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => return Err(fail(errno.into())),
            }
        }
        self.run.ledger().read(into.len());
        Ok(())
    }
}

/// A control group file system has no links, and nothing is mounted in it.
const INSIDE: Links = Links::NoneNorMounts;
