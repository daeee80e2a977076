//! Which process owns the sockets of a flow: from the socket table, looked at
//! again and again while packets pass.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{Builder, Scope};

use agent_model::{Gap, Reason};
use agent_session::redact::{Class, Redactor};
use agent_system::sock_diag::SockDiag;
use agent_system::{Failure, Run, capture, clock};

use super::data::Owner;
use super::flows::{Flow, Flows, Place};
use crate::sockets::owners::{Holders, Walk};

/// The table is read again no sooner than this.
const LEAST_PAUSE_US: u64 = 100_000;
/// And not so often that it takes more than one part in this many of the time.
const SHARE: u64 = 20;

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// States of connections that nobody holds any more, or yet: TCP_TIME_WAIT and TCP_NEW_SYN_RECV
/// (include/net/tcp_states.h). A busy server has thousands.
const WITHOUT_OWNER: u32 = 1 << 6 | 1 << 12;

/// A request for the sockets of a protocol and family that may be held, without
/// attributes: `struct inet_diag_req_v2` (sock_diag(7)).
fn request(family: u8, protocol: u8) -> Vec<u8> {
    let mut request = vec![family, protocol, 0, 0];
    request.extend((!WITHOUT_OWNER).to_ne_bytes());
    // struct inet_diag_sockid: any.
    request.resize(56, 0);
    request
}

/// A socket, as far as it has to do with packets.
#[derive(Debug, PartialEq, Eq)]
struct Socket {
    own: Place,
    peer: Place,
    inode: u64,
}

/// The socket in `answer`: `struct inet_diag_msg`.
fn socket(answer: &[u8]) -> Option<Socket> {
    let head = answer.get(..72)?;
    let place = |port: usize, at: usize| -> Option<Place> {
        let port = u16::from_be_bytes(head.get(port..port + 2)?.try_into().ok()?);
        let address = match head[0] {
            AF_INET => IpAddr::V4(Ipv4Addr::from(<[u8; 4]>::try_from(head.get(at..at + 4)?).ok()?)),
            AF_INET6 => IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(head.get(at..at + 16)?).ok()?)).to_canonical(),
            _ => return None,
        };
        Some((address, port))
    };
    let inode = u32::from_ne_bytes(head.get(68..72)?.try_into().ok()?);
    Some(Socket { own: place(4, 8)?, peer: place(6, 24)?, inode: inode.into() })
}

/// Both ends of a flow whose owners are looked for, and its protocol.
type Wanted = (u8, [Place; 2]);

/// The sockets of one protocol and family.
#[derive(Debug, Default)]
struct Sockets {
    /// Connected ones, by own place and peer.
    connected: HashMap<(Place, Place), u64>,
    /// Those without a peer, by own place.
    bound: HashMap<Place, u64>,
}

impl Sockets {
    fn read(run: &Run, protocol: u8, family: u8) -> Result<Self, Failure> {
        let mut sockets = Self::default();
        SockDiag::open(run)?.dump(&request(family, protocol), |answer| {
            if let Some(socket) = socket(answer) {
                sockets.add(socket);
            }
        })?;
        Ok(sockets)
    }

    fn add(&mut self, socket: Socket) {
        // A connection that is over, or not accepted yet, has no inode.
        if socket.inode == 0 {
            return;
        }
        if socket.peer.1 == 0 {
            self.bound.insert(socket.own, socket.inode);
        } else {
            self.connected.insert((socket.own, socket.peer), socket.inode);
        }
    }

    /// The socket without a peer that gets what is sent to `place`.
    fn bound(&self, place: Place) -> Option<u64> {
        let any4 = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
        let any6 = IpAddr::V6(Ipv6Addr::UNSPECIFIED);
        let anywhere = [any4, any6].into_iter().filter(|any| *any != any4 || place.0.is_ipv4());
        [place.0].into_iter().chain(anywhere).find_map(|address| self.bound.get(&(address, place.1)).copied())
    }
}

/// Whether sockets of this namespace may have this address.
fn is_here(address: IpAddr, local: &[IpAddr]) -> bool {
    address.is_loopback() || local.contains(&address)
}

/// Who holds sockets, and where sockets here may be.
#[derive(Debug, Default)]
struct World {
    local: Vec<IpAddr>,
    holders: Holders,
    /// Why not all descriptors could be read.
    failure: Option<Failure>,
}

impl World {
    fn read(run: &Run) -> Self {
        let interfaces = capture::interfaces(run).unwrap_or_default();
        let local = interfaces.into_iter().flat_map(|interface| interface.addresses).collect();
        match Walk::new(run) {
            Ok(walk) => {
                walk.work();
                Self { local, holders: walk.finish(), failure: None }
            }
            Err(failure) => Self { local, holders: Holders::default(), failure: Some(failure) },
        }
    }
}

