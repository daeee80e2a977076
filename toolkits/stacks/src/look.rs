//! Looking at one thread: without a stop where that can be, with a bounded one
//! where it must be.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use agent_system::memory::Memory;
use agent_system::parse::{self, Blocked, Doing};
use agent_system::{Directory, Failure, Process};

use crate::code::CodeMap;
use crate::unwind::{Register, Registers, Unwound};

/// How a stack was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
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
    /// Where its stack cannot be read otherwise.
    Auto,
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
}

/// How often a thread that keeps moving is tried again without a stop.
const TRIES: usize = 3;

/// How long is waited for a thread to stop. One that does not sleeps
/// uninterruptibly.
const PATIENCE: Duration = Duration::from_millis(100);

/// The most of a stack that is copied while its thread is held. Deeper frames are
/// not seen then: 256 KiB hold some thousands.
const LARGEST_COPY: u64 = 256 << 10;

/// Below the stack pointer of a running thread: the red zone of the System V ABI.
const RED_ZONE: u64 = 128;

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
}

/// What tells that a thread has not run: what it waits in, and the time that it
/// has spent on a processor (`schedstat`, where the kernel counts it).
#[derive(PartialEq, Eq)]
struct Stillness {
    doing: Doing,
    processor_ns: Vec<u8>,
}

impl<'r> Looker<'_, 'r> {
    /// Looks at the thread `tid`, whose directory is `thread`.
    pub fn look(&mut self, tid: u32, thread: &Directory<'r>) -> Seen {
        let mut seen = self.without_stop(thread);
        let is_good = seen.stack.as_ref().is_some_and(Unwound::is_complete);
        let is_gone = seen.failure.as_ref().is_some_and(Failure::is_exited);
        if !is_good && !is_gone && self.policy == StopPolicy::Auto {
            self.stop(tid, thread, &mut seen);
        }
        seen
    }

    fn without_stop(&mut self, thread: &Directory<'r>) -> Seen {
        let mut seen = Seen { doing: None, stack: None, method: Method::SyscallOnly, failure: None };
        for _ in 0..TRIES {
            let before = match stillness(thread) {
                Ok(before) => before,
                Err(failure) => {
                    seen.failure = Some(failure);
                    break;
                }
            };
            seen.doing = Some(before.doing);
            let Doing::Blocked(blocked) = before.doing else { break };
            let stack = self.unwind_blocked(blocked);
            match stillness(thread) {
                Ok(after) if after == before => {
                    seen.method = Method::NoStop;
                    seen.stack = Some(stack);
                    break;
                }
                // It moved: what was read may be of two moments.
                Ok(_) => {}
                Err(failure) => {
                    seen.failure = Some(failure);
                    break;
                }
            }
        }
        seen
    }

    fn unwind_blocked(&mut self, blocked: Blocked) -> Unwound {
        let mut pages = Pages::new(self.memory);
        let registers = Registers::new(blocked.pc, blocked.sp);
        self.code.unwinder.unwind(registers, |address| pages.word(address), self.max_frames)
    }

    /// Holds the thread, copies its registers and its stack, lets it go, and
    /// unwinds only then.
    fn stop(&mut self, tid: u32, thread: &Directory<'r>, seen: &mut Seen) {
        let stopped = match self.process.stop(tid, PATIENCE) {
            Ok(stopped) => stopped,
            Err(failure) => {
                // A better stack than the one there is was not to be had.
                seen.failure = Some(failure);
                return;
            }
        };
        let raw = stopped.registers;
        let sp = raw[Register::Rsp as usize];
        let copy = Copy::of(self.memory, self.code, sp);
        let doing = stillness(thread).ok().map(|still| still.doing);
        stopped.release();
        let registers = Register::ALL
            .into_iter()
            .fold(Registers::new(raw[Register::Rip as usize], sp), |all, one| all.with(one, raw[one as usize]));
        let stack = self.code.unwinder.unwind(registers, |address| copy.word(address), self.max_frames);
        // The chain without a stop may have come further than one copy reaches.
        let is_better =
            seen.stack.as_ref().is_none_or(|old| stack.is_complete() || stack.frames.len() >= old.frames.len());
        if is_better {
            seen.stack = Some(stack);
            seen.method = Method::Stopped;
            // What it did before it was held: being held is our doing.
            seen.doing = seen.doing.or(doing);
            seen.failure = None;
        }
    }
}

fn stillness(thread: &Directory<'_>) -> Result<Stillness, Failure> {
    let mut text = Vec::with_capacity(256);
    thread.read_piece("syscall", &mut text)?;
    let doing = parse::doing(&text)
        .ok_or_else(|| thread.failure("syscall", agent_system::Cause::Malformed("not as proc_pid_syscall(5) says")))?;
    let mut schedule = Vec::with_capacity(64);
    // Without CONFIG_SCHED_INFO there is none, and the system call has to do.
    let _ = thread.read_piece("schedstat", &mut schedule);
    // The first word; time in the queue and slices come behind it.
    schedule.truncate(schedule.iter().position(|b| *b == b' ').unwrap_or(0));
    Ok(Stillness { doing, processor_ns: schedule })
}

const PAGE: u64 = 4096;

/// Memory read by the page, as unwinding asks for it.
struct Pages<'a, 'r> {
    memory: &'a Memory<'r>,
    page: u64,
    bytes: Vec<u8>,
}

impl<'a, 'r> Pages<'a, 'r> {
    fn new(memory: &'a Memory<'r>) -> Self {
        Self { memory, page: u64::MAX, bytes: vec![0; PAGE as usize] }
    }

    fn word(&mut self, address: u64) -> Result<u64, ()> {
        let page = address / PAGE;
        let within = (address % PAGE) as usize;
        if within + 8 > PAGE as usize {
            // Across two pages: rare, since stacks are aligned.
            let mut word = [0; 8];
            return match self.memory.read(address, &mut word) {
                Ok(8) => Ok(u64::from_ne_bytes(word)),
                _ => Err(()),
            };
        }
        if page != self.page {
            self.page = u64::MAX;
            match self.memory.read(page * PAGE, &mut self.bytes) {
                Ok(read) if read == PAGE as usize => self.page = page,
                _ => return Err(()),
            }
        }
        word_at(&self.bytes, within)
    }
}

fn word_at(bytes: &[u8], at: usize) -> Result<u64, ()> {
    let word = bytes.get(at..at.saturating_add(8)).and_then(|word| word.try_into().ok());
    word.map(u64::from_ne_bytes).ok_or(())
}

/// The part of a stack that was copied while its thread was held.
struct Copy {
    range: Range<u64>,
    bytes: Vec<u8>,
}

impl Copy {
    fn of(memory: &Memory<'_>, code: &CodeMap<'_>, sp: u64) -> Self {
        let start = sp.saturating_sub(RED_ZONE);
        let end = code.readable_end(sp).unwrap_or(sp).min(sp.saturating_add(LARGEST_COPY));
        let mut bytes = vec![0; usize::try_from(end.saturating_sub(start)).unwrap_or(0)];
        let read = memory.read(start, &mut bytes).unwrap_or(0);
        bytes.truncate(read);
        Self { range: start..start + read as u64, bytes }
    }

    fn word(&self, address: u64) -> Result<u64, ()> {
        let at = address.checked_sub(self.range.start).ok_or(())?;
        word_at(&self.bytes, usize::try_from(at).map_err(|_| ())?)
    }
}
