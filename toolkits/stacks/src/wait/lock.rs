//! The lock that a futex is a part of, and who holds it.
//!
//! Two things tell: the memory around the futex, and the names of the functions
//! that wait. A holder is only named where its thread ID stands in the lock and is
//! one of the process's. Sources: glibc's struct_mutex.h, struct_rwlock.h and
//! pthread_rwlock_common.c (2.25 to 2.41), futex(2) for priority inheritance and
//! robust locks, musl's pthread_impl.h.

use std::collections::HashMap;

use agent_model::{Hex, Text};
use schemars::JsonSchema;
use serde::Serialize;

use super::{Around, Futex};

/// The threads of a process, by the IDs that it knows itself: those of its own pid
/// namespace.
#[derive(Debug, Default)]
pub struct Threads {
    /// From the ID in the target's namespace to that in ours, and the name.
    pub by_inner_tid: HashMap<u32, (u32, Text)>,
}

impl Threads {
    fn holder(&self, inner: u32) -> Option<Holder> {
        let (tid, name) = self.by_inner_tid.get(&inner)?;
        Some(Holder { tid: *tid, name: name.clone() })
    }
}

/// The thread that holds a lock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Holder {
    /// Thread ID.
    pub tid: u32,
    /// Its name (`comm`).
    #[schemars(extend("x-class" = "name"))]
    pub name: Text,
}

/// A lock, or what else one thread can wait for of another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Lock {
    /// `mutex`, `rwlock`, `thread` (until it ends), `condition`, `semaphore`,
    /// `barrier`, `rust_mutex`, `rust_rwlock`, `rust_condvar`, `rust_park`, `go`.
    #[serde(rename = "type")]
    #[schemars(extend("x-class" = "word"))]
    pub kind: &'static str,
    /// Where it begins (AVMA).
    pub address: Hex,
    /// Of a mutex: `normal`, `recursive`, `error_check`, `adaptive`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-class" = "word"))]
    pub mutex_type: Option<&'static str>,
    /// Of a mutex: whether its holder inherits the waiter's priority.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub priority_inheritance: Option<bool>,
    /// Of a rwlock: what the thread wants to do: `read` or `write`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-class" = "word"))]
    pub wants: Option<&'static str>,
    /// Who holds it. Of `thread` the thread itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub owner: Option<Holder>,
    /// Of a rwlock: how many threads read, or wait to; it does not know which.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub readers: Option<u32>,
}

impl Lock {
    fn new(kind: &'static str, address: u64) -> Self {
        Self {
            kind,
            address: Hex(address),
            mutex_type: None,
            priority_inheritance: None,
            wants: None,
            owner: None,
            readers: None,
        }
    }
}

/// The thread ID in a lock word (FUTEX_TID_MASK).
const TID_MASK: u32 = 0x3fff_ffff;
/// The kernel is to wake somebody (FUTEX_WAITERS).
const WAITERS: u32 = 0x8000_0000;

/// What the waiting functions call it, innermost first.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Named {
    Mutex,
    Rwlock,
    Thread,
    /// Something that has no holder.
    Other(&'static str),
    /// Nothing that is known.
    Nothing,
}

/// How many of the innermost functions are asked.
const ASKED: usize = 6;

fn by_name(functions: &[&str]) -> Named {
    // Rust's own first: its names hold the words of the others.
    const WORDS: [(&str, Named); 20] = [
        ("sync::mutex::futex", Named::Other("rust_mutex")),
        ("futex_mutex", Named::Other("rust_mutex")),
        ("sync::rwlock::futex", Named::Other("rust_rwlock")),
        ("futex_rwlock", Named::Other("rust_rwlock")),
        ("sync::condvar", Named::Other("rust_condvar")),
        ("thread_parking", Named::Other("rust_park")),
        ("std::thread::park", Named::Other("rust_park")),
        ("runtime.futex", Named::Other("go")),
        ("pthread_cond_", Named::Other("condition")),
        ("cnd_wait", Named::Other("condition")),
        ("cnd_timedwait", Named::Other("condition")),
        ("pthread_barrier_", Named::Other("barrier")),
        ("sem_wait", Named::Other("semaphore")),
        ("sem_timedwait", Named::Other("semaphore")),
        ("sem_clockwait", Named::Other("semaphore")),
        ("pthread_rwlock_", Named::Rwlock),
        ("pthread_join", Named::Thread),
        ("clockjoin", Named::Thread),
        ("pthread_mutex_", Named::Mutex),
        ("lll_lock", Named::Mutex),
    ];
    functions
        .iter()
        .take(ASKED)
        .find_map(|function| WORDS.iter().find(|(word, _)| function.contains(word)))
        .map_or(Named::Nothing, |(_, named)| *named)
}

