//! Directories of proc(5), and files in them.
//!
//! A [`Process`] holds `/proc/PID` open: the files read through it are those of
//! one process, and once it has ended they are of none. A reused pid is never
//! taken for it.

use std::borrow::Cow;
use std::io;
use std::mem::MaybeUninit;
use std::ops::{ControlFlow, Deref};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use agent_model::Text;
use agent_session::Access;
pub use rustix::fs::FileType;
use rustix::fs::{AtFlags, CWD, Mode, OFlags, RawDir, StatxFlags};
use rustix::io::Errno;

use crate::parse::{self, Stat, Status};
use crate::walk::{Links, open_below};
use crate::{Cause, Failure, Run};

/// The most that [`Directory::read`] reads of one file.
pub const LARGEST_FILE: usize = 16 << 20;

/// The longest line that [`Directory::lines`] hands out; the kernel's own lines
/// are shorter (a path of 4096 bytes, each of which may be written as `\ooo`).
const LONGEST_LINE: usize = 64 << 10;

/// A directory of proc(5), or of a recorded tree of it, held open.
#[derive(Debug, Clone)]
pub struct Directory<'r> {
    run: &'r Run,
    fd: Arc<OwnedFd>,
    path: String,
    pid: Option<u32>,
    /// Of a process whose main thread has ended: a thread that has not, `task/TID`.
    living: Option<Arc<str>>,
}

/// What the main thread of a process gives back when it ends, though other threads go on
/// with it: its memory, descriptors, root and working directory, and namespaces.
const OF_THE_LIVING: &[&str] = &[
    "auxv",
    "cmdline",
    "cwd",
    "environ",
    "exe",
    "fd",
    "fdinfo",
    "maps",
    "mem",
    "mountinfo",
    "mounts",
    "net",
    "ns",
    "numa_maps",
    "pagemap",
    "root",
    "smaps",
    "smaps_rollup",
];

/// `DIRECTORY/NAME`, put together only when somebody looks.
struct Joined<'a>(&'a str, &'a str);

impl std::fmt::Display for Joined<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.0, self.1)
    }
}

