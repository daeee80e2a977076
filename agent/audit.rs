//! The audit of a command that runs alone: its records go to standard error, through a
//! [`Witness`].

use std::io::IsTerminal as _;
use std::sync::{Arc, Mutex, PoisonError};

use agent_model::data::was_refused;
use agent_model::{Gap, Reason, RedactionLevel, SessionInfo};
use agent_output::Printed;
use agent_session::audit::{At, Chain, Data, Head, Kind, Unrecorded, Witness};
use agent_session::redact::Redactor;
use agent_session::{Accessed, Ledger, Refusal};
use agent_system::allocator::{self, Last};
use agent_system::{clock, own};
use serde_json::{Value, json};

use crate::hold::Link;
use crate::verdict::{AuditHead, Status, head_of};
use crate::version::VERSION;

/// A chain of its own, written to standard error.
pub(crate) struct Lines {
    chain: Chain,
    /// Whether the lines are written: on a terminal they would drown what a person came for.
    is_written: bool,
    /// The lines so far, where somebody wants them.
    kept: Option<Kept>,
}

/// The lines of a chain so far, for a bundle.
pub(crate) type Kept = Arc<Mutex<Vec<u8>>>;

/// Now, as a record says it.
pub(crate) fn now() -> At {
    At { ts: clock::rfc3339(clock::wall_us()), mono_us: clock::boot_us() }
}

/// `value`, which is an object, as the data of a record.
pub(crate) fn data(value: Value) -> Data {
    match value {
        Value::Object(data) => data,
        _ => Data::new(),
    }
}

/// What the first record of a chain says.
fn opening(session: &SessionInfo, redaction: &str) -> Value {
    json!({
        "agent": VERSION,
        "actor": session.actor,
        "incident": session.incident,
        "pid": own::pid(),
        "redaction": redaction,
        "traceparent": session.traceparent,
    })
}

impl Lines {
    /// Opens the chain of a session of one command. `is_asked` writes it to a terminal too, `is_kept` keeps its lines for
    /// [`Lines::kept`].
    ///
    /// # Errors
    ///
    /// When its first record cannot be written.
    pub(crate) fn open(
        session: &SessionInfo,
        redaction: &str,
        (is_asked, is_kept): (bool, bool),
    ) -> Result<Self, Unrecorded> {
        let opening = opening(session, redaction);
        let (chain, lines) = Chain::open(session.id.as_str(), (b"", b""), data(opening), &now(), own::random);
        let is_written = is_asked || !std::io::stderr().is_terminal();
        let mut audit = Self { chain, is_written, kept: is_kept.then(Kept::default) };
        audit.write(&lines)?;
        Ok(audit)
    }

    /// A chain that is only kept: the command is number `action` in the session of a hold, or may not begin there.
    pub(crate) fn silent(session: &SessionInfo, redaction: &str, action: Option<u64>) -> Self {
        let mut opening = opening(session, redaction);
        opening["action_of_hold"] = action.into();
        let (chain, lines) = Chain::open(session.id.as_str(), (b"", b""), data(opening), &now(), own::random);
        Self { chain, is_written: false, kept: Some(Arc::new(Mutex::new(lines))) }
    }

    /// Ends the chain.
    ///
    /// # Errors
    ///
    /// When its last records cannot be written.
    pub(crate) fn close(&mut self, status: Status) -> Result<(), Unrecorded> {
        let lines = self.chain.close(data(json!({"actions": 1, "exit": status as u8})), &now());
        self.write(&lines)
    }

    /// The lines so far, where they are kept.
    pub(crate) fn kept(&self) -> Option<&Kept> {
        self.kept.as_ref()
    }

    fn write(&mut self, lines: &[u8]) -> Result<(), Unrecorded> {
        if let Some(kept) = &self.kept {
            kept.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(lines);
        }
        if !self.is_written {
            return Ok(());
        }
        agent_output::record(lines).map_err(|error| Unrecorded(error.to_string()))
    }
}

/// The audit of a command in the session of a hold: its records go there, and for a bundle also into a chain
/// of its own.
pub(crate) struct Joined {
    link: Link,
    own: Option<Lines>,
}

impl Joined {
    /// Records through `link`; `is_kept` as in [`Lines::open`].
    pub(crate) fn new(link: Link, session: &SessionInfo, redaction: &str, is_kept: bool) -> Self {
        let own = is_kept.then(|| Lines::silent(session, redaction, Some(link.action())));
        Self { link, own }
    }
}

