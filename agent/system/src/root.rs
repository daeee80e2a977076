//! Files of the target, through its root directory.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;

use agent_model::Text;
use agent_session::Access;
use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;

use crate::patience::Far;
use crate::proc::is_regular;
use crate::walk::{Links, open_around, open_below};
use crate::{Cause, Failure, Process, Run};

/// A regular file of the target, open for reading.
#[derive(Debug)]
pub struct TargetFile<'r> {
    run: &'r Run,
    path: Text,
    pid: u32,
    fd: Arc<OwnedFd>,
    /// Where somebody else answers for its file system.
    far: Option<Far>,
    /// Its length in bytes when it was opened.
    pub length: u64,
    /// The device that its file system is on, as stat(2) gives it.
    pub device: (u32, u32),
    /// Its inode number.
    pub inode: u64,
}

impl<'r> Process<'r> {
    /// Opens the regular file `path` as the process would see it: below its root
    /// directory, out of which no symbolic link leads. Nothing but a regular file is ever opened for reading: a
    /// FIFO, a device or a socket in its place is refused untouched.
    ///
    /// In a recorded tree, `PID/root` is the root directory if it was recorded.
    ///
    /// # Errors
    ///
    /// When it is not there, may not be read, or is no regular file.
    pub fn open_in_root(&self, path: &[u8]) -> Result<TargetFile<'r>, Failure> {
        let shown = [self.path().as_bytes(), b"/root", path].concat();
        let fail = |cause: Cause| Failure { path: Text::from_bytes(&shown), cause, pid: Some(self.pid()) };
        self.run().permit(Access::Open, &Text::from_bytes(&shown)).map_err(|refusal| fail(refusal.into()))?;
        let root = self.root_directory()?;
        let remote = self.run().remote(self);
        let (asked, guard) = (path.to_vec(), Arc::clone(&remote));
        let open = move || open_regular(&root, &asked, Links::InRoot, &|place| guard.is_closed(place));
        let (fd, stat) = remote.ask(path, open).map_err(fail)?;
        let device = (rustix::fs::major(stat.st_dev), rustix::fs::minor(stat.st_dev));
        Ok(TargetFile {
            run: self.run(),
            path: Text::from_bytes(&shown),
            pid: self.pid(),
            fd: Arc::new(fd),
            far: Far::of(&remote, path),
            length: u64::try_from(stat.st_size).unwrap_or(0),
            device,
            inode: stat.st_ino,
        })
    }
}

impl Process<'_> {
    /// Its root directory, to look up what is below it. In a recorded tree that is
    /// a plain directory called `root`, if there is one.
    pub(crate) fn root_directory(&self) -> Result<OwnedFd, Failure> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        if self.run().is_live() {
            return rustix::fs::openat(self.fd(), &*self.place("root"), flags, Mode::empty())
                .map_err(|errno| self.failure("root", errno));
        }
        open_below(self.fd(), b"root", flags, Links::None).map_err(|errno| {
            let cause = match errno {
                Errno::NOENT | Errno::LOOP | Errno::NOTDIR => {
                    Cause::Unsupported("this recorded tree has no files of the target")
                }
                other => Cause::Os(other),
            };
            self.failure("root", cause)
        })
    }
}

/// Opens the regular file `path` below `directory` for reading. What it is, is
/// looked at before it is opened: opening a FIFO or a device can block or do
/// something.
pub(crate) fn open_regular(
    directory: &OwnedFd,
    path: &[u8],
    links: Links,
    is_closed: &dyn Fn(&[u8]) -> bool,
) -> Result<(OwnedFd, rustix::fs::Stat), Cause> {
    let found = open_around(directory, path, OFlags::PATH, links, is_closed)?;
    let no_file = |_| Cause::Malformed("not a regular file");
    is_regular(&found).map_err(no_file)?;
    // Reopen just this file: its path may lead elsewhere by now.
    let itself = format!("/proc/self/fd/{}", found.as_fd().as_raw_fd());
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let fd = rustix::fs::openat(CWD, itself, flags, Mode::empty())?;
    let stat = is_regular(&fd).map_err(no_file)?;
    Ok((fd, stat))
}

