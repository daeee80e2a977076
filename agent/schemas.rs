//! The JSON Schema of each command's envelope.
//!
//! The types of the answers say it, and `agent/schemas/NAME.json` is what they say: with them as data a
//! release build needs none of the code that makes them. A test compares the two.

use std::io::Read as _;

use agent_system::Command;
use anyhow::Context as _;
use schemars::Schema;

/// Names of commands, and their schemas, packed (zlib).
static PACKED: &[(&str, &[u8])] = include!(concat!(env!("OUT_DIR"), "/schemas.rs"));

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
    let (_, bytes) = PACKED.iter().find(|(packed, _)| *packed == name).context("it is not among them")?;
    let mut json = Vec::new();
    flate2::read::ZlibDecoder::new(*bytes).read_to_end(&mut json)?;
    let value: serde_json::Value = serde_json::from_slice(&json)?;
    Ok(value.try_into()?)
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
            let file = format!("{}.json", command.name);
            let text = serde_json::to_string_pretty(&of(command)).expect("a schema is JSON") + "\n";
            if is_written {
                std::fs::create_dir_all(&directory).expect("a directory");
                std::fs::write(directory.join(&file), &text).expect("a file");
            } else if std::fs::read_to_string(directory.join(&file)).ok() != Some(text) {
                stale.push(file.clone());
            } else {
                let packed = packed(command.name).expect("what was packed");
                assert!(packed == of(command), "{file} changes when it is packed");
            }
            names.push(file);
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
