//! How a command ended: its exit status, and the container's termination message.
//!
//! `kubectl debug` drops the exit status of the container, so the verdict is also
//! left where it stays with the pod.

use std::collections::BTreeMap;
use std::process::ExitCode;

use agent_model::data::was_refused;
use agent_model::{Gap, SessionInfo, Text};
use agent_output::Printed;
use agent_system::own::TerminationMessage;
use agent_system::{Command, Errno, Failure};
use serde::Serialize;

/// The exit statuses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Status {
    /// All was seen and printed.
    Complete = 0,
    /// No envelope was possible, or it could not be printed.
    Failed = 1,
    /// The command line was not understood.
    Usage = 2,
    /// Printed, and something was not seen.
    Gaps = 3,
    /// Refused by policy, or cut off by a limit.
    Refused = 4,
    /// There is no such target, or more than one.
    NoTarget = 5,
}

impl Status {
    /// The status of an envelope with these gaps.
    pub(crate) fn of(gaps: &[Gap], allow_gaps: bool) -> Self {
        match gaps {
            [] => Self::Complete,
            gaps if was_refused(gaps) => Self::Refused,
            _ if allow_gaps => Self::Complete,
            _ => Self::Gaps,
        }
    }
}

impl From<Status> for ExitCode {
    fn from(status: Status) -> Self {
        ExitCode::from(status as u8)
    }
}

/// The longest receipt, in bytes: the kubelet keeps 4096 of all containers of a pod together.
const LONGEST: usize = 400;

/// What the audit of a session comes to: whoever has the log can check it against this.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct AuditHead {
    /// How many records there are.
    pub(crate) count: u64,
    /// The hash of the last one, in hex.
    pub(crate) head: String,
    /// The public key that the first checkpoint is checked with, in hex.
    pub(crate) key: String,
}

/// What a receipt says of a chain.
pub(crate) fn head_of(head: agent_session::audit::Head) -> AuditHead {
    AuditHead { count: head.count, head: head.head, key: head.key }
}

/// The receipt: what is left with the pod in the container's termination message.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Receipt {
    session: Text,
    /// How many commands there were.
    commands: u64,
    /// How many of them ended with each exit status.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    verdicts: BTreeMap<u8, u64>,
    /// The last one.
    #[serde(skip_serializing_if = "Option::is_none")]
    command: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    exit: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    gaps: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    digest: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    audit: Option<AuditHead>,
}

impl Receipt {
    /// The receipt of a session in which nothing was done yet.
    pub(crate) fn new(session: &SessionInfo) -> Self {
        Self {
            session: session.id.clone(),
            commands: 0,
            verdicts: BTreeMap::new(),
            command: None,
            exit: None,
            gaps: None,
            digest: None,
            audit: None,
        }
    }

    /// Adds a command that has ended.
    pub(crate) fn add(&mut self, status: u8) {
        self.commands += 1;
        *self.verdicts.entry(status).or_default() += 1;
    }

    /// The session has ended, and this is what its audit comes to.
    pub(crate) fn ended(&mut self, status: u8, audit: AuditHead) {
        (self.exit, self.audit) = (Some(status), Some(audit));
    }

    /// Its JSON, of [`LONGEST`] bytes at the most: what can be found elsewhere goes first.
    pub(crate) fn message(mut self) -> Vec<u8> {
        let fits = |receipt: &Self| serde_json::to_vec(receipt).ok().filter(|bytes| bytes.len() <= LONGEST);
        if let Some(bytes) = fits(&self) {
            return bytes;
        }
        self.digest = None;
        if let Some(bytes) = fits(&self) {
            return bytes;
        }
        (self.command, self.exit, self.gaps) = (None, None, None);
        if let Some(bytes) = fits(&self) {
            return bytes;
        }
        self.verdicts.clear();
        fits(&self).unwrap_or_default()
    }
}

