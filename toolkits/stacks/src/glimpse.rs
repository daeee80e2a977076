//! Reading a thread without a stop: what it does, what it waits for and the inner part
//! of its stack, all of one moment.

use std::ops::Range;
use std::sync::Arc;

use agent_model::Text;
use agent_system::kept::KeptFile;
use agent_system::memory::Memory;
use agent_system::parse::{self, Blocked, Doing};
use agent_system::{Cause, Directory, Failure};

use syscalls::Sysno;

use crate::wait::{self, Wait};

/// How often a thread that keeps moving is tried again. It is not held for moving: at
/// that moment it may be in a call that would return EINTR.
const TRIES: usize = 12;

/// The part of a stack that is copied first, in bytes: most are not deeper.
const INNER: u64 = 16 << 10;

/// Below the stack pointer of a running thread: the red zone of the System V ABI.
const RED_ZONE: u64 = 128;

const PAGE: u64 = 4096;

/// What a look at waits needs.
#[derive(Clone, Copy)]
pub struct Waits<'a, 'r> {
    /// The process's memory, where it may be read.
    pub memory: Option<&'a Memory<'r>>,
    /// `/proc/PID/fd`, where it may be looked at.
    pub links: Option<&'a Directory<'r>>,
}

impl Waits<'_, '_> {
    /// Decodes what a thread waits for. What it reads is only worth something if the
    /// thread is still in the same call afterwards.
    pub fn of(&self, blocked: Blocked) -> Option<Wait> {
        let call = blocked.call?;
        let name = Sysno::new(usize::try_from(call.number).ok()?)?.name();
        let mut read = |address: u64, buffer: &mut [u8]| {
            self.memory.and_then(|memory| memory.read(address, buffer).ok()).unwrap_or(0)
        };
        let mut wait = wait::decode(name, &call.arguments, &mut read)?;
        if let Some(links) = self.links {
            for descriptor in &mut wait.descriptors {
                let link = links.link(&descriptor.fd.to_string());
                descriptor.target = link.ok().map(|link| Text::from_bytes(&link));
            }
        }
        Some(wait)
    }
}

/// What tells that a thread has not run: what it waits in, and the time that it
/// has spent on a processor (`schedstat`, where the kernel counts it).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stillness {
    doing: Doing,
    processor_ns: Vec<u8>,
}

impl Stillness {
    /// Whether `thread` has not run since. Without CONFIG_SCHED_INFO the system call
    /// has to do.
    pub fn holds(&self, thread: &Directory<'_>) -> bool {
        Self::of(thread).is_ok_and(|now| now == *self)
    }

    /// That of `thread` now, if it is in the same system call at the same place; it may
    /// have run meanwhile.
    pub fn again(&self, thread: &Directory<'_>) -> Option<Self> {
        Self::of(thread).ok().filter(|now| now.doing == self.doing)
    }

    /// What the thread was blocked in.
    pub fn blocked(&self) -> Option<Blocked> {
        match self.doing {
            Doing::Blocked(blocked) => Some(blocked),
            Doing::Running => None,
        }
    }

    fn of(thread: &Directory<'_>) -> Result<Self, Failure> {
        let doing = doing(thread)?;
        let mut text = Vec::with_capacity(512);
        // Without CONFIG_SCHED_INFO there is none, and the system call has to do.
        let _ = thread.read_piece("schedstat", &mut text);
        let processor_ns = Counted::of(&text).map(|counted| counted.processor_ns).unwrap_or_default();
        Ok(Self { doing, processor_ns })
    }
}

/// What `thread` is doing (proc_pid_syscall(5)).
fn doing(thread: &Directory<'_>) -> Result<Doing, Failure> {
    let mut text = Vec::with_capacity(512);
    thread.read_piece("syscall", &mut text)?;
    // A thread that has ended has no stack in the kernel any more (lib/syscall.c).
    if text.trim_ascii() == b"-1 0x0 0x0" {
        return Err(thread.failure("syscall", Cause::Exited));
    }
    parse::doing(&text).ok_or_else(|| thread.failure("syscall", Cause::Malformed("not as proc_pid_syscall(5) says")))
}

/// What `schedstat` of a thread counts.
#[derive(Debug, PartialEq, Eq)]
struct Counted {
    /// Its time on a processor. While it is on one, this is that of the last tick.
    processor_ns: Vec<u8>,
    /// How often it came to one. That is counted as it comes (sched_info_arrive() in the kernel).
    turns: Vec<u8>,
}

impl Counted {
    /// `None` where this kernel does not count (it has no CONFIG_SCHED_INFO): a thread that
    /// we see has had a turn.
    fn of(text: &[u8]) -> Option<Self> {
        let mut words = text.trim_ascii().split(|byte| *byte == b' ').map(<[u8]>::to_vec);
        let (processor_ns, _queued_ns, turns) = (words.next()?, words.next()?, words.next()?);
        (turns != b"0").then_some(Self { processor_ns, turns })
    }
}

/// `schedstat` of a thread, to be read more than once.
struct Turns<'r>(Option<KeptFile<'r>>);

impl<'r> Turns<'r> {
    fn of(thread: &Directory<'r>) -> Self {
        Self(thread.keep("schedstat").ok())
    }

