//! The descriptors of a process, as the links of `/proc/PID/fd`.

use std::mem::MaybeUninit;
use std::os::fd::AsRawFd;

use agent_session::Access;

use crate::{Directory, Failure, Process};

impl Directory<'_> {
    /// Reads the links `numbers` of this directory (an `fd` of proc(5)), and hands
    /// each number and what its link holds to `each`. A link that is gone is left
    /// out. Nothing is followed and nothing opened: one readlink(2) a descriptor,
    /// and no memory.
    ///
    /// # Errors
    ///
    /// When the links may not be read, or the session's time is over.
    pub fn each_link(&self, numbers: &[u32], mut each: impl FnMut(u32, &[u8])) -> Result<(), Failure> {
        let mut buffer = [MaybeUninit::<u8>::uninit(); 4096 + 16];
        let mut name = [0_u8; 11];
        for number in numbers {
            let name = decimal(*number, &mut name);
            self.permit(Access::Link, name.to_str().unwrap_or_default())?;
            match rustix::fs::readlinkat_raw(self.fd(), name, &mut buffer) {
                Ok((target, _)) => {
                    self.run().ledger().read(target.len());
                    each(*number, target);
                }
                Err(rustix::io::Errno::NOENT) => {}
                Err(errno) => return Err(self.failure(name.to_str().unwrap_or_default(), errno)),
            }
        }
        Ok(())
    }
}

impl Process<'_> {
    /// What the kernel calls the protocol of the socket behind descriptor `fd`
    /// (`TCP`, `UNIX-STREAM`, `AF_VSOCK`, `ALG`): the extended attribute
    /// `system.sockprotoname`. Nothing is opened.
    ///
    /// # Errors
    ///
    /// When it is no socket, or may not be asked.
    pub fn socket_protocol(&self, fd: u32) -> Result<Vec<u8>, Failure> {
        let name = self.place(&format!("fd/{fd}")).into_owned();
        self.permit(Access::Attributes, &name)?;
        // The system call takes a path, and only ours leads to a directory held open.
        let path = format!("/proc/self/fd/{}/{name}", self.fd().as_raw_fd());
        let mut buffer = [0_u8; 64];
        let length = rustix::fs::getxattr(path, c"system.sockprotoname", &mut buffer[..])
            .map_err(|errno| self.failure(&name, errno))?;
        let value = buffer.get(..length).unwrap_or_default();
        self.run().ledger().read(length);
        Ok(value.strip_suffix(&[0]).unwrap_or(value).to_vec())
    }
}

/// `number` in decimal.
fn decimal(number: u32, buffer: &mut [u8; 11]) -> &std::ffi::CStr {
    // The last byte stays 0: the longest number has 10 digits.
    buffer[10] = 0;
    let (mut at, mut rest) = (10, number);
    loop {
        at -= 1;
        buffer[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 || at == 0 {
            break;
        }
    }
    std::ffi::CStr::from_bytes_with_nul(&buffer[at..]).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_as_the_kernel_does() {
        for number in [0, 7, 10, 4096, 4_294_967_295] {
            assert_eq!(decimal(number, &mut [1; 11]).to_bytes(), number.to_string().as_bytes());
        }
    }
}
