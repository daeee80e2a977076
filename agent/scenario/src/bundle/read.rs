//! Reading a bundle, whoever made it.

use std::collections::BTreeSet;
use std::io::Read as _;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::frame::{Frames, Wrong};
use super::{Listed, MANIFEST, SCHEMA, sha256};

/// The most files that a bundle has.
const MOST_FILES: usize = 20_000;

/// The longest path in it, in bytes.
const LONGEST_PATH: usize = 100;

/// What is wrong with a bundle.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// It ends before its end: all before that is as it was written.
    CutOff,
    /// It is no bundle, or cannot be read on from here.
    Malformed,
    /// It holds more than is read.
    TooLarge,
    /// A path that leads elsewhere, or is none of a bundle's.
    Path,
    /// No regular file: a link, a directory, a device.
    Kind,
    /// A second file of the same path.
    Duplicate,
    /// Its content is not what the manifest says.
    Changed,
    /// The manifest names it, and it is not there.
    Missing,
    /// The manifest does not name it.
    Unlisted,
    /// Something follows the end.
    AfterTheEnd,
    /// The audit says something else.
    Audit,
    /// Its JSON is not that of its schema.
    Schema,
    /// The digest in an envelope is not that of its data.
    Digest,
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Problem {
    /// The file that it is about; absent where it is about the whole.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-class" = "text"))]
    pub path: Option<String>,
    /// What.
    pub fault: Fault,
    /// In words.
    #[schemars(extend("x-class" = "text"))]
    pub why: String,
}

/// One file of a bundle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its path: relative, of plain words, and the only one of its kind.
    pub path: String,
    /// Its content.
    pub bytes: Vec<u8>,
}

impl Entry {
    /// Its content as JSON, with strings that a terminal can get; `None` where it is none.
    pub fn json(&self) -> Option<Value> {
        let mut value = serde_json::from_slice(&self.bytes).ok()?;
        make_plain(&mut value);
        Some(value)
    }
}

/// A bundle as far as it could be read.
#[derive(Debug, Clone, Default)]
pub struct Bundle {
    /// Its files, in their order. What is listed as [`Fault::Path`], [`Fault::Kind`] or [`Fault::Duplicate`] is not among them.
    pub entries: Vec<Entry>,
    /// What is wrong with it, in the order in which it was found.
    pub problems: Vec<Problem>,
}

/// Reads `bytes`, of which no more than `most` bytes are unpacked. It never fails: what is wrong is told.
pub fn read(bytes: &[u8], most: u64) -> Bundle {
    let mut bundle = Bundle::default();
    let mut frames = Frames::of(bytes, most);
    let torn = bundle.unpack(&mut frames);
    let wrong = |fault, why: &str| Problem { path: torn.clone(), fault, why: why.to_owned() };
    match frames.wrong {
        _ if frames.is_too_large => {
            bundle.problems.push(wrong(Fault::TooLarge, &format!("more than {most} bytes are in it")));
        }
        Some(Wrong::Torn) => bundle.problems.push(wrong(Fault::CutOff, "it ends in the middle")),
        Some(Wrong::Malformed(words)) => bundle.problems.push(wrong(Fault::Malformed, words)),
        None if torn.is_some() => bundle.problems.push(wrong(Fault::CutOff, "it ends in the middle")),
        None => {}
    }
    if frames.has_more() {
        let why = "something follows the end of the archive".to_owned();
        bundle.problems.push(Problem { path: None, fault: Fault::AfterTheEnd, why });
    }
    bundle.compare_with_manifest();
    bundle
}

impl Bundle {
    /// Reads files until the end or until no more can be read: then the path of the file in the middle of which that is,
    /// or an empty one.
    fn unpack(&mut self, frames: &mut Frames<'_>) -> Option<String> {
        let mut known = BTreeSet::new();
        let mut archive = tar::Archive::new(frames);
        let Ok(entries) = archive.entries() else { return Some(String::new()) };
        let mut count = 0;
        for entry in entries.raw(true) {
            let Ok(mut entry) = entry else { return Some(String::new()) };
            count += 1;
            if count > MOST_FILES {
                self.problem(None, Fault::TooLarge, format!("it has more than {MOST_FILES} files"));
                return None;
            }
            let path = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
            let shown = agent_model::Text::from(path.as_str()).to_string();
            if entry.header().entry_type() != tar::EntryType::Regular {
                let why = "it is no regular file: a bundle has nothing else".to_owned();
                self.problem(Some(shown), Fault::Kind, why);
                continue;
            }
            if !is_plain(&path) {
                self.problem(Some(shown), Fault::Path, "no bundle has a file of this path".to_owned());
                continue;
            }
            if !known.insert(path.clone()) {
                self.problem(Some(shown), Fault::Duplicate, "there are two of this path".to_owned());
                continue;
            }
            let size = entry.header().size().unwrap_or(0);
            let mut bytes = Vec::new();
            // What a header promises is not reserved, and what is not there is told by how much there is.
            if entry.read_to_end(&mut bytes).is_err() || bytes.len() as u64 != size {
                return Some(path);
            }
            self.entries.push(Entry { path, bytes });
        }
        None
    }

