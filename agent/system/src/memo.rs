//! Reading each file once: for a run that puts several collectors together.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// The files of a process that several collectors read and that tell the same to each
/// of them. Not `stat`, `status` and `syscall`: whoever reads those again wants to know
/// whether something has changed.
const KEPT: [&str; 6] = ["auxv", "cgroup", "cmdline", "limits", "maps", "mountinfo"];

/// The bytes that are kept at the most.
const MOST_BYTES: usize = 8 << 20;

/// What was read before.
#[derive(Debug, Default)]
pub(crate) struct Memo {
    state: Mutex<Option<State>>,
}

#[derive(Debug, Default)]
struct State {
    files: HashMap<String, Arc<[u8]>>,
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

    /// The file at `path`, as it was read before.
    pub(crate) fn file(&self, path: &str) -> Option<Arc<[u8]>> {
        self.with(|state| state.files.get(path).cloned())
    }

    /// Keeps the file at `path`, while there is room.
    pub(crate) fn keep(&self, path: String, bytes: &[u8]) {
        self.with(|state| {
            if state.bytes + bytes.len() <= MOST_BYTES {
                state.bytes += bytes.len();
                state.files.insert(path, bytes.into());
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
mod tests {
    use super::*;

    #[test]
    fn nothing_is_kept_before_the_start() {
        let memo = Memo::default();
        memo.keep("/proc/1/maps".to_owned(), b"x");
        memo.keep_pids(&[1]);
        assert!(memo.file("/proc/1/maps").is_none() && memo.pids().is_none() && !memo.keeps("maps"));
    }

    #[test]
    fn what_is_kept_comes_back_and_is_bounded() {
        let memo = Memo::default();
        memo.start();
        assert!(memo.keeps("maps") && !memo.keeps("stat"));
        memo.keep("a".to_owned(), b"text");
        memo.keep("b".to_owned(), &vec![0; MOST_BYTES]);
        assert_eq!(memo.file("a").as_deref(), Some(&b"text"[..]));
        assert!(memo.file("b").is_none());
    }
}
