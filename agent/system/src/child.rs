//! One piece of work in a process of its own: it is confined for good, and whoever started it goes on.

use std::io;

use nix::sys::signal::{SigHandler, Signal, signal};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, fork};

use crate::keep::OwnFile;

/// Performs `work` in a copy of this process, which must have no other thread, with `output` as its standard output if
/// there is one; returns the exit status that it gives. SIGINT is for the copy alone: see [`leave_interrupts`].
///
/// # Errors
///
/// When no process can be made.
pub fn perform(output: Option<&OwnFile>, work: impl FnOnce() -> u8) -> io::Result<u8> {
    // SAFETY: there is no other thread that could hold a lock.
    match unsafe { fork() } {
        Ok(ForkResult::Child) => {
            // SAFETY: the default action runs no code of ours.
            let _ = unsafe { signal(Signal::SIGINT, SigHandler::SigDfl) };
            if let Some(output) = output
                && rustix::stdio::dup2_stdout(output).is_err()
            {
                crate::own::end(1);
            }
            crate::own::end(work());
        }
        Ok(ForkResult::Parent { child }) => match waitpid(child, None) {
            Ok(WaitStatus::Exited(_, code)) => Ok(u8::try_from(code).unwrap_or(u8::MAX)),
            Ok(WaitStatus::Signaled(_, signal, _)) => Ok(128 + (signal as i32 as u8 & 127)),
            Ok(_) => Ok(1),
            Err(errno) => Err(errno.into()),
        },
        Err(errno) => Err(errno.into()),
    }
}

/// From now on SIGINT is for what [`perform`] performs alone.
pub fn leave_interrupts() {
    // SAFETY: ignoring a signal runs no code.
    let _ = unsafe { signal(Signal::SIGINT, SigHandler::SigIgn) };
}

/// Ends this process after so many seconds, whatever it waits for (alarm(2)).
pub fn end_after(seconds: u32) {
    nix::unistd::alarm::set(seconds);
}

/// The processes that are there, for a person to choose from.
pub fn pids() -> Vec<u32> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let mut pids: Vec<u32> = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    pids.sort_unstable();
    pids
}

/// The name of a process, escaped.
pub fn name_of(pid: u32) -> Option<agent_model::Text> {
    let bytes = std::fs::read(format!("/proc/{pid}/comm")).ok()?;
    Some(agent_model::Text::from_bytes(bytes.trim_ascii_end()))
}
