//! `/proc/PID/task/TID/syscall` (proc_pid_syscall(5)): where a thread waits.

use super::{hex, number};

/// What a thread is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Doing {
    /// It runs, or could: its registers are its own business.
    Running,
    /// It is off the processor, and stays so as long as this is the same.
    Blocked(Blocked),
}

/// A thread that is off the processor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Blocked {
    /// The system call that it waits in; `None` if it was stopped outside of one
    /// (a signal, a page fault).
    pub call: Option<Call>,
    /// Its stack pointer (AVMA).
    pub sp: u64,
    /// Its program counter (AVMA).
    pub pc: u64,
}

/// A system call and its arguments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Call {
    /// Its number.
    pub number: i64,
    /// Its six argument registers, whether it takes so many or not.
    pub arguments: [u64; 6],
}

/// Parses `syscall`. `None` when it is not as the manual page says; it is empty
/// for a thread that is on its way out.
pub fn doing(bytes: &[u8]) -> Option<Doing> {
    let bytes = bytes.trim_ascii();
    if bytes == b"running" {
        return Some(Doing::Running);
    }
    let mut words = bytes.split(|byte| *byte == b' ');
    let number: i64 = number(words.next()?)?;
    let mut word = || words.next()?.strip_prefix(b"0x").and_then(hex);
    let call = if number < 0 {
        None
    } else {
        let mut arguments = [0; 6];
        for argument in &mut arguments {
            *argument = word()?;
        }
        Some(Call { number, arguments })
    };
    Some(Doing::Blocked(Blocked { call, sp: word()?, pc: word()? }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_the_kernel_writes() {
        assert_eq!(doing(b"running\n"), Some(Doing::Running));
        let text = b"7 0x7ffc6aa3a8f0 0x1 0xffffffffffffffff 0x0 0x0 0x8 0x7ffc6aa3a8b0 0x7f3b5d2f1ac0\n";
        let Some(Doing::Blocked(Blocked { call: Some(call), sp, pc })) = doing(text) else { panic!("in a call") };
        assert_eq!((call.number, call.arguments[2], call.arguments[5]), (7, u64::MAX, 8));
        assert_eq!((sp, pc), (0x7ffc_6aa3_a8b0, 0x7f3b_5d2f_1ac0));
        let outside = Doing::Blocked(Blocked { call: None, sp: 0x7ffe, pc: 0x40 });
        assert_eq!(doing(b"-1 0x7ffe 0x40\n"), Some(outside));
    }

    #[test]
    fn what_is_cut_off_is_refused() {
        let text = b"7 0x1 0x2 0x3 0x4 0x5 0x6 0x7 0x8";
        for end in 0..text.len() {
            let _ = doing(&text[..end]);
        }
        for bad in [&b""[..], b"7 0x1 0x2", b"-1 0x7ffe", b"-1 7ffe 40", b"x"] {
            assert_eq!(doing(bad), None);
        }
    }
}
