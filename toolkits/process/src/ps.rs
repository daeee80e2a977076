//! `ps`: every process of the pid namespace, as a tree.

mod change;
mod details;
mod names;

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use agent_model::{Gap, Gathered, Listing, Noted, Text};
use agent_system::collector::TargetUse;
use agent_system::parse::{Stat, Status};
use agent_system::{
    Capability, Cause, Collector, Directory, Failure, Process, Run, Watch, clock, in_halves, own, parse,
};
use clap::Args;
use schemars::JsonSchema;
use serde::Serialize;

pub use change::{Change, Changes, Named};
pub use details::{CapabilitySet, CapabilitySets, Cgroup, Details, FourIds, Id, Io, Namespace};

use details::{Before, Deeper, present, unless_ended};

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

/// One process.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[schemars(extend("x-key" = ["pid", "start_ticks", "tid"], "x-alike" = ["name", "args"], "x-life" = [
    "ppid", "pgid", "session", "tty", "start_time", "start_ticks", "container_id"
]))]
pub struct Row {
    /// Process ID in our pid namespace.
    #[schemars(extend("x-column" = "PID"))]
    pub pid: u32,
    /// Thread ID; only of a row that is a thread's (--threads): its times, state, IDs
    /// and details are its own then, and the rest is as in the row of its process.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-column" = "TID"))]
    pub tid: Option<u32>,
    /// Parent; 0 where it is outside of this pid namespace.
    #[schemars(extend("x-column" = "PPID"))]
    pub ppid: u32,
    /// Process group; 0 for one of another pid namespace.
    pub pgid: u32,
    /// Session, likewise.
    pub session: u32,
    /// Its controlling terminal; absent for none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tty: Option<Tty>,
    /// How many of its ancestors are listed.
    pub depth: u32,
    /// User ID, effective; absent with a gap where `status` could not be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-column" = "UID"))]
    pub uid: Option<u32>,
    /// Group ID, effective.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gid: Option<u32>,
    /// What it does: `running`, `sleeping`, `disk_sleep`, `stopped`, `tracing_stop`,
    /// `zombie`, `dead`, `idle`, `parked`.
    #[schemars(extend("x-column" = "STATE"))]
    #[schemars(extend("x-class" = "word"))]
    pub state: &'static str,
    /// Nice value: from 19, the least demanding, to -20.
    pub nice: i32,
    /// Number of threads; 1 for a thread.
    #[schemars(extend("x-column" = "THREADS"))]
    pub threads: u32,
    /// CPU time in user mode, in microseconds, to the clock tick.
    #[schemars(extend("x-column" = "USER"))]
    pub cpu_user_us: u64,
    /// CPU time in the kernel, in microseconds, to the clock tick.
    #[schemars(extend("x-column" = "SYSTEM"))]
    pub cpu_system_us: u64,
    /// Resident set: what it has in memory, shared pages included, in bytes. From
    /// `status`: the figure in `stat` lags behind by some pages for each processor.
    #[schemars(extend("x-column" = "RSS"))]
    pub rss_bytes: u64,
    /// Resident set, each page divided by how many processes have it, in bytes; only
    /// with --pss. How the pages are shared depends on other processes.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-column" = "PSS"))]
    pub pss_bytes: Option<u64>,
    /// What it has read and written; with --details and with --watch.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-inline" = true))]
    pub io: Option<Io>,
    /// What it did since the look before; only with --watch, and not in the first
    /// look at it.
    #[serde(flatten)]
    pub change: Option<Change>,
    /// All the rest; with --details.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-inline" = true))]
    pub details: Option<Box<Details>>,
    /// When it started (RFC 3339, UTC).
    #[schemars(extend("x-column" = "STARTED"))]
    #[schemars(extend("x-class" = "id"))]
    pub start_time: String,
    /// When it started, in clock ticks since boot: with the pid this names it for
    /// good.
    pub start_ticks: u64,
    /// Name (`comm`): 15 bytes at most.
    #[schemars(extend("x-column" = "NAME", "x-tree" = "depth"))]
    #[schemars(extend("x-class" = "name"))]
    pub name: Text,
    /// The arguments it has now; empty for a zombie, a kernel thread, and in the row of
    /// a thread. A process
    /// that has rewritten them may have left empty ones behind its title. Of more
    /// than 128 KiB only the beginning, with a gap.
    #[schemars(extend("x-column" = "ARGS", "x-class" = "argv"))]
    pub args: Vec<Text>,
    /// Its executable, as its own mount namespace names it; absent for a kernel
    /// thread, a zombie and a process that is about to become one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-class" = "path"))]
    pub executable: Option<Text>,
    /// Whether that file is no longer there: it was deleted or replaced.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub executable_deleted: Option<bool>,
    /// The container it is in, from its control group.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-class" = "id"))]
    pub container_id: Option<Text>,
    /// Whether it is the agent's own.
    #[serde(rename = "self")]
    pub own: bool,
}

