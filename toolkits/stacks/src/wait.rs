//! Why a thread waits: the arguments of its system call, decoded.
//!
//! Pure: the name and the six argument registers of a call go in, with a closure
//! that reads the target's memory. What the memory does not give is absent.
//! Sources: the manual page of each call, and arch/*/entry/syscalls for the names.

mod lock;
mod words;

use agent_model::{Hex, Text};
use agent_network::sockets::Socket;
use schemars::JsonSchema;
use serde::Serialize;

pub use lock::{Holder, Lock, Threads, identify};

/// Descriptors of one call that are looked at: a server may poll thousands.
pub const MAX_DESCRIPTORS: usize = 64;
/// Entries of one `struct pollfd` array, and bits of one `fd_set`, that are read.
const MAX_POLLED: u64 = 4096;
/// The longest path (PATH_MAX).
const MAX_PATH: usize = 4096;

/// Reads the target's memory at an AVMA: how many bytes there were.
pub type Read<'a> = dyn FnMut(u64, &mut [u8]) -> usize + 'a;

/// What a thread waits for.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, JsonSchema)]
pub struct Wait {
    /// `futex` (a lock, a condition, the end of a thread), `descriptor` (a file, pipe
    /// or socket), `sleep`, `child`, `signal`, `file_lock`, `path` (a file is being
    /// opened), `semaphore` and `message_queue` (System V), `restarted_call` (after a
    /// stop; the kernel does not tell which).
    #[serde(rename = "type")]
    #[schemars(extend("x-class" = "word"))]
    pub kind: &'static str,
    /// The futex.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub futex: Option<Box<Futex>>,
    /// The descriptors, in the order of the call.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub descriptors: Vec<Descriptor>,
    /// How many the call names, where not all of them are listed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub descriptor_count: Option<u64>,
    /// For how long; absent where it waits for ever, or that could not be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Timeout>,
    /// The child that it waits for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub child: Option<Child>,
    /// The signals that end the wait, by number: of `sigtimedwait` those that it asks
    /// for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub signals: Vec<u32>,
    /// The path that is being opened.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-class" = "path"))]
    pub path: Option<Text>,
    /// The ID of the System V semaphore set or message queue.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ipc_id: Option<i64>,
}

/// A futex that is waited on (futex(2)).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Futex {
    /// Its address (AVMA).
    pub address: Hex,
    /// `wait`, `wait_bitset`, `lock_pi`, `lock_pi2`, `wait_requeue_pi`, or `other`.
    #[schemars(extend("x-class" = "word"))]
    pub operation: &'static str,
    /// Whether it is only this process's.
    pub private: bool,
    /// The value that the thread saw before it went to sleep.
    pub expected: u32,
    /// The value now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<u32>,
    /// The lock that it is a part of, as far as its memory and the names of the
    /// waiting functions tell.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lock: Option<Lock>,
    /// The memory around it.
    #[serde(skip)]
    #[schemars(skip)]
    pub around: Around,
}

/// Memory around a futex: from 16 bytes before it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Around {
    bytes: Vec<u8>,
    /// Where in `bytes` the futex itself lies.
    at: usize,
}

impl Around {
    const BEFORE: u64 = 16;
    const LENGTH: usize = 80;

    fn read(address: u64, read: &mut Read<'_>) -> Self {
        let mut bytes = vec![0; Self::LENGTH];
        let got = read(address.wrapping_sub(Self::BEFORE), &mut bytes);
        if got >= Self::BEFORE as usize + 4 {
            bytes.truncate(got);
            return Self { bytes, at: Self::BEFORE as usize };
        }
        // The page before may not be there: what this page has of it must do.
        const PAGE: u64 = 4096;
        let before = Self::BEFORE.min(address % PAGE);
        let got = read(address - before, &mut bytes);
        bytes.truncate(got);
        Self { bytes, at: before as usize }
    }

    /// The word at `offset` bytes from the futex.
    pub fn word(&self, offset: i64) -> Option<u32> {
        let at = usize::try_from(self.at as i64 + offset).ok()?;
        Some(u32::from_ne_bytes(self.bytes.get(at..at + 4)?.try_into().ok()?))
    }
}

/// A descriptor that is waited for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Descriptor {
    /// Its number.
    pub fd: u32,
    /// What is waited for: `read`, `write`, `priority`, `hang_up`; absent where the
    /// call itself says it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-class" = "word"))]
    pub events: Vec<&'static str>,
    /// What the descriptor is open on (`/proc/PID/fd`).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-class" = "path"))]
    pub target: Option<Text>,
    /// A socket: protocol, addresses, state, queues, as in `sockets`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub socket: Option<Box<Socket>>,
}

