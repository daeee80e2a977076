//! `/proc/PID/task/TID/syscall` (proc_pid_syscall(5)).

use super::{hex, number};

/// What `syscall` says of a thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Syscall {
    /// It runs, and has no registers to show.
    Running,
    /// It does not run.
    Blocked {
        /// The system call that it is in, and its six arguments; `None` when it
        /// was stopped elsewhere (a page fault, a signal).
        call: Option<(u32, [u64; 6])>,
        /// Its stack pointer.
        stack_pointer: u64,
        /// Its instruction pointer.
        instruction_pointer: u64,
    },
}

/// Parses `syscall`. `None` when it is not as the manual page says; it is empty
/// for a thread that is on its way out.
pub fn syscall(bytes: &[u8]) -> Option<Syscall> {
    let bytes = bytes.trim_ascii();
    if bytes == b"running" {
        return Some(Syscall::Running);
    }
    let mut words = bytes.split(|byte| *byte == b' ');
    let number: i64 = number(words.next()?)?;
    let mut word = || words.next()?.strip_prefix(b"0x").and_then(hex);
    let call = match u32::try_from(number) {
        Ok(number) => {
            let mut arguments = [0; 6];
            for argument in &mut arguments {
                *argument = word()?;
            }
            Some((number, arguments))
        }
        Err(_) => None,
    };
    Some(Syscall::Blocked { call, stack_pointer: word()?, instruction_pointer: word()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_the_kernel_writes() {
        assert_eq!(syscall(b"running\n"), Some(Syscall::Running));
        let in_call = b"7 0x7ffc6aa3a8f0 0x1 0xffffffffffffffff 0x0 0x0 0x8 0x7ffc6aa3a8b0 0x7f3b5d2f1ac0\n";
        let Some(Syscall::Blocked { call: Some((number, arguments)), stack_pointer, instruction_pointer }) =
            syscall(in_call)
        else {
            panic!("in a call");
        };
        assert_eq!((number, arguments[2], arguments[5]), (7, u64::MAX, 8));
        assert_eq!((stack_pointer, instruction_pointer), (0x7ffc_6aa3_a8b0, 0x7f3b_5d2f_1ac0));
        let elsewhere = Syscall::Blocked { call: None, stack_pointer: 0x7ffe, instruction_pointer: 0x40 };
        assert_eq!(syscall(b"-1 0x7ffe 0x40\n"), Some(elsewhere));
    }

    #[test]
    fn what_is_cut_off_is_refused() {
        let text = b"7 0x1 0x2 0x3 0x4 0x5 0x6 0x7 0x8";
        for end in 0..text.len() {
            let _ = syscall(&text[..end]);
        }
        assert_eq!(syscall(b""), None);
        assert_eq!(syscall(b"7 0x1 0x2"), None);
        assert_eq!(syscall(b"-1 0x7ffe"), None);
        assert_eq!(syscall(b"-1 7ffe 40"), None);
    }
}
