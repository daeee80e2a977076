//! What a hold and its commands say to each other, and how each proves that it is in the same container.
//!
//! Both know a secret that only this container can read: it stands in the container's termination
//! message for as long as the hold lives. It is never sent. Each side sends a random number, and the
//! HMAC-SHA256 of both numbers under the secret, with its role: neither proof can be used for the other.

use agent_model::{Gap, Reason, RedactionLevel, SessionInfo, Text};
use agent_session::redact::hmac;
use agent_session::{Limits, Totals};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// So many random bytes make a secret, and a number that is used once.
pub(super) const RANDOM: usize = 32;

/// What a command says to the hold, in this order.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum ToHold {
    /// A number of its own, in hex.
    Hello { nonce: String },
    /// Its proof, and what it is about to do.
    Begin { proof: String, command: String, redaction: String },
    /// Its proof: it only wants to have what is kept in memory.
    Take { proof: String },
    /// It wants a file in memory of that name, before its first record.
    Keep { name: String },
    /// A record for the audit: what it announces is done when the answer is there.
    Record { kind: String, data: Map<String, Value> },
}

/// What the hold says.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum FromHold {
    /// A number of its own, and its proof.
    Challenge { nonce: String, proof: String },
    /// The command may begin.
    Welcome(Box<Welcome>),
    /// The record is out.
    Recorded,
    /// With a file of that name to be written, of so many bytes at the most.
    Keeping { name: String, room_bytes: u64 },
    /// With the files of these names.
    Kept { names: Vec<String> },
    /// The command may not begin, and what its answer says of it.
    TurnedAway { denial: Denial, welcome: Box<Welcome> },
    /// It is not to be done.
    Refused { words: String },
    /// The session is over: what is seen by now is told, and no more is looked at.
    Over { words: String },
}

/// Why a command may not begin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Denial {
    /// For a person.
    pub(super) words: String,
    /// The limit that was reached, by its name in `--limit`; where there is none it is a rule.
    pub(super) limit: Option<String>,
    /// What a person can do about it.
    pub(super) remedy: String,
}

impl Denial {
    /// As the answer of the command says it.
    pub(super) fn gap(&self) -> Gap {
        let reason = if self.limit.is_some() { Reason::LimitReached } else { Reason::RefusedByPolicy };
        Gap::new("", reason).detail(self.words.as_str()).remedy(self.remedy.as_str())
    }
}

/// What a command gets from the session that it is part of.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Welcome {
    /// Its number in the session.
    pub(super) action: u64,
    pub(super) id: String,
    pub(super) incident: Option<String>,
    pub(super) actor: Option<String>,
    pub(super) traceparent: Option<String>,
    pub(super) expires: String,
    /// When the session ends, on the clock that only goes on.
    pub(super) deadline_us: u64,
    /// What it may take: no more than is left for all commands of the session.
    pub(super) limits: Limits,
    /// The key of its pseudonyms, in hex.
    pub(super) key: String,
    pub(super) standing: Standing,
    pub(super) past: Vec<Past>,
}

/// How a session stands.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Standing {
    /// When it began (RFC 3339).
    #[schemars(extend("x-class" = "id"))]
    pub(crate) began: String,
    /// When it ends by itself (RFC 3339).
    #[schemars(extend("x-class" = "id"))]
    pub(crate) expires: String,
    /// How long that is from now, in microseconds.
    pub(crate) left_us: u64,
    /// How many commands there were, this one included.
    pub(crate) commands: u64,
    /// How many of them run now, this one included.
    pub(crate) running: u64,
    /// How many commands may run at once.
    pub(crate) commands_limit: u32,
    /// Records of the audit so far.
    pub(crate) audit_records: u64,
    /// Bytes that its commands have read.
    pub(crate) read_bytes: u64,
    /// How often they have held a thread of the target.
    pub(crate) stops: u64,
    /// And for how long in all, in microseconds.
    pub(crate) stopped_us: u64,
    /// Of so many that they may.
    pub(crate) stopped_limit_us: u64,
    /// How long its commands ran, each counted by itself, in microseconds.
    pub(crate) wall_us: u64,
    /// Of so many; null where nothing but the end of the session limits it.
    pub(crate) wall_limit_us: Option<u64>,
    /// CPU time that its commands have used, in microseconds.
    pub(crate) cpu_us: u64,
    /// Of so many.
    pub(crate) cpu_limit_us: u64,
    /// What its commands have written, in bytes.
    pub(crate) written_bytes: u64,
    /// Of so many.
    pub(crate) written_limit_bytes: u64,
    /// Bundles that it keeps in memory, by their names: `agent fetch` brings them out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-class" = "path"))]
    pub(crate) kept: Vec<String>,
    /// How large they are together, in bytes.
    pub(crate) kept_bytes: u64,
    /// Of so many.
    pub(crate) kept_limit_bytes: u64,
    /// Whoever tried to join and could not prove to be in this container.
    pub(crate) strangers: u64,
}

