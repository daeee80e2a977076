//! Looking at one thread: without a stop where that can be, with a bounded one
//! where it must be.

use std::sync::Arc;
use std::time::Duration;

use agent_model::Text;
use agent_system::memory::Memory;
use agent_system::parse::{self, Blocked, Call, Doing};
use agent_system::stop::Stopped;
use agent_system::{Cause, Directory, Failure, Process, clock};

use syscalls::Sysno;

use crate::code::CodeMap;
use crate::glimpse::{Copied, Glimpse, Inner, Pages, Stillness, Waits};
use crate::unwind::{EndReason, Register, Registers, Unwound};
use crate::wait::Wait;

/// How a stack was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Method {
    /// The thread was blocked, and did not move while its stack was copied.
    NoStop,
    /// It was held for a moment.
    Stopped,
    /// Only the names of what it does were to be had.
    SyscallOnly,
}

impl Method {
    /// The word for it in output.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NoStop => "no_stop",
            Self::Stopped => "stopped",
            Self::SyscallOnly => "syscall_only",
        }
    }
}

/// When a thread may be held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StopPolicy {
    /// Not at all.
    Never,
    /// Where its stack cannot be read otherwise, and its system call does not notice
    /// ([`goes_on_after_a_stop`]).
    Auto,
    /// Where it runs: a thread that is blocked is not disturbed for a better stack.
    OnlyRunning,
}

/// What was seen of a thread.
#[derive(Debug)]
pub struct Seen {
    /// What it was doing, if that could be read.
    pub doing: Option<Doing>,
    /// Its stack.
    pub stack: Option<Unwound>,
    /// How it was read.
    pub method: Method,
    /// Why there is no stack, or no better one.
    pub failure: Option<Failure>,
    /// What it waits for.
    pub wait: Option<Wait>,
    /// By which it can be told later that it has not run since.
    pub still: Option<Stillness>,
}

impl Seen {
    fn nothing() -> Self {
        Self { doing: None, stack: None, method: Method::SyscallOnly, failure: None, wait: None, still: None }
    }
}

/// How long is waited for a thread to stop. One that does not sleeps
/// uninterruptibly.
const PATIENCE: Duration = Duration::from_millis(50);

/// The most of a stack that is copied while its thread is held. Deeper frames are
/// not seen then: 256 KiB hold some thousands.
const LARGEST_COPY: u64 = 256 << 10;

/// Where all threads are held at once: the most that is copied of all stacks, and
/// what each may have in any case.
const LARGEST_COPIES: u64 = 32 << 20;
const SMALLEST_COPY: u64 = 16 << 10;

/// Looks at threads of one process.
pub struct Looker<'a, 'r> {
    /// The process.
    pub process: &'a Process<'r>,
    /// Its memory.
    pub memory: &'a Arc<Memory<'r>>,
    /// Its code.
    pub code: &'a mut CodeMap<'r>,
    /// When a thread may be held.
    pub policy: StopPolicy,
    /// The most frames of one stack.
    pub max_frames: usize,
    /// What is needed to say what a thread waits for; `None` where nobody asks.
    pub waits: Option<Waits<'a, 'r>>,
    /// For how long threads may be held in all, in microseconds: those of this run
    /// so far count.
    pub stop_budget_us: u64,
}

/// A thread that is held.
struct Held<'r> {
    stopped: Stopped<'r>,
    copy: Option<Copied>,
}