/// Opens the root of a proc(5) mount, or of a recorded tree.
pub(crate) fn open_root(path: &str) -> Result<OwnedFd, Errno> {
    rustix::fs::openat(CWD, path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}

impl<'r> Directory<'r> {
    pub(crate) fn root(run: &'r Run, fd: Arc<OwnedFd>, path: String) -> Self {
        Self { run, fd, path, pid: None, living: None }
    }

    /// The run that it was opened by.
    pub fn run(&self) -> &'r Run {
        self.run
    }

    /// Its path.
    pub fn path(&self) -> &str {
        &self.path
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// A failure of `name` in this directory.
    pub fn failure(&self, name: &str, cause: impl Into<Cause>) -> Failure {
        let mut cause = cause.into();
        // EACCES is also what a look at a link of an ended process gives.
        if let Cause::Os(Errno::NOENT | Errno::SRCH | Errno::IO | Errno::ACCESS) = cause
            && self.pid.is_some()
            && self.has_ended()
        {
            cause = Cause::Exited;
        }
        let path = Text::from_bytes(Joined(&self.path, name).to_string().as_bytes());
        Failure { path, cause, pid: self.pid }
    }

    /// True when the process or thread that this directory belongs to is gone.
    fn has_ended(&self) -> bool {
        let is_process = self.path.rsplit('/').next().is_some_and(|last| last.parse::<u32>().is_ok());
        let probe = if is_process { "stat" } else { "." };
        let found = rustix::fs::accessat(&*self.fd, probe, rustix::fs::Access::EXISTS, AtFlags::empty());
        // EPERM is what hidepid gives of a process that is there.
        matches!(found, Err(Errno::NOENT | Errno::SRCH))
    }

    /// `name`, or where it stands with a thread that lives.
    pub(crate) fn place<'n>(&self, name: &'n str) -> Cow<'n, str> {
        match &self.living {
            Some(living) if OF_THE_LIVING.contains(&name.split('/').next().unwrap_or(name)) => {
                Cow::Owned(Joined(living, name).to_string())
            }
            _ => Cow::Borrowed(name),
        }
    }

    pub(crate) fn permit(&self, access: Access, name: &str) -> Result<(), Failure> {
        self.run.permit(access, &Joined(&self.path, name)).map_err(|refusal| Failure {
            path: Text::from_bytes(Joined(&self.path, name).to_string().as_bytes()),
            cause: refusal.into(),
            pid: self.pid,
        })
    }

    pub(crate) fn open(&self, access: Access, name: &str, flags: OFlags) -> Result<OwnedFd, Failure> {
        let name = &*self.place(name);
        self.permit(access, name)?;
        let unblocked = if flags.contains(OFlags::PATH) { OFlags::empty() } else { OFlags::NOCTTY | OFlags::NONBLOCK };
        let flags = flags | OFlags::CLOEXEC | unblocked;
        let opened = if self.run.is_live() {
            rustix::fs::openat(&*self.fd, name, flags | OFlags::NOFOLLOW, Mode::empty())
        } else {
            // A recorded tree is a stranger's: nothing in it leads out of it.
            open_below(&*self.fd, name.as_bytes(), flags, Links::None)
        };
        opened.map_err(|errno| self.failure(name, errno))
    }

    /// Reads a file that the kernel writes in one piece (`stat`, `status`,
    /// `cmdline`): the first read that does not fill the buffer was the last.
    /// `into` is cleared first; its capacity is used and kept.
    ///
    /// # Errors
    ///
    /// When it cannot be opened or read, or is larger than [`LARGEST_FILE`].
    pub fn read_piece(&self, name: &str, into: &mut Vec<u8>) -> Result<(), Failure> {
        match self.read_until(name, into, LARGEST_FILE, |read, room| read < room)? {
            true => Ok(()),
            false => Err(self.failure(name, Cause::TooLarge(LARGEST_FILE))),
        }
    }

    /// Reads a file that the kernel writes in one piece, but no more than its first
    /// `most` bytes; true when that was all. Otherwise as [`Directory::read_piece`].
    ///
    /// # Errors
    ///
    /// When it cannot be opened or read.
    pub fn read_head(&self, name: &str, into: &mut Vec<u8>, most: usize) -> Result<bool, Failure> {
        let whole = self.read_until(name, into, most, |read, room| read < room)?;
        into.truncate(most);
        Ok(whole)
    }

    /// Reads a file whole. Otherwise as [`Directory::read_piece`].
    ///
    /// # Errors
    ///
    /// As [`Directory::read_piece`].
    pub fn read(&self, name: &str, into: &mut Vec<u8>) -> Result<(), Failure> {
        match self.read_until(name, into, LARGEST_FILE, |read, _| read == 0)? {
            true => Ok(()),
            false => Err(self.failure(name, Cause::TooLarge(LARGEST_FILE))),
        }
    }

    /// Reads until `is_end`, which is told what was read and for how much there was
    /// room; false when there are more than `most` bytes.
    fn read_until(
        &self,
        name: &str,
        into: &mut Vec<u8>,
        most: usize,
        is_end: impl Fn(usize, usize) -> bool,
    ) -> Result<bool, Failure> {
        let Some(key) = self.run.memo().key(&self.fd, name) else {
            return self.read_now(name, into, most, is_end);
        };
        if let Some(known) = self.run.memo().file(key) {
            into.clear();
            into.extend_from_slice(&known);
            return Ok(into.len() <= most);
        }
        let whole = self.read_now(name, into, most, is_end)?;
        if whole {
            self.run.memo().keep(key, into);
        }
        Ok(whole)
    }

    fn read_now(
        &self,
        name: &str,
        into: &mut Vec<u8>,
        most: usize,
        is_end: impl Fn(usize, usize) -> bool,
    ) -> Result<bool, Failure> {
        let file = self.open(Access::Open, name, OFlags::RDONLY)?;
        into.clear();
        loop {
            if into.len() > most {
                self.run.ledger().read(into.len());
                return Ok(false);
            }
            if into.capacity() - into.len() < 512 {
                into.reserve(into.len().max(4096));
            }
            let room = into.capacity() - into.len();
            let read = match rustix::io::read(&file, rustix::buffer::spare_capacity(into)) {
                Ok(read) => read,
                Err(Errno::INTR) => continue,
                Err(errno) => return Err(self.failure(name, errno)),
            };
            if is_end(read, room) || read == 0 {
                self.run.ledger().read(into.len());
                return Ok(into.len() <= most);
            }
        }
    }

    /// Hands every line of a file to `each`, without its newline, until it breaks.
    /// Memory does not grow with the file.
    ///
    /// # Errors
    ///
    /// When it cannot be opened or read; lines before that were handed out. A line
    /// of more than 64 KiB is malformed.
    pub fn lines(&self, name: &str, mut each: impl FnMut(&[u8]) -> ControlFlow<()>) -> Result<(), Failure> {
        if self.run.memo().keeps(name) {
            let mut text = Vec::new();
            self.read(name, &mut text)?;
            let lines = text.strip_suffix(b"\n").unwrap_or(&text);
            let _ = lines.split(|b| *b == b'\n').filter(|_| !text.is_empty()).try_for_each(each);
            return Ok(());
        }
        let file = self.open(Access::Open, name, OFlags::RDONLY)?;
        // A read gives a page or so: only a long line makes it grow.
        let mut buffer: Vec<u8> = Vec::with_capacity(16 << 10);
        loop {
            if buffer.len() == buffer.capacity() {
                buffer.reserve(buffer.len());
            }
            let read = match rustix::io::read(&file, rustix::buffer::spare_capacity(&mut buffer)) {
                Ok(read) => read,
                Err(Errno::INTR) => continue,
                Err(errno) => return Err(self.failure(name, errno)),
            };
            self.run.ledger().read(read);
            if let Some(refusal) = self.run.refusal() {
                return Err(self.failure(name, refusal));
            }
            let mut start = 0;
            while let Some(length) = buffer[start..].iter().position(|b| *b == b'\n') {
                if each(&buffer[start..start + length]).is_break() {
                    return Ok(());
                }
                start += length + 1;
            }
            if read == 0 {
                if start < buffer.len() {
                    let _ = each(&buffer[start..]);
                }
                return Ok(());
            }
            buffer.drain(..start);
            if buffer.len() > LONGEST_LINE {
                return Err(self.failure(name, Cause::Malformed("a line of more than 64 KiB")));
            }
        }
    }

    /// What the symbolic link `name` holds.
    ///
    /// # Errors
    ///
    /// When it cannot be read.
    pub fn link(&self, name: &str) -> Result<Vec<u8>, Failure> {
        let name = &*self.place(name);
        self.permit(Access::Link, name)?;
        let mut buffer = [MaybeUninit::<u8>::uninit(); 4096 + 16];
        let (target, _) =
            rustix::fs::readlinkat_raw(&*self.fd, name, &mut buffer).map_err(|errno| self.failure(name, errno))?;
        self.run.ledger().read(target.len());
        Ok(target.to_vec())
    }

    /// The names in it.
    ///
    /// # Errors
    ///
    /// When it cannot be listed.
    pub fn names(&self) -> Result<Vec<Vec<u8>>, Failure> {
        let mut names = Vec::new();
        self.each_name(|name| names.push(name.to_vec()))?;
        names.sort_unstable();
        Ok(names)
    }

    /// The names in it that are decimal numbers, sorted.
    ///
    /// # Errors
    ///
    /// When it cannot be listed.
    pub fn ids(&self) -> Result<Vec<u32>, Failure> {
        let mut ids = Vec::new();
        self.each_name(|name| {
            if name.first().is_some_and(u8::is_ascii_digit) {
                ids.extend(parse::number::<u32>(name));
            }
        })?;
        ids.sort_unstable();
        Ok(ids)
    }

    fn each_name(&self, mut each: impl FnMut(&[u8])) -> Result<(), Failure> {
        let list = self.open(Access::List, ".", OFlags::RDONLY | OFlags::DIRECTORY)?;
        let mut buffer = vec![MaybeUninit::<u8>::uninit(); 32 << 10];
        let mut entries = RawDir::new(list, &mut buffer);
        while let Some(entry) = entries.next() {
            let entry = entry.map_err(|errno| self.failure("", errno))?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." {
                self.run.ledger().read(name.len());
                each(name);
            }
        }
        Ok(())
    }

    /// The directory `name` in it, open for listing.
    ///
    /// # Errors
    ///
    /// When it cannot be opened.
    pub fn directory(&self, name: &str) -> Result<Directory<'r>, Failure> {
        let fd = self.open(Access::List, name, OFlags::RDONLY | OFlags::DIRECTORY)?;
        let path = Joined(&self.path, &self.place(name)).to_string();
        Ok(Directory { run: self.run, fd: Arc::new(fd), path, pid: self.pid, living: None })
    }

    /// The attributes of what the link `name` leads to.
    ///
    /// They are taken as the kernel has them (AT_STATX_DONT_SYNC): a server is not
    /// asked to bring them up to date. Whoever must not hang looks at the mount
    /// first, though, since following the link may ask it whether the file is
    /// still there.
    ///
    /// # Errors
    ///
    /// When they cannot be read.
    pub fn attributes(&self, name: &str) -> Result<Attributes, Failure> {
        let name = &*self.place(name);
        self.permit(Access::Attributes, name)?;
        let flags = AtFlags::STATX_DONT_SYNC | AtFlags::NO_AUTOMOUNT;
        let wanted = StatxFlags::TYPE | StatxFlags::SIZE | StatxFlags::NLINK | StatxFlags::INO;
        let statx = rustix::fs::statx(&*self.fd, name, flags, wanted).map_err(|errno| self.failure(name, errno))?;
        Ok(Attributes {
            kind: FileType::from_raw_mode(statx.stx_mode.into()),
            size: statx.stx_size,
            links: statx.stx_nlink,
            inode: statx.stx_ino,
            device: (statx.stx_dev_major, statx.stx_dev_minor),
            special: (statx.stx_rdev_major, statx.stx_rdev_minor),
        })
    }

    /// The owner of `name`, which is not followed where it is a link.
    ///
    /// # Errors
    ///
    /// When its attributes cannot be read.
    pub fn owner(&self, name: &str) -> Result<(u32, u32), Failure> {
        let name = &*self.place(name);
        self.permit(Access::Attributes, name)?;
        let stat = rustix::fs::statat(&*self.fd, name, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|errno| self.failure(name, errno))?;
        Ok((stat.st_uid, stat.st_gid))
    }
}