impl Descriptor {
    fn new(fd: u32, events: Vec<&'static str>) -> Self {
        Self { fd, events, target: None, socket: None }
    }

    /// The inode of the socket that it is.
    pub fn socket_inode(&self) -> Option<u64> {
        let text = self.target.as_ref()?.as_str();
        text.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
    }
}

/// For how long a thread waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Timeout {
    /// The time that was given to the call, in microseconds. It is not what is left.
    pub time_us: u64,
    /// Whether that is a point in time on the clock, and not how long.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub absolute: bool,
    /// The clock: `realtime`, `monotonic`, `boottime`, …
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-class" = "word"))]
    pub clock: Option<&'static str>,
}

impl Timeout {
    /// A number that a double can hold.
    const MOST: u64 = (1 << 53) - 1;

    fn new(seconds: i64, nanoseconds: i64) -> Option<Self> {
        let seconds = u64::try_from(seconds).ok()?;
        let below = u64::try_from(nanoseconds).ok()? / 1000;
        let time_us = seconds.saturating_mul(1_000_000).saturating_add(below).min(Self::MOST);
        Some(Self { time_us, absolute: false, clock: None })
    }

    /// Of poll(2) and epoll_wait(2): negative is for ever.
    fn milliseconds(argument: u64) -> Option<Self> {
        let time = u64::try_from(argument as i32).ok()?;
        Some(Self { time_us: time * 1000, absolute: false, clock: None })
    }

    /// A `struct timespec`.
    fn timespec(address: u64, read: &mut Read<'_>) -> Option<Self> {
        let (seconds, nanoseconds) = pair(address, read)?;
        Self::new(seconds, nanoseconds)
    }

    /// A `struct timeval`.
    fn timeval(address: u64, read: &mut Read<'_>) -> Option<Self> {
        let (seconds, microseconds) = pair(address, read)?;
        Self::new(seconds, microseconds.saturating_mul(1000))
    }

    fn on(self, clock: &'static str, absolute: bool) -> Self {
        Self { clock: Some(clock), absolute, ..self }
    }
}

fn pair(address: u64, read: &mut Read<'_>) -> Option<(i64, i64)> {
    let mut bytes = [0; 16];
    if address == 0 || read(address, &mut bytes) < 16 {
        return None;
    }
    let word = |at: usize| bytes[at..at + 8].try_into().map(i64::from_ne_bytes).ok();
    Some((word(0)?, word(8)?))
}

/// The child that wait4(2) or waitid(2) waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Child {
    /// `any`, `pid`, `group` (any of that process group), `pidfd`, `vfork` (until it
    /// calls execve(2) or ends).
    #[schemars(extend("x-class" = "word"))]
    pub which: &'static str,
    /// The process, or the process group, as the target's pid namespace numbers it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
}

impl Child {
    /// Of wait4(2).
    fn by_pid(pid: i32) -> Self {
        match pid {
            -1 => Self { which: "any", pid: None },
            0 => Self { which: "group", pid: None },
            1.. => Self { which: "pid", pid: Some(pid.unsigned_abs()) },
            _ => Self { which: "group", pid: Some(pid.unsigned_abs()) },
        }
    }

    /// Of waitid(2).
    fn by_type(kind: u64, id: u64) -> Option<Self> {
        let pid = Some(id as u32);
        Some(match kind {
            0 => Self { which: "any", pid: None },
            1 => Self { which: "pid", pid },
            2 => Self { which: "group", pid: pid.filter(|pid| *pid != 0) },
            3 => Self { which: "pidfd", pid: None },
            _ => return None,
        })
    }
}

