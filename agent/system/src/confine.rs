//! Giving up what a command does not need, so that the kernel keeps our word.
//!
//! First of all ([`begin`]): no_new_privs, no core and no reader (PR_SET_DUMPABLE 0), the
//! first to be ended when memory is short. Then, with the target found and its IDs taken on
//! if need be ([`Run::confine`](crate::Run::confine)): every capability but those that were
//! raised is given up in all sets, and a seccomp(2) filter lets through the system calls of
//! [`rules`] alone. From then on nothing can be opened for writing, nobody gets a signal, no
//! program is started, no thread of the target is changed, and no socket opened but those of
//! the command's [`Need`]s; nothing takes that back.
//!
//! What the filter refuses returns EPERM and is noted ([`refused_calls`]): a collector that
//! tries it has a gap, and does not crash. Where the kernel has no seccomp, or a filter around
//! us forbids to add one, the rest holds; [`state`] says which it is.

mod filter;
mod refused;
mod rules;

use std::sync::{Mutex, OnceLock, PoisonError};

use nix::libc;
use rustix::thread::{CapabilitySet, CapabilitySets};

pub use refused::RefusedCall;
pub use rules::Need;

use crate::rights::Rights;
use crate::{Capabilities, Capability};

/// What was given up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Confined {
    /// The capabilities that are left, in every set of the process but where
    /// [`Confined::bounding`] is false in the bounding set.
    pub capabilities: Capabilities,
    /// Whether the bounding set was cut down too: that takes SETPCAP. Without execve(2) it
    /// gives nothing.
    pub bounding: bool,
    /// What the filter lets through beside the base; `None` where there is no filter.
    pub needs: Option<Vec<Need>>,
    /// Why there is no filter.
    pub without_filter: Option<&'static str>,
}

static STATE: Mutex<Option<Confined>> = Mutex::new(None);

/// The rights before anything was given up: what the container was granted.
static BEFORE: OnceLock<Rights> = OnceLock::new();

/// The files beside standard output and error that may be written.
static OUTPUTS: Mutex<Vec<i32>> = Mutex::new(Vec::new());

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What was given up, once something was.
pub fn state() -> Option<Confined> {
    lock(&STATE).clone()
}

/// The rights before anything was given up, where that is known.
pub(crate) fn before() -> Option<&'static Rights> {
    BEFORE.get()
}

/// Takes what the filter has refused since the last time.
pub fn refused_calls() -> Vec<RefusedCall> {
    refused::take()
}

/// Lets a file that is open already be written to after the filter is there: an output of
/// our own, or the other end of a channel. It must stay open.
pub fn may_write(file: &impl std::os::fd::AsRawFd) {
    lock(&OUTPUTS).push(file.as_raw_fd());
}

/// Beside a busy process of the same control group we get a tenth of a core (setpriority(2)).
/// At 19 it would be a hundredth, and a look would be one at many moments, or at none before
/// its time is over.
const NICE: i32 = 10;

/// With packets to take that nobody else takes before their ring is full: a quarter of a core, of which 100,000 packets a
/// second take a tenth.
const NICE_WITH_PACKETS: i32 = 5;

/// Before anything else: what every command can do without.
///
/// No new privileges, no core dump, and no reader: a target with our uid could otherwise
/// read or trace us. Where memory is short we are the first to be ended, before the
/// application. What is refused here is refused in silence: it protects others from us or
/// us from others, and no answer depends on it.
pub fn begin() {
    not_dumpable();
    if let Ok(rights) = Rights::now() {
        BEFORE.get_or_init(|| rights);
    }
    let _ = rustix::thread::set_no_new_privs(true);
    if write_oom_score().is_err()
        && let Ok(mut rights) = Rights::now()
        && rights.permitted.has(Capability::DAC_OVERRIDE)
    {
        // With file capabilities /proc/self belongs to root.
        let own = rights.effective;
        if rights.raise(own.union(Capability::DAC_OVERRIDE.only())).is_ok() {
            let _ = write_oom_score();
            let _ = rights.raise(own);
        }
    }
}

fn not_dumpable() {
    let _ = rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable);
}

/// proc_pid_oom_score_adj(5): the most that there is.
fn write_oom_score() -> std::io::Result<()> {
    use std::io::Write as _;
    // Not fs::write: nothing is created.
    crate::own::note(agent_session::Access::Open, "/proc/self/oom_score_adj");
    std::fs::OpenOptions::new().write(true).open("/proc/self/oom_score_adj")?.write_all(b"1000")
}

