//! Which process owns the sockets of a flow: from the socket table, looked at
//! again and again while packets pass.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::Scope;

use agent_model::Gap;
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

/// A request for all sockets of a protocol and family, without attributes: `struct
/// inet_diag_req_v2` (sock_diag(7)).
fn request(family: u8, protocol: u8) -> Vec<u8> {
    let mut request = vec![family, protocol, 0, 0];
    request.extend(u32::MAX.to_ne_bytes());
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

/// The socket table, and who owns what is in it.
#[derive(Default)]
pub(crate) struct Table {
    local: Vec<IpAddr>,
    /// Connected sockets, by protocol, own place and peer.
    connected: HashMap<(u8, Place, Place), u64>,
    /// Those without a peer, by protocol and own place.
    bound: HashMap<(u8, Place), u64>,
    holders: Holders,
    owners: HashMap<u64, Arc<Owner>>,
    redactor: Option<Arc<Redactor>>,
    /// Why it could not be read, or not all of it.
    failure: Option<Failure>,
    /// How long reading took.
    cost_us: u64,
}

impl Table {
    /// Reads it.
    pub(crate) fn read(run: &Run) -> Self {
        let began_us = clock::boot_us();
        let interfaces = capture::interfaces(run).unwrap_or_default();
        let mut table = Self { redactor: Some(Arc::clone(run.session().redactor())), ..Self::default() };
        table.local.extend(interfaces.into_iter().flat_map(|interface| interface.addresses));
        table.failure = table.try_read(run).err();
        table.cost_us = clock::boot_us().saturating_sub(began_us);
        table
    }

    fn try_read(&mut self, run: &Run) -> Result<(), Failure> {
        let mut diag = SockDiag::open(run)?;
        for protocol in [6, 17] {
            for family in [AF_INET, AF_INET6] {
                diag.dump(&request(family, protocol), |answer| {
                    if let Some(socket) = socket(answer) {
                        self.add(protocol, socket);
                    }
                })?;
            }
        }
        let walk = Walk::new(run)?;
        walk.work();
        self.holders = walk.finish();
        Ok(())
    }

    fn add(&mut self, protocol: u8, socket: Socket) {
        // A connection that is over waits without an inode.
        if socket.inode == 0 {
            return;
        }
        if socket.peer.1 == 0 {
            self.bound.insert((protocol, socket.own), socket.inode);
        } else {
            self.connected.insert((protocol, socket.own, socket.peer), socket.inode);
        }
    }

    fn inode(&self, protocol: u8, own: Place, peer: Place) -> Option<u64> {
        if let Some(inode) = self.connected.get(&(protocol, own, peer)) {
            return Some(*inode);
        }
        // Somebody else's port is no business of a socket here.
        if !self.local.contains(&own.0) && !own.0.is_loopback() {
            return None;
        }
        let any4 = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
        let any6 = IpAddr::V6(Ipv6Addr::UNSPECIFIED);
        let places = [(own.0, own.1), (any4, own.1), (any6, own.1)];
        places
            .into_iter()
            .filter(|place| place.0 != any4 || own.0.is_ipv4())
            .find_map(|place| self.bound.get(&(protocol, place)).copied())
    }

    /// Names the owners of a flow, as far as they are not known.
    fn name(&mut self, flow: &mut Flow) {
        let ends = flow.ends();
        for side in 0..2 {
            if flow.owners[side].is_some() {
                continue;
            }
            let Some(inode) = self.inode(flow.key.protocol, ends[side], ends[1 - side]) else { continue };
            if let Some(owner) = self.owners.get(&inode) {
                flow.owners[side] = Some(Arc::clone(owner));
                continue;
            }
            let Some(owners) = self.holders.of(inode) else { continue };
            let Some(first) = owners.iter().next() else { continue };
            let shown = match (first.name, &self.redactor) {
                (Some(name), Some(redactor)) => redactor.text(Class::Name, name.as_str()),
                _ => "?".into(),
            };
            let label = format!("{shown} (pid {})", first.pid);
            let owner = Arc::new(Owner { pid: first.pid, name: first.name.cloned(), label });
            self.owners.insert(inode, Arc::clone(&owner));
            flow.owners[side] = Some(owner);
        }
    }
}

/// The owners of flows. The table is read by another thread, so that packets need
/// not wait.
pub(crate) struct Sockets {
    table: Table,
    ask: Sender<()>,
    answer: Receiver<Table>,
    is_asked: bool,
    is_stale: bool,
    next_us: u64,
}

impl Sockets {
    /// Owners by `table`, which a thread of `scope` reads again when that is needed.
    pub(crate) fn new<'s>(scope: &'s Scope<'s, '_>, run: &'s Run, table: Table) -> Self {
        let (ask, asked) = channel();
        let (tell, answer) = channel();
        // It ends when the other end of either channel is gone.
        scope.spawn(move || {
            while asked.recv().is_ok() {
                if tell.send(Table::read(run)).is_err() {
                    break;
                }
            }
        });
        Self { table, ask, answer, is_asked: false, is_stale: false, next_us: 0 }
    }

    /// Gaps for the processes whose descriptors could not be read.
    pub(crate) fn gaps(&self, run: &Run) -> Vec<Gap> {
        let mut gaps = self.table.holders.gaps(run);
        gaps.extend(self.table.failure.iter().map(|failure| run.gap("/rows", failure)));
        gaps
    }

    /// Names the owners of a new flow, or notes that it has none that are known.
    pub(crate) fn name(&mut self, flow: &mut Flow) {
        self.table.name(flow);
        self.is_stale |= flow.owners.iter().all(Option::is_none);
    }

    /// Takes a table that was read meanwhile, or asks for one if that is worth it.
    pub(crate) fn refresh(&mut self, flows: &mut Flows) {
        if self.is_asked {
            if let Ok(table) = self.answer.try_recv() {
                self.take(table, flows);
            }
        } else if self.is_stale && clock::boot_us() >= self.next_us && self.ask.send(()).is_ok() {
            (self.is_asked, self.is_stale) = (true, false);
        }
    }

    /// Looks a last time, if there is anything to look for.
    pub(crate) fn finish(&mut self, flows: &mut Flows) {
        if self.is_asked
            && let Ok(table) = self.answer.recv()
        {
            self.take(table, flows);
        }
        if self.is_stale
            && self.ask.send(()).is_ok()
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
