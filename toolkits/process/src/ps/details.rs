//! What `ps --details` adds: who a process is, where it is, and what it costs.
//!
//! Some ten more files and links of each process, which plain `ps` does not read.

use agent_model::{Gap, Hex, Text, Wide};
use agent_system::parse::{self, Ids, Stat, Status};
use agent_system::{Capabilities, Directory, Failure, Process, Run, own};
use schemars::JsonSchema;
use serde::Serialize;

use super::names::{Known, Names};

/// What `--details` tells of a process, or of a thread. What this kernel does not
/// have, or a zombie no more, is absent.
#[derive(Debug, Clone, Default, Serialize, JsonSchema)]
pub struct Details {
    /// User IDs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uids: Option<FourIds>,
    /// Group IDs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gids: Option<FourIds>,
    /// Supplementary groups, in the kernel's order.
    pub groups: Vec<Id>,
    /// Capabilities.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub capabilities: Option<CapabilitySets>,
    /// Whether execve(2) can grant no more privileges (PR_SET_NO_NEW_PRIVS).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-column" = "NO NEW PRIVS"))]
    pub no_new_privs: Option<bool>,
    /// Seccomp mode: `none`, `strict`, `filter`, `unknown`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-class" = "word"))]
    #[schemars(extend("x-column" = "SECCOMP"))]
    pub seccomp: Option<&'static str>,
    /// How many seccomp filters it has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seccomp_filters: Option<u32>,
    /// Whether others of its user may look into it (PR_SET_DUMPABLE), as far as the
    /// owner of its files tells; absent for a process of root, whose files are
    /// root's either way.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dumpable: Option<bool>,
    /// The process that traces it with ptrace(2); absent for none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tracer_pid: Option<u32>,
    /// Its ID in our pid namespace and in each one below it, outermost first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub nspid: Vec<u32>,
    /// Its namespaces, by kind; absent with a gap where they may not be looked at.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespaces: Option<Vec<Namespace>>,
    /// Its control groups, in the kernel's order; absent with a gap at
    /// `container_id` where they could not be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cgroups: Option<Vec<Cgroup>>,
    /// Working directory.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-class" = "path"))]
    #[schemars(extend("x-column" = "DIRECTORY"))]
    pub cwd: Option<Text>,
    /// Root directory.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-class" = "path"))]
    pub root: Option<Text>,
    /// The kernel function that it sleeps in; absent when it does not sleep, or may
    /// not be known.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-class" = "word"))]
    #[schemars(extend("x-column" = "WAIT CHANNEL"))]
    pub wait_channel: Option<Text>,
    /// Scheduling policy: `other`, `fifo`, `round_robin`, `batch`, `idle`,
    /// `deadline`, `ext`, `unknown`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-class" = "word"))]
    #[schemars(extend("x-column" = "POLICY"))]
    pub policy: Option<&'static str>,
    /// Priority as the kernel shows it: 20 plus the nice value, and below 0 for
    /// real-time policies.
    pub priority: i32,
    /// Real-time priority, from 1 to 99; absent for the other policies.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rt_priority: Option<u32>,
    /// Page faults that needed no reading from disk.
    pub minor_faults: u64,
    /// Page faults that did.
    #[schemars(extend("x-column" = "MAJOR FAULTS"))]
    pub major_faults: u64,
    /// How often it gave up the processor itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub voluntary_switches: Option<u64>,
    /// How often the processor was taken from it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-column" = "PREEMPTED"))]
    pub involuntary_switches: Option<u64>,
    /// Address space, in bytes.
    #[schemars(extend("x-column" = "VIRTUAL"))]
    pub virtual_bytes: u64,
    /// Largest resident set so far, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peak_rss_bytes: Option<u64>,
    /// Swapped out, in bytes; shared memory is not counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-column" = "SWAP"))]
    pub swap_bytes: Option<u64>,
    /// How the kernel ranks it when memory runs out: from 0 to about 2000, the
    /// highest is killed first.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-column" = "OOM"))]
    pub oom_score: Option<i64>,
    /// What is added to that: from -1000 (never killed) to 1000.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-column" = "OOM ADJ"))]
    pub oom_score_adj: Option<i64>,
}

