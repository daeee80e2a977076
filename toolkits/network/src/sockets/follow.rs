//! `sockets --follow`: the connections that were opened and closed within a time.
//!
//! The tables are read again and again: nothing tells of a socket that comes or goes
//! without CAP_NET_ADMIN. A connection that was opened and closed between two looks
//! still shows, where this side closed it first, by its TIME_WAIT; one that the peer
//! closed first does not, which is why the looks are close together.

use std::collections::HashMap;
use std::time::Duration;

use agent_model::{Gap, Reason};
use agent_system::interrupt::{Interrupted, Interrupts};
use agent_system::{Failure, Run, clock};
use schemars::JsonSchema;
use serde::Serialize;

use super::options::Options;
use super::owners::Walk;
use super::socket::Socket;
use super::source::{Place, Tables};
use super::words::{Protocol, State};

/// The most sockets of which it is remembered that they were there.
const MOST: usize = 200_000;
/// The most states that are told of one.
const MOST_STATES: usize = 12;
/// Time that is left of the command's for the answer.
const RESERVE_US: u64 = 500_000;

/// What became of a socket while it was followed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Followed {
    /// `opened` (and still there at the end), `closed` (and there at the start), or
    /// `opened_and_closed`.
    #[schemars(extend("x-column" = "EVENT"))]
    #[schemars(extend("x-class" = "word"))]
    pub event: &'static str,
    /// When it was first seen, in microseconds after the start; absent if it was
    /// there at the start.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-column" = "OPENED"))]
    pub opened_us: Option<u64>,
    /// When it was first seen to be closed (gone, or in TIME_WAIT).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-column" = "CLOSED"))]
    pub closed_us: Option<u64>,
    /// The states in which it was seen, as they followed each other, 12 at the most.
    #[schemars(extend("x-column" = "STATES"))]
    #[schemars(extend("x-class" = "word"))]
    pub states: Vec<&'static str>,
}

/// What was followed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Follow {
    /// For how long, in microseconds.
    pub time_us: u64,
    /// How many times the tables were read.
    pub looks: u64,
    /// Why it ended: `time`, `timeout` (of the command), `signal`, `target_exited`.
    #[schemars(extend("x-class" = "word"))]
    pub ended: &'static str,
    /// Sockets that were not there at the start.
    pub opened: u64,
    /// Sockets that were closed.
    pub closed: u64,
    /// Sockets that were there at the start, and at the end.
    pub kept: u64,
}

/// One socket over time.
struct Track {
    socket: Socket,
    followed: Followed,
    last_look: u64,
    /// It was closed before the first look.
    is_past: bool,
}

/// What a socket is known by: of TCP its two ends, since the kernel gives it another
/// cookie in TIME_WAIT; of all else its cookie, or its inode.
#[derive(PartialEq, Eq, Hash)]
enum Key {
    Ends(Protocol, [u8; 16], u32, [u8; 16], u32),
    Number(Protocol, u64),
}

impl Key {
    fn of(socket: &Socket) -> Self {
        let number = if socket.cookie == 0 { socket.inode } else { socket.cookie };
        match socket.protocol {
            protocol @ (Protocol::Tcp | Protocol::Mptcp) if socket.remote_port != 0 => {
                Self::Ends(protocol, socket.local, socket.local_port, socket.remote, socket.remote_port)
            }
            protocol => Self::Number(protocol, number),
        }
    }
}

fn is_closed(state: Option<State>) -> bool {
    state == Some(State::TimeWait)
}

/// Looks until the time is over: the sockets that came or went, and what was followed.
///
/// # Errors
///
/// When signals cannot be waited for.
pub(super) fn follow(
    run: &Run,
    place: &Place<'_>,
    options: &Options,
    gaps: &mut Vec<Gap>,
) -> Result<(Vec<Socket>, Follow), Failure> {
    let mut interrupts = Interrupts::watch(run)?;
    let began_us = clock::boot_us();
    let until_us = began_us.saturating_add(options.for_us);
    let mut tracker = Tracker::default();
    let ended = loop {
        let at_us = clock::boot_us().saturating_sub(began_us);
        tracker.look(run, place, options, at_us, gaps);
        let now_us = clock::boot_us();
        if now_us >= until_us {
            break "time";
        }
        if run.session().ends_by(now_us.saturating_add(RESERVE_US)) || run.is_over() {
            gaps.push(Gap::new("/rows", Reason::LimitReached).detail("the time of the command was over before"));
            break "timeout";
        }
        let next_us = began_us + at_us + options.interval_us;
        match interrupts.pause(Duration::from_micros(next_us.min(until_us).saturating_sub(now_us))) {
            None => {}
            Some(Interrupted::Signal(_)) => break "signal",
            Some(Interrupted::TargetExited) => break "target_exited",
        }
    };
    let time_us = clock::boot_us().saturating_sub(began_us);
    if tracker.lost > 0 {
        let words = format!("{} more sockets came than can be remembered ({MOST})", tracker.lost);
        gaps.push(Gap::new("/rows", Reason::LimitReached).detail(words));
    }
    Ok(tracker.finish(time_us, ended))
}

#[derive(Default)]
struct Tracker {
    known: HashMap<Key, Track>,
    looks: u64,
    /// How many could not be remembered.
    lost: u64,
}

