//! `fds`: every descriptor of the target.

mod info;
mod peers;
mod shared;

use std::collections::{BTreeMap, HashMap};

use agent_model::{Gap, Gathered, Listing, Noted, Reason, Text, Wide};
use agent_network::sockets::{self, Socket};
use agent_system::parse::{self, Mount};
use agent_system::proc::{Attributes, FileType};
use agent_system::{Capability, Collector, Directory, Failure, Need, OpenFlags, Process, Run, in_halves};
use clap::Args;
use schemars::JsonSchema;
use serde::Serialize;

pub use info::Extra;
pub use peers::Peer;

/// The collector of descriptors.
pub struct Fds;

/// Options of `fds`.
#[derive(Debug, Clone, Default, Args, Serialize, JsonSchema)]
pub struct Options {
    /// Do not look up what the sockets are connected to
    #[arg(long)]
    no_sockets: bool,
    /// Also who holds the other end of each pipe and unix socket: a walk over the descriptors of all processes
    #[arg(long, conflicts_with = "no_sockets")]
    peers: bool,
    /// Also which descriptors are one open file description (dup, fork)
    #[arg(long)]
    shared: bool,
}

/// One descriptor.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[schemars(extend("x-key" = ["fd"], "x-alike" = ["type", "target"], "x-life" = [
    "inode", "position", "mount_id", "device", "socket", "peers", "description"
]))]
pub struct Row {
    /// Its number.
    #[schemars(extend("x-column" = "FD"))]
    pub fd: u32,
    /// What it is: `file`, `directory`, `socket`, `pipe`, `fifo`, `character_device`,
    /// `block_device`, `symlink`, `eventfd`, `epoll`, `inotify`, `fanotify`,
    /// `timerfd`, `signalfd`, `pidfd`, `memfd`, `io_uring`, `dma_buf`, `perf`, `bpf`,
    /// `namespace`, `anon_inode`; `unknown`, with a gap, where that could not be told.
    #[serde(rename = "type")]
    #[schemars(extend("x-column" = "TYPE"))]
    #[schemars(extend("x-class" = "word"))]
    pub kind: &'static str,
    /// How it was opened: `read`, `write`, `read_write`, or `path` (O_PATH).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-column" = "ACCESS"))]
    #[schemars(extend("x-class" = "word"))]
    pub access: Option<&'static str>,
    /// Flags of open(2) that are set, without the access mode, in lower case.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-column" = "FLAGS"))]
    pub flags: Option<OpenFlags>,
    /// File offset, in bytes; absent for types that have none.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-column" = "POSITION"))]
    pub position: Option<Wide>,
    /// Size of a file or a memfd, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-column" = "SIZE"))]
    pub size_bytes: Option<u64>,
    /// Inode number. That of an `anon_inode` type says nothing, and is left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub inode: Option<Wide>,
    /// What the kernel calls it: a path in the target's mount namespace,
    /// `socket:[INODE]`, `anon_inode:[NAME]`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-column" = "TARGET"))]
    #[schemars(extend("x-class" = "path"))]
    pub target: Option<Text>,
    /// Whether the file has no name any more, and will be gone when it is closed.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    #[schemars(extend("x-column" = "DELETED"))]
    pub deleted: bool,
    /// The device that it is, as `major:minor`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-class" = "id"))]
    pub device: Option<String>,
    /// The mount that it was opened through.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mount_id: Option<u64>,
    /// Where that is mounted; absent where it is not in the target's mount
    /// namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-class" = "path"))]
    pub mount_point: Option<Text>,
    /// The type of its file system.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-class" = "word"))]
    pub fs_type: Option<Text>,
    /// What only some types have.
    #[serde(flatten)]
    pub extra: Option<Box<Extra>>,
    /// A socket: protocol, addresses, state, queues, as in `sockets`. Absent where no
    /// table of the network namespace has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-column" = "SOCKET", "x-items" = ["protocol", "state", "local_address", "local_port", "remote_address", "remote_port", "path", "abstract_name"]))]
    pub socket: Option<Box<Socket>>,
    /// Who holds the other end of a pipe or of a unix socket, by pid and descriptor:
    /// with --peers, 64 at the most. Empty when nobody of this pid namespace but the
    /// agent does; absent where that could not be told.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-column" = "PEERS"))]
    pub peers: Option<Vec<Peer>>,
    /// How many more hold it.
    #[serde(skip_serializing_if = "is_zero")]
    pub more_peers: u64,
    /// With --shared, of a descriptor that is one open file description with others of
    /// this process (dup(2)): the lowest of them, itself included. They have one
    /// position and one set of flags.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-column" = "SAME AS"))]
    pub description: Option<u32>,
}

