//! Files of our own that a person names on the command line.

use std::ffi::CString;
use std::io::Read as _;
use std::os::fd::AsFd;

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
        let mut bytes = Vec::new();
        let read = if path == "-" {
            std::io::stdin().lock().take(limit as u64 + 1).read_to_end(&mut bytes)
        } else {
            let file = regular(path, OFlags::empty()).map_err(fail)?;
            file.take(limit as u64 + 1).read_to_end(&mut bytes)
        };
        read.map_err(|error| fail(error.raw_os_error().map_or(Errno::IO, Errno::from_raw_os_error).into()))?;
        self.ledger().read(bytes.len());
        if bytes.len() > limit { Err(fail(Cause::TooLarge(limit))) } else { Ok(bytes) }
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
        let file = regular(&path, OFlags::NOFOLLOW).map_err(fail)?;
        let mut bytes = Vec::new();
        let read = file.take(limit as u64 + 1).read_to_end(&mut bytes);
        read.map_err(|error| fail(error.raw_os_error().map_or(Errno::IO, Errno::from_raw_os_error).into()))?;
        self.ledger().read(bytes.len());
        if bytes.len() > limit { Err(fail(Cause::TooLarge(limit))) } else { Ok(bytes) }
    }
}

/// Opens the regular file `path`.
fn regular(path: &str, flags: OFlags) -> Result<std::fs::File, Cause> {
    let name = CString::new(path).map_err(|_| Cause::Malformed("a path with a NUL byte"))?;
    let flags = flags | OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = rustix::fs::openat(CWD, name, flags, Mode::empty())?;
    is_regular(file.as_fd()).map_err(|_| Cause::Malformed("not a regular file"))?;
    Ok(std::fs::File::from(file))
}
