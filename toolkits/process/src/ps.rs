//! `ps`: every process of the pid namespace, as a tree.

mod change;
mod details;
mod names;
mod row;
mod scan;

use std::collections::HashMap;
use std::time::Duration;

use agent_model::{Gap, Gathered, Listing, Noted};
use agent_system::collector::TargetUse;
use agent_system::{Capability, Collector, Failure, Run, Watch};
use clap::Args;
use schemars::JsonSchema;
use serde::Serialize;

pub use change::{Change, Changes, Named};
pub use details::{CapabilitySet, CapabilitySets, Cgroup, Details, FourIds, Id, Io, Namespace};
pub use row::{Row, Summary, Tty};

use scan::Scan;

/// The collector of processes.
pub struct Ps;

/// Options of `ps`.
#[derive(Debug, Clone, Default, Args, Serialize, JsonSchema)]
pub struct Options {
    /// Also list the agent's own processes, marked as `self`
    #[arg(long = "self")]
    #[serde(rename = "self")]
    own: bool,
    /// Also all IDs, capabilities, namespaces, control groups, directories, scheduling, I/O: ten more reads a process
    #[arg(long)]
    details: bool,
    /// Do not look up the names of users and groups
    #[arg(long, requires = "details")]
    no_names: bool,
    /// Also each thread, below its process
    #[arg(long)]
    threads: bool,
    /// Also the proportional share of memory: the kernel walks the page tables of each process
    #[arg(long)]
    pss: bool,
    #[command(flatten)]
    #[serde(flatten)]
    watch: Watch,
}

impl Collector for Ps {
    const NAME: &'static str = "ps";
    const ABOUT: &'static str = "Process tree: every process of the pid namespace";
    const MANUAL: &'static str = "\
Rows come in tree order: a parent before its children, siblings by pid. The agent's
own processes are left out unless --self is given, and so are processes that end
while they are looked at. With --threads, the threads of a process come after it and
before its children, by thread ID, the first one included.

--pss makes the kernel walk the page tables of each process, during which it holds the
lock of its address space. --watch tells what was used between two looks: a process
that began and ended in between is in neither.

  agent ps                     the tree on a terminal, JSON in a pipe
  agent ps --details | jq '.data.rows[] | {pid, caps: .details.capabilities.effective.names}'
  agent ps --threads -o table  who of the threads runs
  agent ps --watch 1 --interval 5s | jq '.data.rows | sort_by(-.cpu_permille) | .[0]'
  agent ps -o ndjson | jq 'select(.state == \"zombie\") | .pid'";
    const CAPABILITIES: &'static [Capability] = &[Capability::SYS_PTRACE];
    const TARGET: TargetUse = TargetUse::Optional;
    type Options = Options;
    type Data = Listing<Row, Summary>;

    fn watch(options: &Options) -> Watch {
        options.watch
    }

    fn compare(before: &Self::Data, now: &mut Self::Data, elapsed: Duration) {
        change::compare(before, now, elapsed);
    }

    fn collect(run: &Run, options: &Options) -> Result<Gathered<Self::Data>, Failure> {
        let scan = Scan::prepare(run, options)?;
        let (found, unseen) = scan.all(&run.pids()?);
        let mut threads = HashMap::new();
        let kept = found.into_iter().filter(|found| options.own || !found.process.value.own).map(|found| {
            if !found.threads.is_empty() {
                threads.insert(found.process.value.pid, found.threads);
            }
            found.process
        });
        let rows = with_threads(tree(kept.collect()), threads);
        Ok(Gathered::rows(rows, missing(run, unseen), summarize))
    }
}

/// Puts the threads of each process behind it.
fn with_threads(rows: Vec<Noted<Row>>, mut threads: HashMap<u32, Vec<Noted<Row>>>) -> Vec<Noted<Row>> {
    if threads.is_empty() {
        return rows;
    }
    let mut all = Vec::with_capacity(rows.len() + threads.values().map(Vec::len).sum::<usize>());
    for row in rows {
        let (pid, depth) = (row.value.pid, row.value.depth + 1);
        all.push(row);
        for mut thread in threads.remove(&pid).unwrap_or_default() {
            thread.value.depth = depth;
            all.push(thread);
        }
    }
    all
}

/// The gaps for whole rows that are missing: one for each reason, however many
/// processes it is true of.
fn missing(run: &Run, unseen: Vec<Failure>) -> Vec<Gap> {
    let mut gaps: Vec<(Gap, u64)> = Vec::new();
    for failure in unseen.into_iter().chain(run.hidden()) {
        let is_general = failure.pid.is_none();
        let gap = run.gap("/rows/-", &failure);
        match gaps.iter_mut().find(|(known, _)| known.reason == gap.reason) {
            Some((_, count)) => *count += u64::from(!is_general),
            None => gaps.push((gap, u64::from(!is_general))),
        }
    }
    let count = |(gap, count): (Gap, u64)| match count {
        0 => gap.detail("processes of other users"),
        count => gap.detail(format!("this and {} more processes", count - 1)),
    };
    gaps.into_iter().map(count).collect()
}