/// A terminal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Tty {
    /// Its number, as `major:minor`.
    #[schemars(extend("x-class" = "id"))]
    pub device: String,
    /// What it is called below /dev: `pts/3`; absent where its number does not tell.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-class" = "name"))]
    pub name: Option<String>,
}

/// Totals over the processes listed.
#[derive(Debug, Clone, Default, Serialize, JsonSchema)]
pub struct Summary {
    /// Processes.
    pub processes: u64,
    /// Threads of all of them.
    pub threads: u64,
    /// Processes by state.
    pub states: BTreeMap<&'static str, u64>,
    /// What has changed since the look before; with --watch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub changes: Option<Changes>,
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

/// A process, and its threads if they were asked for.
struct Found {
    process: Noted<Row>,
    threads: Vec<Noted<Row>>,
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

/// What every row needs, read once.
struct Scan<'r> {
    run: &'r Run,
    options: Options,
    deeper: Option<Deeper<'r>>,
    /// Seconds since 1970 at boot.
    boot_s: u64,
    ticks_per_second: u64,
    page_bytes: u64,
    own_pid: Option<u32>,
    /// Our control groups, if they are those of a container which is not the
    /// target's.
    own_cgroup: Option<Vec<u8>>,
}

/// The bytes of arguments that are read of one process: as many as one argument can
/// have at the most (MAX_ARG_STRLEN in linux/binfmts.h). All of them together can be
/// a quarter of the stack's limit, for each process, and the agent lives in the
/// memory limit of its pod.
const MOST_ARGS: usize = 128 << 10;

/// Below this many processes a second thread costs more than it gives.
const WORTH_A_THREAD: usize = 256;

impl<'r> Scan<'r> {
    fn prepare(run: &'r Run, options: &Options) -> Result<Self, Failure> {
        let mut boot_s = None;
        run.proc().lines("stat", |line| {
            boot_s = line.strip_prefix(b"btime ").and_then(parse::number);
            if boot_s.is_some() { std::ops::ControlFlow::Break(()) } else { std::ops::ControlFlow::Continue(()) }
        })?;
        let own_cgroup = own::cgroup().filter(|own| {
            run.is_live()
                && is_container(own, own::namespace("cgroup"))
                && target_cgroup(run).is_some_and(|its| its != *own)
        });
        Ok(Self {
            run,
            options: options.clone(),
            deeper: options.details.then(|| Deeper::prepare(run, !options.no_names)),
            boot_s: boot_s.unwrap_or(0),
            ticks_per_second: agent_system::ticks_per_second(),
            page_bytes: agent_system::page_bytes(),
            own_pid: run.is_live().then(own::pid),
            own_cgroup,
        })
    }

    /// The rows of `pids`, in their order, and why others are missing. Processes
    /// that have ended are left out of both.
    fn all(&self, pids: &[u32]) -> (Vec<Found>, Vec<Failure>) {
        let mut unseen = Vec::new();
        let found = in_halves(pids, WORTH_A_THREAD, |some| self.some(some));
        let rows = found.into_iter().filter_map(|found| found.map_err(|failure| unseen.push(failure)).ok()).collect();
        (rows, unseen)
    }