/// Decodes the system call `name` with the arguments `a`. `None` where the call
/// says nothing about what is waited for.
pub fn decode(name: &str, a: &[u64; 6], read: &mut Read<'_>) -> Option<Wait> {
    let descriptors = |kind, list: &[u64]| Wait {
        kind,
        descriptors: list.iter().map(|fd| Descriptor::new(*fd as u32, Vec::new())).collect(),
        ..Wait::default()
    };
    let one = |kind| Some(descriptors(kind, &a[..1]));
    let timed = |wait: Wait, timeout| Some(Wait { timeout, ..wait });
    match name {
        "futex" => futex(a, read),
        "read" | "write" | "readv" | "writev" | "pread64" | "pwrite64" | "preadv" | "pwritev" | "preadv2"
        | "pwritev2" | "recvfrom" | "recvmsg" | "sendto" | "sendmsg" | "sendmmsg" | "accept" | "accept4"
        | "connect" | "shutdown" | "fsync" | "fdatasync" | "sync_file_range" | "syncfs" | "ftruncate" | "fallocate"
        | "getdents64" | "ioctl" | "io_uring_enter" | "mq_timedsend" | "mq_timedreceive" | "vmsplice" => {
            one("descriptor")
        }
        "recvmmsg" => timed(descriptors("descriptor", &a[..1]), Timeout::timespec(a[4], read)),
        "splice" => Some(descriptors("descriptor", &[a[0], a[2]])),
        "tee" | "sendfile" => Some(descriptors("descriptor", &a[..2])),
        "copy_file_range" => Some(descriptors("descriptor", &[a[0], a[2]])),
        "epoll_wait" | "epoll_pwait" => timed(descriptors("descriptor", &a[..1]), Timeout::milliseconds(a[3])),
        "epoll_pwait2" => timed(descriptors("descriptor", &a[..1]), Timeout::timespec(a[3], read)),
        "poll" => timed(polled(a, read), Timeout::milliseconds(a[2])),
        "ppoll" => timed(polled(a, read), Timeout::timespec(a[2], read)),
        "select" => timed(selected(a, read), Timeout::timeval(a[4], read)),
        "pselect6" => timed(selected(a, read), Timeout::timespec(a[4], read)),
        "flock" => one("file_lock"),
        // F_SETLKW and F_OFD_SETLKW are those that wait.
        "fcntl" => one(if matches!(a[1], 7 | 38) { "file_lock" } else { "descriptor" }),
        "nanosleep" => {
            let timeout = Timeout::timespec(a[0], read).map(|time| time.on("monotonic", false));
            Some(Wait { kind: "sleep", timeout, ..Wait::default() })
        }
        "clock_nanosleep" => {
            let is_absolute = a[1] & 1 != 0;
            let timeout = Timeout::timespec(a[2], read).map(|time| time.on(clock_name(a[0]), is_absolute));
            Some(Wait { kind: "sleep", timeout, ..Wait::default() })
        }
        "wait4" => Some(Wait { kind: "child", child: Some(Child::by_pid(a[0] as i32)), ..Wait::default() }),
        "waitid" => {
            let descriptors = if a[0] == 3 { vec![Descriptor::new(a[1] as u32, Vec::new())] } else { Vec::new() };
            Some(Wait { kind: "child", child: Child::by_type(a[0], a[1]), descriptors, ..Wait::default() })
        }
        "vfork" => Some(Wait { kind: "child", child: Some(Child { which: "vfork", pid: None }), ..Wait::default() }),
        "rt_sigtimedwait" => {
            let timeout = Timeout::timespec(a[2], read);
            Some(Wait { kind: "signal", signals: signals(a[0], read), timeout, ..Wait::default() })
        }
        "pause" | "rt_sigsuspend" => Some(Wait { kind: "signal", ..Wait::default() }),
        "semop" | "semtimedop" => {
            let timeout = if name == "semtimedop" { Timeout::timespec(a[3], read) } else { None };
            Some(Wait { kind: "semaphore", ipc_id: Some(i64::from(a[0] as i32)), timeout, ..Wait::default() })
        }
        "msgrcv" | "msgsnd" => {
            Some(Wait { kind: "message_queue", ipc_id: Some(i64::from(a[0] as i32)), ..Wait::default() })
        }
        "open" => Some(Wait { kind: "path", path: path(a[0], read), ..Wait::default() }),
        "openat" | "openat2" => Some(Wait { kind: "path", path: path(a[1], read), ..Wait::default() }),
        "restart_syscall" => Some(Wait { kind: "restarted_call", ..Wait::default() }),
        _ => None,
    }
}

