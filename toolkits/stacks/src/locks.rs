//! Who waits for whom.
//!
//! A thread waits for at most one lock, and a lock has at most one holder that is
//! known, so the graph is a set of paths, each of which ends or runs into a cycle.
//! A cycle is proven, not guessed: after it was found, each of its threads must be
//! in the same system call; then each lock must name the same holder; then none of
//! the threads may have run since. So while the locks were read all of them waited.

use std::collections::{BTreeMap, BTreeSet};

use agent_model::{Hex, Text};
use schemars::JsonSchema;
use serde::Serialize;

use crate::frame::Frame;
use crate::wait::{Holder, Lock};

/// A lock that is waited for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Contended {
    /// Where it begins (AVMA).
    pub address: Hex,
    /// `mutex`, `rwlock`, `thread`, …, as in `wait.futex.lock`.
    #[serde(rename = "type")]
    #[schemars(extend("x-class" = "word"))]
    pub kind: &'static str,
    /// Who holds it, where that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub owner: Option<Holder>,
    /// The threads that wait for it, by thread ID.
    pub waiters: Vec<Holder>,
}

/// What is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Finding {
    /// What kind it is: `deadlock`.
    #[schemars(extend("x-class" = "word"))]
    pub id: &'static str,
    /// `fail`; `warn` where one of the threads gives up after a while.
    #[schemars(extend("x-class" = "word"))]
    pub level: &'static str,
    /// In words.
    #[schemars(extend("x-class" = "text"))]
    pub message: String,
    /// The threads, each of which waits for the next and the last for the first.
    pub evidence: Vec<Party>,
    /// What can be done about it.
    #[schemars(extend("x-class" = "word"))]
    pub remedy: &'static str,
}

/// A thread in a cycle.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Party {
    /// Thread ID.
    pub tid: u32,
    /// Its name (`comm`).
    #[schemars(extend("x-class" = "name"))]
    pub name: Text,
    /// What it waits for.
    pub lock: Lock,
    /// Whether it gives up after a while.
    pub timed: bool,
    /// Where it waits, innermost first.
    pub frames: Vec<Frame>,
}

impl Party {
    /// The thread that it waits for.
    pub fn waits_for(&self) -> Option<u32> {
        self.lock.owner.as_ref().map(|owner| owner.tid)
    }
}

/// The locks that `waiters` wait for, by address.
pub fn contended(waiters: &[Party]) -> Vec<Contended> {
    let mut locks: BTreeMap<(Hex, &'static str), Contended> = BTreeMap::new();
    for waiter in waiters {
        let lock = &waiter.lock;
        let entry = locks.entry((lock.address, lock.kind)).or_insert_with(|| Contended {
            address: lock.address,
            kind: lock.kind,
            owner: lock.owner.clone(),
            waiters: Vec::new(),
        });
        entry.waiters.push(Holder { tid: waiter.tid, name: waiter.name.clone() });
    }
    let mut locks: Vec<Contended> = locks.into_values().collect();
    locks.iter_mut().for_each(|lock| lock.waiters.sort_by_key(|waiter| waiter.tid));
    locks
}

/// The cycles among `waiters`, as indices: each thread waits for the next and the
/// last for the first. Each begins with its lowest thread ID, and they are sorted
/// by it.
pub fn cycles(waiters: &[Party]) -> Vec<Vec<usize>> {
    let by_tid: BTreeMap<u32, usize> = waiters.iter().enumerate().map(|(at, waiter)| (waiter.tid, at)).collect();
    let next = |at: usize| waiters[at].waits_for().and_then(|tid| by_tid.get(&tid).copied());
    let mut done = BTreeSet::new();
    let mut found = Vec::new();
    for &start in by_tid.values() {
        let mut path = Vec::new();
        let mut at = start;
        while done.insert(at) {
            path.push(at);
            match next(at) {
                Some(other) => at = other,
                None => break,
            }
        }
        // It came back to a thread of this path, and not of an earlier one.
        if next(*path.last().unwrap_or(&at)) == Some(at)
            && let Some(begin) = path.iter().position(|one| *one == at)
        {
            let mut cycle = path.split_off(begin);
            let lowest = (0..cycle.len()).min_by_key(|one| waiters[cycle[*one]].tid).unwrap_or(0);
            cycle.rotate_left(lowest);
            found.push(cycle);
        }
    }
    found.sort_by_key(|cycle| waiters[cycle[0]].tid);
    found
}

/// The finding for one cycle.
pub fn finding(evidence: Vec<Party>) -> Finding {
    let is_timed = evidence.iter().any(|party| party.timed);
    let mut message = String::new();
    for party in &evidence {
        let holder = party.waits_for().map_or_else(String::new, |tid| format!(", held by {tid}"));
        let text =
            format!("thread {} waits for the {} at {}{holder}; ", party.tid, party.lock.kind, party.lock.address);
        message.push_str(&text);
    }
    message.push_str(if is_timed {
        "until one of them gives up, none goes on"
    } else {
        "none of them will ever go on"
    });
    Finding {
        id: "deadlock",
        level: if is_timed { "warn" } else { "fail" },
        message,
        evidence,
        remedy: "take these locks in the same order everywhere; the process has to be restarted",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waiter(tid: u32, owner: Option<u32>) -> Party {
        let owner = owner.map(|tid| Holder { tid, name: Text::from("x") });
        let lock = Lock {
            kind: "mutex",
            address: Hex(u64::from(tid) * 64),
            mutex_type: None,
            priority_inheritance: None,
            wants: None,
            owner,
            readers: None,
        };
        Party { tid, name: Text::from("x"), lock, timed: false, frames: Vec::new() }
    }

    fn cycles_of(edges: &[(u32, Option<u32>)]) -> Vec<Vec<u32>> {
        let waiters: Vec<Party> = edges.iter().map(|(tid, owner)| waiter(*tid, *owner)).collect();
        cycles(&waiters).into_iter().map(|cycle| cycle.into_iter().map(|at| waiters[at].tid).collect()).collect()
    }

    #[test]
    fn cycles_are_found_once_and_begin_with_the_lowest_thread() {
        assert_eq!(cycles_of(&[(7, Some(5)), (5, Some(7))]), [[5, 7]]);
        assert_eq!(cycles_of(&[(9, Some(3)), (3, Some(6)), (6, Some(9)), (1, Some(9))]), [[3, 6, 9]]);
        assert_eq!(cycles_of(&[(4, Some(4))]), [[4]]);
        assert_eq!(cycles_of(&[(1, Some(2)), (2, Some(1)), (8, Some(9)), (9, Some(8))]), [[1, 2], [8, 9]]);
    }

    #[test]
    fn paths_that_end_are_no_cycles() {
        assert!(cycles_of(&[(1, Some(2)), (2, Some(3)), (3, None), (4, Some(2))]).is_empty());
        assert!(cycles_of(&[(1, Some(99))]).is_empty());
        assert!(cycles_of(&[]).is_empty());
    }

    #[test]
    fn a_timed_wait_makes_it_a_warning() {
        let mut parties = vec![waiter(1, Some(2)), waiter(2, Some(1))];
        assert_eq!(finding(parties.clone()).level, "fail");
        parties[1].timed = true;
        assert_eq!(finding(parties).level, "warn");
    }
}
