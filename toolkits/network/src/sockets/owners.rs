//! Who holds a socket: one walk over the descriptors of all processes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use agent_model::{Gap, Text};
use agent_system::{Cause, Directory, Failure, Process, Run, own, parse};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Serialize, Serializer};

/// A process that holds a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Owner<'a> {
    /// Process ID in our pid namespace.
    pub pid: u32,
    /// The descriptor.
    pub fd: u32,
    /// The process's name (`comm`); absent if it has ended meanwhile.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<&'a Text>,
}

/// The owners of one socket: a part of the table that all share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owners {
    table: Arc<Table>,
    first: u32,
    count: u32,
}

impl Owners {
    /// The owners, by pid and descriptor.
    pub fn iter(&self) -> impl Iterator<Item = Owner<'_>> {
        let (first, count) = (self.first as usize, self.count as usize);
        let held = self.table.held.get(first..first + count).unwrap_or_default();
        held.iter().map(|held| Owner { pid: held.pid, fd: held.fd, name: self.table.names.get(&held.pid) })
    }

    /// Whether `pid` is one.
    pub(crate) fn has(&self, pid: u32) -> bool {
        self.iter().any(|owner| owner.pid == pid)
    }
}

impl Serialize for Owners {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.iter())
    }
}

impl JsonSchema for Owners {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Owners".into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        Vec::<Owner<'_>>::json_schema(generator)
    }
}

/// A descriptor of a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Held {
    inode: u64,
    pid: u32,
    fd: u32,
}

/// All descriptors of sockets.
#[derive(Debug, Default, PartialEq, Eq)]
struct Table {
    /// By inode, pid and descriptor.
    held: Vec<Held>,
    names: BTreeMap<u32, Text>,
}

/// What the walk has found.
#[derive(Debug, Default)]
pub(crate) struct Holders {
    table: Arc<Table>,
    /// The sockets of the agent itself.
    own: BTreeSet<u64>,
    /// The processes whose descriptors could not be read, and why.
    unread: Vec<(u32, Failure)>,
    /// That there are processes which cannot even be seen.
    hidden: Option<Failure>,
}

impl Holders {
    /// Who holds `inode`; `None` when nobody is known to, and a process that may
    /// could not be asked.
    pub(crate) fn of(&self, inode: u64) -> Option<Owners> {
        let held = &self.table.held;
        let first = held.partition_point(|held| held.inode < inode);
        let count = if inode == 0 { 0 } else { held[first..].partition_point(|held| held.inode == inode) };
        if count == 0 && inode != 0 && (self.hidden.is_some() || !self.unread.is_empty()) {
            return None;
        }
        Some(Owners { table: Arc::clone(&self.table), first: first as u32, count: count as u32 })
    }

    /// Whether somebody is known to hold `inode`.
    pub(crate) fn knows(&self, inode: u64) -> bool {
        self.table.held.binary_search_by_key(&inode, |held| held.inode).is_ok()
    }

    /// Whether only the agent itself holds `inode`.
    pub(crate) fn is_own(&self, inode: u64) -> bool {
        self.own.contains(&inode) && !self.knows(inode)
    }

    /// Every socket that is held, with one who holds it, by inode.
    pub(crate) fn each(&self) -> impl Iterator<Item = (u64, Owner<'_>)> {
        let groups = self.table.held.chunk_by(|a, b| a.inode == b.inode);
        groups.map(|group| (group[0].inode, Owner { pid: group[0].pid, fd: group[0].fd, name: None }))
    }

    /// A gap for the processes that could not be asked: one for those that the same
    /// key would open.
    pub(crate) fn gaps(&self, run: &Run) -> Vec<Gap> {
        let mut groups: Vec<(Gap, Vec<u32>)> = Vec::new();
        for (pid, failure) in &self.unread {
            let gap = run.gap("/rows", failure);
            let same = |known: &Gap| {
                (known.reason, &known.errno, &known.needs, &known.remedy)
                    == (gap.reason, &gap.errno, &gap.needs, &gap.remedy)
            };
            match groups.iter_mut().find(|(known, _)| same(known)) {
                Some((_, pids)) => pids.push(*pid),
                None => groups.push((gap, vec![*pid])),
            }
        }
        let hidden =
            self.hidden.iter().map(|failure| run.gap("/rows", failure).detail("hidden processes may hold sockets"));
        hidden.chain(groups.into_iter().map(|(gap, pids)| gap.detail(unread(&pids)))).collect()
    }
}

/// Names at most that many processes.
const NAMED: usize = 10;

fn unread(pids: &[u32]) -> String {
    let named: Vec<String> = pids.iter().take(NAMED).map(u32::to_string).collect();
    let more = if pids.len() > NAMED { format!(", and {} more", pids.len() - NAMED) } else { String::new() };
    format!(
        "the descriptors of {} could not be read ({}{more}): sockets that no other holds have no owners here",
        if pids.len() == 1 { "a process".to_owned() } else { format!("{} processes", pids.len()) },
        named.join(", ")
    )
}

