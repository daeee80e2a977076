//! Files of the target, through its root directory.

use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use agent_model::Text;
use agent_session::Access;
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use crate::proc::is_regular;
use crate::{Cause, Failure, Process, Run};

/// A regular file of the target, open for reading.
#[derive(Debug)]
pub struct TargetFile<'r> {
    run: &'r Run,
    path: Text,
    pid: u32,
    fd: OwnedFd,
    /// Its length in bytes when it was opened.
    pub length: u64,
    /// The device that its file system is on, as stat(2) gives it.
    pub device: (u32, u32),
    /// Its inode number.
    pub inode: u64,
}

impl<'r> Process<'r> {
    /// Opens the regular file `path` as the process would see it: below its root
    /// directory, out of which no symbolic link leads (openat2(2),
    /// RESOLVE_IN_ROOT). Nothing but a regular file is ever opened for reading: a
    /// FIFO, a device or a socket in its place is refused untouched.
    ///
    /// # Errors
    ///
    /// When it is not there, may not be read, or is no regular file.
    pub fn open_in_root(&self, path: &[u8]) -> Result<TargetFile<'r>, Failure> {
        let shown = [self.path().as_bytes(), b"/root", path].concat();
        let fail = |cause: Cause| Failure { path: Text::from_bytes(&shown), cause, pid: Some(self.pid()) };
        if !self.run().is_live() {
            return Err(fail(Cause::Unsupported("a recorded tree has no files of the target")));
        }
        self.run().permit(Access::Open, &Text::from_bytes(&shown)).map_err(|refusal| fail(refusal.into()))?;
        let c_path = CString::new(path).map_err(|_| fail(Cause::Malformed("a path with a NUL byte")))?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::openat(self.fd(), c"root", flags, Mode::empty()).map_err(|errno| fail(errno.into()))?;
        let found = rustix::fs::openat2(
            root,
            &*c_path,
            OFlags::PATH | OFlags::CLOEXEC,
            Mode::empty(),
            ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
        )
        .map_err(|errno| fail(errno.into()))?;
        is_regular(&found).map_err(|_| fail(Cause::Malformed("not a regular file")))?;
        // Reopen just this file: its path may lead elsewhere by now.
        let itself = format!("/proc/self/fd/{}", found.as_fd().as_raw_fd());
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        let fd = rustix::fs::openat(CWD, itself, flags, Mode::empty()).map_err(|errno| fail(errno.into()))?;
        let stat = is_regular(&fd).map_err(|_| fail(Cause::Malformed("not a regular file")))?;
        let device = (rustix::fs::major(stat.st_dev), rustix::fs::minor(stat.st_dev));
        Ok(TargetFile {
            run: self.run(),
            path: Text::from_bytes(&shown),
            pid: self.pid(),
            fd,
            length: u64::try_from(stat.st_size).unwrap_or(0),
            device,
            inode: stat.st_ino,
        })
    }
}

impl TargetFile<'_> {
    /// Where it was found.
    pub fn path(&self) -> &Text {
        &self.path
    }

    /// Reads at `offset` until `buffer` is full or the file ends, and returns how
    /// many bytes there were.
    ///
    /// # Errors
    ///
    /// When reading fails.
    pub fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<usize, Failure> {
        let mut done = 0;
        while done < buffer.len() {
            match rustix::io::pread(&self.fd, &mut buffer[done..], offset.saturating_add(done as u64)) {
                Ok(0) => break,
                Ok(read) => done += read,
                Err(Errno::INTR) => {}
                Err(errno) => {
                    return Err(Failure { path: self.path.clone(), cause: errno.into(), pid: Some(self.pid) });
                }
            }
        }
        self.run.ledger().read(done);
        Ok(done)
    }
}