impl<'r> Looker<'_, 'r> {
    /// Looks at the thread `tid`, whose directory is `thread`.
    pub fn look(&mut self, tid: u32, thread: &Directory<'r>) -> Seen {
        let glimpse = self.glimpse(thread);
        self.look_again(tid, thread, glimpse)
    }

    fn glimpse(&self, thread: &Directory<'r>) -> Glimpse<Inner> {
        Inner::of(thread, self.memory, self.code.stacks(), self.waits)
    }

    /// As [`Looker::look`], with what a first glimpse has shown.
    pub fn look_again(&mut self, tid: u32, thread: &Directory<'r>, glimpse: Glimpse<Inner>) -> Seen {
        let mut seen = self.without_stop(thread, glimpse);
        let is_good = seen.stack.as_ref().is_some_and(Unwound::is_complete);
        let is_gone = seen.failure.as_ref().is_some_and(Failure::is_exited);
        let may_stop = match self.policy {
            StopPolicy::Never => false,
            StopPolicy::OnlyRunning => seen.doing == Some(Doing::Running),
            StopPolicy::Auto => match seen.doing {
                Some(Doing::Running) => true,
                Some(Doing::Blocked(blocked)) => {
                    blocked.call.is_none_or(|call| goes_on_after_a_stop(call, seen.wait.as_ref()))
                }
                None => false,
            },
        };
        if !is_good && !is_gone && may_stop {
            match self.hold(tid, 0) {
                Ok(mut held) => {
                    self.copy(&mut held, LARGEST_COPY);
                    held.stopped.let_go();
                    self.take(&held, &mut seen);
                }
                // A better stack than the one there is was not to be had.
                Err(failure) => seen.failure = Some(failure),
            }
        }
        seen
    }

    /// Looks at all of `threads` at one instant: none is let go of before all are
    /// held. One that cannot be held is read as it is meanwhile; so is one of which
    /// `stats` says that it would not stop.
    pub fn look_at_all(&mut self, threads: &[(u32, Directory<'r>)], stats: &[parse::Stat]) -> Vec<Seen> {
        let without_stop = |(_, thread): &(u32, Directory<'r>)| {
            let glimpse = self.glimpse(thread);
            self.without_stop(thread, glimpse)
        };
        let mut all: Vec<Seen> = threads.iter().map(without_stop).collect();
        let mut held: Vec<Option<Held<'r>>> = Vec::with_capacity(threads.len());
        let begin_us = clock::boot_us();
        for (((tid, _), stat), seen) in threads.iter().zip(stats).zip(&mut all) {
            if !can_stop(stat.state) {
                let path = format!("ptrace({tid})");
                seen.failure = Some(Failure::new(path.as_str(), Cause::Unsupported(CANNOT_STOP)));
                held.push(None);
                continue;
            }
            held.push(match self.hold(*tid, clock::boot_us() - begin_us) {
                Ok(held) => Some(held),
                Err(failure) => {
                    seen.failure = Some(failure);
                    None
                }
            });
        }
        let most = (LARGEST_COPIES / threads.len().max(1) as u64).clamp(SMALLEST_COPY, LARGEST_COPY);
        for one in held.iter_mut().flatten() {
            self.copy(one, most);
        }
        for one in held.iter_mut().flatten() {
            one.stopped.let_go();
        }
        for (one, seen) in held.iter().zip(&mut all) {
            if let Some(held) = one {
                // Only this one is of the instant that was asked for.
                seen.stack = None;
                self.take(held, seen);
            }
        }
        all
    }

    fn without_stop(&mut self, thread: &Directory<'r>, glimpse: Glimpse<Inner>) -> Seen {
        let Glimpse { doing, failure, moment } = glimpse;
        let mut seen = Seen { doing, failure, ..Seen::nothing() };
        let Some((inner, still)) = moment else { return seen };
        seen.method = Method::NoStop;
        seen.wait = inner.wait;
        if let Some(blocked) = still.blocked() {
            let mut is_deeper = false;
            let (stacks, mut pages) = (Arc::clone(self.code.stacks()), Pages::new(self.memory));
            let word = |address| match inner.stack.word(address) {
                Err(()) if stacks.hold(address) => {
                    is_deeper = true;
                    Err(())
                }
                // Code, which is the same at any moment.
                Err(()) => pages.word(address),
                word => word,
            };
            seen.stack = Some(self.unwind_blocked(blocked, word));
            if is_deeper {
                if let Some(((stack, wait), still)) = self.deep(thread) {
                    let doing = still.blocked().map(Doing::Blocked);
                    return Seen { doing, wait, stack: Some(stack), still: Some(still), ..seen };
                }
                if let Some(stack) = &mut seen.stack
                    && matches!(stack.end, EndReason::UnreadableStack { .. })
                {
                    stack.end = EndReason::WentOn;
                }
            }
        }
        seen.still = Some(still);
        seen
    }

    /// The stack of a thread that is blocked, whose memory is read as unwinding asks for
    /// it, and what it waits for.
    fn deep(&mut self, thread: &Directory<'r>) -> Option<((Unwound, Option<Wait>), Stillness)> {
        let (memory, waits) = (self.memory, self.waits);
        let glimpse = Glimpse::of(thread, |blocked| {
            let mut pages = Pages::new(memory);
            let stack = self.unwind_blocked(blocked, |address| pages.word(address));
            (stack, waits.and_then(|waits| waits.of(blocked)))
        });
        glimpse.moment
    }

    fn unwind_blocked(&mut self, blocked: Blocked, word: impl FnMut(u64) -> Result<u64, ()>) -> Unwound {
        let mut registers = Registers::new(blocked.pc, blocked.sp);
        if let Some(call) = blocked.call {
            // As the system call was entered with them, in the order of syscall(2).
            let order = [Register::Rdi, Register::Rsi, Register::Rdx, Register::R10, Register::R8, Register::R9];
            registers = order.into_iter().zip(call.arguments).fold(registers, |all, (one, value)| all.with(one, value));
        }
        self.code.unwinder.unwind(registers, word, self.max_frames)
    }

    /// Holds the thread, if there is time left for it. Others have been held for
    /// `held_us` already, which is not counted yet.
    fn hold(&self, tid: u32, held_us: u64) -> Result<Held<'r>, Failure> {
        let spent = self.process.run().ledger().spent().stopped_us;
        let left = self.stop_budget_us.saturating_sub(spent + held_us);
        if left == 0 {
            let path = format!("ptrace({tid})");
            return Err(Failure::new(path.as_str(), Cause::Timeout("the time for which threads may be held is over")));
        }
        let stopped = self.process.stop(tid, PATIENCE.min(Duration::from_micros(left)))?;
        Ok(Held { stopped, copy: None })
    }

    /// Copies the stack of a thread that is held.
    fn copy(&self, held: &mut Held<'_>, most: u64) {
        let sp = held.stopped.registers[Register::Rsp as usize];
        held.copy = Some(Copied::of(self.memory, self.code.stacks(), sp, most));
    }

    /// Unwinds what was copied of a thread that was held.
    fn take(&mut self, held: &Held<'_>, seen: &mut Seen) {
        let Some(copy) = &held.copy else { return };
        let raw = held.stopped.registers;
        let (pc, sp) = (raw[Register::Rip as usize], raw[Register::Rsp as usize]);
        let registers =
            Register::ALL.into_iter().fold(Registers::new(pc, sp), |all, one| all.with(one, raw[one as usize]));
        let (stacks, mut pages) = (Arc::clone(self.code.stacks()), Pages::new(self.memory));
        // Code is the same at any moment; what else was not copied may be another's by now.
        let word = |address| match copy.word(address) {
            Err(()) if !stacks.hold(address) => pages.word(address),
            word => word,
        };
        let mut stack = self.code.unwinder.unwind(registers, word, self.max_frames);
        if let EndReason::UnreadableStack { address } = stack.end
            && copy.ends_before(address)
            && self.code.stacks().hold(address)
        {
            stack.end = EndReason::NotCopied;
        }
        // The chain without a stop may have come further than one copy reaches.
        let is_better =
            seen.stack.as_ref().is_none_or(|old| stack.is_complete() || stack.frames.len() >= old.frames.len());
        if is_better {
            seen.stack = Some(stack);
            seen.method = Method::Stopped;
            seen.failure = None;
        }
    }
}