/// The four IDs of a process (credentials(7)).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct FourIds {
    /// Real.
    pub real: Id,
    /// Effective.
    pub effective: Id,
    /// Saved.
    pub saved: Id,
    /// File system.
    pub fs: Id,
}

/// A user or a group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Id {
    /// Its number.
    pub id: u32,
    /// Its name in the process's own /etc/passwd or /etc/group; absent where that
    /// has none, and with --no-names.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-class" = "name"))]
    pub name: Option<Text>,
}

/// Sets of capabilities(7).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct CapabilitySets {
    /// Those that count.
    pub effective: CapabilitySet,
    /// Those that it may make effective.
    pub permitted: CapabilitySet,
    /// Those that may be kept over execve(2) of a file that has them as well.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub inheritable: Option<CapabilitySet>,
    /// Those that it can ever get.
    pub bounding: CapabilitySet,
    /// Those that are kept over execve(2).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ambient: Option<CapabilitySet>,
}

/// A set of capabilities.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct CapabilitySet {
    /// As the kernel's bits, also those of a later kernel, which have no name here.
    pub mask: Hex,
    /// By name, in the order of the bits.
    #[schemars(extend("x-class" = "word"))]
    pub names: Vec<&'static str>,
}

/// A namespace (namespaces(7)).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Namespace {
    /// `cgroup`, `ipc`, `mnt`, `net`, `pid`, `time`, `user`, `uts`.
    #[schemars(extend("x-class" = "word"))]
    pub kind: &'static str,
    /// Its inode number, which names it.
    pub inode: Wide,
    /// Whether the agent is in it; absent in a recorded tree.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ours: Option<bool>,
}

/// A control group (cgroups(7)).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Cgroup {
    /// The hierarchy's number; 0 for version 2.
    pub hierarchy: u32,
    /// Its controllers, and `name=…` for a hierarchy that has a name; empty for
    /// version 2.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-class" = "word"))]
    pub controllers: Vec<Text>,
    /// Its path, from the root of our cgroup namespace.
    #[schemars(extend("x-class" = "path"))]
    pub path: Text,
}

/// What a process has read and written (proc_pid_io(5)).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Io {
    /// Bytes that read(2) and the like gave it, from wherever.
    pub read_bytes: u64,
    /// Bytes that it gave to write(2) and the like.
    pub written_bytes: u64,
    /// How many system calls read.
    pub read_calls: u64,
    /// How many wrote.
    pub write_calls: u64,
    /// Bytes that were fetched from storage for it.
    #[schemars(extend("x-column" = "DISK READ"))]
    pub storage_read_bytes: u64,
    /// Bytes that it made go to storage.
    #[schemars(extend("x-column" = "DISK WRITTEN"))]
    pub storage_written_bytes: u64,
    /// Of these, bytes of files that were truncated before they went.
    pub cancelled_bytes: u64,
}

const KINDS: [&str; 8] = ["cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts"];

/// What every row with details needs.
pub(super) struct Deeper<'r> {
    run: &'r Run,
    /// Our own namespaces, in the order of [`KINDS`].
    own: [Option<u64>; 8],
    names: Option<Names>,
}

/// What was read of a process before.
pub(super) struct Before<'a> {
    pub(super) stat: &'a Stat,
    pub(super) status: Option<&'a Status>,
    pub(super) cgroup: Option<Vec<Cgroup>>,
}

impl<'r> Deeper<'r> {
    pub(super) fn prepare(run: &'r Run, with_names: bool) -> Self {
        let own = KINDS.map(|kind| own::namespace(kind).filter(|_| run.is_live()));
        Self { run, own, names: with_names.then(Names::default) }
    }

