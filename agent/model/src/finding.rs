//! What a scenario concludes.

use std::borrow::Cow;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How much a finding matters. Worst first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// Something is wrong.
    Fail,
    /// Something will go wrong, or may be wrong.
    Warn,
    /// It could not be told, since what the rule needs was not seen.
    Unknown,
    /// It was looked for and is not there.
    Pass,
    /// A fact, neither good nor bad.
    Info,
}

impl Level {
    /// The word that stands for it in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Fail => "fail",
            Self::Warn => "warn",
            Self::Unknown => "unknown",
            Self::Pass => "pass",
            Self::Info => "info",
        }
    }
}

/// One conclusion, with what it rests on.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct Finding {
    /// How much it matters.
    #[schemars(extend("x-column" = "LEVEL"))]
    pub level: Level,
    /// The rule that found it: `SCENARIO/RULE`.
    #[schemars(extend("x-column" = "RULE"))]
    #[schemars(extend("x-class" = "id"))]
    pub id: String,
    /// What is so, in a sentence, with the values that were seen.
    // What it says of the evidence was redacted there: a pseudonym of the whole sentence would say nothing.
    #[schemars(extend("x-column" = "FINDING"))]
    #[schemars(extend("x-class" = "name"))]
    pub message: String,
    /// What it rests on.
    pub evidence: Vec<Pointer>,
    /// What to do next.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-class" = "word"))]
    pub remedy: Option<String>,
    /// Where to read more: `agent scenarios NAME`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-class" = "word"))]
    pub playbook: Option<Cow<'static, str>>,
    /// What could not be seen of what the rule needs.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub gaps: Vec<Unseen>,
}

/// What could not be seen: a [`crate::Gap`] of an artifact, or a whole artifact that there is not.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub struct Unseen {
    /// The artifact's name.
    #[schemars(extend("x-class" = "word"))]
    pub artifact: String,
    /// The place in its envelope, as a JSON Pointer (RFC 6901); empty for all of it.
    #[schemars(extend("x-class" = "word"))]
    pub at: String,
    /// Why, as the reason of a gap.
    #[schemars(extend("x-class" = "word"))]
    pub reason: String,
    /// More, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-class" = "text"))]
    pub detail: Option<String>,
    /// What a person can do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-class" = "word"))]
    pub remedy: Option<String>,
}

/// A place in an artifact.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub struct Pointer {
    /// The artifact's name.
    #[schemars(extend("x-class" = "word"))]
    pub artifact: String,
    /// The place in its envelope, as a JSON Pointer (RFC 6901).
    #[schemars(extend("x-class" = "word"))]
    pub at: String,
}