impl Tracker {
    fn look(&mut self, run: &Run, place: &Place<'_>, options: &Options, at_us: u64, gaps: &mut Vec<Gap>) {
        let mut tables = Tables::new(run, place, options);
        tables.read();
        let Tables { mut rows, gaps: unread, .. } = tables;
        let is_new = |row: &Socket| row.inode != 0 && !self.known.contains_key(&Key::of(row));
        let mut unseen = Vec::new();
        if !options.no_owners && rows.iter().any(is_new) {
            // The walk over all descriptors is what costs: only where somebody is new.
            match Walk::new(run) {
                Ok(walk) => {
                    walk.work();
                    let holders = walk.finish();
                    rows.retain(|row| row.inode == 0 || !holders.is_own(row.inode));
                    rows.iter_mut().for_each(|row| row.owners = holders.of(row.inode));
                    unseen = holders.gaps(run);
                }
                Err(failure) => unseen.push(run.gap("/rows", &failure).detail("owners are not known")),
            }
        }
        if self.looks == 0 {
            gaps.extend(unread);
            gaps.extend(unseen);
        }
        self.looks += 1;
        rows.into_iter().for_each(|row| self.see(row, at_us));
        self.close_missing(at_us);
    }

    fn see(&mut self, mut row: Socket, at_us: u64) {
        let (first, looks, count) = (self.looks == 1, self.looks, self.known.len());
        let state = row.state.map_or("stateless", State::name);
        // A connection between the same two ends as one that had gone before is a new one.
        if !is_closed(row.state) && self.known.get(&Key::of(&row)).is_some_and(|track| track.is_past) {
            self.known.remove(&Key::of(&row));
        }
        match self.known.entry(Key::of(&row)) {
            std::collections::hash_map::Entry::Occupied(mut known) => {
                let track = known.get_mut();
                track.last_look = looks;
                if track.followed.states.last() != Some(&state) && track.followed.states.len() < MOST_STATES {
                    track.followed.states.push(state);
                }
                if is_closed(row.state) {
                    track.followed.closed_us.get_or_insert(at_us);
                } else {
                    // What it was like while it lived, and whose: later looks may not walk.
                    row.owners =
                        row.owners.filter(|owners| owners.iter().next().is_some()).or(track.socket.owners.take());
                    track.socket = row;
                }
            }
            std::collections::hash_map::Entry::Vacant(_) if count >= MOST => self.lost += 1,
            std::collections::hash_map::Entry::Vacant(free) => {
                let closed_us = is_closed(row.state).then_some(at_us);
                let followed =
                    Followed { event: "", opened_us: (!first).then_some(at_us), closed_us, states: vec![state] };
                let is_past = first && is_closed(row.state);
                free.insert(Track { socket: row, followed, last_look: looks, is_past });
            }
        }
    }

    fn close_missing(&mut self, at_us: u64) {
        let looks = self.looks;
        for track in self.known.values_mut().filter(|track| track.last_look != looks) {
            track.followed.closed_us.get_or_insert(at_us);
        }
    }

    fn finish(self, time_us: u64, ended: &'static str) -> (Vec<Socket>, Follow) {
        let mut follow = Follow { time_us, looks: self.looks, ended, ..Follow::default() };
        let mut rows = Vec::new();
        let tracks = self.known.into_values().filter(|track| !track.is_past);
        for Track { mut socket, mut followed, .. } in tracks {
            follow.opened += u64::from(followed.opened_us.is_some());
            follow.closed += u64::from(followed.closed_us.is_some());
            followed.event = match (followed.opened_us, followed.closed_us) {
                (None, None) => {
                    follow.kept += 1;
                    continue;
                }
                (Some(_), None) => "opened",
                (None, Some(_)) => "closed",
                (Some(_), Some(_)) => "opened_and_closed",
            };
            socket.followed = Some(Box::new(followed));
            rows.push(socket);
        }
        (rows, follow)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(port: u32, state: State) -> Socket {
        let mut socket = Socket::new(Protocol::Tcp, None);
        (socket.local_port, socket.remote_port, socket.state) = (port, 80, Some(state));
        socket.inode = if state == State::TimeWait { 0 } else { u64::from(port) };
        socket
    }

    #[test]
    fn what_came_and_went_is_told_with_its_states() {
        let mut tracker = Tracker::default();
        let looks = [
            vec![tcp(1, State::Established), tcp(2, State::Established), tcp(9, State::TimeWait)],
            vec![tcp(1, State::Established), tcp(3, State::SynSent), tcp(2, State::CloseWait), tcp(9, State::TimeWait)],
            vec![tcp(1, State::Established), tcp(3, State::Established), tcp(4, State::TimeWait)],
            vec![
                tcp(1, State::Established),
                tcp(3, State::TimeWait),
                tcp(5, State::Established),
                tcp(9, State::Established),
            ],
        ];
        for (at, rows) in looks.into_iter().enumerate() {
            tracker.looks += 1;
            rows.into_iter().for_each(|row| tracker.see(row, at as u64));
            tracker.close_missing(at as u64);
        }
        let (mut rows, follow) = tracker.finish(3, "time");
        rows.sort_unstable_by(Socket::order);
        assert_eq!((follow.opened, follow.closed, follow.kept), (4, 3, 1));
        let told: Vec<_> = rows
            .iter()
            .map(|row| (row.local_port, row.followed.as_deref().expect("followed")))
            .map(|(port, one)| (port, one.event, one.opened_us, one.closed_us, one.states.join(" ")))
            .collect();
        assert_eq!(
            told,
            [
                (2, "closed", None, Some(2), "established close_wait".to_owned()),
                (3, "opened_and_closed", Some(1), Some(3), "syn_sent established time_wait".to_owned()),
                (4, "opened_and_closed", Some(2), Some(2), "time_wait".to_owned()),
                (5, "opened", Some(3), None, "established".to_owned()),
                (9, "opened", Some(3), None, "established".to_owned()),
            ]
        );
    }
}