/// What a file is (statx(2)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attributes {
    /// Its type.
    pub kind: FileType,
    /// Its size, in bytes.
    pub size: u64,
    /// Its names: none is left of a deleted file.
    pub links: u32,
    /// Its inode number.
    pub inode: u64,
    /// Major and minor number of the device that it is on.
    pub device: (u32, u32),
    /// Major and minor number of the device that it is.
    pub special: (u32, u32),
}

/// One process, held by its directory in proc(5).
#[derive(Debug, Clone)]
pub struct Process<'r> {
    directory: Directory<'r>,
    pid: u32,
}

impl<'r> Deref for Process<'r> {
    type Target = Directory<'r>;

    fn deref(&self) -> &Directory<'r> {
        &self.directory
    }
}

impl<'r> Process<'r> {
    pub(crate) fn open(root: &Directory<'r>, pid: u32) -> Result<Self, Failure> {
        let name = pid.to_string();
        root.permit(Access::Process, &name)?;
        let path = Joined(&root.path, &name).to_string();
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let fd = rustix::fs::openat(&*root.fd, name.as_str(), flags, Mode::empty()).map_err(|errno| {
            let cause = if errno == Errno::NOENT { Cause::Exited } else { Cause::Os(errno) };
            Failure { path: Text::from_bytes(path.as_bytes()), cause, pid: Some(pid) }
        })?;
        let directory = Directory { run: root.run, fd: Arc::new(fd), path, pid: Some(pid), living: None };
        Ok(Self { directory, pid })
    }