    /// As it is now. What was read of a thread between two that are equal is of one moment:
    /// if it was blocked in between, it has been so until the second.
    fn now(&self) -> Option<Counted> {
        let mut text = Vec::with_capacity(512);
        self.0.as_ref()?.read(&mut text).ok()?;
        Counted::of(&text)
    }
}

/// What was read of a thread without a stop.
pub struct Glimpse<T> {
    /// What it was doing, if that could be read.
    pub doing: Option<Doing>,
    /// Why that could not be read.
    pub failure: Option<Failure>,
    /// Of a thread that was blocked, and did not move meanwhile: what was read of it, and
    /// by which it can be told later that it has not run since.
    pub moment: Option<(T, Stillness)>,
}

impl<T> Glimpse<T> {
    /// Lets `read` read of a thread that is blocked, again if it moves meanwhile.
    pub fn of(thread: &Directory<'_>, mut read: impl FnMut(Blocked) -> T) -> Self {
        let mut glimpse = Self { doing: None, failure: None, moment: None };
        let turns = Turns::of(thread);
        for _ in 0..TRIES {
            let since = turns.now();
            let before = match doing(thread) {
                Ok(doing) => doing,
                Err(failure) => {
                    glimpse.failure = Some(failure);
                    break;
                }
            };
            glimpse.doing = Some(before);
            let Doing::Blocked(blocked) = before else { break };
            let read = read(blocked);
            let has_stayed = match &since {
                Some(since) => turns.now().as_ref() == Some(since),
                None => doing(thread).is_ok_and(|after| after == before),
            };
            if has_stayed {
                let processor_ns = since.map(|counted| counted.processor_ns).unwrap_or_default();
                glimpse.moment = Some((read, Stillness { doing: before, processor_ns }));
                break;
            }
            // What was read may be of two moments.
        }
        glimpse
    }
}

/// The inner part of the stack of a thread that is blocked, and what it waits for.
pub struct Inner {
    /// Its stack.
    pub stack: Copied,
    /// What it waits for, where somebody asks.
    pub wait: Option<Wait>,
}

impl Inner {
    /// That of `thread`.
    pub fn of(
        thread: &Directory<'_>,
        memory: &Memory<'_>,
        stacks: &Stacks,
        waits: Option<Waits<'_, '_>>,
    ) -> Glimpse<Self> {
        Glimpse::of(thread, |blocked| Self {
            stack: Copied::of(memory, stacks, blocked.sp, INNER),
            wait: waits.and_then(|waits| waits.of(blocked)),
        })
    }
}

/// Where stacks may lie, in order.
#[derive(Debug)]
pub struct Stacks(pub Vec<Range<u64>>);

impl Stacks {
    fn find(&self, address: u64) -> Option<&Range<u64>> {
        let at = self.0.partition_point(|range| range.end <= address);
        self.0.get(at).filter(|range| range.contains(&address))
    }

    /// Whether one may lie at `address`.
    pub fn hold(&self, address: u64) -> bool {
        self.find(address).is_some()
    }

    /// Where the one ends that holds `address`; of one that is not known, its page.
    fn end(&self, address: u64) -> u64 {
        self.find(address).map_or_else(|| (address | (PAGE - 1)).saturating_add(1), |range| range.end)
    }
}

/// A part of a stack that was copied.
pub struct Copied {
    range: Range<u64>,
    bytes: Vec<u8>,
}

impl Copied {
    /// Copies at most `most` bytes of the stack that ends at the stack pointer `sp`.
    pub fn of(memory: &Memory<'_>, stacks: &Stacks, sp: u64, most: u64) -> Self {
        let start = sp.saturating_sub(RED_ZONE);
        let end = stacks.end(sp).min(sp.saturating_add(most));
        let mut bytes = vec![0; usize::try_from(end.saturating_sub(start)).unwrap_or(0)];
        let read = memory.read(start, &mut bytes).unwrap_or(0);
        bytes.truncate(read);
        Self { range: start..start + read as u64, bytes }
    }

    /// Whether `address` lies behind what was copied.
    pub fn ends_before(&self, address: u64) -> bool {
        self.range.end.saturating_sub(8) < address
    }

    /// The word at `address`.
    ///
    /// # Errors
    ///
    /// When it was not copied.
    pub fn word(&self, address: u64) -> Result<u64, ()> {
        let at = address.checked_sub(self.range.start).ok_or(())?;
        word_at(&self.bytes, usize::try_from(at).map_err(|_| ())?)
    }
}

/// Memory read by the page, as unwinding asks for it.
pub(crate) struct Pages<'a, 'r> {
    memory: &'a Arc<Memory<'r>>,
    page: u64,
    bytes: Vec<u8>,
}

impl<'a, 'r> Pages<'a, 'r> {
    /// That of a process.
    pub(crate) fn new(memory: &'a Arc<Memory<'r>>) -> Self {
        Self { memory, page: u64::MAX, bytes: Vec::new() }
    }

    /// The word at `address`.
    ///
    /// # Errors
    ///
    /// When it cannot be read.
    pub(crate) fn word(&mut self, address: u64) -> Result<u64, ()> {
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
            self.bytes.resize(PAGE as usize, 0);
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