/// The walk over all processes, which several threads may work on.
pub(crate) struct Walk<'r> {
    run: &'r Run,
    own_pid: Option<u32>,
    work: Mutex<Work<'r>>,
    more: Condvar,
    found: Mutex<Found>,
}

/// What is left to do.
#[derive(Default)]
struct Work<'r> {
    pids: Vec<u32>,
    chunks: Vec<Chunk<'r>>,
    /// Threads that may still find chunks.
    busy: usize,
}

/// Some descriptors of a process that has many.
struct Chunk<'r> {
    pid: u32,
    directory: Directory<'r>,
    numbers: Vec<u32>,
}

/// What one thread, or all of them, have found.
#[derive(Default)]
struct Found {
    held: Vec<Held>,
    names: BTreeMap<u32, Text>,
    own: BTreeSet<u64>,
    unread: Vec<(u32, Failure)>,
}

/// How many descriptors are read at a time: with more than that, two threads
/// share the work.
const CHUNK: usize = 1024;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<'r> Walk<'r> {
    /// Prepares the walk over all processes of the pid namespace.
    ///
    /// # Errors
    ///
    /// When proc(5) cannot be listed.
    pub(crate) fn new(run: &'r Run) -> Result<Self, Failure> {
        let mut pids = run.pids()?;
        pids.reverse();
        Ok(Self {
            run,
            own_pid: run.is_live().then(own::pid),
            work: Mutex::new(Work { pids, ..Work::default() }),
            more: Condvar::new(),
            found: Mutex::default(),
        })
    }

    /// Works until nothing is left to do.
    pub(crate) fn work(&self) {
        let mut found = Found::default();
        let mut scratch = Vec::with_capacity(1024);
        let mut work = lock(&self.work);
        loop {
            if let Some(chunk) = work.chunks.pop() {
                drop(work);
                self.links(chunk.pid, &chunk.directory, &chunk.numbers, &mut found, &mut scratch);
                work = lock(&self.work);
            } else if let Some(pid) = work.pids.pop() {
                work.busy += 1;
                drop(work);
                let chunks = self.process(pid, &mut found, &mut scratch);
                work = lock(&self.work);
                work.busy -= 1;
                work.chunks.extend(chunks);
                self.more.notify_all();
            } else if work.busy > 0 {
                work = self.more.wait(work).unwrap_or_else(PoisonError::into_inner);
            } else {
                break;
            }
        }
        drop(work);
        let mut all = lock(&self.found);
        all.held.append(&mut found.held);
        all.names.append(&mut found.names);
        all.own.append(&mut found.own);
        all.unread.append(&mut found.unread);
    }

    /// What was found, once all threads have ended.
    pub(crate) fn finish(self) -> Holders {
        let mut found = self.found.into_inner().unwrap_or_else(PoisonError::into_inner);
        found.held.sort_unstable();
        found.unread.sort_unstable_by_key(|(pid, _)| *pid);
        found.unread.dedup_by_key(|(pid, _)| *pid);
        let table = Table { held: found.held, names: found.names };
        Holders { table: Arc::new(table), own: found.own, unread: found.unread, hidden: self.run.hidden() }
    }

    /// Reads the descriptors of `pid`; the chunks are those that it has left over.
    fn process(&self, pid: u32, found: &mut Found, scratch: &mut Vec<u8>) -> Vec<Chunk<'r>> {
        match self.descriptors(pid, scratch) {
            Ok(Some((directory, numbers))) => {
                let mut rest = numbers.chunks(CHUNK);
                let first = rest.next().unwrap_or_default();
                let chunks =
                    rest.map(|some| Chunk { pid, directory: directory.clone(), numbers: some.to_vec() }).collect();
                self.links(pid, &directory, first, found, scratch);
                chunks
            }
            Ok(None) => Vec::new(),
            Err(failure) => {
                found.unread.push((pid, failure));
                Vec::new()
            }
        }
    }

    /// The descriptors of `pid`; `None` where it has none, or has ended.
    fn descriptors(&self, pid: u32, scratch: &mut Vec<u8>) -> Result<Option<(Directory<'r>, Vec<u32>)>, Failure> {
        let process = match self.run.process(pid) {
            Ok(process) => process,
            Err(failure) if failure.is_exited() => return Ok(None),
            Err(failure) => return Err(failure),
        };
        match listed(&process, "fd") {
            Ok((directory, numbers)) if !numbers.is_empty() => Ok(Some((directory, numbers))),
            Ok(_) => self.of_a_thread(&process, scratch),
            Err(failure) if failure.is_exited() => Ok(None),
            // Neither a zombie nor a kernel thread has descriptors to show.
            Err(failure) => match process.stat(scratch) {
                Ok(stat) if (stat.state == b'Z' && stat.threads <= 1) || stat.is_kernel_thread() => Ok(None),
                Err(gone) if gone.is_exited() => Ok(None),
                _ => Err(failure),
            },
        }
    }

    /// The first thread of a process may have ended before the others: then only
    /// theirs show the descriptors.
    fn of_a_thread(
        &self,
        process: &Process<'r>,
        scratch: &mut Vec<u8>,
    ) -> Result<Option<(Directory<'r>, Vec<u32>)>, Failure> {
        if !process.stat(scratch).is_ok_and(|stat| stat.state == b'Z' && stat.threads > 1) {
            return Ok(None);
        }
        let Some(tid) = process.threads()?.into_iter().find(|tid| *tid != process.pid()) else { return Ok(None) };
        listed(process, &format!("task/{tid}/fd")).map(Some)
    }

    fn links(&self, pid: u32, directory: &Directory<'r>, numbers: &[u32], found: &mut Found, scratch: &mut Vec<u8>) {
        let is_own = self.own_pid == Some(pid);
        let before = found.held.len();
        let result = directory.each_link(numbers, |fd, link| {
            if let Some(inode) = socket_inode(link) {
                if is_own {
                    found.own.insert(inode);
                } else {
                    found.held.push(Held { inode, pid, fd });
                }
            }
        });
        if found.held.len() > before && !found.names.contains_key(&pid) {
            let name = self.run.process(pid).and_then(|process| process.read_piece("comm", scratch));
            if name.is_ok() {
                found.names.insert(pid, Text::from_bytes(scratch.strip_suffix(b"\n").unwrap_or(scratch)));
            }
        }
        match result {
            Err(failure) if !failure.is_exited() => {
                // The time is over for the rest as well.
                if matches!(failure.cause, Cause::Refused(_)) {
                    let mut work = lock(&self.work);
                    work.pids.clear();
                    work.chunks.clear();
                }
                found.unread.push((pid, failure));
            }
            _ => {}
        }
    }
}

