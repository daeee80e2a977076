//! Files of our own that a person names on the command line.

use std::ffi::CString;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd};

use agent_session::Access;
use rustix::fs::{CWD, Mode, OFlags};

use crate::proc::is_regular;
use crate::{Cause, Errno, Failure, Run};

impl Run {
    /// Reads the regular file `path` of our own file system, or standard input
    /// where it is `-`: what `kubectl cp` or `kubectl exec -i` brought in.
    ///
    /// # Errors
    ///
    /// When it cannot be opened or read, is no regular file, or has more than
    /// `limit` bytes.
    pub fn own_file(&self, path: &str, limit: usize) -> Result<Vec<u8>, Failure> {
        let fail = |cause: Cause| Failure::new(path, cause);
        self.permit(Access::Open, &path).map_err(|refusal| fail(refusal.into()))?;
        if path == "-" {
            return self.read_own(std::io::stdin().lock(), 0, limit).map_err(fail);
        }
        let (file, length) = regular(path, OFlags::empty()).map_err(fail)?;
        self.read_own(file, length, limit).map_err(fail)
    }

    /// Reads the regular file `name` in `directory`, both our own; no link is followed.
    ///
    /// # Errors
    ///
    /// As [`Run::own_file`].
    pub fn own_file_in(&self, directory: &str, name: &str, limit: usize) -> Result<Vec<u8>, Failure> {
        let path = format!("{directory}/{name}");
        let fail = |cause: Cause| Failure::new(path.as_str(), cause);
        self.permit(Access::Open, &path).map_err(|refusal| fail(refusal.into()))?;
        let (file, length) = regular(&path, OFlags::NOFOLLOW).map_err(fail)?;
        self.read_own(file, length, limit).map_err(fail)
    }

    /// Reads a file in memory that the hold of our container keeps as `name`.
    ///
    /// # Errors
    ///
    /// As [`Run::own_file`].
    pub fn kept_file(&self, name: &str, file: BorrowedFd<'_>, limit: usize) -> Result<Vec<u8>, Failure> {
        let fail = |cause: Cause| Failure::new(name, cause);
        self.permit(Access::Open, &format_args!("memfd:{name}")).map_err(|refusal| fail(refusal.into()))?;
        // It has one place for all that have it open.
        let at = |from: u64, into: &mut [u8]| rustix::io::pread(file, into, from).map_err(std::io::Error::from);
        let length = usize::try_from(crate::keep::length(file)).unwrap_or(usize::MAX);
        self.read_own(ReadAt { at, from: 0 }, length, limit).map_err(fail)
    }

    /// Reads `file`, which is thought to have `length` bytes. Where its memory would be more than may be it is not asked for:
    /// what is over that ends the agent.
    fn read_own(&self, mut file: impl Read, length: usize, limit: usize) -> Result<Vec<u8>, Cause> {
        let mut bytes = Vec::new();
        let mut more = length.min(limit).max(PIECE) + 1;
        loop {
            self.has_room(more as u64)?;
            bytes.reserve_exact(more);
            let room = bytes.capacity() - bytes.len();
            let read = file.by_ref().take(room as u64).read_to_end(&mut bytes);
            let read = read.map_err(|error| error.raw_os_error().map_or(Errno::IO, Errno::from_raw_os_error))?;
            self.ledger().read(read);
            if bytes.len() > limit {
                return Err(Cause::TooLarge(limit));
            }
            if read < room {
                return Ok(bytes);
            }
            more = bytes.len();
        }
    }
}

/// Reads from a place of its own.
struct ReadAt<F> {
    at: F,
    from: u64,
}

impl<F: Fn(u64, &mut [u8]) -> std::io::Result<usize>> Read for ReadAt<F> {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        let read = (self.at)(self.from, into)?;
        self.from += read as u64;
        Ok(read)
    }
}

/// So many bytes there is room for at least.
const PIECE: usize = 64 << 10;

/// Opens the regular file `path`; with its length in bytes.
fn regular(path: &str, flags: OFlags) -> Result<(std::fs::File, usize), Cause> {
    let name = CString::new(path).map_err(|_| Cause::Malformed("a path with a NUL byte"))?;
    let flags = flags | OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = rustix::fs::openat(CWD, name, flags, Mode::empty())?;
    is_regular(file.as_fd()).map_err(|_| Cause::Malformed("not a regular file"))?;
    let length = rustix::fs::fstat(&file)?.st_size;
    Ok((std::fs::File::from(file), usize::try_from(length).unwrap_or(usize::MAX)))
}
