//! The descriptors of a process, as the links of `/proc/PID/fd`.

use std::mem::MaybeUninit;

use agent_session::Access;

use crate::{Directory, Failure};

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
