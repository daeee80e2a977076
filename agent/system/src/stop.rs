//! Holding a thread for as long as it takes to read its registers.
//!
//! PTRACE_SEIZE, PTRACE_INTERRUPT, wait with a deadline, GETREGS, and after the
//! caller has copied what it needs PTRACE_DETACH. Seizing sends no signal, and a
//! tracer that dies at any point leaves the thread running: the kernel detaches
//! it (ptrace(2); PTRACE_O_EXITKILL is never set). But a stop is not harmless: it
//! makes system calls that are never restarted (`epoll_wait`, `recv` with a
//! time-out, `semop`) return EINTR, so whoever can do without one should.

use std::cell::RefCell;
use std::time::Duration;

use agent_session::{Access, Refusal};
use nix::errno::Errno;
use nix::libc;
use nix::sys::ptrace;
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
    /// A signal that was on its way when the thread stopped, by its number, or 0: it is
    /// passed on.
    signal: i32,
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
    /// time (it sleeps uninterruptibly): then it is let go of as soon as it stops
    /// ([`settle`]), at the latest when the agent ends.
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
                OWED.with_borrow_mut(|owed| owed.push(pid));
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
    Stopped(i32, u64),
    Gone,
    Late,
}

/// What waitid(2) says of a tracee.
enum State {
    Running,
    /// It is held; the signal that was on its way to it, or 0.
    Stopped(i32),
    Gone,
}

/// Asks without waiting, and leaves the stop as it is (WNOWAIT). A wait that takes it
/// takes the signal too: of a tracer that is killed before its PTRACE_DETACH the kernel
/// then has none to deliver any more. And the number of a signal is taken as it is, since
/// nix knows those below SIGRTMIN alone.
fn state(pid: Pid) -> State {
    // SAFETY: a siginfo_t of zeros is one that says nothing.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    let ask = |flags: i32, info: &mut libc::siginfo_t| {
        let flags = flags | libc::WEXITED | libc::WSTOPPED | libc::WNOHANG | libc::__WALL | libc::__WNOTHREAD;
        // SAFETY: `info` outlives the call, which writes nothing else.
        unsafe { libc::waitid(libc::P_PID, pid.as_raw().unsigned_abs(), &raw mut *info, flags) }
    };
    match ask(libc::WNOWAIT, &mut info) {
        0 => {}
        _ if Errno::last() == Errno::EINTR => return State::Running,
        _ => return State::Gone,
    }
    // SAFETY: the kernel sets it for a child, and leaves 0 where there is nothing to say.
    let about = unsafe { info.si_pid() };
    // SAFETY: as above.
    let status = unsafe { info.si_status() };
    match info.si_code {
        _ if about == 0 => State::Running,
        // An event in the high half: our interrupt, or a group-stop that it keeps.
        libc::CLD_STOPPED | libc::CLD_TRAPPED if status >> 8 != 0 => State::Stopped(0),
        libc::CLD_STOPPED | libc::CLD_TRAPPED => State::Stopped(status),
        // A thread that has ended stays until its tracer has taken note.
        _ => {
            ask(0, &mut info);
            State::Gone
        }
    }
}

/// PTRACE_DETACH with a signal of any number; nix takes those below SIGRTMIN alone.
fn detach(pid: Pid, signal: i32) {
    let nothing = std::ptr::null_mut::<libc::c_void>();
    let signal = std::ptr::without_provenance_mut::<libc::c_void>(signal.unsigned_abs() as usize);
    // ESRCH: it was killed meanwhile. There is nothing else to do then.
    // SAFETY: PTRACE_DETACH takes a number for each of these two and follows neither.
    let _ = unsafe { libc::ptrace(libc::PTRACE_DETACH, pid.as_raw(), nothing, signal) };
}

fn wait_for_stop(pid: Pid, since_us: u64, until_us: u64) -> Waited {
    let mut turns = 0_u32;
    let mut since_us = since_us;
    loop {
        let asked_us = clock::boot_us();
        match state(pid) {
            State::Stopped(signal) => return Waited::Stopped(signal, since_us),
            State::Gone => return Waited::Gone,
            State::Running => {}
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

thread_local! {
    /// Threads that were interrupted and have not stopped yet. A tracee belongs to the
    /// thread that has seized it, and not to the command: that may be over by then.
    static OWED: RefCell<Vec<Pid>> = const { RefCell::new(Vec::new()) };
}

/// How long a thread that has stopped too late may wait to be let go of.
const SOON: Duration = Duration::from_millis(2);

/// Lets go of the threads that have stopped too late. Every access and every wait comes
/// by here, so that they are not held until the command is over.
pub fn settle() {
    OWED.with_borrow_mut(|owed| {
        owed.retain(|pid| match state(*pid) {
            State::Running => true,
            State::Stopped(signal) => {
                detach(*pid, signal);
                false
            }
            State::Gone => false,
        });
    });
}

/// How much of `time` may go by at once: little while a thread may stop that has to be
/// let go of.
pub(crate) fn step(time: Duration) -> Duration {
    if OWED.with_borrow(Vec::is_empty) { time } else { time.min(SOON) }
}

/// Lets `time` go by.
pub(crate) fn sleep(time: Duration) {
    let until_us = clock::boot_us().saturating_add(u64::try_from(time.as_micros()).unwrap_or(u64::MAX));
    loop {
        let left_us = until_us.saturating_sub(clock::boot_us());
        if left_us == 0 {
            return;
        }
        std::thread::sleep(step(Duration::from_micros(left_us)));
        settle();
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
        detach(self.tid, self.signal);
        let held = clock::boot_us().saturating_sub(since);
        self.process.run().hold_ends(held, self.signal != 0);
        held
    }
}

impl Drop for Stopped<'_> {
    fn drop(&mut self) {
        self.let_go();
    }
}

#[cfg(test)]
mod tests;