impl Process<'_> {
    /// Whether `path` lies on a file system that is not asked, since it may never answer, or that has not answered. What
    /// is mapped of it may not be read either: for what is not in memory the kernel would ask.
    pub fn is_out_of_reach(&self, path: &[u8]) -> bool {
        self.run().remote(self).is_out_of_reach(path)
    }

    /// Whether the file `path`, as the process would see it, is the inode `inode`. It
    /// is not opened.
    pub fn has_in_root(&self, path: &[u8], inode: u64) -> bool {
        let shown = [self.path().as_bytes(), b"/root", path].concat();
        if !self.run().is_live() || self.run().permit(Access::Attributes, &Text::from_bytes(&shown)).is_err() {
            return false;
        }
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let root = rustix::fs::openat(self.fd(), &*self.place("root"), flags | OFlags::DIRECTORY, Mode::empty());
        let Ok(root) = root else { return false };
        self.stat_below(root, path).is_ok_and(|stat| stat.st_ino == inode)
    }

    fn stat_below(&self, root: OwnedFd, path: &[u8]) -> Result<rustix::fs::Stat, Cause> {
        let remote = self.run().remote(self);
        let (asked, guard) = (path.to_vec(), Arc::clone(&remote));
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let is_closed = move |place: &[u8]| guard.is_closed(place);
        remote.ask(path, move || {
            Ok(open_around(root, &asked, flags, Links::InRoot, &is_closed).and_then(rustix::fs::fstat)?)
        })
    }
}

/// What stat(2) says of a file of the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found {
    /// `file`, `directory`, `socket`, `fifo`, `character_device` or `block_device`.
    pub kind: &'static str,
    /// Its size in bytes.
    pub size_bytes: u64,
    /// Its permission bits.
    pub mode: u32,
    /// Its owner.
    pub uid: u32,
    /// When its content was changed, in seconds since 1970.
    pub modified_s: u64,
}

impl Process<'_> {
    /// What is at `path`, as the process would see it; `None` where nothing is. It is not opened.
    ///
    /// # Errors
    ///
    /// When that cannot be seen.
    pub fn stat_in_root(&self, path: &[u8]) -> Result<Option<Found>, Failure> {
        use rustix::fs::FileType;
        let shown = [self.path().as_bytes(), b"/root", path].concat();
        let fail = |cause: Cause| Failure { path: Text::from_bytes(&shown), cause, pid: Some(self.pid()) };
        self.run().permit(Access::Attributes, &Text::from_bytes(&shown)).map_err(|refusal| fail(refusal.into()))?;
        let root = self.root_directory()?;
        let stat = match self.stat_below(root, path) {
            Ok(stat) => stat,
            Err(Cause::Os(Errno::NOENT | Errno::NOTDIR)) => return Ok(None),
            Err(cause) => return Err(fail(cause)),
        };
        let kind = match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => "file",
            FileType::Directory => "directory",
            FileType::Socket => "socket",
            FileType::Fifo => "fifo",
            FileType::CharacterDevice => "character_device",
            FileType::BlockDevice => "block_device",
            _ => "unknown",
        };
        Ok(Some(Found {
            kind,
            size_bytes: u64::try_from(stat.st_size).unwrap_or(0),
            mode: stat.st_mode & 0o7777,
            uid: stat.st_uid,
            modified_s: u64::try_from(stat.st_mtime).unwrap_or(0),
        }))
    }
}

impl<'r> TargetFile<'r> {
    /// The regular file that `fd` is open on.
    pub(crate) fn of(run: &'r Run, path: Text, pid: u32, fd: OwnedFd, far: Option<Far>) -> Result<Self, Cause> {
        let stat = is_regular(&fd).map_err(|_| Cause::Malformed("not a regular file"))?;
        let device = (rustix::fs::major(stat.st_dev), rustix::fs::minor(stat.st_dev));
        let length = u64::try_from(stat.st_size).unwrap_or(0);
        Ok(Self { run, path, pid, fd: Arc::new(fd), far, length, device, inode: stat.st_ino })
    }
}

/// Reads at `offset` until `buffer` is full or the file ends.
fn read_full(fd: &OwnedFd, offset: u64, buffer: &mut [u8]) -> Result<usize, Errno> {
    let mut done = 0;
    while done < buffer.len() {
        match rustix::io::pread(fd, &mut buffer[done..], offset.saturating_add(done as u64)) {
            Ok(0) => break,
            Ok(read) => done += read,
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(done)
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
        let fail = |cause| Failure { path: self.path.clone(), cause, pid: Some(self.pid) };
        let done = match &self.far {
            None => read_full(&self.fd, offset, buffer).map_err(|errno| fail(errno.into()))?,
            Some(far) => {
                let (fd, mut room) = (Arc::clone(&self.fd), vec![0; buffer.len()]);
                let read = move || {
                    let done = read_full(&fd, offset, &mut room)?;
                    room.truncate(done);
                    Ok(room)
                };
                let bytes = far.remote.ask(&far.path, read).map_err(fail)?;
                buffer[..bytes.len()].copy_from_slice(&bytes);
                bytes.len()
            }
        };
        self.run.ledger().read(done);
        Ok(done)
    }
}