/// Why a thread was not held for a look at one instant.
const CANNOT_STOP: &str = "the thread sleeps uninterruptibly or has ended: it was not held with the others";

/// Whether a thread in that state (the letter of `stat`) stops when it is asked to: what
/// sleeps uninterruptibly does not, and what has ended has nothing to.
pub fn can_stop(state: u8) -> bool {
    !matches!(state, b'D' | b'Z' | b'X')
}

/// Whether a stop leaves the system call as it was: the kernel calls it again by itself,
/// and the caller sees nothing of it. The others return EINTR, always (`epoll_wait`,
/// `semtimedop`) or on some descriptors (`recv` with a time-out): signal(7),
/// "Interruption of system calls and library functions by stop signals"; in the kernel,
/// those that return ERESTARTSYS, ERESTARTNOHAND or ERESTART_RESTARTBLOCK.
fn goes_on_after_a_stop(call: Call, wait: Option<&Wait>) -> bool {
    let Some(call) = usize::try_from(call.number).ok().and_then(Sysno::new) else { return false };
    match call.name() {
        "nanosleep" | "clock_nanosleep" | "restart_syscall" | "pause" | "rt_sigsuspend" | "wait4" | "waitid"
        | "poll" | "ppoll" | "select" | "pselect6" | "flock" => true,
        "futex" => {
            let futex = wait.and_then(|wait| wait.futex.as_ref());
            futex.is_some_and(|futex| matches!(futex.operation, "wait" | "wait_bitset"))
        }
        "read" | "write" | "readv" | "writev" => wait.is_some_and(|wait| {
            let is_pipe = |target: &Text| target.as_str().starts_with("pipe:[");
            wait.descriptors.iter().all(|one| one.target.as_ref().is_some_and(is_pipe))
        }),
        _ => false,
    }
}
