//! How a command ended: its exit status, and the container's termination message.
//!
//! `kubectl debug` drops the exit status of the container, so the verdict is also
//! left where it stays with the pod.

use std::process::ExitCode;

use agent_model::data::was_refused;
use agent_model::{Gap, SessionInfo, Text};
use agent_output::Printed;
use agent_system::{Command, own};
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

/// The termination message.
#[derive(Serialize)]
pub(crate) struct Verdict {
    session: Text,
    command: &'static str,
    exit: u8,
    gaps: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    digest: Option<String>,
}

impl Verdict {
    pub(crate) fn new(session: &SessionInfo, command: &Command) -> Self {
        Self { session: session.id.clone(), command: command.name, exit: 0, gaps: 0, digest: None }
    }

    /// Takes what the envelope says.
    pub(crate) fn saw(&mut self, envelope: &Printed<'_>) {
        self.gaps = envelope.gaps.len();
        self.digest = Some(envelope.digest.clone());
    }

    /// Leaves the verdict with the pod.
    pub(crate) fn leave(mut self, status: Status) {
        self.exit = status as u8;
        let message = serde_json::to_vec(&self).unwrap_or_default();
        if let Err(error) = own::write_termination_message(&own::mounts(), &message) {
            agent_output::tell(&format!("the termination message could not be written: {error}"));
        }
    }
}
