//! What a scenario has gathered: named envelopes, in the order in which they were taken.

use std::collections::BTreeMap;

use agent_model::Unseen;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::diff::Schemas;

/// All that one run of a scenario has gathered, whole or cut off: enough to judge it again.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Evidence {
    /// The scenario.
    pub scenario: Origin,
    /// The parameters, defaults filled in.
    pub parameters: BTreeMap<String, Value>,
    /// The steps in their order, and how each ended.
    pub steps: Vec<Step>,
    /// The envelopes, in the order in which they were taken.
    pub artifacts: Vec<Artifact>,
    /// The schemas of the envelopes: no part of what was gathered.
    #[serde(skip)]
    pub schemas: Schemas,
}

/// Which scenario it was.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Origin {
    /// Its name.
    #[schemars(extend("x-class" = "word"))]
    pub name: String,
    /// SHA-256 of its text, in hex.
    #[schemars(extend("x-class" = "id"))]
    pub sha256: String,
    /// Its text, unless it is one that the agent has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-class" = "word"))]
    pub text: Option<String>,
}

/// One envelope.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Artifact {
    /// The name of its step; of the Nth look of a step that repeats, from 0, `NAME[N]`.
    #[schemars(extend("x-class" = "word"))]
    pub name: String,
    /// The envelope, as its command prints it; absent where it stands in a file of a bundle.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    #[schemars(extend("x-class" = "word"))]
    pub envelope: Value,
    /// The file of the bundle that the envelope stands in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<InBundle>,
}

/// A file of a bundle.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct InBundle {
    /// Its path there.
    #[schemars(extend("x-class" = "word"))]
    pub path: String,
    /// SHA-256 of its content, in hex.
    #[schemars(extend("x-class" = "id"))]
    pub sha256: String,
}

/// One step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Step {
    /// Its name, by which rules refer to its artifacts.
    #[schemars(extend("x-column" = "STEP"))]
    #[schemars(extend("x-class" = "word"))]
    pub name: String,
    /// What it does, as a command line.
    #[schemars(extend("x-column" = "DOES"))]
    #[schemars(extend("x-class" = "word"))]
    pub does: String,
    /// How it ended.
    #[schemars(extend("x-column" = "END"))]
    pub end: StepEnd,
    /// How many artifacts it left.
    #[schemars(extend("x-column" = "LOOKS"))]
    pub looks: u64,
    /// What it could not see because no envelope was possible, or it was cut off. The gaps of an envelope
    /// stay in the envelope.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gaps: Vec<Unseen>,
}

/// How a step ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum StepEnd {
    /// As it should.
    Done,
    /// Its condition did not come true before its deadline.
    NotMet,
    /// No envelope was possible.
    Failed,
    /// A signal, a limit, its deadline or the end of the target cut it off.
    CutOff,
    /// It was never begun, since the run had ended.
    Skipped,
}