/// The socket table, and who owns what is in it.
pub(crate) struct Table {
    /// As [`KINDS`]; shared with the thread that reads them again.
    sockets: [Arc<Sockets>; KINDS.len()],
    world: Arc<World>,
    owners: HashMap<u64, Arc<Owner>>,
    redactor: Arc<Redactor>,
    /// Why it could not be read, or not all of it.
    failure: Option<Failure>,
    /// How long reading took.
    cost_us: u64,
}

/// TCP and UDP, whose sockets have owners that can be told, and the families that each is asked for by.
const KINDS: [(u8, u8); 4] = [(6, AF_INET), (6, AF_INET6), (17, AF_INET), (17, AF_INET6)];

/// Whether a flow may belong to a socket of this kind: IPv4 also goes through sockets of IPv6.
fn is_of((protocol, family): (u8, u8), (wanted, ends): &Wanted) -> bool {
    protocol == *wanted && (family == AF_INET6 || ends[0].0.is_ipv4())
}

impl Table {
    /// Reads all of it.
    pub(crate) fn read(run: &Run) -> Self {
        let began_us = clock::boot_us();
        let mut table = Self {
            sockets: Default::default(),
            world: Arc::default(),
            owners: HashMap::new(),
            redactor: Arc::clone(run.session().redactor()),
            failure: None,
            cost_us: 0,
        };
        table.ask(run, |_| true);
        table.world = Arc::new(World::read(run));
        table.cost_us = clock::boot_us().saturating_sub(began_us);
        table
    }

    /// What has changed, as far as it is needed for the flows in `wanted`: the sockets that may be theirs, and who holds
    /// them only if one of these was not known before.
    fn again(&self, run: &Run, wanted: &[Wanted]) -> Self {
        let began_us = clock::boot_us();
        let mut table = self.bare();
        table.ask(run, |kind| wanted.iter().any(|wanted| is_of(kind, wanted)));
        let is_new = |inode| !table.world.holders.knows(inode);
        if wanted.iter().flat_map(|wanted| table.inodes(wanted)).flatten().any(is_new) {
            table.world = Arc::new(World::read(run));
        }
        table.cost_us = clock::boot_us().saturating_sub(began_us);
        table
    }

    /// What it says, without what was put together of it.
    fn bare(&self) -> Self {
        Self {
            sockets: self.sockets.clone(),
            world: Arc::clone(&self.world),
            owners: HashMap::new(),
            redactor: Arc::clone(&self.redactor),
            failure: None,
            cost_us: 0,
        }
    }

    /// Reads the sockets of the kinds that are needed; where that fails, the others are there all the same.
    fn ask(&mut self, run: &Run, is_needed: impl Fn((u8, u8)) -> bool) {
        for (sockets, kind) in self.sockets.iter_mut().zip(KINDS).filter(|(_, kind)| is_needed(*kind)) {
            match Sockets::read(run, kind.0, kind.1) {
                Ok(read) => *sockets = Arc::new(read),
                Err(failure) => self.failure = Some(failure),
            }
        }
    }

    /// The sockets at both ends of a flow.
    fn inodes(&self, wanted: &Wanted) -> [Option<u64>; 2] {
        let all = || KINDS.into_iter().zip(&self.sockets).filter(|(kind, _)| is_of(*kind, wanted)).map(|(_, all)| all);
        let ends = wanted.1;
        [0, 1].map(|side| {
            let (own, peer) = (ends[side], ends[1 - side]);
            let connected = all().find_map(|sockets| sockets.connected.get(&(own, peer)).copied());
            // Somebody else's port is no business of a socket here.
            let is_here = is_here(own.0, &self.world.local);
            connected.or_else(|| all().filter(|_| is_here).find_map(|sockets| sockets.bound(own)))
        })
    }

    /// Names the owners of a flow, as far as they are not known.
    fn name(&mut self, flow: &mut Flow) {
        let inodes = self.inodes(&(flow.key.protocol, flow.ends()));
        for (owner, inode) in flow.owners.iter_mut().zip(inodes) {
            let Some(inode) = inode.filter(|_| owner.is_none()) else { continue };
            *owner = self.owner(inode);
        }
    }

    fn owner(&mut self, inode: u64) -> Option<Arc<Owner>> {
        if let Some(owner) = self.owners.get(&inode) {
            return Some(Arc::clone(owner));
        }
        let owners = self.world.holders.of(inode)?;
        let first = owners.iter().next()?;
        let shown = first.name.map_or("?".into(), |name| self.redactor.text(Class::Name, name.as_str()));
        let label = format!("{shown} (pid {})", first.pid);
        let owner = Arc::new(Owner { pid: first.pid, name: first.name.cloned(), label });
        self.owners.insert(inode, Arc::clone(&owner));
        Some(owner)
    }
}