/// For what is left out when there is none.
fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// Totals over the descriptors.
#[derive(Debug, Clone, Default, Serialize, JsonSchema)]
pub struct Summary {
    /// How many there are.
    pub descriptors: u64,
    /// How many there are of each type.
    pub types: BTreeMap<&'static str, u64>,
    /// How many more the target may open: its soft limit (RLIMIT_NOFILE); absent
    /// where it could not be read, or is unlimited.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub soft_limit: Option<u64>,
    /// The limit up to which it may raise that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hard_limit: Option<u64>,
    /// Bytes on disk or in memory that only descriptors of deleted files still
    /// hold. A file that is open more than once is counted once.
    pub deleted_bytes: u64,
}

impl Collector for Fds {
    const NAME: &'static str = "fds";
    const ABOUT: &'static str = "Open descriptors: type, target, flags, position";
    const MANUAL: &'static str = "\
Rows come by number. A file on a network file system is not asked for its size: a dead
server could hang the agent. Where the descriptors may not be listed, what fdinfo
still tells is shown, and the rest is a gap.

  agent fds                                         the descriptors of PID 1
  agent fds --peers --shared                        who is at the other ends
  agent fds --name redis-server -o ndjson | jq 'select(.deleted)'";
    const CAPABILITIES: &'static [Capability] =
        &[Capability::SYS_PTRACE, Capability::DAC_READ_SEARCH, Capability::DAC_OVERRIDE];
    const NEEDS: &'static [Need] = &[Need::Descriptors, Need::SocketDiagnostics];
    type Options = Options;
    type Data = Listing<Row, Summary>;

    fn collect(run: &Run, options: &Options) -> Result<Gathered<Self::Data>, Failure> {
        let process = run.target_process()?;
        let (looker, ids, mut gaps) = Looker::open(run, &process)?;
        let mut rows = in_halves(&ids, WORTH_A_THREAD, |some| looker.some(some));
        if !options.no_sockets {
            join_sockets(run, &mut rows, &mut gaps);
        }
        if options.peers {
            peers::join(run, &mut rows, &mut gaps);
        }
        if options.shared {
            shared::join(run, &process, &mut rows, &mut gaps);
        }
        let limits = soft_and_hard(&process);
        if let Err(failure) = &limits {
            gaps.push(run.gap("/summary/soft_limit", failure));
        }
        Ok(Gathered::rows(rows, gaps, |rows| summarize(rows, limits.unwrap_or_default())))
    }
}

/// Says of each socket what it is connected to.
fn join_sockets(run: &Run, rows: &mut [Noted<Row>], gaps: &mut Vec<Gap>) {
    let is_socket = |row: &&mut Noted<Row>| row.value.kind == "socket";
    let mut wanted: HashMap<u64, u32> = HashMap::new();
    for inode in rows.iter_mut().filter(is_socket).filter_map(|row| row.value.inode) {
        *wanted.entry(inode.0).or_default() += 1;
    }
    if wanted.is_empty() {
        return;
    }
    match sockets::by_inode(run, wanted.keys().copied().collect()) {
        Ok((mut found, about_tables)) => {
            for row in rows.iter_mut().filter(is_socket) {
                let Some(inode) = row.value.inode else { continue };
                // The same socket may be open more than once.
                row.value.socket = match wanted.get_mut(&inode.0) {
                    Some(more @ 2..) => {
                        *more -= 1;
                        found.get(&inode.0).cloned()
                    }
                    _ => found.remove(&inode.0),
                };
            }
            gaps.extend(about_tables.into_iter().map(|gap| Gap { at: "/rows/-/socket".to_owned(), ..gap }));
        }
        Err(failure) => gaps.push(run.gap("/rows/-/socket", &failure)),
    }
}

