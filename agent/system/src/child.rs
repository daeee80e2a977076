//! One piece of work in a process of its own: it is confined for good, and whoever started it goes on.

use std::io::{self, BufRead as _, Write as _};
use std::os::unix::net::UnixStream;
use std::sync::OnceLock;

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
            // SAFETY: as above.
            let _ = unsafe { signal(Signal::SIGTERM, SigHandler::SigDfl) };
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

/// Two copies of one process, side by side; the copy ends with the original, by SIGTERM.
#[derive(Debug)]
pub enum Beside {
    /// This is the process that was copied.
    Original(Other),
    /// This is the copy.
    Copy(Other),
}

/// The other one.
#[derive(Debug)]
pub struct Other(UnixStream);

/// Makes a copy of this process, which must have no other thread, and leaves both to go on. If the copy ends by SIGTERM,
/// the terminal is left as it is now.
///
/// # Errors
///
/// When no process can be made.
pub fn beside() -> io::Result<Beside> {
    let (ours, theirs) = UnixStream::pair()?;
    let before = rustix::process::getpid();
    // SAFETY: there is no other thread that could hold a lock.
    match unsafe { fork() } {
        Ok(ForkResult::Child) => {
            drop(ours);
            leave_terminal_as_it_is();
            nix::sys::prctl::set_pdeathsig(Signal::SIGTERM)?;
            // It may have ended before.
            if rustix::process::getppid() != Some(before) {
                crate::own::end(1);
            }
            Ok(Beside::Copy(Other(theirs)))
        }
        Ok(ForkResult::Parent { .. }) => {
            ours.set_nonblocking(true)?;
            Ok(Beside::Original(Other(ours)))
        }
        Err(errno) => Err(errno.into()),
    }
}

impl Other {
    /// Tells the other one something, once: a line.
    pub fn tell(&mut self, text: &str) {
        // If it has ended there is nobody to tell.
        let _ = self.0.write_all(format!("{text}\n").as_bytes());
    }

    /// Waits for what the other one tells; `None` when it has ended before.
    pub fn hear(&mut self) -> Option<String> {
        let mut line = String::new();
        let heard = io::BufReader::new(&self.0).read_line(&mut line).is_ok() && line.ends_with('\n');
        heard.then(|| line.trim_end().to_owned())
    }

    /// Whether it, and all that it has started, has ended.
    pub fn has_ended(&mut self) -> bool {
        // read(2) and not recv(2), which the filter refuses.
        matches!(rustix::io::read(&self.0, &mut [0; 1]), Ok(0))
    }
}

/// The terminal on standard input as it was.
static TERMINAL: OnceLock<nix::libc::termios> = OnceLock::new();

/// Ends the process, with the terminal as it was: who edits a line has changed it.
extern "C" fn end_with_terminal(_: nix::libc::c_int) {
    if let Some(terminal) = TERMINAL.get() {
        // SAFETY: the pointer is that of a value that stays, and this may be called in a handler (signal-safety(7)).
        unsafe { nix::libc::tcsetattr(0, nix::libc::TCSANOW, terminal) };
    }
    // SAFETY: as above.
    unsafe { nix::libc::_exit(4) };
}

fn leave_terminal_as_it_is() {
    let mut now = std::mem::MaybeUninit::uninit();
    // SAFETY: it is filled in where the call succeeds, and read only then.
    if unsafe { nix::libc::tcgetattr(0, now.as_mut_ptr()) } == 0 {
        // SAFETY: as above.
        let _ = TERMINAL.set(unsafe { now.assume_init() });
    }
    // SAFETY: the handler calls nothing that a handler may not call.
    let _ = unsafe { signal(Signal::SIGTERM, SigHandler::Handler(end_with_terminal)) };
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
