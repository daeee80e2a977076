//! Keeping evidence beside the answer: files of our own that stay.

use std::fs;
use std::io::{self, Write};
use std::mem::ManuallyDrop;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use agent_session::Access;
use rustix::fs::{MemfdFlags, OFlags};
use serde_json::Value;

use crate::{Failure, Run, own};

/// Where files are kept as they are made.
pub trait Keep: std::fmt::Debug + Send + Sync {
    /// Keeps `envelope`, an artifact called `name`.
    ///
    /// # Errors
    ///
    /// When it cannot be written, or no more may be.
    fn artifact(&self, name: &str, envelope: &Value) -> io::Result<Kept>;

    /// Keeps `bytes` as the file `path`.
    ///
    /// # Errors
    ///
    /// As [`Keep::artifact`].
    fn file(&self, path: &str, bytes: &[u8]) -> io::Result<()>;
}

/// What was kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// Its path, where it is kept.
    pub path: String,
    /// SHA-256 of its content, in hex.
    pub sha256: String,
}

/// The session's directory of the image: nothing of the target's, and nobody else's.
pub const SESSION_DIRECTORY: &str = "/session";

/// A file of our own that is written from now on and at its end only.
#[derive(Debug)]
pub struct OwnFile {
    /// Never closed: its number must not become another file's.
    file: ManuallyDrop<fs::File>,
}

impl std::os::fd::AsFd for OwnFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl OwnFile {
    /// Makes the file `name` in `directory`, which is made if it is not there. Nobody else can read it. To be called before
    /// the agent is confined.
    ///
    /// # Errors
    ///
    /// When there is one of that name, or none can be made; or when others could put something else in its place.
    pub fn create(directory: &str, name: &str) -> io::Result<Self> {
        own::note(Access::Open, directory);
        match fs::DirBuilder::new().mode(0o700).create(directory) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        let found = fs::symlink_metadata(directory)?;
        let is_ours = found.uid() == rustix::process::geteuid().as_raw() || found.uid() == 0;
        // Others may only write where nobody can remove what is another's.
        let is_safe = found.mode() & 0o022 == 0 || found.mode() & 0o1000 != 0;
        if !found.is_dir() || !is_ours || !is_safe {
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, "it is no directory that is safe to write to"));
        }
        let path = Path::new(directory).join(name);
        own::note(Access::Open, &path.display().to_string());
        let flags = (OFlags::NOFOLLOW | OFlags::CLOEXEC).bits() as i32;
        let file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).custom_flags(flags).open(path)?;
        crate::confine::may_write(&file);
        Ok(Self { file: ManuallyDrop::new(file) })
    }
}

impl From<OwnedFd> for OwnFile {
    /// One that somebody else has made for us. To be called before the agent is confined.
    fn from(file: OwnedFd) -> Self {
        let file = fs::File::from(file);
        crate::confine::may_write(&file);
        Self { file: ManuallyDrop::new(file) }
    }
}

/// A new file in memory called `name`, which nothing but its descriptors leads to (memfd_create(2)).
///
/// # Errors
///
/// When the kernel has none, or no memory for it.
pub fn in_memory(name: &str) -> io::Result<OwnedFd> {
    let made = rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::NOEXEC_SEAL);
    // Before Linux 6.3.
    let made = made.or_else(|errno| match errno {
        rustix::io::Errno::INVAL => rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC),
        errno => Err(errno),
    });
    Ok(made?)
}

/// `name`, or where that is not free the same with a number before its first dot behind the last `__`.
pub fn another_name(name: &str, is_free: impl Fn(&str) -> bool) -> String {
    if is_free(name) {
        return name.to_owned();
    }
    let last = name.rfind("__").unwrap_or(0);
    let dot = name[last..].find('.').map_or(name.len(), |dot| last + dot);
    let numbered = (2_u32..).map(|number| format!("{}-{number}{}", &name[..dot], &name[dot..]));
    numbered.into_iter().find(|name| is_free(name)).unwrap_or_default()
}

/// The length of a file that is open, in bytes; 0 where the kernel does not say.
pub fn length(file: BorrowedFd<'_>) -> u64 {
    rustix::fs::fstat(file).ok().and_then(|found| u64::try_from(found.st_size).ok()).unwrap_or(0)
}

impl Write for OwnFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Run {
    /// The names of the files in `directory` of our own, sorted.
    ///
    /// # Errors
    ///
    /// When it cannot be listed.
    pub fn own_directory(&self, directory: &str) -> Result<Vec<String>, Failure> {
        let fail = |error: io::Error| {
            let errno = error.raw_os_error().map_or(crate::Errno::IO, crate::Errno::from_raw_os_error);
            Failure::new(directory, errno)
        };
        self.permit(Access::List, &directory).map_err(|refusal| Failure::new(directory, refusal))?;
        let mut names = Vec::new();
        for entry in fs::read_dir(directory).map_err(fail)? {
            names.extend(entry.map_err(fail)?.file_name().into_string());
        }
        names.sort_unstable();
        Ok(names)
    }
}