/// Below this many descriptors a second thread costs more than it gives.
const WORTH_A_THREAD: usize = 512;

/// The attributes of files by mount and inode: one that leaks is open thousands of times.
type Seen = HashMap<(u64, u64), Attributes>;

/// What every row needs.
struct Looker<'a, 'r> {
    run: &'r Run,
    process: &'a Process<'r>,
    /// `/proc/PID/fd`, unless it was denied.
    links: Option<Directory<'r>>,
    infos: Result<Directory<'r>, Failure>,
    /// Of a recorded tree: what statx(2) said of each file (scripts/record).
    recorded: Option<Directory<'r>>,
    mounts: HashMap<u64, Mount>,
}

impl<'a, 'r> Looker<'a, 'r> {
    fn open(run: &'r Run, process: &'a Process<'r>) -> Result<(Self, Vec<u32>, Vec<Gap>), Failure> {
        let mut gaps = Vec::new();
        let mut text = Vec::new();
        let mounts = match process.read("mountinfo", &mut text) {
            Ok(()) => parse::mounts(&text).into_iter().map(|mount| (mount.id, mount)).collect(),
            Err(failure) => {
                gaps.push(run.gap("/rows/-/mount_point", &failure));
                HashMap::new()
            }
        };
        let infos = process.directory("fdinfo");
        let recorded = if run.is_live() { None } else { process.directory("fdstat").ok() };
        let listed = process.directory("fd").and_then(|links| links.ids().map(|ids| (links, ids)));
        match listed {
            Ok((links, ids)) => Ok((Self { run, process, links: Some(links), infos, recorded, mounts }, ids, gaps)),
            Err(denied) if denied.is_denied() => match infos.as_ref().map(Directory::ids) {
                Ok(Ok(ids)) => {
                    gaps.push(run.gap("/rows/-/target", &denied).detail("the rest is what fdinfo tells"));
                    Ok((Self { run, process, links: None, infos, recorded, mounts }, ids, gaps))
                }
                _ => {
                    gaps.push(run.gap("/rows", &denied));
                    Ok((Self { run, process, links: None, infos: Err(denied), recorded, mounts }, Vec::new(), gaps))
                }
            },
            Err(failure) => Err(failure),
        }
    }

    fn some(&self, ids: &[u32]) -> Vec<Noted<Row>> {
        let (mut buffer, mut seen) = (Vec::with_capacity(4096), Seen::new());
        ids.iter().filter_map(|fd| self.one(*fd, &mut buffer, &mut seen)).collect()
    }

    /// The row of `fd`; `None` if it was closed before anything could be read.
    fn one(&self, fd: u32, buffer: &mut Vec<u8>, seen: &mut Seen) -> Option<Noted<Row>> {
        let name = fd.to_string();
        let mut gaps = Vec::new();
        let link = match self.links.as_ref().map(|links| links.link(&name)) {
            Some(Ok(link)) => Some(link),
            Some(Err(failure)) if failure.is_not_found() => return None,
            Some(Err(failure)) => {
                gaps.push(self.run.gap("/target", &failure));
                None
            }
            None => None,
        };
        let told = match &self.infos {
            Ok(infos) => infos.read_piece(&name, buffer).map(|()| info::info(buffer)),
            Err(failure) => Err(failure.clone()),
        };
        let told = match told {
            Ok(told) => told,
            Err(failure) if failure.is_not_found() && link.is_none() => return None,
            Err(failure) => {
                gaps.push(self.run.gap("/flags", &failure));
                info::Info::default()
            }
        };
        let mount = told.mount_id.and_then(|id| self.mounts.get(&id));
        let mut row = Row {
            fd,
            kind: link.as_deref().map_or("unknown", kind_of_link),
            access: told.flags.map(access),
            flags: told.flags.map(OpenFlags),
            position: None,
            size_bytes: None,
            inode: told.inode.map(Wide),
            target: None,
            deleted: false,
            device: None,
            mount_id: told.mount_id,
            mount_point: mount.map(|mount| Text::from_bytes(&mount.point)),
            fs_type: mount.map(|mount| Text::from_bytes(&mount.fs_type)),
            extra: (told.extra != Extra::default()).then(|| Box::new(told.extra)),
            socket: None,
            peers: None,
            more_peers: 0,
            description: None,
        };
        let is_named = row.kind == "file" || row.kind == "memfd";
        let mut path = link.unwrap_or_default();
        if is_named {
            gaps.extend(self.attributes(&name, &path, mount, &mut row, seen));
            // A file may also be called so.
            if let Some(stripped) = path.strip_suffix(b" (deleted)")
                && (row.deleted || !self.is_there(&name, &path, &row))
            {
                row.deleted = row.kind != "memfd";
                path.truncate(stripped.len());
            }
        }
        if is_shared_inode(row.kind) {
            row.inode = None;
        }
        if is_named {
            row.position = told.position.map(Wide);
        }
        if self.links.is_some() && !path.is_empty() {
            row.target = Some(Text::from_bytes(&path));
        }
        Some(Noted { value: row, gaps })
    }

