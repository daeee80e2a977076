//! Holding a thread for as long as it takes to read its registers.
//!
//! PTRACE_SEIZE, PTRACE_INTERRUPT, wait with a deadline, GETREGS, and after the
//! caller has copied what it needs PTRACE_DETACH. Seizing sends no signal, and a
//! tracer that dies at any point leaves the thread running: the kernel detaches
//! it (ptrace(2); PTRACE_O_EXITKILL is never set). But a stop is not harmless: it
//! makes system calls that are never restarted (`epoll_wait`, `recv` with a
//! time-out, `semop`) return EINTR, so whoever can do without one should.

use std::time::Duration;

use agent_session::{Access, Refusal};
use nix::errno::Errno;
use nix::sys::ptrace;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::{Cause, Failure, Process, clock};

/// The registers of a thread that is held, by their DWARF numbers: on x86-64 rax,
/// rdx, rcx, rbx, rsi, rdi, rbp, rsp, r8 to r15, and rip (System V ABI, AMD64
/// supplement, figure 3.36).
pub type Registers = [u64; 17];

/// A thread that is held. It goes on when this is dropped.
#[derive(Debug)]
pub struct Stopped<'r> {
    process: Process<'r>,
    tid: Pid,
    since_us: u64,
    /// A signal that was on its way when the thread stopped: it is passed on.
    signal: Option<Signal>,
    /// Its registers.
    pub registers: Registers,
}

impl<'r> Process<'r> {
    /// Holds its thread `tid` and reads its registers, waiting for at most
    /// `patience`.
    ///
    /// # Errors
    ///
    /// When it may not be traced, has a tracer already, is gone, or did not stop in
    /// time (it sleeps uninterruptibly): then it is let go of as soon as it stops,
    /// at the latest when the agent ends.
    pub fn stop(&self, tid: u32, patience: Duration) -> Result<Stopped<'r>, Failure> {
        let name = format!("task/{tid}");
        let fail = |cause: Cause| {
            let path = format!("ptrace({tid})");
            Failure { path: path.as_str().into(), cause, pid: Some(self.pid()) }
        };
        if !self.run().is_live() {
            return Err(fail(Cause::Unsupported("a recorded tree has no threads to hold")));
        }
        self.run()
            .permit(Access::Stop, &format_args!("{}/{name}", self.path()))
            .map_err(|refusal: Refusal| fail(refusal.into()))?;
        let os = |errno: Errno| fail(Cause::Os(rustix::io::Errno::from_raw_os_error(errno as i32)));
        let pid = Pid::from_raw(i32::try_from(tid).map_err(|_| fail(Cause::Exited))?);
        ptrace::seize(pid, ptrace::Options::empty()).map_err(os)?;
        // The thread ID could have been reused before it was seized, never after.
        let is_ours = self.thread(tid).is_ok();
        let since_us = clock::boot_us();
        if let Err(errno) = ptrace::interrupt(pid) {
            return Err(os(errno));
        }
        let (signal, since_us) = match wait_for_stop(pid, since_us, since_us + patience.as_micros() as u64) {
            Waited::Stopped(signal, since_us) => (signal, since_us),
            Waited::Gone => return Err(fail(Cause::Exited)),
            Waited::Late => {
                self.run().owe(pid);
                return Err(fail(Cause::Timeout("the thread did not stop: it sleeps uninterruptibly")));
            }
        };
        // From here on the thread is let go of whatever happens.
        self.run().hold_begins(since_us);
        let mut stopped = Stopped { process: self.clone(), tid: pid, since_us, signal, registers: [0; 17] };
        if !is_ours {
            return Err(fail(Cause::Exited));
        }
        stopped.registers = registers(pid).map_err(os)?;
        Ok(stopped)
    }
}

#[cfg(target_arch = "x86_64")]
fn registers(pid: Pid) -> Result<Registers, Errno> {
    let r = ptrace::getregs(pid)?;
    Ok([
        r.rax, r.rdx, r.rcx, r.rbx, r.rsi, r.rdi, r.rbp, r.rsp, r.r8, r.r9, r.r10, r.r11, r.r12, r.r13, r.r14, r.r15,
        r.rip,
    ])
}

#[cfg(not(target_arch = "x86_64"))]
fn registers(_: Pid) -> Result<Registers, Errno> {
    Err(Errno::EOPNOTSUPP)
}

enum Waited {
    /// The signal to pass on, and when the thread was not yet seen to be held: it was
    /// held for no longer than since then.
    Stopped(Option<Signal>, u64),
    Gone,
    Late,
}

fn wait_for_stop(pid: Pid, since_us: u64, until_us: u64) -> Waited {
    let flags = WaitPidFlag::__WALL | WaitPidFlag::WNOHANG;
    let mut turns = 0_u32;
    let mut since_us = since_us;
    loop {
        let asked_us = clock::boot_us();
        match waitpid(pid, Some(flags)) {
            // PTRACE_EVENT_STOP: our interrupt, or a group-stop that it keeps.
            Ok(WaitStatus::PtraceEvent(..)) => return Waited::Stopped(None, since_us),
            Ok(WaitStatus::Stopped(_, signal)) => return Waited::Stopped(Some(signal), since_us),
            Ok(WaitStatus::Exited(..) | WaitStatus::Signaled(..)) | Err(Errno::ECHILD | Errno::ESRCH) => {
                return Waited::Gone;
            }
            Ok(_) | Err(_) => {}
        }
        since_us = asked_us;
        if asked_us >= until_us {
            return Waited::Late;
        }
        turns += 1;
        if turns < 64 {
            std::thread::yield_now();
        } else {
            std::thread::sleep(Duration::from_micros(50));
        }
    }
}

/// Lets go of `pid` if it has stopped by now; true when nothing is owed to it.
pub(crate) fn settle(pid: Pid) -> bool {
    match waitpid(pid, Some(WaitPidFlag::__WALL | WaitPidFlag::WNOHANG)) {
        Ok(WaitStatus::StillAlive) => false,
        Ok(WaitStatus::Stopped(_, signal)) => ptrace::detach(pid, signal).is_ok(),
        Ok(WaitStatus::PtraceEvent(..)) => ptrace::detach(pid, None).is_ok(),
        Ok(_) | Err(_) => true,
    }
}

impl Stopped<'_> {
    /// Lets the thread go on, and returns for how long it was held, in
    /// microseconds.
    pub fn release(mut self) -> u64 {
        self.let_go()
    }

    /// As [`Stopped::release`]; its registers stay. A second time it does nothing.
    pub fn let_go(&mut self) -> u64 {
        let since = std::mem::take(&mut self.since_us);
        if since == 0 {
            return 0;
        }
        // ESRCH: it was killed meanwhile. There is nothing else to do then.
        let _ = ptrace::detach(self.tid, self.signal);
        let held = clock::boot_us().saturating_sub(since);
        self.process.run().hold_ends(held);
        held
    }
}

impl Drop for Stopped<'_> {
    fn drop(&mut self) {
        self.let_go();
    }
}
