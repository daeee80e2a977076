//! What is done when all threads were looked at: locks, deadlocks, sockets.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use agent_model::{Gap, Noted, Text};
use agent_network::sockets;
use agent_system::{Process, Run, parse};

use super::row::{Row, Thread};
use crate::frame::Frame;
use crate::glimpse::{Stillness, Waits};
use crate::locks::{self, Finding, Party};
use crate::wait::{self, Threads};

/// What is done when all threads were looked at.
pub(super) struct After<'a, 'r> {
    pub(super) run: &'a Run,
    pub(super) process: &'a Process<'r>,
    pub(super) stills: HashMap<u32, Stillness>,
}

impl After<'_, '_> {
    /// Says of each futex which lock it is a part of.
    pub(super) fn identify(&self, rows: &mut [Noted<Row>]) {
        let has_futex = |row: &Noted<Row>| row.value.threads.iter().any(|one| futex_of(one).is_some());
        if !rows.iter().any(has_futex) {
            return;
        }
        let threads = self.threads(rows);
        for row in rows {
            let functions = function_names(&row.value.frames);
            let thread = row.value.threads.first_mut();
            if let Some(futex) = thread.and_then(|one| one.wait.as_mut()).and_then(|wait| wait.futex.as_mut()) {
                futex.lock = wait::identify(futex, &functions, &threads);
            }
        }
    }

    /// The threads by the IDs that the target knows them by.
    fn threads(&self, rows: &[Noted<Row>]) -> Threads {
        let mut buffer = Vec::with_capacity(4096);
        let is_nested = self.process.status(&mut buffer).is_ok_and(|status| status.nspid.len() > 1);
        let mut threads = Threads::default();
        for thread in rows.iter().flat_map(|row| &row.value.threads) {
            let inner = if is_nested {
                let read = self.process.thread(thread.tid).and_then(|one| one.read_piece("status", &mut buffer));
                read.ok().and_then(|()| parse::status(&buffer)).and_then(|status| status.nspid.last().copied())
            } else {
                Some(thread.tid)
            };
            if let Some(inner) = inner {
                threads.by_inner_tid.insert(inner, (thread.tid, thread.name.clone()));
            }
        }
        threads
    }

    /// The threads that wait for a lock, by thread ID; their frames are not copied.
    pub(super) fn waiters(&self, rows: &[Noted<Row>]) -> Vec<Party> {
        let threads = rows.iter().flat_map(|row| &row.value.threads);
        let mut waiters: Vec<Party> = threads
            .filter_map(|thread| {
                let lock = futex_of(thread)?.lock.clone()?;
                let timed = thread.wait.as_ref().is_some_and(|wait| wait.timeout.is_some());
                Some(Party { tid: thread.tid, name: thread.name.clone(), lock, timed, frames: Vec::new() })
            })
            .collect();
        waiters.sort_by_key(|waiter| waiter.tid);
        waiters
    }

    pub(super) fn is_about_locks(&self, row: &Row, waiters: &[Party]) -> bool {
        let is_party = |tid| waiters.iter().any(|party| party.tid == tid || party.waits_for() == Some(tid));
        row.threads.iter().any(|thread| is_party(thread.tid))
    }

    /// The cycles that are still there at a second look.
    pub(super) fn deadlocks(&self, rows: &[Noted<Row>], waiters: &[Party]) -> Vec<Finding> {
        let mut found = Vec::new();
        for cycle in locks::cycles(waiters) {
            let parties: Vec<&Party> = cycle.iter().map(|at| &waiters[*at]).collect();
            if !self.have_stayed(rows, &parties) {
                continue;
            }
            let parties = cycle.into_iter().map(|at| {
                let mut party = waiters[at].clone();
                party.frames = row_of(rows, party.tid).map_or_else(Vec::new, |row| row.frames.clone());
                party
            });
            found.push(locks::finding(parties.collect()));
        }
        found
    }

    /// Whether each of `parties` is in the same call as when it was looked at, and does
    /// not run while all of their locks are read again and name the same holders.
    fn have_stayed(&self, rows: &[Noted<Row>], parties: &[&Party]) -> bool {
        let mut still = Vec::new();
        for party in parties {
            let Some(before) = self.stills.get(&party.tid) else { return false };
            let Ok(thread) = self.process.thread(party.tid) else { return false };
            // Holding a blocked thread makes it run: it comes back to its call.
            let mut now = before.again(&thread);
            for _ in 0..PATIENCE_MS {
                if now.is_some() || self.run.wait(Duration::from_millis(1)).is_err() {
                    break;
                }
                now = before.again(&thread);
            }
            match now {
                Some(now) => still.push((thread, now)),
                None => return false,
            }
        }
        let Ok(memory) = self.process.memory() else { return false };
        let threads = self.threads(rows);
        let have_same_holders = parties.iter().zip(&still).all(|(party, (_, still))| {
            let waits = Waits { memory: Some(&memory), links: None };
            let wait = still.blocked().and_then(|blocked| waits.of(blocked));
            let functions = row_of(rows, party.tid).map_or_else(Vec::new, |row| function_names(&row.frames));
            let lock = wait.and_then(|wait| wait::identify(wait.futex.as_deref()?, &functions, &threads));
            lock.is_some_and(|lock| (lock.address, lock.owner) == (party.lock.address, party.lock.owner.clone()))
        });
        have_same_holders && still.iter().all(|(thread, still)| still.holds(thread))
    }
}

/// How long a thread that was held may take to come back to its system call.
const PATIENCE_MS: u32 = 50;

fn futex_of(thread: &Thread) -> Option<&wait::Futex> {
    thread.wait.as_ref()?.futex.as_deref()
}

fn row_of(rows: &[Noted<Row>], tid: u32) -> Option<&Row> {
    rows.iter().map(|row| &row.value).find(|row| row.threads.iter().any(|thread| thread.tid == tid))
}

fn function_names(frames: &[Frame]) -> Vec<&str> {
    frames.iter().filter_map(|frame| frame.function.as_ref().map(Text::as_str)).collect()
}

/// Says of each socket that a thread waits for what it is connected to.
pub(super) fn join_sockets(run: &Run, rows: &mut [Noted<Row>], gaps: &mut Vec<Gap>) {
    let descriptors = |rows: &mut [Noted<Row>], each: &mut dyn FnMut(&mut wait::Descriptor)| {
        let threads = rows.iter_mut().flat_map(|row| &mut row.value.threads);
        threads.filter_map(|thread| thread.wait.as_mut()).flat_map(|wait| &mut wait.descriptors).for_each(each);
    };
    let mut wanted = HashSet::new();
    descriptors(rows, &mut |one| wanted.extend(one.socket_inode()));
    if wanted.is_empty() {
        return;
    }
    match sockets::by_inode(run, wanted) {
        Ok((found, about_tables)) => {
            descriptors(rows, &mut |one| {
                one.socket = one.socket_inode().and_then(|inode| found.get(&inode)).cloned();
            });
            let at = "/rows/-/threads/-/wait/descriptors/-/socket".to_owned();
            gaps.extend(about_tables.into_iter().map(|gap| Gap { at: at.clone(), ..gap }));
        }
        Err(failure) => gaps.push(run.gap("/rows/-/threads/-/wait/descriptors/-/socket", &failure)),
    }
}

pub(super) fn put_words(row: &mut Row) {
    for thread in &mut row.threads {
        thread.waits_for = thread.wait.as_ref().map(|wait| wait.words());
    }
}
