//! A file of proc(5) that is read again and again.
//!
//! Opening costs several times what reading does: whoever looks at the same file
//! each time keeps it open. The kernel writes it anew for each read at its start.

use std::os::fd::OwnedFd;

use agent_session::Access;
use rustix::fs::OFlags;
use rustix::io::Errno;

use crate::{Directory, Failure};

/// A file of a [`Directory`], held open.
#[derive(Debug)]
pub struct KeptFile<'r> {
    directory: Directory<'r>,
    name: &'static str,
    file: OwnedFd,
}

impl<'r> Directory<'r> {
    /// Opens the file `name`, which the kernel writes in one piece, to read it more
    /// than once.
    ///
    /// # Errors
    ///
    /// When it cannot be opened: too many are open (EMFILE), too.
    pub fn keep(&self, name: &'static str) -> Result<KeptFile<'r>, Failure> {
        let file = self.open(Access::Open, name, OFlags::RDONLY)?;
        Ok(KeptFile { directory: self.clone(), name, file })
    }
}

impl KeptFile<'_> {
    /// Reads what it says now: as much as `into` has room for, at least 512 bytes.
    ///
    /// # Errors
    ///
    /// When it cannot be read: its thread has ended.
    pub fn read(&self, into: &mut Vec<u8>) -> Result<(), Failure> {
        into.resize(into.capacity().max(512), 0);
        let read = loop {
            match rustix::io::pread(&self.file, &mut *into, 0) {
                Err(Errno::INTR) => {}
                Ok(read) => break read,
                Err(errno) => {
                    into.clear();
                    return Err(self.directory.failure(self.name, errno));
                }
            }
        };
        into.truncate(read);
        self.directory.run().ledger().read(read);
        Ok(())
    }
}
