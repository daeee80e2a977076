//! Where a hold is found: its name and secret, in the termination message of its container.
//!
//! That file is this container's alone: the kubelet mounts it into no other, and who could reach it through
//! `/proc/PID/root` needs more rights than any of ours. It can be written where the root is read-only, and as
//! any user. Where the hold ends, its receipt takes the place; where it is killed, what is left says so, and
//! opens nothing any more.

use std::sync::OnceLock;

use agent_session::audit::{Head, hex};
use agent_system::own::{self, TerminationMessage};
use serde::{Deserialize, Serialize};

use super::wire::RANDOM;

/// The length of what is written: always the same, so that it can be written over.
const LENGTH: usize = 768;

/// A hold, as its container knows it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Place {
    /// The session.
    pub(super) session: String,
    /// The abstract name of its socket.
    pub(super) socket: String,
    /// What both know, in hex.
    pub(super) secret: String,
    /// Records of its audit so far.
    pub(super) count: u64,
    /// The hash of the last.
    pub(super) head: String,
}

/// The hold of the console that this process is, or is a copy of.
static HERE: OnceLock<Place> = OnceLock::new();

#[derive(Serialize, Deserialize)]
struct Written {
    hold: Place,
}

impl Place {
    /// A new place for the hold of `session`.
    pub(super) fn new(session: &str) -> Self {
        let random = || {
            let mut bytes = [0; RANDOM];
            own::random(&mut bytes);
            hex(&bytes)
        };
        let socket = format!("agent-{}", &random()[..32]);
        Self { session: session.to_owned(), socket, secret: random(), count: 0, head: String::new() }
    }

    /// From now on [`Place::read`] gives this one: that of the console that this process is, or is a copy of.
    pub(super) fn set_here(self) {
        let _ = HERE.set(self);
    }

    /// The hold that the termination message tells of, alive or not.
    pub(super) fn read() -> Option<Self> {
        if let Some(here) = HERE.get() {
            return Some(here.clone());
        }
        let bytes = TerminationMessage::read()?;
        let written: Written = serde_json::from_slice(bytes.trim_ascii_end()).ok()?;
        Some(written.hold)
    }

    /// How far its audit has come.
    pub(super) fn reached(&mut self, head: Head) {
        (self.count, self.head) = (head.count, head.head);
    }

    /// As it is written.
    pub(super) fn text(&self) -> Vec<u8> {
        let mut text = serde_json::to_vec(&Written { hold: self.clone() }).unwrap_or_default();
        text.resize(LENGTH - 1, b' ');
        text.push(b'\n');
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_as_long_as_any_other_and_no_two_are_alike() {
        let (mut one, other) = (Place::new(&"x".repeat(128)), Place::new("s"));
        one.reached(Head { count: 1 << 53, head: "f".repeat(64), key: String::new() });
        assert_eq!((one.text().len(), other.text().len()), (LENGTH, LENGTH));
        assert!(one.secret != other.secret && one.socket != other.socket);
        let read: Written = serde_json::from_slice(one.text().trim_ascii_end()).expect("JSON");
        assert_eq!(read.hold.head, one.head);
    }
}