/// Finds out which lock `futex` is a part of. `functions` are the names of the
/// thread's functions, innermost first, as far as they are known.
pub fn identify(futex: &Futex, functions: &[&str], threads: &Threads) -> Option<Lock> {
    let at = futex.address.0;
    let named = by_name(functions);
    let value = futex.value?;
    if let Named::Other(kind) = named {
        return Some(Lock::new(kind, at));
    }
    if futex.operation.starts_with("lock_pi") {
        // The kernel itself reads the holder there.
        let mut lock = mutex(&futex.around, at).unwrap_or_else(|| Lock::new("mutex", at));
        lock.owner = threads.holder(value & TID_MASK);
        lock.priority_inheritance = Some(true);
        return Some(lock);
    }
    let can_be = |kind| named == kind || named == Named::Nothing;
    // Joining waits on the thread ID that the kernel clears, which is shared; a lock
    // word holds small numbers, which may be thread IDs in a container.
    let may_join = named == Named::Thread || (named == Named::Nothing && !futex.private && value > 3);
    if may_join
        && value == futex.expected
        && let Some(owner) = threads.holder(value)
    {
        return Some(Lock { owner: Some(owner), ..Lock::new("thread", at) });
    }
    if can_be(Named::Rwlock)
        && let Some(lock) = rwlock(futex, threads, named == Named::Rwlock)
    {
        return Some(lock);
    }
    if can_be(Named::Mutex) {
        // Robust mutexes of glibc, and most of musl's, hold the thread ID in the word.
        if value & WAITERS != 0
            && let Some(owner) = threads.holder(value & TID_MASK)
        {
            let lock = mutex(&futex.around, at).unwrap_or_else(|| Lock::new("mutex", at));
            return Some(Lock { owner: Some(owner), ..lock });
        }
        let lock = mutex(&futex.around, at);
        let owner = futex.around.word(8).and_then(|owner| threads.holder(owner));
        if let Some(lock) = lock
            && futex.expected == 2
            && (owner.is_some() || named == Named::Mutex)
        {
            return Some(Lock { owner, ..lock });
        }
    }
    match named {
        Named::Mutex => Some(Lock::new("mutex", at)),
        Named::Rwlock => Some(Lock::new("rwlock", at)),
        Named::Thread => Some(Lock::new("thread", at)),
        _ => None,
    }
}

/// `struct __pthread_mutex_s`, whose first word is the futex: lock, count, owner,
/// users, kind.
fn mutex(around: &Around, at: u64) -> Option<Lock> {
    let (users, kind) = (around.word(12)?, around.word(16)?);
    // Type, robust, PI, priority protection (with a ceiling above bit 18), shared,
    // elision.
    if kind & !(0xfff8_0000 | 0x3f3) != 0 || users > 1 << 20 {
        return None;
    }
    let mutex_type = match kind & 3 {
        0 => "normal",
        1 => "recursive",
        2 => "error_check",
        _ => "adaptive",
    };
    Some(Lock { mutex_type: Some(mutex_type), priority_inheritance: Some(kind & 0x20 != 0), ..Lock::new("mutex", at) })
}

/// `struct __pthread_rwlock_arch_t`: readers, writers, the futex of the phase (8),
/// the futex of the writers (12), two words of padding, the writer (24), shared.
/// Who wants to read waits on the first futex, who wants to write on the second,
/// or on the first if it is next.
fn rwlock(futex: &Futex, threads: &Threads, is_named: bool) -> Option<Lock> {
    const READER_SHIFT: u32 = 3;
    const USED: u32 = 2;
    let around = &futex.around;
    let candidate = |start: i64| {
        let word = |offset| around.word(start + offset);
        let (readers, writer, shared) = (word(0)?, word(24)?, word(28)?);
        let owner = threads.holder(writer);
        (shared <= 1 && (owner.is_some() || (is_named && writer == 0))).then(|| {
            let readers = readers >> READER_SHIFT;
            let address = futex.address.0.wrapping_add_signed(start);
            Lock {
                // A writer that holds it leaves no reader; those that it counts wait.
                readers: Some(readers).filter(|count| owner.is_none() && *count > 0),
                owner,
                ..Lock::new("rwlock", address)
            }
        })
    };
    // A writer's futex holds 1 (a writer is there) and USED.
    if futex.expected == 1 | USED {
        let for_write = candidate(-12).map(|lock| Lock { wants: Some("write"), ..lock });
        let for_read = candidate(-8).map(|lock| Lock { wants: Some("read"), ..lock });
        return match (for_write, for_read) {
            (Some(write), Some(read)) => Some(if read.owner.is_some() { read } else { write }),
            (write, read) => write.or(read),
        };
    }
    if futex.expected == USED && is_named {
        return candidate(-8).map(|lock| Lock { wants: Some("write"), ..lock });
    }
    None
}
