//! `sockets`: every socket of the target's network namespace.

mod bytes;
mod counters;
mod diag;
mod follow;
mod options;
pub(crate) mod owners;
#[cfg(all(test, target_endian = "little"))]
mod recorded;
mod row;
mod socket;
mod source;
mod table;
mod tcp;
mod words;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use agent_model::{Gap, Gathered, Listing, Reason, Wide};
use agent_system::collector::TargetUse;
use agent_system::{Capability, Collector, Failure, Need, Run};
use schemars::JsonSchema;
use serde::Serialize;

pub use counters::Counters;
pub use follow::{Follow, Followed};
pub use options::Options;
pub use owners::{Owner, Owners};
pub use row::{Memory, Row, Timer};
pub use socket::Socket;
pub use tcp::Tcp;
pub use words::{Family, Protocol, State};

use owners::{Holders, Walk};
use socket::Detail;
use source::{Place, Tables};

/// The collector of sockets.
pub struct Sockets;

/// Totals over the sockets listed, and where they come from.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(extend("x-life" = ["network_namespace"]))]
pub struct Summary {
    /// How many there are.
    pub sockets: u64,
    /// How many there are of each protocol, by state; those of protocols without
    /// states are `stateless`.
    pub protocols: BTreeMap<&'static str, BTreeMap<&'static str, u64>>,
    /// The network namespace, by its inode; absent where that could not be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub network_namespace: Option<Wide>,
    /// Whether that is the agent's own; absent where that could not be told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub own_namespace: Option<bool>,
    /// What answered for each table that was asked for: `sock_diag`, `proc`, or
    /// `unavailable` where this kernel knows the protocol and shows its sockets
    /// nowhere.
    #[schemars(extend("x-class" = "word"))]
    pub sources: BTreeMap<&'static str, &'static str>,
    /// Counters of the namespace; only with `--counters`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub counters: Option<Counters>,
    /// What was followed; only with `--follow`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub follow: Option<Follow>,
}

impl Collector for Sockets {
    const NAME: &'static str = "sockets";
    const ABOUT: &'static str = "Sockets of the network namespace: state, queues, TCP from inside, owners";
    const MANUAL: &'static str = "\
Rows come by protocol (tcp, mptcp, udp, udplite, icmp, raw, unix, packet, netlink,
vsock, other), family, local address and port, remote address and port (unix: name),
inode. `other` are sockets that a process holds and no table shows: a TCP socket that
was not bound yet, or another family.

Of a TCP connection it shows what tells at a glance how it is doing (round-trip time,
window, losses, rates); --info adds the rest of tcp_info and the memory of each socket.

The same state gives the same answer: what ticks although nothing happens (the time
until a timer goes off, the time since data came, the time that a connection was busy)
is left out unless --volatile is given, and so are the counters of the namespace
(--counters), which move with any traffic; what the kernel counts for all namespaces of
the machine together (orphans, memory) takes both.

The kernel is asked through sock_diag(7); where that is refused, or the target has
another network namespace, the tables of /proc/PID/net answer, which know less:
`summary.sources` says which, and a gap what is missing. Asking may make the kernel
load its modules tcp_diag, udp_diag and unix_diag, as ss(8) does.

  agent sockets                                who is connected to whom
  agent sockets --listening                    who waits for connections
  agent sockets --state close_wait,syn_sent    connections that hang
  agent sockets --follow --for 30s             connections that come and go meanwhile
  agent sockets --process 7 --protocol tcp -o ndjson | jq '.tcp.rtt_us'";
    const CAPABILITIES: &'static [Capability] =
        &[Capability::SYS_PTRACE, Capability::DAC_READ_SEARCH, Capability::DAC_OVERRIDE];
    const NEEDS: &'static [Need] = &[Need::Descriptors, Need::SocketDiagnostics, Need::Interrupts];
    const TARGET: TargetUse = TargetUse::Optional;
    type Options = Options;
    type Data = Listing<Socket, Summary>;

    fn lasts(options: &Options) -> Duration {
        if options.follow { Duration::from_micros(options.for_us) } else { Duration::ZERO }
    }

    fn collect(run: &Run, options: &Options) -> Result<Gathered<Self::Data>, Failure> {
        let place = Place::find(run)?;
        if options.follow {
            return followed(run, &place, options);
        }
        let walk = if options.no_owners { None } else { Some(Walk::new(run)) };
        let (walk, no_walk) = match walk.transpose() {
            Ok(walk) => (walk, None),
            Err(failure) => (None, Some(run.gap("/rows", &failure).detail("owners are not known"))),
        };
        let mut tables = Tables::new(run, &place, options);
        match &walk {
            Some(walk) => std::thread::scope(|scope| {
                // Where no thread may be had, all of the walk is ours.
                let _ = std::thread::Builder::new().spawn_scoped(scope, || walk.work());
                tables.read();
                walk.work();
            }),
            None => tables.read(),
        }
        let Tables { mut rows, sources, mut gaps, .. } = tables;
        gaps.extend(no_walk);
        if let Some(holders) = walk.map(Walk::finish) {
            join(&mut rows, &holders);
            if options.wants_others() {
                others(run, &place, &holders, &mut rows);
            }
            gaps.extend(holders.gaps(run));
        }
        if let Some(pid) = options.process {
            rows.retain(|row| row.owners.as_ref().is_some_and(|owners| owners.has(pid)));
            if let Err(failure) = run.process(pid) {
                gaps.push(run.gap("/rows", &failure));
            }
        }
        rows.sort_unstable_by(Socket::order);
        // A socket that moves from one list of the kernel's to another while it is
        // dumped comes twice.
        rows.dedup_by(|a, b| a.cookie != 0 && a.cookie == b.cookie && a.protocol == b.protocol);
        let mut summary = summarize(&rows, &place, sources);
        if options.counters {
            let (counters, failures) = Counters::read(&place.net);
            summary.counters = Some(if options.volatile { counters } else { counters.without_machine() });
            gaps.extend(failures.iter().map(|failure| run.gap("/summary/counters", failure)));
        }
        Ok(Gathered { data: Listing { rows, summary }, gaps })
    }
}