/// The most flows of which the thread is told: of more, all that there is may be new.
const MOST_WANTED: usize = 4096;

/// The owners of flows. The table is read by another thread, so that packets need
/// not wait.
pub(crate) struct Owners {
    table: Table,
    ask: Sender<Vec<Wanted>>,
    answer: Receiver<Table>,
    is_asked: bool,
    /// New flows whose owners the table does not know.
    wanted: Vec<Wanted>,
    next_us: u64,
    /// No thread could be had: the first table is the only one.
    is_alone: bool,
}

impl Owners {
    /// Owners by `table`, which a thread of `scope` reads again when that is needed.
    pub(crate) fn new<'s>(scope: &'s Scope<'s, '_>, run: &'s Run, table: Table) -> Self {
        let (ask, asked) = channel::<Vec<Wanted>>();
        let (tell, answer) = channel();
        let mut known = table.bare();
        // It ends when the other end of either channel is gone.
        let spawned = Builder::new().spawn_scoped(scope, move || {
            while let Ok(wanted) = asked.recv() {
                let table = known.again(run, &wanted);
                known = table.bare();
                if tell.send(table).is_err() {
                    break;
                }
            }
        });
        Self { table, ask, answer, is_asked: false, wanted: Vec::new(), next_us: 0, is_alone: spawned.is_err() }
    }

    /// Gaps for the processes whose descriptors could not be read.
    pub(crate) fn gaps(&self, run: &Run) -> Vec<Gap> {
        let mut gaps = self.table.world.holders.gaps(run);
        let failures = self.table.failure.iter().chain(&self.table.world.failure);
        gaps.extend(failures.map(|failure| run.gap("/rows", failure)));
        if self.is_alone {
            let detail = "no thread could be started to look for the owners of flows that came later";
            gaps.push(Gap::new("/rows", Reason::Unsupported).detail(detail));
        }
        gaps
    }

    /// Names the owners of a new flow, or notes that it has none that are known.
    pub(crate) fn name(&mut self, flow: &mut Flow) {
        if KINDS.iter().all(|(protocol, _)| *protocol != flow.key.protocol) {
            return;
        }
        self.table.name(flow);
        let ends = flow.ends();
        let is_unknown = |side: usize| flow.owners[side].is_none() && is_here(ends[side].0, &self.table.world.local);
        if (is_unknown(0) || is_unknown(1)) && self.wanted.len() < MOST_WANTED {
            self.wanted.push((flow.key.protocol, ends));
        }
    }

    /// Takes a table that was read meanwhile, or asks for one if that is worth it.
    pub(crate) fn refresh(&mut self, flows: &mut Flows) {
        if self.is_asked {
            if let Ok(table) = self.answer.try_recv() {
                self.take(table, flows);
            }
        } else if !self.wanted.is_empty() && clock::boot_us() >= self.next_us {
            self.is_asked = self.ask.send(std::mem::take(&mut self.wanted)).is_ok();
        }
    }

    /// Looks a last time, if there is anything to look for.
    pub(crate) fn finish(&mut self, flows: &mut Flows) {
        if self.is_asked
            && let Ok(table) = self.answer.recv()
        {
            self.take(table, flows);
        }
        if !self.wanted.is_empty()
            && self.ask.send(std::mem::take(&mut self.wanted)).is_ok()
            && let Ok(table) = self.answer.recv()
        {
            self.take(table, flows);
        }
    }

    fn take(&mut self, table: Table, flows: &mut Flows) {
        self.table = table;
        self.is_asked = false;
        self.next_us = clock::boot_us() + LEAST_PAUSE_US.max(self.table.cost_us * SHARE);
        for flow in flows.iter_mut().filter(|flow| flow.owners.iter().any(Option::is_none)) {
            self.table.name(flow);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_places_and_the_inode_of_a_socket() {
        let mut answer = vec![0; 72];
        answer[0] = AF_INET6;
        answer[4..8].copy_from_slice(&[0x15, 0x38, 0x9c, 0x40]);
        answer[18..24].copy_from_slice(&[0xff, 0xff, 127, 0, 0, 1]);
        answer[34..40].copy_from_slice(&[0xff, 0xff, 10, 0, 0, 9]);
        answer[68..72].copy_from_slice(&77_u32.to_ne_bytes());
        let address = |bytes: [u8; 4]| IpAddr::V4(Ipv4Addr::from(bytes));
        let own = (address([127, 0, 0, 1]), 5432);
        let peer = (address([10, 0, 0, 9]), 40000);
        assert_eq!(socket(&answer), Some(Socket { own, peer, inode: 77 }));
        for end in 0..answer.len() {
            assert_eq!(socket(&answer[..end]), None);
        }
    }
}