    fn some(&self, pids: &[u32]) -> Vec<Result<Found, Failure>> {
        let mut buffer = Vec::with_capacity(8192);
        let looked = pids.iter().map(|pid| self.one(*pid, &mut buffer));
        looked.filter(|found| !found.as_ref().is_err_and(Failure::is_exited)).collect()
    }

    /// The row of `pid`; the failure says that it has ended if it did before all
    /// was read.
    fn one(&self, pid: u32, buffer: &mut Vec<u8>) -> Result<Found, Failure> {
        let process = self.run.process(pid)?;
        let stat = process.stat(buffer)?;
        let mut row = Noted::new(self.row(pid, &stat));
        let status = self.ids(&process, &mut row, buffer)?;
        let cgroups = self.control_group(&process, &mut row, buffer)?;
        // A zombie has no memory any more, and a kernel thread never had: neither
        // has arguments or an executable.
        let has_memory = stat.state != b'Z' && !stat.is_kernel_thread();
        if has_memory {
            self.program(&process, &mut row, buffer)?;
        }
        if self.options.pss && has_memory && row.value.state != "zombie" {
            let read = present(process.read_piece("smaps_rollup", buffer));
            let read = self.noted("/pss_bytes", read, &mut row)?.flatten();
            row.value.pss_bytes = read.and_then(|()| details::pss(buffer));
        }
        let before = Before { stat: &stat, status: status.as_ref(), cgroup: cgroups };
        self.depths(&process, &process, before, &mut row, buffer)?;
        let threads = if self.options.threads { self.threads(&process, &mut row, buffer)? } else { Vec::new() };
        Ok(Found { process: row, threads })
    }

    /// What `stat` tells.
    fn row(&self, pid: u32, stat: &Stat) -> Row {
        let us_per_tick = 1_000_000 / self.ticks_per_second.max(1);
        let started_us = stat.start_ticks.saturating_mul(us_per_tick);
        Row {
            pid,
            tid: None,
            ppid: stat.ppid,
            pgid: u32::try_from(stat.pgrp).unwrap_or(0),
            session: u32::try_from(stat.session).unwrap_or(0),
            tty: stat.terminal().map(|(major, minor)| Tty {
                device: format!("{major}:{minor}"),
                name: details::terminal_name(major, minor),
            }),
            depth: 0,
            uid: None,
            gid: None,
            state: parse::state_name(stat.state),
            nice: stat.nice,
            threads: stat.threads,
            cpu_user_us: stat.user_ticks.saturating_mul(us_per_tick),
            cpu_system_us: stat.system_ticks.saturating_mul(us_per_tick),
            rss_bytes: stat.rss_pages.saturating_mul(self.page_bytes),
            pss_bytes: None,
            io: None,
            change: None,
            start_time: clock::rfc3339_seconds(self.boot_s.saturating_add(started_us / 1_000_000)),
            start_ticks: stat.start_ticks,
            name: Text::from_bytes(&stat.name),
            args: Vec::new(),
            executable: None,
            executable_deleted: None,
            container_id: None,
            own: Some(pid) == self.own_pid,
            details: None,
        }
    }

    /// What only some looks want of a process or thread: I/O and details.
    fn depths(
        &self,
        process: &Process<'_>,
        place: &Directory<'_>,
        before: Before<'_>,
        row: &mut Noted<Row>,
        buffer: &mut Vec<u8>,
    ) -> Result<(), Failure> {
        if self.options.details || self.options.watch.looks().is_some() {
            match present(place.read_piece("io", buffer)) {
                Ok(read) => row.value.io = read.and_then(|()| details::io(buffer)),
                Err(failure) => unless_ended(self.run, "/io", failure, &mut row.gaps)?,
            }
        }
        if let Some(deeper) = &self.deeper {
            let details = deeper.of(process, place, before, buffer, &mut row.gaps)?;
            row.value.details = Some(Box::new(details));
        }
        Ok(())
    }

