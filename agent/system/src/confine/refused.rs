//! What the filter has refused: the kernel sends SIGSYS in the place of the system call,
//! and its handler notes the call and lets it return EPERM.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use nix::libc;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

use super::filter::call_name;

/// A system call that was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefusedCall {
    /// Its name.
    pub name: String,
    /// The argument that says most of it: the request of ptrace(2), the flags of open(2),
    /// the family of socket(2), the signal of kill(2).
    pub argument: Option<u64>,
    /// How often.
    pub times: u64,
}

/// `si_code` of a signal that seccomp(2) sends (asm-generic/siginfo.h).
const SYS_SECCOMP: libc::c_int = 1;

/// As many kinds of calls as are told apart.
const KINDS: usize = 128;

/// The number of the call (plus one) above its argument, and how often.
struct Slot {
    what: AtomicU64,
    times: AtomicU64,
}

static SLOTS: [Slot; KINDS] = [const { Slot { what: AtomicU64::new(0), times: AtomicU64::new(0) } }; KINDS];

/// Which argument says most of `call`.
fn telling(call: i64) -> Option<usize> {
    match call {
        libc::SYS_ptrace | libc::SYS_socket | libc::SYS_prctl => Some(0),
        libc::SYS_kill | libc::SYS_tkill | libc::SYS_ioctl | libc::SYS_fcntl | libc::SYS_pidfd_send_signal => Some(1),
        libc::SYS_openat | libc::SYS_tgkill | libc::SYS_mmap | libc::SYS_mprotect => Some(2),
        _ => None,
    }
}

/// Has nothing but atomics: it may come at any point.
fn note(call: i64, argument: u64) {
    let argument = if telling(call).is_some() { (argument & 0xffff_ffff) + 1 } else { 0 };
    let what = ((call as u64 + 1) << 40) | argument;
    for slot in &SLOTS {
        let mut known = slot.what.load(Relaxed);
        if known == 0 {
            known = match slot.what.compare_exchange(0, what, Relaxed, Relaxed) {
                Ok(_) => what,
                Err(other) => other,
            };
        }
        if known == what {
            slot.times.fetch_add(1, Relaxed);
            return;
        }
    }
}

/// Takes what was refused since the last time, by number of the call.
pub(super) fn take() -> Vec<RefusedCall> {
    let mut found: Vec<(u64, u64)> = SLOTS
        .iter()
        .map(|slot| (slot.what.load(Relaxed), slot.times.swap(0, Relaxed)))
        .filter(|(_, times)| *times > 0)
        .collect();
    found.sort_unstable();
    let call = |(what, times): (u64, u64)| RefusedCall {
        name: call_name((what >> 40) as i64 - 1),
        argument: (what & 0xff_ffff_ffff).checked_sub(1),
        times,
    };
    found.into_iter().map(call).collect()
}

#[cfg(target_arch = "x86_64")]
extern "C" fn on_trap(_: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    const REGISTERS: [usize; 4] =
        [libc::REG_RDI as usize, libc::REG_RSI as usize, libc::REG_RDX as usize, libc::REG_R10 as usize];
    // SAFETY: with SA_SIGINFO the kernel passes a siginfo_t that is valid for this call.
    let code = unsafe { info.as_ref() }.map_or(0, |info| info.si_code);
    // SAFETY: and the context of the thread, as a ucontext_t, which is ours to change.
    let context = unsafe { context.cast::<libc::ucontext_t>().as_mut() };
    let Some(context) = context.filter(|_| code == SYS_SECCOMP) else { return };
    let registers = &mut context.uc_mcontext.gregs;
    // The kernel has put the number of the call back there (syscall_rollback).
    let call = registers[libc::REG_RAX as usize];
    let argument = telling(call).map_or(0, |at| registers[REGISTERS[at]] as u64);
    note(call, argument);
    registers[libc::REG_RAX as usize] = -i64::from(libc::EPERM);
}

#[cfg(target_arch = "aarch64")]
extern "C" fn on_trap(_: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: with SA_SIGINFO the kernel passes a siginfo_t that is valid for this call.
    let code = unsafe { info.as_ref() }.map_or(0, |info| info.si_code);
    // SAFETY: and the context of the thread, as a ucontext_t, which is ours to change.
    let context = unsafe { context.cast::<libc::ucontext_t>().as_mut() };
    let Some(context) = context.filter(|_| code == SYS_SECCOMP) else { return };
    let registers = &mut context.uc_mcontext.regs;
    let call = registers[8] as i64;
    let argument = telling(call).map_or(0, |at| registers[at]);
    note(call, argument);
    registers[0] = (-i64::from(libc::EPERM)) as u64;
}

/// Notes from now on what is refused.
pub(super) fn watch() -> Result<(), nix::errno::Errno> {
    let flags = SaFlags::SA_SIGINFO | SaFlags::SA_ONSTACK | SaFlags::SA_NODEFER | SaFlags::SA_RESTART;
    let action = SigAction::new(SigHandler::SigAction(on_trap), flags, SigSet::empty());
    // SAFETY: the handler does nothing but what is safe in one (signal-safety(7)): it uses
    // atomics, and changes the context that it is given.
    unsafe { sigaction(Signal::SIGSYS, &action) }?;
    // Whoever has started us may have blocked it: a trap would then end the process.
    let mut only = SigSet::empty();
    only.add(Signal::SIGSYS);
    only.thread_unblock()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_counted_by_call_and_telling_argument() {
        note(libc::SYS_ptrace, 5);
        note(libc::SYS_ptrace, 5);
        note(libc::SYS_ptrace, 4);
        note(libc::SYS_execve, 0xdead_beef);
        let call = |name: &str, argument, times| RefusedCall { name: name.to_owned(), argument, times };
        assert_eq!(take(), [call("execve", None, 1), call("ptrace", Some(4), 1), call("ptrace", Some(5), 2)]);
        assert_eq!(take(), []);
        for call in 0..2 * KINDS as i64 {
            note(call, 0);
        }
        assert!(take().len() <= KINDS);
    }
}
