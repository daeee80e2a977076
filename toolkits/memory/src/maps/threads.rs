//! Where the stacks of the threads are.

use agent_model::{Gap, Reason};
use agent_system::parse::{self, Doing};
use agent_system::{Failure, Process, Run};

/// The stack pointers of threads.
#[derive(Debug, Default)]
pub(crate) struct Stacks {
    /// Stack pointer and thread, by stack pointer.
    pub(crate) pointers: Vec<(u64, u32)>,
    /// What could not be seen.
    pub(crate) gaps: Vec<Gap>,
}

/// A thread that runs has no stack pointer to show. It is asked again, which
/// finds most that only ran by chance.
const ROUNDS: usize = 3;

/// How many threads a gap names.
const NAMED: usize = 8;

/// Reads the stack pointer of each thread of `process` but the first, whose stack
/// the kernel names itself. Nothing is stopped for it.
pub(crate) fn stacks(run: &Run, process: &Process<'_>) -> Stacks {
    let mut stacks = Stacks::default();
    let mut left = match process.threads() {
        Ok(tids) => tids,
        Err(failure) => {
            stacks.gaps.push(super::gap(run, "/rows", &failure, "the stacks of threads are not told apart"));
            return stacks;
        }
    };
    left.retain(|tid| *tid != process.pid());
    let mut buffer = Vec::with_capacity(512);
    for _ in 0..ROUNDS {
        let mut running = Vec::new();
        for (at, &tid) in left.iter().enumerate() {
            match pointer(process, tid, &mut buffer) {
                Ok(Some(pointer)) => stacks.pointers.push((pointer, tid)),
                Ok(None) => running.push(tid),
                // It has ended, or left its address space.
                Err(failure) if failure.is_not_found() || failure.is_exited() => {}
                Err(failure) => {
                    // What is denied for one thread is denied for all.
                    stacks.gaps.push(super::gap(run, "/rows", &failure, &detail(&left[at..], "cannot be read")));
                    running.clear();
                    break;
                }
            }
        }
        left = running;
        if left.is_empty() {
            break;
        }
    }
    if !left.is_empty() {
        let gap =
            Gap::new("/rows", Reason::Incomplete).path(format!("{}/task/{}/syscall", process.path(), left[0]).as_str());
        stacks.gaps.push(gap.detail(detail(&left, "is not shown while they run")));
    }
    stacks.pointers.sort_unstable();
    stacks
}

/// The stack pointer of a thread; `None` while it runs.
fn pointer(process: &Process<'_>, tid: u32, buffer: &mut Vec<u8>) -> Result<Option<u64>, Failure> {
    process.read_piece(&format!("task/{tid}/syscall"), buffer)?;
    match parse::doing(buffer) {
        Some(Doing::Blocked(blocked)) => Ok(Some(blocked.sp)),
        Some(Doing::Running) => Ok(None),
        // A thread on its way out has an empty file, and no stack any more.
        None => Ok(Some(0)),
    }
}

/// `the stacks of 3 threads (7, 8, 9) are not told apart: their stack pointer …`
fn detail(tids: &[u32], why: &str) -> String {
    let mut names: Vec<String> = tids.iter().take(NAMED).map(u32::to_string).collect();
    if tids.len() > NAMED {
        names.push("…".to_owned());
    }
    let (count, names) = (tids.len(), names.join(", "));
    format!("the stacks of {count} threads ({names}) are not told apart: their stack pointer {why}")
}