    /// The rows of its threads, by thread ID. One that ends meanwhile is left out.
    fn threads(
        &self,
        process: &Process<'_>,
        row: &mut Noted<Row>,
        buffer: &mut Vec<u8>,
    ) -> Result<Vec<Noted<Row>>, Failure> {
        let tids = match process.threads() {
            Ok(tids) => tids,
            Err(failure) => {
                // Those of a process that has ended are not missed.
                unless_ended(self.run, "/threads", failure, &mut row.gaps)?;
                return Ok(Vec::new());
            }
        };
        let mut rows = Vec::with_capacity(tids.len());
        for tid in tids {
            match self.thread(process, tid, &row.value, buffer) {
                Ok(thread) => rows.push(thread),
                Err(failure) if failure.is_exited() || failure.is_not_found() => {}
                Err(failure) if failure.is_refused() => {
                    row.gaps.push(self.run.gap("/threads", &failure));
                    break;
                }
                Err(failure) => row.gaps.push(self.run.gap("/threads", &failure)),
            }
        }
        Ok(rows)
    }

    fn thread(&self, process: &Process<'_>, tid: u32, of: &Row, buffer: &mut Vec<u8>) -> Result<Noted<Row>, Failure> {
        let place = process.thread(tid)?;
        place.read_piece("stat", buffer)?;
        let malformed = |words| place.failure("stat", Cause::Malformed(words));
        let stat = parse::stat(buffer).ok_or_else(|| malformed("not as proc_pid_stat(5) says"))?;
        let mut row = Noted::new(Row {
            tid: Some(tid),
            threads: 1,
            rss_bytes: of.rss_bytes,
            container_id: of.container_id.clone(),
            own: of.own,
            ..self.row(process.pid(), &stat)
        });
        let read = place.read_piece("status", buffer);
        let status = self.noted("/uid", read, &mut row)?.and_then(|()| parse::status(buffer));
        if let Some(status) = &status {
            (row.value.uid, row.value.gid) = (Some(status.uid.effective), Some(status.gid.effective));
        }
        let before = Before { stat: &stat, status: status.as_ref(), cgroup: None };
        self.depths(process, &place, before, &mut row, buffer)?;
        Ok(row)
    }

    /// What `status` tells.
    fn ids(
        &self,
        process: &Process<'_>,
        row: &mut Noted<Row>,
        buffer: &mut Vec<u8>,
    ) -> Result<Option<Status>, Failure> {
        let status = self.noted("/uid", process.status(buffer), row)?;
        if let Some(status) = &status {
            row.value.uid = Some(status.uid.effective);
            row.value.gid = Some(status.gid.effective);
            row.value.rss_bytes = status.rss_bytes.unwrap_or(row.value.rss_bytes);
        }
        Ok(status)
    }

    /// Which container it is in, and for --details its control groups.
    fn control_group(
        &self,
        process: &Process<'_>,
        row: &mut Noted<Row>,
        buffer: &mut Vec<u8>,
    ) -> Result<Option<Vec<Cgroup>>, Failure> {
        if self.noted("/container_id", process.read_piece("cgroup", buffer), row)?.is_some() {
            row.value.own |= self.own_cgroup.as_deref() == Some(buffer.as_slice());
            row.value.container_id = parse::container_id(buffer).map(Text::from);
            return Ok(self.options.details.then(|| details::cgroups(buffer)));
        }
        Ok(None)
    }

    /// Arguments and executable.
    fn program(&self, process: &Process<'_>, row: &mut Noted<Row>, buffer: &mut Vec<u8>) -> Result<(), Failure> {
        if let Some(whole) = self.noted("/args", process.read_head("cmdline", buffer, MOST_ARGS), row)? {
            row.value.args = arguments(buffer);
            if !whole {
                let too_large = process.failure("cmdline", Cause::TooLarge(MOST_ARGS));
                row.gaps.push(self.run.gap("/args", &too_large));
            }
        }
        match process.link("exe") {
            Ok(path) => {
                let deleted = path.strip_suffix(b" (deleted)").filter(|_| !is_its_name(process, &path));
                row.value.executable_deleted = Some(deleted.is_some());
                row.value.executable = Some(Text::from_bytes(deleted.unwrap_or(&path)));
            }
            Err(failure) => {
                // Has it lost its memory since we began? Who may not look at the link
                // is told by the arguments, which went with it.
                if failure.is_not_found() || (failure.is_denied() && row.value.args.is_empty()) {
                    let now = process.stat(buffer)?;
                    if now.state == b'Z' || now.is_exiting() {
                        row.value.state = parse::state_name(now.state);
                        row.value.args.clear();
                        return Ok(());
                    }
                }
                if !failure.is_not_found() {
                    self.noted("/executable", Err::<(), _>(failure), row)?;
                }
            }
        }
        Ok(())
    }