fn listed<'r>(process: &Process<'r>, name: &str) -> Result<(Directory<'r>, Vec<u32>), Failure> {
    let directory = process.directory(name)?;
    let numbers = directory.ids()?;
    Ok((directory, numbers))
}

/// The inode in `socket:[12345]`.
fn socket_inode(link: &[u8]) -> Option<u64> {
    parse::number(link.strip_prefix(b"socket:[")?.strip_suffix(b"]")?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holders(held: &[(u64, u32, u32)], own: &[u64], is_complete: bool) -> Holders {
        let mut held: Vec<Held> =
            held.iter().map(|(inode, pid, fd)| Held { inode: *inode, pid: *pid, fd: *fd }).collect();
        held.sort_unstable();
        let names = BTreeMap::from([(7, Text::from("nginx"))]);
        let failure = Failure::new("/proc/9/fd", Cause::Exited);
        Holders {
            table: Arc::new(Table { held, names }),
            own: own.iter().copied().collect(),
            unread: if is_complete { Vec::new() } else { vec![(9, failure)] },
            hidden: None,
        }
    }

    fn list(holders: &Holders, inode: u64) -> Option<Vec<(u32, u32)>> {
        holders.of(inode).map(|owners| owners.iter().map(|owner| (owner.pid, owner.fd)).collect())
    }

    #[test]
    fn owners_come_by_pid_and_descriptor() {
        let holders = holders(&[(5, 8, 3), (5, 7, 9), (5, 7, 4), (6, 7, 1)], &[], true);
        assert_eq!(list(&holders, 5), Some(vec![(7, 4), (7, 9), (8, 3)]));
        let json = serde_json::to_value(holders.of(5)).expect("serializable");
        assert_eq!(json[0], serde_json::json!({"pid": 7, "fd": 4, "name": "nginx"}));
        assert_eq!(json[2], serde_json::json!({"pid": 8, "fd": 3}));
        assert_eq!(holders.each().map(|(inode, owner)| (inode, owner.fd)).collect::<Vec<_>>(), [(5, 4), (6, 1)]);
    }

    #[test]
    fn nobody_is_only_said_when_everybody_was_asked() {
        assert_eq!(list(&holders(&[(5, 8, 3)], &[], true), 6), Some(vec![]));
        assert_eq!(list(&holders(&[(5, 8, 3)], &[], false), 6), None);
        let hidden = Holders { hidden: Some(Failure::new("/proc", Cause::Exited)), ..holders(&[], &[], true) };
        assert_eq!(list(&hidden, 6), None);
        assert_eq!(list(&holders(&[(5, 8, 3)], &[], false), 5), Some(vec![(8, 3)]));
        assert_eq!(list(&holders(&[(5, 8, 3)], &[], false), 0), Some(vec![]), "without an inode nobody can hold it");
    }

    #[test]
    fn a_socket_that_the_agent_shares_is_not_only_its_own() {
        let holders = holders(&[(5, 8, 3)], &[5, 6], true);
        assert!(!holders.is_own(5) && holders.is_own(6) && !holders.is_own(7));
    }

    #[test]
    fn only_sockets_count() {
        assert_eq!(socket_inode(b"socket:[4026]"), Some(4026));
        for other in [&b"pipe:[4026]"[..], b"/tmp/socket:[1]", b"socket:[", b"socket:[]", b"socket:[1]x", b""] {
            assert_eq!(socket_inode(other), None);
        }
    }
}
