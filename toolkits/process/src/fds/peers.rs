//! `fds --peers`: who holds the other end of a pipe or of a unix socket.

use std::collections::{HashMap, HashSet};

use agent_model::{Gap, Noted, Text};
use agent_system::{Failure, Process, Run, in_halves, own, parse};
use schemars::JsonSchema;
use serde::Serialize;

use super::{Row, access, info};

/// A descriptor at the other end.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, JsonSchema)]
pub struct Peer {
    /// The process.
    #[schemars(extend("x-column" = "PID"))]
    pub pid: u32,
    /// Its descriptor.
    #[schemars(extend("x-column" = "FD"))]
    pub fd: u32,
    /// Of a pipe: what it can do with it, as `access` of a row.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-class" = "word"))]
    pub access: Option<&'static str>,
    /// The process's name; absent if it has ended meanwhile.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-column" = "NAME"))]
    #[schemars(extend("x-class" = "name"))]
    pub name: Option<Text>,
}

/// Of one row, so many peers are listed.
const MOST_PEERS: usize = 64;

/// Below this many processes a second thread costs more than it gives.
const WORTH_A_THREAD: usize = 64;

/// What is looked for: inodes of pipes, and of sockets.
#[derive(Default)]
struct Wanted {
    pipes: HashSet<u64>,
    sockets: HashSet<u64>,
}

/// The other inode, or the same for a pipe, by which the peers of `row` are found.
fn key(row: &Row) -> Option<u64> {
    match row.kind {
        "pipe" => row.inode.map(|inode| inode.0),
        "socket" => row.socket.as_ref()?.peer_inode(),
        _ => None,
    }
}

/// Names the holders of the other ends, found in one walk over the descriptors of all
/// processes of the pid namespace but the agent.
pub(super) fn join(run: &Run, rows: &mut [Noted<Row>], gaps: &mut Vec<Gap>) {
    let mut wanted = Wanted::default();
    for row in rows.iter().map(|row| &row.value) {
        if let Some(inode) = key(row) {
            let set = if row.kind == "pipe" { &mut wanted.pipes } else { &mut wanted.sockets };
            set.insert(inode);
        }
    }
    if wanted.pipes.is_empty() && wanted.sockets.is_empty() {
        return;
    }
    let pids = match run.pids() {
        Ok(pids) => pids,
        Err(failure) => return gaps.push(run.gap("/rows/-/peers", &failure)),
    };
    let own = run.is_live().then(own::pid);
    let found = in_halves(&pids, WORTH_A_THREAD, |some| {
        some.iter().filter(|pid| Some(**pid) != own).map(|pid| held(run, *pid, &wanted)).collect()
    });
    let mut ends: HashMap<u64, Vec<Peer>> = HashMap::new();
    let mut unread: Vec<(Gap, u64)> = Vec::new();
    for of_one in found {
        match of_one {
            Ok(list) => list.into_iter().for_each(|(inode, peer)| ends.entry(inode).or_default().push(peer)),
            Err(failure) if failure.is_exited() => {}
            Err(failure) => {
                let gap = run.gap("/rows/-/peers", &failure);
                match unread.iter_mut().find(|(known, _)| (known.reason, &known.needs) == (gap.reason, &gap.needs)) {
                    Some((_, count)) => *count += 1,
                    None => unread.push((gap, 0)),
                }
            }
        }
    }
    let knows_all = unread.is_empty();
    gaps.extend(unread.into_iter().map(|(gap, more)| match more {
        0 => gap,
        more => gap.detail(format!("this and {more} more processes: what they hold is not named")),
    }));
    for row in rows.iter_mut().map(|row| &mut row.value) {
        let Some(inode) = key(row) else { continue };
        let all = ends.get(&inode).map(Vec::as_slice).unwrap_or_default();
        let mut others = all.iter().filter(|peer| row.kind == "socket" || is_other_end(row.access, peer.access));
        let peers: Vec<Peer> = others.by_ref().take(MOST_PEERS).cloned().collect();
        // Nobody, or one who cannot be seen.
        if knows_all || !peers.is_empty() {
            row.more_peers = others.count() as u64;
            row.peers = Some(peers);
        }
    }
}

/// Whether what one writes the other reads.
fn is_other_end(ours: Option<&str>, theirs: Option<&str>) -> bool {
    match (ours, theirs) {
        (Some("read"), Some(theirs)) => theirs != "read",
        (Some("write"), Some(theirs)) => theirs != "write",
        // One that can do both has both ends in itself, and one of which nothing is
        // known may be either.
        _ => true,
    }
}

/// The descriptors of `pid` that are wanted, by number.
fn held(run: &Run, pid: u32, wanted: &Wanted) -> Result<Vec<(u64, Peer)>, Failure> {
    let process = run.process(pid)?;
    let mut buffer = Vec::with_capacity(1024);
    let listed = process.directory("fd").and_then(|links| links.ids().map(|ids| (links, ids)));
    let (links, ids) = match listed {
        Ok(listed) => listed,
        Err(failure) if failure.is_exited() => return Err(failure),
        // Neither a zombie nor a kernel thread has descriptors to show.
        Err(failure) => match process.stat(&mut buffer) {
            Ok(stat) if stat.state == b'Z' || stat.is_kernel_thread() => return Ok(Vec::new()),
            _ => return Err(failure),
        },
    };
    let mut found = Vec::new();
    links.each_link(&ids, |fd, link| {
        let is_pipe = link.starts_with(b"pipe:[");
        if !is_pipe && !link.starts_with(b"socket:[") {
            return;
        }
        let set = if is_pipe { &wanted.pipes } else { &wanted.sockets };
        if let Some(inode) = parse::namespace_inode(link).filter(|inode| set.contains(inode)) {
            found.push((inode, fd, is_pipe));
        }
    })?;
    if found.is_empty() {
        return Ok(Vec::new());
    }
    let name = process.read_piece("comm", &mut buffer).ok();
    let name = name.map(|()| Text::from_bytes(buffer.strip_suffix(b"\n").unwrap_or(&buffer)));
    let peer = |(inode, fd, is_pipe): (u64, u32, bool)| {
        let access = if is_pipe { access_of(&process, fd, &mut buffer) } else { None };
        (inode, Peer { pid, fd, access, name: name.clone() })
    };
    Ok(found.into_iter().map(peer).collect())
}

fn access_of(process: &Process<'_>, fd: u32, buffer: &mut Vec<u8>) -> Option<&'static str> {
    process.read_piece(&format!("fdinfo/{fd}"), buffer).ok()?;
    info::info(buffer).flags.map(access)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_other_end_is_the_one_that_does_the_opposite() {
        assert!(is_other_end(Some("read"), Some("write")));
        assert!(is_other_end(Some("read"), Some("read_write")));
        assert!(!is_other_end(Some("read"), Some("read")));
        assert!(!is_other_end(Some("write"), Some("write")));
        assert!(is_other_end(None, Some("write")) && is_other_end(Some("write"), None));
    }
}
