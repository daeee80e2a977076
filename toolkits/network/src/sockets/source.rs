//! Where the tables come from: sock_diag(7), or `/proc/PID/net`.

use std::collections::{BTreeMap, HashSet};
use std::ops::ControlFlow;

use agent_model::{Gap, Need, Reason};
use agent_system::sock_diag::SockDiag;
use agent_system::{Cause, Directory, Errno, Failure, Run, own};

use super::options::Options;
use super::socket::Socket;
use super::table::{self, UnixTable};
use super::words::{Family, Protocol};
use super::{about_rows, diag};

/// Whose sockets are looked at.
pub(crate) struct Place<'r> {
    /// The directory `net` in proc(5) that has its tables.
    pub(crate) net: Directory<'r>,
    /// Whether it is our own network namespace, which is the only one that
    /// sock_diag(7) tells of; `None` where that could not be told.
    pub(crate) is_own: Option<bool>,
    /// The inode of the namespace.
    pub(crate) namespace: Option<u64>,
    /// The inode of its file `net/tcp`: as good a mark of a namespace as its own
    /// inode, but readable whoever the process belongs to.
    pub(crate) mark: Option<u64>,
}

impl<'r> Place<'r> {
    /// The target's network namespace, or our own if there is no target.
    ///
    /// # Errors
    ///
    /// When the target has ended, or its `net` cannot be opened.
    pub(crate) fn find(run: &'r Run) -> Result<Self, Failure> {
        let root = run.proc();
        let ours = if run.is_live() { root.attributes("self/net/tcp").ok().map(|file| file.inode) } else { None };
        if run.target().is_none() {
            let net = if run.is_live() { root.directory("self/net") } else { root.directory("net") }?;
            let namespace = if run.is_live() { own::namespace("net") } else { None };
            return Ok(Self { net, is_own: run.is_live().then_some(true), namespace, mark: ours });
        }
        let process = run.target_process()?;
        let net = process.directory("net")?;
        if !run.is_live() {
            return Ok(Self { net, is_own: None, namespace: process.namespace("net").ok(), mark: None });
        }
        let theirs = process.attributes("net/tcp").ok().map(|file| file.inode);
        let mut namespace = process.namespace("net").ok();
        let by_mark = ours.zip(theirs).map(|(ours, theirs)| ours == theirs);
        let is_own = by_mark.or_else(|| namespace.zip(own::namespace("net")).map(|(a, b)| a == b));
        if is_own == Some(true) {
            namespace = namespace.or_else(|| own::namespace("net"));
        }
        Ok(Self { net, is_own, namespace, mark: theirs })
    }
}

/// The tables, as they are read.
pub(crate) struct Tables<'a, 'r> {
    run: &'r Run,
    place: &'a Place<'r>,
    options: &'a Options,
    /// The sockets that are asked for.
    pub(crate) rows: Vec<Socket>,
    /// What answered for each table.
    pub(crate) sources: BTreeMap<&'static str, &'static str>,
    /// What could not be seen.
    pub(crate) gaps: Vec<Gap>,
    /// The tables for which sock_diag(7) has failed, and how.
    refused: Vec<(Protocol, Failure)>,
    /// The inodes that no table has shown yet, where some are looked for.
    missing: Option<HashSet<u64>>,
}

/// The protocols of which sock_diag(7) knows more than proc(5).
const BY_DIAG: [Protocol; 6] =
    [Protocol::Tcp, Protocol::Mptcp, Protocol::Udp, Protocol::Udplite, Protocol::Unix, Protocol::Vsock];
/// The others.
const BY_FILES: [Protocol; 4] = [Protocol::Icmp, Protocol::Raw, Protocol::Packet, Protocol::Netlink];

/// What can be asked for tables.
struct Sources<'r> {
    /// The protocols that this kernel has (`net/protocols`); none where that cannot be read.
    known: Vec<Vec<u8>>,
    /// sock_diag(7), which tells of our own network namespace alone.
    diag: Option<Result<SockDiag<'r>, Failure>>,
}

impl<'r> Sources<'r> {
    fn of(tables: &Tables<'_, 'r>) -> Self {
        let mut known = Vec::new();
        let _ = tables.place.net.lines("protocols", |line| {
            known.extend(line.split(|b| *b == b' ').next().map(<[u8]>::to_vec));
            ControlFlow::Continue(())
        });
        let diag = (tables.place.is_own == Some(true)).then(|| SockDiag::open(tables.run));
        Self { known, diag }
    }

    fn knows(&self, name: &str) -> bool {
        self.known.iter().any(|known| known == name.as_bytes())
    }
}