    /// Whether the file is still in its directory under just this path.
    fn is_there(&self, name: &str, path: &[u8], row: &Row) -> bool {
        match self.recorded(name) {
            Some((_, is_there)) => is_there,
            None => row.inode.is_some_and(|inode| self.process.has_in_root(path, inode.0)),
        }
    }

    /// What was recorded of the file, and whether it was there under the path that its
    /// link says.
    fn recorded(&self, name: &str) -> Option<(Attributes, bool)> {
        let mut text = Vec::new();
        self.recorded.as_ref()?.read_piece(name, &mut text).ok()?;
        info::recorded(&text)
    }

    /// What only its inode tells: which kind of file it is, and its size.
    fn attributes(
        &self,
        name: &str,
        path: &[u8],
        mount: Option<&Mount>,
        row: &mut Row,
        seen: &mut Seen,
    ) -> Option<Gap> {
        let unasked = |what: &str| {
            let detail = format!("{what} was not asked about this file: a dead server could hang the agent");
            Some(Gap::new("/type", Reason::Unsupported).path(Text::from_bytes(path)).detail(detail))
        };
        match mount {
            Some(mount) if mount.may_hang() => {
                row.kind = "unknown";
                return unasked(&String::from_utf8_lossy(&mount.fs_type));
            }
            // A file of another mount namespace: of devices and memory we know.
            None if self.run.is_live() && !(path.starts_with(b"/dev/") || row.kind == "memfd") => {
                row.kind = "unknown";
                return unasked("a file system outside of the target's mount namespace");
            }
            _ => {}
        }
        let links = self.links.as_ref()?;
        if !self.run.is_live() {
            if let Some((found, _)) = self.recorded(name) {
                describe(&found, row);
                return None;
            }
            row.kind = "unknown";
            let detail = "the recorded tree does not tell which kind of file it is";
            return Some(Gap::new("/type", Reason::Unsupported).detail(detail));
        }
        let file = row.mount_id.zip(row.inode.map(|inode| inode.0));
        if let Some(found) = file.and_then(|file| seen.get(&file)) {
            describe(found, row);
            return None;
        }
        match links.attributes(name) {
            Ok(found) => {
                describe(&found, row);
                seen.extend(file.map(|file| (file, found)));
                None
            }
            Err(failure) => {
                row.kind = "unknown";
                Some(self.run.gap("/type", &failure))
            }
        }
    }
}

fn describe(found: &Attributes, row: &mut Row) {
    row.inode = Some(Wide(found.inode));
    let device = || Some(format!("{}:{}", found.special.0, found.special.1));
    match found.kind {
        FileType::RegularFile => {
            row.size_bytes = Some(found.size);
            row.deleted = found.links == 0 && row.kind != "memfd";
        }
        FileType::Directory => row.kind = "directory",
        FileType::Fifo => row.kind = "fifo",
        FileType::Socket => row.kind = "socket",
        FileType::Symlink => row.kind = "symlink",
        FileType::CharacterDevice => {
            row.kind = "character_device";
            row.device = device();
        }
        FileType::BlockDevice => {
            row.kind = "block_device";
            row.device = device();
        }
        _ => row.kind = "unknown",
    }
}

