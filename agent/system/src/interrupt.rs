//! Ending early: signals, and a target that goes away.
//!
//! A command that looks for a while is ended by SIGINT (a person) or SIGTERM (the
//! kubelet, before it kills) with all that it has seen by then. The signals are
//! blocked and read from a signalfd(2), so nothing runs at an unexpected moment.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicI32, Ordering::Relaxed};
use std::time::Duration;

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags};

use crate::{Failure, Run, clock, stop};

/// The signal that ended a look of this process, if one has.
static CAME: AtomicI32 = AtomicI32::new(0);

/// Whether a signal has ended a look of this process: who performs several then begins no more.
pub fn has_come() -> Option<&'static str> {
    match CAME.load(Relaxed) {
        0 => None,
        signal => Some(Signal::try_from(signal).map_or("signal", Signal::as_str)),
    }
}

/// Why a look was ended before its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interrupted {
    /// A signal, by its name.
    Signal(&'static str),
    /// The target has ended.
    TargetExited,
}

/// What a wait came to.
enum Waited {
    Nothing,
    /// The file can be read; or the caller is to ask again.
    File,
    Interrupted(Interrupted),
}

/// Waits for files, and for what ends a look early. SIGINT and SIGTERM are
/// blocked from then on, until one has come and this is dropped.
#[derive(Debug)]
pub struct Interrupts {
    signals: SignalFd,
    blocked: SigSet,
    target: Option<OwnedFd>,
    has_come: bool,
}

impl Interrupts {
    /// Begins to watch for SIGINT, SIGTERM and the end of the run's target, if
    /// there is one.
    ///
    /// # Errors
    ///
    /// When signalfd(2) is refused.
    pub fn watch(run: &Run) -> Result<Self, Failure> {
        Self::of(run.target().filter(|_| run.is_live()).and_then(|target| Pid::from_raw(target.pid as i32)))
    }

    /// Begins to watch for SIGINT and SIGTERM.
    ///
    /// # Errors
    ///
    /// As [`Interrupts::watch`].
    pub fn alone() -> Result<Self, Failure> {
        Self::of(None)
    }

    fn of(pid: Option<Pid>) -> Result<Self, Failure> {
        let fail = |errno: nix::errno::Errno| Failure::new("signalfd", Errno::from_raw_os_error(errno as i32));
        let mut blocked = SigSet::empty();
        blocked.add(Signal::SIGINT);
        blocked.add(Signal::SIGTERM);
        blocked.thread_block().map_err(fail)?;
        let signals = SignalFd::with_flags(&blocked, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK).map_err(fail)?;
        // A kernel before 5.3, or seccomp, may refuse: then the target is not watched.
        let target = pid.and_then(|pid| rustix::process::pidfd_open(pid, PidfdFlags::empty()).ok());
        Ok(Self { signals, blocked, target, has_come: false })
    }

    /// Waits until `patience` is over or the look is interrupted. `None`: go on.
    pub fn pause(&mut self, patience: Duration) -> Option<Interrupted> {
        self.wait_for(None, patience)
    }

    /// Waits until `file` can be read, the look is interrupted, or `patience` is
    /// over. `None`: go on.
    pub fn wait(&mut self, file: BorrowedFd<'_>, patience: Duration) -> Option<Interrupted> {
        self.wait_for(Some(file), patience)
    }

    fn wait_for(&mut self, file: Option<BorrowedFd<'_>>, patience: Duration) -> Option<Interrupted> {
        let until_us = clock::boot_us().saturating_add(u64::try_from(patience.as_micros()).unwrap_or(u64::MAX));
        loop {
            let left = Duration::from_micros(until_us.saturating_sub(clock::boot_us()));
            let step = stop::step(left);
            match self.wait_at_once(file, step) {
                Waited::Nothing if step < left => stop::settle(),
                Waited::Nothing | Waited::File => return None,
                Waited::Interrupted(interrupted) => return Some(interrupted),
            }
        }
    }

    fn wait_at_once(&mut self, file: Option<BorrowedFd<'_>>, patience: Duration) -> Waited {
        let patience = Timespec { tv_sec: patience.as_secs() as i64, tv_nsec: patience.subsec_nanos().into() };
        let (has_signal, has_exited, has_file) = {
            let mut files = vec![PollFd::new(&self.signals, PollFlags::IN)];
            let has_target = self.target.is_some();
            files.extend(self.target.as_ref().map(|target| PollFd::from_borrowed_fd(target.as_fd(), PollFlags::IN)));
            files.extend(file.map(|file| PollFd::from_borrowed_fd(file, PollFlags::IN)));
            // EINTR: the caller asks again.
            if poll(&mut files, Some(&patience)).is_err() {
                return Waited::File;
            }
            let ready = |at: usize| files.get(at).is_some_and(|file| !file.revents().is_empty());
            (ready(0), has_target && ready(1), file.is_some() && ready(files.len() - 1))
        };
        if has_signal && let Ok(Some(signal)) = self.signals.read_signal() {
            self.has_come = true;
            CAME.store(signal.ssi_signo as i32, Relaxed);
            let name = Signal::try_from(signal.ssi_signo as i32).map_or("signal", Signal::as_str);
            return Waited::Interrupted(Interrupted::Signal(name));
        }
        match (has_exited, has_file) {
            (true, _) => Waited::Interrupted(Interrupted::TargetExited),
            (false, true) => Waited::File,
            (false, false) => Waited::Nothing,
        }
    }
}

impl Drop for Interrupts {
    fn drop(&mut self) {
        // A second signal while the answer is printed ends the agent as usual. A first
        // one asks for what is being done already.
        if self.has_come {
            let _ = self.blocked.thread_unblock();
        }
    }
}
