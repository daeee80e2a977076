//! The dependencies that cargo-auditable wrote into a Rust executable: zlib over
//! JSON in `.dep-v0` (its `PARSING.md`).

use std::io::Read as _;

use agent_model::Text;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::elf::{ElfFile, Source, read_vec};

/// Bytes of the section.
const MAX_COMPRESSED: usize = 2 << 20;
/// Bytes that it may become: cargo-auditable's own reader has 8 MiB.
const MAX_JSON: u64 = 8 << 20;
/// Crates that are kept.
const MAX_CRATES: usize = 20_000;

/// A crate that was linked in.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, JsonSchema)]
pub struct Crate {
    /// Its name.
    #[schemars(extend("x-column" = "CRATE"))]
    #[schemars(extend("x-class" = "name"))]
    pub name: Text,
    /// Its version.
    #[schemars(extend("x-column" = "VERSION"))]
    #[schemars(extend("x-class" = "id"))]
    pub version: Text,
    /// Where it is from: `crates.io`, `git`, `local`, `registry`, or another URL.
    #[schemars(extend("x-class" = "name"))]
    pub source: Text,
    /// `runtime`, or `build` for what was only used to build it.
    #[schemars(extend("x-class" = "word"))]
    pub kind: &'static str,
    /// Whether it is the crate that was built.
    pub root: bool,
}

#[derive(Deserialize)]
struct List {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    version: String,
    #[serde(default)]
    source: String,
    #[serde(default)]
    kind: Option<String>,
    #[serde(default)]
    root: bool,
}

/// Reads it; `None` where there is none. What cannot be read is told in words.
pub fn read<S: Source>(elf: &ElfFile<S>) -> Result<Option<Vec<Crate>>, String> {
    let Some(section) = elf.section(".dep-v0").filter(|section| section.size > 0) else { return Ok(None) };
    let size = usize::try_from(section.size).unwrap_or(usize::MAX);
    if size > MAX_COMPRESSED {
        return Err(format!(".dep-v0 has {size} bytes, {MAX_COMPRESSED} are read"));
    }
    let bytes = read_vec(elf.source(), section.offset, size).map_err(|error| format!(".dep-v0: {error}"))?;
    parse(&bytes).map(Some).map_err(|what| format!(".dep-v0: {what}"))
}

/// The crates by name and version.
///
/// # Errors
///
/// When the bytes are not zlib over JSON of that form, or are too large.
pub fn parse(bytes: &[u8]) -> Result<Vec<Crate>, String> {
    let mut json = Vec::new();
    let mut reader = flate2::read::ZlibDecoder::new(bytes).take(MAX_JSON + 1);
    reader.read_to_end(&mut json).map_err(|error| error.to_string())?;
    if json.len() as u64 > MAX_JSON {
        return Err(format!("more than {MAX_JSON} bytes of JSON"));
    }
    let list: List = serde_json::from_slice(&json).map_err(|error| error.to_string())?;
    let text = |text: &str| Text::from_bytes(text.as_bytes());
    let mut crates: Vec<Crate> = list
        .packages
        .iter()
        .take(MAX_CRATES)
        .map(|package| Crate {
            name: text(&package.name),
            version: text(&package.version),
            source: text(&package.source),
            kind: if package.kind.as_deref() == Some("build") { "build" } else { "runtime" },
            root: package.root,
        })
        .collect();
    crates.sort();
    Ok(crates)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    fn zlib(text: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn the_documented_form_is_read() {
        let text = br#"{"packages":[{"name":"b","version":"1.2.3","source":"crates.io","dependencies":[1]},
            {"name":"a","version":"0.1.0","source":"local","kind":"build","root":true,"new":[]}],"format":1}"#;
        let crates = parse(&zlib(text)).unwrap();
        assert_eq!((crates[0].name.as_str(), crates[0].kind, crates[0].root), ("a", "build", true));
        assert_eq!((crates[1].version.as_str(), crates[1].kind), ("1.2.3", "runtime"));
    }

    #[test]
    fn a_bomb_and_garbage_are_refused() {
        assert!(parse(&zlib(&vec![b' '; 64 << 20])).is_err());
        assert!(parse(b"\x78\x9cgarbage").is_err());
        assert!(parse(b"").is_err());
        assert!(parse(&zlib(b"{}")).is_err());
        assert!(parse(&zlib(&[b'['; 100_000])).is_err());
    }
}
