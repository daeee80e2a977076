//! What a scenario has gathered: named envelopes, in the order in which they were taken.

use agent_model::Gap;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// All that one run of a scenario has gathered, whole or cut off.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Evidence {
    /// The scenario's name.
    pub scenario: String,
    /// SHA-256 of the scenario's text, in hex.
    pub scenario_sha256: String,
    /// The parameters, defaults filled in, sorted by name.
    pub parameters: std::collections::BTreeMap<String, Value>,
    /// The envelopes, in the order in which they were taken.
    pub artifacts: Vec<Artifact>,
    /// The steps that were begun, and how each ended, in their order.
    pub steps: Vec<Step>,
}

/// One envelope.
#[derive(Debug, Clone, PartialEq)]
pub struct Artifact {
    /// `NAME`, or of the Nth look of a `repeat`, from 0, `NAME[N]`.
    pub name: String,
    /// The envelope, as its command prints it.
    pub envelope: Value,
}

/// One step that was begun.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Step {
    /// Its name, by which rules refer to it.
    pub name: String,
    /// How it ended.
    pub end: StepEnd,
    /// What it could not see because no envelope was possible, or it was cut off. The gaps of an envelope
    /// stay in the envelope.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub gaps: Vec<Gap>,
}

/// How a step ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StepEnd {
    /// As it should.
    Done,
    /// Its condition did not come true within its deadline.
    NotMet,
    /// No envelope was possible.
    Failed,
    /// A signal, a limit or its deadline cut it off.
    CutOff,
    /// It was never begun, since one before it ended the run.
    Skipped,
}