fn futex(a: &[u64; 6], read: &mut Read<'_>) -> Option<Wait> {
    const PRIVATE: u64 = 128;
    const REALTIME: u64 = 256;
    let clock = if a[1] & REALTIME != 0 { "realtime" } else { "monotonic" };
    // Which operations wait, and what their time-outs are, stands in futex(2).
    let (operation, absolute, clock) = match a[1] & !(PRIVATE | REALTIME) {
        0 => ("wait", false, clock),
        6 => ("lock_pi", true, "realtime"),
        9 => ("wait_bitset", true, clock),
        11 => ("wait_requeue_pi", true, clock),
        13 => ("lock_pi2", true, clock),
        _ => ("other", false, clock),
    };
    let around = Around::read(a[0], read);
    let futex = Futex {
        address: Hex(a[0]),
        operation,
        private: a[1] & PRIVATE != 0,
        expected: a[2] as u32,
        value: around.word(0),
        lock: None,
        around,
    };
    let timeout = if operation == "other" { None } else { Timeout::timespec(a[3], read) };
    let timeout = timeout.map(|time| time.on(clock, absolute));
    Some(Wait { kind: "futex", futex: Some(Box::new(futex)), timeout, ..Wait::default() })
}

/// Of poll(2): `struct pollfd` is a descriptor and two halves of a word.
fn polled(a: &[u64; 6], read: &mut Read<'_>) -> Wait {
    let count = a[1].min(MAX_POLLED);
    let mut bytes = vec![0; count as usize * 8];
    let got = if count == 0 { 0 } else { read(a[0], &mut bytes) };
    let mut wait = Wait { kind: if a[1] == 0 { "sleep" } else { "descriptor" }, ..Wait::default() };
    for one in bytes[..got].chunks_exact(8) {
        let fd = i32::from_ne_bytes([one[0], one[1], one[2], one[3]]);
        let asked = u16::from_ne_bytes([one[4], one[5]]);
        let names = [(0x1, "read"), (0x4, "write"), (0x2, "priority"), (0x2000, "hang_up")];
        let events = names.iter().filter(|(bit, _)| asked & bit != 0).map(|(_, name)| *name).collect();
        // A negative one is left out by the kernel too.
        if let Ok(fd) = u32::try_from(fd)
            && wait.descriptors.len() < MAX_DESCRIPTORS
        {
            wait.descriptors.push(Descriptor::new(fd, events));
        }
    }
    wait.descriptor_count = (a[1] > wait.descriptors.len() as u64).then_some(a[1]);
    wait
}

/// Of select(2): bits in three sets.
fn selected(a: &[u64; 6], read: &mut Read<'_>) -> Wait {
    let bits = a[0].min(MAX_POLLED);
    let mut sets = [Vec::new(), Vec::new(), Vec::new()];
    for (set, address) in sets.iter_mut().zip(&a[1..4]) {
        if *address != 0 && bits != 0 {
            // The kernel reads whole words too.
            *set = vec![0; bits.div_ceil(64) as usize * 8];
            let got = read(*address, set);
            set.truncate(got);
        }
    }
    let mut wait = Wait { kind: "descriptor", ..Wait::default() };
    let mut found = 0;
    for fd in 0..bits as usize {
        let has = |set: &Vec<u8>| set.get(fd / 8).is_some_and(|byte| byte >> (fd % 8) & 1 == 1);
        let names = ["read", "write", "priority"];
        let events: Vec<_> = sets.iter().zip(names).filter(|(set, _)| has(set)).map(|(_, name)| name).collect();
        if !events.is_empty() {
            found += 1;
            if wait.descriptors.len() < MAX_DESCRIPTORS {
                wait.descriptors.push(Descriptor::new(fd as u32, events));
            }
        }
    }
    if found == 0 {
        wait.kind = "sleep";
    }
    wait.descriptor_count = (found > wait.descriptors.len() as u64).then_some(found);
    wait
}

/// The signals of a set of the kernel's: 64 bits, the first is signal 1.
fn signals(address: u64, read: &mut Read<'_>) -> Vec<u32> {
    let mut bytes = [0; 8];
    if address == 0 || read(address, &mut bytes) < 8 {
        return Vec::new();
    }
    let set = u64::from_ne_bytes(bytes);
    (0..64).filter(|bit| set >> bit & 1 == 1).map(|bit| bit + 1).collect()
}

fn path(address: u64, read: &mut Read<'_>) -> Option<Text> {
    let mut bytes = vec![0; MAX_PATH];
    let got = read(address, &mut bytes);
    let end = bytes[..got].iter().position(|byte| *byte == 0)?;
    Some(Text::from_bytes(&bytes[..end]))
}

/// clock_gettime(2); a negative one is a process's or thread's own.
fn clock_name(clock: u64) -> &'static str {
    match clock {
        0 => "realtime",
        1 => "monotonic",
        2 => "process_cpu",
        3 => "thread_cpu",
        7 => "boottime",
        8 => "realtime_alarm",
        9 => "boottime_alarm",
        11 => "tai",
        _ => "other",
    }
}

#[cfg(test)]
mod tests;
