//! `/proc/PID/pagemap` (proc_pid_pagemap(5), Documentation/admin-guide/mm/pagemap.rst).

use std::ops::Range;

use agent_session::Access;
use rustix::fs::OFlags;
use rustix::io::Errno;

use crate::{Cause, Failure, Process, page_bytes};

/// What `pagemap` says of one page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Page(u64);

impl Page {
    /// Bit 63: it is in memory.
    pub fn is_present(self) -> bool {
        self.0 >> 63 & 1 == 1
    }

    /// Bit 62: it is swapped out.
    pub fn is_swapped(self) -> bool {
        self.0 >> 62 & 1 == 1
    }

    /// Bit 61: it is a page of a file, or shared memory. Since Linux 3.5.
    pub fn is_file(self) -> bool {
        self.0 >> 61 & 1 == 1
    }

    /// It is the process's own: in a private mapping of a file, a page that was
    /// written.
    pub fn is_private(self) -> bool {
        self.is_swapped() || (self.is_present() && !self.is_file())
    }
}

/// Pages that one read asks for.
const BLOCK: usize = 4096;

impl Process<'_> {
    /// Hands the address of each page of `avma` (page-aligned) that is the
    /// process's own to `each`: asking costs the target nothing, while reading the
    /// others would bring them into its memory.
    ///
    /// # Errors
    ///
    /// When `pagemap` cannot be read, or this kernel has none.
    pub fn each_private_page(&self, avma: Range<u64>, each: &mut dyn FnMut(u64)) -> Result<(), Failure> {
        if !self.run().is_live() {
            return Err(self.failure("pagemap", Cause::Unsupported("a recorded tree has no memory")));
        }
        let file = self.open(Access::Memory, "pagemap", OFlags::RDONLY)?;
        let page = page_bytes();
        let mut buffer = vec![0_u8; BLOCK * 8];
        let mut at = avma.start;
        while at < avma.end {
            let wanted = usize::try_from((avma.end - at).div_ceil(page)).unwrap_or(usize::MAX).min(BLOCK);
            let read = match rustix::io::pread(&file, &mut buffer[..wanted * 8], at / page * 8) {
                Ok(read) => read / 8,
                Err(Errno::INTR) => continue,
                Err(errno) => return Err(self.failure("pagemap", errno)),
            };
            if read == 0 {
                return Err(self.failure("pagemap", Cause::Exited));
            }
            self.run().ledger().read(read * 8);
            for (index, entry) in buffer[..read * 8].chunks_exact(8).enumerate() {
                let word = entry.try_into().map_or(0, u64::from_ne_bytes);
                if Page(word).is_private() {
                    each(at + index as u64 * page);
                }
            }
            at += read as u64 * page;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_written_page_of_a_private_mapping_is_told_from_one_of_the_file() {
        assert!(!Page(0).is_private());
        assert!(!Page(0xa000_0000_0000_0000).is_private(), "present, of the file");
        assert!(Page(0x8100_0000_0000_0000).is_private(), "present, anonymous, mapped once");
        assert!(Page(0x4000_0000_0000_0000).is_private(), "swapped");
    }
}