    /// The same process, for a look at it: where its main thread has ended (`state`, the
    /// letter of `stat`), what that gave back is read of the first thread that lives.
    pub(crate) fn of_the_living(mut self, state: u8) -> Self {
        if state != b'Z' {
            return self;
        }
        let mut buffer = Vec::with_capacity(1024);
        let lives = |tid: &u32| {
            let read = self.thread(*tid).and_then(|thread| thread.read_piece("stat", &mut buffer));
            read.is_ok() && parse::stat(&buffer).is_some_and(|stat| !matches!(stat.state, b'Z' | b'X'))
        };
        let tid = self.threads().unwrap_or_default().into_iter().find(lives);
        self.directory.living = tid.map(|tid| format!("task/{tid}").into());
        self
    }

    /// Its process ID in our pid namespace.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Its `stat`; `buffer` is scratch.
    ///
    /// # Errors
    ///
    /// When it cannot be read, or breaks its format.
    pub fn stat(&self, buffer: &mut Vec<u8>) -> Result<Stat, Failure> {
        self.read_piece("stat", buffer)?;
        parse::stat(buffer).ok_or_else(|| self.failure("stat", Cause::Malformed("not as proc_pid_stat(5) says")))
    }

    /// Its `status`; `buffer` is scratch.
    ///
    /// # Errors
    ///
    /// When it cannot be read, or breaks its format.
    pub fn status(&self, buffer: &mut Vec<u8>) -> Result<Status, Failure> {
        self.read_piece("status", buffer)?;
        parse::status(buffer).ok_or_else(|| self.failure("status", Cause::Malformed("no Uid and Gid")))
    }

