//! The audit: what was done, so recorded that a change of the record shows.
//!
//! One JSON object a line, each with the hash of the one before:
//! `{"data":{…},"hash":…,"mono_us":…,"prev":…,"seq":7,"session":…,"ts":…,"type":"action.start","v":1}`.
//!
//! * A record is in canonical form (RFC 8785): ASCII keys, no floats, integers below 2^53.
//! * `hash` is the SHA-256 of `"agent-audit-v1\n"` and the record without its hash; `prev` the hash of
//!   the record before, or [`genesis`] in the first.
//! * Every 64 records, every 5 s in which there was one, and at the end stands a `checkpoint`: signed
//!   (Ed25519) by a key that is destroyed thereafter, and naming the next. The first key stands in
//!   `session.open`. So whoever takes over the agent can add to the log, and not change what was.
//!
//! The intent is recorded before the act, and where no record can be written nothing is done.

mod chain;
mod verify;

use std::fmt::Write as _;

use agent_model::canonical;
pub use chain::Chain;
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};
pub use verify::{Fault, Report, Verdict, Verified, verify};

/// The members of a record's `data`.
pub type Data = Map<String, Value>;

/// The longest line, in bytes, without its newline: container runtimes split lines at 16 KiB, and log
/// shippers sooner.
pub const LONGEST_LINE: usize = 8_000;

/// The kinds of records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A session begins: the first record of a chain.
    SessionOpen,
    /// It ends.
    SessionClose,
    /// Something was allowed.
    AuthzAllow,
    /// Something was refused.
    AuthzDeny,
    /// A command is about to be performed.
    ActionStart,
    /// It has ended.
    ActionEnd,
    /// What a command has touched.
    Access,
    /// Something was left for a person to take away.
    ArtifactAdd,
    /// A command was cut off.
    LimitHit,
    /// All before it is signed.
    Checkpoint,
}

impl Kind {
    /// The word that stands for it in `type`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::SessionOpen => "session.open",
            Self::SessionClose => "session.close",
            Self::AuthzAllow => "authz.allow",
            Self::AuthzDeny => "authz.deny",
            Self::ActionStart => "action.start",
            Self::ActionEnd => "action.end",
            Self::Access => "access",
            Self::ArtifactAdd => "artifact.add",
            Self::LimitHit => "limit.hit",
            Self::Checkpoint => "checkpoint",
        }
    }

    /// The kind that `word` stands for.
    pub fn of(word: &str) -> Option<Self> {
        const ALL: [Kind; 10] = [
            Kind::SessionOpen,
            Kind::SessionClose,
            Kind::AuthzAllow,
            Kind::AuthzDeny,
            Kind::ActionStart,
            Kind::ActionEnd,
            Kind::Access,
            Kind::ArtifactAdd,
            Kind::LimitHit,
            Kind::Checkpoint,
        ];
        ALL.into_iter().find(|kind| kind.as_str() == word)
    }
}

/// When something was recorded.
#[derive(Debug, Clone)]
pub struct At {
    /// On the wall: RFC 3339, UTC.
    pub ts: String,
    /// On the clock that only goes on, in microseconds.
    pub mono_us: u64,
}

/// What a chain comes to. Kept elsewhere, it is the witness of the whole chain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Head {
    /// How many records there are.
    pub count: u64,
    /// The hash of the last, in hex.
    #[schemars(extend("x-class" = "id"))]
    pub head: String,
    /// The public key that the first checkpoint is checked with, in hex.
    #[schemars(extend("x-class" = "id"))]
    pub key: String,
}

/// A record could not be written: nothing more may be done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the audit cannot be written, so nothing is done: {0}")]
pub struct Unrecorded(pub String);

/// Who takes records, and sees to it that they get out of the process.
pub trait Witness: Send {
    /// Records that something happens. When it returns, the record is out.
    ///
    /// # Errors
    ///
    /// When it could not be written: then what it announces must not be done, nor anything after it.
    fn record(&mut self, kind: Kind, data: Data) -> Result<(), Unrecorded>;

    /// Makes `records` ready for where there will be no memory to make them with: they are the last then.
    fn last_words(&mut self, _records: Vec<(Kind, Data)>) {}

    /// What the chain comes to, where this writes one.
    fn head(&self) -> Option<Head>;

    /// The process has given up what it does not need: from now on it may start threads.
    fn confined(&mut self) {}
}

/// A witness that keeps nothing: for tests, and for looks at recorded trees.
#[derive(Debug, Clone, Copy, Default)]
pub struct Nobody;

impl Witness for Nobody {
    fn record(&mut self, _: Kind, _: Data) -> Result<(), Unrecorded> {
        Ok(())
    }

    fn head(&self) -> Option<Head> {
        None
    }
}

/// The `prev` of the first record of a chain: what the session may do, and who may say so. Both are
/// empty where no grant is needed.
pub fn genesis(grant: &[u8], roots: &[u8]) -> String {
    let mut hash = Sha256::new();
    hash.update(b"agent-audit-v1 genesis\n");
    hash.update(Sha256::digest(grant));
    hash.update(Sha256::digest(roots));
    hex(&hash.finalize())
}

/// The hash of a record that has no `hash` yet; `None` where it has no canonical form.
fn hash_of(record: &Map<String, Value>) -> Option<String> {
    let mut hash = Sha256::new();
    hash.update(b"agent-audit-v1\n");
    hash.update(canonical::to_vec(record).ok()?);
    Some(hex(&hash.finalize()))
}

/// What the signature of a checkpoint is over: the whole record but its hash and the signature.
fn signed_bytes(record: &Map<String, Value>) -> Option<Vec<u8>> {
    let mut record = record.clone();
    record.remove("hash");
    record.get_mut("data")?.as_object_mut()?.remove("sig");
    let mut bytes = b"agent-audit-v1 checkpoint\n".to_vec();
    bytes.extend(canonical::to_vec(&record).ok()?);
    Some(bytes)
}

/// `bytes` as lower-case hex digits.
pub fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        let _ = write!(text, "{byte:02x}");
    }
    text
}

fn from_hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digits = text.as_bytes();
    if digits.len() != 2 * N {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        let digit = |d: u8| char::from(d).to_digit(16).filter(|_| !d.is_ascii_uppercase());
        *byte = u8::try_from(digit(pair[0])? * 16 + digit(pair[1])?).ok()?;
    }
    Some(bytes)
}

/// True when `value` keeps the rules of a record.
fn is_plain(value: &Value) -> bool {
    const BOUND: u64 = 1 << 53;
    match value {
        Value::Null | Value::Bool(_) | Value::String(_) => true,
        Value::Number(number) => {
            number.as_u64().is_some_and(|n| n < BOUND) || number.as_i64().is_some_and(|n| n.unsigned_abs() < BOUND)
        }
        Value::Array(list) => list.iter().all(is_plain),
        Value::Object(members) => members.iter().all(|(key, value)| key.is_ascii() && is_plain(value)),
    }
}

#[cfg(test)]
mod tests;
