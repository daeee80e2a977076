//! What one command prints.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Serialize;

use crate::{Gap, Text};

/// The answer of one command, whatever its data.
///
/// `data` is deterministic: the same state of the target gives the same bytes,
/// and `digest` is equal exactly when it is. All that may differ between two
/// looks at an unchanged target stands in `session`, `sequence`, `observed` and
/// `cost`.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct Envelope<O, D> {
    /// The kind and version of `data`: `agent.NAME/VERSION`.
    #[schemars(extend("x-class" = "word"))]
    pub schema: String,
    /// In which debug session this was seen.
    pub session: SessionInfo,
    /// The number of this envelope within its command, from 1.
    pub sequence: u64,
    /// Which agent saw it.
    pub agent: AgentInfo,
    /// Where it was seen: OpenTelemetry resource attributes. What is not known is
    /// absent.
    pub resource: BTreeMap<&'static str, Text>,
    /// The process that was looked at; absent for commands without one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<Target>,
    /// When.
    pub observed: Observed,
    /// What looking cost.
    pub cost: Cost,
    /// The options of the command, defaults filled in.
    pub options: O,
    /// What was seen; null where a limit or a rule came before anything could be told, and a gap says which.
    pub data: D,
    /// What was not seen, and why.
    pub gaps: Vec<Gap>,
    /// What was taken out of all of this before it was printed.
    pub redaction: Redaction,
    /// `sha256:` and the SHA-256 of the canonical form (RFC 8785) of `data`.
    #[schemars(extend("x-class" = "id"))]
    pub digest: String,
}

/// How much of what was seen is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RedactionLevel {
    /// Nothing that is secret by its place or its look.
    #[default]
    Default,
    /// Nor names of the target's own: pseudonyms stand in their place.
    Strict,
    /// Everything.
    Off,
}

impl RedactionLevel {
    /// The word that stands for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::Strict => "strict",
            Self::Off => "off",
        }
    }
}

/// What redaction has removed.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, JsonSchema)]
pub struct Redaction {
    /// How much is shown.
    pub level: RedactionLevel,
    /// How many values of each class were removed or replaced.
    pub removed: BTreeMap<&'static str, u64>,
}

/// A debug session, as far as an answer carries it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct SessionInfo {
    /// The session's ID: given, or a new ULID.
    #[schemars(extend("x-class" = "name"))]
    pub id: Text,
    /// The incident this session belongs to.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-class" = "name"))]
    pub incident: Option<Text>,
    /// Who looks, as given.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-class" = "name"))]
    pub actor: Option<Text>,
    /// The W3C trace context this session belongs to.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-class" = "id"))]
    pub traceparent: Option<Text>,
    /// When the session ends (RFC 3339).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-class" = "id"))]
    pub expires: Option<String>,
}

/// The agent that answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct AgentInfo {
    /// Its version.
    #[schemars(extend("x-class" = "word"))]
    pub version: &'static str,
    /// The GNU build ID of its own binary, in hex; absent if it was linked
    /// without one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-class" = "id"))]
    pub build_id: Option<String>,
}

/// A process, so named that a reused pid is never taken for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Target {
    /// Its process ID in our pid namespace.
    pub pid: u32,
    /// When it started, in clock ticks since boot (proc(5), `stat` field 22).
    pub start_ticks: u64,
    /// The boot that it started in (`/proc/sys/kernel/random/boot_id`).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-class" = "id"))]
    pub boot_id: Option<Text>,
    /// Its name (`comm`).
    #[schemars(extend("x-class" = "name"))]
    pub name: Text,
    /// The path of its executable, where it may be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-class" = "path"))]
    pub executable: Option<Text>,
    /// The container that it runs in, from its control group.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-class" = "id"))]
    pub container_id: Option<Text>,
}

/// The interval in which the data was read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Observed {
    /// Before the first read (RFC 3339, UTC, microseconds).
    #[schemars(extend("x-class" = "id"))]
    pub start: String,
    /// After the last.
    #[schemars(extend("x-class" = "id"))]
    pub end: String,
}

/// What looking cost the agent, and the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, JsonSchema)]
pub struct Cost {
    /// Time from the first read to the last, in microseconds.
    pub wall_us: u64,
    /// CPU time of the agent, in microseconds.
    pub cpu_us: u64,
    /// The agent's largest resident set so far, in KiB.
    pub peak_rss_kib: u64,
    /// Sum of the times for which a thread of the target was held, in
    /// microseconds.
    pub target_stopped_us: u64,
    /// How many times a thread of the target was held.
    pub stops: u64,
    /// The longest of these times, in microseconds.
    pub longest_stop_us: u64,
    /// Signals of the target that came as a thread was being held, and that it got when it
    /// was let go of.
    pub signals_seen: u64,
    /// Files, directories and links that were opened or read.
    pub files_opened: u64,
    /// Bytes read from them and from the target's memory.
    pub bytes_read: u64,
}
