//! Reading processes, one after the other.

use agent_model::{Noted, Text};
use agent_system::parse::{Stat, Status};
use agent_system::{Cause, Directory, Failure, Process, Run, clock, in_halves, own, parse};

use super::details::{Before, Cgroup, Deeper, present, unless_ended};
use super::row::{Row, Tty};
use super::{Options, details};

/// A process, and its threads if they were asked for.
pub(super) struct Found {
    pub(super) process: Noted<Row>,
    pub(super) threads: Vec<Noted<Row>>,
}

/// What every row needs, read once.
pub(super) struct Scan<'r> {
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
    pub(super) fn prepare(run: &'r Run, options: &Options) -> Result<Self, Failure> {
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
    pub(super) fn all(&self, pids: &[u32]) -> (Vec<Found>, Vec<Failure>) {
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

#[cfg(test)]
mod tests {
    use super::*;

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