    /// Details of the process, or of its thread, that `place` is the directory of.
    /// Its gaps are relative to the row.
    ///
    /// # Errors
    ///
    /// When it has ended.
    pub(super) fn of(
        &self,
        process: &Process<'_>,
        place: &Directory<'_>,
        known: Before<'_>,
        buffer: &mut Vec<u8>,
        gaps: &mut Vec<Gap>,
    ) -> Result<Details, Failure> {
        let Before { stat, status, cgroup } = known;
        let mut details = Details {
            cgroups: cgroup,
            policy: stat.policy.map(parse::policy_name),
            priority: stat.priority,
            rt_priority: stat.rt_priority.filter(|priority| *priority > 0),
            minor_faults: stat.minor_faults,
            major_faults: stat.major_faults,
            virtual_bytes: stat.virtual_bytes,
            ..Details::default()
        };
        self.links(place, &mut details, gaps)?;
        if let Some(status) = status {
            let mount_namespace = details.namespace("mnt");
            let known = match (&self.names, mount_namespace) {
                (Some(names), Some(inode)) => names.of(self.run, process, inode, gaps),
                // A recorded tree has one container's files, if any.
                (Some(names), None) if !self.run.is_live() => names.of(self.run, process, 0, gaps),
                _ => Known::default(),
            };
            tell_status(&mut details, status, &known);
            let owner = place.owner("stat").ok().map(|(uid, _)| uid).filter(|_| self.run.is_live());
            details.dumpable = owner.and_then(|owner| dumpable(owner, status.uid.effective));
        }
        self.small_files(place, &mut details, buffer, gaps)?;
        Ok(details)
    }

    /// Working directory, root and namespaces: what ptrace(2)'s check lets us look at.
    fn links(&self, place: &Directory<'_>, details: &mut Details, gaps: &mut Vec<Gap>) -> Result<(), Failure> {
        let text = |path: Vec<u8>| Text::from_bytes(&path);
        details.cwd = match present(place.link("cwd")) {
            Ok(path) => path.map(text),
            Err(failure) if failure.is_denied() => {
                let words = "and root and namespaces, which the same check guards";
                gaps.push(self.run.gap("/details/cwd", &failure).detail(words));
                return Ok(());
            }
            Err(failure) => return self.unless_ended("/details/cwd", failure, gaps),
        };
        match present(place.link("root")) {
            Ok(path) => details.root = path.map(text),
            Err(failure) => self.unless_ended("/details/root", failure, gaps)?,
        }
        let mut found = Vec::with_capacity(KINDS.len());
        for (kind, own) in KINDS.iter().zip(self.own) {
            match present(place.link(&format!("ns/{kind}"))) {
                Ok(Some(link)) => found.extend(parse::namespace_inode(&link).map(|inode| Namespace {
                    kind,
                    inode: Wide(inode),
                    ours: own.map(|own| own == inode),
                })),
                Ok(None) => {}
                Err(failure) => return self.unless_ended("/details/namespaces", failure, gaps),
            }
        }
        // A zombie has left its namespaces.
        details.namespaces = Some(found).filter(|found| !found.is_empty());
        Ok(())
    }

    fn small_files(
        &self,
        place: &Directory<'_>,
        details: &mut Details,
        buffer: &mut Vec<u8>,
        gaps: &mut Vec<Gap>,
    ) -> Result<(), Failure> {
        match present(place.read_piece("wchan", buffer)) {
            // `0` stands for both: it does not sleep, and nobody may know.
            Ok(Some(())) if buffer.as_slice() != b"0" && !buffer.is_empty() => {
                details.wait_channel = Some(Text::from_bytes(buffer));
            }
            Ok(_) => {}
            Err(failure) => self.unless_ended("/details/wait_channel", failure, gaps)?,
        }
        for (file, at, value) in [
            ("oom_score", "/details/oom_score", &mut details.oom_score),
            ("oom_score_adj", "/details/oom_score_adj", &mut details.oom_score_adj),
        ] {
            match present(place.read_piece(file, buffer)) {
                Ok(found) => *value = found.and_then(|()| parse::number(buffer)),
                Err(failure) => self.unless_ended(at, failure, gaps)?,
            }
        }
        Ok(())
    }

    fn unless_ended(&self, at: &str, failure: Failure, gaps: &mut Vec<Gap>) -> Result<(), Failure> {
        unless_ended(self.run, at, failure, gaps)
    }
}