/// Puts `rows`, which come by pid, in tree order, and sets their depths. A process
/// whose parent is not among them is a root, and so is one of a cycle, which only
/// a table that changed while it was read can have.
fn tree(rows: Vec<Noted<Row>>) -> Vec<Noted<Row>> {
    let index: HashMap<u32, usize> = rows.iter().enumerate().map(|(at, row)| (row.value.pid, at)).collect();
    let mut children: Vec<Vec<usize>> = vec![Vec::new(); rows.len()];
    let mut roots = Vec::new();
    for (at, row) in rows.iter().enumerate() {
        match index.get(&row.value.ppid) {
            Some(&parent) if parent != at => children[parent].push(at),
            _ => roots.push(at),
        }
    }
    let mut order: Vec<(usize, u32)> = Vec::with_capacity(rows.len());
    let mut placed = vec![false; rows.len()];
    let walk = |root: usize, order: &mut Vec<(usize, u32)>, placed: &mut Vec<bool>| {
        let mut open = vec![(root, 0)];
        while let Some((at, depth)) = open.pop() {
            if std::mem::replace(&mut placed[at], true) {
                continue;
            }
            order.push((at, depth));
            open.extend(children[at].iter().rev().map(|child| (*child, depth + 1)));
        }
    };
    for root in roots {
        walk(root, &mut order, &mut placed);
    }
    for at in 0..rows.len() {
        if !placed[at] {
            walk(at, &mut order, &mut placed);
        }
    }
    let mut slots: Vec<Option<Noted<Row>>> = rows.into_iter().map(Some).collect();
    order
        .into_iter()
        .filter_map(|(at, depth)| {
            let mut row = slots[at].take()?;
            row.value.depth = depth;
            Some(row)
        })
        .collect()
}

fn summarize(rows: &[Row]) -> Summary {
    let mut summary = Summary::default();
    for row in rows.iter().filter(|row| row.tid.is_none()) {
        summary.processes += 1;
        summary.threads += u64::from(row.threads);
        *summary.states.entry(row.state).or_default() += 1;
    }
    summary
}

/// A row of a test.
#[cfg(test)]
fn plain(pid: u32, ppid: u32) -> Row {
    Row {
        pid,
        tid: None,
        ppid,
        pgid: 0,
        session: 0,
        tty: None,
        depth: 0,
        uid: None,
        gid: None,
        state: "sleeping",
        nice: 0,
        threads: 1,
        cpu_user_us: 0,
        cpu_system_us: 0,
        rss_bytes: 0,
        pss_bytes: None,
        io: None,
        change: None,
        start_time: String::new(),
        start_ticks: 0,
        name: agent_model::Text::default(),
        args: Vec::new(),
        executable: None,
        executable_deleted: None,
        container_id: None,
        own: false,
        details: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(pid: u32, ppid: u32) -> Noted<Row> {
        Noted::new(plain(pid, ppid))
    }

    fn shape(rows: Vec<Noted<Row>>) -> Vec<(u32, u32)> {
        tree(rows).iter().map(|row| (row.value.pid, row.value.depth)).collect()
    }

    #[test]
    fn parents_come_before_children_and_siblings_by_pid() {
        let rows = vec![row(1, 0), row(2, 9), row(5, 1), row(7, 5), row(8, 1), row(9, 0)];
        assert_eq!(shape(rows), [(1, 0), (5, 1), (7, 2), (8, 1), (9, 0), (2, 1)]);
    }

    #[test]
    fn threads_stand_between_their_process_and_its_children() {
        let thread = |tid| Noted::new(Row { tid: Some(tid), ..plain(1, 0) });
        let rows = tree(vec![row(1, 0), row(5, 1)]);
        let all = with_threads(rows, HashMap::from([(1, vec![thread(1), thread(3)])]));
        let shape: Vec<_> = all.iter().map(|row| (row.value.pid, row.value.tid, row.value.depth)).collect();
        assert_eq!(shape, [(1, None, 0), (1, Some(1), 1), (1, Some(3), 1), (5, None, 1)]);
        let rows: Vec<Row> = all.into_iter().map(|row| row.value).collect();
        assert_eq!((summarize(&rows).processes, summarize(&rows).threads), (2, 2));
    }

    #[test]
    fn no_row_is_lost_in_a_cycle_or_without_its_parent() {
        assert_eq!(shape(vec![row(3, 4), row(4, 3), row(6, 77), row(8, 8)]), [(6, 0), (8, 0), (3, 0), (4, 1)]);
    }
}
