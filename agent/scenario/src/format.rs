//! A scenario as it is written: YAML, one file each.

use std::collections::BTreeMap;

use agent_model::Level;
use schemars::{JsonSchema, Schema};
use serde::Deserialize;
use serde_json::Value;

use crate::near::nearest;

/// A file of a scenario as a person writes it. Times are such as `10s`; texts in which the documentation says so may
/// hold expressions in braces, as `{size(fds)} descriptors`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Document {
    /// Its name: lower-case words joined by hyphens. Of a built-in one, the file's name.
    pub name: String,
    /// In one line, what it finds out.
    pub title: String,
    /// What can be set with --param, by name.
    #[serde(default)]
    pub parameters: BTreeMap<String, Parameter>,
    /// What all of it may cost at the most.
    #[serde(default)]
    pub budget: Budget,
    /// What is done, in order.
    pub steps: Vec<StepDocument>,
    /// Named expressions, each of which sees those before it.
    #[serde(default)]
    pub variables: serde_json::Map<String, Value>,
    /// What is concluded.
    pub judge: Vec<RuleDocument>,
    /// The page for a person: what it looks for, how to read it, false alarms. Markdown.
    #[serde(default)]
    pub playbook: String,
}

/// Something that can be set with --param. Expressions see it as `param.NAME`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Parameter {
    /// Its value if it is not set: a number, a truth or a text. What is set must be of the same kind.
    pub default: Value,
    /// What it is.
    #[schemars(extend("x-class" = "word"))]
    pub about: String,
}

/// What a scenario may cost.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Budget {
    /// Time, by default 60s; may hold expressions.
    pub time: String,
    /// Bytes read from the kernel and the target, by default 256 MiB.
    pub bytes: u64,
    /// How often a thread of the target may be held, by default never.
    pub stops: u64,
}

impl Default for Budget {
    fn default() -> Self {
        Self { time: "60s".to_owned(), bytes: 256 << 20, stops: 0 }
    }
}

/// One step: `collect`, with or without `repeat` or `until`, or `wait`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StepDocument {
    /// The name by which expressions see what was collected: the envelope, or with `repeat` the list of them. By default
    /// the command's.
    pub name: Option<String>,
    /// The command that looks, as `fds`.
    pub collect: Option<String>,
    /// Its options, without the hyphens before them: `{no-sockets: true, state: [listen]}`. Texts may hold expressions.
    #[serde(default)]
    pub options: serde_json::Map<String, Value>,
    /// Looks again and again.
    pub repeat: Option<Repeat>,
    /// Looks until a condition holds; only the last look is kept.
    pub until: Option<Until>,
    /// Lets this much time go by; may hold expressions.
    pub wait: Option<String>,
    /// An expression over the steps before: where it is not true the step is left out, and what its rules ask is unknown.
    pub when: Option<String>,
    /// What a gap does: `note` goes on with what was seen, `stop` ends the steps and judges.
    #[serde(default)]
    pub on_gap: OnGap,
    /// How long the step may take, by default 20s more than what it repeats for; may hold expressions.
    pub deadline: Option<String>,
}

/// Looking again and again.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Repeat {
    /// How often: a number, or an expression in braces.
    pub count: Setting,
    /// The time from one look to the next; may hold expressions.
    pub interval: String,
}

/// Looking until something is so.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Until {
    /// An expression over the look, and over the steps before.
    pub condition: String,
    /// The time from one look to the next, by default 1s; may hold expressions.
    #[serde(default = "second")]
    pub every: String,
    /// For how long the condition must hold, by default 0s: once is enough; may hold expressions.
    #[serde(default = "at_once")]
    pub holds: String,
}

fn second() -> String {
    "1s".to_owned()
}

fn at_once() -> String {
    "0s".to_owned()
}

/// A number, or a text that may hold expressions.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Setting {
    /// A number.
    Number(u64),
    /// A text.
    Text(String),
}

/// What a gap does.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnGap {
    /// The run goes on.
    #[default]
    Note,
    /// The run ends, and is judged.
    Stop,
}

/// One rule. If something that it needs was not seen, its finding is `unknown`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RuleDocument {
    /// Its name, unique in the scenario.
    pub id: String,
    /// What it finds out; completes "whether …".
    pub asks: String,
    /// An expression for a list: one finding for each item of which `when` holds. Expressions see it as `item`.
    pub each: Option<String>,
    /// An expression: whether it is so. By default true for each item.
    pub when: Option<String>,
    /// How bad it then is: fail, warn or info.
    pub level: Level,
    /// The sentence for it; may hold expressions.
    pub message: String,
    /// Expressions for places in the artifacts that it rests on: a place, or a list of them.
    #[serde(default)]
    pub evidence: Vec<String>,
    /// What to do next; may hold expressions.
    pub remedy: Option<String>,
    /// The sentence for when it is not so; may hold expressions. A rule of level info may go without.
    pub otherwise: Option<String>,
}

/// Why a text is no scenario.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}{words}", .place.map_or_else(String::new, |(line, column)| format!("line {line}, column {column}: ")))]
pub struct FormatError {
    /// Line and column, from 1, where that is known.
    pub place: Option<(usize, usize)>,
    /// What is wrong.
    pub words: String,
}

impl FormatError {
    pub(crate) fn new(words: impl Into<String>) -> Self {
        Self { place: None, words: words.into() }
    }
}

/// A file may have so many bytes.
pub const LARGEST: usize = 1 << 20;

/// Reads a document.
pub(crate) fn document(text: &str) -> Result<Document, FormatError> {
    if text.len() > LARGEST {
        return Err(FormatError::new(format!("a scenario has at most {LARGEST} bytes")));
    }
    serde_norway::from_str(text).map_err(|error| {
        let place = error.location().map(|place| (place.line(), place.column()));
        let words = error.to_string();
        // The place is said once, and in front.
        let end = place.and_then(|(line, column)| words.rfind(&format!(" at line {line} column {column}")));
        FormatError { place, words: with_nearest(&words[..end.unwrap_or(words.len())]) }
    })
}

/// Adds to serde's words for an unknown key the one that was probably meant.
fn with_nearest(words: &str) -> String {
    let mut quoted = words.split('`').skip(1).step_by(2);
    let near = match (words.contains("unknown field") || words.contains("unknown variant"), quoted.next()) {
        (true, Some(name)) => nearest(name, quoted),
        _ => None,
    };
    near.map_or_else(|| words.to_owned(), |near| format!("{words}; did you mean {near}?"))
}

/// The JSON Schema of a scenario's file, for editors.
pub fn schema() -> Schema {
    schemars::generate::SchemaSettings::draft2020_12().into_generator().into_root_schema_for::<Document>()
}