    /// What was read, or a gap at `at` if that failed; the failure itself when the
    /// process has ended.
    fn noted<T>(&self, at: &str, read: Result<T, Failure>, row: &mut Noted<Row>) -> Result<Option<T>, Failure> {
        match read {
            Ok(read) => Ok(Some(read)),
            Err(ended) if ended.is_exited() => Err(ended),
            Err(failure) => {
                row.gaps.push(self.run.gap(at, &failure));
                Ok(None)
            }
        }
    }
}

/// Whether the executable is to be found under `path`, which ends as the kernel
/// marks a deleted file, but may be its very name. A server is not asked.
fn is_its_name(process: &Process<'_>, path: &[u8]) -> bool {
    let mut text = Vec::new();
    if process.read("mountinfo", &mut text).is_err() {
        return false;
    }
    let mounts = parse::mounts(&text);
    parse::Mount::of(path, &mounts).is_some_and(|mount| !mount.may_hang())
        && process.attributes("exe").is_ok_and(|found| process.has_in_root(path, found.inode))
}

/// Whether who is in these control groups is in a container, and not in a session
/// of a login on the host, say, where others are who are not the agent's own. In a
/// control group namespace (whose inode is given) the name of the container does
/// not show.
fn is_container(cgroup: &[u8], namespace: Option<u64>) -> bool {
    /// The first one (PROC_CGROUP_INIT_INO in linux/proc_ns.h).
    const INITIAL: u64 = 0xEFFF_FFFB;
    parse::container_id(cgroup).is_some() || namespace.is_some_and(|inode| inode != INITIAL)
}

fn target_cgroup(run: &Run) -> Option<Vec<u8>> {
    let mut text = Vec::new();
    run.process(run.target()?.pid).ok()?.read_piece("cgroup", &mut text).ok()?;
    Some(text)
}

/// `cmdline`: each argument ends with a NUL byte, but for a process that has
/// rewritten them (setproctitle), which may end without.
fn arguments(bytes: &[u8]) -> Vec<Text> {
    if bytes.is_empty() {
        return Vec::new();
    }
    let bytes = bytes.strip_suffix(&[0]).unwrap_or(bytes);
    bytes.split(|b| *b == 0).map(Text::from_bytes).collect()
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
        name: Text::default(),
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

    #[test]
    fn only_a_container_is_the_agents_own() {
        let id = "0123456789abcdef".repeat(4);
        let docker = format!("0::/kubepods/pod7/{id}\n");
        assert!(is_container(docker.as_bytes(), Some(0xEFFF_FFFB)));
        assert!(is_container(b"0::/\n", Some(4_026_532_301)));
        assert!(!is_container(b"0::/user.slice/user-0.slice/session-1.scope\n", Some(0xEFFF_FFFB)));
        assert!(!is_container(b"4:memory:/\n0::/\n", None));
    }

    #[test]
    fn arguments_end_with_nul_or_without() {
        let args = |bytes: &[u8]| arguments(bytes).iter().map(|a| a.as_str().to_owned()).collect::<Vec<_>>();
        assert_eq!(args(b"sh\0-c\0\0x\n\0"), ["sh", "-c", "", "x\\x0a"]);
        assert_eq!(args(b"nginx: master process"), ["nginx: master process"]);
        assert_eq!(args(b"\0"), [""]);
        assert!(args(b"").is_empty());
    }
}