impl<'a, 'r> Tables<'a, 'r> {
    pub(crate) fn new(run: &'r Run, place: &'a Place<'r>, options: &'a Options) -> Self {
        Self {
            run,
            place,
            options,
            rows: Vec::new(),
            sources: BTreeMap::new(),
            gaps: Vec::new(),
            refused: Vec::new(),
            missing: None,
        }
    }

    /// Reads all tables that are asked for.
    pub(crate) fn read(&mut self) {
        // First what proc(5) tells as well: the socket by which the rest is asked
        // for is not there yet, and the kernel need not load a module.
        for protocol in BY_FILES {
            if self.options.wants(protocol) {
                self.read_files(protocol);
            }
        }
        let mut sources = Sources::of(self);
        for protocol in BY_DIAG {
            if self.options.wants(protocol) {
                self.ask(protocol, &mut sources);
            }
        }
        self.explain();
    }

    /// Reads tables until all sockets with these inodes are found, and keeps no other.
    pub(crate) fn find(&mut self, wanted: HashSet<u64>) {
        self.missing = Some(wanted);
        let mut sources = Sources::of(self);
        // A connection of multipath TCP stands among those of TCP too, with the same inode.
        const LIKELY_FIRST: [Protocol; 6] =
            [Protocol::Unix, Protocol::Udp, Protocol::Mptcp, Protocol::Tcp, Protocol::Udplite, Protocol::Vsock];
        for protocol in LIKELY_FIRST {
            if self.is_missing_any() {
                self.ask(protocol, &mut sources);
            }
        }
        for protocol in BY_FILES {
            if self.is_missing_any() {
                self.read_files(protocol);
            }
        }
        self.explain();
    }

    fn is_missing_any(&self) -> bool {
        self.missing.as_ref().is_none_or(|missing| !missing.is_empty())
    }

    /// Reads the table of one of the protocols that sock_diag(7) knows, if this kernel has it.
    fn ask(&mut self, protocol: Protocol, sources: &mut Sources<'r>) {
        let is_known = match protocol {
            Protocol::Mptcp => sources.knows("MPTCP"),
            Protocol::Udplite => sources.knows("UDP-Lite"),
            Protocol::Vsock => sources.knows("AF_VSOCK"),
            _ => true,
        };
        if !is_known {
            return;
        }
        if protocol == Protocol::Vsock {
            return self.vsock(sources.diag.as_mut().and_then(|diag| diag.as_mut().ok()));
        }
        let result = match &mut sources.diag {
            Some(Ok(diag)) => self.ask_kernel(protocol, diag),
            Some(Err(failure)) => Err(failure.clone()),
            None => Err(Failure::new("sock_diag", Cause::Unsupported("of another network namespace"))),
        };
        if let Err(failure) = result {
            self.refused.push((protocol, failure));
            self.read_files(protocol);
        }
    }

    fn keep(rows: &mut Vec<Socket>, options: &Options, missing: &mut Option<HashSet<u64>>, socket: Option<Socket>) {
        if let Some(mut socket) = socket
            && options.keeps(&socket)
            && missing.as_mut().is_none_or(|missing| missing.remove(&socket.inode))
        {
            socket.depth = options.depth();
            rows.push(socket);
        }
    }

    /// Asks sock_diag(7) for a table.
    ///
    /// # Errors
    ///
    /// When it has nothing to say of this protocol. A dump that breaks off later is
    /// a gap.
    fn ask_kernel(&mut self, protocol: Protocol, diag: &mut SockDiag<'_>) -> Result<(), Failure> {
        let (options, states) = (self.options, self.options.states());
        let requests: Vec<Vec<u8>> = match protocol {
            Protocol::Unix => vec![diag::unix_request(states)],
            Protocol::Vsock => vec![diag::vsock_request(states)],
            _ => [Family::Ipv4, Family::Ipv6]
                .into_iter()
                .filter_map(|family| diag::inet_request(protocol, family, states, options.depth()))
                .collect(),
        };
        let before = self.rows.len();
        for (index, request) in requests.iter().enumerate() {
            let (rows, missing) = (&mut self.rows, &mut self.missing);
            let mut answers = 0_u64;
            let result = diag.dump(request, |answer| {
                answers += 1;
                let socket = match protocol {
                    Protocol::Unix => diag::unix_socket(options.depth(), answer),
                    Protocol::Vsock => diag::vsock_socket(answer),
                    _ => diag::inet_socket(protocol, options.depth(), answer),
                };
                Self::keep(rows, options, missing, socket);
            });
            match result {
                Ok(dumped) if dumped.interrupted => {
                    let detail = format!("{} sockets changed while they were listed", protocol.name());
                    self.gaps.push(about_rows(Reason::Incomplete, detail).path("sock_diag"));
                }
                Ok(_) => {}
                // IPv6 is not there.
                Err(failure) if index > 0 && is_unknown(&failure) => {}
                Err(failure) if answers == 0 && self.rows.len() == before => return Err(failure),
                Err(failure) => {
                    let detail = format!("{} sockets are not all listed", protocol.name());
                    self.gaps.push(failure.gap("/rows").detail(detail));
                }
            }
        }
        self.sources.insert(protocol.name(), "sock_diag");
        Ok(())
    }