    fn problem(&mut self, path: Option<String>, fault: Fault, why: String) {
        self.problems.push(Problem { path, fault, why });
    }

    /// The pieces of `name`, the audit or the access log, one behind the other: what there is of it where it was cut off.
    pub fn pieces(&self, name: &str) -> Vec<u8> {
        let is_of = |entry: &&Entry| super::is_piece(&entry.path) && entry.path.ends_with(&format!("-{name}"));
        self.entries.iter().filter(is_of).flat_map(|entry| entry.bytes.iter().copied()).collect()
    }

    /// The file at `path`.
    pub fn file(&self, path: &str) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.path == path)
    }

    /// The manifest; `None` where there is none, or it cannot be read.
    pub fn manifest(&self) -> Option<Value> {
        self.file(MANIFEST)?.json().filter(|manifest| manifest["schema"] == SCHEMA)
    }

    /// Whether it was cut off and is otherwise as it was written, as far as can be told without a manifest.
    pub fn is_cut_off(&self) -> bool {
        !self.problems.is_empty() && self.problems.iter().all(|problem| problem.fault == Fault::CutOff)
    }

    /// What makes it worthless as evidence, if anything does.
    pub fn worst(&self) -> Option<&Problem> {
        self.problems.iter().find(|problem| problem.fault != Fault::CutOff)
    }

    fn compare_with_manifest(&mut self) {
        let Some(entry) = self.file(MANIFEST) else {
            if self.problems.is_empty() {
                self.problem(None, Fault::CutOff, "it has no manifest: whoever wrote it was ended".to_owned());
            }
            return;
        };
        let manifest = entry.json().filter(|manifest| manifest["schema"] == SCHEMA);
        let listed = manifest.and_then(|manifest| Vec::<Listed>::deserialize(&manifest["files"]).ok());
        let Some(listed) = listed else {
            let why = format!("it is no manifest of {SCHEMA}");
            return self.problem(Some(MANIFEST.to_owned()), Fault::Malformed, why);
        };
        if self.entries.last().is_some_and(|last| last.path != MANIFEST) {
            self.problem(Some(MANIFEST.to_owned()), Fault::AfterTheEnd, "files follow the manifest".to_owned());
        }
        let mut problems = Vec::new();
        let mut tell = |path: &str, fault, why: String| {
            let path = Some(agent_model::Text::from(path).to_string());
            problems.push(Problem { path, fault, why });
        };
        let mut named = BTreeSet::new();
        for file in &listed {
            if !named.insert(file.path.as_str()) {
                tell(&file.path, Fault::Duplicate, "the manifest names it twice".to_owned());
                continue;
            }
            match self.file(&file.path) {
                None => tell(&file.path, Fault::Missing, "the manifest names it, and it is not there".to_owned()),
                Some(entry) if entry.bytes.len() as u64 != file.bytes => {
                    let why = format!("it has {} bytes, and the manifest says {}", entry.bytes.len(), file.bytes);
                    tell(&file.path, Fault::Changed, why);
                }
                Some(entry) if sha256(&entry.bytes) != file.sha256 => {
                    tell(&file.path, Fault::Changed, "its SHA-256 is not what the manifest says".to_owned());
                }
                Some(_) => {}
            }
        }
        for entry in self.entries.iter().filter(|entry| entry.path != MANIFEST) {
            if !named.contains(entry.path.as_str()) {
                tell(&entry.path, Fault::Unlisted, "the manifest does not name it".to_owned());
            }
        }
        self.problems.extend(problems);
    }
}

/// Escapes what moves a cursor or reorders text in the strings of a stranger's `value`. What the agent has written has
/// nothing of the kind, and stays as it is.
pub fn make_plain(value: &mut Value) {
    let plain = |text: &str| {
        let is_plain = |c: char| matches!(c, '\n' | '\t' | ' '..='~');
        // In what is escaped twice a backslash is doubled: here it says nothing.
        let escaped = |part: &str| agent_model::text::escape(part.as_bytes()).replace("\\\\", "\\");
        let parts = || {
            text.split_inclusive(['\n', '\t']).map(|part| {
                let end = part.trim_end_matches(['\n', '\t']).len();
                escaped(&part[..end]) + &part[end..]
            })
        };
        (!text.chars().all(is_plain)).then(|| parts().collect::<String>())
    };
    match value {
        Value::String(text) => {
            if let Some(escaped) = plain(text) {
                *text = escaped;
            }
        }
        Value::Array(items) => items.iter_mut().for_each(make_plain),
        Value::Object(members) => {
            if members.keys().any(|key| plain(key).is_some()) {
                let all = std::mem::take(members);
                members.extend(all.into_iter().map(|(key, value)| (plain(&key).unwrap_or(key), value)));
            }
            members.values_mut().for_each(make_plain);
        }
        _ => {}
    }
}

/// Whether `path` is one of a bundle's: relative, without `..`, and of letters that mean nothing to anybody.
fn is_plain(path: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '[' | ']');
    path.len() <= LONGEST_PATH
        && path.split('/').all(|part| !part.is_empty() && !part.starts_with('.') && part.chars().all(plain))
}
