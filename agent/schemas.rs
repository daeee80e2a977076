//! The JSON Schema of each command's envelope.
//!
//! The types of the answers say it, and `agent/schemas/NAME.json` is what they say: with them as data a
//! release build needs none of the code that makes them. `NAME.classes` beside it is what redaction has to know of it, which
//! each command reads. A test compares them.

use std::io::Read as _;

use agent_session::redact::Classes;
use agent_system::Command;
use anyhow::Context as _;
use schemars::Schema;

/// Names of commands, their schemas, packed (zlib), and the classes of their strings.
static PACKED: &[(&str, &[u8], &str)] = include!(concat!(env!("OUT_DIR"), "/schemas.rs"));

/// The schema of `command`.
#[cfg(debug_assertions)]
pub(crate) fn of(command: &Command) -> Schema {
    (command.schema)()
}

/// The schema of `command`.
#[cfg(not(debug_assertions))]
pub(crate) fn of(command: &Command) -> Schema {
    // A test unpacks each.
    packed(command.name).unwrap_or_default()
}

/// The schema of the command `name` as it is in a release build.
#[cfg_attr(debug_assertions, allow(dead_code, reason = "for release builds and for the test"))]
fn packed(name: &str) -> anyhow::Result<Schema> {
    let (_, bytes, _) = PACKED.iter().find(|(packed, ..)| *packed == name).context("it is not among them")?;
    let mut json = Vec::new();
    flate2::read::ZlibDecoder::new(*bytes).read_to_end(&mut json)?;
    let value: serde_json::Value = serde_json::from_slice(&json)?;
    Ok(value.try_into()?)
}

/// What each string of an answer of `command` is.
#[cfg(debug_assertions)]
pub(crate) fn classes(command: &Command) -> Classes {
    Classes::of(of(command).as_value())
}

/// What each string of an answer of `command` is.
#[cfg(not(debug_assertions))]
pub(crate) fn classes(command: &Command) -> Classes {
    // A test reads each. Without one all would be text.
    written_classes(command.name).unwrap_or_default()
}

/// The classes of the command `name` as a release build reads them.
#[cfg_attr(debug_assertions, allow(dead_code, reason = "for release builds and for the test"))]
fn written_classes(name: &str) -> Option<Classes> {
    let (_, _, text) = PACKED.iter().find(|(packed, ..)| *packed == name)?;
    Classes::read(text)
}

#[cfg(all(test, debug_assertions))]
#[allow(clippy::disallowed_methods, reason = "a test: it reads and writes the files that it checks")]
mod tests {
    use std::path::PathBuf;

    use super::*;

    #[test]
    fn the_files_are_what_the_types_say() {
        let directory = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("agent/schemas");
        let is_written = std::env::var_os("AGENT_WRITE_GOLDEN").is_some();
        let mut names = Vec::new();
        let mut stale = Vec::new();
        for command in crate::commands().filter(|command| !command.name.starts_with("violate")) {
            let json = serde_json::to_string_pretty(&of(command)).expect("a schema is JSON") + "\n";
            let said = classes(command);
            for (kind, text) in [("json", json), ("classes", said.to_string())] {
                let file = format!("{}.{kind}", command.name);
                if is_written {
                    std::fs::create_dir_all(&directory).expect("a directory");
                    std::fs::write(directory.join(&file), &text).expect("a file");
                } else if std::fs::read_to_string(directory.join(&file)).ok() != Some(text) {
                    stale.push(file.clone());
                }
                names.push(file);
            }
            if !is_written && stale.is_empty() {
                let packed = packed(command.name).expect("what was packed");
                assert!(packed == of(command), "{} changes when it is packed", command.name);
                assert!(written_classes(command.name) == Some(said), "{}: the classes are others", command.name);
            }
        }
        let there = std::fs::read_dir(&directory).expect("a directory");
        stale.extend(
            there
                .map(|file| file.expect("a file").file_name().into_string().expect("UTF-8"))
                .filter(|file| !names.contains(file)),
        );
        assert!(
            stale.is_empty(),
            "not what the types say: {stale:?}; AGENT_WRITE_GOLDEN=1 cargo test --bin agent schemas"
        );
    }
}