impl Standing {
    /// The same, with what was taken and how much may be.
    pub(super) fn with(self, totals: &Totals) -> Self {
        let Totals { most, taken } = *totals;
        Self {
            stopped_us: taken.stopped_us,
            stopped_limit_us: most.stopped_us,
            wall_us: taken.wall_us,
            wall_limit_us: (most.wall_us != u64::MAX).then_some(most.wall_us),
            cpu_us: taken.cpu_us,
            cpu_limit_us: most.cpu_us,
            written_bytes: taken.out_bytes,
            written_limit_bytes: most.out_bytes,
            ..self
        }
    }
}

/// A command of the session.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Past {
    /// Its number.
    #[schemars(extend("x-column" = "ACTION"))]
    pub(crate) action: u64,
    /// When it began (RFC 3339).
    #[schemars(extend("x-column" = "BEGAN", "x-class" = "id"))]
    pub(crate) began: String,
    /// The process that performed it.
    #[schemars(extend("x-column" = "PID"))]
    pub(crate) pid: Option<u32>,
    /// Its user ID.
    #[schemars(extend("x-column" = "UID"))]
    pub(crate) uid: Option<u32>,
    /// Who has looked, as they say.
    #[schemars(extend("x-column" = "ACTOR", "x-class" = "word"))]
    pub(crate) actor: Option<String>,
    /// How it ended: an exit status, `running`, or `lost` where it went away without a word.
    #[schemars(extend("x-column" = "STATE", "x-class" = "word"))]
    pub(crate) state: String,
    /// Its name and arguments, as the audit has them.
    #[schemars(extend("x-column" = "COMMAND", "x-class" = "text"))]
    pub(crate) argv: Vec<String>,
}

/// The marks of a session, for [`Welcome`].
pub(super) fn marks(info: &SessionInfo) -> (String, Option<String>, Option<String>, Option<String>) {
    let text = |text: &Option<Text>| text.as_ref().map(ToString::to_string);
    (info.id.to_string(), text(&info.incident), text(&info.actor), text(&info.traceparent))
}

/// Who proves.
#[derive(Debug, Clone, Copy)]
pub(super) enum Role {
    Hold,
    Command,
}

/// The proof of `role` that it knows `secret`, for these two numbers.
pub(super) fn proof(secret: &[u8], role: Role, of_command: &str, of_hold: &str) -> String {
    let role = match role {
        Role::Hold => "hold",
        Role::Command => "command",
    };
    agent_session::audit::hex(&hmac(secret, format!("agent-hold-v1 {role}\n{of_command}\n{of_hold}").as_bytes()))
}

/// Whether two proofs are the same, in a time that does not tell where they differ.
pub(super) fn is_same(a: &str, b: &str) -> bool {
    a.len() == b.len() && a.bytes().zip(b.bytes()).fold(0, |differs, (a, b)| differs | (a ^ b)) == 0
}

/// How strict a level is.
pub(super) fn strictness(level: RedactionLevel) -> u8 {
    match level {
        RedactionLevel::Off => 0,
        RedactionLevel::Default => 1,
        RedactionLevel::Strict => 2,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proof_is_for_one_secret_one_role_and_two_numbers() {
        let proofs = [
            proof(b"a", Role::Hold, "1", "2"),
            proof(b"b", Role::Hold, "1", "2"),
            proof(b"a", Role::Command, "1", "2"),
            proof(b"a", Role::Hold, "2", "1"),
            proof(b"a", Role::Hold, "12", ""),
        ];
        for (at, one) in proofs.iter().enumerate() {
            for (other_at, other) in proofs.iter().enumerate() {
                assert_eq!(is_same(one, other), at == other_at);
            }
        }
        assert!(!is_same(&proofs[0], &proofs[0][1..]));
    }
}