impl Witness for Joined {
    fn record(&mut self, kind: Kind, data: Data) -> Result<(), Unrecorded> {
        if let Some(own) = &mut self.own {
            own.record(kind, data.clone())?;
        }
        self.link.record(kind, data)
    }

    fn head(&self) -> Option<Head> {
        self.own.as_ref().and_then(Witness::head)
    }

    fn last_words(&mut self, records: Vec<(Kind, Data)>) {
        self.link.last_words(records);
    }

    fn confined(&mut self) {
        self.link.confined();
    }
}

/// Where the records of one command go.
pub(crate) enum Audit {
    /// Into a chain of its own.
    Alone(Box<Lines>),
    /// To a hold.
    Held(Box<Joined>),
}

impl Audit {
    /// As a witness.
    pub(crate) fn witness(&mut self) -> &mut dyn Witness {
        match self {
            Self::Alone(lines) => &mut **lines,
            Self::Held(joined) => &mut **joined,
        }
    }

    /// Ends the chain of this command's own, if it has one.
    ///
    /// # Errors
    ///
    /// As [`Lines::close`].
    pub(crate) fn close(&mut self, status: Status) -> Result<(), Unrecorded> {
        match self {
            Self::Alone(lines) => lines.close(status),
            Self::Held(joined) => joined.own.as_mut().map_or(Ok(()), |own| own.close(status)),
        }
    }

    /// Records the bundle that was made in the session of a hold: the chain in it is its own, and leads back to the receipt
    /// of the hold by this record alone.
    ///
    /// # Errors
    ///
    /// When it cannot be recorded.
    pub(crate) fn bundled(&mut self, bundle: Value) -> Result<(), Unrecorded> {
        let head = self.head();
        let (Self::Held(joined), Some(head)) = (self, head) else { return Ok(()) };
        let mut added = data(bundle);
        added.insert("action".to_owned(), joined.link.action().into());
        let head = serde_json::to_value(head).map_err(|error| Unrecorded(error.to_string()))?;
        added.insert("audit".to_owned(), head);
        joined.link.record(Kind::ArtifactAdd, added)
    }

    /// As [`Lines::kept`].
    pub(crate) fn kept(&self) -> Option<&Kept> {
        match self {
            Self::Alone(lines) => lines.kept(),
            Self::Held(joined) => joined.own.as_ref().and_then(Lines::kept),
        }
    }

    /// What the chain of this command's own comes to.
    pub(crate) fn head(&self) -> Option<AuditHead> {
        match self {
            Self::Alone(lines) => lines.head().map(head_of),
            Self::Held(joined) => joined.head().map(head_of),
        }
    }
}

impl Witness for Lines {
    fn record(&mut self, kind: Kind, data: Data) -> Result<(), Unrecorded> {
        let lines = self.chain.append(kind, data, &now());
        self.write(&lines)
    }

    fn last_words(&mut self, records: Vec<(Kind, Data)>) {
        if !self.is_written {
            return;
        }
        let closing = data(json!({"actions": 1, "exit": Status::Refused as u8}));
        let lines = self.chain.last_words(records, closing, &now());
        allocator::last_words(Last::Records, agent_output::STDERR, vec![lines]);
    }

    fn head(&self) -> Option<Head> {
        Some(self.chain.head())
    }
}

/// One command in the audit: its intent first.
pub(crate) struct Action<'a> {
    witness: &'a mut dyn Witness,
    number: u64,
    envelopes: u64,
    gaps: usize,
    digest: Option<String>,
    /// What had been written before, in bytes: where a console performs the command, by that.
    written_before: u64,
    /// The first limit or refusal of each kind is recorded; how many there were, the envelope says.
    told: Vec<Reason>,
}

impl<'a> Action<'a> {
    /// Records that `command` is about to be performed, by whom, with what arguments, and what bundle of it is to be left.
    ///
    /// # Errors
    ///
    /// When it cannot be recorded: then it must not be performed.
    pub(crate) fn start(
        witness: &'a mut dyn Witness,
        number: u64,
        command: &str,
        (actor, argv, bundle): (Option<&str>, &[String], Option<&str>),
        redactor: &Redactor,
    ) -> Result<Self, Unrecorded> {
        if redactor.level() == RedactionLevel::Off {
            // An action of its own: a grant will say whether it is allowed.
            witness.record(Kind::AuthzAllow, data(json!({"action": number, "redaction": "off"})))?;
        }
        let mut intent = json!({"action": number, "command": command, "argv": argv});
        // In the session of a hold somebody else may look than who has opened it.
        if let Some(actor) = actor {
            intent["actor"] = actor.into();
        }
        // What it comes to is recorded when it is whole.
        if let Some(bundle) = bundle {
            intent["bundle"] = bundle.into();
        }
        witness.record(Kind::ActionStart, data(intent))?;
        let written_before = agent_output::written_bytes();
        let mut action =
            Self { witness, number, envelopes: 0, gaps: 0, digest: None, written_before, told: Vec::new() };
        action.get_ready();
        Ok(action)
    }