    fn vsock(&mut self, diag: Option<&mut SockDiag<'_>>) {
        let result = match diag {
            Some(diag) => self.ask_kernel(Protocol::Vsock, diag),
            None => Err(Failure::new("sock_diag", Cause::Unsupported("proc(5) has no table of vsock"))),
        };
        if let Err(failure) = result {
            self.sources.insert(Protocol::Vsock.name(), "unavailable");
            // Nearly no kernel has its diagnostics, nearly no pod such sockets: that is
            // a gap only for those who ask.
            if !self.options.protocol.is_empty() || !is_unknown(&failure) {
                self.gaps.push(failure.gap("/rows").detail("vsock sockets are shown nowhere else"));
            }
        }
    }

    /// Reads a table of proc(5).
    fn read_files(&mut self, protocol: Protocol) {
        let files: &[&str] = match protocol {
            Protocol::Tcp => &["tcp", "tcp6"],
            Protocol::Udp => &["udp", "udp6"],
            Protocol::Udplite => &["udplite", "udplite6"],
            Protocol::Icmp => &["icmp", "icmp6"],
            Protocol::Raw => &["raw", "raw6"],
            Protocol::Unix => &["unix"],
            Protocol::Packet => &["packet"],
            Protocol::Netlink => &["netlink"],
            Protocol::Mptcp | Protocol::Vsock | Protocol::Other => &[],
        };
        let options = self.options;
        for file in files {
            let (rows, missing) = (&mut self.rows, &mut self.missing);
            let mut unix = UnixTable::default();
            let result = self.place.net.lines(file, |line| {
                let socket = match protocol {
                    Protocol::Unix => unix.line(line),
                    Protocol::Packet => table::packet_socket(line),
                    Protocol::Netlink => table::netlink_socket(line),
                    _ => table::inet_socket(protocol, line),
                };
                Self::keep(rows, options, missing, socket);
                ControlFlow::Continue(())
            });
            Self::keep(rows, options, missing, unix.end());
            match result {
                Ok(()) => {
                    self.sources.insert(protocol.name(), "proc");
                }
                // A kernel without that protocol has no such file. A recorded tree that
                // lacks the main ones was not recorded whole.
                Err(failure) if failure.is_not_found() && (self.run.is_live() || !is_expected(file)) => {}
                Err(failure) => self.gaps.push(self.run.gap("/rows", &failure)),
            }
        }
    }

    /// Gaps for the tables that sock_diag(7) did not answer: one for a reason.
    fn explain(&mut self) {
        let mut groups: Vec<(Failure, Vec<&'static str>)> = Vec::new();
        for (protocol, failure) in std::mem::take(&mut self.refused) {
            let name = protocol.name();
            match groups.iter_mut().find(|(known, _)| known.to_string() == failure.to_string()) {
                Some((_, names)) => names.push(name),
                None => groups.push((failure, vec![name])),
            }
        }
        for (failure, names) in groups {
            let mut gap = failure.gap("/rows");
            gap.detail = Some(format!(
                "{}{} from {} instead, without what only sock_diag has: tcp_info, cookies, memory, limits of backlogs, \
                 peers and queues of unix sockets, multipath TCP",
                self.why(),
                names.join(", "),
                self.place.net.path(),
            ));
            if failure.is_denied() {
                gap.needs = vec![Need::Seccomp, Need::Lsm];
            }
            self.gaps.push(gap);
        }
    }

    fn why(&self) -> &'static str {
        match (self.run.is_live(), self.place.is_own) {
            (false, _) => "a recorded tree: ",
            (true, Some(false)) => "the target has another network namespace than the agent: ",
            (true, None) => "which network namespace the target has could not be told: ",
            (true, Some(true)) => "",
        }
    }
}

/// Whether the kernel lacks the diagnostics, or the protocol, or cannot be asked.
fn is_unknown(failure: &Failure) -> bool {
    matches!(failure.cause, Cause::Unsupported(_))
        || matches!(failure.errno(), Some(Errno::NOENT | Errno::OPNOTSUPP | Errno::AFNOSUPPORT | Errno::INVAL))
}

/// The tables that every recording has.
fn is_expected(file: &str) -> bool {
    matches!(file, "tcp" | "udp" | "unix")
}