/// The container's termination message, open since before anything was looked at.
pub(crate) struct Verdict {
    receipt: Receipt,
    place: Option<TerminationMessage>,
    gap: Option<Gap>,
}

impl Verdict {
    pub(crate) fn new(session: &SessionInfo, command: &Command) -> Self {
        let mut receipt = Receipt::new(session);
        receipt.command = Some(command.name);
        let (place, gap) = match TerminationMessage::open() {
            Ok(place) => (place, None),
            Err(error) => {
                let errno = Errno::from_io_error(&error).unwrap_or(Errno::IO);
                let gap = Failure::new(TerminationMessage::PATH, errno).gap("");
                (None, Some(gap.detail("no receipt stays with the pod: the termination message cannot be written")))
            }
        };
        let mut cut_off = receipt.clone();
        cut_off.exit = Some(Status::Refused as u8);
        cut_off.add(Status::Refused as u8);
        if let Some(place) = &place {
            place.last_words(cut_off.message());
        }
        Self { receipt, place, gap }
    }

    /// That of a command in the session of a hold, which alone leaves a receipt.
    pub(crate) fn of_hold(session: &SessionInfo) -> Self {
        Self { receipt: Receipt::new(session), place: None, gap: None }
    }

    /// The gap where no receipt can be left.
    pub(crate) fn gap(&mut self) -> Option<Gap> {
        self.gap.take()
    }

    /// Takes what the envelope says.
    pub(crate) fn saw(&mut self, envelope: &Printed<'_>) {
        self.receipt.gaps = Some(envelope.gaps.len());
        self.receipt.digest = Some(envelope.digest.clone());
    }

    /// Leaves the receipt with the pod. `audit` is what the session's audit comes to.
    pub(crate) fn leave(mut self, status: Status, audit: Option<AuditHead>) {
        self.receipt.exit = Some(status as u8);
        self.receipt.add(status as u8);
        self.receipt.audit = audit;
        let Some(mut place) = self.place else { return };
        if let Err(error) = place.write(&self.receipt.message()) {
            agent_output::tell(&format!("the termination message could not be written: {error}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn receipt(session: &str) -> Receipt {
        let identity = agent_session::Identity::new(session).expect("a session");
        let session = agent_session::Session::open(identity, agent_session::Limits::default(), 0, false);
        let mut receipt = Receipt::new(session.info());
        receipt.audit = Some(AuditHead { count: 1 << 20, head: "f".repeat(64), key: "e".repeat(64) });
        receipt.digest = Some(format!("sha256:{}", "d".repeat(64)));
        (receipt.command, receipt.exit, receipt.gaps) = (Some("snapshot"), Some(3), Some(1_000_000));
        receipt
    }

    #[test]
    fn a_receipt_of_one_command_says_all_of_it() {
        let mut receipt = receipt("01M8C62NF4MPX26TMMS8CWT0PK");
        receipt.add(3);
        let value: serde_json::Value = serde_json::from_slice(&receipt.message()).expect("JSON");
        let keys: Vec<&str> = value.as_object().expect("an object").keys().map(String::as_str).collect();
        assert_eq!(keys, ["session", "commands", "verdicts", "command", "exit", "gaps", "digest", "audit"]);
        assert_eq!(value["verdicts"], serde_json::json!({"3": 1}));
    }

    #[test]
    fn no_receipt_is_longer_than_it_may_be_and_the_audit_is_always_in_it() {
        for session in ["s".to_owned(), "x".repeat(128), "é".repeat(64)] {
            let mut receipt = receipt(&session);
            for status in 0..=5 {
                receipt.verdicts.insert(status, 1_000);
            }
            let message = receipt.message();
            assert!((1..=LONGEST).contains(&message.len()), "{}", message.len());
            let value: serde_json::Value = serde_json::from_slice(&message).expect("JSON");
            assert_eq!(value["session"], session);
            assert_eq!(value["audit"]["head"], "f".repeat(64));
            assert_eq!(value["verdicts"]["5"], 1000);
        }
    }
}