    /// Makes ready what is recorded if there is no memory left.
    fn get_ready(&mut self) {
        let detail = Refusal::Memory.to_string();
        let hit = json!({"action": self.number, "at": "", "limit": Refusal::Memory.limit(), "detail": detail});
        let end = json!({"action": self.number, "exit": Status::Refused as u8, "envelopes": self.envelopes + 1});
        self.witness.last_words(vec![(Kind::LimitHit, data(hit)), (Kind::ActionEnd, data(end))]);
    }

    /// Takes an envelope before it is printed: where a limit or a rule cut it off, that is recorded.
    ///
    /// # Errors
    ///
    /// When it cannot be recorded.
    pub(crate) fn saw(&mut self, envelope: &Printed<'_>) -> Result<(), Unrecorded> {
        self.envelopes += 1;
        self.gaps = envelope.gaps.len();
        self.digest = Some(envelope.digest.clone());
        self.refused(&envelope.gaps)
    }

    /// Records the limits and rules by which something was cut off, of `gaps`: those of an envelope, or why there is none.
    ///
    /// # Errors
    ///
    /// When it cannot be recorded.
    pub(crate) fn refused(&mut self, gaps: &[Gap]) -> Result<(), Unrecorded> {
        if !was_refused(gaps) {
            return Ok(());
        }
        for gap in gaps {
            let kind = match gap.reason {
                Reason::LimitReached => Kind::LimitHit,
                Reason::RefusedByPolicy => Kind::AuthzDeny,
                _ => continue,
            };
            // What the filter refused is recorded each: there are as many as kinds of system calls.
            if kind == Kind::LimitHit && self.told.contains(&gap.reason) {
                continue;
            }
            self.told.push(gap.reason);
            if self.told.len() > 128 {
                break;
            }
            let what = json!({"action": self.number, "at": gap.at, "path": gap.path, "detail": gap.detail});
            self.witness.record(kind, data(what))?;
            self.get_ready();
        }
        Ok(())
    }

    /// From now on threads may be started.
    pub(crate) fn confined(&mut self) {
        self.witness.confined();
    }

    /// Records what was left for a person to take away.
    ///
    /// # Errors
    ///
    /// When it cannot be recorded.
    pub(crate) fn added(&mut self, artifact: Value) -> Result<(), Unrecorded> {
        let mut added = data(artifact);
        added.insert("action".to_owned(), self.number.into());
        self.witness.record(Kind::ArtifactAdd, added)?;
        self.get_ready();
        Ok(())
    }

    /// Records what was touched, and how it ended. `kept_bytes` were written to files of our own.
    ///
    /// # Errors
    ///
    /// When it cannot be recorded.
    pub(crate) fn end(self, status: Status, ledger: &Ledger, kept_bytes: u64) -> Result<(), Unrecorded> {
        // What there is to tell is told.
        allocator::forget(Last::Records);
        let Accessed { count, sha256, kinds } = ledger.accessed();
        let kinds: Data = kinds.into_iter().map(|(access, count)| (access.as_str().to_owned(), count.into())).collect();
        let accessed = json!({"action": self.number, "count": count, "kinds": kinds, "sha256": sha256});
        self.witness.record(Kind::Access, data(accessed))?;
        let spent = ledger.spent();
        let printed_bytes = agent_output::written_bytes().saturating_sub(self.written_before);
        let mut ended = json!({
            "action": self.number,
            "exit": status as u8,
            "envelopes": self.envelopes,
            "gaps": self.gaps,
            "access": {"count": count, "sha256": sha256},
            "bytes": spent.bytes,
            "stops": spent.stops,
            "stopped_us": spent.stopped_us,
            "cpu_us": clock::cpu_us(),
            "written_bytes": printed_bytes.saturating_add(kept_bytes),
        });
        if let Some(digest) = self.digest {
            ended["digest"] = digest.into();
        }
        self.witness.record(Kind::ActionEnd, data(ended))
    }
}