    /// Its threads, by thread ID.
    ///
    /// # Errors
    ///
    /// When they cannot be listed.
    pub fn threads(&self) -> Result<Vec<u32>, Failure> {
        self.directory("task")?.ids()
    }

    /// How many threads it has, without listing them: each is a link of `task` (proc_task_getattr in the kernel's
    /// fs/proc/base.c), beside its own two.
    ///
    /// # Errors
    ///
    /// When the process is gone.
    pub fn thread_count(&self) -> Result<u64, Failure> {
        Ok(u64::from(self.attributes("task")?.links).saturating_sub(2))
    }

    /// The directory of its thread `tid`.
    ///
    /// # Errors
    ///
    /// When there is no such thread.
    pub fn thread(&self, tid: u32) -> Result<Directory<'r>, Failure> {
        let name = format!("task/{tid}");
        let fd = self.open(Access::Process, &name, OFlags::PATH | OFlags::DIRECTORY)?;
        let path = Joined(&self.path, &name).to_string();
        Ok(Directory { run: self.run, fd: Arc::new(fd), path, pid: self.directory.pid, living: None })
    }

    /// The inode number of one of its namespaces (`net`, `pid`, `user`, …), as
    /// namespaces(7) writes it.
    ///
    /// # Errors
    ///
    /// When the link cannot be read.
    pub fn namespace(&self, kind: &str) -> Result<u64, Failure> {
        let name = format!("ns/{kind}");
        let link = self.link(&name)?;
        parse::namespace_inode(&link).ok_or_else(|| self.failure(&name, Cause::Malformed("not kind:[inode]")))
    }
}

/// True when `fd` is a regular file.
pub(crate) fn is_regular(fd: impl AsFd) -> Result<rustix::fs::Stat, io::Error> {
    let stat = rustix::fs::fstat(fd)?;
    if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile {
        Ok(stat)
    } else {
        Err(io::Error::from(Errno::INVAL))
    }
}
