//! Reading each file once: for a run that puts several collectors together.

use std::collections::HashMap;
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, PoisonError};

/// The files of a process that several collectors read and that tell the same to each
/// of them. Not `stat`, `status` and `syscall`: whoever reads those again wants to know
/// whether something has changed.
const KEPT: [&str; 6] = ["auxv", "cgroup", "cmdline", "limits", "maps", "mountinfo"];

/// A file in a directory that is open. The inode of `/proc/PID` is its process's and no later one's with
/// the same number: proc(5) counts them up as it makes them.
pub(crate) type Key = (u64, &'static str);

/// The bytes that are kept at the most.
const MOST_BYTES: usize = 8 << 20;

/// What was read before.
#[derive(Debug, Default)]
pub(crate) struct Memo {
    state: Mutex<Option<State>>,
}

#[derive(Debug, Default)]
struct State {
    files: HashMap<Key, Arc<[u8]>>,
    bytes: usize,
    pids: Option<Arc<[u32]>>,
}

impl Memo {
    fn with<T>(&self, look: impl FnOnce(&mut State) -> Option<T>) -> Option<T> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).as_mut().and_then(look)
    }

    /// From now on, what is read is kept.
    pub(crate) fn start(&self) {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = Some(State::default());
    }

    /// Whether the file `name` is one to be kept.
    pub(crate) fn keeps(&self, name: &str) -> bool {
        KEPT.contains(&name) && self.with(|_| Some(())).is_some()
    }

    /// The key of the file `name` in `directory`, if it is one to be kept.
    pub(crate) fn key(&self, directory: impl AsFd, name: &str) -> Option<Key> {
        let name = KEPT.into_iter().find(|kept| *kept == name)?;
        self.with(|_| Some(()))?;
        Some((rustix::fs::fstat(directory).ok()?.st_ino, name))
    }

    /// The file of `key`, as it was read before.
    pub(crate) fn file(&self, key: Key) -> Option<Arc<[u8]>> {
        self.with(|state| state.files.get(&key).cloned())
    }

    /// Keeps the file of `key`, while there is room.
    pub(crate) fn keep(&self, key: Key, bytes: &[u8]) {
        self.with(|state| {
            if state.bytes + bytes.len() <= MOST_BYTES {
                state.bytes += bytes.len();
                state.files.insert(key, bytes.into());
            }
            Some(())
        });
    }

    /// The processes, as they were listed before.
    pub(crate) fn pids(&self) -> Option<Arc<[u32]>> {
        self.with(|state| state.pids.clone())
    }

    /// Keeps the list of processes.
    pub(crate) fn keep_pids(&self, pids: &[u32]) {
        self.with(|state| {
            state.pids = Some(pids.into());
            Some(())
        });
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "a test may open files and start programs")]
mod tests {
    use std::fs::File;

    use super::*;

    #[test]
    fn nothing_is_kept_before_the_start() {
        let memo = Memo::default();
        let directory = File::open("/proc/self").expect("proc(5)");
        memo.keep((1, "maps"), b"x");
        memo.keep_pids(&[1]);
        assert!(memo.file((1, "maps")).is_none() && memo.pids().is_none() && memo.key(&directory, "maps").is_none());
    }

    #[test]
    fn what_is_kept_comes_back_and_is_bounded() {
        let memo = Memo::default();
        memo.start();
        let directory = File::open("/proc/self").expect("proc(5)");
        let key = memo.key(&directory, "maps").expect("to be kept");
        assert!(memo.key(&directory, "stat").is_none());
        memo.keep(key, b"text");
        memo.keep((key.0, "cgroup"), &vec![0; MOST_BYTES]);
        assert_eq!(memo.file(key).as_deref(), Some(&b"text"[..]));
        assert!(memo.file((key.0, "cgroup")).is_none());
        let again = File::open("/proc/self").expect("proc(5)");
        assert_eq!(memo.key(&again, "maps"), Some(key));
    }

    /// Whoever comes after a process under the same number is another one.
    #[test]
    fn a_process_with_a_number_that_was_used_before_has_no_files_of_the_other() {
        let memo = Memo::default();
        memo.start();
        let key_of = |pid: u32| memo.key(File::open(format!("/proc/{pid}")).expect("proc(5)"), "maps");
        let mut keys = Vec::new();
        for _ in 0..50 {
            let mut child = std::process::Command::new("true").spawn().expect("a process");
            keys.push(key_of(child.id()).expect("to be kept"));
            child.wait().expect("its end");
        }
        let count = keys.len();
        keys.sort_unstable();
        keys.dedup();
        assert_eq!(keys.len(), count, "one key each");
    }
}