/// Gives up all but `keep`, and all system calls but those of `needs`. A second time
/// nothing happens: whoever performs several commands in one process asks for what they need
/// together.
///
/// To be called before other threads are started: capabilities are each thread's own.
pub(crate) fn enter(rights: &Rights, keep: Capabilities, needs: &[Need]) {
    let mut state = lock(&STATE);
    if state.is_some() {
        return;
    }
    BEFORE.get_or_init(|| *rights);
    // Taking on IDs has made us what fs.suid_dumpable says.
    not_dumpable();
    // Behind the application, but for who holds threads: each of these waits for us.
    let nice = if needs.contains(&Need::Packets) { NICE_WITH_PACKETS } else { NICE };
    if !needs.contains(&Need::Stops) {
        let _ = rustix::process::setpriority_process(None, nice);
    }
    if needs.contains(&Need::Packets) {
        ask_for_short_turns();
    }
    let bounding = give_up(rights, keep);
    let mut needs = needs.to_vec();
    needs.sort_unstable();
    needs.dedup();
    let filtered = install(&needs);
    *state = Some(Confined {
        capabilities: keep,
        bounding,
        needs: filtered.is_ok().then_some(needs),
        without_filter: filtered.err().map(|error| error.0),
    });
}

/// How long a turn on a processor is asked to be, in nanoseconds: the least that the kernel takes.
const TURN_NS: u64 = 100_000;

/// Short turns instead of long ones, and each sooner (sched_setattr(2), Linux 6.12): as much of the processor as
/// before. A ring of packets that nobody empties for 50 ms is full, and beside busy processes a turn of the usual
/// length comes too late for it. An older kernel has no such thing.
fn ask_for_short_turns() {
    let attributes = libc::sched_attr {
        size: size_of::<libc::sched_attr>() as u32,
        sched_policy: libc::SCHED_OTHER as u32,
        sched_flags: 0,
        // As it is.
        sched_nice: rustix::process::getpriority_process(None).unwrap_or(NICE),
        sched_priority: 0,
        sched_runtime: TURN_NS,
        sched_deadline: 0,
        sched_period: 0,
    };
    // SAFETY: sched_setattr(2) reads one `struct sched_attr`, whose size stands in it.
    let _ = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) };
}

/// For what looks at nothing: no capability is kept, and no system call beyond the base and `needs`.
pub fn alone(needs: &[Need]) {
    if let Ok(rights) = Rights::now() {
        enter(&rights, Capabilities::default(), needs);
    }
}

/// Drops all capabilities but `keep`; true when the bounding set is cut down as well.
fn give_up(rights: &Rights, keep: Capabilities) -> bool {
    let set = |effective: Capabilities, permitted: Capabilities| {
        let sets = CapabilitySets {
            effective: CapabilitySet::from_bits_retain(effective.0),
            permitted: CapabilitySet::from_bits_retain(permitted.0),
            inheritable: CapabilitySet::empty(),
        };
        rustix::thread::set_capabilities(None, sets).is_ok()
    };
    let mut bounding = rights.bounding.without(keep) == Capabilities::default();
    let setpcap = Capability::SETPCAP.only();
    if !bounding && rights.permitted.holds(setpcap) && set(keep.union(setpcap), keep.union(setpcap)) {
        let drop = |capability: Capability| {
            rustix::thread::remove_capability_from_bounding_set(CapabilitySet::from_bits_retain(capability.only().0))
        };
        bounding = rights.bounding.without(keep).iter().all(|capability| drop(capability).is_ok());
    }
    let _ = rustix::thread::clear_ambient_capability_set();
    set(keep, keep);
    bounding
}

/// Installs the filters, for all threads.
fn install(needs: &[Need]) -> Result<(), filter::NoFilter> {
    if cfg!(not(any(target_arch = "x86_64", target_arch = "aarch64"))) {
        return Err(filter::NoFilter("no filter can be made for this processor"));
    }
    let mut outputs = vec![libc::STDOUT_FILENO, libc::STDERR_FILENO];
    outputs.extend(&*lock(&OUTPUTS));
    let programs = filter::programs(needs, &outputs)?;
    refused::watch().map_err(|_| filter::NoFilter("SIGSYS cannot be handled"))?;
    for program in programs {
        seccompiler::apply_filter_all_threads(&program)
            .map_err(|_| filter::NoFilter("the kernel refuses a seccomp filter"))?;
    }
    Ok(())
}

/// The base in words, one line a rule: what every command may call.
pub fn base_in_words() -> Vec<String> {
    filter::described(rules::BASE)
}

impl Need {
    /// In words, one line a rule: what it adds to the base.
    pub fn in_words(self) -> Vec<String> {
        filter::described(self.rules())
    }
}
