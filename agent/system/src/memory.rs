//! Memory of a process, read-only.

use std::ops::Range;
use std::os::fd::OwnedFd;
use std::sync::{Mutex, PoisonError};

use agent_session::Access;
use rustix::fs::OFlags;
use rustix::io::Errno;

use crate::{Failure, Process, stop};

/// The memory of a process, open for reading.
///
/// Through `/proc/PID/mem`: the default seccomp profile of container runtimes
/// refuses process_vm_readv(2) without CAP_SYS_PTRACE even where this may be read,
/// and not the other way round.
#[derive(Debug)]
pub struct Memory<'r> {
    process: Process<'r>,
    mem: OwnedFd,
    /// Where nothing is to be read.
    avoided: Mutex<Vec<Range<u64>>>,
}

impl<'r> Process<'r> {
    /// Opens its memory for reading.
    ///
    /// # Errors
    ///
    /// When ptrace(2)'s access check says no, or in a recorded tree.
    pub fn memory(&self) -> Result<Memory<'r>, Failure> {
        if !self.run().is_live() {
            return Err(self.failure("mem", crate::Cause::Unsupported("a recorded tree has no memory")));
        }
        let mem = self.open(Access::Memory, "mem", OFlags::RDONLY)?;
        Ok(Memory { process: self.clone(), mem, avoided: Mutex::default() })
    }
}

impl Memory<'_> {
    /// From now on nothing is read of `avma`: a page that is not there would have to come from a file system that does
    /// not answer.
    pub fn avoid(&self, avma: Range<u64>) {
        self.avoided.lock().unwrap_or_else(PoisonError::into_inner).push(avma);
    }

    /// How many bytes of `length` at `address` may be read.
    fn allowed(&self, address: u64, length: usize) -> usize {
        let avoided = self.avoided.lock().unwrap_or_else(PoisonError::into_inner);
        let end = address.saturating_add(length as u64);
        let first = avoided.iter().filter(|one| one.start < end && address < one.end).map(|one| one.start).min();
        first.map_or(length, |start| start.saturating_sub(address) as usize)
    }

    /// Reads at `address` into `buffer`, and returns how many bytes could be read
    /// before the first page that is not there: 0 if that is the first.
    ///
    /// # Errors
    ///
    /// When the process is gone, or reading fails for another reason than a
    /// missing page.
    pub fn read(&self, address: u64, buffer: &mut [u8]) -> Result<usize, Failure> {
        stop::settle();
        if let Some(refusal) = self.process.run().held_too_long() {
            return Err(self.process.failure("mem", refusal));
        }
        let length = self.allowed(address, buffer.len());
        let buffer = &mut buffer[..length];
        let mut done = 0;
        while done < buffer.len() {
            match rustix::io::pread(&self.mem, &mut buffer[done..], address.wrapping_add(done as u64)) {
                Ok(0) if done == 0 => return Err(self.process.failure("mem", Errno::SRCH)),
                Ok(0) | Err(Errno::IO | Errno::FAULT | Errno::INVAL | Errno::OVERFLOW) => break,
                Ok(read) => done += read,
                Err(Errno::INTR) => {}
                Err(errno) => return Err(self.process.failure("mem", errno)),
            }
        }
        self.process.run().ledger().read(done);
        Ok(done)
    }
}