/// What a link of `/proc/PID/fd` says; `file` for every path.
fn kind_of_link(link: &[u8]) -> &'static str {
    if link.starts_with(b"/memfd:") {
        return "memfd";
    }
    if link.starts_with(b"/dmabuf:") {
        return "dma_buf";
    }
    if link.starts_with(b"/") {
        return "file";
    }
    let Some(colon) = link.iter().position(|b| *b == b':') else { return "unknown" };
    let (class, rest) = (&link[..colon], &link[colon + 1..]);
    match class {
        b"socket" => "socket",
        b"pipe" => "pipe",
        b"pidfd" => "pidfd",
        b"anon_inode" => match rest.strip_prefix(b"[").and_then(|r| r.strip_suffix(b"]")).unwrap_or(rest) {
            b"eventfd" => "eventfd",
            b"eventpoll" => "epoll",
            b"inotify" => "inotify",
            b"fanotify" => "fanotify",
            b"timerfd" => "timerfd",
            b"signalfd" => "signalfd",
            b"pidfd" => "pidfd",
            b"io_uring" => "io_uring",
            b"perf_event" => "perf",
            name if name.starts_with(b"bpf") => "bpf",
            _ => "anon_inode",
        },
        b"cgroup" | b"ipc" | b"mnt" | b"net" | b"pid" | b"time" | b"user" | b"uts" | b"pid_for_children"
        | b"time_for_children" => "namespace",
        _ => "unknown",
    }
}

/// Types whose descriptors all share one inode of the kernel.
fn is_shared_inode(kind: &str) -> bool {
    matches!(
        kind,
        "eventfd"
            | "epoll"
            | "inotify"
            | "fanotify"
            | "timerfd"
            | "signalfd"
            | "perf"
            | "bpf"
            | "anon_inode"
            | "io_uring"
    )
}

fn access(flags: u32) -> &'static str {
    const O_PATH: u32 = 0o10_000_000;
    match flags & 0o3 {
        _ if flags & O_PATH != 0 => "path",
        0 => "read",
        1 => "write",
        _ => "read_write",
    }
}

/// Soft and hard limit of descriptors; `None` is unlimited.
type SoftAndHard = (Option<u64>, Option<u64>);

/// The line `Max open files` of `/proc/PID/limits`.
fn soft_and_hard(process: &Process<'_>) -> Result<SoftAndHard, Failure> {
    let mut text = Vec::with_capacity(2048);
    process.read_piece("limits", &mut text)?;
    let line = text.split(|b| *b == b'\n').find_map(|line| line.strip_prefix(b"Max open files"));
    let mut numbers = line.unwrap_or_default().split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
    let mut next = || numbers.next().and_then(parse::number);
    Ok((next(), next()))
}

fn summarize(rows: &[Row], (soft_limit, hard_limit): SoftAndHard) -> Summary {
    let mut summary = Summary { descriptors: rows.len() as u64, soft_limit, hard_limit, ..Summary::default() };
    let mut deleted = BTreeMap::new();
    for row in rows {
        *summary.types.entry(row.kind).or_default() += 1;
        if row.deleted {
            deleted.insert((row.mount_id, row.inode), row.size_bytes.unwrap_or(0));
        }
    }
    summary.deleted_bytes = deleted.values().sum();
    summary
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_tell_the_type() {
        for (link, kind) in [
            ("/var/log/x", "file"),
            ("/memfd:name (deleted)", "memfd"),
            ("socket:[12]", "socket"),
            ("pipe:[12]", "pipe"),
            ("anon_inode:[eventpoll]", "epoll"),
            ("anon_inode:inotify", "inotify"),
            ("anon_inode:[bpf-prog]", "bpf"),
            ("anon_inode:bpf-map", "bpf"),
            ("anon_inode:[perf_event]", "perf"),
            ("anon_inode:[userfaultfd]", "anon_inode"),
            ("anon_inode:[pidfd]", "pidfd"),
            ("net:[4026531833]", "namespace"),
            ("/dmabuf:x", "dma_buf"),
            ("", "unknown"),
            ("something new", "unknown"),
        ] {
            assert_eq!(kind_of_link(link.as_bytes()), kind, "{link}");
        }
    }

    #[test]
    fn access_modes_are_words() {
        assert_eq!(
            [access(0), access(0o100_001), access(0o2), access(0o10_000_002)],
            ["read", "write", "read_write", "path"]
        );
    }
}