/// A gap at `at`; the failure itself when the process has ended.
pub(super) fn unless_ended(run: &Run, at: &str, failure: Failure, gaps: &mut Vec<Gap>) -> Result<(), Failure> {
    if failure.is_exited() {
        return Err(failure);
    }
    gaps.push(run.gap(at, &failure));
    Ok(())
}

/// What was read; `None` when this kernel has no such file, or a zombie or a kernel
/// thread has nothing to show there.
pub(super) fn present<T>(read: Result<T, Failure>) -> Result<Option<T>, Failure> {
    match read {
        Ok(read) => Ok(Some(read)),
        Err(failure) if failure.is_not_found() => Ok(None),
        // ESRCH of a process that is still there: it has no memory.
        Err(failure) if failure.errno() == Some(agent_system::Errno::SRCH) => Ok(None),
        Err(failure) => Err(failure),
    }
}

impl Details {
    /// The inode of one of its namespaces.
    fn namespace(&self, kind: &str) -> Option<u64> {
        self.namespaces.iter().flatten().find(|one| one.kind == kind).map(|one| one.inode.0)
    }
}

fn tell_status(details: &mut Details, status: &Status, known: &Known) {
    let user = |id| Id { id, name: known.user(id) };
    let group = |id| Id { id, name: known.group(id) };
    let four = |ids: Ids, of: &dyn Fn(u32) -> Id| FourIds {
        real: of(ids.real),
        effective: of(ids.effective),
        saved: of(ids.saved),
        fs: of(ids.fs),
    };
    let set = |set: Capabilities| CapabilitySet { mask: Hex(set.0), names: set.names() };
    details.uids = Some(four(status.uid, &user));
    details.gids = Some(four(status.gid, &group));
    details.groups = status.groups.iter().map(|id| group(*id)).collect();
    details.capabilities = Some(CapabilitySets {
        effective: set(status.effective),
        permitted: set(status.permitted),
        inheritable: status.inheritable.map(set),
        bounding: set(status.bounding),
        ambient: status.ambient.map(set),
    });
    details.no_new_privs = status.no_new_privs;
    details.seccomp = status.seccomp.map(seccomp_name);
    details.seccomp_filters = status.seccomp_filters;
    details.tracer_pid = status.tracer.filter(|tracer| *tracer != 0);
    details.nspid = status.nspid.clone();
    details.voluntary_switches = status.voluntary_switches;
    details.involuntary_switches = status.involuntary_switches;
    details.peak_rss_bytes = status.peak_rss_bytes;
    details.swap_bytes = status.swap_bytes;
}

/// The mode of seccomp(2) by its number in `status`.
fn seccomp_name(mode: u8) -> &'static str {
    match mode {
        0 => "none",
        1 => "strict",
        2 => "filter",
        _ => "unknown",
    }
}

/// The files of a process that is not dumpable are root's (proc(5)).
fn dumpable(owner: u32, effective: u32) -> Option<bool> {
    match (owner, effective) {
        (_, 0) => None,
        (owner, effective) if owner == effective => Some(true),
        (0, _) => Some(false),
        _ => None,
    }
}

/// `/proc/PID/cgroup`: hierarchy, controllers and path of each line.
pub(super) fn cgroups(bytes: &[u8]) -> Vec<Cgroup> {
    let line = |line: &[u8]| {
        let mut fields = line.splitn(3, |byte| *byte == b':');
        let (hierarchy, controllers, path) = (parse::number(fields.next()?)?, fields.next()?, fields.next()?);
        let names = controllers.split(|byte| *byte == b',').filter(|name| !name.is_empty());
        Some(Cgroup { hierarchy, controllers: names.map(Text::from_bytes).collect(), path: Text::from_bytes(path) })
    };
    bytes.split(|byte| *byte == b'\n').filter_map(line).collect()
}

