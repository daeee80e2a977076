//! Who looks, until when, how much, and what may be shown.
//!
//! A [`Session`] stands between every collector and the world: before the system
//! crate touches anything it asks [`Session::permit`], and after it tells what it
//! cost. Whoever wants to add a limit, a policy or an audit trail adds it here;
//! no collector knows of it.
//!
//! This crate does no I/O and reads no clock: the time is handed in.

pub mod audit;
mod identity;
mod ledger;

pub use identity::{Identity, IdentityError};
pub use ledger::{Access, Accessed, Entry, Ledger, Spent};

use std::sync::Arc;

use agent_model::{Reason, SessionInfo};

/// How much a session may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// When it ends, in microseconds on the clock that [`Session::permit`] is
    /// given.
    pub deadline_us: u64,
}

/// Why the session refused an access.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The time of this command is over.
    #[error("the time limit of this command was reached")]
    Deadline,
}

impl Refusal {
    /// The reason that a gap gives for it.
    pub fn reason(&self) -> Reason {
        match self {
            Self::Deadline => Reason::LimitReached,
        }
    }

    /// What a person can do about it.
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::Deadline => "give it more time with --timeout",
        }
    }
}

/// One debug session: identity, limits, and what was done in it.
#[derive(Debug)]
pub struct Session {
    info: SessionInfo,
    limits: Limits,
    ledger: Arc<Ledger>,
}

impl Session {
    /// Opens a session. `keep_entries` keeps every access by name, for the access
    /// log; the counts are kept in any case.
    pub fn open(identity: Identity, limits: Limits, keep_entries: bool) -> Self {
        Self { info: identity.into_info(), limits, ledger: Arc::new(Ledger::new(keep_entries)) }
    }

    /// As an envelope carries it.
    pub fn info(&self) -> &SessionInfo {
        &self.info
    }

    /// Asks whether `path` may be touched now, and records that it was.
    ///
    /// `now_us` is read only when it is needed.
    ///
    /// # Errors
    ///
    /// When the session does not allow it: then it must not be done.
    pub fn permit(&self, access: Access, path: &dyn std::fmt::Display, now_us: u64) -> Result<(), Refusal> {
        if now_us >= self.limits.deadline_us {
            return Err(Refusal::Deadline);
        }
        self.ledger.record(access, path);
        Ok(())
    }

    /// True when the time of this command is over.
    pub fn is_over(&self, now_us: u64) -> bool {
        now_us >= self.limits.deadline_us
    }

    /// What was done so far.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// The same, for whoever needs it when the session is over.
    pub fn share_ledger(&self) -> Arc<Ledger> {
        Arc::clone(&self.ledger)
    }
}