/// The sockets that came or went.
fn followed(run: &Run, place: &Place<'_>, options: &Options) -> Result<Gathered<Listing<Socket, Summary>>, Failure> {
    let mut gaps = Vec::new();
    let mut options = options.clone();
    if options.protocol.is_empty() {
        options.protocol = vec![Protocol::Tcp, Protocol::Mptcp, Protocol::Udp, Protocol::Udplite];
    }
    let (mut rows, follow) = follow::follow(run, place, &options, &mut gaps)?;
    if let Some(pid) = options.process {
        rows.retain(|row| row.owners.as_ref().is_some_and(|owners| owners.has(pid)));
    }
    rows.sort_unstable_by(Socket::order);
    let mut summary = summarize(&rows, place, BTreeMap::new());
    summary.follow = Some(follow);
    Ok(Gathered { data: Listing { rows, summary }, gaps })
}

/// The sockets of the target's network namespace whose inodes are `wanted`, by inode,
/// without their owners; and the gaps of the tables that were asked, whose places are
/// `/rows`. Descriptors are joined with it.
///
/// # Errors
///
/// When the network namespace cannot be looked at at all.
pub fn by_inode(run: &Run, wanted: HashSet<u64>) -> Result<(HashMap<u64, Box<Socket>>, Vec<Gap>), Failure> {
    let place = Place::find(run)?;
    let options = Options { no_owners: true, ..Options::default() };
    let mut tables = Tables::new(run, &place, &options);
    tables.find(wanted);
    Ok((tables.rows.into_iter().map(|row| (row.inode, Box::new(row))).collect(), tables.gaps))
}

/// Names the owners of each socket, and leaves out those that only the agent has.
fn join(rows: &mut Vec<Socket>, holders: &Holders) {
    rows.retain(|row| row.inode == 0 || !holders.is_own(row.inode));
    for row in rows {
        row.owners = holders.of(row.inode);
        if let Detail::Unix(unix) = &mut row.detail
            && unix.peer_inode != 0
        {
            unix.peer_owners = holders.of(unix.peer_inode.into());
        }
    }
}

/// Adds the sockets that a process of this network namespace holds, and no table
/// shows.
fn others(run: &Run, place: &Place<'_>, holders: &Holders, rows: &mut Vec<Socket>) {
    let mut known: Vec<u64> = rows.iter().map(|row| row.inode).collect();
    known.sort_unstable();
    let mut is_here = HashMap::new();
    for (inode, owner) in holders.each().filter(|(inode, _)| known.binary_search(inode).is_err()) {
        let Ok(process) = run.process(owner.pid) else { continue };
        let here = *is_here.entry(owner.pid).or_insert_with(|| {
            !run.is_live() || process.attributes("net/tcp").is_ok_and(|file| Some(file.inode) == place.mark)
        });
        if !here {
            continue;
        }
        let mut socket = Socket::new(Protocol::Other, None);
        socket.inode = inode;
        socket.owners = holders.of(inode);
        let name = process.socket_protocol(owner.fd).ok();
        socket.detail = Detail::Other(name.as_deref().and_then(tcp::Name::new).map(Box::new));
        rows.push(socket);
    }
}

fn summarize(rows: &[Socket], place: &Place<'_>, sources: BTreeMap<&'static str, &'static str>) -> Summary {
    let mut protocols: BTreeMap<&'static str, BTreeMap<&'static str, u64>> = BTreeMap::new();
    for same in rows.chunk_by(|a, b| a.protocol == b.protocol) {
        let states = protocols.entry(same[0].protocol.name()).or_default();
        for row in same {
            *states.entry(row.state.map_or("stateless", State::name)).or_default() += 1;
        }
    }
    Summary {
        sockets: rows.len() as u64,
        protocols,
        network_namespace: place.namespace.map(Wide),
        own_namespace: place.is_own,
        sources,
        counters: None,
        follow: None,
    }
}

/// A gap about all rows.
fn about_rows(reason: Reason, detail: impl Into<String>) -> Gap {
    Gap::new("/rows", reason).detail(detail)
}