/// Parses `io`; `None` when it has no `rchar`.
pub(super) fn io(bytes: &[u8]) -> Option<Io> {
    let mut io = Io::default();
    let mut has_any = false;
    for line in bytes.split(|byte| *byte == b'\n') {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else { continue };
        let Some(value) = parse::number(&line[colon + 1..]) else { continue };
        match &line[..colon] {
            b"rchar" => {
                has_any = true;
                io.read_bytes = value;
            }
            b"wchar" => io.written_bytes = value,
            b"syscr" => io.read_calls = value,
            b"syscw" => io.write_calls = value,
            b"read_bytes" => io.storage_read_bytes = value,
            b"write_bytes" => io.storage_written_bytes = value,
            b"cancelled_write_bytes" => io.cancelled_bytes = value,
            _ => {}
        }
    }
    has_any.then_some(io)
}

/// The `Pss:` line of `smaps_rollup`, in bytes.
pub(super) fn pss(bytes: &[u8]) -> Option<u64> {
    let line = bytes.split(|byte| *byte == b'\n').find_map(|line| line.strip_prefix(b"Pss:"))?;
    parse::leading(line)?.checked_mul(1024)
}

/// What a terminal of this number is called below /dev (Documentation/admin-guide/devices.txt).
pub(super) fn terminal_name(major: u32, minor: u32) -> Option<String> {
    match (major, minor) {
        (4, 0..=63) => Some(format!("tty{minor}")),
        (4, _) => Some(format!("ttyS{}", minor - 64)),
        (5, 0) => Some("tty".to_owned()),
        (5, 1) => Some("console".to_owned()),
        // Eight numbers of 256 terminals each before Linux 2.6, one of any since.
        (136..=143, _) => Some(format!("pts/{}", (major - 136) * 256 + minor)),
        (188, _) => Some(format!("ttyUSB{minor}")),
        (204, 64..=67) => Some(format!("ttyAMA{}", minor - 64)),
        (229, _) => Some(format!("hvc{minor}")),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn io_is_read_by_its_keys() {
        let text = b"rchar: 4292\nwchar: 7\nsyscr: 13\nsyscw: 1\nread_bytes: 8192\nwrite_bytes: 4096\n\
            cancelled_write_bytes: 2048\nfrom_a_later_kernel: 1\n";
        let found = io(text).expect("parses");
        assert_eq!((found.read_bytes, found.written_bytes, found.read_calls, found.write_calls), (4292, 7, 13, 1));
        assert_eq!((found.storage_read_bytes, found.storage_written_bytes, found.cancelled_bytes), (8192, 4096, 2048));
        assert_eq!(io(b""), None);
        assert_eq!(io(b"rchar: x\n\xff\n:\n"), None);
    }

    #[test]
    fn cgroups_of_both_versions_are_told_apart() {
        let found = cgroups(b"12:cpu,cpuacct:/a:b\n1:name=systemd:/\n0::/x\ngarbage\n7:\n");
        let shape: Vec<_> = found.iter().map(|one| (one.hierarchy, one.controllers.len(), one.path.as_str())).collect();
        assert_eq!(shape, [(12, 2, "/a:b"), (1, 1, "/"), (0, 0, "/x")]);
    }

    #[test]
    fn pss_is_the_line_of_that_name() {
        let text = b"55a-7ff ---p 00000000 00:00 0  [rollup]\nRss:  900 kB\nPss:   344 kB\nPss_Dirty: 8 kB\n";
        assert_eq!(pss(text), Some(344 * 1024));
        assert_eq!(pss(b"Rss: 1 kB\n"), None);
    }

    #[test]
    fn terminals_have_the_names_of_their_numbers() {
        let name = |major, minor| terminal_name(major, minor).unwrap_or_default();
        assert_eq!([name(136, 3), name(137, 3), name(4, 1), name(4, 64)], ["pts/3", "pts/259", "tty1", "ttyS0"]);
        assert_eq!(terminal_name(240, 0), None);
    }

    #[test]
    fn dumpable_is_told_only_where_the_owner_tells() {
        assert_eq!([dumpable(1000, 1000), dumpable(0, 1000)], [Some(true), Some(false)]);
        assert_eq!([dumpable(0, 0), dumpable(7, 1000)], [None, None]);
    }
}
